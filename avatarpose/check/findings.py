"""What the check has to say: findings, each go, warning or no-go, with a sentence and what to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any


class Level(IntEnum):
    """How bad a finding is; the verdict is the worst of them."""

    GO = 0
    WARNING = 1
    NO_GO = 2

    @property
    def word(self) -> str:
        """As it is shown."""
        return ("go", "warning", "no-go")[self]


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    """What was looked at, such as `synchronisation`."""
    level: Level
    sentence: str
    """What was found."""
    advice: str = ""
    """What to do about it; empty where there is nothing to do."""


@dataclass
class Section:
    """One part of the check: its findings, figures for check.json, and what the page shows."""

    title: str
    findings: list[Finding] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    blocks: list[str] = field(default_factory=list)
    """Pieces of HTML: tables, plots, pictures."""

    def add(self, topic: str, level: Level, sentence: str, advice: str = "") -> None:
        """Appends a finding."""
        self.findings.append(Finding(topic, level, sentence, advice))


def verdict(sections: list[Section]) -> Level:
    """The worst level of all findings."""
    return max((f.level for s in sections for f in s.findings), default=Level.GO)
