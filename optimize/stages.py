"""One iteration of each kind of stage: draw pixels, render, lose, step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.estimate import Association
from avatarpose.register.priors import hinge_cost, pose_cost, pose_table
from avatarpose.sequence import Sequence
from optimize import losses
from optimize.avatars import Avatars, BodyMotion, body_motion, render_people
from optimize.collision import collision_loss
from optimize.config import PosePriorKind, RefineConfig, Stage
from optimize.perceptual import PatchDistance, patch_loss
from optimize.pixels import PixelBatch, PixelSource, Pool, note_disagreement
from optimize.poses import BodyParameters, PoseParameters
from renderer.field import FieldSample, offset_penalty, offset_smoothness
from renderer.hash_grid import level_window
from renderer.render import Rendering, render
from renderer.sampling import RayBatch
from renderer.surface_table import SurfaceTable

OUTSIDE_DISTANCE = 0.045
"""Metres from the skin beyond which density is discouraged."""
SMOOTHNESS_SAMPLES = 1024
WHOLE_CAPTURE = 32
"""Frames up to which the priors on motion look at all of them in every iteration."""


@dataclass
class Evidence:
    """2D keypoints by person: pixels, scores, and which entries exist, for the frames being refined."""

    pixels: Tensor  # (C, F, P, 17, 2)
    score: Tensor  # (C, F, P, 17), zero where there is no detection

    @classmethod
    def from_association(cls, sequence: Sequence, association: Association, device: torch.device) -> Evidence:
        keypoints = torch.as_tensor(sequence.keypoints2d, dtype=torch.float32)
        rows = torch.as_tensor(association.rows)
        inlier = torch.as_tensor(association.inliers)
        gathered = torch.gather(
            keypoints, 2, rows.clamp(min=0)[..., None, None].expand(*rows.shape, 17, 3).to(torch.long)
        )
        there = (rows >= 0)[..., None] & torch.isfinite(gathered[..., 0]) & inlier
        score = torch.where(there, gathered[..., 2].clamp(0, 1), 0.0)
        return cls(torch.nan_to_num(gathered[..., :2]).to(device), torch.nan_to_num(score).to(device))


@dataclass
class Problem:
    """Everything a stage works on."""

    body: BodyModel
    cameras: object
    fps: float
    config: RefineConfig
    avatars: Avatars
    poses: PoseParameters
    source: PixelSource
    evidence: Evidence | None
    triple: Tensor  # (P, F-2) bool: three consecutive valid frames
    patch_distance: PatchDistance | None = None
    surfaces: list[SurfaceTable | None] | None = None
    """Where the avatars' surfaces stood when this was last refreshed."""
    keypoint_unit: float = 10.0
    """Pixels: scale of the robust reprojection cost."""

    @property
    def parents(self) -> list[int]:
        """Parent of each bone but the root."""
        return list(self.body.parents[1:])

    @property
    def shape_moves(self) -> bool:
        return bool((self.poses.delta_betas.detach() != 0).any())


@dataclass(frozen=True)
class Window:
    """The frames of which an iteration of a pose stage poses the bodies.

    All of a short capture; of a long one the drawn frames, each with the one before and after for the priors on motion,
    so that an iteration costs the same however long the capture is.
    """

    frames: list[int]
    """Of the capture, in blocks of three where they are not all of them."""
    drawn: list[int]
    """Where the drawn frames stand in `frames`."""
    triple: Tensor  # (P, len(frames) - 2) bool: where a prior on acceleration looks

    @classmethod
    def around(cls, problem: Problem, drawn: list[int]) -> Window:
        count = problem.poses.valid.shape[1]
        if count <= max(WHOLE_CAPTURE, 3 * len(drawn)):
            return cls(list(range(count)), drawn, problem.triple)
        middles = [min(max(f, 1), count - 2) for f in drawn]
        frames = [m + step for m in middles for step in (-1, 0, 1)]
        triple = torch.zeros(len(problem.triple), len(frames) - 2, dtype=torch.bool, device=problem.triple.device)
        triple[:, ::3] = problem.triple[:, [m - 1 for m in middles]]
        return cls(frames, [3 * i + 1 + f - m for i, (f, m) in enumerate(zip(drawn, middles, strict=True))], triple)


