"""How well 2D detections agree with each other and with 3D joints, as distances in metres between rays and points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from avatarpose.cameras import Cameras

MIRRORED = np.array([0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15])
"""The COCO joint of the other side of the body."""

LIMBS = np.array([[5, 7], [6, 8], [7, 9], [8, 10], [11, 13], [12, 14], [13, 15], [14, 16], [5, 11], [6, 12]])
"""Ends of arms, legs and the sides of the trunk, COCO: the bones whose lengths tell people apart."""


@dataclass(frozen=True)
class Rays:
    """Detections as rays of the world, free of intrinsics and lens distortion.

    Attributes:
        origins: (C, 3) camera centres, metres.
        directions: (C, F, D, 17, 3) unit, away from the camera; zeros where a joint was not detected.
        scores: (C, F, D, 17) of the detector, at most 1; 0 where a joint was not detected.
    """

    origins: Float[np.ndarray, "cameras 3"]
    directions: Float[np.ndarray, "cameras frames rows 17 3"]
    scores: Float[np.ndarray, "cameras frames rows 17"]

    @classmethod
    def from_keypoints(
        cls, cameras: Cameras, keypoints: Float[np.ndarray, "cameras frames rows 17 3"], min_score: float = 0.0
    ) -> Rays:
        """Casts the detected joints (x, y in pixels of the distorted image, score; NaN where absent)."""
        if keypoints.shape[2] == 0:  # nobody detected anywhere: one row of nothing keeps indexing simple
            keypoints = np.full((*keypoints.shape[:2], 1, 17, 3), np.nan)
        scores = np.asarray(keypoints[..., 2], np.float64)
        seen = np.isfinite(keypoints).all(axis=-1) & (np.nan_to_num(scores) >= max(min_score, 1e-6))
        pixels = np.where(seen[..., None], keypoints[..., :2], 0.0).astype(np.float64)
        _, directions = cameras.to(dtype=torch.float64, device="cpu").rays(torch.from_numpy(pixels))
        directions = directions.detach().numpy()
        seen &= np.isfinite(directions).all(axis=-1)
        return cls(
            cameras.centres.detach().cpu().numpy().astype(np.float64),
            np.where(seen[..., None], directions, 0.0),
            np.where(seen, scores, 0.0).clip(max=1.0),
        )

    def frame(self, index: int) -> FrameRays:
        """The rays of one frame."""
        return FrameRays(self.origins, self.directions[:, index], self.scores[:, index])


@dataclass(frozen=True)
class FrameRays:
    """As `Rays`, in one frame: directions (C, D, 17, 3), scores (C, D, 17)."""

    origins: Float[np.ndarray, "cameras 3"]
    directions: Float[np.ndarray, "cameras rows 17 3"]
    scores: Float[np.ndarray, "cameras rows 17"]


def point_ray_distance(
    points: Float[np.ndarray, "*batch 3"],
    origins: Float[np.ndarray, "*#batch 3"],
    directions: Float[np.ndarray, "*#batch 3"],
) -> Float[np.ndarray, " *batch"]:
    """Distance of points from rays, metres; inf for points behind the camera. `directions` are unit vectors.

    |v - (v.d) d| with v = point - origin.
    """
    v = points - origins
    along = (v * directions).sum(axis=-1)
    across = np.linalg.norm(v - along[..., None] * directions, axis=-1)
    return np.where(along > 0, across, np.where(np.isnan(along), np.nan, np.inf))


def agreement(distance: Float[np.ndarray, " *batch"], radius: float) -> Float[np.ndarray, " *batch"]:
    """1 at distance 0, falling as 1 - (d / radius)^2 to 0 at the radius and to -1/2 beyond; 0 where unknown.

    A truncated quadratic: the log-likelihood ratio of a Gaussian against a uniform outlier, up to scale. Its floor is
    above -1 because a row of a detection often holds joints taken from someone else.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.maximum(1.0 - (distance / radius) ** 2, -0.5)
    return np.where(np.isnan(distance), 0.0, value)


