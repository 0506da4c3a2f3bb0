"""People over the sequence: centres followed from frame to frame, with identities, entrances, losses and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from avatarpose.cameras import Cameras
from avatarpose.estimate.affinity import FrameRays, agreement, point_ray_distance
from avatarpose.estimate.births import find_people as people_of_rows
from avatarpose.estimate.births import same_place
from avatarpose.estimate.matching import locate, settle
from avatarpose.estimate.tracking import Track
from avatarpose.estimate.volumetric.centres import (
    NECK,
    PELVIS,
    SIDES,
    FrameEvidence,
    cast,
    find_candidates,
    pair_torsos,
    place_centres,
    shared_rows,
    triangulate_greedily,
)
from avatarpose.estimate.volumetric.config import CentreConfig
from avatarpose.estimate.volumetric.evidence import Gaussians

_SAME_PERSON = 0.1  # metres, mean distance of the joints of one person detected twice
_MAX_SPEED = 8.0  # metres per second of a centre, faster than which is taken for an error
_VELOCITY_MEMORY = 0.5
_LIMBS = np.array([[5, 7], [6, 8], [7, 9], [8, 10], [11, 13], [12, 14], [13, 15], [14, 16], [5, 11], [6, 12]])


@dataclass(frozen=True)
class Centres:
    """Where people are, frame by frame, with identities; in order of first frame, then x.

    Attributes:
        pelvis: (P, F, 3) middle of the hips, metres, NaN where not there.
        neck: (P, F, 3) middle of the shoulders, metres, NaN where not there.
        valid: (P, F) whether the person is there; both centres are then known, bridged where nothing was seen for
            up to `coast_seconds`.
        spread: (P, F) expected error of the worse of the two centres along an axis, metres; inf where not valid.
    """

    pelvis: Float[np.ndarray, "people frames 3"]
    neck: Float[np.ndarray, "people frames 3"]
    valid: Bool[np.ndarray, "people frames"]
    spread: Float[np.ndarray, "people frames"]


@dataclass(eq=False)
class Person(Track):
    """A track with its centres.

    Attributes:
        centres: frame index -> (2, 3) pelvis and neck, metres, NaN where unknown.
        deviations: frame index -> (2,) metres.
        centre: (2, 3) last known pelvis and neck.
        centre_seen: (2,) seconds, when that was.
        centre_velocity: (2, 3) metres per second.
    """

    centres: dict[int, np.ndarray] = field(default_factory=dict)
    deviations: dict[int, np.ndarray] = field(default_factory=dict)
    centre: np.ndarray = field(default_factory=lambda: np.full((2, 3), np.nan))
    centre_seen: np.ndarray = field(default_factory=lambda: np.full(2, -np.inf))
    centre_velocity: np.ndarray = field(default_factory=lambda: np.zeros((2, 3)))

    def predict_centres(self, time: float, coast: float) -> Float[np.ndarray, "2 3"]:
        """Pelvis and neck expected at a time: straight on, for `coast` seconds at most."""
        ahead = np.clip(time - self.centre_seen, -coast, coast)
        ahead = np.where(np.isfinite(self.centre_seen), ahead, 0.0)
        return self.centre + self.centre_velocity * ahead[:, None]

    def take(self, index: int, time: float, found: Found) -> None:
        """Takes in what was found in a frame."""
        known = np.isfinite(found.centres[:, 0])
        elapsed = time - self.centre_seen
        with np.errstate(invalid="ignore", divide="ignore"):
            speed = (found.centres - self.centre) / elapsed[:, None]
        usable = known & (np.abs(elapsed) > 1e-9) & (np.linalg.norm(speed, axis=-1) < _MAX_SPEED)
        keep = 0.0 if len(self.centres) < 2 else _VELOCITY_MEMORY
        self.centre_velocity[usable] = keep * self.centre_velocity[usable] + (1.0 - keep) * speed[usable]
        self.centre = np.where(known[:, None], found.centres, self.centre)
        self.centre_seen = np.where(known, time, self.centre_seen)
        self.centres[index], self.deviations[index] = found.centres, found.deviation
        self.update(index, time, found.joints, found.rows)


@dataclass(frozen=True)
class Found:
    """One person in one frame: joints (17, 3), centres (2, 3), deviation (2,), rows (C,)."""

    joints: np.ndarray
    centres: np.ndarray
    deviation: np.ndarray
    rows: np.ndarray


def find_people(
    evidence: Sequence[Gaussians],
    cameras: Cameras,
    times: Float[np.ndarray, " frames"],
    config: CentreConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Centres:
    """Finds the people of a capture and where their pelvis and neck are in every frame.

    Forward through time: people seen lately take the evidence near where they are expected, all their joints deciding
    whose a detection is; what is left is searched for new people, who may be somebody lost a while ago. Then backward,
    so that a person recognised late is followed into the frames before. Short gaps are bridged, centres smoothed.

    Args:
        evidence: Gaussians of each frame (`Evidence`, or a list).
        times: seconds, increasing.
        progress: called with frames done and their total, over both passes.
    """
    config = config or CentreConfig()
    cameras = cameras.to(dtype=torch.float64, device="cpu")
    settings, count = config.association, len(times)
    people: list[Person] = []
    frames: list[FrameEvidence] = []
    for f in range(count):
        frame = cast(evidence[f], cameras, config)
        frames.append(frame)
        free = frame.rays.scores > 0
        present, free = _follow(people, f, frame, times[f], free, config)
        found = _find_new(frame, free, present, cameras, config)
        _begin(people, f, times[f], found, config)
        if progress is not None:
            progress(f + 1, 2 * count)
    people = [person for person in people if len(person.centres) >= min(2, count)]
    for person in people:
        _rewind(person, times)
    for done, f in enumerate(reversed(range(count))):
        frame = frames[f]
        free = frame.rays.scores > 0
        known = [person for person in people if f in person.centres]
        absent = [person for person in people if f not in person.centres]
        for person in known:
            _use(free, frame, person.rows[f], person.joints[f], config)
        _follow(absent, f, frame, times[f], free, config, [person.joints[f] for person in known])
        for person in known:
            person.take(f, times[f], Found(person.joints[f], person.centres[f], person.deviations[f], person.rows[f]))
        if progress is not None:
            progress(count + done + 1, 2 * count)
    people = [person for person in people if len(person.centres) >= settings.least_frames(times)]
    return _assemble(people, times, config)


# ---- one frame ----


def _follow(
    people: list[Person],
    index: int,
    frame: FrameEvidence,
    time: float,
    free: Bool[np.ndarray, "cameras rows 17"],
    config: CentreConfig,
    known: Sequence[np.ndarray] = (),
) -> tuple[list[Found], np.ndarray]:
    """Lets the people seen within `coast_seconds` take their evidence; returns those found and what is left."""
    settings, free = config.association, free.copy()
    near = [p for p in people if abs(time - p.time) <= settings.coast_seconds + 1e-9 or _is_next(p, index)]
    if not near:
        return [], free
    expected = np.array([person.predict(time, settings.coast_seconds) for person in near])
    centres = np.array([person.predict_centres(time, settings.coast_seconds) for person in near])
    for centre, sides in enumerate(SIDES):  # a joint nobody knows is about where its centre is
        unknown = ~np.isfinite(expected[:, sides, :1])
        expected[:, sides] = np.where(unknown, centres[:, centre, None], expected[:, sides])
    away = np.array([abs(time - person.time) for person in near])
    radius = np.maximum(settings.person_radius, 0.1 + settings.walking_speed * away)
    rays, rows_free = _own_rows(frame, expected, free, radius)
    located, rows = settle(rays, expected, rows_free, radius, settings)
    joints = np.where(np.isfinite(located), located, expected)
    placed, deviation, views = place_centres(frame, rows, joints, centres, config, rays)
    found: list[Found] = []
    for i in np.argsort(-views.sum(axis=1), kind="stable"):
        if views[i].max() < 2 or _impossible_torso(placed[i], config):
            continue
        here = [other.joints for other in found]
        if len(known) and same_place(located[i], np.array(known)).min() < settings.duplicate_distance:
            continue
        # Two known people may embrace, and are told apart down to a distance that only double detections come under.
        if here and same_place(located[i], np.array(here)).min() < _SAME_PERSON:
            continue
        result = Found(
            located[i], placed[i], deviation[i], rows[:, i] if frame.rows_are_people else -np.ones(len(rows))
        )
        near[i].take(index, time, result)
        _use(free, frame, rows[:, i], joints[i], config)
        found.append(result)
    return found, free


def _is_next(person: Person, index: int) -> bool:
    """Whether the person was found in the frame before (or after), however far apart frames are in time."""
    return index - 1 in person.centres or index + 1 in person.centres


def _impossible_torso(centres: np.ndarray, config: CentreConfig) -> bool:
    length = np.linalg.norm(centres[NECK] - centres[PELVIS])
    return bool(length < config.torso_range[0] - 0.1 or length > config.torso_range[1] + 0.1)


def _own_rows(
    frame: FrameEvidence, expected: np.ndarray, free: np.ndarray, radius: np.ndarray
) -> tuple[FrameRays, Bool[np.ndarray, "cameras rows"]]:
    """Detections to choose from. Separate peaks are first grouped: one row a person, of the peaks nearest his joints."""
    rays = frame.rays
    if frame.rows_are_people:
        return rays, free.any(axis=-1)
    people, cameras = len(expected), len(rays.origins)
    directions, scores = np.zeros((cameras, people, 17, 3)), np.zeros((cameras, people, 17))
    for c, origin in enumerate(rays.origins):
        distance = point_ray_distance(expected[:, None], origin, rays.directions[c][None])  # (P, D, 17)
        value = np.where(free[c], rays.scores[c] * agreement(distance, radius[:, None, None]), 0.0)
        for joint in range(17):
            person, peak = linear_sum_assignment(np.maximum(value[..., joint], 0.0), maximize=True)
            good = value[person, peak, joint] > 0
            directions[c, person[good], joint] = rays.directions[c, peak[good], joint]
            scores[c, person[good], joint] = rays.scores[c, peak[good], joint]
    return FrameRays(rays.origins, directions, scores), np.ones((cameras, people), bool)


def _use(free: np.ndarray, frame: FrameEvidence, rows: np.ndarray, joints: np.ndarray, config: CentreConfig) -> None:
    """Takes a person's evidence away: whole detections, or the separate peaks at his joints."""
    if frame.rows_are_people:
        view = np.flatnonzero(rows >= 0)
        free[view, rows[view]] = False
        return
    for c, origin in enumerate(frame.rays.origins):
        distance = point_ray_distance(joints, origin, frame.rays.directions[c])  # (D, 17)
        distance = np.where(free[c] & np.isfinite(distance), distance, np.inf)
        nearest = distance.argmin(axis=0)
        close = distance[nearest, np.arange(17)] < frame.radius
        free[c, nearest[close], np.flatnonzero(close)] = False