def groups_of_parameters(problem: Problem, stage: Stage) -> list[dict]:
    """Adam parameter groups of a stage; parameters left out are frozen."""
    rates, avatars, poses = problem.config.rates, problem.avatars, problem.poses
    scale = stage.learning_rate_scale
    groups: list[dict] = []

    def add(parameters, rate: float) -> None:
        parameters = [p for p in parameters if p is not None]
        if parameters:
            groups.append({"params": parameters, "lr": rate * scale, "base_lr": rate * scale})

    offset = stage.offset if problem.config.ablation.offset else "fixed"
    if stage.kind != "pose":
        if offset == "field":
            add(avatars.offset_parameters(), rates.offset)
        elif offset == "constant":
            add([field.offset_head.bias for field in avatars.fields], rates.offset)
    if stage.kind in ("avatar", "joint") or (stage.kind == "silhouette" and offset == "field"):
        add(avatars.shared_parameters(), rates.avatar)
    if stage.kind in ("avatar", "joint"):
        if avatars.use_shading:
            add(avatars.shading.parameters(), rates.shading)
        if avatars.use_camera_colour:
            add(avatars.camera_colour.parameters(), rates.shading)
    if stage.kind in ("silhouette", "pose", "joint"):
        add([poses.steps], rates.pose)
        add(poses.networks.parameters() if poses.networks is not None else [], rates.pose_mlp)
        if stage.shape:
            add([poses.delta_betas], rates.betas)
    return groups


def looks_for_overlaps(config: RefineConfig, stage: Stage, iteration: int) -> bool:
    """Whether this iteration has the collision loss."""
    return stage.collision and config.ablation.collision and iteration % config.collision_every == 0


def render_batch(
    problem: Problem,
    stage: Stage,
    motion: BodyMotion,
    batch: PixelBatch,
    window: Window,
    levels: Tensor,
    generator: torch.Generator,
    want_colour: bool,
    iteration: int,
) -> tuple[Rendering, Tensor]:
    """The layered rendering of a batch of rays, and the loss of overlapping people where the stage asks for it."""
    config = problem.config
    valid, thickness = problem.poses.present[:, window.frames], config.sampling.shell
    people, shells = render_people(problem.avatars, motion, valid, window.drawn, thickness, problem.surfaces)
    rays = RayBatch(origins=batch.origin, directions=batch.direction, frame=batch.frame)
    overlaps = looks_for_overlaps(config, stage, iteration)
    # Overlaps deep inside bodies lie behind samples that let nothing pass; there the collision must still look.
    sampling = replace(config.sampling, cull=False) if overlaps else config.sampling
    rendering = render(
        people, shells, rays, sampling, level_weights=levels, generator=generator, want_colour=want_colour
    )
    collision = rendering.alpha.sum() * 0.0
    if overlaps:
        collision = config.collision_every * collision_loss(people, shells, rays, rendering, levels)
    return rendering, collision


@dataclass(frozen=True)
class Comparison:
    """Rendered colours and what they should be, over the same random background."""

    shown: Tensor
    target: Tensor

    @property
    def error(self) -> Tensor:
        """(rays,) mean absolute difference of each ray."""
        return (self.shown - self.target).detach().abs().mean(dim=-1)


def compare_colours(
    problem: Problem, rendering: Rendering, batch: PixelBatch, generator: torch.Generator
) -> Comparison:
    """Rendering and image over a fresh random colour: transparency cannot pass for the colour of the background."""
    colour = rendering.colour
    if problem.avatars.use_camera_colour:
        colour = problem.avatars.camera_colour(colour, rendering.alpha, batch.camera)
    behind = torch.rand(batch.colour.shape, generator=generator, device=batch.colour.device)
    target = torch.where((batch.label == 1)[:, None], batch.colour, behind)
    return Comparison(colour + (1 - rendering.alpha)[:, None] * behind, target)


