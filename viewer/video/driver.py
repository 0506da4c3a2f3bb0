"""Makes a film: plans cameras and moments, renders what is missing frame by frame, and encodes the whole."""

from __future__ import annotations

import hashlib
import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.io import sha256, write_json
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from optimize.pictures import PeopleRenderer, Picture, load_avatar_files
from optimize.poses import BodyParameters
from viewer.video import layers as images
from viewer.video import paths
from viewer.video.ground import Floor, background_colour
from viewer.video.scene import Actor, CastEdits, cast_of, cast_parameters, ground_height, load_bodies
from viewer.video.timeline import Repeat, film_length, moments, smoothed
from viewer.video.writer import Parts, film_format, write_film

PATHS = ("orbit", "spiral", "bullet-time", "follow", "capture")
BULLET_SECONDS = 4.0
SMOOTHING = 0.3
"""Seconds of the film over which a camera that follows somebody is smoothed."""
DEPTH_MARGIN = 0.3
"""Metres around the joints that the colours of the depth layer span."""
SMALLEST_SIDE, LARGEST_SIDE = 16, 8192
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class FilmSettings:
    """What a film depends on besides the sequence; angles in degrees, times in seconds."""

    out: Path
    path: str = "orbit"
    """One of PATHS, the name of a capture camera, or a file of keyframes (.json)."""
    width: int = 512
    height: int = 384
    fps: float = 30.0
    speed: float = 1.0
    seconds: float | None = None
    repeat: Repeat = "hold"
    at: float | None = None
    """Moment of the capture that bullet-time shows; None: its middle."""
    turns: float = 1.0
    azimuth: float | None = None
    elevation: float | None = None
    fov: float = 40.0
    distance: float = 1.0
    person: str | None = None
    beside: str | None = None
    layers: list[str] = field(default_factory=lambda: ["rgb"])
    background: str = "white"
    edits: CastEdits = field(default_factory=CastEdits)


@dataclass(frozen=True)
class Plan:
    """A film before it is rendered: n frames.

    Attributes:
        cast: the actors.
        cameras: one a frame.
        times: (n,) moments of the capture, seconds.
        parameters, present: the actors in every frame.
        joints: (P, n, 24, 3) metres, world; NaN where an actor is not there.
        ground: metres along up.
    """

    cast: list[Actor]
    cameras: Cameras
    times: Float[np.ndarray, " n"]
    parameters: BodyParameters
    present: Bool[Tensor, "people n"]
    joints: Float[np.ndarray, "people n 24 3"]
    ground: float


@dataclass(frozen=True)
class Made:
    """What making a film took."""

    out: Path
    frames: int
    rendered: int
    """Frames that were not there from an earlier start."""
    seconds: float
    """Spent on rendering."""


def plan_film(sequence: Sequence, bodies: Bodies, body: BodyModel, settings: FilmSettings) -> Plan:
    """Cameras and people of every frame of the film.

    Raises:
        InputError: a path, a person, a camera, an edit or a number that is of no use.
    """
    cast = cast_of(sequence, bodies, body, settings.edits)
    for name, value, low, high in (
        ("fov", settings.fov, 1, 170), ("distance", settings.distance, 0.05, 100),
        ("elevation", settings.elevation or 0, -89, 89),
    ):  # fmt: skip
        if not low <= value <= high:
            raise InputError(f"impossible {name}", expected=f"{low} to {high}", found=value)
    length = max(float(actor.motion.times[-1]) for actor in cast)
    keyframes = _keyframes(sequence, settings)
    seconds = settings.seconds
    if settings.path == "bullet-time" and seconds is None:
        seconds = BULLET_SECONDS
    if keyframes and seconds is None:
        seconds = keyframes[-1].time - keyframes[0].time or None
    n = film_length(length, settings.speed, settings.fps, seconds, settings.repeat)
    times = moments(n, settings.fps, settings.speed, length, settings.repeat)
    if settings.path == "bullet-time":
        at = length / 2 if settings.at is None else settings.at
        if not 0 <= at <= length:
            raise InputError("no such moment", expected=f"0 to {length:g} s", found=at)
        times = np.full(n, at)
    elif keyframes:
        asked = paths.keyframe_moments(keyframes, keyframes[0].time + np.arange(n) / settings.fps)
        times = times if asked is None else np.clip(asked, 0, length)
    parameters, present = cast_parameters(cast, times)
    joints = _joints(body, parameters, present)
    if not bool(present.any()):
        raise InputError("nobody is there at any moment of the film", expected="people", found="none")
    cameras = _cameras(sequence, settings, cast, parameters, joints, keyframes, n)
    return Plan(cast, cameras, times, parameters, present, joints, ground_height(bodies, body, sequence.up_vector))


