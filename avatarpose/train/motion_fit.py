"""Fits the body to clips of 15 joints.

Unknown per frame: root, 23 joint angles, pelvis; per skeleton: the shape, and where the skeleton's joints lie on the
body. Clips whose limbs are of the same lengths are of one skeleton, for the more poses share these constants, the less
can a posture that lasts through a clip pass for one of them. Motion capture skeletons place hips, shoulders and neck,
and divide arms and legs, otherwise than the body does, so that joint k of the skeleton is the body point
T_j (rest_k + offset_k) with a constant offset in the frame of the bone j that ends at it (the marker offsets of MoSh,
Loper et al. 2014). Minimised, per skeleton,

    sum_frames [ sum_k rho(|found_k - given_k| / spread_k) + pose prior + hinge prior + |betas|^2 / 2
                 + sum_k |offset_k / width_k|^2 / 2 ]

by Adam, all frames of many clips at once. Offsets and betas have their prior once per frame, so that many frames may
not bend them further than a few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import roma
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.register import priors
from avatarpose.skeletons import LIMBS, PANOPTIC15, SMPL24


@dataclass(frozen=True)
class FitSettings:
    """Settings of the fit; part of the key of cached pools."""

    iterations: int = 150
    """Steps of Adam."""
    rate: float = 0.1
    """First step of angles and betas; of metres a fifth of it. Falls to nothing along a cosine."""
    spread: float = 0.01
    """Metres, of a joint."""
    head_spread: float = 0.04
    """Metres, of the end of the head bone."""
    pose_prior: float = 0.3
    hinge_prior: float = 1.0
    frames_at_once: int = 1500
    """Skeletons are fitted together up to so many frames."""


_MARKERS: dict[str, tuple[str, tuple[str, ...], float]] = {
    # joint of the clip: the bone that carries it, the joints of the body whose mean it is, width of its offset (metres)
    "neck": ("spine3", ("neck", "left_shoulder", "right_shoulder"), 0.06),
    "nose": ("head", ("head",), 0.06),
    "mid_hip": ("pelvis", ("left_hip", "right_hip"), 0.10),
    "left_shoulder": ("left_collar", ("left_shoulder",), 0.04),
    "left_elbow": ("left_shoulder", ("left_elbow",), 0.05),
    "left_wrist": ("left_elbow", ("left_wrist",), 0.05),
    "left_hip": ("pelvis", ("left_hip",), 0.04),
    "left_knee": ("left_hip", ("left_knee",), 0.03),
    "left_ankle": ("left_knee", ("left_ankle",), 0.03),
}
_HEAD_END = (0.0, 0.05, 0.01)
"""Metres from the body's head joint to the middle of the head, y up and z to the front."""
_SAME_LENGTH = 0.002
"""Metres by which the limbs of one skeleton may differ from clip to clip."""
_TORSO = PANOPTIC15.indices(["left_shoulder", "right_shoulder", "left_hip", "right_hip"])


def _marker_table() -> tuple[list[int], Float[Tensor, "15 24"], Float[Tensor, "15 3"], Float[Tensor, " 15"]]:
    """Carrying bones, weights of the body's joints, fixed offsets, widths; the right side as the left."""
    bones, weights, fixed, widths = [], torch.zeros(15, 24), torch.zeros(15, 3), torch.zeros(15)
    for k, joint in enumerate(PANOPTIC15.joints):
        bone, means, width = _MARKERS[joint.replace("right_", "left_")]
        if joint.startswith("right_"):
            bone, means = bone.replace("left_", "right_"), tuple(m.replace("left_", "right_") for m in means)
        bones.append(SMPL24.index(bone))
        weights[k, SMPL24.indices(means)] = 1 / len(means)
        widths[k] = width
    fixed[PANOPTIC15.index("nose")] = torch.tensor(_HEAD_END)
    return bones, weights, fixed, widths


