"""Curves of all runs of a sequence: errors by threshold, joint, time, iterations and seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatarpose import metrics
from avatarpose.benchmark.plan import DONE, METHODS, Job
from avatarpose.evaluate import MISSING, compare, compare_people, load_truth
from avatarpose.sequence import Sequence as Capture
from avatarpose.skeletons import COCO17, LIMB_JOINTS
from optimize.trace import FILE as TRACE_FILE
from optimize.trace import Trace

THRESHOLDS = np.linspace(0, 0.15, 61)
_LIMBS = COCO17.indices(LIMB_JOINTS)
Errors = Float[np.ndarray, "people frames 12"]


def errors_of(job: Job) -> tuple[np.ndarray, Errors]:
    """Frame numbers, and the errors of a run in metres; NaN without truth, `MISSING` for a missing joint."""
    row = METHODS[job.method].row
    found = compare(Capture.open(job.folder), (row,))[row]
    return found.frames, metrics.joint_errors(found.predicted, found.truth, MISSING)


def progress_of(job: Job) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Iterations, seconds and MPJPE in mm along a refinement; None where it left no trace."""
    path = job.folder / "results" / TRACE_FILE
    if not path.is_file():
        return None
    trace, truth = Trace.load(path), load_truth(job.folder)
    _, here, there = np.intersect1d(truth.frames, trace.frames, return_indices=True)
    true = truth.keypoints[:, here][:, :, _LIMBS]
    scores = np.ones((trace.keypoints.shape[1], len(here)))
    values = []
    for moment in trace.keypoints:
        compared = compare_people(moment[:, there][:, :, _LIMBS].astype(np.float64), scores, true, truth.frames[here])
        values.append(1000 * metrics.mpjpe(compared.predicted, compared.truth, MISSING))
    return trace.iterations, trace.seconds, np.array(values)


def write_plots(jobs: Sequence[Job], out: Path) -> list[Path]:
    """Draws OUT/<sequence>_<plot>.svg for every sequence: pck, joints, time, iterations, seconds."""
    from matplotlib.figure import Figure

    written = []
    for name in dict.fromkeys(job.sequence.name for job in jobs):
        done = [job for job in jobs if job.sequence.name == name and (job.folder / DONE).is_file()]
        if not done:
            continue
        methods: dict[str, list[Job]] = {}
        for job in done:
            methods.setdefault(job.method, []).append(job)
        found = {method: [errors_of(job) for job in runs] for method, runs in methods.items()}
        courses = {method: [c for c in map(progress_of, runs) if c is not None] for method, runs in methods.items()}
        courses = {method: one for method, one in courses.items() if one}
        plots: dict[str, Callable] = {
            "pck": partial(_pck, found=found), "joints": partial(_joints, found=found),
            "time": partial(_time, found=found),
        }  # fmt: skip
        if courses:
            plots["iterations"] = partial(_course, courses=courses, column=0, unit="iterations")
            plots["seconds"] = partial(_course, courses=courses, column=1, unit="seconds")
        for plot, draw in plots.items():
            figure = Figure(figsize=(7, 4.2), layout="constrained")
            axes = figure.add_subplot()
            draw(axes)
            axes.set_title(name)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
            written.append(out / f"{name}_{plot}.svg")
            figure.savefig(written[-1])
    return written


def _pck(axes, found) -> None:
    for method, runs in found.items():
        errors = np.concatenate([errors[np.isfinite(errors)] for _, errors in runs])
        axes.plot(1000 * THRESHOLDS, [100 * (errors < t).mean() for t in THRESHOLDS], label=method)
    axes.set(xlabel="threshold, mm", ylabel="joints within it (3DPCK), %", ylim=(0, 101))


def _joints(axes, found) -> None:
    width = 0.8 / len(found)
    for i, (method, runs) in enumerate(found.items()):
        means = [1000 * np.nanmean(np.concatenate([e.reshape(-1, 12) for _, e in runs]), axis=0)]
        axes.bar(np.arange(12) + (i + 0.5) * width - 0.4, means[0], width, label=method)
    axes.set_xticks(range(12), [name.replace("_", " ") for name in LIMB_JOINTS], rotation=40, ha="right", fontsize=8)
    axes.set(ylabel="mean error, mm")


def _time(axes, found) -> None:
    for method, runs in found.items():
        frames = runs[0][0]
        means = np.mean([1000 * np.nanmean(errors, axis=(0, 2)) for _, errors in runs], axis=0)
        axes.plot(frames, means, label=method)
    axes.set(xlabel="frame", ylabel="mean error, mm", ylim=(0, None))


def _course(axes, courses, column: int, unit: str) -> None:
    for method, runs in courses.items():
        for i, run in enumerate(runs):
            colour = None if i == 0 else axes.lines[-1].get_color()
            axes.plot(run[column], run[2], label=method if i == 0 else None, color=colour)
    axes.set(xlabel=unit, ylabel="MPJPE, mm")
