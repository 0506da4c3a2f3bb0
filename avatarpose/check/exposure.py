"""Brightness, colour and sharpness of the cameras against each other, measured on the people."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, UInt8

_GAMMA = 2.2
_SHARP_HEIGHT = 200  # pixels: people are brought to one size before their sharpness is compared


@dataclass(frozen=True)
class Look:
    """How people look in one camera's images.

    Attributes:
        stops: median brightness, log2 of linear light.
        red, blue: median log2 of red over green and of blue over green, linear.
        saturated, dark: shares of the pixels that are at the top or the bottom of the range.
        sharpness: median variance of the Laplacian of people brought to one height, over the variance of their grey
            values.
    """

    stops: float
    red: float
    blue: float
    saturated: float
    dark: float
    sharpness: float


def boxes(points: Float[np.ndarray, "rows 17 2"], width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) around each detection's joints, cut to the image; the tiny ones left out."""
    found = []
    for joints in points:
        known = joints[np.isfinite(joints).all(-1)]
        if len(known) < 5:
            continue
        left, top = np.maximum(known.min(0), 0).astype(int)
        right, bottom = np.minimum(np.ceil(known.max(0)), (width, height)).astype(int)
        if right - left >= 8 and bottom - top >= 16:
            found.append((int(left), int(top), int(right), int(bottom)))
    return found


def measure(images: list[UInt8[np.ndarray, "height width 3"]], people: list[list[tuple[int, int, int, int]]]) -> Look:
    """Over a few images of one camera, inside the boxes; over the whole image where an image has no box."""
    colours, sharpness = [], []
    for image, found in zip(images, people, strict=True):
        for left, top, right, bottom in found or [(0, 0, image.shape[1], image.shape[0])]:
            part = image[top:bottom, left:right]
            colours.append(part[:: max(1, part.shape[0] // 100), :: max(1, part.shape[1] // 100)].reshape(-1, 3))
            grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
            scale = _SHARP_HEIGHT / grey.shape[0]
            if scale < 1:  # only ever made smaller: enlarged pictures are soft by themselves
                grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            grey = grey.astype(np.float32)
            sharpness.append(float(cv2.Laplacian(grey, cv2.CV_32F).var() / max(float(grey.var()), 1.0)))
    values = np.concatenate(colours).astype(np.float64)
    linear = ((values + 0.5) / 256) ** _GAMMA
    luminance = linear @ (0.2126, 0.7152, 0.0722)
    logs = np.log2(linear)
    return Look(
        stops=float(np.log2(np.median(luminance))),
        red=float(np.median(logs[:, 0] - logs[:, 1])),
        blue=float(np.median(logs[:, 2] - logs[:, 1])),
        saturated=float((values.max(1) >= 254).mean()),
        dark=float((values.max(1) <= 4).mean()),
        sharpness=float(np.median(sharpness)),
    )
