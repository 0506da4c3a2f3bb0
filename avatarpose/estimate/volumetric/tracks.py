"""One person over time: the track, and the centres of all tracks when identities are known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.linalg import solveh_banded

from avatarpose.estimate.affinity import Rays
from avatarpose.estimate.joints import exchange, triangulate_people
from avatarpose.estimate.tracking import Track
from avatarpose.estimate.volumetric.centres import NECK, PELVIS, SIDES, place_centres
from avatarpose.estimate.volumetric.config import CentreConfig

_MAX_SPEED = 8.0  # metres per second of a centre, faster than which is taken for an error
_VELOCITY_MEMORY = 0.5
_CERTAIN_FRAMES = 5
_TORSO_TOLERANCE = 0.2  # share of its length: shoulders and hips move, and joints err
_CAUCHY = 3.0  # standard deviations at which an error counts half
_ACCELERATION_TIME = 0.1  # seconds for which a person accelerates alike
_SPREAD = 0.5  # error of a centre over the deviation of one ray's middle: two joints and time average it (Duo captures)
_GAP_ACCELERATION = 6.0  # m/s^2: how fast the error of a bridged gap grows from its ends


@dataclass(frozen=True)
class Centres:
    """Where people are, frame by frame, with identities; in order of first frame, then x.

    Attributes:
        pelvis: (P, F, 3) middle of the hips, metres, NaN where not there.
        neck: (P, F, 3) middle of the shoulders, metres, NaN where not there.
        valid: (P, F) whether the person is there; both centres are then known, bridged where nothing was seen for
            up to `coast_seconds`.
        spread: (P, F) expected error of the worse of the two centres along an axis, metres; inf where not valid.
        rows: (P, F, C) detection of the person in each view; -1 where there is none, or peaks are separate.
    """

    pelvis: Float[np.ndarray, "people frames 3"]
    neck: Float[np.ndarray, "people frames 3"]
    valid: Bool[np.ndarray, "people frames"]
    spread: Float[np.ndarray, "people frames"]
    rows: Int[np.ndarray, "people frames cameras"]


@dataclass(frozen=True)
class Found:
    """One person in one frame.

    Attributes:
        joints: (17, 3) metres, NaN where unknown.
        centres: (2, 3) pelvis and neck, metres, NaN where unknown.
        rows: (C,) detections, -1 where none; all -1 where peaks are separate.
        directions: (17, C, 3) his rays, unit, zeros where there is none.
        scores: (17, C) of his rays.
    """

    joints: Float[np.ndarray, "17 3"]
    centres: Float[np.ndarray, "2 3"]
    rows: Int[np.ndarray, " cameras"]
    directions: Float[np.ndarray, "17 cameras 3"]
    scores: Float[np.ndarray, "17 cameras"]


@dataclass(eq=False)
class Person(Track):
    """A track with its centres.

    Attributes:
        found: frame index -> what was found.
        centre: (2, 3) last known pelvis and neck.
        centre_seen: (2,) seconds, when that was.
        centre_velocity: (2, 3) metres per second.
    """

    found: dict[int, Found] = field(default_factory=dict)
    centre: np.ndarray = field(default_factory=lambda: np.full((2, 3), np.nan))
    centre_seen: np.ndarray = field(default_factory=lambda: np.full(2, -np.inf))
    centre_velocity: np.ndarray = field(default_factory=lambda: np.zeros((2, 3)))

    def is_certain(self) -> bool:
        """Whether the person was seen long enough not to be a chance agreement of views."""
        return len(self.found) >= _CERTAIN_FRAMES

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
        keep = 0.0 if len(self.found) < 2 else _VELOCITY_MEMORY
        self.centre_velocity[usable] = keep * self.centre_velocity[usable] + (1.0 - keep) * speed[usable]
        self.centre = np.where(known[:, None], found.centres, self.centre)
        self.centre_seen = np.where(known, time, self.centre_seen)
        self.found[index] = found
        self.update(index, time, found.joints, found.rows)


def settle_centres(
    people: list[Person],
    origins: Float[np.ndarray, "cameras 3"],
    radii: Float[np.ndarray, " frames"],
    times: Float[np.ndarray, " frames"],
    config: CentreConfig,
) -> Centres:
    """Centres of all people over the sequence, now that it is known whose each ray is.

    Joints are triangulated anew with their neighbours in time, the bones and the rays that detectors gave to somebody
    else (`triangulate_people`, `exchange`); the pelvis and the neck are the middle of their two joints, or what the
    middle rays give where one is unknown. Short gaps are bridged.

    Args:
        radii: metres within which a ray agrees with a centre, per frame.
    """
    count, settings = len(times), config.association
    shape = (len(people), count, 17, len(origins))
    directions, scores = np.zeros((*shape, 3)), np.zeros(shape)
    own_rows = np.full((len(people), count, len(origins)), -1)
    for p, person in enumerate(people):
        for f, found in person.found.items():
            directions[p, f], scores[p, f], own_rows[p, f] = found.directions, found.scores, found.rows
    rays = Rays(origins, np.moveaxis(directions, 3, 0).swapaxes(1, 2), np.moveaxis(scores, 3, 0).swapaxes(1, 2))
    rows = np.tile(np.arange(len(people)), (len(origins), count, 1))
    joints, _ = triangulate_people(rays, rows, times, settings)
    directions, scores = exchange(origins, directions, scores, joints, settings)
    middle = joints[:, :, SIDES].mean(axis=3)  # (P, F, 2, 3)
    places = np.full((len(people), 2, count, 3), np.nan)
    deviations = np.full((len(people), 2, count), np.inf)
    for f in range(count):
        here = [p for p, person in enumerate(people) if f in person.found]
        if not here:
            continue
        expected = np.array([people[p].found[f].centres for p in here])
        expected = np.where(np.isfinite(middle[here, f]), middle[here, f], expected)
        found, deviation, _ = place_centres(
            origins, directions[here, f], scores[here, f], joints[here, f], expected, radii[f], config
        )
        places[here, :, f], deviations[here, :, f] = found, deviation
    # The two ways err differently: joints profit from bones and time, middle rays from sides that are wrong together.
    middle = middle.transpose(0, 2, 1, 3)
    places = np.where(np.isfinite(middle + places), (middle + places) / 2, places)
    for p in range(len(people)):
        _drop_odd_torsos(places[p], deviations[p], times)
        _complete(places[p], deviations[p], times, settings.coast_seconds)
        for centre in (PELVIS, NECK):
            places[p, centre], deviations[p, centre] = smooth(
                places[p, centre], deviations[p, centre], times, config.acceleration, settings.coast_seconds
            )
    valid = np.isfinite(places[..., 0]).all(axis=1)
    spread = np.where(valid, _SPREAD * deviations.max(axis=1), np.inf)
    usual = np.array(
        [np.median(own[there]) if there.any() else np.inf for own, there in zip(spread, valid, strict=True)]
    )
    kept = np.flatnonzero((valid.sum(axis=1) >= settings.least_frames(times)) & (usual <= config.max_spread))
    first = valid[kept].argmax(axis=1)
    order = kept[np.lexsort((places[kept, PELVIS, first, 0], first))]
    places = np.where(valid[order, None, :, None], places[order], np.nan)
    return Centres(places[:, PELVIS], places[:, NECK], valid[order], spread[order], own_rows[order])


def _drop_odd_torsos(places: np.ndarray, deviations: np.ndarray, times: np.ndarray) -> None:
    """Drops, where pelvis and neck (2, F, 3) are not the person's usual distance apart, the farther from its path."""
    length = np.linalg.norm(places[NECK] - places[PELVIS], axis=-1)
    if not np.isfinite(length).any():
        return
    usual = np.nanmedian(length)
    odd = np.abs(length - usual) > _TORSO_TOLERANCE * usual
    good = np.isfinite(length) & ~odd
    if not odd.any() or not good.any():
        return
    path = np.stack([_interpolate(places[centre], good, times) for centre in (PELVIS, NECK)])
    away = np.linalg.norm(places - path, axis=-1)[:, odd]
    frames = np.flatnonzero(odd)
    worse = away.argmax(axis=0)
    places[worse, frames], deviations[worse, frames] = np.nan, np.inf


