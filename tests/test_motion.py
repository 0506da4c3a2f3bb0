"""Motion clips: reading, fitting the body to joints, and the pool of poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from avatarpose.body import BodyModel, load_body
from avatarpose.errors import InputError
from avatarpose.io import write_npz
from avatarpose.register import priors
from avatarpose.skeletons import COCO17, PANOPTIC15, SMPL24, convert
from avatarpose.train import motion
from avatarpose.train.motion import MotionPool, load_motion, mirror_pose, turn_pose
from avatarpose.train.motion_files import motion_files, read_clips
from avatarpose.train.motion_fit import FitSettings, fit_tracks, same_skeletons

NAMES = np.array([name.replace("_", "-") for name in PANOPTIC15.joints])
ZERO = torch.zeros(10)


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_body()


def moving_people(frames: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Poses (F, 72) that go from one draw of the pose prior to another while the root turns, z up; pelvis (F, 3)."""
    generator = torch.Generator().manual_seed(seed)
    mean, spread = priors.pose_table(torch.float32, torch.device("cpu"))
    shown = torch.zeros(23, 1)
    shown[[0, 1, 2, 3, 4, 15, 16, 17, 18]] = 1.0  # hips, spine1, knees, shoulders, elbows
    ends = mean + 0.7 * shown * spread * torch.randn(2, 23, 3, generator=generator)
    ends[:, [3, 4], 0] = ends[:, [3, 4], 0].abs()
    share = torch.linspace(0, 1, frames)[:, None, None]
    angles = ends[0] * (1 - share) + ends[1] * share
    upright = torch.tensor([torch.pi / 2, 0, 0]).repeat(frames, 1)
    poses = torch.cat((upright, angles.flatten(1)), dim=1)
    poses, _ = turn_pose(poses, torch.zeros(frames, 3), torch.linspace(0, 5, frames))
    pelvis = torch.tensor([0.5, -0.3, 0.95]) + torch.linspace(0, 1, frames)[:, None] * torch.tensor([1.0, 0.5, 0.0])
    return poses, pelvis


def clip_joints(body: BodyModel, poses: torch.Tensor, pelvis: torch.Tensor) -> np.ndarray:
    """The 15 joints (F, 15, 3) of a motion file, y up; the end of the head bone 5 cm above the head's joint."""
    joints = body.joints(ZERO, poses, pelvis - body.rest_joints(ZERO)[0])
    given = convert(joints, "smpl24", "panoptic15")
    neck, head = joints[:, SMPL24.index("neck")], joints[:, SMPL24.index("head")]
    given[:, PANOPTIC15.index("nose")] = head + 0.5 * (head - neck)
    return torch.stack((given[..., 0], given[..., 2], -given[..., 1]), dim=-1).numpy()


def test_mirrored_pose_has_the_mirrored_keypoints(body: BodyModel) -> None:
    poses, pelvis = 0.4 * torch.randn(20, 72), torch.randn(20, 3)
    mirrored = body.keypoints(ZERO, *mirror_pose(poses, pelvis))
    expected = body.keypoints(ZERO, poses, pelvis)[:, list(COCO17.flip)] * torch.tensor([-1.0, 1.0, 1.0])
    assert (mirrored - expected).norm(dim=-1).max() < 0.001
    again = mirror_pose(*mirror_pose(poses.numpy(), pelvis.numpy()))
    np.testing.assert_allclose(again[0], poses.numpy())
    np.testing.assert_allclose(again[1], pelvis.numpy())


