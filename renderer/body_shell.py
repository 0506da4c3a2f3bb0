"""The shell around a posed body by tables in the body's own frame (`renderer.body_grid`): what is fast and never built.

It answers like `renderer.shell.Shell`, the exact one, in float32 only. A few points in a thousand get a vertex that is
not the nearest, as a rule next to it (tests/test_body_shell.py holds the limits; docs/decisions.md says why).
"""

from __future__ import annotations

import functools
import itertools
import weakref

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

from renderer.body_grid import BodyGrid, body_grid
from renderer.body_shell_warp import Bodies, march_kernel, query_kernel
from renderer.skinning import SkinnedGeometry
from renderer.surface_table import SurfaceTable
from renderer.warp_launch import launch_over, start_warp

POINTS_PER_THREAD = 1024
RAYS_PER_THREAD = 128
USUAL_THICKNESS = 0.06
"""Metres."""

_grids: weakref.WeakKeyDictionary[SkinnedGeometry, list[tuple[float, BodyGrid]]] = weakref.WeakKeyDictionary()


class BodyShell:
    """Space within `thickness` of a posed body's vertices, in world axes.

    Args:
        geometry: the body at rest; float32.
        T_world_canonical: (J,4,4) rigid transform of each bone.
        vertices: (V,3) metres, world: the posed surface.
        thickness: metres.
        shape_offset: (V,3) canonical vertices of the present shape minus those of `geometry`.
        surface: where the avatar's surface is: then rays are sampled only where there is something to be seen.
    """

    def __init__(
        self,
        geometry: SkinnedGeometry,
        T_world_canonical: Float[Tensor, "bones 4 4"],
        vertices: Float[Tensor, "vertices 3"],
        thickness: float = USUAL_THICKNESS,
        shape_offset: Float[Tensor, "vertices 3"] | None = None,
        surface: SurfaceTable | None = None,
    ) -> None:
        self.geometry, self.thickness, self.surface = geometry, thickness, surface
        self.transforms = T_world_canonical.detach()
        self.vertices = vertices.detach()
        self.rest = geometry.vertices if shape_offset is None else (geometry.vertices + shape_offset).detach()
        self.grid = _grid_of(geometry, len(T_world_canonical), thickness)

    @torch.no_grad()
    def query(self, points: Float[Tensor, "points 3"]) -> tuple[Int[Tensor, " points"], Float[Tensor, " points"]]:
        """Nearest vertex of points (N,3) of the world, and its distance in metres: inf (and vertex 0) outside."""
        vertex = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        distance = torch.full((len(points),), torch.inf, dtype=torch.float32, device=points.device)
        low, high = torch.aminmax(self.vertices, dim=0)
        near = ((points >= low - self.thickness) & (points <= high + self.thickness)).all(dim=1)
        index = torch.nonzero(near)[:, 0].int()
        if len(index):
            points = points.detach().float().contiguous()
            launch_over(
                query_kernel, len(index),
                [_bodies([[self]]), wp.from_torch(points, dtype=wp.vec3), wp.from_torch(index), float(self.thickness)],
                [wp.from_torch(vertex), wp.from_torch(distance)], points.device, POINTS_PER_THREAD,
            )  # fmt: skip
        return vertex, distance


def _grid_of(geometry: SkinnedGeometry, bones: int, thickness: float) -> BodyGrid:
    """The tables of a body, made once for as long as it lives (again for a thicker shell)."""
    known = _grids.setdefault(geometry, [])
    for covered, grid in known:
        if covered >= thickness and len(grid.base) == bones:
            return grid
    # Thin shells share the usual one's tables, and so find the same vertices.
    covered = max(thickness, USUAL_THICKNESS)
    known.append((covered, body_grid(geometry, bones, covered)))
    return known[-1][1]


@functools.lru_cache(maxsize=4)
def _tables(geometries: tuple[SkinnedGeometry, ...], grids: tuple[BodyGrid, ...]) -> dict[str, Tensor]:
    """What stays while people move, of all people one after the other."""
    device = geometries[0].vertices.device
    cell_start = torch.tensor(_starts([grid.cells for grid in grids]), dtype=torch.int32, device=device)
    return {
        "cell_base": (torch.stack([grid.base for grid in grids]) + cell_start[:, None]).flatten(),
        "size": torch.cat([grid.size for grid in grids]),
        "per_cell": torch.cat([grid.per_cell for grid in grids]),
        "low": torch.cat([grid.low for grid in grids]),
        "cells": torch.cat([grid.cells for grid in grids]),
        "neighbours": torch.cat([grid.neighbours for grid in grids]),
        "normals": torch.cat([one.normals for one in geometries]),
        "skin_indices": torch.cat([one.skin_indices.int() for one in geometries]),
        "skin_weights": torch.cat([one.skin_weights for one in geometries]),
    }


