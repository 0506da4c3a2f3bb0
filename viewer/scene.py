"""From the data and what is to be shown of it to things that can be drawn; knows no window.

A scene is a list of drawables with names; the painter (`viewer.paint`), the window and the browser draw the same ones.
A drawable with an unchanged `version` need not be drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from viewer.data import ViewerData
from viewer.measure import difference_at_vertices
from viewer.overview import COLOURS
from viewer.state import KINDS, Kind, ViewState
from viewer.view import View

BACKGROUND = np.array([0.11, 0.12, 0.14])
GROUND_COLOUR, GROUND_LINES = np.array([0.17, 0.18, 0.21]), np.array([0.27, 0.29, 0.33])
TRUTH_COLOUR = np.array([0.97, 0.97, 0.97])
CAMERA_COLOUR, CHOSEN_CAMERA = np.array([0.50, 0.55, 0.62]), np.array([1.0, 0.78, 0.25])
DIFFERENCE_RANGE = 100.0
"""Millimetres at the red end of the difference colours."""
TRAIL_SECONDS = 1.0
TRAIL_JOINTS = (9, 10, 15, 16)  # COCO wrists and ankles
GRID = 0.5  # metres between the lines on the ground
FRUSTUM_PIXELS = 320  # greatest width and height of the images on the frustums
_PALER = 0.55
_GHOST = 0.45  # opacity of an initial body over a refined one

AvatarColours = Callable[[str], Float[np.ndarray, "vertices 3"] | None]


@dataclass(frozen=True)
class Mesh:
    """A surface. Colours are RGB as shown on the screen, 0 to 1, one a vertex."""

    name: str
    version: Hashable
    vertices: Float[np.ndarray, "vertices 3"]
    normals: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    colours: Float[np.ndarray, "vertices 3"]
    opacity: float = 1.0


@dataclass(frozen=True)
class Lines:
    """Straight pieces, each with its colour; `on_top` ones are seen through surfaces. Width in pixels."""

    name: str
    version: Hashable
    points: Float[np.ndarray, "points 3"]
    pieces: Int[np.ndarray, "pieces 2"]
    colours: Float[np.ndarray, "pieces 3"]
    width: float = 1.5
    on_top: bool = False


@dataclass(frozen=True)
class Picture:
    """A flat image in space; corners are those of its pixels: top left, top right, bottom right, bottom left."""

    name: str
    version: Hashable
    corners: Float[np.ndarray, "4 3"]
    image: UInt8[np.ndarray, "height width 3"]
    opacity: float = 1.0


@dataclass(frozen=True)
class Label:
    """Words at a point."""

    name: str
    version: Hashable
    text: str
    position: Float[np.ndarray, " 3"]
    colour: Float[np.ndarray, " 3"]


Drawable = Mesh | Lines | Picture | Label


@dataclass(frozen=True)
class Scene:
    """What is drawn, over which colour or image.

    Attributes:
        view: the camera looked through; None for a free view.
        backdrop: that camera's image, as visible as asked for.
        legend: what the colours mean, from 0 to this many millimetres; None where they mean people.
    """

    drawables: list[Drawable]
    view: View | None = None
    backdrop: UInt8[np.ndarray, "height width 3"] | None = None
    legend: float | None = None
    names: set[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {drawable.name for drawable in self.drawables})


def person_colour(data: ViewerData, person: str, kind: Kind) -> Float[np.ndarray, " 3"]:
    """A hue a person; initial and estimated ones paler, the truth near white."""
    own = np.array(COLOURS[data.people.index(person) % len(COLOURS)]) / 255
    if kind == "truth":
        return 0.8 * TRUTH_COLOUR + 0.2 * own
    return own if kind == "refined" else _PALER * own + (1 - _PALER) * 0.62


def difference_colours(
    millimetres: Float[np.ndarray, " n"], most: float = DIFFERENCE_RANGE
) -> Float[np.ndarray, "n 3"]:
    """Blue (0) over green and yellow to red (`most` and above); OpenCV's "turbo"."""
    levels = np.clip(255 * np.asarray(millimetres) / most, 0, 255).astype(np.uint8)
    return cv2.applyColorMap(levels[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1] / 255.0


def build_scene(data: ViewerData, state: ViewState, avatar_colours: AvatarColours | None = None) -> Scene:
    """The scene of the present frame.

    Args:
        avatar_colours: gives the vertex colours of a person's avatar, None where it has none.
    """
    f = int(np.clip(state.frame, 0, len(data.frames) - 1))
    kinds = [kind for kind in KINDS if kind in state.kinds and kind in data.kinds]
    named: set[tuple] = set()
    people = [name for name in data.people if state.people is None or name in state.people]
    view, backdrop = _looked_through(data, state, f)
    shifts = _shifts(data, kinds) if state.side_by_side and view is None else {kind: np.zeros(3) for kind in kinds}
    drawables: list[Drawable] = []
    if view is None:
        drawables += _ground(data, list(shifts.values())) if state.ground else []
        # The cameras stand around one place: beside each other, kinds are nowhere near it.
        cameras = state.frustums and not state.side_by_side
        drawables += _frustums(data, f, state.images, state.beside) if cameras else []
    for kind in kinds:
        shift = shifts[kind]
        ghost = kind == "initial" and "refined" in kinds and not np.any(shift) and state.surface != "difference"
        for person in people:
            if not data.is_there(kind, person, f):
                continue
            if state.meshes:
                mesh = _mesh(data, state, kind, person, f, shift, avatar_colours, ghost)
                drawables += [mesh] if mesh is not None else []
            no_surface = kind not in data.bodies
            if state.skeletons or no_surface or not state.meshes:
                drawables.append(_skeleton(data, kind, person, f, shift))
            if state.trails:
                drawables += _trail(data, kind, person, f, shift)
            if state.labels and (person, *shift) not in named:
                named.add((person, *shift))
                drawables.append(_label(data, kind, person, f, shift, len(shifts) > 1 and state.side_by_side))
    legend = DIFFERENCE_RANGE if state.surface == "difference" and state.meshes else None
    return Scene(drawables, view, backdrop, legend)


# ---- people ----


def _mesh(data, state: ViewState, kind: Kind, person: str, f: int, shift, avatar_colours, ghost: bool) -> Mesh | None:
    surface = data.surface(kind, person, f)
    if surface is None:
        return None
    colours = None
    if state.surface == "difference":
        away = difference_at_vertices(data, kind, person, f)
        colours = None if away is None else difference_colours(away)
    elif state.surface == "avatar" and avatar_colours is not None:
        colours = avatar_colours(person)
    if colours is None:
        colours = np.broadcast_to(person_colour(data, person, kind), surface.vertices.shape)
    opacity = state.opacity * (_GHOST if ghost else 1.0)
    version = (kind, person, f, state.surface, round(opacity, 3), tuple(shift), id(data.bodies.get(kind)))
    vertices = surface.vertices + shift.astype(np.float32)
    return Mesh(f"body {kind} {person}", version, vertices, surface.normals, data.body.faces.numpy(), colours, opacity)


def _skeleton(data: ViewerData, kind: Kind, person: str, f: int, shift) -> Lines:
    points = data.joints[kind][data.people.index(person), f]
    known = np.isfinite(points).all(-1)
    pieces = np.array([(a, b) for a, b in data.skeleton(kind) if known[a] and known[b]]).reshape(-1, 2)
    colours = np.tile(person_colour(data, person, kind), (len(pieces), 1))
    width = 2.5 if kind == "truth" else 3.5
    version = (kind, person, f, tuple(shift), id(data.joints[kind]))
    return Lines(f"skeleton {kind} {person}", version, np.nan_to_num(points) + shift, pieces, colours, width, True)


def _trail(data: ViewerData, kind: Kind, person: str, f: int, shift) -> list[Lines]:
    """The way of wrists and ankles over the last second, fading into the background."""
    first = max(0, f - round(TRAIL_SECONDS * data.fps))
    joints = data.joints[kind]
    chosen = TRAIL_JOINTS if joints.shape[2] == 17 else (20, 21, 7, 8)
    path = joints[data.people.index(person), first : f + 1][:, chosen]  # (T, 4, 3)
    count = len(path)
    if count < 2:
        return []
    points = np.nan_to_num(path.transpose(1, 0, 2).reshape(-1, 3)) + shift
    known = np.isfinite(path).all(-1).T.reshape(-1)
    starts = (np.arange(len(chosen))[:, None] * count + np.arange(count - 1)).reshape(-1)
    fade = np.tile((np.arange(count - 1) + 1) / (count - 1), len(chosen))[:, None]
    good = known[starts] & known[starts + 1]
    colours = fade * person_colour(data, person, kind) + (1 - fade) * BACKGROUND
    pieces = np.stack([starts, starts + 1], axis=-1)
    version = (kind, person, f, tuple(shift))
    return [Lines(f"trail {kind} {person}", version, points, pieces[good], colours[good], 2.0)]


def _label(data: ViewerData, kind: Kind, person: str, f: int, shift, with_kind: bool) -> Label:
    points = data.joints[kind][data.people.index(person), f]
    points = points[np.isfinite(points).all(-1)]
    up = data.sequence.up_vector
    above = points.mean(0) + (0.25 + (points @ up).max() - points.mean(0) @ up) * up
    text = f"{person} {kind}" if with_kind else person
    version = (text, f, tuple(shift))
    return Label(f"label {kind} {person}", version, text, above + shift, person_colour(data, person, "refined"))


def _shifts(data: ViewerData, kinds: list[Kind]) -> dict[Kind, np.ndarray]:
    """Where each kind stands when they stand beside each other: along the first horizontal axis."""
    axis = np.eye(3)[0 if abs(data.sequence.up_vector[0]) < 0.5 else 1]
    low, high = data.extent
    width = float((high - low) @ axis) + 0.4
    return {kind: (i - (len(kinds) - 1) / 2) * width * axis for i, kind in enumerate(kinds)}


# ---- surroundings ----


def _ground(data: ViewerData, shifts: list[np.ndarray]) -> list[Drawable]:
    up = data.sequence.up_vector
    low, high = data.extent
    around = 1.0 + max((float(np.abs(shift).max()) for shift in shifts), default=0.0)
    half = GRID * np.ceil((0.5 * float((high - low).max()) + around) / GRID)
    a, b = np.eye(3)[np.abs(up) < 0.5]
    middle = data.middle - (data.middle @ up) * up
    middle = GRID * np.round(middle / GRID) + data.floor * up
    steps = np.arange(-half, half + 1e-6, GRID)
    rows = np.stack([middle + s * a + side * half * b for s in steps for side in (-1, 1)])
    columns = np.stack([middle + s * b + side * half * a for s in steps for side in (-1, 1)])
    points = np.concatenate([rows, columns])
    pieces = np.arange(len(points)).reshape(-1, 2)
    version = (tuple(middle), float(half))
    corners = np.stack(
        [middle + x * half * a + y * half * b - 0.004 * up for x, y in ((-1, 1), (1, 1), (1, -1), (-1, -1))]
    )
    plain = np.full((8, 8, 3), 255 * GROUND_COLOUR, np.uint8)
    return [
        Picture("ground", version, corners, plain),
        Lines("grid", version, points, pieces, np.tile(GROUND_LINES, (len(pieces), 1)), 1.0),
    ]


def _frustums(data: ViewerData, f: int, images: bool, beside: str | None) -> list[Drawable]:
    cameras = data.sequence.cameras
    away = np.linalg.norm(cameras.centres.numpy() - data.middle, axis=-1)
    depth = float(np.clip(0.16 * np.median(away), 0.08, 0.6))
    drawables: list[Drawable] = []
    for c, name in enumerate(cameras.names):
        view = View.through(cameras, c)
        corners = frustum_corners(view, depth)
        apex = view.position
        points = np.concatenate([apex[None], corners])
        pieces = np.array([(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)])
        drawables.append(Lines(f"camera {name}", depth, points, pieces, np.tile(CAMERA_COLOUR, (8, 1)), 1.5))
        drawables.append(Label(f"name {name}", depth, name, apex + 0.07 * data.sequence.up_vector, CAMERA_COLOUR))
        if images and data.sequence.has_images and name != beside:
            image = data.image(c, f, FRUSTUM_PIXELS)
            drawables.append(Picture(f"image {name}", (f, depth), corners, image, 0.9))
    return drawables


def frustum_corners(view: View, depth: float) -> Float[np.ndarray, "4 3"]:
    """World positions of the image's corners at a depth: top left, top right, bottom right, bottom left."""
    width, height = view.width, view.height
    pixels = np.array([(0, 0, 1), (width, 0, 1), (width, height, 1), (0, height, 1)], float)
    return (depth * pixels @ np.linalg.inv(view.K).T - view.t) @ view.R


def _looked_through(data: ViewerData, state: ViewState, f: int) -> tuple[View | None, np.ndarray | None]:
    if state.through is None or state.through not in data.sequence.cameras.names:
        return None, None
    c = data.sequence.cameras.names.index(state.through)
    image = data.image(c, f)
    if image is not None:
        image = (state.backdrop * image + (1 - state.backdrop) * 255 * BACKGROUND).astype(np.uint8)
    return View.through(data.sequence.cameras, c), image


def first_view(data: ViewerData, state: ViewState, width: int, height: int, fov_deg: float = 40.0) -> View:
    """A viewpoint that shows everybody over the whole time, from the first camera's side, a little from above."""
    up = data.sequence.up_vector
    low, high = data.extent
    kinds = [kind for kind in KINDS if kind in state.kinds and kind in data.kinds]
    if state.side_by_side and state.through is None and kinds:
        spread = np.abs(np.stack(list(_shifts(data, kinds).values()))).max(axis=0)
        low, high = low - spread, high + spread
    middle = (low + high) / 2
    centres = data.sequence.cameras.centres.numpy()
    away = centres[0] - middle
    if state.side_by_side:  # looked at from across the row
        axis = np.eye(3)[0 if abs(up[0]) < 0.5 else 1]
        away = np.cross(axis, up)  # from here the axis runs to the right
    flat = away - (away @ up) * up
    flat = flat / max(np.linalg.norm(flat), 1e-9)
    turned = np.cross(up, flat)
    direction = flat + (0.0 if state.side_by_side else 0.35) * turned + 0.35 * up
    direction = direction / np.linalg.norm(direction)
    # As near as all corners of the box allow: |x| <= (distance + z) tan(half angle), in the camera's frame.
    towards = View.look_at(middle + direction, middle, up, fov_deg, width, height)
    corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1).T
    x, y, z = ((corners - middle) @ towards.R.T).T
    slope = 0.5 * np.array([width, height]) / towards.K[1, 1] * 0.9
    distance = float(np.max(np.maximum(np.abs(x) / slope[0], np.abs(y) / slope[1]) - z))
    return View.look_at(middle + distance * direction, middle, up, fov_deg, width, height)
