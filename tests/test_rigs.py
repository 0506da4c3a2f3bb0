"""Rigs to train with: they see the people, are of many kinds, and the user's own is moved without being bent."""

import numpy as np
import torch

from avatarpose.cameras import Cameras, undistort
from avatarpose.evaluate import load_truth
from avatarpose.sequence import Sequence
from avatarpose.train.rigs import RigConfig, look_at, random_rig, rig_from, stage_of

PERSON = torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.0, 0.95], [0.0, 0.0, 1.6]], dtype=torch.float64)


def _ring(count: int = 6, floor: float = 0.0) -> Cameras:
    """Cameras 3 m around (5, -2, floor), 1.5 m up."""
    middle = np.array([5.0, -2.0, floor])
    poses = []
    for angle in np.arange(count) * 2 * np.pi / count:
        centre = middle + np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.5])
        poses.append(look_at(centre, middle + np.array([0, 0, 0.9])))
    K = torch.tensor([[600.0, 0, 320], [0, 600, 320], [0, 0, 1]], dtype=torch.float64).repeat(count, 1, 1)
    size = torch.full((count,), 640)
    return Cameras(
        tuple(f"c{i}" for i in range(count)),
        K,
        torch.from_numpy(np.stack([R for R, _ in poses])),
        torch.from_numpy(np.stack([t for _, t in poses])),
        torch.zeros(count, 5, dtype=torch.float64),
        size,
        size,
    )


def test_look_at_puts_the_target_in_the_middle_and_up_upwards() -> None:
    centre, target = np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.0, 1.0])
    R, t = look_at(centre, target)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    assert np.isclose(np.linalg.det(R), 1)
    np.testing.assert_allclose(R @ target + t, (0, 0, np.linalg.norm(target - centre)), atol=1e-12)
    above = R @ (target + np.array([0, 0, 0.1])) + t
    assert abs(above[0]) < 1e-12 and above[1] < 0  # y points down
    R, _ = look_at(np.array([0.0, 0, 4]), np.zeros(3))
    assert np.isclose(np.linalg.det(R), 1)


def test_random_rigs() -> None:
    rng = np.random.default_rng(0)
    rigs = [random_rig(rng) for _ in range(300)]
    counts = np.array([len(rig) for rig in rigs])
    assert set(counts) == set(range(4, 13))
    longest = torch.cat([torch.maximum(rig.width, rig.height) / rig.K[:, 0, 0] / 2 for rig in rigs])
    fov = 2 * torch.rad2deg(torch.arctan(longest))
    assert fov.min() > 34.9 and fov.max() < 90.1 and fov.std() > 10
    centres = torch.cat([rig.centres for rig in rigs])
    away = centres[:, :2].norm(dim=1)
    assert ((away > 1.9) & (away < 6.1)).double().mean() > 0.85
    assert ((centres[:, 2] > 0.4) & (centres[:, 2] < 4.6)).all()
    assert 0.03 < (centres[:, 2] > 3.01).double().mean() < 0.1  # overhead
    # Nearly all see the pelvis; some cut off the head or the feet.
    seen = torch.cat([rig.sees(PERSON) for rig in rigs])
    assert seen[:, 1].double().mean() > 0.93
    assert 0.02 < 1 - seen.all(dim=1).double().mean() < 0.3
    # Even rings and rigs on one side: the largest gap between neighbours' directions.
    gaps = []
    for rig in rigs:
        angles = np.sort(torch.atan2(rig.centres[:, 1], rig.centres[:, 0]).numpy())
        gaps.append(np.degrees(np.max(np.append(np.diff(angles), angles[0] + 2 * np.pi - angles[-1]))))
    assert np.mean(np.array(gaps) > 180) > 0.1 and np.mean(np.array(gaps) < 100) > 0.3