def _starts(parts: list[Tensor]) -> list[int]:
    """Where each part begins when they lie one after the other."""
    return [0, *itertools.accumulate(len(part) for part in parts[:-1])]


def _bodies(shells: list[list[BodyShell | None]]) -> Bodies:
    """What the kernels read, of people (rows) and frames of the batch."""
    start_warp()
    flat = [shell for row in shells for shell in row]
    there = [shell for shell in flat if shell is not None]
    # Somebody who is in no frame has another's tables, which nobody looks at.
    rows = [next((shell for shell in row if shell is not None), there[0]) for row in shells]
    device, bones = there[0].vertices.device, len(there[0].transforms)
    nobody = torch.zeros_like(there[0].transforms)
    first_rows = iter(_starts([shell.vertices for shell in there]))
    entries = torch.tensor(
        [[shell is not None, 0 if shell is None else next(first_rows)] for shell in flat], dtype=torch.int32
    ).to(device)
    of_people = torch.tensor(_starts([shell.rest for shell in rows]), dtype=torch.int32, device=device)
    transforms = torch.stack([nobody if shell is None else shell.transforms for shell in flat])
    bodies = Bodies()
    bodies.frames, bodies.bones = len(shells[0]), bones
    bodies.present = wp.from_torch(entries[:, 0].contiguous())
    bodies.vertex_base = wp.from_torch(entries[:, 1].contiguous())
    bodies.rest_base = wp.from_torch(of_people)
    bodies.posed = wp.from_torch(torch.cat([shell.vertices for shell in there]), dtype=wp.vec3)
    bodies.rest = wp.from_torch(torch.cat([shell.rest for shell in rows]), dtype=wp.vec3)
    widths = [(0.0, 0.0) if shell.surface is None else (shell.surface.width, shell.surface.shift) for shell in rows]
    bodies.surface_width = wp.from_torch(torch.tensor(widths, device=device), dtype=wp.vec2)
    heights = [shell.rest[:, 0] if shell.surface is None else shell.surface.offset for shell in rows]
    bodies.surface = wp.from_torch(torch.cat(heights))
    bodies.transforms = wp.from_torch(transforms[:, :, :3].reshape(-1, 3, 4), dtype=wp.vec4)
    tables = _tables(tuple(shell.geometry for shell in rows), tuple(shell.grid for shell in rows))
    for name, dtype in (("size", wp.vec3i), ("low", wp.vec3), ("normals", wp.vec3)):
        setattr(bodies, name, wp.from_torch(tables[name], dtype=dtype))
    for name in ("cell_base", "per_cell", "cells", "neighbours", "skin_indices", "skin_weights"):
        setattr(bodies, name, wp.from_torch(tables[name]))
    return bodies


@torch.no_grad()
def march(
    shells: list[list[BodyShell | None]],
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    frame: Int[Tensor, " rays"],
    shift: Float[Tensor, "people rays"],
    step: float,
    shell: float,
    inside: float,
    most: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Samples z = (k + shift) step of all rays and people that lie in a shell and are not hidden.

    Args:
        shells: by person and frame of the batch; None where a person is absent.
        origins, directions, frame: of the rays, those of one frame together.
        shift: of each person's lattice on each ray.
        step: metres.
        shell: metres from the vertices within which samples are kept.
        inside: metres under the skin: a ray ends at the first sample deeper than that, in anybody; infinite: never.
        most: samples of one person kept on one ray.

    Returns:
        person, ray, k and vertex of each sample (int64), sorted by person, ray and k.
    """
    bodies = _bodies(shells)
    people, rays, device = len(shells), len(frame), origins.device
    number = torch.empty(people, rays, most, dtype=torch.int32, device=device)
    vertex = torch.empty_like(number)
    count = torch.zeros(people, rays, dtype=torch.int32, device=device)
    last = torch.empty(rays, device=device)
    inputs = [
        bodies, people, wp.from_torch(origins.contiguous(), dtype=wp.vec3),
        wp.from_torch(directions.contiguous(), dtype=wp.vec3), wp.from_torch(frame.int()),
        wp.from_torch(shift.contiguous()), float(step), float(shell), float(inside),
    ]  # fmt: skip
    outputs = [wp.from_torch(number), wp.from_torch(vertex), wp.from_torch(count), wp.from_torch(last)]
    launch_over(march_kernel(bodies.bones), rays, inputs, outputs, device, RAYS_PER_THREAD)
    filled = torch.arange(most, device=device, dtype=torch.int32) < count[..., None]
    depth = (number + shift[..., None]) * step
    person, ray, slot = torch.nonzero(filled & (depth <= last[:, None]), as_tuple=True)
    return person, ray, number[person, ray, slot].long(), vertex[person, ray, slot].long()
