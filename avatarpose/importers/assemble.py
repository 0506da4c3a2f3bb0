"""From a folder of other tools' files to a sequence folder: all of it, or nothing.

Everything is put together in a hidden folder beside the target, opened once as a `Sequence`, and then renamed.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.importers.agreement import BodyEvidence, body_evidence, pair_people
from avatarpose.importers.calibration import Calibration, find_calibration, read_calibration
from avatarpose.importers.crop import choose_framings
from avatarpose.importers.keypoints import find_keypoint_sources, guess_keypoint_format, read_keypoints_of
from avatarpose.importers.masks import import_masks
from avatarpose.importers.media import Footage, find_footage, match_footage, place
from avatarpose.importers.settings import (
    ImportSettings,
    check_cameras,
    corner_pairs,
    number_pairs,
    pairs,
    parse_size,
)
from avatarpose.importers.timing import Clip, Timing, plan
from avatarpose.importers.units import metres_per_unit, rig_extent, up_axis
from avatarpose.io import read_json, write_json, write_npz
from avatarpose.progress import progress_bar
from avatarpose.sequence import Sequence as Capture
from avatarpose.sequence import parse_frames

if TYPE_CHECKING:
    from avatarpose.datasets import Recording

_MOST_OUTSIDE = 0.2
"""Share of a camera's keypoints that may lie outside of its image."""


@dataclass
class Parts:
    """What was found for each camera, before anything is written."""

    calibration: Calibration
    footage: dict[str, Footage]
    timing: Timing
    keypoints: dict[str, np.ndarray]


def import_sequence(settings: ImportSettings, console: Console | None = None) -> Path:
    """Makes the sequence folder, or adds parts to one that is there (`settings.add`).

    Returns:
        The sequence folder.

    Raises:
        InputError: something given cannot be used; nothing has been written then.
    """
    console = console or Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    target = settings.sequence
    recording = None
    if settings.format != "auto":
        from avatarpose.datasets import add_truth, prepare

        recording = prepare(_found_in_source(settings), say)
        settings = recording.settings
    elif settings.split:
        raise InputError("--split is of a data set", expected="--format", found=settings.split)
    if not settings.source.exists():
        raise InputError("no such folder", file=settings.source)
    settings = _found_in_source(settings)
    exists = (target / "sequence.json").exists()
    if settings.add:
        if not exists:
            raise InputError("no sequence to add to", file=target, expected="a folder with sequence.json")
        return _add(settings, console, say)
    if exists:
        raise InputError("there is a sequence already", file=target, expected="a new folder",
                         hint="Choose another, or add what it lacks with --add")  # fmt: skip
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError("would write into something else", file=target, expected="a new or empty folder")
    parts = _collect(settings, console, say, recording)
    cameras, up = _place_in_world(settings, parts, say)
    with _beside(target) as folder:
        _write(settings, parts, cameras, up, folder, console)
        numbers = {name: parts.timing.clips[name].numbers or range(len(parts.timing.clips[name].rows))
                   for name in cameras.names}  # fmt: skip
        _extras(settings, folder, cameras, numbers, parts.timing.numbers, console, say)
        if recording is not None:
            add_truth(recording, folder, parts.timing.numbers, say)
        _check(folder, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder, target)
    for film in parts.footage.values():
        film.close()
    _report(console, cameras, parts, up, target)
    return target


