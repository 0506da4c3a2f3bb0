"""Registration: from 3D joints, and the 2D keypoints behind them, to the body's parameters in every frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.estimate import associate
from avatarpose.register.config import RegisterSettings
from avatarpose.register.evidence import Evidence
from avatarpose.register.fit import Motion, fit_to_detections, fit_to_joints
from avatarpose.register.initial_root import initial_root, present_frames
from avatarpose.register.priors import HINGES
from avatarpose.register.shape import fit_shape
from avatarpose.results import Bodies, Joints3D
from avatarpose.sequence import Sequence

Progress = Callable[[int, int], None]
_START_BEND = 0.2
"""Radians by which elbows and knees start bent, so that the fit sees at once which way they go."""


def register(
    sequence: Sequence,
    joints3d: Joints3D,
    body: BodyModel,
    settings: RegisterSettings | None = None,
    progress: Progress | None = None,
) -> Bodies:
    """Fits the body to 3D joints, then to the 2D keypoints of all views where the sequence has them.

    Args:
        sequence: gives the clock, the cameras and the 2D keypoints.
        joints3d: initial 3D joints with identities; their frames must be among the sequence's.
        body: any body in SMPL's format.
        settings: None for the defaults.
        progress: called with the iterations done and their greatest number.

    Returns:
        Bodies over the frames of `joints3d`: a pose in every frame between a person's first and last, `valid` there;
        outside, the nearest one repeated and not `valid`.

    Raises:
        InputError: no person, or frames that the sequence lacks.
    """
    settings = settings or RegisterSettings()
    _check(sequence, joints3d)
    body64 = body.to(dtype=torch.float64, device="cpu")
    times = torch.as_tensor(np.asarray(joints3d.frames), dtype=torch.float64) / float(sequence.fps)
    first, second = settings.joints_iterations, settings.detections_iterations

    def report(offset: int) -> Callable[[int, float], None]:
        return lambda done, _: progress(offset + done, first + second) if progress is not None else None

    motion = start_motion(body64, joints3d, settings, np.asarray(sequence.up_vector))
    keypoints = torch.as_tensor(joints3d.keypoints, dtype=torch.float64)
    keypoints = torch.where(torch.as_tensor(joints3d.valid)[..., None, None], keypoints, torch.nan)
    scores = torch.as_tensor(joints3d.scores, dtype=torch.float64)
    motion = fit_to_joints(body64, motion, keypoints, scores, times, settings, report(0))
    if second > 0 and (sequence.folder / "keypoints2d").is_dir():
        # The fitted body has every joint of every frame, so it finds detections that the 3D joints had no use for.
        rows = associate(sequence, _as_joints(joints3d, motion, body64)).rows
        place = {int(number): index for index, number in enumerate(sequence.frames)}
        detections = sequence.keypoints2d[:, [place[int(number)] for number in joints3d.frames]]
        evidence = Evidence.gather(detections, rows)
        cameras: Cameras = sequence.cameras.to(dtype=torch.float64, device="cpu")
        motion = fit_to_detections(body64, motion, evidence, cameras, times, settings, report(first))
    if progress is not None:
        progress(first + second, first + second)
    return as_bodies(joints3d, motion, body64, float(sequence.fps))


def _check(sequence: Sequence, joints3d: Joints3D) -> None:
    file = sequence.results / "joints3d.npz"
    if not joints3d.people or not joints3d.valid.any():
        raise InputError("no person to register", file=file, expected="a person in a frame", found="none")
    missing = np.setdiff1d(joints3d.frames, sequence.frames)
    if len(missing):
        raise InputError(
            "3D joints of frames that the sequence lacks", file=file, frame=int(missing[0]),
            expected=f"frames {sequence.frames[0]} to {sequence.frames[-1]}", found=f"{len(missing)} others",
        )  # fmt: skip


def start_motion(body: BodyModel, joints3d: Joints3D, settings: RegisterSettings, up: np.ndarray) -> Motion:
    """Shape from limb lengths and root from the torso; limbs in the zero pose, elbows and knees slightly bent."""
    betas = fit_shape(body, joints3d, settings.limb_spread, settings.shape_prior)
    root, trans = initial_root(body, joints3d, betas, up)
    angles = torch.zeros(*joints3d.valid.shape, 23, 3, dtype=torch.float64)
    for joint, axis, backwards in HINGES:
        angles[:, :, joint - 1, axis] = -backwards * _START_BEND
    return Motion(betas, root, angles, trans, torch.as_tensor(present_frames(joints3d.valid)))


def _as_joints(joints3d: Joints3D, motion: Motion, body: BodyModel) -> Joints3D:
    present = motion.present.numpy()
    scores = np.repeat(present[..., None], 17, axis=-1).astype(np.float32)
    keypoints = motion.keypoints(body).numpy().astype(np.float32)
    return Joints3D(joints3d.people, joints3d.frames, keypoints, scores, present)


def as_bodies(joints3d: Joints3D, motion: Motion, body: BodyModel, fps: float) -> Bodies:
    """Motion as results; outside a person's frames the nearest one's parameters stand."""
    nearest = _nearest_present(motion.present)
    person = torch.arange(len(nearest))[:, None]
    poses, trans = motion.poses()[person, nearest], motion.trans[person, nearest]
    betas = motion.betas[:, None]
    return Bodies(
        people=list(joints3d.people),
        frames=np.asarray(joints3d.frames),
        fps=fps,
        betas=motion.betas.numpy().astype(np.float32),
        poses=poses.numpy().astype(np.float32),
        trans=trans.numpy().astype(np.float32),
        joints=body.joints(betas, poses, trans).numpy().astype(np.float32),
        keypoints=body.keypoints(betas, poses, trans).numpy().astype(np.float32),
        valid=motion.present.numpy().copy(),
        body_name=body.name,
        body_sha256=body.sha256,
    )


def _nearest_present(present: Bool[Tensor, "people frames"]) -> Tensor:
    """(P, F) index of the nearest frame that the person is in; the frame itself for a person never there."""
    index = torch.arange(present.shape[1])
    distance = (index[:, None] - index).abs().to(torch.float64)  # (F, F)
    away = torch.where(present[:, None], 0.0, torch.inf)
    found = (distance + away).argmin(dim=-1)
    return torch.where(present.any(dim=1, keepdim=True), found, index)
