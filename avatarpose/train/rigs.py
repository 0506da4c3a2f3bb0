"""Camera rigs to train with: random ones of many kinds, or the user's own.

Training scenes are z up, metres, the floor at z = 0, people around the origin.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.estimate import TriangulationConfig, triangulate
from avatarpose.sequence import Sequence

KINDS = ("ring", "one_side", "pairs", "scattered", "one_far")
"""Evenly around; within 60 to 160 degrees; in pairs 5 to 25 degrees apart; anywhere; a ring with one camera at two to
three times the distance."""

_PELVIS_HEIGHT = 0.95  # metres


@dataclass(frozen=True)
class RigConfig:
    """Bounds are of uniform distributions, metres and degrees."""

    cameras: tuple[int, int] = (4, 12)
    """Fewest and most; few are drawn more often."""
    kinds: tuple[float, ...] = (0.45, 0.2, 0.15, 0.12, 0.08)
    """Probabilities of `KINDS`."""
    sizes: tuple[tuple[int, int], ...] = (
        (512, 384), (640, 480), (1032, 776), (1280, 720), (1280, 940), (1920, 1080), (2048, 2048), (1080, 1920),
    )  # fmt: skip
    """Sizes of the images, pixels; the same in all cameras of two rigs in three."""
    distance: tuple[float, float] = (2.0, 6.0)
    """From the middle of the people, horizontally."""
    height: tuple[float, float] = (0.5, 3.0)
    overhead: float = 0.07
    """Probability that a camera hangs over the people instead, 2.8 to 4.5 m high."""
    span: tuple[float, float] = (1.6, 6.0)
    """What the shorter side of an image spans at the people's distance, uniform in the logarithm: people are cut by
    narrow images; the same, give or take 15 %, in all cameras of two rigs in three."""
    fov: tuple[float, float] = (35.0, 90.0)
    """Bounds of the field of view along the image's longer side, which follows from span and distance."""
    aim: float = 0.25
    """Standard deviation of the place looked at, around a pelvis at the origin."""
    turn: float = 3.0
    """Standard deviation of the roll, and of what else each camera looks aside."""
    distorted: float = 0.4
    """Probability that the lenses distort."""
    distortion: tuple[float, float] = (-0.12, 0.05)
    """Bounds of the radial displacement at the corner of the image, relative to its radius."""


