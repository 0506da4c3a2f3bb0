"""The main job on the rendered captures: `python -m benchmarks.duo duo_a duo_b`.

Copies each capture (its results left out) into a work folder, runs `avatarpose run` on the copy, and prints: errors of
triangulation with known identities, of the initial and of the refined bodies; the part of the errors that is constant
over the frames and the rest; the deepest interpenetration of the body meshes; seconds and peak memory of each stage.

The people in these captures are Anny's bodies, the family the default body comes from.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from avatarpose.evaluate import decompose
from avatarpose.io import read_json
from avatarpose.sequence import Sequence

DATA = Path(os.environ.get("AVATARPOSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@dataclass
class Options:
    captures: Annotated[list[str], tyro.conf.Positional] = field(default_factory=lambda: ["duo_a", "duo_b"])
    """Names of captures in the data folder."""
    work: Path = Path("duo_benchmark")
    """Folder for the copies and their results."""
    run: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Further options of `avatarpose run`, e.g. --run=--preset --run=cpu."""
    keep: bool = False
    """Go on with results that are there instead of starting afresh."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    for name in options.captures:
        folder = options.work / name
        if folder.exists() and not options.keep:
            shutil.rmtree(folder)
        if not folder.exists():
            shutil.copytree(
                DATA / name, folder, ignore=shutil.ignore_patterns("results"), copy_function=shutil.copyfile
            )
        command = [sys.executable, "-m", "avatarpose.cli", "run", str(folder), *options.run]
        print("$ avatarpose", *command[3:], flush=True)
        subprocess.run(command, check=True)
        report(folder)


def report(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "benchmarks.known_identity", str(folder)], check=True)
    metrics = read_json(folder / "results" / "metrics.json")
    parts = decompose(Sequence.open(folder))
    for row in ("initial", "refined"):
        figures = {key: value for key, value in metrics[row].items() if value is not None}
        print(row, " ".join(f"{key} {value:.1f}" for key, value in figures.items()))
        print(row, " ".join(f"{key} {value:.1f}" for key, value in parts[row].items()))
    print(f"refined / initial: {metrics['refined']['mpjpe_mm'] / metrics['initial']['mpjpe_mm']:.2f}")
    subprocess.run([sys.executable, "-m", "benchmarks.interpenetration", str(folder)], check=True)
    print(json.dumps(read_json(folder / "results" / "run.json")["stages"], indent=1), flush=True)


if __name__ == "__main__":
    main()
