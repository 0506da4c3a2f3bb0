"""Layered compositing: all people's samples along a ray, sorted by depth and composited together.

Volume rendering as in Max, "Optical models for direct volume rendering", 1995, with the step each sample stands for
held constant: it is never measured between samples, whose neighbours may belong to other people or lie beyond a gap.

Samples of different people at the very same depth of a ray fill the same slab together: the slab's opacity is that of
their summed densities, and each takes its share by density. So the order of the people does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

LARGEST_OPTICAL_DEPTH = 80.0
"""exp(-80) is nil in float32; keeps sums over all rays finite and exact."""


@dataclass
class Composite:
    """What N samples of R rays add up to."""

    alpha: Float[Tensor, " rays"]
    """One minus the light that comes through."""
    person_alpha: Float[Tensor, "rays people"]
    """Each person's share of `alpha`, what is hidden by others left out."""
    depth: Float[Tensor, " rays"]
    """Metres along the ray, mean over the weights; 0 where a ray meets nobody."""
    weights: Float[Tensor, " samples"]
    """Share of each sample in its ray's colour."""
    opacity: Float[Tensor, " samples"]
    """1 - exp(-density step) of each sample by itself."""


def depth_order(ray: Int[Tensor, " samples"], z: Float[Tensor, " samples"]) -> Int[Tensor, " samples"]:
    """Order by ray, then by depth; samples at equal depth keep the order they come in."""
    if len(z) == 0:
        return ray
    depth = z.detach().double()
    low, high = torch.aminmax(depth)
    return torch.argsort(ray * (high - low + 1) + (depth - low), stable=True)


def transmittance_weights(
    ray: Int[Tensor, " samples"], z: Float[Tensor, " samples"], optical_depth: Float[Tensor, " samples"], rays: int
) -> Float[Tensor, " samples"]:
    """Weight of each sample, T (1 - exp(-tau)), where T is the transmittance of all that lies nearer on the same ray.

    The sums run in float64 over all rays at once; what the rays before have added is taken off again exactly enough
    (relative 1e-13) that nothing leaks from ray to ray.

    Args:
        ray: (N,) ray of each sample, ascending.
        z: (N,) metres, ascending within each ray.
        optical_depth: (N,) tau = density times step, not negative.
        rays: number of rays R.

    Returns:
        (N,) weights, differentiable in the optical depths.
    """
    tau = optical_depth.clamp(max=LARGEST_OPTICAL_DEPTH).double()
    through = torch.cumsum(tau, dim=0)
    if len(tau) == 0:
        return optical_depth
    fresh = torch.ones(len(ray), dtype=torch.bool, device=ray.device)
    fresh[1:] = ray[1:] != ray[:-1]
    index = torch.arange(len(ray), device=ray.device)
    ray_start = torch.cummax(torch.where(fresh, index, 0), dim=0).values
    before = through - tau
    base = before.index_select(0, ray_start)
    same = ~fresh[1:] & (z[1:] == z[:-1])
    if not bool(same.any()):
        return (torch.exp(base - before) * -torch.expm1(-tau)).to(optical_depth.dtype)
    # Samples at the same depth: the slab begins before the first of them and ends after the last.
    first = fresh.clone()
    first[1:] = ~same
    last = torch.ones_like(first)
    last[:-1] = ~same
    slab_start = torch.cummax(torch.where(first, index, 0), dim=0).values
    slab_end = torch.cummin(torch.where(last, index, len(ray)).flip(0), dim=0).values.flip(0)
    before = before.index_select(0, slab_start)
    slab = (through.index_select(0, slab_end) - before).clamp(min=1e-30)
    alone = slab_start == slab_end
    share = torch.where(alone, 1.0, tau / slab)
    slab = torch.where(alone, tau, slab)
    return (torch.exp(base - before) * -torch.expm1(-slab) * share).to(optical_depth.dtype)


def composite(
    ray: Int[Tensor, " samples"],
    z: Float[Tensor, " samples"],
    person: Int[Tensor, " samples"],
    density: Float[Tensor, " samples"],
    step: float,
    rays: int,
    people: int,
) -> Composite:
    """Composite the samples of all people.

    Args:
        ray: (N,) ray of each sample, in any order.
        z: (N,) metres along the ray.
        person: (N,) whose sample it is.
        density: (N,) 1/m, not negative.
        step: metres of ray each sample stands for.
        rays, people: how many there are.

    Returns:
        Per ray and per sample, samples in the order they came in; differentiable in the densities.
    """
    order = depth_order(ray, z)
    ray_sorted, z_sorted = ray.index_select(0, order), z.detach().index_select(0, order)
    optical_depth = density * step
    opacity = -torch.expm1(-optical_depth)
    sorted_weights = transmittance_weights(ray_sorted, z_sorted, optical_depth.index_select(0, order), rays)
    weights = torch.zeros_like(density).index_copy(0, order, sorted_weights)

    by_person = density.new_zeros(rays * people).scatter_add(0, ray * people + person, weights).view(rays, people)
    alpha = by_person.sum(dim=1)
    depth = sum_over_rays(ray, (weights * z.detach())[:, None], rays)[:, 0] / alpha.clamp(min=1e-6)
    return Composite(alpha, by_person, depth, weights, opacity)


def sum_over_rays(
    ray: Int[Tensor, " samples"], values: Float[Tensor, "samples channels"], rays: int
) -> Float[Tensor, "rays channels"]:
    """Sum (R, C) of the values of each ray's samples: of weight times colour, the ray's colour without background."""
    return values.new_zeros(rays, values.shape[1]).scatter_add(0, ray[:, None].expand_as(values), values)
