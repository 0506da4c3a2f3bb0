"""How well 2D detections of several cameras agree with a calibration, before anybody knows who is who.

Nothing here depends on the unit of length: detections of two cameras are paired by their epipolar error, and only what
is triangulated from the pairs carries the file's unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from avatarpose.cameras import Cameras
from avatarpose.estimate.affinity import closest_points

MOST_FRAMES = 40
"""Frames looked at: enough for a median, few enough to take seconds."""
_LEAST_JOINTS = 6
_NEAR = 0.1  # of a person's extent in the image: the most by which two detections of one person disagree
_LEAST_ANGLE = 15.0  # degrees between two rays that shall fix a point

_STATURE = 0.89
"""Ankle to knee to hip to shoulder to nose along the bones, of a person's height (Winter 2009, figure 4.1)."""


@dataclass(frozen=True)
class Pairs:
    """People that two cameras both saw.

    Attributes:
        cameras: indices of the two.
        frames: (N,) row of the keypoints that each pair is from.
        pixels: (2, N, 17, 2) joints in the first and in the second camera; NaN where one of them lacks the joint.
    """

    cameras: tuple[int, int]
    frames: Int[np.ndarray, " pairs"]
    pixels: Float[np.ndarray, "2 pairs 17 2"]


def directions(cameras: Cameras, c: int, pixels: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 3"]:
    """Unit vectors, world, from camera c through pixels; NaN where the pixel is."""
    known = np.isfinite(pixels).all(-1)
    filled = torch.tensor(np.where(known[..., None], pixels, 0.0), dtype=torch.float64)
    _, found = cameras[c].rays(filled[None])
    return np.where(known[..., None], found[0].numpy(), np.nan)


def plane_errors(
    cameras: Cameras,
    pair: tuple[int, int],
    first: Float[np.ndarray, "*batch 3"],
    second: Float[np.ndarray, "*batch 3"],
) -> Float[np.ndarray, "*batch"]:
    """Pixels between a ray's pixel and the epipolar line of the other camera's ray, mean of both ways; NaN if unknown.

    The angle between a ray and the plane through the baseline and the other ray (Hartley and Zisserman 2004, section
    11.4.3), times the focal length: so the distortion of the lens is taken into account.
    """
    centres = cameras.centres.numpy()
    baseline = centres[pair[1]] - centres[pair[0]]
    focal = cameras.K[:, [0, 1], [0, 1]].mean(-1).numpy()
    errors = []
    for own, other, c in ((first, second, pair[0]), (second, first, pair[1])):
        normal = np.cross(baseline, other)
        with np.errstate(invalid="ignore", divide="ignore"):
            normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
        errors.append(focal[c] * np.arcsin(np.clip(np.abs((own * normal).sum(-1)), 0, 1)))
    return (errors[0] + errors[1]) / 2


def epipolar_errors(
    cameras: Cameras, pair: tuple[int, int], pixels: Float[np.ndarray, "2 *batch 2"]
) -> Float[np.ndarray, "*batch"]:
    """Pixels between a detection and the other camera's epipolar line, mean of both ways; NaN where unknown."""
    return plane_errors(cameras, pair, *(directions(cameras, c, pixels[i]) for i, c in enumerate(pair)))


def pair_people(
    cameras: Cameras, keypoints: Sequence[Float[np.ndarray, "frames detections 17 3"]]
) -> list[Pairs]:
    """Pairs the detections of every two cameras by the least epipolar error.

    Args:
        cameras: C cameras.
        keypoints: one array a camera, row f of all of them at the same time.
    """
    count = min(len(rows) for rows in keypoints)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_FRAMES)).round().astype(int)) if count else []
    seen = [_present(rows[chosen]) for rows in keypoints]
    rays = [directions(cameras, c, pixels) for c, pixels in enumerate(seen)]
    result = []
    for a, b in combinations(range(len(keypoints)), 2):
        found, when = [], []
        for k, f in enumerate(chosen):
            for i, j in _match(cameras, (a, b), (seen[a][k], seen[b][k]), (rays[a][k], rays[b][k])):
                both = np.stack((seen[a][k, i], seen[b][k, j]))
                found.append(np.where(np.isfinite(both).all(0), both, np.nan))
                when.append(f)
        pixels = np.stack(found, 1) if found else np.zeros((2, 0, 17, 2))
        result.append(Pairs((a, b), np.array(when, int), pixels))
    return result


def _present(rows: np.ndarray) -> np.ndarray:
    """(F, D, 17, 2) pixels, NaN where a joint is absent, or its detection has too few."""
    seen = np.isfinite(rows).all(-1)
    seen &= seen.sum(-1, keepdims=True) >= _LEAST_JOINTS
    return np.where(seen[..., None], rows[..., :2], np.nan).astype(np.float64)


def _match(
    cameras: Cameras, pair: tuple[int, int], pixels: tuple[np.ndarray, np.ndarray], rays: tuple[np.ndarray, np.ndarray]
) -> list[tuple[int, int]]:
    """Rows of the first and of the second camera, in one frame, that show one person."""
    if not len(rays[0]) or not len(rays[1]):
        return []
    errors = plane_errors(cameras, pair, *np.broadcast_arrays(rays[0][:, None], rays[1][None]))
    enough = np.isfinite(errors).sum(-1) >= _LEAST_JOINTS
    mean = np.nansum(errors, -1) / np.maximum(np.isfinite(errors).sum(-1), 1)
    extent = (_extent(pixels[0])[:, None] + _extent(pixels[1])[None]) / 2
    cost = np.where(enough, mean / extent, 1e6)
    return [(i, j) for i, j in zip(*linear_sum_assignment(cost), strict=True) if cost[i, j] < _NEAR]