@dataclass(frozen=True)
class Fitted:
    """One person of one clip.

    Attributes:
        poses: (F, 72); pelvis: (F, 3) metres; betas: (10,).
        offsets: (15, 3) metres, of the clip's joints from the body's, in the rest space of their bones.
        distances: (F, 15) metres from the clip's joints to the body's points, offsets included.
        plain_distances: (F, 15), without the offsets.
    """

    poses: Float[np.ndarray, "frames 72"]
    pelvis: Float[np.ndarray, "frames 3"]
    betas: Float[np.ndarray, " 10"]
    offsets: Float[np.ndarray, "15 3"]
    distances: Float[np.ndarray, "frames 15"]
    plain_distances: Float[np.ndarray, "frames 15"]


class _Unknowns:
    """Parameters of a chunk of tracks; the root is a turn from its closed-form start, never half a turn off."""

    def __init__(self, body: BodyModel, given: Float[Tensor, "n 15 3"], skeletons: int) -> None:
        n = len(given)
        self.R_start, pelvis = _start_of_root(body, given)
        self.turn = torch.zeros(n, 3)
        mean, _ = priors.pose_table(torch.float32, torch.device("cpu"))
        self.angles = mean.repeat(n, 1, 1)
        self.pelvis = pelvis
        self.betas = torch.zeros(skeletons, 10)
        self.offsets = torch.zeros(skeletons, 15, 3)

    def groups(self, rate: float) -> list[dict]:
        radians, metres = [self.turn, self.angles, self.betas], [self.pelvis, self.offsets]
        for parameter in radians + metres:
            parameter.requires_grad_(True)
        return [{"params": radians, "lr": rate}, {"params": metres, "lr": rate / 5}]

    def root(self) -> Float[Tensor, "n 3 3"]:
        return self.R_start @ roma.rotvec_to_rotmat(self.turn)


def _start_of_root(
    body: BodyModel, given: Float[Tensor, "n 15 3"]
) -> tuple[Float[Tensor, "n 3 3"], Float[Tensor, "n 3"]]:
    """Rotation and pelvis that bring the zero pose's shoulders and hips onto the given ones (Procrustes)."""
    zero = body.joints(torch.zeros(10), torch.zeros(72), torch.zeros(3))
    source = zero[SMPL24.indices(PANOPTIC15.joints[k] for k in _TORSO)] - zero[0]
    target = given[:, _TORSO]
    covariance = (target - target.mean(1, keepdim=True)).transpose(1, 2) @ (source - source.mean(0))
    R = roma.special_procrustes(covariance)
    return R, target.mean(1) - (R @ source.mean(0)[:, None])[..., 0]


class _Markers:
    """Where the clip's 15 joints are on the posed body."""

    def __init__(self, body: BodyModel) -> None:
        self.body = body
        self.bones, self.weights, self.fixed, self.widths = _marker_table()

    def __call__(
        self,
        betas: Float[Tensor, "n 10"],
        root: Float[Tensor, "n 3 3"],
        angles: Float[Tensor, "n 23 3"],
        pelvis: Float[Tensor, "n 3"],
        offsets: Float[Tensor, "n 15 3"],
    ) -> Float[Tensor, "n 15 3"]:
        # The root is applied as a matrix: dancers turn through pi, where a rotation vector breaks off.
        upright = torch.cat((torch.zeros_like(pelvis), angles.flatten(-2)), dim=-1)
        T = self.body.transforms(betas, upright, torch.zeros_like(pelvis))[:, self.bones]
        rest = self.body.rest_joints(betas)
        points = self.weights @ rest + self.fixed + offsets
        local = (T[..., :3, :3] @ points[..., None])[..., 0] + T[..., :3, 3] - rest[:, :1]
        return local @ root.transpose(-1, -2) + pelvis[:, None]


def fit_tracks(
    body: BodyModel,
    tracks: Sequence[Float[np.ndarray, "frames 15 3"]],
    settings: FitSettings,
    progress: Callable[[float], None] | None = None,
) -> list[Fitted]:
    """Fits the body to every track: the joints of one person in one clip (order of panoptic15, metres, z up)."""
    body = body.to(dtype=torch.float32, device="cpu")
    fitted: dict[int, Fitted] = {}
    total, done = sum(map(len, tracks)), 0
    for chunk in _chunks(tracks, settings.frames_at_once):
        order = [track for skeleton in chunk for track in skeleton]
        skeletons = [number for number, skeleton in enumerate(chunk) for _ in skeleton]
        found = _fit_chunk(body, [tracks[track] for track in order], skeletons, settings)
        fitted.update(zip(order, found, strict=True))
        done += sum(len(tracks[track]) for track in order)
        if progress is not None:
            progress(done / total)
    return [fitted[track] for track in range(len(tracks))]


