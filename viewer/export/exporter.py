"""Writing the people of a result in any of the formats: what each needs, which files it makes, none overwritten."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from avatarpose.body import BodyModel, load_body
from avatarpose.errors import InputError
from avatarpose.io import write_bytes, write_npz
from avatarpose.results import Bodies
from avatarpose.sequence import UP_VECTORS, Sequence, parse_frames
from viewer.export.amass import amass
from viewer.export.bvh import bvh
from viewer.export.glb import glb
from viewer.export.markers import trc, write_c3d
from viewer.export.meshes import obj, ply
from viewer.export.scene import UNITS, Axes, Person, Scene, make_scene, skinning_error
from viewer.export.surfaces import placed, surfaces
from viewer.export.usd import INFLUENCES, usda, usdc

Progress = Callable[[int, int, str], None]
NEGLIGIBLE = 1e-4
"""Metres: a surface that differs by less is not spoken of."""


@dataclass(frozen=True)
class Format:
    """What a format is like."""

    suffixes: tuple[str, ...]
    axes: Axes
    """Up axis and unit, unless asked otherwise."""
    files: Literal["one", "person", "frame"]
    """One file for all, one a person, or one a person and frame."""
    surface: bool = False
    """Whether it holds people's surfaces."""
    ups: tuple[str, ...] = tuple(UP_VECTORS)
    units: tuple[str, ...] = tuple(UNITS)


FORMATS = {
    "glb": Format((".glb",), Axes("y", "m"), "one", surface=True),
    "usd": Format((".usda", ".usdc"), Axes("y", "m"), "one", surface=True, ups=("y", "z")),
    "bvh": Format((".bvh",), Axes("y", "cm"), "person"),
    "amass": Format((".npz",), Axes("z", "m"), "person", units=("m",)),
    "trc": Format((".trc",), Axes("y", "mm"), "person"),
    "c3d": Format((".c3d",), Axes("z", "mm"), "one"),
    "ply": Format((".ply",), Axes("y", "m"), "frame", surface=True),
    "obj": Format((".obj",), Axes("y", "m"), "frame", surface=True),
}


@dataclass(frozen=True)
class ExportSettings:
    """What is to be written."""

    format: str
    out: Path
    which: Literal["refined", "initial"] = "refined"
    people: tuple[str, ...] = ()
    """Names; none: everybody."""
    frames: str = ""
    """a:b:s in frame numbers of the common clock."""
    unit: str = "auto"
    up: str = "auto"
    surface: Literal["auto", "body", "avatar", "volume"] = "auto"
    body: Path | None = None
    redo: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written, and what the user should know about it."""

    files: list[Path]
    notes: list[str]


def export_people(folder: Path, settings: ExportSettings, progress: Progress = lambda *_: None) -> Exported:
    """Writes people of a sequence's results.

    Args:
        folder: the sequence folder.
        progress: called with the number of steps done and of all, and what is being done.

    Raises:
        InputError: no such format, result, person or frame; a file that is there already; an axis or unit that the
            format does not know; a missing package.
    """
    form = FORMATS.get(settings.format)
    if form is None:
        raise InputError("no such format", expected=", ".join(FORMATS), found=settings.format)
    axes = _axes(settings, form)
    sequence = Sequence.open(folder, least_cameras=1)
    body = load_body(settings.body)
    bodies = chosen(sequence.results / f"{settings.which}.npz", settings.people, settings.frames)
    scene = make_scene(sequence.name, sequence.up, bodies, body, axes)
    targets = list(_targets(scene, form, settings))
    _keep(settings.out, [path for path, *_ in targets], settings.redo)
    notes = _format_notes(settings.format, scene)
    if form.surface:
        scene, more = _with_surfaces(scene, sequence, body, bodies, settings, progress)
        notes += more
    for done, (path, person, frame) in enumerate(targets):
        progress(done, len(targets), path.name)
        _write(settings.format, path, scene, person, frame)
    progress(len(targets), len(targets), "")
    return Exported([path for path, *_ in targets], notes)


def chosen(path: Path, people: tuple[str, ...] = (), frames: str = "") -> Bodies:
    """A result's bodies, of some people and frames.

    Raises:
        InputError: the file is absent or damaged, or has no such person or frame.
    """
    if not path.is_file():
        command = "refine" if path.stem == "refined" else "register"
        raise InputError("no such result", file=path, hint=f"`avatarpose {command}` makes it")
    bodies = Bodies.load(path)
    if len(set(bodies.people)) != len(bodies.people) or (np.diff(bodies.frames) <= 0).any():
        raise InputError("people twice, or frames out of order", file=path)
    for name in people:
        if name not in bodies.people:
            raise InputError(f"no such person: {name}", file=path, expected=", ".join(bodies.people))
    p = [bodies.people.index(name) for name in dict.fromkeys(people)] or list(range(len(bodies.people)))
    part = parse_frames(frames) if frames else slice(None)
    start, stop, step = part.start or 0, part.stop, part.step or 1
    f = (bodies.frames >= start) & ((bodies.frames - start) % step == 0)
    f &= True if stop is None else bodies.frames < stop
    if not f.any() or not p:
        there = f"{bodies.frames[0]} to {bodies.frames[-1]}" if len(bodies.frames) else "none"
        raise InputError("nothing there to export", file=path, expected=f"frames of {there}", found=frames or "all")
    arrays = {name: getattr(bodies, name)[p][:, f] for name in ("poses", "trans", "joints", "keypoints", "valid")}
    names = [bodies.people[index] for index in p]
    return replace(bodies, people=names, frames=bodies.frames[f], betas=bodies.betas[p], **arrays)


def _axes(settings: ExportSettings, form: Format) -> Axes:
    """The file's axes and unit."""
    up, unit = settings.up, settings.unit
    axes = Axes(form.axes.up if up == "auto" else up, form.axes.unit if unit == "auto" else unit)
    for kind, found, known in (("up axis", axes.up, form.ups), ("unit", axes.unit, form.units)):
        if found not in known:
            raise InputError(f"{settings.format} has no such {kind}", expected=" or ".join(known), found=found)
    return axes


