"""The measurements in order: scale, time, calibration, people; each corrected for what was found before it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float

from avatarpose.cameras import Cameras
from avatarpose.check.calibration import Calibration, calibrate, find_odd
from avatarpose.check.coverage import Scale, Seen, look, measure_scale
from avatarpose.check.epipolar import Views
from avatarpose.check.people import People, find_people
from avatarpose.check.synchronisation import Curve, Synchronisation, by_pairs, by_people, median_low, sure
from avatarpose.keypoints2d import interpolate_detections
from avatarpose.sequence import Sequence

_MOST_FRAMES = 200
_MOST_DETECTIONS = 8 * _MOST_FRAMES  # cameras times frames: more cameras are looked at for a shorter time
_MATTERS = 0.15  # frames: offsets below this are not corrected on the way
_ROUNDS = 4


@dataclass
class Analysis:
    """All that was measured on the detections of C cameras.

    Attributes:
        frames: indices of the frames looked at, consecutive.
        keypoints: (C, F, D, 17, 3) of those frames, moved to the corrected times.
        scale: of the calibration.
        pairs: offsets by pairs of cameras.
        offsets, errors: (C,) offsets of the cameras and their standard errors, frames; NaN and inf where unknown.
        curves: a curve a camera, of its offset against the others; by people where there are three cameras or more.
        calibration: errors and odd cameras.
        people: who was found, in the cameras as they are, in metres.
        seen: who is seen by whom.
    """

    frames: np.ndarray
    keypoints: Float[np.ndarray, "cameras frames rows 17 3"]
    scale: Scale
    pairs: Synchronisation
    offsets: Float[np.ndarray, " cameras"]
    errors: Float[np.ndarray, " cameras"]
    curves: list[Curve]
    calibration: Calibration
    people: People
    seen: Seen


def busiest(keypoints: Float[np.ndarray, "cameras frames rows 17 3"], count: int) -> slice:
    """The `count` consecutive frames in which the detections move most, taken together over the cameras."""
    total = keypoints.shape[1]
    if total <= count:
        return slice(0, total)
    points = keypoints[..., :2].reshape(*keypoints.shape[:2], -1, 2)
    known = np.isfinite(points).all(-1)
    seen = known.any(-1)
    middle = np.full((*seen.shape, 2), np.nan)
    middle[seen] = [np.median(p[k], axis=0) for p, k in zip(points[seen], known[seen], strict=True)]
    step = np.nan_to_num(np.linalg.norm(np.diff(middle, axis=1), axis=-1))
    # People who come and go make the middle jump: steps beyond a few hundredths of the picture count no more.
    extent = np.array([np.ptp(p[k]) if k.any() else 0.0 for p, k in zip(points, known, strict=True)])
    moved = np.minimum(step, 0.03 * extent[:, None]).sum(0)
    sums = np.convolve(moved, np.ones(count - 1), "valid")
    start = int(sums.argmax())
    return slice(start, start + count)


def analyse(sequence: Sequence, max_offset: float, progress: Callable[[int, int, str], None] | None = None) -> Analysis:
    """Measures everything that the detections tell.

    Args:
        max_offset: seconds, the largest offset that is looked for.

    Raises:
        InputError: keypoints are absent or damaged.
    """
    done = 0

    def say(text: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, 5 + _ROUNDS, text)
        done += 1

    every = sequence.keypoints2d
    window = busiest(every, max(40, min(_MOST_FRAMES, _MOST_DETECTIONS // len(sequence.cameras))))
    frames = np.arange(every.shape[1])[window]
    original = every[:, window]
    say("scale")
    cameras = sequence.cameras.to(dtype=torch.float64)
    views = Views.of(cameras, original)
    scale = measure_scale(views)
    cameras = replace(cameras, t=cameras.t * scale.metres)
    times = sequence.frames[window] / sequence.fps
    step = float(np.median(np.diff(sequence.frames[window]))) if len(frames) > 1 else 1.0
    reach = max(2, min(round(max_offset * sequence.fps / step), len(frames) // 3))
    say("synchronisation")
    pairs = by_pairs(views, reach)
    offsets = np.where(sure(pairs.offsets, pairs.errors) & (np.abs(pairs.offsets) > _MATTERS), pairs.offsets, 0.0)
    for turn in range(_ROUNDS):
        say("people")
        keypoints = moved(original, offsets)
        views = Views.of(cameras, keypoints)
        people = replace(find_people(_turned(cameras, views), keypoints, times), cameras=cameras)
        if len(cameras) < 3:
            curves, shift, errors = [], np.full(len(cameras), np.nan), np.full(len(cameras), np.inf)
            break
        shift, errors, curves = by_people(people, reach)
        far = np.where(sure(shift, errors) & (np.abs(shift) > _MATTERS), np.abs(shift), 0.0)
        if turn == _ROUNDS - 1 or not far.any():
            break
        # A camera that is far off pulls all others with it, so it goes first.
        change = far == far.max() if far.max() > 1 else far > 0
        offsets = offsets + np.where(change, shift, 0.0)
    done = 2 + _ROUNDS
    say("calibration")
    known = sure(shift, errors)
    by_pair = sure(pairs.offsets, pairs.errors)
    found = np.where(known, offsets + shift, np.where(by_pair, pairs.offsets, np.nan))
    errors = np.where(known, errors, np.where(by_pair, pairs.errors, np.inf))
    if np.isfinite(found).any():
        found = found - median_low(found[np.isfinite(found)])
    calibration = calibrate(views, people)
    say("coverage")
    seen = look(original, people)
    say("")
    # Offsets in frames of the sequence, which a choice such as 0:100:5 makes longer than those of the common clock.
    return Analysis(frames, keypoints, scale, pairs, found * step, errors * step, curves, calibration, people, seen)


def moved(
    keypoints: Float[np.ndarray, "cameras frames rows 17 3"], offsets: Float[np.ndarray, " cameras"]
) -> Float[np.ndarray, "cameras frames rows 17 3"]:
    """Detections at f + offset put at f, interpolated in time."""
    times = np.arange(keypoints.shape[1])
    rows = [k if o == 0 else interpolate_detections(k, times + o) for k, o in zip(keypoints, offsets, strict=True)]
    return np.stack(rows)


def _turned(cameras: Cameras, views: Views) -> Cameras:
    """The cameras with odd ones turned to where they fit, so that people are found in them too."""
    R, t = cameras.R.clone(), cameras.t.clone()
    centres = cameras.centres
    for odd in find_odd(views):
        if odd.turn is not None:
            R[odd.camera] = torch.from_numpy(cv2.Rodrigues(odd.turn.rotation)[0]).T @ R[odd.camera]
            t[odd.camera] = -R[odd.camera] @ centres[odd.camera]
    return replace(cameras, R=R, t=t)
