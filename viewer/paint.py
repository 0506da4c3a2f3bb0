"""Draws a scene to a picture on the CPU, without a window and without OpenGL.

Triangles are filled by edge functions (Pineda, "A parallel algorithm for polygon rasterization", SIGGRAPH 1988) for all
triangles of about one size at once, and the nearest one wins each pixel. Twice the resolution is drawn and averaged.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from viewer.scene import BACKGROUND, DIFFERENCE_RANGE, Label, Lines, Mesh, Picture, Scene, difference_colours
from viewer.view import NEAR, View, fit_image

OVERSAMPLING = 2
_AMBIENT = 0.38
_BIAS = 0.004  # share of the depth by which lines may lie behind a surface and be seen
_FRAGMENTS = 4_000_000  # candidates tested at once
_PIECE = 8.0  # pixels: length of the parts of a line that are hidden or seen as a whole


def paint(scene: Scene, view: View) -> UInt8[np.ndarray, "height width 3"]:
    """The scene as seen from `view`, RGB. Where the scene has a view of its own, pass that one, fitted to the size."""
    fine = view.fitted(view.width * OVERSAMPLING, view.height * OVERSAMPLING)
    canvas = _Canvas.empty(fine, scene.backdrop)
    for drawable in scene.drawables:
        if isinstance(drawable, Picture):
            canvas.picture(drawable)
    meshes = [drawable for drawable in scene.drawables if isinstance(drawable, Mesh) and drawable.opacity > 0]
    for mesh in meshes:
        if mesh.opacity >= 1:
            canvas.mesh(mesh)
    for mesh in sorted((m for m in meshes if m.opacity < 1), key=lambda m: -_depth(m, view)):
        canvas.mesh(mesh)
    lines = [drawable for drawable in scene.drawables if isinstance(drawable, Lines)]
    for drawable in sorted(lines, key=lambda line: line.on_top):
        canvas.lines(drawable)
    picture = cv2.resize(canvas.colour, (view.width, view.height), interpolation=cv2.INTER_AREA)
    picture = np.clip(255 * picture + 0.5, 0, 255).astype(np.uint8)
    for drawable in scene.drawables:
        if isinstance(drawable, Label):
            _label(picture, drawable, view)
    if scene.legend is not None:
        draw_legend(picture, scene.legend)
    return picture


def rasterise(
    pixels: Float[np.ndarray, "vertices 2"],
    inverse_depth: Float[np.ndarray, " vertices"],
    faces: Int[np.ndarray, "faces 3"],
    width: int,
    height: int,
) -> tuple[
    Int[np.ndarray, " drawn"], Int[np.ndarray, "drawn 3"], Float[np.ndarray, "drawn 3"], Float[np.ndarray, " drawn"]
]:
    """The pixels that triangles cover, the nearest triangle in each.

    Args:
        pixels: where the vertices fall, pixel centres at i + 0.5.
        inverse_depth: 1 / depth of the vertices, 1/m; faces with a vertex at 0 or below are left out.
        faces: those that turn clockwise on the screen (seen from behind) are left out.

    Returns:
        For every covered pixel its flat index, the face's vertices, their perspective-correct weights and the depth.
    """
    faces = faces[(inverse_depth[faces] > 0).all(axis=1)]
    corners = pixels[faces]  # (T, 3, 2)
    e1, e2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]
    low = np.floor(corners.min(axis=1) - 0.5).astype(np.int64)
    high = np.ceil(corners.max(axis=1) - 0.5).astype(np.int64)
    low, high = np.maximum(low, 0), np.minimum(high, (width - 1, height - 1))
    # y runs down the picture, so a face that is counter-clockwise seen from outside has a negative area here.
    used = np.flatnonzero((area < -1e-9) & (high >= low).all(axis=1))
    span = (high - low + 1)[used].max(axis=1) if len(used) else np.zeros(0, int)
    size = 2 ** np.ceil(np.log2(np.maximum(span, 1))).astype(int)
    found: list[tuple[np.ndarray, ...]] = []
    for s in np.unique(size):
        dy, dx = np.divmod(np.arange(s * s), s)
        members = used[size == s]
        for start in range(0, len(members), max(1, _FRAGMENTS // (s * s))):
            t = members[start : start + max(1, _FRAGMENTS // (s * s))]
            x = low[t, 0, None] + dx  # (t, s*s)
            y = low[t, 1, None] + dy
            px, py = x + 0.5 - corners[t, 0, 0, None], y + 0.5 - corners[t, 0, 1, None]
            b1 = (px * e2[t, 1, None] - py * e2[t, 0, None]) / area[t, None]
            b2 = (py * e1[t, 0, None] - px * e1[t, 1, None]) / area[t, None]
            inside = (b1 >= 0) & (b2 >= 0) & (b1 + b2 <= 1) & (x <= high[t, 0, None]) & (y <= high[t, 1, None])
            row, column = np.nonzero(inside)
            b1, b2 = b1[row, column], b2[row, column]
            found.append((y[row, column] * width + x[row, column], t[row], b1, b2))
    if not found:
        return np.zeros(0, int), np.zeros((0, 3), int), np.zeros((0, 3)), np.zeros(0)
    at, face, b1, b2 = (np.concatenate(parts) for parts in zip(*found, strict=True))
    weights = np.stack([1 - b1 - b2, b1, b2], axis=-1) * inverse_depth[faces[face]]
    inverse = weights.sum(axis=-1)
    order = np.argsort(inverse, kind="stable")  # the nearest last: it overwrites the others
    winner = np.full(width * height, -1)
    winner[at[order]] = order
    kept = winner[winner >= 0]
    return at[kept], faces[face[kept]], weights[kept] / inverse[kept, None], 1 / inverse[kept]


@dataclass
class _Canvas:
    """A picture and its depths being drawn."""

    view: View
    colour: Float[np.ndarray, "height width 3"]
    depth: Float[np.ndarray, "height width"]

    @classmethod
    def empty(cls, view: View, backdrop: np.ndarray | None) -> _Canvas:
        shape = (view.height, view.width)
        if backdrop is None:
            # A little lighter at the bottom, so that one sees where up is.
            rows = np.linspace(0.85, 1.25, view.height)[:, None, None]
            colour = np.broadcast_to(rows * BACKGROUND, (*shape, 3)).astype(np.float32)
        else:
            colour = fit_image(backdrop, view.width, view.height, BACKGROUND).astype(np.float32) / 255
        return cls(view, np.ascontiguousarray(colour), np.full(shape, np.inf, np.float32))

    def mesh(self, mesh: Mesh) -> None:
        """Draws a mesh lit from the viewer's side; a translucent one shows only its nearest surface."""
        camera = self.view.to_camera(np.asarray(mesh.vertices, float))
        ahead = camera[:, 2] > NEAR
        camera[~ahead, 2] = 1.0
        inverse = np.where(ahead, 1 / camera[:, 2], 0.0)
        at, faces, weights, depth = rasterise(
            self.view.to_pixels(camera), inverse, mesh.faces, self.view.width, self.view.height
        )
        flat_depth, flat_colour = self.depth.reshape(-1), self.colour.reshape(-1, 3)
        seen = depth < flat_depth[at]
        at, faces, weights, depth = at[seen], faces[seen], weights[seen, :, None], depth[seen]
        normal = (mesh.normals[faces] * weights).sum(axis=1) @ self.view.R.T
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
        colour = (mesh.colours[faces] * weights).sum(axis=1) * shade(normal)[:, None]
        flat_colour[at] = mesh.opacity * colour + (1 - mesh.opacity) * flat_colour[at]
        if mesh.opacity >= 1:
            flat_depth[at] = depth

    def picture(self, picture: Picture) -> None:
        """Draws a flat image: where each pixel's ray meets its plane, the image's colour there."""
        corners = self.view.to_camera(np.asarray(picture.corners, float))
        origin, right, down = corners[0], corners[1] - corners[0], corners[3] - corners[0]
        normal = np.cross(right, down)
        window = self._window(corners)
        if window is None or abs(normal @ origin) < 1e-9:
            return
        left, top, wide, high = window
        x, y = np.meshgrid(np.arange(left, left + wide) + 0.5, np.arange(top, top + high) + 0.5)
        rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(self.view.K).T
        slope = rays @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = (normal @ origin) / slope
            hit = depth[..., None] * rays - origin
        u, v = hit @ right / (right @ right), hit @ down / (down @ down)
        area = (slice(top, top + high), slice(left, left + wide))
        seen = (depth > NEAR) & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1) & (depth < self.depth[area])
        size = picture.image.shape[1::-1]
        maps = [np.where(seen, share * n - 0.5, 0).astype(np.float32) for share, n in zip((u, v), size, strict=True)]
        image = cv2.remap(picture.image, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) / np.float32(255)
        block = self.colour[area]
        block[seen] = picture.opacity * image[seen] + (1 - picture.opacity) * block[seen]
        self.depth[area][seen] = depth[seen]

    def _window(self, corners: np.ndarray) -> tuple[int, int, int, int] | None:
        """The part of the picture where a flat image can be: left, top, width, height."""
        if (corners[:, 2] <= NEAR).all():
            return None
        if (corners[:, 2] <= NEAR).any():
            return 0, 0, self.view.width, self.view.height
        pixels = self.view.to_pixels(corners)
        low = np.clip(np.floor(pixels.min(axis=0)), 0, (self.view.width, self.view.height)).astype(int)
        high = np.clip(np.ceil(pixels.max(axis=0)), 0, (self.view.width, self.view.height)).astype(int)
        wide, tall = high - low
        return (int(low[0]), int(low[1]), int(wide), int(tall)) if wide > 0 and tall > 0 else None

    def lines(self, lines: Lines) -> None:
        """Draws lines, hidden where a surface is nearer unless they are to be on top."""
        thickness = max(round(lines.width * OVERSAMPLING), 1)
        camera = self.view.to_camera(np.asarray(lines.points, float))
        for (i, j), colour in zip(lines.pieces, lines.colours, strict=True):
            piece = self._clipped(camera[i], camera[j])
            if piece is None:
                continue
            (a, za), (b, zb) = piece
            paint = tuple(float(v) for v in colour)
            if lines.on_top:
                self._stroke(a, b, paint, thickness)
                continue
            count = int(np.clip(np.linalg.norm(b - a) / _PIECE, 1, 400))
            share = (np.arange(count) + 0.5)[:, None] / count
            middle = (1 - share) * a + share * b
            depth = 1 / ((1 - share[:, 0]) / za + share[:, 0] / zb)
            column, row = np.clip(middle.astype(int), 0, (self.view.width - 1, self.view.height - 1)).T
            seen = np.concatenate([[False], depth * (1 - _BIAS) <= self.depth[row, column], [False]])
            changes = np.flatnonzero(seen[1:] != seen[:-1]).reshape(-1, 2)
            for first, last in changes / count:
                self._stroke(a + first * (b - a), a + last * (b - a), paint, thickness)

    def _stroke(self, a: np.ndarray, b: np.ndarray, colour: tuple[float, ...], thickness: int) -> None:
        ends = (tuple(int(v) for v in np.round(16 * (end - 0.5))) for end in (a, b))
        cv2.line(self.colour, *ends, colour, thickness, cv2.LINE_AA, 4)

    def _clipped(self, a: np.ndarray, b: np.ndarray):
        """Pixels and depths of the ends of a line, the part behind the camera and far outside the picture cut off."""
        if a[2] <= NEAR and b[2] <= NEAR:
            return None
        if a[2] <= NEAR:
            a = a + (b - a) * (NEAR - a[2]) / (b[2] - a[2])
        elif b[2] <= NEAR:
            b = b + (a - b) * (NEAR - b[2]) / (a[2] - b[2])
        p, q = self.view.to_pixels(a), self.view.to_pixels(b)
        first, last = _inside(p, q, self.view.width, self.view.height)
        if first >= last:
            return None
        inverse = np.array([1 / a[2], 1 / b[2]])
        ends = [(p + s * (q - p), 1 / ((1 - s) * inverse[0] + s * inverse[1])) for s in (first, last)]
        return ends[0], ends[1]


