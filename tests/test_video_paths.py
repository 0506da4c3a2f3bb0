"""Camera paths: smooth curves of positions and rotations, what the cameras see, files of keyframes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import roma
import torch

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from viewer.video import paths
from viewer.video.splines import catmull_rom, mix_rotations, spline_rotvecs

UP = np.array([0.0, 0.0, 1.0])
KEYFRAMES = [
    paths.Keyframe(0.0, (3, 0, 1), (0, 0, 1), (0, 0, 1), 40, 0.1),
    paths.Keyframe(1.0, (2, 2, 2), (0, 0, 1), (0, 0, 1), 50),
    paths.Keyframe(2.5, (-3, 1, 0.5), (0, 0.2, 1), (0, 0, 1), 30, 0.6),
]


def random_rotations(n: int) -> torch.Tensor:
    return roma.random_unitquat(n, dtype=torch.float64)


def test_spline_is_catmull_rom_where_knots_are_even() -> None:
    points = torch.randn(5, 3, dtype=torch.float64)
    s, (a, b, c, d) = 0.3, points[:4]
    # The textbook's matrix form, on the segment from the second point to the third.
    expected = 0.5 * (2 * b + (c - a) * s + (2 * a - 5 * b + 4 * c - d) * s**2 + (3 * b - a - 3 * c + d) * s**3)
    found = catmull_rom(torch.arange(5, dtype=torch.float64), points, torch.tensor([1 + s], dtype=torch.float64))
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("rotations", [False, True])
def test_spline_passes_through_its_points_without_a_jump_of_velocity(rotations: bool) -> None:
    knots = torch.tensor([0.0, 0.7, 1.0, 2.2, 3.0], dtype=torch.float64)
    if rotations:
        points, mix = random_rotations(5), {"mix": mix_rotations}
        value = lambda times: roma.unitquat_to_rotmat(catmull_rom(knots, points, times, **mix))  # noqa: E731
        expected = roma.unitquat_to_rotmat(points)
    else:
        points = torch.randn(5, 3, dtype=torch.float64)
        value = lambda times: catmull_rom(knots, points, times)  # noqa: E731
        expected = points
    torch.testing.assert_close(value(knots), expected)
    h = 1e-5
    inner = knots[1:-1]
    before, after = (value(inner) - value(inner - h)) / h, (value(inner + h) - value(inner)) / h
    assert float((before - after).abs().max()) < 1e-3 * max(1.0, float(before.abs().max()))
    # A piecewise straight curve would fail: its velocity jumps.
    slopes = (expected[1:] - expected[:-1]) / (knots[1:] - knots[:-1]).reshape(-1, *(1,) * (expected.ndim - 1))
    assert float((slopes[1:] - slopes[:-1]).abs().max()) > 0.1


def test_spline_of_a_steady_turn_is_that_turn() -> None:
    axis = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), dim=0)
    knots = torch.tensor([0.0, 1.0, 1.5, 3.0], dtype=torch.float64)
    times = torch.linspace(0, 3, 31, dtype=torch.float64)
    found = spline_rotvecs(knots, knots[:, None] * axis, times)
    torch.testing.assert_close(found, times[:, None] * axis, atol=1e-9, rtol=0)


def test_spline_stands_still_outside_and_refuses_knots_that_do_not_ascend() -> None:
    knots, points = torch.tensor([0.0, 1.0]), torch.tensor([[1.0], [3.0]])
    found = catmull_rom(knots, points, torch.tensor([-5.0, 0.5, 9.0]))
    torch.testing.assert_close(found, torch.tensor([[1.0], [2], [3]]))
    torch.testing.assert_close(catmull_rom(knots[:1], points[:1], torch.tensor([0.0, 7.0])), torch.ones(2, 1))
    with pytest.raises(ValueError, match="ascend"):
        catmull_rom(torch.tensor([0.0, 0.0]), points, torch.tensor([0.0]))


@pytest.fixture()
def people() -> np.ndarray:
    joints = np.random.default_rng(0).uniform((-1, -0.5, 0), (1, 0.5, 1.8), (2, 4, 24, 3))
    joints[1, 0] = np.nan
    return joints


@pytest.mark.parametrize("size", [(64, 48), (30, 60)])
@pytest.mark.parametrize("up", [(0, 0, 1), (0, 1, 0), (0, -1, 0)])
def test_orbit_keeps_everybody_in_an_upright_picture(people: np.ndarray, size, up) -> None:
    framing = paths.frame_joints(people, np.array(up, float), *size)
    cameras = paths.orbit(framing, 12, 1.0, 0.4, 0.3)
    away = cameras.centres.numpy() - framing.centre
    distance = np.linalg.norm(away, axis=1)
    np.testing.assert_allclose(distance, distance[0])
    np.testing.assert_allclose(away @ up, distance[0] * np.sin(0.3))
    # Twelve cameras a twelfth of a turn apart: the thirteenth would be the first again.
    apart = np.linalg.norm(np.roll(away, -1, axis=0) - away, axis=1)
    np.testing.assert_allclose(apart, apart[0])
    seen = torch.as_tensor(people[np.isfinite(people).all(-1)])
    assert bool(cameras.sees(seen).all())
    # From a third nearer somebody is cut off: the picture is not filled with emptiness.
    near = paths.orbit(replace(framing, distance=0.67), 12, 1.0, 0.4, 0.3)
    assert not bool(near.sees(seen).all())
    # `up` points up in every picture (towards smaller y), and left and right are not exchanged.
    ends = torch.as_tensor(np.stack([framing.centre, framing.centre + 0.1 * np.array(up)]))
    pixels, _ = cameras.project(ends)
    torch.testing.assert_close(pixels[:, 0], torch.tensor([size[0] / 2, size[1] / 2]).double().expand(12, 2))
    assert bool((pixels[:, 1, 1] < pixels[:, 0, 1] - 0.5).all())
    torch.testing.assert_close(torch.linalg.det(cameras.R), torch.ones(12, dtype=torch.float64))


def test_a_film_frames_what_each_frame_shows() -> None:
    # Somebody walks 4 m along x, seen along x all the time: the way does not widen the picture, only the body does.
    steps = np.linspace(-2, 2, 5)[None, :, None, None] * np.array([1.0, 0, 0])
    walker = np.array([[0, 0, 0.0], [0, 0.3, 0.9], [0, 0, 1.8]]) + steps
    framing = paths.frame_joints(walker, UP, 60, 60)
    cameras = paths.around(framing, np.zeros(5), np.zeros(5))
    # Half the height and the margin fill half the field of view at the nearest point of the way.
    expected = (0.9 + paths.MARGIN) / np.tan(np.deg2rad(20)) + 2
    np.testing.assert_allclose(cameras.centres[:, 0].numpy(), expected)


def test_spiral_rises_and_comes_closer(people: np.ndarray) -> None:
    framing = paths.frame_joints(people, UP, 64, 48)
    away = paths.spiral(framing, 20, 1.5, 0.0, 0.0).centres.numpy() - framing.centre
    distance = np.linalg.norm(away, axis=1)
    assert (np.diff(away[:, 2] / distance) > 0).all() and (np.diff(distance) < 0).all()
    assert distance[0] == pytest.approx(distance[-1] / 0.75)
    assert np.rad2deg(np.arcsin(away[-1, 2] / distance[-1])) == pytest.approx(50)


def test_follow_stays_at_an_angle_to_where_the_person_faces(people: np.ndarray) -> None:
    framing = paths.frame_joints(people, UP, 64, 48)
    middle = np.array([[0.0, 0, 1], [1, 2, 1], [2, 2, 1]])
    facing = np.array([[1.0, 0, 0.2], [0, 2, 0], [-1, 0, 0]])
    cameras = paths.follow(framing, middle, facing, np.pi / 2, 0.0)
    direction = cameras.centres.numpy() - middle
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    # A quarter of a turn from the front, counter-clockwise: the person's left.
    np.testing.assert_allclose(direction, [[0, 1, 0], [-1, 0, 0], [0, -1, 0]], atol=1e-12)


def test_through_cameras_visits_each_of_them(people: np.ndarray) -> None:
    framing = paths.frame_joints(people, UP, 64, 48)
    ring = paths.orbit(framing, 5, 0.6, 0.0, 0.1)[[3, 0, 4, 1, 2]]
    ring = replace(ring, names=tuple("abcde"))
    film = paths.through_cameras(framing, ring, 9)
    # The widest gap lies before the first of the arc, so the path goes from one end of the arc to the other.
    for k, c in enumerate([1, 3, 4, 0, 2]):
        torch.testing.assert_close(film.centres[2 * k], ring.centres[c])
        torch.testing.assert_close(film.R[2 * k], ring.R[c])
        torch.testing.assert_close(film.K[2 * k], ring.K[c])


def test_keyframes_are_passed_through_and_set_the_clock(tmp_path) -> None:
    paths.save_keyframes(tmp_path / "path.json", KEYFRAMES)
    loaded = paths.load_keyframes(tmp_path / "path.json")
    assert loaded == KEYFRAMES
    cameras = paths.along_keyframes(loaded, np.array([0.0, 1.0, 2.5, 0.5]), 64, 48)
    torch.testing.assert_close(cameras.centres[:3], torch.tensor([k.position for k in KEYFRAMES]).double())
    targets, _ = cameras[:3].project(torch.tensor([k.target for k in KEYFRAMES]).double())
    torch.testing.assert_close(targets[[0, 1, 2], [0, 1, 2]], torch.tensor([[32.0, 24]]).double().expand(3, 2))
    expected = 24 / np.tan(np.deg2rad([40, 50, 30]) / 2)
    np.testing.assert_allclose(cameras.K[:3, 1, 1].numpy(), expected)
    np.testing.assert_allclose(paths.keyframe_moments(loaded, np.array([0, 1.25, 2.5])), [0.1, 0.35, 0.6])
    assert paths.keyframe_moments([KEYFRAMES[1]], np.zeros(2)) is None
    assert isinstance(cameras, Cameras) and len(cameras) == 4


GOOD = {"time": 0, "position": [3, 0, 1], "target": [0, 0, 1], "up": [0, 0, 1], "fov_deg": 40}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "malformed JSON"),
        ('{"frames": []}', "keyframes"),
        ('{"keyframes": []}', "no keyframes"),
        ({**GOOD, "position": [1, 2]}, "position of keyframe 0"),
        ({**GOOD, "position": [1, 2, float("nan")]}, "position of keyframe 0"),
        ({**GOOD, "position": [1, 2, True]}, "position of keyframe 0"),
        ({**GOOD, "fov_deg": 0}, "fov_deg of keyframe 0"),
        ({**GOOD, "fov_deg": "wide"}, "fov_deg of keyframe 0"),
        ({**GOOD, "target": [3, 0, 1]}, "no upright picture"),
        ({**GOOD, "up": [1, 0, 0]}, "no upright picture"),
        ({k: v for k, v in GOOD.items() if k != "up"}, "lacks up"),
        ([1, 2], "lacks position"),
        ("two", "not after the one before"),
    ],
)
def test_broken_keyframes_are_refused(tmp_path, content, words) -> None:
    path = tmp_path / "path.json"
    text = content if isinstance(content, str) else json.dumps({"keyframes": [content]})
    path.write_text(json.dumps({"keyframes": [GOOD, GOOD]}) if content == "two" else text)
    with pytest.raises(InputError, match=words) as error:
        paths.load_keyframes(path)
    assert "path.json" in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        paths.load_keyframes(tmp_path / "none.json")
