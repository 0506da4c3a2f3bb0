"""Final 3D joints: every joint of every person and frame chooses among its hypotheses with all the evidence at hand."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from avatarpose.estimate.affinity import MIRRORED, Rays, point_ray_distance
from avatarpose.estimate.config import TriangulationConfig
from avatarpose.estimate.matching import gather
from avatarpose.estimate.triangulation import Triangulated, hypotheses, refine

BONES = np.array(
    [
        *([5, 7], [6, 8], [7, 9], [8, 10], [11, 13], [12, 14], [13, 15], [14, 16], [5, 6], [11, 12], [5, 11], [6, 12]),
        *([0, 1], [0, 2], [1, 3], [2, 4], [1, 2], [3, 5], [4, 6]),
    ]
)
"""Pairs of COCO joints whose distance (nearly) does not change as a person moves."""

_HYPOTHESES = 4
_BONE_TOLERANCE = 0.25  # share of a bone's length that counts fully against it: poses and clothes move the 2D joints
_BONE_CAP = 3.0  # at most so many times `bone_weight` against a joint
_BONE_FLOOR = 0.05  # metres, the tolerance of the shortest bones


def triangulate_people(
    rays: Rays,
    rows: Int[np.ndarray, "cameras frames people"],
    times: Float[np.ndarray, " frames"],
    config: TriangulationConfig,
) -> tuple[Float[np.ndarray, "people frames 17 3"], Float[np.ndarray, "people frames 17"]]:
    """Triangulates all joints of people whose detections are known.

    When two views see somebody else's joint and two views the right one, their votes are even. So each joint's best few
    hypotheses (`hypotheses`) are ranked again by the neighbours in time and the person's own bone lengths, in a few
    sweeps in which each joint chooses given the others (iterated conditional modes; Besag, 1986), then refined.

    Args:
        rows: of the detections; -1 where none.
        times: seconds.

    Returns:
        (P, F, 17, 3) metres, NaN where unknown; (P, F, 17) scores, 0 where unknown: see `joint_scores`.
    """
    frames = rows.shape[1]
    gathered = [gather(rays.frame(f), rows[:, f]) for f in range(frames)]
    directions = np.stack([d for d, _ in gathered], axis=1)  # (P, F, 17, C, 3)
    scores = np.stack([s for _, s in gathered], axis=1)  # (P, F, 17, C)
    joints, _ = _solve(rays.origins, directions, scores, times, config)
    directions, scores = exchange(rays.origins, directions, scores, joints, config)
    joints, confidence = _solve(rays.origins, directions, scores, times, config)
    wrong = _broken(joints, confidence)
    return np.where(wrong[..., None], np.nan, joints), np.where(wrong, 0.0, confidence)


def exchange(
    origins: Float[np.ndarray, "cameras 3"],
    directions: Float[np.ndarray, "people frames 17 cameras 3"],
    scores: Float[np.ndarray, "people frames 17 cameras"],
    joints: Float[np.ndarray, "people frames 17 3"],
    config: TriangulationConfig,
) -> tuple[Float[np.ndarray, "people frames 17 cameras 3"], Float[np.ndarray, "people frames 17 cameras"]]:
    """Gives joints the rays that detectors put under another name: the other side's, or another person's.

    A ray that is an outlier to the joint whose name it bears, or whose joint is unknown, passes to the joint of the
    other side or of another person that it fits closely and that has no fitting ray of its own in that view, with
    half its score.

    Args:
        joints: a first triangulation.

    Returns:
        The rays and scores, those passed on replaced.
    """
    fits = (scores > 0) & (point_ray_distance(joints[..., None, :], origins, directions) < config.joint_radius)
    stray, wanting = (scores > 0) & ~fits, ~fits & np.isfinite(joints[..., :1])
    directions, scores, taken = directions.copy(), scores.copy(), fits.copy()
    offers = [(range(len(joints)), MIRRORED)]
    offers += [(np.roll(np.arange(len(joints)), shift), np.arange(17)) for shift in range(1, len(joints))]
    source_directions, source_scores = directions.copy(), scores.copy()
    for people, order in offers:
        offered = source_directions[people][:, :, order]
        distance = point_ray_distance(joints[..., None, :], origins, offered)
        passes = wanting & ~taken & stray[people][:, :, order] & (distance < 0.5 * config.joint_radius)
        directions = np.where(passes[..., None], offered, directions)
        scores = np.where(passes, 0.5 * source_scores[people][:, :, order], scores)
        taken |= passes
    return directions, scores


def _solve(
    origins: np.ndarray, directions: np.ndarray, scores: np.ndarray, times: np.ndarray, config: TriangulationConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Joints (P, F, 17, 3) and confidence (P, F, 17) from rays (P, F, 17, C, 3) and scores (P, F, 17, C)."""
    people, frames = scores.shape[:2]
    number = people * frames * 17
    directions, scores = directions.reshape(number, len(origins), 3), scores.reshape(number, len(origins))
    points, value = hypotheses(origins, directions, scores, config.joint_radius, config.min_angle, count=_HYPOTHESES)
    shape = (people, frames, 17, _HYPOTHESES)
    chosen = _choose(points.reshape(*shape, 3), value.reshape(shape), times, config)
    found = refine(
        chosen.reshape(-1, 3), origins, directions, scores,
        config.joint_radius, config.pair_radius, config.min_angle,
    )  # fmt: skip
    return found.points.reshape(people, frames, 17, 3), joint_scores(found, scores).reshape(people, frames, 17)


