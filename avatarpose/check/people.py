"""People found for the check, and how far each camera's detections are from what the other cameras say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from avatarpose.cameras import Cameras
from avatarpose.estimate.affinity import Rays, point_ray_distance
from avatarpose.estimate.config import TriangulationConfig
from avatarpose.estimate.joints import triangulate_people
from avatarpose.estimate.tracking import track
from avatarpose.estimate.triangulation import solve

_CONFIG = TriangulationConfig()
_SWAPPED = 2.0  # joint radii: a detected joint farther off was taken from someone else and says nothing of the camera


@dataclass(frozen=True)
class People:
    """P people over F frames, and their detections.

    Attributes:
        cameras: in metres.
        joints: (P, F, 17, 3) metres, NaN where unknown.
        rows: (C, F, P) row of the detections that is the person, -1 where none.
        detected: (C, F, P, 17, 2) pixels of the images as they are, NaN where missed.
    """

    cameras: Cameras
    joints: Float[np.ndarray, "people frames 17 3"]
    rows: Int[np.ndarray, "cameras frames people"]
    detected: Float[np.ndarray, "cameras frames people 17 2"]

    @cached_property
    def sight(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """For each of the N = P F 17 joints and each camera: direction of the detected joint's ray (N, C, 3), whether
        it was detected, its distance from the joint, and the joint's from the camera, metres."""
        cameras = self.cameras.to(dtype=torch.float64)
        pixels = np.moveaxis(self.detected, 2, 1)  # (C, P, F, 17, 2)
        _, directions = cameras.rays(torch.from_numpy(np.nan_to_num(pixels)))
        directions = np.moveaxis(directions.numpy().reshape(len(cameras), -1, 3), 0, 1)
        seen = np.isfinite(pixels).all(-1).reshape(len(cameras), -1).T
        origins, joints = cameras.centres.numpy(), self.joints.reshape(-1, 3)
        distance = point_ray_distance(joints[:, None], origins, directions)
        return directions, seen, distance, np.linalg.norm(joints[:, None] - origins, axis=-1)

    @property
    def valid(self) -> Bool[np.ndarray, "people frames"]:
        """Whether the person is there."""
        return np.isfinite(self.joints[..., 0]).sum(-1) >= _CONFIG.min_joints


def find_people(
    cameras: Cameras,
    keypoints: Float[np.ndarray, "cameras frames rows 17 3"],
    times: Float[np.ndarray, " frames"],
    progress: Callable[[int, int], None] | None = None,
) -> People:
    """Associates and triangulates: the estimator of `estimate --method triangulation` without its error for nobody.

    Args:
        cameras: in metres.
        keypoints: x, y, score in pixels of the images as they are, NaN where absent.
        times: seconds.
    """
    rays = Rays.from_keypoints(cameras, keypoints, _CONFIG.min_score)
    tracks = track(rays, times, _CONFIG, progress)
    tracks = [t for t in tracks if len(t.rows) >= _CONFIG.least_frames(times)]
    rows = np.full((len(cameras), len(times), len(tracks)), -1)
    for person, found in enumerate(tracks):
        for frame, row in found.rows.items():
            rows[:, frame, person] = row
    if tracks:
        joints, _ = triangulate_people(rays, rows, times, _CONFIG)
    else:
        joints = np.zeros((0, len(times), 17, 3))
    camera, frame = np.arange(len(rows))[:, None, None], np.arange(len(times))[None, :, None]
    if keypoints.shape[2]:
        low = np.nan_to_num(keypoints[..., 2]) < _CONFIG.min_score
        pixels = np.where(low[..., None], np.nan, keypoints[..., :2])
        detected = np.where((rows >= 0)[..., None, None], pixels[camera, frame, rows], np.nan)
    else:
        detected = np.full((*rows.shape, 17, 2), np.nan)
    return People(cameras, joints, rows, detected.astype(np.float64))


@dataclass(frozen=True)
class Residuals:
    """What one camera detected, against what the others say: N joints of all frames and people.

    Attributes:
        frames: (N,) index of the frame.
        at: (N, 2) where the other cameras put the joint in this camera's image, pixels.
        error: (N, 2) detected minus `at`, pixels.
        speed: (N, 2) how `at` moves, pixels per frame; NaN where a neighbour in time is unknown.
        size: (N,) pixels that a metre takes there.
    """

    frames: Int[np.ndarray, " n"]
    at: Float[np.ndarray, "n 2"]
    error: Float[np.ndarray, "n 2"]
    speed: Float[np.ndarray, "n 2"]
    size: Float[np.ndarray, " n"]

    @property
    def median(self) -> float:
        """Median length of the error, pixels; NaN without joints."""
        return float(np.median(np.linalg.norm(self.error, axis=-1))) if len(self.error) else float("nan")

    @property
    def median_metres(self) -> float:
        """The same at the person, metres."""
        if not len(self.error):
            return float("nan")
        return float(np.median(np.linalg.norm(self.error, axis=-1) / self.size))


def _others(
    people: People, camera: int, without: frozenset[int]
) -> tuple[Float[np.ndarray, "people frames 17 2"], Float[np.ndarray, "people frames 17"], np.ndarray]:
    """Where the others put the joints in this camera's image, their depth, and which of its detections fit at all."""
    cameras = people.cameras
    origins = cameras.centres.double().numpy()
    directions, seen, distance, depth = people.sight
    with np.errstate(invalid="ignore"):
        weights = np.where(seen & (distance < _CONFIG.joint_radius), 1.0 / np.maximum(depth, 1e-3) ** 2, 0.0)
        fits = seen[:, camera] & (distance[:, camera] < _SWAPPED * _CONFIG.joint_radius)
    weights[:, [camera, *without]] = 0.0
    points, _ = solve(origins, directions, weights)
    points = points.reshape(people.joints.shape)
    where, z = cameras[[camera]].to(dtype=torch.float64).project(torch.from_numpy(np.nan_to_num(points)))
    where, z = where[0].numpy(), z[0].numpy()
    where = np.where(np.isfinite(points[..., :1]) & (z > 0.1)[..., None], where, np.nan)
    return where, z, fits.reshape(z.shape)


def leave_one_out_positions(
    people: People, camera: int, without: frozenset[int] = frozenset()
) -> Float[np.ndarray, "people frames 17 2"]:
    """Where the cameras but this one and `without` put every joint in this one's image, pixels; NaN where unknown."""
    return _others(people, camera, without)[0]


def leave_one_out(people: People, camera: int, without: frozenset[int] = frozenset()) -> Residuals:
    """Triangulates every joint from the cameras other than `camera` and `without`, and projects it into `camera`.

    Rays that the joint's robust position from all cameras shows to be someone else's are left out.
    """
    where, z, fits = _others(people, camera, without)
    speed = np.full_like(where, np.nan)
    speed[:, 1:-1] = (where[:, 2:] - where[:, :-2]) / 2
    error = np.moveaxis(people.detected[camera], 1, 0) - where
    usable = fits & np.isfinite(error).all(-1)
    _, frame, _ = np.nonzero(usable)
    K = people.cameras.K[camera]
    focal = float(K[0, 0] + K[1, 1]) / 2
    return Residuals(frame, where[usable], error[usable], speed[usable], focal / z[usable])
