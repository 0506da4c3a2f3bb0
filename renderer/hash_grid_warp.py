"""The hash-grid encoding of `renderer.hash_grid` as NVIDIA Warp kernels: float32, CPU and CUDA from one source.

Forward and both gradients (to the table and to the positions) stand behind one `torch.autograd.Function`. Tensors are
shared with torch without a copy; on CUDA the kernels run on torch's current stream.

On the CPU the work is cut into as many launches as torch has threads: by points going forward, and by levels going
back, where each row of the table then belongs to one thread and the sums are the same in every run with that number of
threads.

Nothing here is compiled or initialised at import; kernels are built for a number of features at their first use and
kept by Warp in its own cache folder.
"""

import functools
from typing import NamedTuple

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderer.hash_grid import HASH_PRIMES, GridLayout, check_encoder
from renderer.warp_launch import launch_over, run_side_by_side, start_warp, stream_of, threads_for

wp.set_module_options({"enable_backward": False})

POINTS_PER_THREAD = 1024  # fewer are not worth handing to another thread
PRIME_Y = wp.constant(wp.uint32(HASH_PRIMES[1]))
PRIME_Z = wp.constant(wp.uint32(HASH_PRIMES[2]))


@wp.func
def corner_row(x: int, y: int, z: int, side: int, mask: int):
    """Row of a corner within its level's part of the table; a mask of 0 stands for dense indexing."""
    if mask == 0:
        return x + side * (y + side * z)
    return int((wp.uint32(x) ^ (wp.uint32(y) * PRIME_Y) ^ (wp.uint32(z) * PRIME_Z)) & wp.uint32(mask))


@wp.func
def scaled_position(position: wp.vec3, cells: float):
    return wp.vec3(
        wp.clamp(position[0], 0.0, 1.0) * cells,
        wp.clamp(position[1], 0.0, 1.0) * cells,
        wp.clamp(position[2], 0.0, 1.0) * cells,
    )


@wp.func
def first_corner(scaled: wp.vec3, cells: int):
    """The cell of a point; clamped as an integer too, so that no number, not even NaN, reads outside the table."""
    return wp.vec3i(
        wp.clamp(int(scaled[0]), 0, cells - 1),
        wp.clamp(int(scaled[1]), 0, cells - 1),
        wp.clamp(int(scaled[2]), 0, cells - 1),
    )


@wp.func
def blend(fraction: float, far: int):
    """Linear weight of the near (0) or far (1) corner along one axis."""
    return float(far) * fraction + float(1 - far) * (1.0 - fraction)


@wp.func
def inside(coordinate: float):
    """1 where a clamped coordinate still moves its value, 0 outside the cube."""
    if coordinate >= 0.0 and coordinate <= 1.0:
        return 1.0
    return 0.0


class Kernels(NamedTuple):
    vector: type
    forward: wp.Kernel
    backward: wp.Kernel


@functools.cache
def _kernels(features: int) -> Kernels:
    """The two kernels for a number of features per corner."""
    vector = wp.types.vector(length=features, dtype=wp.float32)

    @wp.kernel(enable_backward=False)
    def encode(
        positions: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=vector),
        levels: wp.array(dtype=wp.vec3i),
        level_weights: wp.array(dtype=float),
        start: int,
        encoded: wp.array2d(dtype=vector),
    ):
        point = start + wp.tid()
        for level in range(encoded.shape[1]):
            total = vector()
            weight = level_weights[level]
            if weight != 0.0:
                cells, offset, mask = levels[level][0], levels[level][1], levels[level][2]
                scaled = scaled_position(positions[point], float(cells))
                cell = first_corner(scaled, cells)
                for corner in range(8):
                    i, j, k = corner & 1, (corner >> 1) & 1, corner >> 2
                    row = offset + corner_row(cell[0] + i, cell[1] + j, cell[2] + k, cells + 1, mask)
                    x = blend(scaled[0] - float(cell[0]), i)
                    y = blend(scaled[1] - float(cell[1]), j)
                    z = blend(scaled[2] - float(cell[2]), k)
                    total += table[row] * (x * y * z)
            encoded[point, level] = total * weight

    @wp.kernel(enable_backward=False)
    def encode_backward(
        positions: wp.array(dtype=wp.vec3),
        table: wp.array(dtype=vector),
        levels: wp.array(dtype=wp.vec3i),
        level_weights: wp.array(dtype=float),
        grad_encoded: wp.array2d(dtype=vector),
        first_level: int,
        want_table: int,
        want_positions: int,
        grad_table: wp.array(dtype=vector),
        grad_positions: wp.array(dtype=wp.vec3),
    ):
        task = wp.tid()
        point = task % positions.shape[0]
        level = first_level + task // positions.shape[0]
        weight = level_weights[level]
        if weight == 0.0:
            return
        cells, offset, mask = levels[level][0], levels[level][1], levels[level][2]
        position = positions[point]
        scaled = scaled_position(position, float(cells))
        cell = first_corner(scaled, cells)
        grad = grad_encoded[point, level] * weight
        slope_x, slope_y, slope_z = weight * 0.0, weight * 0.0, weight * 0.0
        for corner in range(8):
            i, j, k = corner & 1, (corner >> 1) & 1, corner >> 2
            row = offset + corner_row(cell[0] + i, cell[1] + j, cell[2] + k, cells + 1, mask)
            x = blend(scaled[0] - float(cell[0]), i)
            y = blend(scaled[1] - float(cell[1]), j)
            z = blend(scaled[2] - float(cell[2]), k)
            if want_table != 0:
                wp.atomic_add(grad_table, row, grad * (x * y * z))
            if want_positions != 0:
                value = wp.dot(table[row], grad)
                slope_x += float(2 * i - 1) * y * z * value
                slope_y += float(2 * j - 1) * x * z * value
                slope_z += float(2 * k - 1) * x * y * value
        if want_positions != 0:
            slope = wp.vec3(slope_x * inside(position[0]), slope_y * inside(position[1]), slope_z * inside(position[2]))
            wp.atomic_add(grad_positions, point, slope * float(cells))

    return Kernels(vector, encode, encode_backward)


