"""Progress lines where the output is no terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from avatarpose import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(clock: list[float], calls: list[tuple[float, int, int, str]]) -> list[str]:
    out = io.StringIO()
    with progress.progress_bar(Console(file=out, width=120), "work") as say:
        for seconds, done, total, text in calls:
            clock[0] = 1000.0 + seconds
            say(done, total, text, {"rgb": 0.25})
    return [line.strip() for line in out.getvalue().splitlines()]


def test_a_line_every_half_minute_with_the_time_left(clock):
    found = lines_of(clock, [(10, 1, 10, "a"), (40, 4, 10, "a"), (50, 5, 10, "b"), (90, 9, 10, "b")])
    assert found == ["work a 4/10, 60 s left  rgb 0.2500", "work b 9/10, 10 s left  rgb 0.2500"]


def test_another_total_is_another_piece_of_work(clock):
    found = lines_of(clock, [(0, 1, 1000, "a"), (600, 1000, 1000, "a"), (610, 1, 50, "b"), (650, 5, 50, "b")])
    assert found[-1] == "work b 5/50, 360 s left  rgb 0.2500"
