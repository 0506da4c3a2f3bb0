"""Imitated 2D detections of people whose 3D joints are known, with the errors of real detectors.

What is imitated, in this order: a camera whose calibration is off; joints out of sight; joints missed, misplaced or
taken from the person in front; left and right exchanged; two people in one row; people and views without detections;
detections of nobody; scores; widths of the peaks. The errors of one joint are independent between views.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatarpose.cameras import LEAST_DEPTH, Cameras
from avatarpose.estimate.volumetric.evidence import Gaussians
from avatarpose.skeletons import COCO17
from avatarpose.train.capsules import Sight, line_of_sight
from avatarpose.train.noise_config import (
    ABSENT,
    EXCHANGED,
    FALSE,
    HIDDEN,
    MERGED,
    OWN,
    TAKEN,
    WILD,
    NoiseConfig,
)

__all__ = ["Detections", "NoiseConfig", "Scene", "detect", "draw_scene", "gaussians", "imitate"]

_FLIP = np.array(COCO17.flip)
_TRUNK = COCO17.indices(f"{side}_{part}" for part in ("shoulder", "hip") for side in ("left", "right"))
_ARMS, _LEGS = slice(7, 11), slice(11, 17)
_UPPER = np.arange(17) < 11


@dataclass(frozen=True)
class Detections:
    """Imitated detections of one moment.

    Attributes:
        rows: (V, D, 17, 3) x, y in pixels and score; NaN where absent, as in the files of detections.
        size: (V, D) pixels per metre of the row's person; NaN in rows of nothing.
        person: (V, D) index of the person a row began as; -1 for nobody's and rows of nothing.
        kind: (V, D, 17) ABSENT, OWN, HIDDEN, ...
    """

    rows: Float[np.ndarray, "views detections 17 3"]
    size: Float[np.ndarray, "views detections"]
    person: Int[np.ndarray, "views detections"]
    kind: Int[np.ndarray, "views detections 17"]


@dataclass(frozen=True)
class Scene:
    """What is the same in all views, and all frames, of a take: how good the detector is there.

    Attributes:
        deviation: (17,) metres.
        missed: factor of the misses in sight.
        behind_self: factor of the misses behind the own body.
        lasting: share of the variance of the noise that `offset` has.
        offset: (V, P, 17, 2) lasting part of the noise, in deviations.
        score: usual score; None where all are 1.
        slope, hips: of the score, per deviation; less for hips.
        width: factor of the width.
        R, t: (V, 3, 3), (V, 3) the cameras as they are, not as calibrated.
        blind: (V,) views without rows.
    """

    deviation: Float[np.ndarray, " 17"]
    missed: float
    behind_self: float
    lasting: float
    offset: Float[np.ndarray, "views people 17 2"]
    score: float | None
    slope: float
    hips: float
    width: float
    R: Float[np.ndarray, "views 3 3"] = field(repr=False)
    t: Float[np.ndarray, "views 3"] = field(repr=False)
    blind: np.ndarray = field(repr=False)


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float], power: float = 1.0) -> float:
    low, high = np.log(bounds)
    return float(np.exp(power * rng.uniform(low, high)))


def draw_scene(people: int, cameras: Cameras, rng: np.random.Generator, config: NoiseConfig) -> Scene:
    """Draws what `detect` holds fixed over the frames of a take of (at most) so many people."""
    views, s = len(cameras), config.strength
    deviation = s * _log_uniform(rng, config.deviation) * np.array(config.profile) ** rng.random()
    R, t = cameras.R.double().numpy().copy(), cameras.t.double().numpy().copy()
    if rng.random() < s * config.miscalibrated:
        c = rng.integers(views)
        axis = rng.normal(size=3)
        turn = _rotation(axis / np.linalg.norm(axis) * np.radians(config.miscalibration) * rng.random())
        R[c], t[c] = turn @ R[c], turn @ t[c]  # about its own centre
    blind = rng.random(views) < s * config.view_lost
    if rng.random() < s * config.half_lost:
        blind[rng.permutation(views)[: views // 2]] = True
    blind[rng.permutation(views)[:2]] = False
    constant = rng.random() < config.constant_scores
    return Scene(
        deviation=deviation,
        missed=_log_uniform(rng, config.missed_factor),
        behind_self=rng.uniform(0.1, 1.0),
        lasting=rng.uniform(*config.lasting),
        offset=_heavy(rng, (views, people, 17, 2), config.tail),
        score=None if constant else rng.uniform(*config.score),
        slope=rng.uniform(*config.score_slope),
        hips=rng.uniform(0.0, 0.15),
        width=_log_uniform(rng, config.width, 0.5 * s),
        R=R,
        t=t,
        blind=blind,
    )


def _rotation(rotvec: np.ndarray) -> np.ndarray:
    x, y, z = rotvec
    angle = np.linalg.norm(rotvec)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sinc(angle / np.pi) * cross + 0.5 * np.sinc(angle / (2 * np.pi)) ** 2 * cross @ cross


def _heavy(rng: np.random.Generator, shape: tuple[int, ...], tail: tuple[float, float]) -> np.ndarray:
    """Normal in two coordinates (last axis), in the share `tail[0]` of the cases `tail[1]` times wider."""
    return rng.normal(size=shape) * np.where(rng.random(shape[:-1]) < tail[0], tail[1], 1.0)[..., None]


class _Views:
    """Projections of the joints, numpy."""

    def __init__(self, keypoints: np.ndarray, cameras: Cameras, R: np.ndarray, t: np.ndarray) -> None:
        points = torch.from_numpy(keypoints)
        turned = replace(cameras.to(dtype=torch.float64), R=torch.from_numpy(R), t=torch.from_numpy(t))
        pixels, depth = turned.project(points)
        self.pixels, self.depth = pixels.numpy(), depth.numpy()  # (V, P, 17, 2), (V, P, 17)
        self.ahead = self.depth > LEAST_DEPTH
        if turned.has_distortion:
            local = keypoints @ R.transpose(0, 2, 1)[:, None] + t[:, None, None]
            radius = np.linalg.norm(local[..., :2], axis=-1) / np.maximum(self.depth, LEAST_DEPTH)
            self.ahead &= radius < turned.turning_radius.numpy()[:, None, None]
        self.size = np.stack((cameras.width.numpy(), cameras.height.numpy()), axis=-1).astype(float)  # (V, 2)
        bounds = self.size[:, None, None]
        self.inside = self.ahead & ((self.pixels >= 0) & (self.pixels <= bounds)).all(axis=-1)
        focal = (turned.K[:, 0, 0] * turned.K[:, 1, 1]).sqrt().numpy()
        self.scale = focal[:, None] / np.maximum(self.depth[..., _TRUNK].mean(axis=-1), 0.1)  # (V, P) pixels per metre


def detect(
    keypoints: Float[np.ndarray | Tensor, "people 17 3"],
    cameras: Cameras,
    rng: np.random.Generator,
    config: NoiseConfig,
    scene: Scene,
) -> Detections:
    """What a detector might find of these people.

    Args:
        keypoints: metres, world; people with NaN are not there.
        scene: from `draw_scene`; several frames of one take have it in common.

    Returns:
        One row per person that is found, and more; D is the most in a view.
    """
    keypoints = np.asarray(keypoints, dtype=np.float64)
    there = np.flatnonzero(np.isfinite(keypoints).all(axis=(1, 2)))
    keypoints, s = keypoints[there], config.strength
    if len(keypoints) == 0:
        nothing = (len(cameras), 1)
        return Detections(
            np.full((*nothing, 17, 3), np.nan), np.full(nothing, np.nan), np.full(nothing, -1),
            np.full((*nothing, 17), ABSENT),
        )  # fmt: skip
    fresh = _heavy(rng, (len(cameras), len(keypoints), 17, 2), config.tail)
    offset = np.sqrt(scene.lasting) * scene.offset[:, there] + np.sqrt(1 - scene.lasting) * fresh
    views = _Views(keypoints, cameras, scene.R, scene.t)
    sight = line_of_sight(keypoints, scene.R, scene.t)
    kind = _outcomes(views, sight, rng, config, scene)
    place, error = _places(views, sight, kind, offset, rng, config, scene)
    score = _scores(kind, sight, error, rng, config, scene)
    person = np.broadcast_to(np.arange(len(keypoints)), views.scale.shape).copy()
    if s > 0:
        _exchange_sides(place, score, kind, sight, rng, config)
        _merge(place, score, kind, views, rng, config)
        hidden = (sight.by_other | ~views.inside).mean(axis=-1) > 0.5
        lost = rng.random(hidden.shape) < s * np.where(hidden, config.lost_hidden, config.lost)
        kind[lost] = ABSENT
        place, score, kind, size, person = _more_rows(place, score, kind, views, person, rng, config)
        bounds = views.size[:, None, None]
        kind[~((place >= 0) & (place <= bounds)).all(axis=-1)] = ABSENT
        kind[(kind != ABSENT).sum(axis=-1) < config.min_joints] = ABSENT
        kind[scene.blind] = ABSENT
    else:
        size = views.scale
    rows = np.concatenate((place, score[..., None]), axis=-1)
    rows[kind == ABSENT] = np.nan
    return _tidy(Detections(rows, size, np.where(person >= 0, there[person], -1), kind), rng, config)


def _outcomes(
    views: _Views, sight: Sight, rng: np.random.Generator, config: NoiseConfig, scene: Scene
) -> Int[np.ndarray, "views people 17"]:
    s = config.strength
    u, v, w = rng.random((3, *views.inside.shape))
    kind = np.full(views.inside.shape, OWN)
    kind[u < s * scene.missed * np.array(config.missed)] = ABSENT
    if s > 0:
        kind[v < s * config.wild] = WILD
        by_self = np.where(u < s * scene.behind_self * np.array(config.missed_behind_self), ABSENT, HIDDEN)
        kind = np.where(sight.by_self, by_self, kind)
        steps = s * np.cumsum([config.hidden_missed, config.hidden_taken, config.hidden_wild])
        by_other = np.array([ABSENT, TAKEN, WILD, HIDDEN])[np.searchsorted(steps, w, side="right")]
        kind = np.where(sight.by_other, by_other, kind)
    near = views.ahead & (_outside(views.pixels, views.size) < 0.15 * views.scale[..., None])
    at_border = ~views.inside & near & (v < min(s, 1.0) * config.border)
    kind[~views.inside & ~at_border] = ABSENT
    kind[at_border] = HIDDEN
    return kind


def _outside(pixels: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Distance from the image, pixels; 0 inside."""
    beyond = np.maximum(np.maximum(-pixels, pixels - size[:, None, None]), 0.0)
    return np.sqrt((beyond * beyond).sum(axis=-1))


