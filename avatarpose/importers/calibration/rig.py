"""What every reader of a calibration returns, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError

ROTATION_TOLERANCE = 1e-3
"""Largest entry of R R' - I that still counts as a rotation: files give four digits and more."""


@dataclass(frozen=True)
class SourceCamera:
    """One camera as calibrated.

    Attributes:
        name: as the source calls it.
        K: intrinsics, pixels, pixel centres at i + 0.5 (the reader has added what its source lacks).
        R: world to camera, x right, y down, z forward.
        t: `x_cam = R x_world + t`, in the unit of the file.
        dist: OpenCV's [k1, k2, p1, p2, k3].
        size: (width, height) of the calibrated image; None where the source does not say.
        aliases: other names that its footage may go by.
    """

    name: str
    K: Float[np.ndarray, "3 3"]
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    dist: Float[np.ndarray, " 5"]
    size: tuple[int, int] | None
    aliases: tuple[str, ...] = ()

    @property
    def centre(self) -> Float[np.ndarray, " 3"]:
        """Optical centre, world, in the unit of the file."""
        return -self.R.T @ self.t


@dataclass(frozen=True)
class Calibration:
    """The cameras of one source.

    Attributes:
        format: key in `CALIBRATION_FORMATS`.
        path: file or folder it was read from.
        cameras: in the order of the file.
        metres: metres per unit of length, where the source defines it; None where each file has its own.
        up: axis that points up, where the source defines it.
        notes: what the user should know (cameras left out, terms dropped).
    """

    format: str
    path: Path
    cameras: tuple[SourceCamera, ...]
    metres: float | None = None
    up: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(camera.name for camera in self.cameras)

    def select(self, names: Sequence[str]) -> Calibration:
        """The same calibration with these cameras only, in this order."""
        known = dict(zip(self.names, self.cameras, strict=True))
        return replace(self, cameras=tuple(known[name] for name in names))

    def as_cameras(self, metres: float) -> Cameras:
        """The cameras with lengths in metres.

        Args:
            metres: metres per unit of the file.

        Raises:
            InputError: a camera's image size is unknown.
        """
        for camera in self.cameras:
            if camera.size is None:
                raise InputError(
                    "the calibration does not say how large the images are", file=self.path, camera=camera.name,
                    hint="Give the footage along, or --size 1920x1080",
                )  # fmt: skip
        fields = {
            key: torch.tensor(np.stack([getattr(camera, key) for camera in self.cameras]), dtype=torch.float64)
            for key in ("K", "R", "t", "dist")
        }
        fields["t"] = fields["t"] * metres
        width, height = (torch.tensor([camera.size[i] for camera in self.cameras]) for i in (0, 1))
        return Cameras(self.names, width=width, height=height, **fields)


def numbers(value: Any, shape: tuple[int, ...], what: str, path: Path, camera: str | None) -> np.ndarray:
    """`value` as finite float64 numbers of a shape.

    Raises:
        InputError: it is not made of numbers, not finite, or of another shape.
    """
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} is not made of numbers", file=path, camera=camera, found=value) from None
    if array.shape != shape:
        raise InputError(f"{what} has the wrong shape", file=path, camera=camera, expected=shape, found=array.shape)
    if not np.isfinite(array).all():
        raise InputError(f"{what} is not finite", file=path, camera=camera, expected="numbers", found=array.tolist())
    return array


def text_numbers(text: str | None, what: str, path: Path, camera: str | None, count: int | None = None) -> np.ndarray:
    """Numbers written in a text, with spaces between.

    Raises:
        InputError: the text is absent, not made of numbers, or holds another count of them.
    """
    if text is None:
        raise InputError(f"lacks {what}", file=path, camera=camera, expected=what)
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        raise InputError(f"{what} is not made of numbers", file=path, camera=camera, found=repr(text)) from None
    return numbers(values, (len(values) if count is None else count,), what, path, camera)


