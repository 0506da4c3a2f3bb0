"""What the images and masks say: exposure, colour, sharpness, masks that do not fit; and the overlays to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from avatarpose.check.analysis import Analysis
from avatarpose.check.coverage import missing_masks
from avatarpose.check.exposure import Look, boxes, measure
from avatarpose.check.findings import Level, Section
from avatarpose.check.people import leave_one_out_positions
from avatarpose.markup import picture, table
from avatarpose.sequence import FOREGROUND, Sequence

_SAMPLES = 3  # images of each camera that are looked at; the first and the last are shown
_TILE = 380  # pixels, the longer side of a picture on the page
_STOPS, _COLOUR, _SATURATED, _DARK, _BLURRED = 1.0, 0.8, 0.12, 0.4, 0.35
_OUTSIDE = 0.4  # share of the detected joints outside the mask from which the two do not belong together
_EPIPOLAR_JOINTS = (9, 10)  # wrists: they move most, so time and place show
_MOST_LINES, _DASHES = 4, 40


def sample_frames(sequence: Sequence, found: Analysis | None, count: int = _SAMPLES) -> list[int]:
    """Indices of frames spread over those that were looked at."""
    frames = np.arange(len(sequence.frames)) if found is None else found.frames
    places = np.linspace(0, len(frames) - 1, min(count, len(frames)) + 2)[1:-1] if len(frames) > 2 else [0]
    return [int(i) for i in np.unique(frames[np.round(places).astype(int)])]


def files(sequence: Sequence) -> Section:
    """Images, masks and keypoints: what is there and what is missing."""
    section = Section("Files")
    names, frames = sequence.cameras.names, len(sequence.frames)
    section.add("files", Level.GO, f"{len(names)} cameras, {frames} frames at {sequence.fps:g} per second")
    if not sequence.has_images:
        section.add(
            "files", Level.WARNING, "there are no images: `estimate` and `register` will do, `refine` will not",
            "Put them into images/<camera>/ or videos/<camera>.mp4",
        )  # fmt: skip
    missing = missing_masks(sequence)
    if sequence.has_images and missing.all() and missing.sum() == frames * len(names):
        section.add(
            "files", Level.WARNING, "there are no masks, which `refine` needs", f"avatarpose segment {sequence.folder}"
        )
    elif sequence.has_images and missing.any():
        few = ", ".join(f"{n} of {name}" for n, name in zip(missing, names, strict=True) if n)
        section.add("files", Level.WARNING, f"masks are missing: {few} frames", f"avatarpose segment {sequence.folder}")
    absent = [name for c, name in enumerate(names) if not sequence.keypoints_path(c).is_file()]
    if absent:
        which = "there are no 2D keypoints" if len(absent) == len(names) else f"no 2D keypoints of {', '.join(absent)}"
        section.add(
            "files", Level.NO_GO, f"{which}, so time, calibration and coverage cannot be checked",
            f"avatarpose detect {sequence.folder}",
        )  # fmt: skip
    section.data = {
        "cameras": len(names),
        "frames": frames,
        "fps": sequence.fps,
        "images": sequence.has_images,
        "masks_missing": dict(zip(names, missing.tolist(), strict=True)),
        "keypoints_missing": absent,
    }
    return section


def pictures(sequence: Sequence, found: Analysis | None, say: Callable[[int, int, str], None] | None = None) -> Section:
    """Exposure and masks measured on a few images, and the overlays."""
    section = Section("Pictures")
    frames = sample_frames(sequence, found)
    count, looks, outside, tiles = len(sequence.cameras), [], [], []
    shown = {0, len(frames) - 1}
    odd = frozenset() if found is None else frozenset(o.camera for o in found.calibration.odd)
    odd = odd if count - len(odd) > 2 else frozenset()
    for c in range(count):
        images, people, missed = [], [], []
        where = None if found is None or count < 3 else leave_one_out_positions(found.people, c, odd - {c})
        for number, f in enumerate(frames):
            image = sequence.image(c, f) if sequence.has_images else None
            detected = _detected(sequence, c, f)
            mask = sequence.mask(c, f)
            if image is not None:
                images.append(image)
                people.append(boxes(detected, image.shape[1], image.shape[0]))
            if mask is not None and np.isfinite(detected).all(-1).any():
                missed.append(_outside(mask, detected))
            if number in shown:
                tiles.append(_overlay(sequence, found, c, f, image, mask, where))
        looks.append(measure(images, people) if images else None)
        outside.append(float(np.mean(missed)) if missed else float("nan"))
        if say is not None:
            say(c + 1, count, "pictures")
    _say_masks(section, sequence, outside)
    if sequence.has_images:
        _say_looks(section, sequence, looks)
    section.blocks += _legend(found), "".join(tiles)
    section.data["joints_outside_masks"] = dict(zip(sequence.cameras.names, outside, strict=True))
    return section


def _detected(sequence: Sequence, c: int, f: int) -> Float[np.ndarray, "rows 17 2"]:
    if not sequence.has_keypoints:
        return np.zeros((0, 17, 2))
    rows = sequence.keypoints2d[c, f]
    return np.where(np.isfinite(rows).all(-1, keepdims=True), rows[..., :2], np.nan)


def _outside(mask: UInt8[np.ndarray, "height width"], detected: Float[np.ndarray, "rows 17 2"]) -> float:
    """Share of the joints that lie neither in nor beside the mask's people."""
    points = detected[np.isfinite(detected).all(-1)]
    reach = max(3, round(0.01 * max(mask.shape)))
    near = cv2.dilate((mask > 0).astype(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    at = np.clip(np.floor(points).astype(int), 0, (mask.shape[1] - 1, mask.shape[0] - 1))
    return float((near[at[:, 1], at[:, 0]] == 0).mean())


def _say_masks(section: Section, sequence: Sequence, outside: list[float]) -> None:
    wrong = [(n, v) for n, v in zip(sequence.cameras.names, outside, strict=True) if v > _OUTSIDE]
    for name, value in wrong:
        section.add(
            "masks", Level.WARNING, f"{100 * value:.0f} % of the joints detected in {name} lie outside its masks",
            "Masks of other frames, another camera or another size? Or people nobody masked: see the overlays",
        )  # fmt: skip
    if np.isfinite(outside).any() and not wrong:
        section.add(
            "masks",
            Level.GO,
            f"masks and detections belong together ({100 * np.nanmax(outside):.0f} % outside at most)",
        )


def _say_looks(section: Section, sequence: Sequence, looks: list[Look]) -> None:
    names = sequence.cameras.names
    middle = {key: float(np.median([getattr(k, key) for k in looks])) for key in ("stops", "red", "blue", "sharpness")}
    before = len(section.findings)
    for name, look in zip(names, looks, strict=True):
        stops = look.stops - middle["stops"]
        if abs(stops) > _STOPS:
            word = "brighter" if stops > 0 else "darker"
            section.add(
                "exposure", Level.WARNING, f"people are {abs(stops):.1f} stops {word} in {name} than in the middle one",
                "The refinement corrects colour per camera; equal exposure is better",
            )  # fmt: skip
        tint = max(abs(look.red - middle["red"]), abs(look.blue - middle["blue"]))
        if tint > _COLOUR:
            section.add(
                "exposure", Level.WARNING, f"{name} has another white balance than the others "
                f"(red {look.red - middle['red']:+.2f}, blue {look.blue - middle['blue']:+.2f} stops against green)",
                "Fix the white balance of all cameras when filming; the refinement corrects some of it",
            )  # fmt: skip
        if look.saturated > _SATURATED:
            section.add(
                "exposure", Level.WARNING, f"{100 * look.saturated:.0f} % of the people are overexposed in {name}"
            )
        if look.dark > _DARK:
            section.add("exposure", Level.WARNING, f"{100 * look.dark:.0f} % of the people are black in {name}")
        if look.sharpness < _BLURRED * middle["sharpness"]:
            section.add(
                "exposure", Level.WARNING, f"{name} is less sharp than the others ({look.sharpness:.2f} against "
                f"{middle['sharpness']:.2f})", "Out of focus, or moving in a long exposure",
            )  # fmt: skip
    if len(section.findings) == before:
        section.add("exposure", Level.GO, "brightness, colour and sharpness are alike in all cameras")
    header = ["camera", "brightness, stops", "red", "blue", "overexposed", "black", "sharpness"]
    rows = [
        [
            name, *(f"{getattr(k, key) - middle[key]:+.2f}" for key in ("stops", "red", "blue")),
            f"{100 * k.saturated:.1f} %", f"{100 * k.dark:.1f} %", f"{k.sharpness:.2f}",
        ]
        for name, k in zip(names, looks, strict=True)
    ]  # fmt: skip
    section.blocks.append(table(header, rows))
    section.blocks.append(
        '<p class="note">On the people, against the middle camera; colours in stops against green.</p>'
    )
    section.data["exposure"] = {name: asdict(look) for name, look in zip(names, looks, strict=True)}


def _legend(found: Analysis | None) -> str:
    words = (
        "White: outline of the mask; yellow: unknown in the mask. Grey skeletons: detections of nobody in particular."
    )
    if found is not None:
        words += (
            " Coloured skeletons: detections of one person in all cameras. Circles: where the other cameras put the "
            "joint, tied to what was detected. Dashed: epipolar lines of the wrists as other cameras see them; they "
            "should pass through the wrists here."
        )
    return f'<p class="note">{words}</p>'


# ---- overlays ----


def _overlay(
    sequence: Sequence, found: Analysis | None, c: int, f: int, image: np.ndarray | None, mask: np.ndarray | None,
    where: np.ndarray | None,
) -> str:  # fmt: skip
    """One view at one frame, with all that is known of it drawn in."""
    # The viewer stands above this package, so it is imported where it draws.
    from viewer.overview import COLOURS, draw_skeletons

    left, top, right, bottom = _window(sequence, c, f)
    scale = _TILE / max(right - left, bottom - top)
    size = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))

    def place(points: np.ndarray) -> np.ndarray:
        return (points - (left, top)) * (np.array(size) / (right - left, bottom - top))

    if image is None:
        tile = np.full((size[1], size[0], 3), 60, np.uint8)
    else:
        flag = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        tile = cv2.resize(image[top:bottom, left:right], size, interpolation=flag)
    if mask is not None:
        small = cv2.resize(mask[top:bottom, left:right], size, interpolation=cv2.INTER_NEAREST)
        for level, colour in ((1, (255, 220, 0)), (FOREGROUND, (255, 255, 255))):
            edges, _ = cv2.findContours((small >= level).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(tile, edges, -1, colour, 1)
    at = None if found is None else np.flatnonzero(found.frames == f)
    rows = _detected(sequence, c, f)
    owner = np.full(len(rows), -1)
    if at is not None and len(at):
        for p, row in enumerate(found.people.rows[c, at[0]]):
            # Rows are of the corrected time; the row nearest to the person's joints here is his.
            if row >= 0 and len(rows):
                joints = found.people.detected[c, at[0], p]
                apart = np.linalg.norm(rows - joints, axis=-1)
                known = np.isfinite(apart).sum(-1) >= 3
                mean = np.where(known, np.nanmean(np.where(known[:, None], apart, 0.0), -1), np.inf)
                if np.isfinite(mean).any():
                    owner[int(np.argmin(mean))] = p
    alone = place(rows[owner < 0])
    tile = _grey_skeletons(tile, alone)
    people = int(owner.max()) + 1 if len(owner) else 0
    drawn = np.full((people, 17, 2), np.nan)
    for row, p in enumerate(owner):
        if p >= 0:
            drawn[p] = place(rows[row])
    tile = draw_skeletons(tile, drawn, np.ones(drawn.shape[:2]))
    if at is not None and len(at):
        if where is not None:
            _draw_misses(tile, place(where[:, at[0]]), drawn)
        _draw_epipolar(tile, sequence, found, c, int(at[0]), place, COLOURS)
    return picture(tile, f"{sequence.cameras.names[c]}, frame {sequence.frames[f]}")


def _window(sequence: Sequence, c: int, f: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of the image around everybody detected; all of it where nobody is."""
    width, height = int(sequence.cameras.width[c]), int(sequence.cameras.height[c])
    known = _detected(sequence, c, f).reshape(-1, 2)
    known = known[np.isfinite(known).all(-1)]
    if len(known) < 5:
        return 0, 0, width, height
    low, high = known.min(0), known.max(0)
    margin = 0.25 * float((high - low).max())
    left, top = np.clip(np.floor(low - margin), 0, (width - 2, height - 2)).astype(int)
    right, bottom = np.clip(np.ceil(high + margin), (left + 2, top + 2), (width, height)).astype(int)
    return int(left), int(top), int(right), int(bottom)


def _grey_skeletons(tile: np.ndarray, rows: np.ndarray) -> np.ndarray:
    from viewer.overview import draw_skeletons

    if not len(rows):
        return tile
    changed = draw_skeletons(np.zeros_like(tile), rows, np.ones(rows.shape[:2]), 1).max(-1) > 90
    tile[changed] = (190, 190, 190)
    return tile


def _draw_misses(tile: np.ndarray, where: np.ndarray, detected: np.ndarray) -> None:
    for p, joints in enumerate(where):
        for j, point in enumerate(joints):
            if not np.isfinite(point).all() or (np.abs(point) > 1e4).any():
                continue
            centre = tuple(int(v) for v in np.round(point))
            if p < len(detected) and np.isfinite(detected[p, j]).all():
                end = tuple(int(v) for v in np.round(detected[p, j]))
                cv2.line(tile, centre, end, (255, 60, 60), 1, cv2.LINE_AA)
            cv2.circle(tile, centre, 3, (255, 255, 255), 1, cv2.LINE_AA)


def _draw_epipolar(
    tile: np.ndarray, sequence: Sequence, found: Analysis, c: int, at: int, place: Callable, colours: tuple
) -> None:
    """The wrists' rays of other cameras as they would appear here, through the lens as it is."""
    people, cameras = found.people, found.people.cameras
    others = [o for o in range(len(cameras)) if o != c]
    points, owners = [], []
    for p, joints in enumerate(people.joints[:, at]):
        wanted = [(o, j) for o in others for j in _EPIPOLAR_JOINTS if np.isfinite(people.detected[o, at, p, j]).all()]
        wanted = [(o, j) for o, j in wanted if np.isfinite(joints[j]).all()][:_MOST_LINES]
        for o, j in wanted:
            origins, rays = cameras[[o]].rays(torch.from_numpy(people.detected[o, at, p, j])[None])
            depth = float(np.linalg.norm(joints[j] - origins[0].numpy()))
            along = torch.linspace(0.8, 1.2, _DASHES, dtype=torch.float64) * depth
            points.append(origins[0] + along[:, None] * rays[0])
            owners.append(p)
    if not points:
        return
    where, z = cameras[[c]].project(torch.stack(points))
    ends = place(where[0].numpy())
    good = (z[0].numpy() > 0.1) & (np.abs(ends) < 5 * _TILE).all(-1)
    for p, line, fine in zip(owners, np.round(ends), good, strict=True):
        for k in range(0, _DASHES - 1, 2):
            if fine[k] and fine[k + 1]:
                first, second = (tuple(int(v) for v in line[i]) for i in (k, k + 1))
                cv2.line(tile, first, second, colours[p % len(colours)], 1, cv2.LINE_AA)