def _places(
    views: _Views,
    sight: Sight,
    kind: np.ndarray,
    offset: np.ndarray,
    rng: np.random.Generator,
    config: NoiseConfig,
    scene: Scene,
) -> tuple[Float[np.ndarray, "views people 17 2"], Float[np.ndarray, "views people 17"]]:
    """Pixels, and the error relative to the joint's usual deviation."""
    pixels, scale = views.pixels, views.scale[..., None]
    hidden = np.where(sight.by_other, config.hidden_factor, config.behind_self)
    spread = scene.deviation * np.where(kind == HIDDEN, hidden, 1.0)
    together = config.common * np.median(scene.deviation) * rng.normal(size=(*scale.shape[:2], 1, 2))
    shift = offset * spread[..., None] + together
    taken = kind == TAKEN
    source = pixels
    if taken.any():
        view, person, joint = np.nonzero(taken)
        hider = sight.hider[view, person, joint]
        own = pixels[view, person, joint]
        same, opposite = pixels[view, hider, joint], pixels[view, hider, _FLIP[joint]]
        nearer = ((opposite - own) ** 2).sum(-1) < ((same - own) ** 2).sum(-1)
        other_side = nearer & (rng.random(len(view)) < 0.5)
        source = pixels.copy()
        source[taken] = np.where(other_side[:, None], opposite, same)
        kind[taken] = np.where(views.ahead[view, hider, joint], TAKEN, ABSENT)
    wild = kind == WILD
    shift[wild] += config.strength * 0.25 * rng.normal(size=(int(wild.sum()), 2))
    place = source + shift * scale[..., None]
    error = np.sqrt((shift * shift).sum(axis=-1)) / np.maximum(1.25 * scene.deviation, 1e-9)
    # What lies outside by less than a hand's breadth is found at the border; the rest is dropped later.
    edge = ((kind == HIDDEN) & ~views.inside) | ((kind == OWN) & views.inside)
    limit = views.size[:, None, None] * (1 - 1e-6)
    return np.where(edge[..., None], np.clip(place, 0.0, limit), place), error


