"""People found from detections without identities: entering, leaving, hidden, touching, and in the captures."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.estimate import METHODS, TriangulationConfig, VolumetricConfig, associate, estimate
from avatarpose.estimate.affinity import MIRRORED
from avatarpose.results import Joints3D
from avatarpose.sequence import Sequence

# A standing person facing +y, metres, COCO order.
STANDING = np.array(
    [
        *([0, 0.12, 1.6], [-0.03, 0.1, 1.64], [0.03, 0.1, 1.64], [-0.07, 0, 1.62], [0.07, 0, 1.62]),
        *([-0.18, 0, 1.4], [0.18, 0, 1.4], [-0.25, 0, 1.12], [0.25, 0, 1.12], [-0.25, 0.1, 0.88], [0.25, 0.1, 0.88]),
        *([-0.11, 0, 0.92], [0.11, 0, 0.92], [-0.12, 0.02, 0.5], [0.12, 0.02, 0.5], [-0.12, 0, 0.08], [0.12, 0, 0.08]),
    ]
)
FPS = 20.0


def walker(path: np.ndarray, phase: float, height: float) -> np.ndarray:
    """Joints (F, 17, 3) of a person of a height who goes along a path (F, 2), facing where he goes, swinging limbs."""
    swing = np.sin(2 * np.pi * 1.0 * np.arange(len(path)) / FPS + phase)
    local = np.repeat(STANDING[None], len(path), axis=0)
    for joints, amount in (([13, 10], 0.12), ([15], 0.25), ([14, 9], -0.12), ([16], -0.25)):
        local[:, joints, 1] += amount * swing[:, None]
    ahead = np.gradient(path, axis=0)
    angle = np.unwrap(np.arctan2(ahead[:, 1], ahead[:, 0])) - np.pi / 2
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = local[..., 0] * c - local[..., 1] * s, local[..., 0] * s + local[..., 1] * c
    return height / 1.7 * np.stack([x, y, local[..., 2]], axis=-1) + np.append(path, 0 * path[:, :1], axis=1)[:, None]


def ring(count: int, radius: float = 4.5) -> Cameras:
    """Cameras all round the scene, at different heights, looking at (0, 0, 1)."""
    angles = 2 * np.pi * (np.arange(count) + 0.3) / count
    heights = 1.2 + 0.6 * (np.arange(count) % 3)
    centres = np.stack([radius * np.cos(angles), radius * np.sin(angles), heights], axis=-1)
    forward = np.array([0, 0, 1.0]) - centres
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    R = np.stack([right, np.cross(forward, right), forward], axis=1)
    return Cameras(
        names=tuple(f"cam{c:02d}" for c in range(count)),
        K=torch.tensor([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]], dtype=torch.float64).repeat(count, 1, 1),
        R=torch.tensor(R), t=torch.tensor(-np.einsum("cij,cj->ci", R, centres)),
        dist=torch.tensor([[-0.05, 0.01, 0.0, 0.0, 0.0]] * count, dtype=torch.float64),
        width=torch.full((count,), 640), height=torch.full((count,), 480),
    )  # fmt: skip


@dataclass
class Scene:
    """Truth (P, F, 17, 3) and detections (C, F, P, 17, 3), person p in row p until they are shuffled."""

    cameras: Cameras
    truth: np.ndarray
    detections: np.ndarray

    def write(self, folder: Path, seed: int = 0) -> tuple[Sequence, np.ndarray]:
        """A sequence folder with the rows shuffled, opened; and the truth's rows (C, F, P)."""
        rng = np.random.default_rng(seed)
        order = rng.permuted(np.broadcast_to(np.arange(self.detections.shape[2]), self.detections.shape[:3]), axis=2)
        rows = np.argsort(order, axis=2)
        shuffled = np.take_along_axis(self.detections, order[..., None, None], axis=2)
        folder.mkdir(parents=True, exist_ok=True)
        self.cameras.save(folder / "cameras.json")
        header = {"fps": FPS, "frames": self.truth.shape[1], "unit": "m", "up": "z", "people": None}
        (folder / "sequence.json").write_text(json.dumps(header))
        (folder / "keypoints2d").mkdir(exist_ok=True)
        for name, keypoints in zip(self.cameras.names, shuffled, strict=True):
            np.savez(folder / "keypoints2d" / f"{name}.npz", keypoints=keypoints.astype(np.float32))
        return Sequence.open(folder), rows


