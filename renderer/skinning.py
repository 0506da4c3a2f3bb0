"""Inverse linear blend skinning: from points in the world to the reference canonical space where an avatar lives.

A point of the world takes the blended bone transform of its nearest body vertex; the inverse of that transform brings
it to canonical space (Jiang et al., "InstantAvatar", CVPR 2023, and "AvatarPose", ECCV 2024, Sec. 3.2). Points are
written in the person's root frame first, differentiably, so that joint angles, root orientation and translation all
get gradients; the choice of the vertex gets none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

PLANE_DISTANCE = 0.03
"""Metres: up to here from a vertex, the distance to the body is that to the vertex's tangent plane."""
EUCLIDEAN_DISTANCE = 0.05
"""Metres: from here on it is the distance to the vertex itself."""
SMALLEST_DETERMINANT = 1e-4

Spans = list[tuple[int, int, int]]
"""(frame, start, stop): the points start to stop belong to that frame of the batch."""


@dataclass(frozen=True, eq=False)
class SkinnedGeometry:
    """A body surface at rest and how it hangs on the bones; fixed while an avatar and its poses are being fitted."""

    vertices: Float[Tensor, "vertices 3"]
    """Metres, reference canonical space."""
    normals: Float[Tensor, "vertices 3"]
    """Unit, outward."""
    skin_indices: Int[Tensor, "vertices influences"]
    """The strongest bones of each vertex."""
    skin_weights: Float[Tensor, "vertices influences"]
    """Their weights, which sum to one."""

    @cached_property
    def bone_weights(self) -> Float[Tensor, "vertices bones"]:
        """The same weights as a dense matrix: one product with it is faster than gathering bones point by point."""
        bones = int(self.skin_indices.max()) + 1
        dense = torch.zeros(len(self.vertices), bones, dtype=self.skin_weights.dtype, device=self.skin_weights.device)
        return dense.scatter_add_(1, self.skin_indices, self.skin_weights)


@dataclass
class PosedPerson:
    """One person in each frame of a batch."""

    geometry: SkinnedGeometry
    T_world_canonical: Float[Tensor, "frames bones 4 4"]
    """Bone by bone, from reference canonical space to the world; differentiable."""
    T_world_root: Float[Tensor, "frames 4 4"]
    """The root bone's frame in the world, a rigid transform; differentiable."""
    shape_offset: Float[Tensor, "vertices 3"] | None = None
    """Canonical vertices of the present shape minus the reference vertices, metres; differentiable."""

    def T_root_canonical(self) -> Float[Tensor, "frames bones 4 4"]:
        """Bone by bone, from reference canonical space to the root frame."""
        return rigid_inverse(self.T_world_root)[:, None] @ self.T_world_canonical


