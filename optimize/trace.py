"""How the refinement came along: the keypoints after every segment, with iterations and seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from avatarpose.errors import InputError
from avatarpose.io import read_npz, write_npz

FILE = "trace.npz"
_KEYS = ("run", "frames", "iterations", "seconds", "keypoints")


@dataclass
class Trace:
    """`results/trace.npz`: S moments of one refinement, the first before any iteration.

    Attributes:
        run: fingerprint of the refinement.
        frames: (F,) frame numbers.
        iterations: (S,) iterations of the schedule that were over, those that a stage skipped among them.
        seconds: (S,) seconds of work until then, over all its processes.
        keypoints: (S, P, F, 17, 3) COCO-17 joints of the bodies, metres, world; NaN where a person is absent.
    """

    run: str
    frames: Int[np.ndarray, " frames"]
    iterations: Int[np.ndarray, " moments"]
    seconds: Float[np.ndarray, " moments"]
    keypoints: Float[np.ndarray, "moments people frames 17 3"]

    @classmethod
    def load(cls, path: Path | str) -> Trace:
        """Reads the .npz. Raises InputError where it is absent, damaged or misshapen."""
        data = read_npz(path, _KEYS)
        moments = len(np.atleast_1d(data["iterations"]))
        shape = data["keypoints"].shape
        expected = (moments, *shape[1:2], len(np.atleast_1d(data["frames"])), 17, 3)
        if shape != expected or data["seconds"].shape != (moments,):
            raise InputError("not the trace of a refinement", file=path, expected=f"keypoints {expected}", found=shape)
        return cls(str(data["run"]), data["frames"], data["iterations"], data["seconds"], data["keypoints"])

    def save(self, path: Path | str) -> None:
        """Writes the .npz atomically."""
        write_npz(
            path, run=np.array(self.run), frames=self.frames, iterations=self.iterations, seconds=self.seconds,
            keypoints=np.asarray(self.keypoints, np.float32),
        )  # fmt: skip


class TraceWriter:
    """Adds moments to the trace of a run; what a killed process noted beyond its checkpoint is dropped."""

    def __init__(self, path: Path, run: str, frames: Int[np.ndarray, " frames"], done: int) -> None:
        self.path, self.run, self.frames = path, run, np.asarray(frames)
        self._trace: Trace | None = None
        if done > 0 and path.is_file():
            try:
                held = Trace.load(path)
            except InputError:
                held = None  # only a record: a damaged one is begun anew
            if held is not None and held.run == run:
                kept = held.iterations <= done
                self._trace = Trace(run, held.frames, held.iterations[kept], held.seconds[kept], held.keypoints[kept])
        before = float(self._trace.seconds[-1]) if self._trace is not None and len(self._trace.seconds) else 0.0
        self._start = time.monotonic() - before

    def add(self, iterations: int, keypoints: Float[np.ndarray, "people frames 17 3"]) -> None:
        """Notes the bodies after so many iterations, unless that moment is there."""
        seconds, held = time.monotonic() - self._start, self._trace
        if held is not None and len(held.iterations) and held.iterations[-1] >= iterations:
            return
        if held is None:
            self._trace = Trace(self.run, self.frames, np.array([iterations]), np.array([seconds]), keypoints[None])
        else:
            self._trace = Trace(
                self.run,
                self.frames,
                np.append(held.iterations, iterations),
                np.append(held.seconds, seconds),
                np.concatenate([held.keypoints, keypoints[None]]),
            )
        self._trace.save(self.path)
