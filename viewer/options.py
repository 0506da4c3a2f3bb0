"""What can be asked of the viewer when it is started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(kw_only=True)
class ViewOptions:
    """Options of `avatarpose view`."""

    headless: bool = False
    """Draw one picture and end; needs neither a display nor a graphics driver."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("view.png")
    """Picture to write with --headless (.png or .jpg)."""
    web: bool = False
    """Show it in a browser: for machines without a display. Prints the address."""
    host: str = "127.0.0.1"
    """Address the page listens at; 0.0.0.0 lets other machines in, with no password."""
    port: int = 8080
    """Port of the page."""
    show: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """What to show: estimate, initial, refined, truth; by default the best result there is."""
    side_by_side: bool = False
    """Kinds beside each other instead of over each other."""
    colour: Literal["person", "avatar", "difference"] = "person"
    """Colours of the bodies: one a person, their avatar's, or the distance from the truth (without truth: between the
    initial and the refined body)."""
    frame: int | None = None
    """Frame number shown at first; by default the first one (--headless: the middle one)."""
    camera: str = ""
    """Look through this camera, with its image behind."""
    opacity: float = 1.0
    """Opacity of the bodies, 0 to 1."""
    skeletons: bool = False
    """Draw the joints too."""
    trails: bool = False
    """Draw the way that wrists and ankles took over the last second."""
    rendered: bool = False
    """With --headless: the avatars rendered by the project's own renderer."""
    cameras: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """Use only these cameras: names with commas between."""
    leave_out: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """Leave these cameras out: names with commas between."""
    frames: Annotated[str, tyro.conf.arg(metavar="A:B:S")] = ""
    """Frames a:b:s, as for the stages."""
    body: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Body model in SMPL's format, the one of the results; by default the open body of the package."""
    device: str = "auto"
    """Where avatars are rendered: cpu, cuda, ... or auto."""
    width: int = 1280
    """Width of the window or picture, pixels."""
    height: int = 800
    """Height of the window or picture, pixels."""