def read_text(path: Path) -> str:
    """A whole text file. Raises InputError where it is absent or not text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except UnicodeDecodeError as error:
        raise InputError("not text", file=path, expected="UTF-8", found=error.reason) from None
    except OSError as error:
        raise InputError("cannot be read", file=path, found=error.strerror) from None


def five_terms(dist: Any, path: Path, camera: str) -> Float[np.ndarray, " 5"]:
    """Distortion as OpenCV's first five terms; more of them (rational, thin prism, tilt) must be zero.

    Raises:
        InputError: the lens model is not ours.
    """
    flat = np.asarray(dist, object).ravel().tolist()
    terms = numbers(flat, (len(flat),), "distortion", path, camera)
    if len(terms) > 5 and np.any(terms[5:] != 0):
        raise InputError(
            "distortion model with more terms than can be used", file=path, camera=camera,
            expected="[k1, k2, p1, p2, k3], further terms 0", found=terms.tolist(),
            hint="Calibrate again with five terms, or undistort the images first",
        )  # fmt: skip
    result = np.zeros(5)
    result[: min(5, len(terms))] = terms[:5]
    return result


def rotation(value: Any, path: Path, camera: str) -> Float[np.ndarray, "3 3"]:
    """A rotation from a matrix (3, 3) or a Rodrigues vector (3,), (3, 1) or (1, 3).

    Raises:
        InputError: another shape, not finite, or a matrix that is no rotation.
    """
    array = np.asarray(value, object)
    if array.size == 3:
        vector = numbers(array.ravel().tolist(), (3,), "rotation vector", path, camera)
        return cv2.Rodrigues(vector)[0]
    R = numbers(value, (3, 3), "rotation", path, camera)
    error = max(float(np.abs(R @ R.T - np.eye(3)).max()), abs(float(np.linalg.det(R)) - 1))
    if error > ROTATION_TOLERANCE:
        raise InputError(
            "not a rotation", file=path, camera=camera, expected="R R' = I and det R = 1",
            found=f"determinant {np.linalg.det(R):.4g}, largest error {error:.3g}",
        )  # fmt: skip
    return R


def image_size(value: Any, path: Path, camera: str) -> tuple[int, int]:
    """(width, height). Raises InputError unless both are whole and positive."""
    width, height = numbers(value, (2,), "image size", path, camera)
    if width % 1 or height % 1 or not (1 <= width < 1e6 and 1 <= height < 1e6):
        raise InputError(
            "impossible image size", file=path, camera=camera, expected="whole pixels", found=[width, height]
        )
    return int(width), int(height)


def camera_of(
    path: Path,
    name: str,
    K: Any,
    R: Any,
    t: Any,
    dist: Any = (),
    size: Any = None,
    aliases: tuple[str, ...] = (),
    integer_centres: bool = True,
) -> SourceCamera:
    """One camera, checked.

    Args:
        path: the file, for messages.
        K: (3, 3); R: matrix or Rodrigues vector, world to camera; t: three numbers; dist: up to 14 of OpenCV's terms.
        size: (width, height) or None.
        integer_centres: the source puts pixel centres at integers, so 0.5 is added to the principal point.

    Raises:
        InputError: something is misshapen, not finite, no rotation, or no intrinsic matrix.
    """
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise InputError("impossible camera name", file=path, camera=name, expected="a name that can be a folder's")
    K = numbers(K, (3, 3), "K", path, name).copy()
    if not (K[0, 0] > 0 and K[1, 1] > 0 and K[1, 0] == 0 and np.array_equal(K[2], (0, 0, 1))):
        raise InputError(
            "K is not an intrinsic matrix", file=path, camera=name,
            expected="[[fx > 0, skew, cx], [0, fy > 0, cy], [0, 0, 1]]", found=K.tolist(),
        )  # fmt: skip
    if integer_centres:
        K[:2, 2] += 0.5
    translation = np.asarray(t, object)
    return SourceCamera(
        name=name,
        K=K,
        R=rotation(R, path, name),
        t=numbers(translation.ravel().tolist(), (3,), "translation", path, name),
        dist=five_terms(dist, path, name),
        size=None if size is None else image_size(size, path, name),
        aliases=aliases,
    )


def calibration_of(
    format: str, path: Path, cameras: list[SourceCamera], metres: float | None = None, up: str | None = None,
    notes: Sequence[str] = (),
) -> Calibration:  # fmt: skip
    """The cameras together. Raises InputError where there is none, or two have one name."""
    if not cameras:
        raise InputError("no calibrated camera", file=path, expected="at least one", found="; ".join(notes) or "none")
    names = [camera.name for camera in cameras]
    for name in names:
        if names.count(name) > 1:
            raise InputError("two cameras of one name", file=path, camera=name, found=", ".join(names))
    return Calibration(format, path, tuple(cameras), metres, up, tuple(notes))


def missing(entry: Any, keys: Sequence[str], path: Path, camera: str) -> None:
    """Raises InputError unless `entry` is a table with all of `keys`."""
    if not isinstance(entry, dict):
        raise InputError("not a table", file=path, camera=camera, expected=", ".join(keys), found=entry)
    for key in keys:
        if key not in entry:
            raise InputError(f"lacks {key}", file=path, camera=camera, expected=key, found=", ".join(entry))
