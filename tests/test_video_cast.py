"""Who is filmed and when: people between captured frames, the film's clock, edits of the cast, other motions."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import roma
import torch
from film_people import FPS, STANDING, two_people, write_sequence

from avatarpose.body import load_body
from avatarpose.errors import InputError
from avatarpose.io import read_npz, write_npz
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from viewer.video import scene
from viewer.video.scene import CastEdits, cast_of, cast_parameters, ground_height, load_bodies
from viewer.video.timeline import film_length, moments, motions_of, smoothed


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture(scope="module")
def bodies(body) -> Bodies:
    return two_people(body)


@pytest.fixture(scope="module")
def sequence(body, tmp_path_factory) -> Sequence:
    return Sequence.open(write_sequence(tmp_path_factory.mktemp("film") / "my_sequence", body))


def cast(sequence, bodies, body, **edits):
    return cast_of(sequence, bodies, body, CastEdits(**edits))


def soles(body, parameters, p: int) -> np.ndarray:
    vertices = body.vertices(parameters.betas[p], parameters.poses[p], parameters.trans[p])
    return vertices[..., 2].amin(dim=1).numpy()


# ---- time ----


def test_people_between_frames(bodies: Bodies) -> None:
    motion = motions_of(bodies)[0]
    torch.testing.assert_close(motion.times, torch.arange(6, dtype=torch.float64) / FPS)
    poses, trans, present = motion.at(motion.times)
    assert bool(present.all())
    turned = roma.rotvec_to_rotmat(poses.view(6, 24, 3))
    torch.testing.assert_close(turned, roma.rotvec_to_rotmat(motion.poses.view(6, 24, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(trans, motion.trans, atol=1e-6, rtol=0)
    # The arm turns steadily about one axis and the person walks steadily: so it is between the frames.
    poses, trans, _ = motion.at(torch.tensor([1.25, 3.5], dtype=torch.float64) / FPS)
    np.testing.assert_allclose(poses[:, 50].numpy(), [-0.3, -0.84], atol=1e-5)
    np.testing.assert_allclose(trans[:, 0].numpy(), -0.4 + 0.05 * np.array([1.25, 3.5]), atol=1e-6)
    np.testing.assert_allclose(poses[:, :3].numpy(), [STANDING] * 2, atol=1e-6)


def test_rotations_take_the_short_way_across_half_a_turn(bodies: Bodies) -> None:
    motion = motions_of(bodies)[0]
    # A turn about the vertical that passes pi: the rotation vector flips its sign, the person goes on turning.
    angles = torch.deg2rad(torch.tensor([150.0, 160, 170, 180, 190, 200], dtype=torch.float64))
    turning = torch.zeros(6, 72)
    turning[:, 2] = (angles + torch.pi) % (2 * torch.pi) - torch.pi
    halfway = replace(motion, poses=turning).at(torch.tensor([2.5, 3.5], dtype=torch.float64) / FPS)[0][:, :3]
    angle = torch.rad2deg(roma.rotvec_geodesic_distance(halfway.double(), torch.zeros(2, 3, dtype=torch.float64)))
    np.testing.assert_allclose(angle.numpy(), [175, 175], atol=1e-3)
    assert float(halfway[0, 2] * halfway[1, 2]) < 0


def test_nobody_is_made_up_in_gaps(bodies: Bodies) -> None:
    motion = replace(motions_of(bodies)[0], valid=torch.tensor([True, True, False, True, False, True]))
    asked = torch.tensor([0.0, 0.5, 1.0, 1.4, 2.0, 2.5, 3.0, 3.2, 5.0], dtype=torch.float64) / FPS
    poses, trans, present = motion.at(asked)
    assert present.tolist() == [True, True, True, False, False, False, True, False, True]
    assert not bool(trans[~present].any()) and not bool(poses[~present].any())
    nobody = replace(motion, valid=torch.zeros(6, dtype=torch.bool)).at(asked)
    assert not bool(nobody[2].any())


def test_the_films_clock() -> None:
    # Six frames at 20 a second last 0.25 s; at a quarter of the speed one second: 31 frames with both ends.
    n = film_length(0.25, 0.25, 30, None)
    assert n == 31
    times = moments(n, 30, 0.25, 0.25)
    assert times[0] == 0 and times[-1] == pytest.approx(0.25) and np.allclose(np.diff(times), 0.25 / 30)
    # At the capture's own rate and speed every frame is a captured one.
    assert film_length(0.25, 1.0, 20, None) == 6
    np.testing.assert_allclose(moments(6, 20, 1.0, 0.25), np.arange(6) / 20)
    assert film_length(0.25, 1.0, 20, 2.0) == 40 and film_length(0.0, 1.0, 20, None) == 1
    np.testing.assert_allclose(moments(9, 20, 1.0, 0.2, "hold"), np.array([0, 1, 2, 3, 4, 4, 4, 4, 4]) / 20)
    there_and_back = np.array([0, 1, 2, 3, 4, 3, 2, 1, 0, 1]) / 20
    np.testing.assert_allclose(moments(10, 20, 1.0, 0.2, "swing"), there_and_back, atol=1e-9)
    assert film_length(0.2, 1.0, 20, None, "swing") == 8
    looped = moments(7, 20, 1.0, 0.125, "loop")
    np.testing.assert_allclose(looped, [0, 0.05, 0.1, 0.025, 0.075, 0, 0.05], atol=1e-9)
    for wrong in ({"speed": 0.0}, {"fps": -1.0}, {"seconds": float("nan")}):
        with pytest.raises(InputError, match="impossible"):
            film_length(**{"motion": 1.0, "speed": 1.0, "fps": 30.0, "seconds": None, **wrong})


def test_smoothing_keeps_what_stands_still() -> None:
    values = np.full((20, 3), 2.5)
    np.testing.assert_allclose(smoothed(values, 30, 0.3), values)
    step = np.repeat([0.0, 1.0], 30)
    gentle = smoothed(step, 30, 0.1)
    assert (np.diff(gentle) >= 0).all() and np.diff(gentle).max() < 0.2


# ---- edits ----


def test_choice_moves_and_doubles(sequence, bodies, body) -> None:
    plain = cast(sequence, bodies, body)
    assert [actor.name for actor in plain] == ["p0", "p1"]
    assert [a.name for a in cast(sequence, bodies, body, only=["p1"])] == ["p1"]
    assert [a.name for a in cast(sequence, bodies, body, without=["p1"])] == ["p0"]
    edited = cast(sequence, bodies, body, move=["p1=0.5,0,-0.1"], duplicate=["p0=0,1,0", "p0=0,2,0"])
    assert [actor.name for actor in edited] == ["p0", "p1", "p0_2", "p0_3"]
    times = np.array([0.0, 0.11])
    before, there = cast_parameters(plain, times)
    after, present = cast_parameters(edited, times)
    torch.testing.assert_close(after.trans[1] - before.trans[1], torch.tensor([[0.5, 0, -0.1]] * 2))
    torch.testing.assert_close(after.trans[3] - before.trans[0], torch.tensor([[0.0, 2, 0]] * 2))
    torch.testing.assert_close(after.poses[2], before.poses[0])
    assert there.tolist() == [[True, True], [False, True]]  # p1 comes in the second frame
    assert present.tolist() == [*there.tolist(), [True, True], [True, True]]


def test_clothes_of_another_person(sequence, bodies, body, tmp_path) -> None:
    (dressed, _) = cast(sequence, bodies, body, wear=["p0=p1"])
    assert dressed.name == "p0" and dressed.avatar.name == "p1.safetensors"
    np.testing.assert_array_equal(dressed.betas, bodies.betas[1])
    parameters, _ = cast_parameters([dressed], np.array([0.0, 0.2]))
    # The other shape has other legs; the soles stay on the floor.
    assert np.abs(soles(body, parameters, 0)).max() < 0.01
    elsewhere = write_sequence(tmp_path / "other", body)
    (dressed, _) = cast(sequence, bodies, body, wear=[f"p0={elsewhere}:p1"])
    assert dressed.avatar == elsewhere / "results" / "avatars" / "p1.safetensors"


def amass(path, frames: int = 8):
    """Somebody who walks 0.7 m along y with a bent knee, in AMASS's frame (z up), floating 0.3 m above its floor."""
    poses = np.zeros((frames, 156))
    poses[:, :3] = STANDING
    poses[:, 4 * 3] = np.linspace(0, 0.6, frames)
    trans = np.zeros((frames, 3))
    trans[:, 1], trans[:, 2] = 0.1 * np.arange(frames), 1.2
    write_npz(path, poses=poses, trans=trans, betas=np.ones(16), mocap_framerate=np.float64(40.0))
    return path


