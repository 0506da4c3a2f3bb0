"""The fit of all people and frames together: to the 3D joints, then to the 2D keypoints of all views.

The unknowns are betas (one set a person), and in each frame a turn of the root after its start, 23 rotation vectors
and a translation. The cost is a negative log posterior: robust measurements in units of their spread, plus the priors.
It is minimised by L-BFGS in variables whitened by the Gauss-Newton curvature, renewed every few iterations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from scipy.optimize import minimize
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.cameras import LEAST_DEPTH, Cameras, project_points
from avatarpose.register import priors
from avatarpose.register.config import RegisterSettings
from avatarpose.register.curvature import N_POSE, N_SHAPE, Factor, build_factors
from avatarpose.register.evidence import Evidence

Report = Callable[[int, float], None]
_ROUND = 15
"""L-BFGS iterations between two renewals of the curvature."""
_HISTORY = 15
_WINDOW = 128
"""Frames over which a detector's lasting error is one process."""
_SLOPE_CHUNK = 64
"""Person-frames differentiated at once; a megabyte or so each."""
_DAMPING = 0.05
"""Added to the curvature of every unknown of a frame, in units of the pose prior's."""
_TOLERANCE = 1e-4
"""Relative fall of the cost in a round below which the fit has arrived."""


@dataclass(frozen=True)
class Motion:
    """Body parameters of all people and frames, as the fit keeps them (float64, CPU)."""

    betas: Float[Tensor, "people 10"]
    R_world_root: Float[Tensor, "people frames 3 3"]
    angles: Float[Tensor, "people frames 23 3"]
    trans: Float[Tensor, "people frames 3"]
    present: Bool[Tensor, "people frames"]

    def poses(self) -> Float[Tensor, "people frames 72"]:
        """Axis-angle of all 24 joints; the root's angle is at most pi."""
        root = roma.rotmat_to_rotvec(self.R_world_root)
        return torch.cat((root, self.angles.flatten(-2)), dim=-1)

    def keypoints(self, body: BodyModel) -> Float[Tensor, "people frames 17 3"]:
        """COCO keypoints in the world, metres."""
        return _keypoints(body, self.betas[:, None], self.R_world_root, self.angles, self.trans)

    def moved(self, pose: Float[Tensor, "people frames 75"], shape: Float[Tensor, "people 10"]) -> Motion:
        """This motion after a step of the unknowns."""
        turn, angles, trans = pose[..., :3], pose[..., 3:72], pose[..., 72:]
        root = self.R_world_root @ roma.rotvec_to_rotmat(turn)
        angles = self.angles + angles.reshape(self.angles.shape)
        return replace(self, betas=self.betas + shape, R_world_root=root, angles=angles, trans=self.trans + trans)


def _keypoints(body: BodyModel, betas: Tensor, R_world_root: Tensor, angles: Tensor, trans: Tensor) -> Tensor:
    # The root is applied here, as a matrix: dancers turn through pi, where a rotation vector breaks off.
    upright = torch.cat((torch.zeros_like(trans), angles.flatten(-2)), dim=-1)
    local = body.keypoints(betas, upright, torch.zeros_like(trans))
    pelvis = body.rest_joints(betas)[..., :1, :]
    return (local - pelvis) @ R_world_root.transpose(-1, -2) + pelvis + trans[..., None, :]


def _slopes(body: BodyModel, motion: Motion) -> Float[Tensor, "people frames 17 3 85"]:
    """Derivatives of the keypoints with respect to the 75 unknowns of their frame and the 10 of the shape."""

    def moved(step: Tensor, betas: Tensor, root: Tensor, angles: Tensor, trans: Tensor) -> Tensor:
        root = root @ roma.rotvec_to_rotmat(step[:3])
        angles = angles + step[3:72].reshape(angles.shape)
        return _keypoints(body, betas + step[N_POSE:], root, angles, trans + step[72:N_POSE])

    people, frames = motion.present.shape
    betas = motion.betas[:, None].expand(people, frames, N_SHAPE)
    step = torch.zeros(N_POSE + N_SHAPE, dtype=motion.betas.dtype)
    slope = torch.func.vmap(torch.func.jacfwd(moved), in_dims=(None, 0, 0, 0, 0), chunk_size=_SLOPE_CHUNK)
    flat = (x.flatten(0, 1) for x in (betas, motion.R_world_root, motion.angles, motion.trans))
    return slope(step, *flat).reshape(people, frames, 17, 3, N_POSE + N_SHAPE)


