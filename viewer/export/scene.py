"""People in motion in the axes and unit of the file to be written; each format's module gets this and nothing else.

World and rest space are each turned so that the wanted axis points up. With R_out_world and R_out_rest for the two
turns and s for the unit, the kinematic chain (`avatarpose.body.model`) becomes

    offset'_j = s R_out_rest offset_j    R'_j = R_out_rest R_j R_out_rest^T    R'_root = R_out_world R_root R_out_rest^T

and the same product of rotations and offsets gives s R_out_world times the world's joints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float, Int

from avatarpose.body import BodyModel
from avatarpose.errors import InputError
from avatarpose.results import Bodies
from avatarpose.sequence import UP_VECTORS
from avatarpose.skeletons import SKELETONS

UNITS = {"m": 1.0, "cm": 100.0, "mm": 1000.0}
"""How many of each unit make a metre."""
LARGEST_DISAGREEMENT = 1e-3
"""Metres: joints computed from a result's angles and the joints it stores may differ by this much."""


@dataclass(frozen=True)
class Axes:
    """The axes and the unit of a file."""

    up: str = "y"
    """Which axis points up: x, y, z, -x, -y or -z."""
    unit: str = "m"

    @property
    def scale(self) -> float:
        """Units per metre."""
        return UNITS[self.unit]

    def turn_from(self, up: str) -> Float[np.ndarray, "3 3"]:
        """The smallest rotation of axis `up` to this file's up axis; half a turn is about x, or about y from x."""
        source, target = np.array(UP_VECTORS[up]), np.array(UP_VECTORS[self.up])
        if np.allclose(source, target):
            return np.eye(3)
        if np.allclose(source, -target):
            return np.diag([-1.0, 1.0, -1.0]) if abs(source[0]) > 0.5 else np.diag([1.0, -1.0, -1.0])
        axis = np.cross(source, target)
        cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        return np.eye(3) + cross + cross @ cross


@dataclass(frozen=True)
class Surface:
    """A mesh in rest space (file axes and unit) and how it hangs on the joints."""

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "triangles 3"]
    weights: Float[np.ndarray, "vertices 24"]
    """Rows sum to one."""
    colours: Float[np.ndarray, "vertices 3"]
    """sRGB, 0 to 1."""
    pose_directions: Float[np.ndarray, "vertices 3 207"] | None = None
    """What the joints' rotations add in rest space (SMPL's `posedirs`); no format but a mesh per frame can keep it."""

    @cached_property
    def normals(self) -> Float[np.ndarray, "vertices 3"]:
        """Unit and outward; straight up where a vertex has no triangle of any area."""
        corners = self.vertices[self.faces]
        by_face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        summed = np.zeros_like(self.vertices)
        for corner in range(3):
            np.add.at(summed, self.faces[:, corner], by_face)
        length = np.linalg.norm(summed, axis=1, keepdims=True)
        return np.where(length > 1e-12, summed / np.maximum(length, 1e-12), [0.0, 1.0, 0.0])

    def strongest(self, count: int) -> tuple[Int[np.ndarray, "vertices count"], Float[np.ndarray, "vertices count"]]:
        """The strongest joints of each vertex, strongest first, and their weights, which sum to one.

        Where a vertex has fewer, the rest are joint 0 with weight 0.
        """
        joints = np.argsort(-self.weights, axis=1, kind="stable")[:, :count]
        weights = np.take_along_axis(self.weights, joints, axis=1)
        weights = weights / weights.sum(axis=1, keepdims=True)
        return np.where(weights > 0, joints, 0), weights

    @cached_property
    def influences(self) -> int:
        """Most joints that any one vertex hangs on."""
        return int((self.weights > 0).sum(axis=1).max())

    def limited(self, count: int) -> Surface:
        """The same surface as skinned formats have it: no more than `count` joints a vertex, no `pose_directions`."""
        joints, strongest = self.strongest(count)
        weights = np.zeros_like(self.weights)
        np.add.at(weights, (np.arange(len(weights))[:, None], joints), strongest)
        return Surface(self.vertices, self.faces, weights, self.colours)


