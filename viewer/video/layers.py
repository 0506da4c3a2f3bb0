"""Layers of a film as images: colours, who is where, depth, normals, and the capture's own image beside them."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8, UInt16

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from optimize.pictures import Picture
from viewer.overview import COLOURS

LAYERS = ("rgb", "mask", "depth", "normals", "capture")
SOLID = 0.5
"""Opacity from which a pixel is somebody's."""
LARGEST_MILLIMETRES = 65535


def parse_layers(text: str) -> list[str]:
    """Names of layers with commas between.

    Raises:
        InputError: an unknown layer, one named twice, or none that is rendered.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or len(set(names)) < len(names) or any(name not in LAYERS for name in names):
        raise InputError("no such layers", expected=f"some of {', '.join(LAYERS)}, each once", found=text)
    if names == ["capture"]:
        raise InputError("nothing to render", expected="a layer beside the capture's image", found=text)
    return names


def rgb_layer(picture: Picture, background: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    """The people before a background, one colour or (H, W, 3)."""
    return _bytes(picture.over(background))


def transparent_layer(picture: Picture) -> UInt8[np.ndarray, "height width 4"]:
    """The people as RGBA; colours are not multiplied by the opacity, as PNG wants it."""
    alpha = picture.alpha[..., None]
    colour = np.where(alpha > 1 / 510, picture.colour / np.maximum(alpha, 1 / 510), 0)
    return _bytes(np.concatenate([colour, alpha], axis=-1))


def mask_layer(picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
    """Each person in a colour of its own (`viewer.overview.COLOURS`, in order), black where nobody is."""
    people = picture.person_alpha.shape[-1]
    palette = np.array([COLOURS[p % len(COLOURS)] for p in range(people)], np.uint8)
    shown = palette[picture.person_alpha.argmax(axis=-1)]
    return np.where((picture.alpha >= SOLID)[..., None], shown, np.uint8(0))


def depth_millimetres(picture: Picture) -> UInt16[np.ndarray, "height width"]:
    """Depth along the optical axis in millimetres; 0 where nobody is."""
    depth = np.clip(np.round(1000 * picture.depth), 0, LARGEST_MILLIMETRES)
    return np.where(picture.alpha >= SOLID, depth, 0).astype(np.uint16)


def depth_layer(millimetres: UInt16[np.ndarray, "height width"], near: float, far: float) -> UInt8[np.ndarray, "*size"]:
    """Depth in colours, from red (`near`, metres) to blue (`far`); black where nobody is."""
    share = 1 - np.clip((millimetres / 1000 - near) / max(far - near, 1e-3), 0, 1)
    coloured = cv2.applyColorMap(_bytes(0.08 + 0.84 * share), cv2.COLORMAP_TURBO)
    return np.where((millimetres > 0)[..., None], cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB), np.uint8(0))


def normals_layer(picture: Picture, camera: Cameras) -> UInt8[np.ndarray, "height width 3"]:
    """Normals seen from the camera as colours (n + 1) / 2: red to the right, green up, blue towards the camera."""
    turned = picture.normals @ camera.R[0].numpy().T.astype(np.float32) * np.array([1, -1, -1], np.float32)
    return np.where((picture.alpha >= SOLID)[..., None], _bytes((turned + 1) / 2), np.uint8(0))


def capture_layer(image: UInt8[np.ndarray, "h w 3"], width: int, height: int) -> UInt8[np.ndarray, "height width 3"]:
    """An image of the capture, as large as fits into the film's frame, on black."""
    scale = min(width / image.shape[1], height / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    fitted = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    frame = np.zeros((height, width, 3), np.uint8)
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    frame[top : top + size[1], left : left + size[0]] = fitted
    return frame


def _bytes(values: Float[np.ndarray, "*size"]) -> UInt8[np.ndarray, "*size"]:
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
