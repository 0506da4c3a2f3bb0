"""Optional perceptual loss on square patches of rays (LPIPS, Zhang et al. 2018), through the `lpips` package."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from avatarpose.errors import InputError

PatchDistance = Callable[[Tensor, Tensor], Tensor]
"""Distance of two batches of patches (N, 3, side, side) in -1 to 1."""


def load_lpips(device: torch.device) -> PatchDistance:
    """LPIPS on VGG features.

    Raises:
        InputError: the package is not installed, or its network's weights cannot be had.
    """
    hint = "Install it with `pip install lpips`, or choose the preset cpu or gpu, which do without"
    try:
        import lpips
    except ImportError as error:
        raise InputError("the perceptual loss needs the package lpips", found=error, hint=hint) from error
    try:
        network = lpips.LPIPS(net="vgg", verbose=False)
    except Exception as error:  # whatever the download or the reading of the weights ends with
        raise InputError("the VGG weights of the perceptual loss cannot be had", found=error, hint=hint) from error
    return network.to(device).eval().requires_grad_(False)


def patch_loss(
    distance: PatchDistance, rendered: Float[Tensor, "rays 3"], target: Float[Tensor, "rays 3"], side: int
) -> Float[Tensor, ""]:
    """Mean perceptual distance of consecutive patches of side x side rays, colours in 0 to 1."""
    patches = [
        (2 * colours.clamp(0, 1) - 1).reshape(-1, side, side, 3).permute(0, 3, 1, 2) for colours in (rendered, target)
    ]
    return distance(*patches).mean()
