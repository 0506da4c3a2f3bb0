"""What lies between an avatar's albedo and an image's colour: the light on the body, and each camera's own colour.

Both start as the identity and are held near it by a prior. Without them, people who turn under a lamp and cameras that
differ in exposure and white balance would be explained by wrong poses.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def harmonic_basis(normals: Float[Tensor, "points 3"]) -> Float[Tensor, "points 8"]:
    """Real spherical harmonics of order 1 and 2 at unit vectors, each of unit mean square over the sphere.

    The order and signs are those of Ramamoorthi and Hanrahan, "An efficient representation for irradiance environment
    maps", SIGGRAPH 2001, Eq. 3, over the constant harmonic; order 2 holds 99 % of a convex Lambertian body's shading.
    """
    x, y, z = normals.unbind(dim=1)
    linear = [y, z, x]
    quadratic = [x * y, y * z, (3 * z * z - 1) / (2 * math.sqrt(3)), x * z, (x * x - y * y) / 2]
    return torch.stack([math.sqrt(3) * term for term in linear] + [math.sqrt(15) * term for term in quadratic], dim=1)


class SphericalHarmonicShading(nn.Module):
    """Light on one person as a function of the body's normal in world axes.

    Args:
        channels: 3 for coloured light, 1 for white.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        if channels not in (1, 3):
            raise ValueError(f"shading: {channels} channels, expected 1 or 3")
        self.constant = nn.Parameter(torch.zeros(channels))
        self.directional = nn.Parameter(torch.zeros(8, channels))

    def forward(self, normals: Float[Tensor, "points 3"]) -> Float[Tensor, "points channels"]:
        """Factor on the albedo at points with these unit normals; never negative, 1 everywhere at the start."""
        return (1 + self.constant + harmonic_basis(normals) @ self.directional).clamp(min=0.0)

    def prior(self) -> Float[Tensor, ""]:
        """Mean square over all directions and channels of the factor's difference from 1 (before the clamp)."""
        return self.constant.square().mean() + self.directional.square().sum(dim=0).mean()


class CameraColour(nn.Module):
    """An affine map of colour for each camera: c -> A c + b.

    Args:
        cameras: number of cameras.
    """

    def __init__(self, cameras: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.eye(3).repeat(cameras, 1, 1))
        self.constant = nn.Parameter(torch.zeros(cameras, 3))

    def forward(
        self, colour: Float[Tensor, "rays 3"], alpha: Float[Tensor, " rays"], camera: Int[Tensor, " rays"]
    ) -> Float[Tensor, "rays 3"]:
        """Map rendered colours, which are multiplied by their opacity and without background: A c + alpha b."""
        maps = torch.cat([self.linear.flatten(1), self.constant], dim=1)
        chosen = torch.nn.functional.embedding(camera, maps)
        linear = chosen[:, :9].view(-1, 3, 3)
        return (linear @ colour[..., None])[..., 0] + alpha[:, None] * chosen[:, 9:]

    def prior(self) -> Float[Tensor, ""]:
        """Mean square difference from the identity."""
        identity = torch.eye(3, dtype=self.linear.dtype, device=self.linear.device)
        return (self.linear - identity).square().mean() + self.constant.square().mean()
