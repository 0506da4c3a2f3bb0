"""Frame numbers of other tools' files, and the rows they become.

A source numbers its files in its own way: from 0 or 1 or 11, every frame or every fourth. The number is the last run of
digits in the name (`cam01.0012.json`, `000012_keypoints.json`, `img_12.jpg`); row 0 is the camera's first frame.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avatarpose.errors import InputError


def frame_number(name: str, file: Path | str, camera: str | None = None) -> int:
    """The last run of digits in a file's name without its suffix.

    Raises:
        InputError: the name holds no digit.
    """
    stem = re.sub(r"\.[A-Za-z][A-Za-z0-9]*$", "", Path(name).name)
    digits = re.findall(r"[0-9]+", stem)
    if not digits:
        raise InputError(
            "no frame number in the name", file=file, camera=camera, expected="digits, as in 000012", found=repr(name)
        )
    return int(digits[-1])


def numbered_files(folder: Path, pattern: str, camera: str | None = None) -> dict[int, Path]:
    """The files of a folder by their frame numbers, in the order of the numbers.

    Raises:
        InputError: a name without a number, or two files of one number.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(pattern)):
        if path.name.startswith("."):
            continue
        number = frame_number(path.name, path, camera)
        if number in found:
            raise InputError(
                "two files of one frame", file=path, camera=camera, frame=number, expected="one",
                found=f"{found[number].name} and {path.name}", hint="The frame is the last number in a name",
            )  # fmt: skip
        found[number] = path
    return dict(sorted(found.items()))


def rows_of_numbers(
    numbers: Iterable[int], frames: int | None, every_frame: bool, file: Path | str, camera: str | None = None
) -> tuple[dict[int, int], int]:
    """Which row each frame number becomes, and how many rows there are.

    A source with a file for every frame (`every_frame`) starts at its smallest number. One that only names frames with
    something in them may lack its first ones: its numbers count from 0 where they fit, from 1 where the greatest is
    `frames`, and else from the smallest. Numbers that all lie a step apart are consecutive frames if that gives the
    right count, or if nobody knows it and the source has every frame. Numbers missing in between are rows with nothing
    in them.

    Args:
        numbers: the source's numbers.
        frames: how many frames the camera has; None where nobody knows.
        every_frame: whether the source has an entry for every frame, empty or not.
        file: what to name in errors.
        camera: likewise.

    Returns:
        {number: row} and the number of rows (`frames` where it is given).

    Raises:
        InputError: the numbers do not fit into `frames`, or a source with every frame has fewer.
    """
    known = sorted(set(numbers))
    if not known:
        return {}, frames or 0
    first, last = known[0], known[-1]
    if not every_frame and frames is not None and last <= frames:
        first = min(first, 0 if last < frames else 1)
    apart = math.gcd(*np.diff([first, *known]).tolist()) or 1
    consecutive = not every_frame if frames is None else last - first < frames
    step = 1 if consecutive else apart
    count = (last - first) // step + 1
    too_few = count < frames and (step > 1 or (every_frame and apart == 1)) if frames is not None else False
    if frames is not None and (count > frames or too_few):
        raise InputError(
            "different frame counts", file=file, camera=camera, expected=f"{frames} frames",
            found=f"{count}, numbered {first} to {last}",
            hint="Cut the camera's images and this source to the same frames",
        )  # fmt: skip
    return {number: (number - first) // step for number in known}, frames or count


def rows_of_images(
    numbers: Iterable[int], images: Sequence[int], file: Path | str, camera: str | None = None
) -> dict[int, int]:
    """Which image each frame number of another source belongs to.

    The same numbers mean the same frames if all of one are among the other; numbers without an image are left out then
    (of a capture that was cut). Else the two are numbered differently, and `rows_of_numbers` applies.

    Args:
        numbers: the source's numbers.
        images: the images' numbers, in order.
        file: what to name in errors.
        camera: likewise.

    Raises:
        InputError: as `rows_of_numbers`.
    """
    known = set(numbers)
    if known <= set(images) or set(images) <= known:
        return {int(number): row for row, number in enumerate(images) if number in known}
    return rows_of_numbers(known, len(images), False, file, camera)[0]


def load_json(path: Path, camera: str | None = None) -> Any:
    """Any JSON value, unlike `avatarpose.io.read_json`, which wants an object.

    Raises:
        InputError: absent, not text, or malformed (with line and column).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", file=path, camera=camera) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"malformed JSON at {place}", file=path, camera=camera, found=error.msg) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError("cannot be read as JSON", file=path, camera=camera, found=error) from error


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts names with numbers by the numbers: cam2 before cam10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"[0-9]+|[^0-9]+", name)]


def match_cameras(candidates: Sequence[Path], cameras: Sequence[str], source: Path, kind: str) -> dict[str, Path]:
    """Gives each camera its file or folder: the same name, else a name that contains the camera's, else by order.

    A name contains `cam1` where it stands alone, not in `cam10`. By order only when the counts are equal and no name
    matches at all.

    Args:
        candidates: files and folders that may belong to a camera; they are compared without their suffix.
        cameras: names of the cameras.
        source: what to name in errors.
        kind: what is looked for, for messages: "keypoints", "masks".

    Raises:
        InputError: nothing to match; a camera with none or several; several cameras for one.
    """
    if not candidates:
        raise InputError(f"no {kind} there", file=source, expected=", ".join(cameras))
    names = {path: (path.name if path.is_dir() else path.stem).lower() for path in candidates}
    found: dict[str, Path] = {}
    for camera in cameras:
        alone = rf"(?<![a-z0-9]){re.escape(camera.lower())}(?![a-z0-9])"
        no_digit = rf"(?<![0-9]){re.escape(camera.lower())}(?![0-9])"
        matches: list[Path] = []
        for test in (re.escape(camera.lower()) + r"\Z", alone, no_digit):
            compare = re.match if test.endswith(r"\Z") else re.search
            matches = [path for path, name in names.items() if compare(test, name)]
            if matches:
                break
        if len(matches) > 1:
            listed = ", ".join(path.name for path in matches)
            raise InputError(f"several {kind} for one camera", file=source, camera=camera, expected="one", found=listed)
        if matches:
            found[camera] = matches[0]
    if not found and len(candidates) == len(cameras):
        ordered = sorted(candidates, key=lambda path: natural_key(names[path]))
        return dict(zip(sorted(cameras, key=natural_key), ordered, strict=True))
    listed = ", ".join(sorted(path.name for path in candidates))
    missing = next((camera for camera in cameras if camera not in found), None)
    if missing is not None:
        raise InputError(
            f"camera has no {kind}", file=source, camera=missing, expected=f"a name with '{missing}' in it",
            found=listed, hint="Name the folders after the cameras",
        )  # fmt: skip
    for camera in cameras:
        other = next((name for name in cameras if name != camera and found[name] == found[camera]), None)
        if other is not None:
            raise InputError(
                f"the same {kind} for two cameras", file=found[camera], camera=camera, expected="one each",
                found=f"also {other}", hint="Name the folders after the cameras",
            )  # fmt: skip
    return found