def _targets(scene: Scene, form: Format, settings: ExportSettings) -> Iterator[tuple[Path, Person | None, int | None]]:
    """The files to be written, each with its person and frame index where it is of one."""
    out, suffix = settings.out, form.suffixes[0]
    if form.files == "one":
        if out.suffix.lower() not in form.suffixes:
            raise InputError(f"not a file of format {settings.format}", file=out, expected=" or ".join(form.suffixes))
        yield out, None, None
        return
    if out.suffix.lower() == suffix:
        what = "person" if form.files == "person" else "person and frame"
        if len(scene.people) > 1 or form.files == "frame":
            raise InputError(f"a folder is needed, for one file a {what}", file=out, hint="Name one with --out")
        yield out, scene.people[0], None
        return
    if out.exists() and not out.is_dir():
        raise InputError("not a folder", file=out, hint="Name a folder with --out")
    for person in scene.people:
        name = re.sub(r"[^\w.-]", "_", person.name)
        if form.files == "person":
            yield out / f"{name}{suffix}", person, None
            continue
        for frame in np.nonzero(person.valid)[0]:
            yield out / f"{name}_{scene.frames[frame]:06d}{suffix}", person, int(frame)


def _keep(out: Path, paths: list[Path], redo: bool) -> None:
    """Raises InputError where a file is there already, unless it may be replaced, or two people share one."""
    if len(set(paths)) < len(paths):
        raise InputError("two names make one file name", file=out, hint="Export them one by one: --people")
    there = [path for path in paths if path.exists()]
    if there and (not redo or any(path.is_dir() for path in there)):
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        hint = "Choose another --out" if redo else "Replace it with --redo, or choose another --out"
        raise InputError(f"is there already{more}", file=there[0], hint=hint)


def _with_surfaces(
    scene: Scene, sequence: Sequence, body: BodyModel, bodies: Bodies, settings: ExportSettings, progress: Progress
) -> tuple[Scene, list[str]]:
    """The scene with everybody's surface, and notes on it."""
    notes, kind = [], settings.surface
    learned = all((sequence.results / "avatars" / f"{name}.safetensors").is_file() for name in bodies.people)
    if kind == "auto":
        kind = "avatar" if learned and settings.which == "refined" else "body"
    if kind == "body" and not learned:
        notes.append("plain colours: there are no avatars; `avatarpose refine` makes them")
    posedirs = body.posedirs if kind == "body" else None
    found = surfaces(sequence, body, list(bodies.people), bodies.betas, kind, progress)
    people = [
        replace(person, surface=placed(one, scene.axes, posedirs))
        for person, one in zip(scene.people, found, strict=True)
    ]
    scene = replace(scene, people=people)
    notes.append(f"surface: {kind}, {', '.join(f'{len(p.surface.vertices)} vertices' for p in people)}")
    if FORMATS[settings.format].files == "one":
        notes += _skinning_notes(scene, 8 if settings.format == "glb" else INFLUENCES, settings.format == "glb")
    return scene, notes


def _skinning_notes(scene: Scene, influences: int, four_at_first: bool) -> list[str]:
    """How far the surfaces as written, and as simple readers see them, are from the exact ones."""

    def worst(count: int) -> float:
        errors = [skinning_error(person, scene.parents, person.surface.limited(count)) for person in scene.people]
        return max(errors) / scene.axes.scale

    notes, error = [], worst(influences)
    if error > NEGLIGIBLE:
        notes.append(f"the body bends in ways the format cannot keep: up to {1000 * error:.1f} mm off")
    if four_at_first and max(person.surface.influences for person in scene.people) > 4:
        notes.append(f"programs that read four joints a vertex only will be up to {1000 * worst(4):.1f} mm off")
    return notes


def _format_notes(name: str, scene: Scene) -> list[str]:
    """What a user should know of this format with these options."""
    notes = [f"{scene.axes.up} up, {scene.axes.unit}, {len(scene.frames)} frames at {scene.fps:g} a second"]
    if name == "glb" and scene.axes != FORMATS["glb"].axes:
        notes.append("glTF is y up and in metres: programs that trust that will show this turned or resized")
    if name == "amass" and not scene.smpl:
        notes.append("written for SMPL's average shape; this body's own values are in body_betas, ..._poses, ..._trans")
    absent = [person.name for person in scene.people if not person.valid.all()]
    if absent:
        ways = {"trc": "left blank", "c3d": "marked invalid", "ply": "left out", "obj": "left out"}
        way = ways.get(name, "hidden" if name in ("glb", "usd") else "held at the pose before")
        notes.append(f"frames without {', '.join(absent)} are {way}")
    return notes


def _write(name: str, path: Path, scene: Scene, person: Person | None, frame: int | None) -> None:
    # The surface was added to the scene's people after the targets had been listed.
    person = None if person is None else next(one for one in scene.people if one.name == person.name)
    if name == "c3d":
        write_c3d(path, scene)
    elif name == "amass":
        write_npz(path, **amass(scene, person))
    elif name == "usd":
        text = usda(scene)
        write_bytes(path, usdc(text) if path.suffix.lower() == ".usdc" else text)
    elif name == "glb":
        write_bytes(path, glb(scene))
    elif name in ("bvh", "trc"):
        write_bytes(path, {"bvh": bvh, "trc": trc}[name](scene, person))
    else:
        write_bytes(path, {"ply": ply, "obj": obj}[name](scene, person, frame))
