"""TOML calibrations: Pose2Sim, aniposelib (Anipose, FreeMoCap) and Caliscope's camera_array.toml."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from avatarpose.errors import InputError
from avatarpose.importers.calibration.rig import Calibration, calibration_of, camera_of, missing, read_text


def is_toml(path: Path, head: str) -> bool:
    """By name and by a camera's `matrix` and `translation`."""
    return path.suffix.lower() == ".toml" and "matrix" in head and "rotation" in head


def read_toml(path: Path) -> Calibration:
    """Reads every table that has a `matrix`: at the top, or below `[cameras]` as in Caliscope.

    `rotation` is a Rodrigues vector or a matrix, world to camera. Caliscope works in metres; Pose2Sim does too, but
    aniposelib writes the same layout in the unit of its board, so nothing is assumed there. Caliscope's cameras are
    called `cam_<id>` as its videos are; `port_<id>` is what it called them before.

    Raises:
        InputError: absent, no TOML, without cameras, with a fisheye lens, or with a malformed camera.
    """
    try:
        tables = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise InputError("malformed TOML", file=path, found=error) from None
    below = tables.get("cameras")
    caliscope = isinstance(below, dict)
    cameras, notes = [], []
    for key, entry in (below if caliscope else tables).items():
        if not isinstance(entry, dict) or not ({"matrix", "size", "rotation"} & set(entry)):
            continue  # [metadata], [charuco], ...
        name, aliases = _names(key, entry)
        if entry.get("ignore") is True:
            notes.append(f"{name} left out: the file says to ignore it")
        elif "matrix" in entry and entry.get("rotation") in (None, "null", []):
            notes.append(f"{name} left out: it has no pose")
        else:
            missing(entry, ("matrix", "rotation", "translation"), path, name)
            if entry.get("fisheye") is True:
                raise InputError(
                    "fisheye lens", file=path, camera=name, expected="OpenCV's five-term distortion",
                    hint="Undistort its images first and calibrate those",
                )  # fmt: skip
            dist, size = entry.get("distortions", ()), entry.get("size")
            cameras.append(
                camera_of(path, name, entry["matrix"], entry["rotation"], entry["translation"], dist, size, aliases)
            )
    return calibration_of("toml", path, cameras, metres=1.0 if caliscope else None, notes=notes)


def _names(key: str, entry: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    number = entry.get("cam_id", entry.get("port"))
    if number is not None:
        return f"cam_{number}", (f"port_{number}", key)
    name = entry.get("name", key)
    return str(name), (key,) if str(name) != key else ()
