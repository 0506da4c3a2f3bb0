"""A small stand-in for a body, for tests of the renderer: an ellipsoid hanging smoothly on a chain of three bones."""

from dataclasses import dataclass

import numpy as np
import roma
import torch
import trimesh
from torch import Tensor

from renderer.field import FieldSample
from renderer.skinning import PosedPerson, SkinnedGeometry

HALF_AXES = np.array([0.12, 0.60, 0.15])
JOINTS = ((0.0, -0.3, 0.0), (0.0, -0.1, 0.0), (0.0, 0.2, 0.0))
"""Metres, canonical space: the root's joint and those of its two children, one after the other."""


def geometry(subdivisions: int = 3, dtype: torch.dtype = torch.float64) -> SkinnedGeometry:
    """An ellipsoid of 642 vertices (or more), 1.2 m tall, with smooth weights along its length."""
    unit = np.asarray(trimesh.creation.icosphere(subdivisions).vertices)
    normals = unit / HALF_AXES
    vertices = unit * HALF_AXES
    nearness = np.exp(-0.5 * ((vertices[:, 1:2] - np.array([-0.4, 0.0, 0.4])) / 0.15) ** 2) + 1e-3
    weights = np.concatenate([nearness, np.zeros_like(nearness[:, :1])], axis=1)
    indices = np.tile([0, 1, 2, 0], (len(unit), 1))
    return SkinnedGeometry(
        vertices=torch.from_numpy(vertices).to(dtype),
        normals=torch.from_numpy(normals / np.linalg.norm(normals, axis=1, keepdims=True)).to(dtype),
        skin_indices=torch.from_numpy(indices),
        skin_weights=torch.from_numpy(weights / weights.sum(axis=1, keepdims=True)).to(dtype),
    )


def transforms(turns: Tensor, trans: Tensor) -> tuple[Tensor, Tensor]:
    """World from canonical for each bone (B,3,4,4), and the root's frame (B,4,4), from rotation vectors (B,3,3)."""
    rotation = roma.rotvec_to_rotmat(turns)
    joints = torch.tensor(JOINTS, dtype=turns.dtype)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=turns.dtype).expand(len(turns), 1, 4)
    chain = []
    for bone in range(3):
        shift = joints[bone] - (rotation[:, bone] @ joints[bone][:, None])[..., 0]
        if bone == 0:
            shift = shift + trans
        local = torch.cat([torch.cat([rotation[:, bone], shift[..., None]], dim=2), bottom], dim=1)
        chain.append(local if bone == 0 else chain[-1] @ local)
    to_joint = torch.eye(4, dtype=turns.dtype).repeat(len(turns), 1, 1)
    to_joint[:, :3, 3] = joints[0]
    return torch.stack(chain, dim=1), chain[0] @ to_joint


def person(body: SkinnedGeometry, turns: Tensor, trans: Tensor, shape_offset: Tensor | None = None) -> PosedPerson:
    """The body in B frames."""
    T_world_canonical, T_world_root = transforms(turns, trans)
    return PosedPerson(body, T_world_canonical, T_world_root, shape_offset)


def posed_vertices(posed: PosedPerson, frame: int) -> Tensor:
    """Vertices (V,3) in the world, by the definition of linear blend skinning."""
    body = posed.geometry
    blended = torch.einsum("vk,vkab->vab", body.skin_weights, posed.T_world_canonical[frame][body.skin_indices])
    vertices = body.vertices if posed.shape_offset is None else body.vertices + posed.shape_offset
    return (torch.einsum("vab,vb->va", blended[:, :3, :3], vertices) + blended[:, :3, 3]).detach()


@dataclass
class SmoothField:
    """An analytic field: a surface 1 cm outside the skin, with a colour that varies over the body."""

    tint: tuple[float, float, float] = (0.6, 0.4, 0.5)
    beta: float = 0.01
    calls: int = 0

    def __call__(self, x_ref, body_distance, level_weights=None, want_colour=True) -> FieldSample:
        self.calls += 1
        offset = 0.01 + 0.002 * torch.sin(5 * x_ref[:, 1])
        raw = (offset - body_distance) / self.beta
        tint = torch.tensor(self.tint, dtype=x_ref.dtype)
        albedo = tint * (0.75 + 0.25 * torch.sin(12 * x_ref + 1.0)) if want_colour else None
        return FieldSample(torch.sigmoid(raw) / self.beta, albedo, offset, raw)


def rays_towards(points: Tensor, origin: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Origins and unit directions (R,3) of rays from one place to the given points."""
    origins = torch.tensor(origin, dtype=points.dtype).expand_as(points)
    return origins.contiguous(), torch.nn.functional.normalize(points - origins, dim=1)
