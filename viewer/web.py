"""The viewer as a page in a browser (viser): the same scene, panel and timeline, for machines without a display."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float

from avatarpose.errors import InputError
from viewer.avatar_view import ProgressivePictures
from viewer.controls import Button, Check, Choice, Plot, Rows, Slider, panel
from viewer.scene import BACKGROUND, Drawable, Label, Lines, Mesh, Picture, build_scene, first_view, frustum_corners
from viewer.session import Session
from viewer.state import SPEEDS
from viewer.view import View

TICKS = 30  # a second
PLOT_PIXELS = 340
STILL_SECONDS = 0.4  # a camera rests this long before the avatars are rendered
BACKDROP_METRES = 12.0
"""Distance of the image behind the people from the camera that is looked through."""
NOTHING = "-"
THROUGH_OPACITY = 0.65


def serve(session: Session, host: str, port: int) -> None:
    """Shows the page until it is interrupted; prints its address.

    Raises:
        InputError: viser is not installed, or the port is taken.
    """
    page = Page(session, host, port)
    print(f"{session.data.sequence.name}: http://{host if host != '0.0.0.0' else 'localhost'}:{page.port}", flush=True)
    print("control-C ends it", flush=True)
    try:
        page.run()
    finally:
        page.stop()


class Page:
    """One page, shared by all who open it: they see the same frame, each from where they stand."""

    def __init__(self, session: Session, host: str = "127.0.0.1", port: int = 8080) -> None:
        try:
            import viser
        except ImportError:
            raise InputError("--web needs viser", expected="pip install viser", found="not installed") from None
        self.session = session
        try:
            self.server = viser.ViserServer(host=host, port=port, label="avatarpose", verbose=False)
        except OSError as error:
            raise InputError(
                "the page cannot be served", expected="a free port", found=f"{host}:{port}: {error}"
            ) from None
        self.port = self.server.get_port()
        if self.port != port and port != 0:
            self.server.stop()
            raise InputError("the port is taken", expected=f"port {port}", found="in use", hint="Choose another --port")
        self.server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, control_width="large")
        self.server.scene.set_up_direction(tuple(session.data.sequence.up_vector))
        self._lock = threading.RLock()
        self._drawn: dict[str, tuple[Drawable, Any]] = {}
        self._updates: list[Callable[[], None]] = []
        self._silent = False
        self._client: Any = None
        self._through: str | None = None
        self._rendered = False
        self._asked: tuple | None = None
        self._moved_at = 0.0
        self._stopped = threading.Event()
        self.progressive = ProgressivePictures(self._render_avatars, self._deliver)
        self._build()
        self._clear_background()
        self.server.on_client_connect(self._welcome)
        self.refresh()

    # ---- life ----

    def run(self) -> None:
        """Lets time pass until `stop`."""
        last = time.monotonic()
        while not self._stopped.wait(1 / TICKS):
            now = time.monotonic()
            with self._lock:
                if self.session.timeline.advance(now - last):
                    self.refresh()
                if self._rendered and not self.session.timeline.playing:
                    self._ask_for_avatars(now)
            last = now

    def stop(self) -> None:
        """Ends the page."""
        self._stopped.set()
        self.progressive.close()
        self.server.stop()

    def _welcome(self, client: Any) -> None:
        with self._lock:
            self._client = client
            self._place(client, self._through_view() or first_view(self.session.data, self.session.state, 960, 720))
        client.camera.on_update(lambda _: self._moved(client))

    def _moved(self, client: Any) -> None:
        self._client, self._moved_at = client, time.monotonic()
        if self._rendered and self._asked is not None:
            with self._lock:
                self._asked = None
                self._clear_background()
                self.refresh()

    # ---- what the panel asks for (viewer.controls.FrontEnd) ----

    def current_view(self) -> View:
        """Where the visitor who last did something stands."""
        if self._client is None:
            return first_view(self.session.data, self.session.state, 960, 720)
        camera = self._client.camera
        width, height = max(int(camera.image_width), 64), max(int(camera.image_height), 64)
        return View.look_at(
            camera.position, camera.look_at, camera.up_direction, float(np.degrees(camera.fov)), width, height
        )

    def screenshot(self) -> None:
        """Saves what the visitor sees, painted anew, and sends it to them."""
        view = self.current_view()
        picture = self.session.avatar_picture(view) if self._rendered else self.session.take_picture(view)
        path = self.session.save_picture(picture)
        if self._client is not None:
            self._client.send_file_download(path.name, path.read_bytes())

    def set_rendered(self, on: bool) -> None:
        """Shows the avatars by our renderer where the visitor stands, or no longer."""
        self._rendered, self._asked = on, None
        if not on:
            self.progressive.cancel()
            self._clear_background()

    def is_rendered(self) -> bool:
        return self._rendered

    # ---- drawing ----

    def refresh(self) -> None:
        """Draws the present state."""
        with self._lock, self.server.atomic():
            state = self.session.state
            scene = self.session.scene()
            drawables = _seen_through(scene.drawables)
            if scene.view is not None and scene.backdrop is not None:
                corners = frustum_corners(scene.view, BACKDROP_METRES)
                version = (state.through, state.frame, state.backdrop)
                drawables.append(Picture("backdrop", version, corners, scene.backdrop))
            self._draw(drawables)
            if state.through != self._through:
                self._through = state.through
                view = scene.view or first_view(self.session.data, state, 960, 720)
                for client in self.server.get_clients().values():
                    self._place(client, view)
            if self._asked is not None:
                self._asked = None
                self._clear_background()
            self._update_controls()

    def _draw(self, drawables: list[Drawable]) -> None:
        wanted = {drawable.name: drawable for drawable in drawables}
        for name, (old, handle) in list(self._drawn.items()):
            if name not in wanted or wanted[name].version != old.version:
                if name in wanted and self._moved_on(old, wanted[name], handle):
                    self._drawn[name] = (wanted[name], handle)
                    continue
                handle.remove()
                del self._drawn[name]
        for name, drawable in wanted.items():
            if name not in self._drawn:
                handle = self._add(drawable)
                if handle is not None:
                    self._drawn[name] = (drawable, handle)

    def _moved_on(self, old: Drawable, new: Drawable, handle: Any) -> bool:
        """Whether a body of one colour could be moved in place of being sent anew."""
        movable = isinstance(old, Mesh) and isinstance(new, Mesh) and old.opacity == new.opacity
        if not movable or not _plain(old.colours) or not _plain(new.colours):
            return False
        if not np.array_equal(old.colours[0], new.colours[0]):
            return False
        handle.vertices = np.asarray(new.vertices, np.float32)
        return True

    def _add(self, drawable: Drawable) -> Any:
        scene, name = self.server.scene, "/" + drawable.name.replace(" ", "/")
        if isinstance(drawable, Label):
            return scene.add_label(name, drawable.text, position=drawable.position, font_screen_scale=0.9)
        if isinstance(drawable, Lines):
            if not len(drawable.pieces):
                return None
            points = np.asarray(drawable.points, np.float32)[drawable.pieces]
            colours = np.repeat(np.round(255 * _linear(drawable.colours)).astype(np.uint8)[:, None], 2, axis=1)
            return scene.add_line_segments(name, points, colours, thickness=drawable.width, thickness_units="screen")
        if isinstance(drawable, Picture):
            return self._add_picture(name, drawable)
        if drawable.opacity <= 0:
            return None
        if _plain(drawable.colours):
            colour = tuple(int(v) for v in np.round(255 * drawable.colours[0]))
            opacity = None if drawable.opacity >= 1 else float(drawable.opacity)
            return scene.add_mesh_simple(name, drawable.vertices, drawable.faces, color=colour, opacity=opacity)
        import trimesh

        linear = _linear(drawable.colours)
        colours = np.concatenate([linear, np.full((len(linear), 1), drawable.opacity)], axis=1)
        mesh = trimesh.Trimesh(
            drawable.vertices, drawable.faces, vertex_normals=drawable.normals,
            vertex_colors=np.round(255 * colours).astype(np.uint8), process=False,
        )  # fmt: skip
        return scene.add_mesh_trimesh(name, mesh)

    def _add_picture(self, name: str, picture: Picture) -> Any:
        corners = np.asarray(picture.corners, float)
        right, down = corners[1] - corners[0], corners[3] - corners[0]
        width, height = float(np.linalg.norm(right)), float(np.linalg.norm(down))
        x, y = right / width, down / height
        R_world_image = np.stack([x, y, np.cross(x, y)], axis=1)
        image = picture.image
        if name == "/ground":
            image = cv2.resize(image, (8, 8))
        return self.server.scene.add_image(
            name, image, width, height, wxyz=quaternion(R_world_image), position=corners.mean(axis=0),
            format="jpeg", jpeg_quality=85, cast_shadow=False, receive_shadow=False,
        )  # fmt: skip

    def _clear_background(self) -> None:
        self.server.scene.set_background_image(np.full((4, 4, 3), np.round(255 * BACKGROUND), np.uint8), format="png")

    # ---- cameras ----

    def _through_view(self) -> View | None:
        return build_scene(self.session.data, self.session.state).view

    def _place(self, client: Any, view: View) -> None:
        """Puts a visitor where a view is, so that all of the view's picture is seen."""
        camera = client.camera
        shape = float(camera.aspect)
        middle, size = view.K[:2, 2], np.array([view.width, view.height])
        # The browser's optical axis is in the middle of the page, the view's need not be.
        reach = np.maximum(middle, size - middle) / view.K[[0, 1], [0, 1]]
        half = max(float(reach[1]), float(reach[0]) / shape)
        distance = max(float((self.session.data.middle - view.position) @ view.forward), 0.5)
        with client.atomic():
            camera.up_direction = tuple(view.up)
            camera.position = tuple(view.position)
            camera.look_at = tuple(view.position + distance * view.forward)
            camera.fov = float(2 * np.arctan(half))

    # ---- avatars by our own renderer ----

    def _ask_for_avatars(self, now: float) -> None:
        if self._asked is None and self._client is not None and now - self._moved_at > STILL_SECONDS:
            state = replace(self.session.state, kinds=set(self.session.state.kinds))
            self._asked = (self.current_view(), state)
            self.progressive.ask(self._asked)

    def _render_avatars(self, request: tuple, step: int) -> np.ndarray:
        view, state = request
        return self.session.avatar_picture(view, step, state)

    def _deliver(self, request: tuple, made: Any) -> None:
        with self._lock:
            if request is not self._asked:
                return
            if isinstance(made, Exception):
                self.session.message, self._rendered = str(made), False
                self.refresh()
                return
            with self.server.atomic():
                self._draw([])
                self.server.scene.set_background_image(made)

    # ---- panel and timeline ----

    def _build(self) -> None:
        gui, timeline = self.server.gui, self.session.timeline
        frames = self.session.data.frames
        with gui.add_folder("Timeline"):
            play = gui.add_button("Play")
            step = gui.add_button_group("step", ("<", ">"))
            slider = gui.add_slider("frame", 0, max(len(frames) - 1, 1), 1, 0)
            speed = gui.add_dropdown("speed", [f"{s:g} x" for s in SPEEDS], initial_value="1 x")
            message = gui.add_markdown(self.session.message)
        self._on(play.on_click, lambda _: setattr(timeline, "playing", not timeline.playing))
        self._on(step.on_click, lambda event: timeline.step(-1 if event.target.value == "<" else 1))
        self._on(speed.on_update, lambda event: setattr(timeline, "speed", float(event.target.value.split()[0])))

        def slide(event: Any) -> None:
            if int(event.target.value) != timeline.frame:
                timeline.playing = False
                timeline.go(int(event.target.value))

        self._on(slider.on_update, slide)

        def update() -> None:
            _put(play, "label", "Stop" if timeline.playing else "Play")
            _put(slider, "value", timeline.frame)
            _put(message, "content", f"frame {frames[timeline.frame]} / {frames[-1]}. {self.session.message}")

        self._updates.append(update)
        for section in panel(self.session, self):
            with gui.add_folder(section.title, expand_by_default=section.opened):
                for row in section.rows:
                    for control in row:
                        self._add_control(control)

    def _add_control(self, control: Any) -> None:
        gui = self.server.gui
        if isinstance(control, Button):
            self._on(gui.add_button(control.label).on_click, lambda _: control.press())
        elif isinstance(control, Plot):
            self._add_plots(control)
        elif isinstance(control, Rows):
            rows = gui.add_dropdown(control.label, [NOTHING])
            shown: list[list[str]] = [[]]

            def choose(event: Any) -> None:
                if event.target.value in shown[0]:
                    control.choose(shown[0].index(event.target.value))

            def update() -> None:
                lines = control.get()
                if lines != shown[0]:
                    shown[0] = lines
                    rows.options = [NOTHING, *lines]

            self._on(rows.on_update, choose)
            self._updates.append(update)
        else:
            if isinstance(control, Check):
                widget = gui.add_checkbox(control.label, control.get())
            elif isinstance(control, Choice):
                widget = gui.add_dropdown(control.label, control.options, initial_value=control.get())
            elif isinstance(control, Slider):
                widget = gui.add_slider(control.label, 0.0, 1.0, 0.05, control.get())
            else:
                raise TypeError(f"no widget for {type(control).__name__}")
            self._on(widget.on_update, lambda event: control.set(event.target.value))
            self._updates.append(lambda: _put(widget, "value", control.get()))

    def _add_plots(self, control: Plot) -> None:
        images = [self.server.gui.add_image(np.zeros((2, 2, 3), np.uint8), visible=False) for _ in range(2)]

        def update() -> None:
            made = control.get(PLOT_PIXELS)
            for i, handle in enumerate(images):
                _put(handle, "visible", i < len(made))
                if i < len(made):
                    handle.image = made[i]

        self._updates.append(update)

    def _on(self, subscribe: Callable, action: Callable[[Any], None]) -> None:
        """Calls `action` with events that a visitor caused, then draws."""

        def react(event: Any) -> None:
            if self._silent or event.client is None:
                return
            with self._lock:
                self._client = event.client
                action(event)
                self.refresh()

        subscribe(react)

    def _update_controls(self) -> None:
        with self._quiet():
            for update in self._updates:
                update()

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        self._silent, before = True, self._silent
        try:
            yield
        finally:
            self._silent = before


