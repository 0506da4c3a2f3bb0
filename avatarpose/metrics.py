"""Metrics of 3D human pose: definitions on arrays of joints, in metres and fractions (not millimetres or percent).

Arrays lead with any batch of poses, `(..., joints, 3)`; NaN marks a joint without truth, or one that was not
predicted. A joint without truth never counts. A joint with truth that was not predicted counts with the distance
`missing` where one is given and is left out where it is None: leaving out rewards a method for staying silent, so
figures that are compared should set it.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Poses = Float[np.ndarray, "... joints 3"]

MATCH_DISTANCE = 0.5
"""Metres: a predicted person further than this from a true one, on average over joints, is not that person."""


def joint_errors(predicted: Poses, truth: Poses, missing: float | None = None) -> Float[np.ndarray, "... joints"]:
    """Distance of each joint from its truth, metres.

    Returns:
        NaN where there is no truth; `missing` (NaN if None) where there is truth and no prediction.
    """
    errors = np.linalg.norm(np.asarray(predicted, np.float64) - np.asarray(truth, np.float64), axis=-1)
    if missing is None:
        return errors
    has_truth = ~np.isnan(truth).any(axis=-1)
    return np.where(has_truth & np.isnan(errors), missing, errors)


def mpjpe(predicted: Poses, truth: Poses, missing: float | None = None) -> float:
    """Mean per joint position error, metres, in the coordinates as given: no root or other alignment.

    Ionescu et al., Human3.6M, TPAMI 2014, eq. 8, here without its root alignment and over all joints that have truth.
    NaN where nothing can be compared.
    """
    return _mean(joint_errors(predicted, truth, missing))


def procrustes_align(
    predicted: Poses,
    truth: Poses,
    reflection: bool = False,
    scale: Literal["least_squares", "norm_ratio", "none"] = "least_squares",
) -> Poses:
    """Move each predicted pose onto its truth by the best similarity transform.

    Minimises sum |s R x + t - y|^2 over the joints that both have (Umeyama, TPAMI 1991, eqs. 40 to 42).

    Args:
        predicted, truth: (..., J, 3).
        reflection: allow det R = -1, as MetaPose's evaluation does; never better than a mirrored person deserves.
        scale: "least_squares" the optimum; "norm_ratio" ratio of the centred Frobenius norms (MetaPose); "none" rigid.

    Returns:
        (..., J, 3): aligned poses; NaN for a pose with fewer than 3 joints in common with its truth.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    common, start, end, start_mean, end_mean = _centre_on_common(predicted, truth)
    u, s, vt = np.linalg.svd(np.swapaxes(end, -1, -2) @ start)
    signs = np.ones_like(s)
    if not reflection:
        signs[..., -1] = np.where(np.linalg.det(u @ vt) < 0, -1.0, 1.0)
    rotation = (u * signs[..., None, :]) @ vt
    if scale == "least_squares":
        factor = _ratio((s * signs).sum(axis=-1), (start**2).sum(axis=(-1, -2)))
    elif scale == "norm_ratio":
        factor = np.sqrt(_ratio((end**2).sum(axis=(-1, -2)), (start**2).sum(axis=(-1, -2))))
    else:
        factor = np.ones(s.shape[:-1])
    aligned = factor[..., None, None] * ((predicted - start_mean) @ np.swapaxes(rotation, -1, -2)) + end_mean
    return np.where((common.sum(axis=-1) >= 3)[..., None, None], aligned, np.nan)


def pa_mpjpe(
    predicted: Poses,
    truth: Poses,
    missing: float | None = None,
    reflection: bool = False,
    scale: Literal["least_squares", "norm_ratio", "none"] = "least_squares",
) -> float:
    """MPJPE after the best similarity transform of every pose (protocol 2, "PA" or "P" MPJPE), metres.

    A pose with fewer than 3 joints in common with its truth is missing altogether.
    """
    return mpjpe(procrustes_align(predicted, truth, reflection, scale), truth, missing)