@dataclass(frozen=True)
class Person:
    """One person in file axes and unit. Where they are absent, the motion holds the last frame that had them."""

    name: str
    valid: Bool[np.ndarray, " frames"]
    offsets: Float[np.ndarray, "24 3"]
    """Joint minus parent in the zero pose, a T; the root's own place in rest space first."""
    rotations: Float[np.ndarray, "frames 24 3 3"]
    """Of each joint in its parent's axes, the root's in the world."""
    root: Float[np.ndarray, "frames 3"]
    """Place of the root joint."""
    joints: Float[np.ndarray, "frames 24 3"]
    """Places of the joints as the results say; NaN where the person is absent."""
    keypoints: Float[np.ndarray, "frames 17 3"]
    """Places of the COCO-17 keypoints, as `joints`."""
    rest_joints: Float[np.ndarray, "24 3"]
    """Joints in the surface's rest space."""
    bind_rotations: Float[np.ndarray, "24 3 3"]
    """From rest space to the zero pose, joint by joint."""
    betas: Float[np.ndarray, " 10"]
    poses: Float[np.ndarray, "frames 72"]
    """Axis-angle, radians, of the body in its own y-up rest space in the file's world."""
    trans: Float[np.ndarray, "frames 3"]
    """The body's translation in metres in the file's world: the root joint less its rest place."""
    surface: Surface | None = None

    def skeleton(self, parents: tuple[int, ...]) -> Float[np.ndarray, "frames 24 4 4"]:
        """T_world_joint of every joint: rotations in the zero pose are the identity."""
        frames = len(self.root)
        T = np.zeros((frames, len(parents), 4, 4))
        T[..., 3, 3] = 1
        T[:, 0, :3, :3], T[:, 0, :3, 3] = self.rotations[:, 0], self.root
        for joint, parent in enumerate(parents[1:], start=1):
            T[:, joint, :3, :3] = T[:, parent, :3, :3] @ self.rotations[:, joint]
            T[:, joint, :3, 3] = T[:, parent, :3, 3] + T[:, parent, :3, :3] @ self.offsets[joint]
        return T

    @property
    def inverse_bind(self) -> Float[np.ndarray, "24 4 4"]:
        """T_joint_rest: from the surface's rest space to each joint's own axes."""
        T = np.tile(np.eye(4), (len(self.rest_joints), 1, 1))
        T[:, :3, :3] = self.bind_rotations
        T[:, :3, 3] = -np.einsum("jab,jb->ja", self.bind_rotations, self.rest_joints)
        return T

    def posed_vertices(
        self, parents: tuple[int, ...], frame: int, surface: Surface | None = None
    ) -> Float[np.ndarray, "vertices 3"]:
        """The surface (or another one of the same rest space) in a frame, by linear blend skinning."""
        surface = surface or self.surface
        single = replace(self, rotations=self.rotations[[frame]], root=self.root[[frame]])
        T = (single.skeleton(parents)[0] @ self.inverse_bind)[:, :3].reshape(-1, 12)
        blended = (surface.weights @ T).reshape(-1, 3, 4)
        vertices = surface.vertices
        if surface.pose_directions is not None:
            local = roma.rotvec_to_rotmat(torch.from_numpy(self.poses[frame, 3:].reshape(-1, 3))).numpy()
            vertices = vertices + surface.pose_directions @ (local - np.eye(3)).reshape(-1)
        return np.einsum("vab,vb->va", blended[..., :3], vertices) + blended[..., 3]


@dataclass(frozen=True)
class Scene:
    """Everybody to be written."""

    name: str
    people: list[Person]
    parents: tuple[int, ...]
    frames: Int[np.ndarray, " frames"]
    """Numbers on the capture's common clock, evenly spaced."""
    fps: float
    """Of the frames here: the capture's, divided by their spacing."""
    axes: Axes
    body_name: str
    body_sha256: str
    smpl: bool
    """Whether the body's rest space is its zero pose, as in SMPL's own files; the open body's is not."""
    joint_names: tuple[str, ...] = field(default=SKELETONS["smpl24"].joints)
    keypoint_names: tuple[str, ...] = field(default=SKELETONS["coco17"].joints)

    @property
    def times(self) -> Float[np.ndarray, " frames"]:
        """Seconds since the first frame."""
        return np.arange(len(self.frames)) / self.fps


def make_scene(name: str, up: str, bodies: Bodies, body: BodyModel, axes: Axes) -> Scene:
    """People of a result in the axes and unit of a file, without surfaces.

    Frames that the result leaves out between others become frames without anybody, so that time runs evenly.

    Args:
        name: what the capture is called.
        up: the capture's up axis.

    Raises:
        InputError: the result was made with another body model, or its joints are not those of its angles.
    """
    if bodies.body_sha256 != body.sha256:
        raise InputError(
            "the result was made with another body model", expected=f"{bodies.body_name} ({bodies.body_sha256[:12]})",
            found=f"{body.name} ({body.sha256[:12]})", hint="Name the model's file with --body",
        )  # fmt: skip
    spacing = int(np.gcd.reduce(np.diff(bodies.frames))) if len(bodies.frames) > 1 else 1
    frames = np.arange(bodies.frames[0], bodies.frames[-1] + 1, spacing)
    model = body.to(torch.float64, "cpu")
    people = [_person(bodies, index, frames, model, up, axes) for index in range(len(bodies.people))]
    fps, smpl = bodies.fps / spacing, body.bind_rotations is None
    return Scene(name, people, body.parents, frames, fps, axes, body.name, body.sha256, smpl)