def _scores(
    kind: np.ndarray, sight: Sight, error: np.ndarray, rng: np.random.Generator, config: NoiseConfig, scene: Scene
) -> Float[np.ndarray, "views people 17"]:
    if scene.score is None or config.strength == 0:
        return np.ones(kind.shape)
    score = scene.score - scene.slope * (np.minimum(error, 4.0) - 1.0)
    score = score + config.score_noise * rng.normal(size=kind.shape)
    score[..., 11:13] -= scene.hips
    u = rng.random(kind.shape)
    score = np.where(kind == HIDDEN, score * (0.35 + 0.6 * u), score)  # (S) 0.46, (D) 0.55 against 0.82
    score = np.where(kind == TAKEN, score * (0.4 + 0.6 * u), score)  # (D) 0.35 to 0.8
    score = np.where(kind == WILD, 0.15 + 0.4 * u, score)  # (D) 0.25 to 0.55
    score = np.where((kind == OWN) & (u < 0.04), score * (0.3 + 0.5 * rng.random(kind.shape)), score)
    return 1.0 + min(config.strength, 1.0) * (np.clip(score, 0.05, 1.0) - 1.0)


def _exchange_sides(
    place: np.ndarray, score: np.ndarray, kind: np.ndarray, sight: Sight, rng: np.random.Generator, config: NoiseConfig
) -> None:
    factor = config.strength * np.where(sight.from_behind, 3.0, 1.0)
    u = rng.random((3, *factor.shape))
    for chance, draw, part in (
        (config.exchanged_all, u[0], slice(0, 17)),
        (config.exchanged_arms, u[1], _ARMS),
        (config.exchanged_legs, u[2], _LEGS),
    ):
        for view, person in np.argwhere(draw < factor * chance):
            joints = np.arange(17)[part]
            if part is _LEGS and rng.random() < 0.5:
                joints = joints[2:]  # the hips stay
            for array in (place, score, kind):
                array[view, person, joints] = array[view, person, _FLIP[joints]]
            moved = joints[(kind[view, person, joints] != ABSENT) & (_FLIP[joints] != joints)]
            kind[view, person, moved] = EXCHANGED