def _find_new(
    frame: FrameEvidence, free: np.ndarray, present: list[Found], cameras: Cameras, config: CentreConfig
) -> list[Found]:
    """New people among what is left: of whole detections that agree, then of pelvises and necks."""
    settings, free = config.association, free.copy()
    known = np.array([person.joints for person in present]).reshape(-1, 17, 3)
    new: list[Found] = []
    if frame.rows_are_people:
        joints, rows = people_of_rows(frame.rays, free.any(axis=-1), known, settings)
        new += _accept(frame, joints, rows, np.full((len(joints), 2, 3), np.nan), known, config)
        for person in new:
            _use(free, frame, person.rows, person.joints, config)
    pelvises, necks = (find_candidates(frame, centre, free, config) for centre in (PELVIS, NECK))
    places, chosen, _ = triangulate_greedily(frame, pelvises, cameras, config)
    neck_places, neck_chosen, _ = triangulate_greedily(frame, necks, cameras, config)
    shared = shared_rows(pelvises, chosen, necks, neck_chosen)
    if not frame.rows_are_people:
        shared = np.full_like(shared, np.nan)
    view = np.arange(len(cameras))
    for a, b in pair_torsos(places, neck_places, shared, config):
        centres = np.stack((places[a], neck_places[b]))
        known = np.array([person.joints for person in (*present, *new)]).reshape(-1, 17, 3)
        rows = np.full(len(view), -1)
        rays = frame.rays
        if frame.rows_are_people:
            for part, picked in ((necks, neck_chosen[b]), (pelvises, chosen[a])):
                rows = np.where(picked >= 0, part.rows[view, picked].max(axis=-1), rows)
        else:
            rays, rows = _torso_rows(frame, pelvises.rows[view, chosen[a]], chosen[a], necks.rows[view, neck_chosen[b]],
                                     neck_chosen[b])  # fmt: skip
        joints = locate(rays, rows[:, None], settings)
        new += _accept(frame, joints, rows[:, None], centres[None], known, config, rays)
    return new


