"""What the check measures: offsets in time, odd cameras, units, coverage, exposure; on scenes that are known."""

from dataclasses import replace

import numpy as np
import pytest
import stick_people
from stick_people import detections, ring, turned

from avatarpose.check.analysis import busiest, moved
from avatarpose.check.calibration import calibrate, find_odd, pair_errors
from avatarpose.check.coverage import look, measure_scale, shared_volume
from avatarpose.check.epipolar import Views
from avatarpose.check.exposure import boxes, measure
from avatarpose.check.people import find_people, leave_one_out
from avatarpose.check.synchronisation import Curve, by_pairs, by_people, lowest, solve_offsets, sure
from avatarpose.importers.agreement import epipolar_errors

FRAMES = 40
TIMES = np.arange(FRAMES) / stick_people.FPS


# ---- epipolar lines ----


def test_distances_from_epipolar_lines_are_those_of_the_definition() -> None:
    cameras = ring(3)
    views = Views.of(cameras, detections(cameras, 3, people=1))
    frames = np.arange(3)
    in_a, in_b = (d[:, 0, 0] for d in views.distances(0, 2, frames, frames))
    mean = epipolar_errors(replace(cameras, dist=0 * cameras.dist), (0, 2), views.pixels[[0, 2], :, 0])
    # That function measures an angle; at a few pixels, and away from the middle of the image, the two nearly agree.
    np.testing.assert_allclose(np.nanmedian((in_a + in_b) / 2), np.nanmedian(mean), rtol=0.1)
    exact = Views.of(cameras, detections(cameras, 3, people=1, noise=0.0))
    assert np.nanmax(exact.distances(0, 2, frames, frames)[1]) < 1e-2


def test_people_are_paired_whatever_the_order_of_rows() -> None:
    cameras = ring(4)
    rows = detections(cameras, 10, noise=1.0)
    frames = np.arange(10)
    _, _, pairs = Views.of(cameras, rows).match(0, 1, frames, frames)
    swapped = rows.copy()
    swapped[1] = swapped[1, :, ::-1]
    _, _, other = Views.of(cameras, swapped).match(0, 1, frames, frames)
    assert len(pairs) == 20 and {(n, i, 1 - j) for n, i, j in pairs} == set(other)


def test_many_cameras_are_not_all_compared() -> None:
    cameras = ring(20)
    views = Views.of(cameras, np.full((20, 1, 1, 17, 3), np.nan))
    assert len(views.pairs) < 20 * 6 + 1 and {c for pair in views.pairs for c in pair} == set(range(20))


# ---- time ----


def test_lowest_point_of_a_parabola() -> None:
    shifts = np.arange(-3, 4.0)
    assert lowest(shifts, (shifts - 0.3) ** 2) == pytest.approx(0.3)
    assert lowest(shifts, -shifts) == 3.0  # at the end of the range there is nothing to interpolate
    assert np.isnan(lowest(shifts, np.full(7, np.nan)))


def test_curve_tells_sure_from_unsure() -> None:
    rng = np.random.default_rng(0)
    shifts = np.arange(-5, 6.0)
    clear = (shifts - 2) ** 2 + rng.normal(0, 1, (60, 11))
    value, error = Curve(shifts, clear, np.ones((60, 11))).best(rng)
    assert value == pytest.approx(2, abs=0.1) and error < 0.1
    flat = 1 + rng.normal(0, 1, (60, 11))
    assert Curve(shifts, flat, np.ones((60, 11))).best(rng)[1] > 1
    assert Curve(shifts, clear, np.zeros((60, 11))).best(rng)[1] == np.inf


def test_offsets_of_cameras_from_pairs_with_a_wrong_one() -> None:
    true = np.array([0.0, 3.0, 0.0, 0.0, -1.5])
    pairs = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    shifts = np.array([true[b] - true[a] for a, b in pairs])
    shifts[pairs.index((2, 3))] = 9.0
    offsets, errors = solve_offsets(5, pairs, shifts, np.full(len(pairs), 0.1))
    np.testing.assert_allclose(offsets, true, atol=0.05)
    assert sure(offsets, errors).all()
    # A camera all of whose pairs contradict each other is not told.
    shifts = np.array([true[b] - true[a] for a, b in pairs])
    for value, other in zip((4.0, -2.0, 7.0, -5.0), (0, 1, 3, 4), strict=True):
        shifts[pairs.index((min(2, other), max(2, other)))] = value
    offsets, errors = solve_offsets(5, pairs, shifts, np.full(len(pairs), 0.1))
    assert sure(offsets, errors).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("offset", [3.0, -2.0, 0.4])
