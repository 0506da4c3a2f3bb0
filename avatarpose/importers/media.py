"""Footage of other tools' folders: a video or a folder of images a camera, matched to the cameras, linked."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from avatarpose.errors import InputError
from avatarpose.importers.calibration import Calibration, SourceCamera
from avatarpose.importers.numbering import frame_number, natural_key
from avatarpose.io import read_image
from avatarpose.sequence import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from avatarpose.video import VideoReader

_PLACES = ("videos", "video", "hdVideos", "images", "hdImgs", "rgb", "frames")
_NOT_FOOTAGE = re.compile(r"mask|annot|keypoint|openpose|json|calib|seg|depth|smpl|result|output|sparse", re.IGNORECASE)


@dataclass(frozen=True)
class Footage:
    """What one camera filmed.

    Attributes:
        name: as its file or folder is called.
        path: the video, or the folder of images.
        images: images by the last number in their names, in that order; empty for a video.
    """

    name: str
    path: Path
    images: dict[int, Path]

    @cached_property
    def _video(self) -> VideoReader:
        return VideoReader(self.path)

    @property
    def is_video(self) -> bool:
        return not self.images

    def __len__(self) -> int:
        return len(self._video) if self.is_video else len(self.images)

    @property
    def fps(self) -> float | None:
        """Frames per second as the video says; None for images."""
        return self._video.fps if self.is_video else None

    @cached_property
    def first(self) -> UInt8[np.ndarray, "height width 3"]:
        """The first image, RGB. Raises InputError where it cannot be read."""
        return self._video.read(0) if self.is_video else read_image(next(iter(self.images.values())))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the first image, pixels."""
        return self.first.shape[1::-1]

    def close(self) -> None:
        """Frees the video's decoder."""
        if self.is_video:
            self._video.close()


def find_footage(root: Path, asked: bool) -> dict[str, Footage]:
    """The videos, or folders of images, in a folder, by name.

    Args:
        root: the folder.
        asked: the user named this very folder; otherwise its usual sub-folders (`videos`, `images`, ...) come first,
            and nothing is also an answer.

    Raises:
        InputError: asked for, and there is none; two images of one number.
    """
    if not root.is_dir():
        raise InputError("no such folder of videos or images", file=root)
    by_case = {path.name.lower(): path for path in root.iterdir() if path.is_dir()}
    places = [by_case[name.lower()] for name in _PLACES if name.lower() in by_case]
    for place in [root, *places] if asked else [*places, root]:
        found = _in_folder(place)
        if found:
            return found
    if asked:
        expected = "one video, or one folder of images, a camera"
        raise InputError("no footage", file=root, expected=expected, found=", ".join(sorted(by_case)) or "nothing")
    return {}


def _in_folder(folder: Path) -> dict[str, Footage]:
    videos = _videos(folder)
    if videos:
        return {path.stem: Footage(path.stem, path, {}) for path in videos}
    found = {}
    for inside in sorted(folder.iterdir()):
        if not inside.is_dir() or inside.name.startswith(".") or _NOT_FOOTAGE.search(inside.name):
            continue
        images, films = _images(inside), _videos(inside)
        if images:
            found[inside.name] = Footage(inside.name, inside, images)
        elif len(films) == 1:
            found[inside.name] = Footage(inside.name, films[0], {})
    return found


def _videos(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in VIDEO_SUFFIXES and not p.name.startswith("."))


def _images(folder: Path) -> dict[int, Path]:
    images: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        number = frame_number(path.name, path)
        if number in images:
            raise InputError(
                "two images of one frame", file=path, frame=number, expected="one",
                found=f"{images[number].name} and {path.name}", hint="The frame is the last number in a name",
            )  # fmt: skip
        images[number] = path
    return dict(sorted(images.items()))


# ---- which footage is whose ----


def match_footage(
    found: Sequence[str], calibration: Calibration, wanted: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, str]:
    """Gives cameras their footage: as asked, else by name, else in sorted order where the counts are equal.

    Args:
        found: names of the footage.
        wanted: {footage: camera} by `--map`.
        say: gets what was done where it is not plain.

    Returns:
        {camera: footage}, in the order of the calibration; cameras without footage are left out, which is said.

    Raises:
        InputError: `wanted` names what is not there; footage that belongs to no camera; two for one camera.
    """
    for source, camera in wanted.items():
        if source not in found:
            raise InputError("no such footage", expected=", ".join(found), found=source, hint="--map FOOTAGE=CAMERA")
        if camera not in calibration.names:
            raise InputError("no such camera", file=calibration.path, camera=camera,
                             expected=", ".join(calibration.names))  # fmt: skip
    taken = {camera: source for source, camera in wanted.items()}
    left = [source for source in found if source not in wanted]
    by_name: dict[str, str] = {}
    for camera in calibration.cameras:
        if camera.name not in taken:
            match = _by_name(camera, left)
            if match is not None:
                by_name[camera.name] = match
    for source in left:
        claimed = [camera for camera, other in by_name.items() if other == source]
        if len(claimed) > 1:
            raise InputError("footage of two cameras", found=source, expected=f"one of {', '.join(claimed)}",
                             hint=f"Say whose it is: --map {source}={claimed[0]}")  # fmt: skip
    free = [name for name in calibration.names if name not in taken]
    if not by_name and left and len(left) == len(free):
        by_name = dict(zip(sorted(free, key=natural_key), sorted(left, key=natural_key), strict=True))
        pairs = ", ".join(f"{source} is {camera}" for camera, source in by_name.items())
        say(f"names of cameras and footage differ; taken in sorted order: {pairs}. --map FOOTAGE=CAMERA overrides")
    taken |= by_name
    strangers = [source for source in found if source not in taken.values()]
    if strangers:
        raise InputError(
            "footage of a camera that is not calibrated", file=calibration.path, found=", ".join(strangers),
            expected=", ".join(calibration.names), hint=f"Say whose it is: --map {strangers[0]}=CAMERA",
        )  # fmt: skip
    absent = [name for name in calibration.names if name not in taken]
    if absent:
        shown = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
        say(f"cameras without footage left out: {shown}")
    return {name: taken[name] for name in calibration.names if name in taken}


def _by_name(camera: SourceCamera, found: Sequence[str]) -> str | None:
    """The footage called as the camera: exactly, by an alias, up to case and punctuation, or with more about it."""
    names = (camera.name, *camera.aliases)
    for name in names:
        if name in found:
            return name
    plain = {_plain(name) for name in names}
    same = [source for source in found if _plain(source) in plain]
    if not same:
        alone = [re.compile(rf"(?<![a-z0-9]){re.escape(name.lower())}(?![a-z0-9])") for name in names]
        same = [source for source in found if any(pattern.search(source.lower()) for pattern in alone)]
    return same[0] if len(same) == 1 else None


def _plain(name: str) -> str:
    """cam_01, Cam1 and CAM-01 are one name."""
    return re.sub(r"0+(?=[0-9])", "", re.sub(r"[^a-z0-9]", "", name.lower()))


# ---- putting it into a sequence folder ----


def place(source: Path, target: Path, copy: bool) -> None:
    """Links (or copies) a file. A link is absolute: it goes on working when the sequence folder is moved."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copyfile(source, target)
    else:
        os.symlink(source.resolve(), target)
