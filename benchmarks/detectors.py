"""What a detector finds: `python -m benchmarks.detectors SEQ ... [--detector NAME --model PATH ...]`.

Detects people in the images of each sequence (default: `duo_a` and `duo_b` of the data folder), in a temporary copy,
and compares with the projected truth (`ground_truth.npz`), or where there is none with the sequence's own keypoints2d,
of another detector. Where there is a truth, the sequence's own keypoints are compared too. A row and a person are
paired if half of the limb joints lie within `--near` of the person's height; a joint is right within `--right` of it.

`--convention` measures where a detector's coordinates begin: joints found in an image and in its mirror image add up to
the width when they count from the corner of the first pixel, to one less when they count from its middle.
"""

from __future__ import annotations

import os
import tempfile
import time
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment

from avatarpose.commands.detecting import DetectOptions, detect_config
from avatarpose.detect import create_detector, detect_sequence
from avatarpose.detect.people import clean_people, similarity
from avatarpose.evaluate import load_truth
from avatarpose.progress import progress_bar
from avatarpose.sequence import Sequence, parse_frames
from avatarpose.skeletons import COCO17, LIMB_JOINTS

DATA = Path(os.environ.get("AVATARPOSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
LIMBS = COCO17.indices(LIMB_JOINTS)


@dataclass(kw_only=True)
class Options(DetectOptions):
    sequences: Annotated[list[Path], tyro.conf.Positional] = field(
        default_factory=lambda: [DATA / "duo_a", DATA / "duo_b"]
    )
    frames: str = ""
    """Frames a:b:s."""
    near: float = 0.15
    """Parts of the person's height in the image."""
    right: float = 0.05
    """Parts of the person's height in the image."""
    largest: bool = False
    """Only the largest person of each image of the reference; bystanders then count as rows of nobody."""
    convention: bool = False
    """Measure the convention of the coordinates instead."""
    device: str = "auto"


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    warnings.simplefilter("ignore", RuntimeWarning)  # rows and people without joints
    console = Console(width=130)
    if options.convention:
        for folder in options.sequences:
            convention(folder, options, console)
        return
    table = Table(
        "sequence", "detections", "people found, %", "rows of nobody, %", "median, px", "90 %, px", "right joints, %",
        "s an image", title="limb joints, shoulders to ankles; people and joints of the reference are 100 %",
    )  # fmt: skip
    for folder in options.sequences:
        for row in compare(folder, options):
            table.add_row(*row)
    console.print(table)


def compare(folder: Path, options: Options) -> list[tuple[str, ...]]:
    """Rows of the table for one sequence."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / folder.name
        copy.mkdir()
        for path in folder.resolve().iterdir():
            if path.name not in ("results", "keypoints2d"):
                (copy / path.name).symlink_to(path)
        frames = parse_frames(options.frames) if options.frames else None
        sequence, given = Sequence.open(copy, frames=frames), Sequence.open(folder, frames=frames)
        config = detect_config(options, options.device)
        start = time.perf_counter()
        with progress_bar(Console(stderr=True), folder.name) as update:
            report = detect_sequence(sequence, config, update)
        seconds = (time.perf_counter() - start) / sum(report.images.values())
        found = sequence.keypoints2d
    if (folder / "ground_truth.npz").is_file():
        truth = load_truth(folder)
        at = [list(truth.frames).index(frame) for frame in sequence.frames]
        points = torch.as_tensor(truth.keypoints[:, at], dtype=sequence.cameras.K.dtype)
        reference = sequence.cameras.project(points)[0].numpy().transpose(0, 2, 1, 3, 4)
        rows = [(f"{folder.name}, truth", report.detector, found, f"{seconds:.2f}")]
        if given.has_keypoints:
            rows.append((f"{folder.name}, truth", "given", given.keypoints2d, ""))
    else:
        reference = given.keypoints2d[..., :2].astype(np.float64)
        rows = [(f"{folder.name}, given keypoints", report.detector, found, f"{seconds:.2f}")]
    if options.largest:
        sides = np.nanmax(reference, axis=-2) - np.nanmin(reference, axis=-2)
        largest = np.nan_to_num(sides.prod(-1), nan=-1).argmax(-1)[..., None, None, None]
        reference = np.take_along_axis(reference, largest, axis=2)
    return [
        (title, str(name), *measure(reference, rows2d, options.near, options.right), took)
        for title, name, rows2d, took in rows
    ]


def measure(
    reference: Float[np.ndarray, "views frames people 17 2"], found: Float[np.ndarray, "views frames rows 17 3"],
    near: float, right: float,
) -> tuple[str, ...]:  # fmt: skip
    """People found and rows of nobody (%), median and 90 % quantile of the residual (pixels), right joints (%)."""
    errors, right_joints, joints, people, paired, rows = [], 0, 0, 0, 0, 0
    for c, f in np.ndindex(reference.shape[:2]):
        truth = reference[c, f][np.isfinite(reference[c, f]).all(-1)[:, LIMBS].sum(-1) >= 6]
        seen = found[c, f][np.isfinite(found[c, f]).all(-1).sum(-1) >= 1]
        height = np.nanmax(truth[..., 1], axis=1) - np.nanmin(truth[..., 1], axis=1) if len(truth) else np.zeros(0)
        far = np.linalg.norm(truth[:, None, LIMBS] - seen[None, :, LIMBS, :2], axis=-1) / height[:, None, None]
        middle = np.median(np.nan_to_num(far, nan=9.0), axis=-1).reshape(len(truth), len(seen))
        people, rows = people + len(truth), rows + len(seen)
        joints += int(np.isfinite(truth[:, LIMBS]).all(-1).sum())
        for p, d in zip(*linear_sum_assignment(np.minimum(middle, near)), strict=True):
            if middle[p, d] < near:
                paired += 1
                errors.append(far[p, d] * height[p])
                right_joints += int((far[p, d] < right).sum())
    all_errors = np.concatenate(errors) if errors else np.array([np.nan])
    all_errors = all_errors[np.isfinite(all_errors)] if errors else all_errors
    return (
        f"{100 * paired / max(people, 1):.1f}", f"{100 * (rows - paired) / max(rows, 1):.1f}",
        f"{np.median(all_errors):.1f}", f"{np.percentile(all_errors, 90):.1f}",
        f"{100 * right_joints / max(joints, 1):.1f}",
    )  # fmt: skip


def convention(folder: Path, options: Options, console: Console) -> None:
    """Prints the mean of x + mirrored x - width, and how exactly it is known."""
    sequence = Sequence.open(folder, frames=parse_frames(options.frames) if options.frames else None)
    config = replace(detect_config(options, options.device), guide="none")
    detector, flip = create_detector(config), list(COCO17.flip)
    offsets = []
    for c, f in np.ndindex(len(sequence.cameras), len(sequence.frames)):
        image = sequence.image(c, f)
        height, width = image.shape[:2]
        both = [detector.detect([np.ascontiguousarray(side)])[0] for side in (image, image[:, ::-1])]
        people, mirrored = (clean_people(p, width, height, 9, 0.3, 0.5, 0.6) for p in both)
        mirrored = mirrored[:, flip]
        mirrored[..., 0] = width - mirrored[..., 0]
        for person in people:
            alike = [similarity(person, other) for other in mirrored]
            if alike and max(alike) > 0.7:
                offsets.append(np.nanmean(mirrored[int(np.argmax(alike))][:, 0] - person[:, 0]))
    error = np.std(offsets) / np.sqrt(len(offsets))
    console.print(
        f"{sequence.name}, {detector.name}: width - mirrored x - x is {np.mean(offsets):+.2f} ± {error:.2f} px over "
        f"{len(offsets)} people (0: correct; twice the offset that is wrongly added)"
    )


if __name__ == "__main__":
    main()
