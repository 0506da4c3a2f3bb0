"""2D evidence as Gaussians per view: one representation for detections, heatmap files and training noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import maximum_filter
from torch import Tensor

from avatarpose.errors import InputError
from avatarpose.estimate.affinity import LIMBS
from avatarpose.io import read_npz

if TYPE_CHECKING:
    from avatarpose.sequence import Sequence

JOINTS = 17
MAX_PEAKS = 10

# Lengths of `LIMBS` in a person 1.7 m tall, metres: upper arms, lower arms, thighs, shins, sides of the
# trunk. Not the widths of shoulders and hips, which vanish in profile and vary most between detectors.
_LENGTHS = np.array([0.27, 0.27, 0.25, 0.25, 0.40, 0.40, 0.39, 0.39, 0.50, 0.50])
_LEAST_LIMBS = 3
_ANY_SIZE = 200.0  # pixels per metre where no detection of a view says anything
_SIGMA_CELLS = (0.5, 6.0)  # bounds of the fitted width of a peak, cells of the heatmap


@dataclass(frozen=True)
class Gaussians:
    """Peaks of the 2D heatmaps of V views: heatmap_j(u) = max_d height_dj exp(-1/2 (u - mean_dj)^T P_dj (u - mean_dj)).

    Attributes:
        means: (V, D, J, 2) pixels of the image as it is (distorted), counted from the outer corner; 0 where absent.
        precisions: (V, D, J, 3) entries xx, xy, yy of the inverse covariance P, 1 / pixel^2; 1, 0, 1 where absent.
        heights: (V, D, J) score in [0, 1]; 0 where absent.
        rows_are_people: whether the joints of one detection belong together; not so for peaks of heatmap files, where
            detection d of a joint is its d-th highest peak. Either way detections carry no identity between views.
    """

    means: Float[Tensor, "views detections joints 2"]
    precisions: Float[Tensor, "views detections joints 3"]
    heights: Float[Tensor, "views detections joints"]
    rows_are_people: bool = True

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Gaussians:
        """The same Gaussians on another device or in another type."""
        moved = {key: getattr(self, key).to(device=device, dtype=dtype) for key in ("means", "precisions", "heights")}
        return replace(self, **moved)


def pixels_per_metre(rows: Float[np.ndarray, "*batch 17 3"], min_score: float = 0.1) -> Float[np.ndarray, "*batch"]:
    """Size of each detected person in the image: the second largest of 2D length over usual length of his limbs.

    Foreshortening only shrinks a limb in the image, a wrong joint mostly lengthens it: hence neither mean nor maximum.

    Args:
        rows: x, y in pixels, score; NaN where absent.

    Returns:
        Pixels per metre; NaN where fewer than three limbs are seen.
    """
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(rows).all(axis=-1) & (rows[..., 2] >= min_score)
    return size_by_limbs(np.where(seen[..., None], rows[..., :2], np.nan))


def size_by_limbs(places: Float[np.ndarray, "*batch 17 axes"]) -> Float[np.ndarray, "*batch"]:
    """As `pixels_per_metre`, of places in any units, per metre; NaN where a joint was not seen."""
    places = np.asarray(places, np.float64)
    length = np.linalg.norm(places[..., LIMBS[:, 0], :] - places[..., LIMBS[:, 1], :], axis=-1) / _LENGTHS
    known = np.isfinite(length)
    second = np.sort(np.where(known, length, -np.inf), axis=-1)[..., -2]
    return np.where((known.sum(axis=-1) >= _LEAST_LIMBS) & (second > 0), second, np.nan)


def complete_sizes(sizes: Float[np.ndarray, "views *frames rows"]) -> Float[np.ndarray, "views *frames rows"]:
    """Fills unknown sizes of detections, pixels per metre.

    Where unknown: the median of the other detections of that view and frame, else of the view's other frames, else 200.
    """
    sizes = np.array(sizes, np.float64)
    for level in (sizes.ndim - 1, 1):  # axes from here on are pooled
        axes = tuple(range(level, sizes.ndim))
        known = np.isfinite(sizes)
        some = known.any(axis=axes, keepdims=True)
        median = np.nanmedian(np.where(some & ~known, np.nan, np.where(known, sizes, 0.0)), axis=axes, keepdims=True)
        sizes = np.where(known, sizes, np.where(some, median, np.nan))
    return np.where(np.isfinite(sizes), sizes, _ANY_SIZE)


def gaussians_from_keypoints(
    rows: Float[np.ndarray, "views detections 17 3"],
    sigma_metres: float = 0.07,
    min_score: float = 0.1,
    sizes: Float[np.ndarray, "views detections"] | None = None,
) -> Gaussians:
    """Detections of one frame as isotropic Gaussians as wide in the image as `sigma_metres` are at the person.

    Args:
        rows: x, y in pixels, score; NaN where absent.
        sizes: pixels per metre of each detection; None: from the rows (`pixels_per_metre`, `complete_sizes`).

    Returns:
        float32; heights are the scores, at most 1, 0 below `min_score`.
    """
    if rows.shape[1] == 0:  # nobody detected anywhere: one row of nothing keeps indexing simple
        rows = np.full((len(rows), 1, JOINTS, 3), np.nan)
        sizes = None
    sizes = complete_sizes(pixels_per_metre(rows, min_score) if sizes is None else sizes)
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(rows).all(axis=-1) & (rows[..., 2] >= max(min_score, 1e-6))
    precision = np.where(seen, (1.0 / (sigma_metres * sizes) ** 2)[..., None], 1.0)
    precisions = np.stack((precision, np.zeros_like(precision), precision), axis=-1)
    return Gaussians(
        means=torch.from_numpy(np.where(seen[..., None], rows[..., :2], 0.0).astype(np.float32)),
        precisions=torch.from_numpy(precisions.astype(np.float32)),
        heights=torch.from_numpy(np.where(seen, np.minimum(rows[..., 2], 1.0), 0.0).astype(np.float32)),
    )


# ---- heatmap files ----


def read_heatmaps(
    path: Path, camera: str, frame: int
) -> tuple[Float[np.ndarray, "17 height width"], Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """Reads heatmaps2d/<camera>/<frame>.npz.

    Returns:
        Heatmaps, float32; stride (x, y) and origin (x, y), pixels: cell i is at pixel origin + stride (i + 0.5).

    Raises:
        InputError: the file is absent or damaged, or an array has the wrong shape or type, or is not finite.
    """
    place = {"file": path, "camera": camera, "frame": frame}
    if not path.is_file():
        raise InputError("no 2D heatmaps for this frame", **place, expected=f"heatmaps2d/{camera}/{path.name}")
    try:
        data = read_npz(path, ("heatmaps", "stride", "origin"))
    except InputError as error:
        raise InputError(error.problem, **place, expected=error.expected, found=error.found) from error
    maps = data["heatmaps"]
    if maps.ndim != 3 or maps.shape[0] != JOINTS or min(maps.shape[1:]) < 3 or maps.dtype.kind != "f":
        found = f"{maps.dtype} {maps.shape}"
        raise InputError("heatmaps have the wrong shape or type", **place, expected="floats (17, h, w)", found=found)
    if not np.isfinite(maps).all():
        raise InputError("heatmaps are not finite", **place, expected="numbers")
    pair = {}
    for key in ("stride", "origin"):
        value = data[key]
        if value.dtype.kind not in "fiu" or value.shape not in ((), (1,), (2,)) or not np.isfinite(value).all():
            raise InputError(f"impossible {key}", **place, expected="one or two numbers, pixels", found=value.tolist())
        pair[key] = np.broadcast_to(value.astype(np.float64), (2,))
    if (pair["stride"] <= 0).any():
        raise InputError("impossible stride", **place, expected="above 0", found=data["stride"].tolist())
    return maps.astype(np.float32), pair["stride"], pair["origin"]


def find_peaks(
    maps: Float[np.ndarray, "joints height width"],
    stride: Float[np.ndarray, " 2"],
    origin: Float[np.ndarray, " 2"],
    min_score: float = 0.1,
    count: int = MAX_PEAKS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The highest peaks of each joint's heatmap, with places between cells and widths.

    A quadratic through the logarithm of the 3 x 3 cells around a peak, which is exact for a Gaussian:
    place = -H^-1 g, precision = -H, with gradient g and Hessian H by central differences; bounded to half a cell and to
    widths of half to six cells.

    Returns:
        means (count, J, 2) pixels, precisions (count, J, 3) 1 / pixel^2, heights (count, J), highest first; absent as
        in `Gaussians`.
    """
    joints = len(maps)
    means = np.zeros((count, joints, 2), np.float32)
    precisions = np.tile(np.array([1.0, 0.0, 1.0], np.float32), (count, joints, 1))
    heights = np.zeros((count, joints), np.float32)
    # The highest of equal neighbours, such as on the plateau of a clipped heatmap, is the first of them.
    ranked = np.float64(maps) - 1e-9 * np.arange(maps[0].size).reshape(maps[0].shape)
    best = (ranked == maximum_filter(ranked, size=(1, 3, 3), mode="nearest")) & (maps > min_score)
    joint, row, column = np.nonzero(best)
    order = np.lexsort((-maps[joint, row, column], joint))
    joint, row, column = joint[order], row[order], column[order]
    slot = np.arange(len(joint)) - np.searchsorted(joint, joint)
    kept = slot < count
    joint, row, column, slot = joint[kept], row[kept], column[kept], slot[kept]
    if not len(joint):
        return means, precisions, heights
    logs = np.log(np.maximum(np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge").astype(np.float64), 1e-4))
    around = {(dx, dy): logs[joint, row + 1 + dy, column + 1 + dx] for dx in (-1, 0, 1) for dy in (-1, 0, 1)}
    gradient = np.stack((around[1, 0] - around[-1, 0], around[0, 1] - around[0, -1]), axis=-1) / 2
    xx = 2 * around[0, 0] - around[1, 0] - around[-1, 0]
    yy = 2 * around[0, 0] - around[0, 1] - around[0, -1]
    xy = -(around[1, 1] - around[1, -1] - around[-1, 1] + around[-1, -1]) / 4
    values, vectors = np.linalg.eigh(np.stack((np.stack((xx, xy), -1), np.stack((xy, yy), -1)), -2))
    values = values.clip(1 / _SIGMA_CELLS[1] ** 2, 1 / _SIGMA_CELLS[0] ** 2)
    precision = np.einsum("nij,nj,nkj->nik", vectors, values, vectors)
    shift = np.linalg.solve(precision, gradient[..., None])[..., 0].clip(-0.5, 0.5)
    means[slot, joint] = origin + stride * (np.stack((column, row), axis=-1) + 0.5 + shift)
    precision = precision / (stride[:, None] * stride)
    precisions[slot, joint] = np.stack((precision[:, 0, 0], precision[:, 0, 1], precision[:, 1, 1]), axis=-1)
    heights[slot, joint] = maps[joint, row, column].clip(0.0, 1.0)
    return means, precisions, heights


def gaussians_from_heatmaps(
    paths: list[Path], cameras: tuple[str, ...], frames: list[int], min_score: float = 0.1
) -> Gaussians:
    """Peaks of one heatmap file per view as Gaussians, at most ten a joint.

    Args:
        paths: files of the V views.
        cameras, frames: their names and frame numbers, for messages.

    Raises:
        InputError: see `read_heatmaps`.
    """
    views = []
    for path, camera, frame in zip(paths, cameras, frames, strict=True):
        views.append(find_peaks(*read_heatmaps(path, camera, frame), min_score))
    means, precisions, heights = (torch.from_numpy(np.stack(part)) for part in zip(*views, strict=True))
    return Gaussians(means, precisions, heights, rows_are_people=False)


class Evidence:
    """The 2D evidence of a capture, frame by frame: heatmap files where there are any, else detections.

    Attributes:
        from_heatmaps: whether it comes from heatmaps2d/.
    """

    def __init__(self, sequence: Sequence, sigma_metres: float = 0.07, min_score: float = 0.1) -> None:
        self._sequence, self._sigma, self._min_score = sequence, sigma_metres, min_score
        self.from_heatmaps = (sequence.folder / "heatmaps2d").is_dir()
        if not self.from_heatmaps:
            self._rows = sequence.keypoints2d
            self._sizes = complete_sizes(pixels_per_metre(self._rows, min_score))

    def __len__(self) -> int:
        return len(self._sequence.frames)

    def __getitem__(self, f: int) -> Gaussians:
        """Gaussians of frame f, an index into the sequence's frames.

        Raises:
            InputError: see `read_heatmaps`.
        """
        if not self.from_heatmaps:
            return gaussians_from_keypoints(self._rows[:, f], self._sigma, self._min_score, self._sizes[:, f])
        names = self._sequence.cameras.names
        own = [self._sequence.own_frame(c, f) for c in range(len(names))]
        folder = self._sequence.folder / "heatmaps2d"
        paths = [folder / name / f"{number:06d}.npz" for name, number in zip(names, own, strict=True)]
        return gaussians_from_heatmaps(paths, names, own, self._min_score)
