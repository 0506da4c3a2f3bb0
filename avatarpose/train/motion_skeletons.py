"""Motion as a skeleton and its angles: BVH files, and Acclaim's .asf with .amc, as 15 joint positions.

BVH ("Biovision hierarchy"; Meredith and Maddock, "Motion Capture File Formats Explained", 2001): the place of a joint
is its parent's plus its OFFSET turned by the parent's rotation; a rotation is the product of those about its CHANNELS'
axes, in their order, degrees. The joints' names are those of cgspeed's conversion of the CMU library (LeftUpLeg,
LeftArm, ...) or SMPL's (left_hip, left_shoulder, ..., as `avatarpose export --format bvh` writes them).

Acclaim (CMU's own format): a bone of the .asf has a direction and a length in the world's axes at rest, and axes C for
its degrees of freedom; with M the rotation by the .amc's angles (x, then y, then z), it turns what follows it by
C M C^-1. A bone's end is its parent's end plus length times its turned direction. An .amc belongs to the .asf beside it
of its subject's name, `49.asf` for `49_02.amc`, or else to the only one.

The unit. CMU's .asf gives lengths in inches times `length` (0.45), and cgspeed's BVH keeps them: 56.444 mm a unit. A
BVH file does not name its unit: of metres, centimetres, millimetres and CMU's the one in which a leg measures 0.4 to
1.6 m is taken; no leg fits two of them.

Both have y up; clips leave here with z up, as (F, 1, 15, 3). CMU's .amc files run at 120 frames a second and do not say
so; `neck` is the end of the lower neck bone, `nose` the end of the head bone, `mid_hip` the middle of the hips.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from avatarpose.errors import InputError
from avatarpose.skeletons import PANOPTIC15

AMC_FPS = 120.0
CMU_UNIT = 0.0254 / 0.45
"""Metres per unit of CMU's files, and of cgspeed's conversion of them."""
_BVH_UNITS = (1.0, 0.01, 0.001, CMU_UNIT)
_LEG = (0.4, 1.6)

_SIDES = {"left": "Left", "right": "Right"}
_BVH_NAMES = {"hip": "UpLeg", "knee": "Leg", "ankle": "Foot", "shoulder": "Arm", "elbow": "ForeArm", "wrist": "Hand"}
_AMC_STARTS = {"hip": "femur", "knee": "tibia", "ankle": "tibia", "shoulder": "humerus", "elbow": "radius",
               "wrist": "radius"}  # fmt: skip
"""The bone that begins, or for ankle and wrist ends, at the joint."""
_AMC_ENDS = ("ankle", "wrist")


@dataclass
class _Joint:
    name: str
    parent: int
    offset: np.ndarray
    channels: list[str] = field(default_factory=list)
    end: np.ndarray | None = None


# ---- BVH ----


def read_bvh(path: Path) -> tuple[float, Float[np.ndarray, "frames 1 15 3"]]:
    """Frame rate and joint positions, metres, z up, in the order of panoptic15.

    Raises:
        InputError: absent, not BVH, malformed (with the line), joints of unknown names, or of no plausible unit.
    """
    lines = _lines(path)
    joints, at = _hierarchy(lines, path)
    fps, values = _motion(lines, at, sum(len(joint.channels) for joint in joints), path)
    places, ends = _forward(joints, values)
    names = {joint.name.rpartition(":")[2]: j for j, joint in enumerate(joints)}
    found = {}
    for joint in PANOPTIC15.joints:
        if joint not in ("neck", "nose", "mid_hip"):
            found[joint] = places[:, _bvh_joint(joint, names, path)]
    found["neck"] = places[:, _any_of(("Neck1", "Neck", "neck"), names, path)]
    head = _any_of(("Head", "head"), names, path)
    found["nose"] = ends.get(head, places[:, head])
    return fps, _clip(found, _unit(found, path), path)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("not text", file=path, found=error) from None


def _wrong(path: Path, line: int, expected: str, found: object) -> InputError:
    return InputError(f"malformed at line {line + 1}", file=path, expected=expected, found=repr(found))


def _numbers(words: list[str], count: int | None, path: Path, line: int) -> np.ndarray:
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        raise _wrong(path, line, "numbers", " ".join(words[:6])) from None
    if count is not None and len(values) != count:
        raise _wrong(path, line, f"{count} numbers", f"{len(values)} numbers")
    if not np.isfinite(values).all():
        raise _wrong(path, line, "finite numbers", " ".join(words[:6]))
    return values


def _hierarchy(lines: list[str], path: Path) -> tuple[list[_Joint], int]:
    """The joints, parents first, and the line of MOTION."""
    joints: list[_Joint] = []
    open_joints: list[int | None] = []  # None: an end site
    if not lines or lines[0].strip() != "HIERARCHY":
        raise InputError("not a BVH file", file=path, expected="HIERARCHY", found=lines[0][:40] if lines else "nothing")
    for n, line in enumerate(lines[1:], start=1):
        words = line.split()
        match words:
            case []:
                continue
            case ["ROOT" | "JOINT", *name] if name:
                if len(joints) and not open_joints:
                    raise InputError("a second skeleton", file=path, expected="one ROOT", found=" ".join(words))
                if open_joints and open_joints[-1] is None:
                    raise _wrong(path, n, "}", line)
                parent = open_joints[-1] if open_joints else -1
                joints.append(_Joint(" ".join(name), parent, np.zeros(3)))
                open_joints.append(len(joints) - 1)
            case ["End", "Site"] if open_joints:
                open_joints.append(None)
            case ["{"]:
                continue
            case ["}"] if open_joints:
                open_joints.pop()
            case ["OFFSET", *rest] if open_joints:
                offset = _numbers(rest, 3, path, n)
                if open_joints[-1] is None:
                    joints[open_joints[-2]].end = offset
                else:
                    joints[open_joints[-1]].offset = offset
            case ["CHANNELS", count, *names] if open_joints and open_joints[-1] is not None:
                known = {f"{axis}{kind}" for axis in "XYZ" for kind in ("position", "rotation")}
                if count != str(len(names)) or not set(names) <= known:
                    raise _wrong(path, n, "CHANNELS with their number and names", line)
                joints[open_joints[-1]].channels = names
            case ["MOTION"]:
                if open_joints or not joints:
                    raise _wrong(path, n, "} for every {" if joints else "ROOT", line)
                return joints, n
            case _:
                raise _wrong(path, n, "OFFSET, CHANNELS, JOINT, End Site or MOTION", line)
    raise InputError("no MOTION", file=path, expected="MOTION after the hierarchy")


def _motion(lines: list[str], at: int, count: int, path: Path) -> tuple[float, Float[np.ndarray, "frames channels"]]:
    rest = [(n, line.split()) for n, line in enumerate(lines[at + 1 :], start=at + 1) if line.strip()]
    if len(rest) < 2 or rest[0][1][0] != "Frames:" or rest[1][1][:2] != ["Frame", "Time:"]:
        raise _wrong(path, at + 1, "Frames: and Frame Time:", " ".join(rest[0][1]) if rest else "nothing")
    frames = _numbers(rest[0][1][1:], 1, path, rest[0][0])[0]
    period = _numbers(rest[1][1][2:], 1, path, rest[1][0])[0]
    if not 1e-4 < period < 10:
        raise _wrong(path, rest[1][0], "seconds a frame", period)
    rows = [_numbers(words, count, path, n) for n, words in rest[2:]]
    if len(rows) != frames or not rows:
        raise InputError("another number of frames than announced", file=path, expected=int(frames), found=len(rows))
    return 1 / period, np.stack(rows)


def _forward(
    joints: list[_Joint], values: Float[np.ndarray, "frames channels"]
) -> tuple[Float[np.ndarray, "frames joints 3"], dict[int, Float[np.ndarray, "frames 3"]]]:
    """Places of the joints, and of the end sites by joint."""
    frames, first = len(values), 0
    places, turns, ends = np.zeros((frames, len(joints), 3)), [], {}
    for j, joint in enumerate(joints):
        offset, local = np.tile(joint.offset, (frames, 1)), Rotation.identity(frames)
        for channel in joint.channels:
            column = values[:, first]
            first += 1
            axis = "XYZ".index(channel[0])
            if channel.endswith("position"):
                offset[:, axis] = column + (0 if joint.parent < 0 else joint.offset[axis])
            else:
                local = local * _about("xyz"[axis], column, degrees=True)
        if joint.parent < 0:
            places[:, j] = offset
            turns.append(local)
        else:
            places[:, j] = places[:, joint.parent] + turns[joint.parent].apply(offset)
            turns.append(turns[joint.parent] * local)
        if joint.end is not None:
            ends[j] = places[:, j] + turns[j].apply(joint.end)
    return places, ends


def _about(axis: str, angles: Float[np.ndarray, " frames"], degrees: bool) -> Rotation:
    turns = np.zeros((len(angles), 3))
    turns[:, "xyz".index(axis)] = np.deg2rad(angles) if degrees else angles
    return Rotation.from_rotvec(turns)


def _bvh_joint(joint: str, names: dict[str, int], path: Path) -> int:
    side, _, part = joint.partition("_")
    return _any_of((_SIDES[side] + _BVH_NAMES[part], joint), names, path)


def _any_of(wanted: tuple[str, ...], names: dict[str, int], path: Path) -> int:
    for name in wanted:
        if name in names:
            return names[name]
    raise InputError("unknown joints", file=path, expected=" or ".join(wanted), found=", ".join(names),
                     hint="Names as in cgspeed's conversion of the CMU library, or SMPL's")  # fmt: skip


def _unit(found: dict[str, np.ndarray], path: Path) -> float:
    """Metres per unit: the one in which a leg is as long as a leg."""
    leg = _leg(found)
    for unit in _BVH_UNITS:
        if _LEG[0] < leg * unit < _LEG[1]:
            return unit
    raise InputError("a skeleton of no plausible unit", file=path, expected="legs of 0.4 to 1.6 m in metres, "
                     "centimetres, millimetres or CMU's unit", found=f"{leg:.4g} units")  # fmt: skip


def _leg(found: dict[str, np.ndarray]) -> float:
    thigh = np.linalg.norm(found["left_hip"] - found["left_knee"], axis=-1)
    shin = np.linalg.norm(found["left_knee"] - found["left_ankle"], axis=-1)
    return float(np.median(thigh + shin))


def _clip(found: dict[str, np.ndarray], unit: float, path: Path) -> Float[np.ndarray, "frames 1 15 3"]:
    """In metres, z up, in order; checks that the legs are as long as legs."""
    found["mid_hip"] = (found["left_hip"] + found["right_hip"]) / 2
    points = unit * np.stack([found[joint] for joint in PANOPTIC15.joints], axis=1)
    leg = unit * _leg(found)
    if not _LEG[0] < leg < _LEG[1]:
        raise InputError("a skeleton of impossible size", file=path, expected="legs of 0.4 to 1.6 m",
                         found=f"{leg:.3g}")  # fmt: skip
    return np.stack((points[..., 0], -points[..., 2], points[..., 1]), axis=-1)[:, None].astype(np.float32)


# ---- Acclaim ----


@dataclass
class _Bone:
    """A bone of an .asf: direction (3,) and length in the file's unit, axes C (3, 3), degrees of freedom, parent."""

    direction: np.ndarray
    length: float
    C: np.ndarray
    dof: list[str]
    parent: str = ""


