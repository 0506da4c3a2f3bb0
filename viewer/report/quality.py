"""Figures that need no truth, for every person and frame of a result, and what speaks against trusting a frame."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from avatarpose.body.contact import penetration
from avatarpose.body.silhouette import depth_map
from avatarpose.sequence import FOREGROUND, UNKNOWN
from avatarpose.skeletons import COCO17, LIMB_JOINTS, LIMBS
from optimize.uncertainty import FILE, Uncertainty
from viewer.data import ViewerData
from viewer.measure import Errors, errors, known_mean

_LIMBS = COCO17.indices(LIMB_JOINTS)
_LIMB_ENDS = [(COCO17.index(a), COCO17.index(b)) for limbs in LIMBS.values() for a, b in limbs]
MOST_FRAMES = 24
"""Silhouettes and interpenetration are found in this many frames at most, evenly spread."""
# What is far from usual: multiples of the median over the sequence, and amounts below which nothing is said.
ERROR_RATIO, LEAST_ERROR = 2.0, {"px": 12.0, "mm": 40.0}
DEVIATION_RATIO, LEAST_DEVIATION = 2.0, 20.0  # mm
JITTER_RATIO, LEAST_JITTER = 4.0, 80.0  # m/s^2; dancers' limbs have a median of 20
IOU_DROP = 0.10
DEEP = 30.0  # mm


@dataclass
class Quality:
    """One kind of result (`initial` or `refined`), P people, F frames, C cameras; NaN where nothing can be said.

    Attributes:
        errors: distance from the truth or from the 2D keypoints.
        iou: (C, F) of the bodies' silhouettes with the masks; clothes and hair keep it below 1.
        limb_spread: (P, F) mm, mean deviation of the limbs' lengths from their medians.
        jitter: (P, F) m/s^2, mean acceleration of the limb joints.
        depth: (P, F) mm, deepest point in or of another body.
        volume: (P, F) litres shared with other bodies.
        deviation: (P, F) mm, standard deviation of the limb joints, root mean square over joints and axes.
    """

    kind: str
    errors: Errors | None
    iou: Float[np.ndarray, "cameras frames"]
    limb_spread: Float[np.ndarray, "people frames"]
    jitter: Float[np.ndarray, "people frames"]
    depth: Float[np.ndarray, "people frames"]
    volume: Float[np.ndarray, "people frames"]
    deviation: Float[np.ndarray, "people frames"]
    reasons: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    """(frame index, person index) to what speaks against trusting that person there; the worst frames come last."""


def measure(data: ViewerData, kind: str) -> Quality:
    """All figures of one kind of result."""
    people, frames = len(data.people), len(data.frames)
    joints = data.joints[kind]
    quality = Quality(
        kind=kind,
        errors=errors(data, kind),
        iou=np.full((len(data.sequence.cameras), frames), np.nan),
        limb_spread=limb_spread(joints),
        jitter=jitter(joints[:, :, _LIMBS], data.fps),
        depth=np.full((people, frames), np.nan),
        volume=np.full((people, frames), np.nan),
        deviation=_deviations(data) if kind == "refined" else np.full((people, frames), np.nan),
    )
    for f in np.unique(np.linspace(0, frames - 1, min(frames, MOST_FRAMES)).round().astype(int)):
        _contacts(data, kind, int(f), quality)
        _silhouettes(data, kind, int(f), quality)
    quality.reasons = reasons(data, quality)
    return quality


def limb_spread(joints: Float[np.ndarray, "people frames 17 3"]) -> Float[np.ndarray, "people frames"]:
    """Mean deviation of the limbs' lengths from their medians over the frames, mm."""
    lengths = np.stack([np.linalg.norm(joints[:, :, a] - joints[:, :, b], axis=-1) for a, b in _LIMB_ENDS], axis=-1)
    known = np.isfinite(lengths)
    usual = np.full((len(lengths), 1, len(_LIMB_ENDS)), np.nan)
    for p, limb in np.ndindex(len(lengths), len(_LIMB_ENDS)):
        if known[p, :, limb].any():
            usual[p, 0, limb] = np.median(lengths[p, known[p, :, limb], limb])
    return 1000 * known_mean(np.abs(lengths - usual), -1)


