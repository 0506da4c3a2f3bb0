"""Qualisys calibrations (.qca.txt, which is XML), as Qualisys Track Manager exports them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from avatarpose.errors import InputError
from avatarpose.importers.calibration.rig import Calibration, calibration_of, camera_of, read_text

SUBPIXELS = 64
"""Qualisys counts image coordinates and focal lengths in 64ths of a pixel."""


def is_qualisys(path: Path, head: str) -> bool:
    """By its elements: <calibration> with <transform r11=...> and <intrinsic ...>."""
    return path.suffix.lower() in (".txt", ".xml") and "<calibration" in head and "<camera" in head


def read_qualisys(path: Path) -> Calibration:
    """Reads the video cameras of a Qualisys calibration, named by their serial.

    The file's r11..r33 turns the world into a camera that looks along -z with y up; x, y, z is its centre in mm. Its
    radial and tangential distortion act on normalised coordinates as OpenCV's. The world is z up.

    Raises:
        InputError: absent, no XML, without cameras, or with a camera that lacks a number.
    """
    try:
        root = ElementTree.fromstring(read_text(path).encode())
    except ElementTree.ParseError as error:
        raise InputError("not a Qualisys calibration", file=path, expected="XML", found=error) from None
    cameras, skipped = [], []
    for entry in root.iter("camera"):
        name = entry.attrib.get("serial", "")
        place, lens, video = entry.find("transform"), entry.find("intrinsic"), entry.find("fov_video")
        if place is None or lens is None or video is None or not name:
            skipped.append(name or "one without a serial")  # a camera of the marker system, without video
            continue
        of = _Numbers(path, name, {**place.attrib, **lens.attrib, **video.attrib})
        R = np.diag([1.0, -1.0, -1.0]) @ np.array([[of(f"r{i}{j}") for j in (1, 2, 3)] for i in (1, 2, 3)])
        left, top = of("left"), of("top")
        K = [
            [of("focalLengthU") / SUBPIXELS, of("skew") / SUBPIXELS, of("centerPointU") / SUBPIXELS - left],
            [0, of("focalLengthV") / SUBPIXELS, of("centerPointV") / SUBPIXELS - top],
            [0, 0, 1],
        ]
        k1, k2, k3 = (of(f"radialDistortion{i}") for i in (1, 2, 3))
        dist = [k1, k2, of("tangentalDistortion1"), of("tangentalDistortion2"), k3]  # spelt so in the file
        size = (of("right") - left + 1, of("bottom") - top + 1)
        t = -R @ np.array([of(axis) for axis in "xyz"])
        cameras.append(camera_of(path, name, K, R, t, dist, size))
    notes = [f"cameras without video left out: {', '.join(skipped)}"] if skipped else []
    return calibration_of("qualisys", path, cameras, metres=0.001, up="z", notes=notes)


class _Numbers:
    """Numbers by attribute of one camera, with errors that name it."""

    def __init__(self, path: Path, camera: str, attributes: dict[str, str]) -> None:
        self.path, self.camera, self.attributes = path, camera, attributes

    def __call__(self, key: str) -> float:
        if key not in self.attributes:
            raise InputError(f"lacks {key}", file=self.path, camera=self.camera, expected=key)
        try:
            return float(self.attributes[key])
        except ValueError:
            found = repr(self.attributes[key])
            raise InputError(f"{key} is not a number", file=self.path, camera=self.camera, found=found) from None