def _put(handle: Any, name: str, value: Any) -> None:
    """Sets a widget's property where it differs: every setting is sent to all visitors."""
    if getattr(handle, name) != value:
        setattr(handle, name, value)


def _seen_through(drawables: list[Drawable]) -> list[Drawable]:
    """Bodies made translucent where lines shall be seen through them: the browser hides what lies behind."""
    if not any(isinstance(drawable, Lines) and drawable.on_top for drawable in drawables):
        return list(drawables)
    return [
        replace(d, opacity=min(d.opacity, THROUGH_OPACITY), version=(d.version, "through"))
        if isinstance(d, Mesh)
        else d
        for d in drawables
    ]


def _linear(colours: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """sRGB to linear light: what the browser's renderer takes colours of vertices and lines for."""
    colours = np.clip(colours, 0, 1)
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def _plain(colours: Float[np.ndarray, "n 3"]) -> bool:
    return bool((np.ptp(colours, axis=0) < 1e-6).all())


def quaternion(R: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 4"]:
    """Unit quaternion (w, x, y, z) of a rotation matrix."""
    import roma
    import torch

    xyzw = roma.rotmat_to_unitquat(torch.as_tensor(R, dtype=torch.float64)).numpy()
    return xyzw[[3, 0, 1, 2]]
