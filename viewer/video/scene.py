"""Who is filmed: the refined people, and edits of the cast (left out, moved, doubled, in another's clothes or motion).

An actor is a motion, an avatar to wear (with the shape of the body it was learned on) and a place. Edits are applied in
this order: other motion, other avatar, choice of people, moves, doubles.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Listing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.errors import InputError
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from avatarpose.train.motion_files import AngleClip, read_clips
from avatarpose.train.motion_fit import FitSettings, fit_tracks
from optimize.poses import BodyParameters
from viewer.video.timeline import Motion, motions_of

GROUND_PERCENTILE = 20
"""The ground is where the lowest point of the people is in this share of the frames: people jump, and poses err."""
CHECKED_FRAMES = 60
"""Frames, spread over a motion, in which its lowest point is looked for."""


@dataclass(frozen=True)
class Actor:
    """One person of the film.

    Attributes:
        name: the person's, or of a double that of the person with a number.
        motion: how the person moves.
        avatar: file of the avatar.
        betas: (10,) shape of the body that wears it.
        shift: (3,) metres added to the motion, world.
    """

    name: str
    motion: Motion
    avatar: Path
    betas: Float[np.ndarray, " 10"]
    shift: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class CastEdits:
    """Edits of the cast, as written on the command line; each entry names a person.

    Attributes:
        only: names of the people to keep; none for all.
        without: names of the people to leave out.
        move: "p1=dx,dy,dz", metres in the world frame.
        duplicate: "p0=dx,dy,dz": a double of the person, moved.
        wear: "p0=SEQUENCE:p1" or "p0=p1": the avatar of another person, of another sequence or of the same.
        motion: "p0=FILE.npz", "FILE.npz" for everybody; "FILE.npz:CLIP" where a file holds several clips.
    """

    only: Listing[str] = ()
    without: Listing[str] = ()
    move: Listing[str] = ()
    duplicate: Listing[str] = ()
    wear: Listing[str] = ()
    motion: Listing[str] = ()


def load_bodies(sequence: Sequence, body: BodyModel) -> Bodies:
    """The refined bodies of the sequence's chosen frames.

    Raises:
        InputError: there are none, or they are of another body or of none of these frames.
    """
    path = sequence.results / "refined.npz"
    if not path.is_file():
        raise InputError(
            "no refined people to film", file=path, expected="the output of the refinement", found="no such file",
            hint=f"`avatarpose run {sequence.folder}` makes it",
        )  # fmt: skip
    bodies = Bodies.load(path)
    if bodies.body_sha256 != body.sha256:
        raise InputError(
            "the people were refined with another body", file=path, expected=f"{body.name}, {body.sha256[:12]}",
            found=f"{bodies.body_name}, {bodies.body_sha256[:12]}", hint="Choose it with --body",
        )  # fmt: skip
    if not bodies.people:
        raise InputError("nobody to film", file=path, expected="at least one person", found="none")
    kept = np.isin(bodies.frames, sequence.frames)
    if not kept.any():
        raise InputError(
            "the people are of other frames", file=path,
            expected=f"some of {sequence.frames[0]} to {sequence.frames[-1]}",
            found=f"{bodies.frames[0]} to {bodies.frames[-1]}",
        )  # fmt: skip
    return replace(
        bodies,
        frames=bodies.frames[kept],
        **{key: getattr(bodies, key)[:, kept] for key in ("poses", "trans", "joints", "keypoints", "valid")},
    )


def cast_of(sequence: Sequence, bodies: Bodies, body: BodyModel, edits: CastEdits) -> list[Actor]:
    """The actors of a film after all edits.

    Raises:
        InputError: an edit that cannot be read, an unknown person, a file that is absent or of no use, or nobody left.
    """
    actors = {
        name: Actor(name, motion, _avatar_file(sequence, name), bodies.betas[p], np.zeros(3))
        for p, (name, motion) in enumerate(zip(bodies.people, motions_of(bodies), strict=True))
    }
    up = sequence.up_vector
    for text in edits.motion:
        names, source = _whose(text, actors)
        clip, ground = _read_motion(source, body), ground_height(bodies, body, up)
        for name in names:
            actors[name] = _retarget(actors[name], clip, body, up, ground)
    for text in edits.wear:
        name, source = _entry(text, "p0=SEQUENCE:p1 or p0=p1", actors)
        actors[name] = _dress(actors[name], source, sequence, bodies, body, up)
    for name in (*edits.only, *edits.without):
        _known(name, actors)
    kept = {n: a for n, a in actors.items() if (not edits.only or n in edits.only) and n not in edits.without}
    for text in edits.move:
        name, shift = _entry(text, "p1=dx,dy,dz in metres", kept)
        kept[name] = replace(kept[name], shift=kept[name].shift + _vector(shift, text))
    doubles = []
    for text in edits.duplicate:
        name, shift = _entry(text, "p0=dx,dy,dz in metres", kept)
        number = 2 + sum(one.name.startswith(f"{name}_") for one in doubles)
        doubles.append(replace(kept[name], name=f"{name}_{number}", shift=kept[name].shift + _vector(shift, text)))
    cast = [*kept.values(), *doubles]
    if not cast:
        raise InputError("nobody is left in the film", expected="at least one of " + ", ".join(bodies.people))
    return cast


def cast_parameters(
    cast: Listing[Actor], times: Float[np.ndarray, " n"]
) -> tuple[BodyParameters, Bool[Tensor, "people n"]]:
    """Body parameters of all actors at n moments (seconds), and who is there.

    An actor whose own motion is over before the film's keeps the last pose.
    """
    asked = torch.as_tensor(times, dtype=torch.float64)
    found = [actor.motion.at(asked.clamp(max=float(actor.motion.times[-1]))) for actor in cast]
    shifts = torch.tensor(np.array([actor.shift for actor in cast]), dtype=torch.float32)
    parameters = BodyParameters(
        betas=torch.tensor(np.array([actor.betas for actor in cast]), dtype=torch.float32),
        poses=torch.stack([poses for poses, _, _ in found]).float(),
        trans=torch.stack([trans for _, trans, _ in found]).float() + shifts[:, None],
    )
    return parameters, torch.stack([present for _, _, present in found])


def ground_height(bodies: Bodies, body: BodyModel, up: Float[np.ndarray, " 3"]) -> float:
    """Metres along `up` at which the captured people stand."""
    lowest = [_lowest(motion, betas, body, up) for motion, betas in zip(motions_of(bodies), bodies.betas, strict=True)]
    every = np.concatenate(lowest)
    return float(np.percentile(every, GROUND_PERCENTILE)) if len(every) else 0.0


@torch.no_grad()
def _lowest(motion: Motion, betas: np.ndarray, body: BodyModel, up: np.ndarray) -> Float[np.ndarray, " frames"]:
    """Height of the lowest point of the body in frames spread over a motion."""
    valid = torch.nonzero(motion.valid)[:, 0]
    frames = valid[np.unique(np.linspace(0, len(valid) - 1, min(CHECKED_FRAMES, len(valid))).round().astype(int))]
    axis = torch.as_tensor(up, dtype=torch.float32)
    shape = torch.as_tensor(betas, dtype=torch.float32)
    heights = [float((body.vertices(shape, motion.poses[f], motion.trans[f]) @ axis).min()) for f in frames]
    return np.array(heights)


# ---- other motions and other avatars ----


@dataclass(frozen=True)
class _Clip:
    """Motion from a file: poses (F, 72), pelvis (F, 3) metres, z up."""

    fps: float
    poses: np.ndarray
    pelvis: np.ndarray


def _read_motion(source: str, body: BodyModel) -> _Clip:
    text, _, name = source.partition(".npz:")
    path = Path(f"{text}.npz" if name else source)
    clips = {}
    for clip in read_clips(path, path.stem):
        clips[clip.name] = clip
        if not name or clip.name == name:
            break
    if name and name not in clips:
        raise InputError("no such clip", file=path, expected=", ".join(list(clips)[:12]) or "a clip", found=name)
    clip = clips[name] if name else next(iter(clips.values()), None)
    if clip is None:
        raise InputError("no motion", file=path, expected="at least one clip", found="none")
    if isinstance(clip, AngleClip):
        return _Clip(clip.fps, clip.poses, clip.pelvis)
    fitted = fit_tracks(body, [clip.joints[:, 0]], FitSettings())[0]
    return _Clip(clip.fps, fitted.poses, fitted.pelvis)


def _retarget(actor: Actor, clip: _Clip, body: BodyModel, up: np.ndarray, ground: float) -> Actor:
    """The actor moved as in the clip: own shape, standing on the capture's ground, starting where the actor started.

    Angles carry over as they are, the pelvis' path in metres; its height is set so that the feet meet the ground.
    """
    turn = _turn_from_z(up)
    poses = torch.as_tensor(clip.poses, dtype=torch.float32).clone()
    poses[:, :3] = roma.rotvec_composition((roma.rotmat_to_rotvec(turn).expand(len(poses), 3), poses[:, :3]))
    pelvis = torch.as_tensor(clip.pelvis, dtype=torch.float32) @ turn.T
    trans = pelvis - body.rest_joints(torch.as_tensor(actor.betas, dtype=torch.float32))[0]
    times = torch.arange(len(poses), dtype=torch.float64) / clip.fps
    motion = Motion(times, poses, trans, torch.ones(len(poses), dtype=torch.bool))

    axis = torch.as_tensor(up, dtype=torch.float32)
    first = actor.motion.trans[actor.motion.valid][:1]
    start = (first[0] if len(first) else torch.zeros(3)) - trans[0]
    rise = ground - float(np.percentile(_lowest(motion, actor.betas, body, up), GROUND_PERCENTILE))
    shift = start - (start @ axis) * axis + rise * axis
    return replace(actor, motion=replace(motion, trans=trans + shift))


def _turn_from_z(up: np.ndarray) -> Float[Tensor, "3 3"]:
    """The rotation from a frame with z up to one with the given axis up, by the shortest way."""
    z, axis = torch.tensor([0.0, 0.0, 1.0]), torch.as_tensor(up, dtype=torch.float32)
    normal, cosine = torch.linalg.cross(z, axis, dim=0), float(z @ axis)
    if float(normal.norm()) < 1e-6:
        normal = torch.tensor([1.0, 0.0, 0.0])
    angle = torch.arccos(torch.tensor(max(-1.0, min(1.0, cosine))))
    return roma.rotvec_to_rotmat(torch.nn.functional.normalize(normal, dim=0) * angle)


def _dress(
    actor: Actor, source: str, sequence: Sequence, bodies: Bodies, body: BodyModel, up: np.ndarray
) -> Actor:
    """The actor with another person's avatar and shape, raised or lowered so that the soles stay where they were."""
    folder, colon, name = source.rpartition(":")
    if colon:
        sequence = Sequence.open(folder, least_cameras=1)
        bodies = load_bodies(sequence, body)
    if name not in bodies.people:
        raise InputError(
            f"nobody is called {name!r}", file=sequence.results / "refined.npz",
            expected=", ".join(bodies.people), found=name,
        )  # fmt: skip
    betas = bodies.betas[bodies.people.index(name)]
    before, after = (_lowest(actor.motion, shape, body, up) for shape in (actor.betas, betas))
    rise = float(np.median(before - after)) if len(before) else 0.0
    return replace(actor, avatar=_avatar_file(sequence, name), betas=betas, shift=actor.shift + rise * up)


def _avatar_file(sequence: Sequence, name: str) -> Path:
    return sequence.results / "avatars" / f"{name}.safetensors"


# ---- reading edits ----


def _known(name: str, actors: Iterable[str]) -> str:
    if name not in actors:
        raise InputError(f"nobody is called {name!r}", expected=", ".join(actors), found=name)
    return name


def _entry(text: str, expected: str, actors: Iterable[str]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise InputError("not an edit of the cast", expected=expected, found=text)
    return _known(name.strip(), actors), value.strip()


def _whose(text: str, actors: Iterable[str]) -> tuple[list[str], str]:
    name, equals, value = text.partition("=")
    return ([_known(name.strip(), actors)], value) if equals else (list(actors), text)


def _vector(value: str, text: str) -> Float[np.ndarray, " 3"]:
    try:
        numbers = np.array([float(part) for part in value.split(",")])
    except ValueError:
        numbers = np.zeros(0)
    if numbers.shape != (3,) or not np.isfinite(numbers).all():
        raise InputError("not a shift", expected="name=dx,dy,dz, three numbers in metres", found=text)
    return numbers
