"""What images and keypoints tell about one body in one frame: the Gauss-Newton matrix of the refinement's own cost.

With theta the 75 parameters of a body (a turn of the root in world axes, 69 angles, the translation),

    A = sum_k J_k^T J_k / sigma_k^2 + A_prior

over the rendered colours, the opacities and the projected keypoints (the evidence) and the prior on the pose;
sigma_k^2 are the mean squares of what these miss by in that frame, so a frame that fits badly tells less. Few rays are
looked at, and a thin limb may be missed: what they tell is the mean over the frame and its two neighbours. The avatars
and the samples of the rays are held. Derivatives of the rendering are exact: a ray's values depend on the bones through
its samples' canonical positions alone, and its own samples alone, so four backward passes give all rays' derivatives.
Those of the kinematic tree are differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import roma
import torch
from jaxtyping import Float
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.register.priors import pose_table
from optimize.avatars import BodyMotion, image_boxes, render_people
from optimize.pixels import PixelBatch
from optimize.poses import PARAMETERS, BodyParameters
from optimize.stages import Problem
from renderer.render import PersonRender, render_samples
from renderer.sampling import RayBatch, Samples, sample_people

GREY = 0.5
CHANNELS = 4  # three colours and the opacity
LARGEST_DEVIATION = 0.05
"""Radians or metres that a unit step moves at the most, along directions that the evidence leaves open."""


@dataclass(frozen=True)
class CurvatureConfig:
    """How the matrices are found."""

    rays: int = 60
    """Rays per camera and frame: more cameras tell more."""
    angle_step: float = 0.004
    """Radians, of the differences of the kinematic tree."""
    length_step: float = 0.001
    """Metres, likewise."""


@dataclass
class Steps:
    """One person in one frame: as refined, and with each parameter moved by a little."""

    size: Float[Tensor, " 75"]
    transforms: Float[Tensor, "76 24 4 4"]
    joints: Float[Tensor, "76 24 3"]
    keypoints: Float[Tensor, "76 17 3"]


def body_steps(body: BodyModel, parameters: BodyParameters, p: int, f: int, config: CurvatureConfig) -> Steps:
    """Moves each of the 75 parameters of a body in turn."""
    pose, trans = parameters.poses[p, f], parameters.trans[p, f]
    size = torch.full((PARAMETERS,), config.angle_step).to(pose)
    size[72:] = config.length_step
    moves = torch.cat([torch.zeros(1, PARAMETERS).to(pose), torch.diag(size)])
    root = roma.rotvec_composition((moves[:, :3], pose[:3].expand(len(moves), 3)), normalize=False)
    poses = torch.cat([root, pose[3:] + moves[:, 3:72]], dim=1)
    of = (parameters.betas[p].expand(len(moves), -1), poses, trans + moves[:, 72:])
    return Steps(size, body.transforms(*of), body.joints(*of), body.keypoints(*of))


@dataclass
class View:
    """The rays of one frame, their samples, and how much each value of each ray tells."""

    problem: Problem
    people: list[PersonRender]
    rays: RayBatch
    samples: Samples
    batch: PixelBatch
    inverse_variance: Float[Tensor, "rays 4"]
    """Zero where a value is not compared."""
    pull: Float[Tensor, "4 samples 3"]
    """Derivative of the value of a sample's ray with respect to the sample's canonical position."""
    x_ref: Float[Tensor, "samples 3"]


def look(problem: Problem, motion: BodyMotion, f: int, rays: int, seed: int) -> View | None:
    """Renders some rays of one frame; None where there is no pixel."""
    present, config = problem.poses.present, problem.config
    generator = torch.Generator(device=motion.joints.device).manual_seed(seed)
    boxes = image_boxes(motion.joints[:, f].cpu()[present[:, f]].numpy(), problem.cameras.to(device="cpu"))
    pool = problem.source.pool(f, boxes, rays, 1, 0.0, seed)
    count = pool.camera.shape[0]
    if count == 0:
        return None
    batch = problem.source.batch([pool], count, generator)
    people, shells = render_people(problem.avatars, motion, present, [f], config.sampling.shell, problem.surfaces)
    ray_batch = RayBatch(batch.origin, batch.direction, batch.frame)
    samples = sample_people(ray_batch, [one.posed for one in people], shells, config.sampling, generator)
    view = View(problem, people, ray_batch, samples, batch, torch.empty(0), torch.empty(0), torch.empty(0))
    moved = torch.zeros(len(samples), 3, device=batch.origin.device, requires_grad=True)
    with torch.enable_grad():
        values, x_ref = rendered_values(view, people, moved)
        pulls = [torch.autograd.grad(values[:, k].sum(), moved, retain_graph=k < 3)[0] for k in range(CHANNELS)]
    view.pull, view.x_ref = torch.stack(pulls), x_ref.detach()
    seen = torch.where((batch.label == 1)[:, None], batch.colour, GREY)
    target = torch.cat([seen, (batch.label == 1).float()[:, None]], dim=-1)
    compared = torch.cat([batch.coloured[:, None].expand(-1, 3), (batch.label != 2)[:, None]], dim=-1).float()
    square = (values.detach() - target).square() * compared
    colour = square[:, :3].sum() / compared[:, :3].sum().clamp(min=1)
    opacity = square[:, 3].sum() / compared[:, 3].sum().clamp(min=1)
    view.inverse_variance = compared / torch.stack([colour, colour, colour, opacity]).clamp(min=1e-6)
    return view


def rendered_values(view: View, people: list[PersonRender], moved: Tensor | None) -> tuple[Tensor, Tensor]:
    """Colours over grey and opacity (R,4) of the view's rays, and the samples' canonical positions."""
    sampling = view.problem.config.sampling
    rendering = render_samples(people, view.samples, view.rays, sampling, displacement=moved)
    colour = rendering.colour
    if view.problem.avatars.use_camera_colour:
        colour = view.problem.avatars.camera_colour(colour, rendering.alpha, view.batch.camera)
    over = colour + (1 - rendering.alpha)[:, None] * GREY
    return torch.cat([over, rendering.alpha[:, None]], dim=-1), rendering.x_ref


def ray_jacobian(view: View, p: int, steps: Steps) -> Float[Tensor, "rays 4 75"]:
    """Derivatives of the rays' values with respect to the parameters of person p.

    x_ref solves (sum_j w_j T_j) x = x_world, so dx_ref = -A^-1 (sum_j w_j dT_j) (x, 1) with A the blend's linear part.
    """
    begin = sum(view.samples.counts[:p])
    mine = slice(begin, begin + view.samples.counts[p])
    posed, vertex = view.people[p].posed, view.samples.vertex[mine]
    weights = posed.geometry.bone_weights.index_select(0, vertex)
    x = view.x_ref[mine]
    if posed.shape_offset is not None:
        x = x + posed.shape_offset.index_select(0, vertex)
    bones = weights.shape[1]
    blended = (weights @ steps.transforms[0, :bones, :3].flatten(1)).view(-1, 3, 4)
    at_world = torch.linalg.solve(blended[:, :, :3].transpose(1, 2), view.pull[:, mine].permute(1, 2, 0))  # (N, 3, 4)
    homogeneous = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    moment = -(at_world.transpose(1, 2)[..., None] * homogeneous[:, None, None]).flatten(2)  # (N, 4, 12)
    by_ray = moment.new_zeros(len(view.rays.frame), CHANNELS * bones * 12)
    by_ray.index_add_(0, view.samples.ray[mine], (moment[:, :, None] * weights[:, None, :, None]).flatten(1))
    slope = (steps.transforms[1:, :bones, :3] - steps.transforms[0, :bones, :3]) / steps.size[:, None, None, None]
    return by_ray.view(-1, CHANNELS, bones * 12) @ slope.flatten(1).T


def ray_information(view: View, p: int, steps: Steps) -> Float[Tensor, "75 75"]:
    """Of the rendered colours and opacities."""
    J = (ray_jacobian(view, p, steps) * view.inverse_variance.sqrt()[..., None]).flatten(0, 1)
    return J.T @ J


def keypoint_information(problem: Problem, steps: Steps, p: int, f: int) -> Float[Tensor, "75 75"]:
    """Of the projected keypoints."""
    if problem.evidence is None:
        return torch.zeros(PARAMETERS, PARAMETERS, device=steps.size.device)
    pixels, depth = problem.cameras.project(steps.keypoints.flatten(0, 1))
    pixels = pixels.unflatten(1, steps.keypoints.shape[:2])  # (C, 76, 17, 2)
    score = problem.evidence.score[:, f, p] * (depth.unflatten(1, steps.keypoints.shape[:2])[:, 0] > 0)
    J = (pixels[:, 1:] - pixels[:, :1]) / steps.size[:, None, None]  # (C, 75, 17, 2)
    miss = (pixels[:, 0] - problem.evidence.pixels[:, f, p]).square().mean(dim=-1)  # (C, 17)
    # As in the refinement, a far detection counts less: the weight of the robust cost at its residual.
    weight = score / (1 + miss / problem.keypoint_unit**2)
    variance = ((weight * miss).sum() / weight.sum().clamp(min=1e-6)).clamp(min=1.0)
    return torch.einsum("cajk,cbjk,cj->ab", J, J, weight) / variance


def prior_information(device: torch.device) -> Float[Tensor, " 75"]:
    """Diagonal of the pose prior's precision; the root and the translation have none (a metre, a half turn)."""
    _, spread = pose_table(torch.float32, device)
    return torch.cat([torch.full((3,), 0.1, device=device), spread.flatten().pow(-2), torch.ones(3, device=device)])