def test_motion_of_a_file(sequence, bodies, body, tmp_path) -> None:
    path = amass(tmp_path / "walk.npz")
    (actor, other) = cast(sequence, bodies, body, motion=[f"p0={path}"])
    assert float(actor.motion.times[-1]) == pytest.approx(7 / 40)
    np.testing.assert_array_equal(actor.betas, bodies.betas[0])
    np.testing.assert_array_equal(other.motion.trans, motions_of(bodies)[1].trans)
    parameters, present = cast_parameters([actor, other], np.array([0.0, 7 / 40, 0.25]))
    assert bool(present[0].all())  # the file's motion is over before the film: the last pose stays
    ground = ground_height(bodies, body, sequence.up_vector)
    assert abs(ground) < 0.005
    assert np.abs(soles(body, parameters, 0) - ground).max() < 0.04
    torch.testing.assert_close(parameters.trans[0, 0, :2], torch.as_tensor(bodies.trans[0, 0, :2]))
    torch.testing.assert_close(parameters.trans[0, 1, :2] - parameters.trans[0, 0, :2], torch.tensor([0.0, 0.7]))
    assert float(parameters.poses[0, 1, 12]) == pytest.approx(0.6, abs=1e-5)
    torch.testing.assert_close(parameters.trans[0, 2], parameters.trans[0, 1])
    everybody = cast(sequence, bodies, body, motion=[str(path)])
    assert all(float(a.motion.times[-1]) == pytest.approx(7 / 40) for a in everybody)