def _found_in_source(settings: ImportSettings) -> ImportSettings:
    """With paths that are not there taken as paths in the source folder, where they are."""
    changed = {}
    for key in ("calibration", "footage", "keypoints", "masks", "fits"):
        path = getattr(settings, key)
        if path is not None and not path.exists() and (settings.source / path).exists():
            changed[key] = settings.source / path
    return replace(settings, **changed)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A new folder beside the target, gone afterwards unless it was renamed."""
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.tmp"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# ---- finding and reading ----


def _collect(
    settings: ImportSettings, console: Console, say: Callable[[str], None], recording: Recording | None = None
) -> Parts:
    """Calibration, footage and keypoints of the cameras that have them, on one clock."""
    calibration = (recording and recording.calibration) or _calibration(settings, say)
    for note in calibration.notes:
        say(note)
    footage = (recording and recording.footage) or _footage(settings, calibration, say)
    if footage:
        calibration = calibration.select(list(footage))
    elif settings.keypoints is None:
        raise InputError("neither footage nor keypoints", file=settings.source, expected="videos, images or keypoints",
                         hint="Say where the footage is: --footage FOLDER")  # fmt: skip
    offsets = number_pairs(settings.offset, "--offset", "cam01=2.5")
    rates = number_pairs(settings.rate, "--rate", "cam01=59.94", above=0)
    check_cameras(calibration.names, offset=offsets, rate=rates)
    if settings.fps is not None and not (np.isfinite(settings.fps) and settings.fps > 0):
        raise InputError("impossible --fps", expected="above 0", found=settings.fps)
    chosen = parse_frames(settings.frames) if settings.frames else slice(None)
    rows = _read_keypoints(settings, calibration.names, {n: len(f) for n, f in footage.items()}, console)
    if footage:
        timing = plan(footage, settings.fps, chosen, offsets, rates, say)
    else:
        timing = _timing_of_keypoints(settings, rows, chosen, offsets, rates)
    kept = {name: rows[name][list(timing.clips[name].rows)] for name in rows}
    return Parts(calibration, footage, timing, kept)


def _calibration(settings: ImportSettings, say: Callable[[str], None]) -> Calibration:
    if settings.calibration is not None:
        found = read_calibration(settings.calibration, settings.calibration_format)
    elif settings.source.is_dir():
        found = find_calibration(settings.source, settings.calibration_format)
    else:
        found = read_calibration(settings.source, settings.calibration_format)
    say(f"calibration: {found.path} ({found.format}), {len(found.cameras)} cameras")
    if settings.cameras:
        names = [name.strip() for name in settings.cameras.split(",") if name.strip()]
        check_cameras(found.names, cameras=dict.fromkeys(names))
        found = found.select([name for name in found.names if name in names])
    size = parse_size(settings.size)
    if size is not None:
        found = replace(found, cameras=tuple(replace(c, size=c.size or size) for c in found.cameras))
    return found


def _footage(settings: ImportSettings, calibration: Calibration, say: Callable[[str], None]) -> dict[str, Footage]:
    root = settings.footage or (settings.source if settings.source.is_dir() else settings.source.parent)
    found = find_footage(root, asked=settings.footage is not None)
    mapping = pairs(settings.map, "--map", "SOURCE=cam01")
    if not found:
        if mapping:
            raise InputError("--map, but no footage", file=root, expected="videos or images")
        return {}
    if settings.cameras:  # footage of cameras that are not wanted is no stranger
        everyone = _all_cameras(settings)
        theirs = match_footage(list(found), everyone, mapping, lambda text: None)
        found = {source: found[source] for camera, source in theirs.items() if camera in calibration.names}
        mapping = {source: camera for source, camera in mapping.items() if source in found}
    say(f"footage: {len(found)} {'videos' if next(iter(found.values())).is_video else 'folders of images'} in "
        f"{next(iter(found.values())).path.parent}")  # fmt: skip
    matched = match_footage(list(found), calibration, mapping, say)
    if len(matched) < 2:
        raise InputError("too few cameras with footage", file=root, expected="at least 2",
                         found=", ".join(matched) or "none")  # fmt: skip
    return {camera: found[source] for camera, source in matched.items()}


def _all_cameras(settings: ImportSettings) -> Calibration:
    return _calibration(replace(settings, cameras=""), lambda text: None)


def _read_keypoints(
    settings: ImportSettings, names: tuple[str, ...], counts: Mapping[str, int], console: Console
) -> dict[str, np.ndarray]:
    """(F, D, 17, 3) by camera, a row for each of its own frames."""
    if settings.keypoints is None:
        return {}
    root = settings.keypoints
    format = guess_keypoint_format(root) if settings.keypoints_format == "auto" else settings.keypoints_format
    sources = find_keypoint_sources(root, names)
    found = {}
    with progress_bar(console, "keypoints") as update:
        for k, name in enumerate(names):
            update(k, len(names), name)
            found[name] = read_keypoints_of(sources[name], format, name, counts.get(name))
    return found


def _timing_of_keypoints(
    settings: ImportSettings,
    rows: Mapping[str, np.ndarray],
    chosen: slice,
    offsets: Mapping[str, float],
    rates: Mapping[str, float],
) -> Timing:
    """The clock of a sequence without images."""
    if settings.fps is None:
        raise InputError("frames per second unknown: keypoints do not say", expected="--fps", hint="Give --fps 30")
    if offsets or rates:
        raise InputError("--offset and --rate need footage", expected="videos or images")
    counts = {name: len(found) for name, found in rows.items()}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise InputError("different frame counts", file=settings.keypoints, expected="as many in every camera",
                         found=listed)  # fmt: skip
    frames = range(next(iter(counts.values())))[chosen]
    if not len(frames):
        raise InputError("no frames left", file=settings.keypoints, found=settings.frames or "no frames")
    clip = Clip(tuple(frames), None)
    return Timing(settings.fps / frames.step, len(frames), dict.fromkeys(rows, clip), tuple(frames))


# ---- cameras in metres, of the images as they are ----


def _place_in_world(settings: ImportSettings, parts: Parts, say: Callable[[str], None]) -> tuple[Cameras, str]:
    """The cameras of the sequence, and which axis is up; moves keypoints that were detected in other images."""
    crops = corner_pairs(settings.crop)
    check_cameras(parts.calibration.names, crop=crops)
    if crops and not parts.footage:
        raise InputError("--crop needs footage", expected="videos or images, which say how large the crop is")
    names = parts.calibration.names
    sizes = {name: film.size for name, film in parts.footage.items()}
    aligned = _aligned(parts) if parts.keypoints else None
    framed = choose_framings(
        parts.calibration, sizes, crops, lambda name: parts.footage[name].first, aligned, say
    )
    for name, framing in framed.moved.items():
        parts.keypoints[name] = framing.move(parts.keypoints[name]).astype(np.float32)
    parts.calibration = calibration = framed.calibration
    in_units = calibration.as_cameras(1.0)
    bodies = _bodies(in_units, _aligned(parts)) if parts.keypoints else None
    metres = metres_per_unit(calibration, settings.unit, bodies, say)
    cameras = calibration.as_cameras(metres)
    up = up_axis(calibration, cameras, settings.up, bodies, say)
    if bodies is not None and len(bodies.heights):
        say(f"people are about {np.median(bodies.heights) * metres:.2f} m tall")
    _check_inside(settings, cameras, parts.keypoints)
    clips = [parts.timing.clips[name] for name in names]
    fps = torch.tensor([np.nan if clip.fps is None else clip.fps for clip in clips], dtype=torch.float64)
    offset = torch.tensor([clip.offset for clip in clips], dtype=torch.float64)
    return replace(cameras, fps=fps, offset=offset), up


def _aligned(parts: Parts) -> list[np.ndarray]:
    """The keypoints of all cameras at the frames of the sequence, the nearest own frame of each."""
    result = []
    for name in parts.calibration.names:
        rows, clip, fps = parts.keypoints[name], parts.timing.clips[name], parts.timing.fps
        if clip.fps is None:
            result.append(rows)
            continue
        own = np.floor(np.arange(parts.timing.frames) * clip.fps / fps + clip.offset + 0.5).astype(int)
        inside = (own >= 0) & (own < len(rows))
        result.append(np.where(inside[:, None, None, None], rows[own.clip(0, len(rows) - 1)], np.nan))
    return result


def _bodies(cameras: Cameras, aligned: list[np.ndarray]) -> BodyEvidence:
    return body_evidence(cameras, pair_people(cameras, aligned))


def _check_inside(settings: ImportSettings, cameras: Cameras, keypoints: Mapping[str, np.ndarray]) -> None:
    """Raises InputError where many keypoints lie outside of the images: they are of other images, or normalised."""
    for c, name in enumerate(cameras.names):
        if name not in keypoints:
            continue
        x, y = keypoints[name][..., 0], keypoints[name][..., 1]
        known = np.isfinite(x)
        outside = known & ((x < 0) | (y < 0) | (x > float(cameras.width[c])) | (y > float(cameras.height[c])))
        if known.any() and outside.sum() > _MOST_OUTSIDE * known.sum():
            raise InputError(
                "keypoints outside of the image", file=settings.keypoints, camera=name,
                expected=f"most within {int(cameras.width[c])}x{int(cameras.height[c])}",
                found=f"{outside.sum() / known.sum():.0%} outside, up to {np.nanmax(x):.0f}, {np.nanmax(y):.0f}",
                hint="Are they of these images? --crop says where an image was cut",
            )  # fmt: skip


# ---- writing ----


def _write(
    settings: ImportSettings, parts: Parts, cameras: Cameras, up: str, folder: Path, console: Console
) -> None:
    """The sequence folder without masks and fits."""
    timing = parts.timing
    header = {"fps": timing.fps, "frames": timing.frames, "unit": "m", "up": up, "people": settings.people}
    write_json(folder / "sequence.json", header)
    cameras.save(folder / "cameras.json")
    files: list[tuple[Path, Path]] = []
    for name, film in parts.footage.items():
        clip = timing.clips[name]
        if film.is_video:
            files.append((film.path, folder / "videos" / f"{name}{film.path.suffix.lower()}"))
        else:
            for new, number in enumerate(clip.numbers or ()):
                source = film.images[number]
                files.append((source, folder / "images" / name / f"{new:06d}{source.suffix.lower()}"))
    with progress_bar(console, settings.media) as update:
        for done, (source, target) in enumerate(files):
            place(source, target, settings.media == "copy")
            update(done + 1, len(files), target.parent.name)
    for name, rows in parts.keypoints.items():
        write_npz(folder / "keypoints2d" / f"{name}.npz", keypoints=rows.astype(np.float32))


def _extras(
    settings: ImportSettings,
    folder: Path,
    cameras: Cameras,
    numbers: Mapping[str, Sequence[int]],
    frames: Sequence[int],
    console: Console,
    say: Callable[[str], None],
) -> None:
    """Masks and body fits, into a folder that has sequence.json and cameras.json."""
    if settings.masks is not None:
        sizes = {name: (int(cameras.width[c]), int(cameras.height[c])) for c, name in enumerate(cameras.names)}
        with progress_bar(console, "masks") as update:
            report = import_masks(settings.masks, folder, cameras.names, numbers, sizes, update)
        people = f", and of {', '.join(report.people)}" if report.people else ""
        say(f"masks of all people together{people}")
        for name, missing in report.missing.items():
            say(f"{name}: {len(missing)} frames without a mask, the first one {missing[0]}")
    if settings.fits is not None:
        from avatarpose.body import load_body
        from avatarpose.importers.fits import read_fits

        body = load_body(settings.body)
        header = read_json(folder / "sequence.json")
        bodies = read_fits(settings.fits, settings.fits_format, body, header["fps"], header["up"], frames, say)
        if not np.array_equal(bodies.frames, np.arange(header["frames"])):
            raise InputError("fits of other frames", file=settings.fits, expected=f"frames 0 to {header['frames'] - 1}",
                             found=f"{len(bodies.frames)} frames")  # fmt: skip
        bodies.save(folder / "results" / "initial.npz")


def _check(folder: Path, target: Path) -> None:
    """Opens the new folder as whoever uses it will. Raises InputError in the target's name."""
    try:
        sequence = Capture.open(folder)
        if sequence.has_keypoints:
            _ = sequence.keypoints2d
        sequence.close()
    except InputError as error:
        raise InputError(str(error).replace(str(folder), str(target))) from None