def limb_lengths(track: Float[np.ndarray, "frames 15 3"]) -> Float[np.ndarray, " 8"]:
    """Median lengths of the upper and lower arms and legs, metres."""
    ends = np.array([PANOPTIC15.indices(limb) for limbs in LIMBS.values() for limb in limbs])
    return np.median(np.linalg.norm(track[:, ends[:, 0]] - track[:, ends[:, 1]], axis=-1), axis=0)


def same_skeletons(tracks: Sequence[Float[np.ndarray, "frames 15 3"]]) -> list[list[int]]:
    """Indices of the tracks, those of one skeleton together."""
    groups: list[tuple[np.ndarray, list[int]]] = []
    for index, track in enumerate(tracks):
        lengths = limb_lengths(track)
        for known, members in groups:
            if np.abs(known - lengths).max() < _SAME_LENGTH:
                members.append(index)
                break
        else:
            groups.append((lengths, [index]))
    return [members for _, members in groups]


def _chunks(tracks: Sequence[np.ndarray], frames: int) -> Iterator[list[list[int]]]:
    chunk: list[list[int]] = []
    count = 0
    for skeleton in same_skeletons(tracks):
        size = sum(len(tracks[index]) for index in skeleton)
        if chunk and count + size > frames:
            yield chunk
            chunk, count = [], 0
        chunk.append(skeleton)
        count += size
    if chunk:
        yield chunk


def _fit_chunk(body: BodyModel, tracks: list[np.ndarray], skeletons: list[int], settings: FitSettings) -> list[Fitted]:
    given = torch.as_tensor(np.concatenate(tracks))
    lengths = [len(track) for track in tracks]
    owner: Int[Tensor, " n"] = torch.repeat_interleave(torch.tensor(skeletons), torch.tensor(lengths))
    markers, unknowns = _Markers(body), _Unknowns(body, given, max(skeletons) + 1)
    mean, spread = priors.pose_table(torch.float32, torch.device("cpu"))
    spreads = torch.full((15,), settings.spread)
    spreads[PANOPTIC15.index("nose")] = settings.head_spread

    def found(offsets: Tensor) -> Tensor:
        return markers(unknowns.betas[owner], unknowns.root(), unknowns.angles, unknowns.pelvis, offsets[owner])

    def cost() -> Tensor:
        squares = ((found(unknowns.offsets) - given) / spreads[:, None]).square().sum(-1)
        frames = priors.charbonnier(squares).sum(-1)
        frames = frames + settings.pose_prior * priors.pose_cost(unknowns.angles, mean, spread)
        frames = frames + settings.hinge_prior * priors.hinge_cost(unknowns.angles)
        fixed = unknowns.betas.square().sum(-1) + (unknowns.offsets / markers.widths[:, None]).square().sum((-1, -2))
        return frames.sum() + 0.5 * fixed[owner].sum()

    optimiser = torch.optim.Adam(unknowns.groups(settings.rate), betas=(0.9, 0.99))
    first = [group["lr"] for group in optimiser.param_groups]
    for step in range(settings.iterations):
        for group, rate in zip(optimiser.param_groups, first, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / settings.iterations))
        optimiser.zero_grad()
        cost().backward()
        optimiser.step()

    with torch.no_grad():
        poses = torch.cat((roma.rotmat_to_rotvec(unknowns.root()), unknowns.angles.flatten(-2)), dim=-1)
        distances = (found(unknowns.offsets) - given).norm(dim=-1)
        plain = (found(torch.zeros_like(unknowns.offsets)) - given).norm(dim=-1)
        parts = (x.numpy() for x in (poses, unknowns.pelvis, distances, plain))
        poses, pelvis, distances, plain = (np.split(x, np.cumsum(lengths)[:-1]) for x in parts)
        betas, offsets = unknowns.betas[skeletons].numpy(), unknowns.offsets[skeletons].numpy()
    return [Fitted(*fields) for fields in zip(poses, pelvis, betas, offsets, distances, plain, strict=True)]
