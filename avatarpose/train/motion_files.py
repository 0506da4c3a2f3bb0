"""Readers of motion clips: .npz files of 15 joint positions, AMASS files of SMPL-like angles, skeletons with angles.

Positions: one array a clip, (F, 15, 3), or (F, 2, 15, 3) for two people together; 30 frames a second, metres, y up; the
names of the joints in `joint_names` (those of panoptic15, where "nose" stands for the end of the head bone).
Angles (Mahmood et al., "AMASS: Archive of Motion Capture as Surface Shapes", 2019): poses (F, 72), (F, 156) or
(F, 165), trans (F, 3), mocap_framerate or mocap_frame_rate; metres, z up. Clips leave here with z up.
Skeletons: .bvh, and .amc with its .asf; see `motion_skeletons`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatarpose.errors import InputError
from avatarpose.io import read_npz
from avatarpose.skeletons import PANOPTIC15
from avatarpose.train.motion_skeletons import asf_of, read_amc, read_bvh

JOINTS_FPS = 30.0
_RATES = ("mocap_framerate", "mocap_frame_rate")
_SKELETONS = {".bvh": read_bvh, ".amc": read_amc}
_SUFFIXES = (".npz", *_SKELETONS)
_NOT_MOTION = ("shape.npz", "stagei.npz")
"""Ends of the names of AMASS's files that hold a person's shape."""
_LEG = (0.4, 1.6)
"""Metres: plausible median length of thigh plus shin."""

# SMPL's angles below the hands: the root and 21 joints. SMPL-H and SMPL-X go on with fingers where SMPL has hands.
_BODY_ANGLES = 66
# SMPL's pelvis in its rest space, metres; AMASS adds `trans` to it. Its subjects differ by a centimetre or two.
SMPL_PELVIS = np.array([-0.002, -0.23, 0.028], dtype=np.float32)


@dataclass(frozen=True)
class JointClip:
    """Joint positions of one or two people: (F, P, 15, 3) float32 metres, z up, in the order of panoptic15."""

    name: str
    fps: float
    joints: Float[np.ndarray, "frames people 15 3"]


@dataclass(frozen=True)
class AngleClip:
    """Angles of one person: poses (F, 72) float32 axis-angle with zero hands, and the pelvis (F, 3) metres, z up."""

    name: str
    fps: float
    poses: Float[np.ndarray, "frames 72"]
    pelvis: Float[np.ndarray, "frames 3"]


Clip = JointClip | AngleClip


def motion_files(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Every motion file in `paths`, with the name that its clip has if it holds but one.

    Raises:
        InputError: a path is absent, or a folder holds no motion.
    """
    found: list[tuple[Path, str]] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.suffix in _SUFFIXES and not p.name.endswith(_NOT_MOTION)]
            if not inside:
                raise InputError("no motion clips", file=path, expected=".npz, .bvh or .amc files")
            found += [(p, p.relative_to(path).with_suffix("").as_posix()) for p in inside]
        elif path.is_file():
            found.append((path, path.stem))
        else:
            raise InputError("no such file or folder", file=path)
    return found


def sources_of(path: Path) -> list[Path]:
    """The files that a motion file's clips depend on. Raises InputError where an .amc has no skeleton."""
    return [path, asf_of(path)] if path.suffix == ".amc" else [path]


def read_clips(path: Path, name: str) -> Iterator[Clip]:
    """The clips of one file, one after the other.

    Raises:
        InputError: the file is neither kind, or a clip's shape, unit, rate or names are not what they should be.
    """
    if path.suffix in _SKELETONS:
        fps, joints = _SKELETONS[path.suffix](path)
        yield JointClip(name, fps, joints)
        return
    arrays = read_npz(path)
    if "joint_names" in arrays:
        yield from _joint_clips(path, arrays)
    elif {"poses", "trans"} <= arrays.keys():
        yield _angle_clip(path, name, arrays)
    else:
        raise InputError(
            "not a file of motion clips",
            file=path,
            expected="joint_names and an array per clip, or AMASS's poses and trans",
            found=", ".join(list(arrays)[:8]) or "nothing",
        )


def _joint_clips(path: Path, arrays: dict[str, np.ndarray]) -> Iterator[JointClip]:
    names = arrays.pop("joint_names")
    joints = [_long_name(str(n)) for n in names.reshape(-1)]
    if sorted(joints) != sorted(PANOPTIC15.joints):
        raise InputError("unknown joints", file=path, expected=", ".join(PANOPTIC15.joints), found=", ".join(joints))
    order = [joints.index(joint) for joint in PANOPTIC15.joints]
    if not arrays:
        raise InputError("no clips", file=path, expected="an array per clip", found="joint_names only")
    hip, knee, ankle = PANOPTIC15.indices(["left_hip", "left_knee", "left_ankle"])
    for name, array in arrays.items():
        people = array[:, None] if array.ndim == 3 else array
        if people.ndim != 4 or people.shape[1] > 2 or people.shape[2:] != (15, 3) or not len(people):
            raise InputError(
                f"clip {name} has a wrong shape", file=path, expected="(F, 15, 3) or (F, 2, 15, 3)", found=array.shape
            )
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(f"clip {name} has values that are no positions", file=path, expected="finite floats")
        people = people[:, :, order].astype(np.float32)
        leg = np.linalg.norm(people[..., [hip, knee], :] - people[..., [knee, ankle], :], axis=-1).sum(-1)
        if not _LEG[0] < np.median(leg) < _LEG[1]:
            raise InputError(
                f"clip {name} is not in metres", file=path, expected="legs of 0.4 to 1.6", found=f"{np.median(leg):.3g}"
            )
        z_up = np.stack((people[..., 0], -people[..., 2], people[..., 1]), axis=-1)
        yield JointClip(name, JOINTS_FPS, z_up)


def _long_name(joint: str) -> str:
    for short, long in (("l-", "left_"), ("r-", "right_")):
        if joint.startswith(short):
            return long + joint.removeprefix(short)
    return joint.replace("-", "_")


def _angle_clip(path: Path, name: str, arrays: dict[str, np.ndarray]) -> AngleClip:
    poses, trans = arrays["poses"], arrays["trans"]
    if poses.ndim != 2 or poses.shape[1] not in (72, 156, 165) or not len(poses):
        raise InputError(
            "poses of a wrong shape", file=path, expected="(F, 72), (F, 156) or (F, 165)", found=poses.shape
        )
    if trans.shape != (len(poses), 3):
        raise InputError("trans of a wrong shape", file=path, expected=(len(poses), 3), found=trans.shape)
    for key in ("poses", "trans"):
        if arrays[key].dtype.kind != "f" or not np.isfinite(arrays[key]).all():
            raise InputError(f"{key} has values that are no numbers", file=path, expected="finite floats")
    rates = [key for key in _RATES if key in arrays]
    fps = float(arrays[rates[0]].reshape(-1)[0]) if rates and arrays[rates[0]].dtype.kind in "fiu" else 0.0
    if not 0 < fps < 10_000:
        raise InputError("no frame rate", file=path, expected=" or ".join(_RATES), found=fps if rates else "neither")
    body = np.zeros((len(poses), 72), dtype=np.float32)
    body[:, :_BODY_ANGLES] = poses[:, :_BODY_ANGLES]
    return AngleClip(name, fps, body, trans.astype(np.float32) + SMPL_PELVIS)
