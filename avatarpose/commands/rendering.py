"""Free-viewpoint video: `avatarpose render`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from avatarpose.commands.shared import SequenceFolder, Shared

Repeated = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]


@dataclass(kw_only=True)
class Render(Shared):
    """Film the refined people with a camera that was never there: MP4, WebM, MOV, GIF or a folder of PNG images.

    A film that was stopped goes on where it was, without rendering a frame twice.

    Example: avatarpose render my_sequence --path orbit --out orbit.mp4 --speed 0.25 --background ground
    """

    sequence: SequenceFolder
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The film: .mp4 (H.264), .webm (VP9), .mov (ProRes 4444), .gif, or without suffix a folder of PNG images."""
    path: Annotated[str, tyro.conf.arg(metavar="PATH")] = "orbit"
    """Camera path: orbit, spiral, bullet-time (time stands still), follow (a person), capture (from camera to camera of
    the capture), the name of a capture camera (that view), or a file of keyframes (.json) recorded in the viewer."""
    size: Annotated[str, tyro.conf.arg(metavar="WxH")] = "512x384"
    """Width and height of the picture, pixels."""
    fps: float = 30.0
    """Frames of the film per second."""
    speed: float = 1.0
    """Speed of the people: 0.25 is slow motion, four times slower than life."""
    seconds: float | None = None
    """Length of the film; by default the motion once, four seconds of bullet-time, or as the keyframes say."""
    repeat: Literal["hold", "loop", "swing"] = "hold"
    """What follows when the motion ends before the film: its last pose, its start again, or the way back."""
    at: float | None = None
    """Moment that bullet-time shows, in seconds of the capture; by default its middle."""
    turns: float = 1.0
    """How often orbit, spiral and bullet-time go around; negative the other way."""
    azimuth: float | None = None
    """Degrees around the vertical at which the path starts; by default where the first camera stands. For follow:
    degrees from where the person faces, 0 in front, 180 behind; by default 90, the left side."""
    elevation: float | None = None
    """Degrees above the horizontal of the camera; by default 10, where spiral starts 0."""
    fov: float = 40.0
    """Vertical field of view in degrees of orbit, spiral, bullet-time and follow."""
    distance: float = 1.0
    """Factor on the distance at which everybody is in the picture: 0.6 is a close-up."""
    person: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Whom follow follows; by default the first person."""
    layers: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = "rgb"
    """What is shown, side by side (or in a folder each): rgb, mask (who is where), depth, normals, and capture (the
    image of a capture camera). Depth images in folders are 16 bits, in millimetres."""
    beside: Annotated[str | None, tyro.conf.arg(metavar="CAMERA")] = None
    """The camera whose images the layer capture shows; by default the nearest to the film's camera."""
    background: Annotated[str, tyro.conf.arg(metavar="COLOUR")] = "white"
    """white, black, #rrggbb, ground (a floor with soft shadows), or transparent (.webm, .mov or PNG images)."""
    only: Repeated = ()
    """Film this person and nobody else; may be given several times, as all edits below."""
    without: Repeated = ()
    """Leave this person out."""
    move: Repeated = ()
    """p1=dx,dy,dz: move a person by metres along the world's axes."""
    duplicate: Repeated = ()
    """p0=dx,dy,dz: a double of a person, moved."""
    wear: Repeated = ()
    """p0=p1 or p0=SEQUENCE:p1: the avatar of another person, of this sequence or another, on this person's motion."""
    motion: Repeated = ()
    """p0=FILE.npz, or FILE.npz for everybody: motion of an AMASS file (or of 15 joints, FILE.npz:CLIP) instead of the
    captured one."""
    memory: float = 1.0
    """GB that rendering may take."""
    redo: bool = False
    """Replace a film that is there."""

    def execute(self) -> None:
        from rich.console import Console

        from avatarpose.body import load_body
        from avatarpose.commands.shared import pipeline_settings
        from avatarpose.pipeline import torch_device
        from avatarpose.progress import progress_bar
        from viewer.video.driver import FilmSettings, make_film
        from viewer.video.layers import parse_layers
        from viewer.video.scene import CastEdits

        edits = CastEdits(self.only, self.without, self.move, self.duplicate, self.wear, self.motion)
        width, height = _size(self.size)
        settings = FilmSettings(
            out=self.out, path=self.path, width=width, height=height, fps=self.fps, speed=self.speed,
            seconds=self.seconds, repeat=self.repeat, at=self.at, turns=self.turns, azimuth=self.azimuth,
            elevation=self.elevation, fov=self.fov, distance=self.distance, person=self.person, beside=self.beside,
            layers=parse_layers(self.layers), background=self.background, edits=edits,
        )  # fmt: skip
        console = Console(stderr=True)
        sequence = pipeline_settings(self).open()
        with progress_bar(console, "render") as progress:
            made = make_film(
                sequence, load_body(self.body), settings, torch_device(self.device), self.memory * 1e9, progress,
                lambda text: console.print(text, highlight=False), self.redo,
            )  # fmt: skip
        rate = f", {made.rendered / made.seconds:.2f} a second" if made.rendered else ""
        console.print(f"{made.out}: {made.frames} frames, {made.rendered} rendered{rate}", highlight=False)


def _size(text: str) -> tuple[int, int]:
    from avatarpose.errors import InputError

    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
        raise InputError("not a size", expected="WIDTHxHEIGHT, such as 940x1280", found=text)
    return int(parts[0]), int(parts[1])
