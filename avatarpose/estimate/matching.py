"""Which detection shows whom: people whose joints are known, or expected somewhere, claim theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from avatarpose.errors import InputError
from avatarpose.estimate.affinity import FrameRays, Rays, agreement, claim, point_ray_distance
from avatarpose.estimate.config import TriangulationConfig
from avatarpose.estimate.triangulation import hypotheses, refine
from avatarpose.results import Joints3D

if TYPE_CHECKING:
    from avatarpose.sequence import Sequence

_TURNS = 3  # of claiming detections and triangulating from them


@dataclass(frozen=True)
class Association:
    """Which detection shows whom.

    Attributes:
        rows: (C, F, P) row of keypoints2d that is person p in camera c and frame f; -1 where none.
        inliers: (C, F, P, 17) whether that row's joint agrees with the person's 3D joint (False where it was taken from
            someone else, sides swapped, missed, or the 3D joint unknown).
    """

    rows: Int[np.ndarray, "cameras frames people"]
    inliers: Bool[np.ndarray, "cameras frames people 17"]


def associate(sequence: Sequence, joints3d: Joints3D, config: TriangulationConfig | None = None) -> Association:
    """Recomputes from 3D joints which detection shows whom: a function of the files alone.

    In each camera and frame, people and detections are matched one to one so that their joints agree most.

    Args:
        sequence: the capture; its frames must include those of `joints3d`, in any order.
        joints3d: people found by any estimator.

    Returns:
        Association over the frames of `joints3d`.

    Raises:
        InputError: the joints have a frame that the sequence has not.
    """
    config = config or TriangulationConfig()
    position = {int(number): index for index, number in enumerate(sequence.frames)}
    for number in joints3d.frames:
        if int(number) not in position:
            raise InputError(
                "3D joints of a frame that is not in the sequence", file=sequence.folder, frame=int(number)
            )
    frames = [position[int(number)] for number in joints3d.frames]
    rays = Rays.from_keypoints(sequence.cameras, sequence.keypoints2d[:, frames], config.min_score)
    points = np.where(joints3d.valid[..., None, None], joints3d.keypoints, np.nan).astype(np.float64)
    people, count = points.shape[:2]
    rows = np.full((len(rays.origins), count, people), -1)
    inliers = np.zeros((*rows.shape, 17), bool)
    for f in range(count):
        frame = rays.frame(f)
        rows[:, f] = assign(claim(points[:, f], frame, config.person_radius), config.min_support)
        directions, scores = gather(frame, rows[:, f])
        distance = point_ray_distance(points[:, f][:, :, None], frame.origins, directions)  # (P, 17, C)
        inliers[:, f] = np.moveaxis((scores > 0) & (distance < config.joint_radius), -1, 0)
    return Association(rows, inliers)


def assign(support: Float[np.ndarray, "people cameras rows"], min_support: float) -> Int[np.ndarray, "cameras people"]:
    """One-to-one matching of people and detections with the greatest total support, in each camera; -1 where none."""
    people, cameras, _ = support.shape
    rows = np.full((cameras, people), -1)
    for camera in range(cameras):
        value = support[:, camera]
        person, row = linear_sum_assignment(np.where(value >= min_support, value, 0.0), maximize=True)
        good = value[person, row] >= min_support
        rows[camera, person[good]] = row[good]
    return rows


def gather(
    rays: FrameRays, rows: Int[np.ndarray, "cameras people"]
) -> tuple[Float[np.ndarray, "people 17 cameras 3"], Float[np.ndarray, "people 17 cameras"]]:
    """Rays and scores of each person's joints in each camera; zeros where the person has no row."""
    camera = np.arange(len(rows))[:, None]
    has = rows >= 0
    directions = np.where(has[..., None, None], rays.directions[camera, rows], 0.0)  # (C, P, 17, 3)
    scores = np.where(has[..., None], rays.scores[camera, rows], 0.0)
    return np.moveaxis(directions, 0, 2), np.moveaxis(scores, 0, 2)


def locate(
    rays: FrameRays,
    rows: Int[np.ndarray, "cameras people"],
    config: TriangulationConfig,
    expected: Float[np.ndarray, "people 17 3"] | None = None,
) -> Float[np.ndarray, "people 17 3"]:
    """Robustly triangulates every joint of people whose detections are known, in one frame.

    Args:
        expected: where the joints are expected, NaN where unknown; ranks hypotheses of equal support, no more.
    """
    directions, scores = gather(rays, rows)
    people = len(directions)
    directions, scores = directions.reshape(people * 17, len(rows), 3), scores.reshape(people * 17, len(rows))
    points, value = hypotheses(rays.origins, directions, scores, config.joint_radius, config.min_angle)
    if expected is not None:
        away = np.linalg.norm(points - expected.reshape(-1, 1, 3), axis=-1)
        value = value + config.time_weight * agreement(away, 2.0 * config.time_radius)
    best = points[np.arange(len(points)), value.argmax(axis=1)]
    found = refine(
        best, rays.origins, directions, scores, config.joint_radius, config.pair_radius, config.min_angle, iterations=4
    )
    return found.points.reshape(people, 17, 3)


def settle(
    rays: FrameRays,
    expected: Float[np.ndarray, "people 17 3"],
    free: Bool[np.ndarray, "cameras rows"],
    radius: float | Float[np.ndarray, " people"],
    config: TriangulationConfig,
) -> tuple[Float[np.ndarray, "people 17 3"], Int[np.ndarray, "cameras people"]]:
    """Lets people who are expected somewhere claim free detections, triangulates them, and lets them claim again.

    Args:
        expected: metres, NaN where nothing is.
        radius: metres, how wide people are looked for at first.

    Returns:
        Joints, NaN where unknown, and rows, -1 where none.
    """
    points = expected
    for turn in range(_TURNS):
        value = claim(points, rays, radius if turn == 0 else config.person_radius)
        rows = assign(np.where(free, value, -np.inf), config.min_support)
        located = locate(rays, rows, config, points)
        points = np.where(np.isfinite(located), located, expected)
    return located, rows
