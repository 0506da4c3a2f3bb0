"""The baseline of known identities: plain triangulation, told by the truth which detection is whom.

    python -m benchmarks.known_identity ../shared/data/duo_a

In every view each detection is given to the true person whose projected joints it lies nearest, and joints that lie far
from their own truth (taken from the other person) are left out; then every joint is triangulated from all views that
have it, each weighted by its score, without smoothing. So the truth says whose each detected joint is, and nothing
else; what remains is the noise of the detections. A second row keeps the strayed joints: identities known per person,
not per joint. The figures are those of `avatarpose.evaluate`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from scipy.optimize import linear_sum_assignment

from avatarpose.cameras import Cameras
from avatarpose.evaluate import (
    Truth,
    compare_people,
    constant_part,
    load_truth,
    print_metrics,
    shelf_pcp,
    summarise,
)
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17, LIMB_JOINTS

LEAST_JOINTS = 3
"""A detection with fewer joints in common with a true person is not given to it."""


def assign_detections(
    detections: Float[np.ndarray, "cameras frames detections 17 3"],
    projected: Float[np.ndarray, "cameras people frames 17 2"],
    threshold: float,
) -> Float[np.ndarray, "cameras people frames 17 3"]:
    """Give the detections of every view to the true people, one to one, by median distance to the projected joints.

    Args:
        detections: x, y in pixels and score; NaN where absent.
        projected: true joints in pixels; NaN where they have no truth or are behind the camera.
        threshold: pixels; a detection further away is given to nobody.

    Returns:
        The detection of each true person, NaN where there is none.
    """
    cameras, people, frames = projected.shape[:3]
    taken = np.full((cameras, people, frames, 17, 3), np.nan)
    for c in range(cameras):
        for f in range(frames):
            offsets = detections[c, f, None, :, :, :2] - projected[c, :, f, None]  # (people, detections, 17, 2)
            distances = np.linalg.norm(offsets, axis=-1)
            enough = (~np.isnan(distances)).sum(axis=-1) >= LEAST_JOINTS
            median = np.nanmedian(np.where(enough[..., None], distances, np.inf), axis=-1)
            costs = np.minimum(median, threshold)
            for p, d in zip(*linear_sum_assignment(costs), strict=True):
                if costs[p, d] < threshold:
                    taken[c, p, f] = detections[c, f, d]
    return taken


def triangulate(
    points: Float[np.ndarray, "cameras *batch 2"], weights: Float[np.ndarray, "cameras *batch"], cameras: Cameras
) -> Float[np.ndarray, "*batch 3"]:
    """Linear triangulation from all views (Hartley and Zisserman, Multiple View Geometry, 12.2).

    Minimises sum over views of w^2 ((x p3 - p1) X)^2 + w^2 ((y p3 - p2) X)^2 over unit homogeneous X.

    Args:
        points: pixels of the images as they are; NaN where a view has nothing.
        weights: of each observation, 0 for none.

    Returns:
        Metres, world; NaN where fewer than two views see the point.
    """
    inverse = torch.linalg.inv(cameras.K)
    ideal = cameras.undistort_pixels(torch.as_tensor(np.nan_to_num(points), dtype=cameras.K.dtype))
    ones = torch.ones_like(ideal[..., :1])
    normalised = torch.einsum("cij,c...j->c...i", inverse, torch.cat([ideal, ones], dim=-1)).numpy()
    projection = torch.cat([cameras.R, cameras.t[..., None]], dim=-1).numpy()
    projection = projection.reshape(len(cameras), *(1,) * (points.ndim - 2), 3, 4)
    seen = ~np.isnan(points).any(axis=-1) & (np.nan_to_num(weights) > 0)
    weight = np.where(seen, weights, 0.0)[..., None]
    rows = [weight * (normalised[..., i : i + 1] * projection[..., 2, :] - projection[..., i, :]) for i in (0, 1)]
    system = np.moveaxis(np.concatenate(rows, axis=0), 0, -2)  # (*batch, 2 cameras, 4)
    solution = np.linalg.svd(system)[2][..., -1, :]
    found = solution[..., :3] / solution[..., 3:]
    return np.where((seen.sum(axis=0) >= 2)[..., None], found, np.nan)


def known_identity_triangulation(
    sequence: Sequence, truth: Truth, threshold: float = 40.0, drop_strays: bool = True
) -> Float[np.ndarray, "people frames 17 3"]:
    """COCO-17 joints of the true people by plain triangulation of their own detections, in the sequence's frames.

    Args:
        sequence: with 2D keypoints.
        truth: says whose each detection is, and nothing else.
        threshold: pixels, see `assign_detections`.
        drop_strays: leave out single joints further than the threshold from their truth.

    Returns:
        (P, F, 17, 3) metres, world, for frames of the sequence; NaN where fewer than two views have the joint.
    """
    true_joints = truth_in_frames(truth.keypoints, truth, sequence)
    pixels, depth = sequence.cameras.project(torch.as_tensor(true_joints, dtype=sequence.cameras.K.dtype))
    projected = np.where((depth > 0)[..., None].numpy(), pixels.numpy(), np.nan)
    taken = assign_detections(sequence.keypoints2d.astype(np.float64), projected, threshold)
    if drop_strays:
        strayed = np.linalg.norm(taken[..., :2] - projected, axis=-1) > threshold
        taken[strayed] = np.nan
    return triangulate(taken[..., :2], taken[..., 2], sequence.cameras)


def truth_in_frames(values: np.ndarray, truth: Truth, sequence: Sequence) -> np.ndarray:
    """People-first values of the truth in the sequence's frames, NaN in those without truth."""
    chosen = np.full((values.shape[0], len(sequence.frames), *values.shape[2:]), np.nan)
    _, here, there = np.intersect1d(sequence.frames, truth.frames, return_indices=True)
    chosen[:, here] = values[:, there]
    return chosen


@dataclass
class Settings:
    """Known-identity triangulation of a sequence that has ground_truth.npz."""

    sequence: tyro.conf.Positional[Path]
    """The sequence folder."""
    threshold: float = 40.0
    """Pixels: a detection further from every true person belongs to nobody."""


def main(settings: Settings) -> None:
    sequence = Sequence.open(settings.sequence)
    truth = load_truth(sequence.folder)
    limb = COCO17.indices(LIMB_JOINTS)
    true_joints = truth_in_frames(truth.keypoints, truth, sequence)[:, :, limb]
    rows, parts, notes = {}, {}, []
    for row, drop_strays in (("joints of others left out", True), ("detections as they are", False)):
        keypoints = known_identity_triangulation(sequence, truth, settings.threshold, drop_strays)
        scores = np.ones(keypoints.shape[:2])
        comparison = compare_people(keypoints[:, :, limb], scores, true_joints, sequence.frames, complete=False)
        rows[row], parts[row] = summarise(comparison), constant_part(comparison)
        errors = 1000 * np.linalg.norm(comparison.predicted - comparison.truth, axis=-1)
        lost = np.isnan(errors[~np.isnan(true_joints).any(axis=-1)]).mean()
        note = f"{row}: median {np.nanmedian(errors):.1f} mm, {100 * lost:.1f} % of the joints not in two views"
        if truth.shelf15 is not None:
            pcp = shelf_pcp(keypoints, truth_in_frames(truth.shelf15, truth, sequence), sequence.up_vector)
            note += "; Shelf PCP %: " + ", ".join(f"{name} {value:.1f}" for name, value in pcp.items())
        notes.append(note)
    console = Console(width=160)
    print_metrics(rows, parts, console, f"Known-identity triangulation, {sequence.name}")
    for note in notes:
        console.print(note)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