def _clock(times: Float[Tensor, " frames"]) -> tuple[float, Bool[Tensor, " inner"]]:
    """Frames per second of the usual step, and whether frames t, t + 1, t + 2 stand that step apart."""
    steps = times.diff()
    if len(steps) == 0:
        return 1.0, torch.zeros(0, dtype=torch.bool)
    usual = steps.median()
    even = (steps - usual).abs() < 1e-3 * usual
    return float(1 / usual), even[:-1] & even[1:]


class _Priors:
    """Shape, pose, hinge and smoothness costs, summed over people and present frames, and their curvature."""

    def __init__(self, times: Float[Tensor, " frames"], present: Tensor, settings: RegisterSettings) -> None:
        self.settings = settings
        self.fps, even = _clock(times)
        self.triple = present[:, :-2] & present[:, 1:-1] & present[:, 2:] & even
        self.mean, self.spread = priors.pose_table(torch.float64, torch.device("cpu"))

    def cost(self, motion: Motion, keypoints: Tensor) -> Float[Tensor, ""]:
        settings = self.settings
        pose = settings.pose_prior * priors.pose_cost(motion.angles, self.mean, self.spread)
        pose = pose + settings.hinge_prior * priors.hinge_cost(motion.angles)
        total = torch.where(motion.present, pose, 0.0).sum() + 0.5 * settings.shape_prior * motion.betas.square().sum()
        triple = self.triple
        total = total + priors.acceleration_cost(keypoints, triple, self.fps, settings.acceleration)
        rotations = priors.local_rotations(motion.R_world_root, motion.angles)
        return total + priors.angular_acceleration_cost(rotations, triple, self.fps, settings.angular_acceleration)

    def factors(self, body: BodyModel, motion: Motion, keypoints: Tensor, measured: Tensor) -> list[Factor]:
        """Factored curvature per person, given the measurements' (P, F, 17, 3, 3)."""
        settings = self.settings
        triple = self.triple[..., None].to(torch.float64)
        to_linear, to_angular = self.fps**2 / settings.acceleration, self.fps**2 / settings.angular_acceleration
        second = keypoints[:, :-2] - 2 * keypoints[:, 1:-1] + keypoints[:, 2:]
        linear = triple * to_linear**2 / (1 + (second * to_linear).square().sum(-1)).sqrt()
        angular = triple * to_angular**2 * torch.ones(24, dtype=torch.float64)
        width = settings.pose_prior / self.spread.square().flatten()
        prior = torch.cat((torch.ones(3), width, torch.ones(3))).to(torch.float64)
        prior = (prior + _DAMPING * width.mean()).expand(*motion.present.shape, N_POSE)
        return build_factors(
            _slopes(body, motion), measured, linear, angular, prior, settings.shape_prior, motion.present
        )