@dataclass
class _Told:
    """What one frame tells of one person."""

    steps: Steps
    keypoints: Float[Tensor, "75 75"]
    rays: Float[Tensor, "75 75"] | None
    """None where no pixel of the frame is compared."""


@torch.no_grad()
def evidence_information(
    problem: Problem,
    parameters: BodyParameters,
    motion: BodyMotion,
    config: CurvatureConfig,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, int, Float[Tensor, "75 75"], Steps]]:
    """Person, frame, the evidence's part of the matrix, and the body moved by each parameter, of all who are there.

    Args:
        progress: called with the frames done and all frames.
    """
    present = problem.poses.present
    count = present.shape[1]
    problem.source.announce(torch.nonzero(present.any(dim=0))[:, 0].tolist())
    told: dict[int, dict[int, _Told]] = {}
    for f in range(count + 1):
        if f < count:
            told[f] = _one_frame(problem, parameters, motion, f, config, seed + f)
            if progress is not None:
                progress(f + 1, count)
        for p, one in told.get(f - 1, {}).items():
            evidence = one.keypoints
            if one.rays is not None:
                there = [told[g][p].rays for g in (f - 2, f - 1, f) if p in told.get(g, {})]
                evidence = evidence + torch.stack([rays for rays in there if rays is not None]).mean(dim=0)
            yield p, f - 1, evidence, one.steps
        told.pop(f - 2, None)