def test_turned_pose_goes_round_the_vertical_through_its_pelvis(body: BodyModel) -> None:
    poses, trans, yaw = 0.4 * torch.randn(20, 72), torch.randn(20, 3), torch.linspace(-7, 7, 20)
    before = body.joints(ZERO, poses, trans)
    turned = turn_pose(poses.numpy(), trans.numpy(), yaw.numpy())
    assert turned[0].dtype == np.float32
    after = body.joints(ZERO, *map(torch.as_tensor, turned))
    arm, moved = before - before[:, :1], after - after[:, :1]
    c, s = yaw.cos()[:, None], yaw.sin()[:, None]
    expected = torch.stack((c * arm[..., 0] - s * arm[..., 1], s * arm[..., 0] + c * arm[..., 1], arm[..., 2]), dim=-1)
    torch.testing.assert_close(after[:, 0], before[:, 0])
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_selected_clips_keep_their_rows_and_pairs() -> None:
    # Clips a (2 rows), b (2 people, 2 frames: rows 2 to 5), c (1 row), d (2 people, 1 frame: rows 7 and 8).
    clip = np.array([0, 0, 1, 1, 1, 1, 2, 3, 3])
    poses = np.arange(9)[:, None] * np.ones((1, 72), dtype=np.float32)
    pool = MotionPool(poses, poses[:, :3], clip, ("a", "b", "c", "d"), np.array([[2, 4], [3, 5], [7, 8]]))
    some = pool.select(["d", "b"])
    assert some.clip_names == ("b", "d")
    np.testing.assert_array_equal(some.poses[:, 0], [2, 3, 4, 5, 7, 8])
    np.testing.assert_array_equal(some.trans[:, 0], some.poses[:, 0])
    np.testing.assert_array_equal(some.clip, [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(some.pairs, [[0, 2], [1, 3], [4, 5]])
    alone = pool.select(lambda name: name in "ac")
    assert (len(alone), alone.pairs.shape) == (3, (0, 2))
    assert len(pool.select([])) == 0
    with pytest.raises(KeyError, match="no clip x"):
        pool.select(["a", "x"])


def test_fit_finds_the_angles_that_made_the_joints(body: BodyModel, tmp_path: Path) -> None:
    """Of a solo clip and of two people, from joints defined as the body's own; offsets have then nothing to do."""
    frames = 60  # 30 a second: every third is taken at 10
    people = [moving_people(frames, seed) for seed in range(3)]
    people[2] = (people[2][0], people[2][1] + torch.tensor([0.3, 0.4, 0.0]))
    solo, first, second = (clip_joints(body, *person) for person in people)
    order = np.random.default_rng(0).permutation(15)
    write_npz(
        tmp_path / "clips.npz",
        joint_names=NAMES[order],
        solo=solo[:, order],
        pair=np.stack((first, second), axis=1)[:, :, order],
    )
    done: list[float] = []
    pool = load_motion([tmp_path], body, progress=done.append)
    assert done[-1] == 1.0
    assert pool.clip_names == ("solo", "pair")
    np.testing.assert_array_equal(pool.clip, [0] * 20 + [1] * 40)
    np.testing.assert_array_equal(pool.pairs, np.arange(20)[:, None] + [20, 40])
    found = body.joints(ZERO, torch.as_tensor(pool.poses), torch.as_tensor(pool.trans))
    truth = torch.cat([body.joints(ZERO, p[::3], x[::3] - body.rest_joints(ZERO)[0]) for p, x in people])
    limbs = SMPL24.indices(f"{s}_{j}" for s in ("left", "right") for j in ("hip", "knee", "ankle", "elbow", "wrist"))

    def relative(joints: torch.Tensor) -> torch.Tensor:
        return (joints - joints[:, 1:3].mean(1, keepdim=True))[:, limbs]

    error = (relative(found) - relative(truth)).norm(dim=-1)
    assert error.mean() < 0.012
    assert error.max() < 0.06
    # The shift to the floor is one for the clip; the two keep their places.
    height = found[:, 0] - truth[:, 0]
    for rows in (slice(0, 20), slice(20, 60)):
        assert (height[rows] - height[rows].mean(0)).norm(dim=-1).max() < 0.015
        assert height[rows, :2].abs().max() < 0.02
        feet = found[rows][:, SMPL24.indices(["left_foot", "right_foot"]), 2]
        assert -0.05 < feet.min() < 0.1


def test_poses_that_hardly_moved_are_left_out(body: BodyModel, tmp_path: Path) -> None:
    pose, pelvis = moving_people(1, 0)
    still = clip_joints(body, pose.expand(100, 72), pelvis.expand(100, 3)).copy()
    still[50:, PANOPTIC15.index("left_wrist"), 0] += 0.06
    still[80:, PANOPTIC15.index("left_wrist"), 0] += 0.03
    write_npz(tmp_path / "clips.npz", joint_names=NAMES, still=still)
    assert len(load_motion([tmp_path / "clips.npz"], body, settings=FitSettings(iterations=2))) == 2


@pytest.mark.parametrize(
    ("width", "rate"), [(72, "mocap_framerate"), (156, "mocap_framerate"), (165, "mocap_frame_rate")]
)
def test_angles_carry_over(body: BodyModel, tmp_path: Path, width: int, rate: str) -> None:
    frames = 90
    poses, trans = np.zeros((frames, width)), np.zeros((frames, 3))
    poses[:, 0] = np.pi / 2
    poses[:, 16 * 3 + 2] = np.linspace(-1.2, 0.8, frames)
    poses[:, 66:] = 0.7  # fingers, or SMPL's hands
    trans[:, 0], trans[:, 2] = np.linspace(0, 2, frames), 5.0
    write_npz(tmp_path / "01" / "01_02_poses.npz", poses=poses, trans=trans, **{rate: np.array(60.0)}, gender="male")
    write_npz(tmp_path / "01" / "shape.npz", betas=np.zeros(16))
    pool = load_motion([tmp_path], body, fps=10)
    assert pool.clip_names == ("01/01_02_poses",)
    assert pool.pairs.shape == (0, 2)
    np.testing.assert_allclose(pool.poses[:, :66], poses[::6, :66], atol=1e-6)
    assert not pool.poses[:, 66:].any()
    np.testing.assert_allclose(np.diff(pool.trans[:, 0]), np.diff(trans[::6, 0]), atol=1e-5)
    # Standing in the T-pose, whatever height the clip had: the soles are on the floor.
    vertices = body.vertices(ZERO, torch.as_tensor(pool.poses[0]), torch.as_tensor(pool.trans[0]))
    assert abs(float(vertices[:, 2].min())) < 0.02


def test_finished_pools_are_kept(body: BodyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joints = clip_joints(body, *moving_people(30, 0))
    write_npz(tmp_path / "clips.npz", joint_names=NAMES, one=joints, two=joints)
    fits: list[int] = []

    def counted(*arguments: object) -> object:
        fits.append(1)
        return fit_tracks(*arguments)

    monkeypatch.setattr(motion, "fit_tracks", counted)
    quick, cache = FitSettings(iterations=2), tmp_path / "cache"
    first = load_motion([tmp_path / "clips.npz"], body, cache=cache, settings=quick)
    again = load_motion([tmp_path / "clips.npz"], body, cache=cache, settings=quick, exclude=["t*"])
    assert (len(fits), again.clip_names) == (1, ("one",))
    np.testing.assert_array_equal(again.poses, first.poses[first.clip == 0])
    next(cache.iterdir()).write_bytes(b"half a file")
    load_motion([tmp_path / "clips.npz"], body, cache=cache, settings=quick)
    assert len(fits) == 2
    load_motion([tmp_path / "clips.npz"], body, fps=5, cache=cache, settings=quick)
    assert len(fits) == 3
    write_npz(tmp_path / "clips.npz", joint_names=NAMES, one=joints, two=joints + 1)
    load_motion([tmp_path / "clips.npz"], body, cache=cache, settings=quick)
    assert len(fits) == 4
    with pytest.raises(InputError, match="no motion clip is called three"):
        load_motion([tmp_path / "clips.npz"], body, cache=cache, settings=quick, exclude=["three"])


def test_clips_of_one_skeleton_are_found_by_their_limbs(body: BodyModel) -> None:
    joints = clip_joints(body, *moving_people(6, 0))
    assert same_skeletons([joints, 1.1 * joints, joints + 1, 1.1 * joints[:3]]) == [[0, 2], [1, 3]]


JOINTS = np.ones((5, 15, 3), dtype=np.float32) * np.arange(15)[:, None] / 5
ANGLES = {"poses": np.zeros((5, 156)), "trans": np.zeros((5, 3)), "mocap_framerate": np.array(120.0)}


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"joints": JOINTS}, "not a file of motion clips"),
        ({"joint_names": NAMES}, "no clips"),
        ({"joint_names": NAMES[::-1][:14], "a": JOINTS}, "unknown joints"),
        ({"joint_names": NAMES, "a": JOINTS[:, :14]}, "clip a has a wrong shape"),
        ({"joint_names": NAMES, "a": JOINTS[:0]}, "clip a has a wrong shape"),
        ({"joint_names": NAMES, "a": np.stack([JOINTS] * 3, axis=1)}, "clip a has a wrong shape"),
        ({"joint_names": NAMES, "a": np.where(JOINTS > 2, np.nan, JOINTS)}, "clip a has values"),
        ({"joint_names": NAMES, "a": 1000 * JOINTS}, "clip a is not in metres"),
        ({**ANGLES, "poses": np.zeros((5, 63))}, "poses of a wrong shape"),
        ({**ANGLES, "trans": np.zeros((4, 3))}, "trans of a wrong shape"),
        ({**ANGLES, "trans": np.full((5, 3), np.inf)}, "trans has values"),
        ({"poses": ANGLES["poses"], "trans": ANGLES["trans"]}, "no frame rate"),
        ({**ANGLES, "mocap_framerate": np.array(0.0)}, "no frame rate"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], problem: str) -> None:
    write_npz(tmp_path / "odd.npz", **arrays)
    with pytest.raises(InputError, match=problem) as error:
        list(read_clips(tmp_path / "odd.npz", "odd"))
    assert "odd.npz" in str(error.value)


