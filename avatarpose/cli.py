"""The command line: `avatarpose COMMAND --help` says what each command does, with an example."""

from __future__ import annotations

import os

# Before torch is imported: waiting threads that spin halve the speed as soon as the machine has anything else to do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import sys
from typing import Annotated

import tyro

from avatarpose.commands.benchmark import Benchmark
from avatarpose.commands.checking import Check
from avatarpose.commands.detecting import Detect
from avatarpose.commands.doctor import Doctor
from avatarpose.commands.exporting import Export
from avatarpose.commands.importing import Import
from avatarpose.commands.rendering import Render
from avatarpose.commands.reporting import Report
from avatarpose.commands.segmenting import Segment
from avatarpose.commands.stages import Demo, Estimate, Evaluate, Refine, Register, Run
from avatarpose.commands.train import Train
from avatarpose.commands.viewing import View
from avatarpose.errors import InputError

Command = (
    Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Run, tyro.conf.subcommand("run")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Detect, tyro.conf.subcommand("detect")]
    | Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Segment, tyro.conf.subcommand("segment")]
    | Annotated[Estimate, tyro.conf.subcommand("estimate")]
    | Annotated[Register, tyro.conf.subcommand("register")]
    | Annotated[Refine, tyro.conf.subcommand("refine")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
    | Annotated[View, tyro.conf.subcommand("view")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Export, tyro.conf.subcommand("export")]
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
