"""Evaluation against figures worked out by hand, on small made sequences and on the captures."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.evaluate import (
    body_axes,
    compare_people,
    constant_part,
    decompose,
    evaluate,
    evaluate_sequence,
    load_truth,
    match_people,
    print_metrics,
    shelf_pcp,
    summarise,
)
from avatarpose.io import write_json, write_npz
from avatarpose.results import Bodies, Joints3D
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17, LIMB_JOINTS, SHELF15, convert, shelf_head
from benchmarks.known_identity import assign_detections, known_identity_triangulation, triangulate

KEYS = ["mpjpe_mm", "pampjpe_mm", "worst_tenth_mm", "pcp", "pck50", "pck100", "ap50", "ap100", "recall"]
FRAMES = 10


def standing() -> np.ndarray:
    """COCO-17 joints of a person who stands at the origin and looks along -y, up z."""
    half = {
        **{"nose": (0, -0.1, 1.6), "eye": (0.03, -0.1, 1.65), "ear": (0.08, 0, 1.62), "shoulder": (0.2, 0, 1.4)},
        **{"elbow": (0.25, 0, 1.1), "wrist": (0.3, 0, 0.85), "hip": (0.12, 0, 0.9), "knee": (0.12, 0, 0.5)},
        "ankle": (0.12, 0, 0.1),
    }
    points = []
    for joint in COCO17.joints:
        x, y, z = half[joint.split("_")[-1]]
        points.append((-x if joint.startswith("right") else x, y, z))
    return np.array(points)


def two_people() -> np.ndarray:
    """(2, 10, 17, 3): the first walks along x at 0.1 m a frame, the second walks back two metres beside."""
    steps = 0.1 * np.arange(FRAMES)[:, None, None] * np.array([1.0, 0, 0])
    return np.stack([standing() + steps, standing() - steps + np.array([0, 2.0, 0])])


def bodies(keypoints: np.ndarray, people: list[str], frames: np.ndarray, valid: np.ndarray | None = None) -> Bodies:
    p, f = keypoints.shape[:2]
    valid = np.ones((p, f), bool) if valid is None else valid
    zeros = {"betas": (p, 10), "poses": (p, f, 72), "trans": (p, f, 3), "joints": (p, f, 24, 3)}
    arrays = {name: np.zeros(shape) for name, shape in zeros.items()}
    return Bodies(people, frames, 20.0, **arrays, keypoints=keypoints, valid=valid, body_name="made", body_sha256="0")


def joints3d(keypoints: np.ndarray, people: list[str], scores: list[float]) -> Joints3D:
    p, f = keypoints.shape[:2]
    spread = np.broadcast_to(np.array(scores)[:, None, None], (p, f, 17))
    return Joints3D(people, np.arange(f), keypoints, spread, np.ones((p, f), bool))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sequence of two people and three cameras without images."""
    write_json(tmp_path / "sequence.json", {"fps": 20.0, "frames": FRAMES, "unit": "m", "up": "z", "people": 2})
    ring().save(tmp_path / "cameras.json")
    write_npz(tmp_path / "ground_truth.npz", keypoints=two_people().astype(np.float32))
    return tmp_path


def ring(distortion: float = 0.0) -> Cameras:
    """Three cameras five metres from the origin, at equal angles, looking at it from 1 m up."""
    rotations, translations = [], []
    for angle in (0.0, 2.1, 4.2):
        centre = np.array([5 * np.cos(angle), 5 * np.sin(angle), 1.0])
        forward = np.array([-np.cos(angle), -np.sin(angle), 0.0])
        down = np.array([0.0, 0.0, -1.0])
        rotation = np.stack([np.cross(down, forward), down, forward])
        rotations.append(rotation)
        translations.append(-rotation @ centre)
    k = np.array([[500.0, 0, 320], [0, 500.0, 240], [0, 0, 1]])
    return Cameras(
        names=("a", "b", "c"),
        K=torch.tensor(np.stack([k] * 3)),
        R=torch.tensor(np.stack(rotations)),
        t=torch.tensor(np.stack(translations)),
        dist=torch.tensor([[distortion, 0.0, 0.0, 0.0, 0.0]] * 3, dtype=torch.float64),
        width=torch.tensor([640] * 3),
        height=torch.tensor([480] * 3),
    )