def test_lenses_do_not_fold_the_image() -> None:
    rng = np.random.default_rng(1)
    distorted = 0
    for _ in range(60):
        rig = random_rig(rng)
        distorted += rig.has_distortion
        corners = torch.stack((torch.zeros_like(rig.width), torch.zeros_like(rig.height)), -1).double()
        ideal = (corners - rig.K[:, :2, 2]) / rig.K[:, (0, 1), (0, 1)]
        radius = undistort(ideal, rig.dist).norm(dim=-1)
        assert (radius < rig.turning_radius).all()
        assert (radius / ideal.norm(dim=-1) - 1).abs().max() < 0.25
    assert 10 < distorted < 40


def test_the_same_seed_makes_the_same_rig() -> None:
    first, second, other = (random_rig(np.random.default_rng(seed)) for seed in (3, 3, 4))
    for name in ("K", "R", "t", "dist", "width", "height"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert first.K.shape != other.K.shape or not torch.equal(first.K, other.K)


def test_number_of_cameras_can_be_fixed() -> None:
    assert len(random_rig(np.random.default_rng(0), RigConfig(cameras=(5, 5)))) == 5


def test_stage_of_cameras_alone() -> None:
    """A ring around (5, -2): the middle is found, the cameras keep their relative places."""
    cameras = _ring()
    stage = stage_of(cameras)
    assert stage.cameras.centres[:, :2].mean(dim=0).norm() < 0.3
    torch.testing.assert_close(stage.cameras.centres[:, 2], torch.full((6,), 1.5, dtype=torch.float64))
    torch.testing.assert_close(torch.pdist(stage.cameras.centres), torch.pdist(cameras.centres))
    assert 0.2 <= stage.radius <= 1.5


def test_stage_turns_up_to_z() -> None:
    cameras = _ring()
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)  # z up to -y up
    tipped = Cameras(
        cameras.names, cameras.K, cameras.R @ turn.T, cameras.t, cameras.dist, cameras.width, cameras.height
    )
    up = turn.numpy() @ (0.0, 0.0, 1.0)
    expected, found = stage_of(cameras), stage_of(tipped, up)
    torch.testing.assert_close(found.cameras.centres[:, 2], expected.cameras.centres[:, 2])
    torch.testing.assert_close(torch.pdist(found.cameras.centres), torch.pdist(cameras.centres))


def test_rig_from_moves_people_about_within_the_stage() -> None:
    stage = stage_of(_ring())
    rng = np.random.default_rng(0)
    rigs = [rig_from(stage, rng) for _ in range(40)]
    for rig in rigs:
        torch.testing.assert_close(torch.pdist(rig.centres), torch.pdist(stage.cameras.centres))
        torch.testing.assert_close(rig.K, stage.cameras.K)
    moved = torch.stack([rig.centres[:, :2].mean(dim=0) for rig in rigs]).norm(dim=1)
    assert moved.max() < stage.radius + 0.3 and moved.std() > 0.1
    angles = torch.stack([torch.atan2(rig.R[0, 2, 1], rig.R[0, 2, 0]) for rig in rigs])
    assert angles.std() > 1.0  # turned all the way round
    seen = torch.stack([rig.sees(PERSON[1]) for rig in rigs])
    assert seen.double().mean() > 0.9


def test_stage_of_a_capture_is_where_its_people_were(data_folder) -> None:
    sequence = Sequence.open(data_folder / "duo_b")
    stage = stage_of(sequence)
    truth = torch.from_numpy(load_truth(data_folder / "duo_b").keypoints).double()
    pixels, _ = sequence.cameras.project(truth)
    # The same joints in the stage's world, found from the cameras: x_cam = R x + t in both.
    R, t = stage.cameras.R[0], stage.cameras.t[0]
    moved = (truth @ sequence.cameras.R[0].T + sequence.cameras.t[0] - t) @ R
    torch.testing.assert_close(stage.cameras.project(moved)[0], pixels)
    hips = moved[:, :, 11:13].mean(dim=2)
    assert hips[..., :2].reshape(-1, 2).median(dim=0).values.norm() < 0.1
    assert 0.0 < moved[:, :, 15:17, 2].min() < 0.2  # ankles above the floor
    assert moved[:, :, 0, 2].mean() > 1.2
