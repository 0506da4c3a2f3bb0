"""How many frames each camera is off, from detections that carry no identity.

First by pairs of cameras: the shift in time at which the people of two views agree best with each other's epipolar
lines (as in Sinha and Pollefeys, "Synchronization and Calibration of Camera Networks from Silhouettes", 2004, with
joints for silhouettes); one offset a camera from all pairs by robust least squares. Then, with people triangulated at
the corrected times, each camera against the others: the shift at which its detections lie nearest to where the others
put the joints, after each joint's median distance is taken off, so that a wrong calibration is not taken for a wrong
time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from avatarpose.check.epipolar import Views
from avatarpose.check.people import People, leave_one_out_positions

_RESAMPLES = 60
_FLOOR = 0.05  # frames: no pair is trusted more than this
_LEAST_FRAMES = 8  # seen in both views, at any shift that is tried
_SHORT = 12  # frames: too few in all to say how sure an offset is
_UNSURE = 0.35  # frames of standard error beyond which an offset is not told


@dataclass(frozen=True)
class Curve:
    """Disagreement against the shift in time, kept frame by frame so that frames can be drawn anew.

    Attributes:
        shifts: (S,) frames.
        loss, weight: (F, S) sums over the joints of a frame; a curve is the ratio of their sums over the frames.
    """

    shifts: Float[np.ndarray, " shifts"]
    loss: Float[np.ndarray, "frames shifts"]
    weight: Float[np.ndarray, "frames shifts"]

    def values(self, frames: np.ndarray | None = None) -> Float[np.ndarray, " shifts"]:
        """The curve over all frames, or over those drawn; NaN where there is too little."""
        loss, weight = (self.loss, self.weight) if frames is None else (self.loss[frames], self.weight[frames])
        total = weight.sum(0)
        enough = ((weight > 0).sum(0) >= _LEAST_FRAMES) & (total > 0)
        return np.where(enough, loss.sum(0) / np.where(total > 0, total, 1), np.nan)

    def best(self, rng: np.random.Generator) -> tuple[float, float]:
        """Shift of the lowest disagreement, and its standard error by a block bootstrap (Kuensch, 1989).

        Returns:
            Frames; NaN and inf where there is too little to go by.
        """
        value = lowest(self.shifts, self.values())
        if not np.isfinite(value):
            return float("nan"), float("inf")
        count = len(self.loss)
        if count < _SHORT:
            return value, float("inf")
        length = max(2, count // 10)  # detectors' errors last several frames, so frames are drawn in blocks
        starts = rng.integers(0, count - length + 1, (_RESAMPLES, -(-count // length)))
        drawn = (starts[..., None] + np.arange(length)).reshape(_RESAMPLES, -1)[:, :count]
        found = np.array([lowest(self.shifts, self.values(frames)) for frames in drawn])
        spread = np.nanmean((found - value) ** 2) ** 0.5 if np.isfinite(found).any() else np.inf
        # Few frames drawn from few show less variety than there is.
        return value, float(spread) * (1 + 10 / count)


def lowest(shifts: Float[np.ndarray, " shifts"], values: Float[np.ndarray, " shifts"]) -> float:
    """Where the curve is lowest, between the shifts by a parabola; NaN where nothing is known."""
    if not np.isfinite(values).any():
        return float("nan")
    k = int(np.nanargmin(values))
    if not 0 < k < len(values) - 1 or not np.isfinite(values[k - 1 : k + 2]).all():
        return float(shifts[k])
    left, middle, right = values[k - 1 : k + 2]
    bend = left - 2 * middle + right
    step = (shifts[k + 1] - shifts[k - 1]) / 2
    return float(shifts[k] + (0.5 * (left - right) / bend if bend > 0 else 0.0) * step)


def pair_curve(views: Views, a: int, b: int, reach: int) -> Curve:
    """Disagreement of view a at frame f with view b at frame f + shift, for shifts up to `reach` frames."""
    count = views.pixels.shape[1]
    shifts = np.arange(-reach, reach + 1)
    loss, weight = np.zeros((count, len(shifts))), np.zeros((count, len(shifts)))
    for k, shift in enumerate(shifts):
        frames = np.arange(max(0, -shift), min(count, count - shift))
        gain, number, _ = views.match(a, b, frames, frames + shift)
        loss[frames, k], weight[frames, k] = number - gain, number
    return Curve(shifts.astype(float), loss, weight)


def solve_offsets(
    cameras: int, pairs: list[tuple[int, int]], shifts: np.ndarray, errors: np.ndarray
) -> tuple[Float[np.ndarray, " cameras"], Float[np.ndarray, " cameras"]]:
    """One offset a camera from offsets of pairs (shift of b against a), by least squares with Cauchy weights.

    Only differences are known; the median camera is put at 0, so that what most cameras share is the common clock.

    Returns:
        Offsets, frames, and their standard errors from the spread of each camera's own pairs; NaN and inf for a camera
        of which nothing is known.
    """
    usable = np.isfinite(shifts) & np.isfinite(errors)
    chosen = [pairs[i] for i in np.flatnonzero(usable)]
    if not chosen:
        return np.full(cameras, np.nan), np.full(cameras, np.inf)
    shift, error = shifts[usable], np.maximum(errors[usable], _FLOOR)
    A = np.zeros((len(chosen), cameras))
    for row, (a, b) in enumerate(chosen):
        A[row, a], A[row, b] = -1, 1
    offset = np.zeros(cameras)
    scale = 8.0  # from lenient to strict, so that the start does not decide
    for _ in range(40):
        residual = A @ offset - shift
        robust = 1 / np.sqrt(1 + (residual / (scale * error)) ** 2)
        weight = robust / error
        offset = np.linalg.lstsq(A * weight[:, None], shift * weight, rcond=None)[0]
        scale = max(2.0, 0.85 * scale)
    residual = A @ offset - shift
    own = [np.flatnonzero(A[:, c]) for c in range(cameras)]
    known = np.array([len(rows) > 0 for rows in own])
    offset = np.where(known, offset - median_low(offset[known]), np.nan)
    sigma = np.full(cameras, np.inf)
    for c in np.flatnonzero(known):
        r, e = residual[own[c]], error[own[c]]
        # Of pairs that contradict each other, the one that seems surest says little: their middle spread counts.
        spread = 1.48 * np.median(np.abs(r))
        sigma[c] = np.hypot(np.sqrt(1 / (1 / e**2).sum()), spread / np.sqrt(len(r)))
    return offset, sigma


def median_low(values: Float[np.ndarray, " n"]) -> float:
    """The median, the lower of the two middle values where their number is even: always one of the values."""
    return float(np.sort(values)[(len(values) - 1) // 2])


def people_curve(people: People, camera: int, reach: int) -> Curve:
    """Distance of a camera's detections at frame f + shift from where the other cameras put the joints at frame f.

    Each joint's median distance over time is taken off first, at every shift.
    """
    where = leave_one_out_positions(people, camera)  # (P, F, 17, 2)
    detected = np.moveaxis(people.detected[camera], 1, 0)  # (P, F, 17, 2)
    count = where.shape[1]
    shifts = np.arange(-reach, reach + 1)
    loss, weight = np.zeros((count, len(shifts))), np.zeros((count, len(shifts)))
    differences = []
    for shift in shifts:
        frames = np.arange(max(0, -shift), min(count, count - shift))
        error = np.full_like(where, np.nan)
        error[:, frames] = detected[:, frames + shift] - where[:, frames]
        few = np.isfinite(error[..., 0]).sum(1, keepdims=True) < _LEAST_FRAMES
        error[np.broadcast_to(few, error.shape[:3])] = np.nan
        differences.append(np.linalg.norm(error - _median_over_time(error), axis=-1))
    now = differences[reach]
    if not np.isfinite(now).any():
        return Curve(shifts.astype(float), loss, weight)
    cap = 3 * np.nanmedian(now) + 1e-6
    for k, distance in enumerate(differences):
        known = np.isfinite(distance)
        loss[:, k] = np.where(known, np.minimum(np.nan_to_num(distance) / cap, 1) ** 2, 0).sum((0, 2))
        weight[:, k] = known.sum((0, 2))
    return Curve(shifts.astype(float), loss, weight)


def _median_over_time(error: np.ndarray) -> np.ndarray:
    known = np.isfinite(error).any(1, keepdims=True)
    return np.where(known, np.nanmedian(np.where(known, error, 0.0), axis=1, keepdims=True), np.nan)


@dataclass(frozen=True)
class Synchronisation:
    """What was found.

    Attributes:
        offsets: (C,) frames of the common clock by which a camera's detections lie behind the other cameras'; NaN where
            unknown. What the camera shows at f + offset is what the others show at f.
        errors: (C,) standard errors, frames.
        pairs: the pairs of cameras compared.
        pair_shifts, pair_errors: shift of the second camera against the first, frames, and standard error.
        curves: a curve a pair.
    """

    offsets: Float[np.ndarray, " cameras"]
    errors: Float[np.ndarray, " cameras"]
    pairs: list[tuple[int, int]]
    pair_shifts: Float[np.ndarray, " pairs"]
    pair_errors: Float[np.ndarray, " pairs"]
    curves: list[Curve]


def sure(offsets: Float[np.ndarray, " cameras"], errors: Float[np.ndarray, " cameras"]) -> Bool[np.ndarray, " cameras"]:
    """Whether offsets with these standard errors, frames, are known well enough to be told."""
    return np.isfinite(offsets) & (errors < _UNSURE)


def by_pairs(views: Views, reach: int, seed: int = 0) -> Synchronisation:
    """Offsets of all cameras from their pairs."""
    rng = np.random.default_rng(seed)
    curves = [pair_curve(views, a, b, reach) for a, b in views.pairs]
    found = np.array([curve.best(rng) for curve in curves]).reshape(-1, 2)
    # A minimum at the end of the range is none.
    at_end = np.abs(found[:, 0]) >= reach
    errors = np.where(at_end, np.inf, found[:, 1])
    offsets, sigma = solve_offsets(len(views.cameras), views.pairs, found[:, 0], errors)
    return Synchronisation(offsets, sigma, views.pairs, found[:, 0], errors, curves)


def by_people(
    people: People, reach: int, seed: int = 0
) -> tuple[Float[np.ndarray, " cameras"], Float[np.ndarray, " cameras"], list[Curve]]:
    """Shift of each camera against all others, frames, standard error, and the curve."""
    rng = np.random.default_rng(seed)
    curves = [people_curve(people, c, reach) for c in range(len(people.cameras))]
    found = np.array([curve.best(rng) for curve in curves])
    errors = np.where(np.abs(found[:, 0]) >= reach, np.inf, np.maximum(found[:, 1], _FLOOR))
    return found[:, 0], errors, curves
