"""People by MediaPipe's selfie segmentation, one crop per person, guided by keypoints.

The package (0.10.21) carries the network's weights, so nothing is fetched. The network was made for one person before a
camera: it is asked about a square around each person, and what it finds counts near that person's joints only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from avatarpose.errors import InputError
from avatarpose.segment.base import FrameMasks, Step
from avatarpose.segment.config import SegmentConfig
from avatarpose.segment.people import People, zones_of_joints
from avatarpose.sequence import BACKGROUND, FOREGROUND, UNKNOWN

PERSON, NOBODY = 0.7, 0.3
"""The network's word above and below which a pixel is a person or is not; unknown between."""
_MARGIN = 0.25  # of the person's size, around the joints


class MediaPipeSegmenter:
    """`Segmenter`; see the module's docstring."""

    def __init__(self, people: People, config: SegmentConfig) -> None:
        os.environ.setdefault("GLOG_minloglevel", "2")  # it greets on standard error
        try:
            from mediapipe.python.solutions.selfie_segmentation import SelfieSegmentation
        except ImportError as error:
            raise InputError(
                "the method mediapipe needs the package mediapipe 0.10.21", found=error,
                hint="pip install mediapipe==0.10.21",
            ) from None  # fmt: skip
        self.people, self.config = people, config
        self._network = SelfieSegmentation(model_selection=0)

    def camera(self, c: int, frames: list[int], step: Step) -> Iterator[tuple[int, FrameMasks]]:
        for f in frames:
            image = self.people.sequence.image(c, f)
            yield f, FrameMasks(self._mask(image, people_in(self.people, c, f)))

    def notes(self, c: int) -> dict[str, float]:
        return {}

    def _mask(self, image: np.ndarray, people: Float[np.ndarray, "people 17 2"]) -> UInt8[np.ndarray, "height width"]:
        likely = np.zeros(image.shape[:2], np.float32)
        for points in people:
            near = zones_of_joints(points[None], image.shape[:2]).near
            left, top, right, bottom = square_around(points, _MARGIN)
            window = _cut_out(image, left, top, right, bottom)
            found = self._network.process(window).segmentation_mask
            placed = np.zeros_like(likely)
            rows = slice(max(top, 0), min(bottom, image.shape[0]))
            columns = slice(max(left, 0), min(right, image.shape[1]))
            within = found[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            placed[rows, columns] = within
            likely = np.maximum(likely, np.where(near, placed, 0))
        result = np.where(likely > PERSON, FOREGROUND, BACKGROUND).astype(np.uint8)
        result[(likely >= NOBODY) & (likely <= PERSON)] = UNKNOWN
        return result


def people_in(people: People, c: int, f: int) -> Float[np.ndarray, "people 17 2"]:
    """Joints of the people in the image of camera c, pixels: the named ones', or else the detected."""
    points = people.pixels(c, f) if people.known_in(f) else people.detections(c, f)[..., :2]
    size = people.image_size(c)
    inside = np.isfinite(points).all(-1) & (points > 0).all(-1) & (points < size).all(-1)
    return np.where(np.isfinite(points), points, np.nan)[inside.sum(-1) >= 3]


def square_around(points: Float[np.ndarray, "17 2"], margin: float) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a square about a person, which may reach beyond the image."""
    known = points[np.isfinite(points).all(-1)]
    low, high = known.min(0), known.max(0)
    half = (0.5 + margin) * float((high - low).max())
    x, y = (low + high) / 2
    return round(x - half), round(y - half), round(x + half), round(y + half)


def _cut_out(image: np.ndarray, left: int, top: int, right: int, bottom: int) -> np.ndarray:
    height, width = image.shape[:2]
    part = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
    border = max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0)
    return np.ascontiguousarray(cv2.copyMakeBorder(part, *border, cv2.BORDER_REPLICATE))
