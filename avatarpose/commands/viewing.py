"""Looking at the results: in a window, in a browser, or as a picture."""

from __future__ import annotations

from dataclasses import dataclass

from avatarpose.commands.shared import SequenceFolder
from viewer.options import ViewOptions


@dataclass
class View(ViewOptions):
    """Look at the capture and its results in a window, in a browser (--web), or as a picture (--headless).

    The window has a timeline, looks through any camera, plots where the errors are, and records fix-ups (edits.json,
    which `refine` takes into account) and camera paths (which `render` films along).

    Example: avatarpose view my_sequence --headless --out view.png
    """

    sequence: SequenceFolder

    def execute(self) -> None:
        from viewer.main import view

        view(self.sequence, self)
