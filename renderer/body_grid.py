"""Where a posed body's nearest vertex is to be looked for, known before it is posed: tables in the body's own frame.

Each bone carries a grid in canonical space, moved rigidly with the bone: its cells hold the nearest of the vertices
that hang mostly on that bone. A point of the world is looked up in the grids of the bones near it; from each of the
few answers a walk over neighbouring vertices goes downhill, and the best of their ends is the nearest vertex. So
nothing is built when a body moves, as a tree over its posed vertices would have to be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from renderer.skinning import SkinnedGeometry

LARGEST_CELL, SMALLEST_CELL = 0.02, 0.008
"""Metres, side of a bone's cells: small where vertices lie close, as on fingers, large so that a body's tables fit in a
core's cache."""
VERTICES_ACROSS = 1.5
"""Distances of neighbouring vertices that make the side of a cell."""
MARGIN = 0.025
"""Metres beyond the shell that the tables cover: what blending and shape move the skin away from its bones."""
NEIGHBOURS = 24
"""Vertices a walk may go on to from each vertex."""
SKIP_UNIT = 0.005
"""Metres."""
FARTHEST_SKIP = 0.06
"""Metres; distances beyond are not looked for."""


@dataclass(frozen=True, eq=False)
class BodyGrid:
    """The tables of one body.

    Attributes:
        cells: the vertex for each cell, one grid after the other, x slowest; where none is in reach -1 - s, with s in
            units of `SKIP_UNIT` that may be gone in any direction without coming into reach.
        base: (J,) first cell of each bone's grid.
        size: (J, 3) cells of each bone's grid; zero for a bone without vertices.
        low: (J, 3) metres, canonical space: corner of each bone's grid.
        per_cell: (J,) 1/m: one over the side of its cells.
        neighbours: (V, K) the nearest other vertices of each vertex.
    """

    cells: Int[Tensor, " cells"]
    base: Int[Tensor, " bones"]
    size: Int[Tensor, "bones 3"]
    low: Float[Tensor, "bones 3"]
    per_cell: Float[Tensor, " bones"]
    neighbours: Int[Tensor, "vertices neighbours"]


def body_grid(geometry: SkinnedGeometry, bones: int, thickness: float) -> BodyGrid:
    """Make the tables of a body for points up to `thickness` metres from its posed vertices.

    Args:
        geometry: the body; its device is that of the tables.
        bones: number of bones it is posed with.
        thickness: metres.
    """
    vertices = geometry.vertices.detach().double().cpu().numpy()
    strongest = geometry.skin_weights.argmax(dim=1, keepdim=True)
    owner = geometry.skin_indices.gather(1, strongest)[:, 0].cpu().numpy()
    count = min(NEIGHBOURS, len(vertices) - 1)
    away, around = cKDTree(vertices).query(vertices, k=count + 1)
    cells, base, size, low = [], [], np.zeros((bones, 3), np.int32), np.zeros((bones, 3), np.float32)
    per_cell = np.ones(bones, np.float32)
    begin = 0
    for bone in range(bones):
        own = np.flatnonzero(owner == bone)
        base.append(begin)
        if not len(own):
            continue
        cell = np.clip(VERTICES_ACROSS * np.median(away[own, 1:4]), SMALLEST_CELL, LARGEST_CELL)
        reach = thickness + MARGIN + cell * 3**0.5 / 2
        per_cell[bone] = 1 / cell
        low[bone] = vertices[own].min(axis=0) - reach
        size[bone] = np.ceil((vertices[own].max(axis=0) + reach - low[bone]) / cell)
        place = np.stack(np.meshgrid(*(np.arange(n) for n in size[bone]), indexing="ij"), axis=-1).reshape(-1, 3)
        tree = cKDTree(vertices[own], leafsize=32, balanced_tree=False, compact_nodes=False)
        distance, index = tree.query(
            low[bone] + (place + 0.5) * cell,
            distance_upper_bound=reach + FARTHEST_SKIP,
            workers=torch.get_num_threads(),
        )
        skip = (np.minimum(distance - reach, FARTHEST_SKIP) / SKIP_UNIT).astype(np.int32)
        near = distance <= reach
        cells.append(np.where(near, own[np.minimum(index, len(own) - 1)], -1 - skip).astype(np.int32))
        begin += len(place)
    device = geometry.vertices.device
    return BodyGrid(
        cells=torch.from_numpy(np.concatenate(cells)).to(device),
        base=torch.tensor(base, dtype=torch.int32, device=device),
        size=torch.from_numpy(size).to(device),
        low=torch.from_numpy(low).to(device),
        per_cell=torch.from_numpy(per_cell).to(device),
        neighbours=torch.from_numpy(around.reshape(len(vertices), -1)[:, 1:].astype(np.int32)).to(device),
    )