def moved(x_first: float, x_second: float) -> np.ndarray:
    """The truth, every joint of the first person off by x_first metres in z, of the second by x_second."""
    return two_people() + np.array([x_first, x_second])[:, None, None, None] * np.array([0, 0, 1.0])


# ---- the rows of metrics.json ----


def test_rows_by_hand(folder: Path):
    # Saved in the other order and under other names. Errors 20 mm and 60 mm in every joint of 10 person-frames each.
    bodies(moved(0.02, 0.06)[::-1], ["p1", "p0"], np.arange(FRAMES)).save(folder / "results" / "initial.npz")
    # Refined: 10 mm both, but the second person is lost in frame 3 and, in frame 5, his left wrist.
    refined, valid = moved(0.01, 0.01), np.ones((2, FRAMES), bool)
    valid[1, 3] = False
    refined[1, 5, COCO17.index("left_wrist")] = np.nan
    bodies(refined, ["p0", "p1"], np.arange(FRAMES), valid).save(folder / "results" / "refined.npz")
    found = evaluate(Sequence.open(folder))
    assert list(found) == ["initial", "refined"]
    assert list(found["initial"]) == list(found["refined"]) == KEYS

    # Mean of 20 and 60; worst tenth: 2 of 20 person-frames at 60; a shift aligns away; PCK50: the first person only.
    # AP50: all scores equal, 10 of 20 right, recall 1/2 at precision 1/2: 25 %.
    expected = [40.0, 0.0, 60.0, 100.0, 50.0, 100.0, 25.0, 100.0, 100.0]
    np.testing.assert_allclose(list(found["initial"].values()), expected, atol=1e-3)

    # 240 joints: 13 at 500, 227 at 10: (6500 + 2270) / 240 = 36.5417. Aligned: 13 * 500 / 240 = 27.0833.
    # Worst two person-frames: 500, and (11 * 10 + 500) / 12 = 50.8333: 275.4167.
    # Limbs: 8 of frame 3 and the left lower arm of frame 5 wrong: 151 / 160. Joints within 50 and 100: 227 / 240.
    # Detections: 19, all of equal score. Within 50 mm 18 (the one of frame 5 is 50.83 mm off): recall 18/20 at
    # precision 18/19. Within 100 mm 19: recall 19/20, precision 1.
    expected = [
        36.541667,
        27.083333,
        275.416667,
        100 * 151 / 160,
        100 * 227 / 240,
        100 * 227 / 240,
        100 * 18 / 20 * 18 / 19,
        95.0,
        95.0,
    ]
    np.testing.assert_allclose(list(found["refined"].values()), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("scores", "ap50"),
    [
        # The right one is believed more: precision 1 up to recall 1/2.
        ([0.9, 0.5], 50.0),
        # The wrong one is believed more: its 10 detections come first, precision 10/20 at recall 1/2.
        ([0.5, 0.9], 25.0),
    ],
)
def test_ap_ranks_by_the_estimators_scores_not_by_the_error(folder: Path, scores: list[float], ap50: float):
    keypoints = moved(0.02, 0.06)
    joints3d(keypoints, ["p0", "p1"], scores).save(folder / "results" / "joints3d.npz")
    bodies(keypoints, ["p0", "p1"], np.arange(FRAMES)).save(folder / "results" / "initial.npz")
    found = evaluate(Sequence.open(folder))
    assert list(found) == ["initial"]
    assert found["initial"]["ap50"] == pytest.approx(ap50)


def test_a_person_who_is_not_there_costs_precision(folder: Path):
    ghost = standing() + np.array([5.0, 0, 0]) + np.zeros((1, FRAMES, 17, 3))
    keypoints = np.concatenate([ghost, moved(0, 0)])
    bodies(keypoints, ["p0", "p1", "p2"], np.arange(FRAMES)).save(folder / "results" / "initial.npz")
    found = evaluate(Sequence.open(folder))["initial"]
    # 20 of 30 detections right, all at one score, recall 1.
    assert found["ap50"] == pytest.approx(100 * 2 / 3)
    assert found["mpjpe_mm"] == pytest.approx(0, abs=1e-3)
    assert found["recall"] == 100


