"""Where an avatar's surface stands over each vertex of its body: what tells empty space from what light passes through.

Made now and then from the field without a gradient, and used to choose samples only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from renderer.field import AvatarField, silhouette_shift
from renderer.skinning import SkinnedGeometry

EMPTY_WIDTHS = 10.0
"""Betas above the surface from which space is empty: no ray that stays beyond loses a ten-thousandth of its light. A
limb that is not where its mask is has to be felt from afar."""
OPAQUE_DEPTH = 8.0
"""Optical depth behind which nothing is seen: exp(-8) of the light comes through."""
HEIGHT = 0.015
"""Metres over the skin at which the field is asked."""


@dataclass(frozen=True, eq=False)
class SurfaceTable:
    """The surface of one avatar.

    Attributes:
        offset: (V,) metres from each vertex of the body to the surface.
        width: metres, the field's beta.
        shift: betas by which the density is moved inwards (`renderer.field.silhouette_shift`).
    """

    offset: Float[Tensor, " vertices"]
    width: float
    shift: float

    @classmethod
    @torch.no_grad()
    def of(cls, field: AvatarField, geometry: SkinnedGeometry) -> SurfaceTable | None:
        """The surface of a field; None where density is not tied to the body."""
        if field.residual_head is not None:
            return None
        offset = field.offset(geometry.vertices + HEIGHT * geometry.normals)
        return cls(offset, float(field.beta), float(silhouette_shift(field.beta, field.config.silhouette_radius)))

    def reach(self, widths: float) -> float:
        """Metres from the skin to so many betas beyond where the surface stands out most."""
        return float(self.offset.max()) + widths * self.width
