"""What every way of segmenting is: a class that yields the masks of one camera, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import UInt8

from avatarpose.segment.config import SegmentConfig
from avatarpose.segment.people import People

Step = Callable[[str], None]
"""Called with what is being done, so that a progress bar can move in long preparations."""


@dataclass
class FrameMasks:
    """Masks of one image; 0 background, 255 foreground, 128 unknown.

    Attributes:
        union: of all people.
        people: of single people by name, where the method tells them apart itself.
    """

    union: UInt8[np.ndarray, "height width"]
    people: dict[str, UInt8[np.ndarray, "height width"]] = field(default_factory=dict)


class Segmenter(Protocol):
    """One way of segmenting. Made once for a sequence; raises InputError where what it needs is missing."""

    def __init__(self, people: People, config: SegmentConfig) -> None: ...

    def camera(self, c: int, frames: list[int], step: Step) -> Iterator[tuple[int, FrameMasks]]:
        """Yields (f, masks) of camera index c for each frame index in `frames`, in rising order."""
        ...

    def notes(self, c: int) -> dict[str, float]:
        """What is worth knowing about camera c afterwards, by name."""
        ...