def _torso_rows(
    frame: FrameEvidence, hips: np.ndarray, has_hips: np.ndarray, shoulders: np.ndarray, has_shoulders: np.ndarray
) -> tuple[FrameRays, np.ndarray]:
    """The four separate peaks of a torso in each view as one detection, and its row in each view."""
    cameras = len(hips)
    directions, scores = np.zeros((cameras, 1, 17, 3)), np.zeros((cameras, 1, 17))
    for sides, peaks, has in ((SIDES[PELVIS], hips, has_hips), (SIDES[NECK], shoulders, has_shoulders)):
        for side, joint in enumerate(sides):
            view = np.flatnonzero(has >= 0)
            directions[view, 0, joint] = frame.rays.directions[view, peaks[view, side], joint]
            scores[view, 0, joint] = frame.rays.scores[view, peaks[view, side], joint]
    rows = np.where((scores > 0).any(axis=(1, 2)), 0, -1)
    return FrameRays(frame.rays.origins, directions, scores), rows


def _accept(
    frame: FrameEvidence,
    joints: Float[np.ndarray, "new 17 3"],
    rows: Int[np.ndarray, "cameras new"],
    expected: Float[np.ndarray, "new 2 3"],
    known: Float[np.ndarray, "people 17 3"],
    config: CentreConfig,
    rays: FrameRays | None = None,
) -> list[Found]:
    """New people whose pelvis and neck are both there, as far apart as a torso is long, and who are nobody known."""
    if not len(joints):
        return []
    placed, deviation, _ = place_centres(frame, rows, joints, expected, config, rays)
    placed = np.where(np.isfinite(placed), placed, expected)
    low, high = config.torso_range
    accepted = []
    for i, centres in enumerate(placed):
        length = np.linalg.norm(centres[NECK] - centres[PELVIS])
        if not low <= length <= high:
            continue
        if len(known) and same_place(joints[i], known).min() < config.association.duplicate_distance:
            continue
        accepted.append(Found(joints[i], centres, deviation[i], rows[:, i]))
    return accepted