def joint_scores(found: Triangulated, scores: Float[np.ndarray, "joints cameras"]) -> Float[np.ndarray, " joints"]:
    """Confidence in triangulated joints, 0 to 1: mean score of the views used over 1 + (deviation / 3 cm)^2.

    The expected deviation already holds the number of views, their angles and the residuals.
    """
    number = np.maximum(found.inliers.sum(axis=1), 1)
    mean = np.where(found.inliers, scores, 0.0).sum(axis=1) / number
    return mean / (1.0 + (found.deviation / 0.03) ** 2)


def _choose(points: np.ndarray, votes: np.ndarray, times: np.ndarray, config: TriangulationConfig) -> np.ndarray:
    """Place (P, F, 17, 3) of each joint among its hypotheses (P, F, 17, K, 3) with votes (P, F, 17, K)."""
    chosen = np.take_along_axis(points, votes.argmax(axis=-1)[..., None, None], axis=3)[..., 0, :]
    for _ in range(config.sweeps):
        value = votes.copy()
        expected = _between(chosen, times)
        away = np.linalg.norm(points - expected[..., None, :], axis=-1)
        steady = np.maximum(1.0 - (away / config.time_radius) ** 2, -1.0)
        value += config.time_weight * np.where(np.isnan(steady), 0.0, steady)
        lengths, tolerance = _bone_lengths(chosen)
        for (a, b), length, width in zip(BONES, lengths.T, tolerance.T, strict=True):
            for joint, other in ((a, b), (b, a)):
                bone = np.linalg.norm(points[:, :, joint] - chosen[:, :, other, None], axis=-1)
                error = (bone - length[:, None, None]) / width[:, None, None]
                value[:, :, joint] += config.bone_weight * np.where(
                    np.isnan(error), 0.0, np.maximum(-(error**2), -_BONE_CAP)
                )
        chosen = np.take_along_axis(points, value.argmax(axis=-1)[..., None, None], axis=3)[..., 0, :]
    return chosen


def _between(joints: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Where the neighbours in time put each joint (P, F, 17, 3): the median of their neighbourly guesses.

    Each pair of neighbours on either side, or on the same side, puts a line through two places.
    """
    people, frames = joints.shape[:2]
    padded = np.full((people, frames + 4, *joints.shape[2:]), np.nan)
    padded[:, 2:-2] = joints
    at = np.full(frames + 4, np.nan)
    at[2:-2] = times
    guesses = []
    for i, j in ((-1, 1), (-2, 2), (-2, -1), (1, 2), (-1, 2), (-2, 1)):
        first, second = padded[:, 2 + i : 2 + i + frames], padded[:, 2 + j : 2 + j + frames]
        t0, t1 = at[2 + i : 2 + i + frames], at[2 + j : 2 + j + frames]
        share = ((times - t0) / (t1 - t0))[None, :, None, None]
        guesses.append(first + share * (second - first))
    return _nanmedian(np.stack(guesses))


def _bone_lengths(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median length of each bone of each person (P, B), and how far from it counts fully against a joint."""
    bones = np.linalg.norm(joints[:, :, BONES[:, 0]] - joints[:, :, BONES[:, 1]], axis=-1)
    length = _nanmedian(np.moveaxis(bones, 1, 0))
    return length, np.maximum(_BONE_TOLERANCE * length, _BONE_FLOOR)


def _nanmedian(values: np.ndarray) -> np.ndarray:
    """Median over the first axis of the values known; NaN where none is."""
    some = np.isfinite(values).any(axis=0)
    return np.where(some, np.nanmedian(np.where(some, values, 0.0), axis=0), np.nan)


def _broken(joints: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Joints (P, F, 17) at the end of a limb bone far from its usual length: the less sure of the bone's two ends."""
    wrong = np.zeros(joints.shape[:3], bool)
    lengths, _ = _bone_lengths(joints)
    for (a, b), length in zip(BONES[:12], lengths.T[:12], strict=True):
        bone = np.linalg.norm(joints[:, :, a] - joints[:, :, b], axis=-1)
        off = np.abs(bone - length[:, None]) > np.maximum(0.6 * length[:, None], 0.15)
        wrong[:, :, a] |= off & (scores[:, :, a] <= scores[:, :, b])
        wrong[:, :, b] |= off & (scores[:, :, b] < scores[:, :, a])
    return wrong
