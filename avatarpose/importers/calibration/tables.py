"""Calibrations of public data sets, and our own: Hi4D's npz, CMU Panoptic's JSON, VoxelPose's JSON, cameras.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.importers.calibration.rig import (
    Calibration,
    SourceCamera,
    calibration_of,
    camera_of,
    missing,
    numbers,
)
from avatarpose.io import read_json, read_npz

_HI4D = ("ids", "intrinsics", "extrinsics", "dist_coeffs")


def is_hi4d(path: Path, head: str) -> bool:
    """By its arrays."""
    if path.suffix.lower() != ".npz":
        return False
    try:
        return set(_HI4D) <= set(read_npz(path))
    except InputError:
        return "camera" in path.stem.lower()  # damaged: to be read, so that its trouble is told


def read_hi4d(path: Path) -> Calibration:
    """Reads Hi4D's rgb_cameras.npz: ids (C,), intrinsics (C, 3, 3), extrinsics (C, 3, 4), dist_coeffs (C, 5); metres.

    Image sizes are not in it; they come from the footage.

    Raises:
        InputError: absent, damaged, lacking an array, or misshapen.
    """
    data = read_npz(path, _HI4D)
    ids = data["ids"].ravel()
    shapes = {"intrinsics": (len(ids), 3, 3), "extrinsics": (len(ids), 3, 4)}
    arrays = {key: numbers(data[key], shape, key, path, None) for key, shape in shapes.items()}
    dist = data["dist_coeffs"]
    if len(dist) != len(ids):
        raise InputError("dist_coeffs has the wrong shape", file=path, expected=(len(ids), 5), found=dist.shape)
    cameras = []
    for c, name in enumerate(ids):
        pose = arrays["extrinsics"][c]
        cameras.append(camera_of(path, str(name), arrays["intrinsics"][c], pose[:, :3], pose[:, 3], dist[c]))
    return calibration_of("hi4d", path, cameras, metres=1.0)


def is_panoptic(path: Path, head: str) -> bool:
    """By its list of cameras with distCoef."""
    return path.suffix.lower() == ".json" and '"cameras"' in head and "distCoef" in head


def read_panoptic(path: Path) -> Calibration:
    """Reads CMU Panoptic's calibration_*.json: centimetres, x_cam = R x + t, y down.

    Raises:
        InputError: absent, malformed, or a camera lacks an entry.
    """
    entries = read_json(path, ("cameras",))["cameras"]
    if not isinstance(entries, list):
        raise InputError("cameras is not a list", file=path, found=type(entries).__name__)
    cameras = []
    for i, entry in enumerate(entries):
        name = str(entry.get("name", i)) if isinstance(entry, dict) else str(i)
        missing(entry, ("K", "distCoef", "R", "t", "resolution"), path, name)
        aliases = (f"{entry['type']}_{name}",) if "type" in entry else ()
        K, R, t, dist, size = (entry[key] for key in ("K", "R", "t", "distCoef", "resolution"))
        cameras.append(camera_of(path, name, K, R, t, dist, size, aliases))
    return calibration_of("panoptic", path, cameras, metres=0.01, up="-y")


def is_voxelpose(path: Path, head: str) -> bool:
    """By cameras with fx, cx, k and p."""
    return path.suffix.lower() == ".json" and all(f'"{key}"' in head for key in ("R", "T", "fx", "cx", "k", "p"))


def read_voxelpose(path: Path) -> Calibration:
    """Reads VoxelPose's calibration_shelf.json and its like: {"0": {R, T, fx, fy, cx, cy, k, p}}, millimetres, z up.

    T is the camera's centre: x_cam = R (x - T). k holds k1, k2, k3, p holds p1, p2, as OpenCV uses them.

    Raises:
        InputError: absent, malformed, or a camera lacks an entry.
    """
    cameras = []
    for name, entry in read_json(path).items():
        missing(entry, ("R", "T", "fx", "fy", "cx", "cy", "k", "p"), path, name)
        cameras.append(_voxelpose_camera(path, name, entry))
    return calibration_of("voxelpose", path, cameras, metres=0.001, up="z")


def _voxelpose_camera(path: Path, name: str, entry: dict[str, Any]) -> SourceCamera:
    def flat(key: str, count: int) -> np.ndarray:
        value = np.asarray(entry[key], object).ravel().tolist()
        return numbers(value, (count,), key, path, name)

    fx, fy, cx, cy = (flat(key, 1)[0] for key in ("fx", "fy", "cx", "cy"))
    (k1, k2, k3), (p1, p2), R = flat("k", 3), flat("p", 2), numbers(entry["R"], (3, 3), "R", path, name)
    K = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    return camera_of(path, name, K, R, -R @ flat("T", 3), [k1, k2, p1, p2, k3])


def is_own(path: Path, head: str) -> bool:
    """By its name and by cameras with K, R and t."""
    return path.name == "cameras.json" and all(f'"{key}"' in head for key in ("K", "R", "t", "width"))


def read_own(path: Path) -> Calibration:
    """Reads the cameras.json of a sequence folder: metres, pixel centres at i + 0.5.

    Raises:
        InputError: as `Cameras.load`.
    """
    known = Cameras.load(path)
    cameras = []
    for c, name in enumerate(known.names):
        size = (int(known.width[c]), int(known.height[c]))
        fields = (known.K[c].numpy(), known.R[c].numpy(), known.t[c].numpy(), known.dist[c].numpy())
        cameras.append(camera_of(path, name, *fields, size, integer_centres=False))
    return calibration_of("avatarpose", path, cameras, metres=1.0)
