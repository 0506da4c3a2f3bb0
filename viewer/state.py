"""What the viewer shows at the moment: plain values, the timeline and the selection; no window, no data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from avatarpose.errors import InputError

Kind = Literal["estimate", "initial", "refined", "truth"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Surface = Literal["person", "avatar", "difference"]
SURFACES: tuple[Surface, ...] = get_args(Surface)
SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0)


@dataclass
class ViewState:
    """Everything a picture of the viewer depends on besides the data and the viewpoint."""

    frame: int = 0
    """Index of the frame shown."""
    kinds: set[Kind] = field(default_factory=lambda: {"refined"})
    people: set[str] | None = None
    """Names of the people shown; None for all."""
    surface: Surface = "person"
    """Colours of the bodies: one a person, the avatar's own, or the distance from the truth (without truth: between
    the initial and the refined body)."""
    side_by_side: bool = False
    """Kinds beside each other instead of over each other."""
    meshes: bool = True
    skeletons: bool = False
    frustums: bool = True
    images: bool = True
    """Images on the cameras' frustums."""
    ground: bool = True
    trails: bool = False
    labels: bool = True
    through: str | None = None
    """Name of the capture camera looked through; None for a free view."""
    beside: str | None = None
    """Camera that the free view stands in: its own image would hide everything."""
    backdrop: float = 1.0
    """How visible the image behind is when a camera is looked through, 0 to 1."""
    opacity: float = 1.0
    """Opacity of the bodies, 0 to 1."""

    def toggle(self, kind: Kind, shown: bool) -> None:
        (self.kinds.add if shown else self.kinds.discard)(kind)

    def show_person(self, name: str, shown: bool, everybody: Sequence[str]) -> None:
        chosen = set(everybody) if self.people is None else set(self.people)
        (chosen.add if shown else chosen.discard)(name)
        self.people = None if chosen == set(everybody) else chosen


class Timeline:
    """Time that runs over the frames and starts again at the end.

    Args:
        count: number of frames.
        fps: frames a second at speed 1.
    """

    def __init__(self, count: int, fps: float) -> None:
        if count < 1 or fps <= 0:
            raise ValueError("a timeline needs a frame and fps above 0")
        self.count, self.fps = count, fps
        self.playing = False
        self.speed = 1.0
        self._position = 0.0

    @property
    def frame(self) -> int:
        """Index of the present frame."""
        return int(self._position)

    def go(self, frame: int) -> None:
        """To a frame; beyond the ends, to the last or first one."""
        self._position = float(min(max(int(frame), 0), self.count - 1))

    def step(self, frames: int) -> None:
        """Stops, and goes on or back by some frames, around the ends."""
        self.playing = False
        self._position = float((self.frame + frames) % self.count)

    def advance(self, seconds: float) -> bool:
        """Lets time pass; whether the frame has changed. Nothing happens unless it is playing."""
        if not self.playing:
            return False
        before = self.frame
        self._position = (self._position + seconds * self.fps * self.speed) % self.count
        return self.frame != before


def parse_kinds(text: str) -> set[Kind]:
    """`refined,truth` as kinds.

    Raises:
        InputError: a word is no kind, or there is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    wrong = [word for word in words if word not in KINDS]
    if wrong or not words:
        raise InputError("nothing of that name to show", expected=", ".join(KINDS), found=repr(text))
    return set(words)  # type: ignore[arg-type]
