"""Layered volume rendering of people: from posed avatars and rays to colour, opacity per person, and depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from renderer.compositing import composite, sum_over_rays
from renderer.field import FieldSample
from renderer.sampling import RayBatch, Samples, SamplingConfig, sample_people
from renderer.shell import Shell
from renderer.skinning import (
    PosedPerson,
    frame_spans,
    inverse_skin_by_span,
    signed_body_distance,
    to_root_by_span,
    world_normals,
)

SATURATED_OPTICAL_DEPTH = 8.0
"""Density times step of samples deeper than `SamplingConfig.inside`: exp(-8) of the light comes through."""
FILL_SHARE = 1 / 3
"""The last third of the way there, the density rises smoothly to that."""
FADE_SHARE = 1 / 4
"""In the outer quarter of the shell, the density falls smoothly to zero."""


@dataclass
class PersonRender:
    """One person as rendered: the posed body, the field around it and the light on it."""

    posed: PosedPerson
    field: Callable[..., FieldSample]
    """`AvatarField`, or what is called like it: (x_ref, body_distance, level_weights=, want_colour=)."""
    shading: Callable[[Tensor], Tensor] | None = None
    """Factor on the albedo from unit normals in world axes; None: the albedo is the colour."""


@dataclass
class Rendering:
    """What R rays see of P people, and the N samples behind it (in the order of `samples`)."""

    colour: Float[Tensor, "rays 3"]
    """Over the background where there is one, else over black; nothing but background where no colour was asked for."""
    alpha: Float[Tensor, " rays"]
    """Opacity of all people together."""
    person_alpha: Float[Tensor, "rays people"]
    """Each person's part of it that is not hidden by others; the parts sum to `alpha`."""
    depth: Float[Tensor, " rays"]
    """Metres along the ray, mean over what is seen; 0 where a ray meets nobody."""
    samples: Samples
    weights: Float[Tensor, " samples"]
    """Share in the ray's colour."""
    opacity: Float[Tensor, " samples"]
    """Of the sample by itself, over one step."""
    density: Float[Tensor, " samples"]
    """1/m; constant where `evaluated` is False."""
    offset: Float[Tensor, " samples"]
    """Metres from the skin to the avatar's surface; 0 where `evaluated` is False."""
    x_ref: Float[Tensor, "samples 3"]
    """Metres, reference canonical space."""
    body_distance: Float[Tensor, " samples"]
    """Metres from the skin, positive outside."""
    evaluated: Bool[Tensor, " samples"]
    """Whether the field was asked: False deeper under the skin than `SamplingConfig.inside`."""


def render(
    people: list[PersonRender],
    shells: list[list[Shell | None]],
    rays: RayBatch,
    config: SamplingConfig,
    background: Float[Tensor, "rays 3"] | None = None,
    level_weights: Float[Tensor, " levels"] | None = None,
    generator: torch.Generator | None = None,
    want_colour: bool = True,
) -> Rendering:
    """Sample the rays and render all people together; a list of one person renders that person alone.

    Args:
        people: P people, each posed in the B frames of the batch.
        shells: for each person and frame, the shell (`renderer.shell.Shell`) of the posed body; None: absent.
        rays: R rays.
        config: sampling settings.
        background: (R,3) colour behind the people. None: black.
        level_weights: (L,) weights of the hash levels, coarse to fine.
        generator: of the sampling's jitter.
        want_colour: False leaves colours out (silhouettes).

    Returns:
        The rendering, differentiable in poses, fields, shading, rays and background.

    Raises:
        ValueError: shells that do not match people and frames.
    """
    samples = sample_people(rays, [person.posed for person in people], shells, config, generator)
    return render_samples(people, samples, rays, config, background, level_weights, want_colour)


def render_samples(
    people: list[PersonRender],
    samples: Samples,
    rays: RayBatch,
    config: SamplingConfig,
    background: Float[Tensor, "rays 3"] | None = None,
    level_weights: Float[Tensor, " levels"] | None = None,
    want_colour: bool = True,
    displacement: Float[Tensor, "samples 3"] | None = None,
) -> Rendering:
    """`render` with the samples given: a smooth function of poses and fields, as far as the fields are.

    `displacement` (metres, canonical space) is added to the samples' positions there: for derivatives by them.
    """
    moved = [None] * len(people) if displacement is None else displacement.split(samples.counts)
    parts = zip(_by_person(people, samples, rays), moved, strict=True)
    layers = [_geometry(*one, by, samples.step, config, level_weights) for one, by in parts]
    layer = _Geometry.join(layers, rays)
    R = len(rays.frame)
    composed = composite(samples.ray, samples.z, samples.person, layer.density, samples.step, R, len(people))
    colour = torch.zeros_like(rays.origins)
    if want_colour and layers:
        seen = layer.evaluated & (composed.weights.detach() >= config.colour_weight)
        index = torch.nonzero(seen)[:, 0]
        tint = _colour(people, samples, layer, index, level_weights)
        weight = composed.weights.index_select(0, index)[:, None]
        colour = sum_over_rays(samples.ray.index_select(0, index), weight * tint, R)
    if background is not None:
        colour = colour + (1 - composed.alpha)[:, None] * background
    return Rendering(
        colour=colour,
        alpha=composed.alpha,
        person_alpha=composed.person_alpha,
        depth=composed.depth,
        samples=samples,
        weights=composed.weights,
        opacity=composed.opacity,
        density=layer.density,
        offset=layer.offset,
        x_ref=layer.x_ref,
        body_distance=layer.body_distance,
        evaluated=layer.evaluated,
    )