def _one_frame(
    problem: Problem, parameters: BodyParameters, motion: BodyMotion, f: int, config: CurvatureConfig, seed: int
) -> dict[int, _Told]:
    """By person."""
    people = torch.nonzero(problem.poses.present[:, f])[:, 0].tolist()
    silent = problem.config.ablation.smpl_only or not people
    view = None if silent else look(problem, motion, f, config.rays, seed)
    found = {}
    for p in people:
        steps = body_steps(problem.body, parameters, p, f, config)
        sees = view is not None and bool((view.inverse_variance > 0).any())
        rays = ray_information(view, p, steps) if sees else None
        found[p] = _Told(steps, keypoint_information(problem, steps, p, f), rays)
    return found


@torch.no_grad()
def pose_directions(
    problem: Problem, parameters: BodyParameters, motion: BodyMotion, seed: int, config: CurvatureConfig | None = None
) -> Float[Tensor, "people frames 75 75"]:
    """For each person and frame a matrix S with S S^T = A^-1: in steps s of theta = S s, all directions are alike.

    Directions that the evidence leaves open by more than `LARGEST_DEVIATION` are held to that.
    """
    device = parameters.poses.device
    eye = torch.eye(PARAMETERS, device=device)
    prior = torch.diag(prior_information(device)).double()
    found = eye.expand(*problem.poses.present.shape, -1, -1).clone() * LARGEST_DEVIATION
    for p, f, evidence, _ in evidence_information(problem, parameters, motion, config or CurvatureConfig(), seed):
        A = evidence.double() + prior + eye / LARGEST_DEVIATION**2
        L = torch.linalg.cholesky(A)
        found[p, f] = torch.linalg.solve_triangular(L, eye.double(), upper=False).T.to(found.dtype)
    return found

