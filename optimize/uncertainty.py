"""How far each joint may be off: a standard deviation per axis, from the curvature of the refinement's own cost.

Laplace's approximation (MacKay 2003, ch. 27) at the refined bodies, one person and frame at a time, the avatars fixed:
with the matrices of `optimize.curvature` over the 75 parameters theta of a body,

    variance of a joint x = dx/dtheta (A_evidence / scale^2 + A_prior)^-1 dx/dtheta^T + misfit^2

Neighbouring pixels err together, and avatars have errors of their own that no residual shows: one factor, `scale`,
stands for both, fitted on captures that the project makes. On the same captures `misfit` was measured: how far joints
of the body are off when it is fitted to all true joints, for people whose shapes it does not have. No picture tells
that (`python -m benchmarks.uncertainty` prints both).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatarpose.errors import InputError
from avatarpose.io import read_npz, write_npz
from optimize.avatars import body_motion
from optimize.curvature import CurvatureConfig, Steps, evidence_information, prior_information
from optimize.poses import BodyParameters
from optimize.stages import Problem

FILE = "uncertainty.npz"


@dataclass(frozen=True)
class UncertaintyConfig(CurvatureConfig):
    """How the standard deviations are found."""

    rays: int = 240
    """Rays per camera and frame; with few, a thin limb may be missed."""
    scale: float = 4.0
    """How many times farther the evidence errs than its residuals say."""
    misfit: float = 0.004
    """Metres along an axis: spread of true joints about the places that the body has for them."""
    seed: int = 7


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations of refined joints: `results/uncertainty.npz`.

    Attributes:
        people: names of the P people.
        frames: (F,) frame numbers.
        joints: (P, F, 24, 3) metres, per world axis; NaN where the person is not there.
        keypoints: (P, F, 17, 3) metres, per world axis; NaN where the person is not there.
    """

    people: list[str]
    frames: Int[np.ndarray, " frames"]
    joints: Float[np.ndarray, "people frames 24 3"]
    keypoints: Float[np.ndarray, "people frames 17 3"]

    def save(self, path: Path | str) -> None:
        """Writes the .npz atomically."""
        write_npz(
            path,
            people=np.array(self.people, dtype=str),
            frames=np.asarray(self.frames, np.int64),
            joints=np.asarray(self.joints, np.float32),
            keypoints=np.asarray(self.keypoints, np.float32),
        )

    @classmethod
    def load(cls, path: Path | str) -> Uncertainty:
        """Reads the .npz.

        Raises:
            InputError: the file is absent or damaged, or an array has the wrong shape.
        """
        data = read_npz(path, ("people", "frames", "joints", "keypoints"))
        p, f = len(data["people"]), len(data["frames"])
        for name, count in (("joints", 24), ("keypoints", 17)):
            if data[name].shape != (p, f, count, 3):
                raise InputError(
                    f"array {name} has the wrong shape", file=path, expected=(p, f, count, 3), found=data[name].shape
                )
        return cls([str(name) for name in data["people"]], data["frames"], data["joints"], data["keypoints"])


def standard_deviations(
    evidence: Float[Tensor, "75 75"], steps: Steps, moved: Float[Tensor, "76 joints 3"], config: UncertaintyConfig
) -> Float[Tensor, "joints 3"]:
    """Of the points that `moved` has for the body and for each of its steps, metres, per world axis."""
    A = evidence.double() / config.scale**2 + torch.diag(prior_information(evidence.device)).double()
    slope = ((moved[1:] - moved[:1]) / steps.size[:, None, None]).double()
    variance = torch.einsum("ajk,ab,bjk->jk", slope, torch.linalg.inv(A), slope)
    return (variance.clamp(min=0) + config.misfit**2).sqrt().to(moved.dtype)


@torch.no_grad()
def joint_uncertainty(
    problem: Problem,
    parameters: BodyParameters,
    config: UncertaintyConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Float[Tensor, "people frames 24 3"], Float[Tensor, "people frames 17 3"]]:
    """Standard deviations of joints and COCO keypoints, metres, per world axis; NaN where a person is absent.

    Args:
        problem: the refinement's problem, with the learned avatars.
        parameters: the refined bodies.
        config: settings.
        progress: called with the frames done and all frames.
    """
    config = config or UncertaintyConfig()
    shape, device = problem.poses.valid.shape, parameters.poses.device
    joints = torch.full((*shape, 24, 3), torch.nan, device=device)
    keypoints = torch.full((*shape, 17, 3), torch.nan, device=device)
    motion = body_motion(problem.body, problem.avatars, parameters, shape_moves=True)
    for p, f, evidence, steps in evidence_information(problem, parameters, motion, config, config.seed, progress):
        moved = torch.cat([steps.joints, steps.keypoints], dim=1)
        found = standard_deviations(evidence, steps, moved, config)
        joints[p, f], keypoints[p, f] = found.split((24, 17))
    return joints, keypoints
