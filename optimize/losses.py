"""Losses of the avatar and pose stages as pure functions (AvatarPose Sec. 3.3 and 3.4, Eq. 5 to 13).

Every function returns a scalar mean; weights are the caller's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from avatarpose.register.priors import (
    HINGES,
    acceleration_cost,
    angular_acceleration_cost,
    geman_mcclure,
)

HARD_SURFACE_FLOOR = math.log(1 + math.exp(-1))
"""Value of the hard-surface term's minimum, so that the loss is zero for opacities 0 and 1."""
PROBABILITY_FLOOR = 1e-3
ACCELERATION_UNIT = 40.0
"""m/s^2: what limbs reach in dance and fights (medians are near 20); well above is jitter."""
ANGULAR_ACCELERATION_UNIT = 150.0
"""rad/s^2."""


def huber(error: Float[Tensor, "*batch"], delta: float) -> Float[Tensor, "*batch"]:
    """0.5 e^2 below delta, linear above, divided by nothing: torch's `huber_loss` against zero."""
    return F.huber_loss(error, torch.zeros_like(error), delta=delta, reduction="none")


def masked_mean(values: Float[Tensor, "*batch"], where: Bool[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Mean over the chosen entries, zero when there is none."""
    chosen = where.to(values.dtype)
    return (values * chosen).sum() / chosen.sum().clamp(min=1.0)


def colour_loss(
    rendered: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], where: Bool[Tensor, " rays"], delta: float
) -> Float[Tensor, ""]:
    """Huber loss on colours in 0 to 1, mean over channels and over the rays that carry colour (Eq. 5)."""
    return masked_mean(huber(rendered - target, delta).mean(dim=-1), where)


def alpha_squared(alpha: Float[Tensor, " rays"], label: Tensor) -> Float[Tensor, ""]:
    """Squared difference of opacity and mask, unknown pixels left out (Eq. 6)."""
    return masked_mean((alpha - (label == 1).to(alpha.dtype)) ** 2, label != 2)


def alpha_cross_entropy(alpha: Float[Tensor, " rays"], label: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy of the union's opacity with the mask, foreground and background alike, on clamped probabilities.

    Eq. 10 of the paper keeps the foreground half only; without the background half a body may swell unpunished.
    """
    probability = alpha.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    target = (label == 1).to(alpha.dtype)
    return masked_mean(F.binary_cross_entropy(probability, target, reduction="none"), label != 2)


def person_cross_entropy(person_alpha: Float[Tensor, "rays people"], person: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy of each person's layered opacity with that person's own mask; `person` is -2 where unknown."""
    known = person > -2
    probability = person_alpha.clamp(PROBABILITY_FLOOR, 1 - PROBABILITY_FLOOR)
    indices = torch.arange(person_alpha.shape[1], device=person.device)
    target = (person[:, None] == indices).to(person_alpha.dtype)
    return masked_mean(F.binary_cross_entropy(probability, target, reduction="none").sum(dim=1), known)


def hard_surface(opacity: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """-log(e^-a + e^(a-1)) + log(1 + e^-1), zero for a in {0, 1} and largest at one half (LOLNeRF's prior)."""
    if opacity.numel() == 0:
        return opacity.sum()
    return (HARD_SURFACE_FLOOR - torch.logaddexp(-opacity, opacity - 1)).mean()


def layer_entropy(person_alpha: Float[Tensor, "rays people"]) -> Float[Tensor, ""]:
    """-a log a of each person's layered opacity: a pixel belongs to one person (Eq. 8)."""
    return -(person_alpha * person_alpha.clamp(min=1e-5).log()).mean()


def opacity_outside(
    density: Float[Tensor, " samples"], distance: Float[Tensor, " samples"], beyond: float
) -> Float[Tensor, ""]:
    """Opacity over 10 mm of samples farther than `beyond` metres from the skin, mean over those samples."""
    return masked_mean(1 - torch.exp(-0.01 * density.clamp(min=0)), distance > beyond)


def published_hinge(poses: Float[Tensor, "*batch 72"]) -> Float[Tensor, ""]:
    """exp(s theta)^2 of elbows and knees, mean over joints (Eq. 11; SMPLify)."""
    index = torch.tensor([3 * joint + axis for joint, axis, _ in HINGES], device=poses.device)
    signs = torch.tensor([sign for _, _, sign in HINGES], dtype=poses.dtype, device=poses.device)
    return torch.exp(signs * poses[..., index]).square().mean()


def mean_acceleration(
    positions: Float[Tensor, "people frames joints 3"], triple: Bool[Tensor, "people inner"], fps: float
) -> Float[Tensor, ""]:
    """Robust acceleration of joints in units of 40 m/s^2, mean over joints and frames with two neighbours."""
    count = triple.sum().clamp(min=1) * positions.shape[2]
    return acceleration_cost(positions, triple, fps, ACCELERATION_UNIT) / count


def mean_angular_acceleration(
    rotations: Float[Tensor, "people frames joints 3 3"], triple: Bool[Tensor, "people inner"], fps: float
) -> Float[Tensor, ""]:
    """Robust angular acceleration in units of 150 rad/s^2, mean over joints and frames with two neighbours."""
    count = triple.sum().clamp(min=1) * rotations.shape[2]
    return angular_acceleration_cost(rotations, triple, fps, ANGULAR_ACCELERATION_UNIT) / count


def keypoint_loss(
    residual: Float[Tensor, "entries 2"], weight: Float[Tensor, " entries"], unit: float
) -> Float[Tensor, ""]:
    """Geman-McClure cost of reprojection residuals (pixels) with scale `unit`, weighted by detection scores."""
    square = residual.square().sum(dim=-1) / unit**2
    return (weight * 2 * geman_mcclure(square, 1.0)).sum() / weight.sum().clamp(min=1e-6)
