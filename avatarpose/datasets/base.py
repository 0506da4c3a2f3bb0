"""What every reader of a data set returns, and what its readers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatarpose.errors import InputError
from avatarpose.importers.calibration import Calibration
from avatarpose.importers.media import Footage
from avatarpose.importers.settings import ImportSettings

Say = Callable[[str], None]
Truth = dict[str, np.ndarray]


@dataclass(frozen=True)
class Recording:
    """One sequence of a data set, as the import goes on with it.

    Attributes:
        settings: the user's, with what the data set's layout says filled in where the user said nothing.
        calibration: where the layout's is of no calibration format of its own; None: found as `settings` say.
        footage: by camera, likewise.
        truth: arrays of ground_truth.npz for frames of these source numbers; None where there is none.
            An array `subjects` gives the source's number of each person; masks of single people are renamed by it.
    """

    settings: ImportSettings
    calibration: Calibration | None = None
    footage: dict[str, Footage] | None = None
    truth: Callable[[Sequence[int]], Truth | None] | None = None


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        title: its name and paper.
        home: where it is to be had.
        terms: under what terms.
        layout: what SRC must hold, for messages.
        prepare: finds the parts of a sequence. Raises InputError where one is missing or malformed.
    """

    title: str
    home: str
    terms: str
    layout: str
    prepare: Callable[[ImportSettings, Say], Recording]

    @property
    def where(self) -> str:
        """Where to get it, for messages."""
        return f"{self.title} is to be had at {self.home}; terms: {self.terms}"


def need(path: Path, what: str) -> Path:
    """The path, if it is there. Raises InputError otherwise; `datasets.prepare` adds where to get the data."""
    if not path.exists():
        raise InputError(f"no {what}", file=path, expected=path.name)
    return path


def by_first_x(roots: np.ndarray) -> list[int]:
    """Order of people as the stages name them: by first frame, then by x in it.

    Args:
        roots: (P, F, 3) a joint of each, metres, world; NaN where a person is not there.
    """
    there = np.isfinite(roots).all(axis=-1)
    first = np.where(there.any(axis=1), there.argmax(axis=1), roots.shape[1])
    x = [float(roots[p, f, 0]) if f < roots.shape[1] else np.inf for p, f in enumerate(first)]
    return sorted(range(len(roots)), key=lambda p: (int(first[p]), x[p]))
