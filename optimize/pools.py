"""Pools of pixels of a segment (`optimize.pixels`), drawn in a thread while the segment before it runs."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import numpy as np
import torch
from jaxtyping import Float

from optimize.avatars import image_boxes
from optimize.config import Stage
from optimize.pixels import Pool
from optimize.stages import Problem

POOL_LIMIT = 12_000_000
"""Pixels in the pools of a segment at most, over all images; those of the next are in memory beside them."""


def draw_pools(
    problem: Problem,
    stage: Stage,
    joints: Float[np.ndarray, "people frames 24 3"],
    seed: int,
    stopped: Event | None = None,
) -> dict[int, Pool]:
    """Pool of each of the stage's frames (those in which somebody is there), of what lies around the given joints.

    Ends early, with what it has, when `stopped` is set.
    """
    config, present = problem.config, problem.poses.present.numpy()
    frames = np.flatnonzero(present.any(axis=0)).tolist()
    if config.ablation.smpl_only:
        return dict.fromkeys(frames, Pool.empty(1, problem.source.device, groups=1))
    if stage.frame_subset is not None and stage.frame_subset < len(frames):
        frames = _farthest_apart(frames, joints, present, stage.frame_subset)
    pixels = min(config.pool_pixels, POOL_LIMIT // (len(frames) * len(problem.cameras.names)))
    patch = config.patch if stage.kind == "avatar" else 1
    cameras, pools = problem.cameras.to(device="cpu"), {}
    problem.source.announce(frames)
    for f in frames:
        if stopped is not None and stopped.is_set():
            break
        boxes = image_boxes(joints[present[:, f], f], cameras)
        pools[f] = problem.source.pool(f, boxes, pixels, patch, stage.blur, seed)
    return pools


def _farthest_apart(frames: list[int], joints: np.ndarray, present: np.ndarray, count: int) -> list[int]:
    """The frames in which people's roots are farthest apart: there the avatars are seen best."""

    def nearest(f: int) -> float:
        roots = torch.from_numpy(joints[present[:, f], f, 0])
        return float(torch.pdist(roots).min()) if len(roots) > 1 else float("inf")

    return sorted(sorted(frames, key=nearest, reverse=True)[:count])


class PoolsAhead:
    """The next segment's pools, under way. What is drawn does not depend on whether it was drawn ahead."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pools")
        self._stopped = Event()
        self._next: tuple[int, Future[dict[int, Pool]]] | None = None

    def begin(self, stage: Stage, joints: Float[np.ndarray, "people frames 24 3"], seed: int) -> None:
        """Starts drawing; `seed` names the segment."""
        self._next = (seed, self._thread.submit(draw_pools, self._problem, stage, joints, seed, self._stopped))

    def take(self, stage: Stage, joints: Float[np.ndarray, "people frames 24 3"], seed: int) -> dict[int, Pool]:
        """The pools of a segment, as soon as they are there.

        Raises:
            InputError: an image or a mask cannot be read.
        """
        begun, self._next = self._next, None
        if begun is not None and begun[0] == seed:
            return begun[1].result()
        return draw_pools(self._problem, stage, joints, seed)

    def __enter__(self) -> PoolsAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.shutdown(wait=True, cancel_futures=True)
