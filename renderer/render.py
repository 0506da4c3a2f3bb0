"""Layered volume rendering of people: from posed avatars and rays to colour, opacity per person, and depth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from renderer.compositing import composite
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
) -> Rendering:
    """`render` with the samples given: a smooth function of poses and fields, as far as the fields are."""
    points = samples.points(rays)
    parts = []
    for index, (part, vertex, frame) in enumerate(
        zip(
            points.split(samples.counts),
            samples.vertex.split(samples.counts),
            samples.frame.split(samples.counts),
            strict=True,
        )
    ):
        parts.append(_evaluate(people[index], part, vertex, frame, samples.step, config, level_weights, want_colour))
    layer = _Layer.join(parts, points)
    composed = composite(
        samples.ray,
        samples.z,
        samples.person,
        layer.density,
        layer.colour if want_colour else None,
        samples.step,
        len(rays.frame),
        len(people),
    )
    colour = composed.colour if composed.colour is not None else torch.zeros_like(rays.origins)
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


@dataclass
class _Layer:
    """One person's samples, or all people's."""

    density: Tensor
    colour: Tensor
    offset: Tensor
    x_ref: Tensor
    body_distance: Tensor
    evaluated: Tensor

    @classmethod
    def join(cls, parts: list[_Layer], points: Tensor) -> _Layer:
        if not parts:
            line = points[:, 0]
            return cls(line, points, line, points, line, torch.ones_like(line, dtype=torch.bool))
        if len(parts) == 1:
            return parts[0]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def _evaluate(
    person: PersonRender,
    points: Tensor,
    vertex: Tensor,
    frame: Tensor,
    step: float,
    config: SamplingConfig,
    level_weights: Tensor | None,
    want_colour: bool,
) -> _Layer:
    """Density and colour of one person at world points grouped by frame."""
    posed = person.posed
    spans, _ = frame_spans(frame, len(posed.T_world_root))
    x_ref = inverse_skin_by_span(to_root_by_span(points, spans, posed), spans, vertex, posed)
    distance = signed_body_distance(x_ref, vertex, posed.geometry)
    evaluated = distance.detach() >= -config.inside
    index = torch.nonzero(evaluated)[:, 0]
    asked = distance.index_select(0, index)
    sample = person.field(x_ref.index_select(0, index), asked, level_weights=level_weights, want_colour=want_colour)
    saturated = SATURATED_OPTICAL_DEPTH / step
    held = held_density(sample.density, asked, config.shell, config.inside, saturated)
    density = torch.full_like(distance, saturated).index_copy(0, index, held)
    offset, colour = torch.zeros_like(distance), torch.zeros_like(x_ref)
    offset = offset.index_copy(0, index, sample.offset)
    if want_colour:
        seen = sample.albedo
        if person.shading is not None:
            normals = world_normals(frame.index_select(0, index), vertex.index_select(0, index), posed)
            seen = seen * person.shading(normals)
        colour = colour.index_copy(0, index, seen)
    return _Layer(density, colour, offset, x_ref, distance, evaluated)


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
