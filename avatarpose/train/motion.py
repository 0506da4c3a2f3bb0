"""Body poses from motion clips, for synthetic people to train on.

Clips of SMPL-like angles (AMASS) carry over as they are; clips of joint positions are fitted by `motion_fit`.
World z is up, metres, the floor near z = 0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

import numpy as np
import roma
import torch
from jaxtyping import Float, Int

from avatarpose.body import BodyModel
from avatarpose.errors import InputError
from avatarpose.io import read_npz, sha256, write_npz
from avatarpose.register import priors
from avatarpose.skeletons import SMPL24
from avatarpose.train import motion_fit
from avatarpose.train.motion_files import AngleClip, JointClip, motion_files, read_clips, sources_of
from avatarpose.train.motion_fit import FitSettings, fit_tracks

Array = TypeVar("Array", np.ndarray, torch.Tensor)
Report = Callable[[float], None]

LEAST_MOVE = 0.05
"""Metres that some joint must have moved from one pose kept to the next (CloseMoCap's rule)."""
_SOLES = {"ankle": 0.075, "foot": 0.03}
_FLESH = 0.05
"""Metres of body below a joint: under the ankles and the balls of the feet, and under any other joint."""
_CHUNK = 4096


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
    poses: Float[Array, "*batch 72"], trans: Float[Array, "*batch 3"]
) -> tuple[Float[Array, "*batch 72"], Float[Array, "*batch 3"]]:
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
    poses: Float[Array, "*batch 72"], trans: Float[Array, "*batch 3"], yaw: float | Float[Array, "*batch"]
) -> tuple[Float[Array, "*batch 72"], Float[Array, "*batch 3"]]:
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
    settings: FitSettings | None = None,
) -> MotionPool:
    """The poses of all clips in the given files and folders.

    Args:
        paths: .npz files, or folders searched for them (`motion_files` says of which kinds).
        body: the body fitted to joint positions; angles carry over to any body in SMPL's format.
        fps: clips are thinned to this rate, then to poses that moved at least `LEAST_MOVE` since the last one kept.
        exclude: names of clips left out, with the wildcards of `fnmatch`.
        cache: folder for finished pools, keyed by the files' contents, the settings and the code; None for no cache.
        progress: called with the share done, 0 to 1.

    Raises:
        InputError: a file is neither kind of clip, two clips have one name, or an entry of `exclude` matches no clip.
    """
    files, settings = motion_files(paths), settings or FitSettings()
    kept = None if cache is None else Path(cache) / f"motion_{_key(files, body, fps, settings)}.npz"
    pool = None if kept is None else _read_pool(kept)
    if pool is None:
        pool = _build_pool(files, body, fps, settings, progress)
        if kept is not None:
            write_npz(kept, **{**vars(pool), "clip_names": np.array(pool.clip_names)})
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in pool.clip_names):
            raise InputError(
                f"no motion clip is called {pattern}",
                expected=", ".join(pool.clip_names[:8]) + (", ..." if len(pool.clip_names) > 8 else ""),
                hint="clips to exclude go by the names of the arrays, or of the files in a folder",
            )
    return pool.select(lambda name: not any(fnmatchcase(name, pattern) for pattern in patterns))


def _key(files: list[tuple[Path, str]], body: BodyModel, fps: float, settings: FitSettings) -> str:
    sources = [(name, *map(sha256, sources_of(path))) for path, name in files]
    code = [sha256(module) for module in (__file__, motion_fit.__file__, priors.__file__)]
    made_by = [code, fps, body.sha256, asdict(settings)]
    return hashlib.sha256(json.dumps([sources, made_by], sort_keys=True).encode()).hexdigest()[:24]


def _read_pool(path: Path) -> MotionPool | None:
    """The pool of an earlier run; None where there is none, or not a whole one."""
    if not path.is_file():
        return None
    try:
        arrays = read_npz(path, ["poses", "trans", "clip", "clip_names", "pairs"])
    except InputError:
        return None
    return MotionPool(**{**arrays, "clip_names": tuple(map(str, arrays["clip_names"]))})