def make_film(
    sequence: Sequence,
    body: BodyModel,
    settings: FilmSettings,
    device: torch.device | str = "cpu",
    memory: float = 1e9,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
    redo: bool = False,
) -> Made:
    """Renders a film of the refined people and writes it; goes on where an earlier start was stopped.

    Args:
        memory: bytes that rendering may take.
        progress: called with frames rendered, frames to render and a word.
        say: called with what the user should know.
        redo: replace a film that is there.

    Raises:
        InputError: anything about the input or the settings that is of no use, or the film is there already.
    """
    kind = film_format(settings.out)
    if settings.out.exists() and not redo:
        raise InputError("the film is there already", file=settings.out, hint="Replace it with --redo")
    if settings.out.is_dir() and redo and not (settings.out / "film.json").is_file():
        raise InputError("would replace a folder of other things", file=settings.out, expected="a film made by render")
    behind = background_colour(settings.background)
    _check(settings, kind, behind, sequence)
    settings = _even(settings, kind, say)
    bodies = load_bodies(sequence, body)
    plan = plan_film(sequence, bodies, body, settings)
    avatars, config = load_avatar_files([actor.avatar for actor in plan.cast], body)
    nearest = _nearest_captures(sequence, bodies, plan, settings) if "capture" in settings.layers else None
    parts = Parts(settings.out, _fingerprint(plan, settings, nearest), settings.layers)
    n = len(plan.times)
    missing = [i for i in range(n) if not parts.has(i)]
    if 0 < len(missing) < n:
        say(f"{n - len(missing)} of {n} frames are there, kept")
    start = time.perf_counter()
    if missing:
        # Frames that show the same moment share one pose.
        _, first, index = np.unique(plan.times[missing], return_index=True, return_inverse=True)
        first = [missing[k] for k in first]
        renderer = PeopleRenderer(
            avatars, body, _at_frames(plan.parameters, first), plan.present[:, first], config.sampling, device, memory
        )
        floor = _floor(plan, sequence, behind) if settings.background == "ground" else None
        for done, (i, m) in enumerate(zip(missing, index.tolist(), strict=True)):
            if progress is not None:
                progress(done, len(missing), "frames")
            picture = renderer.picture(m, plan.cameras[i], normals="normals" in settings.layers)
            background = behind if floor is None else floor.picture(plan.cameras[i], renderer.vertices(m))
            shown = {} if nearest is None else {"capture": sequence.image(*nearest[i])}
            parts.write(i, _layers(picture, plan.cameras[i], background, settings, shown))
    seconds = time.perf_counter() - start
    if progress is not None:
        progress(len(missing), len(missing), "encoding")
    _finish(parts, plan, settings, kind, redo)
    return Made(settings.out, n, len(missing), seconds)


# ---- planning ----


def _keyframes(sequence: Sequence, settings: FilmSettings) -> list[paths.Keyframe]:
    if settings.path.endswith(".json"):
        return paths.load_keyframes(settings.path)
    if settings.path not in PATHS and settings.path not in sequence.cameras.names:
        raise InputError(
            "no such camera path", expected=f"{', '.join(PATHS)}, a file of keyframes (.json), or a camera: "
            + ", ".join(sequence.cameras.names), found=settings.path,
        )  # fmt: skip
    return []


def _cameras(
    sequence: Sequence,
    settings: FilmSettings,
    cast: list[Actor],
    parameters: BodyParameters,
    joints: np.ndarray,
    keyframes: list[paths.Keyframe],
    n: int,
) -> Cameras:
    if keyframes:
        clock = keyframes[0].time + np.arange(n) / settings.fps
        return paths.along_keyframes(keyframes, clock, settings.width, settings.height)
    if settings.path in sequence.cameras.names:
        return _fixed(sequence.cameras.select([settings.path]), settings)[[0] * n]
    shape = {"fov_deg": settings.fov, "distance": settings.distance}
    framing = paths.frame_joints(joints, sequence.up_vector, settings.width, settings.height, **shape)
    if settings.path == "capture":
        return paths.through_cameras(framing, sequence.cameras, n)
    elevation = math.radians(10.0 if settings.elevation is None else settings.elevation)
    if settings.path == "follow":
        return _following(settings, cast, parameters, joints, framing, elevation)
    if settings.azimuth is None:
        azimuth = float(framing.azimuth_of(sequence.cameras.centres[:1].numpy())[0])
    else:
        azimuth = math.radians(settings.azimuth)
    path = paths.spiral if settings.path == "spiral" else paths.orbit
    if settings.path == "spiral" and settings.elevation is None:
        elevation = 0.0
    return path(framing, n, settings.turns, azimuth, elevation)


