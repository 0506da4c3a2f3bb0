"""Robust triangulation of many joints at once: hypotheses from pairs of views, then reweighted least squares."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float

from avatarpose.estimate.affinity import agreement, biweight, closest_points, nearness, point_ray_distance

_HYPOTHESIS_VIEWS = 12  # of many views, only the most confident form pairs: 66 pairs in place of 378 with 28 views
_CHUNK = 2_000_000  # (joints x pairs x views) handled at once, to bound the memory


def solve(
    origins: Float[np.ndarray, "cameras 3"],
    directions: Float[np.ndarray, "joints cameras 3"],
    weights: Float[np.ndarray, "joints cameras"],
) -> tuple[Float[np.ndarray, "joints 3"], Float[np.ndarray, "joints 3 3"]]:
    """Points with the least weighted sum of squared distances to their rays, and the normal matrices.

    Minimises sum_c w_c |(I - d_c d_c^T)(x - o_c)|^2, whose normal matrix is sum_c w_c (I - d_c d_c^T). With w_c divided
    by the squared depth the residual is the sine of the reprojection angle.

    Returns:
        (N, 3) metres, NaN where fewer than two weights are positive or the rays are parallel; (N, 3, 3).
    """
    across = np.eye(3) - directions[..., :, None] * directions[..., None, :]
    across = weights[..., None, None] * across
    normal = across.sum(axis=-3)
    right = np.einsum("ncij,cj->ni", across, origins)
    total = weights.sum(axis=-1)
    eigenvalues = np.linalg.eigvalsh(normal)
    known = ((weights > 0).sum(axis=-1) >= 2) & (eigenvalues[:, 0] > 1e-6 * np.maximum(total, 1e-12))
    points = np.full((len(normal), 3), np.nan)
    points[known] = np.linalg.solve(normal[known], right[known][..., None])[..., 0]
    return points, normal


def hypotheses(
    origins: Float[np.ndarray, "cameras 3"],
    directions: Float[np.ndarray, "joints cameras 3"],
    scores: Float[np.ndarray, "joints cameras"],
    radius: float,
    min_angle: float,
    count: int = 4,
) -> tuple[Float[np.ndarray, "joints count 3"], Float[np.ndarray, "joints count"]]:
    """The places where two views put each joint, with the most support by all views, at least `radius` apart.

    Exhaustive RANSAC over pairs of views with the truncated quadratic score of MSAC (Torr and Zisserman, 2000).

    Args:
        directions: unit, zeros where a view did not see the joint.
        scores: 0 where a view did not see the joint.

    Returns:
        (N, count, 3) metres, best first, NaN where there are fewer; (N, count) support: the sum of scores of agreeing
        views, -inf where there are fewer.
    """
    found = np.full((len(directions), count, 3), np.nan)
    value = np.full((len(directions), count), -np.inf)
    views = min(len(origins), _HYPOTHESIS_VIEWS)
    if views < 2:
        return found, value
    pairs = np.array(list(combinations(range(views), 2)))
    step = max(1, _CHUNK // (len(pairs) * len(origins)))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :views]
    for start in range(0, len(directions), step):
        part = slice(start, start + step)
        rows = np.arange(len(order[part]))[:, None]
        first, second = order[part][:, pairs[:, 0]], order[part][:, pairs[:, 1]]
        d, s = directions[part], scores[part]
        points, _ = closest_points(origins[first], d[rows, first], origins[second], d[rows, second], min_angle)
        distance = point_ray_distance(points[:, :, None], origins, d[:, None])
        gain = np.maximum(agreement(distance, radius), 0.0)
        total = (s[:, None] * gain).sum(axis=-1)
        # A pair must agree with itself, or a point between two unrelated rays would count by other views' accident.
        own = (distance < radius) & (s[:, None] > 0)
        total = np.where(np.isnan(points[..., 0]) | (own.sum(axis=-1) < 2), -np.inf, total)
        for k in range(count):
            best = total.argmax(axis=1)
            each = np.arange(len(best))
            gained = total[each, best]
            some = np.isfinite(gained)
            found[part][some, k] = points[each, best][some]
            value[part][some, k] = gained[some]
            apart = np.linalg.norm(points - points[each, best][:, None], axis=-1)
            total = np.where(apart < radius, -np.inf, total)
    return found, value


@dataclass(frozen=True)
class Triangulated:
    """N joints.

    Attributes:
        points: (N, 3) metres, NaN where dropped.
        inliers: (N, C) views used.
        residual: (N,) root mean square distance of the used rays, metres; NaN where dropped.
        deviation: (N,) expected standard deviation of the position along an axis, metres; inf where dropped.
    """

    points: Float[np.ndarray, "joints 3"]
    inliers: Bool[np.ndarray, "joints cameras"]
    residual: Float[np.ndarray, " joints"]
    deviation: Float[np.ndarray, " joints"]


def refine(
    points: Float[np.ndarray, "joints 3"],
    origins: Float[np.ndarray, "cameras 3"],
    directions: Float[np.ndarray, "joints cameras 3"],
    scores: Float[np.ndarray, "joints cameras"],
    radius: float,
    pair_radius: float,
    min_angle: float,
    iterations: int = 8,
) -> Triangulated:
    """Iteratively reweighted least squares from a start, outliers dropped per joint.

    The weight of a view is its squared score over its depth, times Tukey's biweight of the ray's distance over
    `radius`, whose outliers have no weight at all. Over the depth, because that lies between noise that
    is constant in pixels (over its square: pure reprojection) and noise that grows with the person in the image (not
    at all); real and imitated detections have each been seen to be either.

    Args:
        points: start, NaN for joints to be left out.
        radius: metres; rays farther away are outliers.
        pair_radius: metres; a joint left with two views is dropped if one of their rays is farther away than this.
        min_angle: degrees; a joint whose rays all lie within this angle is dropped.
    """
    points = points.copy()
    normal = np.zeros((len(points), 3, 3))
    for _ in range(iterations):
        distance = point_ray_distance(points[:, None], origins, directions)
        depth = np.linalg.norm(points[:, None] - origins, axis=-1)
        robust = biweight(distance, radius)
        used = (scores > 0) & (robust > 0)
        weights = np.where(used, scores**2 * robust, 0.0) * nearness(depth, used)
        points, normal = solve(origins, directions, weights)
    distance = point_ray_distance(points[:, None], origins, directions)
    inliers = (scores > 0) & (distance < radius)
    number = inliers.sum(axis=1)
    worst = np.where(inliers, distance, 0.0).max(axis=1, initial=0.0)
    kept = (number >= 3) | ((number == 2) & (worst < pair_radius))
    cosines = np.abs(np.einsum("nci,nki->nck", directions, directions))
    both = inliers[:, :, None] & inliers[:, None, :]
    kept &= np.where(both, cosines, 1.0).min(axis=(1, 2), initial=1.0) < np.cos(np.radians(min_angle))
    inliers &= kept[:, None]
    squares = np.where(inliers, distance, 0.0) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = np.where(kept, np.sqrt(squares.sum(axis=1) / number), np.nan)
    return Triangulated(
        np.where(kept[:, None], points, np.nan), inliers, residual, _deviation(normal, squares, number, kept)
    )


_NOISE = 0.035  # metres: a detected joint's usual distance from the true ray, and how many observations that is worth
_NOISE_COUNT = 4.0


def _deviation(normal: np.ndarray, squares: np.ndarray, number: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Standard deviation from the normal matrix and the noise level that the residuals show, shrunk to the usual one.

    Two views always agree well (three unknowns, four equations), so the residuals of few views say little alone.
    """
    deviation = np.full(len(normal), np.inf)
    freedom = np.maximum(2 * number - 3, 0)
    variance = (_NOISE_COUNT * _NOISE**2 + squares.sum(axis=1)) / (_NOISE_COUNT + freedom)
    spread = np.trace(np.linalg.inv(normal[kept]), axis1=1, axis2=2) / 3.0
    deviation[kept] = np.sqrt(variance[kept] * spread)
    return deviation
