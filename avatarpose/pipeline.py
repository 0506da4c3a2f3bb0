"""The stages one after another: each skipped when its output is there, each measured, none undoing another's work.

    estimate -> results/joints3d.npz     register -> results/initial.npz     refine -> results/refined.npz, avatars/

Keypoints and masks that the sequence lacks are found first, with the default settings of `detect` and `segment`.

Then, where they apply, `metrics.json` (a sequence with truth), `overview.png` (a sequence with images) and
`report.html`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from avatarpose.body import BodyModel, load_body
from avatarpose.edits import Edits, applied_edits
from avatarpose.errors import InputError
from avatarpose.estimate import METHODS, VolumetricConfig, estimate
from avatarpose.evaluate import decompose, evaluate_sequence, print_metrics
from avatarpose.progress import progress_bar
from avatarpose.register import RegisterSettings, register
from avatarpose.results import Bodies, Joints3D
from avatarpose.runlog import RunLog
from avatarpose.sequence import Sequence, open_selected

if TYPE_CHECKING:
    from optimize.config import RefineConfig

STAGES = ("estimate", "register", "refine")
OUTPUTS = {"estimate": "joints3d.npz", "register": "initial.npz", "refine": "refined.npz"}


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides the sequence's files."""

    sequence: Path
    cameras: str = ""
    leave_out: str = ""
    frames: str = ""
    seed: int = 42
    device: str = "auto"
    memory: float = 1.0
    body: Path | None = None
    method: str = "volumetric"
    weights: Path | None = None
    preset: str = "auto"
    effort: float = 1.0
    ablate: str = ""
    pose_param: str = "preset"
    backend: str = "auto"

    def open(self) -> Sequence:
        """The sequence, with the chosen cameras and frames. Raises InputError where it is not usable."""
        return open_selected(self.sequence, self.cameras, self.leave_out, self.frames)


