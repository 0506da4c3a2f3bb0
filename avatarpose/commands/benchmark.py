"""Methods beside each other."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(kw_only=True)
class Benchmark:
    """Run methods and ablations on sequences with truth: one table (Markdown, CSV, LaTeX) and plots.

    What is done is kept: the same command goes on where it was stopped.

    Example: avatarpose benchmark my_sequence --methods triangulation registered refined smpl_only --effort 0.1
    """

    sequences: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SEQUENCE")]
    """Sequence folders with ground_truth.npz; nothing is written there."""
    out: Path = Path("avatarpose_benchmark")
    """Folder for the runs, the table and the plots."""
    methods: tuple[str, ...] = ("triangulation", "volumetric", "registered", "refined")
    """Of triangulation, volumetric, registered, refined, no_rgb, no_mask, no_collision, joint, smpl_only."""
    seeds: tuple[int, ...] = (42,)
    """Seeds of the refinements; the table gives mean and standard deviation over them."""
    devices: tuple[str, ...] = ("auto",)
    """Each runs one job at a time: `cpu cpu` runs two at once, `cuda:0 cuda:1` uses two GPUs."""
    threads: int = 0
    """Threads of each job; 0 shares the cores evenly."""
    preset: str = "auto"
    """Schedule of the refinements: cpu, gpu or paper."""
    effort: float = 1.0
    """Multiplies the iterations of the preset."""
    frames: str = ""
    """Frames a:b:s, all by default."""

    def execute(self) -> None:
        from rich.console import Console

        from avatarpose.benchmark.plan import plan
        from avatarpose.benchmark.plots import write_plots
        from avatarpose.benchmark.run import run_jobs
        from avatarpose.benchmark.tables import collect, markdown, write_tables
        from avatarpose.progress import progress_bar

        frames = ["--frames", self.frames] if self.frames else []
        schedule = ["--preset", self.preset, "--effort", str(self.effort)]
        jobs = plan(self.sequences, self.methods, self.seeds, self.out, frames, schedule)
        console = Console(stderr=True)
        with progress_bar(console, "benchmark") as update:
            failed = run_jobs(jobs, self.devices, self.threads, update)
        rows = collect(jobs)
        write_tables(rows, self.out)
        write_plots(jobs, self.out)
        print(markdown(rows), end="")
        for job in failed:
            print(f"failed: {job.name}, see {job.folder / 'log.txt'}", file=sys.stderr)
        if failed:
            sys.exit(1)
