"""Progress of long work: a bar with the time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, SupportsFloat

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 30
SECONDS_BETWEEN_NOTES = 0.5
"""On a terminal: to read a value may mean to wait for the device."""


class Update(Protocol):
    """Says how much is done, what is being done, and values worth seeing."""

    def __call__(
        self, done: int, total: int, text: str = "", losses: Mapping[str, SupportsFloat] | None = None
    ) -> None: ...


@contextmanager
def progress_bar(console: Console, name: str) -> Iterator[Update]:
    """A progress bar with the time left, as a function (done, total, text, losses).

    Where the output is no terminal, a line every half minute instead. With another total another piece of work begins,
    whose time is counted on its own.
    """
    columns = (
        TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    terminal = console.is_terminal
    start = said = time.monotonic()
    known = None
    with Progress(*columns, console=console, transient=True, disable=not terminal) as bar:
        task = bar.add_task(name, total=None, note="")

        def update(done: int, total: int, text: str = "", losses: Mapping[str, SupportsFloat] | None = None) -> None:
            nonlocal said, start, known
            now = time.monotonic()
            if total != known:
                if known is not None:
                    start = now
                    bar.reset(task)
                known = total
            if not terminal and now - said < SECONDS_BETWEEN_LINES:
                return
            if terminal and now - said < SECONDS_BETWEEN_NOTES and done < total:
                bar.update(task, completed=done, total=total, description=f"{name} {text}".strip())
                return
            note = "  ".join(f"{key} {float(value):.4f}" for key, value in (losses or {}).items())
            if terminal:
                said = now
                bar.update(task, completed=done, total=total, description=f"{name} {text}".strip(), note=note)
                return
            said, left = now, (now - start) / max(done, 1) * (total - done)
            console.print(f"{name} {text} {done}/{total}, {left:.0f} s left  {note}", highlight=False)

        yield update
