"""SMPL fits of other tools as bodies to start the refinement from (`results/initial.npz`).

SMPL turns the root about its rest joint J0: x = R (X - J0) + J0 + trans. EasyMocap turns about the world's origin after
the pose: x = R(Rh) (R0 (X - J0) + J0) + Th, so that in SMPL's terms the root's rotation is R(Rh) R0 and
trans = R(Rh) J0 + Th - J0. J0 depends on the shape, so this is exact only with the model that the fit was made with.

With that model (`body` has the same mesh: SMPL or SMPL-H, or SMPL-X) the parameters are taken as they are. The open
body has the same joints and zero pose but other shapes: there the shape is fitted to the source's joints, and then all
of the pose, starting from the source's; without joints the poses stay as they are, the shape is the average one and the
hips are put where an average SMPL body has them, which is right to a few centimetres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import roma
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.errors import InputError
from avatarpose.importers.fit_files import FIT_FORMATS, Model, Track, guess_fit_format
from avatarpose.importers.numbering import rows_of_images, rows_of_numbers
from avatarpose.register.config import RegisterSettings
from avatarpose.register.fit import Motion, fit_to_joints
from avatarpose.register.registration import as_bodies
from avatarpose.register.shape import fit_shape
from avatarpose.results import Bodies, Joints3D

FitFormat = Literal["auto", "easymocap", "amass", "hi4d"]

_VERTICES: dict[Model, int] = {"smpl": 6890, "smplh": 6890, "smplx": 10475}
_REST: dict[Model, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "smpl": ((0.0, -0.223, 0.028), (0.0, -0.314, 0.023)),
    "smplh": ((0.0, -0.223, 0.028), (0.0, -0.314, 0.023)),
    "smplx": ((0.0, -0.351, 0.012), (0.0, -0.450, -0.012)),
}
"""Pelvis and middle of the hips of each model's average neutral body at rest, metres; sexes differ by 2 cm."""
_UP = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}
_HIPS = (1, 2)
_AMASS_UP = "z"
_ENDS = (7, 8, 10, 11, 20, 21, 22, 23)
"""Ankles, feet, wrists and hands: turning them moves no COCO joint, so the source's turns are kept."""
_GUESSED_SCORE = 0.5


@dataclass
class _Person:
    """A track on the sequence's frames, about its own pelvis."""

    track: Track
    valid: np.ndarray
    poses: Float[np.ndarray, "frames 72"]
    pelvis: Float[np.ndarray, "frames 3"]
    joints: Float[np.ndarray, "frames 17 4"] | None


def read_fits(
    path: Path,
    format: FitFormat,
    body: BodyModel,
    fps: float,
    up: str = "z",
    frames_of: Sequence[int] | None = None,
    say: Callable[[str], None] | None = None,
    settings: RegisterSettings | None = None,
) -> Bodies:
    """Reads SMPL fits as bodies of the given model.

    Args:
        path: EasyMocap's output (or its smpl/), an AMASS .npz (or a folder of them, one a person), Hi4D's action folder
            (or its smpl/).
        format: which of them; "auto" looks.
        body: the body that the results are for.
        fps: the sequence's frames per second; AMASS is brought to it (rotations by spherical interpolation).
        up: the sequence's up axis. AMASS, whose up is z, is turned to it; the others stand in the calibration's world.
        frames_of: numbers that the images have at their source, in order (`rows_of_images`); None for the frames that
            the fits have. AMASS begins with the first of them.
        say: called with what the user should know: who became whom, what was guessed.
        settings: of the fit to the source's joints; None for the defaults.

    Returns:
        Bodies over all frames, people p0, p1, ... in the order of their first frames, then of x; where a person has no
        fit, the nearest frame's, and not `valid`.

    Raises:
        InputError: no fits, files that are damaged or malformed, or of other frames than the sequence.
    """
    path, tell = Path(path), say or (lambda _: None)
    if format == "auto":
        format = guess_fit_format(path)
    if format not in FIT_FORMATS:
        raise InputError("no such format of body fits", expected=f"auto, {', '.join(FIT_FORMATS)}", found=format)
    if up.removeprefix("-") not in _UP:
        raise InputError("no such axis", expected="x, y, z, -x, -y or -z", found=up)
    if not path.exists():
        raise InputError("no such file or folder of body fits", file=path)
    tracks = FIT_FORMATS[format](path)
    count, rows = _frames(tracks, fps, frames_of)
    body64 = body.to(dtype=torch.float64, device="cpu")
    pairs = zip(tracks, rows, strict=True)
    people = [_on_frames(track, row, count, fps, body64, tell) for track, row in pairs if _seen(track, row)]
    if not people:
        raise InputError("no person in the sequence's frames", file=path, found=f"{len(tracks)} in others")
    if format == "amass":
        if len(people) > 1 or up != _AMASS_UP:
            tell(f"AMASS fits stand in a world of their own, {_AMASS_UP} up; turned to {up} up and not moved")
        for person in people:
            _turn(person, _up_rotation(up))
    people.sort(key=lambda one: (int(one.valid.argmax()), float(one.pelvis[one.valid.argmax(), 0])))
    for p, person in enumerate(people):
        tell(f"{person.track.name} is p{p}: {int(person.valid.sum())} of {count} frames")
    return _as_bodies(people, body64, fps, tell, settings or RegisterSettings())


