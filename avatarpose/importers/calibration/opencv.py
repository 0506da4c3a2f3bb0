"""OpenCV FileStorage YAML: EasyMocap's intri.yml and extri.yml, one file a camera, and stereo calibrations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatarpose.errors import InputError
from avatarpose.importers.calibration.rig import Calibration, SourceCamera, calibration_of, camera_of, read_text

SUFFIXES, MARK = (".yml", ".yaml"), "opencv-matrix"
_K = ("K", "camera_matrix", "cameraMatrix", "Camera_Matrix", "intrinsicMatrix", "M", "mtx")
_DIST = ("dist", "distortion_coefficients", "Distortion_Coefficients", "distCoeffs", "distortionCoefficients", "D")
_R = ("Rot", "R", "rotationMatrix", "rotation_matrix", "rotation", "rvec")  # Rot first: EasyMocap's R is Rodrigues
_T = ("T", "t", "translation", "translation_vector", "tvec")
_WIDTH, _HEIGHT = ("W", "image_width", "width", "image_Width"), ("H", "image_height", "height", "image_Height")
_PAIRS = (("intri", "extri"), ("intrinsics", "extrinsics"))


def is_opencv(path: Path, head: str) -> bool:
    """By the mark that a FileStorage puts before its matrices."""
    return path.suffix.lower() in SUFFIXES and MARK in head


def read_opencv(path: Path) -> Calibration:
    """Reads intri.yml with its extri.yml, a folder with one file a camera, or a file with one or more cameras.

    Cameras of one file are told apart by the ends of their keys, `K_01`, `dist_01`, `R_01` or `Rot_01`, `T_01`, as in
    EasyMocap; OpenCV's stereo files hold M1, D1, M2, D2, R and T, where the first camera is the world. A file of its
    own is called as the file. Lengths are in the unit of the board.

    Raises:
        InputError: absent, malformed, without cameras, a camera without pose, or matrices that are none.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and MARK in read_text(file))
        pair = next((p for p in map(_pair, files) if p), None)
        files = list(pair) if pair else files
    else:
        files = list(_pair(path) or (path,))
    if not files:
        raise InputError("no YAML file", file=path, expected="intri.yml and extri.yml, or one file a camera")
    contents = {file: read_storage(file) for file in files}
    if len(files) == 1 or _pair(files[0]):
        return calibration_of("opencv", path, _of_one(path, {k: v for c in contents.values() for k, v in c.items()}))
    cameras = [_camera(file, file.stem, values, "") for file, values in contents.items()]
    return calibration_of("opencv", path, cameras)


def _pair(path: Path) -> tuple[Path, Path] | None:
    """The file of lenses and the file of poses, where `path` is either and both are there."""
    for names in _PAIRS:
        if path.stem in names:
            both = tuple(path.with_name(name + path.suffix) for name in names)
            if all(file.is_file() for file in both):
                return both
    return None


def read_storage(path: Path) -> dict[str, Any]:
    """The nodes at the top of a FileStorage: matrices as arrays, numbers, texts, and lists of these.

    Raises:
        InputError: absent, empty, or malformed.
    """
    # Other writers leave the first two lines out, or put them as newer YAML has it, which OpenCV does not read.
    body = re.sub(r"\A(?:[ \t]*(?:#[^\n]*|%YAML[^\n]*|---[ \t\r]*)?\n)+", "", read_text(path))
    text = "%YAML:1.0\n---\n" + body
    try:
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        if not storage.isOpened():
            raise InputError("malformed YAML", file=path, expected="an OpenCV FileStorage")
        root = storage.root()
        return {key: _value(root.getNode(key), path, key) for key in root.keys()}  # noqa: SIM118
    except (cv2.error, SystemError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise InputError("malformed YAML", file=path, expected="an OpenCV FileStorage", found=reason) from None


def _value(node: cv2.FileNode, path: Path, key: str) -> Any:
    if node.isInt() or node.isReal():
        return node.real()
    if node.isString():
        return node.string()
    if node.isSeq():
        return [_value(node.at(i), path, key) for i in range(node.size())]
    if node.isMap():
        try:
            return np.array(node.mat())
        except (cv2.error, SystemError):
            raise InputError(f"{key} is not a matrix", file=path, expected="rows, cols, dt, data") from None
    return None


def _find(values: dict[str, Any], names: tuple[str, ...], end: str) -> str | None:
    return next((name + end for name in names if name + end in values), None)


def _of_one(path: Path, values: dict[str, Any]) -> list[SourceCamera]:
    """The cameras of the nodes of one file, or of a pair of files."""
    if "M1" in values and "M2" in values:
        return _stereo(path, values)
    if "names" in values:
        names = values["names"] if isinstance(values["names"], list) else [values["names"]]
        names = [f"{name:g}" if isinstance(name, float) else str(name) for name in names]
        return [_camera(path, name, values, f"_{name}") for name in names]
    ends = [key[1:] for key in values if key.startswith("K_")]
    if ends:
        return [_camera(path, end[1:], values, end) for end in ends]
    return [_camera(path, path.stem if path.is_file() else path.name, values, "")]


def _camera(path: Path, name: str, values: dict[str, Any], end: str) -> SourceCamera:
    keys = {}
    for what, names in (("K", _K), ("R", _R), ("T", _T)):
        keys[what] = _find(values, names, end)
        if keys[what] is None:
            raise InputError(
                f"lacks {what}{end}", file=path, camera=name, expected=" or ".join(n + end for n in names),
                found=", ".join(values),
            )  # fmt: skip
    dist, width, height = (_find(values, names, end) for names in (_DIST, _WIDTH, _HEIGHT))
    size = (values[width], values[height]) if width and height else None
    return camera_of(
        path, name, values[keys["K"]], values[keys["R"]], values[keys["T"]], values[dist] if dist else (), size
    )


def _stereo(path: Path, values: dict[str, Any]) -> list[SourceCamera]:
    for key in ("D1", "D2", "R", "T"):
        if key not in values:
            raise InputError(f"lacks {key}", file=path, expected="M1, D1, M2, D2, R, T", found=", ".join(values))
    first = camera_of(path, "1", values["M1"], np.eye(3), np.zeros(3), values["D1"])
    return [first, camera_of(path, "2", values["M2"], values["R"], values["T"], values["D2"])]
