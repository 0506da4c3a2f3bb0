"""Masks of other tools, written as the sequence's own: 0 background, 255 people, 128 unknown; and per person.

| source, per camera | is read as |
|---|---|
| a picture a frame, values 0/255, 0/1 or 0/128/255 (greys of a JPEG or a soft edge move to the nearest) | all people |
| a picture a frame, values 0 to N (also 16 bits or a palette), 255 unknown if there are labels below it | N people |
| a picture a frame in colours, at most 16 of them beside black | a person a colour, in the order of R, G, B |
| `<frame>.png` with `<frame>_<person>.png`, as a sequence folder has them | all people, and each |
| a folder a person (`0/`, `1/`, ..., and `all/` if there is one: Hi4D) | all people, and each |

Label k becomes the person `p<k-1>`, folders become p0, p1, ... in the order of their names. All people together are
the union of the single ones where the source has no picture of all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from avatarpose.errors import InputError
from avatarpose.importers.numbering import (
    frame_number,
    match_cameras,
    natural_key,
    numbered_files,
    rows_of_images,
)
from avatarpose.io import read_image, write_image
from avatarpose.sequence import BACKGROUND, FOREGROUND, IMAGE_SUFFIXES, UNKNOWN, normalise_mask

MOST_PEOPLE = 16
"""More labels or colours than this are no people but a picture."""
_NEAR = 40
"""Distance from 0, 128 and 255 within which a grey is the soft edge or the JPEG noise of a mask ..."""
_LEAST_SHARE = 0.95
"""... if this share of a picture is so; else the picture is no mask."""
_IS_NEAR = np.abs(np.arange(256)[:, None] - np.array([BACKGROUND, UNKNOWN, FOREGROUND])).min(axis=-1) <= _NEAR
_ALL = ("all", "union", "combined")
_DEPTH, _COLOUR_TYPE, _INDEXED = 24, 25, 3
"""Bytes of a PNG with the bits a channel and the colour type, and the type of a picture with a palette."""
_SHIFTS = np.array([16, 8, 0])

Mask = UInt8[np.ndarray, "height width"]


@dataclass
class MaskReport:
    """What was imported.

    Attributes:
        kind: "union" (all people together only), "labels", "colours", "files" or "folders" (per person).
        people: names of the people that have masks of their own.
        written: number of masks of all people, by camera.
        missing: numbers of the frames without a mask, by camera; only cameras that miss some.
    """

    kind: str
    people: list[str] = field(default_factory=list)
    written: dict[str, int] = field(default_factory=dict)
    missing: dict[str, list[int]] = field(default_factory=dict)


def import_masks(
    source: Path,
    folder: Path,
    cameras: Sequence[str],
    frames_of: Mapping[str, Sequence[int]],
    sizes: Mapping[str, tuple[int, int]],
    update: Callable[[int, int, str], None] | None = None,
) -> MaskReport:
    """Writes `folder/masks/<camera>/<frame>.png`, and `<frame>_<person>.png` where the source tells people apart.

    Args:
        source: folder with a folder per camera (matched as keypoints are); for one camera the folder itself will do.
        folder: the sequence folder. Masks that are there are left alone, and are an error.
        cameras: names of the cameras.
        frames_of: the numbers that each camera's images have at their source, in order (0, 1, ... of a video); the
            sequence counts them from 0. `rows_of_images` says which masks belong to them.
        sizes: (width, height) of each camera's images.
        update: called with masks done, all masks and the camera.

    Raises:
        InputError: a camera without masks, a picture that is damaged, no mask or of another size, or masks that are
            there already.
    """
    found = {camera: _Source.of(path, camera) for camera, path in _sources(Path(source), cameras).items()}
    kinds = {one.kind for one in found.values()}
    kind = kinds.pop() if len(kinds) == 1 else "mixed"
    if kind == "mixed":
        listed = ", ".join(f"{camera}: {one.kind}" for camera, one in found.items())
        raise InputError("masks of different layouts", file=source, expected="one layout in all cameras", found=listed)
    plan = {camera: one.by_frame(frames_of[camera], camera) for camera, one in found.items()}
    for camera in cameras:
        target = folder / "masks" / camera
        if target.is_dir() and any(target.iterdir()):
            raise InputError("there are masks already", file=target, camera=camera, hint="Move them away first")
    colours: dict[int, int] = {}
    if kind == "pictures":
        kind, colours = _kind_of_pictures([path for frames in plan.values() for files in frames.values()
                                           for path in files.values()])  # fmt: skip
    report = MaskReport(kind)
    total, done, people = sum(map(len, plan.values())), 0, set()
    for camera, frames in plan.items():
        for frame, files in frames.items():
            masks = _read_frame(files, kind, colours, camera, frame, sizes[camera])
            people |= masks.keys() - {""}
            for person, mask in masks.items():
                name = f"{frame:06d}_{person}.png" if person else f"{frame:06d}.png"
                write_image(folder / "masks" / camera / name, mask)
            done += 1
            if update is not None:
                update(done, total, camera)
        report.written[camera] = len(frames)
        missing = [frame for frame in range(len(frames_of[camera])) if frame not in frames]
        if missing:
            report.missing[camera] = missing
    report.people = sorted(people, key=natural_key)
    return report


# ---- which files there are ----


def _pictures(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".")]


def _sources(source: Path, cameras: Sequence[str]) -> dict[str, Path]:
    if not source.is_dir():
        raise InputError("no such folder of masks", file=source)
    folders = [path for path in source.iterdir() if path.is_dir() and any(True for _ in _files_below(path))]
    if len(cameras) == 1 and (_pictures(source) or not any(cameras[0] in path.name for path in folders)):
        return {cameras[0]: source}
    return match_cameras(folders, cameras, source, "masks")


def _files_below(folder: Path) -> Iterable[Path]:
    return (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)


def _put(files: dict[int, Path], number: int, file: Path, camera: str) -> None:
    if number in files:
        found = f"{files[number].name} and {file.name}"
        raise InputError("two masks of one frame", file=file, camera=camera, frame=number, expected="one", found=found)
    files[number] = file


@dataclass
class _Source:
    """The files of one camera: by person ("" for all together), then by the source's number."""

    path: Path
    kind: str
    files: dict[str, dict[int, Path]]

    @classmethod
    def of(cls, path: Path, camera: str) -> _Source:
        """Finds out the layout. Raises InputError where there is no picture, or one without a number."""
        pictures = _pictures(path)
        if pictures:
            own = {file: re.fullmatch(r"(.*[0-9])_(p[0-9]+)", file.stem) for file in pictures}
            if any(own.values()):
                files: dict[str, dict[int, Path]] = {}
                for file, match in own.items():
                    stem, person = match.groups() if match else (file.stem, "")
                    _put(files.setdefault(person, {}), frame_number(stem, file, camera), file, camera)
                return cls(path, "files", files)
            suffixes = {file.suffix for file in pictures}
            if len(suffixes) > 1:
                found = ", ".join(sorted(suffixes))
                raise InputError("masks of several formats", file=path, camera=camera, expected="one", found=found)
            return cls(path, "pictures", {"": numbered_files(path, f"*{suffixes.pop()}", camera)})
        inner = sorted((p for p in path.iterdir() if p.is_dir() and _pictures(p)), key=lambda p: natural_key(p.name))
        together = [p for p in inner if p.name.lower() in _ALL]
        single = [p for p in inner if p not in together]
        if not inner:
            raise InputError("camera has no masks", file=path, camera=camera, expected="a .png a frame")
        names = {f"p{k}": folder for k, folder in enumerate(single)} | ({"": together[0]} if together else {})
        files = {name: {} for name in names}
        for name, folder in names.items():
            for file in _pictures(folder):
                _put(files[name], frame_number(file.name, file, camera), file, camera)
        return cls(path, "folders", files)

    def by_frame(self, frames: Sequence[int], camera: str) -> dict[int, dict[str, Path]]:
        """The files of each of the sequence's frames, by person."""
        numbers = {number for files in self.files.values() for number in files}
        row_of = rows_of_images(numbers, frames, self.path, camera)
        result: dict[int, dict[str, Path]] = {}
        for person, files in self.files.items():
            for number in files.keys() & row_of.keys():
                result.setdefault(row_of[number], {})[person] = files[number]
        return dict(sorted(result.items()))


