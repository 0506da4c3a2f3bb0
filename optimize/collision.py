"""Interpenetration of people as overlapping density (AvatarPose Eq. 12)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from renderer.body_shell import BodyShell
from renderer.render import PersonRender, Rendering
from renderer.sampling import RayBatch
from renderer.skinning import inverse_skin, signed_body_distance, to_root

STEP = 0.01
"""Metres: the fixed length over which densities become opacities."""


def collision_loss(
    people: list[PersonRender],
    shells: list[list[BodyShell | None]],
    rays: RayBatch,
    rendering: Rendering,
    level_weights: Tensor | None,
) -> Float[Tensor, ""]:
    """Product of the opacities of every pair of people, summed over the samples inside both shells and divided by the
    number of all samples.

    The published code multiplies all people's opacities, which for three or more sees only points inside everybody;
    pairs see every overlap. Gradients reach both people's poses; fields are the caller's to freeze.
    """
    samples = rendering.samples
    total = rendering.opacity.sum() * 0.0
    if samples.ray.numel() == 0 or len(people) < 2:
        return total
    points = rays.origins[samples.ray] + samples.z[:, None] * rays.directions[samples.ray]
    own = 1 - torch.exp(-STEP * rendering.density)
    for other in range(1, len(people)):
        before = torch.nonzero(samples.person < other)[:, 0]
        index, vertex = _inside(points, before, samples.frame, shells[other])
        if index.numel() == 0:
            continue
        posed = people[other].posed
        local = to_root(points[index], samples.frame[index], posed)
        x_ref = inverse_skin(local, samples.frame[index], vertex, posed)
        distance = signed_body_distance(x_ref, vertex, posed.geometry)
        field = people[other].field(x_ref, distance, level_weights=level_weights, want_colour=False)
        total = total + (own[index] * (1 - torch.exp(-STEP * field.density))).sum()
    return total / samples.ray.numel()


@torch.no_grad()
def _inside(points: Tensor, candidates: Tensor, frame: Tensor, shells: list[BodyShell | None]) -> tuple[Tensor, Tensor]:
    """The candidates that lie in the given shells, each in its own frame's, with their nearest vertices."""
    indices, vertices = [], []
    for b, shell in enumerate(shells):
        if shell is None:
            continue
        mine = candidates[frame[candidates] == b]
        if mine.numel() == 0:
            continue
        vertex, distance = shell.query(points[mine])
        near = torch.isfinite(distance)
        indices.append(mine[near])
        vertices.append(vertex[near])
    if not indices:
        empty = torch.zeros(0, dtype=torch.long, device=points.device)
        return empty, empty
    return torch.cat(indices), torch.cat(vertices)
