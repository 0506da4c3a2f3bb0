"""People over the sequence: centres followed from frame to frame, with identities, entrances, losses and returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment

from avatarpose.cameras import Cameras
from avatarpose.estimate.affinity import FrameRays, point_ray_distance
from avatarpose.estimate.births import find_people as people_of_rows
from avatarpose.estimate.births import same_place
from avatarpose.estimate.matching import gather, locate, settle
from avatarpose.estimate.tracking import bone_difference, cheapest_pairs
from avatarpose.estimate.volumetric.centres import (
    NECK,
    PELVIS,
    SIDES,
    Candidates,
    FrameEvidence,
    cast,
    find_candidates,
    pair_torsos,
    place_centres,
    plausible_size,
    shared_rows,
    triangulate_greedily,
    views_needed,
)
from avatarpose.estimate.volumetric.config import CentreConfig
from avatarpose.estimate.volumetric.evidence import Gaussians
from avatarpose.estimate.volumetric.tracks import Centres, Found, Person, settle_centres

_SAME_PERSON = 0.1  # metres, mean distance of the joints of one person detected twice
# Joint -> joints before it, with the least and greatest distance of nearly all people, metres.
_BONES_OF = {
    **{11: [], 12: [(11, 0.05, 0.4)], 5: [(11, 0.3, 0.7)], 6: [(12, 0.3, 0.7), (5, 0.1, 0.55)]},
    **{joint: [(joint - 2, 0.12, 0.42)] for joint in (7, 8, 9, 10)},
    **{joint: [(joint - 2, 0.22, 0.6)] for joint in (13, 14, 15, 16)},
    **{3: [(5, 0.08, 0.4)], 4: [(6, 0.08, 0.4)], 1: [(3, 0.04, 0.2)], 2: [(4, 0.04, 0.2)], 0: [(1, 0.01, 0.12)]},
}


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
        present: list[Found] = []
        for certain in (True, False):  # whoever was seen for long has the first choice
            group = [person for person in people if person.is_certain() == certain]
            here, free = _follow(group, f, frame, times[f], free, cameras, config, present)
            present += here
        found = _find_new(frame, free, present, cameras, config)
        _begin(people, f, times[f], found, config)
        if progress is not None:
            progress(f + 1, 2 * count)
    people = [person for person in people if len(person.found) >= min(2, count)]
    for person in people:
        person.rewind(times)
    for done, f in enumerate(reversed(range(count))):
        frame = frames[f]
        free = frame.rays.scores > 0
        known = [person for person in people if f in person.found]
        absent = [person for person in people if f not in person.found]
        for person in known:
            _use(free, frame, person.rows[f], person.joints[f])
        _follow(absent, f, frame, times[f], free, cameras, config, [person.found[f] for person in known])
        for person in known:
            person.take(f, times[f], person.found[f])
        if progress is not None:
            progress(count + done + 1, 2 * count)
    people = [person for person in people if len(person.found) >= settings.least_frames(times)]
    radii = np.array([frame.radius for frame in frames])
    return settle_centres(people, cameras.centres.numpy(), radii, times, config)


# ---- one frame ----


def _follow(
    people: list[Person],
    index: int,
    frame: FrameEvidence,
    time: float,
    free: Bool[np.ndarray, "cameras rows 17"],
    cameras: Cameras,
    config: CentreConfig,
    known: Sequence[Found] = (),
) -> tuple[list[Found], np.ndarray]:
    """Lets the people seen within `coast_seconds` take their evidence; returns those found and what is left."""
    settings, free = config.association, free.copy()
    origins = frame.rays.origins
    near = [p for p in people if p.is_followed(index, time, settings.coast_seconds)]
    if not near:
        return [], free
    expected = np.array([person.predict(time, settings.coast_seconds) for person in near])
    centres = np.array([person.predict_centres(time, settings.coast_seconds) for person in near])
    for centre, sides in enumerate(SIDES):  # a side nobody knows is about where its centre is
        unknown = ~np.isfinite(expected[:, sides, :1])
        expected[:, sides] = np.where(unknown, centres[:, centre, None], expected[:, sides])
    away = np.array([abs(time - person.time) for person in near])
    radius = np.maximum(settings.person_radius, 0.1 + settings.walking_speed * away)
    rays, rows_free = _own_rows(frame, expected, free, radius, cameras, config)
    located, rows = settle(rays, expected, rows_free, radius, settings)
    joints = np.where(np.isfinite(located), located, expected)
    directions, scores = gather(rays, rows)
    placed, _, views = place_centres(origins, directions, scores, joints, centres, frame.radius, config)
    found: list[Found] = []
    for i in np.argsort(-views.sum(axis=1), kind="stable"):
        if views[i].max() < 2 or _impossible_torso(placed[i], config):
            continue
        # Two known people may embrace, and are told apart down to a distance that only double detections come under.
        if _is_one_of(located[i], placed[i], [*known, *found], _SAME_PERSON, _SAME_PERSON):
            continue
        own = rows[:, i] if frame.rows_are_people else np.full(len(rows), -1)
        result = Found(located[i], placed[i], own, directions[i], scores[i])
        near[i].take(index, time, result)
        _use(free, frame, rows[:, i], joints[i])
        found.append(result)
    return found, free


def _impossible_torso(centres: np.ndarray, config: CentreConfig) -> bool:
    length = np.linalg.norm(centres[NECK] - centres[PELVIS])
    return bool(length < config.torso_range[0] - 0.1 or length > config.torso_range[1] + 0.1)


def _is_one_of(
    joints: Float[np.ndarray, "17 3"],
    centres: Float[np.ndarray, "2 3"],
    others: Sequence[Found],
    joint_distance: float,
    centre_distance: float,
) -> bool:
    """Whether somebody is one of the others: by his joints or, sides swapped, his centres, metres on average."""
    if not others:
        return False
    if same_place(joints, np.array([other.joints for other in others])).min() < joint_distance:
        return True
    away = np.linalg.norm(centres - np.array([other.centres for other in others]), axis=-1).mean(axis=-1)
    return bool(np.nan_to_num(away, nan=np.inf).min() < centre_distance)


def _own_rows(
    frame: FrameEvidence,
    expected: Float[np.ndarray, "people 17 3"],
    free: Bool[np.ndarray, "cameras rows 17"],
    radius: Float[np.ndarray, " people"],
    cameras: Cameras,
    config: CentreConfig,
) -> tuple[FrameRays, Bool[np.ndarray, "cameras rows"]]:
    """Detections to choose from. Separate peaks are first grouped in space, a row a person, by his expected joints.

    The peaks of each joint are triangulated greedily, and the places given to the people nearest to whose expected
    joint they are and whose bones they fit.
    """
    rays = frame.rays
    if frame.rows_are_people:
        return rays, free.any(axis=-1)
    people, views = len(expected), len(rays.origins)
    directions, scores = np.zeros((views, people, 17, 3)), np.zeros((views, people, 17))
    here = np.full((people, 17, 3), np.nan)
    for joint, bones in _BONES_OF.items():  # from the trunk outwards
        candidates = Candidates(
            rays.directions[:, :, joint],
            np.where(free[:, :, joint], rays.scores[:, :, joint], 0.0),
            np.tile(np.arange(free.shape[1])[:, None], (views, 1, 2)),
        )
        points, chosen, _ = triangulate_greedily(frame, candidates, cameras, config, least_views=2)
        away = np.linalg.norm(points[None] - expected[:, None, joint], axis=-1) / (2.0 * radius[:, None])
        value = np.where(np.isnan(away), 0.3, 1.0 - away)
        for other, low, high in bones:
            length = np.linalg.norm(points[None] - here[:, None, other], axis=-1)
            value = np.where((length < low) | (length > high), -1.0, value)
            value = np.where(np.isnan(away) & np.isnan(length), -1.0, value)
        person, place = linear_sum_assignment(np.maximum(value, 0.0), maximize=True)
        for p, k in zip(person, place, strict=True):
            if value[p, k] <= 0:
                continue
            here[p, joint] = points[k]
            view = np.flatnonzero(chosen[k] >= 0)
            directions[view, p, joint] = rays.directions[view, chosen[k, view], joint]
            scores[view, p, joint] = rays.scores[view, chosen[k, view], joint]
    return FrameRays(rays.origins, directions, scores), np.ones((views, people), bool)


def _use(free: np.ndarray, frame: FrameEvidence, rows: np.ndarray, joints: np.ndarray) -> None:
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
    new: list[Found] = []
    if frame.rows_are_people:
        known = np.array([person.joints for person in present]).reshape(-1, 17, 3)
        joints, rows = people_of_rows(frame.rays, free.any(axis=-1), known, settings)
        new += _accept(frame, frame.rays, joints, rows, np.full((len(joints), 2, 3), np.nan), present, cameras, config)
        for person in new:
            _use(free, frame, person.rows, person.joints)
    pelvises, necks = (find_candidates(frame, centre, free, config) for centre in (PELVIS, NECK))
    places, chosen, _ = triangulate_greedily(frame, pelvises, cameras, config)
    neck_places, neck_chosen, _ = triangulate_greedily(frame, necks, cameras, config)
    shared = shared_rows(pelvises, chosen, necks, neck_chosen)
    if not frame.rows_are_people:
        shared = np.full_like(shared, np.nan)
    view = np.arange(len(cameras))
    for a, b in pair_torsos(places, neck_places, shared, config):
        centres = np.stack((places[a], neck_places[b]))
        rows = np.full(len(view), -1)
        rays = frame.rays
        if frame.rows_are_people:
            for part, picked in ((necks, neck_chosen[b]), (pelvises, chosen[a])):
                rows = np.where(picked >= 0, part.rows[view, picked].max(axis=-1), rows)
        else:
            rays, rows = _torso_rows(frame, pelvises.rows[view, chosen[a]], chosen[a], necks.rows[view, neck_chosen[b]],
                                     neck_chosen[b])  # fmt: skip
        joints = locate(rays, rows[:, None], settings)
        new += _accept(frame, rays, joints, rows[:, None], centres[None], [*present, *new], cameras, config)
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
    rays: FrameRays,
    joints: Float[np.ndarray, "new 17 3"],
    rows: Int[np.ndarray, "cameras new"],
    expected: Float[np.ndarray, "new 2 3"],
    known: Sequence[Found],
    cameras: Cameras,
    config: CentreConfig,
) -> list[Found]:
    """New people whose pelvis and neck enough views agree on, a torso's length apart, and who are nobody known."""
    if not len(joints):
        return []
    directions, scores = gather(rays, rows)
    placed, _, views = place_centres(frame.rays.origins, directions, scores, joints, expected, frame.radius, config)
    low, high = config.torso_range
    own = rows if frame.rows_are_people else np.full_like(rows, -1)
    accepted: list[Found] = []
    for i in np.argsort(-views.sum(axis=1), kind="stable"):
        length = np.linalg.norm(placed[i, NECK] - placed[i, PELVIS])
        if not low <= length <= high:
            continue
        if views[i].max() < views_needed(placed[i].mean(axis=0), frame, cameras, config):
            continue
        if not plausible_size(placed[i].mean(axis=0), frame.rays.origins, directions[i], scores[i], config):
            continue
        distances = config.association.duplicate_distance, config.same_centres
        if not _is_one_of(joints[i], placed[i], [*known, *accepted], *distances):
            accepted.append(Found(joints[i], placed[i], own[:, i], directions[i], scores[i]))
    return accepted


# ---- over time ----


def _begin(people: list[Person], index: int, time: float, found: list[Found], config: CentreConfig) -> None:
    """Makes tracks of new people, or gives them back to tracks lost where they may have come from."""
    settings = config.association
    lost = [p for p in people if index not in p.found and time - p.time <= settings.lost_seconds]
    cost = np.full((len(found), len(lost)), np.inf)
    for i, new in enumerate(found):
        for k, old in enumerate(lost):
            reach = 0.5 + settings.walking_speed * (time - old.time)
            away = np.nanmean(
                np.linalg.norm(new.centres - old.predict_centres(old.time, settings.coast_seconds), axis=-1)
            )
            if away < reach:
                cost[i, k] = away / reach + 5.0 * bone_difference(new.joints, old.points)
    taken = {i: lost[k] for i, k in cheapest_pairs(cost)}
    for i, new in enumerate(found):
        if i in taken:
            taken[i].velocity[:] = 0.0
            taken[i].centre_velocity[:] = 0.0
            person = taken[i]
        else:
            person = Person(points=np.full((17, 3), np.nan), seen=np.full(17, -np.inf), time=time)
            people.append(person)
        person.take(index, time, new)
