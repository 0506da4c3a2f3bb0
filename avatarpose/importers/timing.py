"""From each camera's frames to the common clock: offsets, rates, choice of frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from avatarpose.errors import InputError
from avatarpose.importers.media import Footage

_RATES_DIFFER = 0.01  # of a rate: less is how the headers of synchronised videos differ


@dataclass(frozen=True)
class Clip:
    """One camera's part in the sequence.

    Attributes:
        rows: its own frames that the sequence holds, as positions among all that it has; keypoints follow these.
        numbers: names of its images: the last numbers in the source's files. None for a video, which is taken whole.
        offset: for cameras.json.
        fps: for cameras.json; None on the common clock.
    """

    rows: tuple[int, ...]
    numbers: tuple[int, ...] | None
    offset: float = 0.0
    fps: float | None = None


@dataclass(frozen=True)
class Timing:
    """The common clock.

    Attributes:
        fps: its frames per second.
        frames: their number.
        clips: each camera's part.
        numbers: the source's number of each frame: of the images, or of the videos' frames.
    """

    fps: float
    frames: int
    clips: dict[str, Clip]
    numbers: tuple[int, ...]


def plan(
    footage: Mapping[str, Footage],
    fps: float | None,
    chosen: slice,
    offsets: Mapping[str, float],
    rates: Mapping[str, float],
    say: Callable[[str], None],
) -> Timing:
    """How the cameras' frames become those of a sequence.

    A camera with an offset or a rate keeps all its frames and its own clock, which `Sequence` resolves; so does a
    video of which not every frame is chosen, since videos are linked whole. Images on the common clock are matched by
    number where cameras number alike, else in order, and numbered anew from 0.

    Args:
        footage: by camera.
        fps: of the common clock; None takes the videos' own.
        chosen: frames of the common clock.
        offsets: the own frame, counted from its first, that shows frame 0 of the common clock.
        rates: frames per second of cameras that have their own.
        say: gets what was done where it is not plain.

    Raises:
        InputError: no rate known, no common frames, or a frame missing in between.
    """
    common = _common_rate(footage, fps, rates)
    rates = {**_own_rates(footage, common, rates, fps is None, say), **rates}
    own = {name for name in footage if offsets.get(name) or name in rates}
    numbers = _common_numbers({name: clip for name, clip in footage.items() if name not in own}, say)
    counts = {name: len(numbers[name]) if name in numbers else len(footage[name]) for name in footage}
    shared = {name: counts[name] for name in footage if name not in own}
    if shared:
        total = min(shared.values())
        if total < max(shared.values()):
            listed = ", ".join(f"{name} {count}" for name, count in shared.items())
            say(f"cameras have different numbers of frames ({listed}): the first {total} are used. "
                "If they did not start together, give --offset")  # fmt: skip
    else:
        total = min(
            int((counts[n] - 1 - offsets.get(n, 0.0)) * common / rates.get(n, common) + 0.5) + 1 for n in footage
        )
    frames = range(max(0, total))[chosen]
    if not len(frames):
        text = f"{chosen.start}:{chosen.stop}:{chosen.step}"
        raise InputError("no frames left", expected=f"some of 0 to {total - 1}", found=f"the selection {text}")
    first, step = frames[0], frames.step
    clips = {}
    for name, film in footage.items():
        whole = first == 0 and step == 1 and len(frames) == counts[name]
        if name not in own and not film.is_video:
            picked = [numbers[name][f] for f in frames]
            position = {number: row for row, number in enumerate(film.images)}
            clips[name] = Clip(tuple(position[n] for n in picked), tuple(picked))
        elif name not in own and whole:
            clips[name] = Clip(tuple(range(counts[name])), None)
        else:
            rate = rates.get(name, common)
            # Frame f of the sequence is common frame first + step f; Sequence computes f * fps_own / fps + offset.
            start = offsets.get(name, 0.0) + first * rate / common
            images = None if film.is_video else tuple(film.images)
            clips[name] = Clip(tuple(range(len(film))), images, start, rate)
    counted = next(iter(numbers.values()), range(total))
    return Timing(common / step, len(frames), clips, tuple(counted[f] for f in frames))


def _common_rate(footage: Mapping[str, Footage], fps: float | None, rates: Mapping[str, float]) -> float:
    if fps is not None:
        return fps
    known = [film.fps for name, film in footage.items() if film.fps and name not in rates]
    if not known:
        raise InputError("frames per second unknown: images do not say", expected="--fps", hint="Give --fps 30")
    return float(median(known))


def _own_rates(
    footage: Mapping[str, Footage], common: float, rates: Mapping[str, float], guess: bool, say: Callable[[str], None]
) -> dict[str, float]:
    """Rates of videos that clearly run at another one than the rest."""
    if not guess:
        return {}
    found = {}
    for name, film in footage.items():
        if name not in rates and film.fps and abs(film.fps / common - 1) > _RATES_DIFFER:
            found[name] = film.fps
            say(f"{name} runs at {film.fps:.4g} frames a second, the others at {common:.4g}: taken at its own rate")
    return found


def _common_numbers(footage: Mapping[str, Footage], say: Callable[[str], None]) -> dict[str, list[int]]:
    """Numbers of the images of each camera that show frames 0, 1, 2, ... of the common clock."""
    numbered = {name: list(film.images) for name, film in footage.items() if not film.is_video}
    if not numbered:
        return {}
    shared = sorted(set.intersection(*map(set, numbered.values())))
    counts = {len(numbers) for numbers in numbered.values()}
    if not shared:
        if len(counts) > 1:
            listed = ", ".join(f"{name} {n[0]} to {n[-1]}" for name, n in numbered.items())
            raise InputError("no frame that all cameras have", expected="common numbers, or equal counts",
                             found=listed, hint="Give --offset for cameras that started apart")  # fmt: skip
        say("cameras number their images differently; taken in order")
        for name, numbers in numbered.items():
            _check_steps(footage[name].path, name, numbers)
        return numbered
    first = next(iter(numbered))
    for name, numbers in numbered.items():
        lost = sorted(set(numbers) - set(shared))
        inside = [n for n in lost if shared[0] < n < shared[-1]]
        if inside:
            lacking = next(other for other, those in numbered.items() if inside[0] not in those)
            raise InputError("frame missing", file=footage[lacking].path, camera=lacking, frame=inside[0],
                             expected=f"an image, as {name} has one")  # fmt: skip
        if lost:
            say(f"{name}: {len(lost)} images outside of {shared[0]} to {shared[-1]}, which all cameras have, left out")
    _check_steps(footage[first].path, first, shared)
    return {name: shared for name in numbered}


def _check_steps(path: Path, camera: str, numbers: list[int]) -> None:
    """Raises InputError where a frame is missing in between: numbers must be equally far apart."""
    steps = [b - a for a, b in pairwise(numbers)]
    if not steps or min(steps) == max(steps):
        return
    k = next(k for k, step in enumerate(steps) if step > min(steps))
    raise InputError(
        "frame missing", file=path, camera=camera, frame=numbers[k] + min(steps),
        expected=f"every {min(steps)} from {numbers[0]} to {numbers[-1]}", found=f"{numbers[k]}, then {numbers[k + 1]}",
    )  # fmt: skip