def torch_device(name: str) -> torch.device:
    """The device to compute on. Raises InputError where the one asked for is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError("no such device", expected="cpu, cuda, cuda:0, ... or auto", found=name) from None
    count = torch.cuda.device_count()
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= count):
        raise InputError("no such device here", expected=f"cpu, or one of {count} CUDA devices", found=name)
    return device


class Pipeline:
    """One run over one sequence."""

    def __init__(self, settings: Settings, console: Console | None = None) -> None:
        self.settings = settings
        self.console = console or Console(stderr=True)
        """Where progress and messages go; tables go to standard output."""
        self.device = torch_device(settings.device)
        self.sequence = settings.open()
        self.results = self.sequence.results
        said = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
        self._done: dict[str, Joints3D | Bodies] = {}
        self.log = RunLog(self.results / "run.json", said, self.device)

    @cached_property
    def body(self) -> BodyModel:
        return load_body(self.settings.body)

    def output(self, stage: str) -> Path:
        return self.results / OUTPUTS[stage]

    def clear_from(self, stage: str) -> None:
        """Forgets the output of `stage` and of the stages that follow it."""
        for later in STAGES[STAGES.index(stage) :]:
            self.output(later).unlink(missing_ok=True)
        shutil.rmtree(self.results / "checkpoint", ignore_errors=True)

    def stage(self, name: str) -> Joints3D | Bodies:
        """The output of a stage: read where it is there, made otherwise.

        Raises InputError where the output there is of other frames than the settings ask for.
        """
        if name in self._done:
            return self._done[name]
        path = self.output(name)
        kind = Joints3D if name == "estimate" else Bodies
        if path.is_file():
            found = kind.load(path)
            if not np.array_equal(found.frames, self.sequence.frames):
                raise InputError(
                    "the result there is of other frames", file=path, expected=_span(self.sequence.frames),
                    found=_span(found.frames), hint="Do it again with --redo, or move it away",
                )  # fmt: skip
            if not self._edited_since(name):
                self.console.print(f"{name}: {path.name} is there, kept")
                return self._done.setdefault(name, found)
            self.console.print(f"{name}: edits.json has changed, done again")
        if name == "estimate":
            self._detect_missing()
        if name == "refine" and self.stage("register") and not self.refine_config().ablation.smpl_only:
            self._segment_missing()  # after the registration, for bodies tell better where people are
        make: Callable[[], Joints3D | Bodies] = getattr(self, f"_{name}")
        with self.log.stage(name) as notes:
            made = make()
            made.save(path)
            if name != "estimate" and self.edits:
                notes["edits"] = self.edits.as_json()
        self.console.print(f"{name}: {self.log.seconds(name):.1f} s")
        return self._done.setdefault(name, made)

    @cached_property
    def edits(self) -> Edits:
        """Fix-ups made by hand or in the viewer: edits.json."""
        return Edits.load(self.sequence.folder)

    def _edited_since(self, name: str) -> bool:
        """Whether a result that was made here, not brought, contains other edits than there are now."""
        if name == "estimate" or self.log.seconds(name) is None:
            return False
        return applied_edits(self.results, name) != self.edits

    def _detect_missing(self) -> None:
        """Finds the 2D keypoints that the sequence lacks, where it has images."""
        if self.sequence.has_keypoints or not self.sequence.has_images:
            return
        from avatarpose.detect import DetectConfig, detect_sequence

        with self.log.stage("detect") as notes, progress_bar(self.console, "detect") as progress:
            report = detect_sequence(self.sequence, DetectConfig(device=self.settings.device), progress)
            notes |= {"detector": report.detector, "images": report.images}
        self.console.print(f"detect: by {report.detector}, {self.log.seconds('detect'):.1f} s")

    def _segment_missing(self) -> None:
        """Finds the masks that the sequence lacks, where it has images."""
        if self.sequence.has_masks or not self.sequence.has_images:
            return
        from avatarpose.segment import SegmentConfig, segment_sequence

        with self.log.stage("segment") as notes, progress_bar(self.console, "segment") as progress:
            config = SegmentConfig(device=str(self.device))
            report = segment_sequence(self.sequence, config, progress, self.settings.body)
            notes |= {"method": report.method}
        self.console.print(f"segment: {report.method}, {self.log.seconds('segment'):.1f} s")
        for message in report.messages:
            self.console.print(message, highlight=False)

    def _estimate(self) -> Joints3D:
        method = METHODS.get(self.settings.method)
        if method is None:
            raise InputError("no such method", expected=" or ".join(METHODS), found=self.settings.method)
        config = method.config()
        if isinstance(config, VolumetricConfig):
            config = replace(config, weights=self.settings.weights, device=str(self.device))
        with progress_bar(self.console, "estimate") as progress:
            return estimate(self.sequence, config, progress)

    def _register(self) -> Bodies:
        joints = self.stage("estimate")
        edits = self.edits.check(joints.people, self.sequence.folder)
        with progress_bar(self.console, "register") as progress:
            made = register(self.sequence, edits.edit_joints(joints), self.body, RegisterSettings(), progress)
        return edits.bridge(made, self.body)

    def _refine(self) -> Bodies:
        # The rooms above the core are imported by the stages that need them, so that the others start at once.
        from optimize.refine import refine

        initial = self.stage("register")
        edits = self.edits.check(initial.people, self.sequence.folder)
        pending = applied_edits(self.results, "register").pending(edits)  # all of them where the bodies were brought
        initial = pending.bridge(pending.apply_swaps(initial), self.body)
        untrusted = edits.untrusted_mask(initial.people, initial.frames)
        memory = int(self.settings.memory * 1e9)
        config = self.refine_config()
        with progress_bar(self.console, "refine") as progress:
            return refine(self.sequence, initial, self.body, config, progress, self.device, memory, untrusted)

    def refine_config(self) -> RefineConfig:
        """The schedule of the refinement that the settings ask for."""
        from optimize.config import ablation, preset

        name = self.settings.preset
        if name == "auto":
            name = "gpu" if self.device.type == "cuda" else "cpu"
        config = replace(preset(name), seed=self.settings.seed, ablation=ablation(self.settings.ablate))
        if self.settings.pose_param != "preset":
            config = replace(config, pose_param=self.settings.pose_param)
        if self.settings.backend != "auto":
            from renderer.hash_grid import backend_trouble

            backend = self.settings.backend
            trouble = None if backend == "torch" else backend_trouble(backend, self.device.type)
            if trouble is not None:
                raise InputError(f"the backend {backend} cannot be used on {self.device.type}", found=trouble)
            config = replace(config, field=replace(config.field, implementation=backend))
        config = config.for_frames(len(self.sequence.frames))
        return config if self.settings.effort == 1.0 else config.scaled(self.settings.effort)

    def evaluate(self) -> dict[str, dict[str, float | None]] | None:
        """Writes metrics.json and returns it; None where the sequence has no truth."""
        if not (self.sequence.folder / "ground_truth.npz").is_file():
            return None
        return evaluate_sequence(self.sequence)

    def overview(self) -> Path | None:
        """Draws overview.png unless it is newer than the bodies; None where the sequence has no images."""
        from optimize.pictures import rendered_views
        from viewer.overview import choose_views, overview

        if not self.sequence.has_images:
            return None
        path, refined = self.results / "overview.png", self.output("refine")
        if path.is_file() and refined.is_file() and path.stat().st_mtime >= refined.stat().st_mtime:
            return path
        before, after = (
            Bodies.load(self.output(name)) if self.output(name).is_file() else None for name in ("register", "refine")
        )
        drawn = {}
        if after is not None and (self.results / "avatars").is_dir():
            views = choose_views(self.sequence)
            drawn = rendered_views(self.sequence, after, self.body, views, str(self.device))
        overview(self.sequence, before, after, drawn, path)
        return path

    def report(self) -> Path:
        """Writes report.html. Raises InputError where there are no bodies."""
        from viewer.report.page import write_report

        return write_report(self.sequence, self.body)


def _span(frames: np.ndarray) -> str:
    return f"{len(frames)} frames, {frames[0]} to {frames[-1]}" if len(frames) else "no frames"


def tables() -> Console:
    """Standard output, wide enough for the tables where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