def jitter(joints: Float[np.ndarray, "people frames joints 3"], fps: float) -> Float[np.ndarray, "people frames"]:
    """Mean acceleration of the joints, m/s^2, from three frames in a row; NaN at the ends."""
    result = np.full(joints.shape[:2], np.nan)
    if joints.shape[1] > 2:
        second = joints[:, 2:] - 2 * joints[:, 1:-1] + joints[:, :-2]
        result[:, 1:-1] = known_mean(np.linalg.norm(second, axis=-1) * fps**2, -1)
    return result


def _deviations(data: ViewerData) -> np.ndarray:
    result = np.full((len(data.people), len(data.frames)), np.nan)
    path = data.sequence.results / FILE
    if not path.is_file():
        return result
    found = Uncertainty.load(path)
    _, here, there = np.intersect1d(data.frames, found.frames, return_indices=True)
    size = 1000 * np.sqrt(np.square(found.keypoints[:, :, _LIMBS]).mean(axis=(2, 3)))
    for p, name in enumerate(found.people):
        if name in data.people:
            result[data.people.index(name), here] = size[p, there]
    return result


def _contacts(data: ViewerData, kind: str, f: int, quality: Quality) -> None:
    surfaces = [data.surface(kind, person, f) for person in data.people]
    present = [p for p, surface in enumerate(surfaces) if surface is not None]
    quality.depth[present, f] = quality.volume[present, f] = 0.0
    for i, a in enumerate(present):
        for b in present[i + 1 :]:
            depth, volume = penetration(surfaces[a], surfaces[b])
            for p in (a, b):
                quality.depth[p, f] = max(quality.depth[p, f], 1000 * depth)
                quality.volume[p, f] += volume


def _silhouettes(data: ViewerData, kind: str, f: int, quality: Quality) -> None:
    place = data.place(f)
    faces = data.body.faces.numpy()
    surfaces = [s for s in (data.surface(kind, person, f) for person in data.people) if s is not None]
    for c in range(len(data.sequence.cameras)):
        mask = data.sequence.mask(c, place)
        if mask is None:
            continue
        drawn = np.zeros(mask.shape, bool)
        for surface in surfaces:
            drawn |= np.isfinite(depth_map(surface.vertices, faces, data.sequence.cameras[c]))
        known, seen = mask != UNKNOWN, mask == FOREGROUND
        union = ((drawn | seen) & known).sum()
        quality.iou[c, f] = (drawn & seen & known).sum() / union if union else np.nan


def reasons(data: ViewerData, quality: Quality) -> dict[tuple[int, int], list[str]]:
    """What is far from usual, in words, by frame and person index, sorted by frame."""
    found: dict[tuple[int, int], list[str]] = {}

    def flag(where: np.ndarray, say) -> None:
        for p, f in np.argwhere(where):
            found.setdefault((int(f), int(p)), []).append(say(p, f))

    with np.errstate(invalid="ignore"):
        if quality.errors is not None:
            unit, values = quality.errors.unit, quality.errors.by_frame
            what = "from the 2D keypoints" if unit == "px" else "from the truth"
            limit = max(ERROR_RATIO * _median(values), LEAST_ERROR[unit])
            flag(values > limit, lambda p, f: f"{values[p, f]:.0f} {unit} {what}")
        deviation = quality.deviation
        flag(
            deviation > max(DEVIATION_RATIO * _median(deviation), LEAST_DEVIATION),
            lambda p, f: f"joints known to {deviation[p, f]:.0f} mm only",
        )
        shaking = quality.jitter
        flag(
            shaking > max(JITTER_RATIO * _median(shaking), LEAST_JITTER),
            lambda p, f: f"accelerates by {shaking[p, f]:.0f} m/s²",
        )
        flag(quality.depth > DEEP, lambda p, f: f"{quality.depth[p, f]:.0f} mm inside another body")
        iou = known_mean(quality.iou, 0)
        low = iou < _median(iou) - IOU_DROP
        there = np.isfinite(data.joints[quality.kind]).any(axis=(2, 3))
        flag(low[None] & there, lambda p, f: f"silhouettes miss the masks, IoU {iou[f]:.2f}")
    return dict(sorted(found.items()))


def _median(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.inf