# ---- what is in them ----


def _read_codes(path: Path) -> Int[np.ndarray, "height width"]:
    """A picture's values as numbers: greys as they are, the indices of a palette, 0xRRGGBB of colours.

    OpenCV turns a palette into its colours, so the palette is read from the file to turn them back.
    """
    rgb = read_image(path)  # finds truncated files
    data = path.read_bytes()
    png = data.startswith(b"\x89PNG")
    if png and data[_DEPTH] == 16:
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        if grey.ndim == 2:
            return grey.astype(np.int64)
    palette = _palette(data) if png and data[_COLOUR_TYPE] == _INDEXED else None
    if palette is None and (rgb == rgb[..., :1]).all():
        return rgb[..., 0]
    codes = (rgb.astype(np.int64) << _SHIFTS).sum(axis=-1)
    if palette is None:
        return codes
    used, place = np.unique(codes, return_inverse=True)
    # Where several indices share a colour, as the unused ones do, the first stands.
    return np.array([int(np.flatnonzero(palette == code)[0]) for code in used])[place.reshape(codes.shape)]


def _palette(png: bytes) -> Int[np.ndarray, " colours"] | None:
    """The colours of a PNG's palette as 0xRRGGBB; None where they are greys, which speak for themselves."""
    at = png.index(b"PLTE")
    length = int.from_bytes(png[at - 4 : at], "big")
    colours = np.frombuffer(png[at + 4 : at + 4 + length], np.uint8).reshape(-1, 3).astype(np.int64)
    return None if (colours == colours[:, :1]).all() else (colours << _SHIFTS).sum(axis=-1)


