"""COCO's and AlphaPose's JSON: one file a camera that lists the people of all images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avatarpose.errors import InputError
from avatarpose.importers.keypoint_rows import coco_row, stack_rows, triples
from avatarpose.importers.numbering import frame_number, load_json, numbered_files, rows_of_numbers

COCO_LENGTHS = (17, 133)
ALPHAPOSE_LENGTHS = (17, 26, 133, 136)
ALPHAPOSE_NAME = "alphapose-results.json"

Entries = list[tuple[int, Float[np.ndarray, "17 3"] | None]]
"""Frame number and person, None for a frame that is listed without one."""


def read_coco(
    path: Path, camera: str | None = None, frames: int | None = None
) -> Float[np.ndarray, "frames detections 17 3"]:
    """Reads COCO keypoints: a list of results, or a file of annotations.

    Results: [{"image_id", "category_id", "keypoints": 51 numbers, "score"}]; `image_id` is the frame's number or the
    image's file name. Annotations: {"images": [{"id", "file_name"}], "annotations": [{"image_id", "keypoints"}]};
    a flag of 0 is an absent joint, every other one present. Where the third numbers are flags (0, 1, 2), the person's
    `score` is that of all joints, or 1 where there is none. Of COCO-WholeBody the first 17 joints are read.

    Args:
        path: the file, or a folder with this file alone.
        camera: name of the camera, for messages.
        frames: how many frames there must be; None for as many as the numbers tell (`rows_of_numbers`).

    Returns:
        x, y in pixels (centres at half), score; NaN where absent.

    Raises:
        InputError: absent or malformed, people of another number of joints, or more frames than there are.
    """
    file = _only_file(Path(path), camera)
    content = load_json(file, camera)
    if isinstance(content, dict) and {"images", "annotations"} <= set(content):
        return _stack(_of_annotations(content, file, camera), True, frames, file, camera)
    return _stack(list(_of_list(content, COCO_LENGTHS, file, camera)), False, frames, file, camera)


def read_alphapose(
    path: Path, camera: str | None = None, frames: int | None = None
) -> Float[np.ndarray, "frames detections 17 3"]:
    """Reads AlphaPose's results: the default list, or `--format cmu` and `open`, in one file or one file an image.

    COCO-17, Halpe-26, Halpe-136 (both begin with COCO-17) and, for cmu and open, OpenPose's COCO of 18 joints. Scores
    are those of the joints, at most 1; the score of the person (which is no probability) is not used.

    Args, Returns, Raises: as `read_coco`; `path` may be AlphaPose's output folder, or its sep-json of a file an image.
    """
    path = Path(path)
    if path.is_dir() and (path / ALPHAPOSE_NAME).is_file():
        path = path / ALPHAPOSE_NAME
    if path.is_dir() and len(list(path.glob("*.json"))) != 1:
        entries: Entries = []
        for number, file in _numbered(path, camera).items():
            entries += _of_image(number, load_json(file, camera), file, camera)
        return _stack(entries, False, frames, path, camera)
    file = _only_file(path, camera)
    content = load_json(file, camera)
    if isinstance(content, list):
        return _stack(list(_of_list(content, ALPHAPOSE_LENGTHS, file, camera)), False, frames, file, camera)
    if not isinstance(content, dict):
        raise InputError("malformed AlphaPose JSON", file=file, camera=camera, expected="a list of people, or images")
    if "people" in content or "bodies" in content:
        entries = _of_image(frame_number(file.name, file, camera), content, file, camera)
        return _stack(entries, False, frames, file, camera)
    entries = []
    for name, image in content.items():
        entries += _of_image(frame_number(name, file, camera), image, file, camera)
    return _stack(entries, False, frames, file, camera)


def _only_file(path: Path, camera: str | None) -> Path:
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.json"))
    if len(files) != 1:
        found = ", ".join(file.name for file in files[:4]) or "none"
        raise InputError("which file holds the keypoints?", file=path, camera=camera, expected="one .json", found=found)
    return files[0]


def _numbered(folder: Path, camera: str | None) -> dict[int, Path]:
    files = numbered_files(folder, "*.json", camera)
    if not files:
        raise InputError("no AlphaPose JSON", file=folder, camera=camera, expected=f"{ALPHAPOSE_NAME}, or one an image")
    return files


def _of_image(number: int, image: Any, file: Path, camera: str | None) -> Entries:
    """The people of an image in AlphaPose's cmu or open format."""
    keys = {"people": "pose_keypoints_2d", "bodies": "joints"}
    group = next((key for key in keys if isinstance(image, dict) and isinstance(image.get(key), list)), None)
    if group is None or not all(isinstance(one, dict) and keys[group] in one for one in image[group]):
        expected = '{"people": [{"pose_keypoints_2d": ...}]} or {"bodies": [{"joints": ...}]}'
        raise InputError("malformed AlphaPose JSON", file=file, camera=camera, frame=number, expected=expected)
    people = [triples(one[keys[group]], (18, *ALPHAPOSE_LENGTHS), file, camera, "keypoints") for one in image[group]]
    return [(number, None), *((number, coco_row(row, "coco18" if len(row) == 18 else "coco17")) for row in people)]


