"""One person's canonical radiance field: a surface held to the body at a learned offset, and its colour.

The geometry is not free. The field is a function of the point's signed distance to the skin, and what it learns is how
far outside the skin the visible surface (clothes, hair) stands, smoothly and within a few centimetres: a free field
would absorb any error of the pose that is the same in all frames, and no image loss could tell.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from renderer.hash_grid import HashGrid, Implementation

RESIDUAL_BIAS = -6.0  # start of the residual's softplus: a quarter of a percent of its scale


@dataclass(frozen=True)
class FieldConfig:
    """Sizes of a person's field."""

    levels: int = 8
    features: int = 4
    log2_table: int = 16
    base_resolution: int = 16
    finest_resolution: int = 768
    """Cells along the side of the field's cube, about 2.4 m."""
    hidden: int = 64
    geometry_features: int = 15
    """Features the geometry hands to the colour."""
    geometry_levels: int = 4
    """Coarsest hash levels the offset may depend on: what keeps it of low frequency."""
    offset_middle: float = 0.02
    offset_half_range: float = 0.03
    """The surface stands within `offset_middle` +- `offset_half_range` metres outside the skin."""
    offset_start: float = 0.01
    surface_width: float = 0.01
    """Starting value of `AvatarField.beta`, metres."""
    silhouette_radius: float | None = 0.05
    """Metres: curvature radius of the surfaces whose outline is to lie at the offset; None: no correction (below)."""
    residual: bool = False
    """Add density that is not tied to the body, inside the shell (skirts, long hair)."""
    residual_scale: float = 100.0
    """Density in 1/m of one unit of residual."""
    implementation: Implementation = "auto"


@dataclass
class FieldSample:
    """What a field says at N points."""

    density: Float[Tensor, " points"]
    """1/m, not negative."""
    albedo: Float[Tensor, "points 3"] | None
    """Colour before shading, in (0, 1); None where it was not asked for."""
    offset: Float[Tensor, " points"]
    """Metres from the skin to the surface, along the outward normal."""
    raw_density: Float[Tensor, " points"]
    """Depth below the surface in units of beta, less the silhouette's shift: what the sigmoid is taken of."""


def silhouette_shift(beta: Float[Tensor, ""], radius: float | None) -> Float[Tensor, ""]:
    """How many betas outside the surface the outline (opacity one half) of a cylinder of that radius would lie.

    A ray that passes at height h over the cylinder's top is at s(t) = h + t^2 / (2 radius); outside the surface the
    density is nearly exp(-s / beta) / beta, so its optical depth is sqrt(2 pi radius / beta) exp(-h / beta). It equals
    log 2 at h = beta log(sqrt(2 pi radius / beta) / log 2).
    """
    if radius is None:
        return torch.zeros_like(beta)
    return torch.log(torch.sqrt(2 * math.pi * radius / beta) / math.log(2.0))


