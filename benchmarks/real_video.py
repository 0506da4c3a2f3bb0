"""How well results fit footage that has no truth: `python -m benchmarks.real_video SEQ ...`.

For every result that is there (3D joints as estimated, registered bodies, refined bodies), person by person:

    reprojection    median over joints and frames of the distance, px, between the projected joint and the 2D keypoints
                    (per joint the median over the cameras)
    limb length     mean deviation of the limbs' lengths from their medians over the frames, mm; bodies keep theirs
                    but for what the regressor of the keypoints adds
    IoU             of the bodies' silhouettes with the masks, mean over cameras and frames
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from avatarpose.body import load_body
from avatarpose.sequence import Sequence
from viewer.data import ViewerData
from viewer.measure import errors
from viewer.report.quality import limb_spread, measure


def add_rows(table: Table, folder: Path) -> None:
    """The rows of one sequence."""
    data = ViewerData(Sequence.open(folder), load_body())

    for kind in ("estimate", "initial", "refined"):
        if kind not in data.joints:
            continue
        found, spread = errors(data, kind), limb_spread(data.joints[kind])
        iou = measure(data, kind).iou if kind in data.bodies else None
        for p, person in enumerate(data.people):
            if not np.isfinite(data.joints[kind][p]).any():
                continue
            table.add_row(
                folder.resolve().name, kind, person, f"{np.isfinite(data.joints[kind][p]).any((-1, -2)).sum()}",
                "-" if found is None else f"{np.nanmedian(found.values[p]):.1f} {found.unit}",
                f"{np.nanmean(spread[p]):.1f}",
                "-" if iou is None or not np.isfinite(iou).any() else f"{np.nanmean(iou):.3f}",
            )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path, nargs="+", help="sequence folders with results")
    table = Table("sequence", "result", "person", "frames", "reprojection", "limb length, mm", "IoU")
    for folder in parser.parse_args().sequences:
        add_rows(table, folder)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
