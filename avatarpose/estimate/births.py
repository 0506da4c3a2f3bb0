"""New people among the detections of one frame that nobody known has claimed."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import Bounds, LinearConstraint, milp

from avatarpose.estimate.affinity import FrameRays, agreement, closest_points, support
from avatarpose.estimate.config import TriangulationConfig
from avatarpose.estimate.matching import settle

_MAX_PAIRS = 256  # pairs of detections considered as new people in one frame, the best agreeing first
_MAX_CANDIDATES = 128
_ROUNDS = 3
_LEAST_PLAUSIBLE = 0.6

# Metres between COCO joints of nearly all people, children included, with room for the noise of two views.
_BONES = np.array([[5, 7], [6, 8], [7, 9], [8, 10], [11, 13], [12, 14], [13, 15], [14, 16], [5, 6], [5, 11], [6, 12]])
_BONE_LIMITS = np.array([[0.1, 0.45]] * 4 + [[0.18, 0.65]] * 4 + [[0.12, 0.6]] + [[0.25, 0.8]] * 2)


def find_people(
    rays: FrameRays,
    free: Bool[np.ndarray, "cameras rows"],
    known: Float[np.ndarray, "people 17 3"],
    config: TriangulationConfig,
) -> tuple[Float[np.ndarray, "new 17 3"], Int[np.ndarray, "cameras new"]]:
    """People among the detections that nobody claimed.

    Every pair of free detections in two views is a hypothesis, a set of 3D joints, verified by all views: its value is
    the support of the best free detection of each view, times the share of bones with a human length. Two people of
    one height can agree pairwise by accident; only the other views, the bone lengths and what is left for the others
    tell. So the set of people that share no detection and have the greatest total value is chosen, triangulated
    together, and those are kept that are somebody new; then again with what is left.

    Args:
        free: which detections nobody claimed.
        known: people already found in the frame.

    Returns:
        (N, 17, 3) metres and (C, N) rows, -1 where none.
    """
    free = free & ((rays.scores > 0).sum(axis=-1) >= config.min_joints)
    people, rows = np.zeros((0, 17, 3)), np.zeros((len(free), 0), int)
    for _ in range(_ROUNDS):
        candidates = _candidates(rays, free, config)
        if not len(candidates):
            break
        located, found = settle(rays, candidates, free, config.person_radius, config)
        good = (np.isfinite(located[..., 0]).sum(axis=1) > config.min_joints) & ((found >= 0).sum(axis=0) >= 2)
        good &= plausible(located) > _LEAST_PLAUSIBLE
        for i in np.flatnonzero(good):
            # Somebody detected twice: his second detections are used up all the same, or they would come back.
            free[np.flatnonzero(found[:, i] >= 0), found[found[:, i] >= 0, i]] = False
            others = np.concatenate([known, people])
            if not len(others) or same_place(located[i], others).min() >= config.duplicate_distance:
                people = np.concatenate([people, located[i : i + 1]])
                rows = np.concatenate([rows, found[:, i : i + 1]], axis=1)
        if not good.any():
            break
    return people, rows


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


def _candidates(rays: FrameRays, free: np.ndarray, config: TriangulationConfig) -> Float[np.ndarray, "people 17 3"]:
    """The set of hypotheses that share no detection and have the greatest total value: a weighted set packing."""
    points, pairs = _pair_points(rays, free, config)
    if not len(points):
        return points
    value = np.where(free, support(points, rays, config.person_radius), -np.inf)
    best, total = value.max(axis=-1), np.zeros(2 * len(points))
    good = best >= config.min_support
    # Each pair stands for itself with the best detection of every other view, and for itself alone.
    used = np.zeros((2 * len(points), *free.shape), bool)
    n, c = np.nonzero(good)
    used[n, c, value.argmax(axis=-1)[n, c]] = True
    number = np.arange(len(points))
    for camera, row in pairs.transpose(1, 2, 0):
        used[len(points) + number, camera, row] = True
        total[len(points) :] += value[number, camera, row]
    total[: len(points)] = np.where(good, best, 0.0).sum(axis=1) * (good.sum(axis=1) >= 2)
    # A pair agrees with itself by construction, so a person in n views is worth n - 1 of them; or everybody would fall
    # into pairs.
    views = used.any(axis=2).sum(axis=1)
    total = total * np.tile(plausible(points), 2) * (views - 1) / np.maximum(views, 1)
    order = np.argsort(-total, kind="stable")
    order = order[total[order] >= config.min_support]
    if not len(order):
        return points[:0]
    _, first = np.unique(used[order].reshape(len(order), -1), axis=0, return_index=True)
    order = order[np.sort(first)][:_MAX_CANDIDATES]
    each = used[order].reshape(len(order), -1).T.astype(float)
    chosen = milp(
        -total[order], integrality=np.ones(len(order)), bounds=Bounds(0, 1),
        constraints=LinearConstraint(each[each.any(axis=1)], ub=1.0), options={"time_limit": 5.0},
    ).x  # fmt: skip
    return points[order[chosen > 0.5] % len(points)]


def _pair_points(rays: FrameRays, free: np.ndarray, config: TriangulationConfig) -> tuple[np.ndarray, np.ndarray]:
    """3D joints (N, 17, 3) of the pairs of free detections in two views that agree best; (N, 2, 2) cameras, rows."""
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
    return points[order], np.stack([np.stack([ca, ra], axis=-1), np.stack([cb, rb], axis=-1)], axis=1)[order]
