"""Calibrations of other tools: one small reader each, found by the file's content and name.

A reader returns a `Calibration` in our conventions (pixel centres at i + 0.5, world to camera with x right, y down,
z forward), except that lengths stay in the file's unit: `Calibration.metres` says what one is, where the source defines
it. The table of conventions is in `avatarpose.importers`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatarpose.errors import InputError
from avatarpose.importers.calibration.colmap import colmap_folder, read_colmap
from avatarpose.importers.calibration.opencv import is_opencv, read_opencv
from avatarpose.importers.calibration.qualisys import is_qualisys, read_qualisys
from avatarpose.importers.calibration.rig import Calibration, SourceCamera
from avatarpose.importers.calibration.tables import (
    is_hi4d,
    is_own,
    is_panoptic,
    is_voxelpose,
    read_hi4d,
    read_own,
    read_panoptic,
    read_voxelpose,
)
from avatarpose.importers.calibration.toml_files import is_toml, read_toml
from avatarpose.importers.calibration.vicon import is_vicon, read_vicon


@dataclass(frozen=True)
class CalibrationFormat:
    """One source of calibrations.

    Attributes:
        read: from a file or folder.
        recognises: whether a file, given with its first 64 kB as text, is one of this format.
    """

    read: Callable[[Path], Calibration]
    recognises: Callable[[Path, str], bool]


def _is_colmap(path: Path, head: str) -> bool:
    return path.name in ("cameras.bin", "cameras.txt") and colmap_folder(path) is not None


CALIBRATION_FORMATS: dict[str, CalibrationFormat] = {
    "avatarpose": CalibrationFormat(read_own, is_own),
    "opencv": CalibrationFormat(read_opencv, is_opencv),
    "qualisys": CalibrationFormat(read_qualisys, is_qualisys),
    "toml": CalibrationFormat(read_toml, is_toml),
    "colmap": CalibrationFormat(read_colmap, _is_colmap),
    "hi4d": CalibrationFormat(read_hi4d, is_hi4d),
    "panoptic": CalibrationFormat(read_panoptic, is_panoptic),
    "voxelpose": CalibrationFormat(read_voxelpose, is_voxelpose),
    "vicon": CalibrationFormat(read_vicon, is_vicon),
}
"""By the name that `--calibration-format` takes."""

_FOLDERS = ("opencv", "colmap")  # may be a folder as a whole
_SUFFIXES = (".yml", ".yaml", ".toml", ".txt", ".xml", ".json", ".npz", ".xcp", ".bin")
_DEPTH = 3
_MOST_ALIKE = 20  # more files of one kind in a folder are frames or keypoints
_HEAD = 1 << 16


def guess_format(path: Path) -> str | None:
    """The format of a file or folder, by content and name; None where none recognises it.

    Raises:
        InputError: it cannot be read.
    """
    if path.is_dir():
        if colmap_folder(path) is not None:
            return "colmap"
        inside = {guess_format(file) for file in sorted(path.iterdir()) if file.is_file() and file.suffix in _SUFFIXES}
        known = inside - {None}
        return known.pop() if len(known) == 1 else None
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD).decode("utf-8", "replace")
    except OSError as error:
        raise InputError("cannot be read", file=path, found=error.strerror) from None
    return next((name for name, known in CALIBRATION_FORMATS.items() if known.recognises(path, head)), None)


def read_calibration(path: Path | str, format: str = "auto") -> Calibration:
    """Reads a calibration.

    Args:
        path: its file or folder.
        format: a key of `CALIBRATION_FORMATS`, or "auto".

    Raises:
        InputError: absent, of no known format, or malformed.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("no such calibration", file=path)
    if format == "auto":
        found = guess_format(path)
        if found is None:
            raise InputError(
                "not a calibration that is known", file=path, expected=", ".join(CALIBRATION_FORMATS),
                hint="If it is one of these, say which with --calibration-format",
            )  # fmt: skip
        format = found
    if format not in CALIBRATION_FORMATS:
        raise InputError("no such format", expected=" or ".join(CALIBRATION_FORMATS), found=format)
    if path.is_dir() and format not in _FOLDERS:
        return find_calibration(path, format)
    return CALIBRATION_FORMATS[format].read(path)


def find_calibration(root: Path, format: str = "auto") -> Calibration:
    """The one calibration in a folder and the folders below it.

    Several files that say the same (EasyMocap's two, Caliscope's copies) count as one.

    Args:
        root: the folder.
        format: look for this one only, or "auto" for any.

    Raises:
        InputError: none, or several that differ.
    """
    found: dict[Path, Calibration] = {}
    for path in _candidates(root):
        name = guess_format(path)
        if name is None or format not in ("auto", name):
            continue
        if name == "opencv" and sum(guess_format(other) == name for other in _candidates(path.parent, _DEPTH)) > 1:
            path = path.parent  # one file a camera, or lenses and poses apart
        if path in found:
            continue
        calibration = CALIBRATION_FORMATS[name].read(path)
        if not any(_same(calibration, other) for other in found.values()):
            found[path] = calibration
    if not found:
        raise InputError(
            "no calibration found", file=root, expected=f"a file of {format if format != 'auto' else 'a known format'}",
            hint="Say where it is with --calibration PATH",
        )  # fmt: skip
    if len(found) > 1:
        raise InputError(
            "several calibrations that differ", file=root, expected="one",
            found=", ".join(str(path.relative_to(root)) for path in found), hint="Choose with --calibration PATH",
        )  # fmt: skip
    return next(iter(found.values()))


def _candidates(folder: Path, depth: int = 0) -> Iterator[Path]:
    entries = sorted(folder.iterdir())
    files = [path for path in entries if path.is_file() and path.suffix.lower() in _SUFFIXES]
    alike = Counter(path.suffix for path in files)
    yield from (path for path in files if alike[path.suffix] <= _MOST_ALIKE)
    if depth + 1 < _DEPTH:
        for path in entries:
            if path.is_dir() and not path.name.startswith("."):
                yield from _candidates(path, depth + 1)


def _same(a: Calibration, b: Calibration) -> bool:
    if {camera.name for camera in a.cameras} != {camera.name for camera in b.cameras}:
        return False
    others = {camera.name: camera for camera in b.cameras}

    def equal(x: SourceCamera, y: SourceCamera) -> bool:
        return all(np.allclose(getattr(x, key), getattr(y, key), atol=1e-9) for key in ("K", "R", "t", "dist"))

    return all(equal(camera, others[camera.name]) for camera in a.cameras)


__all__ = ["CALIBRATION_FORMATS", "Calibration", "CalibrationFormat", "SourceCamera", "find_calibration",
           "guess_format", "read_calibration"]  # fmt: skip