def test_offset_of_one_camera(offset: float) -> None:
    cameras = ring(4)
    rows = detections(cameras, FRAMES, offsets={2: offset})
    found = by_pairs(Views.of(cameras, rows), reach=8)
    np.testing.assert_allclose(found.offsets, [0, 0, offset, 0], atol=0.1)
    assert sure(found.offsets, found.errors).all()
    shift, errors, _ = by_people(find_people(cameras, moved(rows, np.round(found.offsets)), TIMES), reach=8)
    assert (errors < 0.2).all()
    np.testing.assert_allclose(shift[2] - np.median(shift), offset - round(found.offsets[2]), atol=0.12)


def test_time_cannot_be_told_when_people_stand_still() -> None:
    cameras = ring(4)
    rows = detections(cameras, FRAMES, moving=False)
    found = by_pairs(Views.of(cameras, rows), reach=8)
    assert not sure(found.offsets, found.errors).any()
    shift, errors, _ = by_people(find_people(cameras, rows, TIMES), reach=8)
    assert not sure(shift, errors).any()


def test_a_wrong_calibration_is_not_taken_for_a_wrong_time() -> None:
    cameras = turned(ring(5), 1, 1.5, axis=0)
    people = find_people(cameras, detections(ring(5), FRAMES), TIMES)
    shift, errors, _ = by_people(people, reach=6)
    assert sure(shift, errors).all() and np.abs(shift).max() < 0.15


# ---- calibration ----


@pytest.mark.parametrize(("count", "degrees", "axis"), [(5, 1.5, 1), (5, 1.5, 0), (4, 4.0, 1), (3, 3.0, 0)])
def test_the_turned_camera_is_named(count: int, degrees: float, axis: int) -> None:
    rows = detections(ring(count), FRAMES)
    odd = find_odd(Views.of(turned(ring(count), 1, degrees, axis), rows))
    assert [o.camera for o in odd] == [1] and odd[0].cause == "calibration"
    assert odd[0].turn.pixels == pytest.approx(600 * np.tan(np.radians(degrees)), rel=0.25)


def test_a_good_rig_has_no_odd_camera() -> None:
    cameras = ring(5)
    rows = detections(cameras, FRAMES, noise=4.0)
    found = calibrate(Views.of(cameras, rows), find_people(cameras, rows, TIMES))
    assert found.odd == []
    # 4 px of noise on either axis: the median length of a Gaussian's vector is 1.18 sigma, and the others' adds to it.
    assert all(4.0 < r.median < 7.5 for r in found.left_out)
    assert all(turn.pixels < 2 for turn in found.turns)


def test_a_camera_that_shares_nobody_is_named() -> None:
    cameras = ring(5)
    rows = detections(cameras, FRAMES)
    R = cameras.R.clone()
    R[3] = cameras.R[3] @ cameras.R[0].T @ cameras.R[1]  # looks elsewhere altogether
    odd = find_odd(Views.of(replace(cameras, R=R), rows))
    assert [o.camera for o in odd] == [3] and odd[0].harm > 0.012


def test_left_out_residuals_measure_the_shift() -> None:
    cameras = ring(5)
    rows = detections(cameras, FRAMES, people=1, noise=0.5)
    rows[2, ..., 0] += 12
    people = find_people(cameras, rows, TIMES)
    residuals = leave_one_out(people, 2)
    np.testing.assert_allclose(np.median(residuals.error, axis=0), (12, 0), atol=0.6)
    np.testing.assert_allclose(residuals.size, 600 / 4, rtol=0.5)


def test_pairs_without_anybody_in_common() -> None:
    cameras = ring(3)
    rows = np.full((3, FRAMES, 1, 17, 3), np.nan, np.float32)
    rows[0] = detections(cameras, FRAMES, people=1)[0]
    errors = pair_errors(Views.of(cameras, rows))
    assert all(np.isnan(e.share) for e in errors) and find_odd(Views.of(cameras, rows)) == []


# ---- units and coverage ----


