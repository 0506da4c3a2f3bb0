"""Which camera does not fit the others: errors of pairs from epipolar lines, of cameras by leaving each out."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import Float

from avatarpose.check.epipolar import Views, homogeneous
from avatarpose.check.people import People, Residuals, leave_one_out

_RATIO = 2.0  # a camera's own misfit over the others' from which it is the odd one
_LEAST_SHARE = 0.01  # of the person's size: errors below this harm nobody
LEAST_HARM = 0.006
"""Share of the image's diagonal: an image that is moved by less is within what detectors' own habits do."""
_WORSE = 1.08  # times as far from the epipolar lines as after the turn, or the turn means nothing
_LEAST_FRAMES = 5  # with somebody in view, to say that a camera shares nobody with the others
_STRANGERS = 0.25  # share of the person's size: two detections this far off are two people
_LEAST_ERRORS = 20  # joints seen by a camera and by others, to judge it


@dataclass(frozen=True)
class PairError:
    """How well the people of two views fit each other's epipolar lines.

    Attributes:
        points_a, points_b: (N, 2) joints of both views that are taken for the same, ideal pixels.
        sizes_a, sizes_b: (N,) of the people in either image, pixels.
        pixels: median distance from the line in view a and in view b.
        share: median distance as a share of the person's size, the mean of both views.
    """

    a: int
    b: int
    points_a: Float[np.ndarray, "n 2"]
    points_b: Float[np.ndarray, "n 2"]
    sizes_a: Float[np.ndarray, " n"]
    sizes_b: Float[np.ndarray, " n"]
    pixels: tuple[float, float]
    share: float


def pair_errors(views: Views) -> list[PairError]:
    """Of every pair of cameras, over all frames; errors are NaN where the two share too little."""
    found = []
    frames = np.arange(views.pixels.shape[1])
    for a, b in views.pairs:
        _, _, pairs = views.match(a, b, frames, frames)
        n, i, j = np.array(pairs, int).reshape(-1, 3).T
        in_a, in_b = (d[n, i, j] for d in views.distances(a, b, frames, frames))  # (M, 17)
        sizes_a, sizes_b = (
            np.broadcast_to(v[:, None], in_a.shape) for v in (views.sizes[a, n, i], views.sizes[b, n, j])
        )
        share = 0.5 * (in_a / sizes_a + in_b / sizes_b)
        # Two people taken for each other agree nowhere, and would count as an error of the cameras.
        typical = np.median(np.where(np.isfinite(share), share, _STRANGERS), axis=1) if len(share) else np.zeros(0)
        good = np.isfinite(share) & (typical < _STRANGERS)[:, None]
        enough = good.sum() >= _LEAST_ERRORS
        medians = [float(np.median(v[good])) if enough else np.nan for v in (in_a, in_b, share)]
        points_a, points_b = views.pixels[a, n, i][good], views.pixels[b, n, j][good]
        found.append(
            PairError(a, b, points_a, points_b, sizes_a[good], sizes_b[good], (medians[0], medians[1]), medians[2])
        )
    return found


@dataclass(frozen=True)
class Turn:
    """The turn of one camera that would make its views fit the others best.

    Attributes:
        rotation: (3,) radians about the camera's x, y, z axes.
        degrees: its size.
        pixels: how far it moves the middle of the image.
        before, after: median distance from the epipolar lines in this camera, share of the person's size.
        gain: what the turn takes off the sum over all joints of the robust error.
    """

    rotation: Float[np.ndarray, " 3"]
    degrees: float
    pixels: float
    before: float
    after: float
    gain: float


def best_turn(views: Views, errors: list[PairError], camera: int, among: list[int]) -> Turn | None:
    """Fits the turn of `camera` to the epipolar lines of the cameras `among`, by Gauss-Newton with Cauchy weights.

    Signs are kept, so errors that point the same way add up while the detector's noise cancels: half a degree shows
    that no single distance would.

    Returns:
        The turn, or None where too little is seen by others.
    """
    K = views.cameras.K[camera].double().numpy()
    lines, rays, sizes = [], [], []
    for e in errors:
        if camera not in (e.a, e.b) or not {e.a, e.b} <= set(among) or not np.isfinite(e.share):
            continue
        other, theirs, mine, size = (
            (e.b, e.points_b, e.points_a, e.sizes_a) if camera == e.a else (e.a, e.points_a, e.points_b, e.sizes_b)
        )
        line = homogeneous(theirs) @ views.fundamental(other, camera).T
        lines.append(line / np.linalg.norm(line[:, :2], axis=-1, keepdims=True))
        rays.append(homogeneous(mine) @ np.linalg.inv(K).T)
        sizes.append(size)
    if not lines:
        return None
    line, ray, size = np.concatenate(lines) @ K, np.concatenate(rays), np.concatenate(sizes)

    def distance(rotation: np.ndarray) -> np.ndarray:
        turned = ray @ cv2.Rodrigues(rotation)[0].T
        return (line * turned).sum(-1) / turned[:, 2] / size

    start = distance(np.zeros(3))
    rotation = np.zeros(3)
    for _ in range(15):
        d = distance(rotation)
        scale = 2 * max(float(np.median(np.abs(d))), 1e-4)
        step = 1e-5
        J = np.stack([(distance(rotation + step * axis) - d) / step for axis in np.eye(3)], -1)
        w = 1 / (1 + (d / scale) ** 2)
        # A turn about the optical axis is badly known where people stand in the middle; a weak prior keeps it small.
        normal = J.T @ (w[:, None] * J) + np.diag(
            (1e-3 * len(d) * scale**2, 1e-3 * len(d) * scale**2, 1e-2 * len(d) * scale**2)
        )
        change = np.linalg.solve(normal, J.T @ (w * d))
        rotation = rotation - np.clip(change, -0.05, 0.05)
        if np.abs(change).max() < 1e-5:
            break
    end = distance(rotation)
    scale = 2 * max(float(np.median(np.abs(end))), 1e-3)
    robust = np.log1p((start / scale) ** 2) - np.log1p((end / scale) ** 2)
    focal = (K[0, 0] + K[1, 1]) / 2
    return Turn(
        rotation, float(np.degrees(np.linalg.norm(rotation))), float(focal * np.tan(np.linalg.norm(rotation[:2]))),
        float(np.median(np.abs(start))), float(np.median(np.abs(end))), float(robust.sum()),
    )  # fmt: skip


@dataclass(frozen=True)
class Suspect:
    """How one camera stands against the others.

    Attributes:
        own: its own error, share of the person's size: what its pairs have more than the pairs of the others.
        others: the others' own error, likewise.
    """

    own: float
    others: float

    @property
    def ratio(self) -> float:
        """`own` over `others`."""
        return self.own / max(self.others, 1e-6)


def suspects(errors: list[PairError], cameras: list[int]) -> dict[int, Suspect]:
    """Own error of every one of `cameras` among them, from pairs alone.

    Squared, a pair's error is the sum of its two cameras' own. Medians over the pairs with a camera and the pairs
    without it keep one bad camera from spoiling the others' figures, which leaving one out in triangulation cannot do.
    """
    found = {}
    for c in cameras:
        inside = [e for e in errors if e.a in cameras and e.b in cameras and np.isfinite(e.share)]
        own = [e.share for e in inside if c in (e.a, e.b)]
        rest = [e.share for e in inside if c not in (e.a, e.b)]
        if own and rest:
            usual = np.median(rest) ** 2 / 2
            found[c] = Suspect(float(np.sqrt(max(np.median(own) ** 2 - usual, 0))), float(np.sqrt(usual)))
    return found


@dataclass(frozen=True)
class Shift:
    """The constant part of a camera's error, as if its image had been moved.

    Attributes:
        pixels: (2,) detected minus expected.
        explained: share of the squared error that the shift takes away, 0 to 1.
        degrees: the turn of the camera that moves the image so far.
    """

    pixels: Float[np.ndarray, " 2"]
    explained: float
    degrees: float


def shift_of(residuals: Residuals, focal: float) -> Shift:
    """Robust mean of the errors (geometric median, by Weiszfeld's algorithm), and what it explains of them."""
    if not len(residuals.error):
        return Shift(np.zeros(2), 0.0, 0.0)
    mean = np.median(residuals.error, axis=0)
    for _ in range(20):
        distance = np.maximum(np.linalg.norm(residuals.error - mean, axis=-1), 1e-3)
        mean = (residuals.error / distance[:, None]).sum(0) / (1 / distance).sum()
    before = np.median((residuals.error**2).sum(-1))
    after = np.median(((residuals.error - mean) ** 2).sum(-1))
    turned = float(np.degrees(np.arctan(np.linalg.norm(mean) / focal)))
    return Shift(mean, float(np.clip(1 - after / max(before, 1e-9), 0, 1)), turned)


@dataclass(frozen=True)
class Odd:
    """A camera that does not fit the others.

    Attributes:
        camera: its index.
        turn: what would make it fit; None where the others see nobody that it sees.
        usual: how far the turns that suit the other cameras best, without this one, move their images, pixels.
        cause: `calibration` where a turn explains the misfit, else `unclear`: a wrong position or lens, or detections.
        harm: the turn as a share of the image's diagonal; inf where there is none.
    """

    camera: int
    turn: Turn | None
    usual: float
    cause: str
    harm: float


@dataclass
class Calibration:
    """What was found.

    Attributes:
        pairs: errors of the pairs.
        suspects: how each camera stands against the others; absent where that cannot be told.
        turns: what would make each camera fit the good ones best; None where too little is seen.
        left_out: error of each camera against the joints of all the other good ones.
        shifts: its constant part.
        odd: cameras that do not fit, the worst first.
    """

    pairs: list[PairError]
    suspects: dict[int, Suspect]
    turns: list[Turn | None]
    left_out: list[Residuals]
    shifts: list[Shift]
    odd: list[Odd] = field(default_factory=list)


def find_odd(views: Views, errors: list[PairError] | None = None) -> list[Odd]:
    """Cameras that do not fit, the worst first; looked for again among the rest as long as four or more are left.

    With two cameras neither can be blamed.

    Args:
        errors: of `pair_errors`, if they are known.
    """
    errors = pair_errors(views) if errors is None else errors
    kept, found = list(range(len(views.cameras))), []
    while len(kept) >= (4 if found else 3):
        odd = _oddest(views, errors, kept)
        if odd is None:
            break
        found.append(odd)
        kept.remove(odd.camera)
    return found


def calibrate(views: Views, people: People) -> Calibration:
    """All figures of the calibration; `people` gives the errors of cameras left out."""
    count = len(views.cameras)
    errors = pair_errors(views)
    found = Calibration(errors, suspects(errors, list(range(count))), [None] * count, [], [])
    found.odd = find_odd(views, errors)
    bad = frozenset(odd.camera for odd in found.odd)
    kept = [c for c in range(count) if c not in bad]
    for c in range(count):
        found.turns[c] = best_turn(views, errors, c, sorted({*kept, c}))
        residuals = leave_one_out(people, c, bad - {c})
        if len(residuals.error) < _LEAST_ERRORS:  # with few cameras, too little is left without the bad ones
            residuals = leave_one_out(people, c)
        K = views.cameras.K[c]
        found.left_out.append(residuals)
        found.shifts.append(shift_of(residuals, float(K[0, 0] + K[1, 1]) / 2))
    return found


def _oddest(views: Views, errors: list[PairError], kept: list[int]) -> Odd | None:
    """The one camera of `kept` that fits worst, if it is odd."""
    seen = {c for e in errors if np.isfinite(e.share) and {e.a, e.b} <= set(kept) for c in (e.a, e.b)}
    for c in kept:
        if c not in seen and len(seen) >= 2 and views.counts[c] >= _LEAST_FRAMES:
            return Odd(c, None, 0.0, "unclear", float("inf"))
    turns = {c: best_turn(views, errors, c, kept) for c in kept}
    turns = {c: turn for c, turn in turns.items() if turn is not None}
    if len(turns) < 3:
        return None
    worst = max(turns, key=lambda c: turns[c].gain)
    rest = [c for c in kept if c != worst]
    usual = [best_turn(views, errors, c, rest) for c in rest] if len(rest) > 2 else []
    usual = float(np.median([t.pixels for t in usual if t is not None] or [0.0]))
    turn = turns[worst]
    harm = turn.pixels / diagonal(views, worst)
    if harm > LEAST_HARM and turn.pixels > _RATIO * usual and turn.before > _WORSE * turn.after:
        return Odd(worst, turn, usual, "calibration", harm)
    standing = suspects(errors, kept)
    least = LEAST_HARM / 2
    odd = {c: s for c, s in standing.items() if s.ratio > _RATIO and s.own > max(_LEAST_SHARE, _share(views, c, least))}
    if not odd:
        return None
    worst = max(odd, key=lambda c: odd[c].ratio)
    return Odd(worst, turns.get(worst), usual, "unclear", _diagonals(views, worst, odd[worst].own))


def diagonal(views: Views, c: int) -> float:
    """Of the image of camera c, pixels."""
    return float(np.hypot(float(views.cameras.width[c]), float(views.cameras.height[c])))


def _usual_size(views: Views, c: int) -> float:
    sizes = views.sizes[c]
    return float(np.nanmedian(sizes)) if np.isfinite(sizes).any() else float("inf")


def _share(views: Views, c: int, diagonals: float) -> float:
    """A length in image diagonals as a share of the person's size in camera c."""
    return diagonals * diagonal(views, c) / _usual_size(views, c)


def _diagonals(views: Views, c: int, share: float) -> float:
    return share * _usual_size(views, c) / diagonal(views, c)