def n_mpjpe(
    predicted: Poses,
    truth: Poses,
    missing: float | None = None,
    root: int | None = None,
    scale: Literal["least_squares", "norm_ratio"] = "least_squares",
) -> float:
    """MPJPE after the best shift and scale of every pose, without rotation, metres.

    Rhodin et al., CVPR 2018: with x, y the centred prediction and truth, s = <x, y> / <x, x>.

    Args:
        root: centre both poses on this joint; None centres on the mean of the joints they share.
        scale: "norm_ratio" is MetaPose's |y| / |x|.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    _, start, end, start_mean, end_mean = _centre_on_common(predicted, truth)
    if root is not None:
        start_mean, end_mean = predicted[..., root : root + 1, :], truth[..., root : root + 1, :]
        common = ~np.isnan(predicted - truth).any(axis=-1)[..., None]
        start = np.where(common, predicted - start_mean, 0.0)
        end = np.where(common, truth - end_mean, 0.0)
    size = (start**2).sum(axis=(-1, -2))
    if scale == "least_squares":
        factor = _ratio((start * end).sum(axis=(-1, -2)), size)
    else:
        factor = np.sqrt(_ratio((end**2).sum(axis=(-1, -2)), size))
    return mpjpe(factor[..., None, None] * (predicted - start_mean) + end_mean, truth, missing)


def pck3d(predicted: Poses, truth: Poses, threshold: float = 0.15) -> float:
    """Share of the joints with truth that are predicted within `threshold` metres (3DPCK; Mehta et al., 3DV 2017).

    A joint that was not predicted is wrong.
    """
    errors = joint_errors(predicted, truth, missing=np.inf)
    return _mean(np.where(np.isnan(errors), np.nan, errors <= threshold))


def correct_limbs(
    predicted: Poses, truth: Poses, limbs: Sequence[tuple[int, int]], alpha: float = 0.5
) -> Float[np.ndarray, "... limbs"]:
    """Which limbs are right: mean distance of the two ends from truth <= alpha times the true length of the limb.

    The 3D percentage of correct parts (Burenius et al., CVPR 2013; Belagiannis et al., CVPR 2014); its mean is PCP3D.

    Returns:
        1 right, 0 wrong (an end not predicted is wrong), NaN where an end has no truth.
    """
    ends = np.asarray(limbs)
    errors = joint_errors(predicted, truth, missing=np.inf)
    length = np.linalg.norm(truth[..., ends[:, 0], :] - truth[..., ends[:, 1], :], axis=-1)
    mean = (errors[..., ends[:, 0]] + errors[..., ends[:, 1]]) / 2
    return np.where(np.isnan(length), np.nan, mean <= alpha * length)


def pcp3d(predicted: Poses, truth: Poses, limbs: Sequence[tuple[int, int]], alpha: float = 0.5) -> float:
    """Share of limbs that are right, see `correct_limbs`."""
    return _mean(correct_limbs(predicted, truth, limbs, alpha))


def nearest_truth(
    predicted: Float[np.ndarray, "people joints 3"],
    truth: Float[np.ndarray, "truths joints 3"],
    missing: float | None = None,
) -> tuple[Int[np.ndarray, " people"], Float[np.ndarray, " people"]]:
    """For each predicted person of one frame the nearest true one by mean joint error (VoxelPose, AvatarPose).

    Several predictions may choose the same true person: `average_precision` counts one of them as right.

    Returns:
        Index of the true person and the mean error in metres; -1 and inf where no joint can be compared.
    """
    if len(truth) == 0 or len(predicted) == 0:
        return np.full(len(predicted), -1), np.full(len(predicted), np.inf)
    errors = joint_errors(predicted[:, None], truth[None], missing)
    counts = (~np.isnan(errors)).sum(axis=-1)
    mean = np.where(counts > 0, np.nansum(errors, axis=-1) / np.maximum(counts, 1), np.inf)
    nearest = mean.argmin(axis=1)
    distance = mean[np.arange(len(predicted)), nearest]
    return np.where(np.isinf(distance), -1, nearest), distance


def average_precision(
    scores: Float[np.ndarray, " detections"],
    errors: Float[np.ndarray, " detections"],
    truths: Int[np.ndarray, " detections"],
    number_of_truths: int,
    threshold: float,
) -> float:
    """Average precision of detected people at a distance, AP_K.

    Detections are taken by falling score. One is right if its error is below the threshold and no better-scored one
    took the same true person. Precision is made monotone and integrated over recall at all points (PASCAL VOC 2010), as
    VoxelPose (Tu et al., ECCV 2020) does. Detections of equal score enter together, so their order cannot matter.

    The score must be one the method knew without the truth. AvatarPose's script ranks detections by their own error,
    which places every wrong one last and is optimistic: pass `-errors` to reproduce it.

    Args:
        scores: confidence of each detection, over all frames.
        errors: metres, mean joint error of each against the true person it is matched with.
        truths: index of that person-frame, unique over frames; negative where it is matched with nobody.
        number_of_truths: true person-frames in all.
        threshold: metres.

    Returns:
        0 to 1; NaN if there is no truth.
    """
    if number_of_truths == 0:
        return float("nan")
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ranked, near, who = np.asarray(scores)[order], np.asarray(errors)[order] < threshold, np.asarray(truths)[order]
    right = near & (who >= 0)
    first = np.zeros_like(right)
    candidates = np.flatnonzero(right)
    first[candidates[np.unique(who[candidates], return_index=True)[1]]] = True
    last_of_its_score = np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)]
    found = np.cumsum(first)[last_of_its_score]
    precision = found / (np.flatnonzero(last_of_its_score) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(found, prepend=0) / number_of_truths * envelope))


def recall(
    errors: Float[np.ndarray, " detections"],
    truths: Int[np.ndarray, " detections"],
    number_of_truths: int,
    threshold: float = MATCH_DISTANCE,
) -> float:
    """Share of true person-frames that some detection is matched with at less than `threshold` metres.

    NaN if there is no truth. Arguments as in `average_precision`.
    """
    if number_of_truths == 0:
        return float("nan")
    right: Bool[np.ndarray, " detections"] = (np.asarray(errors) < threshold) & (np.asarray(truths) >= 0)
    return len(np.unique(np.asarray(truths)[right])) / number_of_truths


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, 1 where below is 0: a pose shrunk to a point has no scale."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 1.0)


def _centre_on_common(
    predicted: Poses, truth: Poses
) -> tuple[Bool[np.ndarray, "... joints"], Poses, Poses, Poses, Poses]:
    """Both poses less their means over the joints both have (0 at the others), and the means (..., 1, 3)."""
    common = ~np.isnan(predicted - truth).any(axis=-1)
    chosen = common[..., None]
    count = np.maximum(common.sum(axis=-1), 1)[..., None, None]
    start_mean = np.where(chosen, predicted, 0.0).sum(axis=-2, keepdims=True) / count
    end_mean = np.where(chosen, truth, 0.0).sum(axis=-2, keepdims=True) / count
    start = np.where(chosen, predicted - start_mean, 0.0)
    end = np.where(chosen, truth - end_mean, 0.0)
    return common, start, end, start_mean, end_mean
