"""Errors of the estimated joints, of the body fitted to them and of the body fitted to the 2D keypoints.

    python benchmarks/register.py SEQUENCE [SEQUENCE ...]

Millimetres, world frame, no alignment, over the 12 limb keypoints, on copies in memory: nothing is written. Needs the
sequence's ground truth. `lasting` is the length of each joint's error averaged over the frames.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from avatarpose.body import load_body
from avatarpose.estimate import estimate
from avatarpose.io import read_npz
from avatarpose.register import RegisterSettings, register
from avatarpose.sequence import Sequence

LIMBS = slice(5, 17)


def match(found: np.ndarray, truth: np.ndarray) -> list[int]:
    """The found person nearest to each true one over the whole sequence."""
    distance = np.linalg.norm(found[:, None] - truth[None], axis=-1)
    return [int(np.nanmean(distance[:, q], axis=(1, 2)).argmin()) for q in range(len(truth))]


def row(name: str, found: np.ndarray, truth: np.ndarray, seconds: float) -> str:
    found = found[match(found, truth)][:, :, LIMBS].astype(np.float64)
    difference = 1000 * (found - truth[:, :, LIMBS])
    error = np.linalg.norm(difference, axis=-1)
    lasting = np.linalg.norm(np.nanmean(difference, axis=1), axis=-1)
    worst = np.sort(error[np.isfinite(error)])[-error.size // 10 :]
    missing = 100 * np.mean(~np.isfinite(error))
    return (
        f"  {name:<24} mpjpe {np.nanmean(error):6.1f}  median {np.nanmedian(error):6.1f}"
        f"  worst tenth {worst.mean():6.1f}  lasting {lasting.mean():6.1f}  missing {missing:4.1f} %  {seconds:6.1f} s"
    )


def main() -> None:
    body, settings = load_body(), RegisterSettings()
    for folder in sys.argv[1:]:
        sequence = Sequence.open(folder)
        truth = read_npz(Path(folder) / "ground_truth.npz", ("keypoints",))["keypoints"][:, sequence.frames]
        print(f"{sequence.name}: {len(sequence.cameras)} cameras, {len(sequence.frames)} frames")
        start = time.perf_counter()
        joints = estimate(sequence)
        print(row("estimated joints", joints.keypoints, truth, time.perf_counter() - start))
        for name, chosen in (
            ("body on 3D joints", replace(settings, detections_iterations=0)),
            ("body on 2D, no lasting", replace(settings, detection_bias=0.0, detection_noise=0.02)),
            ("body on 2D keypoints", settings),
        ):
            start = time.perf_counter()
            bodies = register(sequence, joints, body, chosen)
            print(row(name, bodies.keypoints, truth, time.perf_counter() - start))


if __name__ == "__main__":
    main()
