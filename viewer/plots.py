"""Small plots of errors as pictures: a line a person over the frames, a bar a person for every joint."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from viewer.measure import Errors
from viewer.overview import COLOURS

_BACK, _AXIS, _TEXT, _CURSOR = (30, 32, 36), (70, 74, 82), (200, 204, 210), (255, 255, 255)
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.38
_SHORT = {"shoulder": "sho", "elbow": "elb", "wrist": "wri", "hip": "hip", "knee": "kne", "ankle": "ank"}
LEFT, RIGHT, TOP = 40, 10, 22


def frame_plot(
    errors: Errors, frame: int, width: int = 360, height: int = 150, numbers: Float[np.ndarray, " frames"] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Mean error of every person over the frames; the present frame is marked.

    Args:
        frame: index of the present frame.
        numbers: frame numbers at the axis; None for indices.
    """
    values = errors.by_frame
    picture, most = _axes(values, f"error by frame, {errors.unit}", width, height, 18)
    count = values.shape[1]
    x = LEFT + (width - LEFT - RIGHT) * (np.arange(count) / max(count - 1, 1) if count > 1 else np.array([0.5]))
    bottom, top = height - 18, TOP
    cv2.line(picture, (round(x[frame]), top), (round(x[frame]), bottom), _CURSOR, 1)
    for p, row in enumerate(values):
        y = bottom - (bottom - top) * row / most
        colour = COLOURS[p % len(COLOURS)]
        known = np.isfinite(row)
        for i in range(count - 1):
            if known[i] and known[i + 1]:
                ends = [(round(x[j] * 8), round(y[j] * 8)) for j in (i, i + 1)]
                cv2.line(picture, *ends, colour, 1, cv2.LINE_AA, 3)
        if known[frame]:
            cv2.circle(picture, (round(x[frame]), round(y[frame])), 3, colour, -1, cv2.LINE_AA)
    shown = np.arange(count) if numbers is None else numbers
    for i, align in ((0, 0.0), (count - 1, 1.0)):
        _text(picture, str(int(shown[i])), (x[i], height - 5), align)
    _names(picture, errors, width)
    return picture


def joint_plot(errors: Errors, width: int = 360, height: int = 170) -> UInt8[np.ndarray, "height width 3"]:
    """Mean error of every joint, a bar a person; a joint's name stands under its bars."""
    values = errors.by_joint
    picture, most = _axes(values, f"error by joint, {errors.unit}", width, height, 30)
    bottom, top = height - 30, TOP
    people, joints = values.shape
    step = (width - LEFT - RIGHT) / joints
    for j, joint in enumerate(errors.joints):
        side, _, part = joint.partition("_")
        for p in range(people):
            if np.isfinite(values[p, j]):
                left = LEFT + j * step + step * 0.12 + p * step * 0.76 / people
                corner = (round(left + step * 0.76 / people) - 1, bottom)
                tip = (round(left), round(bottom - (bottom - top) * values[p, j] / most))
                cv2.rectangle(picture, tip, corner, COLOURS[p % len(COLOURS)], -1)
        centre = LEFT + (j + 0.5) * step
        _text(picture, _SHORT.get(part, part[:3]), (centre, bottom + 12), 0.5, 0.32)
        _text(picture, side[:1].upper(), (centre, bottom + 24), 0.5, 0.32)
    _names(picture, errors, width)
    return picture


def _axes(values: np.ndarray, title: str, width: int, height: int, below: int) -> tuple[np.ndarray, float]:
    picture = np.full((height, width, 3), _BACK, np.uint8)
    greatest = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
    step = _round_step(greatest / 3)
    most = max(step * np.ceil(greatest / step - 1e-9), step)
    for level in np.arange(0, most + step / 2, step):
        y = round(height - below - (height - below - TOP) * level / most)
        cv2.line(picture, (LEFT, y), (width - RIGHT, y), _AXIS, 1)
        _text(picture, f"{level:g}", (LEFT - 5, y + 4), 1.0)
    _text(picture, title, (6, 13), 0.0)
    return picture, float(most)


def _round_step(value: float) -> float:
    """1, 2 or 5 times a power of ten, at least `value`."""
    power = 10.0 ** np.floor(np.log10(max(value, 1e-6)))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= value * (1 - 1e-9)))


def _names(picture: np.ndarray, errors: Errors, width: int) -> None:
    x = width - RIGHT
    for p in reversed(range(len(errors.people))):
        (wide, _), _ = cv2.getTextSize(errors.people[p], _FONT, _SCALE, 1)
        x -= wide
        cv2.putText(picture, errors.people[p], (x, 13), _FONT, _SCALE, COLOURS[p % len(COLOURS)], 1, cv2.LINE_AA)
        x -= 8


def _text(picture: np.ndarray, text: str, at: tuple[float, float], align: float, scale: float = _SCALE) -> None:
    (wide, _), _ = cv2.getTextSize(text, _FONT, scale, 1)
    cv2.putText(picture, text, (round(at[0] - align * wide), round(at[1])), _FONT, scale, _TEXT, 1, cv2.LINE_AA)