def test_paths_without_clips_are_refused(body: BodyModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        motion_files([tmp_path / "absent"])
    with pytest.raises(InputError, match="no motion clips"):
        motion_files([tmp_path])
    np.savez(tmp_path / "objects.npz", joint_names=np.array([None]))
    with pytest.raises(InputError, match="damaged, or not an"):
        load_motion([tmp_path], body)
    (tmp_path / "objects.npz").unlink()
    for folder in ("a", "b"):
        write_npz(tmp_path / folder / "clip.npz", **ANGLES)
    with pytest.raises(InputError, match="a second clip called clip"):
        load_motion([tmp_path / "a", tmp_path / "b"], body)


def test_fit_to_captured_motion(data_folder: Path, body: BodyModel) -> None:
    """An acrobat, also upside down, and a dancer: on the joints, elbows and knees bent their own way."""
    path = data_folder / "motion" / "cmu_solo_15joints_30fps.npz"
    if not path.is_file():
        pytest.skip(f"absent data: no {path}")
    tracks = [clip.joints[::12, 0] for clip in read_clips(path, "") if clip.name in ("bvh_49_08", "bvh_05_04")]
    fitted = fit_tracks(body, tracks, FitSettings())
    limbs = PANOPTIC15.indices(f"{s}_{j}" for s in ("left", "right") for j in ("knee", "ankle", "elbow", "wrist"))
    assert np.concatenate([f.distances[:, limbs] for f in fitted]).mean() < 0.008
    assert np.concatenate([f.plain_distances[:, limbs] for f in fitted]).mean() < 0.04
    angles = np.concatenate([f.poses for f in fitted]).reshape(-1, 24, 3)
    for joint, axis, backwards in priors.HINGES:
        assert (backwards * angles[:, joint, axis]).max() < np.radians(8)
    spine = angles[:, SMPL24.indices(["spine1", "spine2", "spine3"])].sum(axis=1)
    assert np.abs(spine[:, 1]).max() < np.radians(45)  # the torso is not wrung
