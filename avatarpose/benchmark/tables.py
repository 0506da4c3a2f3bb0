"""The figures of all runs as one table: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatarpose.benchmark.plan import DONE, METHODS, Job
from avatarpose.errors import InputError
from avatarpose.evaluate import HEADINGS, evaluate
from avatarpose.io import read_json, write_bytes
from avatarpose.sequence import Sequence as Capture

SECONDS = "seconds"


@dataclass(frozen=True)
class Row:
    """One sequence by one method.

    Attributes:
        figures: name to the values of the seeds; without those that are None.
        failed: runs that ended with an error.
    """

    sequence: str
    method: str
    seeds: int
    figures: dict[str, list[float]]
    failed: int = 0


def collect(jobs: Sequence[Job]) -> list[Row]:
    """The figures of the runs that are done, in the order planned."""
    rows: list[Row] = []
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.sequence.name, job.method), []).append(job)
    for (sequence, method), runs in groups.items():
        figures: dict[str, list[float]] = {}
        ended = [job for job in runs if (job.folder / DONE).is_file()]
        for job in ended:
            for key, value in _figures(job).items():
                if value is not None:
                    figures.setdefault(key, []).append(value)
        rows.append(Row(sequence, method, len(ended), figures, len(runs) - len(ended)))
    return rows


def _figures(job: Job) -> dict[str, float | None]:
    row = METHODS[job.method].row
    try:
        found = dict(evaluate(Capture.open(job.folder), raw=row == "estimate")[row])
    except KeyError:
        raise InputError("the run left no such result", file=job.folder / "results", expected=row) from None
    stages = read_json(job.folder / "results" / "run.json").get("stages", {})
    found[SECONDS] = sum(stage["seconds"] for stage in stages.values())
    return found


def _columns(rows: Iterable[Row]) -> dict[str, str]:
    """Keys that any row has, with their headings."""
    present = {key for row in rows for key in row.figures}
    return {key: text for key, text in {**HEADINGS, SECONDS: "seconds"}.items() if key in present}


def _cell(values: list[float] | None, plus_minus: str) -> str:
    if not values:
        return "-"
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} {plus_minus} {np.std(values, ddof=1):.1f}"


def markdown(rows: Sequence[Row]) -> str:
    """A Markdown table; mean and standard deviation over the seeds where there are several."""
    columns = _columns(rows)
    lines = [f"| sequence | method | seeds | {' | '.join(columns.values())} |", "|---|---|---|" + "---|" * len(columns)]
    for row in rows:
        cells = [_cell(row.figures.get(key), "±") for key in columns]
        failed = f" ({row.failed} failed)" if row.failed else ""
        lines.append(f"| {row.sequence} | {row.method}{failed} | {row.seeds} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """CSV: a mean and a standard deviation (empty for one seed) per figure."""
    columns, out = _columns(rows), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["sequence", "method", "seeds", *(f"{key}{end}" for key in columns for end in ("", "_std"))])
    for row in rows:
        cells: list[object] = [row.sequence, row.method, row.seeds]
        for key in columns:
            values = row.figures.get(key, [])
            cells.append(round(float(np.mean(values)), 4) if values else "")
            cells.append(round(float(np.std(values, ddof=1)), 4) if len(values) > 1 else "")
        writer.writerow(cells)
    return out.getvalue()


def latex(rows: Sequence[Row]) -> str:
    """A LaTeX tabular (package booktabs)."""
    columns = _columns(rows)

    def plain(text: str) -> str:
        return text.replace("_", r"\_").replace("%", r"\%")

    lines = [r"\begin{tabular}{ll" + "r" * len(columns) + "}", r"\toprule"]
    lines += [" & ".join(["sequence", "method", *map(plain, columns.values())]) + r" \\", r"\midrule"]
    for row in rows:
        cells = [_cell(row.figures.get(key), r"$\pm$") for key in columns]
        lines.append(" & ".join([plain(row.sequence), plain(row.method), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def write_tables(rows: Sequence[Row], out: Path) -> None:
    """table.md, table.csv and table.tex in the folder."""
    for name, text in (("table.md", markdown(rows)), ("table.csv", comma_separated(rows)), ("table.tex", latex(rows))):
        write_bytes(out / name, text.encode())