def asf_of(path: Path) -> Path:
    """The .asf of an .amc: of the subject's name, or the only one beside it. Raises InputError where there is none."""
    for stem in (path.stem.rpartition("_")[0], path.stem):
        named = path.with_name(f"{stem}.asf")
        if stem and named.is_file():
            return named
    beside = sorted(path.parent.glob("*.asf"))
    if len(beside) != 1:
        raise InputError(
            "no skeleton for this motion", file=path, expected=f"{path.stem.rpartition('_')[0] or path.stem}.asf",
            found=", ".join(p.name for p in beside) or "no .asf beside it",
        )  # fmt: skip
    return beside[0]


def read_amc(path: Path, asf: Path | None = None) -> tuple[float, Float[np.ndarray, "frames 1 15 3"]]:
    """Frame rate (CMU's 120) and joint positions, metres, z up, in the order of panoptic15.

    Args:
        asf: the skeleton; by default `asf_of`.

    Raises:
        InputError: a file is absent or malformed (with the line), or the skeleton lacks a bone.
    """
    bones, order, unit, degrees = _read_asf(asf or asf_of(path))
    frames = _read_amc_frames(path, bones, order)
    ends: dict[str, np.ndarray] = {"root": frames.pop("root place")}
    turns: dict[str, Rotation] = {}
    for name, bone in bones.items():
        values = frames.get(name)
        local = Rotation.identity(len(ends["root"]))
        if values is not None:
            for column, dof in zip(values.T, bone.dof, strict=True):
                local = _about(dof[1], column, degrees) * local
        axes = Rotation.from_matrix(bone.C)
        local = axes * local * axes.inv()
        turns[name] = local if name == "root" else turns[bone.parent] * local
        if name != "root":
            ends[name] = ends[bone.parent] + turns[name].apply(bone.length * bone.direction)
    found = {}
    for joint in PANOPTIC15.joints:
        side, _, part = joint.partition("_")
        if side in _SIDES:
            bone = side[0] + _AMC_STARTS[part]
            if bone not in bones:
                raise InputError("unknown bones", file=asf or asf_of(path), expected=bone, found=", ".join(bones))
            found[joint] = ends[bone if part in _AMC_ENDS else bones[bone].parent]
    if not {"lowerneck", "head"} <= bones.keys():
        raise InputError("unknown bones", file=asf or asf_of(path), expected="lowerneck, head", found=", ".join(bones))
    found["neck"], found["nose"] = ends["lowerneck"], ends["head"]
    return AMC_FPS, _clip(found, unit, path)


