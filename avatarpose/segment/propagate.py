"""Prompts for networks that segment what they are pointed at, and what is carried from one frame to the next."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8

from avatarpose.body.silhouette import nearest_person
from avatarpose.keypoints2d import pair_detections
from avatarpose.segment.people import People
from avatarpose.sequence import BACKGROUND, FOREGROUND, UNKNOWN
from avatarpose.skeletons import COCO17

# Eyes and ears say no more than the nose where to point, and lie too near the edge.
POINTS = COCO17.indices(joint for joint in COCO17.joints if "eye" not in joint and "ear" not in joint)
_APART = 0.04
"""Joints of two people nearer than this share of the person's height say nothing about whose the pixels are."""
_BOX_MARGIN = 0.08


@dataclass
class Prompt:
    """What one person is pointed out by; pixels of the image, pixel centres at whole numbers (as the networks count).

    Attributes:
        points: (N, 2) the person's joints and, after them, those of others.
        labels: (N,) 1 for the person's own, 0 for others'.
        box: left, top, right, bottom.
    """

    points: Float[np.ndarray, "points 2"]
    labels: Int[np.ndarray, " points"]
    box: Float[np.ndarray, " 4"]


class Tracks:
    """People of one camera frame by frame, by a key that stays: the name, or where nobody has one a running number."""

    def __init__(self, people: People, c: int) -> None:
        self.people, self.c = people, c
        self._last: dict[str, np.ndarray] = {}
        self._count = 0

    def at(self, f: int) -> dict[str, Float[np.ndarray, "17 2"]]:
        """Joints in the image by key, pixels, NaN where unknown; frames must come in rising order."""
        if self.people.known_in(f):
            points = self.people.pixels(self.c, f)
            found = {name: points[p] for p, name in enumerate(self.people.names)}
        else:
            found = self._followed(self.people.detections(self.c, f)[..., :2])
        size = self.people.image_size(self.c)
        return {key: points for key, points in found.items() if inside(points, size).sum() >= 3}

    def _followed(self, rows: Float[np.ndarray, "detections 17 2"]) -> dict[str, np.ndarray]:
        keys, last = list(self._last), np.array(list(self._last.values())).reshape(-1, 17, 2)
        taken = {b: keys[a] for a, b in pair_detections(last, rows)} if len(keys) and len(rows) else {}
        found = {}
        for row, points in enumerate(rows):
            if row not in taken:
                taken[row], self._count = f"#{self._count}", self._count + 1
            found[taken[row]] = points
        self._last |= found
        return found


def inside(points: Float[np.ndarray, "*batch 2"], size: Float[np.ndarray, " 2"]) -> np.ndarray:
    """Which points are known and in the image of (width, height)."""
    known = np.nan_to_num(points, nan=-1.0)
    return (known > 0).all(-1) & (known < size).all(-1)


def prompts(people: People, c: int, f: int, tracks: dict[str, Float[np.ndarray, "17 2"]]) -> dict[str, Prompt]:
    """A prompt for each person in the image, by key.

    Where bodies or 3D joints say who is in front, a joint that another person hides points at that person instead.
    Joints of two people that nearly coincide are left out of both prompts.
    """
    size = people.image_size(c)
    front = nearest_person(people.depths(c, f)) if people.known_in(f) else None
    shown = {}
    for key, points in tracks.items():
        seen = inside(points, size)
        if front is not None:
            at = np.clip(np.nan_to_num(points), 0, size - 1).astype(int)
            owner = front[at[:, 1], at[:, 0]]
            seen &= (owner < 0) | (owner == people.names.index(key))
        chosen = points[POINTS][seen[POINTS]]
        shown[key] = chosen if len(chosen) else points[POINTS][inside(points, size)[POINTS]]
    result = {}
    for key, points in tracks.items():
        known = points[inside(points, size)]
        low, high = known.min(0), known.max(0)
        height = float((high - low).max())
        others = np.concatenate([shown[other] for other in shown if other != key] or [np.zeros((0, 2))])
        own = shown[key]
        if len(own) and len(others):
            gap = np.linalg.norm(own[:, None] - others[None], axis=-1)
            clear = gap.min(1) > _APART * height
            own, others = own[clear] if clear.any() else own, others[gap.min(0) > _APART * height]
        margin = _BOX_MARGIN * height
        box = np.concatenate([np.maximum(low - margin, 0), np.minimum(high + margin, size)])
        result[key] = Prompt(
            np.concatenate([own, others]).astype(np.float64) - 0.5,
            np.concatenate([np.ones(len(own)), np.zeros(len(others))]).astype(np.int64),
            box - 0.5,
        )
    return result


def moved_logits(
    logits: Float[np.ndarray, "h w"],
    before: Float[np.ndarray, "17 2"],
    now: Float[np.ndarray, "17 2"],
    long_side: float,
) -> Float[np.ndarray, "h w"]:
    """The last frame's mask, as a network gave it, moved by what the person's joints moved on the median.

    Args:
        logits: of a square picture into whose top left corner the image was fitted.
        before, now: joints, pixels of the image.
        long_side: of the image, pixels.
    """
    both = np.isfinite(before).all(-1) & np.isfinite(now).all(-1)
    if not both.any():
        return logits
    shift = np.median(now[both] - before[both], axis=0) * len(logits) / long_side
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
    return cv2.warpAffine(logits, matrix, logits.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def masks_of(
    logits: dict[str, Float[np.ndarray, "height width"]], doubt: float
) -> tuple[UInt8[np.ndarray, "height width"], dict[str, UInt8[np.ndarray, "height width"]]]:
    """Masks of all people and of each, from everybody's logits at the image's size.

    A pixel is the person's whose logit is greatest, if that is above `doubt`; between -`doubt` and `doubt` it is
    unknown. Where the two greatest are both above and within `doubt` of each other, it is unknown whose it is.
    """
    keys = list(logits)
    stack = np.stack([logits[key] for key in keys])
    ordered = np.sort(stack, axis=0)
    most = ordered[-1]
    union = np.where(most > doubt, FOREGROUND, np.where(most < -doubt, BACKGROUND, UNKNOWN)).astype(np.uint8)
    close = np.zeros(union.shape, bool)
    if len(keys) > 1:
        close = (ordered[-2] > doubt) & (most - ordered[-2] < doubt)
    masks = {}
    for i, key in enumerate(keys):
        mask = np.where(stack[i] >= most, union, BACKGROUND).astype(np.uint8)
        mask[close & (most - stack[i] < doubt)] = UNKNOWN
        masks[key] = mask
    return union, masks
