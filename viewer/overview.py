"""One picture of a result: for a few frames and views the image, the avatars, the skeletons before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch

from avatarpose.io import write_image
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17

# One hue a person (RGB); the left side is drawn darker, so that a skeleton turned round can be seen.
COLOURS = ((255, 176, 0), (0, 200, 255), (255, 80, 160), (120, 230, 80), (190, 130, 255), (255, 255, 120))
TITLE_HEIGHT, LABEL_SCALE = 26, 0.45


def choose_views(sequence: Sequence, cameras: int = 3, frames: int = 2) -> list[tuple[int, int]]:
    """Pairs (camera index, frame index) spread evenly over the sequence."""
    count = len(sequence.cameras)
    c = np.unique(np.linspace(0, count, min(cameras, count), endpoint=False).astype(int))
    f = np.unique(np.linspace(0, len(sequence.frames) - 1, frames + 2).round().astype(int)[1:-1])
    return [(int(i), int(j)) for j in f for i in c]


def draw_skeletons(image: np.ndarray, pixels: np.ndarray, depth: np.ndarray, thickness: int = 2) -> np.ndarray:
    """A copy of an image (H, W, 3) uint8 with skeletons on it.

    Args:
        pixels: (P, 17, 2) COCO-17 joints, pixel centres at i + 0.5; NaN where a joint is unknown.
        depth: (P, 17) metres; joints behind the camera are left out.
    """
    image = image.copy()
    shift = 4  # OpenCV draws at 1/16 pixel with this
    for p, (points, z) in enumerate(zip(pixels, depth, strict=True)):
        colour = np.array(COLOURS[p % len(COLOURS)])
        shown = np.isfinite(points).all(-1) & (z > 0) & (np.abs(points) < 1e4).all(-1)
        fixed = np.where(shown[:, None], (points - 0.5) * 2**shift, 0).round().astype(int)
        for a, b in COCO17.edges:
            if shown[a] and shown[b]:
                left = any(COCO17.joints[k].startswith("left_") for k in (a, b))
                tint = tuple(int(v) for v in colour * (0.6 if left else 1.0))
                ends = tuple(map(int, fixed[a])), tuple(map(int, fixed[b]))
                cv2.line(image, *ends, tint, thickness, cv2.LINE_AA, shift)
    return image


def overview(
    sequence: Sequence,
    initial: Bodies | None,
    refined: Bodies | None,
    rendered: Mapping[tuple[int, int], np.ndarray],
    path: Path,
    tile: int = 320,
) -> None:
    """Writes the picture: a row per view, a column per kind.

    Args:
        sequence: the sequence, with images.
        initial, refined: bodies before and after refinement; a column is left out where they are None.
        rendered: avatars drawn from the view of camera index c in frame index f, (H, W, 3) uint8 RGB of the image's
            size, by (c, f). These views are the rows; where there are none, rows are chosen by `choose_views`.
        path: image file to write.
        tile: greatest width and height of one picture in it, pixels.
    """
    views = sorted(rendered, key=lambda view: (view[1], view[0])) or choose_views(sequence)
    titles = ["image"] + ["avatars"] * bool(rendered)
    titles += ["before"] * (initial is not None) + ["after"] * (refined is not None)
    images = {view: sequence.image(*view) for view in views}
    width = max(round(tile * min(1, im.shape[1] / im.shape[0])) for im in images.values())
    rows = []
    for (c, f), image in images.items():
        # Skeletons are drawn on the enlarged tile, or thin lines of a large image would vanish when it is shrunk.
        fit = tile / max(image.shape[:2])
        size = (round(image.shape[1] * fit), round(image.shape[0] * fit))
        scale = np.array(size) / (image.shape[1], image.shape[0])
        tiles = [_resize(image, size)]
        if rendered:
            tiles.append(_resize(rendered[c, f], size))
        dim = (tiles[0] * 0.6).astype(np.uint8)
        for bodies in (initial, refined):
            if bodies is not None:
                pixels, depth = _project(sequence, bodies, c, f)
                tiles.append(draw_skeletons(dim, pixels * scale, depth))
        label = f"{sequence.cameras.names[c]}  frame {sequence.frames[f]}"
        _write(tiles[0], label, (6, size[1] - 8))
        rows.append(np.hstack([np.pad(t, ((0, 0), (0, width - size[0]), (0, 0))) for t in tiles]))
    header = np.full((TITLE_HEIGHT, rows[0].shape[1], 3), 24, np.uint8)
    for i, title in enumerate(titles):
        _write(header, title, (i * width + 6, TITLE_HEIGHT - 8))
    write_image(path, np.vstack([header, *rows]))


def _project(sequence: Sequence, bodies: Bodies, c: int, f: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (P, 17, 2) and depths (P, 17) of the people who are there in frame index f of the sequence."""
    at = np.flatnonzero(bodies.frames == sequence.frames[f])
    if len(at) == 0:
        return np.zeros((0, 17, 2)), np.zeros((0, 17))
    points = torch.as_tensor(bodies.keypoints[:, at[0]], dtype=sequence.cameras.K.dtype)
    pixels, depth = sequence.cameras[[c]].project(points)
    pixels = pixels[0].numpy().copy()
    pixels[~bodies.valid[:, at[0]]] = np.nan
    return pixels, depth[0].numpy()


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    shrinks = size[0] < image.shape[1]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def _write(image: np.ndarray, text: str, at: tuple[int, int]) -> None:
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, LABEL_SCALE, 1)
    image[max(at[1] - height - 3, 0) : at[1] + below + 2, max(at[0] - 3, 0) : at[0] + width + 3] //= 3
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, LABEL_SCALE, (255, 255, 255), 1, cv2.LINE_AA)
