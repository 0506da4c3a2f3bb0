"""A small capture with results, for tests of what is shown of them."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from shutil import copytree

import numpy as np
import torch

from avatarpose.body import load_body
from avatarpose.cli import main
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from optimize.config import CPU_STAGES, RefineConfig
from optimize.refine import build_problem, write_avatars

CAPTURE = Path(str(files("assets"))) / "embrace"
SHIFT = 0.02
"""Metres by which the made-up refined bodies stand off the initial ones."""


def make_capture(folder: Path) -> Path:
    """The embedded capture, four frames registered, "refined" by moving everybody, with untrained avatars."""
    copytree(CAPTURE, folder)
    main(["register", str(folder), "--frames", "0:4", "--device", "cpu", "--method", "triangulation"])
    results = folder / "results"
    bodies = Bodies.load(results / "initial.npz")
    move = np.array([SHIFT, 0, 0], np.float32)
    moved = {name: getattr(bodies, name) + move for name in ("trans", "joints", "keypoints")}
    replace(bodies, **moved).save(results / "refined.npz")
    sequence = Sequence.open(folder, frames=slice(0, 4))
    config = RefineConfig(stages=CPU_STAGES, rays=64, pool_pixels=50)
    problem = build_problem(sequence, bodies, load_body(), config, torch.device("cpu"), 2**28)
    write_avatars(problem, sequence, bodies)
    return folder
