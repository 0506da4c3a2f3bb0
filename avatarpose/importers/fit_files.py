"""Files of SMPL fits: EasyMocap, AMASS and Hi4D, as tracks of people in the files' own terms.

| format | files | the root turns about | hands | joints |
|---|---|---|---|---|
| easymocap | smpl/000000.json: [{id, Rh, Th, poses, shapes}] | the world's origin | SMPL's | keypoints3d/ beside it |
| amass | .npz a person: poses (F, 72/156/165), trans, betas, mocap_framerate; z up | its rest joint | none | none |
| hi4d | smpl/000011.npz: global_orient, body_pose, betas, transl (people first) | its rest joint | SMPL's | joints_3d |

SMPL-H and SMPL-X have fingers where SMPL has hands: SMPL's hands are then left straight.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from avatarpose.errors import InputError
from avatarpose.importers.numbering import load_json, natural_key, numbered_files
from avatarpose.io import read_npz
from avatarpose.skeletons import convert

Model = Literal["smpl", "smplh", "smplx"]

_BODY = 66
"""Pose parameters of the 22 joints that SMPL, SMPL-H and SMPL-X share; then SMPL has two hands, the others fingers."""
_MODEL_OF_POSE: dict[int, Model] = {
    72: "smpl", 78: "smplh", 156: "smplh", 87: "smplx", 165: "smplx",
}  # fmt: skip
_RATES = ("mocap_framerate", "mocap_frame_rate")


@dataclass
class Track:
    """One person's fit as the source has it.

    Attributes:
        name: what the source calls the person.
        model: the model whose parameters these are.
        numbers: (n,) the source's frame numbers, ascending.
        fps: the source's rate; None where a number is a frame of the sequence.
        poses: (n, 72) axis-angle, radians, SMPL's order; the root's as the source means it.
        root: (n, 3) rotation vector about the world's origin after the pose (EasyMocap); None where there is none.
        trans: (n, 3) metres.
        betas: (10,) shape.
        joints: (n, 17, 4) COCO-17 joints and scores if the source has some: metres, NaN where unknown.
        file: where it comes from.
    """

    name: str
    model: Model
    numbers: Int[np.ndarray, " n"]
    fps: float | None
    poses: Float[np.ndarray, "n 72"]
    root: Float[np.ndarray, "n 3"] | None
    trans: Float[np.ndarray, "n 3"]
    betas: Float[np.ndarray, " 10"]
    joints: Float[np.ndarray, "n 17 4"] | None
    file: Path


def guess_fit_format(path: Path) -> str:
    """"easymocap", "amass" or "hi4d", by what is there.

    Raises:
        InputError: none of them.
    """
    inner = _fits_folder(path)
    if inner.is_dir():
        if any(inner.glob("*.json")):
            return "easymocap"
        file = next(iter(sorted(inner.glob("*.npz"))), None)
    else:
        file = inner if inner.suffix == ".npz" else None
        if inner.suffix == ".json" and inner.is_file():
            return "easymocap"
    if file is not None and file.is_file():
        names = _names_in(file)
        if "global_orient" in names:
            return "hi4d"
        if {"poses", "trans"} <= names:
            return "amass"
    expected = "EasyMocap's smpl/*.json, an AMASS .npz, or Hi4D's smpl/*.npz"
    raise InputError("no body fits of a known format", file=path, expected=expected)


def _fits_folder(path: Path) -> Path:
    if not path.exists():
        raise InputError("no such file or folder of body fits", file=path)
    return path / "smpl" if (path / "smpl").is_dir() else path


# ---- EasyMocap ----


def read_easymocap_fits(path: Path) -> list[Track]:
    """EasyMocap's output folder, its smpl/ or one of its files. The joints of keypoints3d/ are taken along.

    Raises:
        InputError: no file, a malformed one, parameters of another size, NaN, or a person twice in a frame.
    """
    folder = _fits_folder(path)
    files = {0: folder} if folder.is_file() else numbered_files(folder, "*.json")
    if not files:
        raise InputError("no EasyMocap fits", file=folder, expected="000000.json, ...")
    people: dict[str, dict[int, dict[str, Float[np.ndarray, " n"]]]] = {}
    for number, file in files.items():
        for entry in _entries(file):
            name = str(entry.get("id", entry.get("personID", 0)))
            frames = people.setdefault(name, {})
            if number in frames:
                raise InputError("a person twice in a frame", file=file, frame=number, found=f"id {name}")
            sizes = {"Rh": (3,), "Th": (3,), "poses": (69, *_MODEL_OF_POSE), "shapes": None}
            frames[number] = {key: _vector(entry, key, size, file) for key, size in sizes.items()}
    if not people:
        raise InputError("no person in the fits", file=folder)
    joints = _easymocap_joints(folder.parent / "keypoints3d") if folder.is_dir() else {}
    return [_easymocap_track(name, frames, joints.get(name, {}), folder) for name, frames in people.items()]


def _entries(file: Path) -> list[dict[str, Any]]:
    """The people of one of EasyMocap's files."""
    content = load_json(file)
    entries = content.get("annots") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError("malformed EasyMocap JSON", file=file, expected="a list of people")
    return entries


