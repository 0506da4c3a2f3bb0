"""MediaPipe's pose model (BlazePose, Bazarevsky et al. 2020) for several people: find one, paint him over, look again.

The package `mediapipe` 0.10.21 carries its model and needs no network. A call finds one person, the most prominent one
of the picture, and a mask of him. So each region is searched until nothing new is found, with those found painted over;
then everybody is looked at once more, in his own box and with the others painted over, because the first look at
people who touch may take a limb of the other's.

MediaPipe counts image coordinates from the outer corner of the top-left pixel, so nothing is added to them
(`python -m benchmarks.detectors --convention` measures it, from mirrored images).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

from avatarpose.detect.config import DetectConfig
from avatarpose.detect.interface import Boxes, Image, People
from avatarpose.detect.people import (
    LEAST_JOINTS,
    box_of,
    clip_boxes,
    merge_regions,
    similarity,
)
from avatarpose.errors import InputError

# BlazePose's 33 landmarks hold all of COCO-17: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles.
COCO_OF_BLAZEPOSE = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
CARRIES_MODEL = "0.10.21"
INSTALL = (
    f"pip install --no-deps mediapipe=={CARRIES_MODEL} && "
    "pip install 'protobuf>=4.25.3,<6' absl-py attrs flatbuffers matplotlib"
)

COVERED_SCORE = 0.5
"""A joint that lies where another person was painted over is hidden, and guessed: its score is multiplied by this."""
MOSTLY_COVERED = 0.35
"""With a larger part of the joints there, it is what was left of the person painted over. (On `duo_a` the second person
had at most 0.29 of them there.)"""
LEAST_SCORE, LEAST_SIZE = 0.55, 30.0
"""Lower mean scores, and people of fewer pixels, are imagined: 99 % of the people found on `duo_a` score over 0.66."""
LIMB_SIZE = 0.4
"""Who is smaller than this part of a person in whose box he is, is a limb of that person."""
MARGIN, CLOSE_MARGIN = 0.15, 0.25
"""Regions are grown by this part of their longer side: those searched, and those about the joints of one person."""
WIDE = 0.8
"""A region of more than this part of the image is the whole image."""


@dataclass
class _Found:
    """One person: joints (17, 3) in pixels of the whole image, and where he was seen."""

    joints: Float[np.ndarray, "17 3"]
    mask: Bool[np.ndarray, "height width"]


class _Painter:
    """A copy of an image on which people are painted over with its median colour, which is seldom a person's."""

    def __init__(self, image: Image) -> None:
        self.image = image.copy()
        self.covered = np.zeros(image.shape[:2], bool)
        self.colour = np.median(image[::4, ::4].reshape(-1, 3), axis=0).astype(np.uint8)

    def paint(self, mask: Bool[np.ndarray, "height width"]) -> None:
        self.image[mask] = self.colour
        self.covered |= mask


