"""COLMAP models: a folder with cameras and images, .txt or .bin (colmap.github.io/format.html)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Float

from avatarpose.errors import InputError
from avatarpose.importers.calibration.rig import Calibration, SourceCamera, calibration_of, camera_of, read_text

MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE", "FULL_OPENCV", "FOV",
          "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE")  # fmt: skip
"""Names by the number that stands in the binary file."""

PARAMETERS = (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12)
"""How many parameters each of MODELS has."""

_Lens = tuple[np.ndarray, np.ndarray, tuple[int, int]]  # K, dist, size
_Pose = tuple[str, int, np.ndarray, np.ndarray]  # image name, camera number, R, t


def colmap_folder(path: Path) -> Path | None:
    """The folder of the model that `path` is or lies in; None where there is none."""
    folder = path if path.is_dir() else path.parent
    complete = any((folder / f"cameras{s}").is_file() and (folder / f"images{s}").is_file() for s in (".bin", ".txt"))
    return folder if complete else None


def read_colmap(path: Path) -> Calibration:
    """Reads a sparse model in which every camera stands still.

    A camera is called as the folder of its images, or as its image where they lie in no folder. Pixel centres are at
    i + 0.5 in COLMAP, as here. Its unit of length is arbitrary.

    Raises:
        InputError: a file is absent, truncated or malformed; a lens model is not ours; a camera moves.
    """
    folder = colmap_folder(path)
    if folder is None:
        raise InputError("no COLMAP model", file=path, expected="cameras.bin and images.bin, or both as .txt")
    binary = (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file()
    if binary:
        lenses, poses = _binary_cameras(folder / "cameras.bin"), _binary_images(folder / "images.bin")
        source = folder / "images.bin"
    else:
        lenses, poses = _text_cameras(folder / "cameras.txt"), _text_images(folder / "images.txt")
        source = folder / "images.txt"
    cameras: dict[str, SourceCamera] = {}
    for image, number, R, t in poses:
        where = PurePosixPath(image)
        name = where.parent.name or where.stem
        if number not in lenses:
            raise InputError("image of an unknown camera", file=source, camera=name, found=f"camera {number}")
        K, dist, size = lenses[number]
        camera = camera_of(source, name, K, R, t, dist, size, integer_centres=False)
        before = cameras.setdefault(name, camera)
        moved = max(np.abs(before.R - camera.R).max(), np.abs(before.t - camera.t).max())
        if moved > 1e-3 * (1 + np.abs(before.t).max()):
            raise InputError(
                "the camera moves", file=source, camera=name, expected="one pose for all images of a folder",
                found=f"another one at {image}", hint="Reconstruct from one image a camera",
            )  # fmt: skip
    ordered = [cameras[name] for name in sorted(cameras)]
    notes = ["COLMAP's unit of length is arbitrary: scale it with --unit METRES_PER_UNIT unless it was made metric"]
    return calibration_of("colmap", folder, ordered, notes=notes)


def _lens(path: Path, number: int, model: str, size: tuple[int, int], p: np.ndarray) -> _Lens:
    """K and distortion of one camera."""
    if model not in MODELS or "FISHEYE" in model or model == "FOV":
        raise InputError(
            f"lens model {model}", file=path, camera=str(number),
            expected="SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV or FULL_OPENCV",
            hint="Undistort the images with COLMAP's image_undistorter and bring what it writes",
        )  # fmt: skip
    count = PARAMETERS[MODELS.index(model)]
    if len(p) != count:
        raise InputError(f"{model} of {len(p)} parameters", file=path, camera=str(number), expected=count)
    if model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        fx, fy, cx, cy, rest = p[0], p[0], p[1], p[2], p[3:]
    else:
        fx, fy, cx, cy, rest = p[0], p[1], p[2], p[3], p[4:]
    dist = np.zeros(8)
    dist[: len(rest)] = rest
    # FULL_OPENCV counts k1 k2 p1 p2 k3 k4 k5 k6, as OpenCV does; the last three are checked to be 0 by `camera_of`.
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), dist, size


def _matrix(path: Path, image: str, q: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Rotation of a quaternion w, x, y, z."""
    length = float(np.linalg.norm(q))
    if not np.isfinite(length) or length < 1e-6:
        raise InputError("the quaternion is not finite, or zero", file=path, camera=image, found=q.tolist())
    w, x, y, z = q / length
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


# ---- text ----


def _text_cameras(path: Path) -> dict[int, _Lens]:
    lenses = {}
    for line in read_text(path).splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            number, size = int(words[0]), (int(words[2]), int(words[3]))
            values = np.array([float(word) for word in words[4:]])
        except (ValueError, IndexError):
            expected = "CAMERA_ID MODEL WIDTH HEIGHT PARAMS"
            raise InputError("malformed line", file=path, expected=expected, found=repr(line[:80])) from None
        lenses[number] = _lens(path, number, words[1], size, values)
    return lenses


def _text_images(path: Path) -> list[_Pose]:
    """Every other line is an image; the line of its 2D points may be empty."""
    lines = [line for line in read_text(path).splitlines() if not line.lstrip().startswith("#")]
    poses = []
    for line in lines[::2]:
        words = line.split(maxsplit=9)
        if not words:
            continue
        try:
            values, number, name = np.array([float(word) for word in words[1:8]]), int(words[8]), words[9]
        except (ValueError, IndexError):
            expected = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            raise InputError("malformed line", file=path, expected=expected, found=repr(line[:80])) from None
        poses.append((name, number, _matrix(path, name, values[:4]), values[4:]))
    return poses


# ---- binary, little endian ----


class _Bytes:
    """Reads on through a file's bytes. Raises InputError where they end too early."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.data, self.at = path.read_bytes(), 0
        except OSError as error:
            raise InputError("cannot be read", file=path, found=error.strerror) from None

    def take(self, layout: str) -> tuple:
        size = struct.calcsize("<" + layout)
        if self.at + size > len(self.data):
            raise InputError("truncated", file=self.path, expected=f"{self.at + size} bytes", found=len(self.data))
        self.at += size
        return struct.unpack_from("<" + layout, self.data, self.at - size)

    def skip(self, size: int) -> None:
        if self.at + size > len(self.data):
            raise InputError("truncated", file=self.path, expected=f"{self.at + size} bytes", found=len(self.data))
        self.at += size

    def name(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise InputError("truncated", file=self.path, expected="the end of an image's name")
        text, self.at = self.data[self.at : end], end + 1
        return text.decode("utf-8", "replace")


def _binary_cameras(path: Path) -> dict[int, _Lens]:
    file = _Bytes(path)
    lenses = {}
    for _ in range(file.take("Q")[0]):
        number, model, width, height = file.take("IiQQ")
        if not 0 <= model < len(MODELS):
            raise InputError("unknown lens model", file=path, camera=str(number), found=model)
        values = np.array(file.take(f"{PARAMETERS[model]}d"))
        lenses[number] = _lens(path, number, MODELS[model], (width, height), values)
    return lenses


def _binary_images(path: Path) -> Iterator[_Pose]:
    file = _Bytes(path)
    for _ in range(file.take("Q")[0]):
        values = np.array(file.take("I7d")[1:])
        (number,) = file.take("I")
        name = file.name()
        file.skip(24 * file.take("Q")[0])  # its 2D points: x, y, point number
        yield name, number, _matrix(path, name, values[:4]), values[4:]