def _extent(pixels: np.ndarray) -> np.ndarray:
    """Larger side of the box of (*batch, 17, 2) joints, at least a pixel."""
    low = np.where(np.isnan(pixels), np.inf, pixels).min(-2)
    high = np.where(np.isnan(pixels), -np.inf, pixels).max(-2)
    return np.maximum((high - low).max(-1), 1.0)


def mean_error(cameras: Cameras, people: Sequence[Pairs], of: set[int] | None = None) -> float:
    """Mean over pairs of cameras of the median epipolar error, pixels; NaN if there is none.

    Args:
        of: only pairs that one of these cameras takes part in.
    """
    chosen = [p for p in people if of is None or of & set(p.cameras)]
    return mean_of_medians([epipolar_errors(cameras, p.cameras, p.pixels) for p in chosen])


def mean_of_medians(errors: Sequence[np.ndarray]) -> float:
    """Mean of the medians of arrays that hold a number; NaN if none does."""
    medians = [np.nanmedian(e) for e in errors if np.isfinite(e).any()]
    return float(np.mean(medians)) if medians else float("nan")


@dataclass(frozen=True)
class BodyEvidence:
    """What two-view triangulation says of the people.

    Attributes:
        heights: (N,) body heights along the bones, in the unit of the cameras.
        ups: (N, 3) unit vectors from the ankles to the shoulders, world.
    """

    heights: Float[np.ndarray, " bodies"]
    ups: Float[np.ndarray, "bodies 3"]


def body_evidence(cameras: Cameras, people: Sequence[Pairs]) -> BodyEvidence:
    """Heights and directions of the paired people, from the pairs whose rays cross widely enough."""
    heights, ups = [], []
    centres = cameras.centres.numpy()
    for p in people:
        a, b = p.cameras
        rays = [np.nan_to_num(directions(cameras, c, p.pixels[i])) for i, c in enumerate(p.cameras)]
        points, _ = closest_points(centres[a], rays[0], centres[b], rays[1], _LEAST_ANGLE)
        ankle, knee, hip, shoulder = (points[:, [k, k + 1]] for k in (15, 13, 11, 5))
        legs = np.linalg.norm(ankle - knee, axis=-1) + np.linalg.norm(knee - hip, axis=-1)
        trunk = np.linalg.norm(hip.mean(1) - shoulder.mean(1), axis=-1)
        head = np.linalg.norm(shoulder.mean(1) - points[:, 0], axis=-1)
        height = (legs.mean(1) + trunk + head) / _STATURE
        upward = shoulder.mean(1) - ankle.mean(1)
        whole = np.isfinite(height) & np.isfinite(upward).all(-1) & (height > 0)
        heights.append(height[whole])
        ups.append(upward[whole] / np.maximum(np.linalg.norm(upward[whole], axis=-1, keepdims=True), 1e-12))
    return BodyEvidence(
        np.concatenate(heights) if heights else np.zeros(0), np.concatenate(ups) if ups else np.zeros((0, 3))
    )


def nearest_points(
    cameras: Cameras, keypoints: Float[np.ndarray, "cameras frames joints 3"]
) -> Float[np.ndarray, "frames joints 3"]:
    """The points that all cameras' rays to one person's (or thing's) joints come nearest to.

    Minimises sum_c w_c |(I - d_c d_c^T)(x - o_c)|^2 with the scores as weights.

    Args:
        keypoints: x, y in pixels, score; NaN where unseen.

    Returns:
        In the unit of the cameras; NaN where fewer than two cameras see the joint.
    """
    seen = np.isfinite(keypoints).all(-1)
    origins = cameras.centres.numpy()
    rays = np.stack([directions(cameras, c, rows[..., :2]) for c, rows in enumerate(keypoints)])
    across = np.eye(3) - np.nan_to_num(rays)[..., :, None] * np.nan_to_num(rays)[..., None, :]
    across *= np.where(seen, np.nan_to_num(keypoints[..., 2]), 0)[..., None, None]
    A, b = across.sum(0), np.einsum("cfjkl,cl->fjk", across, origins)
    enough = seen.sum(0) >= 2
    points = np.linalg.solve(np.where(enough[..., None, None], A, np.eye(3)), b[..., None])[..., 0]
    return np.where(enough[..., None], points, np.nan)


def reprojection_errors(
    cameras: Cameras, keypoints: Float[np.ndarray, "cameras frames joints 3"]
) -> Float[np.ndarray, "cameras frames joints"]:
    """Pixels between one person's detections and the point that all cameras' rays come nearest to; NaN where unseen."""
    points = nearest_points(cameras, keypoints)
    again, _ = cameras.project(torch.tensor(np.nan_to_num(points)))
    error = np.linalg.norm(again.numpy() - keypoints[..., :2], axis=-1)
    return np.where(np.isfinite(points).all(-1), error, np.nan)
