"""Initial 3D joints against truth: `python -m benchmarks.estimate [--folder DATA] [SEQ ...]`.

For each sequence with a ground_truth.npz (default: duo_a, duo_b and shelf_dev of the data folder), prints a row:

    people   found / true
    mpjpe    mean error of the 12 limb joints that were found, mm, people matched once for the whole sequence
    median   their median error, mm
    missing  share of the true joints that were not found, percent
    all      mean error with a missing joint counted as 500 mm
    pcp      share of the 8 limbs that are right (alpha 0.5), percent
    swaps    person-frames nearer to another true person than to their own
    score    rank correlation of a joint's score with its error (the more negative, the better)
    seconds  of the estimation
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr

from avatarpose.estimate import METHODS, estimate
from avatarpose.io import read_npz
from avatarpose.metrics import pcp3d
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17, LIMB_JOINTS, LIMBS, SHELF15

COLUMNS = ("people", "mpjpe", "median", "missing", "all", "pcp", "swaps", "score", "seconds")
MISSING = 0.5
LIMB_PAIRS = [tuple(LIMB_JOINTS.index(end) for end in limb) for group in LIMBS.values() for limb in group]


def true_limb_joints(folder: Path) -> np.ndarray:
    """True limb joints (P, F, 12, 3), metres, NaN where not annotated."""
    data = read_npz(folder / "ground_truth.npz")
    if "keypoints" in data:
        return data["keypoints"][:, :, COCO17.indices(LIMB_JOINTS)]
    return data["shelf15"].transpose(1, 0, 2, 3)[:, :, SHELF15.indices(LIMB_JOINTS)]


def count_swaps(predicted: np.ndarray, truth: np.ndarray) -> int:
    """Person-frames nearer to another true person than to their own, over the joints found and known.

    Args:
        predicted: (P, F, J, 3), in the order of the truth, metres; NaN where not found.
        truth: (P, F, J, 3); NaN where not annotated.
    """
    errors = np.linalg.norm(predicted[:, None] - truth[None], axis=-1)  # (P, T, F, J)
    with np.errstate(invalid="ignore"):
        mean = np.nansum(errors, axis=3) / np.isfinite(errors).sum(axis=3)
    return sum(int((mean[p, q] < mean[p, p]).sum()) for p, q in np.argwhere(~np.eye(len(truth), dtype=bool)))


def measure(folder: Path, method: str) -> list[str]:
    sequence = Sequence.open(folder)
    start = time.perf_counter()
    found = estimate(sequence, METHODS[method].config())
    seconds = time.perf_counter() - start
    truth = true_limb_joints(folder)[:, sequence.frames]
    known = np.isfinite(truth[..., 0])
    limbs = COCO17.indices(LIMB_JOINTS)
    errors = np.linalg.norm(truth[:, None] - found.keypoints[None][:, :, :, limbs], axis=-1)  # (T, P, F, 12)
    counted = np.where(known[:, None], np.nan_to_num(errors, nan=MISSING), 0.0)
    true, person = linear_sum_assignment(counted.sum(axis=(2, 3)))
    own = errors[true, person]
    got = np.isfinite(own)
    every = np.full(truth.shape[:3], MISSING)
    every[true] = np.where(got, own, MISSING)
    predicted = np.full_like(truth, np.nan)
    predicted[true] = found.keypoints[person][:, :, limbs]
    swaps = count_swaps(predicted, truth)
    scores = found.scores[person][:, :, limbs]
    return [
        f"{len(found.people)} / {len(truth)}",
        f"{1e3 * own[got].mean():.1f}",
        f"{1e3 * np.median(own[got]):.1f}",
        f"{100 * (1 - got.sum() / known.sum()):.2f}",
        f"{1e3 * every[known].mean():.1f}",
        f"{100 * pcp3d(predicted, truth, LIMB_PAIRS):.1f}",
        f"{swaps}",
        f"{spearmanr(scores[got], own[got])[0]:.2f}",
        f"{seconds:.1f}",
    ]


def main() -> None:
    default = Path(os.environ.get("AVATARPOSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", nargs="*", type=Path, help="sequence folders with ground_truth.npz")
    parser.add_argument("--folder", type=Path, default=default, help="where duo_a, duo_b and shelf_dev are")
    parser.add_argument("--method", choices=list(METHODS), default="triangulation")
    arguments = parser.parse_args()
    table = Table("sequence", *COLUMNS)
    for folder in arguments.sequences or [arguments.folder / name for name in ("duo_a", "duo_b", "shelf_dev")]:
        table.add_row(folder.name, *measure(folder, arguments.method))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