def test_raw_row_on_demand(folder: Path):
    joints3d(moved(0.03, 0.03), ["p0", "p1"], [1, 1]).save(folder / "results" / "joints3d.npz")
    found = evaluate(Sequence.open(folder), raw=True)
    assert list(found) == ["estimate"]
    assert found["estimate"]["mpjpe_mm"] == pytest.approx(30.0, abs=1e-3)
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate(Sequence.open(folder))


def test_frames_are_matched_by_number(folder: Path):
    # The people walk 100 mm a frame, so rows matched by position would be far off.
    some = np.array([2, 5, 6])
    bodies(moved(0.01, 0.01)[:, some], ["p0", "p1"], some).save(folder / "results" / "initial.npz")
    found = evaluate(Sequence.open(folder))["initial"]
    assert found["mpjpe_mm"] == pytest.approx(10.0, abs=1e-3)
    assert found["recall"] == 100


def test_frames_left_out_of_the_sequence_do_not_count(folder: Path):
    keypoints = moved(0.01, 0.01)
    keypoints[:, 6:] += np.array([0, 0, 0.09])
    bodies(keypoints, ["p0", "p1"], np.arange(FRAMES)).save(folder / "results" / "initial.npz")
    assert evaluate(Sequence.open(folder, frames=slice(0, 6)))["initial"]["mpjpe_mm"] == pytest.approx(10, abs=1e-3)
    # (6 * 10 + 4 * 100) / 10
    assert evaluate(Sequence.open(folder))["initial"]["mpjpe_mm"] == pytest.approx(46, abs=1e-3)


def test_a_row_cannot_leave_out_frames_that_another_has(folder: Path):
    bodies(moved(0.01, 0.01), ["p0", "p1"], np.arange(FRAMES)).save(folder / "results" / "initial.npz")
    bodies(moved(0, 0)[:, :5], ["p0", "p1"], np.arange(5)).save(folder / "results" / "refined.npz")
    found = evaluate(Sequence.open(folder))
    # Half the person-frames are missing: (0 + 500) / 2.
    assert found["refined"]["mpjpe_mm"] == pytest.approx(250, abs=1e-3)
    assert found["initial"]["mpjpe_mm"] == pytest.approx(10, abs=1e-3)


def test_what_has_no_truth_does_not_count(folder: Path):
    truth = two_people()
    truth[1, 4:] = np.nan
    write_npz(folder / "ground_truth.npz", keypoints=truth)
    bodies(moved(0.01, 0.03), ["p0", "p1"], np.arange(FRAMES)).save(folder / "results" / "initial.npz")
    found = evaluate(Sequence.open(folder))["initial"]
    # 10 person-frames at 10 and 4 at 30.
    assert found["mpjpe_mm"] == pytest.approx(220 / 14, abs=1e-3)
    # The second person's 6 detections without truth are of nobody: 14 of 20 right, recall 1.
    assert found["ap50"] == pytest.approx(70.0)


def test_metrics_are_plain_json(folder: Path):
    bodies(moved(0.01, 0.03), ["p0", "p1"], np.arange(FRAMES)).save(folder / "results" / "initial.npz")
    found = evaluate(Sequence.open(folder))
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_metrics_json_speaks_of_bodies_alone(folder: Path):
    sequence, path = Sequence.open(folder), folder / "results" / "metrics.json"
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate_sequence(sequence)
    joints3d(moved(0.03, 0.03), ["p0", "p1"], [1, 1]).save(folder / "results" / "joints3d.npz")
    assert list(evaluate_sequence(sequence)) == ["estimate"]
    assert not path.exists()
    bodies(moved(0.01, 0.03), ["p0", "p1"], np.arange(FRAMES)).save(folder / "results" / "initial.npz")
    assert list(evaluate_sequence(sequence)) == ["initial"]
    assert json.loads(path.read_text()) == evaluate(sequence)


