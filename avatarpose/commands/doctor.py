"""What this machine has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Doctor:
    """Say what this machine has and which of the fast paths will be used.

    Example: avatarpose doctor
    """

    def execute(self) -> None:
        from avatarpose.doctor import report

        report()
