"""The panel as data: what can be set, pressed and read, and what it does; the window and the page build it.

Nothing here draws a widget. A control says how to get its value and what happens when it is set; after any change the
front end asks all controls for their values again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from viewer.paint import legend_bar
from viewer.session import EVERYBODY, Session
from viewer.state import SURFACES
from viewer.view import View

FREE = "free"
SURFACE_NAMES = dict(zip(SURFACES, ("a colour a person", "the avatar's colours", "difference"), strict=True))


class FrontEnd(Protocol):
    """What a window or a page offers to the panel."""

    def current_view(self) -> View:
        """Where the picture is seen from now."""

    def screenshot(self) -> None:
        """Saves what is seen."""

    def set_rendered(self, on: bool) -> None:
        """Shows the avatars by our renderer, or no longer."""

    def is_rendered(self) -> bool:
        """Whether it does."""


@dataclass(frozen=True)
class Check:
    label: str
    get: Callable[[], bool]
    set: Callable[[bool], None]


@dataclass(frozen=True)
class Choice:
    label: str
    options: list[str]
    get: Callable[[], str]
    set: Callable[[str], None]


@dataclass(frozen=True)
class Slider:
    """A number from 0 to 1."""

    label: str
    get: Callable[[], float]
    set: Callable[[float], None]


@dataclass(frozen=True)
class Button:
    label: str
    press: Callable[[], None]


@dataclass(frozen=True)
class Plot:
    """Pictures of a width one below the other."""

    get: Callable[[int], list[np.ndarray]]


@dataclass(frozen=True)
class Rows:
    """Lines of text; choosing one does something."""

    label: str
    get: Callable[[], list[str]]
    choose: Callable[[int], None]


Control = Check | Choice | Slider | Button | Plot | Rows


@dataclass(frozen=True)
class Section:
    """Controls under a heading; those in one inner list stand beside each other."""

    title: str
    rows: list[list[Control]] = field(default_factory=list)
    opened: bool = True


def panel(session: Session, front: FrontEnd) -> list[Section]:
    """All sections of the panel."""
    data = session.data
    sections = [Section("Shown", _shown(session, front)), Section("People", _people(session))]
    sections.append(Section("Camera", _camera(session)))
    if any(kind != "truth" for kind in data.kinds):
        sections.append(Section("Errors", _errors(session)))
        sections.append(Section("Fix-ups", _fix_ups(session)))
    sections.append(Section("Camera path and pictures", _path(session, front), opened=False))
    return sections


def _shown(session: Session, front: FrontEnd) -> list[list[Control]]:
    state = session.state

    def toggle(label: str, name: str) -> Check:
        return Check(label, lambda: getattr(state, name), lambda value: setattr(state, name, value))

    kinds: list[Control] = [
        Check(kind, lambda kind=kind: kind in state.kinds, lambda shown, kind=kind: state.toggle(kind, shown))
        for kind in session.data.kinds
    ]
    layout = Choice(
        "layout", ["overlaid", "side by side"],
        lambda: "side by side" if state.side_by_side else "overlaid",
        lambda chosen: setattr(state, "side_by_side", chosen == "side by side"),
    )  # fmt: skip
    surfaces = [name for name in SURFACES if name != "avatar" or session.avatars.available]
    backwards = {SURFACE_NAMES[name]: name for name in surfaces}
    colours = Choice(
        "colours", list(backwards),
        lambda: SURFACE_NAMES[state.surface],
        lambda chosen: setattr(state, "surface", backwards[chosen]),
    )  # fmt: skip
    rows: list[list[Control]] = [kinds[i : i + 2] for i in range(0, len(kinds), 2)]
    rows += [[layout], [colours], [Plot(lambda width: [legend_bar(width)] if state.surface == "difference" else [])]]
    rows += [[toggle("meshes", "meshes"), toggle("skeletons", "skeletons"), toggle("trails", "trails")]]
    rows += [[toggle("cameras", "frustums"), toggle("images", "images")]]
    rows += [[toggle("ground", "ground"), toggle("names", "labels")]]
    if session.avatars.available:
        rows.append([Check("avatars rendered", front.is_rendered, front.set_rendered)])
    return rows


def _people(session: Session) -> list[list[Control]]:
    state, everybody = session.state, session.data.people
    checks: list[Control] = [
        Check(
            name,
            lambda name=name: state.people is None or name in state.people,
            lambda shown, name=name: state.show_person(name, shown, everybody),
        )
        for name in everybody
    ]
    return [checks[i : i + 3] for i in range(0, len(checks), 3)]


def _camera(session: Session) -> list[list[Control]]:
    state = session.state

    def look(chosen: str) -> None:
        state.through, state.beside = None if chosen == FREE else chosen, None

    through = Choice(
        "look through", [FREE, *session.data.sequence.cameras.names],
        lambda: state.through or FREE,
        look,
    )  # fmt: skip
    backdrop = Slider("image", lambda: state.backdrop, lambda value: setattr(state, "backdrop", value))
    opacity = Slider("bodies", lambda: state.opacity, lambda value: setattr(state, "opacity", value))
    return [[through], [backdrop], [opacity]]


def _errors(session: Session) -> list[list[Control]]:
    kinds = [kind for kind in session.data.kinds if kind != "truth"]
    measured = Choice("of", kinds, lambda: session.measured, lambda chosen: setattr(session, "measured", chosen))

    def choose(row: int) -> None:
        session.timeline.playing = False
        session.timeline.go(session.worst()[row][0])

    worst = Rows("the worst (click to go there)", lambda: [text for _, text in session.worst()], choose)
    return [[measured], [Plot(session.plots)], [worst]]


def _fix_ups(session: Session) -> list[list[Control]]:
    people = [name for name in session.data.people if not name.startswith("t")]

    def pair(which: int) -> Choice:
        def put(name: str) -> None:
            first, second = session.swap_pair
            session.swap_pair = (name, second) if which == 0 else (first, name)

        return Choice("swap" if which == 0 else "with", people, lambda: session.swap_pair[which], put)

    def choose(row: int) -> None:
        frame = session.edit_lines()[row][0]
        if frame is not None:
            session.timeline.go(frame)

    rows: list[list[Control]] = []
    if len(people) > 1:
        rows += [[pair(0), pair(1)], [Button("swap these two from this frame on", session.swap_people)]]
    whom = Choice(
        "of", [EVERYBODY, *people], lambda: session.distrusted,
        lambda chosen: setattr(session, "distrusted", chosen),
    )  # fmt: skip
    rows += [[Button("do not trust this frame", session.distrust_frame), whom]]
    rows += [[Rows("fix-ups", lambda: [text for _, text in session.edit_lines()], choose)]]
    rows += [[Button("save fix-ups", session.save_edits), Button("undo unsaved", session.undo_edits)]]
    return rows


def _path(session: Session, front: FrontEnd) -> list[list[Control]]:
    return [
        [Button("add keyframe", lambda: session.add_keyframe(front.current_view())),
         Button("drop last", session.drop_keyframe)],
        [Button("save path", session.save_path), Button("save picture", front.screenshot)],
    ]  # fmt: skip
