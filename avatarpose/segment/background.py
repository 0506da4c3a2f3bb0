"""People before a static background: what differs from the empty scene, cleaned by a graph cut.

The model holds, per pixel, the median colour of the frames that show it with nobody near (or of an empty-scene plate)
and a robust standard deviation. A frame's difference is split into a change of brightness along the background's own
colour and a change of colour across it (Horprasert, Harwood and Davis, "A statistical approach for real-time robust
background subtraction and shadow detection", 1999): a cast shadow changes the brightness alone. GrabCut (Rother,
Kolmogorov and Blake 2004) then decides what the difference leaves open, and alone where a pixel was never seen empty,
there seeded by where the bodies or joints are.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Items
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from avatarpose.errors import InputError
from avatarpose.io import read_image
from avatarpose.segment.base import FrameMasks, Step
from avatarpose.segment.config import BackgroundConfig, SegmentConfig
from avatarpose.segment.people import People, Zones, distance_to
from avatarpose.sequence import FOREGROUND, UNKNOWN, Sequence

PLATE_SUFFIXES = (".png", ".jpg", ".jpeg")
_STRIP = 32  # rows at a time, for the memory


@dataclass
class BackgroundModel:
    """The empty scene as one camera sees it.

    Attributes:
        colour: (H, W, 3) grey levels.
        deviation: (H, W, 3) standard deviation, grey levels.
        seen: (H, W) whether the pixel was ever seen empty; elsewhere the colour means nothing.
    """

    colour: Float[np.ndarray, "height width 3"]
    deviation: Float[np.ndarray, "height width 3"]
    seen: Bool[np.ndarray, "height width"]

    @classmethod
    def from_plate(cls, plate: UInt8[np.ndarray, "height width 3"], config: BackgroundConfig) -> BackgroundModel:
        colour = plate.astype(np.float32)
        noise = np.zeros_like(colour)
        return cls(colour, _deviation(colour, noise, config), np.ones(plate.shape[:2], bool))

    @classmethod
    def from_clip(
        cls,
        images: Items[UInt8[np.ndarray, "height width 3"]],
        near: Items[Bool[np.ndarray, "height width"]],
        config: BackgroundConfig,
    ) -> BackgroundModel:
        """From frames and, for each, where somebody may be: the median of the others.

        Passing shadows are looked through: where the samples differ in brightness alone, the brighter ones count, and
        the deviation is that of the colour across the brightness.
        """
        height, width = near[0].shape
        stack, hidden = np.stack(images, axis=2), np.stack(near, axis=2)  # (H, W, N, 3), (H, W, N)
        colour, noise = np.zeros((height, width, 3), np.float32), np.zeros((height, width, 3), np.float32)
        count = (~hidden).sum(-1)
        for top in range(0, height, _STRIP):
            rows = slice(top, top + _STRIP)
            samples, out = stack[rows].astype(np.float32), hidden[rows]
            middle = _quantile(samples, out, count[rows], 0.5)
            along = (samples * middle[:, :, None]).sum(-1) / np.maximum((middle**2).sum(-1), 1.0)[..., None]
            across = np.abs(samples - along[..., None] * middle[:, :, None])
            noise[rows] = 1.4826 * _quantile(across, out, count[rows], 0.5)
            lit = _quantile(along[..., None], out, count[rows], 0.75)
            colour[rows] = np.where(lit > config.lit_again, lit, 1.0) * middle
        # Samples of several colours show more than the background: somebody who was not detected.
        agree = cv2.blur(noise.max(-1), (3, 3)) < config.largest_noise
        seen = (count >= min(config.least_seen, len(images))) & agree
        return cls(colour, _deviation(colour, noise, config), seen)


def _quantile(values: np.ndarray, hidden: np.ndarray, count: np.ndarray, share: float) -> np.ndarray:
    """Quantile along axis 2 of (H, W, N, K) float32 over what is not hidden (H, W, N); 0 where all is."""
    ordered = np.where(hidden[..., None], np.float32(np.inf), values)
    ordered.sort(axis=2)
    place = share * (np.maximum(count, 1) - 1)
    low, high = (
        np.take_along_axis(ordered, rounded.astype(np.int64)[..., None, None], axis=2)[:, :, 0]
        for rounded in (np.floor(place), np.ceil(place))
    )
    return np.where(count[..., None] > 0, (low + high) / 2, 0).astype(np.float32)


def _deviation(colour: np.ndarray, noise: np.ndarray, config: BackgroundConfig) -> np.ndarray:
    # Few frames make a rough estimate; a neighbourhood's is steadier.
    noise = cv2.blur(noise, (5, 5))
    across, down = cv2.Sobel(colour, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(colour, cv2.CV_32F, 0, 1, scale=1 / 8)
    edges = config.edge_tolerance * np.hypot(across, down)
    light = config.brightness_tolerance * colour
    return np.sqrt(noise**2 + edges**2 + light**2 + config.noise_floor**2).astype(np.float32)


def read_plate(folder: Path, camera: str, size: tuple[int, int]) -> UInt8[np.ndarray, "height width 3"]:
    """The empty-scene picture of one camera.

    Args:
        folder: with `<camera>.png` or .jpg.
        camera: the camera's name.
        size: (width, height) that it must have.

    Raises:
        InputError: no such picture, a damaged one, or one of another size.
    """
    if not folder.is_dir():
        raise InputError("no such folder of empty-scene pictures", file=folder, expected="<camera>.png a camera")
    found = [path for suffix in PLATE_SUFFIXES if (path := folder / f"{camera}{suffix}").is_file()]
    if not found:
        raise InputError("no empty-scene picture", file=folder, camera=camera, expected=f"{camera}.png or .jpg")
    plate = read_image(found[0])
    if plate.shape[1::-1] != size:
        raise InputError(
            "empty-scene picture of another size than the images", file=found[0], camera=camera,
            expected="{} x {} pixels".format(*size), found="{} x {}".format(*plate.shape[1::-1]),
        )  # fmt: skip
    return plate


@dataclass
class Difference:
    """How a frame differs from the empty scene; (H, W) each.

    Attributes:
        distance: of the colours, in standard deviations.
        shadow: whether it could be the background in another light: in shadow, or out of the shadow it was learned in.
    """

    distance: Float[np.ndarray, "height width"]
    shadow: Bool[np.ndarray, "height width"]


def exposure(
    image: UInt8[np.ndarray, "height width 3"], model: BackgroundModel, empty: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, " 3"]:
    """How much brighter a frame's channels are than the model's where the scene is surely empty; 1 where none is."""
    shared = empty & model.seen
    if shared.sum() < 500:
        return np.ones(3, np.float32)
    ratio = np.median(image[shared] / np.maximum(model.colour[shared], 1.0), axis=0)
    return np.clip(ratio, 0.5, 2.0).astype(np.float32)


def difference(
    image: UInt8[np.ndarray, "height width 3"],
    model: BackgroundModel,
    gain: Float[np.ndarray, " 3"],
    config: BackgroundConfig,
) -> Difference:
    """Compares a frame with the model, whose exposure is matched by `gain`."""
    pixels = image.astype(np.float32)
    behind = model.colour * gain
    weight = 1 / model.deviation**2
    own = np.maximum((behind**2 * weight).sum(-1), 1e-6)
    brightness = (pixels * behind * weight).sum(-1) / own
    colour = np.sqrt(((pixels - brightness[..., None] * behind) ** 2 * weight).sum(-1))
    distance = np.sqrt(((pixels - behind) ** 2 * weight).sum(-1))
    low, high = config.shadow
    shaded = (brightness > low) & (brightness < high) & (colour < config.shadow_colour)
    # Colours spread more as they get brighter, so what is lit anew must keep the background's more closely.
    lit = (brightness > 1) & (brightness < config.lit) & (colour < config.lit_colour)
    return Difference(distance, shaded | lit)


def segment_frame(
    image: UInt8[np.ndarray, "height width 3"],
    model: BackgroundModel,
    zones: Zones,
    band: int,
    config: BackgroundConfig,
) -> UInt8[np.ndarray, "height width"]:
    """The mask of one frame: 255 people, 0 background, 128 where the evidence does not decide.

    Args:
        image, model, zones: of one size.
        band: width of the unknown band on either side of an uncertain edge, pixels.
        config: thresholds.
    """
    result = np.zeros(image.shape[:2], np.uint8)
    if not zones.sure.any():
        return result
    gain = exposure(image, model, ~zones.near)
    box = _box(zones.near, 16)
    image, zones = image[box], Zones(zones.sure[box], zones.close[box], zones.near[box], zones.exact)
    part = BackgroundModel(model.colour[box], model.deviation[box], model.seen[box])
    found = difference(image, part, gain, config)
    labels = _labels(found, part.seen, zones, config)
    decided = _cut(image, labels, config.iterations)
    inside = keep_parts_with(decided, zones.sure)
    result[box] = _with_unknown(inside, found, part.seen, zones, band, config)
    return result


def _labels(found: Difference, seen: np.ndarray, zones: Zones, config: BackgroundConfig) -> np.ndarray:
    """GrabCut's labels: certain where the difference is clear, probable elsewhere."""
    behind = seen & (found.distance < config.surely_behind)
    differs = seen & ~behind & ~found.shadow
    labels = np.full(seen.shape, cv2.GC_PR_BGD, np.uint8)
    labels[(zones.close & ~seen) | differs | (zones.close & seen & found.shadow & ~behind)] = cv2.GC_PR_FGD
    labels[behind] = cv2.GC_BGD
    labels[differs & (found.distance > config.surely_before)] = cv2.GC_FGD
    if zones.exact:  # beside a known body, another light is no reason to see more of it
        labels[seen & found.shadow & ~zones.close] = cv2.GC_BGD
    labels[zones.sure & ~behind] = cv2.GC_FGD
    labels[zones.sure & behind] = cv2.GC_PR_FGD
    labels[~zones.near] = cv2.GC_BGD
    return labels


