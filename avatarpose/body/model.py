"""Linear blend skinning of a body in SMPL's format (Loper et al., "SMPL: A Skinned Multi-Person Linear Model", 2015).

    rest(betas)   = v_template + shapedirs betas                                                     (eq. 8)
    J(betas)      = J_regressor rest(betas)                                                          (eq. 10)
    offset(poses) = posedirs vec(R_1 - I, ..., R_23 - I), where the file has posedirs                (eq. 9)
    vertex        = sum_j w_j G_j (rest + offset) + trans                                            (eqs. 2 to 4)

G_j maps the rest space to the world; the root turns about its own rest joint. In SMPL's own files the rest space is the
body in its zero pose. The open body is bound with lowered arms, as its makers bound it, and its file says by which
rotation B_j each bone goes from there to the zero pose, the T-pose: G_j then starts with B_j, and nothing else changes.
Written here, not taken from a package, because the renderer needs every joint's transform and gradients through it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatarpose.body.smpl_files import read_body_file

N_JOINTS = 24
N_BETAS = 10


def canonical_pose(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Float[Tensor, " 72"]:
    """The pose of the avatars' canonical space: the zero pose with each thigh swung 30 degrees outwards."""
    pose = torch.zeros(3 * N_JOINTS, dtype=dtype, device=device)
    pose[5], pose[8] = math.pi / 6, -math.pi / 6
    return pose


CANONICAL_POSE = canonical_pose()


