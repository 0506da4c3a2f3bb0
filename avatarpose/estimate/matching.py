"""Which detections of one frame belong together: people already known claim theirs, the rest form new people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from avatarpose.estimate.affinity import FrameRays, Rays, agreement, claim, closest_points, point_ray_distance, support
from avatarpose.estimate.config import TriangulationConfig
from avatarpose.estimate.triangulation import hypotheses, refine
from avatarpose.results import Joints3D

if TYPE_CHECKING:
    from avatarpose.sequence import Sequence

_MAX_PAIRS = 256  # pairs of detections considered as new people in one frame, the best agreeing first

# Metres between COCO joints of nearly all people, children included, with room for the noise of two views.
_BONES = np.array([[5, 7], [6, 8], [7, 9], [8, 10], [11, 13], [12, 14], [13, 15], [14, 16], [5, 6], [5, 11], [6, 12]])
_BONE_LIMITS = np.array([[0.1, 0.45]] * 4 + [[0.18, 0.65]] * 4 + [[0.12, 0.6]] + [[0.25, 0.8]] * 2)


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
    """
    config = config or TriangulationConfig()
    position = {int(number): index for index, number in enumerate(sequence.frames)}
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


def plausible(points: Float[np.ndarray, "*batch 17 3"]) -> Float[np.ndarray, " *batch"]:
    """Share of the known bones that have a human length; 1 where none is known."""
    length = np.linalg.norm(points[..., _BONES[:, 0], :] - points[..., _BONES[:, 1], :], axis=-1)
    known = np.isfinite(length)
    good = known & (length > _BONE_LIMITS[:, 0]) & (length < _BONE_LIMITS[:, 1])
    return (good.sum(axis=-1) + 1) / (known.sum(axis=-1) + 1)


def same_place(a: Float[np.ndarray, "*#batch 17 3"], b: Float[np.ndarray, "*#batch 17 3"]) -> np.ndarray:
    """Mean distance of the joints known in both, metres; inf where fewer than four are."""
    distance = np.linalg.norm(a - b, axis=-1)
    number = np.isfinite(distance).sum(axis=-1)
    return np.where(number >= 4, np.nansum(distance, axis=-1) / np.maximum(number, 1), np.inf)


def find_people(
    rays: FrameRays,
    free: Bool[np.ndarray, "cameras rows"],
    known: Float[np.ndarray, "people 17 3"],
    config: TriangulationConfig,
) -> tuple[Float[np.ndarray, "new 17 3"], Int[np.ndarray, "cameras new"]]:
    """People among the detections that nobody claimed.

    Every pair of free detections in two views is a hypothesis, a set of 3D joints, verified by all views: its value is
    the support of the best free detection of each view times the share of bones with a human length. The best is
    triangulated from all its detections, kept if it is somebody new, and its detections are taken; then again. Two
    people of one height can agree pairwise by accident; only the other views and the bone lengths tell.

    Args:
        free: which detections nobody claimed.
        known: people already found in the frame.

    Returns:
        (N, 17, 3) metres and (C, N) rows, -1 where none.
    """
    free = free & ((rays.scores > 0).sum(axis=-1) >= config.min_joints)
    people: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    points = _pair_points(rays, free, config)
    while len(points):
        value = _best_rows(support(points, rays, config.person_radius), free, config)[1] * plausible(points)
        best = int(value.argmax())
        if value[best] < 2 * config.min_support:
            break
        person, row = _grow(points[best], rays, free, config)
        views = int((row >= 0).sum())
        enough = np.isfinite(person[:, 0]).sum() >= config.min_joints + 1 and views >= 2 and plausible(person) > 0.6
        others = np.concatenate([known, np.array(people).reshape(-1, 17, 3)])
        duplicate = enough and len(others) and same_place(person, others).min() < config.duplicate_distance
        if enough and not duplicate:
            people.append(person)
            rows.append(row)
        points = np.delete(points, best, axis=0)
        if enough:  # a duplicate's detections are used up too, or they would come back with every other pair
            free = free.copy()
            free[np.flatnonzero(row >= 0), row[row >= 0]] = False
    return np.array(people).reshape(-1, 17, 3), np.array(rows, int).reshape(-1, len(free)).T


def _pair_points(rays: FrameRays, free: np.ndarray, config: TriangulationConfig) -> np.ndarray:
    """3D joints (N, 17, 3) of the pairs of free detections in two views that agree best."""
    candidates = np.argwhere(free)
    first, second = np.triu_indices(len(candidates), k=1)
    (ca, ra), (cb, rb) = candidates[first].T, candidates[second].T
    other = ca != cb
    ca, ra, cb, rb = ca[other], ra[other], cb[other], rb[other]
    points, gap = closest_points(
        rays.origins[ca][:, None], rays.directions[ca, ra], rays.origins[cb][:, None], rays.directions[cb, rb],
        config.min_angle,
    )  # fmt: skip
    points = np.where((gap < config.person_radius)[..., None], points, np.nan)
    score = np.sqrt(rays.scores[ca, ra] * rays.scores[cb, rb])
    value = (score * agreement(gap, config.joint_radius)).sum(axis=-1)
    enough = np.isfinite(points[..., 0]).sum(axis=-1) >= config.min_joints
    order = np.argsort(np.where(enough, -value, np.inf), kind="stable")[: min(_MAX_PAIRS, int(enough.sum()))]
    return points[order]


def _best_rows(
    support: np.ndarray, free: np.ndarray, config: TriangulationConfig
) -> tuple[Int[np.ndarray, "people cameras"], Float[np.ndarray, " people"]]:
    """Each hypothesis's best free row per camera (-1 where none supports it), and its total support."""
    support = np.where(free, support, -np.inf)
    if support.shape[-1] == 0:
        return np.full(support.shape[:2], -1), np.zeros(len(support))
    row = support.argmax(axis=-1)
    best = support.max(axis=-1)
    good = best >= config.min_support
    return np.where(good, row, -1), np.where(good, best, 0.0).sum(axis=-1) * (good.sum(axis=-1) >= 2)


def _grow(
    person: np.ndarray, rays: FrameRays, free: np.ndarray, config: TriangulationConfig
) -> tuple[Float[np.ndarray, "17 3"], Int[np.ndarray, " cameras"]]:
    """Triangulates a hypothesis from all the rows that support it, and asks again which do, twice."""
    row = np.full(len(free), -1)
    for _ in range(3):
        row = _best_rows(support(person[None], rays, config.person_radius), free, config)[0][0]
        located = locate(rays, row[:, None], config, person[None])[0]
        person = np.where(np.isfinite(located), located, person)
    return located, row