def avatar_losses(
    problem: Problem, rendering: Rendering, batch: PixelBatch, window: Tensor, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Weighted terms of an avatar stage, and each ray's error."""
    config, avatars = problem.config, problem.avatars
    weights, switches = config.avatar, config.ablation
    compared = compare_colours(problem, rendering, batch, generator)
    terms = {
        "hard": weights.hard_alpha * losses.hard_surface(rendering.alpha)
        + weights.hard_weight * losses.hard_surface(rendering.weights),
        "layers": weights.layer_entropy * losses.layer_entropy(rendering.person_alpha),
        "outside": weights.outside
        * losses.opacity_outside(rendering.density, rendering.body_distance, OUTSIDE_DISTANCE),
    }
    if switches.rgb:
        terms["rgb"] = weights.rgb * losses.colour_loss(compared.shown, compared.target, batch.coloured, config.huber)
        if problem.patch_distance is not None:
            terms["lpips"] = weights.lpips * patch_loss(
                problem.patch_distance, compared.shown, compared.target, config.patch
            )
    if switches.mask:
        terms["alpha"] = weights.alpha * losses.alpha_squared(rendering.alpha, batch.label)
        if batch.by_person:
            terms["person"] = weights.alpha * losses.person_cross_entropy(rendering.person_alpha, batch.person)
    terms.update(offset_terms(problem, rendering, window, generator))
    if avatars.use_shading:
        terms["shading"] = weights.shading_prior * sum(shading.prior() for shading in avatars.shading)
    if avatars.use_camera_colour:
        terms["camera"] = weights.camera_prior * avatars.camera_colour.prior()
    return terms, compared.error * batch.coloured


def offset_terms(
    problem: Problem, rendering: Rendering, window: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Priors on the surface's distance from the skin: 0 to 30 mm, and smooth along the body."""
    weights = problem.config.avatar
    if not problem.config.ablation.offset:
        return {}
    limits = smooth = rendering.alpha.sum() * 0.0
    samples = rendering.samples
    for person, avatar_field in enumerate(problem.avatars.fields):
        mine = torch.nonzero((samples.person == person) & rendering.evaluated)[:, 0]
        if mine.numel() == 0:
            continue
        offset, density = rendering.offset[mine], rendering.density[mine]
        sample = FieldSample(density, None, offset, raw_density=density)
        limits = limits + offset_penalty(sample)
        smooth = smooth + offset_smoothness(
            avatar_field,
            rendering.x_ref[mine],
            sample,
            normals=problem.avatars.geometry[person].normals[samples.vertex[mine]],
            level_weights=window,
            count=SMOOTHNESS_SAMPLES,
            generator=generator,
        )
    return {"offset_range": weights.offset_range * limits, "offset_smooth": weights.offset_smooth * smooth}


def pose_losses(
    problem: Problem,
    stage: Stage,
    parameters: BodyParameters,
    motion: BodyMotion,
    rendering: Rendering,
    collision: Tensor,
    batch: PixelBatch,
    window: Window,
    generator: torch.Generator,
) -> tuple[dict[str, Tensor], Tensor]:
    """Weighted terms of silhouette and pose stages, and each ray's error."""
    weights, switches = problem.config.pose, problem.config.ablation
    terms: dict[str, Tensor] = {}
    error = (rendering.alpha.detach() - (batch.label == 1).float()).abs() * (batch.label != 2)
    if stage.kind != "silhouette" and switches.rgb:
        compared = compare_colours(problem, rendering, batch, generator)
        error = compared.error * batch.coloured
        terms["rgb"] = weights.rgb * losses.colour_loss(
            compared.shown, compared.target, batch.coloured, problem.config.huber
        )
    if switches.mask:
        terms["alpha"] = weights.alpha * losses.alpha_cross_entropy(rendering.alpha, batch.label)
        if batch.by_person:
            terms["person"] = weights.person * losses.person_cross_entropy(rendering.person_alpha, batch.person)
    if stage.collision and switches.collision:
        terms["collision"] = weights.collision * collision
    terms.update(motion_priors(problem, stage, parameters, motion, window))
    if problem.evidence is not None:
        terms["keypoints"] = weights.keypoints * reprojection_loss(problem, parameters, window)
    return terms, error


def motion_priors(
    problem: Problem, stage: Stage, parameters: BodyParameters, motion: BodyMotion, window: Window
) -> dict[str, Tensor]:
    """Priors on pose, hinges, shape and acceleration, of the frames that are posed."""
    weights, switches = problem.config.pose, problem.config.ablation
    terms: dict[str, Tensor] = {}
    if switches.priors:
        there = torch.nonzero(problem.poses.present[:, window.frames], as_tuple=True)
        pose, hinge = pose_priors(parameters.poses[there], weights.prior)
        terms["prior"] = weights.pose_prior * pose
        terms["hinge"] = weights.angle_prior * hinge
        if stage.shape:
            terms["shape"] = weights.shape_prior * parameters.betas.square().sum(dim=-1).mean()
    if switches.smoothness and window.triple.numel():
        terms["smooth"] = weights.smooth_joints * losses.mean_acceleration(motion.joints, window.triple, problem.fps)
        rotations = motion.T_world_canonical[..., :3, :3]
        local = torch.cat(
            [rotations[:, :, :1], rotations[:, :, problem.parents].transpose(-1, -2) @ rotations[:, :, 1:]], dim=2
        )
        terms["turn"] = weights.smooth_rotations * losses.mean_angular_acceleration(local, window.triple, problem.fps)
    return terms


def pose_priors(poses: Tensor, kind: PosePriorKind) -> tuple[Tensor, Tensor]:
    """Costs of body angles and of elbows and knees that bend backwards, means over the given poses (N, 72)."""
    if kind == "published":
        return poses[:, 3:].square().sum(dim=-1).mean(), losses.published_hinge(poses)
    angles = poses[:, 3:].reshape(-1, 23, 3)
    mean, spread = pose_table(poses.dtype, poses.device)
    return pose_cost(angles, mean, spread).mean(), hinge_cost(angles).mean()


def reprojection_loss(problem: Problem, parameters: BodyParameters, window: Window) -> Tensor:
    """Robust distance in pixels of the body's COCO keypoints from the detections of the drawn frames."""
    evidence, body = problem.evidence, problem.body
    people, frames = parameters.betas.shape[0], [window.frames[i] for i in window.drawn]
    betas = parameters.betas[:, None].expand(people, len(frames), -1)
    keypoints = body.keypoints(betas, parameters.poses[:, window.drawn], parameters.trans[:, window.drawn])
    pixels, depth = problem.cameras.project(keypoints.transpose(0, 1))  # (C, B, P, 17, 2)
    score = evidence.score[:, frames] * (depth > 0)
    # What has no score may lie anywhere: kept out of the squares, which could overflow.
    residual = torch.where((score > 0)[..., None], pixels - evidence.pixels[:, frames], 0.0)
    return losses.keypoint_loss(residual.flatten(0, -2), score.flatten(), problem.keypoint_unit)


def draw_frames(pools: dict[int, Pool], count: int, rng: np.random.Generator) -> list[int]:
    """`count` of the pools' frames, or all, in order; drawn without asking the device."""
    return sorted(rng.permutation(list(pools))[:count].tolist())


def step(
    problem: Problem,
    stage: Stage,
    optimiser: torch.optim.Optimizer,
    pools: dict[int, Pool],
    frames: list[int],
    generator: torch.Generator,
    fixed_motion: tuple[BodyParameters, BodyMotion] | None,
    iteration: int = 0,
) -> dict[str, Tensor]:
    """The stage's iteration of that number: draw rays of some of the pools' frames, render, step.

    Returns the weighted terms; nobody waits for them here.
    """
    config = problem.config
    batch = problem.source.batch([pools[f] for f in frames], config.rays, generator)
    window = Window.around(problem, frames)
    if fixed_motion is None:
        parameters = problem.poses(window.frames)
        motion = body_motion(problem.body, problem.avatars, parameters, stage.shape or problem.shape_moves)
    else:
        window = Window(list(range(problem.poses.valid.shape[1])), frames, problem.triple)
        parameters, motion = fixed_motion
    if config.ablation.smpl_only:
        terms = motion_priors(problem, stage, parameters, motion, window)
        terms["keypoints"] = reprojection_loss(problem, parameters, window)
    else:
        want_colour = stage.kind != "silhouette" and config.ablation.rgb
        levels = level_window(stage.detail, config.field.levels, config.field.geometry_levels)
        rendering, collision = render_batch(
            problem, stage, motion, batch, window, levels, generator, want_colour, iteration
        )
        terms = {}
        if stage.kind in ("avatar", "joint"):
            terms, error = avatar_losses(problem, rendering, batch, levels, generator)
        if stage.kind != "avatar":
            pose_terms, error = pose_losses(
                problem, stage, parameters, motion, rendering, collision, batch, window, generator
            )
            # Colours weigh as in pose stages then; what keeps light and cameras out of the avatars' colours goes along.
            along = config.pose.rgb / config.avatar.rgb
            terms = {name: along * term if name in ("shading", "camera") else term for name, term in terms.items()}
            terms = {**terms, **pose_terms}
        if stage.kind == "silhouette":
            terms.update(offset_terms(problem, rendering, levels, generator))
        note_disagreement([pools[f] for f in frames], batch, error)
    loss = sum(terms.values())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return {name: value.detach() for name, value in terms.items()}
