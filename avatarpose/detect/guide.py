"""Regions of an image where people may be: from masks, or from what moves before a static background."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from avatarpose.detect.config import GUIDES, DetectConfig
from avatarpose.detect.interface import Boxes, Image, People
from avatarpose.errors import InputError
from avatarpose.sequence import BACKGROUND, Sequence

WORKING_HEIGHT = 180
"""Motion is looked for in images of this height, pixels."""
SAMPLES, LEAST_SAMPLES = 25, 5
"""The background is the median of so many images spread over those to be looked at."""
DIFFERS = 25
"""Levels of a colour by which a pixel differs from the background."""
LEAST_AREA, MOST_AREA = 0.002, 0.5
"""Parts of the image: a smaller region is a speck; when more than the second moves, it is the camera or the light."""

MASK_REACH, MOTION_REACH = 2, 10
"""Parts of the foreground nearer than twice this, in pixels of the small image, are one region: of a person who stands
only the arms may move."""
LEAST_ON_MASK = 0.7
"""People with a smaller part of their joints on the mask are none. (On `duo_a`, 0.88 at least.)"""


class Guide:
    """Regions in the images of one camera.

    Args:
        sequence: the sequence.
        c: index of the camera.
        numbers: of the images to be looked at, own clock, ascending.
        config: says which guide.
        wanted: whether the detector wants regions at all; kept as an attribute.
        read: gives an image by its number.
    """

    def __init__(
        self, sequence: Sequence, c: int, numbers: list[int], config: DetectConfig, wanted: bool,
        read: Callable[[int], Image],
    ) -> None:  # fmt: skip
        if config.guide not in GUIDES:
            raise InputError("no such guide", expected=" or ".join(GUIDES), found=config.guide)
        self._sequence, self._c, self.wanted = sequence, c, wanted
        self._background: UInt8[np.ndarray, "h w 3"] | None = None
        self._masks: dict[int, int] = {}
        if not wanted or config.guide == "none":
            return
        if config.guide != "motion":
            frames = ((f, sequence.own_frame(c, f)) for f in range(len(sequence.frames)))
            self._masks = {number: f for f, number in frames if sequence.mask_path(c, f).is_file()}
        if config.guide == "masks" and not self._masks:
            raise InputError(
                "no masks to guide the detector", file=sequence.folder / "masks", camera=sequence.cameras.names[c],
                hint="`avatarpose segment` makes some; or choose another --guide",
            )  # fmt: skip
        if config.guide == "motion" or (config.guide == "auto" and not self._masks):
            self._background = _background(numbers, read)

    def regions(self, number: int, image: Image) -> Boxes:
        """Boxes (left, top, right, bottom) of what is foreground in an image; none where nothing is known."""
        if number in self._masks:
            mask = self._sequence.mask(self._c, self._masks[number])
            if mask is not None:
                return foreground_boxes(_resized(mask) != BACKGROUND, image.shape[1], image.shape[0], reach=MASK_REACH)
        if self._background is None:
            return np.zeros((0, 4))
        differs = np.abs(_resized(image).astype(int) - self._background).max(-1) > DIFFERS
        return foreground_boxes(differs, image.shape[1], image.shape[0], reach=MOTION_REACH)

    def supports(self, number: int, image: Image, people: People) -> Bool[np.ndarray, " people"]:
        """Which people stand on the foreground of the mask, where there is one: a shadow has a shape but no mask."""
        mask = self._sequence.mask(self._c, self._masks[number]) if number in self._masks else None
        if mask is None or not len(people):
            return np.ones(len(people), bool)
        near = cv2.dilate((_resized(mask) != BACKGROUND).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        scale = np.array(near.shape[::-1]) / (image.shape[1], image.shape[0])
        known = np.isfinite(people).all(-1)
        at = np.clip(np.nan_to_num(people[..., :2] * scale).astype(int), 0, np.array(near.shape[::-1]) - 1)
        on = near[at[..., 1], at[..., 0]] & known
        return on.sum(-1) >= LEAST_ON_MASK * known.sum(-1)


def foreground_boxes(foreground: np.ndarray, width: int, height: int, reach: int) -> Boxes:
    """Boxes about the parts of a small mask (h, w), in pixels of the image of `width` by `height`.

    Parts less than 2 * `reach` pixels of the mask apart are one.
    """
    clean = cv2.morphologyEx(foreground.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    if clean.mean() > MOST_AREA:
        return np.zeros((0, 4))
    _, labels = cv2.connectedComponents(cv2.dilate(clean, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)))
    parts = np.where(clean > 0, labels, 0)
    boxes = []
    for part in range(1, labels.max() + 1):
        rows, columns = np.nonzero(parts == part)
        if len(rows) >= LEAST_AREA * clean.size:
            boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    scale = np.array([width / clean.shape[1], height / clean.shape[0]] * 2)
    return np.array(boxes, float).reshape(-1, 4) * scale


def _background(numbers: list[int], read: Callable[[int], Image]) -> np.ndarray | None:
    """The median image, small; None where there are too few images for one."""
    if len(numbers) < LEAST_SAMPLES:
        return None
    chosen = np.unique(np.linspace(0, len(numbers) - 1, min(SAMPLES, len(numbers))).astype(int))
    return np.median([_resized(read(numbers[i])) for i in chosen], axis=0)


def _resized(image: np.ndarray) -> np.ndarray:
    scale = min(1.0, WORKING_HEIGHT / image.shape[0])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_NEAREST if image.ndim == 2 else cv2.INTER_AREA)