def scene(truth: np.ndarray, cameras: Cameras, seed: int = 0, missed: float = 0.1, noise: float = 2.5) -> Scene:
    """Detections with noise and at times without joints; joints of people who are not there (NaN) are not seen."""
    rng = np.random.default_rng(seed)
    pixels, _ = cameras.project(torch.tensor(np.nan_to_num(truth)))
    pixels = pixels.numpy() + rng.normal(0, noise, pixels.shape)
    detections = np.concatenate([pixels, rng.uniform(0.6, 0.95, (*pixels.shape[:-1], 1))], axis=-1)
    detections[np.broadcast_to(np.isnan(truth[..., 0]), detections.shape[:-1])] = np.nan
    detections[rng.random(detections.shape[:-1]) < missed] = np.nan
    return Scene(cameras, truth, np.moveaxis(detections, 1, 2))


def three_people(frames: int = 60) -> np.ndarray:
    """One circles, one walks past within half a metre and leaves after frame 39, one enters at frame 15."""
    s = np.linspace(0, 1, frames)
    circle = np.stack([0.6 * np.cos(4 * s), 0.6 * np.sin(4 * s)], axis=-1)
    passing = np.stack([-1.8 + 3.6 * s, 0.25 + 0 * s], axis=-1)
    entering = np.stack([1.0 - 1.2 * s, -1.6 + 1.6 * s], axis=-1)
    truth = np.stack([walker(circle, 0.0, 1.75), walker(passing, 1.0, 1.7), walker(entering, 2.0, 1.62)])
    truth[1, 40:] = np.nan
    truth[2, :15] = np.nan
    return truth


