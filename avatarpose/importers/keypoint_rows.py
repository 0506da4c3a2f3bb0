"""Detections of one person as other tools list them, as COCO-17 rows; and the rows of all frames as one array."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avatarpose.errors import InputError
from avatarpose.skeletons import BODY25, BODY25B, COCO17

_COCO18 = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
)  # fmt: skip

ORDERS: dict[str, list[int]] = {
    "body25": [BODY25.index(joint) for joint in COCO17.joints],
    "body25b": [BODY25B.index(joint) for joint in COCO17.joints],
    "coco18": [_COCO18.index(joint) for joint in COCO17.joints],
    "coco17": list(range(17)),
}
"""For each order, where the COCO-17 joints stand. Halpe-26, Halpe-136 and COCO-WholeBody (133) begin with COCO-17."""

PIXEL_CENTRE = 0.5
"""Added to the coordinates of sources that put pixel centres at integers."""


def triples(
    values: Any, lengths: tuple[int, ...], file: Path, camera: str | None, what: str
) -> Float[np.ndarray, "joints 3"]:
    """x, y, score of one person's joints from a flat list, or from a list of triples, as other tools write them.

    Raises:
        InputError: not numbers, not finite, or not one of the `lengths` (numbers of joints).
    """
    expected = " or ".join(str(length) for length in lengths) + " joints of x, y, score"
    try:
        flat = np.array(values, dtype=float).ravel()
    except (TypeError, ValueError) as error:
        raise InputError(f"malformed {what}", file=file, camera=camera, expected=expected, found=error) from None
    if flat.size not in [3 * length for length in lengths]:
        raise InputError(
            f"{what} of another number of joints", file=file, camera=camera, expected=expected,
            found=f"{flat.size} numbers",
        )  # fmt: skip
    if not np.isfinite(flat).all():
        raise InputError(f"{what} are not finite", file=file, camera=camera, expected="numbers", found="NaN, infinity")
    return flat.reshape(-1, 3)


def coco_row(row: Float[np.ndarray, "joints 3"], order: str) -> Float[np.ndarray, "17 3"]:
    """One person as COCO-17, pixel centres at half; NaN where the score is 0 or less; scores at most 1."""
    taken = row[ORDERS[order]].astype(np.float64)
    taken[:, :2] += PIXEL_CENTRE
    absent = taken[:, 2] <= 0
    taken[:, 2] = np.minimum(taken[:, 2], 1)
    taken[absent] = np.nan
    return taken


def stack_rows(
    rows: Mapping[int, list[Float[np.ndarray, "17 3"]]], count: int, file: Path, camera: str | None
) -> Float[np.ndarray, "frames detections 17 3"]:
    """The detections of all frames in one array, float32; NaN where there is none.

    Args:
        rows: detections of a frame by its row.
        count: number of frames.
        file: what to name in errors.
        camera: likewise.

    Raises:
        InputError: coordinates that are no pixels (all within 0 to 1).
    """
    seen = [[row for row in rows.get(f, []) if np.isfinite(row[:, 2]).any()] for f in range(count)]
    result = np.full((count, max(1, max(map(len, seen), default=1)), 17, 3), np.nan, np.float32)
    for f, people in enumerate(seen):
        for d, row in enumerate(people):
            result[f, d] = row
    known = np.isfinite(result[..., 0])
    if known.any() and np.abs(result[known][:, :2] - PIXEL_CENTRE).max() <= 1:
        raise InputError(
            "keypoints are not in pixels", file=file, camera=camera, expected="pixels of the image",
            found="numbers from 0 to 1", hint="Write them in the images' own resolution (OpenPose: --keypoint_scale 0)",
        )  # fmt: skip
    return result
