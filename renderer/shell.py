"""The shell around a surface, exactly: which parts of space lie near its vertices, and the nearest vertex there.

A k-d tree over the vertices answers, in any precision, on the CPU. What is rendered in numbers takes
`renderer.body_shell`, which needs nothing built when a body moves.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

VOXEL = 0.025
"""Metres, side of the occupancy cells."""
POINTS_PER_WORKER = 1500
"""Fewer points are not worth another thread."""


class Shell:
    """Space within `thickness` of a body's vertices, in world axes.

    Args:
        vertices: (V,3) metres, world.
        thickness: metres.
        voxel: metres, side of the occupancy cells.

    Raises:
        ValueError: vertices that are not (V,3) finite numbers, or lengths that are not positive.
    """

    def __init__(
        self, vertices: Float[Tensor, "vertices 3"] | np.ndarray, thickness: float = 0.06, voxel: float = VOXEL
    ) -> None:
        vertices = torch.as_tensor(vertices).detach()
        if vertices.ndim != 2 or vertices.shape[1] != 3 or len(vertices) == 0:
            raise ValueError(f"shell: vertices of shape {tuple(vertices.shape)}, expected (V, 3)")
        if not bool(torch.isfinite(vertices).all()):
            raise ValueError("shell: vertices that are not finite")
        if thickness <= 0 or voxel <= 0:
            raise ValueError(f"shell: thickness {thickness} m and voxel {voxel} m, expected positive lengths")
        self.thickness = thickness
        self.voxel = voxel
        self.device = vertices.device
        self._nearest = _TreeQuery(vertices)
        self._build_occupancy(vertices)

    def _build_occupancy(self, vertices: Tensor) -> None:
        """Mark the cells that reach into the shell: those whose centre is within thickness + half a diagonal."""
        diagonal = self.voxel * 3**0.5
        around = int((self.thickness + diagonal) / self.voxel)
        # One empty layer all around takes the rounding at the border.
        self.origin = vertices.amin(dim=0) - (around + 1) * self.voxel
        cells = ((vertices - self.origin) / self.voxel).long()
        size = (cells.amax(dim=0) + around + 2).tolist()
        occupied = torch.zeros(size, dtype=torch.bool, device=self.device)
        flat = occupied.view(-1)
        flat[(cells[:, 0] * size[1] + cells[:, 1]) * size[2] + cells[:, 2]] = True
        with_vertex = torch.nonzero(flat)[:, 0]
        # Cells at this distance from a cell with a vertex are in reach for certain, or may be; those ask.
        certain = (with_vertex[:, None] + self._ball(self.thickness, size)).flatten()
        perhaps = torch.zeros_like(flat)
        perhaps.index_fill_(0, (with_vertex[:, None] + self._ball(self.thickness + diagonal, size)).flatten(), True)
        perhaps.index_fill_(0, certain, False)
        flat.index_fill_(0, certain, True)
        index = torch.nonzero(perhaps)[:, 0]
        centres = self.origin + (self._cells(index, size) + 0.5) * self.voxel
        _, distance = self._nearest(centres, self.thickness + diagonal / 2)
        flat[index[torch.isfinite(distance)]] = True
        self.occupancy = occupied
        cells = self._cells(torch.nonzero(flat)[:, 0], size)
        self.low = self.origin + cells.amin(dim=0) * self.voxel
        self.high = self.origin + (cells.amax(dim=0) + 1) * self.voxel

    def _ball(self, radius: float, size: list[int]) -> Tensor:
        """Offsets, in the flattened grid, of the cells whose centre is within a radius of another's centre."""
        reach = int(radius / self.voxel)
        axis = torch.arange(-reach, reach + 1, device=self.device)
        x, y, z = torch.cartesian_prod(axis, axis, axis).unbind(dim=1)
        inside = (x * x + y * y + z * z) * self.voxel**2 <= radius**2
        return ((x * size[1] + y) * size[2] + z)[inside]

    @staticmethod
    def _cells(index: Tensor, size: list[int]) -> Tensor:
        """Coordinates (N,3) of cells given in the flattened grid."""
        row = index // size[2]
        return torch.stack([row // size[1], row % size[1], index % size[2]], dim=1)

    @property
    def bounds(self) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
        """Lowest and highest corner, metres, of a box in world axes that holds all occupied cells."""
        return self.low, self.high

    def occupied(self, points: Float[Tensor, "points 3"]) -> Bool[Tensor, " points"]:
        """Whether points (N,3) of the world lie in a cell that reaches into the shell. Never misses a point of it."""
        size = torch.tensor(self.occupancy.shape, device=self.device)
        cell = ((points.detach() - self.origin) / self.voxel).floor().long()
        inside = ((cell >= 0) & (cell < size)).all(dim=1)
        x, y, z = torch.minimum(cell.clamp(min=0), size - 1).unbind(dim=1)
        return self.occupancy[x, y, z] & inside

    def query(self, points: Float[Tensor, "points 3"]) -> tuple[Int[Tensor, " points"], Float[Tensor, " points"]]:
        """Nearest vertex of points (N,3) of the world, and its distance in metres: inf (and vertex 0) outside."""
        return self._nearest(points.detach(), self.thickness)


class _TreeQuery:
    """Nearest vertex by a k-d tree bounded in distance; settings chosen for speed of building and asking together."""

    def __init__(self, vertices: Tensor) -> None:
        self.tree = cKDTree(vertices.double().cpu().numpy(), leafsize=32, balanced_tree=False, compact_nodes=False)

    def __call__(self, points: Tensor, bound: float) -> tuple[Tensor, Tensor]:
        workers = max(1, min(torch.get_num_threads(), len(points) // POINTS_PER_WORKER))
        distance, vertex = self.tree.query(points.double().cpu().numpy(), distance_upper_bound=bound, workers=workers)
        vertex = torch.from_numpy(vertex).to(points.device)
        distance = torch.from_numpy(distance).to(points)
        return vertex.masked_fill_(torch.isinf(distance), 0), distance
