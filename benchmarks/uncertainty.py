"""Whether the standard deviations of refined joints mean what they say: `python -m benchmarks.uncertainty RUN ...`.

Each RUN is a sequence folder with truth that `avatarpose run` (or `demo`) has finished. For each: the share of
per-axis errors of the limb keypoints within one and two standard deviations (68.3 and 95.4 percent if they are
Gaussian), with the 95 percent interval of a bootstrap over blocks of frames, the root mean square of error and standard
deviation, and their rank correlation over the joints; beside them the factor on the standard deviations that would fit
this run best. The factor in `UncertaintyConfig.scale` is the one printed for the embedded capture
(`avatarpose demo --effort 1`).

`--plot FILE` draws the share of errors within k standard deviations against a Gaussian's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.stats import norm, spearmanr

from avatarpose.evaluate import load_truth, match_people
from avatarpose.pipeline import Pipeline, Settings
from avatarpose.results import Bodies
from avatarpose.skeletons import COCO17
from optimize.refine import refine
from optimize.uncertainty import FILE, Uncertainty, UncertaintyConfig

LIMBS = slice(COCO17.joints.index("left_shoulder"), 17)
BLOCK, DRAWS = 4, 2000  # frames; errors of neighbouring frames are alike
ONE, TWO = norm.cdf(1) - norm.cdf(-1), norm.cdf(2) - norm.cdf(-2)


def finished(folder: Path) -> tuple[Float[np.ndarray, "people frames 12 3"], Float[np.ndarray, "people frames 12 3"]]:
    """Errors and standard deviations, metres, of a finished run.

    Deviations that are not there are made from its checkpoint.
    """
    said = json.loads((folder / "results" / "run.json").read_text())["settings"]
    known = {field.name for field in fields(Settings)}
    settings = Settings(**{k: v for k, v in said.items() if k in known and k not in ("sequence", "body", "weights")},
                        sequence=folder)  # fmt: skip
    pipeline = Pipeline(settings, Console(stderr=True))
    if not (folder / "results" / FILE).is_file():
        initial = Bodies.load(pipeline.output("register"))
        refine(pipeline.sequence, initial, pipeline.body, pipeline.refine_config(), None, pipeline.device)
    bodies = Bodies.load(pipeline.output("refine"))
    found = Uncertainty.load(folder / "results" / FILE)
    truth = load_truth(folder)
    _, here, there = np.intersect1d(truth.frames, bodies.frames, return_indices=True)
    true = truth.keypoints[:, here][:, :, LIMBS]
    guessed = bodies.keypoints[:, there][:, :, LIMBS].astype(np.float64)
    match = match_people(guessed, true)
    return (guessed[match] - true)[match >= 0], found.keypoints[:, there][:, :, LIMBS][match][match >= 0]


def shares(z: Float[np.ndarray, "people frames 12 3"]) -> tuple[float, float]:
    """Percent of |z| within one and two."""
    z = np.abs(z[np.isfinite(z)])
    return 100 * float((z < 1).mean()), 100 * float((z < 2).mean())


def interval(z: Float[np.ndarray, "people frames 12 3"], rng: np.random.Generator) -> Float[np.ndarray, "2 2"]:
    """2.5 and 97.5 percent quantiles of `shares` when blocks of frames are drawn anew."""
    frames = z.shape[1]
    starts = rng.integers(0, max(1, frames - BLOCK + 1), (DRAWS, -(-frames // BLOCK)))
    drawn = (starts[..., None] + np.arange(min(BLOCK, frames))).reshape(DRAWS, -1)[:, :frames]
    return np.quantile([shares(z[:, chosen]) for chosen in drawn], (0.025, 0.975), axis=0)


def best_factor(z: np.ndarray) -> float:
    """Geometric mean of the factors that put 68.3 percent within one and 95.4 percent within two."""
    z = np.abs(z[np.isfinite(z)])
    return float(np.sqrt(np.quantile(z, ONE) * np.quantile(z, TWO) / 2))


def plot(runs: dict[str, np.ndarray], path: Path) -> None:
    """Share of errors within k standard deviations against a Gaussian's, one curve a run."""
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color="grey", linewidth=1)
    expected = np.linspace(0, 0.995, 200)
    for name, z in runs.items():
        values = np.abs(z[np.isfinite(z)])
        axes.plot(100 * expected, [100 * (values < norm.ppf((1 + share) / 2)).mean() for share in expected], label=name)
    axes.set(xlabel="expected within, %", ylabel="found within, %", xlim=(0, 100), ylim=(0, 100))
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="finished sequence folders with truth")
    parser.add_argument("--plot", type=Path, help="picture to write")
    options = parser.parse_args()
    table = Table(
        "run", "within 1, %", "95 % interval", "within 2, %", "95 % interval", "rms error, mm", "rms deviation, mm",
        "rank correlation", "best factor", title=f"expected {100 * ONE:.1f} and {100 * TWO:.1f} %",
    )  # fmt: skip
    drawn, scale = {}, UncertaintyConfig.scale
    for folder in options.runs:
        errors, deviations = finished(folder)
        z = drawn[folder.resolve().name] = errors / deviations
        one, two = shares(z)
        (low1, low2), (high1, high2) = interval(z, np.random.default_rng(0))
        joint_error, joint_deviation = (np.sqrt(np.square(x).mean(axis=(1, 3))).ravel() for x in (errors, deviations))
        table.add_row(
            folder.resolve().name,
            f"{one:.1f}", f"{low1:.1f} to {high1:.1f}", f"{two:.1f}", f"{low2:.1f} to {high2:.1f}",
            *(f"{1e3 * np.sqrt(np.nanmean(np.square(x))):.1f}" for x in (errors, deviations)),
            f"{spearmanr(joint_error, joint_deviation).statistic:.2f}", f"{scale * best_factor(z):.2f}",
        )  # fmt: skip
    Console(width=150).print(table)
    if options.plot:
        plot(drawn, options.plot)


if __name__ == "__main__":
    main()
