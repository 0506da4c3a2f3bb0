"""The report of a run."""

from __future__ import annotations

from dataclasses import dataclass

from avatarpose.commands.shared import SequenceFolder, Shared, pipeline_settings


@dataclass
class Report(Shared):
    """Write results/report.html: how good the bodies are, frame by frame, and which frames not to trust.

    `run` and `refine` write it too.

    Example: avatarpose report my_sequence
    """

    sequence: SequenceFolder

    def execute(self) -> None:
        from avatarpose.pipeline import Pipeline

        print(Pipeline(pipeline_settings(self)).report())