# ---- adding to a sequence ----


def _add(settings: ImportSettings, console: Console, say: Callable[[str], None]) -> Path:
    """Adds keypoints, masks or fits that a sequence lacks."""
    target = settings.sequence
    sequence = Capture.open(target)
    wanted = {"keypoints2d": settings.keypoints, "masks": settings.masks, "results/initial.npz": settings.fits}
    wanted = {part: source for part, source in wanted.items() if source is not None}
    if not wanted:
        raise InputError("nothing to add", file=target, expected="--keypoints, --masks or --fits")
    for part in wanted:
        place_of = target / part
        if place_of.is_file() or (place_of.is_dir() and any(place_of.iterdir())):
            raise InputError("is there already", file=place_of, expected="a part that the sequence lacks",
                             hint="Move it away first")  # fmt: skip
    cameras, own = sequence.cameras, _own_frames(sequence)
    frames = int(read_json(target / "sequence.json")["frames"])
    sequence.close()
    with _beside(target) as folder:
        for name in ("sequence.json", "cameras.json"):
            shutil.copyfile(target / name, folder / name)
        if settings.keypoints is not None:
            rows = _read_keypoints(settings, cameras.names, own, console)
            _check_inside(settings, cameras, rows)
            for name, found in rows.items():
                write_npz(folder / "keypoints2d" / f"{name}.npz", keypoints=found.astype(np.float32))
        numbers = {name: range(count) for name, count in own.items()}
        _extras(settings, folder, cameras, numbers, range(frames), console, say)
        for part in wanted:
            (target / part).parent.mkdir(exist_ok=True)
            if (target / part).is_dir():
                (target / part).rmdir()
            os.replace(folder / part, target / part)
    say(f"{target}: added {', '.join(wanted)}")
    return target


