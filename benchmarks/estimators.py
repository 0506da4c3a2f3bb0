"""The volumetric estimator beside triangulation on captures with truth: `python -m benchmarks.estimators [SEQ ...]`.

For each rendered capture (default: duo_a and duo_b), raw joints as `avatarpose.evaluate` takes them (12 limb joints,
one that was not found counts as 500 mm) with its detections as they are (seed 0) and made worse (seeds 1, 2, ...):

    MPJPE         mean error over all truth, mm
    worst tenth   mean of the worst tenth of the person-frames, mm
    missing       share of the true joints that were not found, percent
    swaps         person-frames nearer to another true person than to their own

For captures with truth as of the Shelf data set (default: shelf_dev): PCP of the eight limbs of each annotated person,
the Shelf tables' own average over ten limbs, median error and recall, beside triangulation with known identities.

    --robustness   with one camera turned against its calibration, one behind in time, half of the views lost; which
                   camera and which views is drawn anew for each seed (first sequence only)
    --speed        people-frames a second: the network's volumes with known centres, and whole estimations (likewise)

The people in the duo captures are Anny's bodies, the family the default body comes from.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from avatarpose.errors import InputError
from avatarpose.estimate import TriangulationConfig, VolumetricConfig, estimate
from avatarpose.estimate.volumetric.estimator import FrameEstimator, packaged_weights
from avatarpose.estimate.volumetric.evidence import Evidence
from avatarpose.estimate.volumetric.network import NetworkConfig, load_network, make_network
from avatarpose.estimate.volumetric.people import find_people
from avatarpose.evaluate import Truth, compare_people, load_truth, shelf_pcp, summarise
from avatarpose.io import read_npz
from avatarpose.metrics import pcp3d
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17, LIMB_JOINTS
from benchmarks.detector_noise import DATA
from benchmarks.estimate import LIMB_PAIRS, count_swaps
from benchmarks.known_identity import known_identity_triangulation, truth_in_frames

LIMB = COCO17.indices(LIMB_JOINTS)
NOISE_WIDTH = 512  # pixels: images as wide as this get the noise that was asked for, others in proportion
Variant = Callable[[], Sequence]
"""Makes a capture to estimate."""
COLUMNS = {"mpjpe_mm": "MPJPE mm", "worst_tenth_mm": "worst tenth mm", "missing": "missing %", "swaps": "swaps"}
VOLUMES = 8
"""People that the timed network is given at once: as many as the estimator does."""


# ---- captures made worse ----


def changed(sequence: Sequence, **attributes: Any) -> Sequence:
    """The capture with other cameras or detections."""
    other = copy.copy(sequence)
    for name, value in attributes.items():
        setattr(other, name, value)
    return other


def add_noise(sequence: Sequence, seed: int, pixels: float, missed: float) -> Sequence:
    """Normal noise on each detected joint, and a share of them gone; seed 0 leaves all as it is."""
    if seed == 0:
        return sequence
    rng = np.random.default_rng(seed)
    rows = sequence.keypoints2d.copy()
    scale = sequence.cameras.width.numpy().reshape(-1, 1, 1, 1, 1) / NOISE_WIDTH
    rows[..., :2] += pixels * scale * rng.normal(size=(*rows.shape[:-1], 2))
    rows[rng.random(rows.shape[:-1]) < missed] = np.nan
    return changed(sequence, keypoints2d=rows)


def turn_camera(sequence: Sequence, seed: int, degrees: float = 5.0) -> Sequence:
    """One camera's calibration turned about its own centre, about any axis."""
    rng = np.random.default_rng(seed)
    cameras, c, axis = sequence.cameras, rng.integers(len(sequence.cameras)), rng.normal(size=3)
    turn = roma.rotvec_to_rotmat(torch.from_numpy(np.radians(degrees) * axis / np.linalg.norm(axis))).to(cameras.R)
    R, t = cameras.R.clone(), cameras.t.clone()
    R[c], t[c] = turn @ R[c], turn @ t[c]
    return changed(sequence, cameras=replace(cameras, R=R, t=t))


def shift_camera(sequence: Sequence, seed: int, frames: int = 3) -> Sequence:
    """One camera shows what comes `frames` later, and in the end nothing."""
    rows = sequence.keypoints2d.copy()
    c = np.random.default_rng(seed).integers(len(rows))
    rows[c, :-frames], rows[c, -frames:] = rows[c, frames:].copy(), np.nan
    return changed(sequence, keypoints2d=rows)


