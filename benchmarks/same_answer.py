"""The fast paths of the refinement against the plain ones: errors paired over seeds, and the seconds of both.

    python -m benchmarks.same_answer DUO_A_RUN --seeds 5 --effort 0.1

Plain: nearest vertices by a k-d tree over every posed body, samples of the whole shells, inverse skinning and hash grid
in torch. Both run the same schedule on the registered bodies of a run (`results/initial.npz`), in turn, with as many
seeds; nothing is written. Errors over the 12 limb keypoints.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated
from unittest import mock

import numpy as np
import torch
import tyro

from avatarpose.body import load_body
from avatarpose.io import read_npz
from avatarpose.metrics import mpjpe
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from benchmarks.register import LIMBS
from optimize.config import preset
from optimize.refine import build_problem, refined_bodies, run_stages
from renderer.shell import Shell


@dataclass
class Settings:
    run: Annotated[Path, tyro.conf.Positional]
    """Sequence with ground truth and registered bodies."""
    seeds: int = 5
    effort: float = 0.1
    """Share of the iterations of the preset `cpu`."""
    threads: int = 1


@contextlib.contextmanager
def plain_paths() -> Iterator[None]:
    """What is exact and slow, in place of what is fast."""

    def exact(geometry, transforms, vertices, thickness, offset=None, surface=None) -> Shell:
        return Shell(vertices, thickness)

    with (
        mock.patch("optimize.avatars.BodyShell", exact),
        mock.patch("renderer.render.fast_path", lambda points: False),
    ):
        yield


def error(settings: Settings, seed: int, plain: bool) -> tuple[float, float]:
    """MPJPE in mm after the schedule, and its seconds of processor time."""
    sequence, body = Sequence.open(settings.run), load_body()
    bodies = Bodies.load(sequence.results / "initial.npz")
    truth = read_npz(settings.run / "ground_truth.npz", ("keypoints",))["keypoints"]
    config = replace(preset("cpu").scaled(settings.effort), seed=seed)
    if plain:
        config = replace(config, field=replace(config.field, implementation="torch"))
    with plain_paths() if plain else contextlib.nullcontext():
        problem = build_problem(sequence, bodies, body, config, torch.device("cpu"), 2**30)
        start = time.process_time()
        run_stages(problem, config)
    spent = time.process_time() - start
    found = refined_bodies(problem, bodies).keypoints
    return 1000 * mpjpe(found[:, :, LIMBS], truth[:, bodies.frames][:, :, LIMBS]), spent


def main(settings: Settings) -> None:
    torch.set_num_threads(settings.threads)
    rows = []
    for seed in range(settings.seeds):
        pair = [error(settings, seed, plain) for plain in (True, False)]
        rows.append(pair)
        print(
            "seed {}: plain {:.2f} mm in {:.0f} s, fast {:.2f} mm in {:.0f} s".format(seed, *pair[0], *pair[1]),
            flush=True,
        )
    errors, seconds = np.moveaxis(np.array(rows), -1, 0)
    difference = errors[:, 1] - errors[:, 0]
    spread = difference.std(ddof=1) / len(difference) ** 0.5 if len(difference) > 1 else float("nan")
    mean, base = difference.mean(), errors[:, 0].mean()
    print(f"fast - plain: {mean:+.2f} +- {spread:.2f} mm of {base:.2f} ({100 * mean / base:+.1f} %)")
    print(f"time of plain over fast: {seconds[:, 0].sum() / seconds[:, 1].sum():.1f}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
