"""Inverse skinning and the distance to the skin in one Warp kernel each way: float32, CPU and CUDA from one source.

The same as `renderer.skinning.inverse_skin` followed by `signed_body_distance`, whose gradients are written out: with
x the point in canonical space, [A b] the blend of its bones and g the gradient by x of what came out,

    dL/dT_j = -w_j (A^-T g) (x, 1)^T,    dL/dshape = -g at the point's vertex.

Compiled at its first use and kept by Warp in its own cache folder.
"""

import functools

import torch
import warp as wp
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderer.skinning import EUCLIDEAN_DISTANCE, PLANE_DISTANCE, SMALLEST_DETERMINANT, PosedPerson
from renderer.warp_launch import launch_over, run_side_by_side, start_warp, stream_of, threads_for

wp.set_module_options({"enable_backward": False})

PLANE = wp.constant(PLANE_DISTANCE)
EUCLIDEAN = wp.constant(EUCLIDEAN_DISTANCE)
DETERMINANT = wp.constant(SMALLEST_DETERMINANT)
POINTS_PER_THREAD = 2048


@wp.func
def smooth(t: float):
    s = wp.clamp(t, 0.0, 1.0)
    return s * s * (3.0 - 2.0 * s)


@wp.func
def inverse_of(first: wp.vec3, second: wp.vec3, third: wp.vec3):
    """Inverse of the matrix of these rows, as far as it has one."""
    p, q, r = wp.cross(second, third), wp.cross(third, first), wp.cross(first, second)
    determinant = wp.dot(first, p)
    if wp.abs(determinant) < DETERMINANT:
        determinant = DETERMINANT
    return wp.matrix_from_cols(p / determinant, q / determinant, r / determinant)


@wp.func
def skin_distance(away: wp.vec3, normal: wp.vec3):
    """`renderer.skinning.signed_body_distance` of a point at `away` from its nearest vertex."""
    plane = wp.dot(away, normal)
    length = wp.length(away)
    far = wp.min(wp.max(2.0 * plane, -length), length)
    return plane + smooth((length - PLANE) / (EUCLIDEAN - PLANE)) * (far - plane)


@wp.kernel(enable_backward=False)
def to_canonical(
    points: wp.array(dtype=wp.vec3),
    frame: wp.array(dtype=wp.int64),
    vertex: wp.array(dtype=wp.int64),
    transforms: wp.array2d(dtype=wp.vec4),  # (frames * bones, 3): rows of world from canonical
    bones: int,
    skin_indices: wp.array2d(dtype=wp.int64),
    skin_weights: wp.array2d(dtype=float),
    rest: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    shape: wp.array(dtype=wp.vec3),
    has_shape: int,
    start: int,
    x_ref: wp.array(dtype=wp.vec3),
    inverse: wp.array(dtype=wp.mat33),
    distance: wp.array(dtype=float),
):
    i = start + wp.tid()
    v = int(vertex[i])
    point = points[i]
    a, b, c = wp.vec4(), wp.vec4(), wp.vec4()
    for n in range(skin_indices.shape[1]):
        row = int(frame[i]) * bones + int(skin_indices[v, n])
        weight = skin_weights[v, n]
        a += weight * transforms[row, 0]
        b += weight * transforms[row, 1]
        c += weight * transforms[row, 2]
    turn = inverse_of(wp.vec3(a[0], a[1], a[2]), wp.vec3(b[0], b[1], b[2]), wp.vec3(c[0], c[1], c[2]))
    inverse[i] = turn
    x = turn * wp.vec3(point[0] - a[3], point[1] - b[3], point[2] - c[3])
    if has_shape != 0:
        x = x - shape[v]
    x_ref[i] = x
    distance[i] = skin_distance(x - rest[v], normals[v])


@wp.kernel(enable_backward=False)
def to_canonical_backward(
    frame: wp.array(dtype=wp.int64),
    vertex: wp.array(dtype=wp.int64),
    bones: int,
    skin_indices: wp.array2d(dtype=wp.int64),
    skin_weights: wp.array2d(dtype=float),
    rest: wp.array(dtype=wp.vec3),
    normals: wp.array(dtype=wp.vec3),
    shape: wp.array(dtype=wp.vec3),
    has_shape: int,
    x_ref: wp.array(dtype=wp.vec3),
    inverse: wp.array(dtype=wp.mat33),
    by_x: wp.array(dtype=wp.vec3),
    by_distance: wp.array(dtype=float),
    start: int,
    by_points: wp.array(dtype=wp.vec3),
    by_transforms: wp.array2d(dtype=wp.vec4),
    by_shape: wp.array(dtype=wp.vec3),
):
    i = start + wp.tid()
    v = int(vertex[i])
    x = x_ref[i]
    normal = normals[v]
    away = x - rest[v]
    plane = wp.dot(away, normal)
    length = wp.length(away)
    unit = away / wp.max(length, 1.0e-12)
    far = 2.0 * plane
    far_slope = 2.0 * normal
    if far > length:
        far = length
        far_slope = unit
    if far < -length:
        far = -length
        far_slope = -unit
    t = (length - PLANE) / (EUCLIDEAN - PLANE)
    share = smooth(t)
    rise = wp.clamp(t, 0.0, 1.0)
    rise = 6.0 * rise * (1.0 - rise) / (EUCLIDEAN - PLANE)
    slope = (1.0 - share) * normal + share * far_slope + rise * (far - plane) * unit
    g = by_x[i] + by_distance[i] * slope
    pull = wp.transpose(inverse[i]) * g
    by_points[i] = pull
    if has_shape != 0:
        wp.atomic_add(by_shape, v, -g)
        x = x + shape[v]
    for n in range(skin_indices.shape[1]):
        weight = -skin_weights[v, n]
        if weight != 0.0:
            row = int(frame[i]) * bones + int(skin_indices[v, n])
            for axis in range(3):
                by = weight * pull[axis]
                wp.atomic_add(by_transforms, row, axis, wp.vec4(by * x[0], by * x[1], by * x[2], by))


