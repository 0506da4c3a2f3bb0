"""Shape from limb lengths shared over the sequence (EasyMocap's first stage, here in closed form)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.results import Joints3D

LIMBS = (
    (5, 6), (11, 12), (5, 11), (6, 12), (5, 7), (6, 8), (7, 9), (8, 10), (11, 13), (12, 14), (13, 15), (14, 16),
)  # fmt: skip
"""COCO keypoint pairs whose distance hardly depends on the pose: shoulders, hips, sides, arms and legs."""
LOOSE_LIMBS = 4
"""The first limbs span several joints of the body, so their length says less about the shape."""
LOOSENESS = 2.0
_STEPS = 10


def limb_lengths(joints: Joints3D) -> tuple[Float[np.ndarray, "people limbs"], Float[np.ndarray, "people limbs"]]:
    """Median length of each limb over the frames, metres, and in how many frames it was seen.

    NaN, and 0 frames, where both ends are never known together. The two sides of the body are averaged when both are
    known: they are one length in the shape space, and the median of few noisy frames is better shared.
    """
    keypoints = np.where(joints.valid[..., None, None], joints.keypoints.astype(np.float64), np.nan)
    ends = np.array(LIMBS)
    lengths = np.linalg.norm(keypoints[:, :, ends[:, 0]] - keypoints[:, :, ends[:, 1]], axis=-1)  # (P, F, L)
    seen = np.isfinite(lengths).sum(axis=1)
    medians = np.full(seen.shape, np.nan)
    for person, limb in np.argwhere(seen > 0):
        medians[person, limb] = np.nanmedian(lengths[person, :, limb])
    return medians, seen


def fit_shape(
    body: BodyModel, joints: Joints3D, limb_spread: float, shape_prior: float = 1.0
) -> Float[Tensor, "people 10"]:
    """Betas whose limb lengths meet the observed ones, with unit Gaussian prior on betas.

    Minimises sum_l ((|d_l(betas)| - length_l) / spread_l)^2 + shape_prior |betas|^2 by Gauss-Newton, d_l being the
    difference of two keypoints of the body at rest. A limb seen in few frames has a wider spread.

    Args:
        body: the body model.
        joints: initial 3D joints; limbs never seen are left to the prior.
        limb_spread: metres.
        shape_prior: weight of |betas|^2.

    Returns:
        One set of betas per person, float64.
    """
    medians, seen = limb_lengths(joints)
    ends = torch.tensor(LIMBS)
    wide = torch.ones(len(LIMBS), dtype=torch.float64)
    wide[:LOOSE_LIMBS] = LOOSENESS
    body = body.to(dtype=torch.float64, device="cpu")
    zero_pose, zero_trans = torch.zeros(72, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)

    def bones(betas: Tensor) -> Tensor:
        keypoints = body.keypoints(betas, zero_pose, zero_trans)
        return keypoints[ends[:, 0]] - keypoints[ends[:, 1]]

    directions = torch.autograd.functional.jacobian(bones, torch.zeros(10, dtype=torch.float64))  # affine in betas
    template = bones(torch.zeros(10, dtype=torch.float64))
    result = torch.zeros(len(joints.people), 10, dtype=torch.float64)
    for person in range(len(result)):
        known = torch.as_tensor(seen[person] > 0)
        target = torch.as_tensor(np.nan_to_num(medians[person]))
        # The median of n noisy frames: half the spread is common to all frames, half shrinks with their number.
        count = torch.as_tensor(np.maximum(seen[person], 1), dtype=torch.float64)
        weight = torch.where(known, 1 / (limb_spread * wide * (0.5 + 0.5 / count.sqrt() * 2)), 0.0)
        betas = result[person]
        for _ in range(_STEPS):
            vectors = template + directions @ betas
            length = vectors.norm(dim=-1)
            slope = ((vectors / length[:, None])[:, None] @ directions)[:, 0] * weight[:, None]
            residual = (target - length) * weight
            normal = slope.T @ slope + shape_prior * torch.eye(10, dtype=torch.float64)
            betas = betas + torch.linalg.solve(normal, slope.T @ residual - shape_prior * betas)
        result[person] = betas
    return result
