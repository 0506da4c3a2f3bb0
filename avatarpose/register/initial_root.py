"""Closed-form start of the root: Procrustes of the torso in every frame, bridged over the frames without one."""

from __future__ import annotations

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.results import Joints3D

TORSO = (5, 6, 11, 12)
"""COCO shoulders and hips."""
_LEAST_SPREAD = 0.02
"""Metres: second singular spread of the torso points below which they are nearly on a line and give no rotation."""


def present_frames(valid: Bool[np.ndarray, "people frames"]) -> Bool[np.ndarray, "people frames"]:
    """Every frame between a person's first and last."""
    started = np.maximum.accumulate(valid, axis=1)
    to_come = np.maximum.accumulate(valid[:, ::-1], axis=1)[:, ::-1]
    return started & to_come


def rigid_fit(
    source: Float[np.ndarray, "points 3"], target: Float[np.ndarray, "points 3"], weights: Float[np.ndarray, " points"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]] | None:
    """R, t minimising sum w |R source + t - target|^2 (Kabsch 1976); None where the points leave R open."""
    weights = weights / weights.sum()
    mean_source, mean_target = weights @ source, weights @ target
    moved, aimed = source - mean_source, target - mean_target
    if np.linalg.svd(np.sqrt(weights)[:, None] * aimed, compute_uv=False)[1] < _LEAST_SPREAD:
        return None
    covariance = torch.as_tensor((aimed * weights[:, None]).T @ moved)
    rotation = roma.special_procrustes(covariance).numpy()
    return rotation, mean_target - rotation @ mean_source


def initial_root(
    body: BodyModel, joints: Joints3D, betas: Float[Tensor, "people 10"], up: Float[np.ndarray, " 3"]
) -> tuple[Float[Tensor, "people frames 3 3"], Float[Tensor, "people frames 3"]]:
    """Root rotations and translations that bring the zero-pose torso onto the observed one, float64.

    A frame with fewer than three torso joints, or with three on a line, takes its rotation from its neighbours in time
    (spherical interpolation) and, if it has any torso joint, its translation from that. Outside a person's frames the
    nearest value is repeated. A person whose torso is never seen stands upright along `up`.
    """
    body = body.to(dtype=torch.float64, device="cpu")
    zeros = torch.zeros(len(joints.people), 72, dtype=torch.float64)
    rest = body.keypoints(betas, zeros, zeros[:, :3]).numpy()
    pelvis = body.rest_joints(betas)[:, 0].numpy()
    people, frames = joints.valid.shape
    torso = np.array(TORSO)
    points = joints.keypoints[:, :, torso].astype(np.float64)
    usable = np.isfinite(points).all(axis=-1) & joints.valid[..., None] & (joints.scores[:, :, torso] > 0)
    times = np.arange(frames)
    # The shortest turn from the body's own up, y, to the world's.
    body_up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    upright = roma.special_procrustes(torch.outer(torch.as_tensor(up, dtype=torch.float64), body_up)).numpy()
    rotations_world, translations = np.zeros((people, frames, 3, 3)), np.zeros((people, frames, 3))
    for person in range(people):
        source = rest[person, torso]
        rotations: dict[int, np.ndarray] = {}
        for frame in np.flatnonzero(usable[person].sum(axis=1) >= 3):
            use = usable[person, frame]
            fitted = rigid_fit(source[use], points[person, frame, use], joints.scores[person, frame, torso[use]])
            if fitted is not None:
                rotations[int(frame)] = fitted[0]
        every = _interpolate_rotations(rotations or {0: upright}, frames)
        # The root turns about its rest joint: R (x - pelvis) + pelvis + trans = target.
        known, offsets = [], []
        for frame in range(frames):
            use = usable[person, frame]
            if use.any():
                moved = (source[use] - pelvis[person]) @ every[frame].T + pelvis[person]
                known.append(frame)
                offsets.append((points[person, frame, use] - moved).mean(axis=0))
        if known:
            for axis in range(3):
                translations[person, :, axis] = np.interp(times, known, np.array(offsets)[:, axis])
        rotations_world[person] = every
    return torch.as_tensor(rotations_world), torch.as_tensor(translations)


def _interpolate_rotations(rotations: dict[int, np.ndarray], frames: int) -> Float[np.ndarray, "frames 3 3"]:
    """Rotations of all frames from those of some, by spherical interpolation; the nearest at either end."""
    known = np.array(sorted(rotations))
    given = torch.as_tensor(np.stack([rotations[f] for f in known]))
    quaternions = roma.rotmat_to_unitquat(given)
    result = np.empty((frames, 3, 3))
    for frame in range(frames):
        after = int(np.clip(np.searchsorted(known, frame), 0, len(known) - 1))
        before = after if known[after] <= frame else max(after - 1, 0)
        span = known[after] - known[before]
        share = torch.tensor(0.0 if span <= 0 else (frame - known[before]) / span, dtype=torch.float64)
        between = roma.unitquat_slerp(quaternions[before], quaternions[after], share, shortest_arc=True)
        result[frame] = roma.unitquat_to_rotmat(between).numpy()
    return result

