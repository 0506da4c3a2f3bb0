"""Images of another size than their calibration: cut, resized, or shrunk into a frame with bars; people tell which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from jaxtyping import Float, UInt8

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.importers.agreement import Pairs, directions, mean_error, mean_of_medians, pair_people, plane_errors
from avatarpose.importers.calibration import Calibration, SourceCamera

_MOST_COMBINATIONS = 100
_MOST_TOLD = 5
_CLEARLY = 0.92  # of the other error: real detections of one video prefer a wrong framing by 0.96 now and then
_BRIGHT = 20  # of 255: bars are darker
_BAR_SLACK = 2  # pixels


@dataclass(frozen=True)
class Framing:
    """How a camera's images come from the calibrated image: pixel = scale * calibrated pixel - (left, top).

    Attributes:
        name: in words.
        scale: 1 for a cut.
        left, top: what is missing there; negative where bars were added.
        size: (width, height) of the images.
    """

    name: str
    scale: float
    left: float
    top: float
    size: tuple[int, int]

    @property
    def nothing(self) -> bool:
        """Whether pixels of the calibrated image keep their coordinates (what was cut lies at the right or bottom)."""
        return self.scale == 1 and self.left == 0 and self.top == 0

    def move(self, keypoints: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """Keypoints (x, y, score) of the calibrated image in the image as it is."""
        result = keypoints.copy()
        result[..., :2] = result[..., :2] * self.scale - (self.left, self.top)
        return result

    def apply(self, camera: SourceCamera) -> SourceCamera:
        """The camera of such images."""
        to_image = np.array([[self.scale, 0, -self.left], [0, self.scale, -self.top], [0, 0, 1]])
        return replace(camera, K=to_image @ camera.K, size=self.size)


def cut(size: tuple[int, int], left: int, top: int, name: str = "") -> Framing:
    """A cut whose corner is at pixel (left, top) of the calibrated image."""
    return Framing(name or f"cut at ({left}, {top})", 1.0, float(left), float(top), size)


def framings(calibrated: tuple[int, int], size: tuple[int, int]) -> list[Framing]:
    """What may have been done to images calibrated with one size that now have another; the most likely one first."""
    (W, H), (w, h) = calibrated, size
    if calibrated == size:
        return [cut(size, 0, 0, "as calibrated")]
    found = []
    scale = min(w / W, h / H)
    left, top = (w - scale * W) / 2, (h - scale * H) / 2
    if max(left, top) < 1:  # the sides have the same ratio, to a pixel
        found.append(Framing(f"resized by {scale:.4g}", scale, -left, -top, size))
    else:
        where = "left and right" if left > top else "top and bottom"
        how = "shrunk" if scale < 1 else "enlarged" if scale > 1 else "framed"
        found.append(Framing(f"{how} whole, bars {where}", scale, -left, -top, size))
    if w <= W and h <= H:
        across = [(0, "right"), (W - w, "left"), ((W - w) // 2, "both sides")] if w < W else [(0, "")]
        down = [(0, "bottom"), (H - h, "top"), ((H - h) // 2, "top and bottom")] if h < H else [(0, "")]
        for (x, side), (y, end) in product(across, down):
            found.append(cut(size, x, y, "cut at " + " and ".join(s for s in (side, end) if s)))
    if not any(framing.nothing for framing in found):
        found.append(cut(size, 0, 0, "as calibrated"))  # what keypoints of the original images look like
    return found


def shows_bars(framing: Framing, calibrated: tuple[int, int], image: UInt8[np.ndarray, "height width 3"]) -> bool:
    """Whether an image is dark just where a whole picture in the middle of the frame would leave bars."""
    if framing.left >= 0 and framing.top >= 0:
        return False
    bright = image.max(-1).astype(float)
    shown = [np.flatnonzero(bright.mean(axis) > _BRIGHT) for axis in (0, 1)]
    if not all(len(s) for s in shown):
        return False
    found = (shown[0][0], shown[1][0], shown[0][-1] + 1, shown[1][-1] + 1)
    width, height = framing.size
    expected = (-framing.left, -framing.top, width + framing.left, height + framing.top)
    return float(np.abs(np.subtract(found, expected)).max()) <= _BAR_SLACK


@dataclass(frozen=True)
class Framed:
    """What was found.

    Attributes:
        calibration: of the images as they are.
        moved: cameras whose keypoints were detected in the calibrated image, before it was resized or shrunk, and how
            that was done; their keypoints must follow.
    """

    calibration: Calibration
    moved: dict[str, Framing]


def choose_framings(
    calibration: Calibration,
    sizes: Mapping[str, tuple[int, int]],
    crops: Mapping[str, tuple[int, int]],
    first_image: Callable[[str], UInt8[np.ndarray, "height width 3"]],
    keypoints: Sequence[Float[np.ndarray, "frames detections 17 3"]] | None,
    say: Callable[[str], None],
) -> Framed:
    """The calibration of the images as they are.

    Bars that are seen prove that a picture was shrunk whole. Beyond that people decide, by the epipolar error of their
    keypoints. Where these fit best as if nothing had been done, although the images were shrunk or resized, they were
    detected in the original images.

    Args:
        calibration: of the cameras that have footage.
        sizes: (width, height) of the footage by camera.
        crops: (left, top) by camera where the user knows them.
        first_image: one image of a camera.
        keypoints: one array a camera, at the same times, if there are any.
        say: gets what was found.

    Raises:
        InputError: an impossible crop; images turned by 90 degrees; several framings and nothing to choose by.
    """
    cameras = list(calibration.cameras)
    options: dict[int, list[Framing]] = {}
    for c, camera in enumerate(cameras):
        size = sizes.get(camera.name)
        if size is None:
            continue
        if camera.name in crops:
            framing = _declared(calibration, camera, size, crops[camera.name])
            cameras[c] = framing.apply(camera)
            say(f"{camera.name}: {framing.name} of the calibrated image, as asked for")
        elif camera.size is None:
            cameras[c] = replace(camera, size=size)
        elif camera.size != size:
            options[c] = _possible(calibration, camera, size)
    if not options:
        return Framed(replace(calibration, cameras=tuple(cameras)), {})
    best, errors = {}, {}
    if keypoints is not None:
        best, errors = _by_people(replace(calibration, cameras=tuple(cameras)), options, keypoints, say)
    moved = {}
    for c, list_of in options.items():
        camera = cameras[c]
        framing = _decide(calibration, camera, list_of, best.get(c), errors.get(c), first_image, say)
        if c in best and _earlier(list_of, framing, errors[c]):
            moved[camera.name] = framing
            say(f"{camera.name}: its keypoints were detected before that, and are moved with the images")
        cameras[c] = framing.apply(camera)
    return Framed(replace(calibration, cameras=tuple(cameras)), moved)


def _earlier(options: list[Framing], framing: Framing, errors: list[float]) -> bool:
    """Whether keypoints clearly fit the calibrated image better than the image as it is."""
    before = next(error for option, error in zip(options, errors, strict=True) if option.nothing)
    return not framing.nothing and before < _CLEARLY * errors[options.index(framing)]


def _decide(
    calibration: Calibration,
    camera: SourceCamera,
    options: list[Framing],
    best: Framing | None,
    errors: list[float] | None,
    first_image: Callable[[str], np.ndarray],
    say: Callable[[str], None],
) -> Framing:
    """What was done to the images of one camera."""
    bars = _barred(options, camera, first_image)
    size = options[0].size
    mismatch = f"{camera.name}: images are {size[0]}x{size[1]}, calibrated at {camera.size[0]}x{camera.size[1]}"
    resized = options[0].name.startswith("resized")
    if best is None:
        if bars is None and not resized:
            raise InputError(
                "images of another size than calibrated", file=calibration.path, camera=camera.name,
                expected="{}x{}".format(*camera.size), found="{}x{}".format(*size),
                hint=f"Say what was cut off: --crop {camera.name}=left,top. With --keypoints the people would tell",
            )  # fmt: skip
        say(f"{mismatch}: {bars.name}, which are seen" if bars else f"{mismatch}: {options[0].name}")
        return bars or options[0]
    ranked = sorted(zip(options, errors, strict=True), key=lambda pair: pair[1])[:_MOST_TOLD]
    told = ", ".join(f"{framing.name} {error:.2f}" for framing, error in ranked)
    say(f"{mismatch}; median epipolar error in pixels if {told}")
    if bars is not None:
        say(f"{camera.name}: {bars.name}, because the bars are seen")
        if best is not bars and not best.nothing:
            say(f"{camera.name}: but its keypoints fit better if {best.name}: look at the pictures; --crop overrides")
        return bars
    framing = options[0] if best.nothing and resized else best
    say(f"{camera.name}: {framing.name}, by the least error")
    return framing


def _declared(
    calibration: Calibration, camera: SourceCamera, size: tuple[int, int], corner: tuple[int, int]
) -> Framing:
    full = camera.size
    if full is not None and any(corner[i] + size[i] > full[i] for i in (0, 1)):
        raise InputError(
            "impossible crop", file=calibration.path, camera=camera.name, found="{},{}".format(*corner),
            expected=f"left + {size[0]} at most {full[0]}, top + {size[1]} at most {full[1]}",
        )  # fmt: skip
    return cut(size, *corner)


def _possible(calibration: Calibration, camera: SourceCamera, size: tuple[int, int]) -> list[Framing]:
    W, H = camera.size
    turned = abs(size[0] / size[1] - H / W) < abs(size[0] / size[1] - W / H)
    if turned and (W > H) != (size[0] > size[1]):
        raise InputError(
            "images lie on their side", file=calibration.path, camera=camera.name, expected=f"{W}x{H} as calibrated",
            found="{}x{}".format(*size), hint="Turn the video by 90 degrees, or calibrate turned images",
        )  # fmt: skip
    return framings(camera.size, size)


def _barred(
    options: list[Framing], camera: SourceCamera, first_image: Callable[[str], np.ndarray]
) -> Framing | None:
    candidates = [framing for framing in options if framing.left < -1 or framing.top < -1]
    if not candidates:
        return None
    image = first_image(camera.name)
    return next((framing for framing in candidates if shows_bars(framing, camera.size, image)), None)


def _by_people(
    calibration: Calibration,
    options: Mapping[int, list[Framing]],
    keypoints: Sequence[np.ndarray],
    say: Callable[[str], None],
) -> tuple[dict[int, Framing], dict[int, list[float]]]:
    """The framings with the least epipolar error, and each camera's error under each of its own.

    The error is the mean over pairs of cameras of each pair's median. All combinations are tried while they are few,
    else one camera after another. Who is paired with whom is decided once, as calibrated or as most likely: other
    framings differ from these by less than people do. A camera of the right size that disagrees with all others is not
    asked.
    """

    def with_(choice: Mapping[int, int]) -> Cameras:
        cameras = list(calibration.cameras)
        for c, k in choice.items():
            cameras[c] = options[c][k].apply(cameras[c])
        return replace(calibration, cameras=tuple(cameras)).as_cameras(1.0)

    start, people = _paired(with_, options, keypoints)
    if not any(set(options) & set(p.cameras) for p in people):
        return {}, {}
    odd = _odd_camera(with_(start), people, set(options))
    if odd is not None:
        say(f"{calibration.names[odd]}: disagrees with the other cameras, and is not asked about the others' framing")
        people = [p for p in people if odd not in p.cameras]
    trial = _Trial(calibration, options, people)
    best = start
    if int(np.prod([len(o) for o in options.values()])) <= _MOST_COMBINATIONS:
        every = [dict(zip(options, ks, strict=True)) for ks in product(*(range(len(o)) for o in options.values()))]
        best = min(every, key=lambda choice: trial.error(choice, set(options)))
    else:
        for _ in range(2):
            for c in options:
                tried = [trial.error({**best, c: k}, {c}) for k in range(len(options[c]))]
                best = {**best, c: int(np.argmin(tried))}
    errors = {c: [trial.error({**best, c: k}, {c}) for k in range(len(options[c]))] for c in options}
    return {c: options[c][k] for c, k in best.items()}, errors


def _paired(
    with_: Callable[[Mapping[int, int]], Cameras], options: Mapping[int, list[Framing]], keypoints: Sequence[np.ndarray]
) -> tuple[dict[int, int], list[Pairs]]:
    """People paired as calibrated, or with each camera's most likely framing: whichever pairs more of them."""
    found = []
    for start in (
        {c: next(k for k, framing in enumerate(o) if framing.nothing) for c, o in options.items()},
        dict.fromkeys(options, 0),
    ):
        cameras = with_(start)
        people = [p for p in pair_people(cameras, keypoints) if len(p.frames)]
        found.append((sum(len(p.frames) for p in people), -mean_error(cameras, people), start, people))
    return max(found, key=lambda one: one[:2])[2:]