def _read_asf(path: Path) -> tuple[dict[str, _Bone], list[str], float, bool]:
    """Bones with the root first and parents before children, order of the root's values, metres per unit, degrees?"""
    length, degrees = 1.0, True
    bones = {"root": _Bone(np.zeros(3), 0.0, np.eye(3), [])}
    order = ["TX", "TY", "TZ", "RX", "RY", "RZ"]
    section, bone, parents = "", {}, {}
    for n, line in enumerate(_lines(path)):
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0].startswith(":"):
            section = words[0]
            continue
        if section == ":units" and words[0] == "length":
            length = float(_numbers(words[1:], 1, path, n)[0])
        elif section == ":units" and words[0] == "angle":
            degrees = words[1:2] != ["rad"]
        elif section == ":root":
            if words[0] == "order":
                order = words[1:]
            elif words[0] == "orientation":
                turn = _numbers(words[1:], 3, path, n)
                bones["root"].C = Rotation.from_euler("xyz", turn, degrees=degrees).as_matrix()
        elif section == ":bonedata":
            if words == ["begin"]:
                bone = {}
            elif words == ["end"]:
                _add_bone(bones, bone, degrees, path, n)
            else:
                bone[words[0]] = (n, words[1:])
        elif section == ":hierarchy" and words[0] not in ("begin", "end"):
            for child in words[1:]:
                parents[child] = words[0]
    if len(bones) == 1 or not parents:
        raise InputError("not a skeleton of Acclaim", file=path, expected=":bonedata and :hierarchy")
    if length <= 0:
        raise InputError("impossible unit of length", file=path, expected="above 0", found=length)
    ordered = {"root": bones["root"]}
    while len(ordered) < len(bones):
        ready = [name for name in bones if name not in ordered and parents.get(name) in ordered]
        if not ready:
            lost = sorted(set(bones) - set(ordered))
            raise InputError("bones without a parent", file=path, expected="a way to root", found=", ".join(lost))
        for name in ready:
            bones[name].parent = parents[name]
            ordered[name] = bones[name]
    if sorted(order) != ["RX", "RY", "RZ", "TX", "TY", "TZ"]:
        raise InputError("unknown order of the root's values", file=path, expected="TX TY TZ RX RY RZ", found=order)
    bones["root"].dof = [word.lower() for word in order if word.startswith("R")]
    return ordered, order, 0.0254 / length, degrees