def _person(bodies: Bodies, index: int, frames: np.ndarray, body: BodyModel, up: str, axes: Axes) -> Person:
    name = bodies.people[index]
    finite = np.isfinite(bodies.poses[index]).all(-1) & np.isfinite(bodies.trans[index]).all(-1)
    known = bodies.valid[index] & finite
    if not known.any():
        raise InputError(f"{name} is in none of the frames", hint="Choose others with --people or --frames")
    at = np.searchsorted(frames, bodies.frames)
    valid = np.zeros(len(frames), bool)
    valid[at] = known
    source = _held(valid)
    row = np.zeros(len(frames), int)
    row[at] = np.arange(len(at))

    def rows(array: np.ndarray) -> np.ndarray:
        return np.asarray(array[index], np.float64)[row[source]]

    poses, trans = rows(bodies.poses), rows(bodies.trans)
    betas = torch.as_tensor(bodies.betas[index], dtype=torch.float64)
    rest = body.rest_joints(betas).numpy()
    zero = body.joints(betas, torch.zeros(72, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)).numpy()
    offsets = zero - zero[list(body.parents)]
    offsets[0] = zero[0]
    R_local = roma.rotvec_to_rotmat(torch.from_numpy(poses).reshape(-1, 24, 3)).numpy()
    world, turned, scale = axes.turn_from(up), axes.turn_from("y"), axes.scale
    rotations = turned @ R_local @ turned.T
    rotations[:, 0] = world @ R_local[:, 0] @ turned.T
    # The file's own pose: the root turned with the world, everything else as it is.
    said = poses.copy()
    said[:, :3] = roma.rotmat_to_rotvec(torch.from_numpy(world @ R_local[:, 0])).numpy()
    bind = np.tile(np.eye(3), (24, 1, 1)) if body.bind_rotations is None else body.bind_rotations.numpy()
    places = {}
    for kind, found in (("joints", rows(bodies.joints)), ("keypoints", rows(bodies.keypoints))):
        places[kind] = np.where(valid[:, None, None], scale * found @ world.T, np.nan)
    root = (rest[0] + trans) @ world.T
    person = Person(
        name=name, valid=valid, offsets=scale * offsets @ turned.T, rotations=rotations, root=scale * root,
        rest_joints=scale * rest @ turned.T, bind_rotations=turned @ bind @ turned.T,
        betas=np.asarray(bodies.betas[index]), poses=said, trans=root - rest[0], **places,
    )  # fmt: skip
    disagreement = np.linalg.norm(person.skeleton(body.parents)[..., :3, 3] - person.joints, axis=-1)[valid] / scale
    if disagreement.max() > LARGEST_DISAGREEMENT:
        raise InputError(
            f"the joints of {name} are not those of the angles stored with them",
            frame=int(frames[valid][disagreement.max(-1).argmax()]), expected="the same places within 1 mm",
            found=f"{1000 * disagreement.max():.1f} mm apart",
        )  # fmt: skip
    return person


def _held(valid: np.ndarray) -> np.ndarray:
    """For each frame the one to take the pose from: itself, the last valid one before, or else the first valid one."""
    last = np.maximum.accumulate(np.where(valid, np.arange(len(valid)), -1))
    return np.where(last < 0, int(np.argmax(valid)), last)


def quaternions(rotations: Float[np.ndarray, "frames ... 3 3"]) -> Float[np.ndarray, "frames ... 4"]:
    """Unit quaternions x, y, z, w whose sign does not jump from frame to frame, so that they can be interpolated."""
    found = roma.rotmat_to_unitquat(torch.from_numpy(np.ascontiguousarray(rotations))).numpy()
    flips = np.where((found[1:] * found[:-1]).sum(-1, keepdims=True) < 0, -1.0, 1.0)
    found[1:] *= np.cumprod(flips, axis=0)
    return found


def linear_colours(colours: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    """sRGB to linear light, both 0 to 1 (IEC 61966-2-1)."""
    colours = np.clip(colours, 0.0, 1.0)
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def skinning_error(person: Person, parents: tuple[int, ...], other: Surface, at_most: int = 20) -> float:
    """Largest distance between the person's surface and `other` over their frames (evenly chosen ones), file's unit."""
    frames = np.nonzero(person.valid)[0]
    chosen = frames[np.unique(np.linspace(0, len(frames) - 1, min(at_most, len(frames))).round().astype(int))]
    worst = 0.0
    for frame in chosen:
        apart = person.posed_vertices(parents, frame) - person.posed_vertices(parents, frame, other)
        worst = max(worst, math.sqrt(float((apart**2).sum(-1).max())))
    return worst
