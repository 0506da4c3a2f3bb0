"""Whether the standard deviations of refined joints mean what they say: `python -m benchmarks.uncertainty RUN ...`.

Each RUN is a sequence folder with truth that `avatarpose run` (or `demo`) has finished. For each: the share of
per-axis errors of the limb keypoints within one and two standard deviations (68.3 and 95.4 percent if they are
Gaussian), with the 95 percent interval of a bootstrap over blocks of frames, the root mean square of error and standard
deviation, and their rank correlation over the joints; beside them `UncertaintyConfig.scale` as it would put 68.3
percent of this run's errors within one, and the root mean square, per axis, of what the body's joints miss when it is
fitted to all true joints (`UncertaintyConfig.misfit`). Last, the scale that does so for the runs together, each
counting the same; scale and misfit in the settings are those of three captures of the project's own making: the
embedded one (`avatarpose demo --effort 1`), and

    python -m benchmarks.made_capture DANCE --motion PAIRS --frames 20 --views 6 --size 240x320
    python -m benchmarks.made_capture EMBRACE --frames 16 --views 8 --size 240x320

`--plot FILE` draws the share of errors within k standard deviations against a Gaussian's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from scipy.optimize import brentq
from scipy.stats import norm, spearmanr

from avatarpose.body import BodyModel
from avatarpose.evaluate import load_truth, match_people
from avatarpose.io import read_npz
from avatarpose.pipeline import Pipeline, Settings
from avatarpose.results import Bodies
from avatarpose.skeletons import COCO17
from benchmarks.interpenetration import fit_to_joints
from optimize.avatars import body_motion
from optimize.curvature import Steps, evidence_information
from optimize.refine import build_problem, resume
from optimize.uncertainty import UncertaintyConfig, standard_deviations

LIMBS = slice(COCO17.joints.index("left_shoulder"), 17)
BLOCK, DRAWS = 4, 2000  # frames; errors of neighbouring frames are alike
ONE, TWO = norm.cdf(1) - norm.cdf(-1), norm.cdf(2) - norm.cdf(-2)


@dataclass(frozen=True)
class Run:
    """Errors of a finished run, and what its standard deviations are made of."""

    errors: Float[np.ndarray, "people frames 12 3"]  # metres; NaN where there is no truth
    curvatures: list[tuple[int, int, torch.Tensor, Steps]]
    misfit: float  # metres per axis

    @classmethod
    def of(cls, folder: Path) -> Run:
        """Avatars and poses as the run's checkpoint has them."""
        said = json.loads((folder / "results" / "run.json").read_text())["settings"]
        known = {field.name for field in fields(Settings)} - {"sequence", "body", "weights"}
        settings = Settings(**{k: v for k, v in said.items() if k in known}, sequence=folder)
        pipeline = Pipeline(settings, Console(stderr=True))
        initial, bodies = Bodies.load(pipeline.output("register")), Bodies.load(pipeline.output("refine"))
        problem = build_problem(
            pipeline.sequence, initial, pipeline.body, pipeline.refine_config(), pipeline.device, 2**30
        )
        _, clock, _ = resume(problem, pipeline.sequence, initial)
        if clock.stage < len(problem.config.stages):
            raise SystemExit(f"{folder}: its checkpoint is not that of a finished run with these settings")
        truth = load_truth(folder)
        _, here, there = np.intersect1d(truth.frames, bodies.frames, return_indices=True)
        true = truth.keypoints[:, here][:, :, LIMBS]
        guessed = bodies.keypoints[:, there][:, :, LIMBS].astype(np.float64)
        errors = np.full((*bodies.keypoints.shape[:2], len(COCO17.joints[LIMBS]), 3), np.nan)
        for t, g in enumerate(match_people(guessed, true)):
            if g >= 0:
                errors[g, there] = guessed[g] - true[t]
        parameters, config = problem.poses(), UncertaintyConfig()
        with torch.no_grad():
            motion = body_motion(problem.body, problem.avatars, parameters, shape_moves=True)
        told = list(evidence_information(problem, parameters, motion, config, config.seed))
        return cls(errors, told, misfit_of(pipeline.body, folder))

    def deviations(self, scale: float) -> Float[np.ndarray, "people frames 12 3"]:
        """Metres."""
        config = UncertaintyConfig(scale=scale)
        found = np.full(self.errors.shape, np.nan)
        for p, f, evidence, steps in self.curvatures:
            found[p, f] = standard_deviations(evidence, steps, steps.keypoints[:, LIMBS], config).numpy()
        return found


def misfit_of(body: BodyModel, folder: Path) -> float:
    """Root mean square per axis, metres, of the joints of a body fitted to the true ones."""
    true = read_npz(folder / "ground_truth.npz", ["joints"])["joints"]
    betas, poses, trans, _ = fit_to_joints(body, true)
    spread = np.broadcast_to(betas[:, None], (*poses.shape[:2], betas.shape[1]))
    found = body.joints(*(torch.as_tensor(np.array(x), dtype=torch.float32) for x in (spread, poses, trans)))
    return float(np.sqrt(np.square(found.numpy() - true).mean()))


def best_scale(runs: list[Run]) -> float:
    """At which 68.3 percent of the errors lie within one standard deviation, in the mean over the runs."""

    def miss(scale: float) -> float:
        return float(np.mean([shares(run.errors / run.deviations(scale))[0] for run in runs])) - 100 * ONE

    return float(brentq(miss, 0.5, 100.0, xtol=0.02))


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
        "rank correlation", "best scale", "misfit, mm", title=f"expected {100 * ONE:.1f} and {100 * TWO:.1f} %",
    )  # fmt: skip
    drawn, scale = {}, UncertaintyConfig.scale
    runs = [Run.of(folder) for folder in options.runs]
    for folder, run in zip(options.runs, runs, strict=True):
        errors, deviations = run.errors, run.deviations(scale)
        z = drawn[folder.resolve().name] = errors / deviations
        one, two = shares(z)
        (low1, low2), (high1, high2) = interval(z, np.random.default_rng(0))
        joint_error, joint_deviation = (np.sqrt(np.square(x).mean(axis=(1, 3))).ravel() for x in (errors, deviations))
        table.add_row(
            folder.resolve().name,
            f"{one:.1f}", f"{low1:.1f} to {high1:.1f}", f"{two:.1f}", f"{low2:.1f} to {high2:.1f}",
            *(f"{1e3 * np.sqrt(np.nanmean(np.square(x))):.1f}" for x in (errors, deviations)),
            f"{spearmanr(joint_error, joint_deviation).statistic:.2f}", f"{best_scale([run]):.1f}",
            f"{1e3 * run.misfit:.1f}",
        )  # fmt: skip
    Console(width=170).print(table)
    print(f"scale {scale}; together the runs would like {best_scale(runs):.1f}")
    if options.plot:
        plot(drawn, options.plot)


if __name__ == "__main__":
    main()
