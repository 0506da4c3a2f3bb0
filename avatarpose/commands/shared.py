"""What several commands have in common."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

import tyro

SequenceFolder = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="SEQUENCE", help="Folder of the sequence.")
]


@dataclass(kw_only=True)
class Selection:
    """Which part of a sequence."""

    cameras: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """Use only these cameras: names with commas between."""
    leave_out: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """Leave these cameras out: names with commas between."""
    frames: Annotated[str, tyro.conf.arg(metavar="A:B:S")] = ""
    """Frames a:b:s, from a up to but not including b in steps of s; each part may be left out."""


@dataclass(kw_only=True)
class Shared(Selection):
    """Options of every stage."""

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


def pipeline_settings(command: object, **also: object):
    from avatarpose.pipeline import Settings

    known = {field.name for field in fields(Settings)}
    values = {field.name: getattr(command, field.name) for field in fields(command) if field.name in known}
    return Settings(**{**values, **also})
