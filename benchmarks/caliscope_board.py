"""A calibration board, triangulated by imported cameras and laid on its own geometry.

    python -m benchmarks.caliscope_board [CALISCOPE]

CALISCOPE (default $AVATARPOSE_DATA/caliscope) holds `camera_array.toml` and the board's corners in every image, found
by Caliscope: `calibration/extrinsic/CHARUCO/xy_CHARUCO.csv`. Two errors in space: of the lengths between neighbouring
corners, and, in frames with four corners or more, of each corner from the board's plan that is laid on them by the best
rotation and translation (Kabsch 1976, no scale). A wrong sign or a wrong distortion shows here at once.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatarpose.cameras import Cameras
from avatarpose.importers.agreement import nearest_points, reprojection_errors
from avatarpose.importers.calibration import read_calibration

CORNERS = "calibration/extrinsic/CHARUCO/xy_CHARUCO.csv"
_LEAST_CORNERS = 4


def read_corners(
    path: Path, cameras: int
) -> tuple[Float[np.ndarray, "cameras frames corners 3"], Float[np.ndarray, "corners 3"]]:
    """Corners in every image (x, y, score 1; NaN where unseen), and on the board, metres."""
    with open(path, newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    frames = sorted({row["sync_index"] for row in rows})
    count = int(max(row["keypoint_id"] for row in rows)) + 1
    seen = np.full((cameras, len(frames), count, 3), np.nan)
    board = np.full((count, 3), np.nan)
    for row in rows:
        k = int(row["keypoint_id"])
        # OpenCV found the corners, which puts pixel centres at integers.
        seen[int(row["cam_id"]), frames.index(row["sync_index"]), k] = row["img_loc_x"] + 0.5, row["img_loc_y"] + 0.5, 1
        board[k] = row["obj_loc_x"], row["obj_loc_y"], row["obj_loc_z"]
    return seen, board


def board_errors(cameras: Cameras, seen: np.ndarray, board: np.ndarray) -> Float[np.ndarray, " corners"]:
    """Metres between triangulated corners and the board laid on them, over all frames with enough corners."""
    errors = []
    for points in nearest_points(cameras, seen):
        known = np.isfinite(points).all(-1)
        if known.sum() < _LEAST_CORNERS:
            continue
        a, b = points[known], board[known]
        u, _, vt = np.linalg.svd((b - b.mean(0)).T @ (a - a.mean(0)))
        R = (u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt).T
        errors.append(np.linalg.norm(a - a.mean(0) - (b - b.mean(0)) @ R.T, axis=-1))
    return np.concatenate(errors)


def length_errors(cameras: Cameras, seen: np.ndarray, board: np.ndarray) -> Float[np.ndarray, " lengths"]:
    """Metres by which distances between triangulated neighbouring corners differ from the board's."""
    apart = np.linalg.norm(board[:, None] - board[None], axis=-1)
    square = np.min(apart[apart > 0])
    a, b = np.nonzero(np.triu(np.abs(apart - square) < 1e-6))
    points = nearest_points(cameras, seen)
    errors = np.abs(np.linalg.norm(points[:, a] - points[:, b], axis=-1) - square)
    return errors[np.isfinite(errors)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("AVATARPOSE_DATA", "../shared/data")) / "caliscope"
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    folder = parser.parse_args().folder
    calibration = read_calibration(folder / "camera_array.toml")
    cameras = calibration.as_cameras(calibration.metres)
    seen, board = read_corners(folder / CORNERS, len(cameras))
    errors = board_errors(cameras, seen, board) * 1000
    lengths = length_errors(cameras, seen, board) * 1000
    pixels = reprojection_errors(cameras, seen)
    for what, values in ((f"{len(lengths)} lengths", lengths), (f"{len(errors)} corners on the plan", errors)):
        print(f"{what}: median {np.median(values):.2f} mm, worst tenth above {np.percentile(values, 90):.2f} mm")
    print(f"reprojection: median {np.nanmedian(pixels):.2f} px")
    for name, error in zip(cameras.names, pixels, strict=True):
        print(f"  {name}: {np.nanmedian(error):.2f} px")


if __name__ == "__main__":
    main()