def look_at(
    centre: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"], roll: float = 0.0
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """R and t of a camera at `centre` that looks at `target`, world z upright in the image, then rolled (radians)."""
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    if np.linalg.norm(right) < 1e-3:  # straight down or up: any direction will do
        right = np.cross(forward, (0.0, 1.0, 0.0))
    right = right / np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    R = np.stack((c * right + s * down, c * down - s * right, forward))
    return R, -R @ centre


def random_rig(rng: np.random.Generator, config: RigConfig | None = None) -> Cameras:
    """Cameras around the origin that look at people standing there; float64; the same for the same state of `rng`."""
    config = RigConfig() if config is None else config
    # The smaller of two draws: few cameras are the harder case, the usual one, and the cheaper one.
    count = int(rng.integers(config.cameras[0], config.cameras[1] + 1, size=2).min())
    kind = KINDS[rng.choice(len(KINDS), p=np.array(config.kinds) / sum(config.kinds))]
    azimuths = rng.uniform(0, 360) + _azimuths(kind, count, rng)
    size, span = rng.integers(len(config.sizes)), np.exp(rng.uniform(*np.log(config.span)))
    alike_size, alike_span = rng.random(2) < 2 / 3
    typical = rng.uniform(*config.distance)
    distorts, profile = rng.random() < config.distorted, rng.uniform(*config.distortion)
    K, R, t = np.zeros((count, 3, 3)), np.zeros((count, 3, 3)), np.zeros((count, 3))
    dist, sizes = np.zeros((count, 5)), np.zeros((count, 2), dtype=np.int64)
    for i in range(count):
        width, height = config.sizes[size if alike_size else rng.integers(len(config.sizes))]
        distance = np.clip(typical * rng.uniform(0.75, 1.3), *config.distance)
        level = rng.uniform(*config.height)
        if kind == "one_far" and i == 0:
            distance = config.distance[1] * rng.uniform(1.0, 1.5)
        if rng.random() < config.overhead:
            distance, level = rng.uniform(0.0, 0.8), rng.uniform(2.8, 4.5)
        angle = np.radians(azimuths[i])
        aside = np.array([np.cos(angle), np.sin(angle), 0.0])
        target = rng.normal(size=3) * (config.aim, config.aim, 0.6 * config.aim) + (0, 0, _PELVIS_HEIGHT)
        centre = distance * aside + (0.0, 0.0, level)
        away = np.linalg.norm(centre - target)
        wanted = span * rng.uniform(0.85, 1.15) if alike_span else np.exp(rng.uniform(*np.log(config.span)))
        narrowest, widest = 0.5 * max(width, height) / np.tan(np.radians(config.fov) / 2)
        focal = np.clip(min(width, height) * away / wanted, widest, narrowest)
        target = target + np.radians(config.turn) * away * rng.normal(size=3)
        R[i], t[i] = look_at(centre, target, np.radians(config.turn) * rng.normal())
        middle = np.array([width, height]) * (0.5 + rng.normal(size=2).clip(-2, 2) * 0.01)
        K[i] = [[focal, 0, middle[0]], [0, focal * rng.uniform(0.995, 1.005), middle[1]], [0, 0, 1]]
        if distorts:
            dist[i] = _lens(profile, np.hypot(width, height) / 2 / focal, rng)
        sizes[i] = width, height
    return Cameras(
        names=tuple(f"cam{i:02d}" for i in range(count)),
        K=torch.from_numpy(K),
        R=torch.from_numpy(R),
        t=torch.from_numpy(t),
        dist=torch.from_numpy(dist),
        width=torch.from_numpy(sizes[:, 0].copy()),
        height=torch.from_numpy(sizes[:, 1].copy()),
    )


def _azimuths(kind: str, count: int, rng: np.random.Generator) -> Float[np.ndarray, " cameras"]:
    """Degrees."""
    if kind in ("ring", "one_far"):
        return np.arange(count) * 360 / count + rng.normal(size=count) * min(10.0, 60 / count)
    if kind == "one_side":
        return np.linspace(0, rng.uniform(60, 160), count) + rng.normal(size=count) * 4
    if kind == "pairs":
        first = rng.uniform(0, 360, (count + 1) // 2)
        return np.stack((first, first + rng.uniform(5, 25, len(first))), axis=1).reshape(-1)[:count]
    return rng.uniform(0, 360, count)


def _lens(profile: float, radius: float, rng: np.random.Generator) -> Float[np.ndarray, " 5"]:
    """Coefficients that move the corner, at this normalised radius in the image, by about `profile` of the radius.

    Relative to the corner, and to where it lies before the distortion at most, so that no lens folds its image.
    """
    corner, radius = profile * rng.uniform(0.8, 1.2), 1.2 * radius
    k1, k2 = corner / radius**2, 0.15 * rng.uniform(-1, 1) * corner / radius**4
    p1, p2 = rng.normal(size=2) * 5e-4
    return np.array([k1, k2, p1, p2, 0.0])


# ---- the user's rig ----


@dataclass(frozen=True)
class Stage:
    """A rig moved to where training scenes are made.

    Attributes:
        cameras: z up, the floor at z = 0, the origin in the middle of where people were.
        radius: people were mostly within so far from the origin, metres.
    """

    cameras: Cameras
    radius: float


def stage_of(source: Sequence | Cameras, up: Float[np.ndarray, " 3"] = (0.0, 0.0, 1.0)) -> Stage:
    """The user's rig, with the place where people were filmed at the origin.

    With 2D keypoints of the capture people are found by triangulation: their pelvises say the place, their ankles the
    floor. Otherwise the place is the middle of what most cameras see of a standing person, and the floor is at height 0
    along `up`, or, where that is not below the cameras, 1.5 m below the lowest.

    Args:
        source: a capture, or its cameras alone.
        up: unit vector up, world, if `source` is cameras alone; a capture says its own.
    """
    cameras = source if isinstance(source, Cameras) else source.cameras
    up = np.asarray(up if isinstance(source, Cameras) else source.up_vector, dtype=float)
    level = _moved(cameras, _upright(up), np.zeros(3))
    if isinstance(source, Sequence) and source.has_keypoints:
        try:
            origin, radius = _place_of_people(source, _upright(up))
            return Stage(_moved(level, np.eye(3), origin), radius)
        except InputError:  # nobody is found
            pass
    origin, radius = _seen_by_most(level)
    return Stage(_moved(level, np.eye(3), origin), radius)


def rig_from(source: Stage | Sequence | Cameras, rng: np.random.Generator) -> Cameras:
    """The user's rig around people at the origin: turned about the vertical, and they stand where people were."""
    stage = source if isinstance(source, Stage) else stage_of(source)
    angle, direction = rng.uniform(0, 2 * np.pi, 2)
    c, s = np.cos(angle), np.sin(angle)
    away = stage.radius * np.sqrt(rng.random()) * np.array([np.cos(direction), np.sin(direction), 0.0])
    return _moved(stage.cameras, np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]), away)