@pytest.mark.parametrize("up", ["y", "-y", "x", "-z"])
def test_motion_of_a_file_stands_upright_in_any_world(sequence, bodies, body, tmp_path, up) -> None:
    turned = Sequence(sequence.folder, {"fps": 20, "up": up, "frames": 12}, sequence.cameras)
    (actor,) = cast(turned, bodies, body, motion=[f"p0={amass(tmp_path / 'walk.npz')}"], only=["p0"])
    joints = body.joints(torch.as_tensor(actor.betas), actor.motion.poses[:1], actor.motion.trans[:1])[0]
    upwards = torch.nn.functional.normalize(joints[15] - joints[0], dim=0)  # from the pelvis to the head
    assert float(upwards @ torch.as_tensor(turned.up_vector, dtype=torch.float32)) > 0.95


def test_motion_of_joint_positions(sequence, bodies, body, data_folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(scene, "FitSettings", partial(scene.FitSettings, iterations=25))
    clips = read_npz(data_folder / "motion" / "cmu_solo_15joints_30fps.npz", ["joint_names", "bvh_49_01"])
    path = tmp_path / "clips.npz"
    write_npz(path, joint_names=clips["joint_names"], first=clips["bvh_49_01"][:2], second=clips["bvh_49_01"][:12])
    (actor,) = cast(sequence, bodies, body, motion=[f"{path}:second"], only=["p0"])
    assert len(actor.motion.times) == 12
    parameters, _ = cast_parameters([actor], actor.motion.times.numpy()[::5])
    lowest = soles(body, parameters, 0)
    assert np.abs(np.median(lowest)) < 0.08


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ({"only": ["p7"]}, "p7"),
        ({"without": ["p0", "p1"]}, "nobody is left"),
        ({"move": ["p1:1,2,3"]}, "p1=dx,dy,dz"),
        ({"move": ["p1=1,2"]}, "three numbers"),
        ({"move": ["p1=1,2,inf"]}, "three numbers"),
        ({"move": ["p1=0,0,0"], "without": ["p1"]}, "p1"),
        ({"duplicate": ["p9=1,2,3"]}, "p9"),
        ({"wear": ["p0=p5"]}, "p5"),
        ({"wear": ["p0=/nowhere/at/all:p1"]}, "no such sequence folder"),
        ({"motion": ["p0=none.npz"]}, "none.npz"),
    ],
)
def test_edits_of_no_use_are_refused(sequence, bodies, body, edits, words) -> None:
    with pytest.raises(InputError, match=words):
        cast(sequence, bodies, body, **edits)


def test_unknown_clip_and_broken_motion_are_refused(sequence, bodies, body, tmp_path) -> None:
    path = amass(tmp_path / "walk.npz")
    with pytest.raises(InputError, match="no such clip"):
        cast(sequence, bodies, body, motion=[f"p0={path}:jump"])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"walk\.npz"):
        cast(sequence, bodies, body, motion=[f"p0={path}"])


def test_results_of_no_use_are_refused(sequence, bodies, body, tmp_path) -> None:
    folder = write_sequence(tmp_path / "mine", body)
    refined = folder / "results" / "refined.npz"
    chosen = load_bodies(Sequence.open(folder, frames=slice(2, 5, 2)), body)
    assert chosen.frames.tolist() == [2, 4] and chosen.poses.shape == (2, 2, 72)
    with pytest.raises(InputError, match="other frames"):
        load_bodies(Sequence.open(folder, frames=slice(8, 10)), body)
    replace(bodies, body_sha256="0" * 64).save(refined)
    with pytest.raises(InputError, match="another body"):
        load_bodies(Sequence.open(folder), body)
    refined.unlink()
    with pytest.raises(InputError, match="no refined people"):
        load_bodies(Sequence.open(folder), body)