@functools.cache
def _level_table(layout: GridLayout, device: torch.device) -> Tensor:
    """(L,3) int32: cells a side, first row and hash mask (0: dense) of every level."""
    rows = [
        (cells, start, 0 if dense else 2**layout.log2_table - 1)
        for cells, start, dense in zip(layout.resolutions, layout.offsets[:-1], layout.dense, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.int32, device=device)


@functools.cache
def _no_weights(levels: int, device: torch.device) -> Tensor:
    return torch.ones(levels, device=device)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, positions: Tensor, table: Tensor, layout: GridLayout, level_weights: Tensor, levels: int
    ) -> Tensor:
        positions, table = positions.detach().contiguous(), table.detach().contiguous()
        ctx.save_for_backward(positions, table, level_weights)
        ctx.layout, ctx.levels = layout, levels
        points, device = len(positions), positions.device
        encoded = torch.empty(points, levels, layout.features, device=device)
        kernels = _kernels(layout.features)
        inputs = _inputs(kernels, positions, table, layout, level_weights)
        output = wp.from_torch(encoded, dtype=kernels.vector)
        launch_over(kernels.forward, points, inputs, [output], device, POINTS_PER_THREAD)
        return encoded.view(points, levels * layout.features)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_encoded: Tensor):
        positions, table, level_weights = ctx.saved_tensors
        layout, levels = ctx.layout, ctx.levels
        want_positions, want_table = ctx.needs_input_grad[:2]
        points, device = len(positions), positions.device
        threads = min(threads_for(points, POINTS_PER_THREAD, device), levels)
        kernels = _kernels(layout.features)
        inputs = _inputs(kernels, positions, table, layout, level_weights)
        grad = grad_encoded.contiguous().view(points, levels, layout.features)
        inputs.append(wp.from_torch(grad, dtype=kernels.vector))
        # One array of positions' gradients per thread; what is not wanted is given as one row that is never touched.
        grad_table = torch.zeros_like(table if want_table else table[:1])
        grad_positions = torch.zeros(threads, points if want_positions else 1, 3, device=device)
        table_out = wp.from_torch(grad_table, dtype=kernels.vector)
        stream = stream_of(device)

        def go_back(first: int, last: int, stride: int, at_once: int, positions_out: wp.array) -> None:
            for level in range(first, last, stride):
                wp.launch(
                    kernels.backward,
                    dim=points * at_once,
                    inputs=[*inputs, level, int(want_table), int(want_positions)],
                    outputs=[table_out, positions_out],
                    device=inputs[0].device,
                    stream=stream,
                )

        outs = [wp.from_torch(part, dtype=wp.vec3) for part in grad_positions]
        if device.type == "cpu":
            run_side_by_side([functools.partial(go_back, n, levels, threads, 1, out) for n, out in enumerate(outs)])
        else:
            go_back(0, 1, 1, levels, outs[0])
        return (
            (grad_positions[0] if threads == 1 else grad_positions.sum(dim=0)) if want_positions else None,
            grad_table if want_table else None,
            None,
            None,
            None,
        )


def _inputs(kernels: Kernels, positions: Tensor, table: Tensor, layout: GridLayout, level_weights: Tensor) -> list:
    return [
        wp.from_torch(positions, dtype=wp.vec3),
        wp.from_torch(table, dtype=kernels.vector),
        wp.from_torch(_level_table(layout, positions.device), dtype=wp.vec3i),
        wp.from_torch(level_weights),
    ]


def hash_encode(
    positions: Tensor, table: Tensor, layout: GridLayout, level_weights: Tensor | None = None, levels: int | None = None
) -> Tensor:
    """As `renderer.hash_grid.hash_encode`, for float32 tensors; not differentiable twice. Call `check` first, once."""
    if level_weights is None:
        level_weights = _no_weights(layout.levels, positions.device)
    levels = layout.levels if levels is None else levels
    return _Encode.apply(positions, table, layout, level_weights.detach().contiguous(), levels)


@functools.cache
def check(device: torch.device, features: int = 4) -> None:
    """Initialise Warp, compile the kernels for a device and compare them with the plain encoding on a few points.

    Raises:
        RuntimeError: the values or gradients differ. Warp's own errors pass through.
    """
    start_warp()
    check_encoder(hash_encode, device, features)
