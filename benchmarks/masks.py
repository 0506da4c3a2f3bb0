"""Masks of every backend against given ones, per camera: `python -m benchmarks.masks duo_a`.

Copies the capture without its masks into a work folder, segments it there and prints, per camera, the intersection over
union with the given masks where both sides know (IoU), the same with unknown pixels counted as background (strict), the
unknown pixels as a share of the people, and seconds an image. With --results, bodies from a folder of results are used,
as in a second call after `register`; with --refine, the masks are checked against them. The given masks are made
imperfect on purpose (limbs missing, holes), so that 1 is out of reach. OUT/<method>.png shows masks on images: people
green, unknown yellow, only here red, only in the given mask blue.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import tyro
from rich.table import Table

from avatarpose.io import write_image
from avatarpose.pipeline import tables
from avatarpose.segment import SegmentConfig, segment_sequence
from avatarpose.sequence import BACKGROUND, FOREGROUND, UNKNOWN, Sequence, parse_frames

DATA = Path(os.environ.get("AVATARPOSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@dataclass
class Options:
    capture: Annotated[str, tyro.conf.Positional] = "duo_a"
    """Name of a capture in the data folder, or a sequence folder."""
    methods: tuple[str, ...] = ("background", "mediapipe")
    """Backends to measure."""
    results: Path | None = None
    """Folder with initial.npz or refined.npz of this capture: people are then known by their bodies."""
    refine: bool = False
    """Check the masks against the bodies of --results."""
    checkpoint: Path | None = None
    """Weights for sam or sam2."""
    model: str = ""
    """Configuration for sam2."""
    frames: str = ""
    """a:b:s; all by default."""
    out: Path = Path("mask_benchmark")
    """Folder for the copies, the masks and the pictures."""
    views: tuple[int, ...] = field(default=(0, 3, 6))
    """Cameras (by number) in the pictures."""


def agreement(mask: np.ndarray, given: np.ndarray) -> tuple[float, float, float]:
    """IoU where both know, IoU with unknown as background, unknown pixels over the given people's."""
    known = (mask != UNKNOWN) & (given != UNKNOWN)
    here, there = mask == FOREGROUND, given == FOREGROUND
    return (
        float((here & there & known).sum() / max((here | there)[known].sum(), 1)),
        float((here & there).sum() / max((here | there).sum(), 1)),
        float((mask == UNKNOWN).sum() / max(there.sum(), 1)),
    )


def overlay(image: np.ndarray, mask: np.ndarray, given: np.ndarray | None) -> np.ndarray:
    """The image with its mask on it; see the module."""
    shown = image // 2
    shown[mask == FOREGROUND] += np.array([0, 110, 0], np.uint8)
    shown[mask == BACKGROUND] = image[mask == BACKGROUND]
    shown[mask == UNKNOWN] = (255, 220, 0)
    if given is not None:
        shown[(mask == FOREGROUND) & (given == BACKGROUND)] = (255, 0, 0)
        shown[(mask == BACKGROUND) & (given == FOREGROUND)] = (0, 60, 255)
    return shown


def measure(source: Path, method: str, options: Options) -> None:
    folder = options.out / f"{source.name}_{method}"
    if folder.exists():
        shutil.rmtree(folder)
    left_out = shutil.ignore_patterns("masks", "results", "ground_truth.npz")
    shutil.copytree(source, folder, ignore=left_out, copy_function=shutil.copyfile)
    if options.results is not None:
        (folder / "results").mkdir()
        for file in options.results.glob("*.npz"):
            shutil.copyfile(file, folder / "results" / file.name)
    frames = parse_frames(options.frames) if options.frames else None
    given = Sequence.open(source, frames=frames, least_cameras=1)
    sequence = Sequence.open(folder, frames=frames, least_cameras=1)
    config = SegmentConfig(method, checkpoint=options.checkpoint, model=options.model, refine=options.refine)
    report = segment_sequence(sequence, config)
    table = Table("camera", "IoU", "strict", "unknown", "s / image", title=f"{source.name}: {method}")
    everything = []
    for c, name in enumerate(sequence.cameras.names):
        rows = []
        for f in range(len(sequence.frames)):
            reference = given.mask(c, f)
            if reference is not None:
                rows.append(agreement(sequence.mask(c, f), reference))
        everything += rows
        mean = np.mean(rows, axis=0) if rows else np.full(3, np.nan)
        seconds = report.cameras[name].seconds / max(report.cameras[name].made, 1)
        table.add_row(name, *(f"{value:.3f}" for value in mean), f"{seconds:.2f}")
    if everything:
        table.add_row("all", *(f"{value:.3f}" for value in np.mean(everything, axis=0)), "")
    tables().print(table)
    print("\n".join(report.messages))
    rows = []
    for c in options.views:
        if c < len(sequence.cameras):
            chosen = np.linspace(0, len(sequence.frames) - 1, 5).round().astype(int)[[0, 2, 4]]
            tiles = [overlay(sequence.image(c, f), sequence.mask(c, f), given.mask(c, f)) for f in chosen]
            fit = 640 / max(tiles[0].shape[:2])
            rows.append(np.hstack([cv2.resize(t, None, fx=fit, fy=fit, interpolation=cv2.INTER_AREA) for t in tiles]))
    width = max(row.shape[1] for row in rows)
    rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
    write_image(options.out / f"{source.name}_{method}.png", np.vstack(rows))


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    source = Path(options.capture) if Path(options.capture).is_dir() else DATA / options.capture
    for method in options.methods:
        measure(source, method, options)


if __name__ == "__main__":
    main()
