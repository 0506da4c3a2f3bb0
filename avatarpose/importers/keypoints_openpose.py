"""OpenPose JSON and EasyMocap's annotations: a folder of a camera with one JSON a frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatarpose.errors import InputError
from avatarpose.importers.keypoint_rows import coco_row, stack_rows, triples
from avatarpose.importers.numbering import load_json, numbered_files, rows_of_numbers

_HIPS_APART = 0.05
"""Share of a person's size by which joint 8 is off the middle of joints 9 and 12 in BODY_25B."""


def read_openpose(
    folder: Path, camera: str | None = None, frames: int | None = None
) -> Float[np.ndarray, "frames detections 17 3"]:
    """Reads OpenPose's JSON (`--write_json`), one file a frame: BODY_25, BODY_25B or COCO (18 joints).

    BODY_25B and BODY_25 both have 25 joints and nothing in the file says which; joint 8 tells them apart.

    Args:
        folder: the files of one camera; their order is that of the last number in their names, frame 0 the smallest.
        camera: its name, for messages.
        frames: how many frames there must be; None for as many as there are.

    Returns:
        x, y in pixels (centres at half), score; COCO-17 order; NaN where a joint is absent (score 0).

    Raises:
        InputError: no files, a malformed one, people of another number of joints, or another number of frames.
    """
    files = _files(folder, camera, "OpenPose JSON")
    people: dict[int, list[np.ndarray]] = {}
    for number, file in files.items():
        content = load_json(file, camera)
        listed = content.get("people") if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(p, dict) and "pose_keypoints_2d" in p for p in listed):
            raise InputError(
                "malformed OpenPose JSON", file=file, camera=camera, frame=number,
                expected='{"people": [{"pose_keypoints_2d": [...]}]}',
            )  # fmt: skip
        # A person found by hands or face alone has an empty list.
        lists = [person["pose_keypoints_2d"] for person in listed if person["pose_keypoints_2d"] != []]
        people[number] = [triples(values, (25, 18), file, camera, "keypoints") for values in lists]
    of_25 = [row for rows in people.values() for row in rows if len(row) == 25]
    order_25 = "body25b" if _is_body25b(of_25) else "body25"
    row_of, count = rows_of_numbers(people, frames, True, folder, camera)
    rows = {
        row_of[number]: [coco_row(row, order_25 if len(row) == 25 else "coco18") for row in found]
        for number, found in people.items()
    }
    return stack_rows(rows, count, folder, camera)


def read_easymocap(
    folder: Path, camera: str | None = None, frames: int | None = None
) -> Float[np.ndarray, "frames detections 17 3"]:
    """Reads EasyMocap's annotations, one JSON a frame: {"annots": [{"keypoints": 25 x 3, ...}]}, BODY_25 or COCO-17.

    Args, Returns, Raises: as `read_openpose`.
    """
    files = _files(folder, camera, "EasyMocap JSON")
    people: dict[int, list[np.ndarray]] = {}
    for number, file in files.items():
        content = load_json(file, camera)
        listed = content.get("annots") if isinstance(content, dict) else content
        if not isinstance(listed, list) or not all(isinstance(person, dict) for person in listed):
            expected = '{"annots": [{"keypoints": [...]}]}'
            raise InputError(
                "malformed EasyMocap JSON", file=file, camera=camera, frame=number, expected=expected
            )
        people[number] = []
        for person in listed:
            values = person.get("keypoints", person.get("keypoints2d"))
            if values is None:
                raise InputError(
                    "a person without keypoints", file=file, camera=camera, frame=number, expected="keypoints",
                    found=", ".join(person) or "nothing",
                )  # fmt: skip
            row = triples(values, (25, 17), file, camera, "keypoints")
            people[number].append(coco_row(row, "body25" if len(row) == 25 else "coco17"))
    row_of, count = rows_of_numbers(people, frames, True, folder, camera)
    return stack_rows({row_of[number]: rows for number, rows in people.items()}, count, folder, camera)


def _files(folder: Path, camera: str | None, what: str) -> dict[int, Path]:
    files = numbered_files(Path(folder), "*.json", camera) if Path(folder).is_dir() else {}
    if not files:
        raise InputError(f"no {what}", file=folder, camera=camera, expected="a folder with one .json a frame")
    return files


def _is_body25b(rows: list[Float[np.ndarray, "25 3"]]) -> bool:
    """False where joint 8 lies half way between joints 9 and 12, as the middle of the hips does in BODY_25."""
    known = [row for row in rows if (row[[8, 9, 12], 2] > 0).all()]
    if not known:
        # BODY_25 puts the neck between the shoulders; in BODY_25B joint 1 is an eye. Without either: the default model.
        known = [row for row in rows if (row[[1, 2, 5], 2] > 0).all()]
        middle, ends = 1, [2, 5]
    else:
        middle, ends = 8, [9, 12]
    if not known:
        return False
    apart = [np.linalg.norm(row[middle, :2] - row[ends, :2].mean(axis=0)) for row in known]
    size = [np.ptp(row[row[:, 2] > 0, :2], axis=0).max() for row in known]
    return float(np.median(np.array(apart) / np.maximum(size, 1))) > _HIPS_APART
