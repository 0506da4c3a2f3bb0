"""Synthetic people in contact: 3D COCO-17 joints of bodies of random shapes in poses from a pool.

Scenes are z up, metres, the floor near z = 0, people around the origin. All joints are the body's own regressor's, of a
body turned about the vertical, mirrored, scaled and moved.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.skeletons import COCO17
from avatarpose.train.capsules import overlap
from avatarpose.train.motion import MotionPool

_FLIP = list(COCO17.flip)
_HIPS = COCO17.indices(["left_hip", "right_hip"])
_ANKLE_HEIGHT = 0.08  # of the lowest joint, metres


@dataclass(frozen=True)
class PeopleConfig:
    """Lengths in metres, between the pelvises on the floor unless said otherwise."""

    number: tuple[float, ...] = (0.1, 0.7, 0.15, 0.05)
    """Probabilities of 1, 2, 3, ... people."""
    pairs: float = 0.3
    """Share of the scenes of two that are true pairs of the pool (if it has any), in their true places."""
    pair_jitter: float = 0.05
    """Standard deviation of their relative place then, along each axis of the floor."""
    near: tuple[float, float] = (0.2, 0.7)
    """Distance of a person to an earlier one, uniform."""
    touching: tuple[float, float] = (0.1, 0.3)
    """The same for `touching_share` of the people."""
    touching_share: float = 0.3
    apart: tuple[float, float] = (1.0, 2.0)
    """The same for `apart_share` of the people."""
    apart_share: float = 0.2
    facing: float = 0.5
    """Share of the people who face the other, give or take 25 degrees (the other may turn elsewhere)."""
    following: float = 0.15
    """Share of the people who face as the other does."""
    betas: float = 1.0
    """Standard deviation of the shape coefficients."""
    mirrored: float = 0.5
    """Share of mirrored people."""
    scale: tuple[float, float] = (0.85, 1.1)
    """Factor of the body's size."""
    raised: float = 0.05
    """Share of the people whose lowest joint is up to 0.4 m above an ankle on the floor."""
    deepest_overlap: float = 0.08
    """How deep limbs, as capsules, may penetrate those of others."""
    least_gap: float = 0.02
    """Least distance of two joints of different people."""
    tries: int = 4
    """New places tried where people overlap, before they are pushed apart."""
    wander: float = 0.3
    """Standard deviation of the middle of the people around the origin, along each axis of the floor."""

    @property
    def most(self) -> int:
        """Most people in a scene."""
        return len(self.number)


def make_people(
    pool: MotionPool, body: BodyModel, rng: np.random.Generator, config: PeopleConfig | None, count: int
) -> Float[Tensor, "count people 17 3"]:
    """Joints of the people of `count` scenes.

    Args:
        pool: poses; its frame has z up.
        body: float32, on the CPU.
        rng: the same state makes the same scenes (for the same count).

    Returns:
        float32 metres; people = `config.most`, those who are not there last and NaN.
    """
    config = PeopleConfig() if config is None else config
    number = 1 + rng.choice(config.most, p=np.array(config.number) / sum(config.number), size=count)
    paired = (number == 2) & (rng.random(count) < config.pairs) & (len(pool.pairs) > 0)
    rows = rng.integers(len(pool), size=(count, config.most))
    if paired.any():
        pairs = pool.pairs[rng.integers(len(pool.pairs), size=int(paired.sum()))]
        rows[paired, :2] = pairs[np.arange(len(pairs))[:, None], _either_order(len(pairs), rng)]
    there = np.arange(config.most) < number[:, None]
    people = _bodies(pool, body, rng, config, rows, there)
    _place_alone(people, there & ~paired[:, None], rng, config)
    _place_pairs(people, np.flatnonzero(paired), rng, config)
    scenes = np.flatnonzero(~paired)
    for k in range(1, config.most):
        _place_beside(people, k, scenes[number[scenes] > k], rng, config)
    people[~there] = np.nan
    with np.errstate(invalid="ignore"):
        middle = np.nanmean(people[:, :, _HIPS, :2], axis=(1, 2))
    people[..., :2] += (config.wander * rng.normal(size=(count, 2)) - middle)[:, None, None]
    return torch.from_numpy(people.astype(np.float32))


def _either_order(count: int, rng: np.random.Generator) -> Int[np.ndarray, "count 2"]:
    first = rng.integers(2, size=count)
    return np.stack((first, 1 - first), axis=1)


def _bodies(
    pool: MotionPool,
    body: BodyModel,
    rng: np.random.Generator,
    config: PeopleConfig,
    rows: Int[np.ndarray, "count people"],
    there: Bool[np.ndarray, "count people"],
) -> Float[np.ndarray, "count people 17 3"]:
    """Joints of every person where the pool has him, of a random shape; zeros for nobody."""
    chosen = rows[there]
    betas = config.betas * rng.standard_normal((len(chosen), 10), dtype=np.float32)
    with torch.no_grad():
        joints = body.keypoints(
            torch.from_numpy(betas), torch.from_numpy(pool.poses[chosen]), torch.from_numpy(pool.trans[chosen])
        )
    people = np.zeros((*rows.shape, 17, 3))
    people[there] = joints.double().numpy()
    return people


