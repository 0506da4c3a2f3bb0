"""What `avatarpose check` finds on captures that are made wrong on purpose, one camera at a time.

    python -m benchmarks.checks duo_a duo_b shelf_dev
    python -m benchmarks.checks shelf_dev --every 3      # only every third change

Captures are sequence folders, or names in the folder AVATARPOSE_DATA (default ../shared/data); only cameras and 2D
keypoints are used. Each camera in turn is shifted in time (interpolated between frames where the shift is no whole
number), then turned about its own x and y axes. Printed are: how many of the changed cameras are named, how many others
are blamed, the error of the offset, and the turn found.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from avatarpose.check.analysis import Analysis, analyse, moved
from avatarpose.check.synchronisation import sure
from avatarpose.sequence import Sequence

SHIFTS = (0.5, 1.0, 3.0, -3.0)
TURNS = (0.5, 1.0, 2.0, 4.0)
OFF = 0.25  # frames from which `check` speaks


def folder(name: str) -> Path:
    """The capture of that name or path."""
    data = Path(os.environ.get("AVATARPOSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    return Path(name) if (Path(name) / "sequence.json").is_file() else data / name


def changed(path: Path, camera: int, shift: float = 0.0, turn: tuple[float, float] = (0.0, 0.0)) -> Analysis:
    """The check of the capture with one camera's detections `shift` frames late, or turned by degrees about x and y."""
    sequence = Sequence.open(path)
    rows = sequence.keypoints2d
    offsets = np.zeros(len(rows))
    offsets[camera] = -shift
    sequence.__dict__["keypoints2d"] = moved(rows, offsets)
    R, t = sequence.cameras.R.clone(), sequence.cameras.t.clone()
    R[camera] = torch.from_numpy(cv2.Rodrigues(np.radians([*turn, 0.0]))[0]) @ R[camera]
    t[camera] = -R[camera] @ sequence.cameras.centres[camera]
    sequence.cameras = replace(sequence.cameras, R=R, t=t)
    return analyse(sequence, max_offset=1.0)


def off(found: Analysis) -> set[int]:
    """Cameras that the check calls asynchronous."""
    known = sure(found.offsets, found.errors)
    return {c for c, v in enumerate(found.offsets) if known[c] and abs(v) > max(OFF, 2.5 * found.errors[c])}


def main(captures: tuple[str, ...], every: int = 1) -> None:
    """Prints a table.

    Args:
        captures: sequence folders, or names of captures.
        every: makes only every so many of the changes.
    """
    console = Console(width=140)
    table = Table("capture", "change", "named", "others blamed", "offset error, frames", "turn found", "seconds")
    for name in captures:
        path = folder(name)
        count = len(Sequence.open(path).cameras)
        start = time.perf_counter()
        found = changed(path, 0)
        blamed = len(off(found)) + len(found.calibration.odd)
        largest = np.nanmax(np.abs(found.offsets))
        seconds = time.perf_counter() - start
        table.add_row(name, "none", "", str(blamed), f"{largest:.2f} at most", "", f"{seconds:.1f}")
        for shift in SHIFTS:
            named, others, errors, start = 0, 0, [], time.perf_counter()
            cameras = range(count)[::every]
            for c in cameras:
                found = changed(path, c, shift=shift)
                named += c in off(found)
                others += len(off(found) - {c}) + len(found.calibration.odd)
                errors.append(abs(found.offsets[c] - shift))
            error = f"{np.nanmean(errors):.2f} mean, {np.nanmax(errors):.2f} at most"
            seconds = (time.perf_counter() - start) / len(cameras)
            row = (f"{shift:+g} frames", f"{named} of {len(cameras)}", str(others), error, "", f"{seconds:.1f}")
            table.add_row(name, *row)
        for degrees in TURNS:
            named, others, turns, start = 0, 0, [], time.perf_counter()
            cases = [(c, axis) for axis in range(2) for c in range(count)][::every]
            for c, axis in cases:
                found = changed(path, c, turn=(degrees, 0.0) if axis == 0 else (0.0, degrees))
                odd = {o.camera for o in found.calibration.odd}
                named += c in odd
                others += len(odd - {c}) + len(off(found))
                if found.calibration.turns[c] is not None:
                    turns.append(np.degrees(np.linalg.norm(found.calibration.turns[c].rotation[:2])))
            turn = f"{np.mean(turns):.2f} ± {np.std(turns):.2f} degrees"
            seconds = (time.perf_counter() - start) / len(cases)
            row = (f"turned {degrees:g} degrees", f"{named} of {len(cases)}", str(others), "", turn, f"{seconds:.1f}")
            table.add_row(name, *row)
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.PositionalRequiredArgs,))
