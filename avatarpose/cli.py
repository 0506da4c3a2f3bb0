"""The command line: `avatarpose COMMAND --help` says what each command does, with an example."""

from __future__ import annotations

import os

# Before torch is imported: waiting threads that spin halve the speed as soon as the machine has anything else to do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from avatarpose.errors import InputError

# torch, cv2 and everything built on them are imported by the commands that need them, so that help comes at once.


@dataclass(kw_only=True)
class Shared:
    """Options of every stage."""

    cameras: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """Use only these cameras: names with commas between."""
    leave_out: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """Leave these cameras out: names with commas between."""
    frames: Annotated[str, tyro.conf.arg(metavar="A:B:S")] = ""
    """Frames a:b:s, from a up to but not including b in steps of s; each part may be left out."""
    seed: int = 42
    """Seed of every random choice: the same seed, settings and device give the same result."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..., or auto: CUDA where there is a device."""
    memory: float = 1.0
    """GB that cached images may take."""
    body: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Body model in SMPL's format (.npz or official .pkl); by default the open body of the package."""
    redo: bool = False
    """Do the stage again although its output is there."""


@dataclass(kw_only=True)
class EstimateOptions:
    method: Literal["volumetric", "triangulation"] = "volumetric"
    """How the first 3D joints are found: by the learned volumetric estimator, or by association and triangulation."""
    weights: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Weights of the volumetric estimator (.safetensors); by default those of the package."""


@dataclass(kw_only=True)
class RefineOptions:
    preset: Literal["auto", "cpu", "gpu", "paper"] = "auto"
    """Schedule of the refinement; auto: gpu on CUDA, cpu elsewhere."""
    effort: float = 1.0
    """Multiplies the iterations of the preset: 0.1 is a quick look."""
    ablate: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """For experiments. Leave out parts of the refinement: rgb, mask, priors, smoothness, collision, shading,
    camera_colour, offset; or joint (avatars and poses at once), smpl_only (no avatar, the body on 2D keypoints)."""
    pose_param: Literal["preset", "mlp", "direct", "both"] = "preset"
    """How corrections of the pose are parametrised: a small network, one set a frame, or both."""


SequenceFolder = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="SEQUENCE", help="Folder of the sequence.")
]


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

    def execute(self) -> None:
        _run(self, ())


@dataclass
class Demo(EstimateOptions, RefineOptions):
    """Recover two people in an embrace from a small capture inside the package; prints the errors before and after.

    Example: avatarpose demo --out avatarpose_demo
    """

    effort: float = 0.25
    """Multiplies the iterations of the preset: 0.25 takes four minutes on two cores, 1 is what `run` does."""
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

        demo(self.out, _settings(self, sequence=self.out), self.redo)


@dataclass(kw_only=True)
class Train:
    """Train the volumetric estimator on synthetic people: OUT/weights.safetensors; the same command goes on with it.

    Example: avatarpose train volumetric --motion cmu.npz AMASS/CMU --out training --width light --processes 2
    """

    what: Annotated[Literal["volumetric"], tyro.conf.Positional]
    """What is trained."""
    motion: tuple[Path, ...]
    """Motion files: clips of 15 joints (.npz), AMASS files, or folders of them."""
    out: Path
    """Folder for the checkpoint, the curve and the weights."""
    exclude: tuple[str, ...] = ()
    """Clips to keep out, with the wildcards * and ?."""
    width: Literal["light", "full"] = "light"
    """Size of the network: light for CPUs, full as in the paper."""
    skeleton: Literal["coco17", "panoptic15"] = "coco17"
    """Joints to be found."""
    samples: int = 60_000
    """Samples to train on: volumes about a person, every one new."""
    batch: int = 16
    """Samples a step."""
    learning_rate: float = 3e-3
    seed: int = 0
    """The same seed, batch and number of processes make the same samples."""
    start: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Weights to begin with."""
    finetune_rig: Annotated[Path | None, tyro.conf.arg(metavar="SEQUENCE")] = None
    """Adapt to the cameras of this sequence: begins with the packaged weights (or --start), a tenth of the rate."""
    ablate: Literal["none", "anchors", "focal", "noise"] = "none"
    """For experiments. Train without anchor volumes, without the loss on 3D heatmaps, or without 2D augmentation."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..., or auto: CUDA where there is a device."""
    processes: int = 1
    """Processes that share each batch; on a CPU one a core is fastest."""
    workers: int = 0
    """Processes that make samples beside the training; on CUDA one a core."""
    minutes: float = 0.0
    """Stop after this time, to be continued by the same command; 0: no limit."""
    body: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Body model in SMPL's format whose joints are learned; by default the open body of the package."""

    def execute(self) -> None:
        from avatarpose.train.driver import job_of, train

        print(train(job_of(self)))


@dataclass
class Doctor:
    """Say what this machine has and which of the fast paths will be used.

    Example: avatarpose doctor
    """

    def execute(self) -> None:
        from avatarpose.doctor import report

        report()


def _settings(command: object, **also: object):
    from avatarpose.pipeline import Settings

    known = {field.name for field in fields(Settings)}
    values = {field.name: getattr(command, field.name) for field in fields(command) if field.name in known}
    return Settings(**{**values, **also})


def _run(command: Shared, stages: tuple[str, ...], redo: str | None = None) -> None:
    from avatarpose.pipeline import run

    run(_settings(command), stages, redo_from=(redo or (stages[0] if stages else None)) if command.redo else None)


Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Estimate, tyro.conf.subcommand("estimate")]
    | Annotated[Register, tyro.conf.subcommand("register")]
    | Annotated[Refine, tyro.conf.subcommand("refine")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Ends the process with 2 on wrong input, 130 when interrupted."""
    command = tyro.cli(
        Command,  # type: ignore[arg-type]
        prog="avatarpose",
        description="Recovers how people in close contact move, from a few calibrated cameras.",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    try:
        command.execute()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
