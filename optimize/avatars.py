"""The people being refined: their fields and shading, and how their bodies are handed to the renderer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from avatarpose.body import BodyModel, vertex_normals
from optimize.config import RefineConfig
from optimize.poses import BodyParameters
from renderer.body_shell import BodyShell
from renderer.field import AvatarField
from renderer.render import PersonRender
from renderer.shading import CameraColour, SphericalHarmonicShading
from renderer.skinning import PosedPerson, SkinnedGeometry
from renderer.surface_table import SurfaceTable

BONES_PER_VERTEX = 4


class Avatars(nn.Module):
    """Fields, shading and colour of a capture: everything that is learned besides the poses."""

    def __init__(self, body: BodyModel, betas: Float[Tensor, "people shapes"], cameras: int, config: RefineConfig):
        super().__init__()
        self.geometry = [canonical_geometry(body, one) for one in betas]
        self.fields = nn.ModuleList()
        for geometry in self.geometry:
            low, high = geometry.vertices.min(dim=0).values, geometry.vertices.max(dim=0).values
            half_extent = 1.2 * float((high - low).max()) / 2
            self.fields.append(AvatarField(config.field, ((low + high) / 2), half_extent))
        self.shading = nn.ModuleList(SphericalHarmonicShading() for _ in self.geometry)
        self.camera_colour = CameraColour(cameras)
        self.use_shading = config.ablation.shading
        self.use_camera_colour = config.ablation.camera_colour

    def offset_parameters(self) -> list[nn.Parameter]:
        """What decides how far the surfaces stand from the skin, and nothing else."""
        return [p for field in self.fields for p in field.offset_parameters()]

    def shared_parameters(self) -> list[nn.Parameter]:
        """All other parameters of the fields: grids, features and colour."""
        return [p for field in self.fields for p in field.shared_parameters()]

    def surfaces(self) -> list[SurfaceTable | None]:
        """Where the avatars' surfaces stand now."""
        return [SurfaceTable.of(*one) for one in zip(self.fields, self.geometry, strict=True)]

    def set_surface_width(self, width: float) -> None:
        for field in self.fields:
            field.beta.fill_(width)


def canonical_geometry(body: BodyModel, betas: Float[Tensor, " shapes"]) -> SkinnedGeometry:
    """The body of one person in the pose it is skinned from, with each vertex's strongest bones.

    Avatars live in the body's own rest space: there alone is inverse skinning the exact inverse of the body's skinning.
    (Blending bone transforms to any other pose misses the posed surface by up to 20 mm at the shoulders.)
    """
    weights, indices = torch.topk(body.weights, BONES_PER_VERTEX, dim=1)
    vertices = body.rest_vertices(betas).detach()
    return SkinnedGeometry(
        vertices=vertices,
        normals=vertex_normals(vertices, body.faces),
        skin_indices=indices,
        skin_weights=weights / weights.sum(dim=1, keepdim=True),
    )


def posed_vertices(
    geometry: SkinnedGeometry, transforms: Float[Tensor, "frames bones 4 4"], offset: Tensor | None
) -> Float[Tensor, "frames vertices 3"]:
    """Body vertices in the world, from the canonical surface and `T_world_canonical` of each frame."""
    frames = len(transforms)
    vertices = geometry.vertices if offset is None else geometry.vertices + offset
    homogeneous = torch.cat([vertices, torch.ones_like(vertices[:, :1])], dim=1)
    # One product of matrices: (vertices, bones x 4) by (bones x 4, frames x 3).
    weighted = (geometry.bone_weights[:, :, None] * homogeneous[:, None]).flatten(1)
    rows = transforms[:, : geometry.bone_weights.shape[1], :3].permute(1, 3, 0, 2).reshape(weighted.shape[1], -1)
    return (weighted @ rows).view(-1, frames, 3).transpose(0, 1).contiguous()


@dataclass
class BodyMotion:
    """Bones of all people and frames for the present parameters, differentiable."""

    T_world_canonical: Float[Tensor, "people frames bones 4 4"]
    joints: Float[Tensor, "people frames bones 3"]
    shape_offset: Float[Tensor, "people vertices 3"] | None


def body_motion(body: BodyModel, avatars: Avatars, parameters: BodyParameters, shape_moves: bool) -> BodyMotion:
    """Walk the kinematic tree of every person and frame at once.

    `shape_moves`: whether the shape differs from the avatars' own, so that the surface needs an offset.
    """
    people, frames = parameters.poses.shape[:2]
    betas = parameters.betas[:, None].expand(people, frames, -1)
    T_world_canonical = body.transforms(betas, parameters.poses, parameters.trans)
    rest_joints = body.rest_joints(betas)
    joints = (T_world_canonical[..., :3, :3] @ rest_joints[..., None])[..., 0] + T_world_canonical[..., :3, 3]
    offset = None
    if shape_moves:
        offset = body.rest_vertices(parameters.betas) - torch.stack([g.vertices for g in avatars.geometry])
    return BodyMotion(T_world_canonical, joints, offset)


def render_people(
    avatars: Avatars,
    motion: BodyMotion,
    valid: Tensor,
    frames: list[int],
    thickness: float,
    surfaces: list[SurfaceTable | None] | None = None,
) -> tuple[list[PersonRender], list[list[BodyShell | None]]]:
    """What the renderer needs for a batch of frames: people, and their shells (None where a person is absent).

    `valid` (people, frames) is read here: on the CPU nobody waits for it.
    `surfaces`: where the avatars' surfaces are, so that less of the shells is sampled.
    """
    people, shells = [], []
    there = valid[:, frames].tolist()
    index = torch.as_tensor(frames, device=motion.joints.device)
    for person, geometry in enumerate(avatars.geometry):
        transforms = motion.T_world_canonical[person, index]
        offset = None if motion.shape_offset is None else motion.shape_offset[person]
        posed = PosedPerson(geometry, transforms, transforms[:, 0], offset)
        shading = avatars.shading[person] if avatars.use_shading else None
        people.append(PersonRender(posed=posed, field=avatars.fields[person], shading=shading))
        with torch.no_grad():
            vertices = posed_vertices(geometry, transforms, offset)
        surface = None if surfaces is None else surfaces[person]
        shells.append([
            BodyShell(geometry, transforms[b], vertices[b], thickness, offset, surface) if there[person][b] else None
            for b in range(len(frames))
        ])  # fmt: skip
    return people, shells


def image_boxes(
    joints: Float[np.ndarray, "people 24 3"], cameras, margin: float = 0.25
) -> Float[np.ndarray, "cameras 4"]:
    """Pixel rectangles (left, top, right, bottom) that hold the given joints, widened by `margin` metres around."""
    corners = torch.as_tensor(joints, dtype=cameras.K.dtype).reshape(-1, 3)
    offsets = margin * torch.cat([torch.eye(3), -torch.eye(3)]).to(corners)
    pixels, depth = cameras.project((corners[:, None] + offsets).reshape(-1, 3))
    ahead = depth > 0.05
    boxes = []
    for camera in range(len(cameras.names)):
        seen = pixels[camera][ahead[camera]].detach().cpu().numpy()
        boxes.append([*seen.min(axis=0), *seen.max(axis=0)] if len(seen) else [0, 0, 0, 0])
    return np.asarray(boxes)
