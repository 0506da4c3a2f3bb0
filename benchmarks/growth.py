"""What a refinement step costs in longer captures, with more cameras and with more people.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.growth --out growth.png
    python -m benchmarks.growth --device cuda --preset gpu --part frames

One of frames, views and people is varied at a time. The capture is made up: bodies in varied poses stand a metre apart
in a circle of cameras, and the pools of pixels, as large as the refinement would draw them, are filled in memory; so
nothing but the step is measured. A step has the same number of rays whatever the capture. Medians over whole calls of
`optimize.stages.step` of an avatar stage and of a pose stage, after three that warm up. What a pose step does for all
frames of the capture, whichever it draws, is timed on its own, forward and backward.

Each capture has a process of its own, whose peak of memory is printed; those of one sweep are there together and take
turns, so that a busy neighbour slows all of them.
"""

from __future__ import annotations

import math
import multiprocessing
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import torch
import tyro
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from avatarpose.body import load_body
from avatarpose.cameras import Cameras
from avatarpose.runlog import peak_memory
from benchmarks.floor import Bench, last_stage
from benchmarks.timing import WARM_UPS, Part
from optimize.avatars import Avatars, body_motion, posed_vertices
from optimize.config import RefineConfig, preset
from optimize.pixels import SHARE_EDGE, SHARE_PEOPLE, PixelSource, Pool
from optimize.pools import POOL_LIMIT
from optimize.poses import PoseParameters
from optimize.stages import Evidence, Problem
from renderer.skinning import SkinnedGeometry

Sweep = Literal["frames", "views", "people"]
FOCAL, WIDTH, HEIGHT = 700.0, 960, 720
"""Pixels."""
DISTANCE = 3.0
"""Metres from the cameras to the nearest people."""
EDGE, AROUND = 0.06, 0.4
"""Metres, spread of the rays that look at outlines and of those that look past people."""
AIMS = 500
"""Vertices of each body that rays are aimed at."""
FPS = 20.0


@dataclass
class Settings:
    out: Path = Path("growth.png")
    """Where the plot goes."""
    device: str = "cpu"
    """Where to compute: cpu or cuda."""
    part: tuple[Sweep, ...] = ("frames", "views", "people")
    """What is varied."""
    frames: tuple[int, ...] = (20, 140, 1000)
    views: tuple[int, ...] = (4, 8, 16, 28)
    people: tuple[int, ...] = (1, 2, 4, 8)
    preset: Literal["cpu", "gpu"] = "cpu"
    """Whose rays and frames a step has."""
    threads: int = 0
    """Threads of torch and Warp on the CPU; 0: as many as torch takes."""
    repeats: int = 10
    """Timed steps of each kind."""


@dataclass(frozen=True)
class Capture:
    """Sizes of what is made up."""

    frames: int = 20
    views: int = 8
    people: int = 2


@dataclass(frozen=True)
class Cost:
    """Of one capture: seconds of the steps and of what a pose step does for all frames that it poses, and bytes."""

    pose: float
    avatar: float
    of_window: dict[str, float]
    pools: int
    peak: int


def ring(count: int, distance: float) -> Cameras:
    """Cameras evenly around the origin, y up, 1 m above it and `distance` metres away."""
    angle = 2 * math.pi * (torch.arange(count) + 0.3) / count
    centre = torch.stack([distance * angle.cos(), torch.ones(count), distance * angle.sin()], dim=1)
    forward = torch.nn.functional.normalize(-centre, dim=1)
    down = torch.tensor([0.0, -1.0, 0.0]).expand(count, 3)
    right = torch.nn.functional.normalize(torch.linalg.cross(down, forward, dim=1), dim=1)
    R = torch.stack([right, torch.linalg.cross(forward, right, dim=1), forward], dim=1)
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    return Cameras(
        names=tuple(f"cam{c:02d}" for c in range(count)), K=K.repeat(count, 1, 1), R=R,
        t=-(R @ centre[..., None])[..., 0], dist=torch.zeros(count, 5), width=torch.full((count,), WIDTH),
        height=torch.full((count,), HEIGHT),
    )  # fmt: skip


