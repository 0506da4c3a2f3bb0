"""A viewer at work without its window: data, what is shown, the timeline, fix-ups, recorded keyframes, messages.

Windows and pages call its methods and draw its scene; every method leaves a line in `message` that says what happened.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from avatarpose.edits import Edits
from avatarpose.io import write_image
from viewer.avatar_view import AvatarView
from viewer.data import ViewerData
from viewer.measure import Errors, errors
from viewer.paint import paint
from viewer.plots import frame_plot, joint_plot
from viewer.scene import Scene, build_scene
from viewer.state import Timeline, ViewState
from viewer.video.paths import Keyframe, save_keyframes
from viewer.view import View

KEYFRAME_SECONDS = 1.0
"""Film between one recorded keyframe and the next."""
EVERYBODY = "everybody"


class Session:
    """Everything a viewer does but draw windows.

    Args:
        data: the sequence.
        state: what is shown at first.
        device: where avatars are rendered.
    """

    def __init__(self, data: ViewerData, state: ViewState, device: str = "cpu") -> None:
        self.data, self.state = data, state
        self.timeline = Timeline(len(data.frames), data.fps)
        self.timeline.go(state.frame)
        self.avatars = AvatarView(data, device)
        self.saved_edits = Edits.load(data.sequence.folder)
        self.edits = self.saved_edits
        self.keyframes: list[Keyframe] = []
        self.swap_pair: tuple[str, str] = tuple([*data.people, "", ""][:2])  # type: ignore[assignment]
        self.distrusted: str = EVERYBODY
        self.measured = next((k for k in ("refined", "initial", "estimate") if k in data.joints), "refined")
        self.message = self._greeting()
        self._errors: dict[str, Errors | None] = {}
        self._behind: tuple[View, ViewState | None, np.ndarray] | None = None
        data.apply(self.edits)

    # ---- drawing ----

    def scene(self) -> Scene:
        """The scene of the present frame."""
        self.state.frame = self.timeline.frame
        return build_scene(self.data, self.state, self.avatars.colours)

    def avatar_picture(self, view: View, step: int = 1, state: ViewState | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """The avatars by our renderer before the rest of the scene, from `view`.

        Args:
            step: one ray for this many pixels across.
            state: what is shown, not to be changed afterwards; None for the present state.
        """
        if self._behind is None or self._behind[0] is not view or self._behind[1] is not state or state is None:
            scene = build_scene(self.data, replace(state or self.state, kinds=set()))
            self._behind = (view, state, paint(scene, view))  # the same at every step of one request
        return self.avatars.picture(view, (state or self.state).frame, self._behind[2], step)

    def take_picture(self, view: View) -> UInt8[np.ndarray, "h w 3"]:
        """The present scene as seen from `view`, painted without the window."""
        return paint(self.scene(), view)

    def save_picture(self, picture: UInt8[np.ndarray, "h w 3"]) -> Path:
        """Writes a screenshot to the results folder under a new name."""
        path = free_name(self.data.sequence.results, "view", ".png")
        write_image(path, picture)
        self.message = f"picture: {path}"
        return path

    # ---- errors ----

    @property
    def errors(self) -> Errors | None:
        """Errors of the measured kind; computed once."""
        if self.measured not in self._errors:
            self._errors[self.measured] = errors(self.data, self.measured)
        return self._errors[self.measured]

    def plots(self, width: int = 360) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The plots by frame and by joint; none where there is nothing to compare with."""
        found = self.errors
        if found is None:
            return []
        return [frame_plot(found, self.timeline.frame, width, numbers=self.data.frames), joint_plot(found, width)]

    def worst(self, count: int = 10) -> list[tuple[int, str]]:
        """Frame index and a line of text for each of the worst person-frames."""
        found = self.errors
        if found is None:
            return []
        return [
            (f, f"{value:6.1f} {found.unit}   {person}  frame {self.data.frames[f]}, {joint}")
            for f, person, joint, value in found.worst(count)
        ]

    # ---- fix-ups ----

    @property
    def frame_number(self) -> int:
        return int(self.data.frames[self.timeline.frame])

    @property
    def unsaved(self) -> bool:
        return self.edits != self.saved_edits

    def swap_people(self) -> None:
        """Exchanges the chosen pair from the present frame on; done twice, it is undone."""
        first, second = self.swap_pair
        if first == second or not first or not second:
            self.message = "choose two people to swap"
            return
        self._edit(self.edits.with_swap(first, second, self.frame_number))

    def distrust_frame(self) -> None:
        """Marks the present frame as not to be trusted, for one person or everybody; done twice, it is undone."""
        people = None if self.distrusted == EVERYBODY else [self.distrusted]
        self._edit(self.edits.with_untrusted(self.frame_number, people))

    def undo_edits(self) -> None:
        """Back to the edits of the file."""
        self._edit(self.saved_edits)

    def save_edits(self) -> None:
        """Writes edits.json."""
        path = self.edits.save(self.data.sequence.folder)
        self.saved_edits = self.edits
        self.message = f"saved: {path}; `avatarpose refine` takes them into account"

    def edit_lines(self) -> list[tuple[int | None, str]]:
        """The frame index and a line for each fix-up."""
        lines = [
            (self.data.index(swap.start), f"{' <-> '.join(swap.people)} from frame {swap.start} on")
            for swap in self.edits.swaps
        ]
        lines += [
            (self.data.index(mark.frame), f"frame {mark.frame} not trusted: {', '.join(mark.people or [EVERYBODY])}")
            for mark in self.edits.untrusted
        ]
        return lines

    def _edit(self, edits: Edits) -> None:
        self.edits = edits
        self.data.apply(edits)
        self._errors.clear()
        self.message = f"swaps: {len(edits.swaps)}, untrusted frames: {len(edits.untrusted)}" + (
            ", not saved" if self.unsaved else ""
        )

    # ---- camera path ----

    def add_keyframe(self, view: View) -> None:
        """Remembers the viewpoint and the moment shown as the path's next keyframe."""
        time = self.keyframes[-1].time + KEYFRAME_SECONDS if self.keyframes else 0.0
        distance = max(float((self.data.middle - view.position) @ view.forward), 0.5)
        target = view.position + distance * view.forward
        moment = float(self.data.frames[self.timeline.frame] - self.data.frames[0]) / self.data.sequence.fps
        position, target, up = (tuple(float(x) for x in vector) for vector in (view.position, target, view.up))
        self.keyframes.append(Keyframe(time, position, target, up, float(view.fov_deg), moment))
        self.message = f"{len(self.keyframes)} keyframes, {time:.0f} s of film"

    def drop_keyframe(self) -> None:
        """Forgets the last keyframe."""
        if self.keyframes:
            self.keyframes.pop()
        self.message = f"{len(self.keyframes)} keyframes"

    def save_path(self) -> Path | None:
        """Writes the keyframes under a new name in the results folder, for `avatarpose render --path`."""
        if len(self.keyframes) < 2:
            self.message = "a path needs two keyframes or more"
            return None
        path = free_name(self.data.sequence.results, "path", ".json")
        save_keyframes(path, self.keyframes)
        self.message = f"path: {path}; film it with `avatarpose render`"
        return path

    def _greeting(self) -> str:
        kinds = ", ".join(self.data.kinds) or "no results yet: `avatarpose run` makes them"
        return f"{self.data.sequence.name}: {len(self.data.frames)} frames, {len(self.data.people)} people; {kinds}"


def free_name(folder: Path, stem: str, suffix: str) -> Path:
    """The first of `stem_000`, `stem_001`, ... that is not there yet."""
    number = 0
    while (path := folder / f"{stem}_{number:03d}{suffix}").exists():
        number += 1
    return path