class _ToCanonical(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points: Tensor, transforms: Tensor, shape: Tensor | None, person, frame: Tensor, vertex: Tensor):
        start_warp()
        geometry = person.geometry
        N, device = len(points), points.device
        points = points.detach().contiguous()
        rows = transforms.detach()[:, :, :3].reshape(-1, 3, 4)
        offset = geometry.vertices if shape is None else shape.detach().contiguous()
        frame, vertex = frame.contiguous(), vertex.contiguous()
        x_ref, inverse = torch.empty(N, 3, device=device), torch.empty(N, 3, 3, device=device)
        distance = torch.empty(N, device=device)
        ctx.body = [
            int(transforms.shape[1]), *_geometry_arrays(geometry), wp.from_torch(offset, dtype=wp.vec3),
            int(shape is not None),
        ]  # fmt: skip
        inputs = [
            wp.from_torch(points, dtype=wp.vec3), wp.from_torch(frame), wp.from_torch(vertex),
            wp.from_torch(rows, dtype=wp.vec4), *ctx.body,
        ]  # fmt: skip
        outputs = [
            wp.from_torch(x_ref, dtype=wp.vec3), wp.from_torch(inverse, dtype=wp.mat33), wp.from_torch(distance)
        ]  # fmt: skip
        launch_over(to_canonical, N, inputs, outputs, device, POINTS_PER_THREAD)
        ctx.save_for_backward(frame, vertex, x_ref, inverse, offset)
        ctx.frames = len(transforms)
        return x_ref, distance

    @staticmethod
    @once_differentiable
    def backward(ctx, by_x: Tensor, by_distance: Tensor):
        frame, vertex, x_ref, inverse, offset = ctx.saved_tensors
        N, device, bones = len(x_ref), x_ref.device, ctx.body[0]
        threads = threads_for(N, POINTS_PER_THREAD, device)
        by_points = torch.empty(N, 3, device=device)
        # Sums of each thread's own, so that they are the same in every run with that number of threads.
        by_transforms = torch.zeros(threads, ctx.frames * bones, 4, 4, device=device)
        by_shape = torch.zeros(threads, len(offset) if ctx.body[-1] else 1, 3, device=device)
        inputs = [
            wp.from_torch(frame), wp.from_torch(vertex), *ctx.body, wp.from_torch(x_ref.detach(), dtype=wp.vec3),
            wp.from_torch(inverse, dtype=wp.mat33), wp.from_torch(by_x.contiguous(), dtype=wp.vec3),
            wp.from_torch(by_distance.contiguous()),
        ]  # fmt: skip
        jobs = []
        for n in range(threads):
            outputs = [
                wp.from_torch(by_points, dtype=wp.vec3), wp.from_torch(by_transforms[n], dtype=wp.vec4),
                wp.from_torch(by_shape[n], dtype=wp.vec3),
            ]  # fmt: skip
            jobs.append(functools.partial(_launch, to_canonical_backward, N, n, threads, inputs, outputs, device))
        run_side_by_side(jobs)
        summed = by_transforms.sum(dim=0).view(ctx.frames, bones, 4, 4)
        return by_points, summed, by_shape.sum(dim=0) if ctx.body[-1] else None, None, None, None


def _launch(kernel: wp.Kernel, count: int, part: int, parts: int, inputs: list, outputs: list, device) -> None:
    first, last = count * part // parts, count * (part + 1) // parts
    wp.launch(
        kernel, dim=last - first, inputs=[*inputs, first], outputs=outputs, device=wp.device_from_torch(device),
        stream=stream_of(device),
    )  # fmt: skip


def _geometry_arrays(geometry) -> list[wp.array]:
    return [
        wp.from_torch(geometry.skin_indices), wp.from_torch(geometry.skin_weights),
        wp.from_torch(geometry.vertices, dtype=wp.vec3), wp.from_torch(geometry.normals, dtype=wp.vec3),
    ]  # fmt: skip


def canonical_points(points: Tensor, frame: Tensor, vertex: Tensor, person: PosedPerson) -> tuple[Tensor, Tensor]:
    """Points of the world in reference canonical space, and their signed distance from the skin.

    Args:
        points: (N,3) metres, world; float32.
        frame: (N,) frame of the batch each point belongs to, in any order.
        vertex: (N,) nearest vertex in that frame.
        person: whose bones they are; only `T_world_canonical` is looked at.

    Returns:
        (N,3) and (N,) metres, differentiable once in the points, the transforms and the shape offset.
    """
    return _ToCanonical.apply(points, person.T_world_canonical, person.shape_offset, person, frame, vertex)
