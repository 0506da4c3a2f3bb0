"""How deep and how far bodies are in one another."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.spatial import cKDTree

CELL = 0.01
"""Metres: edge of the cells that volumes are counted in."""


@dataclass(frozen=True)
class Surface:
    """A closed body in the world.

    Attributes:
        vertices: (V, 3) metres.
        normals: (V, 3) unit, outwards.
    """

    vertices: Float[np.ndarray, "vertices 3"]
    normals: Float[np.ndarray, "vertices 3"]

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.vertices)

    def depth(self, points: Float[np.ndarray, "points 3"]) -> Float[np.ndarray, " points"]:
        """Metres below the surface, 0 outside.

        The sign is that of the nearest vertex's normal, the depth the distance to that vertex: right to about the
        spacing of the vertices (10 mm) in the volume, and for points near the surface better than that.
        """
        result = np.zeros(len(points))
        low, high = self.vertices.min(axis=0), self.vertices.max(axis=0)
        near = np.flatnonzero(np.all((points > low) & (points < high), axis=1))
        if len(near):
            distance, vertex = self._tree.query(points[near])
            out = ((points[near] - self.vertices[vertex]) * self.normals[vertex]).sum(axis=1)
            result[near] = np.where(out < 0, distance, 0.0)
        return result


def penetration(a: Surface, b: Surface) -> tuple[float, float]:
    """Depth in metres of the deepest vertex of either body inside the other, and their common volume in litres."""
    depths = [b.depth(a.vertices), a.depth(b.vertices)]
    inside = np.concatenate([a.vertices[depths[0] > 0], b.vertices[depths[1] > 0]])
    if not len(inside):
        return 0.0, 0.0
    low, high = inside.min(axis=0) - CELL, inside.max(axis=0) + CELL
    axes = [np.arange(start + CELL / 2, stop, CELL) for start, stop in zip(low, high, strict=True)]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    cells = cells[a.depth(cells) > 0]
    common = int((b.depth(cells) > 0).sum()) if len(cells) else 0
    return float(max(depth.max() for depth in depths)), 1000 * common * CELL**3