class _Trial:
    """Errors of combinations of framings; each camera's rays are cast once for each of its framings."""

    def __init__(self, calibration: Calibration, options: Mapping[int, list[Framing]], people: Sequence[Pairs]) -> None:
        self.people = people
        self.rigs: dict[tuple[int, int], Cameras] = {}
        """By camera and framing: the rig with that one camera framed so."""
        self.rays: dict[tuple[int, int, int], np.ndarray] = {}
        """By camera, framing and pair."""
        for c in range(len(calibration.cameras)):
            for k, framing in enumerate(options.get(c, [None])):
                cameras = list(calibration.cameras)
                if framing is not None:
                    cameras[c] = framing.apply(cameras[c])
                self.rigs[c, k] = replace(calibration, cameras=tuple(cameras)).as_cameras(1.0)
                for n, p in enumerate(people):
                    if c in p.cameras:
                        pixels = p.pixels[p.cameras.index(c)]
                        self.rays[c, k, n] = directions(self.rigs[c, k], c, pixels)

    def error(self, choice: Mapping[int, int], of: set[int]) -> float:
        """Mean error of the pairs that cameras `of` take part in, with each camera framed as chosen (by index)."""
        errors = []
        for n, p in enumerate(self.people):
            if of & set(p.cameras):
                a, b = p.cameras
                ka, kb = choice.get(a, 0), choice.get(b, 0)
                errors.append(plane_errors(self.rigs[a, ka], p.cameras, self.rays[a, ka, n], self.rays[b, kb, n]))
        return mean_of_medians(errors)


def _odd_camera(cameras: Cameras, people: Sequence[Pairs], unknown: set[int]) -> int | None:
    """A camera of known framing without which the error falls by a quarter or more; None if there is none."""
    count = len(cameras)
    everyone = mean_error(cameras, people)
    without = {
        c: mean_error(cameras, [p for p in people if c not in p.cameras]) for c in range(count) if c not in unknown
    }
    if count < 4 or not without or len(without) < 2:
        return None
    odd = min(without, key=lambda c: np.inf if np.isnan(without[c]) else without[c])
    return odd if without[odd] < 0.75 * everyone else None