def _same_model(body: BodyModel, model: Model) -> bool:
    """Whether the fit's parameters mean the same for this body."""
    return body.bind_rotations is None and len(body.v_template) == _VERTICES[model]


# ---- frames ----


def _frames(
    tracks: list[Track], fps: float, frames_of: Sequence[int] | None
) -> tuple[int, list[dict[int, int] | None]]:
    """How many frames there are, and for each track which frame a number becomes (None: by time)."""
    timed = [track for track in tracks if track.fps is not None]
    numbers = sorted({int(number) for track in tracks if track.fps is None for number in track.numbers})
    of_number: dict[int, int] = {}
    count = len(frames_of) if frames_of is not None else 0
    if numbers and frames_of is not None:
        of_number = rows_of_images(numbers, frames_of, tracks[0].file)
    elif numbers:
        of_number, count = rows_of_numbers(numbers, None, True, tracks[0].file)
    if frames_of is None and timed:
        count = max(int(np.floor((len(track.numbers) - 1) / track.fps * fps + 1e-6)) + 1 for track in timed)
    return count, [None if track.fps is not None else of_number for track in tracks]


def _seen(track: Track, rows: dict[int, int] | None) -> bool:
    """Whether any of the sequence's frames has the person."""
    return rows is None or any(int(number) in rows for number in track.numbers)


def _on_frames(
    track: Track, rows: dict[int, int] | None, count: int, fps: float, body: BodyModel, tell: Callable[[str], None]
) -> _Person:
    """A track brought to the sequence's frames and to its pelvis; frames without a fit take the nearest one's."""
    poses, pelvis = _about_pelvis(track, body)
    joints = track.joints
    if rows is None:
        times = np.arange(count) / fps
        end = (len(poses) - 1) / track.fps
        valid = times <= end + 1e-6
        if end > times[-1] + 0.5 / fps:
            tell(f"{track.name} goes on for {end - times[-1]:.1f} s after the last frame; that part is left out")
        at = np.clip(times * track.fps, 0, len(poses) - 1)
        return _Person(track, valid, _interpolate_poses(poses, at), _interpolate(pelvis, at), None)
    kept = [k for k, number in enumerate(track.numbers) if int(number) in rows]
    poses, pelvis, joints = poses[kept], pelvis[kept], None if joints is None else joints[kept]
    place = np.array([rows[int(number)] for number in track.numbers[kept]])
    nearest = np.abs(np.arange(count)[:, None] - place[None]).argmin(axis=1)
    valid = np.isin(np.arange(count), place)
    return _Person(track, valid, poses[nearest], pelvis[nearest], None if joints is None else joints[nearest])