def _upright(up: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that takes `up` to z."""
    z = np.array([0.0, 0.0, 1.0])
    axis, cosine = np.cross(up, z), float(up @ z)
    if cosine < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    return np.eye(3) + cross + cross @ cross / (1 + cosine)


def _moved(cameras: Cameras, turn: np.ndarray, origin: np.ndarray) -> Cameras:
    """The cameras in the world x_new = turn (x - origin)."""
    cameras = cameras.to(dtype=torch.float64)
    back = torch.from_numpy(turn.T.copy())
    return replace(cameras, R=cameras.R @ back, t=cameras.t + cameras.R @ torch.from_numpy(origin))


def _place_of_people(sequence: Sequence, upright: np.ndarray) -> tuple[Float[np.ndarray, " 3"], float]:
    found = triangulate(sequence, TriangulationConfig()).keypoints.astype(float) @ upright.T
    hips, ankles = found[:, :, 11:13].mean(axis=2).reshape(-1, 3), found[:, :, 15:17].reshape(-1, 3)
    hips, ankles = (points[np.isfinite(points).all(axis=1)] for points in (hips, ankles))
    if len(hips) == 0 or len(ankles) == 0:
        raise InputError("no person has hips and ankles", file=sequence.folder / "keypoints2d")
    middle = np.median(hips[:, :2], axis=0)
    floor = np.percentile(ankles[:, 2], 10) - 0.08
    radius = np.percentile(np.linalg.norm(hips[:, :2] - middle, axis=1), 80)
    return np.array([*middle, floor]), float(np.clip(radius, 0.2, 3.0))


def _seen_by_most(cameras: Cameras) -> tuple[Float[np.ndarray, " 3"], float]:
    centres = cameras.centres.numpy()
    lowest = centres[:, 2].min()
    floor = 0.0 if 0.2 < lowest < 6.0 else lowest - 1.5
    low, high = centres[:, :2].min(axis=0) - 4.0, centres[:, :2].max(axis=0) + 4.0
    axes = [np.linspace(low[i], high[i], 40) for i in (0, 1)]
    ground = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    heights = np.array([0.1, 0.9, 1.7])
    points = np.concatenate((
        np.repeat(ground, len(heights), axis=0), floor + np.tile(heights, len(ground))[:, None]
    ), axis=1)  # fmt: skip
    seen = cameras.sees(torch.from_numpy(points)).numpy().reshape(len(cameras), len(ground), len(heights)).sum(axis=2)
    far = np.linalg.norm(ground[None] - centres[:, None, :2], axis=-1)
    # As many cameras as possible, then as near to them as it goes: views without end have no middle.
    share = np.where(far < 8.0, seen, 0).sum(axis=0)
    if share.max() == 0:
        share = seen.sum(axis=0)
    best = ground[share >= 0.95 * share.max()]
    middle = best.mean(axis=0)
    radius = np.percentile(np.linalg.norm(best - middle, axis=1), 50)
    return np.array([*middle, floor]), float(np.clip(radius, 0.2, 1.5))
