"""What this machine has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class Doctor:
    """Say what this machine has, what will be used and why, and the line that gets what is missing.

    Example: avatarpose doctor --thorough
    """

    thorough: bool = False
    """Import and run what is otherwise taken on trust: CUDA, kernels, detectors, a window. Up to a minute."""
    paths: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH")] = ()
    """Body models and checkpoints to look at: are they what they should be?"""

    def execute(self) -> None:
        from avatarpose.doctor import report

        report(thorough=self.thorough, paths=self.paths)