def _about_pelvis(track: Track, body: BodyModel) -> tuple[Float[np.ndarray, "n 72"], Float[np.ndarray, "n 3"]]:
    """Poses with the whole root rotation, and where the pelvis is in the world."""
    same = _same_model(body, track.model)
    rest = body.rest_joints(torch.as_tensor(track.betas))[0].numpy() if same else np.array(_REST[track.model][0])
    if track.root is None:
        return track.poses, rest + track.trans
    outer = Rotation.from_rotvec(track.root)
    poses = track.poses.copy()
    poses[:, :3] = (outer * Rotation.from_rotvec(poses[:, :3])).as_rotvec()
    return poses, outer.apply(rest) + track.trans


def _interpolate(values: Float[np.ndarray, "n 3"], at: Float[np.ndarray, " frames"]) -> Float[np.ndarray, "frames 3"]:
    return np.stack([np.interp(at, np.arange(len(values)), column) for column in values.T], axis=1)


def _interpolate_poses(
    poses: Float[np.ndarray, "n 72"], at: Float[np.ndarray, " frames"]
) -> Float[np.ndarray, "frames 72"]:
    if np.allclose(at, np.round(at), atol=1e-6):
        return poses[np.round(at).astype(int)]
    turns = poses.reshape(len(poses), 24, 3)
    each = [Slerp(np.arange(len(poses)), Rotation.from_rotvec(turns[:, j]))(at).as_rotvec() for j in range(24)]
    return np.stack(each, axis=1).reshape(len(at), 72)


def _up_rotation(up: str) -> Float[np.ndarray, "3 3"]:
    """The shortest turn from AMASS's up to the sequence's; a half turn about x where they are opposite."""
    target = np.array(_UP[up.removeprefix("-")], float) * (-1 if up.startswith("-") else 1)
    source = np.array(_UP[_AMASS_UP], float)
    if np.allclose(target, -source):
        return np.diag([1.0, -1.0, -1.0])
    axis = np.cross(source, target)
    sine = np.linalg.norm(axis)
    angle = np.arctan2(sine, source @ target)
    return Rotation.from_rotvec(axis / max(sine, 1e-12) * angle).as_matrix()


def _turn(person: _Person, R_world_source: Float[np.ndarray, "3 3"]) -> None:
    turn = Rotation.from_matrix(R_world_source)
    person.pelvis = turn.apply(person.pelvis)
    person.poses[:, :3] = (turn * Rotation.from_rotvec(person.poses[:, :3])).as_rotvec()


# ---- bodies ----


def _as_bodies(
    people: list[_Person], body: BodyModel, fps: float, tell: Callable[[str], None], settings: RegisterSettings
) -> Bodies:
    poses = torch.as_tensor(np.stack([person.poses for person in people]))
    pelvis = torch.as_tensor(np.stack([person.pelvis for person in people]))
    betas = torch.zeros(len(people), 10, dtype=torch.float64)
    trans = torch.zeros_like(pelvis)
    with_joints = []
    for p, person in enumerate(people):
        track = person.track
        if _same_model(body, track.model):
            betas[p] = torch.as_tensor(track.betas)
            trans[p] = pelvis[p] - body.rest_joints(betas[p])[0]
            continue
        trans[p] = _hips_to_hips(body, track.model, poses[p], pelvis[p])
        if person.joints is not None and (np.isfinite(person.joints).all(axis=-1).sum(axis=1) >= 3).any():
            with_joints.append(p)
            continue
        tell(
            f"p{p}: the shape of {track.name} means nothing to the body '{body.name}', so it is of average shape; "
            f"give the {track.model.upper()} file (--body) to keep it"
        )
    if with_joints:
        chosen = [people[p] for p in with_joints]
        found = _registered(chosen, body, poses[with_joints], trans[with_joints], fps, settings)
        betas[with_joints], poses[with_joints], trans[with_joints] = (
            torch.as_tensor(values, dtype=torch.float64) for values in (found.betas, found.poses, found.trans)
        )
        for row, p in enumerate(with_joints):
            name, away = people[p].track.name, _distance(people[p], found.keypoints[row])
            tell(f"p{p}: fitted to the joints of {name}, from which it is {away:.0f} mm away on average")
    return Bodies(
        people=[f"p{p}" for p in range(len(people))],
        frames=np.arange(poses.shape[1]),
        fps=float(fps),
        betas=betas.numpy().astype(np.float32),
        poses=poses.numpy().astype(np.float32),
        trans=trans.numpy().astype(np.float32),
        joints=body.joints(betas[:, None], poses, trans).numpy().astype(np.float32),
        keypoints=body.keypoints(betas[:, None], poses, trans).numpy().astype(np.float32),
        valid=np.stack([person.valid for person in people]),
        body_name=body.name,
        body_sha256=body.sha256,
    )


