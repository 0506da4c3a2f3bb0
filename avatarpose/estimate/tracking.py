"""People over time: each is predicted from his motion, claims his detections, is lost and found again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int

from avatarpose.estimate.affinity import LIMBS, FrameRays, Rays
from avatarpose.estimate.births import find_people, same_place
from avatarpose.estimate.config import TriangulationConfig
from avatarpose.estimate.matching import settle

_VELOCITY_MEMORY = 0.5  # share of the old velocity kept at each frame: single differences are mostly noise
_SAME_PERSON = 0.1  # metres, mean distance of the joints of one person detected twice
_MAX_SPEED = 6.0  # metres per second of a joint, faster than which is taken for an error


@dataclass(eq=False)
class Track:
    """One person: his detections by frame, and where his joints were last.

    Attributes:
        rows: frame index -> (C,) rows, -1 where none.
        joints: frame index -> (17, 3) metres, NaN where unknown.
        points: (17, 3) last known place of every joint ever seen.
        seen: (17,) seconds, when it was there.
        velocity: (17, 3) metres per second.
        time: seconds, when the person was last found.
    """

    points: Float[np.ndarray, "17 3"]
    seen: Float[np.ndarray, " 17"]
    time: float
    velocity: Float[np.ndarray, "17 3"] = field(default_factory=lambda: np.zeros((17, 3)))
    rows: dict[int, np.ndarray] = field(default_factory=dict)
    joints: dict[int, np.ndarray] = field(default_factory=dict)

    def predict(self, time: float, coast: float) -> Float[np.ndarray, "17 3"]:
        """Where the joints are expected: straight on, for `coast` seconds at most; joints unseen for long are NaN.

        A joint unseen for a while goes with the body from where it was.
        """
        body = np.median(self.velocity, axis=0)
        ahead = float(np.clip(time - self.time, -coast, coast))
        fresh = np.abs(self.time - self.seen) < 1e-9
        step = np.where(fresh[:, None], self.velocity, body) * ahead
        carried = body * np.clip(self.time - self.seen, -coast, coast)[:, None]
        known = np.abs(self.time - self.seen) <= 2 * coast
        return np.where(known[:, None], self.points + step + np.where(fresh[:, None], 0.0, carried), np.nan)

    def update(self, index: int, time: float, joints: Float[np.ndarray, "17 3"], rows: Int[np.ndarray, " c"]) -> None:
        """Takes in the joints (NaN where unknown) and detections of a frame."""
        known = np.isfinite(joints[:, 0])
        elapsed = time - self.seen
        with np.errstate(invalid="ignore", divide="ignore"):
            speed = (joints - self.points) / elapsed[:, None]
        usable = known & (np.abs(elapsed) > 1e-9) & (np.linalg.norm(speed, axis=-1) < _MAX_SPEED)
        first = len(self.joints) == 1
        keep = 0.0 if first else _VELOCITY_MEMORY
        self.velocity[usable] = keep * self.velocity[usable] + (1.0 - keep) * speed[usable]
        self.points = np.where(known[:, None], joints, self.points)
        self.seen = np.where(known, time, self.seen)
        self.time = time
        self.rows[index], self.joints[index] = rows, joints

    def is_followed(self, index: int, time: float, coast: float) -> bool:
        """Whether the person is looked for: found within `coast` seconds, or in the frame before (or after) however
        far apart frames are in time."""
        return abs(time - self.time) <= coast + 1e-9 or index - 1 in self.rows or index + 1 in self.rows

    def rewind(self, times: Float[np.ndarray, " frames"]) -> None:
        """Prepares for going backward in time: as at the last frame."""
        last = max(self.joints)
        known = np.isfinite(self.joints[last][:, 0])
        self.points = np.where(known[:, None], self.joints[last], self.points)
        self.seen = np.where(known, times[last], self.seen)
        self.time = times[last]


def track(
    rays: Rays,
    times: Float[np.ndarray, " frames"],
    config: TriangulationConfig,
    progress: Callable[[int, int], None] | None = None,
) -> list[Track]:
    """Groups the detections of all views and frames into people.

    Forward through time: people seen lately claim their detections, the others are searched for new people, who may be
    somebody lost a while ago. Then backward, so that a person recognised late in an entrance or after an occlusion is
    followed into the frames before it.

    Args:
        times: seconds, increasing.
        progress: called with frames done and their total, over both passes.
    """
    tracks: list[Track] = []
    count = len(times)
    for f in range(count):
        frame = rays.frame(f)
        present, free = _follow(tracks, f, frame, times[f], config, ~np.zeros(frame.scores.shape[:2], bool))
        joints, rows = find_people(frame, free, np.array(present).reshape(-1, 17, 3), config)
        _begin(tracks, f, times[f], joints, rows.T, config)
        if progress is not None:
            progress(f + 1, 2 * count)
    tracks = [t for t in tracks if len(t.rows) >= min(2, count)]
    for t in tracks:
        t.rewind(times)
    for done, f in enumerate(reversed(range(count))):
        frame = rays.frame(f)
        free = ~np.zeros(frame.scores.shape[:2], bool)
        for t in tracks:
            if f in t.rows:
                _take(free, t.rows[f])
        absent = [t for t in tracks if f not in t.rows]
        known = np.array([t.joints[f] for t in tracks if f in t.rows]).reshape(-1, 17, 3)
        _follow(absent, f, frame, times[f], config, free, known)
        for t in tracks:
            if t not in absent:
                t.update(f, times[f], t.joints[f], t.rows[f])
        if progress is not None:
            progress(count + done + 1, 2 * count)
    return [t for t in tracks if len(t.rows) >= config.least_frames(times)]


def _take(free: np.ndarray, rows: np.ndarray) -> None:
    free[np.flatnonzero(rows >= 0), rows[rows >= 0]] = False


def _follow(
    tracks: list[Track],
    index: int,
    frame: FrameRays,
    time: float,
    config: TriangulationConfig,
    free: np.ndarray,
    known: np.ndarray | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Lets the people seen within `coast_seconds` claim their detections.

    Returns:
        Joints of those found, and the detections still free.
    """
    free = free.copy()
    near = [t for t in tracks if t.is_followed(index, time, config.coast_seconds)]
    if not near:
        return [], free
    expected = np.array([t.predict(time, config.coast_seconds) for t in near])
    # The longer ago somebody was seen, the wider he is looked for.
    away = np.array([abs(time - t.time) for t in near])
    radius = np.maximum(config.person_radius, 0.1 + config.walking_speed * away)
    located, rows = settle(frame, expected, free, radius, config)
    found = np.isfinite(located[..., 0]).sum(axis=1)
    present: list[np.ndarray] = []
    for i in np.argsort(-found, kind="stable"):
        joints, row = located[i], rows[:, i]
        if found[i] < config.min_joints:
            continue
        if known is not None and len(known) and same_place(joints, known).min() < config.duplicate_distance:
            continue
        # Two known people may embrace, and are told apart down to a distance that only double detections come under.
        if present and same_place(joints, np.array(present)).min() < _SAME_PERSON:
            continue
        near[i].update(index, time, joints, row)
        _take(free, row)
        present.append(joints)
    return present, free