def _values(codes: Int[np.ndarray, "height width"]) -> Int[np.ndarray, " values"]:
    """The different values, sorted."""
    if codes.dtype == np.uint8:
        return np.flatnonzero(np.bincount(codes.ravel(), minlength=256))
    return np.unique(codes)


def _kind_of_pictures(paths: list[Path]) -> tuple[str, dict[int, int]]:
    """Whether pictures are masks of all people, labels or colours, from the values of all of them; colour -> label."""
    values: set[int] = set()
    for path in paths:
        found = _values(_read_codes(path))
        grey = found.max() <= FOREGROUND
        if grey and (len(found) > 4 * MOST_PEOPLE or path.suffix.lower() in (".jpg", ".jpeg")):
            return "union", {}  # soft edges or JPEG's noise; what is no mask shows when it is read
        values |= set(found.tolist())
        if len(values) > FOREGROUND + 1:
            expected = f"0/255, 0/1, or at most {MOST_PEOPLE} labels or colours"
            raise InputError("a picture, not a mask", file=path, expected=expected, found=f"{len(found)} colours")
    labels = sorted(values - {BACKGROUND})
    if values <= {BACKGROUND, UNKNOWN, FOREGROUND} or values <= {0, 1}:
        return "union", {}
    if labels[-1] > FOREGROUND:
        if len(labels) > MOST_PEOPLE:
            expected = f"at most {MOST_PEOPLE} colours beside black"
            raise InputError("too many colours for masks", file=paths[0].parent, expected=expected, found=len(labels))
        return "colours", {colour: k + 1 for k, colour in enumerate(labels)}
    if all(value <= MOST_PEOPLE or value == FOREGROUND for value in labels):
        return "labels", {}
    return "union", {}


def _read_frame(
    files: Mapping[str, Path], kind: str, colours: dict[int, int], camera: str, frame: int, size: tuple[int, int]
) -> dict[str, Mask]:
    """The masks of one frame by person, "" for all together."""
    masks: dict[str, Mask] = {}
    for person, path in files.items():
        codes = _read_codes(path)
        if codes.shape[::-1] != tuple(size):
            raise InputError(
                "mask of another size than the images", file=path, camera=camera, frame=frame,
                expected="{} x {} pixels".format(*size), found="{} x {}".format(*codes.shape[::-1]),
            )  # fmt: skip
        if kind == "labels":
            masks |= _split(codes, {k: k for k in range(1, MOST_PEOPLE + 1)})
        elif kind == "colours":
            masks |= _split(codes, colours)
        else:
            masks[person] = _levels(codes, path, camera, frame)
    if "" not in masks:
        every = np.stack(list(masks.values()))
        union = np.where((every == FOREGROUND).any(axis=0), FOREGROUND, BACKGROUND)
        masks[""] = np.where((union == 0) & (every == UNKNOWN).any(axis=0), UNKNOWN, union).astype(np.uint8)
    return masks


def _split(codes: Int[np.ndarray, "height width"], labels: Mapping[int, int]) -> dict[str, Mask]:
    """Masks of all and of each label; a value of 255 beside labels is unknown."""
    unknown = (codes == FOREGROUND) & (FOREGROUND not in labels)
    people = (codes != BACKGROUND) & ~unknown
    masks = {"": np.where(unknown, UNKNOWN, np.where(people, FOREGROUND, BACKGROUND)).astype(np.uint8)}
    for value in _values(codes[people]).tolist():
        one = np.where(unknown, UNKNOWN, np.where(codes == value, FOREGROUND, BACKGROUND))
        masks[f"p{labels[value] - 1}"] = one.astype(np.uint8)
    return masks


def _levels(codes: Int[np.ndarray, "height width"], path: Path, camera: str, frame: int) -> Mask:
    """A mask of all people in the three values. Raises InputError where the picture is no mask."""
    values = _values(codes)
    if values[-1] <= 1:
        return (codes * FOREGROUND).astype(np.uint8)
    if values[-1] > FOREGROUND or _IS_NEAR[codes].mean() < _LEAST_SHARE:
        raise InputError(
            "not a mask", file=path, camera=camera, frame=frame, expected="0/255, 0/1, 0/128/255 or labels",
            found=f"values {', '.join(map(str, values[:8].tolist()))}, ...",
        )  # fmt: skip
    return normalise_mask(codes.astype(np.uint8))
