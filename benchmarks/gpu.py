"""What is to be measured on a GPU, in parts; a call ends within eight minutes.

    python -m benchmarks.gpu --part encoding steps views
    python -m benchmarks.gpu --part refine                    # the same call again where it says so
    python -m benchmarks.gpu --part capture                   # likewise
    python -m benchmarks.gpu --part encoding --device cpu --points 4096 --repeats 2
    python -m benchmarks.gpu --part steps --device cpu --preset cpu --repeats 2
    python -m benchmarks.gpu --part views --device cpu --picture 94x128 --pictures 2
    python -m benchmarks.gpu --part refine capture --device cpu --preset cpu --effort 0.001 --frames 4 --size 118x160

- encoding: points a second through the hash grid, by each implementation that can be used, against the time in which
  this device moves the bytes of `benchmarks.least_work` (smaller batches show what a call costs besides).
- steps: pose, collision and avatar steps a second, their parts and floors as in `benchmarks.floor`.
- refine: `avatarpose run` of duo_a, a copy in the work folder: seconds and errors.
- views: pictures a second of two people (`benchmarks.free_viewpoint --speed`), by the memory that rendering may take;
  of the people of a run, or where there is none of avatars that have learned nothing, on the embedded capture.
- capture: `benchmarks.made_capture`, then `avatarpose run`.

A refinement that does not end in time is killed and goes on from its checkpoint at the next call. All figures are
added to `gpu.json` in the work folder. The seconds of a refinement are those of all its calls; those in `run.json` are
of the last call.
"""

from __future__ import annotations

import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType

from avatarpose.body import BodyModel, load_body
from avatarpose.errors import InputError
from avatarpose.io import read_json, write_json
from avatarpose.pipeline import torch_device
from avatarpose.results import Bodies
from avatarpose.runlog import describe_device, package_versions
from avatarpose.sequence import Sequence
from benchmarks import duo, made_capture
from benchmarks.floor import describe, embrace, machine_of, machine_parts, report, taken_apart, true_bodies
from benchmarks.free_viewpoint import speed
from benchmarks.hash_grid import PASSES, body_points
from benchmarks.least_work import Least
from benchmarks.timing import WARM_UPS, Part
from optimize.avatars import Avatars
from optimize.config import RefineConfig, preset
from optimize.pictures import PeopleRenderer, load_avatars
from optimize.poses import BodyParameters
from renderer.field import FieldConfig
from renderer.hash_grid import HashGrid, Implementation, backend_trouble
from renderer.sampling import SamplingConfig
from viewer.video.paths import frame_joints, orbit
from viewer.video.scene import load_bodies

Measured = Literal["encoding", "steps", "refine", "views", "capture"]
BACKENDS = ("torch", "warp", "tinycudann")
STEPS = ("joint", "collision", "avatar", "pose")
POINTS = {"cpu": (2**14,), "cuda": (2**17, 2**20, 2**22)}
MEMORY = {"cpu": (1.0,), "cuda": (1.0, 8.0, 32.0)}
"""GB that rendering may take."""
AIM = 30.0
"""Pictures a second."""
LEAST_LEFT = 60.0
"""Seconds under which nothing is begun any more."""
MOTION = Path("motion") / "cmu_pairs_15joints_30fps.npz"
SHOWN = ("initial", "refined")
MEASURED = ("seconds", "processor_seconds", "peak_memory_mb", "peak_device_memory_mb")
GO_ON = "[bold]not finished: make the same call again[/bold]"


@dataclass
class Settings:
    part: tuple[Measured, ...]
    """What to measure."""
    device: str = "cuda"
    """Where to compute: cuda or cpu."""
    data: Path = duo.DATA
    """Folder with duo_a and, for the motion of the made capture, motion; without the latter its people embrace."""
    work: Path = Path("gpu_benchmark")
    """Folder for copies, results and gpu.json."""
    run: Path | None = None
    """Finished sequence folder for `views`; by default one of the work folder."""
    preset: Literal["cpu", "gpu"] = "gpu"
    """Schedule of the refinement; whose rays and frames a step has."""
    effort: float = 1.0
    """Multiplies the iterations of the refinements."""
    frames: int = 0
    """Frames of the captures; 0: all of duo_a, 140 of the made one."""
    size: str = "470x640"
    """Of the made capture's images, pixels."""
    points: tuple[int, ...] = ()
    """Points of an encoding; by default what suits the device."""
    picture: str = "940x1280"
    """Of the novel views, pixels."""
    pictures: int = 60
    repeats: int = 20
    """Timed repeats of encodings and steps."""
    fresh: bool = False
    """Make captures and refinements anew."""
    limit: float = 450.0
    """Seconds of the whole call."""