def _vector(entry: dict[str, Any], key: str, sizes: tuple[int, ...] | None, file: Path) -> Float[np.ndarray, " n"]:
    if key not in entry:
        raise InputError(f"a person without {key}", file=file, expected=key, found=", ".join(entry) or "nothing")
    try:
        values = np.array(entry[key], dtype=float).ravel()
    except (TypeError, ValueError) as error:
        raise InputError(f"{key} are no numbers", file=file, found=error) from None
    wanted = "10 or more numbers" if sizes is None else f"{' or '.join(map(str, sizes))} numbers"
    if len(values) < 10 if sizes is None else len(values) not in sizes:
        raise InputError(f"{key} of another size", file=file, expected=wanted, found=len(values))
    if not np.isfinite(values).all():
        raise InputError(f"{key} are not finite", file=file, expected="numbers", found="NaN, infinity")
    return values


def _easymocap_track(
    name: str, frames: dict[int, dict[str, np.ndarray]], joints: dict[int, np.ndarray], folder: Path
) -> Track:
    sizes = {len(frame["poses"]) for frame in frames.values()}
    if len(sizes) > 1:
        raise InputError("poses of different sizes", file=folder, expected="one model", found=sorted(sizes))
    size = sizes.pop()
    raw = np.stack([frame["poses"] for frame in frames.values()])
    if size == 69:  # newer versions leave out the root, which is zero
        raw, size = np.concatenate([np.zeros((len(raw), 3)), raw], axis=1), 72
    model = _MODEL_OF_POSE[size]
    found = None
    if joints:
        nothing = np.full((17, 4), np.nan)
        found = np.stack([joints.get(number, nothing) for number in frames])
    return Track(
        name=name,
        model=model,
        numbers=np.array(list(frames)),
        fps=None,
        poses=_smpl_poses(raw, model),
        root=np.stack([frame["Rh"] for frame in frames.values()]),
        trans=np.stack([frame["Th"] for frame in frames.values()]),
        betas=np.median([frame["shapes"][:10] for frame in frames.values()], axis=0),
        joints=found,
        file=folder,
    )


def _easymocap_joints(folder: Path) -> dict[str, dict[int, Float[np.ndarray, "17 4"]]]:
    """3D keypoints (BODY_25 or COCO-17) by person and frame number; empty where the folder is not there."""
    result: dict[str, dict[int, np.ndarray]] = {}
    if not folder.is_dir():
        return result
    for number, file in numbered_files(folder, "*.json").items():
        for entry in _entries(file):
            row = _vector(entry, "keypoints3d", (100, 68), file).reshape(-1, 4)
            unknown = row[:, 3] <= 0
            row[unknown] = np.nan
            order = "body25" if len(row) == 25 else "coco17"
            result.setdefault(str(entry.get("id", 0)), {})[number] = convert(row, order, "coco17")
    return result


# ---- AMASS ----


def read_amass_fits(path: Path) -> list[Track]:
    """An AMASS .npz, or a folder with one a person (SMPL, SMPL-H or SMPL-X parameters).

    Raises:
        InputError: no file, a damaged one, arrays of the wrong shape, NaN, or no frame rate.
    """
    files = [path] if not path.is_dir() else sorted(path.glob("*.npz"), key=lambda file: natural_key(file.name))
    if not files:
        raise InputError("no AMASS fits", file=path, expected="an .npz a person")
    return [_amass_track(file) for file in files]


