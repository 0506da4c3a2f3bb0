"""Whether a capture is fit to be worked on."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from avatarpose.commands.shared import Selection, SequenceFolder


@dataclass(kw_only=True)
class Check(Selection):
    """Say before hours are spent whether a capture is fit: time, calibration, coverage, units, exposure, resources.

    Writes results/check.html, a page to look at, and results/check.json. Ends with 0 for go (and for warnings), 1 for
    no-go, 2 where a file is wrong.

    Example: avatarpose check my_sequence --drop-bad
    """

    sequence: SequenceFolder
    drop_bad: bool = False
    """Leave cameras out that do not fit the others, check the rest, and print the command that runs without them."""
    max_offset: float = 1.0
    """Seconds, the largest difference between cameras' clocks that is looked for."""
    memory: float = 1.0
    """GB that cached images may take in the run, for the estimate of its memory."""
    timing: bool = True
    """Measure this machine for the estimate of time (one or two seconds)."""

    def execute(self) -> None:
        from avatarpose.check import Level, Settings, check, print_report

        report = check(
            Settings(
                self.sequence, self.cameras, self.leave_out, self.frames, self.drop_bad, self.max_offset, self.memory,
                self.timing,
            )
        )  # fmt: skip
        print_report(report)
        if report.level is Level.NO_GO:
            sys.exit(1)
