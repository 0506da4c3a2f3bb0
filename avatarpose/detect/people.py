"""Boxes and likeness of detections: (left, top, right, bottom) and COCO-17 joints, pixels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# Per-joint constants k = 2 sigma of the object keypoint similarity (COCO keypoint evaluation, cocodataset.org).
OKS_K = 2 * np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
LEAST_JOINTS = 4
"""Fewer joints than this are no person."""


def box_of(person: Float[np.ndarray, "17 3"], margin: float = 0.0) -> Float[np.ndarray, " 4"]:
    """The box about the known joints, grown by `margin` of its longer side; NaN without joints."""
    known = person[np.isfinite(person).all(-1), :2]
    if not len(known):
        return np.full(4, np.nan)
    low, high = known.min(0), known.max(0)
    grow = margin * max(high - low)
    return np.concatenate((low - grow, high + grow))


def clip_boxes(boxes: Float[np.ndarray, "boxes 4"], width: int, height: int) -> Float[np.ndarray, "kept 4"]:
    """The parts of boxes inside the image; boxes with less than 8 pixels of it are left out."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    boxes = np.clip(boxes, 0, [width, height, width, height])
    return boxes[((boxes[:, 2:] - boxes[:, :2]) >= 8).all(-1)]


def box_overlaps(
    first: Float[np.ndarray, "n 4"], second: Float[np.ndarray, "m 4"]
) -> tuple[Float[np.ndarray, "n m"], Float[np.ndarray, "n m"]]:
    """Intersection over union of every pair, and intersection over the area of the first."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=-1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None] - shared
    return shared / np.maximum(union, 1e-9), shared / np.maximum(areas[0][:, None], 1e-9)


def suppress_boxes(boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, " n"], overlap: float) -> np.ndarray:
    """Indices of the boxes that remain, best first, when those overlapping a better one by more are dropped."""
    order, kept = list(np.argsort(-scores, kind="stable")), []
    while order:
        best, *order = order
        kept.append(int(best))
        if order:
            order = list(np.array(order)[box_overlaps(boxes[[best]], boxes[order])[0][0] <= overlap])
    return np.array(kept, int)


def merge_regions(boxes: Float[np.ndarray, "n 4"], inside: float = 0.6) -> Float[np.ndarray, "m 4"]:
    """Regions joined while one lies mostly inside another, largest first."""
    merged = [np.asarray(box, float) for box in boxes]
    changed = True
    while changed and len(merged) > 1:
        changed = False
        merged.sort(key=lambda b: -(b[2] - b[0]) * (b[3] - b[1]))
        for i in range(len(merged) - 1, 0, -1):
            _, within = box_overlaps(merged[i][None], np.array(merged[:i]))
            if within.max() > inside:
                j = int(within[0].argmax())
                merged[j] = np.concatenate((np.minimum(merged[i], merged[j])[:2], np.maximum(merged[i], merged[j])[2:]))
                del merged[i]
                changed = True
                break
    return np.array(merged).reshape(-1, 4)


def similarity(first: Float[np.ndarray, "17 3"], second: Float[np.ndarray, "17 3"]) -> float:
    """Object keypoint similarity of two detections: mean of exp(-d^2 / (2 s^2 k^2)) over the joints that both have.

    s^2 is the area of the larger box about the joints, at least a tenth of its longer side squared (a person seen from
    the side has a narrow box). 0 with fewer than LEAST_JOINTS common joints. COCO keypoint evaluation.
    """
    common = np.isfinite(first).all(-1) & np.isfinite(second).all(-1)
    if common.sum() < LEAST_JOINTS:
        return 0.0
    size = 0.0
    for person in (first, second):
        sides = np.ptp(person[np.isfinite(person).all(-1), :2], axis=0)
        size = max(size, float(np.prod(sides)), 0.1 * float(sides.max()) ** 2)
    squared = ((first[common, :2] - second[common, :2]) ** 2).sum(-1)
    return float(np.exp(-squared / (2 * max(size, 1e-9) * OKS_K[common] ** 2)).mean())


def person_score(person: Float[np.ndarray, "17 3"]) -> float:
    """Mean score over all 17 joints, an absent one counting 0."""
    return float(np.nan_to_num(person[:, 2]).mean())


def suppress_people(people: Float[np.ndarray, "n 17 3"], alike: float) -> Float[np.ndarray, "m 17 3"]:
    """The detections, best score first, without those more alike than `alike` to a better one."""
    kept: list[np.ndarray] = []
    for person in sorted(people, key=person_score, reverse=True):
        if all(similarity(person, other) <= alike for other in kept):
            kept.append(person)
    return np.array(kept).reshape(-1, 17, 3)


def clean_people(
    people: Float[np.ndarray, "n 17 3"], width: int, height: int, most: int, person: float, joint: float, alike: float
) -> Float[np.ndarray, "m 17 3"]:
    """What is kept of a detector's answer: joints inside the image that score at least `joint`; of those people who
    score at least `person`, the best `most` that are no more alike than `alike`.
    """
    people = np.array(people, np.float64).reshape(-1, 17, 3)
    with np.errstate(invalid="ignore"):
        inside = ((people[..., :2] >= 0) & (people[..., :2] <= (width, height))).all(-1)
        people[~(inside & (people[..., 2] >= joint))] = np.nan
    known = np.isfinite(people).all(-1).sum(-1)
    people = people[(known >= LEAST_JOINTS) & (np.array([person_score(p) for p in people]) >= person)]
    return suppress_people(people, alike)[:most]
