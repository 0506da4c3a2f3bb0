"""How well detections of two views agree, measured without 3D: distances from epipolar lines, in sizes of the person.

A joint at x_a in view a lies in view b on the line F_ab x_a (Hartley and Zisserman, Multiple View Geometry, ch. 9). Its
distance from what view b detected, divided by the size of the detected person, needs no units, no association and no
third view, and one number tells near cameras and far ones alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment

from avatarpose.cameras import Cameras

REACH = 0.10
"""Share of the person's size: joints farther than this from their epipolar line do not agree at all."""
LEAST_JOINTS = 5
"""Fewest joints that two detections must have in common to be compared."""
_PARTNERS = 6
"""With many cameras, each is compared with so many others, those whose directions are nearest to a right angle."""


@dataclass(frozen=True)
class Views:
    """The detections of all cameras as an ideal lens would have seen them.

    Attributes:
        cameras: C cameras.
        pixels: (C, F, D, 17, 2) undistorted, NaN where a joint was not detected.
    """

    cameras: Cameras
    pixels: Float[np.ndarray, "cameras frames rows 17 2"]

    @classmethod
    def of(
        cls, cameras: Cameras, keypoints: Float[np.ndarray, "cameras frames rows 17 3"], min_score: float = 0.1
    ) -> Views:
        """From detections x, y, score in pixels of the images as they are; NaN and low scores are left out."""
        seen = np.isfinite(keypoints).all(-1) & (np.nan_to_num(keypoints[..., 2]) >= min_score)
        pixels = np.where(seen[..., None], keypoints[..., :2], 0.0).astype(np.float64)
        if pixels.shape[2] == 0:
            pixels, seen = np.zeros((*pixels.shape[:2], 1, 17, 2)), np.zeros((*pixels.shape[:2], 1, 17), bool)
        ideal = cameras.to(dtype=torch.float64).undistort_pixels(torch.from_numpy(pixels)).numpy()
        return cls(cameras, np.where(seen[..., None], ideal, np.nan))

    @cached_property
    def sizes(self) -> Float[np.ndarray, "cameras frames rows"]:
        """Longer side of the box around each detection's joints, pixels; NaN where there is none."""
        low = np.where(np.isnan(self.pixels), np.inf, self.pixels).min(3)
        high = np.where(np.isnan(self.pixels), -np.inf, self.pixels).max(3)
        side = (high - low).max(-1)
        side = np.where(np.isfinite(side) & (side > 1), side, np.nan)
        # A person of whom little is seen is still as large as the others in this view.
        usual = np.array([np.nanmedian(s) if np.isfinite(s).any() else np.nan for s in side])
        return np.maximum(side, 0.5 * usual[:, None, None])

    @cached_property
    def counts(self) -> Int[np.ndarray, " cameras"]:
        """Frames in which each camera has a detection of `LEAST_JOINTS` joints."""
        return (np.isfinite(self.pixels[..., 0]).sum(-1) >= LEAST_JOINTS).any(-1).sum(-1)

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs of cameras to compare: those whose epipoles leave lines to measure from; all where there are few."""
        cameras = self.cameras
        axes = cameras.R[:, 2].double().numpy()
        cosines = np.abs(axes @ axes.T)
        centres = cameras.centres.double().numpy()
        apart = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        near = apart < 1e-3 * max(float(apart.max()), 1e-9)  # one behind the other: no baseline, no epipolar line
        count = len(cameras)
        every = [(a, b) for a, b in combinations(range(count), 2) if not near[a, b]]
        if count <= _PARTNERS + 2:
            return every
        cosines = np.where(near | np.eye(count, dtype=bool), 2.0, cosines)
        best = {tuple(sorted((a, int(b)))) for a in range(count) for b in np.argsort(cosines[a])[:_PARTNERS]}
        return [pair for pair in every if pair in best]

    def fundamental(self, a: int, b: int) -> Float[np.ndarray, "3 3"]:
        """F with x_b^T F x_a = 0 for ideal homogeneous pixels."""
        cameras = self.cameras
        K, R, t = (getattr(cameras, key).double().numpy() for key in ("K", "R", "t"))
        R_b_a = R[b] @ R[a].T
        t_b_a = t[b] - R_b_a @ t[a]
        cross = np.array([[0, -t_b_a[2], t_b_a[1]], [t_b_a[2], 0, -t_b_a[0]], [-t_b_a[1], t_b_a[0], 0]])
        return np.linalg.inv(K[b]).T @ cross @ R_b_a @ np.linalg.inv(K[a])

    def distances(
        self, a: int, b: int, frames_a: Int[np.ndarray, " n"], frames_b: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, "n rows rows 17"], Float[np.ndarray, "n rows rows 17"]]:
        """Every detection of view a against every one of view b, joint by joint.

        Returns:
            Distance from the epipolar line in pixels of view a and of view b; NaN where either joint is missing.
        """
        F = self.fundamental(a, b)
        x_a, x_b = (homogeneous(self.pixels[c, frames]) for c, frames in ((a, frames_a), (b, frames_b)))
        lines_b, lines_a = x_a @ F.T, x_b @ F  # (n, D, 17, 3)
        value = np.abs(np.einsum("nijk,nljk->nilj", lines_b, x_b))
        in_b = value / np.linalg.norm(lines_b[..., :2], axis=-1)[:, :, None]
        in_a = value / np.linalg.norm(lines_a[..., :2], axis=-1)[:, None]
        return in_a, in_b

    def match(
        self, a: int, b: int, frames_a: Int[np.ndarray, " n"], frames_b: Int[np.ndarray, " n"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], list[tuple[int, int, int]]]:
        """Pairs the people of two views, frame by frame, so that their joints agree most.

        A joint agrees by 1 - (d / REACH)^2, not below 0, with d the mean of its distances in the two views as shares
        of the person's size.

        Returns:
            Sum of the agreements of the paired detections and number of their common joints, per frame; the pairs as
            (index into the frames, row of a, row of b).
        """
        in_a, in_b = self.distances(a, b, frames_a, frames_b)
        sizes_a, sizes_b = self.sizes[a, frames_a], self.sizes[b, frames_b]
        share = 0.5 * (in_a / sizes_a[:, :, None, None] + in_b / sizes_b[:, None, :, None])
        common = np.isfinite(share)
        gain = np.where(common, np.maximum(1 - (np.where(common, share, np.inf) / REACH) ** 2, 0), 0).sum(-1)
        number = common.sum(-1)
        comparable = number >= LEAST_JOINTS
        gain = np.where(comparable, gain, -1.0)
        total, weight, pairs = np.zeros(len(gain)), np.zeros(len(gain)), []
        for n in np.flatnonzero(comparable.any((1, 2))):
            rows, columns = linear_sum_assignment(gain[n], maximize=True)
            for i, j in zip(rows, columns, strict=True):
                if comparable[n, i, j]:
                    total[n] += gain[n, i, j]
                    weight[n] += number[n, i, j]
                    pairs.append((int(n), int(i), int(j)))
        return total, weight, pairs


def homogeneous(pixels: Float[np.ndarray, "*batch 2"]) -> Float[np.ndarray, "*batch 3"]:
    """With a 1 as third coordinate."""
    return np.concatenate((pixels, np.ones_like(pixels[..., :1])), -1)
