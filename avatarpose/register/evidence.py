"""The 2D keypoints of each person, gathered from the detections of all views."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from avatarpose.cameras import Cameras


@dataclass(frozen=True)
class Evidence:
    """Detected keypoints by person; weights are detection scores, 0 where there is no detection.

    Attributes:
        pixels: (C, P, F, 17, 2), zero where there is none.
        weights: (C, P, F, 17).
    """

    pixels: Float[Tensor, "cameras people frames 17 2"]
    weights: Float[Tensor, "cameras people frames 17"]

    @classmethod
    def gather(
        cls, keypoints: Float[ndarray, "cameras frames detections 17 3"], rows: Float[ndarray, "cameras frames people"]
    ) -> Evidence:
        """Takes for every person the row of detections it was given to; a row of -1 is none."""
        table = torch.as_tensor(keypoints, dtype=torch.float64)
        index = torch.as_tensor(rows, dtype=torch.long)
        taken = torch.gather(table, 2, index.clamp(min=0)[..., None, None].expand(*index.shape, 17, 3))
        there = (index >= 0)[..., None] & torch.isfinite(taken).all(dim=-1)
        taken = torch.where(there[..., None], taken, 0.0).transpose(1, 2)
        return cls(taken[..., :2].contiguous(), taken[..., 2].clamp(0, 1).contiguous())

    @staticmethod
    def pixels_per_metre(
        cameras: Cameras, keypoints: Float[Tensor, "people frames 17 3"]
    ) -> Float[Tensor, "cameras people frames 1"]:
        """Focal length over the depth of each person's middle: the size of a metre there, in pixels."""
        middle = keypoints.detach().mean(dim=-2)
        depth = torch.einsum("cx,pfx->cpf", cameras.R[:, 2], middle) + cameras.t[:, 2, None, None]
        focal = torch.sqrt(cameras.K[:, 0, 0] * cameras.K[:, 1, 1])
        return (focal[:, None, None] / depth.clamp(min=0.1))[..., None]