def lose_views(sequence: Sequence, seed: int, seconds: float = 1.0) -> Sequence:
    """Half of the views without detections for some time in the middle."""
    rows = sequence.keypoints2d.copy()
    views, frames = rows.shape[:2]
    lost, length = np.random.default_rng(seed).permutation(views)[: views // 2], round(seconds * sequence.fps)
    start = max(0, (frames - length) // 2)
    rows[lost, start : start + length] = np.nan
    return changed(sequence, keypoints2d=rows)


# ---- figures ----


def find(sequence: Sequence, config: Any) -> tuple[np.ndarray, np.ndarray]:
    """Joints (P, F, 17, 3) and their scores (P, F, 17); of nobody where nobody is found."""
    try:
        found = estimate(sequence, config)
    except InputError as error:
        if error.problem != "no person found":
            raise
        shape = (0, len(sequence.frames), 17)
        return np.zeros((*shape, 3)), np.zeros(shape)
    return found.keypoints.astype(np.float64), found.scores.astype(np.float64)


def measure(sequence: Sequence, truth: Truth, joints: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """The figures of `COLUMNS`, and those of the Shelf table where the truth is Shelf's."""
    true = truth_in_frames(truth.keypoints, truth, sequence)[:, :, LIMB]
    compared = compare_people(
        joints[:, :, LIMB], scores[:, :, LIMB].mean(axis=-1), true, sequence.frames, truth.complete
    )
    figures = {key: np.nan if value is None else value for key, value in summarise(compared).items()}
    errors = np.linalg.norm(compared.predicted - compared.truth, axis=-1)
    known = np.isfinite(compared.truth).all(axis=-1)
    figures |= {
        "missing": 100 * float(np.isnan(errors[known]).mean()),
        "swaps": count_swaps(compared.predicted, compared.truth),
        "median_mm": 1000 * float(np.nanmedian(errors)),
    }
    for p in range(len(true)):
        figures[f"pcp_{p}"] = 100 * pcp3d(compared.predicted[p], compared.truth[p], LIMB_PAIRS)
    if truth.shelf15 is not None:
        shelf15 = truth_in_frames(truth.shelf15, truth, sequence)
        figures["shelf_pcp"] = shelf_pcp(joints, shelf15, sequence.up_vector)["average"]
    return figures


def spread(values: np.ndarray, signed: bool = False) -> str:
    """Mean over seeds, with its standard error if there are several."""
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.1f}" if len(values) > 1 else ""
    return f"{values.mean():{'+' if signed else ''}.1f}{error}"


def compare(
    sequence: Sequence, methods: dict[str, Any], cases: dict[str, list[Variant]], title: str, pooled: str = ""
) -> Table:
    """One block a case: each method's figures over its variants, and the first method's less the second's.

    Args:
        pooled: heading of a last block over all cases' variants; empty for none.
    """
    table = Table("", "", *COLUMNS.values(), title=title)
    truth = load_truth(sequence.folder)
    jobs = [(case, name, make) for case, makes in cases.items() for make in makes for name in methods]
    blocks: dict[str, dict[str, list[dict[str, float]]]] = {}
    for case, name, make in track(jobs, title, console=Console(stderr=True)):
        variant = make()
        figures = measure(variant, truth, *find(variant, methods[name]))
        for block in (case, pooled) if pooled else (case,):
            blocks.setdefault(block, {}).setdefault(name, []).append(figures)
    for block in (*cases, pooled) if pooled else cases:
        runs = blocks[block]
        values = {name: {key: np.array([run[key] for run in runs[name]], float) for key in COLUMNS} for name in runs}
        for i, (name, figures) in enumerate(values.items()):
            table.add_row("" if i else block, name, *(spread(figures[key]) for key in COLUMNS))
        first, second = values.values()
        table.add_row("", "difference", *(spread(first[key] - second[key], signed=True) for key in COLUMNS))
        table.add_section()
    return table


def noise_cases(sequence: Sequence, seeds: int, noise: tuple[float, float]) -> dict[str, list[Variant]]:
    return {f"seed {seed}": [lambda seed=seed: add_noise(sequence, seed, *noise)] for seed in range(seeds)}


def robustness_cases(sequence: Sequence, seeds: int) -> dict[str, list[Variant]]:
    changes: dict[str, Callable[[int], Sequence]] = {
        "one camera turned by 5 degrees": lambda seed: turn_camera(sequence, seed),
        "one camera 3 frames off": lambda seed: shift_camera(sequence, seed),
        "half of the views lost for 1 s": lambda seed: lose_views(sequence, seed),
        "half of the views lost for 0.5 s": lambda seed: lose_views(sequence, seed, 0.5),
    }
    worse = {
        name: [lambda seed=seed, change=change: change(seed) for seed in range(seeds)]
        for name, change in changes.items()
    }
    return {"as it is": [lambda: sequence], **worse}


def shelf_table(sequence: Sequence, methods: dict[str, Any], title: str) -> Table:
    truth = load_truth(sequence.folder)
    ids = read_npz(sequence.folder / "ground_truth.npz").get("ids", np.arange(len(truth.keypoints)))
    headings = {
        **{f"pcp_{p}": f"limb PCP of {name} %" for p, name in enumerate(ids)},
        "pcp": "limb PCP %", "shelf_pcp": "Shelf PCP %", "mpjpe_mm": "MPJPE mm", "median_mm": "median mm",
        "recall": "recall %", "missing": "missing %", "swaps": "swaps",
    }  # fmt: skip
    table = Table("", *headings.values(), title=title)
    rows = {name: find(sequence, config) for name, config in methods.items()}
    known = known_identity_triangulation(sequence, truth)
    rows["known identities"] = known, np.ones(known.shape[:3])
    for name, (joints, scores) in rows.items():
        figures = measure(sequence, truth, joints, scores)
        table.add_row(name, *(f"{figures[key]:.1f}" for key in headings))
    return table


# ---- speed ----


def speed_table(sequence: Sequence, weights: Path, rounds: int = 5) -> Table:
    """People-frames a second, medians over rounds in which all take their turn."""
    centres = find_people(Evidence(sequence), sequence.cameras, np.asarray(sequence.frames) / sequence.fps)
    f = int(centres.valid.sum(axis=0).argmax())
    here = np.flatnonzero(centres.valid[:, f])
    gaussians, up = Evidence(sequence)[f], torch.from_numpy(sequence.up_vector)
    anchors = torch.from_numpy(np.stack((centres.pelvis[here, f], centres.neck[here, f]), axis=1)).float()
    people = np.resize(np.arange(len(here)), VOLUMES)
    full = make_network(NetworkConfig(width="full")).eval()
    networks = {"light": load_network(weights), "full, random weights": full}
    estimators = {
        name: FrameEstimator(network, sequence.cameras, up, VolumetricConfig()) for name, network in networks.items()
    }
    frames = len(sequence.frames)
    jobs: dict[str, tuple[int, Callable[[], Any]]] = {
        f"volumes, {name}": (VOLUMES, lambda e=estimator: e(gaussians, anchors[people], people, 0.0))
        for name, estimator in estimators.items()
    }
    jobs["estimation, light"] = len(here) * frames, lambda: estimate(sequence, VolumetricConfig(weights=weights))
    jobs["estimation, triangulation"] = len(here) * frames, lambda: estimate(sequence, TriangulationConfig())
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for lap in range(rounds + 1):  # the first one warms up
        for name, (_, job) in jobs.items():
            start = time.perf_counter()
            job()
            if lap > 0:
                seconds[name].append(time.perf_counter() - start)
    title = f"{sequence.name}: {torch.get_num_threads()} threads, {os.cpu_count()} cores, {rounds} rounds"
    table = Table("", "people-frames / s", "slowest round", "fastest round", "relative to the first", title=title)
    rates = {name: jobs[name][0] / np.array(times) for name, times in seconds.items()}
    first = np.median(next(iter(rates.values())))
    for name, rate in rates.items():
        middle = np.median(rate)
        table.add_row(name, *(f"{x:.2f}" for x in (middle, rate.min(), rate.max())), f"{middle / first:.3f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", nargs="*", type=Path, help="sequence folders with ground_truth.npz")
    parser.add_argument("--folder", type=Path, default=DATA, help="where duo_a, duo_b and shelf_dev are")
    parser.add_argument("--weights", type=Path, default=packaged_weights(), help="of the volumetric estimator")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--noise", type=float, nargs=2, default=(1.0, 0.05), metavar=("PIXELS", "MISSED"),
        help="added to the detections: standard deviation at 512x384, share of joints missed",
    )  # fmt: skip
    parser.add_argument("--robustness", action="store_true")
    parser.add_argument("--speed", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # means of joints nobody found
    console = Console(width=150)
    folders = arguments.sequences or [arguments.folder / name for name in ("duo_a", "duo_b", "shelf_dev")]
    methods = {"volumetric": VolumetricConfig(weights=arguments.weights), "triangulation": TriangulationConfig()}
    if arguments.robustness:
        sequence = Sequence.open(folders[0])
        title = f"{sequence.name}: {arguments.seeds} draws"
        console.print(compare(sequence, methods, robustness_cases(sequence, arguments.seeds), title))
    if arguments.speed:
        console.print(speed_table(Sequence.open(folders[0]), arguments.weights))
    if arguments.robustness or arguments.speed:
        return
    for folder in folders:
        sequence = Sequence.open(folder)
        if load_truth(folder).shelf15 is not None:
            console.print(shelf_table(sequence, methods, f"{sequence.name}: {len(sequence.frames)} frames"))
        else:
            cases = noise_cases(sequence, arguments.seeds, tuple(arguments.noise))
            pooled = f"all {arguments.seeds} seeds" if arguments.seeds > 1 else ""
            console.print(compare(sequence, methods, cases, sequence.name, pooled))


if __name__ == "__main__":
    main()
