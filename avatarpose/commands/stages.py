"""The stages of the main job, all of them at once, the evaluation and the demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from avatarpose.commands.shared import SequenceFolder, Shared, pipeline_settings
from avatarpose.errors import InputError


@dataclass(kw_only=True)
class EstimateOptions:
    method: Literal["volumetric", "triangulation"] = "volumetric"
    """How the first 3D joints are found: by the learned volumetric estimator, or by association and triangulation."""
    weights: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Weights of the volumetric estimator (.safetensors); by default those of the package."""


@dataclass(kw_only=True)
class RefineOptions:
    preset: Literal["auto", "cpu", "gpu", "in_turn", "paper"] = "auto"
    """Schedule of the refinement; auto: gpu on CUDA, cpu elsewhere."""
    effort: float = 1.0
    """Multiplies the iterations of the preset: 0.1 is a quick look."""
    ablate: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """For experiments. Leave out parts of the refinement: rgb, mask, priors, smoothness, collision, shading,
    camera_colour, offset; or joint (avatars and poses at once), smpl_only (no avatar, the body on 2D keypoints)."""
    backend: Literal["auto", "torch", "warp", "tinycudann"] = "auto"
    """What computes the avatars' hash grids; auto: Warp, or on CUDA whatever of those installed is fastest there."""
    pose_param: Literal["preset", "mlp", "direct", "both"] = "preset"
    """How corrections of the pose are parametrised: a small network, one set a frame, or both."""


@dataclass
class Run(Shared, EstimateOptions, RefineOptions):
    """Everything, from a sequence folder to refined people; stages whose output is there are skipped.

    Example: avatarpose run my_sequence --frames 0:20 --preset cpu
    """

    sequence: SequenceFolder

    def execute(self) -> None:
        _run(self, ("estimate", "register", "refine"))


@dataclass
class Estimate(Shared, EstimateOptions):
    """Find the people and their 3D joints from the 2D keypoints: results/joints3d.npz.

    Example: avatarpose estimate my_sequence --method triangulation
    """

    sequence: SequenceFolder

    def execute(self) -> None:
        _run(self, ("estimate",))


@dataclass
class Register(Shared, EstimateOptions):
    """Fit the body model to the 3D joints: results/initial.npz.

    Example: avatarpose register my_sequence
    """

    sequence: SequenceFolder

    def execute(self) -> None:
        _run(self, ("estimate", "register"), redo="register")


@dataclass
class Refine(Shared, EstimateOptions, RefineOptions):
    """Refine the bodies with learned avatars: results/refined.npz, avatars/, overview.png.

    A refinement that was stopped goes on where it was.

    Example: avatarpose refine my_sequence --preset cpu --effort 0.1
    """

    sequence: SequenceFolder

    def execute(self) -> None:
        _run(self, ("estimate", "register", "refine"), redo="refine")


@dataclass
class Evaluate(Shared):
    """Compare the results with ground_truth.npz: results/metrics.json.

    Example: avatarpose evaluate my_sequence
    """

    sequence: SequenceFolder
    protocol: Literal["", "avatarpose", "closemocap", "voxelpose", "shelf", "campus"] = ""
    """Also print a paper's table, figures computed as its own script does: results/protocol_NAME.json."""
    also: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="SEQUENCE")] = ()
    """More sequences that the protocol's table is over, all together."""

    def execute(self) -> None:
        if self.also and not self.protocol:
            raise InputError("--also without --protocol", expected="--protocol NAME")
        _run(self, ())
        if self.protocol:
            from avatarpose.pipeline import run_protocol

            every = (self.sequence, *self.also)
            run_protocol([pipeline_settings(self, sequence=path) for path in every], self.protocol)


@dataclass
class Demo(EstimateOptions, RefineOptions):
    """Recover two people in an embrace from a small capture inside the package; prints the errors before and after.

    Example: avatarpose demo --out avatarpose_demo
    """

    effort: float = 0.6
    """Multiplies the iterations of the preset: 0.6 takes two to three minutes, 1 is what `run` does."""
    out: Path = Path("avatarpose_demo")
    """Folder to copy the capture to and to write the results in."""
    seed: int = 42
    """Seed of every random choice."""
    device: str = "auto"
    """cpu, cuda, ... or auto."""
    redo: bool = False
    """Start from nothing although results are there."""

    def execute(self) -> None:
        from avatarpose.pipeline import demo

        demo(self.out, pipeline_settings(self, sequence=self.out), self.redo)


def _run(command: Shared, stages: tuple[str, ...], redo: str | None = None) -> None:
    from avatarpose.pipeline import run

    first = redo or (stages[0] if stages else None)
    run(pipeline_settings(command), stages, redo_from=first if command.redo else None)