def _hips_to_hips(
    body: BodyModel, model: Model, poses: Float[Tensor, "frames 72"], pelvis: Float[Tensor, "frames 3"]
) -> Float[Tensor, "frames 3"]:
    """Translation that puts the hips where the source's are: the roots of two models lie at different heights."""
    root, hips = (torch.tensor(point, dtype=torch.float64) for point in _REST[model])
    R_world_root = roma.rotvec_to_rotmat(poses[:, :3])
    target = pelvis + R_world_root @ (hips - root)
    betas, still = torch.zeros(10, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    return target - body.joints(betas, poses, still)[:, list(_HIPS)].mean(dim=1)


def _registered(
    people: list[_Person],
    body: BodyModel,
    poses: Float[Tensor, "people frames 72"],
    trans: Float[Tensor, "people frames 3"],
    fps: float,
    settings: RegisterSettings,
) -> Bodies:
    """Shapes, poses and translations fitted to the source's joints, starting from its own."""
    valid = np.stack([person.valid for person in people])
    rows = np.stack([person.joints for person in people])
    points = np.where(valid[..., None, None], rows[..., :3], np.nan)
    scores = np.where(np.isfinite(points).all(axis=-1), np.clip(np.nan_to_num(rows[..., 3]), 0, 1), 0.0)
    names = [person.track.name for person in people]
    joints = Joints3D(names, np.arange(valid.shape[1]), points, scores, valid)
    betas = fit_shape(body, joints, settings.limb_spread, settings.shape_prior)
    # The joints say where a person is; a frame without any keeps the source's place.
    gap = torch.as_tensor(points) - body.keypoints(betas[:, None], poses, trans)
    trans = trans + gap.nanmean(dim=2).nan_to_num()
    # Joints that a source never has, such as SMPL's missing face, hold to its own poses, or the head would go astray.
    guessed = body.keypoints(betas[:, None], poses, trans).numpy()
    never = ~np.isfinite(points).any(axis=(1, 3))[:, None] & valid[..., None]
    points = np.where(never[..., None], guessed, points)
    scores = np.where(never, _GUESSED_SCORE, scores)
    start = Motion(
        betas=betas,
        R_world_root=roma.rotvec_to_rotmat(poses[..., :3]),
        angles=poses[..., 3:].reshape(*valid.shape, 23, 3),
        trans=trans,
        present=torch.as_tensor(valid),
    )
    times = torch.as_tensor(joints.frames, dtype=torch.float64) / fps
    motion = fit_to_joints(body, start, torch.as_tensor(points), torch.as_tensor(scores), times, settings)
    angles = motion.angles.clone()
    ends = [joint - 1 for joint in _ENDS]
    angles[:, :, ends] = start.angles[:, :, ends]
    return as_bodies(joints, replace(motion, angles=angles), body, fps)


def _distance(person: _Person, keypoints: Float[np.ndarray, "frames 17 3"]) -> float:
    """Mean distance between the body's keypoints and the source's joints, millimetres."""
    away = np.linalg.norm(keypoints - person.joints[..., :3], axis=-1)[person.valid]
    return float(1000 * np.nanmean(away))