def biweight(distance: Float[np.ndarray, " *batch"], radius: float) -> Float[np.ndarray, " *batch"]:
    """Tukey's biweight of a residual (Beaton and Tukey, 1974): no weight at the radius, beyond, or where unknown."""
    return np.maximum(agreement(distance, radius), 0.0) ** 2


def support(
    points: Float[np.ndarray, "people 17 3"], rays: FrameRays, radius: float | Float[np.ndarray, " people"]
) -> Float[np.ndarray, "people cameras rows"]:
    """Sum over joints of score times `agreement` between each person's 3D joints and each detection.

    Args:
        points: metres, NaN where unknown (such joints speak neither for nor against).
        radius: metres, one for all or one per person.
    """
    total = np.zeros((len(points), *rays.scores.shape[:2]))
    radius = np.broadcast_to(np.asarray(radius, float), (len(points),))
    for camera, origin in enumerate(rays.origins):  # one camera at a time bounds the memory with 28 of them
        distance = point_ray_distance(points[:, None], origin, rays.directions[camera][None])
        total[:, camera] = (rays.scores[camera] * agreement(distance, radius[:, None, None])).sum(axis=-1)
    return total


def claim(
    points: Float[np.ndarray, "people 17 3"], rays: FrameRays, radius: float | Float[np.ndarray, " people"]
) -> Float[np.ndarray, "people cameras rows"]:
    """`support`, or half of what it would be were the detection's two sides swapped, if that is more.

    A detector that takes a back for a front has still found the person, and its detection must not look for another.
    """
    return np.maximum(support(points, rays, radius), 0.5 * support(points[:, MIRRORED], rays, radius))


def closest_points(
    origin_a: Float[np.ndarray, "*#batch 3"],
    direction_a: Float[np.ndarray, "*#batch 3"],
    origin_b: Float[np.ndarray, "*#batch 3"],
    direction_b: Float[np.ndarray, "*#batch 3"],
    min_angle: float,
) -> tuple[Float[np.ndarray, "*batch 3"], Float[np.ndarray, " *batch"]]:
    """Midpoint of the shortest segment between two rays, and half that segment's length, metres.

    Hartley and Sturm, "Triangulation" (1997), the midpoint method. The half length is the distance of the midpoint from
    either ray: the epipolar error, in metres. NaN where a ray is absent (zero direction), where the rays meet at less
    than `min_angle` degrees (or that close to opposite), and where they meet behind a camera.
    """
    between = origin_b - origin_a
    cosine = (direction_a * direction_b).sum(axis=-1)
    sine2 = 1.0 - cosine**2
    a, b = (between * direction_a).sum(axis=-1), (between * direction_b).sum(axis=-1)
    present = (direction_a != 0).any(axis=-1) & (direction_b != 0).any(axis=-1)
    usable: Bool[np.ndarray, " *batch"] = present & (sine2 > np.sin(np.radians(min_angle)) ** 2)
    safe = np.where(usable, sine2, 1.0)
    along_a, along_b = (a - cosine * b) / safe, (cosine * a - b) / safe
    usable &= (along_a > 0) & (along_b > 0)
    on_a = origin_a + along_a[..., None] * direction_a
    on_b = origin_b + along_b[..., None] * direction_b
    middle = np.where(usable[..., None], (on_a + on_b) / 2, np.nan)
    gap = np.where(usable, np.linalg.norm(on_a - on_b, axis=-1) / 2, np.nan)
    return middle, gap


def nearness(
    depth: Float[np.ndarray, "*batch cameras"], used: Bool[np.ndarray, "*batch cameras"]
) -> Float[np.ndarray, "*batch cameras"]:
    """Mean distance of the used cameras over each one's, 0 for those not used: a weight that is one on average."""
    known = np.where(used, depth, 0.0)
    mean = known.sum(axis=-1, keepdims=True) / np.maximum(used.sum(axis=-1, keepdims=True), 1)
    return np.where(used, mean / np.where(used, depth, 1.0), 0.0)