def _fixed(camera: Cameras, settings: FilmSettings) -> Cameras:
    """A capture camera with its lens, its picture scaled to fit the film's frame and put in its middle."""
    camera = camera.scaled(min(settings.width / int(camera.width[0]), settings.height / int(camera.height[0])))
    left, top = (int(camera.width[0]) - settings.width) // 2, (int(camera.height[0]) - settings.height) // 2
    return camera.cropped(left, top, settings.width, settings.height)


def _following(settings: FilmSettings, cast, parameters, joints, framing: paths.Framing, elevation: float) -> Cameras:
    names = [actor.name for actor in cast]
    person = names[0] if settings.person is None else settings.person
    if person not in names:
        raise InputError(f"nobody is called {person!r}", expected=", ".join(names), found=person)
    p = names.index(person)
    there = np.isfinite(joints[p, :, 0, 0])
    if not there.any():
        raise InputError(f"{person} is never there in the film", expected="a person to follow", found="nobody")
    clock = np.arange(len(there))

    def filled(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(len(values), -1)
        columns = [np.interp(clock, clock[there], column[there]) for column in flat.T]
        return smoothed(np.stack(columns, axis=1), settings.fps, SMOOTHING)

    middle = filled((joints[p].min(axis=1) + joints[p].max(axis=1)) / 2)
    ahead = roma.rotvec_to_rotmat(parameters.poses[p, :, :3])[..., 2].numpy()
    own = replace(framing, points=joints[p].astype(float))
    azimuth = math.radians(90.0 if settings.azimuth is None else settings.azimuth)
    return paths.follow(own, middle, filled(ahead), azimuth, elevation)


@torch.no_grad()
def _joints(body: BodyModel, parameters: BodyParameters, present: Tensor) -> Float[np.ndarray, "people n 24 3"]:
    joints = body.joints(parameters.betas[:, None], parameters.poses, parameters.trans)
    joints[~present] = torch.nan
    return joints.numpy()


def _at_frames(parameters: BodyParameters, frames: list[int]) -> BodyParameters:
    return BodyParameters(parameters.betas, parameters.poses[:, frames], parameters.trans[:, frames])


def _floor(plan: Plan, sequence: Sequence, behind: np.ndarray) -> Floor:
    points = plan.joints.reshape(-1, 3)
    points = points[np.isfinite(points).all(axis=1)]
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    radius = 2.5 + 1.5 * float(np.linalg.norm(points - centre, axis=1).max())
    return Floor(sequence.up_vector, plan.ground, centre, radius, behind)


def _nearest_captures(
    sequence: Sequence, bodies: Bodies, plan: Plan, settings: FilmSettings
) -> list[tuple[int, int]]:
    """For each frame of the film the capture camera beside it (that asked for, or the nearest) and the frame."""
    names = sequence.cameras.names
    beside = settings.beside or (settings.path if settings.path in names else None)
    if beside is not None and beside not in names:
        raise InputError("no such camera", camera=beside, expected=", ".join(names), found=beside)
    apart = torch.cdist(plan.cameras.centres.double(), sequence.cameras.centres.double()).argmin(dim=1).tolist()
    # The bodies' clock starts at their first frame.
    clock = (sequence.frames - bodies.frames[0]) / bodies.fps
    frames = np.abs(plan.times[:, None] - clock[None]).argmin(axis=1).tolist()
    return [(c if beside is None else names.index(beside), f) for c, f in zip(apart, frames, strict=True)]


# ---- making ----


def _check(settings: FilmSettings, kind, behind, sequence: Sequence) -> None:
    for name, value in (("width", settings.width), ("height", settings.height)):
        if not SMALLEST_SIDE <= value <= LARGEST_SIDE:
            raise InputError(
                f"impossible {name} of the film", expected=f"{SMALLEST_SIDE} to {LARGEST_SIDE} pixels", found=value
            )
    if behind is None and kind is not None and kind.transparent is None:
        raise InputError(
            f"{settings.out.suffix} cannot be transparent", file=settings.out,
            expected=".webm, .mov, or a name without a suffix for a folder of PNG images", found=settings.out.name,
        )  # fmt: skip
    if behind is None and kind is not None and settings.layers != ["rgb"]:
        raise InputError("only the layer rgb is transparent", expected="rgb alone", found=", ".join(settings.layers))
    if kind is not None and kind.codec == "gif" and settings.fps > 50:
        raise InputError("too many frames per second for GIF", expected="at most 50", found=settings.fps)
    if "capture" in settings.layers and not sequence.has_images:
        raise InputError("no images to show beside the film", file=sequence.folder, expected="images/ or videos/")


def _even(settings: FilmSettings, kind, say: Callable[[str], None]) -> FilmSettings:
    width, height = settings.width, settings.height
    if kind is not None and kind.even:
        width, height = width + width % 2, height + height % 2
    if (width, height) == (settings.width, settings.height):
        return settings
    say(f"{settings.out.suffix} needs even sides: {width} x {height} instead of {settings.width} x {settings.height}")
    return replace(settings, width=width, height=height)


def _fingerprint(plan: Plan, settings: FilmSettings, nearest: list[tuple[int, int]] | None) -> str:
    """Of everything that decides what the frames look like."""
    digest = hashlib.sha256()
    arrays = [plan.cameras.K, plan.cameras.R, plan.cameras.t, plan.cameras.dist, plan.present]
    arrays += [plan.parameters.betas, plan.parameters.poses, plan.parameters.trans]
    for array in arrays:
        digest.update(array.numpy().tobytes())
    said = [settings.layers, settings.background, settings.width, settings.height, settings.fps, plan.ground, nearest]
    avatars = [sha256(actor.avatar) for actor in plan.cast]
    digest.update(repr((said, avatars, [actor.name for actor in plan.cast])).encode())
    return digest.hexdigest()


def _layers(
    picture: Picture, camera: Cameras, background, settings: FilmSettings, shown: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    made = {}
    for layer in settings.layers:
        if layer == "rgb":
            clear = background is None
            made[layer] = images.transparent_layer(picture) if clear else images.rgb_layer(picture, background)
        elif layer == "mask":
            made[layer] = images.mask_layer(picture)
        elif layer == "depth":
            made[layer] = images.depth_millimetres(picture)
        elif layer == "normals":
            made[layer] = images.normals_layer(picture, camera)
        else:
            made[layer] = images.capture_layer(shown["capture"], settings.width, settings.height)
    return made


def _finish(parts: Parts, plan: Plan, settings: FilmSettings, kind, redo: bool) -> None:
    if kind is not None:
        write_film(settings.out, _shown(parts, plan, settings), settings.fps, kind)
        parts.remove()
        return
    if settings.out.is_dir() and redo:
        shutil.rmtree(settings.out)
    # A folder of images: the parts themselves, with the cameras and the moments they show.
    plan.cameras.save(parts.folder / "cameras.json")
    about = {
        "fps": settings.fps, "layers": settings.layers, "people": [actor.name for actor in plan.cast],
        "moments": np.round(plan.times, 6), "depth_unit_mm": 1,
    }  # fmt: skip
    write_json(parts.folder / "film.json", about)
    if len(settings.layers) == 1:
        for path in sorted((parts.folder / settings.layers[0]).iterdir()):
            path.rename(parts.folder / path.name)
        (parts.folder / settings.layers[0]).rmdir()
    parts.folder.rename(settings.out)


def _shown(parts: Parts, plan: Plan, settings: FilmSettings) -> Iterator[np.ndarray]:
    """The frames of a video: the layers of each side by side."""
    near, far = _depth_range(plan)
    for i in range(len(plan.times)):
        row = []
        for layer in settings.layers:
            image = parts.read(layer, i)
            row.append(images.depth_layer(image, near, far) if layer == "depth" else image)
        yield np.hstack(row)


def _depth_range(plan: Plan) -> tuple[float, float]:
    """Nearest and farthest metres along the optical axes at which there are people in the film."""
    axis, offset = plan.cameras.R[:, 2].numpy(), plan.cameras.t[:, 2].numpy()
    depths = np.einsum("nj,pnkj->pnk", axis, plan.joints) + offset[:, None]
    return float(max(np.nanmin(depths) - DEPTH_MARGIN, 0.05)), float(np.nanmax(depths) + DEPTH_MARGIN)