def matched(found: Joints3D, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each true person among those found, and joint errors (P, F, 17), metres, NaN where either is unknown."""
    errors = np.linalg.norm(truth[:, None] - found.keypoints[None], axis=-1)
    _, person = linear_sum_assignment(np.nan_to_num(errors, nan=1.0).mean(axis=(2, 3)))
    return person, errors[np.arange(len(truth)), person]


def test_three_people_entering_and_leaving(tmp_path):
    truth = three_people()
    sequence, rows = scene(truth, ring(5)).write(tmp_path)
    done = []
    found = estimate(sequence, TriangulationConfig(), progress=lambda d, t: done.append((d, t)))
    assert found.people == ["p0", "p1", "p2"]
    person, errors = matched(found, truth)
    # Named by first frame, then x: at frame 0 the one passing is at x = -1.8, the one on the circle at 0.6.
    assert person.tolist() == [1, 0, 2]
    np.testing.assert_array_equal(found.valid[person], np.isfinite(truth[:, :, 0, 0]))
    assert np.nanmean(errors) < 0.025 and np.nanmax(errors) < 0.15
    assert np.isfinite(errors).sum() > 0.99 * np.isfinite(truth[..., 0]).sum()
    assert found.keypoints.dtype == np.float32 and np.isnan(found.keypoints[~found.valid]).all()
    assert (found.scores[np.isnan(found.keypoints[..., 0])] == 0).all() and (found.scores <= 1).all()
    assert done[-1] == (120, 120) and done == sorted(done)
    association = associate(sequence, found)
    there = np.isfinite(truth[..., 0, 0]).T[None] & (association.rows[..., person] >= 0)
    assert there.mean() > 0.95 * np.isfinite(truth[..., 0, 0]).mean()
    np.testing.assert_array_equal(association.rows[..., person][there], rows[..., : len(truth)][there])


def test_result_does_not_depend_on_the_order_of_rows(tmp_path):
    made = scene(three_people(20), ring(4))
    found = [estimate(made.write(tmp_path / str(seed), seed)[0], TriangulationConfig()) for seed in (1, 2)]
    np.testing.assert_allclose(found[0].keypoints, found[1].keypoints, atol=1e-6)


def test_a_person_lost_for_some_frames_comes_back_as_the_same(tmp_path):
    truth = three_people()
    made = scene(truth, ring(5))
    made.detections[:, 22:34, 0] = np.nan  # 0.6 s, longer than a lost person is coasted along
    found = estimate(made.write(tmp_path)[0], TriangulationConfig())
    person, errors = matched(found, truth)
    assert len(found.people) == 3
    assert not found.valid[person[0], 22:34].any() and found.valid[person[0], 34:].all()
    assert np.nanmax(errors) < 0.15


def test_occluded_views_and_missing_joints(tmp_path):
    truth = three_people()
    made = scene(truth, ring(5))
    made.detections[[0, 1], 10:30, 0] = np.nan  # hidden in two views for a second
    made.detections[1:, 20:40, 0, 9] = np.nan  # his left wrist is seen by one view only
    found = estimate(made.write(tmp_path)[0], TriangulationConfig())
    person, errors = matched(found, truth)
    assert len(found.people) == 3 and found.valid[person[0]].all()
    assert np.isnan(found.keypoints[person[0], 20:40, 9]).all()
    assert np.isfinite(found.keypoints[person[0], 20:40, 7]).mean() > 0.9
    assert np.nanmax(errors) < 0.15
    hidden, seen = found.scores[person[0], 10:20], found.scores[person[0], 40:50]
    assert np.median(hidden[hidden > 0]) < 0.9 * np.median(seen[seen > 0])


@pytest.mark.parametrize("swapped", ["sides", "people", "both"])
def test_a_view_with_its_joints_under_other_names(tmp_path, swapped):
    truth = three_people()
    made = scene(truth, ring(6), missed=0.05)
    if swapped != "people":
        made.detections[1] = made.detections[1][:, :, MIRRORED]
    if swapped != "sides":  # the arms of two people stand in each other's rows
        first, second = made.detections[3, :, 0, 5:11].copy(), made.detections[3, :, 1, 5:11].copy()
        made.detections[3, :, 0, 5:11], made.detections[3, :, 1, 5:11] = second, first
    found = estimate(made.write(tmp_path)[0], TriangulationConfig())
    _, errors = matched(found, truth)
    assert len(found.people) == 3
    assert np.nanmean(errors) < 0.025 and np.nanmax(errors) < 0.2


def test_joints_taken_from_the_other_person_in_two_of_four_views(tmp_path):
    # Two against two: only time and bone lengths can tell.
    truth = three_people()[:2, :36]
    made = scene(truth, ring(4), missed=0.0)
    made.detections[:2, 14:17, 0, 9] = made.detections[:2, 14:17, 1, 9]
    found = estimate(made.write(tmp_path)[0], TriangulationConfig())
    _, errors = matched(found, truth)
    assert np.nanmax(errors[0, 14:17, 9]) < 0.1 and np.isfinite(errors[0, 14:17, 9]).all()


def test_two_cameras(tmp_path):
    truth = three_people()[:2, :30]
    made = scene(truth, ring(5), missed=0.02)
    made = Scene(made.cameras[[0, 1]], truth, made.detections[:2])
    found = estimate(made.write(tmp_path)[0], TriangulationConfig())
    assert len(found.people) == 2
    _, errors = matched(found, truth)
    assert np.nanmedian(errors) < 0.05


def test_bystanders_and_brief_accidents_are_left_out(tmp_path):
    truth = three_people()
    made = scene(truth, ring(5))
    far = scene(walker(np.tile([[2.2, 2.2]], (60, 1)) + np.linspace(0, 0.3, 60)[:, None], 0.5, 1.8)[None], ring(5), 7)
    stranger, flicker = far.detections.copy(), far.detections.copy()
    stranger[1:] = np.nan  # seen by the first camera alone
    stranger[0] += [3.0, 0, 0]
    flicker[:, :30], flicker[:, 33:] = np.nan, np.nan  # seen by all, for three frames
    made = replace(made, detections=np.concatenate([made.detections, stranger, flicker], axis=2))
    assert len(estimate(made.write(tmp_path)[0], TriangulationConfig()).people) == 3


def test_a_person_detected_twice_is_one(tmp_path):
    truth = three_people()
    made = scene(truth, ring(5))
    again = scene(truth, ring(5), seed=5)
    made = replace(made, detections=np.concatenate([made.detections, again.detections], axis=2))
    found = estimate(made.write(tmp_path)[0], TriangulationConfig())
    assert len(found.people) == 3
    _, errors = matched(found, truth)
    assert np.nanmean(errors) < 0.025 and np.nanmax(errors) < 0.25


def test_every_fifth_frame(tmp_path):
    # A quarter of a second between frames.
    truth = three_people()
    scene(truth, ring(5)).write(tmp_path)
    sequence = Sequence.open(tmp_path, frames=slice(None, None, 5))
    found = estimate(sequence, TriangulationConfig())
    assert found.frames.tolist() == list(range(0, 60, 5)) and len(found.people) == 3
    assert np.nanmax(matched(found, truth[:, ::5])[1]) < 0.15


def test_one_frame(tmp_path):
    truth = three_people()[:, 20:21]
    found = estimate(scene(truth, ring(5)).write(tmp_path)[0], TriangulationConfig())
    assert len(found.people) == 3 and found.valid.all()


def test_association_of_a_part_of_the_frames_in_any_order(tmp_path):
    sequence, rows = scene(three_people()[:1, :12], ring(4)).write(tmp_path)
    found = estimate(sequence, TriangulationConfig())
    part = [7, 3]
    some = replace(
        found, frames=found.frames[part], keypoints=found.keypoints[:, part], valid=found.valid[:, part]
    )  # fmt: skip
    np.testing.assert_array_equal(associate(sequence, some).rows, associate(sequence, found).rows[:, part])
    np.testing.assert_array_equal(associate(sequence, some).rows, rows[:, part])
    with pytest.raises(InputError, match="frame 99: 3D joints of a frame that is not in the sequence"):
        associate(sequence, replace(some, frames=np.array([7, 99])))


def test_nobody_is_an_error_that_says_so(tmp_path):
    made = scene(three_people()[:, :10], ring(4))
    made.detections[:] = np.nan
    with pytest.raises(InputError, match=r"keypoints2d: no person found .*expected .*4 cameras.*found 0 detections"):
        estimate(made.write(tmp_path / "none")[0], TriangulationConfig())
    made = scene(three_people()[:1, :10], ring(4))
    made.detections[1:] = np.nan
    with pytest.raises(InputError, match="no person found"):
        estimate(made.write(tmp_path / "one view")[0], TriangulationConfig())
    made = scene(three_people()[:0, :10], ring(4))
    with pytest.raises(InputError, match="no person found"):
        estimate(made.write(tmp_path / "no rows")[0], TriangulationConfig())


def test_unknown_settings_are_refused():
    with pytest.raises(TypeError, match="no method takes dict; known: volumetric, triangulation"):
        estimate(None, {})
    assert METHODS["triangulation"].config is TriangulationConfig
    assert METHODS["volumetric"].config is VolumetricConfig


@pytest.mark.parametrize(("name", "limit"), [("duo_a", 0.022), ("duo_b", 0.035)])
def test_duo_captures_reach_triangulation_with_known_identities(data_folder, name, limit):
    sequence = Sequence.open(data_folder / name)
    found = estimate(sequence, TriangulationConfig())
    truth = np.load(data_folder / name / "ground_truth.npz")["keypoints"]
    assert len(found.people) == len(truth) and found.valid.all()
    person, errors = matched(found, truth)
    assert np.nanmean(errors[..., 5:]) < limit and np.isnan(errors[..., 5:]).mean() < 0.01
    other = np.linalg.norm(truth[::-1] - found.keypoints[person], axis=-1)
    assert (np.nanmean(errors, axis=2) < np.nanmean(other, axis=2)).all(), "identities swapped"
    unsure = found.scores[person] < np.quantile(found.scores, 0.1)
    assert np.nanmean(errors[unsure]) > 1.15 * np.nanmean(errors[~unsure])


def test_shelf_without_identities(data_folder):
    sequence = Sequence.open(data_folder / "shelf_dev")
    found = estimate(sequence, TriangulationConfig())
    data = np.load(data_folder / "shelf_dev" / "ground_truth.npz")
    shared = [10, 8, 6, 5, 7, 9]  # COCO joints of shelf15's right wrist .. left wrist, which mean the same in both
    truth = data["shelf15"].transpose(1, 0, 2, 3)[:, :, 6:12]
    errors = np.linalg.norm(truth[:, None] - found.keypoints[None][:, :, :, shared], axis=-1)
    _, person = linear_sum_assignment(np.nan_to_num(errors, nan=1.0).mean(axis=(2, 3)))
    errors = errors[np.arange(len(truth)), person]
    assert np.nanmedian(errors) < 0.045 and np.nanmax(errors.mean(axis=2)) < 0.2
    assert np.isfinite(errors).sum() > 0.99 * np.isfinite(truth[..., 0]).sum()