# ---- over time ----


def _begin(people: list[Person], index: int, time: float, found: list[Found], config: CentreConfig) -> None:
    """Makes tracks of new people, or gives them back to tracks lost where they may have come from."""
    settings = config.association
    lost = [p for p in people if index not in p.centres and time - p.time <= settings.lost_seconds]
    cost = np.full((len(found), len(lost)), np.inf)
    for i, new in enumerate(found):
        for k, old in enumerate(lost):
            reach = 0.5 + settings.walking_speed * (time - old.time)
            away = np.nanmean(
                np.linalg.norm(new.centres - old.predict_centres(old.time, settings.coast_seconds), axis=-1)
            )
            if away < reach:
                cost[i, k] = away / reach + 5.0 * _bone_difference(new.joints, old.points)
    taken: dict[int, Person] = {}
    while np.isfinite(cost).any():
        i, k = np.unravel_index(np.argmin(cost), cost.shape)
        taken[int(i)] = lost[k]
        cost[i], cost[:, k] = np.inf, np.inf
    for i, new in enumerate(found):
        if i in taken:
            taken[i].velocity[:] = 0.0
            taken[i].centre_velocity[:] = 0.0
            person = taken[i]
        else:
            person = Person(points=np.full((17, 3), np.nan), seen=np.full(17, -np.inf), time=time)
            people.append(person)
        person.take(index, time, new)


