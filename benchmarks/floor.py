"""Where the time of a refinement step goes, and how far each part is from the least it could take on this machine.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.floor
    python -m benchmarks.floor --device cuda --preset gpu --part pose

Steps are whole calls of `optimize.stages.step` on the embedded capture, its bodies fitted to the true joints; learning
rates are zero, so that all repeats do the same. Parts work on the frames, rays and samples of one such step. All parts
take turns, forward and then backward, together with what measures the machine: what disturbs one disturbs all. Medians
over the repeats.

The floor of a part is the larger of the time to move its bytes and the time to do its operations;
`benchmarks.least_work` counts both. Bytes move at the rate at which this machine copies a large array or negates it in
place, whichever is faster; operations take the time they have in a product of large float32 matrices (without TF32). A
step's floor is the sum over its parts, without the loss of overlapping people; that of a joint step also leaves out
the gradients of tables and networks. Memory in a core's cache is faster than
that, and starting a kernel takes time of its own: what is small may lie on either side of its floor.
"""

from __future__ import annotations

import copy
import platform
import statistics
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from typing import Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from avatarpose.body import BodyModel, load_body
from avatarpose.io import read_npz
from avatarpose.register import RegisterSettings, register
from avatarpose.results import Bodies, Joints3D
from avatarpose.runlog import peak_memory
from avatarpose.sequence import Sequence
from benchmarks.least_work import Least, Machine, Work
from benchmarks.timing import WARM_UPS, Part, leaf
from optimize.avatars import BodyMotion, body_motion, posed_vertices, render_people
from optimize.config import RefineConfig, Stage, preset
from optimize.pixels import Pool, note_disagreement
from optimize.pools import draw_pools
from optimize.poses import BodyParameters
from optimize.refine import _optimiser, build_problem
from optimize.stages import (
    Problem,
    Window,
    avatar_losses,
    draw_frames,
    motion_priors,
    pose_losses,
    reprojection_loss,
    step,
)
from renderer.compositing import composite, sum_over_rays
from renderer.hash_grid import available_backends, level_window
from renderer.render import _in_canonical_space, render
from renderer.sampling import RayBatch, sample_people
from renderer.skinning import PosedPerson, world_normals

Kind = Literal["joint", "collision", "avatar", "pose"]
WHOLE = ("joint", "collision")
"""Steps that are timed as a whole only: avatars and poses at once, without and with the loss on overlaps."""
COPIED = {"cpu": 2**24, "cuda": 2**28}
"""Numbers of the array that is copied: more than any cache holds."""
SIDE = {"cpu": 768, "cuda": 8192}
"""Of the matrices that are multiplied."""
RENDERED = ("colour", "alpha", "person_alpha", "weights", "density", "offset")


@dataclass
class Settings:
    device: str = "cpu"
    """Where to compute: cpu or cuda."""
    part: tuple[Kind, ...] = ("joint", "collision", "avatar", "pose")
    """Steps to measure: of a pose stage with its parts, of a pose stage where the loss of overlapping people is taken,
    of an avatar stage with its parts."""
    preset: Literal["cpu", "gpu"] = "cpu"
    """Whose rays and frames a step has."""
    rays: int = 0
    """Rays of a step; 0: the preset's."""
    threads: int = 0
    """Threads of torch and Warp on the CPU; 0: as many as torch takes."""
    repeats: int = 20
    """Timed repeats."""