def shade(normal: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Brightness of a surface by its normal in the camera's frame: a light above the viewer's left shoulder."""
    light = np.array([-0.35, -0.5, -0.8])
    return _AMBIENT + (1 - _AMBIENT) * np.clip(normal @ (light / np.linalg.norm(light)), 0, 1)


def _inside(p: np.ndarray, q: np.ndarray, width: int, height: int) -> tuple[float, float]:
    """The part of p..q within the picture and a margin (Liang and Barsky 1984), as shares of its length."""
    first, last = 0.0, 1.0
    for axis, size in ((0, width), (1, height)):
        step = q[axis] - p[axis]
        for bound, sign in ((-50.0, -1.0), (size + 50.0, 1.0)):
            room, pace = sign * (bound - p[axis]), sign * step
            if pace == 0:
                if room < 0:
                    return 1.0, 0.0
            elif pace > 0:
                last = min(last, room / pace)
            else:
                first = max(first, room / pace)
    return first, last


def _depth(mesh: Mesh, view: View) -> float:
    return float((view.to_camera(mesh.vertices.mean(axis=0)))[2])


def _label(picture: np.ndarray, label: Label, view: View) -> None:
    point = view.to_camera(np.asarray(label.position, float))
    if point[2] <= NEAR:
        return
    x, y = view.to_pixels(point)
    if 0 <= x < view.width and 0 <= y < view.height:
        scale = 0.45 if view.width >= 480 else 0.35
        (wide, tall), _ = cv2.getTextSize(label.text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        at = (int(x - wide / 2), int(y + tall / 2))
        colour = tuple(int(v) for v in 255 * np.asarray(label.colour))
        cv2.putText(picture, label.text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (15, 16, 18), 3, cv2.LINE_AA)
        cv2.putText(picture, label.text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


def legend_bar(width: int, height: int = 34) -> UInt8[np.ndarray, "height width 3"]:
    """The difference colours with their scale, as a picture of its own."""
    picture = np.full((height, width, 3), 30, np.uint8)
    draw_legend(picture, DIFFERENCE_RANGE, width - 70)
    return picture


def draw_legend(picture: UInt8[np.ndarray, "height width 3"], most: float, wide: int = 160) -> None:
    """A bar of the difference colours at the lower left, in place."""
    height, width = picture.shape[:2]
    wide, tall = max(min(wide, width - 70), 20), 10
    left, top = 14, height - 30
    bar = (255 * difference_colours(np.linspace(0, most, wide), most)).astype(np.uint8)
    picture[max(top - 6, 0) : top + tall + 20, left - 8 : left + wide + 46] //= 3
    picture[top : top + tall, left : left + wide] = bar[None]
    for share in (0.0, 0.5, 1.0):
        text = f"{share * most:.0f}" + (" mm" if share == 1 else "")
        at = (int(left + share * wide) - 4, top + tall + 14)
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (235, 235, 235), 1, cv2.LINE_AA)