def _bone_difference(a: np.ndarray, b: np.ndarray) -> float:
    """Median difference of the bone lengths known in both, metres; 0 where none is."""
    lengths = [np.linalg.norm(x[_LIMBS[:, 0]] - x[_LIMBS[:, 1]], axis=-1) for x in (a, b)]
    difference = np.abs(lengths[0] - lengths[1])
    return float(np.nanmedian(difference)) if np.isfinite(difference).any() else 0.0


def _rewind(person: Person, times: np.ndarray) -> None:
    """Prepares a track for the backward pass: as at its last frame."""
    last = max(person.centres)
    known = np.isfinite(person.joints[last][:, 0])
    person.points = np.where(known[:, None], person.joints[last], person.points)
    person.seen = np.where(known, times[last], person.seen)
    person.time = times[last]


# ---- assembling ----


def _assemble(people: list[Person], times: np.ndarray, config: CentreConfig) -> Centres:
    """Arrays of all people, short gaps bridged, centres smoothed, in order."""
    count, coast = len(times), config.association.coast_seconds
    places = np.full((len(people), 2, count, 3), np.nan)
    deviations = np.full((len(people), 2, count), np.inf)
    for p, person in enumerate(people):
        for f, centres in person.centres.items():
            places[p, :, f], deviations[p, :, f] = centres, person.deviations[f]
    for p in range(len(people)):
        for centre in (PELVIS, NECK):
            places[p, centre], deviations[p, centre] = bridge(places[p, centre], deviations[p, centre], times, coast)
    valid = np.isfinite(places[..., 0]).all(axis=1)
    kept = np.flatnonzero(valid.sum(axis=1) >= config.association.least_frames(times))
    first = valid[kept].argmax(axis=1)
    order = kept[np.lexsort((places[kept, PELVIS, first, 0], first))]
    places, valid, deviations = places[order], valid[order], deviations[order]
    places = np.where(valid[:, None, :, None], places, np.nan)
    spread = np.where(valid, deviations.max(axis=1), np.inf)
    return Centres(places[:, PELVIS], places[:, NECK], valid, spread)


def bridge(
    places: Float[np.ndarray, "frames 3"],
    deviations: Float[np.ndarray, " frames"],
    times: Float[np.ndarray, " frames"],
    coast: float,
) -> tuple[Float[np.ndarray, "frames 3"], Float[np.ndarray, " frames"]]:
    """Fills gaps of up to `coast` seconds by interpolation, linear in time; their deviation grows with the distance."""
    known = np.flatnonzero(np.isfinite(places[:, 0]))
    places, deviations = places.copy(), deviations.copy()
    for a, b in zip(known[:-1], known[1:], strict=True):
        if b - a < 2 or times[b] - times[a] > coast + 1.5 * np.median(np.diff(times)):
            continue
        inside = np.arange(a + 1, b)
        share = ((times[inside] - times[a]) / (times[b] - times[a]))[:, None]
        places[inside] = (1 - share) * places[a] + share * places[b]
        sag = 0.5 * 6.0 * (times[inside] - times[a]) * (times[b] - times[inside])
        deviations[inside] = np.maximum(deviations[a], deviations[b]) + sag
    return places, deviations