def rigid_inverse(transform: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of rotations with translations."""
    rotation = transform[..., :3, :3].transpose(-1, -2)
    translation = -(rotation @ transform[..., :3, 3:])
    return torch.cat([torch.cat([rotation, translation], dim=-1), transform[..., 3:, :]], dim=-2)


def frame_spans(frame: Int[Tensor, " points"], frames: int) -> tuple[Spans, Tensor | None]:
    """Where each frame's points lie, and the order that brings them together (None: they are together already)."""
    if frames == 1:
        return [(0, 0, len(frame))], None
    order = None
    if not bool((frame[1:] >= frame[:-1]).all()):
        order = torch.argsort(frame, stable=True)
    spans, start = [], 0
    for index, count in enumerate(torch.bincount(frame, minlength=frames).tolist()):
        if count:
            spans.append((index, start, start + count))
        start += count
    # Where there is no point at all, one empty span keeps the results in the graph, with gradients of zero.
    return spans or [(0, 0, 0)], order


def _grouped(order: Tensor | None, *tensors: Tensor) -> list[Tensor]:
    return [t if order is None else t.index_select(0, order) for t in tensors]


def _ungrouped(order: Tensor | None, tensor: Tensor) -> Tensor:
    return tensor if order is None else tensor.index_select(0, torch.argsort(order))


def to_root(
    points: Float[Tensor, "points 3"], frame: Int[Tensor, " points"], person: PosedPerson
) -> Float[Tensor, "points 3"]:
    """Write points of the world in the person's root frame, metres: R^T (x - t).

    Args:
        points: (N,3) metres, world.
        frame: (N,) frame of the batch each point belongs to.

    Returns:
        (N,3), differentiable in the points and in the root's orientation and translation.
    """
    spans, order = frame_spans(frame, len(person.T_world_root))
    (points,) = _grouped(order, points)
    return _ungrouped(order, to_root_by_span(points, spans, person))


def to_root_by_span(points: Tensor, spans: Spans, person: PosedPerson) -> Tensor:
    """`to_root` for points already grouped by frame."""
    T = person.T_world_root
    parts = [(points[start:stop] - T[b, :3, 3]) @ T[b, :3, :3] for b, start, stop in spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def inverse_skin(
    points_root: Float[Tensor, "points 3"],
    frame: Int[Tensor, " points"],
    vertex: Int[Tensor, " points"],
    person: PosedPerson,
) -> Float[Tensor, "points 3"]:
    """Bring points of the root frame to reference canonical space.

    With the skinning weights w of the point's nearest vertex and the bones B_j from canonical space to the root frame,
    x_ref = (sum_j w_j B_j)^-1 x_root, minus the vertex's shape offset where there is one. Frames in ascending order are
    fastest.

    Args:
        points_root: (N,3) metres, root frame.
        frame: (N,) frame of the batch each point belongs to.
        vertex: (N,) nearest vertex in that frame.

    Returns:
        (N,3) metres, differentiable once in the points, the person's transforms and the shape offset.
    """
    spans, order = frame_spans(frame, len(person.T_world_root))
    points_root, vertex = _grouped(order, points_root, vertex)
    return _ungrouped(order, inverse_skin_by_span(points_root, spans, vertex, person))


def inverse_skin_by_span(points_root: Tensor, spans: Spans, vertex: Tensor, person: PosedPerson) -> Tensor:
    """`inverse_skin` for points already grouped by frame."""
    weights = person.geometry.bone_weights.index_select(0, vertex)
    transforms = _bone_rows(person.T_root_canonical(), weights.shape[1])
    x_ref = _InverseBlend.apply(points_root, transforms, weights, spans)
    if person.shape_offset is not None:
        x_ref = x_ref - torch.nn.functional.embedding(vertex, person.shape_offset)
    return x_ref


def _bone_rows(transforms: Tensor, bones: int) -> Tensor:
    """(B, J, 4, 4) transforms as (B, 12, bones): the entries of their upper 3x4 blocks, row by row."""
    return transforms[:, :bones, :3, :].flatten(2).transpose(1, 2)


def _blend(transforms: Tensor, weights: Tensor, spans: Spans) -> Tensor:
    """Blended 3x4 transforms (3, 4, N); points last, so that all arithmetic on them runs over contiguous memory."""
    blended = transforms.new_empty(12, len(weights))
    for frame, start, stop in spans:
        blended[:, start:stop] = transforms[frame] @ weights[start:stop].T
    return blended.view(3, 4, -1)


class _InverseBlend(torch.autograd.Function):
    """x = A^-1 (p - b) for the blend [A b] of each point's bones, with the gradient written out.

    With g = dL/dx: dL/dp = A^-T g, dL/dA = -(dL/dp) x^T, dL/db = -dL/dp.
    """

    @staticmethod
    def forward(ctx, points: Tensor, transforms: Tensor, weights: Tensor, spans: Spans) -> Tensor:
        blended = _blend(transforms, weights, spans)
        first, second, third = blended[:, :3]
        # Columns of the adjugate of A are the cross products of its rows.
        inverse = torch.stack(
            [torch.linalg.cross(a, b, dim=0) for a, b in ((second, third), (third, first), (first, second))], dim=1
        )
        determinant = (first * inverse[:, 0]).sum(dim=0)
        # A blend of bones turned against each other by half a turn collapses; such a point is merely thrown far away.
        determinant = torch.where(determinant.abs() < SMALLEST_DETERMINANT, SMALLEST_DETERMINANT, determinant)
        inverse /= determinant
        x = (inverse * (points.T - blended[:, 3])[None]).sum(dim=1)
        ctx.save_for_backward(inverse, x, weights)
        ctx.spans, ctx.frames = spans, len(transforms)
        return x.T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        inverse, x, weights = ctx.saved_tensors
        to_point = (inverse * gradient.T[:, None]).sum(dim=0)
        to_points = to_transforms = None
        if ctx.needs_input_grad[0]:
            to_points = to_point.T.contiguous()
        if ctx.needs_input_grad[1]:
            homogeneous = torch.cat([x, torch.ones_like(x[:1])])
            outer = -(to_point[:, None] * homogeneous[None]).flatten(0, 1)
            to_transforms = outer.new_zeros(ctx.frames, 12, weights.shape[1])
            for frame, start, stop in ctx.spans:
                to_transforms[frame] = outer[:, start:stop] @ weights[start:stop]
        return to_points, to_transforms, None, None


def signed_body_distance(
    x_ref: Float[Tensor, "points 3"], vertex: Int[Tensor, " points"], geometry: SkinnedGeometry
) -> Float[Tensor, " points"]:
    """Signed distance (N,) in metres from the skin, positive outside, measured at each point's nearest vertex.

    With r from the vertex to the point and its normal n, the distance is n.r (point to plane) for |r| up to 30 mm and
    the Euclidean |r| with the sign of n.r from 50 mm on, with a smooth step of |r| between. The sign itself is blunted,
    as 2 n.r limited to +-|r|: within 30 degrees of the tangent plane, where a vertex decides nothing about inside and
    outside, the distance passes through zero instead of jumping.

    Differentiable in `x_ref`, and smooth but for the change of the nearest vertex and the limit's corner.
    """
    relative = x_ref - geometry.vertices.index_select(0, vertex)
    plane = (relative * geometry.normals.index_select(0, vertex)).sum(dim=1)
    length = relative.norm(dim=1)
    far = torch.minimum(torch.maximum(2 * plane, -length), length)
    share = ((length - PLANE_DISTANCE) / (EUCLIDEAN_DISTANCE - PLANE_DISTANCE)).clamp(0.0, 1.0)
    return torch.lerp(plane, far, share * share * (3 - 2 * share))


@torch.no_grad()
def world_normals(
    frame: Int[Tensor, " points"], vertex: Int[Tensor, " points"], person: PosedPerson
) -> Float[Tensor, "points 3"]:
    """Unit normals (N,3) of the given vertices in world axes: turned by the blended bones; no gradient."""
    spans, order = frame_spans(frame, len(person.T_world_root))
    (vertex,) = _grouped(order, vertex)
    weights = person.geometry.bone_weights.index_select(0, vertex)
    linear = _blend(_bone_rows(person.T_world_canonical, weights.shape[1]), weights, spans)[:, :3]
    normals = (linear * person.geometry.normals.index_select(0, vertex).T[None]).sum(dim=1)
    normals *= torch.rsqrt((normals * normals).sum(dim=0).clamp(min=1e-20))
    return _ungrouped(order, normals.T.contiguous())
