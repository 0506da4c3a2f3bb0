"""Body poses from motion clips, for synthetic people to train on.

Clips of SMPL-like angles (AMASS) carry over as they are; clips of joint positions are fitted by `motion_fit`.
World z is up, metres, the floor near z = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import roma
import torch
from jaxtyping import Float, Int

from avatarpose.body import BodyModel
from avatarpose.skeletons import SMPL24

Array = TypeVar("Array", np.ndarray, torch.Tensor)
Report = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class MotionPool:
    """Poses of single people, in the order of their clips.

    Attributes:
        poses: (n, 72) float32, axis-angle in radians, root first.
        trans: (n, 3) float32, metres: the translation of the body of zero betas.
        clip: (n,) index into `clip_names`.
        clip_names: names of the clips.
        pairs: (m, 2) rows that are two people of one frame, in their true relative places.
    """

    poses: Float[np.ndarray, "n 72"]
    trans: Float[np.ndarray, "n 3"]
    clip: Int[np.ndarray, " n"]
    clip_names: tuple[str, ...]
    pairs: Int[np.ndarray, "m 2"]

    def __len__(self) -> int:
        return len(self.poses)

    def select(self, clips: Iterable[str] | Callable[[str], bool]) -> MotionPool:
        """The clips of these names, or those whose name the predicate accepts, in this pool's order.

        Raises:
            KeyError: a name is not in the pool.
        """
        if callable(clips):
            kept = [i for i, name in enumerate(self.clip_names) if clips(name)]
        else:
            names = {clips} if isinstance(clips, str) else set(clips)
            if unknown := sorted(names - set(self.clip_names)):
                raise KeyError(f"no clip {', '.join(unknown)} among {len(self.clip_names)} clips")
            kept = [i for i, name in enumerate(self.clip_names) if name in names]
        new_clip = np.full(len(self.clip_names), -1)
        new_clip[kept] = np.arange(len(kept))
        rows = new_clip[self.clip] >= 0
        new_row = np.cumsum(rows) - 1
        pairs = self.pairs[rows[self.pairs].all(axis=1)]
        return MotionPool(
            poses=self.poses[rows],
            trans=self.trans[rows],
            clip=new_clip[self.clip[rows]],
            clip_names=tuple(self.clip_names[i] for i in kept),
            pairs=new_row[pairs].reshape(-1, 2),
        )


def mirror_pose(
    poses: Float[Array, "... 72"], trans: Float[Array, "... 3"]
) -> tuple[Float[Array, "... 72"], Float[Array, "... 3"]]:
    """The person reflected in the plane x = 0 of the world, left and right exchanged.

    With M = diag(-1, 1, 1) every rotation R becomes M R M, whose rotation vector is (x, -y, -z), and goes to the joint
    of the other side. Exact for a symmetric body.
    """
    rotvecs = poses.reshape(*poses.shape[:-1], 24, 3)[..., list(SMPL24.flip), :]
    if isinstance(poses, torch.Tensor):
        sign = poses.new_tensor([1.0, -1.0, -1.0])
    else:
        sign = np.array([1.0, -1.0, -1.0], dtype=poses.dtype)
    return (rotvecs * sign).reshape(poses.shape), trans * -sign


def turn_pose(
    poses: Float[Array, "... 72"], trans: Float[Array, "... 3"], yaw: float | Float[Array, "..."]
) -> tuple[Float[Array, "... 72"], Float[Array, "... 3"]]:
    """The person turned by `yaw` radians about the vertical (world z) through the pelvis, which stays where it is.

    The root turns about its rest joint, so `trans` does not change; `yaw` broadcasts against the leading dimensions.
    """
    if isinstance(poses, np.ndarray):
        turned, kept = turn_pose(torch.as_tensor(poses), torch.as_tensor(trans), torch.as_tensor(yaw))
        return turned.numpy(), kept.numpy()
    yaw = torch.as_tensor(yaw, dtype=poses.dtype, device=poses.device).expand(poses.shape[:-1])
    turn = torch.stack((torch.zeros_like(yaw), torch.zeros_like(yaw), yaw), dim=-1)
    root = roma.rotvec_composition((turn, poses[..., :3]))
    return torch.cat((root, poses[..., 3:]), dim=-1), trans


def load_motion(
    paths: Sequence[Path],
    body: BodyModel,
    fps: float = 10.0,
    exclude: Iterable[str] = (),
    cache: Path | None = None,
    progress: Report | None = None,
) -> MotionPool:
    """The poses of all clips in the given files and folders.

    Args:
        paths: .npz files, or folders searched for them.
        body: the body fitted to joint positions; angles carry over to any body in SMPL's format.
        fps: clips are thinned to this rate, then to poses that moved at least `LEAST_MOVE` since the last one kept.
        exclude: names of clips left out, with the wildcards of `fnmatch`.
        cache: folder for fitted pools, keyed by the files' contents and the settings; None for no cache.
        progress: called with the share done, 0 to 1.

    Raises:
        InputError: a file is neither kind of clip, or a name in `exclude` matches no clip.
    """
    raise NotImplementedError