def test_messages(folder: Path):
    sequence = Sequence.open(folder)
    bodies(moved(0, 0), ["p0", "p1"], np.arange(FRAMES) + 100).save(folder / "results" / "initial.npz")
    with pytest.raises(InputError, match="no frame has both"):
        evaluate(sequence)
    write_npz(folder / "ground_truth.npz", keypoints=np.zeros((2, FRAMES, 16, 3)))
    with pytest.raises(InputError, match="keypoints has the wrong shape"):
        evaluate(sequence)
    write_npz(folder / "ground_truth.npz", other=np.zeros(3))
    with pytest.raises(InputError, match="keypoints or shelf15"):
        evaluate(sequence)
    (folder / "ground_truth.npz").unlink()
    with pytest.raises(InputError, match="no such file"):
        evaluate(sequence)


# ---- matching ----


def test_matching_is_once_for_the_whole_sequence():
    truth = two_people()[:, :, COCO17.indices(LIMB_JOINTS)]
    exchanged = truth.copy()
    exchanged[:, 7:] = truth[::-1, 7:]
    assert match_people(exchanged, truth).tolist() == [0, 1]
    comparison = compare_people(exchanged, np.ones((2, FRAMES)), truth, np.arange(FRAMES))
    # Seven of ten frames are right, and the other three count as they lie, more than 500 mm: the people stand
    # sqrt(4 + (0.2 f)^2) m apart in frame f, 2.441, 2.561, 2.691 m in the last three: 0.7693 over ten.
    assert summarise(comparison)["mpjpe_mm"] == pytest.approx(769.3, abs=0.1)
    assert summarise(comparison)["recall"] == 70
    assert summarise(comparison)["pck100"] == 70


def test_matching_minimises_the_sum_and_leaves_far_people_alone():
    truth = np.zeros((2, 1, 12, 3))
    truth[1, ..., 0] = 0.2
    guesses = np.zeros((3, 1, 12, 3))
    guesses[0, ..., 0], guesses[1, ..., 0], guesses[2, ..., 0] = 9.0, 0.1, -0.3
    # Alone, the first would take guess 1 (0.1 away) and leave 0.5 or nobody to the second; together 0.3 + 0.1 is least.
    assert match_people(guesses, truth).tolist() == [2, 1]
    assert match_people(guesses[:1], truth).tolist() == [-1, -1]
    assert match_people(guesses[:0], truth).tolist() == [-1, -1]


# ---- the constant part ----


def turning() -> np.ndarray:
    """(1, 8, 12, 3) limb joints of a person who turns once about the vertical in eight frames."""
    points = standing()[COCO17.indices(LIMB_JOINTS)]
    angles = 2 * np.pi * np.arange(8) / 8
    turns = np.array([[[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]] for a in angles])
    return np.einsum("fab,jb->fja", turns, points)[None]


def test_body_axes_of_a_standing_person():
    # Left is +x, up +z, and the nose points along -y.
    axes = body_axes(standing()[COCO17.indices(LIMB_JOINTS)])
    np.testing.assert_allclose(axes, np.stack([[1, 0, 0], [0, 0, 1], [0, -1, 0]], axis=-1), atol=1e-12)


def test_an_offset_of_the_body_is_constant_in_its_axes():
    truth = turning()
    axes = body_axes(truth)
    # 20 mm to the person's left: constant for the body; in the world the eight directions cancel.
    off = compare_people(truth + 0.02 * axes[..., None, :, 0], np.ones((1, 8)), truth, np.arange(8))
    parts = constant_part(off)
    assert parts["constant_body_mm"] == pytest.approx(20)
    assert parts["rest_body_mm"] == pytest.approx(0, abs=1e-9)
    assert parts["constant_body_share"] == pytest.approx(100)
    assert parts["constant_world_mm"] == pytest.approx(0, abs=1e-9)
    assert parts["rest_world_mm"] == pytest.approx(20)