class Bench:
    """A stage of a problem, ready for its steps."""

    def __init__(self, problem: Problem, stage: Stage, pools: dict[int, Pool]) -> None:
        self.problem, self.stage, self.pools = problem, stage, pools
        self.device = problem.triple.device
        self.to_fields = stage.kind == "avatar"
        problem.avatars.set_surface_width(stage.surface_width)
        problem.surfaces = problem.avatars.surfaces()
        problem.poses.set_directions(problem.poses.directions.clone(), stage.time_spread)
        self.optimiser = _optimiser(problem, stage, problem.config)
        for group in self.optimiser.param_groups:
            group["lr"] = 0.0
        self.generator = torch.Generator(device=self.device).manual_seed(0)
        self.rng = np.random.default_rng(0)
        with torch.no_grad():
            self.parameters = problem.poses()
            moves = not self.to_fields and stage.shape
            self.motion = body_motion(problem.body, problem.avatars, self.parameters, moves)

    def step(self) -> None:
        """The refinement's own."""
        fixed = (self.parameters, self.motion) if self.to_fields else None
        frames = draw_frames(self.pools, self.problem.config.frames_per_step, self.rng)
        step(self.problem, self.stage, self.optimiser, self.pools, frames, self.generator, fixed)

    def learned(self, frames: list[int] | None = None) -> tuple[BodyParameters, BodyMotion, list[Tensor]]:
        """Parameters and motion of some frames that take a gradient, each for itself; and their tensors."""
        chosen = slice(None) if frames is None else frames
        given = {k: values if k == "betas" else values[:, chosen] for k, values in vars(self.parameters).items()}
        parameters = BodyParameters(**{name: leaf(values) for name, values in given.items()})
        T, joints = leaf(self.motion.T_world_canonical[:, chosen]), leaf(self.motion.joints[:, chosen])
        motion = BodyMotion(T, joints, self.motion.shape_offset)
        return parameters, motion, [*vars(parameters).values(), T, joints]

    def over_window(self) -> dict[str, Part]:
        """What a step does for all people in all frames that it poses."""
        problem, stage = self.problem, self.stage
        window = Window.around(problem, list(self.pools)[: problem.config.frames_per_step])
        parameters, motion, inputs = self.learned(window.frames)
        learned = [p for p in problem.poses.parameters() if p.requires_grad]

        def tree() -> list[Tensor | None]:
            return list(vars(body_motion(problem.body, problem.avatars, parameters, stage.shape)).values())

        def priors() -> Tensor:
            return sum(motion_priors(problem, stage, parameters, motion, window).values())

        return {
            "pose parameters": Part(lambda: list(vars(problem.poses(window.frames)).values()), learned),
            "kinematic tree": Part(tree, list(vars(parameters).values())),
            "of which priors of motion": Part(priors, inputs),
            "optimiser": Part(self.optimiser.step),
        }


class Given(nn.Module):
    """Stands for a hash grid whose answer is known."""

    def __init__(self, encoded: Tensor) -> None:
        super().__init__()
        self.encoded = encoded

    def forward(self, positions: Tensor, level_weights: Tensor | None, levels: int | None) -> Tensor:
        return self.encoded


