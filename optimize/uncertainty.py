"""How far each joint may be off: a standard deviation per axis, from the curvature of the refinement's own cost.

Laplace's approximation (MacKay 2003, ch. 27) at the refined bodies, one person and frame at a time, the avatars fixed:
with theta the 72 pose angles and 3 coordinates of the translation,

    A = sum_k J_k^T J_k / sigma_k^2 + A_prior
    variance of a joint x = scale^2 dx/dtheta A^-1 dx/dtheta^T

over the rendered colours, the opacities and the projected keypoints; sigma_k^2 are the mean squares of what these miss
by in that frame, so a frame that fits badly is trusted less. Derivatives are finite differences, with the samples of
the rays held. Neighbouring pixels err together, and avatars and shapes have errors of their own that no residual shows:
one factor, `scale`, stands for both, fitted on the embedded capture (`python -m benchmarks.uncertainty`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatarpose.errors import InputError
from avatarpose.io import read_npz, write_npz
from avatarpose.register.priors import pose_table
from optimize.avatars import BodyMotion, body_motion, image_boxes, render_people
from optimize.pixels import PixelBatch
from optimize.poses import BodyParameters
from optimize.stages import Problem
from renderer.render import PersonRender, Rendering, render_samples
from renderer.sampling import RayBatch, Samples, sample_people

FILE = "uncertainty.npz"
PARAMETERS = 75
GREY = 0.5


@dataclass(frozen=True)
class UncertaintyConfig:
    """How the standard deviations are found."""

    rays: int = 60
    """Rays per camera and frame: more cameras tell more."""
    angle_step: float = 0.004
    """Radians, of the finite differences."""
    length_step: float = 0.001
    """Metres, of the finite differences."""
    scale: float = 4.3
    """Factor on all standard deviations."""
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
    valid = problem.poses.valid
    people, frames = valid.shape
    device = parameters.poses.device
    joints = torch.full((people, frames, 24, 3), torch.nan, device=device)
    keypoints = torch.full((people, frames, 17, 3), torch.nan, device=device)
    motion = body_motion(problem.body, problem.avatars, parameters, shape_moves=True)
    generator = torch.Generator(device=device).manual_seed(config.seed)
    for f in range(frames):
        present = torch.nonzero(valid[:, f])[:, 0].tolist()
        if not present:
            continue
        view = None if problem.config.ablation.smpl_only else _look(problem, motion, f, config, generator)
        for p in present:
            step = _steps(problem.body, parameters, p, f, config)
            information = torch.diag(_prior_information(device)) + _keypoint_information(problem, step, p, f)
            if view is not None:
                information = information + _pixel_information(view, p, step)
            covariance = torch.linalg.inv(information.double())
            for moved, into in ((step.joints, joints), (step.keypoints, keypoints)):
                slope = ((moved[1:] - moved[:1]) / step.size[:, None, None]).double()  # (75, J, 3)
                variance = torch.einsum("ajk,ab,bjk->jk", slope, covariance, slope)
                into[p, f] = config.scale * variance.clamp(min=0).sqrt().to(into.dtype)
        if progress is not None:
            progress(f + 1, frames)
    return joints, keypoints


@dataclass
class _Steps:
    """One person in one frame: as refined, and with each parameter moved by a little."""

    size: Tensor  # (75,)
    transforms: Tensor  # (76, 24, 4, 4)
    joints: Tensor  # (76, 24, 3)
    keypoints: Tensor  # (76, 17, 3)


def _steps(body, parameters: BodyParameters, p: int, f: int, config: UncertaintyConfig) -> _Steps:
    start = torch.cat([parameters.poses[p, f], parameters.trans[p, f]])
    size = torch.full_like(start, config.angle_step)
    size[72:] = config.length_step
    moved = start + torch.cat([torch.zeros(1, PARAMETERS).to(start), torch.diag(size)])
    betas = parameters.betas[p].expand(len(moved), -1)
    poses, trans = moved[:, :72], moved[:, 72:]
    of = (betas, poses, trans)
    return _Steps(size, body.transforms(*of), body.joints(*of), body.keypoints(*of))


@dataclass
class _View:
    """The rays of one frame, their samples, and what was rendered and seen there."""

    problem: Problem
    people: list[PersonRender]
    rays: RayBatch
    samples: Samples
    batch: PixelBatch
    values: Tensor  # (R, 4) colours over grey, opacity
    inverse_variance: Tensor  # (R, 4), zero where a value is not compared


def _look(problem: Problem, motion: BodyMotion, f: int, config: UncertaintyConfig, generator) -> _View | None:
    valid = problem.poses.valid
    boxes = image_boxes(motion.joints[valid[:, f], f].cpu().numpy(), problem.cameras.to(device="cpu"))
    problem.source.announce([f])
    pool = problem.source.pool(f, boxes, config.rays, 1, 0.0, config.seed)
    count = pool.camera.shape[0]
    if count == 0:
        return None
    batch = problem.source.batch([pool], count, generator)
    people, shells = render_people(problem.avatars, motion, valid, [f], problem.cache)
    rays = RayBatch(batch.origin, batch.direction, batch.frame)
    samples = sample_people(rays, [one.posed for one in people], shells, problem.config.sampling, generator)
    view = _View(problem, people, rays, samples, batch, torch.empty(0), torch.empty(0))
    view.values = _values(view, people)
    seen = torch.where((batch.label == 1)[:, None], batch.colour, GREY)
    target = torch.cat([seen, (batch.label == 1).float()[:, None]], dim=-1)
    compared = torch.cat([batch.coloured[:, None].expand(-1, 3), (batch.label != 2)[:, None]], dim=-1).float()
    square = (view.values - target).square() * compared
    colour = square[:, :3].sum() / compared[:, :3].sum().clamp(min=1)
    opacity = square[:, 3].sum() / compared[:, 3].sum().clamp(min=1)
    variance = torch.stack([colour, colour, colour, opacity]).clamp(min=1e-6)
    view.inverse_variance = compared / variance
    return view


def _values(view: _View, people: list[PersonRender]) -> Tensor:
    rendering: Rendering = render_samples(people, view.samples, view.rays, view.problem.config.sampling)
    colour = rendering.colour
    if view.problem.avatars.use_camera_colour:
        colour = view.problem.avatars.camera_colour(colour, rendering.alpha, view.batch.camera)
    return torch.cat([colour + (1 - rendering.alpha)[:, None] * GREY, rendering.alpha[:, None]], dim=-1)


def _pixel_information(view: _View, p: int, step: _Steps) -> Float[Tensor, "75 75"]:
    """sum J^T J / sigma^2 over the rays that meet the person."""
    columns = []
    for k in range(PARAMETERS):
        T = step.transforms[k + 1][None]
        posed = replace(view.people[p].posed, T_world_canonical=T, T_world_root=T[:, 0])
        moved = [*view.people[:p], replace(view.people[p], posed=posed), *view.people[p + 1 :]]
        columns.append((_values(view, moved) - view.values) / step.size[k])
    J = torch.stack(columns, dim=-1)  # (R, 4, 75)
    J = (J * view.inverse_variance.sqrt()[..., None]).flatten(0, 1)
    return J.T @ J


def _keypoint_information(problem: Problem, step: _Steps, p: int, f: int) -> Float[Tensor, "75 75"]:
    if problem.evidence is None:
        return torch.zeros(PARAMETERS, PARAMETERS, device=step.size.device)
    pixels, depth = problem.cameras.project(step.keypoints.flatten(0, 1))
    pixels = pixels.unflatten(1, step.keypoints.shape[:2])  # (C, 76, 17, 2)
    score = problem.evidence.score[:, f, p] * (depth.unflatten(1, step.keypoints.shape[:2])[:, 0] > 0)
    J = (pixels[:, 1:] - pixels[:, :1]) / step.size[:, None, None]  # (C, 75, 17, 2)
    miss = (pixels[:, 0] - problem.evidence.pixels[:, f, p]).square().mean(dim=-1)  # (C, 17)
    # As in the refinement, a far detection counts less: the weight of the robust cost at its residual.
    weight = score / (1 + miss / problem.keypoint_unit**2)
    variance = ((weight * miss).sum() / weight.sum().clamp(min=1e-6)).clamp(min=1.0)
    return torch.einsum("cajk,cbjk,cj->ab", J, J, weight) / variance


def _prior_information(device: torch.device) -> Float[Tensor, " 75"]:
    """Diagonal of the pose prior's precision; the root and the translation have none (a metre, a half turn)."""
    _, spread = pose_table(torch.float32, device)
    return torch.cat([torch.full((3,), 0.1, device=device), spread.flatten().pow(-2), torch.ones(3, device=device)])
