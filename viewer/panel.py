"""The window's panel and timeline: Open3D widgets for the controls of `viewer.controls`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from viewer.controls import Button, Check, Choice, FrontEnd, Plot, Rows, Section, Slider, panel
from viewer.session import Session
from viewer.state import SPEEDS

LIST_ROWS = 6


class Panel:
    """The widgets of all sections; `update` shows the values that things have now.

    Args:
        gui, o3d: Open3D's modules, imported by the window.
        window: gives sizes.
        refresh: called after anything was set.
    """

    def __init__(
        self, gui: Any, o3d: Any, window: Any, session: Session, front: FrontEnd, refresh: Callable[[], None]
    ) -> None:
        self.gui, self.o3d, self.window, self.refresh = gui, o3d, window, refresh
        em = window.theme.font_size
        self._em = em
        self._width = 20 * em
        self._updates: list[Callable[[], None]] = []
        self._slow: list[Callable[[], None]] = []
        self._silent = False
        self.widget = gui.ScrollableVert(int(0.4 * em), gui.Margins(int(0.6 * em), int(0.5 * em), int(em), int(em)))
        for section in panel(session, front):
            self._add_section(section)

    def update(self, only_fast: bool = False) -> None:
        """Asks every control for its value; `only_fast` leaves the lists out, for playing."""
        self._silent = True
        try:
            for update in self._updates:
                update()
            if not only_fast:
                for update in self._slow:
                    update()
        finally:
            self._silent = False

    def set_width(self, pixels: int) -> None:
        """Tells the plots how wide they may be."""
        self._width = max(pixels - int(3.2 * self._em), 100)

    def _add_section(self, section: Section) -> None:
        gui, em = self.gui, self._em
        inside = gui.CollapsableVert(
            section.title, int(0.3 * em), gui.Margins(int(0.5 * em), int(0.2 * em), 0, int(0.3 * em))
        )
        inside.set_is_open(section.opened)
        for row in section.rows:
            wide = len(row) == 1 and isinstance(row[0], Plot | Rows)
            line = gui.Vert(int(0.2 * em)) if wide else gui.Horiz(int(0.6 * em))
            for control in row:
                for widget in self._widgets(control):
                    line.add_child(widget)
            if not wide and not isinstance(row[-1], Slider):
                line.add_stretch()
            inside.add_child(line)
        self.widget.add_child(inside)

    def _changed(self, action: Callable[..., None], *values: Any) -> None:
        if not self._silent:
            action(*values)
            self.refresh()

    def _widgets(self, control: Any) -> list[Any]:
        makers = {
            Check: self._check, Choice: self._choice, Slider: self._slider,
            Button: self._button, Plot: self._plot, Rows: self._rows,
        }  # fmt: skip
        return makers[type(control)](control)

    def _check(self, control: Check) -> list[Any]:
        box = self.gui.Checkbox(control.label)
        box.set_on_checked(lambda value: self._changed(control.set, bool(value)))
        self._updates.append(lambda: setattr(box, "checked", bool(control.get())))
        return [box]

    def _choice(self, control: Choice) -> list[Any]:
        box = self.gui.Combobox()
        for option in control.options:
            box.add_item(option)

        def update() -> None:
            if control.get() in control.options:
                box.selected_index = control.options.index(control.get())

        box.set_on_selection_changed(lambda text, index: self._changed(control.set, control.options[index]))
        self._updates.append(update)
        return [self.gui.Label(control.label), box]

    def _slider(self, control: Slider) -> list[Any]:
        slider = self.gui.Slider(self.gui.Slider.DOUBLE)
        slider.set_limits(0.0, 1.0)
        slider.set_on_value_changed(lambda value: self._changed(control.set, float(value)))
        self._updates.append(lambda: setattr(slider, "double_value", float(control.get())))
        return [self.gui.Label(control.label), slider]

    def _button(self, control: Button) -> list[Any]:
        button = self.gui.Button(control.label)
        button.vertical_padding_em = 0.1
        button.set_on_clicked(lambda: self._changed(control.press))
        return [button]

    def _plot(self, control: Plot) -> list[Any]:
        images: list[Any] = []
        holder = self.gui.Vert(int(0.2 * self._em))

        def update() -> None:
            made = control.get(int(self._width))
            for i, picture in enumerate(made):
                image = self.o3d.geometry.Image(np.ascontiguousarray(picture))
                if i < len(images):
                    images[i].update_image(image)
                else:
                    images.append(self.gui.ImageWidget(image))
                    holder.add_child(images[i])
                    self.window.set_needs_layout()
            for i, widget in enumerate(images):
                if widget.visible != (i < len(made)):
                    widget.visible = i < len(made)
                    self.window.set_needs_layout()

        self._updates.append(update)
        return [holder]

    def _rows(self, control: Rows) -> list[Any]:
        rows = self.gui.ListView()
        rows.set_max_visible_items(LIST_ROWS)
        shown: list[list[str]] = [[]]

        def update() -> None:
            lines = control.get()
            if lines != shown[0]:
                shown[0] = lines
                rows.set_items(lines)
                self.window.set_needs_layout()

        def choose(text: str, double: bool) -> None:
            if 0 <= rows.selected_index < len(shown[0]):
                self._changed(control.choose, rows.selected_index)

        rows.set_on_selection_changed(choose)
        self._slow.append(update)
        return [self.gui.Label(control.label), rows]


class TimelineBar:
    """Play, step, slider, speed, frame number and the session's message."""

    def __init__(self, gui: Any, window: Any, session: Session, refresh: Callable[[], None]) -> None:
        self.session, self.refresh, self.window = session, refresh, window
        em = window.theme.font_size
        self.play = gui.Button("Play")
        back, forward = gui.Button("<"), gui.Button(">")
        self.slider = gui.Slider(gui.Slider.INT)
        self.slider.set_limits(0, max(session.timeline.count - 1, 1))
        self.speed = gui.Combobox()
        for speed in SPEEDS:
            self.speed.add_item(f"{speed:g} x")
        self.speed.selected_index = SPEEDS.index(1.0)
        self.number, self.message = gui.Label("frame 00000 / 00000"), gui.Label(session.message)
        for button in (self.play, back, forward):
            button.vertical_padding_em = 0.1
        self.play.set_on_clicked(self._pressed(self.toggle))
        back.set_on_clicked(self._pressed(lambda: session.timeline.step(-1)))
        forward.set_on_clicked(self._pressed(lambda: session.timeline.step(1)))
        self.slider.set_on_value_changed(self._slide)
        self.speed.set_on_selection_changed(lambda text, index: setattr(session.timeline, "speed", SPEEDS[index]))
        line = gui.Horiz(int(0.5 * em))
        for child in (self.play, back, forward, self.number, self.speed, self.slider):
            line.add_child(child)
        self.widget = gui.Vert(int(0.2 * em), gui.Margins(int(0.5 * em), int(0.4 * em), int(0.5 * em), int(0.2 * em)))
        self.widget.add_child(line)
        self.widget.add_child(self.message)

    def toggle(self) -> None:
        """Plays, or stops."""
        self.session.timeline.playing = not self.session.timeline.playing

    def update(self) -> None:
        """Shows the present frame and message."""
        timeline = self.session.timeline
        self.play.text = "Stop" if timeline.playing else "Play"
        if self.slider.int_value != timeline.frame:
            self.slider.int_value = timeline.frame
        frames = self.session.data.frames
        for label, text in (
            (self.number, f"frame {frames[timeline.frame]} / {frames[-1]}"),
            (self.message, self.session.message or " "),
        ):
            if label.text != text:
                longer = len(label.text) != len(text)
                label.text = text
                if longer:
                    self.window.set_needs_layout()

    def _slide(self, value: float) -> None:
        if round(value) != self.session.timeline.frame:
            self.session.timeline.playing = False
            self.session.timeline.go(round(value))
            self.refresh()

    def _pressed(self, action: Callable[[], None]) -> Callable[[], None]:
        def press() -> None:
            action()
            self.refresh()

        return press
