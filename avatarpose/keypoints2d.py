"""Detected 2D joints of one camera: the file, and what lies between two frames."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from avatarpose.errors import InputError
from avatarpose.io import read_npz


def read_keypoints(
    path: Path, camera: str, frames: int | None
) -> Float[np.ndarray, "frames detections 17 3"]:
    """Reads `keypoints` of an .npz: x, y in pixels of the image as it is, score; NaN where absent.

    Args:
        path: the file.
        camera: name of the camera, for messages.
        frames: how many frames there must be; None for any number.

    Returns:
        float32, one row per frame of the camera.

    Raises:
        InputError: the file is absent or damaged, or the array has another shape or number of frames, or infinities.
    """
    if not path.is_file():
        raise InputError("camera has no 2D keypoints", file=path, camera=camera, expected=f"keypoints2d/{path.name}")
    rows = read_npz(path, ("keypoints",))["keypoints"]
    if rows.ndim != 4 or rows.shape[2:] != (17, 3) or rows.dtype.kind != "f":
        raise InputError(
            "keypoints have the wrong shape or type", file=path, camera=camera,
            expected="floats (frames, detections, 17, 3)", found=f"{rows.dtype} {rows.shape}",
        )  # fmt: skip
    if np.isinf(rows).any():
        frame = int(np.argwhere(np.isinf(rows))[0, 0])
        raise InputError("keypoints are infinite", file=path, camera=camera, frame=frame, expected="numbers or NaN")
    if frames is not None and len(rows) != frames:
        raise InputError(
            "different frame counts", file=path, camera=camera, expected=f"{frames} frames", found=len(rows)
        )
    return rows.astype(np.float32)


def read_searched(path: Path) -> Bool[np.ndarray, " frames"] | None:
    """Which images people were looked for in, of a file that `avatarpose detect` made; None of any other file."""
    with contextlib.suppress(InputError):
        return read_npz(path, ("searched",))["searched"].astype(bool).reshape(-1)
    return None


def interpolate_detections(
    rows: Float[np.ndarray, "own_frames detections 17 3"], times: Float[np.ndarray, " frames"]
) -> Float[np.ndarray, "frames detections 17 3"]:
    """2D detections between a camera's own frames, linear in time.

    Rows carry no identity, so the detections of the two neighbouring frames are first paired by the least mean distance
    of their common joints (three or more, and on average within half the size of the detection). Joints seen in both
    frames are interpolated; all else is as in the nearer frame. Times more than half a frame outside the rows give NaN.

    Args:
        rows: x, y, score per own frame.
        times: in own frames, counted from 0.
    """
    result = np.full((len(times), *rows.shape[1:]), np.nan, np.float32)
    for i, time in enumerate(times):
        near = int(np.floor(time + 0.5))
        if not 0 <= near < len(rows):
            continue
        result[i] = rows[near]
        far = near + (1 if time > near else -1)
        weight = abs(time - near)
        if weight < 1e-6 or not 0 <= far < len(rows):
            continue
        for a, b in pair_detections(rows[near, ..., :2], rows[far, ..., :2]):
            mixed = (1 - weight) * rows[near, a] + weight * rows[far, b]
            result[i, a] = np.where(np.isnan(mixed), rows[near, a], mixed)
    return result


def pair_detections(
    first: Float[np.ndarray, "first 17 2"], second: Float[np.ndarray, "second 17 2"]
) -> list[tuple[int, int]]:
    """Rows of two frames that show the same person, by the least mean distance of their common joints, pixels."""
    distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
    common = np.isfinite(distance)
    count = common.sum(-1)
    mean = np.where(common, distance, 0).sum(-1) / np.maximum(count, 1)
    low = np.where(np.isnan(first), np.inf, first).min(1)
    high = np.where(np.isnan(first), -np.inf, first).max(1)
    size = np.linalg.norm(np.maximum(high - low, 0), axis=-1)
    near = (count >= 3) & (mean <= 0.5 * size[:, None])
    far = 1e9
    pairs = zip(*linear_sum_assignment(np.where(near, mean, far)), strict=True)
    return [(int(a), int(b)) for a, b in pairs if near[a, b]]