@pytest.mark.parametrize(("factor", "unit", "metres"), [(1, "m", 1.0), (100, "cm", 0.01), (1000, "mm", 0.001)])
def test_unit_from_the_height_of_people(factor: float, unit: str, metres: float) -> None:
    cameras = ring(4)
    rows = detections(cameras, 10)
    found = measure_scale(Views.of(replace(cameras, t=cameras.t * factor), rows))
    assert (found.unit, found.metres, found.up) == (unit, metres, "z")
    assert found.height == pytest.approx(1.7 * factor, rel=0.12)


def test_an_arbitrary_scale_is_measured() -> None:
    cameras = ring(4)
    found = measure_scale(Views.of(replace(cameras, t=cameras.t * 7), detections(cameras, 10)))
    assert found.unit is None and found.metres == pytest.approx(1 / 7, rel=0.12)
    nobody = measure_scale(Views.of(replace(cameras, t=cameras.t * 1000), np.full((4, 10, 1, 17, 3), np.nan)))
    assert nobody.unit == "mm" and np.isnan(nobody.height) and nobody.up is None


def test_coverage_counts_cameras_joints_and_space() -> None:
    cameras = ring(4)
    rows = detections(cameras, FRAMES)
    rows[3, FRAMES // 2 :] = np.nan
    rows[1, 11] = rows[1, 10]
    people = find_people(cameras, rows, TIMES)
    seen = look(rows, people)
    assert seen.people.shape == (4, 2) and seen.people[:3].min() > 0.95
    np.testing.assert_allclose(seen.people[3], 0.5, atol=0.05)
    np.testing.assert_allclose(seen.detections, [1, 1, 1, 0.5])
    np.testing.assert_allclose(seen.repeated, [0, 1 / (FRAMES - 1), 0, 0])
    assert seen.thin.max() < 0.05 and (np.diff(seen.volume) <= 0).all() and seen.volume[0] > 1
    assert (
        look(rows[:, :1], find_people(cameras, np.full_like(rows[:, :1], np.nan), TIMES[:1])).volume.tolist() == [0] * 4
    )
    assert shared_volume(people)[-1] > 0


def test_the_busiest_frames_are_looked_at() -> None:
    cameras = ring(3)
    rows = np.concatenate((detections(cameras, 60, moving=False, noise=0.1), detections(cameras, 40)), axis=1)
    window = busiest(rows, 40)
    assert window.stop - window.start == 40 and window.start >= 55
    assert busiest(rows, 200) == slice(0, 100)


# ---- exposure ----


def test_exposure_in_stops_and_colour() -> None:
    rng = np.random.default_rng(0)
    texture = rng.uniform(0.1, 0.4, (120, 90, 1)) * np.ones(3)

    def image(gain: float, red: float = 1.0) -> np.ndarray:
        return np.clip(256 * (texture * gain * (red, 1, 1)) ** (1 / 2.2) - 0.5, 0, 255).round().astype(np.uint8)

    usual, bright, warm = (measure([picture], [[]]) for picture in (image(1), image(2), image(1, red=1.5)))
    assert bright.stops - usual.stops == pytest.approx(1, abs=0.03)
    assert warm.red - usual.red == pytest.approx(np.log2(1.5), abs=0.03) and abs(warm.blue - usual.blue) < 0.03
    assert measure([image(6)], [[]]).saturated > 0.3 and measure([image(0)], [[]]).dark == 1
    # Only what is in the boxes counts.
    mixed = np.where(np.arange(90)[None, :, None] < 45, image(1), image(2))
    assert measure([mixed], [[(45, 0, 90, 120)]]).stops == pytest.approx(bright.stops, abs=0.1)


def test_blur_shows() -> None:
    import cv2

    sharp = np.random.default_rng(0).integers(0, 255, (300, 200, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(sharp, None, 3)
    assert measure([blurred], [[]]).sharpness < 0.35 * measure([sharp], [[]]).sharpness


def test_boxes_are_cut_to_the_image() -> None:
    joints = np.full((2, 17, 2), np.nan)
    joints[0, :6] = [(-5, 20), (30, 40), (10, 90), (12, 30), (9, 60), (20, 130)]
    joints[1, :4] = 10
    assert boxes(joints, 64, 100) == [(0, 20, 30, 100)]
