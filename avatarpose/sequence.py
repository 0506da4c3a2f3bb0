"""The sequence folder: one synchronised capture, checked when opened, read lazily.

Layout: `sequence.json`, `cameras.json`, `images/<camera>/<frame>.jpg|png` or `videos/<camera>.mp4`, `masks/<camera>/
<frame>.png` and `<frame>_<person>.png`, `keypoints2d/<camera>.npz`, `results/`.

Time. Frame numbers count on the common clock, which runs at the sequence's fps. A camera that declares `offset` or
`fps` in cameras.json runs on its own clock: the common frame f is its own frame `f * fps_camera / fps + offset`. Its
images and masks are numbered by its own frames, and the nearest one is taken; its 2D keypoints have one row per own
frame and are interpolated linearly in time, after the detections of the two neighbouring frames have been paired. Only
common frames that every chosen camera saw are part of the sequence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float, UInt8

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.io import read_image, read_json
from avatarpose.keypoints2d import interpolate_detections, read_keypoints, read_searched
from avatarpose.video import VideoReader

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255

_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
UP_VECTORS = _AXES | {f"-{name}": tuple(-value for value in axis) for name, axis in _AXES.items()}
"""Unit vectors of the axes that `up` can name."""


def parse_frames(text: str) -> slice:
    """`a:b:s` (any part may be empty), or one frame number, as a slice of frame numbers.

    Raises:
        InputError: the text is no such selection.
    """
    match = re.fullmatch(r"\s*(?:(\d+)|(\d*):(\d*)(?::(\d*))?)\s*", text)
    if match is None:
        raise InputError("not a selection of frames", expected="a:b:s, such as 0:100:2", found=repr(text))
    single, start, stop, step = (int(part) if part else None for part in match.groups())
    if single is not None:
        return slice(single, single + 1, 1)
    if step == 0 or (stop is not None and stop <= (start or 0)):
        raise InputError("the selection holds no frame", expected="a below b and a step of 1 or more", found=repr(text))
    return slice(start, stop, step)


def parse_names(text: str) -> list[str]:
    """Names with commas between."""
    return [name.strip() for name in text.split(",") if name.strip()]


def normalise_mask(mask: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """Moves every value to the nearest of 0, 128 and 255: below 64, from 64 to 191, from 192 on."""
    levels = np.repeat(np.array([BACKGROUND, UNKNOWN, FOREGROUND], np.uint8), (64, 128, 64))
    return levels[mask]


class Sequence:
    """One capture, or a choice of its cameras and frames. Made by `Sequence.open`.

    Indices: c counts the chosen cameras (`cameras.names[c]`), f counts the chosen frames (`frames[f]` is the number).
    Reading is safe from several threads.

    Attributes:
        folder: the sequence folder.
        name: its name.
        fps: common frames per second.
        up: which world axis points up: "x", "y", "z", "-x", "-y" or "-z".
        people_hint: how many people there are, if sequence.json says so.
        cameras: the chosen cameras; their size is that of the images on disk.
        frames: (F,) numbers of the chosen frames on the common clock.
        results: folder for what the stages find; it need not exist yet.
    """

    def __init__(self, folder: Path, header: dict[str, Any], cameras: Cameras) -> None:
        self.folder = folder
        self.name: str = folder.resolve().name
        self.fps = float(header["fps"])
        self.up: str = header["up"]
        self.people_hint: int | None = header.get("people")
        self.results = folder / "results"
        self.cameras = cameras
        self.frames = np.arange(int(header["frames"]))
        self._total = len(self.frames)
        self._sources: list[dict[int, Path] | VideoReader] = []

    @classmethod
    def open(
        cls,
        folder: Path | str,
        cameras: Iterable[str] | None = None,
        leave_out: Iterable[str] | None = None,
        frames: slice | None = None,
        least_cameras: int = 2,
    ) -> Sequence:
        """Opens a sequence folder and checks all that is cheap to check (only each camera's first image is decoded).

        Args:
            folder: the sequence folder.
            cameras: names of the cameras to use; None for all.
            leave_out: names of cameras not to use.
            frames: which frames of the common clock; None for all.
            least_cameras: fewest cameras that will do; estimation needs two.

        Raises:
            InputError: a file is absent or malformed, a camera or frame is missing, sizes or frame counts disagree, too
                few cameras or no frames are left.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError("no such sequence folder", file=folder, expected="a folder with sequence.json")
        header = _read_header(folder / "sequence.json")
        calibration = folder / "cameras.json"
        known = Cameras.load(calibration)
        crops = {name for name, entry in read_json(calibration).items() if "crop" in entry}
        for kind in ("images", "videos", "masks", "keypoints2d"):
            _check_strangers(folder / kind, known.names)
        cameras, leave_out = (None if cameras is None else set(cameras)), set(leave_out or ())
        for camera in sorted((cameras or set()) | leave_out):
            if camera not in known.names:
                raise InputError("no such camera", file=calibration, camera=camera, expected=", ".join(known.names))
        chosen = [name for name in known.names if (cameras is None or name in cameras) and name not in leave_out]
        if len(chosen) < least_cameras:
            found = f"{len(chosen)} ({', '.join(chosen) or 'none'})"
            raise InputError("too few cameras", file=calibration, expected=f"at least {least_cameras}", found=found)
        sequence = cls(folder, header, known.select(chosen))
        sequence._find_images()
        sequence._choose_frames(frames)
        sequence._fit_sizes(crops)
        return sequence

    def close(self) -> None:
        """Frees the video decoders."""
        for source in self._sources:
            if isinstance(source, VideoReader):
                source.close()

    # ---- what is there ----

    @property
    def up_vector(self) -> Float[np.ndarray, " 3"]:
        """Unit vector pointing up, world."""
        return np.array(UP_VECTORS[self.up])

    @property
    def has_images(self) -> bool:
        """Whether there are images or videos."""
        return bool(self._sources)

    @property
    def has_masks(self) -> bool:
        """Whether every chosen frame of every chosen camera has a mask now (looked up anew each time)."""
        return all(self.mask_path(c, f).is_file() for c in range(len(self.cameras)) for f in range(len(self.frames)))

    @property
    def has_keypoints(self) -> bool:
        """Whether every chosen camera has a file of 2D keypoints now, in which every chosen frame was searched."""
        return all(self._first_unsearched(c) is None for c in range(len(self.cameras)))

    def own_time(self, c: int) -> Float[np.ndarray, " frames"]:
        """The chosen frames on the clock of camera c, in that camera's frames; fractional where it says so."""
        return self._to_own(c, self.frames)

    def own_frame(self, c: int, f: int) -> int:
        """Number of the image of camera c that is nearest to frame f."""
        return int(np.floor(self._to_own(c, self.frames[f]) + 0.5))

    def own_count(self, c: int) -> int:
        """How many images camera c has on its own clock; they are numbered from 0. One row of keypoints each."""
        return len(self._sources[c]) if self._has_own_clock(c) and self._sources else self._total

    def image_path(self, c: int, f: int) -> Path | None:
        """The image file of camera c for frame f; None if the camera has a video or nothing."""
        source = self._sources[c] if self._sources else None
        return source[self.own_frame(c, f)] if isinstance(source, dict) else None

    def mask_path(self, c: int, f: int, person: str | None = None) -> Path:
        """Where the mask of camera c and frame f is or would be: of all people together, or of one person."""
        image = self.image_path(c, f)
        stem = f"{self.own_frame(c, f):06d}" if image is None else image.stem
        name = f"{stem}.png" if person is None else f"{stem}_{person}.png"
        return self.folder / "masks" / self.cameras.names[c] / name

    def keypoints_path(self, c: int) -> Path:
        """Where the 2D keypoints of camera c are or would be."""
        return self.folder / "keypoints2d" / f"{self.cameras.names[c]}.npz"

    # ---- reading ----

    def image(self, c: int, f: int) -> UInt8[np.ndarray, "height width 3"]:
        """Image of camera c at frame f, RGB, distorted as it is.

        Raises:
            InputError: there are no images, or this one is damaged or of another size than the calibration says.
        """
        return self.image_and_passed(c, f, None)

    def image_and_passed(
        self, c: int, f: int, passed: Callable[[int, UInt8[np.ndarray, "height width 3"]], None] | None
    ) -> UInt8[np.ndarray, "height width 3"]:
        """As `image`; `passed` gets number (own clock) and image of each frame that a video is decoded through."""
        return self.own_image(c, self.own_frame(c, f), passed)

    def own_image(
        self, c: int, number: int, passed: Callable[[int, UInt8[np.ndarray, "height width 3"]], None] | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        """As `image_and_passed`, by number on the camera's own clock.

        Raises:
            InputError: as `image`, or the camera has no image of this number.
        """
        if not self._sources:
            raise InputError("no images", file=self.folder, expected="a folder images/ or videos/")
        source = self._sources[c]
        if isinstance(source, VideoReader):
            image, path = source.read(number, passed), source.path
        elif number not in source:
            raise InputError("no such image", file=self._source_path(c), camera=self.cameras.names[c], frame=number)
        else:
            path = source[number]
            image = read_image(path)
        self._check_size(image, c, number, path, "image")
        return image

    def mask(self, c: int, f: int, person: str | None = None) -> UInt8[np.ndarray, "height width"] | None:
        """Mask of camera c at frame f, of all people or of one: 0 background, 255 foreground, 128 unknown.

        Other values, such as those of a mask kept as JPEG, move to the nearest of the three.

        Returns:
            The mask, or None if there is none.

        Raises:
            InputError: the mask is damaged or of another size than the image.
        """
        path = self.mask_path(c, f, person)
        if not path.is_file():
            return None
        mask = normalise_mask(read_image(path, grey=True))
        self._check_size(mask, c, int(self.frames[f]), path, "mask")
        return mask

    def person_masks(self, c: int, f: int) -> dict[str, UInt8[np.ndarray, "height width"]]:
        """The masks of single people of camera c at frame f, by name."""
        together = self.mask_path(c, f)
        found = sorted(together.parent.glob(f"{together.stem}_*.png"))
        people = [path.stem[len(together.stem) + 1 :] for path in found]
        return {person: self.mask(c, f, person) for person in people}

    @cached_property
    def keypoints2d(self) -> Float[np.ndarray, "cameras frames detections 17 3"]:
        """Detections in every image: x, y in pixels of the image as it is, score; float32, NaN where absent.

        Raises:
            InputError: a camera has no file of keypoints, or it is damaged, misshapen or of another number of frames.
        """
        every = [self._read_keypoints(c) for c in range(len(self.cameras))]
        most = max(rows.shape[1] for rows in every)
        padding = [((0, 0), (0, most - rows.shape[1]), (0, 0), (0, 0)) for rows in every]
        return np.stack([np.pad(rows, pad, constant_values=np.nan) for rows, pad in zip(every, padding, strict=True)])

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Decodes every image and mask of the choice and reads the keypoints, if there are any.

        Args:
            progress: called with the number of frames done and of all.

        Raises:
            InputError: the first trouble found.
        """
        if self.has_keypoints:
            _ = self.keypoints2d
        count = len(self.cameras) * len(self.frames)
        for done, (c, f) in enumerate(np.ndindex(len(self.cameras), len(self.frames))):
            if self.has_images:
                self.image(c, f)
            self.mask(c, f)
            self.person_masks(c, f)
            if progress is not None:
                progress(done + 1, count)

    # ---- opening, step by step ----

    def _find_images(self) -> None:
        images, videos = self.folder / "images", self.folder / "videos"
        if not images.is_dir() and not videos.is_dir():
            return
        files = sorted(videos.iterdir()) if videos.is_dir() else []
        found = {path.stem: path for path in files if path.suffix.lower() in VIDEO_SUFFIXES}
        for camera in self.cameras.names:
            if (images / camera).is_dir():
                self._sources.append(_list_images(images / camera))
            elif camera in found:
                self._sources.append(VideoReader(found[camera]))
            else:
                expected = f"images/{camera}/ or videos/{camera}.mp4"
                raise InputError("camera has no images", file=self.folder, camera=camera, expected=expected)
        self._check_counts()

    def _check_counts(self) -> None:
        """Cameras on the common clock must have exactly the sequence's frames."""
        counts = {name: len(source) for name, source in zip(self.cameras.names, self._sources, strict=True)}
        for c, (camera, source) in enumerate(zip(self.cameras.names, self._sources, strict=True)):
            if self._has_own_clock(c):
                continue
            if len(source) != self._total:
                raise InputError(
                    "different frame counts", file=self._source_path(c), camera=camera,
                    expected=f"{self._total} frames as sequence.json says",
                    found=", ".join(f"{name}: {count}" for name, count in counts.items()),
                    hint="Cut them to the same length, or give the camera an offset in cameras.json",
                )  # fmt: skip
            missing = next((n for n in range(self._total) if isinstance(source, dict) and n not in source), None)
            if missing is not None:
                expected = f"frames 0 to {self._total - 1}"
                raise InputError(
                    "frame missing", file=self._source_path(c), camera=camera, frame=missing, expected=expected
                )

    def _choose_frames(self, frames: slice | None) -> None:
        """Keeps the frames asked for that every camera with a clock of its own saw."""
        seen = np.ones(self._total, bool)
        for c, source in enumerate(self._sources):
            if self._has_own_clock(c):
                numbers = np.floor(self.own_time(c) + 0.5).astype(int)
                own = list(source) if isinstance(source, dict) else range(len(source))
                seen &= np.isin(numbers, own)
        chosen = np.arange(self._total)[frames or slice(None)]
        kept = chosen[seen[chosen]]
        if not len(kept):
            text = "all" if frames is None else f"{frames.start}:{frames.stop}:{frames.step}"
            raise InputError(
                "no frames left", file=self.folder / "sequence.json",
                expected=f"frames from 0 to {self._total - 1} seen by every camera ({int(seen.sum())} are)",
                found=f"the selection {text}",
            )  # fmt: skip
        self.frames = kept

    def _fit_sizes(self, crops: set[str]) -> None:
        """Compares the first images with the calibration; a declared crop may also cut at the right and bottom."""
        if not self._sources:
            return
        width, height = self.cameras.width.clone(), self.cameras.height.clone()
        for c, camera in enumerate(self.cameras.names):
            source, path = self._sources[c], self._source_path(c)
            if isinstance(source, VideoReader):
                size = (source.width, source.height)
            else:
                path = source[self.own_frame(c, 0)]
                size = read_image(path).shape[1::-1]
            calibrated = (int(width[c]), int(height[c]))
            if camera in crops and size[0] <= calibrated[0] and size[1] <= calibrated[1]:
                width[c], height[c] = size
            elif size != calibrated:
                self._raise_size(size, calibrated, c, int(self.frames[0]), path, "image")
        self.cameras = replace(self.cameras, width=width, height=height)

    # ---- small things ----

    def _to_own(self, c: int, frames: np.ndarray) -> np.ndarray:
        fps = float(self.cameras.fps[c])
        return frames * (1.0 if np.isnan(fps) else fps / self.fps) + float(self.cameras.offset[c])

    def _has_own_clock(self, c: int) -> bool:
        return float(self.cameras.offset[c]) != 0 or not bool(self.cameras.fps[c].isnan())

    def _source_path(self, c: int) -> Path:
        source = self._sources[c]
        return source.path if isinstance(source, VideoReader) else self.folder / "images" / self.cameras.names[c]

    def _check_size(self, image: np.ndarray, c: int, frame: int, path: Path, kind: str) -> None:
        size, calibrated = image.shape[1::-1], (int(self.cameras.width[c]), int(self.cameras.height[c]))
        if size != calibrated:
            self._raise_size(size, calibrated, c, frame, path, kind)

    def _raise_size(
        self, size: tuple[int, int], calibrated: tuple[int, int], c: int, frame: int, path: Path, kind: str
    ) -> NoReturn:
        raise InputError(
            f"{kind} of another size than cameras.json says", file=path, camera=self.cameras.names[c], frame=frame,
            expected="{} x {} pixels".format(*calibrated), found="{} x {}".format(*size),
            hint='If it was cut out of the calibrated image, add "crop": [left, top] to the camera',
        )  # fmt: skip

    def own_neighbours(self, c: int) -> list[int]:
        """The images of camera c, on its own clock, that its keypoints in the chosen frames come from."""
        times = self.own_time(c)
        numbers = np.unique(np.concatenate((np.floor(times + 1e-6), np.ceil(times - 1e-6))).astype(int))
        return [int(number) for number in numbers if 0 <= number < self.own_count(c)]

    def _first_unsearched(self, c: int) -> int | None:
        """The first image without keypoints because nobody looked: file absent, or begun by `detect`; None if none."""
        path, needed = self.keypoints_path(c), self.own_neighbours(c)
        if not path.is_file():
            return needed[0] if needed else 0
        searched = read_searched(path)
        missing = [n for n in needed if searched is not None and not (n < len(searched) and searched[n])]
        return missing[0] if missing else None

    def _read_keypoints(self, c: int) -> Float[np.ndarray, "frames detections 17 3"]:
        own_clock = self._has_own_clock(c)
        count = len(self._sources[c]) if own_clock and self._sources else None if own_clock else self._total
        rows = read_keypoints(self.keypoints_path(c), self.cameras.names[c], count)
        unsearched = self._first_unsearched(c)
        if unsearched is not None:
            raise InputError(
                "nobody was looked for in this image", file=self.keypoints_path(c), camera=self.cameras.names[c],
                frame=unsearched, hint="`avatarpose detect` with the same --frames searches what is missing",
            )  # fmt: skip
        return interpolate_detections(rows, self.own_time(c)) if own_clock else rows[self.frames]


def _read_header(path: Path) -> dict[str, Any]:
    """sequence.json, checked."""
    header = read_json(path, ("fps", "frames", "unit", "up"))

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value) and value > 0

    people = header.get("people")
    checks = (
        ("fps", number(header["fps"]), "a number above 0"),
        ("frames", number(header["frames"]) and header["frames"] % 1 == 0, "a whole number above 0"),
        ("unit", header["unit"] == "m", '"m" (metres)'),
        ("up", header["up"] in tuple(UP_VECTORS), " or ".join(UP_VECTORS)),
        ("people", people is None or (number(people) and people % 1 == 0), "a whole number above 0, or null"),
    )
    for key, good, expected in checks:
        if not good:
            raise InputError(f"impossible {key}", file=path, expected=expected, found=repr(header.get(key)))
    return header


def _check_strangers(folder: Path, known: tuple[str, ...]) -> None:
    """Raises InputError if the folder has something for a camera that was not calibrated."""
    if not folder.is_dir():
        return
    wanted = {"videos": VIDEO_SUFFIXES, "keypoints2d": (".npz",)}.get(folder.name)
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        camera = path.name if wanted is None and path.is_dir() else None
        if wanted is not None and path.suffix.lower() in wanted:
            camera = path.stem
        if camera is not None and camera not in known:
            raise InputError(
                "camera is missing from cameras.json", file=path, camera=camera,
                expected=", ".join(known), found=f"{folder.name}/{path.name}",
            )  # fmt: skip


def _list_images(folder: Path) -> dict[int, Path]:
    """Images of one camera by frame number."""
    images: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        if not path.stem.isascii() or not path.stem.isdigit():
            raise InputError("image is not named by its frame", file=path, expected="a name such as 000000.jpg")
        number = int(path.stem)
        if number in images:
            raise InputError(
                "two images of one frame", file=path, camera=folder.name, frame=number,
                expected="one", found=f"{images[number].name} and {path.name}",
            )  # fmt: skip
        images[number] = path
    return images


def open_selected(folder: Path | str, cameras: str, leave_out: str, frames: str, least_cameras: int = 2) -> Sequence:
    """Opens the part of a sequence that a command line names: cameras with commas between, frames as a:b:s; "" for all.

    Raises:
        InputError: as `Sequence.open` and `parse_frames`.
    """
    return Sequence.open(
        folder,
        cameras=parse_names(cameras) or None,
        leave_out=parse_names(leave_out),
        frames=parse_frames(frames) if frames else None,
        least_cameras=least_cameras,
    )