def _by_person(people: list[PersonRender], samples: Samples, rays: RayBatch):
    """Each person with the world points, vertices and frames of that person's samples."""
    parts = (part.split(samples.counts) for part in (samples.points(rays), samples.vertex, samples.frame))
    return zip(people, *parts, strict=True)


@dataclass
class _Geometry:
    """Densities and what they come from, of one person's samples or of all."""

    density: Tensor
    offset: Tensor
    x_ref: Tensor
    body_distance: Tensor
    evaluated: Tensor

    @classmethod
    def join(cls, parts: list[_Geometry], rays: RayBatch) -> _Geometry:
        if not parts:
            none = rays.origins[:0]
            return cls(none[:, 0], none[:, 0], none, none[:, 0], torch.zeros_like(none[:, 0], dtype=torch.bool))
        if len(parts) == 1:
            return parts[0]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def _geometry(
    person: PersonRender,
    points: Tensor,
    vertex: Tensor,
    frame: Tensor,
    displacement: Tensor | None,
    step: float,
    config: SamplingConfig,
    level_weights: Tensor | None,
) -> _Geometry:
    """Density of one person at world points grouped by frame."""
    x_ref, distance = _in_canonical_space(person.posed, points, vertex, frame, displacement)
    evaluated = distance.detach() >= -config.inside
    index = torch.nonzero(evaluated)[:, 0]
    asked = distance.index_select(0, index)
    sample = person.field(x_ref.index_select(0, index), asked, level_weights=level_weights, want_colour=False)
    saturated = SATURATED_OPTICAL_DEPTH / step
    held = held_density(sample.density, asked, config.shell, config.inside, saturated)
    density = torch.full_like(distance, saturated).index_copy(0, index, held)
    offset = torch.zeros_like(distance).index_copy(0, index, sample.offset)
    return _Geometry(density, offset, x_ref, distance, evaluated)


def fast_path(points: Tensor) -> bool:
    """Whether Warp's kernels compute it: they know one precision."""
    return points.dtype == torch.float32


def _in_canonical_space(
    posed: PosedPerson, points: Tensor, vertex: Tensor, frame: Tensor, displacement: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Canonical positions and signed distances from the skin; by Warp in float32, the plain way in other precisions."""
    if fast_path(points) and displacement is None:
        from renderer.canonical_warp import canonical_points

        return canonical_points(points, frame, vertex, posed)
    spans, _ = frame_spans(frame, len(posed.T_world_root))
    x_ref = inverse_skin_by_span(to_root_by_span(points, spans, posed), spans, vertex, posed)
    if displacement is not None:
        x_ref = x_ref + displacement
    return x_ref, signed_body_distance(x_ref, vertex, posed.geometry)


def _colour(
    people: list[PersonRender], samples: Samples, layer: _Geometry, index: Tensor, level_weights: Tensor | None
) -> Tensor:
    """Colours (M,3) of the chosen samples, which keep their order by person and frame."""
    counts = torch.bincount(samples.person.index_select(0, index), minlength=len(people)).tolist()
    colours = []
    for person, mine in zip(people, index.split(counts), strict=True):
        x_ref, distance = layer.x_ref.index_select(0, mine), layer.body_distance.index_select(0, mine)
        colour = person.field(x_ref, distance.detach(), level_weights=level_weights, want_colour=True).albedo
        if person.shading is not None:
            frame, vertex = samples.frame.index_select(0, mine), samples.vertex.index_select(0, mine)
            colour = colour * person.shading(world_normals(frame, vertex, person.posed))
        colours.append(colour)
    return torch.cat(colours)


def held_density(
    density: Float[Tensor, " points"],
    body_distance: Float[Tensor, " points"],
    shell: float,
    inside: float,
    saturated: float,
) -> Float[Tensor, " points"]:
    """The field's density, led to zero at the shell's border and to saturation deep inside, without a jump.

    Where samples begin and end moves with the body, and no gradient knows it. If the density jumped there, half of the
    gradient of a wide surface (10 mm) with respect to the translation would be missing.

    Args:
        density: (N,) 1/m, of the field.
        body_distance: (N,) metres.
        shell, inside: metres, as in `SamplingConfig`.
        saturated: 1/m.
    """
    fade = _smooth_step((shell - body_distance) / (FADE_SHARE * shell))
    fill = _smooth_step((-body_distance - (1 - FILL_SHARE) * inside) / (FILL_SHARE * inside))
    return torch.lerp(density * fade, torch.full_like(density, saturated), fill)


def _smooth_step(t: Tensor) -> Tensor:
    t = t.clamp(0.0, 1.0)
    return t * t * (3 - 2 * t)