def _merge(
    place: np.ndarray, score: np.ndarray, kind: np.ndarray, views: _Views, rng: np.random.Generator, config: NoiseConfig
) -> None:
    """One row gets joints of two people; the other row is left with the rest, or with nothing."""
    people = kind.shape[1]
    if people < 2:
        return
    trunk = views.pixels[:, :, _TRUNK].mean(axis=2)
    apart = np.linalg.norm(trunk[:, :, None] - trunk[:, None], axis=-1)
    close = apart < 0.5 * views.scale[:, :, None]
    close &= np.triu(np.ones((people, people), dtype=bool), 1)
    draw = rng.random(close.shape)
    for view, *pair in np.argwhere(close & (draw < config.strength * config.merged)):
        first, second = rng.permutation(pair)
        way = rng.integers(3)
        mixed = (_UPPER, ~_UPPER, rng.random(17) < 0.4)[way] & (kind[view, second] != ABSENT)
        for array in (place, score, kind):
            array[view, first, mixed], array[view, second, mixed] = (
                array[view, second, mixed].copy(),
                array[view, first, mixed].copy(),
            )
        kind[view, first, mixed] = MERGED
        if rng.random() < 0.6:
            kind[view, second] = ABSENT
        else:
            left = mixed & (kind[view, second] != ABSENT)
            kind[view, second, left] = MERGED