def _complete(places: np.ndarray, deviations: np.ndarray, times: np.ndarray, coast: float) -> None:
    """Puts the one centre (2, F, 3) that is unknown where the other and the torso at neighbouring times put it."""
    known = np.isfinite(places[..., 0])
    both = known.all(axis=0)
    if not both.any():
        return
    torso = _interpolate(places[NECK] - places[PELVIS], both, times)
    nearest = np.abs(times[:, None] - times[both]).min(axis=1)
    for centre, sign in ((PELVIS, -1), (NECK, 1)):
        missing = ~known[centre] & known[1 - centre] & (nearest <= 2 * coast)
        places[centre, missing] = places[1 - centre, missing] + sign * torso[missing]
        deviations[centre, missing] = np.hypot(deviations[1 - centre, missing], 0.03 + 0.3 * nearest[missing])


def _interpolate(values: np.ndarray, good: np.ndarray, times: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(times, times[good], values[good, axis]) for axis in range(3)], axis=-1)


def smooth(
    places: Float[np.ndarray, "frames 3"],
    deviations: Float[np.ndarray, " frames"],
    times: Float[np.ndarray, " frames"],
    acceleration: float,
    longest_gap: float,
    iterations: int = 5,
) -> tuple[Float[np.ndarray, "frames 3"], Float[np.ndarray, " frames"]]:
    """The most likely path given places with errors, some of them gross, and how people accelerate.

    Minimises sum_f rho(|x_f - z_f|^2 / sigma_f^2) + (dt / tau) sum_f |a_f|^2 / acceleration^2 with a_f the second
    difference quotient, tau = 0.1 s and Cauchy's rho, by iteratively reweighted least squares (the fixed-interval
    smoother of Rauch, Tung and Striebel, 1965, as one banded system). Gaps are bridged by the way.

    Args:
        places: metres; NaN where unknown.
        deviations: metres, standard deviations along an axis; inf where unknown.
        acceleration: m/s^2, usual; 0 takes the places as they are and bridges gaps with the least bending.
        longest_gap: seconds; longer gaps stay, and the path has a part on either side.

    Returns:
        Path, NaN outside its parts; expected error along an axis, inf outside.
    """
    path, spread = np.full_like(places, np.nan), np.full(len(places), np.inf)
    known = np.flatnonzero(np.isfinite(places[:, 0]) & np.isfinite(deviations))
    if not len(known):
        return path, spread
    usual = np.median(np.diff(times)) if len(times) > 1 else 0.0
    ends = np.flatnonzero(np.diff(times[known]) > longest_gap + 1.5 * usual) + 1
    for part in np.split(known, ends):
        frames = np.arange(part[0], part[-1] + 1)
        t, z = times[frames], np.nan_to_num(places[frames])
        sigma = np.where(np.isin(frames, part), deviations[frames], np.inf)
        x = _interpolate(places[frames], np.isfinite(sigma), t)
        if len(frames) > 2:
            bending = _bending(t, acceleration or 1.0)
            for _ in range(iterations):
                away = np.linalg.norm(x - z, axis=-1)
                weight = 1.0 / sigma**2 / (1.0 + (away / (_CAUCHY * sigma)) ** 2 if acceleration else 1e-6)
                banded = bending.copy()
                banded[2] += weight
                x = solveh_banded(banded, weight[:, None] * z)
        away = np.where(np.isfinite(sigma), np.linalg.norm(x - z, axis=-1), 0.0)
        nearest = np.abs(t[:, None] - times[part]).min(axis=1)
        level = np.interp(t, times[part], deviations[part])
        path[frames] = x
        spread[frames] = np.sqrt(level**2 + away**2 / 3.0 + (0.5 * _GAP_ACCELERATION * nearest**2) ** 2)
    return path, spread


def _bending(times: np.ndarray, acceleration: float) -> Float[np.ndarray, "3 frames"]:
    """Upper bands, in the order of `solveh_banded`, of the quadratic form (dt / tau) sum |a_f|^2 / acceleration^2."""
    before, after = np.diff(times)[:-1], np.diff(times)[1:]
    dt = (before + after) / 2
    rows = np.stack((1 / (before * dt), -(1 / before + 1 / after) / dt, 1 / (after * dt)), axis=-1)
    rows = rows * np.sqrt(dt / _ACCELERATION_TIME)[:, None] / acceleration
    bands = np.zeros((3, len(times)))
    for shift in range(3):
        for i in range(3 - shift):
            bands[2 - shift, i + shift : i + shift + len(rows)] += rows[:, i] * rows[:, i + shift]
    return bands