class _Whitened:
    """The cost as a function of whitened steps from a motion, flattened for scipy: frames, then shapes, then extra."""

    def __init__(
        self, cost: Callable[[Motion, Tensor], Tensor], whitening: list[Factor], centre: Motion, extra: Tensor
    ) -> None:
        self.cost, self.whitening, self.centre, self.extra = cost, whitening, centre, extra
        self.people, self.frames = centre.present.shape
        ends = np.cumsum([self.people * self.frames * N_POSE, self.people * N_SHAPE, extra.numel()])
        self.cuts, self.size = ends[:2], int(ends[2])

    def steps(self, z: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Steps of the frames' unknowns, of the shapes and of the extra ones."""
        pose, shape, extra = np.split(z, self.cuts)
        pose, shape = pose.reshape(self.people, -1), shape.reshape(self.people, -1)
        pairs = [factor.step(a, b) for factor, a, b in zip(self.whitening, pose, shape, strict=True)]
        pose, shape = (torch.as_tensor(np.stack(part)) for part in zip(*pairs, strict=True))
        return pose.reshape(self.people, self.frames, N_POSE), shape, torch.as_tensor(extra).reshape(self.extra.shape)

    def at(self, steps: tuple[Tensor, Tensor, Tensor]) -> tuple[Motion, Tensor]:
        pose, shape, extra = steps
        return self.centre.moved(pose, shape), self.extra + extra

    def value_and_gradient(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        leaves = tuple(step.requires_grad_(True) for step in self.steps(z))
        value = self.cost(*self.at(leaves))
        gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        pose, shape, extra = (gradient.numpy() for gradient in gradients)
        pairs = [f.gradient(a.reshape(-1), b) for f, a, b in zip(self.whitening, pose, shape, strict=True)]
        parts = [part for column in zip(*pairs, strict=True) for part in column]
        return float(value.detach()), np.concatenate([*parts, extra.reshape(-1)])


def _descend(
    cost: Callable[[Motion, Tensor], Tensor],
    factors: Callable[[Motion], list[Factor]],
    start: Motion,
    extra: Tensor,
    iterations: int,
    report: Report | None,
) -> Motion:
    """Minimises cost(motion, extra) over both; `extra` are unknowns already near unit scale."""
    motion, before, done = start, np.inf, 0
    while done < iterations:
        problem = _Whitened(cost, factors(motion), motion, extra)
        most = min(_ROUND, iterations - done)
        options = {"maxiter": most, "maxcor": _HISTORY, "maxfun": 3 * most, "ftol": 1e-7, "gtol": 1e-9}
        zero = np.zeros(problem.size)
        found = minimize(problem.value_and_gradient, zero, jac=True, method="L-BFGS-B", options=options)
        motion, extra = problem.at(problem.steps(found.x))
        done += most
        if report is not None:
            report(done, found.fun)
        if before - found.fun < _TOLERANCE * abs(found.fun):
            break
        before = found.fun
    return motion


def fit_to_joints(
    body: BodyModel,
    start: Motion,
    keypoints: Float[Tensor, "people frames 17 3"],
    scores: Float[Tensor, "people frames 17"],
    times: Float[Tensor, " frames"],
    settings: RegisterSettings,
    report: Report | None = None,
) -> Motion:
    """Fits every frame to the 3D joints (metres, NaN where unknown), robustly, with all priors.

    `body` and `start` are float64 on the CPU; `times` are the frames' in seconds.
    """
    known = torch.isfinite(keypoints).all(dim=-1) & start.present[..., None]
    weight = torch.where(known, scores, 0.0)
    target = torch.where(known[..., None], keypoints, 0.0)
    belief = _Priors(times, start.present, settings)

    def squares(found: Tensor) -> Tensor:
        return ((found - target) / settings.joint_spread).square().sum(dim=-1)

    def cost(motion: Motion, _: Tensor) -> Tensor:
        found = motion.keypoints(body)
        # Linear, not redescending: a zero-pose arm may be half a metre off and must still be pulled.
        return (weight * priors.charbonnier(squares(found))).sum() + belief.cost(motion, found)

    def factors(motion: Motion) -> list[Factor]:
        found = motion.keypoints(body)
        pull = weight / (1 + squares(found)).sqrt() / settings.joint_spread**2
        return belief.factors(body, motion, found, pull[..., None, None] * torch.eye(3, dtype=torch.float64))

    empty = torch.zeros(0, dtype=torch.float64)
    return _descend(cost, factors, start, empty, settings.joints_iterations, report)


class _LastingError:
    """The part of the detectors' errors that lasts, as a linear function of independent unknowns of unit spread.

    Time is cut into windows with a process of its own each, so that long sequences cost time linear in their length.
    """

    def __init__(self, evidence: Evidence, times: Float[Tensor, " frames"], settings: RegisterSettings) -> None:
        fps, _ = _clock(times)
        cameras, people, self.frames = evidence.weights.shape[:3]
        length = min(self.frames, _WINDOW)
        lags = (torch.arange(length)[:, None] - torch.arange(length)).abs().to(torch.float64) / fps
        covariance = torch.exp(-lags / settings.bias_seconds)
        self.colour = settings.detection_bias * torch.linalg.cholesky(covariance)
        self.shape = (cameras, people, -(-self.frames // length), length, 17, 2)

    def start(self) -> Tensor:
        return torch.zeros(self.shape, dtype=torch.float64)

    def metres(self, white: Tensor) -> Float[Tensor, "cameras people frames 17 2"]:
        """The error at the person's distance, for each entry of the evidence."""
        coloured = torch.einsum("fg,cpwgkx->cpwfkx", self.colour, white)
        return coloured.flatten(2, 3)[:, :, : self.frames]


def fit_to_detections(
    body: BodyModel,
    start: Motion,
    evidence: Evidence,
    cameras: Cameras,
    times: Float[Tensor, " frames"],
    settings: RegisterSettings,
    report: Report | None = None,
) -> Motion:
    """Fits every frame to the 2D keypoints of all views, robustly, with all priors.

    A detector's error has a part that lasts: it is an unknown of its own (per view, person, joint and frame) with an
    Ornstein-Uhlenbeck prior in time, so that many frames of the same error count as little more than one. Residuals are
    in pixels over the person's size in that view: a spread of s metres is s f / depth pixels.
    """
    metre = evidence.pixels_per_metre(cameras, start.keypoints(body))  # (C, P, F, 1)
    calibration = tuple(x[:, None, None, None] for x in (cameras.K, cameras.R, cameras.t, cameras.dist))
    lasting = _LastingError(evidence, times, settings) if settings.detection_bias > 0 else None
    white = lasting.start() if lasting else torch.zeros(0, dtype=torch.float64)
    belief = _Priors(times, start.present, settings)

    def residuals(points: Tensor, white: Tensor) -> tuple[Tensor, Tensor]:
        pixels, depth = project_points(points[None], *calibration)
        residual = (pixels - evidence.pixels) / metre[..., None]
        if lasting:
            residual = residual - lasting.metres(white)
        weight = torch.where(depth > LEAST_DEPTH, evidence.weights, 0.0)
        return (residual / settings.detection_noise).square().sum(dim=-1), weight

    def cost(motion: Motion, white: Tensor) -> Tensor:
        points = motion.keypoints(body)
        square, weight = residuals(points, white)
        data = (weight * priors.geman_mcclure(square, settings.outlier)).sum() + 0.5 * white.square().sum()
        return data + belief.cost(motion, points)

    def factors(motion: Motion) -> list[Factor]:
        points = motion.keypoints(body)
        pixels, depth = project_points(points[None], *calibration)
        spread = settings.detection_noise**2 + settings.detection_bias**2
        square = ((pixels - evidence.pixels) / metre[..., None]).square().sum(dim=-1) / spread
        weight = torch.where(depth > LEAST_DEPTH, evidence.weights, 0.0) / spread
        pull = weight / (1 + square / settings.outlier**2) ** 2
        # Across the ray a metre is a metre; along it the view says nothing.
        ray = torch.nn.functional.normalize(points[None] - cameras.centres[:, None, None, None], dim=-1)
        across = torch.eye(3, dtype=torch.float64) - ray[..., :, None] * ray[..., None, :]
        return belief.factors(body, motion, points, (pull[..., None, None] * across).sum(dim=0))

    return _descend(cost, factors, start, white, settings.detections_iterations, report)