@dataclass
class Bench:
    """What the parts share."""

    settings: Settings
    device: torch.device
    console: Console
    ends: float

    def left(self) -> float:
        """Seconds of this call."""
        return self.ends - time.monotonic()

    def record(self, part: Measured, **figures: Any) -> None:
        """Adds to gpu.json."""
        path = self.settings.work / "gpu.json"
        before = read_json(path)["measured"] if path.is_file() else []
        entry = {"part": part, "when": datetime.now(UTC).isoformat(timespec="seconds"), **figures}
        entry |= {"device": describe_device(self.device), "versions": package_versions()}
        write_json(path, {"measured": [*before, entry | {"settings": asdict(self.settings)}]})

    def table(self, title: str, rows: list[dict[str, Any]]) -> None:
        """Prints rows under their keys."""
        table = Table(title=title)
        for key in rows[0]:
            table.add_column(key, justify="left" if isinstance(rows[0][key], str) else "right")
        for row in rows:
            table.add_row(*(f"{value:,.4g}" if isinstance(value, float) else str(value) for value in row.values()))
        self.console.print(table)


def turns(parts: list[Part], device: torch.device, repeats: int) -> None:
    """Runs the parts in turn: to warm up, then timed."""
    for repeat in range(WARM_UPS + repeats):
        for part in parts:
            part.run(device, keep=repeat >= WARM_UPS)


def peak(part: Part) -> dict[str, float]:
    """Memory beyond what was held before, where it is counted."""
    return {"peak MB": part.peak / 2**20} if part.peak else {}


def encoding(bench: Bench) -> None:
    """Forward and backward of each implementation, on the grids of the presets."""
    device, rows, measures = bench.device, [], machine_parts(bench.device)
    turns(list(measures.values()), device, bench.settings.repeats)
    bandwidth = machine_of(measures, device).bandwidth
    for count in bench.settings.points or POINTS[device.type]:
        points = body_points(count, device.type)
        for name in ("gpu", "paper"):
            config = preset(name)
            for what, wanted in PASSES.items():
                parts = dict(encodings(config.field, points, wanted))
                turns(list(parts.values()), device, bench.settings.repeats)
                floor = least_bytes(config, count, wanted) / bandwidth
                for backend, part in parts.items():
                    spent = statistics.median(part.back if wanted else part.ahead)
                    rows.append(
                        {
                            "grid of": name, "pass": f"backward, {what}" if wanted else what, "by": backend,
                            "points": f"{count:,}", "ms": 1e3 * spent, "million points/s": 1e-6 * count / spent,
                            "floor ms": 1e3 * floor, "ms / floor": spent / floor, **peak(part),
                        }
                    )  # fmt: skip
    troubles = {name: why for name in BACKENDS if (why := trouble(name, device, 4)) is not None}
    bench.table(f"hash grid on a device that copies {bandwidth / 1e9:,.0f} GB/s", rows)
    for name, why in troubles.items():
        bench.console.print(f"{name}: not usable, {why}")
    bench.record("encoding", bandwidth=bandwidth, not_usable=troubles, rows=rows)


def trouble(backend: str, device: torch.device, features: int) -> str | None:
    """Why an implementation cannot be used."""
    return None if backend == "torch" else backend_trouble(backend, device.type, features)


def encodings(field: FieldConfig, points: torch.Tensor, wanted: tuple[str, ...]) -> Iterator[tuple[str, Part]]:
    """The usable implementations, each ready to be timed."""
    for backend in BACKENDS:
        if trouble(backend, points.device, field.features) is None:
            grid = hash_grid(field, backend).to(points.device).requires_grad_("table" in wanted)
            at = points.clone().requires_grad_("positions" in wanted)
            learned = [one for one in (grid.table, at) if one.requires_grad]
            yield backend, Part(lambda grid=grid, at=at: [grid(at)], learned)


def hash_grid(field: FieldConfig, backend: Implementation) -> HashGrid:
    """The grid of a field."""
    return HashGrid(
        field.levels, field.features, field.log2_table, field.base_resolution, field.finest_resolution, backend
    )


def least_bytes(config: RefineConfig, points: int, wanted: tuple[str, ...]) -> float:
    """What has to be moved forward, or backward where a gradient is wanted."""
    offsets = hash_grid(config.field, "torch").layout.offsets
    least = Least(
        P=1, V=0, J=0, F=0, B=0, C=0, R=0, N=0, E=points, K=0, pooled=0, parameters=0, to_fields="table" in wanted,
        config=config, rows=tuple(int(size) for size in np.diff(offsets)), shape=False,
    )  # fmt: skip
    ahead, back = least.hash_grid(points, 0, config.field.levels)
    return back.bytes if wanted else ahead.bytes