def _add_bone(bones: dict[str, _Bone], entry: dict, degrees: bool, path: Path, line: int) -> None:
    for key in ("name", "direction", "length", "axis"):
        if key not in entry:
            raise _wrong(path, line, f"a bone with {key}", ", ".join(entry) or "nothing")
    (_, name), (n, direction), (m, length), (k, axis) = (entry[key] for key in ("name", "direction", "length", "axis"))
    if axis[3:] != ["XYZ"]:
        raise _wrong(path, k, "axis x y z XYZ", " ".join(axis))
    dof_line, dof = entry.get("dof", (line, []))
    if not set(dof) <= {"rx", "ry", "rz"}:
        raise _wrong(path, dof_line, "rx, ry, rz", " ".join(dof))
    C = Rotation.from_euler("xyz", _numbers(axis[:3], 3, path, k), degrees=degrees).as_matrix()
    toward = _numbers(direction, 3, path, n)
    bones[" ".join(name)] = _Bone(toward, float(_numbers(length, 1, path, m)[0]), C, dof)


def _read_amc_frames(path: Path, bones: dict[str, _Bone], order: list[str]) -> dict[str, np.ndarray]:
    """Angles (F, dof) by bone, and "root place" (F, 3) in the file's unit."""
    frames: list[dict[str, np.ndarray]] = []
    for n, line in enumerate(_lines(path)):
        words = line.split()
        if not words or words[0][0] in "#:":
            if words and words[0].upper() in (":RADIANS",):
                raise _wrong(path, n, ":DEGREES", line)
            continue
        if len(words) == 1:
            if words[0] != str(len(frames) + 1):
                raise _wrong(path, n, f"frame {len(frames) + 1}", line)
            frames.append({})
        elif not frames:
            raise InputError("not a motion of Acclaim", file=path, expected="a frame number", found=line[:40])
        elif words[0] not in bones:
            raise _wrong(path, n, "a bone of the skeleton", words[0])
        else:
            count = len(order) if words[0] == "root" else len(bones[words[0]].dof)
            frames[-1][words[0]] = _numbers(words[1:], count, path, n)
    if not frames:
        raise InputError("no frames", file=path, expected="a frame number and a line a bone")
    for number, frame in enumerate(frames, start=1):
        if frame.keys() != frames[0].keys() or "root" not in frame:
            raise InputError("a frame with other bones than the first", file=path, frame=number)
    result = {name: np.stack([frame[name] for frame in frames]) for name in frames[0]}
    root = result["root"]
    result["root place"] = root[:, [order.index(axis) for axis in ("TX", "TY", "TZ")]]
    result["root"] = root[:, [i for i, word in enumerate(order) if word.startswith("R")]]
    return result