def _more_rows(
    place: np.ndarray,
    score: np.ndarray,
    kind: np.ndarray,
    views: _Views,
    person: np.ndarray,
    rng: np.random.Generator,
    config: NoiseConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Appends duplicates and people who are not there."""
    count, people = kind.shape[:2]
    rows: list[list[tuple]] = [[] for _ in range(count)]
    s = config.strength
    for view, who in np.argwhere(rng.random((count, people)) < s * config.duplicate):
        scale = views.scale[view, who]
        moved = place[view, who] + 0.03 * scale * rng.normal(size=(17, 2))
        found = (kind[view, who] != ABSENT) & (rng.random(17) < rng.uniform(0.2, 0.8))
        kinds = np.where(found, kind[view, who], ABSENT)
        rows[view].append((moved, score[view, who] * rng.uniform(0.5, 1.0), kinds, scale, who))
    for view in np.flatnonzero(rng.random(count) < s * config.false_person):
        # Somebody's skeleton from somewhere: another person, a reflection, a coat.
        from_view, who = rng.integers(count), rng.integers(people)
        scale = views.scale[from_view, who]
        shape = views.pixels[from_view, who] + 0.06 * scale * rng.normal(size=(17, 2))
        factor, angle = rng.uniform(0.5, 1.2), rng.normal() * 0.3
        turn = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = (shape - shape.mean(axis=0)) @ turn.T + rng.random(2) * views.size[view]
        found = rng.random(17) < rng.uniform(0.3, 1.0)
        scores = np.clip(rng.uniform(0.1, 0.7) * rng.uniform(0.5, 1.2, 17), 0.05, 1.0)
        if (score == 1).all():  # of a detector that gives none
            scores = np.ones(17)
        rows[view].append((moved, scores, np.where(found, FALSE, ABSENT), factor * scale, -1))
    more = max(len(extra) for extra in rows)
    if more == 0:
        return place, score, kind, views.scale, person
    nothing = (np.zeros((17, 2)), np.zeros(17), np.full(17, ABSENT), np.nan, -1)
    padded = [extra + [nothing] * (more - len(extra)) for extra in rows]
    columns = [np.stack([np.stack([row[k] for row in extra]) for extra in padded]) for k in range(5)]
    old = (place, score, kind, views.scale, person)
    return tuple(np.concatenate(pair, axis=1) for pair in zip(old, columns, strict=True))


def _tidy(found: Detections, rng: np.random.Generator, config: NoiseConfig) -> Detections:
    """Rows of nothing go to the end, the others into random order; D is cut to the most in a view."""
    some = (found.kind != ABSENT).any(axis=-1)
    key = rng.random(some.shape) if config.shuffle else np.broadcast_to(np.arange(some.shape[1]), some.shape)
    order = np.argsort(np.where(some, key, key + some.shape[1]), axis=1)[:, : max(int(some.sum(axis=1).max()), 1)]
    each = np.arange(len(order))[:, None]
    kept = some[each, order]
    return Detections(
        rows=found.rows[each, order],
        size=np.where(kept, found.size[each, order], np.nan),
        person=np.where(kept, found.person[each, order], -1),
        kind=found.kind[each, order],
    )


def gaussians(
    detections: Detections, rng: np.random.Generator, config: NoiseConfig, scene_width: float = 1.0
) -> Gaussians:
    """Peaks around the detected joints, as wide as `sigma` at the person, varied.

    Returns:
        float32.
    """
    s = config.strength
    seen = detections.kind != ABSENT
    shape = seen.shape
    low, high = np.log(config.width)
    width = scene_width * np.exp(s * 0.5 * rng.uniform(low, high, shape))
    sigma = width * config.sigma * np.where(seen, detections.size[..., None], 1.0)
    ratio = np.exp(0.5 * s * config.anisotropy * rng.normal(size=shape))
    angle = rng.uniform(0.0, np.pi, shape)
    along, across = 1.0 / (sigma * ratio) ** 2, 1.0 / (sigma / ratio) ** 2
    cosine, sine = np.cos(angle), np.sin(angle)
    xx, yy = along * cosine**2 + across * sine**2, along * sine**2 + across * cosine**2
    precisions = np.stack((xx, (along - across) * cosine * sine, yy), axis=-1)
    precisions = np.where(seen[..., None], precisions, np.array([1.0, 0.0, 1.0]))
    place = np.where(seen[..., None], detections.rows[..., :2], 0.0)
    score = np.where(seen, detections.rows[..., 2], 0.0)
    means, precisions, heights = (torch.from_numpy(x.astype(np.float32)) for x in (place, precisions, score))
    return Gaussians(means, precisions, heights)


def imitate(
    keypoints: Float[np.ndarray | Tensor, "people 17 3"],
    cameras: Cameras,
    rng: np.random.Generator,
    config: NoiseConfig | None = None,
) -> Gaussians:
    """2D evidence of these people as a detector would give it: `detect`, then `gaussians`, in a scene of its own.

    Args:
        keypoints: (P, 17, 3) metres, world; people with NaN are not there.
        cameras: V cameras, as calibrated.

    Returns:
        (V, D, 17, ...) float32; the same for the same state of `rng`.
    """
    config = NoiseConfig() if config is None else config
    scene = draw_scene(len(keypoints), cameras, rng, config)
    found = detect(keypoints, cameras, rng, config, scene)
    return gaussians(found, rng, config, scene.width)