def _build_pool(
    files: list[tuple[Path, str]], body: BodyModel, fps: float, settings: FitSettings, progress: Report | None
) -> MotionPool:
    body = body.to(dtype=torch.float32, device="cpu")
    clips: dict[str, JointClip | AngleClip] = {}
    for path, file_name in files:
        for clip in read_clips(path, file_name):
            if clip.name in clips:
                raise InputError(f"a second clip called {clip.name}", file=path, expected="a name of its own per clip")
            clips[clip.name] = _thin(clip, body, fps)

    tracks = [c.joints[:, p] for c in clips.values() if isinstance(c, JointClip) for p in range(c.joints.shape[1])]
    fitted = iter(fit_tracks(body, tracks, settings, progress))
    pelvis_at_rest = body.rest_joints(torch.zeros(10))[0].numpy()
    poses, trans, clip_index, pairs, rows = [], [], [], [], 0
    for index, clip in enumerate(clips.values()):
        if isinstance(clip, AngleClip):
            people = [(clip.poses, clip.pelvis)]
        else:
            found = [next(fitted) for _ in range(clip.joints.shape[1])]
            people = [(f.poses, f.pelvis) for f in found]
        frames = len(people[0][0])
        clip_poses = np.concatenate([p for p, _ in people])
        clip_trans = np.concatenate([place for _, place in people]) - pelvis_at_rest
        clip_trans[:, 2] -= _floor(body, clip_poses, clip_trans)
        poses.append(clip_poses)
        trans.append(clip_trans)
        clip_index.append(np.full(len(clip_poses), index))
        if len(people) == 2:
            pairs.append(rows + np.stack((np.arange(frames), frames + np.arange(frames)), axis=1))
        rows += len(clip_poses)
    return MotionPool(
        poses=np.concatenate(poses).astype(np.float32),
        trans=np.concatenate(trans).astype(np.float32),
        clip=np.concatenate(clip_index),
        clip_names=tuple(clips),
        pairs=np.concatenate(pairs) if pairs else np.zeros((0, 2), dtype=np.int64),
    )


def _joints(body: BodyModel, poses: np.ndarray, trans: np.ndarray) -> Float[np.ndarray, "frames 24 3"]:
    chunks = [slice(start, start + _CHUNK) for start in range(0, len(poses), _CHUNK)]
    with torch.no_grad():
        found = [body.joints(torch.zeros(10), torch.as_tensor(poses[c]), torch.as_tensor(trans[c])) for c in chunks]
    return torch.cat(found).numpy()


def _thin(clip: JointClip | AngleClip, body: BodyModel, fps: float) -> JointClip | AngleClip:
    """The clip at `fps`, without poses of which nothing has moved since the last one kept."""
    frames = len(clip.joints if isinstance(clip, JointClip) else clip.poses)
    step = max(clip.fps / fps, 1.0)
    fps, chosen = clip.fps / step, np.arange(0, frames, step).astype(np.int64)
    if isinstance(clip, JointClip):
        return JointClip(clip.name, fps, clip.joints[chosen[_moved(clip.joints[chosen].reshape(len(chosen), -1, 3))]])
    poses, pelvis = clip.poses[chosen], clip.pelvis[chosen]
    kept = _moved(_joints(body, poses, pelvis))
    return AngleClip(clip.name, fps, poses[kept], pelvis[kept])


def _moved(points: Float[np.ndarray, "frames points 3"]) -> Int[np.ndarray, " kept"]:
    kept = [0]
    for frame in range(1, len(points)):
        if np.linalg.norm(points[frame] - points[kept[-1]], axis=-1).max() >= LEAST_MOVE:
            kept.append(frame)
    return np.array(kept)


def _floor(body: BodyModel, poses: Float[np.ndarray, "n 72"], trans: Float[np.ndarray, "n 3"]) -> float:
    """Height of what the body of zero betas stands on: near its lowest point in the whole clip, without stray ones."""
    below = np.full(24, _FLESH)
    for joint, depth in _SOLES.items():
        below[[i for i, name in enumerate(SMPL24.joints) if name.endswith(joint)]] = depth
    lowest = (_joints(body, poses, trans)[..., 2] - below).min(axis=1)
    return float(np.percentile(lowest, 2))