def _own_frames(sequence: Capture) -> dict[str, int]:
    """How many frames of its own each camera has."""
    found = {}
    for c, name in enumerate(sequence.cameras.names):
        path = sequence.image_path(c, 0)
        if path is not None:
            found[name] = len(Footage(name, path.parent, _numbered(path.parent)))
        elif sequence.has_images:
            film = next((sequence.folder / "videos").glob(f"{name}.*"))
            found[name] = len(Footage(name, film, {}))
        else:
            found[name] = int(sequence.frames[-1]) + 1
    return found


def _numbered(folder: Path) -> dict[int, Path]:
    return {int(path.stem): path for path in folder.iterdir() if path.stem.isdigit()}


# ---- what is said at the end ----


def _report(console: Console, cameras: Cameras, parts: Parts, up: str, target: Path) -> None:
    timing = parts.timing
    kinds = {"videos" if film.is_video else "images" for film in parts.footage.values()}
    what = " and ".join(sorted(kinds)) or "no images"
    if parts.keypoints:
        seen = np.concatenate([np.isfinite(k).all(-1).any(-1).sum(-1) for k in parts.keypoints.values()])
        what += f", {seen.mean():.1f} detections an image"
    console.print(
        f"{target}: {len(cameras)} cameras up to {rig_extent(cameras.centres.numpy()):.2f} m apart, {timing.frames} "
        f"frames at {timing.fps:.4g} a second, {up} up, {what}", highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
