"""Files for other programs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from avatarpose.commands.shared import SequenceFolder


@dataclass(kw_only=True)
class Export:
    """Write the people for Blender, Unity, OpenSim and others: glb, usd, bvh, amass, trc, c3d, ply, obj.

    glb, usd and c3d are one file; bvh, amass and trc a file per person; ply and obj a file per person and frame, in a
    folder.

    Example: avatarpose export my_sequence --format glb --out people.glb
    """

    sequence: SequenceFolder
    format: Literal["glb", "usd", "bvh", "amass", "trc", "c3d", "ply", "obj"]
    """The files' format."""
    out: Path
    """File to write, or a folder where there are several."""
    which: Literal["refined", "initial"] = "refined"
    """People after or before refinement."""
    people: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """Only these people: names with commas between."""
    frames: Annotated[str, tyro.conf.arg(metavar="A:B:S")] = ""
    """Frames a:b:s, from a up to but not including b in steps of s; each part may be left out."""
    unit: Literal["auto", "m", "cm", "mm"] = "auto"
    """auto: metres, for bvh centimetres, for trc and c3d millimetres."""
    up: Literal["auto", "x", "y", "z", "-x", "-y", "-z"] = "auto"
    """Which axis points up; auto: y, for amass and c3d z."""
    surface: Literal["auto", "body", "avatar", "volume"] = "auto"
    """Of glb, usd, ply and obj: the bare body, the avatar's surface on the body's own triangles, or taken out of the
    avatar's volume. auto: avatar where there is one."""
    body: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Body model of the results, unless it is the open body of the package."""
    redo: bool = False
    """Replace files that are there."""

    def execute(self) -> None:
        from rich.console import Console

        from avatarpose.progress import progress_bar
        from viewer.export.exporter import ExportSettings, export_people

        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "sequence"}
        values["people"] = tuple(name.strip() for name in self.people.split(",") if name.strip())
        console = Console(stderr=True)
        with progress_bar(console, "export") as progress:
            done = export_people(self.sequence, ExportSettings(**values), progress)
        for note in done.notes:
            console.print(note, highlight=False)
        print(done.files[0] if len(done.files) == 1 else f"{len(done.files)} files in {done.files[0].parent}")