def _cut(image: np.ndarray, labels: np.ndarray, iterations: int) -> Bool[np.ndarray, "height width"]:
    decided = labels.copy()
    every = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    if every.any() and not every.all():
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(image[..., ::-1].copy(), decided, None, *models, iterations, cv2.GC_INIT_WITH_MASK)
    return np.isin(decided, (cv2.GC_FGD, cv2.GC_PR_FGD))


def keep_parts_with(
    inside: Bool[np.ndarray, "height width"], seeds: Bool[np.ndarray, "height width"]
) -> Bool[np.ndarray, "height width"]:
    """The connected parts of a mask that hold a seed: what moves and holds no joint is nobody."""
    _, parts = cv2.connectedComponents(inside.astype(np.uint8), connectivity=4)
    wanted = np.unique(parts[seeds & inside])
    return np.isin(parts, wanted[wanted > 0])


def _with_unknown(
    inside: np.ndarray,
    found: Difference,
    seen: np.ndarray,
    zones: Zones,
    band: int,
    config: BackgroundConfig,
) -> UInt8[np.ndarray, "height width"]:
    """The mask with a band along the stretches of its contour that no clear difference backs on both sides."""
    behind = seen & (found.distance < config.surely_behind)
    before = seen & (found.distance > config.surely_before) & ~found.shadow
    contour = distance_to(inside) + distance_to(~inside) <= 1.5  # the pixels on either side of it
    backed = seen & (found.distance > (config.surely_behind + config.surely_before) / 2) & inside
    reach = band + 1.5  # the pixels at an edge are mixtures of both sides
    doubtful = contour & ((distance_to(backed) > reach) | (distance_to(behind & ~inside) > reach))
    unknown = distance_to(doubtful) <= band
    # The cut and the difference contradict each other.
    unknown |= inside & behind & ~zones.sure
    unknown |= ~inside & before & zones.close
    # It may be a shadow, or what the cut took for a person where it had only the body to go by.
    unknown |= inside & ~zones.close & seen & found.shadow
    if zones.exact:
        unknown |= inside & ~zones.close & ~seen
    result = np.where(inside, FOREGROUND, 0).astype(np.uint8)
    result[unknown] = UNKNOWN
    return result