class AvatarField(nn.Module):
    """Density and albedo of one person in reference canonical space.

    With s = body_distance - offset(x), the signed distance to the visible surface, the density is
    sigmoid(-s / beta) / beta: along a ray that meets the surface head-on, the transmittance is sigmoid(s / beta), one
    half on the surface itself, and the interior is filled (Or-El et al., "StyleSDF", CVPR 2022, Eq. 3).

    A ray that grazes a rounded surface runs through its soft border for long, so outlines would stand about 2 beta
    outside the surface, and poses and shapes fitted to masks would shrink from them. The density is therefore moved
    inwards by `silhouette_shift(beta, radius)` betas: the outline of a limb-sized surface lies at the offset, whatever
    beta is, and is seen head-on by so much deeper.

    `beta`, the width of the transition in metres, is a buffer set from outside: `field.beta.fill_(0.006)`.

    Args:
        config: sizes.
        centre: (3,) metres, centre of the cube the field is defined on.
        half_extent: metres, half the cube's side.

    Raises:
        ValueError: an empty cube, more geometry levels than levels, or a starting offset outside its range.
    """

    centre: Tensor
    half_extent: Tensor
    beta: Tensor

    def __init__(self, config: FieldConfig, centre: Float[Tensor, " 3"], half_extent: float) -> None:
        super().__init__()
        start = (config.offset_start - config.offset_middle) / config.offset_half_range
        if not half_extent > 0:
            raise ValueError(f"field: half extent {half_extent} m, expected a positive length")
        if not 1 <= config.geometry_levels <= config.levels:
            raise ValueError(f"field: {config.geometry_levels} geometry levels of {config.levels} levels")
        if not -1 < start < 1:
            raise ValueError(f"field: starting offset {config.offset_start} m lies outside the offset's range")
        self.config = config
        self.register_buffer("centre", torch.as_tensor(centre, dtype=torch.float32).detach().clone())
        self.register_buffer("half_extent", torch.tensor(float(half_extent)))
        self.register_buffer("beta", torch.tensor(config.surface_width))
        self.grid = HashGrid(
            config.levels, config.features, config.log2_table, config.base_resolution, config.finest_resolution,
            config.implementation,
        )
        self.geometry = nn.Linear(config.geometry_levels * config.features, config.hidden)
        self.offset_head = nn.Linear(config.hidden, 1)
        self.feature_head = nn.Linear(config.hidden, config.geometry_features)
        self.colour_encoded = nn.Linear(config.levels * config.features, config.hidden)
        self.colour_geometry = nn.Linear(config.geometry_features, config.hidden, bias=False)
        self.colour_hidden = nn.Linear(config.hidden, config.hidden)
        self.colour_out = nn.Linear(config.hidden, 3)
        # The surface starts at one distance everywhere: a constant shell around the body.
        nn.init.zeros_(self.offset_head.weight)
        nn.init.constant_(self.offset_head.bias, math.atanh(start))
        self.residual_head: nn.Linear | None = None
        if config.residual:
            self.residual_head = nn.Linear(config.hidden, 1)
            nn.init.zeros_(self.residual_head.weight)
            nn.init.constant_(self.residual_head.bias, RESIDUAL_BIAS)

    def offset_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that shape the surface and nothing else."""
        yield from self.offset_head.parameters()
        if self.residual_head is not None:
            yield from self.residual_head.parameters()

    def shared_parameters(self) -> Iterator[nn.Parameter]:
        """All parameters but `offset_parameters`."""
        own = {id(parameter) for parameter in self.offset_parameters()}
        yield from (parameter for parameter in self.parameters() if id(parameter) not in own)

    def offset(
        self, x_ref: Float[Tensor, "points 3"], level_weights: Float[Tensor, " levels"] | None = None
    ) -> Float[Tensor, " points"]:
        """Metres (N,) between skin and surface at points (N,3) of canonical space, metres."""
        hidden = self._geometry(self._encode(x_ref, level_weights, self.config.geometry_levels))
        return self._offset(hidden)

    def forward(
        self,
        x_ref: Float[Tensor, "points 3"],
        body_distance: Float[Tensor, " points"],
        level_weights: Float[Tensor, " levels"] | None = None,
        want_colour: bool = True,
    ) -> FieldSample:
        """Evaluate the field.

        Args:
            x_ref: (N,3) metres, points in reference canonical space.
            body_distance: (N,) metres, signed distance to the skin, positive outside.
            level_weights: (L,) weight of each hash level, coarse to fine; None: all one.
            want_colour: False leaves the albedo out, and with it the finer hash levels.

        Returns:
            The sample, differentiable in the points, the distances and the parameters.
        """
        config = self.config
        encoded = self._encode(x_ref, level_weights, None if want_colour else config.geometry_levels)
        hidden = self._geometry(encoded[:, : config.geometry_levels * config.features])
        offset = self._offset(hidden)
        raw_density = (offset - body_distance) / self.beta - silhouette_shift(self.beta, config.silhouette_radius)
        density = torch.sigmoid(raw_density) / self.beta
        if self.residual_head is not None:
            density = density + config.residual_scale * F.softplus(self.residual_head(hidden)[:, 0])
        albedo = self._albedo(encoded, hidden) if want_colour else None
        return FieldSample(density, albedo, offset, raw_density)

    def _encode(self, x_ref: Tensor, level_weights: Tensor | None, levels: int | None) -> Tensor:
        positions = (x_ref - (self.centre - self.half_extent)) * (0.5 / self.half_extent)
        return self.grid(positions, level_weights, levels)

    def _geometry(self, encoded: Tensor) -> Tensor:
        return F.relu_(self.geometry(encoded))

    def _offset(self, hidden: Tensor) -> Tensor:
        config = self.config
        return config.offset_middle + config.offset_half_range * torch.tanh(self.offset_head(hidden)[:, 0])

    def _albedo(self, encoded: Tensor, hidden: Tensor) -> Tensor:
        # The first layer acts on (encoded, geometry features); two products and a sum spare the concatenation.
        first = F.relu_(self.colour_encoded(encoded) + self.colour_geometry(self.feature_head(hidden)))
        return torch.sigmoid(self.colour_out(F.relu_(self.colour_hidden(first))))


def offset_penalty(
    sample: FieldSample, low: float = 0.0, high: float = 0.03, scale: float = 0.01
) -> Float[Tensor, ""]:
    """Robust hinge on a surface that stands outside `low` to `high` metres from the skin.

    Returns:
        Mean over the points of Huber(excess / scale), no unit: 0.5 where the surface is one `scale` (10 mm) too far.
    """
    excess = F.relu(low - sample.offset) + F.relu(sample.offset - high)
    return F.huber_loss(excess / scale, torch.zeros_like(excess))


def offset_smoothness(
    field: AvatarField,
    x_ref: Float[Tensor, "points 3"],
    sample: FieldSample,
    normals: Float[Tensor, "points 3"] | None = None,
    level_weights: Float[Tensor, " levels"] | None = None,
    distance: float = 0.02,
    count: int | None = 2048,
    slope_scale: float = 0.1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """Robust slope of the offset along the body, by one finite difference per point in a random direction.

    Args:
        field: the field the sample comes from.
        x_ref: (N,3) metres, where it was taken; no gradient flows to it from here.
        sample: the field's answer at `x_ref`, whose offset is compared with that a step away.
        normals: (N,3) unit normals of the skin at the points: the step is tangential. None: in any direction.
        level_weights: as in the call that gave the sample.
        distance: metres, length of the step.
        count: use a random subset of that many points. None: all.
        slope_scale: slope (metres per metre) at which the penalty turns from square to linear.

    Returns:
        Mean of Huber(slope / slope_scale), no unit: 0.5 where the offset changes by 2 mm over 20 mm.
    """
    offset, points = sample.offset, x_ref.detach()
    if count is not None and len(points) > count:
        chosen = torch.randint(len(points), (count,), generator=generator, device=points.device)
        offset, points = offset[chosen], points[chosen]
        normals = None if normals is None else normals[chosen]
    step = torch.randn(points.shape, generator=generator, device=points.device, dtype=points.dtype)
    if normals is not None:
        normals = normals.detach()
        step = step - (step * normals).sum(dim=1, keepdim=True) * normals
    step = F.normalize(step, dim=1) * distance
    slope = (field.offset(points + step, level_weights) - offset) / distance
    return F.huber_loss(slope / slope_scale, torch.zeros_like(slope))