def run(settings: Settings, stages: tuple[str, ...] = STAGES, redo_from: str | None = None) -> Pipeline:
    """Does the stages up to the last of `stages` that are missing, then evaluates and draws what can be.

    Args:
        stages: names out of STAGES; none only evaluates.
        redo_from: forget the output of this stage and of the later ones first.

    Raises:
        InputError: the sequence or a result brought from elsewhere is not usable.
    """
    pipeline = Pipeline(settings)
    if redo_from is not None:
        pipeline.clear_from(redo_from)
    for stage in stages:
        pipeline.stage(stage)
    metrics = pipeline.evaluate()
    if metrics is None and not stages:
        raise InputError("nothing to compare with", file=settings.sequence / "ground_truth.npz", found="no such file")
    if metrics is not None:
        print_metrics(metrics, decompose(pipeline.sequence, raw="estimate" in metrics), console=tables())
    if "refine" in stages:
        pipeline.console.print(f"overview: {pipeline.overview() or 'none, the sequence has no images'}")
        pipeline.console.print(f"report: {pipeline.report()}")
    return pipeline


def run_protocol(settings: list[Settings], name: str) -> None:
    """Prints a paper's table of the results of some sequences and writes it beside the first one's.

    Raises:
        InputError: as `protocols.evaluate_protocol`.
    """
    from avatarpose.protocols import protocol_table, write_protocol

    path, rows = write_protocol([one.open() for one in settings], name)
    tables().print(protocol_table(rows, name))
    Console(stderr=True).print(f"{name}'s table: {path}")


def demo(out: Path, settings: Settings, redo: bool = False) -> Pipeline:
    """Runs everything on a copy of the embedded capture in `out`; prints errors and seconds.

    Raises:
        InputError: `out` is there and is not a sequence folder.
    """
    if out.exists() and not (out / "sequence.json").is_file() and any(out.iterdir()):
        raise InputError("would write into a folder with other things in it", file=out, hint="Choose --out")
    with as_file(files("assets") / "embrace") as capture:
        shutil.copytree(capture, out, dirs_exist_ok=True)
    pipeline = run(settings, redo_from="estimate" if redo else None)
    table = Table("stage", "seconds", "peak memory, MB", title="time")
    for name, entry in pipeline.log.data["stages"].items():
        table.add_row(name, f"{entry['seconds']:.1f}", str(entry["peak_memory_mb"]))
    tables().print(table)
    return pipeline