def steps(bench: Bench) -> None:
    """Whole steps and their parts, as `benchmarks.floor` measures them."""
    device, begun = bench.device, time.perf_counter()
    stages = embrace(preset(bench.settings.preset), load_body(), device, STEPS)
    bench.console.print(describe(device, stages["pose"]))
    wholes, shots, parts = taken_apart(stages, device)
    ready, measures = time.perf_counter() - begun, machine_parts(device)
    every = [*measures.values(), *wholes.values(), *(part for some in parts.values() for part in some.values())]
    turns(every, device, bench.settings.repeats)
    machine, rows, found = machine_of(measures, device), [], {}
    for kind, shot in shots.items():
        least, spent = shot.least(), statistics.median(wholes[kind].ahead)
        floor = sum(machine.floor(w) for name in least if not name.startswith("of which") for w in least[name])
        rows.append(
            {
                "step": kind, "rays": len(shot.batch.frame), "samples": len(shot.samples), "steps/s": 1 / spent,
                "ms": 1e3 * spent, "floor ms": 1e3 * floor, "ms / floor": spent / floor,
                **peak(wholes[kind]),
            }
        )  # fmt: skip
        found[kind] = {
            name: [1e3 * statistics.median(times) for times in (part.ahead, part.back)]
            for name, part in parts[kind].items()
        }
        bench.console.print(report(stages[kind], shot, wholes[kind], parts[kind], machine, f"{kind} step"))
    bench.table(f"steps of preset {bench.settings.preset}; the first after {ready:.0f} s", rows)
    bench.record("steps", ready=ready, machine=vars(machine), rows=rows, parts_ms=found)
    used = [{"step": kind, **kernels(stage.step, device)} for kind, stage in stages.items()]
    if len(used[0]) > 1:
        bench.table("kernels of a step", used)
        bench.record("steps", kernels=used)


def kernels(call: Callable[[], object], device: torch.device, repeats: int = 5) -> dict[str, float]:
    """How many kernels and copies a call starts on a CUDA device, and milliseconds in which one runs."""
    if device.type != "cuda":
        return {}
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize(device)
    ran = [event for event in profile.events() if event.device_type == DeviceType.CUDA]
    busy = sum(event.time_range.elapsed_us() for event in ran) / 1e3
    return {"kernels": len(ran) / repeats, "busy ms": busy / repeats}


def views(bench: Bench) -> None:
    """Pictures along an orbit around people in motion."""
    settings, device, body, rows = bench.settings, bench.device, load_body(), []
    runs = [settings.run] if settings.run else [settings.work / "capture", settings.work / "duo_a"]
    run = next((one for one in runs if settings.run or (one / "results" / "refined.npz").is_file()), None)
    sequence, bodies, avatars, sampling = unlearned(body) if run is None else finished(run, body)
    parameters = BodyParameters(*(torch.as_tensor(x) for x in (bodies.betas, bodies.poses, bodies.trans)))
    width, height = map(int, settings.picture.split("x"))
    framing = frame_joints(bodies.joints, sequence.up_vector, width, height)
    camera = orbit(framing, 1, 1.0, azimuth=0.3, elevation=0.17)
    for memory in MEMORY[device.type]:
        valid = torch.as_tensor(bodies.valid)
        renderer = PeopleRenderer(avatars, body, parameters, valid, sampling, device, 1e9 * memory)
        made = speed(renderer, bodies.joints, sequence.up_vector, settings.picture, settings.pictures)
        rate, covered = made["frames_per_second"], made["covered_percent"]
        row = {"memory GB": memory, "pictures/s": rate, f"of {AIM:.0f}, %": 100 * rate / AIM, "covered, %": covered}
        rows.append(row | kernels(partial(renderer.picture, 0, camera), device))
    shown = "on the embedded capture, colours not learned" if run is None else f"of {run}"
    bench.table(f"pictures of {settings.picture}, {len(bodies.people)} people {shown}", rows)
    bench.record("views", of=shown, people=len(bodies.people), rows=rows)


def finished(run: Path, body: BodyModel) -> tuple[Sequence, Bodies, Avatars, SamplingConfig]:
    """The people of a run."""
    sequence = Sequence.open(run)
    bodies = load_bodies(sequence, body)
    avatars, config = load_avatars(sequence, bodies.people, body)
    return sequence, bodies, avatars, config.sampling