class Snapshot:
    """What passes from part to part in one step, and the parts, each on its own."""

    @torch.no_grad()
    def __init__(self, bench: Bench) -> None:
        problem, self.bench = bench.problem, bench
        config, known = problem.config, list(bench.pools)
        count = min(config.frames_per_step, len(known))
        self.frames = [known[i * len(known) // count] for i in range(count)]
        self.pools = [bench.pools[f] for f in self.frames]
        self.batch = problem.source.batch(self.pools, config.rays, bench.generator)
        self.rays = RayBatch(self.batch.origin, self.batch.direction, self.batch.frame)
        self.window = level_window(bench.stage.detail, config.field.levels, config.field.geometry_levels)
        people, self.shells = render_people(
            problem.avatars, bench.motion, problem.poses.present, self.frames, config.sampling.shell, problem.surfaces
        )
        self.posed = [person.posed for person in people]
        self.sampling = replace(config.sampling, cull=not bench.stage.collision)
        self.rendering = render(people, self.shells, self.rays, self.sampling, None, self.window, bench.generator)
        self.samples = self.rendering.samples
        seen = self.rendering.evaluated & (self.rendering.weights >= config.sampling.colour_weight)
        self.asked, self.coloured = self._by_person(self.rendering.evaluated), self._by_person(seen)

    def _by_person(self, chosen: Tensor) -> list[Tensor]:
        index = torch.nonzero(chosen)[:, 0]
        counts = torch.bincount(self.samples.person[index], minlength=len(self.posed))
        return list(index.split(counts.tolist()))

    def least(self) -> dict[str, tuple[Work, Work]]:
        """Forward and backward, by part."""
        bench, problem = self.bench, self.bench.problem
        people, frames = problem.poses.valid.shape
        offsets = problem.avatars.fields[0].grid.layout.offsets
        return Least(
            P=people, V=len(problem.body.v_template), J=len(problem.body.parents), F=frames, B=len(self.frames),
            C=len(problem.cameras), R=len(self.batch.frame), N=len(self.samples), E=sum(map(len, self.asked)),
            K=sum(map(len, self.coloured)), pooled=sum(len(pool.weight) for pool in self.pools),
            parameters=sum(p.numel() for group in bench.optimiser.param_groups for p in group["params"]),
            to_fields=bench.to_fields, shape=bench.motion.shape_offset is not None, config=problem.config,
            rows=tuple(int(size) for size in np.diff(offsets)),
        ).parts()  # fmt: skip

    def parts(self) -> dict[str, Part]:
        """By the names of `Least.parts`."""
        bench, window_parts = self.bench, self.bench.over_window()
        parts = {**self._body_parts(), **self._field_parts()}
        parts |= {"compositing": self._compositing(), "losses": self._losses()}
        if bench.to_fields:
            return {**parts, "optimiser": window_parts["optimiser"]}
        parameters, _, _ = bench.learned()
        parts["of which keypoints"] = Part(
            lambda: reprojection_loss(bench.problem, parameters, Window.around(bench.problem, self.frames)),
            list(vars(parameters).values()),
        )
        first = {name: window_parts.pop(name) for name in ("pose parameters", "kinematic tree")}
        return {**first, **parts, **window_parts}

    def _body_parts(self) -> dict[str, Part]:
        bench, problem, samples = self.bench, self.bench.problem, self.samples
        motion, geometry = bench.motion, problem.avatars.geometry
        index = torch.as_tensor(self.frames, device=bench.device)
        error = torch.rand(len(self.batch.frame), device=bench.device)
        points = samples.points(self.rays)
        T = leaf(motion.T_world_canonical[:, index], not bench.to_fields)
        offsets = None if motion.shape_offset is None else leaf(motion.shape_offset)
        moved = [T] if offsets is None else [T, offsets]

        def draw() -> None:
            drawn = problem.source.batch(self.pools, problem.config.rays, bench.generator)
            note_disagreement(self.pools, drawn, error)

        @torch.no_grad()
        def skin() -> None:
            for person, one in enumerate(geometry):
                posed_vertices(one, T[person], None if offsets is None else offsets[person])

        def unskin() -> list[Tensor]:
            found = []
            cut = (part.split(samples.counts) for part in (points, samples.vertex, samples.frame))
            for person, (place, vertex, frame) in enumerate(zip(*cut, strict=True)):
                offset = None if offsets is None else offsets[person]
                posed = PosedPerson(geometry[person], T[person], T[person, :, 0], offset)
                found += _in_canonical_space(posed, place, vertex, frame, None)
            return found

        def sample() -> None:
            sample_people(self.rays, self.posed, self.shells, self.sampling, bench.generator)

        return {
            "rays drawn, errors noted": Part(draw),
            "vertices skinned": Part(skin),
            "sampling": Part(sample),
            "inverse skinning, distance": Part(unskin, [] if bench.to_fields else moved),
        }

    def _field_parts(self) -> dict[str, Part]:
        """The fields cut in two: the networks are given the grids' answers."""
        bench, rendering, samples = self.bench, self.rendering, self.samples
        avatars, to_fields = bench.problem.avatars, bench.to_fields
        parts = {}
        for what, chosen in (("density", self.asked), ("colour", self.coloured)):
            levels = avatars.fields[0].config.geometry_levels if what == "density" else None
            people = list(zip(avatars.fields, (rendering.x_ref[index] for index in chosen), strict=True))
            places = [leaf((x - one.centre) * (0.5 / one.half_extent) + 0.5, not to_fields) for one, x in people]
            distances = [leaf(rendering.body_distance[index], what == "density" and not to_fields) for index in chosen]
            grids = [one.grid for one in avatars.fields]
            with torch.no_grad():
                encoded = [leaf(grid(at, self.window, levels)) for grid, at in zip(grids, places, strict=True)]
            given = [copy.deepcopy(one) for one in avatars.fields]
            for one, answer in zip(given, encoded, strict=True):
                one.grid = Given(answer)
            parts |= _grid_and_networks(what, grids, places, given, encoded, distances, self.window, levels)

        def shade() -> list[Tensor]:
            return [
                shading(world_normals(samples.frame[index], samples.vertex[index], posed))
                for shading, index, posed in zip(avatars.shading, self.coloured, self.posed, strict=True)
            ]

        return {**parts, "shading": Part(shade, [p for p in avatars.shading.parameters() if p.requires_grad])}

    def _compositing(self) -> Part:
        samples, rays = self.samples, len(self.batch.frame)
        density, index = leaf(self.rendering.density), torch.cat(self.coloured)
        tint = leaf(torch.rand(len(index), 3, device=self.bench.device))

        def compose() -> list[Tensor]:
            made = composite(samples.ray, samples.z, samples.person, density, samples.step, rays, len(self.posed))
            colours = made.weights.index_select(0, index)[:, None] * tint
            return [made.person_alpha, made.alpha, sum_over_rays(samples.ray.index_select(0, index), colours, rays)]

        return Part(compose, [density, tint])

    def _losses(self) -> Part:
        bench, problem = self.bench, self.bench.problem
        leaves = {name: leaf(getattr(self.rendering, name)) for name in RENDERED}
        rendering = replace(self.rendering, **leaves)
        learned = [p for p in problem.avatars.parameters() if p.requires_grad]
        if bench.to_fields:
            return Part(
                lambda: sum(avatar_losses(problem, rendering, self.batch, self.window, bench.generator)[0].values()),
                [*leaves.values(), *learned],
            )
        parameters, motion, inputs = bench.learned()
        none, window = torch.zeros((), device=bench.device), Window.around(problem, self.frames)

        def lose() -> Tensor:
            terms, _ = pose_losses(
                problem, bench.stage, parameters, motion, rendering, none, self.batch, window, bench.generator
            )
            return sum(terms.values())

        return Part(lose, [*leaves.values(), *inputs])


def _grid_and_networks(
    what: str, grids: list, places: list[Tensor], given: list, encoded: list[Tensor], distances: list[Tensor],
    window: Tensor, levels: int | None,
) -> dict[str, Part]:  # fmt: skip
    """The two parts of the fields that answer for densities or colours."""

    def encode() -> list[Tensor]:
        return [grid(at, window, levels) for grid, at in zip(grids, places, strict=True)]

    def answer() -> list[Tensor]:
        known = zip(given, places, distances, strict=True)
        answers = [one(at.detach(), away, window, want_colour=what == "colour") for one, at, away in known]
        return [one.density if what == "density" else one.albedo for one in answers]

    tables = [grid.table for grid in grids if grid.table.requires_grad]
    learned = [p for one in given for p in one.parameters() if p.requires_grad]
    moved = [one for one in distances if one.requires_grad]
    return {
        f"hash grid, {what}": Part(encode, tables or places),
        f"networks, {what}": Part(answer, [*encoded, *moved, *learned]),
    }


def embrace(config: RefineConfig, body: BodyModel, device: torch.device, kinds: tuple[Kind, ...]) -> dict[Kind, Bench]:
    """Each kind of step on the embedded capture, each with a problem of its own."""
    benches = {}
    with as_file(files("assets") / "embrace") as folder:
        sequence = Sequence.open(folder)
        bodies = true_bodies(sequence, body)
        for kind in kinds:
            stage = last_stage(config, kind)
            problem = build_problem(sequence, bodies, body, config, device, 2**28)
            benches[kind] = Bench(problem, stage, draw_pools(problem, stage, bodies.joints, seed=0))
    return benches


def last_stage(config: RefineConfig, kind: Kind) -> Stage:
    """The last stage of the schedule, as if it were of that kind."""
    fitted = "joint" if kind == "collision" else kind
    return replace(config.stages[-1], kind=fitted, collision=kind == "collision", shape=kind != "avatar")


def taken_apart(
    benches: dict[Kind, Bench], device: torch.device
) -> tuple[dict[Kind, Part], dict[Kind, Snapshot], dict[Kind, dict[str, Part]]]:
    """By kind: the whole step, one step's state, and the parts."""
    wholes, shots, parts = {}, {}, {}
    for kind, bench in benches.items():
        wholes[kind] = Part(bench.step)
        wholes[kind].run(device, keep=False)  # leaves gradients for the optimiser's part
        shots[kind] = Snapshot(bench)
        parts[kind] = {} if kind in WHOLE else shots[kind].parts()
    return wholes, shots, parts


def true_bodies(sequence: Sequence, body: BodyModel) -> Bodies:
    """The body fitted to the capture's true keypoints."""
    keypoints = read_npz(sequence.folder / "ground_truth.npz", ("keypoints",))["keypoints"][:, sequence.frames]
    people, everywhere = [f"p{i}" for i in range(len(keypoints))], np.ones(keypoints.shape[:2], bool)
    joints = Joints3D(people, sequence.frames, keypoints, np.ones(keypoints.shape[:3], np.float32), everywhere)
    return register(sequence, joints, body, replace(RegisterSettings(), detections_iterations=0))


def machine_parts(device: torch.device) -> dict[str, Part]:
    """What measures the machine."""
    source = torch.rand(COPIED[device.type], device=device)
    target = torch.empty_like(source)
    a, b = (torch.rand(SIDE[device.type], SIDE[device.type], device=device) for _ in range(2))
    calls = {"copy": lambda: target.copy_(source), "negation": lambda: target.neg_(), "product": lambda: a @ b}
    return {name: Part(call) for name, call in calls.items()}


def machine_of(parts: dict[str, Part], device: torch.device) -> Machine:
    """The rates, from the parts of `machine_parts` that have run."""
    spent = {name: statistics.median(part.ahead) for name, part in parts.items()}
    moved, operations = 2 * 4 * COPIED[device.type], 2 * SIDE[device.type] ** 3
    return Machine(moved / min(spent["copy"], spent["negation"]), operations / spent["product"])


def report(bench: Bench, shot: Snapshot, whole: Part, parts: dict[str, Part], machine: Machine, title: str) -> Table:
    """A row for the step and for each part, forward and backward."""
    least, spent = shot.least(), statistics.median(whole.ahead)
    own = [name for name in least if not name.startswith("of which")]
    cuda = bench.device.type == "cuda"
    table = Table(title=title)
    columns = ["part", "ms", "share", "least MB", "least Mop", "floor ms", "set by", "ms / floor", *["peak MB"] * cuda]
    for column in columns:
        table.add_column(column, justify="left" if column in ("part", "set by") else "right")

    def add(name: str, seconds: float, works: list[Work], peak: int) -> None:
        floor, work = sum(map(machine.floor, works)), sum(works, Work())
        memory = work.bytes / machine.bandwidth > work.operations / machine.rate
        table.add_row(
            name, f"{1e3 * seconds:.2f}", f"{100 * seconds / spent:.0f} %", f"{work.bytes / 1e6:.2f}",
            f"{work.operations / 1e6:.1f}", f"{1e3 * floor:.3f}", "bytes" if memory else "operations",
            f"{seconds / floor:.1f}", *[f"{peak / 2**20:.0f}"] * cuda,
        )  # fmt: skip

    add("whole step", spent, [work for name in own for work in least[name]], whole.peak)
    for name, part in parts.items():
        ways = ("forward", "backward") if part.inputs else ("",)
        for way, times, work in zip(ways, (part.ahead, part.back), least[name], strict=False):
            add(f"{name}, {way}" if way else name, statistics.median(times), [work], part.peak)
    if parts:
        rest = spent - sum(statistics.median(parts[n].ahead) + statistics.median(parts[n].back) for n in own)
        table.add_row("in no part", f"{1e3 * rest:.2f}", f"{100 * rest / spent:.0f} %")
    return table


def describe(device: torch.device, bench: Bench) -> str:
    """What computes."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    grid = bench.problem.avatars.fields[0].grid.backend()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    why = available_backends(device)[grid]
    return f"{name}{threads}, torch {torch.__version__}; nearest vertices by warp, hash grid by {grid}: {why}"


def main(settings: Settings) -> None:
    """Measure and print."""
    console = Console(width=130, highlight=False)
    device = torch.device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    config = preset(settings.preset)
    config = replace(config, rays=settings.rays or config.rays)
    benches = embrace(config, load_body(), device, settings.part)
    console.print(describe(device, next(iter(benches.values()))))
    wholes, shots, parts = taken_apart(benches, device)
    every = [*wholes.values(), *(part for some in parts.values() for part in some.values())]
    for _ in range(WARM_UPS):
        for part in every:
            part.run(device, keep=False)
    peak = peak_memory()
    measures = machine_parts(device)
    for part in measures.values():
        part.run(device, keep=False)
    for _ in range(settings.repeats):
        for part in [*measures.values(), *every]:
            part.run(device)
    machine = machine_of(measures, device)
    for kind, shot in shots.items():
        title = (
            f"{kind} step: {len(shot.batch.frame)} rays in {len(shot.frames)} frames, {len(shot.samples)} samples, "
            f"{sum(map(len, shot.asked))} densities, {sum(map(len, shot.coloured))} colours"
        )
        console.print(report(benches[kind], shot, wholes[kind], parts[kind], machine, title))
    rates = f"{machine.bandwidth / 1e9:.1f} GB/s, {machine.rate / 1e9:.1f} Gop/s"
    console.print(f"{rates}; medians of {settings.repeats}; peak memory of the process {peak / 2**20:.0f} MB")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
