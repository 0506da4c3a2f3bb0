"""Refinement: avatars and poses fitted to images and masks, from registered bodies to refined ones.

What is fitted when is the schedule's affair (`optimize.config`): in turn, as in AvatarPose Sec. 3.4, or at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from avatarpose.body import BodyModel
from avatarpose.errors import InputError
from avatarpose.estimate import associate
from avatarpose.frames import FrameCache
from avatarpose.io import write_json
from avatarpose.results import Bodies, Joints3D
from avatarpose.sequence import Sequence
from optimize.avatars import Avatars, body_motion
from optimize.checkpoint import Clock, fingerprint, load_checkpoint, save_avatar, save_checkpoint
from optimize.config import RefineConfig, Stage
from optimize.curvature import pose_directions
from optimize.held_out import HeldOut, stands_still
from optimize.mask_people import owners_of_masks
from optimize.perceptual import load_lpips
from optimize.pixels import PixelSource
from optimize.pools import PoolsAhead
from optimize.poses import PoseParameters
from optimize.stages import Evidence, Problem, draw_frames, groups_of_parameters, step
from optimize.trace import FILE as TRACE_FILE
from optimize.trace import TraceWriter
from optimize.uncertainty import FILE as UNCERTAINTY_FILE
from optimize.uncertainty import Uncertainty, UncertaintyConfig, joint_uncertainty

SURFACES_EVERY = 25
"""Iterations after which a moving surface is looked at again, to choose samples by it."""
SETTLING = 0.3
"""Share of a stage that is run in any case, however little its held-out pixels gain."""
UNCERTAINTY = UncertaintyConfig()
Progress = Callable[[int, int, str, dict[str, torch.Tensor]], None]
"""Called with iterations done, iterations in all, the stage's name and the weighted loss terms, which may still be
under way on the device."""


def refine(
    sequence: Sequence,
    bodies: Bodies,
    body: BodyModel,
    config: RefineConfig,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
    memory_bytes: int = 2**30,
    untrusted: Bool[np.ndarray, "people frames"] | None = None,
    uncertainty: UncertaintyConfig | None = UNCERTAINTY,
) -> Bodies:
    """Run the stages of the schedule; resumes from `results/checkpoint` when it belongs to the same run.

    Writes `avatars/<person>.safetensors`, `cameras_refined.json`, `trace.npz` and `uncertainty.npz` of the results on
    the way.

    Args:
        sequence: capture with images and masks.
        bodies: registered bodies of the sequence's frames.
        memory_bytes: limit on the images kept in memory.
        untrusted: who is not to be believed in which frame (`avatarpose.edits`): no pixel of such a frame is looked at,
            and no keypoint of that person there; the priors on motion carry them across.
        uncertainty: how the joints' standard deviations are found; None leaves them out.

    Raises:
        InputError: images or masks are missing, or the bodies are of other frames.
    """
    config = replace(config, stages=_stages_left(config))
    problem = build_problem(sequence, bodies, body, config, torch.device(device), memory_bytes, untrusted)
    run, clock, optimiser_state = resume(problem, sequence, bodies, untrusted)
    folder, modules = sequence.results / "checkpoint", _modules(problem)

    trace = TraceWriter(sequence.results / TRACE_FILE, run, bodies.frames, _iterations(config, clock))
    trace.add(_iterations(config, clock), refined_bodies(problem, bodies).keypoints)

    def save(clock: Clock, optimiser: torch.optim.Optimizer | None) -> None:
        save_checkpoint(folder, run, clock, modules, optimiser)
        trace.add(_iterations(config, clock), refined_bodies(problem, bodies).keypoints)

    run_stages(problem, config, progress, clock, optimiser_state, save)
    write_avatars(problem, sequence, bodies)
    if uncertainty is not None:
        write_uncertainty(problem, sequence, bodies, uncertainty, progress)
    return refined_bodies(problem, bodies)


def _modules(problem: Problem) -> dict[str, torch.nn.Module]:
    """What a checkpoint holds."""
    return {"avatars": problem.avatars, "poses": problem.poses}


def resume(
    problem: Problem, sequence: Sequence, bodies: Bodies, untrusted: Bool[np.ndarray, "people frames"] | None = None
) -> tuple[str, Clock, dict | None]:
    """Takes parameters and avatars from the checkpoint, where one of the same settings and inputs is there.

    Returns the fingerprint of settings and inputs, where the schedule stands, and the optimiser's state.
    """
    run = fingerprint(
        problem.config,
        [
            bodies.betas.tobytes(),
            bodies.poses.tobytes(),
            bodies.trans.tobytes(),
            ",".join(sequence.cameras.names).encode(),
            b"" if untrusted is None or not untrusted.any() else untrusted.tobytes(),
        ],
    )
    restored = load_checkpoint(sequence.results / "checkpoint", run, _modules(problem), problem.triple.device)
    return run, *(restored or (Clock(), None))


def run_stages(
    problem: Problem,
    config: RefineConfig,
    progress: Progress | None = None,
    clock: Clock | None = None,
    optimiser_state: dict | None = None,
    save: Callable[[Clock, torch.optim.Optimizer | None], None] | None = None,
) -> None:
    """Run the stages from `clock` on, in segments; `save` is called after each."""
    clock, optimiser = clock or Clock(), None
    with PoolsAhead(problem) as ahead:
        while left := _segments(config, clock):
            segment, following = left[0], left[1] if len(left) > 1 else None
            stage = segment.stage
            if optimiser is None or segment.start == 0:
                optimiser = _optimiser(problem, stage, config)
            if optimiser_state is not None:
                optimiser.load_state_dict(optimiser_state)
                optimiser_state = None
            idle = _run(problem, segment, following, ahead, optimiser, progress)
            over = segment.stop == stage.iterations
            stop = max(segment.stop, settling(stage)) if idle else segment.stop
            clock = Clock(segment.index + 1, 0) if over else Clock(segment.index, stop)
            if save is not None:
                save(clock, None if over else optimiser)


@dataclass(frozen=True)
class Segment:
    """Iterations `start` to `stop` of the stage of number `index`, before which `done` were made in all."""

    stage: Stage
    index: int
    start: int
    stop: int
    done: int
    seed: int


def settling(stage: Stage) -> int:
    """Iteration from which on every stage runs to its end, its rate falling to nothing."""
    return round((1 - SETTLING) * stage.iterations)


def _segments(config: RefineConfig, clock: Clock) -> list[Segment]:
    """What is left to do."""
    found, done = [], _iterations(config, clock)
    for index, stage in enumerate(config.stages[clock.stage :], start=clock.stage):
        first = clock.iteration if index == clock.stage else 0
        for start in range(first, stage.iterations, config.segment):
            stop = min(start + config.segment, stage.iterations)
            seed = (config.seed * 1_000_003 + index * 10_007 + start) % (2**31)
            found.append(Segment(stage, index, start, stop, done, seed))
            done += stop - start
    return found


def _iterations(config: RefineConfig, clock: Clock) -> int:
    """Iterations done when the clock stands there."""
    return sum(stage.iterations for stage in config.stages[: clock.stage]) + clock.iteration


def build_problem(
    sequence: Sequence,
    bodies: Bodies,
    body: BodyModel,
    config: RefineConfig,
    device: torch.device,
    memory_bytes: int,
    untrusted: Bool[np.ndarray, "people frames"] | None = None,
) -> Problem:
    """Parameters, avatars and evidence at their start values; arguments as of `refine`."""
    if not config.ablation.smpl_only and not (sequence.has_images and sequence.has_masks):
        missing = "images" if not sequence.has_images else "masks"
        raise InputError(
            "refinement needs images and masks",
            file=sequence.folder,
            expected=f"{missing} of every camera",
            found="none",
        )
    if list(bodies.frames) != list(sequence.frames):
        raise InputError(
            "the registered bodies are of other frames",
            file=sequence.results / "initial.npz",
            expected=_span(sequence.frames),
            found=_span(bodies.frames),
        )
    torch.manual_seed(config.seed)
    body = body.to(device=device)
    betas = torch.as_tensor(bodies.betas, dtype=torch.float32, device=device)
    valid = torch.as_tensor(bodies.valid, dtype=torch.bool)
    avatars = Avatars(body, betas, len(sequence.cameras.names), config)
    poses = PoseParameters(
        betas,
        torch.as_tensor(bodies.poses, dtype=torch.float32),
        torch.as_tensor(bodies.trans, dtype=torch.float32),
        valid,
        config.pose_param,
        torch.as_tensor(np.asarray(bodies.frames) / sequence.fps, dtype=torch.float32),
    ).to(device)
    poses.last_joints.copy_(torch.nan_to_num(torch.as_tensor(bodies.joints, dtype=torch.float32)))
    frames = np.asarray(bodies.frames)
    consecutive = torch.as_tensor(np.diff(frames) == 1) if len(frames) > 1 else torch.zeros(0, dtype=torch.bool)
    triple = valid[:, :-2] & valid[:, 1:-1] & valid[:, 2:] & (consecutive[:-1] & consecutive[1:])[None]
    untrusted = np.zeros(bodies.valid.shape, bool) if untrusted is None else untrusted
    evidence = None
    if config.pose.keypoints > 0 or config.ablation.smpl_only:
        joints = Joints3D(
            bodies.people,
            bodies.frames,
            bodies.keypoints,
            np.ones(bodies.keypoints.shape[:3], np.float32),
            bodies.valid & ~untrusted,  # who is not believed claims no detection
        )
        evidence = Evidence.from_association(sequence, associate(sequence, joints), device)
    images = FrameCache(sequence, memory_bytes)
    owners = owners_of_masks(images, list(bodies.people), bodies.keypoints, bodies.valid)
    source = PixelSource(images, owners, config.edge_band, device, untrusted.any(axis=0))
    problem = Problem(
        body=body,
        cameras=sequence.cameras.to(dtype=torch.float32, device=device),
        fps=sequence.fps,
        config=config,
        avatars=avatars.to(device),
        poses=poses,
        source=source,
        evidence=evidence,
        triple=triple.to(device),
        patch_distance=load_lpips(device) if config.avatar.lpips > 0 and config.patch > 1 else None,
    )
    return problem


def _stages_left(config: RefineConfig) -> tuple[Stage, ...]:
    """The stages under the ablations: all at once in `joint`, pose stages alone in `smpl_only`."""
    if config.ablation.smpl_only:
        return tuple(replace(s, kind="pose") for s in config.stages if s.kind != "avatar")
    if config.ablation.joint:
        return tuple(s if s.kind == "silhouette" else replace(s, kind="joint") for s in config.stages)
    return config.stages


def _optimiser(problem: Problem, stage: Stage, config: RefineConfig) -> torch.optim.Adam:
    groups = groups_of_parameters(problem, stage)
    active = {id(p) for group in groups for p in group["params"]}
    for parameter in [*problem.avatars.parameters(), *problem.poses.parameters()]:
        parameter.requires_grad_(id(parameter) in active)
    return torch.optim.Adam(groups, betas=config.adam_betas, eps=1e-8, fused=True)


def _run(
    problem: Problem,
    segment: Segment,
    following: Segment | None,
    ahead: PoolsAhead,
    optimiser: torch.optim.Optimizer,
    progress: Progress | None,
) -> bool:
    """The iterations of a segment: a function of parameters, optimiser state and settings alone.

    Returns whether it was too little use for its stage to go on as long.
    """
    config, stage = problem.config, segment.stage
    generator = torch.Generator(device=problem.triple.device).manual_seed(segment.seed)
    rng = np.random.default_rng(segment.seed)
    problem.avatars.set_surface_width(stage.surface_width)
    with torch.no_grad():
        parameters = problem.poses()
        motion = body_motion(problem.body, problem.avatars, parameters, problem.shape_moves)
    problem.surfaces = problem.avatars.surfaces()
    pools = ahead.take(stage, problem.poses.last_joints.cpu().numpy(), segment.seed)
    problem.poses.last_joints.copy_(motion.joints)
    if segment.start == 0 and stage.kind != "avatar":
        directions = pose_directions(problem, parameters, motion, segment.seed)
        problem.poses.set_directions(directions, stage.time_spread)
    if following is not None:
        ahead.begin(following.stage, motion.joints.cpu().numpy(), following.seed)
    fixed = (parameters, motion) if stage.kind == "avatar" else None
    held = before = None
    if config.least_gain > 0 and segment.stop < settling(stage):
        held = HeldOut.take(pools, segment.seed)
        before = held.error(problem, stage)
    for iteration in range(segment.start, segment.stop):
        if stage.kind != "pose" and (iteration - segment.start) % SURFACES_EVERY == 0:
            problem.surfaces = problem.avatars.surfaces()
        factor = (1 - iteration / stage.iterations) ** config.decay_power
        for group in optimiser.param_groups:
            group["lr"] = group["base_lr"] * factor
        frames = draw_frames(pools, config.frames_per_step, rng)
        terms = step(problem, stage, optimiser, pools, frames, generator, fixed, iteration)
        if progress is not None:
            progress(segment.done + iteration + 1 - segment.start, config.iterations, stage.kind, terms)
    return held is not None and stands_still(before, held.error(problem, stage), config.least_gain)


@torch.no_grad()
def refined_bodies(problem: Problem, bodies: Bodies) -> Bodies:
    """The present poses in the form of the results file."""
    parameters = problem.poses()
    people, frames = problem.poses.valid.shape
    betas = parameters.betas[:, None].expand(people, frames, -1)
    valid = problem.poses.valid.cpu().numpy()

    def masked(values: torch.Tensor) -> np.ndarray:
        array = values.cpu().numpy().astype(np.float32)
        array[~valid] = np.nan
        return array

    return replace(
        bodies,
        betas=parameters.betas.cpu().numpy().astype(np.float32),
        poses=masked(parameters.poses),
        trans=masked(parameters.trans),
        joints=masked(problem.body.joints(betas, parameters.poses, parameters.trans)),
        keypoints=masked(problem.body.keypoints(betas, parameters.poses, parameters.trans)),
    )


def write_avatars(problem: Problem, sequence: Sequence, bodies: Bodies) -> None:
    """Avatars as safetensors, one a person, and the cameras' colour corrections."""
    for person, name in enumerate(bodies.people):
        modules = {"field": problem.avatars.fields[person], "shading": problem.avatars.shading[person]}
        field = asdict(problem.config.field)
        field.pop("implementation")  # what computed it here is no property of the avatar
        metadata = {
            "field": field,
            "betas": problem.poses.start_betas[person].tolist(),
            "body": bodies.body_name,
            "body_sha256": bodies.body_sha256,
        }
        save_avatar(sequence.results / "avatars" / f"{name}.safetensors", modules, metadata)
    camera_colour = problem.avatars.camera_colour
    linear, constant = camera_colour.linear.tolist(), camera_colour.constant.tolist()
    write_json(
        Path(sequence.results) / "cameras_refined.json",
        {
            name: {"colour": {"linear": linear[c], "constant": constant[c]}}
            for c, name in enumerate(sequence.cameras.names)
        },
    )


@torch.no_grad()
def write_uncertainty(
    problem: Problem, sequence: Sequence, bodies: Bodies, config: UncertaintyConfig, progress: Progress | None = None
) -> None:
    """Standard deviations of all joints, `results/uncertainty.npz`."""

    def say(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, "uncertainty", {})

    joints, keypoints = joint_uncertainty(problem, problem.poses(), config, say)
    found = Uncertainty(list(bodies.people), bodies.frames, joints.cpu().numpy(), keypoints.cpu().numpy())
    found.save(sequence.results / UNCERTAINTY_FILE)


def _span(frames) -> str:
    return f"{frames[0]} to {frames[-1]} ({len(frames)} frames)" if len(frames) else "none"