def _amass_track(file: Path) -> Track:
    names = _names_in(file)
    rate = next((name for name in _RATES if name in names), _RATES[0])
    data = read_npz(file, ("poses", "trans", "betas", rate))
    poses = _array(data, "poses", (None, None), file)
    frames = len(poses)
    if poses.shape[1] not in (72, 156, 165) or not frames:
        raise InputError("poses of another size", file=file, expected="(frames, 72, 156 or 165)", found=poses.shape)
    trans = _array(data, "trans", (frames, 3), file)
    betas = data["betas"]
    if betas.dtype.kind not in "fiu" or betas.size < 10 or not np.isfinite(betas).all():
        raise InputError("betas are not 10 numbers or more", file=file, found=f"{betas.dtype} {betas.shape}")
    fps = data[rate]
    if fps.size != 1 or fps.dtype.kind not in "fiu" or not np.isfinite(fps).all() or float(fps.reshape(-1)[0]) <= 0:
        raise InputError(f"impossible {rate}", file=file, expected="a number above 0", found=fps)
    model = _MODEL_OF_POSE[poses.shape[1]]
    return Track(
        name=file.stem,
        model=model,
        numbers=np.arange(frames),
        fps=float(fps.reshape(-1)[0]),
        poses=_smpl_poses(poses, model),
        root=None,
        trans=trans,
        betas=betas.reshape(-1)[:10].astype(float),
        joints=None,
        file=file,
    )


# ---- Hi4D ----


def read_hi4d_fits(path: Path) -> list[Track]:
    """Hi4D's smpl/ (or the action's folder with it): an .npz a frame with the parameters of all people.

    Raises:
        InputError: no file, a damaged one, arrays of the wrong shape, NaN, or another number of people in a frame.
    """
    folder = _fits_folder(path)
    files = numbered_files(folder, "*.npz") if folder.is_dir() else {0: folder}
    if not files:
        raise InputError("no Hi4D fits", file=folder, expected="000011.npz, ...")
    shapes = {"global_orient": 3, "body_pose": 69, "betas": 10, "transl": 3}
    frames: list[dict[str, np.ndarray]] = []
    with_joints = "joints_3d" in _names_in(next(iter(files.values())))
    people: int | None = None
    for file in files.values():
        data = read_npz(file, (*shapes, "joints_3d") if with_joints else shapes)
        people = people or len(_array(data, "betas", (None, 10), file))
        frame = {key: _array(data, key, (people, size), file) for key, size in shapes.items()}
        if with_joints:
            frame["joints"] = _array(data, "joints_3d", (people, 24, 3), file)
        frames.append(frame)
    if not people:
        raise InputError("no person in the fits", file=folder)
    tracks = []
    for p in range(people):
        parts = [np.stack([frame[key][p] for frame in frames]) for key in ("global_orient", "body_pose", "transl")]
        joints = None
        if with_joints:
            points = convert(np.stack([frame["joints"][p] for frame in frames]), "smpl24", "coco17")
            score = np.isfinite(points[..., :1]).astype(float)
            joints = np.concatenate([points, score], axis=-1)
        poses = np.concatenate(parts[:2], axis=1)
        betas = np.median([frame["betas"][p] for frame in frames], axis=0)
        numbers = np.array(list(files))
        tracks.append(Track(str(p), "smpl", numbers, None, poses, None, parts[2], betas, joints, folder))
    return tracks


# ---- small things ----


def _smpl_poses(raw: Float[np.ndarray, "n size"], model: Model) -> Float[np.ndarray, "n 72"]:
    """SMPL's 24 joints out of a model's pose; hands stretched where the model has fingers instead."""
    if model == "smpl":
        return raw.astype(float)
    poses = np.zeros((len(raw), 72))
    poses[:, :_BODY] = raw[:, :_BODY]
    return poses


def _array(data: dict[str, np.ndarray], key: str, shape: tuple[int | None, ...], file: Path) -> np.ndarray:
    array = data[key]
    fits = array.ndim == len(shape) and all(want in (None, size) for size, want in zip(array.shape, shape, strict=True))
    if not fits or array.dtype.kind not in "fiu":
        expected = tuple("any" if size is None else size for size in shape)
        found = f"{array.dtype} {array.shape}"
        raise InputError(f"{key} of the wrong shape or type", file=file, expected=expected, found=found)
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0, 0])
        raise InputError(f"{key} are not finite", file=file, expected="numbers", found=f"NaN or infinity in row {row}")
    return array.astype(float)


def _names_in(file: Path) -> set[str]:
    """Names of the arrays in an .npz; nothing where it is none, which its reader then says."""
    try:
        with zipfile.ZipFile(file) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return set()


FIT_FORMATS: dict[str, Callable[[Path], list[Track]]] = {
    "easymocap": read_easymocap_fits,
    "amass": read_amass_fits,
    "hi4d": read_hi4d_fits,
}