def unlearned(body: BodyModel) -> tuple[Sequence, Bodies, Avatars, SamplingConfig]:
    """The people of the embedded capture, their surfaces as thin as in the end."""
    config = preset("gpu")
    with as_file(files("assets") / "embrace") as folder:
        sequence = Sequence.open(folder)
        bodies = true_bodies(sequence, body)
    avatars = Avatars(body, torch.as_tensor(bodies.betas), len(sequence.cameras), config).requires_grad_(False)
    avatars.set_surface_width(config.stages[-1].surface_width)
    return sequence, bodies, avatars, config.sampling


def refine(bench: Bench) -> None:
    """The first of the rendered captures."""
    folder, source = bench.settings.work / "duo_a", bench.settings.data / "duo_a"
    if bench.settings.fresh and folder.exists():
        shutil.rmtree(folder)
    if not folder.exists():
        if not source.is_dir():
            raise InputError("no capture to refine", file=source, expected="a sequence folder", hint="Choose --data")
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("results"), copy_function=shutil.copyfile)
    frames = f"0:{bench.settings.frames}" if bench.settings.frames else ""
    if refined(bench, folder, "refine", *(["--frames", frames] if frames else [])) and not frames:
        if bench.left() > LEAST_LEFT:
            duo.report(folder)
        else:
            bench.console.print("the same call again compares with the known identities")


def capture(bench: Bench) -> None:
    """The made capture, then its people."""
    settings, folder, motion = bench.settings, bench.settings.work / "capture", bench.settings.data / MOTION
    if settings.fresh and folder.exists():
        shutil.rmtree(folder)
    begun, there = time.monotonic(), (folder / "sequence.json").is_file()
    asked = made_capture.Settings(
        folder, motion if motion.is_file() else None, settings.frames or 140, size=settings.size, limit=bench.left()
    )
    if not made_capture.make(asked):
        bench.console.print(GO_ON)
        return
    if not there:
        bench.record("capture", made=time.monotonic() - begun)
    memory = 2.0 + 4e-9 * asked.frames * asked.views * math.prod(map(int, settings.size.split("x")))
    refined(bench, folder, "capture", "--memory", f"{memory:.1f}")


def refined(bench: Bench, folder: Path, part: Measured, *more: str) -> bool:
    """Whether `avatarpose run` has ended on the folder; goes on with it for as long as this call may last."""
    settings, tally = bench.settings, folder / "calls.json"
    how = ["--device", settings.device, "--preset", settings.preset, "--effort", str(settings.effort), *more]
    calls = read_json(tally) if tally.is_file() else {"how": how, "seconds": [], "done": False}
    if calls["how"] != how:
        raise InputError("refined with other settings", file=tally, expected=how, found=calls["how"], hint="--fresh")
    if not calls["done"]:
        if bench.left() < LEAST_LEFT:
            bench.console.print(GO_ON)
            return False
        begun = time.monotonic()
        try:
            command = [sys.executable, "-m", "avatarpose.cli", "run", str(folder), *how]
            subprocess.run(command, check=True, timeout=bench.left())
            calls["done"] = True
        except subprocess.TimeoutExpired:
            bench.console.print(GO_ON)
        calls["seconds"].append(round(time.monotonic() - begun, 1))
        write_json(tally, calls)
    if not calls["done"]:
        return False
    metrics, stages = (read_json(folder / "results" / name) for name in ("metrics.json", "run.json"))
    rows = [{"bodies": name, **{k: v for k, v in metrics[name].items() if v is not None}} for name in SHOWN]
    seconds = sum(calls["seconds"])
    bench.table(f"{folder.name}: {seconds:.0f} s in {len(calls['seconds'])} calls", rows)
    spent = [{"stage": name, **{k: one[k] for k in MEASURED if k in one}} for name, one in stages["stages"].items()]
    bench.table("stages, of the last call", spent)
    bench.record(part, seconds=calls["seconds"], metrics=metrics, stages=stages["stages"])
    return True


def main(settings: Settings) -> None:
    """Measure one part after the other."""
    console = Console(width=150, highlight=False)
    bench = Bench(settings, torch_device(settings.device), console, time.monotonic() + settings.limit)
    measures = {"encoding": encoding, "steps": steps, "refine": refine, "views": views, "capture": capture}
    for part in settings.part:
        if bench.left() < LEAST_LEFT:
            console.print(f"no time left for {part}")
            break
        measures[part](bench)
        console.print(f"{part}: {settings.limit - bench.left():.0f} s since the beginning")


if __name__ == "__main__":
    try:
        main(tyro.cli(Settings, description=__doc__))
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
