"""Time the hash-grid encoding in plain torch and in Warp, and give the ratio.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.hash_grid --points 15000 60000 --device cpu

Points lie near the surface of a cylinder of a person's size, in the order in which rays would visit it. Both
implementations take turns in one process, so that a busy neighbour slows both; medians of the repeats.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from rich.console import Console
from rich.table import Table

from renderer.field import AvatarField, FieldConfig
from renderer.hash_grid import HashGrid, available_backends

GRIDS = {
    "8 x 4, 2^16": dict(levels=8, features=4, log2_table=16, finest_resolution=768),
    "16 x 2, 2^17": dict(levels=16, features=2, log2_table=17, finest_resolution=2048),
}
# What needs a gradient: nothing (images of a finished avatar), the table (avatar stages), the positions (pose stages).
PASSES = {"forward": (), "to the table": ("table",), "to the positions": ("positions",)}


@dataclass
class Settings:
    points: tuple[int, ...] = (15_000, 60_000)
    """Points per call."""
    device: str = "cpu"
    """Where to compute: cpu or cuda."""
    repeats: int = 20
    """Timed repeats of each case."""


def body_points(count: int, device: str) -> torch.Tensor:
    """Points (N,3) of the unit cube within 3 cm of a 1.8 m cylinder in a 2.4 m cube, neighbours close together."""
    place = torch.arange(count) / count
    angle, radius = 2 * math.pi * 40 * place, 0.15 + 0.06 * (torch.rand(count) - 0.5)
    metres = torch.stack([radius * angle.cos(), radius * angle.sin(), 1.8 * (place - 0.5)], dim=1)
    return (metres / 2.4 + 0.5).to(device)


def seconds(call: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def compare(calls: dict[str, Callable[[], None]], settings: Settings) -> dict[str, float]:
    """Median milliseconds of each call, the calls taking turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(settings.repeats + 2):
        for name, call in calls.items():
            spent = seconds(call, settings.device)
            if repeat >= 2:  # the first two warm up
                times[name].append(1e3 * spent)
    return {name: statistics.median(values) for name, values in times.items()}


def encode_once(grid: HashGrid, points: torch.Tensor, wanted: tuple[str, ...]) -> None:
    grid.table.requires_grad_("table" in wanted)
    positions = points.clone().requires_grad_("positions" in wanted)
    encoded = grid(positions)
    if wanted:
        torch.autograd.backward(encoded, torch.ones_like(encoded))
    grid.table.grad = None


def field_once(field: AvatarField, points: torch.Tensor, distance: torch.Tensor, wanted: tuple[str, ...]) -> None:
    field.requires_grad_("table" in wanted)
    x_ref = (2.4 * (points - 0.5)).requires_grad_("positions" in wanted)
    sample = field(x_ref, distance)
    if wanted:
        (sample.density.mean() + sample.albedo.mean()).backward()
    field.zero_grad(set_to_none=True)


def main(settings: Settings) -> None:
    console = Console()
    for name, reason in available_backends(settings.device).items():
        console.print(f"{name}: {reason}")
    threads = torch.get_num_threads() if settings.device == "cpu" else 1
    table = Table(title=f"milliseconds on {settings.device} ({threads} CPU threads), median of {settings.repeats}")
    for column in ("what", "points", "gradient", "plain torch", "Warp", "ratio"):
        table.add_column(column, justify="left" if column in ("what", "gradient") else "right")
    for count in settings.points:
        points = body_points(count, settings.device)
        distance = 0.02 * torch.randn(count, device=settings.device)
        for gradient, wanted in PASSES.items():
            for label, sizes in GRIDS.items():
                grids = {i: HashGrid(**sizes, implementation=i).to(settings.device) for i in ("torch", "warp")}
                calls = {i: partial(encode_once, grid, points, wanted) for i, grid in grids.items()}
                add_row(table, f"grid {label}", count, gradient, compare(calls, settings))
            fields = {
                i: AvatarField(FieldConfig(implementation=i), torch.zeros(3), 1.2).to(settings.device)
                for i in ("torch", "warp")
            }
            calls = {i: partial(field_once, field, points, distance, wanted) for i, field in fields.items()}
            add_row(table, "whole field", count, gradient, compare(calls, settings))
    console.print(table)


def add_row(table: Table, what: str, count: int, gradient: str, times: dict[str, float]) -> None:
    plain, fast = times["torch"], times["warp"]
    table.add_row(what, f"{count:,}", gradient, f"{plain:.1f}", f"{fast:.1f}", f"{plain / fast:.1f}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
