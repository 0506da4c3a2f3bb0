"""The contact sheet of free-viewpoint video: `python -m benchmarks.free_viewpoint_sheet SEQ`.

Films short pieces of a sequence with refined people, by the same calls as `avatarpose render`, and puts their frames on
one sheet: camera paths, layers, backgrounds, edits of the cast, and the view of a capture camera beside its image.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro

from avatarpose.body import load_body
from avatarpose.io import write_image
from avatarpose.pipeline import torch_device
from avatarpose.sequence import Sequence
from viewer.video import layers
from viewer.video.driver import FilmSettings, make_film
from viewer.video.scene import CastEdits, load_bodies
from viewer.video.writer import read_png

CELL, TITLE = 200, 18
PER_ROW = 6


@dataclass
class Options:
    sequence: Annotated[Path, tyro.conf.Positional]
    """A sequence with refined people."""
    other: Path | None = None
    """Another one, whose first person's avatar is worn."""
    motion: str | None = None
    """Motion file for the last pictures: FILE.npz or FILE.npz:CLIP."""
    camera: str | None = None
    """Camera compared with its image; by default the last."""
    device: str = "auto"
    """cpu, cuda, ... or auto."""
    out: Path = Path("docs/free_viewpoint.jpg")
    """The sheet."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    sequence, body = Sequence.open(options.sequence), load_body()
    bodies = load_bodies(sequence, body)
    first, second = bodies.people[0], bodies.people[-1]
    camera = options.camera or sequence.cameras.names[-1]
    length = (bodies.frames[-1] - bodies.frames[0]) / bodies.fps
    base = FilmSettings(out=Path(), width=CELL, height=CELL, fps=1.0, background="ground")
    cells: list[tuple[str, np.ndarray]] = []

    def film(title: str, frames: int, **also: object) -> None:
        """Frames spread over the motion."""
        with tempfile.TemporaryDirectory() as folder:
            speed = float(length) / max(frames - 1, 1)
            settings = replace(base, out=Path(folder) / "film", seconds=float(frames), speed=speed)
            settings = replace(settings, **also)
            make_film(sequence, body, settings, torch_device(options.device))
            for layer in settings.layers:
                place = settings.out if len(settings.layers) == 1 else settings.out / layer
                images = [read_png(path) for path in sorted(place.glob("*.png"))]
                shown = [_coloured(image, layer) for image in images]
                name = f"{title}: {layer}" if len(settings.layers) > 1 else title
                cells.extend((f"{name} {i + 1}" if len(shown) > 1 else name, image) for i, image in enumerate(shown))

    film("orbit", 6)
    film("bullet-time", 2, path="bullet-time", turns=-0.5)
    film("spiral", 2, path="spiral", turns=0.6)
    film("follow", 2, path="follow", person=second)
    film("layers", 1, layers=["rgb", "mask", "depth", "normals"], azimuth=60.0, background="white")
    film("transparent", 1, background="transparent", azimuth=60.0)
    film("black", 1, background="black", azimuth=60.0)
    film("close-up", 1, distance=0.7, elevation=25.0, azimuth=70.0, path="bullet-time")
    film(camera, 1, path=camera, layers=["rgb", "capture"], background="white")
    film("without", 1, edits=CastEdits(without=[second]), azimuth=60.0)
    film("move, duplicate", 1, edits=CastEdits(move=[f"{second}=0.4,0,0"], duplicate=[f"{first}=-1,0,0"]), azimuth=60.0)
    film("wear", 1, edits=CastEdits(wear=[f"{first}={second}"]), azimuth=60.0)
    if options.other is not None:
        theirs = CastEdits(wear=[f"{first}={options.other}:p0"])
        film("wear of another capture", 1, edits=theirs, azimuth=60.0)
    if options.motion is not None:
        film("motion of a file", 3, edits=CastEdits(motion=[f"{first}={options.motion}"], only=[first]))
    rows = [np.hstack([_cell(*one) for one in cells[i : i + PER_ROW]]) for i in range(0, len(cells), PER_ROW)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    write_image(options.out, np.vstack(padded), quality=82)
    print(f"{options.out}: {len(cells)} pictures, {options.out.stat().st_size / 1e3:.0f} kB")


def _coloured(image: np.ndarray, layer: str) -> np.ndarray:
    """A layer as it looks in a video; what is transparent lies over a chessboard."""
    if layer == "depth":
        seen = image[image > 0] / 1000
        return layers.depth_layer(image, float(seen.min()), float(seen.max()))
    if image.shape[-1] == 4:
        rows, columns = np.indices(image.shape[:2]) // 12
        board = np.where((rows + columns) % 2, 255, 205)[..., None]
        alpha = image[..., 3:] / 255
        return np.round(alpha * image[..., :3] + (1 - alpha) * board).astype(np.uint8)
    return image


def _cell(title: str, image: np.ndarray) -> np.ndarray:
    head = np.full((TITLE, image.shape[1], 3), 255, np.uint8)
    cv2.putText(head, title, (4, TITLE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([head, image])


if __name__ == "__main__":
    main()