def test_an_offset_of_the_room_is_constant_in_the_world():
    truth = turning()
    off = compare_people(truth + np.array([0.02, 0, 0]), np.ones((1, 8)), truth, np.arange(8))
    parts = constant_part(off)
    assert parts["constant_world_mm"] == pytest.approx(20)
    assert parts["constant_body_mm"] == pytest.approx(0, abs=1e-9)
    # A rise is constant in both.
    parts = constant_part(compare_people(truth + np.array([0, 0, 0.02]), np.ones((1, 8)), truth, np.arange(8)))
    assert parts["constant_world_mm"] == pytest.approx(20)
    assert parts["constant_body_mm"] == pytest.approx(20)


def test_constant_part_and_rest_by_hand():
    truth = turning()
    # Up by 30 mm in every frame, and by 40 mm more or less in turn: |c| = 30, |e - c| = 40, and of the squared error
    # 900 / (900 + 1600) = 36 % is constant. A frame that was not predicted stays out.
    rise = 0.03 + 0.04 * np.array([1, -1, 1, -1, 1, -1, 1, -1.0])
    predicted = truth + rise[:, None, None] * np.array([0, 0, 1.0])
    predicted[0, 6:] = np.nan
    parts = constant_part(compare_people(predicted, np.ones((1, 8)), truth, np.arange(8)))
    for axes in ("world", "body"):
        assert parts[f"constant_{axes}_mm"] == pytest.approx(30)
        assert parts[f"rest_{axes}_mm"] == pytest.approx(40)
        assert parts[f"constant_{axes}_share"] == pytest.approx(36)


def test_decompose_has_the_rows_of_evaluate(folder: Path):
    bodies(moved(0.01, 0.03), ["p0", "p1"], np.arange(FRAMES)).save(folder / "results" / "initial.npz")
    sequence = Sequence.open(folder)
    parts = decompose(sequence)
    assert parts["initial"]["constant_body_mm"] == pytest.approx(20, abs=1e-3)
    console = Console(width=200, record=True)
    print_metrics(evaluate(sequence), parts, console)
    text = console.export_text()
    assert "initial" in text
    assert "MPJPE mm" in text
    assert "20.0" in text
    assert "AP50" in text


# ---- Shelf ----


def test_shelf_truth_is_read_by_name(tmp_path: Path):
    shelf = convert(two_people(), "coco17", "shelf15")
    names = list(reversed(SHELF15.joints))
    write_npz(
        tmp_path / "ground_truth.npz",
        shelf15=shelf[:, :, ::-1].transpose(1, 0, 2, 3),
        joint_names=np.array(names),
        ids=np.array([0, 2]),
    )
    truth = load_truth(tmp_path)
    assert not truth.complete
    np.testing.assert_allclose(truth.shelf15, shelf)
    limb = COCO17.indices(LIMB_JOINTS)
    np.testing.assert_allclose(truth.keypoints[:, :, limb], two_people()[:, :, limb])
    assert np.isnan(truth.keypoints[:, :, : limb[0]]).all()


def test_shelf_pcp_by_hand():
    up = np.array([0.0, 0, 1])
    guesses = two_people()[:1, :2]
    shelf = convert(guesses, "coco17", "shelf15")
    shelf[..., SHELF15.indices(["neck", "head_top"]), :] = shelf_head(guesses, up)
    shelf = np.concatenate([shelf, np.full_like(shelf, np.nan)])
    # The second person is never annotated and has no share. In frame 1 the left wrist is 0.3 m off: the lower arm is
    # sqrt(0.05^2 + 0.25^2) = 0.255 long, 0.3 / 2 > 0.255 / 2, wrong: 3 of 4 lower arms, 19 of 20 limbs.
    guesses = guesses.copy()
    guesses[0, 1, COCO17.index("left_wrist"), 1] += 0.3
    found = shelf_pcp(guesses, shelf, up)
    assert found["lower_arms"] == pytest.approx(75)
    assert found["average"] == pytest.approx(95)
    assert {found[name] for name in ("head", "torso", "upper_arms", "upper_legs", "lower_legs")} == {100}
    # Somebody far away first in the list changes nothing, nearest is nearest.
    assert shelf_pcp(np.concatenate([guesses + 3.0, guesses]), shelf, up) == found
    assert shelf_pcp(guesses[:0], shelf, up)["average"] == 0


