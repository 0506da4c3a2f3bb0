"""Who is seen by whom: people, joints, the space that cameras share; and whether units and axes are plausible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int

from avatarpose.check.epipolar import Views
from avatarpose.check.people import People
from avatarpose.importers.agreement import body_evidence, pair_people
from avatarpose.importers.units import HEIGHTS, RIG, UNITS, rig_extent
from avatarpose.sequence import Sequence

_MARGIN = 0.4  # metres around the people, in which the cameras' common space is measured
_STEP = 0.15  # metres between the points it is measured with
_FEW_CAMERAS = 6  # are enough to measure people with
_LEAST_BODIES = 5


@dataclass(frozen=True)
class Scale:
    """How long the calibration's unit seems to be, and which way people stand.

    Attributes:
        height: middle body height in units of the calibration; NaN where nobody was measured.
        extent: distance between the farthest two cameras, likewise.
        unit: the unit that makes people (or, without them, the cameras' distances) plausible; None where none does.
        metres: metres per unit of the calibration by that guess.
        up: the signed axis nearest to where people's shoulders are above their ankles; None where that is not clear.
    """

    height: float
    extent: float
    unit: str | None
    metres: float
    up: str | None


def measure_scale(views: Views) -> Scale:
    """From people triangulated by pairs of views, which needs neither units nor identities."""
    cameras = views.cameras
    chosen = np.unique(np.linspace(0, len(cameras) - 1, min(_FEW_CAMERAS, len(cameras))).round().astype(int))
    # The pixels are those of ideal lenses already: undistorting them pair by pair would take most of the check's time.
    some = cameras[chosen.tolist()].to(dtype=torch.float64)
    some = replace(some, dist=torch.zeros_like(some.dist))
    pixels = views.pixels[chosen]
    rows = np.concatenate((pixels, np.where(np.isnan(pixels[..., :1]), np.nan, 1.0)), -1)
    bodies = body_evidence(some, pair_people(some, list(rows)))
    known = len(bodies.heights) >= _LEAST_BODIES
    height = float(np.median(bodies.heights)) if known else float("nan")
    extent = rig_extent(cameras.centres.double().numpy())
    unit, metres = None, 1.7 / height if known else 1.0
    for name, factor in UNITS.items():
        fits = HEIGHTS[0] <= height * factor <= HEIGHTS[1] if known else RIG[0] <= extent * factor <= RIG[1]
        if fits:
            unit, metres = name, factor
            break
    up = None
    if known:
        mean = bodies.ups.mean(0)
        axis = int(np.abs(mean).argmax())
        if abs(mean[axis]) > 0.7:
            up = ("-" if mean[axis] < 0 else "") + "xyz"[axis]
    return Scale(height, extent, unit, metres, up)


@dataclass(frozen=True)
class Seen:
    """Who is seen how well.

    Attributes:
        detections: (C,) share of the frames with a detection.
        people: (C, P) share of the person's frames in which the camera has a detection of him.
        views: (P, 17) mean number of cameras that see each joint.
        thin: (P,) share of the person's joints, over his frames, that fewer than two cameras see.
        volume: cubic metres around the people that k = 1 .. C cameras or more have in the picture.
        crowd: (C,) most detections in a frame.
        repeated: (C,) share of the frames whose detections are exactly those of the frame before.
    """

    detections: Float[np.ndarray, " cameras"]
    people: Float[np.ndarray, "cameras people"]
    views: Float[np.ndarray, "people 17"]
    thin: Float[np.ndarray, " people"]
    volume: Float[np.ndarray, " cameras"]
    crowd: Int[np.ndarray, " cameras"]
    repeated: Float[np.ndarray, " cameras"]


def look(keypoints: Float[np.ndarray, "cameras frames rows 17 3"], people: People) -> Seen:
    """Counts who is seen."""
    present = np.isfinite(keypoints).all(-1).sum(-1) >= 5  # (C, F, D)
    valid = people.valid.T  # (F, P)
    count = np.maximum(valid.sum(0), 1)
    seen = np.isfinite(people.detected).all(-1) & valid[None, ..., None]  # (C, F, P, 17)
    number = seen.sum(0)
    views = np.where(valid[..., None], number, 0).sum(0) / count[:, None]
    thin = ((number < 2) & valid[..., None]).sum((0, 2)) / (17 * count)
    rows = np.nan_to_num(keypoints[..., :2])
    if keypoints.shape[1] > 1:
        same = (rows[:, 1:] == rows[:, :-1]).all((2, 3, 4)) & present[:, 1:].any(-1)
        repeated = same.mean(1)
    else:
        repeated = np.zeros(len(rows))
    return Seen(
        present.any(-1).mean(1), ((people.rows >= 0) & valid[None]).sum(1) / count, views, thin,
        shared_volume(people), present.sum(-1).max(1), repeated,
    )  # fmt: skip


def shared_volume(people: People) -> Float[np.ndarray, " cameras"]:
    """Cubic metres of the box around all people that k = 1 .. C cameras or more see; zeros where nobody was found."""
    known = people.joints[np.isfinite(people.joints).all(-1)]
    if not len(known):
        return np.zeros(len(people.cameras))
    low, high = np.percentile(known, 1, axis=0) - _MARGIN, np.percentile(known, 99, axis=0) + _MARGIN
    axes = [np.arange(a, b, max(_STEP, (b - a) / 60)) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    seen = people.cameras.sees(torch.from_numpy(grid)).numpy().sum(0)
    whole = float(np.prod(high - low))
    return np.array([(seen >= k).mean() * whole for k in range(1, len(people.cameras) + 1)])


def missing_masks(sequence: Sequence) -> Int[np.ndarray, " cameras"]:
    """Frames of each camera that have no mask."""
    frames = range(len(sequence.frames))
    return np.array([sum(not sequence.mask_path(c, f).is_file() for f in frames) for c in range(len(sequence.cameras))])
