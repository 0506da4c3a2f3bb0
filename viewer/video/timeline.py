"""Time: which moment of the capture each frame of the film shows, and the people between the captured frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from avatarpose.errors import InputError
from avatarpose.results import Bodies
from viewer.video.splines import catmull_rom, spline_rotvecs

Repeat = Literal["hold", "loop", "swing"]
SMALLEST_GAP = 1e-6
"""Seconds; nearer to a captured frame than this is that frame."""


@dataclass(frozen=True)
class Motion:
    """How one person moves.

    Attributes:
        times: (F,) seconds, ascending.
        poses: (F, 72) axis-angle of the 24 joints, radians.
        trans: (F, 3) metres, world.
        valid: (F,) whether the person is there.
    """

    times: Float[Tensor, " frames"]
    poses: Float[Tensor, "frames 72"]
    trans: Float[Tensor, "frames 3"]
    valid: Bool[Tensor, " frames"]

    def at(
        self, times: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, "n 72"], Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
        """Poses, translations and whether the person is there, at any times (seconds).

        Every joint's rotation and the translation move along smooth curves through the captured ones. A person is there
        between two frames only if it is there in both of them. Where it is not, the values are 0.
        """
        poses, trans = self.poses.new_zeros(len(times), 72), self.trans.new_zeros(len(times), 3)
        present = torch.zeros(len(times), dtype=torch.bool)
        frames = torch.nonzero(self.valid)[:, 0]
        if not len(frames):
            return poses, trans, present
        breaks = torch.nonzero(frames[1:] > frames[:-1] + 1)[:, 0] + 1
        for run in torch.tensor_split(frames, breaks):
            first, last = self.times[run[0]], self.times[run[-1]]
            inside = torch.nonzero((times >= first - SMALLEST_GAP) & (times <= last + SMALLEST_GAP))[:, 0]
            if len(inside):
                knots, asked = self.times[run], times[inside]
                rotvecs = spline_rotvecs(knots, self.poses[run].reshape(-1, 24, 3).double(), asked)
                poses[inside] = rotvecs.flatten(1).to(poses.dtype)
                trans[inside] = catmull_rom(knots, self.trans[run].double(), asked).to(trans.dtype)
                present[inside] = True
        return poses, trans, present


def motions_of(bodies: Bodies) -> list[Motion]:
    """The motion of every person; time 0 is the first frame of the bodies."""
    times = torch.as_tensor((bodies.frames - bodies.frames[0]) / bodies.fps, dtype=torch.float64)
    return [
        Motion(times, *(torch.nan_to_num(torch.as_tensor(x)) for x in (bodies.poses[p], bodies.trans[p])),
               torch.as_tensor(bodies.valid[p]))
        for p in range(len(bodies.people))
    ]  # fmt: skip


def film_length(motion: float, speed: float, fps: float, seconds: float | None, repeat: Repeat = "hold") -> int:
    """Frames of the film: `seconds` where given, else the motion once at its speed (there and back for `swing`).

    Args:
        motion: seconds of the capture.
        speed: seconds of the capture shown in one second of the film.
        fps: frames of the film per second.

    Raises:
        InputError: a speed, a rate or a length that is not above 0.
    """
    for name, value in (("speed", speed), ("fps", fps), ("seconds", seconds)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(f"impossible {name} of the film", expected="above 0", found=value)
    if seconds is not None:
        return max(1, round(seconds * fps))
    passes = 2 if repeat == "swing" else 1
    return max(1, int(np.floor(passes * motion / speed * fps + 1e-6)) + (repeat != "swing"))


def moments(n: int, fps: float, speed: float, motion: float, repeat: Repeat = "hold") -> Float[np.ndarray, " n"]:
    """Seconds of the capture that the n frames of the film show.

    Args:
        motion: seconds of the capture, from the first frame to the last.
        repeat: after the end, `hold` the last pose, start again (`loop`), or go there and back (`swing`).
    """
    passed = np.arange(n) / fps * speed
    if motion <= 0:
        return np.zeros(n)
    if repeat == "hold":
        return np.minimum(passed, motion)
    if repeat == "loop":
        # A float's breadth beyond the end is the end, not the beginning.
        return np.where(passed <= motion + SMALLEST_GAP, np.minimum(passed, motion), passed % motion)
    there = passed % (2 * motion)
    return np.where(there <= motion, there, 2 * motion - there)


def smoothed(values: Float[np.ndarray, "n ..."], fps: float, seconds: float) -> Float[np.ndarray, "n ..."]:
    """Gaussian mean over time of standard deviation `seconds`; first and last values go on beyond the ends."""
    if seconds <= 0 or len(values) == 1:
        return values
    return gaussian_filter1d(np.asarray(values, float), seconds * fps, axis=0, mode="nearest")
