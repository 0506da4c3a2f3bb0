"""The volumetric estimator from files to joints: the embedded capture, heatmaps, people who come and go, crowds."""

import json
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import exit_code
from test_estimate import STANDING, Scene, matched, ring, scene, three_people
from test_evidence import heatmaps_of
from torch.utils.flop_counter import FlopCounterMode

from avatarpose.body import BodyModel, load_body
from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.estimate import METHODS, TriangulationConfig, VolumetricConfig, estimate
from avatarpose.estimate.volumetric import estimator, volume
from avatarpose.estimate.volumetric.estimator import FrameEstimator
from avatarpose.estimate.volumetric.evidence import Evidence, Gaussians, gaussians_from_keypoints
from avatarpose.estimate.volumetric.network import (
    NetworkConfig,
    VolumetricNetwork,
    load_network,
    make_network,
    save_network,
)
from avatarpose.estimate.volumetric.volume import PITCH, Frames, Views, feature_volume, voxels
from avatarpose.io import read_npz, write_npz
from avatarpose.results import Joints3D
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17, LIMB_JOINTS
from avatarpose.train.noise import NoiseConfig, detect, draw_scene
from avatarpose.train.rigs import look_at

CAPTURE = Path(str(files("assets"))) / "embrace"
LIMBS = COCO17.indices(LIMB_JOINTS)
HIPS, SHOULDERS = [11, 12], [5, 6]
UP = torch.tensor([0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def network() -> VolumetricNetwork:
    return load_network(estimator.packaged_weights())


@pytest.fixture(scope="module")
def embrace() -> tuple[Sequence, Joints3D, np.ndarray]:
    """The embedded capture, what is found in it, and its true joints (P, F, 17, 3)."""
    sequence = Sequence.open(CAPTURE)
    return sequence, estimate(sequence), read_npz(CAPTURE / "ground_truth.npz")["keypoints"]


def untrained(skeleton: str = "coco17") -> VolumetricNetwork:
    """What training starts with: the heatmaps' own mean, sharpened."""
    torch.manual_seed(0)
    return make_network(NetworkConfig(skeleton=skeleton, joints=17 if skeleton == "coco17" else 15)).eval()


def anchors_of(joints: np.ndarray) -> torch.Tensor:
    """True pelvises and necks (P, 2, 3) of joints (P, 17, 3)."""
    both = np.stack((joints[:, HIPS].mean(axis=1), joints[:, SHOULDERS].mean(axis=1)), axis=1)
    return torch.from_numpy(both.astype(np.float32))


def shown(joints: np.ndarray, cameras: Cameras, score: float = 0.9) -> Gaussians:
    """Exact detections of people (P, 17, 3)."""
    pixels, _ = cameras.project(torch.tensor(joints))
    rows = np.concatenate((pixels.numpy(), np.full((*pixels.shape[:-1], 1), score)), axis=-1)
    return gaussians_from_keypoints(rows)


# ---- the embedded capture ----


def test_embrace(embrace) -> None:
    sequence, found, truth = embrace
    assert found.people == ["p0", "p1"] and found.valid.all()
    np.testing.assert_array_equal(found.frames, sequence.frames)
    assert found.keypoints.dtype == np.float32 and np.isfinite(found.keypoints).all()
    person, error = matched(found, truth)
    assert error[..., LIMBS].mean() < 0.080
    other = np.linalg.norm(truth[::-1] - found.keypoints[person], axis=-1)
    assert (error.mean(axis=2) < other.mean(axis=2)).all(), "identities swapped"


def test_scores_tell_good_joints_from_bad(embrace) -> None:
    _, found, truth = embrace
    assert found.scores.min() > 0 and found.scores.max() <= 1
    person, error = matched(found, truth)
    scores = found.scores[person]
    unsure = scores < np.quantile(scores, 0.1)
    assert error[unsure].mean() > 1.5 * error[~unsure].mean()


def test_command(tmp_path, embrace) -> None:
    folder = shutil.copytree(CAPTURE, tmp_path / "embrace")
    (folder / "ground_truth.npz").unlink()
    arguments = ("estimate", str(folder), "--method", "volumetric", "--frames", "3:6", "--device", "cpu")
    assert exit_code(*arguments) == 0
    found = Joints3D.load(folder / "results" / "joints3d.npz")
    expected = estimate(Sequence.open(CAPTURE, frames=slice(3, 6)))
    assert found.people == ["p0", "p1"] and found.frames.tolist() == [3, 4, 5] and found.valid.all()
    np.testing.assert_allclose(found.keypoints, expected.keypoints, atol=1e-5)
    assert json.loads((folder / "results" / "run.json").read_text())["settings"]["method"] == "volumetric"


def test_whom_the_others_are_matters(network) -> None:
    """Without the other's pelvis and neck, joints of people 0.3 m apart are found farther from their places."""
    cameras, rng = ring(4), np.random.default_rng(0)
    run = FrameEstimator(network, cameras, UP, VolumetricConfig())
    crowd = court_people(load_body(), 12, 1)[:, 0]
    crowd[..., :2] -= crowd[:, HIPS, :2].mean(axis=1, keepdims=True)
    error, error_alone, moved = [], [], []
    for pair in crowd.reshape(6, 2, 17, 3):
        angle = rng.uniform(0, 2 * np.pi)
        pair = pair + 0.15 * np.array([[1.0], [-1.0]])[..., None] * [np.cos(angle), np.sin(angle), 0.0]
        evidence, anchors = shown(pair, cameras), anchors_of(pair)
        together, _ = run(evidence, anchors, np.arange(2), 0.0)
        alone = np.concatenate([run(evidence, anchors[[p]], np.arange(1), 0.0)[0] for p in range(2)])
        error.append(np.linalg.norm(together - pair, axis=-1)[:, LIMBS].mean())
        error_alone.append(np.linalg.norm(alone - pair, axis=-1)[:, LIMBS].mean())
        moved.append(np.linalg.norm(together - alone, axis=-1).max())
    assert np.mean(moved) > 0.05
    assert np.mean(error) < 0.95 * np.mean(error_alone)


def test_detections_of_others_count_less(embrace, network) -> None:
    """In each person's volume the heights of others' detections are a tenth; nobody's and his own stay."""
    gaussians = shown(STANDING + np.array([[0.0, 0, 0], [0.5, 0, 0], [1.0, 0, 0]])[:, None], ring(2))
    rows = np.array([[0, 2], [1, -1]])
    dimmed = estimator._dimmed(gaussians, rows, 0, 0.1)
    expected = 0.9 * np.array([[1.0, 0.1, 1.0], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(dimmed.heights, np.broadcast_to(expected[..., None], (2, 3, 17)), rtol=1e-6)
    both = np.array([[0, 0], [0, 1]])  # a detection that both are in is his own for each
    assert (estimator._dimmed(gaussians, both, 0, 0.1).heights[0, 0] > 0.8).all()
    assert (estimator._dimmed(gaussians, both, 1, 0.1).heights[0, 0] > 0.8).all()

    # People who embrace: whose hand is on whose back.
    sequence, found, truth = embrace
    alike = estimate(sequence, VolumetricConfig(foreign=1.0))
    error, error_alike = (matched(each, truth)[1][..., LIMBS].mean() for each in (found, alike))
    assert error < 0.8 * error_alike


def test_batches_change_nothing(embrace, network) -> None:
    sequence, _, truth = embrace
    anchors = anchors_of(truth[:, 4])
    found = [
        FrameEstimator(network, sequence.cameras, UP, VolumetricConfig(batch=batch))(
            Evidence(sequence)[4], anchors, np.arange(2), 0.0
        )
        for batch in (1, 8)
    ]
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-4)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-3)


def test_the_axis_that_is_up_does_not_matter(network) -> None:
    """The same scene in a world whose y is up: everything turned by the least rotation that takes z to y."""
    truth = three_people()[:2, 30]
    turn = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    cameras = ring(4)
    turned = replace(cameras, R=cameras.R @ torch.tensor(turn.T))
    found = []
    for rig, joints, up in ((cameras, truth, UP), (turned, truth @ turn.T, torch.tensor([0.0, 1.0, 0.0]))):
        run = FrameEstimator(network, rig, up, VolumetricConfig())
        found.append(run(shown(joints, rig), anchors_of(joints), np.arange(2), 0.0)[0])
    np.testing.assert_allclose(found[0] @ turn.T, found[1], atol=1e-4)


# ---- made sequences ----


def test_people_come_and_go_and_a_bystander_stays_out(tmp_path) -> None:
    truth = three_people()
    made = scene(truth, ring(5))
    made.detections[:, 22:39, 0] = np.nan  # nobody sees him for 0.85 s
    stranger = scene(STANDING + np.array([2.0, 1.5, 0]) + np.zeros((1, 60, 1, 1)), ring(5), 7).detections
    stranger[1:] = np.nan  # seen by the first camera alone
    made = replace(made, detections=np.concatenate([made.detections, stranger], axis=2))
    done: list[tuple[int, int]] = []
    made.write(tmp_path)
    sequence = Sequence.open(tmp_path, frames=slice(None, None, 5))  # the network is slow
    found = estimate(sequence, progress=lambda d, t: done.append((d, t)))
    truth = truth[:, ::5].copy()
    assert found.people == ["p0", "p1", "p2"]  # the one who went away and came back is one, the stranger nobody
    person, error = matched(found, truth)
    assert person.tolist() == [1, 0, 2]  # by first frame, then x
    there = np.isfinite(truth[..., 0, 0])
    there[0, 5:8] = False
    np.testing.assert_array_equal(found.valid[person], there)
    assert np.isnan(found.keypoints[~found.valid]).all() and (found.scores[~found.valid] == 0).all()
    assert np.isfinite(found.keypoints[found.valid]).all()
    assert np.nanmean(error[..., LIMBS]) < 0.040
    assert done[-1] == (36, 36) and done == sorted(done)


def test_order_of_rows_does_not_matter(tmp_path) -> None:
    made = scene(three_people()[:2, 28:31], ring(4))
    found = [estimate(made.write(tmp_path / str(seed), seed)[0]) for seed in (1, 2)]
    assert len(found[0].people) == 2
    np.testing.assert_array_equal(found[0].valid, found[1].valid)
    np.testing.assert_allclose(found[0].keypoints, found[1].keypoints, atol=1e-4)
    np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-3)


def test_heatmap_files_give_what_keypoints_give(tmp_path) -> None:
    """Of two people a metre apart: nearer, their peaks run together."""
    made = scene(three_people()[:2, 14:18], ring(4), missed=0.0, noise=1.0)
    sequence, _ = made.write(tmp_path)
    expected = estimate(sequence)
    evidence, stride, origin = Evidence(sequence), 4.0, np.zeros(2)
    for f, number in enumerate(sequence.frames):
        for c, name in enumerate(sequence.cameras.names):
            heat = heatmaps_of(evidence[f], c, (120, 160), stride, origin)
            write_npz(
                tmp_path / "heatmaps2d" / name / f"{number:06d}.npz",
                heatmaps=heat.astype(np.float16), stride=np.float32(stride), origin=np.float32(origin),
            )  # fmt: skip
    shutil.rmtree(tmp_path / "keypoints2d")
    found = estimate(Sequence.open(tmp_path))
    assert found.people == expected.people == ["p0", "p1"] and found.valid.all() and expected.valid.all()
    apart = np.linalg.norm(found.keypoints - expected.keypoints, axis=-1)
    assert np.median(apart) < 0.005 and np.quantile(apart, 0.95) < 0.03
    # A frame without its file is said, with its name.
    (tmp_path / "heatmaps2d" / "cam02" / "000003.npz").unlink()
    with pytest.raises(InputError, match=r"cam02(.|\n)*000003"):
        estimate(Sequence.open(tmp_path))


def test_what_cannot_be_estimated(tmp_path) -> None:
    made = scene(three_people(4)[:1], ring(4))
    made.write(tmp_path / "one")
    alone = Sequence.open(tmp_path / "one", cameras=["cam01"], least_cameras=1)
    with pytest.raises(InputError, match="one camera"):
        estimate(alone)
    made.detections[:] = np.nan
    with pytest.raises(InputError, match="no person found"):
        estimate(made.write(tmp_path / "nobody")[0])
    faint = scene(three_people(4)[:1], ring(2), missed=0.0, noise=0.0)
    faint.detections[..., 2] = 0.1001  # they agree, but too faintly for a person
    faint.detections[..., 9:, :] = np.nan
    faint = faint.write(tmp_path / "faint")[0]
    for config in (TriangulationConfig(), VolumetricConfig()):
        with pytest.raises(InputError, match="no person found"):
            estimate(faint, config)
    sequence = Sequence.open(CAPTURE, frames=slice(0, 1))
    with pytest.raises(InputError, match="no weights"):
        estimate(sequence, VolumetricConfig(weights=tmp_path / "absent.safetensors"))
    (tmp_path / "other.safetensors").write_bytes(b"something else")
    with pytest.raises(InputError, match="not weights"):
        estimate(sequence, VolumetricConfig(weights=tmp_path / "other.safetensors"))
    assert METHODS["volumetric"].config is VolumetricConfig


# ---- other skeletons ----


def test_joints_of_another_skeleton_become_coco(tmp_path) -> None:
    """Panoptic-15 has a neck and a middle of the hips in place of eyes and ears."""
    save_network(tmp_path / "w.safetensors", untrained("panoptic15"))
    truth = three_people()[:1, :3]
    sequence, _ = scene(truth, ring(4), missed=0.0).write(tmp_path / "sequence")
    found = estimate(sequence, VolumetricConfig(weights=tmp_path / "w.safetensors"))
    face = COCO17.indices(["left_eye", "right_eye", "left_ear", "right_ear"])
    rest = [j for j in range(17) if j not in face]
    assert found.valid.all() and np.isfinite(found.keypoints[:, :, rest]).all()
    assert np.isnan(found.keypoints[:, :, face]).all() and (found.scores[:, :, face] == 0).all()
    assert (found.scores[:, :, rest] > 0).all()
    # Not trained, the network reads the heatmaps as they are, and the peaks' rays do the rest.
    _, error = matched(found, truth)
    assert np.nanmean(error) < 0.10

    run = FrameEstimator(untrained("panoptic15"), ring(4), UP, VolumetricConfig(temporal_filter=True), fps=50.0)
    for f in range(3):
        joints, _ = run(shown(STANDING[None], ring(4)), anchors_of(STANDING[None]), np.arange(1), f / 50)
        assert np.isfinite(joints[0, rest]).all()


# ---- the temporal filter ----


def standing_run(fps: float = 50.0, **settings) -> FrameEstimator:
    config = VolumetricConfig(temporal_filter=True, polish=None, **settings)
    return FrameEstimator(untrained(), ring(5), UP, config, fps)


def test_filter_only_where_asked_and_fast_enough() -> None:
    assert standing_run(29.0).filter is None
    assert standing_run(30.0).filter is not None
    assert standing_run(29.0, filter_fps=25.0).filter is not None
    assert FrameEstimator(untrained(), ring(5), UP, VolumetricConfig(), 100.0).filter is None


def test_filter_expects_what_moves_on_evenly() -> None:
    kept = standing_run().filter
    here, away = np.arange(1), np.array([0.01, 0.0, 0.0])
    paths = [STANDING + f * away for f in range(9)]
    assert np.isinf(kept.expect(here, 17, 0.0)[1]).all()
    for f in range(3):
        kept.update(here, paths[f][None], f / 50)
    place, radius = kept.expect(here, 17, 3 / 50)
    np.testing.assert_allclose(place[0], paths[3], atol=1e-9)
    np.testing.assert_allclose(radius, 0.05)  # exact so far: the least
    # Off by 0.1 m once: 0.8 of nothing and 0.2 of that, three times over.
    jumped = paths[3][None] + np.array([0.0, 0.1, 0.0])
    kept.update(here, jumped, 3 / 50)
    np.testing.assert_allclose(kept.expect(here, 17, 4 / 50)[1], 3 * 0.02)
    # Away for a second, he may be anywhere.
    assert np.isinf(kept.expect(here, 17, 1.1)[1]).all()
    assert np.isinf(kept.expect(np.array([7]), 17, 4 / 50)[1]).all()  # somebody else


def with_ghost(cameras: Cameras, offset: np.ndarray) -> Gaussians:
    """Somebody standing, with a false left wrist that all views agree on and prefer."""
    own, ghost = shown(STANDING[None], cameras), shown(STANDING[None] + offset, cameras, score=1.0)
    wrist = torch.zeros(17, dtype=torch.bool)
    wrist[9] = True
    own_heights = torch.where(wrist, 0.5 * own.heights, own.heights)
    ghost_heights = torch.where(wrist, ghost.heights, 0.0)
    parts = [torch.cat((getattr(own, key), getattr(ghost, key)), dim=1) for key in ("means", "precisions")]
    return Gaussians(*parts, torch.cat((own_heights, ghost_heights), dim=1))


@pytest.mark.parametrize("fps", [20.0, 50.0])
def test_filter_removes_a_ghost(fps: float) -> None:
    run, cameras = standing_run(fps), ring(5)
    offset = np.array([-0.3, 0.2, 0.1])
    anchors = anchors_of(STANDING[None])
    for f in range(3):
        before, _ = run(shown(STANDING[None], cameras), anchors, np.arange(1), f / fps)
    after, _ = run(with_ghost(cameras, offset), anchors, np.arange(1), 3 / fps)
    moved = np.linalg.norm(after - before, axis=-1)[0]
    assert np.delete(moved, 9).max() < 0.005
    assert moved[9] < 0.05 if fps == 50 else moved[9] > 0.25


def test_filter_keeps_voxels_around_any_place() -> None:
    """The middles of the voxels may all be farther than 5 cm from a place; it is filtered all the same."""
    run, cameras = standing_run(), ring(5)
    # The wrist half way between voxels in all directions.
    offset = PITCH / 2 - np.remainder(STANDING[9] - STANDING[HIPS].mean(axis=0) + 1.0, PITCH)
    person = STANDING.copy()
    person[9] += offset
    for f in range(4):
        found, _ = run(shown(person[None], cameras), anchors_of(person[None]), np.arange(1), f / 50)
        assert np.linalg.norm(found[0, 9] - person[9]) < 0.04


# ---- many people, many cameras ----

COURT = np.array([28.0, 15.0])


def court_cameras(count: int = 28) -> Cameras:
    """Full HD cameras around a court, 4 m outside and 4 to 6 m up, that look across it."""
    along = np.linspace(0, 1, count, endpoint=False)
    width, depth = COURT / 2 + 4.0
    angle = 2 * np.pi * along
    circle = np.stack((np.cos(angle), np.sin(angle)), axis=-1)
    edge = circle / np.abs(circle / [width, depth]).max(axis=1, keepdims=True)
    R, t = [], []
    for c, place in enumerate(edge):
        rotation, translation = look_at(np.array([*place, 4.0 + c % 3]), np.array([*(0.2 * place), 1.0]))
        R.append(rotation)
        t.append(translation)
    K = torch.tensor([[1100.0, 0, 960], [0, 1100, 540], [0, 0, 1]], dtype=torch.float64)
    return Cameras(
        tuple(f"cam{c:02d}" for c in range(count)), K.repeat(count, 1, 1), torch.tensor(np.array(R)),
        torch.tensor(np.array(t)), torch.zeros(count, 5, dtype=torch.float64), torch.full((count,), 1920),
        torch.full((count,), 1080),
    )  # fmt: skip


def court_people(body: BodyModel, count: int, frames: int, seed: int = 0) -> np.ndarray:
    """Joints (P, F, 17, 3) of people of random shapes who glide over the court in one pose each, 1.5 m apart."""
    rng = np.random.default_rng(seed)
    poses = rng.normal(scale=0.15, size=(count, 72)).astype(np.float32)
    poses[:, 3 * 16 + 2] -= 1.1  # arms down
    poses[:, 3 * 17 + 2] += 1.1
    poses[:, :3] = np.pi / 2 * np.array([1.0, 0, 0])  # y up to z up
    betas = torch.from_numpy(rng.normal(size=(count, 10)).astype(np.float32))
    joints = body.keypoints(betas, torch.from_numpy(poses), torch.zeros(count, 3)).double().numpy()
    yaw = rng.uniform(0, 2 * np.pi, count)
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.stack((np.stack((c, -s), -1), np.stack((s, c), -1)), -2)
    places: list[np.ndarray] = []
    while len(places) < count:
        place = rng.uniform(-1, 1, 2) * (COURT / 2 - 0.5)
        if all(np.linalg.norm(place - other) > 1.5 for other in places):
            places.append(place)
    joints[..., 2] += 0.08 - joints[..., 2].min(axis=1, keepdims=True)
    flat = (joints[..., :2] - joints[:, HIPS, :2].mean(axis=1, keepdims=True)) @ turn.swapaxes(1, 2)
    joints[..., :2] = flat + np.array(places)[:, None]
    speed = np.concatenate((rng.uniform(-1.5, 1.5, (count, 2)), np.zeros((count, 1))), axis=1)
    return joints[:, None] + speed[:, None, None] * (np.arange(frames) / 20.0)[:, None, None]


def detected(joints: np.ndarray, cameras: Cameras, strength: float, seed: int = 0) -> np.ndarray:
    """Imitated detections (C, F, D, 17, 3) of people (P, F, 17, 3)."""
    rng, noise = np.random.default_rng(seed), NoiseConfig(strength=strength)
    take = draw_scene(len(joints), cameras, rng, noise)
    frames = [detect(joints[:, f], cameras, rng, noise, take).rows for f in range(joints.shape[1])]
    most = max(rows.shape[1] for rows in frames)
    more = [((0, 0), (0, most - rows.shape[1]), (0, 0), (0, 0)) for rows in frames]
    return np.stack([np.pad(rows, n, constant_values=np.nan) for rows, n in zip(frames, more, strict=True)], axis=1)


@pytest.mark.slow
def test_ten_people_and_28_cameras(tmp_path) -> None:
    cameras = court_cameras()
    truth = court_people(load_body(), 10, 4)
    sequence, _ = Scene(cameras, truth, detected(truth, cameras, 0.3)).write(tmp_path)
    found = estimate(sequence)
    assert len(found.people) == 10 and found.valid.all()
    person, error = matched(found, truth)
    assert len(set(person.tolist())) == 10
    centre = found.keypoints[person][:, :, HIPS].mean(axis=2) - truth[:, :, HIPS].mean(axis=2)
    assert np.linalg.norm(centre, axis=-1).mean() < 0.02
    assert error[..., LIMBS].mean() < 0.02


def work(joints: np.ndarray, cameras: Cameras, who: list[int]) -> float:
    """Floating-point operations of the feature volumes of these people among all (P, 17, 3), per person."""
    anchors = anchors_of(joints)[who]
    frames = Frames.at(anchors[:, 0], anchors[:, 1], UP)
    views = Views.stack([(cameras.to(dtype=torch.float32), shown(joints, cameras))]).repeat(len(who))
    with FlopCounterMode(display=False) as counter:
        feature_volume(views, frames.to_world(voxels()[None]))
    return counter.get_total_flops() / len(who)


def test_work_for_a_person_does_not_grow_with_a_row_of_people() -> None:
    """Only those whom a view shows before or behind the person's own volume are added."""
    across = np.arange(40) * np.where(np.arange(40) % 2, 1.0, -1.0)  # 2 m apart, from the middle outwards
    row = STANDING + np.stack((across, 0 * across, 0 * across), axis=-1)[:, None]
    poses = [look_at(np.array([x, -6.0, 1.5]), np.array([x, 0.0, 1.0])) for x in (-2.0, -0.7, 0.7, 2.0)]
    R, t = zip(*poses, strict=True)
    cameras = replace(ring(4), R=torch.tensor(np.array(R)), t=torch.tensor(np.array(t)))
    who = [0, 1, 2]
    assert work(row, cameras, who) == work(row[:10], cameras, who)
    assert work(row[:3], cameras, who) > 0.4 * work(row, cameras, who)


def test_work_in_a_crowd_is_a_fraction_of_everybody() -> None:
    body, cameras = load_body(), court_cameras()[::4]
    crowd = court_people(body, 40, 1)[:, 0]
    who = [0, 3, 6]
    alone = np.mean([work(crowd[[p]], cameras, [0]) for p in who])
    assert work(crowd, cameras, who) < 0.2 * len(crowd) * alone


def test_those_left_out_do_not_show(monkeypatch) -> None:
    """A view's detections outside the volume it sees are left out of the work; the features stay as they are."""
    cameras = court_cameras()[::7].to(dtype=torch.float32)
    crowd = court_people(load_body(), 12, 1)[:, 0]
    anchors = anchors_of(crowd)[:2]
    frames = Frames.at(anchors[:, 0], anchors[:, 1], UP)
    views = Views.stack([(cameras, shown(crowd, court_cameras()[::7]))]).repeat(2)
    found = feature_volume(views, frames.to_world(voxels()[None]))
    monkeypatch.setattr(volume, "_FEW_DETECTIONS", 100)
    every = feature_volume(views, frames.to_world(voxels()[None]))
    assert found[:, :17].amax() > 0.5
    torch.testing.assert_close(found, every, atol=1e-3, rtol=0)