def standing(capture: Capture, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """Shapes (P,10), poses (P,F,72) and translations (P,F,3) of people on a circle, and its radius in metres."""
    P, F = capture.people, capture.frames
    still, sway = (torch.randn(P, 1, 72, generator=generator) for _ in range(2))
    phase = 2 * math.pi * torch.rand(P, 1, 72, generator=generator)
    seconds = torch.arange(F)[None, :, None] / FPS
    poses = 0.15 * still + 0.15 * sway * torch.sin(2 * math.pi * 0.5 * seconds + phase)
    poses[..., :3] *= 0.3  # upright
    radius = 0.0 if P == 1 else 0.5 / math.sin(math.pi / P)
    angle = 2 * math.pi * torch.arange(P) / P
    place = radius * torch.stack([angle.cos(), torch.zeros(P), angle.sin()], dim=1)
    return 0.5 * torch.randn(P, 10, generator=generator), poses, place[:, None].repeat(1, F, 1), radius


def made_up(capture: Capture, config: RefineConfig, device: torch.device) -> Problem:
    """The problem of a capture without images, as `optimize.refine.build_problem` would make it."""
    torch.manual_seed(config.seed)
    betas, poses, trans, radius = standing(capture, torch.Generator().manual_seed(0))
    body, betas = load_body(device=device), betas.to(device)
    cameras = ring(capture.views, radius + DISTANCE).to(device=device)
    valid = torch.ones(capture.people, capture.frames, dtype=torch.bool)
    times = torch.arange(valid.shape[1]) / FPS
    parameters = PoseParameters(betas, poses.to(device), trans.to(device), valid.to(device), config.pose_param, times)
    with torch.no_grad():
        spread = betas[:, None].expand(-1, capture.frames, -1)
        keypoints = body.keypoints(spread, parameters.start_poses, parameters.start_trans)  # (P, F, 17, 3)
        pixels, depth = cameras.project(keypoints.transpose(0, 1))  # (C, F, P, 17, 2)
    source = PixelSource(SimpleNamespace(cameras=cameras), {}, config.edge_band, device)
    return Problem(
        body=body, cameras=cameras, fps=FPS, config=config,
        avatars=Avatars(body, betas, capture.views, config).to(device), poses=parameters.to(device), source=source,
        evidence=Evidence(pixels, (depth > 0).float()), triple=valid[:, 2:].to(device),
    )  # fmt: skip


@torch.no_grad()
def fill_pools(problem: Problem) -> dict[int, Pool]:
    """Pools of the size that `optimize.pools.draw_pools` would make, whose rays are aimed at, near and past people."""
    (people, frames), views = problem.poses.valid.shape, len(problem.cameras)
    config, device = problem.config, problem.triple.device
    pixels = min(config.pool_pixels, POOL_LIMIT // (frames * views))
    motion = body_motion(problem.body, problem.avatars, problem.poses(), shape_moves=False)
    chosen = torch.randperm(len(problem.body.v_template), device=device)[:AIMS]
    aims = [posed_vertices(_some(one, chosen), T, None) for one, T in
            zip(problem.avatars.geometry, motion.T_world_canonical, strict=True)]  # fmt: skip
    on, near = round(SHARE_PEOPLE * pixels), round(SHARE_EDGE * pixels)
    spread = torch.full((pixels, 1), AROUND, device=device)
    spread[:on], spread[on : on + near] = 0.0, EDGE
    camera = torch.arange(views, device=device, dtype=torch.int16).repeat_interleave(pixels)[:, None]
    pools = {}
    for f in range(frames):
        index = torch.randint(people * len(chosen), (views, pixels), device=device)
        aim = torch.cat([of_person[f] for of_person in aims])[index]
        aim = aim + spread * torch.randn(aim.shape, device=device)
        direction = torch.nn.functional.normalize(aim - problem.source.centres[:, None], dim=-1)
        label = ((spread[:, 0] == 0) | (torch.rand(views, pixels, device=device) < 0.5)) & (spread[:, 0] < AROUND)
        pools[f] = Pool(
            camera=camera.clone(), direction=direction.reshape(-1, 1, 3),
            colour=torch.randint(256, (views * pixels, 1, 3), device=device, dtype=torch.uint8),
            label=label.byte().reshape(-1, 1),
            coloured=(spread[:, 0] != EDGE).repeat(views, 1).reshape(-1, 1),
            person=torch.where(label, index // len(chosen), -1).short().reshape(-1, 1),
            weight=torch.ones(views * pixels, device=device),
        )  # fmt: skip
    return pools


def _some(geometry: SkinnedGeometry, chosen: Tensor) -> SkinnedGeometry:
    """The body with the chosen vertices only."""
    return SkinnedGeometry(*(getattr(geometry, name)[chosen] for name in SkinnedGeometry.__dataclass_fields__))


def serve(capture: Capture, settings: Settings, wire: Connection) -> None:
    """Time the steps of one capture in this process, one with every message; the last answer is the `Cost`."""
    device = torch.device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    config = preset(settings.preset)
    problem = made_up(capture, config, device)
    pools = fill_pools(problem)
    held = [values for pool in pools.values() for values in vars(pool).values() if isinstance(values, torch.Tensor)]
    size = sum(values.numel() * values.element_size() for values in held)
    steps, peak = [], 0
    for kind in ("avatar", "pose"):
        bench = Bench(problem, last_stage(config, kind), pools)
        steps.append(Part(bench.step))
        take_turns(steps[-1:], settings, device, wire)
        peak = max(peak, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory())
    of_window = bench.over_window()
    take_turns(list(of_window.values()), settings, device, wire)
    avatar, pose, *rest = (
        statistics.median(map(sum, zip(part.ahead, part.back, strict=True))) for part in [*steps, *of_window.values()]
    )
    wire.send(Cost(pose, avatar, dict(zip(of_window, rest, strict=True)), size, peak))


def take_turns(parts: list[Part], settings: Settings, device: torch.device, wire: Connection) -> None:
    """Run the parts once with every message: to warm up, then timed."""
    for repeat in range(WARM_UPS + settings.repeats):
        wire.recv()
        for part in parts:
            part.run(device, keep=repeat >= WARM_UPS)
        wire.send(None)


def measure(sweep: Sequence[Capture], settings: Settings) -> list[Cost]:
    """The costs of some captures, whose processes take turns."""
    context, wires = multiprocessing.get_context("spawn"), []
    for capture in sweep:
        here, there = context.Pipe()
        context.Process(target=serve, args=(capture, settings, there), daemon=True).start()
        there.close()  # so that the end of the process is noticed
        wires.append(here)
    for _ in range(3 * (WARM_UPS + settings.repeats)):
        for wire in wires:
            wire.send(None)
            wire.recv()
    return [wire.recv() for wire in wires]


def captures(sweep: Sweep, settings: Settings) -> list[Capture]:
    """What is made up for one sweep."""
    return [replace(Capture(), **{sweep: count}) for count in getattr(settings, sweep)]


def table_of(costs: dict[Sweep, list[Cost]], settings: Settings) -> Table:
    """A row for each capture."""
    parts = list(next(iter(costs.values()))[0].of_window)
    threads = f", {settings.threads or torch.get_num_threads()} threads" if settings.device == "cpu" else ""
    title = f"milliseconds a step on {settings.device}{threads}, median of {settings.repeats}, and megabytes"
    table = Table(title=title)
    for column in ("frames", "views", "people", "avatar step", "pose step", *parts, "pools MB", "peak MB"):
        table.add_column(column.removeprefix("of which "), justify="right")
    for sweep, found in costs.items():
        for capture, cost in zip(captures(sweep, settings), found, strict=True):
            spent = [cost.avatar, cost.pose, *(cost.of_window[name] for name in parts)]
            table.add_row(
                *(str(count) for count in vars(capture).values()), *(f"{1e3 * one:.1f}" for one in spent),
                f"{cost.pools / 2**20:.0f}", f"{cost.peak / 2**20:.0f}",
            )  # fmt: skip
        table.add_section()
    return table


def plot(costs: dict[Sweep, list[Cost]], settings: Settings) -> Figure:
    """Time above, memory below, one column a sweep."""
    figure = Figure(figsize=(4 * len(costs), 6), layout="constrained")
    axes = figure.subplots(2, len(costs), sharey="row", squeeze=False)
    for (above, below), (sweep, found) in zip(axes.T, costs.items(), strict=True):
        counts = getattr(settings, sweep)
        above.plot(counts, [1e3 * one.pose for one in found], "o-", label="pose step")
        above.plot(counts, [1e3 * one.avatar for one in found], "s-", label="avatar step")
        whole = [1e3 * sum(one.of_window.values()) for one in found]
        above.plot(counts, whole, "^--", label="of the pose step, beside the rendering")
        below.plot(counts, [one.peak / 2**20 for one in found], "o-", label="peak of the process")
        below.plot(counts, [one.pools / 2**20 for one in found], "s--", label="pools of pixels")
        below.set_xlabel(sweep)
        for ax in (above, below):
            ax.grid(alpha=0.3)
    for ax in axes[:, 0]:
        ax.set_ylim(bottom=0)  # last, for it ends the fitting of the axis to what is drawn
    axes[0, 0].set_ylabel("ms a step")
    axes[1, 0].set_ylabel("MB")
    axes[0, 0].legend(fontsize="small")
    axes[1, 0].legend(fontsize="small")
    return figure


def main(settings: Settings) -> None:
    """Measure, print and draw."""
    console = Console(width=150, highlight=False)
    costs = {sweep: measure(captures(sweep, settings), settings) for sweep in settings.part}
    console.print(table_of(costs, settings))
    for sweep, found in costs.items():
        pose, avatar = found[-1].pose / found[0].pose, found[-1].avatar / found[0].avatar
        counts = getattr(settings, sweep)
        console.print(f"{sweep} {counts[0]} to {counts[-1]}: pose step x {pose:.2f}, avatar step x {avatar:.2f}")
    plot(costs, settings).savefig(settings.out, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