class MediaPipeDetector:
    """Detector of several people by MediaPipe.

    Raises:
        InputError: the package is missing, or carries no model.
    """

    guided = True
    batch_size = 4

    def __init__(self, config: DetectConfig) -> None:
        self._most = config.people or 6
        self._duplicate = config.duplicate
        self._pose_class, version = _load()
        self.name = f"mediapipe {version} pose, complexity 1"
        self._pool = ThreadPoolExecutor(min(config.threads or os.cpu_count() or 1, self.batch_size))
        self._local = threading.local()

    def detect(self, images: list[Image], boxes: list[Boxes] | None = None) -> list[People]:
        """See `Detector`; an image without regions is searched as a whole."""
        return list(self._pool.map(self._people, images, boxes or [np.zeros((0, 4))] * len(images)))

    def _people(self, image: Image, regions: Boxes) -> People:
        height, width = image.shape[:2]
        sides = (regions[:, 2:] - regions[:, :2]).max(-1, initial=0.0, keepdims=True) * MARGIN
        regions = clip_boxes(np.hstack((regions[:, :2] - sides, regions[:, 2:] + sides)), width, height)
        whole = np.array([[0.0, 0.0, width, height]])
        wide = np.prod(regions[:, 2:] - regions[:, :2], axis=-1) > WIDE * width * height
        # Close looks find small people; the whole image comes last, with those found painted over.
        regions = np.vstack((merge_regions(regions[~wide]), whole if wide.any() or not len(regions) else whole[:0]))
        painter = _Painter(image)
        found: list[_Found] = []
        for region in regions:
            self._search(painter, region, found)
        if not found and not wide.any():  # a part of a person moves, the regions cut him
            self._search(painter, whole[0], found)
        people = [self._again(image, painter.colour, found, i) for i in range(len(found))]
        return np.array(_without_limbs(people)).reshape(-1, 17, 3)

    def _search(self, painter: _Painter, region: np.ndarray, found: list[_Found]) -> None:
        """Finds people in a region one after another, painting over each."""
        while len(found) < self._most:
            person = self._look(painter.image, region)
            if person is None or _part_on(person.joints, painter.covered) > MOSTLY_COVERED:
                return
            painter.paint(_grown(person.mask))
            if any(similarity(person.joints, other.joints) > self._duplicate for other in found):
                return
            found.append(person)

    def _again(self, image: Image, colour: np.ndarray, found: list[_Found], i: int) -> np.ndarray:
        """The joints (17, 3) of person i seen with the others painted over."""
        own = found[i]
        others = np.zeros(image.shape[:2], bool)
        for j, other in enumerate(found):
            if j != i:
                others |= other.mask
        others &= ~own.mask
        region = clip_boxes(box_of(own.joints, CLOSE_MARGIN), image.shape[1], image.shape[0])
        if not len(region):
            return own.joints
        left, top, right, bottom = region[0].astype(int)
        if not others[top:bottom, left:right].any():
            return own.joints
        painted = image.copy()
        painted[_grown(others) & ~own.mask] = colour
        seen = self._look(painted, region[0])
        again = own if seen is None or similarity(seen.joints, own.joints) < 0.2 else seen
        joints = again.joints.copy()
        joints[_is_on(joints, others & ~again.mask), 2] *= COVERED_SCORE
        return joints

    def _look(self, image: Image, region: np.ndarray) -> _Found | None:
        """The most prominent person of a region; None where there is none."""
        left, top = np.floor(region[:2]).astype(int)
        right, bottom = np.ceil(region[2:]).astype(int)
        crop = np.ascontiguousarray(image[top:bottom, left:right])
        height, width = crop.shape[:2]
        result = self._pose().process(crop)
        if result.pose_landmarks is None:
            return None
        landmarks = result.pose_landmarks.landmark
        chosen = [landmarks[k] for k in COCO_OF_BLAZEPOSE]
        joints = np.array([(a.x * width + left, a.y * height + top, a.visibility) for a in chosen])
        inside = ((joints[:, :2] >= 0) & (joints[:, :2] <= (image.shape[1], image.shape[0]))).all(-1)
        joints[~inside] = np.nan
        if inside.sum() < LEAST_JOINTS or np.nanmean(joints[:, 2]) < LEAST_SCORE:
            return None
        if np.nanmax(np.nanmax(joints[:, :2], axis=0) - np.nanmin(joints[:, :2], axis=0)) < LEAST_SIZE:
            return None
        mask = np.zeros(image.shape[:2], bool)
        mask[top:bottom, left:right] = result.segmentation_mask > 0.5
        return _Found(joints, mask)

    def _pose(self) -> Any:
        """The model of this thread: one of them serves one call at a time."""
        if not hasattr(self._local, "pose"):
            with _quiet():
                self._local.pose = self._pose_class(
                    static_image_mode=True, model_complexity=1, enable_segmentation=True, min_detection_confidence=0.3
                )
                self._local.pose.process(np.zeros((64, 64, 3), np.uint8))
        return self._local.pose


_QUIET = threading.Lock()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the libraries below write to the process's standard error from the terminal: notes on start-up."""
    with _QUIET:
        kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def _load() -> tuple[Any, str]:
    """MediaPipe's class `Pose` and its version."""
    os.environ.setdefault("GLOG_minloglevel", "2")  # before the import: it logs to standard error
    try:
        import mediapipe
    except ImportError as error:
        raise InputError("MediaPipe cannot be imported", found=error, hint=f"Install it: {INSTALL}") from None
    if not hasattr(mediapipe, "solutions"):
        raise InputError(
            "this MediaPipe carries no pose model", expected=f"version {CARRIES_MODEL}", found=mediapipe.__version__,
            hint=f"Install it: {INSTALL}",
        )  # fmt: skip
    return mediapipe.solutions.pose.Pose, mediapipe.__version__


def _grown(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The mask with a seam about it, a fiftieth of its size: a person's edge left over looks like a thin person."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return mask
    size = 2 * max(1, round(0.01 * max(np.ptp(rows), np.ptp(columns)))) + 1
    return cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)) > 0


def _without_limbs(people: list[np.ndarray]) -> list[np.ndarray]:
    """People (17, 3) without those who are much smaller than somebody where they are: limbs that were not covered."""
    boxes = [box_of(person, 0.1) for person in people]
    sizes = [max(box[2:] - box[:2]) for box in boxes]
    kept = []
    for person, box, size in zip(people, boxes, sizes, strict=True):
        middle = (box[:2] + box[2:]) / 2
        inside = [(middle > other[:2]).all() and (middle < other[2:]).all() for other in boxes]
        around = [big for big, is_there in zip(sizes, inside, strict=True) if is_there]
        if size >= LIMB_SIZE * max(around):
            kept.append(person)
    return kept


def _is_on(joints: Float[np.ndarray, "17 3"], mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, " 17"]:
    """Which joints are known and lie on the mask."""
    known = np.isfinite(joints[:, :2]).all(-1)
    at = np.clip(np.nan_to_num(joints[:, :2]).astype(int), 0, np.array(mask.shape[::-1]) - 1)
    return known & mask[at[:, 1], at[:, 0]]


def _part_on(joints: Float[np.ndarray, "17 3"], mask: Bool[np.ndarray, "height width"]) -> float:
    return float(_is_on(joints, mask).sum() / max(np.isfinite(joints).all(-1).sum(), 1))
