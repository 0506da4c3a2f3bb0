"""Centres of people, pelvis and neck, in one frame: candidates in each view, greedy triangulation, pairing.

The pelvis is the middle of the hips and the neck the middle of the shoulders, in the image as in space, so neither
minds a detector that swaps the sides. Distances are metres between rays and points, whatever the size of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from avatarpose.cameras import Cameras
from avatarpose.estimate.affinity import FrameRays, agreement, closest_points, point_ray_distance
from avatarpose.estimate.triangulation import hypotheses, refine
from avatarpose.estimate.volumetric.config import CentreConfig
from avatarpose.estimate.volumetric.evidence import Gaussians, size_by_limbs

PELVIS, NECK = 0, 1
SIDES = np.array([[11, 12], [5, 6]])
"""COCO joints, left and right, that the pelvis and the neck lie between."""

_MAX_PAIRS = 2048  # pairs of candidates tried in one frame, the highest scores first
_MAX_CANDIDATES = 16  # of one centre in one view, from separate peaks
# Metres between the hips and between the shoulders: usual, how much people and detectors differ, and the most there is.
_WIDTHS = ((0.22, 0.10, 0.40), (0.36, 0.12, 0.55))
# Joints that a person has near each other, and how far apart, metres: the size of people among separate peaks.
_NEAR = np.array([[5, 11], [6, 12], [11, 13], [12, 14], [13, 15], [14, 16]])
_NEAR_LENGTHS = np.array([0.50, 0.50, 0.40, 0.40, 0.39, 0.39])


@dataclass(frozen=True)
class FrameEvidence:
    """The evidence of one frame as rays.

    Attributes:
        rays: (C, D, 17, 3) directions and (C, D, 17) scores.
        radius: metres within which a ray agrees with a centre.
        rows_are_people: as in `Gaussians`.
        live: (C,) whether the view has any evidence in this frame.
    """

    rays: FrameRays
    radius: float
    rows_are_people: bool
    live: Bool[np.ndarray, " cameras"]


def cast(gaussians: Gaussians, cameras: Cameras, config: CentreConfig) -> FrameEvidence:
    """Evidence of one frame as rays of the world; `cameras` float64 on the CPU."""
    scores = gaussians.heights.detach().cpu().double().numpy()
    _, directions = cameras.rays(gaussians.means.detach().cpu().double())
    directions = directions.numpy()
    seen = (scores >= config.association.min_score) & np.isfinite(directions).all(axis=-1)
    rays = FrameRays(
        cameras.centres.numpy(), np.where(seen[..., None], directions, 0.0), np.where(seen, scores, 0.0).clip(max=1.0)
    )
    sizes = _ray_sizes(rays)
    focal = torch.sqrt(cameras.K[:, 0, 0] * cameras.K[:, 1, 1]).numpy()
    pixel = float(np.nanmedian(1.0 / (sizes * focal))) if np.isfinite(sizes).any() else 0.0
    return FrameEvidence(
        rays, max(config.radius, config.least_pixels * pixel), gaussians.rows_are_people, seen.any(axis=(1, 2))
    )


def _ray_sizes(rays: FrameRays) -> Float[np.ndarray, " cameras"]:
    """Usual size of people in each view, radians per metre, from peaks whose grouping is unknown; NaN where unknown.

    For each peak the nearest of a joint of the same limb, over the limb's length; the upper quartile, because
    foreshortening and other people's peaks only bring them nearer.
    """
    sizes = np.full(len(rays.origins), np.nan)
    for c, (directions, scores) in enumerate(zip(rays.directions, rays.scores, strict=True)):
        ratios = []
        for (a, b), length in zip(_NEAR, _NEAR_LENGTHS, strict=True):
            first, second = directions[scores[:, a] > 0, a], directions[scores[:, b] > 0, b]
            if len(first) and len(second):
                ratios.append(np.linalg.norm(first[:, None] - second, axis=-1).min(axis=1) / length)
        sizes[c] = np.quantile(np.concatenate(ratios), 0.75) if ratios else np.nan
    return np.where(sizes > 0, sizes, np.nan)


# ---- candidates ----


@dataclass(frozen=True)
class Candidates:
    """Places in each view where the pelvis, or the neck, of somebody may be.

    Attributes:
        directions: (C, N, 3) unit; zeros where there are fewer.
        scores: (C, N) the smaller of the two sides'; 0 where there are fewer.
        rows: (C, N, 2) row of the left and of the right joint; -1 where not seen.
        sides: joints left and right, where these come from separate peaks and so may be of two people; else None.
    """

    directions: Float[np.ndarray, "cameras candidates 3"]
    scores: Float[np.ndarray, "cameras candidates"]
    rows: Int[np.ndarray, "cameras candidates 2"]
    sides: tuple[int, int] | None = None


def find_candidates(
    frame: FrameEvidence, centre: int, free: Bool[np.ndarray, "cameras rows 17"], config: CentreConfig
) -> Candidates:
    """Candidates for the pelvis (`centre` 0) or the neck (1) among the free joints.

    Detections pair their own two sides, and one side alone stands for the middle at a lower score. Separate peaks are
    paired with any near enough, and whatever is wrong among those pairs must fail to agree between views.
    """
    left, right = SIDES[centre]
    scores = np.where(free, frame.rays.scores, 0.0)
    a, b = frame.rays.directions[..., left, :], frame.rays.directions[..., right, :]
    score_a, score_b = scores[..., left], scores[..., right]
    if frame.rows_are_people:
        both = np.minimum(score_a, score_b)
        score = np.where(both > 0, both, config.side_weight * np.maximum(score_a, score_b))
        rows = np.where(np.stack((score_a, score_b), -1) > 0, np.arange(score.shape[1])[None, :, None], -1)
        mean = np.where(score_a[..., None] > 0, a, 0.0) + np.where(score_b[..., None] > 0, b, 0.0)
        return Candidates(_unit(mean), score, rows)
    cameras = len(score_a)
    found = Candidates(
        np.zeros((cameras, _MAX_CANDIDATES, 3)),
        np.zeros((cameras, _MAX_CANDIDATES)),
        np.full((cameras, _MAX_CANDIDATES, 2), -1),
        (int(left), int(right)),
    )
    sizes = _ray_sizes(frame.rays)
    usual = np.nanmedian(sizes) if np.isfinite(sizes).any() else np.inf
    for c in range(cameras):
        widest = _WIDTHS[centre][2] * (sizes[c] if np.isfinite(sizes[c]) else usual)
        apart = np.linalg.norm(a[c][:, None] - b[c][None], axis=-1) / widest
        score = np.minimum(score_a[c][:, None], score_b[c][None]) * np.where(apart < 1, 1.0 - 0.5 * apart**2, 0.0)
        order = np.argsort(-score, axis=None, kind="stable")[: min(_MAX_CANDIDATES, int((score > 0).sum()))]
        i, j = np.unravel_index(order, score.shape)
        n = len(order)
        found.directions[c, :n] = _unit(a[c, i] + b[c, j])
        found.scores[c, :n] = score[i, j]
        found.rows[c, :n] = np.stack((i, j), axis=-1)
    return found


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


# ---- new centres ----


def triangulate_greedily(
    frame: FrameEvidence,
    candidates: Candidates,
    cameras: Cameras,
    config: CentreConfig,
    least_views: int | None = None,
) -> tuple[Float[np.ndarray, "centres 3"], Int[np.ndarray, "centres cameras"], Float[np.ndarray, " centres"]]:
    """Centres that views agree on, the best supported first; a candidate serves once.

    Pairs of candidates of two views, the highest scores first, are intersected and projected to all views; a view
    supports a place by its best candidate within the radius. The place with the most support is triangulated anew from
    its supporters (robust least squares) and taken if enough views still agree, two or, where four or more live views
    see the place, `crowd_views`: rays of two different people often meet.

    Returns:
        (K, 3) metres; (K, C) candidate of each view, -1 where none; (K,) support, the sum of scores times agreement.
    """
    origins, directions = frame.rays.origins, candidates.directions
    scores, radius = candidates.scores.copy(), frame.radius
    c, n = np.nonzero(scores > 0)
    i, j = np.triu_indices(len(c), k=1)
    apart = c[i] != c[j]
    i, j = i[apart], j[apart]
    order = np.argsort(-np.minimum(scores[c[i], n[i]], scores[c[j], n[j]]), kind="stable")[:_MAX_PAIRS]
    i, j = i[order], j[order]
    points, gap = closest_points(
        origins[c[i]], directions[c[i], n[i]], origins[c[j]], directions[c[j], n[j]], config.min_angle
    )
    likely = _wide_as_people(frame, candidates, np.stack((c[i], c[j]), -1), np.stack((n[i], n[j]), -1))
    good = (gap < radius) & (likely > 0)
    points, likely = points[good], likely[good]
    distance = point_ray_distance(points[:, None, None], origins[:, None], directions)  # (pairs, C, N)
    gain = np.maximum(agreement(distance, radius), 0.0)
    found, chosen, values = [], [], []
    while len(points):
        worth = scores * gain
        total = worth.max(axis=2).sum(axis=1)
        # Two views always agree, so the first of them is worth nothing.
        total = likely * (total - worth.max(axis=(1, 2)))
        best = int(total.argmax())
        if total[best] <= 0:
            break
        row = np.where(worth[best].max(axis=1) > 0, worth[best].argmax(axis=1), -1)
        own_directions = np.where(row[:, None] >= 0, directions[np.arange(len(row)), row], 0.0)
        own_scores = np.where(row >= 0, scores[np.arange(len(row)), row], 0.0)
        result = refine(
            points[best : best + 1], origins, own_directions[None], own_scores[None], radius, radius / 2,
            config.min_angle, iterations=4,
        )  # fmt: skip
        inliers = result.inliers[0]
        needed = least_views or views_needed(result.points[0], frame, cameras, config)
        if inliers.sum() >= max(needed, 2):
            found.append(result.points[0])
            chosen.append(np.where(inliers, row, -1))
            values.append(total[best])
            view = np.flatnonzero(inliers)
            # Peaks serve once, and so do all the pairs that they are in.
            used = candidates.rows[view, row[view]]
            shared = (candidates.rows[view] == used[:, None]) & (used[:, None] >= 0)
            scores[view] = np.where(shared.any(axis=-1), 0.0, scores[view])
        else:
            points, gain, likely = (np.delete(x, best, axis=0) for x in (points, gain, likely))
    return (
        np.array(found).reshape(-1, 3),
        np.array(chosen, dtype=int).reshape(-1, len(origins)),
        np.array(values),
    )


def _wide_as_people(frame: FrameEvidence, candidates: Candidates, views: np.ndarray, index: np.ndarray) -> np.ndarray:
    """How well the distance of the two sides in space is one person's, 0 to 1, of pairs (N, 2) of candidates.

    The left shoulder of one and the right shoulder of his neighbour have a middle that all views agree on, too.
    """
    if candidates.sides is None:
        return np.ones(len(views))
    ends = []
    for side, joint in enumerate(candidates.sides):
        peak = candidates.rows[views, index, side]
        direction = frame.rays.directions[views, peak, joint]
        origin = frame.rays.origins[views]
        ends.append(closest_points(origin[:, 0], direction[:, 0], origin[:, 1], direction[:, 1], 1.0)[0])
    usual, tolerance, widest = _WIDTHS[NECK if candidates.sides == tuple(SIDES[NECK]) else PELVIS]
    width = np.nan_to_num(np.linalg.norm(ends[0] - ends[1], axis=-1), nan=np.inf)
    return np.where(width < widest, np.exp(-0.5 * ((width - usual) / tolerance) ** 2), 0.0)


def views_needed(point: np.ndarray, frame: FrameEvidence, cameras: Cameras, config: CentreConfig) -> float:
    """How many views must agree on the place of somebody new."""
    if not np.isfinite(point).all():
        return np.inf
    seeing = int((cameras.sees(torch.from_numpy(point)).numpy() & frame.live).sum())
    return config.crowd_views if seeing >= 4 else 2


def plausible_size(
    point: Float[np.ndarray, " 3"],
    origins: Float[np.ndarray, "cameras 3"],
    directions: Float[np.ndarray, "17 cameras 3"],
    scores: Float[np.ndarray, "17 cameras"],
    config: CentreConfig,
) -> bool:
    """Whether a person with these rays, standing there, has a human size: rays of two people meet anywhere.

    The size of a detection, radians per metre of a person, times its depth is near one, less when foreshortened.
    """
    seen = np.moveaxis(np.where(scores[..., None] > 0, directions, np.nan), 1, 0)  # (C, 17, 3)
    size = size_by_limbs(seen) * np.linalg.norm(point - origins, axis=-1)
    low, high = config.size_range
    return not np.isfinite(size).any() or bool(low < np.nanmedian(size) < high)


def pair_torsos(
    pelvises: Float[np.ndarray, "pelvises 3"],
    necks: Float[np.ndarray, "necks 3"],
    shared: Float[np.ndarray, "pelvises necks"],
    config: CentreConfig,
) -> list[tuple[int, int]]:
    """Which neck belongs to which pelvis: one to one, by the length of the torso and the detections that gave both.

    Args:
        shared: share of the views agreeing on both in which one detection gave both; NaN where nothing is known.
    """
    if not len(pelvises) or not len(necks):
        return []
    length = np.linalg.norm(pelvises[:, None] - necks[None], axis=-1)
    low, high = config.torso_range
    possible = (length >= low) & (length <= high)
    off = np.abs(length - config.torso_length) / (high - config.torso_length)
    value = np.where(possible, 1.5 - off + 2.0 * np.nan_to_num(shared, nan=0.5), 0.0)
    pairs = zip(*linear_sum_assignment(value, maximize=True), strict=True)
    return [(int(a), int(b)) for a, b in pairs if possible[a, b] and shared[a, b] != 0.0]


def shared_rows(
    pelvises: Candidates, pelvis_chosen: Int[np.ndarray, "pelvises cameras"],
    necks: Candidates, neck_chosen: Int[np.ndarray, "necks cameras"],
) -> Float[np.ndarray, "pelvises necks"]:  # fmt: skip
    """Share of the views agreeing on both centres in which the same detection gave both; NaN where there is no such."""
    view = np.arange(pelvis_chosen.shape[1])
    a = np.where(pelvis_chosen >= 0, pelvises.rows[view, pelvis_chosen].max(axis=-1), -1)
    b = np.where(neck_chosen >= 0, necks.rows[view, neck_chosen].max(axis=-1), -1)
    both = (a[:, None] >= 0) & (b[None] >= 0)
    with np.errstate(invalid="ignore"):
        return (both & (a[:, None] == b[None])).sum(axis=-1) / both.sum(axis=-1)


# ---- centres of people who are known ----


def place_centres(
    origins: Float[np.ndarray, "cameras 3"],
    directions: Float[np.ndarray, "people 17 cameras 3"],
    scores: Float[np.ndarray, "people 17 cameras"],
    joints: Float[np.ndarray, "people 17 3"],
    expected: Float[np.ndarray, "people 2 3"],
    radius: float,
    config: CentreConfig,
) -> tuple[Float[np.ndarray, "people 2 3"], Float[np.ndarray, "people 2"], Int[np.ndarray, "people 2"]]:
    """Pelvis and neck of people whose rays are known (see `gather`).

    In each view the middle of the two sides is a ray. A side that is missing, or that fits neither side's 3D joint and
    so was taken from someone else, is replaced by the projection of its 3D joint, at a lower score. The place is the
    best supported intersection of two views, refined by robust least squares over all.

    Args:
        directions: unit; zeros where a view has no ray for a joint.
        scores: 0 where a view has no ray for a joint.
        joints: where the joints are or are expected, metres; NaN where unknown.
        expected: where the centres are expected, metres; NaN where unknown.
        radius: metres within which a ray agrees.

    Returns:
        (P, 2, 3) pelvis and neck, metres, NaN where unknown; (P, 2) expected standard deviation along an axis, metres,
        inf where unknown; (P, 2) number of views that agree.
    """
    people, cameras = len(directions), len(origins)
    side_directions, side_scores = directions[:, SIDES], scores[:, SIDES]  # (P, centre, side, C, 3), (P, 2, 2, C)
    known = joints[:, SIDES]  # (P, 2, 2, 3)
    away = point_ray_distance(known[:, :, None, :, None], origins, side_directions[:, :, :, None])  # ray, then joint
    nearest = np.where(np.isnan(away), np.inf, away).min(axis=3)
    anything = np.isfinite(known).all(axis=(2, 3))[..., None, None]
    fits = (side_scores > 0) & (~anything | (nearest < radius))
    stand_in = np.where(np.isfinite(known[..., None, :]), _unit(np.nan_to_num(known)[..., None, :] - origins), 0.0)
    both, one = fits.all(axis=2), fits.any(axis=2)
    ray = np.where(one[..., None], _unit(np.where(fits[..., None], side_directions, stand_in).sum(axis=2)), 0.0)
    larger = np.where(fits, side_scores, 0.0).max(axis=2)
    score = np.where(both, side_scores.min(axis=2), config.side_weight * larger)
    ray, score = ray.reshape(2 * people, cameras, 3), score.reshape(2 * people, cameras)
    points, value = hypotheses(origins, ray, score, radius, config.min_angle)
    away = np.linalg.norm(points - expected.reshape(-1, 1, 3), axis=-1)
    value = value + config.expected_weight * agreement(away, 2.0 * radius)
    best = points[np.arange(len(points)), value.argmax(axis=1)]
    found = refine(best, origins, ray, score, radius, radius / 2, config.min_angle)
    shape = (people, 2)
    return found.points.reshape(*shape, 3), found.deviation.reshape(shape), found.inliers.sum(axis=1).reshape(shape)