@dataclass(frozen=True, eq=False)
class BodyModel:
    """A body in SMPL's format: constant tensors and the functions of (betas, poses, trans) built on them.

    Metres and radians; the zero pose is a T facing +z with y up, the person's left is +x. Rest space is the space of
    v_template; it equals the zero pose unless there are bind_rotations. Leading dimensions (written `...`)
    are free and broadcast against each other; every function is differentiable in all its arguments.
    """

    v_template: Float[Tensor, "vertices 3"]
    shapedirs: Float[Tensor, "vertices 3 10"]
    posedirs: Float[Tensor, "vertices 3 207"] | None
    J_regressor: Float[Tensor, "24 vertices"]
    weights: Float[Tensor, "vertices 24"]
    coco_regressor: Float[Tensor, "17 vertices"]
    bind_rotations: Float[Tensor, "24 3 3"] | None
    faces: Int[Tensor, "triangles 3"]
    parents: tuple[int, ...]
    name: str
    sha256: str

    @property
    def dtype(self) -> torch.dtype:
        return self.v_template.dtype

    @property
    def device(self) -> torch.device:
        return self.v_template.device

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> BodyModel:
        """The same body with its real tensors in `dtype` and everything on `device`."""
        moved = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        return replace(self, **moved)

    # --- constants computed once -----------------------------------------------------------------------------------

    @cached_property
    def _joint_basis(self) -> tuple[Float[Tensor, "24 3"], Float[Tensor, "24 3 10"]]:
        """Rest joints as an affine function of betas; summed in float64, since 1e4 terms cancel to a few digits."""
        regressor = self.J_regressor.double()
        template = regressor @ self.v_template.double()
        directions = torch.einsum("jv,vcb->jcb", regressor, self.shapedirs.double())
        return template.to(self.dtype), directions.to(self.dtype)

    @cached_property
    def _bone_basis(self) -> tuple[Float[Tensor, "23 3"], Float[Tensor, "23 3 10"]]:
        """Joint minus parent in the zero pose, as an affine function of betas."""
        template, directions = (basis[1:] - basis[self._parent_index] for basis in self._joint_basis)
        if self.bind_rotations is None:
            return template, directions
        turn = self.bind_rotations[self._parent_index]
        return (turn @ template[..., None])[..., 0], turn @ directions

    @cached_property
    def _keypoint_basis(self) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Moments of regressor times skinning weight, so that keypoints need no vertices.

        keypoint_k = sum_v C_kv sum_j w_vj (A_j x_v + b_j) = sum_j A_j (sum_v C_kv w_vj x_v) + b_j (sum_v C_kv w_vj),
        and x_v is affine in betas and in the pose feature. Returns mass (17, 24), template (17, 24, 3), shape
        (17, 24, 3, 10) and pose (17, 24, 3, 207) or None.
        """
        share = self.coco_regressor.double()[:, None, :] * self.weights.double().T[None]  # (17, 24, V)
        mass = share.sum(-1)
        template = share @ self.v_template.double()
        shape = torch.einsum("kjv,vcb->kjcb", share, self.shapedirs.double())
        pose = None
        if self.posedirs is not None:
            pose = torch.einsum("kjv,vcp->kjcp", share, self.posedirs.double()).to(self.dtype)
        return mass.to(self.dtype), template.to(self.dtype), shape.to(self.dtype), pose

    @cached_property
    def _levels(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """The joint tree by depth: per level the joints and where their parents stand in the level above; and the
        permutation that brings the joints of all levels, laid end to end, back to their own order."""
        depth = [0] * N_JOINTS
        for joint, parent in enumerate(self.parents[1:], start=1):
            depth[joint] = depth[parent] + 1
        by_level = [[j for j in range(N_JOINTS) if depth[j] == level] for level in range(max(depth) + 1)]
        levels = []
        for above, here in itertools.pairwise(by_level):
            slots = [above.index(self.parents[joint]) for joint in here]
            levels.append((torch.tensor(here, device=self.device), torch.tensor(slots, device=self.device)))
        order = torch.tensor([joint for level in by_level for joint in level], device=self.device)
        return levels, torch.argsort(order)

    @cached_property
    def _parent_index(self) -> Int[Tensor, " 23"]:
        return torch.tensor(self.parents[1:], device=self.device)

    # --- rest space --------------------------------------------------------------------------------------------------

    def rest_joints(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 24 3"]:
        """Joints of the shaped body in rest space, metres (in the zero pose: `joints` with zero pose and trans)."""
        template, directions = self._joint_basis
        return template + torch.einsum("jcb,...b->...jc", directions, betas)

    def rest_vertices(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch vertices 3"]:
        """Vertices of the shaped body in rest space, metres, without pose offsets."""
        offsets = betas @ self.shapedirs.reshape(-1, N_BETAS).T
        return self.v_template + offsets.reshape(*betas.shape[:-1], -1, 3)

    # --- posed space -------------------------------------------------------------------------------------------------

    def transforms(
        self,
        betas: Float[Tensor, "*batch 10"],
        poses: Float[Tensor, "*batch 72"],
        trans: Float[Tensor, "*batch 3"],
    ) -> Float[Tensor, "*batch 24 4 4"]:
        """T_world_rest of each joint: maps points of rest space to the world (eq. 3 and 4).

        poses are axis-angle in radians, root first; the root turns about its rest joint and `trans` is added after.
        """
        R_world_rest, heads = self._forward(betas, poses, trans)
        offset = heads - (R_world_rest @ self.rest_joints(betas)[..., None])[..., 0]
        top = torch.cat([R_world_rest, offset[..., None]], dim=-1)
        bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
        return torch.cat([top, bottom], dim=-2)

    def joints(
        self,
        betas: Float[Tensor, "*batch 10"],
        poses: Float[Tensor, "*batch 72"],
        trans: Float[Tensor, "*batch 3"],
    ) -> Float[Tensor, "*batch 24 3"]:
        """Posed joints in the world, metres, SMPL order."""
        return self._forward(betas, poses, trans)[1]

    def keypoints(
        self,
        betas: Float[Tensor, "*batch 10"],
        poses: Float[Tensor, "*batch 72"],
        trans: Float[Tensor, "*batch 3"],
    ) -> Float[Tensor, "*batch 17 3"]:
        """COCO-17 keypoints in the world, metres: exactly `coco_regressor @ vertices`, without forming vertices."""
        R_world_rest, heads = self._forward(betas, poses, trans)
        mass, template, shape, pose = self._keypoint_basis
        moments = template + torch.einsum("kjcb,...b->...kjc", shape, betas)
        if pose is not None:
            moments = moments + torch.einsum("kjcp,...p->...kjc", pose, self._pose_feature(poses))
        # sum_j R_j (m_kj - mass_kj J_j) + mass_kj head_j
        arms = moments - mass[..., None] * self.rest_joints(betas)[..., None, :, :]
        return torch.einsum("...jab,...kjb->...ka", R_world_rest, arms) + torch.einsum("kj,...ja->...ka", mass, heads)

    def vertices(
        self,
        betas: Float[Tensor, "*batch 10"],
        poses: Float[Tensor, "*batch 72"],
        trans: Float[Tensor, "*batch 3"],
    ) -> Float[Tensor, "*batch vertices 3"]:
        """Posed vertices in the world, metres."""
        T_world_rest = self.transforms(betas, poses, trans)
        rest = self.rest_vertices(betas)
        if self.posedirs is not None:
            offsets = self._pose_feature(poses) @ self.posedirs.reshape(-1, self.posedirs.shape[-1]).T
            rest = rest + offsets.reshape(*offsets.shape[:-1], -1, 3)
        batch = T_world_rest.shape[:-3]
        blended = (self.weights @ T_world_rest[..., :3, :].reshape(*batch, N_JOINTS, 12)).reshape(*batch, -1, 3, 4)
        return (blended[..., :3] @ rest[..., None])[..., 0] + blended[..., 3]

    def _forward(
        self, betas: Tensor, poses: Tensor, trans: Tensor
    ) -> tuple[Float[Tensor, "*batch 24 3 3"], Float[Tensor, "*batch 24 3"]]:
        """Rotations from rest space to the world, and world joints: all joints of one depth of the tree at once."""
        template, directions = self._bone_basis
        batch = torch.broadcast_shapes(betas.shape[:-1], poses.shape[:-1], trans.shape[:-1])
        bones = (template + torch.einsum("jcb,...b->...jc", directions, betas)).expand(*batch, N_JOINTS - 1, 3)
        R_local = roma.rotvec_to_rotmat(poses.reshape(*poses.shape[:-1], N_JOINTS, 3)).expand(*batch, N_JOINTS, 3, 3)
        root = (self.rest_joints(betas)[..., :1, :] + trans[..., None, :]).expand(*batch, 1, 3)

        levels, back = self._levels
        rotations, heads = [R_local[..., :1, :, :]], [root]
        for here, slots in levels:
            R_parent = rotations[-1][..., slots, :, :]
            heads.append(heads[-1][..., slots, :] + (R_parent @ bones[..., here - 1, :, None])[..., 0])
            rotations.append(R_parent @ R_local[..., here, :, :])
        R_world = torch.cat(rotations, dim=-3)[..., back, :, :]
        if self.bind_rotations is not None:
            R_world = R_world @ self.bind_rotations
        return R_world, torch.cat(heads, dim=-2)[..., back, :]

    @staticmethod
    def _pose_feature(poses: Float[Tensor, "*batch 72"]) -> Float[Tensor, "*batch 207"]:
        """The entries of R_j - I of every joint but the root, row by row (eq. 9)."""
        rotvecs = poses[..., 3:].reshape(*poses.shape[:-1], N_JOINTS - 1, 3)
        R_local = roma.rotvec_to_rotmat(rotvecs)
        return (R_local - torch.eye(3, dtype=poses.dtype, device=poses.device)).flatten(-3)


def vertex_normals(
    vertices: Float[Tensor, "*batch vertices 3"], faces: Int[Tensor, "triangles 3"]
) -> Float[Tensor, "*batch vertices 3"]:
    """Unit vertex normals, each face weighted by its area; outwards where the faces turn counter-clockwise."""
    corners = vertices[..., faces, :]
    face_normals = torch.linalg.cross(
        corners[..., 1, :] - corners[..., 0, :], corners[..., 2, :] - corners[..., 0, :], dim=-1
    )
    summed = torch.zeros_like(vertices)
    for corner in range(3):
        summed = summed.index_add(-2, faces[:, corner], face_normals)
    return torch.nn.functional.normalize(summed, dim=-1)


def load_body(
    path: Path | str | None = None, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> BodyModel:
    """Read a body: the open one that comes with the package (None), an .npz, or an official SMPL .pkl.

    Raises InputError when the file is missing, is not a body in SMPL's format, or is a pickle of anything but arrays.
    """
    arrays = read_body_file(None if path is None else Path(path))

    def real(key: str) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(arrays[key]), dtype=dtype, device=device)

    return BodyModel(
        v_template=real("v_template"),
        shapedirs=real("shapedirs"),
        posedirs=real("posedirs") if "posedirs" in arrays else None,
        J_regressor=real("J_regressor"),
        weights=real("weights"),
        coco_regressor=real("coco_regressor"),
        bind_rotations=real("bind_rotations") if "bind_rotations" in arrays else None,
        faces=torch.as_tensor(arrays["f"].astype(np.int64), device=device),
        parents=tuple(int(parent) for parent in arrays["parents"]),
        name=str(arrays["name"]),
        sha256=str(arrays["sha256"]),
    )
