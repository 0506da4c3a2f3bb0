"""Initial 3D joints and identities from 2D evidence; every method gives the same file, `results/joints3d.npz`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from avatarpose.errors import InputError
from avatarpose.estimate.affinity import Rays
from avatarpose.estimate.config import TriangulationConfig
from avatarpose.estimate.joints import triangulate_people
from avatarpose.estimate.matching import Association, associate
from avatarpose.estimate.tracking import track
from avatarpose.estimate.volumetric.config import VolumetricConfig
from avatarpose.estimate.volumetric.estimator import estimate_volumetric
from avatarpose.results import Joints3D

if TYPE_CHECKING:
    from avatarpose.sequence import Sequence

__all__ = [
    "METHODS",
    "Association",
    "Estimator",
    "Method",
    "TriangulationConfig",
    "VolumetricConfig",
    "associate",
    "estimate",
    "estimate_volumetric",
    "triangulate",
]

Progress = Callable[[int, int], None]
"""Called with the work done and its total."""


class Estimator(Protocol):
    """What every method is: a function of the capture and its own settings."""

    def __call__(self, sequence: Sequence, config: Any, progress: Progress | None = None) -> Joints3D: ...


@dataclass(frozen=True)
class Method:
    """An entry of `METHODS`."""

    config: type
    """Dataclass of the method's settings, all with defaults."""
    run: Estimator


def triangulate(sequence: Sequence, config: TriangulationConfig, progress: Progress | None = None) -> Joints3D:
    """People by association across views and time, joints by robust triangulation; see `estimate`."""
    keypoints = sequence.keypoints2d
    rays = Rays.from_keypoints(sequence.cameras, keypoints, config.min_score)
    place = sequence.folder / "keypoints2d"
    if len(rays.origins) < 2:
        raise InputError("one camera cannot place joints", file=place, expected="2 cameras or more", found=1)
    numbers = np.asarray(sequence.frames)
    times = numbers / float(sequence.fps)
    tracks = track(rays, times, config, progress)
    rows = np.full((len(rays.origins), len(times), len(tracks)), -1)
    for person, found in enumerate(tracks):
        for frame, row in found.rows.items():
            rows[:, frame, person] = row
    joints, scores = triangulate_people(rays, rows, times, config)
    valid = np.isfinite(joints[..., 0]).sum(axis=-1) >= config.min_joints
    kept = np.flatnonzero(valid.sum(axis=1) >= config.least_frames(times))
    if len(kept) == 0:
        raise InputError(
            "no person found", file=place,
            expected=f"a person whose joints two of the {len(rays.origins)} cameras agree on",
            found=f"{int((rays.scores > 0).any(axis=-1).sum())} detections, none of which agree",
            hint="Check the calibration and that the cameras are synchronised",
        )  # fmt: skip
    first = valid[kept].argmax(axis=1)
    x = np.array([np.nanmean(joints[p, f, :, 0]) for p, f in zip(kept, first, strict=True)])
    order = kept[np.lexsort((x, first))]
    valid = valid[order]
    return Joints3D(
        people=[f"p{i}" for i in range(len(order))],
        frames=numbers,
        keypoints=np.where(valid[..., None, None], joints[order], np.nan).astype(np.float32),
        scores=np.where(valid[..., None], scores[order], 0.0).astype(np.float32),
        valid=valid,
    )


METHODS: dict[str, Method] = {
    "volumetric": Method(VolumetricConfig, estimate_volumetric),
    "triangulation": Method(TriangulationConfig, triangulate),
}
"""Methods by the name `estimate --method` takes."""


def estimate(sequence: Sequence, config: Any = None, progress: Progress | None = None) -> Joints3D:
    """Finds the people of a capture: their 3D joints and identities, in every frame.

    Args:
        sequence: the capture.
        config: settings of one of `METHODS`; their type says which. None: the volumetric estimator with its
            defaults.
        progress: called with the work done and its total.

    Returns:
        Joints in metres, world frame, NaN where unknown; people named p0, p1, ... in order of first frame, then x.

    Raises:
        InputError: no person found, or one camera only.
        TypeError: `config` belongs to no method.
    """
    config = VolumetricConfig() if config is None else config
    for method in METHODS.values():
        if type(config) is method.config:
            return method.run(sequence, config, progress)
    raise TypeError(f"no method takes {type(config).__name__}; known: {', '.join(METHODS)}")
