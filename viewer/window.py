"""The viewer's window (Open3D): the scene, the panel beside it, the timeline below. Knows no maths of people."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from viewer.avatar_view import ProgressivePictures
from viewer.display import require_window
from viewer.paint import draw_legend, shade
from viewer.panel import Panel, TimelineBar
from viewer.scene import (
    BACKGROUND,
    DIFFERENCE_RANGE,
    Drawable,
    Label,
    Lines,
    Mesh,
    Picture,
    Scene,
    build_scene,
    first_view,
)
from viewer.session import Session
from viewer.view import NEAR, View, fit_image

FAR = 100.0  # metres
PANEL_EM, BAR_EM = 25, 4.2
STILL_SECONDS = 0.25  # the camera rests this long before the avatars are rendered finer
# Without tone mapping Open3D takes the sRGB curve off images and background colours and does not put it on again; this
# puts it on before. Colours of vertices pass through as they are.
_LEVELS = np.arange(256) / 255
_LIFTED = (255 * np.where(_LEVELS <= 0.0031308, 12.92 * _LEVELS, 1.055 * _LEVELS ** (1 / 2.4) - 0.055)).round()
_LIFTED = _LIFTED.astype(np.uint8)
_ON_TOP = 0.15  # lines on top are drawn this much nearer to the camera, which leaves their pixels where they are


def show(session: Session, width: int, height: int) -> None:
    """Opens the window and stays until it is closed.

    Raises:
        InputError: no window can be opened here.
    """
    require_window()
    window = ViewerWindow(session, width, height)
    try:
        window.run()
    finally:
        window.finish()


class ViewerWindow:
    """One window. Everything here runs in the thread that made it."""

    def __init__(self, session: Session, width: int, height: int) -> None:
        import open3d as o3d

        self.o3d, self.gui, self.rendering = o3d, o3d.visualization.gui, o3d.visualization.rendering
        self.session = session
        self.app = self.gui.Application.instance
        self.app.initialize()
        self.window = self.app.create_window(f"avatarpose - {session.data.sequence.name}", width, height)
        self.canvas = self.gui.SceneWidget()
        self.canvas.scene = self.rendering.Open3DScene(self.window.renderer)
        self.canvas.scene.view.set_post_processing(False)  # tone mapping would change the colours
        self.canvas.set_view_controls(self.gui.SceneWidget.Controls.ROTATE_CAMERA)
        self._clear = [*(_LIFTED[(255 * BACKGROUND).round().astype(int)] / 255), 1.0]
        self._drawn: dict[str, Drawable] = {}
        self._labels: dict[str, Any] = {}
        self._on_top: set[str] = set()
        self._view_seen: tuple | None = None
        self._through: str | None = None
        self._free_view: View | None = None
        self._placed = False
        self._rendered = False
        self._asked: tuple | None = None
        self._moved_at = 0.0
        self._last_tick = time.monotonic()
        self._background: np.ndarray | None = None
        self._scene = Scene([])
        self.closed = False
        self.progressive = ProgressivePictures(self._render_avatars, self._deliver)
        self.panel = Panel(self.gui, self.o3d, self.window, session, self, self.refresh)
        self.bar = TimelineBar(self.gui, self.window, session, self.refresh)
        for child in (self.canvas, self.panel.widget, self.bar.widget):
            self.window.add_child(child)
        self.window.set_on_layout(self._layout)
        self.window.set_on_tick_event(self._tick)
        self.window.set_on_key(self._key)
        self.window.set_on_close(self._close)

    # ---- life ----

    def run(self) -> None:
        """Until the window is closed."""
        self.app.run()

    def finish(self) -> None:
        """Ends the rendering thread."""
        self.progressive.close()

    def _close(self) -> bool:
        self.closed = True
        return True

    def _layout(self, context: Any) -> None:
        rect = self.window.content_rect
        em = self.window.theme.font_size
        side, below = min(int(PANEL_EM * em), rect.width // 2), int(BAR_EM * em)
        wide, tall = max(rect.width - side, 1), max(rect.height - below, 1)
        resized = self.size != (wide, tall)
        Rect = self.gui.Rect
        self.canvas.frame = Rect(rect.x, rect.y, wide, tall)
        self.panel.widget.frame = Rect(rect.x + wide, rect.y, side, rect.height)
        self.bar.widget.frame = Rect(rect.x, rect.y + tall, wide, below)
        self.panel.set_width(side)
        if not self._placed:
            self._placed = True
            self.look_from(first_view(self.session.data, self.session.state, wide, tall))
            self.refresh()
        elif resized and self.session.state.through is not None:
            self.refresh()

    def _tick(self) -> bool:
        now = time.monotonic()
        changed = self.session.timeline.advance(now - self._last_tick)
        self._last_tick = now
        moved = self._camera_moved(now)
        if changed:
            self.refresh()
        elif moved:
            self._keep_on_top()
        if self._rendered and not self.session.timeline.playing:
            self._ask_for_avatars(now)
        return changed or moved

    def _key(self, event: Any) -> bool:
        if event.type != self.gui.KeyEvent.Type.DOWN:
            return False
        keys, timeline = self.gui.KeyName, self.session.timeline
        actions: dict[Any, Callable[[], None]] = {
            keys.SPACE: self.bar.toggle,
            keys.LEFT: lambda: timeline.step(-1),
            keys.RIGHT: lambda: timeline.step(1),
            keys.HOME: lambda: timeline.go(0),
            keys.END: lambda: timeline.go(timeline.count - 1),
        }
        action = actions.get(event.key)
        if action is None:
            return False
        action()
        self.refresh()
        return True

    # ---- what the panel asks for (viewer.controls.FrontEnd) ----

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the scene's part of the window, pixels."""
        return max(self.canvas.frame.width, 1), max(self.canvas.frame.height, 1)

    def current_view(self) -> View:
        """Where the scene is seen from now."""
        width, height = self.size
        if self._through is not None and self.session.state.through == self._through:
            c = self.session.data.sequence.cameras.names.index(self._through)
            return View.through(self.session.data.sequence.cameras, c).fitted(width, height)
        camera = self.canvas.scene.camera
        T = np.asarray(camera.get_model_matrix(), float)  # OpenGL: x right, y up, z backwards
        fov = float(camera.get_field_of_view())
        return View.look_at(T[:3, 3], T[:3, 3] - T[:3, 2], T[:3, 1], fov, width, height)

    def look_from(self, view: View) -> None:
        """Moves the free camera."""
        width, height = self.size
        camera = self.canvas.scene.camera
        distance = max(float((self.session.data.middle - view.position) @ view.forward), 0.5)
        target = view.position + distance * view.forward
        camera.set_projection(view.fov_deg, width / height, NEAR, FAR, self.rendering.Camera.FovType.Vertical)
        self.canvas.look_at(*(np.asarray(v, np.float32) for v in (target, view.position, view.up)))
        self.canvas.center_of_rotation = np.asarray(target, np.float32)
        self._view_seen = self._camera_key()

    def screenshot(self) -> None:
        """Saves the scene as it is seen, or the rendered avatars."""
        if self._rendered and self._background is not None:
            self.session.save_picture(self._background)
            return
        self.canvas.scene.scene.render_to_image(self._save)
        # The picture is taken at the next drawing, which a window at rest does not do.
        self.canvas.force_redraw()
        self.window.post_redraw()

    def _save(self, image: Any) -> None:
        picture = np.ascontiguousarray(np.asarray(image)[..., :3])
        if self.session.state.surface == "difference":
            draw_legend(picture, self._scene.legend or DIFFERENCE_RANGE)
        self.session.save_picture(picture)
        self.panel.update()
        self.bar.update()

    def set_rendered(self, on: bool) -> None:
        """Shows the avatars by our renderer as soon as the picture rests, or no longer."""
        self._rendered, self._asked = on, None
        if not on:
            self.progressive.cancel()
            self.session.message = ""

    def is_rendered(self) -> bool:
        return self._rendered

    # ---- drawing ----

    def refresh(self, panel: bool = True) -> None:
        """Draws the present state."""
        if not self._placed:
            return
        self._asked = None
        self._scene = self.session.scene()
        self._look_through(self._scene)
        self._draw(self._scene.drawables)
        self._show_background(self._scene)
        self._keep_on_top()
        self.bar.update()
        if panel:
            self.panel.update(self.session.timeline.playing)
        self.canvas.force_redraw()
        self.window.post_redraw()

    def _look_through(self, scene: Scene) -> None:
        """Puts the camera where the state wants it, if it wants it anywhere."""
        through = self.session.state.through
        width, height = self.size
        free = None if self._through is not None else self.current_view()
        if scene.view is not None:
            view = scene.view.fitted(width, height)
            T = np.eye(4)
            T[:3, :3], T[:3, 3] = view.R, view.t
            low, high = self.session.data.extent
            box = self.o3d.geometry.AxisAlignedBoundingBox(low, high)
            self.canvas.setup_camera(view.K, T, width, height, box)
            self.canvas.scene.camera.set_projection(view.K, NEAR, FAR, width, height)
        elif self._through is not None:
            self.look_from(self._free_view or first_view(self.session.data, self.session.state, width, height))
        if scene.view is not None and self._through is None:
            self._free_view = free
        if through != self._through:
            self._through, self._background = through, None
        self._view_seen = self._camera_key()

    def _show_background(self, scene: Scene) -> None:
        width, height = self.size
        if scene.backdrop is not None:
            self._set_background(fit_image(scene.backdrop, width, height, BACKGROUND))
        else:
            self._background = None
            self.canvas.scene.set_background(self._clear)

    def _set_background(self, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        self._background = picture
        self.canvas.scene.set_background(self._clear, self.o3d.geometry.Image(_encoded(picture)))

    def _draw(self, drawables: list[Drawable]) -> None:
        """Adds, replaces and removes what has changed since the last time."""
        wanted = {drawable.name: drawable for drawable in drawables}
        for name, old in list(self._drawn.items()):
            new = wanted.get(name)
            if new is None or new.version != old.version:
                self._remove(name)
        for name, drawable in wanted.items():
            if name not in self._drawn:
                self._add(drawable)
                self._drawn[name] = drawable

    def _remove(self, name: str) -> None:
        old = self._drawn.pop(name)
        self._on_top.discard(name)
        if isinstance(old, Label):
            self.canvas.remove_3d_label(self._labels.pop(name))
        elif self.canvas.scene.has_geometry(name):
            self.canvas.scene.remove_geometry(name)

    def _add(self, drawable: Drawable) -> None:
        material = self.rendering.MaterialRecord()
        if isinstance(drawable, Label):
            label = self.canvas.add_3d_label(np.asarray(drawable.position, np.float32), drawable.text)
            label.color = self.gui.Color(*(float(v) for v in drawable.colour))
            self._labels[drawable.name] = label
            return
        if isinstance(drawable, Mesh):
            if drawable.opacity <= 0:
                return
            geometry = self._mesh(drawable)
            material.shader = "defaultUnlit" if drawable.opacity >= 1 else "defaultLitTransparency"
            material.base_color = [1.0, 1.0, 1.0, float(drawable.opacity)]
        elif isinstance(drawable, Lines):
            if not len(drawable.pieces):
                return
            geometry = self.o3d.geometry.LineSet(
                self.o3d.utility.Vector3dVector(np.asarray(drawable.points, float)),
                self.o3d.utility.Vector2iVector(np.asarray(drawable.pieces, np.int32)),
            )
            geometry.colors = self.o3d.utility.Vector3dVector(np.asarray(drawable.colours, float))
            material.shader, material.line_width = "unlitLine", float(drawable.width) * self.window.scaling
            if drawable.on_top:
                self._on_top.add(drawable.name)
        else:
            geometry = self._picture(drawable)
            material.shader = "defaultUnlit"
            material.albedo_img = self.o3d.geometry.Image(_encoded(drawable.image))
        self.canvas.scene.add_geometry(drawable.name, geometry, material)

    def _mesh(self, mesh: Mesh) -> Any:
        """Colours are shaded here, as the painter shades them: drivers light meshes in different ways."""
        vector, triangles = self.o3d.utility.Vector3dVector, self.o3d.utility.Vector3iVector
        made = self.o3d.geometry.TriangleMesh(vector(np.asarray(mesh.vertices, float)), triangles(mesh.faces))
        shaded = mesh.colours * shade(mesh.normals @ self.current_view().R.T)[:, None]
        made.vertex_colors = vector(np.clip(shaded, 0, 1))
        made.vertex_normals = vector(np.asarray(mesh.normals, float))
        # Without texture coordinates the software driver makes its own, which takes minutes.
        made.triangle_uvs = self.o3d.utility.Vector2dVector(np.zeros((3 * len(mesh.faces), 2)))
        return made

    def _picture(self, picture: Picture) -> Any:
        # Seen from both sides.
        faces = np.array([(0, 2, 1), (0, 3, 2), (0, 1, 2), (0, 2, 3)], np.int32)
        corners = np.array([(0, 1), (1, 1), (1, 0), (0, 0)], float)
        made = self.o3d.geometry.TriangleMesh(
            self.o3d.utility.Vector3dVector(np.asarray(picture.corners, float)),
            self.o3d.utility.Vector3iVector(faces),
        )
        made.triangle_uvs = self.o3d.utility.Vector2dVector(corners[faces.reshape(-1)])
        made.vertex_colors = self.o3d.utility.Vector3dVector(np.ones((4, 3)))  # without: grey
        made.compute_vertex_normals()
        return made

    def _keep_on_top(self) -> None:
        """Brings lines that shall be seen through bodies to the camera, along their lines of sight."""
        if not self._on_top:
            return
        T = np.eye(4)
        T[:3, :3] *= _ON_TOP
        T[:3, 3] = (1 - _ON_TOP) * self.current_view().position
        for name in self._on_top:
            if self.canvas.scene.has_geometry(name):
                self.canvas.scene.set_geometry_transform(name, T)

    # ---- the camera ----

    def _camera_key(self) -> tuple:
        camera = self.canvas.scene.camera
        matrix = np.concatenate([np.asarray(camera.get_model_matrix()).ravel(), np.asarray(self.size)])
        return tuple(np.round(matrix, 5).tolist())

    def _camera_moved(self, now: float) -> bool:
        """Whether the mouse has moved the camera since the last look; one that was looked through becomes free."""
        key = self._camera_key()
        if key == self._view_seen or not self._placed:
            return False
        self._view_seen, self._moved_at = key, now
        if self._through is not None:
            state = self.session.state
            state.beside, state.through, self._through = self._through, None, None
            self.canvas.scene.camera.set_projection(
                40.0, self.size[0] / self.size[1], NEAR, FAR, self.rendering.Camera.FovType.Vertical
            )
            self.refresh()
        elif self._asked is not None:
            self.refresh(panel=False)  # the bodies come back while the camera moves
        return True

    # ---- avatars by our own renderer ----

    def _ask_for_avatars(self, now: float) -> None:
        """Asks for a picture from here once the camera rests."""
        if self._asked is None and now - self._moved_at > STILL_SECONDS:
            from dataclasses import replace

            state = replace(self.session.state, kinds=set(self.session.state.kinds))
            self._asked = (self.current_view(), state)
            self.progressive.ask(self._asked)
            self.session.message = "rendering the avatars ..."
            self.bar.update()

    def _render_avatars(self, request: tuple, step: int) -> UInt8[np.ndarray, "h w 3"]:
        view, state = request
        return self.session.avatar_picture(view, step, state)

    def _deliver(self, request: tuple, made: Any) -> None:
        def put() -> None:
            if request is not self._asked or self.closed:
                return
            if isinstance(made, Exception):
                self.session.message = str(made)
                self._rendered = False
                self.refresh()
                return
            # The picture holds ground and cameras too: of the scene only lines on top and names stay.
            kept = build_scene(self.session.data, self.session.state)
            self._draw([d for d in kept.drawables if isinstance(d, Label) or (isinstance(d, Lines) and d.on_top)])
            self._set_background(made)
            self._keep_on_top()
            self.session.message = "avatars rendered"
            self.bar.update()
            self.canvas.force_redraw()
            self.window.post_redraw()

        self.app.post_to_main_thread(self.window, put)


def _encoded(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return np.ascontiguousarray(_LIFTED[image])