def test_shelf_capture_against_its_own_truth(data_folder: Path, tmp_path: Path):
    sequence = Sequence.open(data_folder / "shelf_dev")
    truth = load_truth(sequence.folder)
    assert (~np.isnan(truth.keypoints[:, :, COCO17.index("left_knee"), 0])).sum() == 178
    keypoints = truth.keypoints + np.array([0.012, 0.0, 0.0])
    bodies(keypoints, ["p0", "p1"], truth.frames).save(tmp_path / "initial.npz")
    found = evaluate(sequence, results=tmp_path)["initial"]
    assert found["mpjpe_mm"] == pytest.approx(12, abs=1e-2)
    assert found["recall"] == 100
    assert found["ap50"] is None


# ---- the known-identity baseline ----


def test_triangulation_agrees_with_opencv():
    cameras = ring()[[0, 1]]
    rng = np.random.default_rng(0)
    points = rng.normal(scale=0.3, size=(20, 3)) + np.array([0, 0, 1.0])
    pixels = cameras.project(torch.tensor(points))[0].numpy() + rng.normal(scale=2.0, size=(2, 20, 2))
    inverse = np.linalg.inv(cameras.K.numpy())
    rays = np.einsum("cij,cnj->cin", inverse, np.concatenate([pixels, np.ones((2, 20, 1))], axis=-1))[:, :2]
    projections = torch.cat([cameras.R, cameras.t[..., None]], dim=-1).numpy()
    expected = cv2.triangulatePoints(projections[0], projections[1], rays[0], rays[1])
    found = triangulate(pixels, np.ones((2, 20)), cameras)
    np.testing.assert_allclose(found, (expected[:3] / expected[3]).T, atol=1e-6)


def test_triangulation_through_distortion_and_with_weights():
    cameras = ring(distortion=-0.2)
    point = np.array([[0.3, -0.2, 1.4]])
    pixels = cameras.project(torch.tensor(point))[0].numpy()
    np.testing.assert_allclose(triangulate(pixels, np.ones((3, 1)), cameras), point, atol=1e-6)
    pixels[2] += 30.0
    assert np.linalg.norm(triangulate(pixels, np.ones((3, 1)), cameras) - point) > 0.05
    # A view of no weight says nothing; one view alone gives nothing.
    weights = np.array([[1.0], [1.0], [0.0]])
    np.testing.assert_allclose(triangulate(pixels, weights, cameras), point, atol=1e-6)
    assert np.isnan(triangulate(pixels, np.array([[1.0], [0.0], [0.0]]), cameras)).all()


def test_detections_go_to_the_nearest_true_person():
    projected = np.zeros((1, 2, 1, 17, 2))
    projected[0, 1] += 100.0
    detections = np.full((1, 1, 4, 17, 3), np.nan)
    detections[0, 0, 0] = [103.0, 100.0, 0.8]
    detections[0, 0, 1] = [300.0, 300.0, 0.9]
    detections[0, 0, 2] = [0.0, 6.0, 0.7]
    # One detection belongs to nobody, another has two joints only.
    detections[0, 0, 3, :2] = [0.0, 0.0, 1.0]
    taken = assign_detections(detections, projected, threshold=40.0)
    assert (taken[0, 0, 0] == [0.0, 6.0, 0.7]).all()
    assert (taken[0, 1, 0] == [103.0, 100.0, 0.8]).all()


@pytest.mark.parametrize(("name", "figure"), [("duo_a", 22.4), ("duo_b", 35.4)])
def test_known_identity_baseline_of_the_captures(data_folder: Path, name: str, figure: float):
    sequence = Sequence.open(data_folder / name)
    truth = load_truth(sequence.folder)
    limb = COCO17.indices(LIMB_JOINTS)
    found = known_identity_triangulation(sequence, truth)[:, :, limb]
    comparison = compare_people(found, np.ones(found.shape[:2]), truth.keypoints[:, :, limb], sequence.frames)
    assert comparison.matches.tolist() == [0, 1]
    assert summarise(comparison)["mpjpe_mm"] == pytest.approx(figure, abs=0.1)
