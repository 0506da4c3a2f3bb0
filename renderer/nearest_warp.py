"""Nearest vertex within a distance by a Warp hash grid: what answers on CUDA; the same kernel runs on the CPU in tests.

Imported only when used; compiling the kernel (seconds, once on a machine) waits for the first query.
"""

from __future__ import annotations

import torch
import warp as wp
from jaxtyping import Float, Int
from torch import Tensor

MOST_CELLS = 128
"""Cells of the grid along an axis; space beyond wraps around, which costs time but no correctness."""


@wp.kernel(enable_backward=False)
def _nearest_kernel(
    grid: wp.uint64,
    vertices: wp.array(dtype=wp.vec3),
    points: wp.array(dtype=wp.vec3),
    bound: float,
    vertex: wp.array(dtype=wp.int64),
    distance: wp.array(dtype=float),
):
    i = wp.tid()
    point = points[i]
    best = bound * bound
    found = wp.int32(-1)
    query = wp.hash_grid_query(grid, point, bound)
    candidate = wp.int32(0)
    while wp.hash_grid_query_next(query, candidate):
        away = vertices[candidate] - point
        square = wp.dot(away, away)
        # At equal distance the lower index wins, so that the answer does not depend on the grid's order.
        if square < best or (square == best and candidate < found):
            best = square
            found = candidate
    if found >= 0:
        vertex[i] = wp.int64(found)
        distance[i] = wp.sqrt(best)


class WarpNearest:
    """Nearest of some vertices.

    Args:
        vertices: (V,3) metres, on CPU or CUDA; float32 is what the kernel computes in.
        spacing: metres, side of the grid's cells; fastest when it equals the distance asked about.
    """

    def __init__(self, vertices: Float[Tensor, "vertices 3"], spacing: float) -> None:
        if hasattr(wp.config, "log_level"):
            wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
        else:
            wp.config.quiet = True
        wp.init()
        self.device = wp.device_from_torch(vertices.device)
        self.vertices = vertices.float().contiguous()
        self.grid = wp.HashGrid(MOST_CELLS, MOST_CELLS, MOST_CELLS, device=self.device)
        with self._stream():
            self.grid.build(wp.from_torch(self.vertices, dtype=wp.vec3), spacing)

    def __call__(
        self, points: Float[Tensor, "points 3"], bound: float
    ) -> tuple[Int[Tensor, " points"], Float[Tensor, " points"]]:
        """Nearest vertex of points (N,3) within `bound` metres, and its distance; vertex 0 and inf where none is."""
        vertex = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        distance = torch.full((len(points),), torch.inf, dtype=torch.float32, device=points.device)
        if len(points):
            asked = points.float().contiguous()
            with self._stream():
                wp.launch(
                    _nearest_kernel,
                    dim=len(points),
                    inputs=[
                        self.grid.id,
                        wp.from_torch(self.vertices, dtype=wp.vec3),
                        wp.from_torch(asked, dtype=wp.vec3),
                        float(bound),
                        wp.from_torch(vertex),
                        wp.from_torch(distance),
                    ],
                    device=self.device,
                )
        return vertex, distance.to(points.dtype)

    def _stream(self) -> wp.ScopedDevice | wp.ScopedStream:
        """Warp's work goes where torch's does."""
        if self.device.is_cuda:
            return wp.ScopedStream(wp.stream_from_torch(torch.cuda.current_stream(self.vertices.device)))
        return wp.ScopedDevice(self.device)