def _begin(
    tracks: list[Track], index: int, time: float, joints: np.ndarray, rows: np.ndarray, config: TriangulationConfig
) -> None:
    """Makes tracks of new people, or gives them back to tracks lost where they may have come from."""
    lost = [t for t in tracks if index not in t.rows and time - t.time <= config.lost_seconds]
    distance = np.full((len(joints), len(lost)), np.inf)
    for i, new in enumerate(joints):
        for k, old in enumerate(lost):
            reach = 0.5 + config.walking_speed * (time - old.time)
            away = _centre_distance(new, old.predict(old.time, config.coast_seconds))
            if away < reach:
                distance[i, k] = away / reach + 5.0 * bone_difference(new, old.points)
    taken = {i: lost[k] for i, k in cheapest_pairs(distance)}
    for i, (new, row) in enumerate(zip(joints, rows, strict=True)):
        if i in taken:
            taken[i].velocity[:] = 0.0
            taken[i].update(index, time, new, row)
        else:
            person = Track(points=np.full((17, 3), np.nan), seen=np.full(17, -np.inf), time=time)
            person.update(index, time, new, row)
            tracks.append(person)


def _centre_distance(a: np.ndarray, b: np.ndarray) -> float:
    both = np.isfinite(a[:, 0]) & np.isfinite(b[:, 0])
    return float(np.linalg.norm((a[both] - b[both]).mean(axis=0))) if both.any() else np.inf


def cheapest_pairs(cost: Float[np.ndarray, "new lost"]) -> list[tuple[int, int]]:
    """Pairs one to one, the cheapest first; infinite costs are no pairs."""
    cost, pairs = cost.copy(), []
    while np.isfinite(cost).any():
        i, k = np.unravel_index(np.argmin(cost), cost.shape)
        pairs.append((int(i), int(k)))
        cost[i], cost[:, k] = np.inf, np.inf
    return pairs


def bone_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Median difference of the bone lengths known in both, metres; 0 where none is."""
    lengths = [np.linalg.norm(x[LIMBS[:, 0]] - x[LIMBS[:, 1]], axis=-1) for x in (a, b)]
    difference = np.abs(lengths[0] - lengths[1])
    return float(np.nanmedian(difference)) if np.isfinite(difference).any() else 0.0