def _of_list(
    content: Any, lengths: tuple[int, ...], file: Path, camera: str | None
) -> Iterator[tuple[int, Float[np.ndarray, "17 3"]]]:
    """The people of a list of results."""
    if not isinstance(content, list):
        expected = "a list of {image_id, keypoints, score}, or {images, annotations}"
        raise InputError("malformed keypoints JSON", file=file, camera=camera, expected=expected, found=_kind(content))
    for entry in content:
        person = _person(entry, lengths, file, camera)
        if person is not None:
            yield _number(entry["image_id"], file, camera), person


def _of_annotations(content: dict[str, Any], file: Path, camera: str | None) -> Entries:
    """The people of a file of annotations; every image it lists is there, with people or without."""
    images, annotations = content["images"], content["annotations"]
    if not isinstance(images, list) or not all(isinstance(image, dict) and _is_id(image.get("id")) for image in images):
        raise InputError("malformed COCO annotations", file=file, camera=camera, expected='images with an "id"')
    if not isinstance(annotations, list):
        expected = "a list of annotations"
        raise InputError("malformed COCO annotations", file=file, camera=camera, expected=expected)
    numbers = {image["id"]: _number(image.get("file_name", image["id"]), file, camera) for image in images}
    if len(set(numbers.values())) < len(numbers):
        raise InputError("two images of one frame", file=file, camera=camera, expected="different numbers")
    entries: Entries = [(number, None) for number in numbers.values()]
    for entry in annotations:
        if isinstance(entry, dict) and "keypoints" not in entry:
            continue  # a box or a crowd without joints
        person = _person(entry, COCO_LENGTHS, file, camera)
        if person is None:
            continue
        if entry["image_id"] not in numbers:
            raise InputError(
                "annotation of an image that is not listed", file=file, camera=camera, expected="an id out of images",
                found=entry["image_id"],
            )  # fmt: skip
        entries.append((numbers[entry["image_id"]], person))
    return entries


def _person(entry: Any, lengths: tuple[int, ...], file: Path, camera: str | None) -> Float[np.ndarray, "17 3"] | None:
    """One entry's joints; None where it is of another category than people."""
    if not isinstance(entry, dict) or not {"image_id", "keypoints"} <= set(entry) or not _is_id(entry["image_id"]):
        raise InputError(
            "malformed entry", file=file, camera=camera, expected="image_id and keypoints", found=_kind(entry)
        )
    if entry.get("category_id", 1) != 1:
        return None
    row = triples(entry["keypoints"], lengths, file, camera, "keypoints")
    if np.isin(row[:, 2], (0, 1, 2)).all():
        score = entry.get("score", 1.0)
        if isinstance(score, bool) or not isinstance(score, int | float) or not np.isfinite(score):
            raise InputError("score is no number", file=file, camera=camera, expected="0 to 1", found=repr(score))
        row[:, 2] = np.where(row[:, 2] > 0, min(max(float(score), 0.0), 1.0), 0)
    return coco_row(row, "coco17")


def _number(image: Any, file: Path, camera: str | None) -> int:
    if isinstance(image, int):
        return image
    return frame_number(str(image), file, camera)


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    return f"an object with {', '.join(map(str, list(value)[:5])) or 'nothing'}" if isinstance(value, dict) else (
        type(value).__name__
    )


def _stack(
    entries: Entries, every_frame: bool, frames: int | None, file: Path, camera: str | None
) -> Float[np.ndarray, "frames detections 17 3"]:
    row_of, count = rows_of_numbers((number for number, _ in entries), frames, every_frame, file, camera)
    if not count:
        raise InputError("no keypoints", file=file, camera=camera, expected="a person", found="an empty list")
    rows: dict[int, list[np.ndarray]] = {}
    for number, person in entries:
        if person is not None:
            rows.setdefault(row_of[number], []).append(person)
    return stack_rows(rows, count, file, camera)