def _box(region: np.ndarray, margin: int) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    return (
        slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + 1 + margin),
        slice(max(int(columns[0]) - margin, 0), int(columns[-1]) + 1 + margin),
    )


class BackgroundSegmenter:
    """`Segmenter` that needs no weights; see the module's docstring. The cameras must stand still."""

    def __init__(self, people: People, config: SegmentConfig) -> None:
        self.people, self.config = people, config
        self._notes: dict[int, dict[str, float]] = {}
        # The whole clip makes the model, whichever frames are chosen, if people were looked for in all of it.
        sequence = people.sequence
        whole = Sequence.open(sequence.folder, sequence.cameras.names, least_cameras=1)
        more = whole.has_keypoints and len(whole.frames) > len(sequence.frames)
        self.clip = People(whole, config.bodies, people.body_path) if more else people

    def camera(self, c: int, frames: list[int], step: Step) -> Iterator[tuple[int, FrameMasks]]:
        if not frames:
            return
        sequence = self.people.sequence
        size = tuple(int(v) for v in self.people.image_size(c))
        scale = min(1.0, self.config.background.working_size / max(size))
        model = self._model(c, scale, step)
        self._notes[c] = {"never_seen_pixels": int((~model.seen).sum() / scale**2), "frames": 0, "fallback_share": 0.0}
        for f in frames:
            image = shrunk(sequence.image(c, f), model.seen.shape)
            zones = self.people.zones(c, f, scale)
            mask = segment_frame(image, model, zones, self.config.band_width(image.shape[:2]), self.config.background)
            notes = self._notes[c]
            notes["frames"] += 1
            share = float((zones.close & ~model.seen).sum() / max(int(zones.close.sum()), 1))
            notes["fallback_share"] += (share - notes["fallback_share"]) / notes["frames"]
            yield f, FrameMasks(enlarged(mask, size))

    def notes(self, c: int) -> dict[str, float]:
        return self._notes.get(c, {})

    def _model(self, c: int, scale: float, step: Step) -> BackgroundModel:
        config, camera = self.config.background, self.people.sequence.cameras.names[c]
        small = self.people.sequence.cameras[c].scaled(scale)
        shape = (int(small.height[0]), int(small.width[0]))
        if self.config.plates is not None:
            size = tuple(int(v) for v in self.people.image_size(c))
            return BackgroundModel.from_plate(shrunk(read_plate(self.config.plates, camera, size), shape), config)
        clip = self.clip.sequence
        own = clip.cameras.names.index(camera)
        count = len(clip.frames)
        chosen = np.unique(np.linspace(0, count - 1, min(count, config.clip_frames)).round().astype(int)).tolist()
        images, near, zones = [], [], []
        for f in chosen:
            step(f"{camera} background")
            images.append(shrunk(clip.image(own, f), shape))
            near.append(self.clip.anyone_near(own, f, scale))
            zones.append(self.clip.zones(own, f, scale))
        model = BackgroundModel.from_clip(images, near, config)
        # Once more, with what the first model found in place of all that is near: far more pixels are seen empty.
        band = self.config.band_width(shape)
        covered = []
        for image, around, zone in zip(images, near, zones, strict=True):
            step(f"{camera} background")
            found = segment_frame(image, model, zone, band, config) > 0
            covered.append(around & (zone.close | (distance_to(found) <= band + 3)))
        return BackgroundModel.from_clip(images, covered, config)


def shrunk(image: UInt8[np.ndarray, "height width 3"], shape: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """The image at (height, width), averaged; itself where it has that size."""
    return image if image.shape[:2] == shape else cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)


def enlarged(mask: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
    """A mask at (width, height), its edges smooth and its values still the three."""
    if mask.shape[::-1] == size:
        return mask
    parts = (cv2.resize((mask == v).astype(np.float32), size, interpolation=cv2.INTER_LINEAR) for v in (255, 128))
    foreground, unknown = parts
    result = np.where(foreground + unknown / 2 > 0.5, FOREGROUND, 0).astype(np.uint8)
    result[unknown > 0.5] = UNKNOWN
    return result