def _turn(points: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Turns (..., J, 3) about the world's z by (...,) radians."""
    c, s = np.cos(yaw)[..., None], np.sin(yaw)[..., None]
    x, y = points[..., 0], points[..., 1]
    return np.stack((c * x - s * y, s * x + c * y, points[..., 2]), axis=-1)


def _mirror(points: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Reflects the chosen people (..., 17, 3) in the plane x = 0 and exchanges their sides."""
    mirrored = points[..., _FLIP, :] * (-1.0, 1.0, 1.0)
    return np.where(which[..., None, None], mirrored, points)


def _facing(points: Float[np.ndarray, "*batch 17 3"]) -> Float[np.ndarray, "*batch"]:
    """Direction on the floor, radians, in which a person's pelvis faces."""
    across = points[..., _HIPS[0], :] - points[..., _HIPS[1], :]  # to the left; forward = across x z
    return np.arctan2(-across[..., 0], across[..., 1])


def _place_alone(people: np.ndarray, which: np.ndarray, rng: np.random.Generator, config: PeopleConfig) -> None:
    """Each person for himself: mirrored, turned, scaled, on the floor, the pelvis above the origin."""
    shape = which.shape
    mirrored, yaw = rng.random(shape) < config.mirrored, rng.uniform(0, 2 * np.pi, shape)
    scale = rng.uniform(*config.scale, shape)
    raised = np.where(rng.random(shape) < config.raised, rng.uniform(0.0, 0.4, shape), 0.0)
    placed = _turn(_mirror(people, mirrored), yaw) * scale[..., None, None]
    placed[..., :2] -= placed[..., _HIPS, :2].mean(axis=-2, keepdims=True)
    placed[..., 2] += (_ANKLE_HEIGHT + raised - placed[..., 2].min(axis=-1))[..., None]
    people[which] = placed[which]


def _place_pairs(people: np.ndarray, scenes: np.ndarray, rng: np.random.Generator, config: PeopleConfig) -> None:
    """The two of each true pair alike, so that they touch where they did, but for the jitter and their shapes."""
    count = len(scenes)
    if count == 0:
        return
    mirrored, yaw = rng.random(count) < config.mirrored, rng.uniform(0, 2 * np.pi, count)
    scale = rng.uniform(*config.scale, count)
    jitter = config.pair_jitter * rng.normal(size=(count, 2))
    both = np.broadcast_to(mirrored[:, None], (count, 2)), np.broadcast_to(yaw[:, None], (count, 2))
    pair = _turn(_mirror(people[scenes, :2], both[0]), both[1]) * scale[:, None, None, None]
    pair[:, 1, :, :2] += jitter[:, None]
    pair[..., 2] += (_ANKLE_HEIGHT - pair[..., 2].min(axis=(1, 2)))[:, None, None]
    people[scenes, :2] = pair
    direction = pair[:, 1, _HIPS, :2].mean(axis=1) - pair[:, 0, _HIPS, :2].mean(axis=1)
    direction /= np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-6)
    _push_apart(people, 1, scenes, direction, config)


def _place_beside(
    people: np.ndarray, k: int, scenes: np.ndarray, rng: np.random.Generator, config: PeopleConfig
) -> None:
    """Person k of the scenes, near one of the people before."""
    if len(scenes) == 0:
        return
    alone, todo = people[scenes, k].copy(), np.arange(len(scenes))
    # Drawn once: new tries must not prefer the bounds that seldom collide.
    apart, touching = rng.random(len(scenes)) < config.apart_share, rng.random(len(scenes)) < config.touching_share
    low, high = np.where(apart[:, None], config.apart, np.where(touching[:, None], config.touching, config.near)).T
    direction = np.zeros((len(scenes), 2))
    for _ in range(config.tries):
        here, n = scenes[todo], len(todo)
        other = people[here, rng.integers(k, size=n)]
        distance = rng.uniform(low[todo], high[todo])
        angle = rng.uniform(0, 2 * np.pi, n)
        # Half of the people are in front of the other one, where embraces are.
        angle = np.where(rng.random(n) < 0.5, _facing(other) + 0.5 * rng.normal(size=n), angle)
        own = alone[todo]
        manner, wobble = rng.random(n), np.radians(25) * rng.normal(size=n)
        turned = np.where(manner < config.facing, angle + np.pi + wobble - _facing(own), rng.uniform(0, 2 * np.pi, n))
        follows = (manner >= config.facing) & (manner < config.facing + config.following)
        turned = np.where(follows, _facing(other) + wobble - _facing(own), turned)
        away = np.stack((np.cos(angle), np.sin(angle)), axis=1)
        moved = _turn(own, turned)
        moved[..., :2] += (other[:, _HIPS, :2].mean(axis=1) + distance[:, None] * away)[:, None]
        people[here, k], direction[todo] = moved, away
        todo = todo[_collides(people, k, here, config)]
        if len(todo) == 0:
            return
    _push_apart(people, k, scenes[todo], direction[todo], config)


def _collides(
    people: np.ndarray, k: int, scenes: Int[np.ndarray, " n"], config: PeopleConfig
) -> Bool[np.ndarray, " n"]:
    """Whether person k overlaps grossly with, or has a joint on one of, somebody before."""
    own, before = people[scenes, k][:, None], people[scenes, :k]
    deep = (overlap(own, before) > config.deepest_overlap).any(axis=1)
    apart = ((own[:, :, :, None] - before[:, :, None]) ** 2).sum(axis=-1).min(axis=(1, 2, 3))
    return deep | (apart < config.least_gap**2)


def _push_apart(
    people: np.ndarray, k: int, scenes: np.ndarray, direction: Float[np.ndarray, "n 2"], config: PeopleConfig
) -> None:
    """Moves person k along the floor until nothing collides, in steps of 4 cm."""
    todo = np.flatnonzero(_collides(people, k, scenes, config)) if len(scenes) else np.arange(0)
    for _ in range(60):
        if len(todo) == 0:
            return
        people[scenes[todo], k, :, :2] += 0.04 * direction[todo][:, None]
        todo = todo[_collides(people, k, scenes[todo], config)]
