"""The papers' tables on examples worked out by hand, and against a second, plain implementation of each script."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_evaluate import FRAMES, bodies, joints3d, moved, ring, standing, two_people

from avatarpose.cli import main
from avatarpose.datasets import SPLITS
from avatarpose.errors import InputError
from avatarpose.io import write_json, write_npz
from avatarpose.protocols import (
    PROTOCOLS,
    Scene,
    action_of,
    avatarpose_figures,
    closemocap_figures,
    detections,
    evaluate_protocol,
    nearest_pcp,
    protocol_table,
    voxelpose_figures,
    write_protocol,
)
from avatarpose.sequence import Sequence
from avatarpose.skeletons import PANOPTIC15, SHELF15, SKEL19, convert, shelf_head

KNOWN19 = 17  # of skel19's joints, those that COCO's give: all but the toes


def at(*places: float | None) -> np.ndarray:
    """(P, 1, 19, 3) people whose joints all stand at (x, 0, 0); None is absent."""
    return np.stack([np.full((1, 19, 3), np.nan) if x is None else np.tile([x, 0.0, 0.0], (1, 19, 1)) for x in places])


def scene(predicted: np.ndarray, truth: np.ndarray, scores: list[float] | None = None, name: str = "take") -> Scene:
    frames = predicted.shape[1]
    each = np.ones(len(predicted)) if scores is None else np.array(scores)
    return Scene(name, np.arange(frames), predicted, np.tile(each[:, None], (1, frames)), truth)


# Two people at 0 and 2 m. Four detections: 20 mm and 60 mm off the first, 80 mm off the second, and one at 5 m.
FOUR = scene(at(0.02, 0.06, 2.08, 5.0), at(0.0, 2.0), [0.5, 0.9, 0.7, 0.8])


# ---- detections ----


def test_each_detection_goes_to_the_nearest_truth() -> None:
    found = detections([FOUR, FOUR])
    np.testing.assert_allclose(found.errors[:4], [0.02, 0.06, 0.08, 3.0])
    assert found.truths.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and found.number_of_truths == 4
    assert len(found.matched().errors) == 6
    nobody = detections([scene(at(None), at(0.0, 2.0))])
    assert len(nobody.errors) == 0 and nobody.number_of_truths == 2 and nobody.ap(50) == 0
    # Somebody without truth in the frame is not there to be found.
    assert detections([scene(at(0.0), at(0.0, None))]).number_of_truths == 1


def test_oracle_ranking_and_honest_ranking() -> None:
    found = detections([FOUR])
    # By their own error: 20, 60, 80, 3000. At 100 mm: 20 right (recall 1/2), 60 a double, 80 right (recall 1 at 2/3).
    assert found.ap(100, oracle=True) == pytest.approx(100 * (0.5 * 1 + 0.5 * 2 / 3))
    # At 50 mm: 20 right, nothing else: recall 1/2 at precision 1.
    assert found.ap(50, oracle=True) == pytest.approx(50)
    # By score: 60 (0.9), 3000 (0.8), 80 (0.7), 20 (0.5). At 100 mm: right, wrong, right, double: 1/2 at 1, 1/2 at 2/3.
    assert found.ap(100) == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))
    # At 50 mm only the last is right: recall 1/2 at precision 1/4.
    assert found.ap(50) == pytest.approx(12.5)


# ---- AvatarPose ----


def test_avatarpose_by_hand() -> None:
    figures = avatarpose_figures([FOUR])
    # The best of each truth: 20 and 80. Within 500 mm three detections, two of them first: recall 2/2, precision 2/3.
    assert figures["mpjpe_mm"] == pytest.approx(50) and figures["recall"] == 100
    assert figures["precision"] == pytest.approx(200 / 3) and figures["f1"] == pytest.approx(80)
    assert figures["person_pck50"] == pytest.approx(100 / 3) and figures["joints"] == 19
    assert figures["ap50_oracle"] == pytest.approx(50) and figures["ap50"] == pytest.approx(12.5)
    assert figures["ap25_oracle"] == pytest.approx(50) and figures["ap150_oracle"] == pytest.approx(100 * 5 / 6)


def test_avatarpose_leaves_out_who_is_lost() -> None:
    figures = avatarpose_figures([scene(at(0.02, 2.6), at(0.0, 2.0))])
    # 600 mm off is nobody: neither in MPJPE nor in precision, only in recall and AP.
    assert figures["mpjpe_mm"] == pytest.approx(20) and figures["precision"] == 100 and figures["recall"] == 50
    assert figures["ap150_oracle"] == pytest.approx(50) and figures["ap150"] == pytest.approx(25)


def skeleton19() -> np.ndarray:
    """(19, 3) a standing person, toes 0.1 m before the ankles."""
    points = convert(standing(), "coco17", "skel19")
    for side in ("left", "right"):
        points[SKEL19.index(f"{side}_big_toe")] = points[SKEL19.index(f"{side}_ankle")] + [0, -0.1, 0]
    return points


def test_avatarpose_pcp_by_hand() -> None:
    truth = np.stack([skeleton19(), skeleton19() + 2.0])[:, None].repeat(2, axis=1)
    guess = truth.copy()
    # The lower arm is sqrt(0.05^2 + 0.25^2) = 0.255 long: wrist 0.3 off is wrong, one limb of 18 in one frame of two.
    guess[0, 1, SKEL19.index("left_wrist"), 1] += 0.3
    # The second person is 0.7 m off in frame 0, which leaves that frame out, and right in the other.
    guess[1, 0] += 0.7
    expected = 100 * np.mean([35 / 36, 1.0])
    assert nearest_pcp([scene(guess, truth)]) == pytest.approx(expected)
    # One prediction may serve two people who stand in one place.
    close = np.stack([skeleton19(), skeleton19() + 0.01])[:, None]
    assert nearest_pcp([scene(close[:1], close)]) == pytest.approx(100)
    assert nearest_pcp([scene(close[:0], close)]) is None


def plain_avatarpose(scenes: list[Scene]) -> dict[str, float]:
    """AvatarPose's evaluation written a second time, naively, frame by frame and detection by detection."""
    listed, total, right, limbs = [], 0, {}, SKEL19.edges
    for one in scenes:
        for f in range(len(one.frames)):
            for guess in one.predicted[:, f]:
                errors = [1000 * np.linalg.norm(guess - true, axis=-1).mean() for true in one.truth[:, f]]
                best = int(np.argmin(errors))
                if errors[best] < 500:
                    listed.append((errors[best], total + best))
            total += len(one.truth)
            for p, true in enumerate(one.truth[:, f]):
                errors = [1000 * np.linalg.norm(guess - true, axis=-1).mean() for guess in one.predicted[:, f]]
                best = int(np.argmin(errors))
                if errors[best] < 500:
                    off = np.linalg.norm(one.predicted[best, f] - true, axis=-1)
                    good = [off[a] + off[b] < np.linalg.norm(true[a] - true[b]) for a, b in limbs]
                    right.setdefault(p, []).append(np.mean(good))
    listed.sort()
    figures = {"pcp": 100 * np.mean([np.mean(values) for values in right.values()])}
    figures["mpjpe_mm"] = np.mean([min(e for e, who in listed if who == one) for one in {who for _, who in listed}])
    for threshold in (25, 50, 100, 150):
        hits, taken = [], set()
        for error, who in listed:
            hits.append(error < threshold and who not in taken)
            if hits[-1]:
                taken.add(who)
        true_positives = np.cumsum(hits)
        precision = true_positives / np.arange(1, len(hits) + 1)
        area = sum(precision[i:].max() for i in range(len(hits)) if hits[i]) / total
        figures[f"ap{threshold}_oracle"] = 100 * area
    figures["recall"] = 100 * len({who for _, who in listed}) / total
    figures["precision"] = 100 * len({who for _, who in listed}) / len(listed)
    figures["person_pck50"] = 100 * np.mean([error < 50 for error, _ in listed])
    return figures


def test_avatarpose_against_a_plain_second_implementation() -> None:
    rng = np.random.default_rng(5)
    scenes = []
    for sequence in range(3):
        truth = np.stack([skeleton19() + x * np.eye(3)[0] for x in (0.0, 0.6)])[:, None].repeat(12, axis=1)
        guess = truth[[0, 1, 1]] + rng.normal(0, 1, (3, 12, 1, 3)) * rng.choice([0.01, 0.05, 0.4], (3, 12, 1, 1))
        guess = guess + rng.normal(0, 0.03, guess.shape)
        scenes.append(scene(guess, truth, [0.9, 0.5, 0.3], f"pair{sequence}"))
    found, expected = avatarpose_figures(scenes), plain_avatarpose(scenes)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6), key
    assert 20 < expected["mpjpe_mm"] < 200 and 5 < expected["ap50_oracle"] < 95 and expected["precision"] < 90


# ---- CloseMoCap and VoxelPose ----


def test_closemocap_by_hand() -> None:
    figures = closemocap_figures([FOUR])
    # Of two on the first person the better believed, 60 mm off; the second 80 mm off.
    assert figures["mpjpe_mm"] == pytest.approx(70) and figures["recall"] == 100
    assert (figures["pck50"], figures["pck100"], figures["pck150"]) == (0, 100, 100)
    # Who was not found has all joints wrong, and no part in MPJPE.
    figures = closemocap_figures([scene(at(0.02), at(0.0, 2.0))])
    assert figures["pck50"] == 50 and figures["recall"] == 50 and figures["mpjpe_mm"] == pytest.approx(20)
    with pytest.raises(InputError, match="no person has truth"):
        closemocap_figures([scene(at(0.0), at(None))])


@pytest.mark.parametrize(
    ("name", "action"), [("pair00_fight12", "fight"), ("hug09", "hug"), ("Grab 1", "Grab"), ("a-3", "a"), ("7", "7")]
)
def test_actions(name: str, action: str) -> None:
    assert action_of(name) == action


def test_voxelpose_by_hand() -> None:
    figures = voxelpose_figures([FOUR])
    # By score 60, 3000, 80, 20. At 25 and 50: the last, 1/2 at 1/4. At 75: 60, then 20 is a double: 1/2 at 1. Above:
    # 60 and 80, 1/2 at 1 and 1/2 at 2/3.
    high = 100 * (0.5 + 0.5 * 2 / 3)
    expected = [12.5, 12.5, 50, high, high, high]
    np.testing.assert_allclose([figures[f"ap{t}"] for t in range(25, 151, 25)], expected)
    assert figures["map"] == pytest.approx(np.mean(expected)) and figures["recall"] == 100
    assert figures["mpjpe_mm"] == pytest.approx((60 + 80) / 2)  # of the best believed, not of the nearest


# ---- from files ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two people, ten frames: refined 10 mm and 30 mm off, registered 20 mm and 60 mm."""
    return make(tmp_path / "pair00_hug00", 0.01, 0.03)


def make(path: Path, first: float, second: float) -> Path:
    path.mkdir()
    write_json(path / "sequence.json", {"fps": 20.0, "frames": FRAMES, "unit": "m", "up": "z", "people": 2})
    ring().save(path / "cameras.json")
    write_npz(path / "ground_truth.npz", keypoints=two_people().astype(np.float32))
    for name, off in (("refined", (first, second)), ("initial", (2 * first, 2 * second))):
        bodies(moved(*off), ["p0", "p1"], np.arange(FRAMES)).save(path / "results" / f"{name}.npz")
    return path


def test_rows_of_a_sequence(folder: Path) -> None:
    sequence = Sequence.open(folder)
    rows = evaluate_protocol([sequence], "avatarpose")
    assert list(rows) == ["initial", "refined"]
    assert rows["refined"]["mpjpe_mm"] == pytest.approx(20, abs=1e-3) and rows["refined"]["joints"] == KNOWN19
    # All scores are equal without joints3d.npz: 20 detections enter together, 10 of them within 25 mm: 1/2 at 1/2.
    assert rows["refined"]["ap25"] == pytest.approx(25) and rows["refined"]["ap25_oracle"] == pytest.approx(50)
    assert rows["initial"]["mpjpe_mm"] == pytest.approx(40, abs=1e-3) and rows["refined"]["pcp"] == 100
    rows = evaluate_protocol([sequence], "voxelpose")
    assert rows["refined"]["joints"] == 15 and rows["refined"]["ap50"] == 100
    joints3d(moved(0, 0), ["p0", "p1"], [0.2, 0.9]).save(folder / "results" / "joints3d.npz")
    rows = evaluate_protocol([sequence], "avatarpose")
    # The 30 mm off person is believed more: his 10 detections come first, 10 right of 20 at recall 1/2.
    assert list(rows) == ["estimate", "initial", "refined"] and rows["refined"]["ap25"] == pytest.approx(25)
    assert rows["estimate"]["mpjpe_mm"] == pytest.approx(0, abs=1e-3)


def test_several_sequences_and_the_table_by_action(folder: Path, tmp_path: Path) -> None:
    names = {"pair01_hug09": (0.02, 0.02), "pair02_fight12": (0.07, 0.07)}
    every = [Sequence.open(folder), *(Sequence.open(make(tmp_path / n, *off)) for n, off in names.items())]
    rows = evaluate_protocol(every, "closemocap")
    assert list(rows) == [f"{row}{a}" for row in ("initial", "refined") for a in ("", ", fight", ", hug")]
    assert rows["refined, hug"]["mpjpe_mm"] == pytest.approx((10 + 30 + 20 + 20) / 4, abs=1e-3)
    assert rows["refined, fight"]["pck50"] == 0 and rows["refined"]["pck50"] == pytest.approx(100 * 4 / 6)
    (tmp_path / "pair02_fight12" / "results" / "refined.npz").unlink()
    assert "refined" not in evaluate_protocol(every, "closemocap")


def test_panoptic_joints_of_the_data_set_itself(folder: Path) -> None:
    truth = two_people()
    fifteen = convert(truth, "coco17", "panoptic15")
    fifteen[:, :, PANOPTIC15.index("neck"), 2] += 0.15  # the data set's neck is not the middle of the shoulders
    scores = np.full(fifteen.shape[:3], 0.9)
    arrays = {"keypoints": truth, "panoptic15": fifteen}
    write_npz(folder / "ground_truth.npz", **arrays, panoptic15_scores=scores)
    rows = evaluate_protocol([Sequence.open(folder)], "voxelpose")
    # Shifts along z of 10 and 30 mm, and for the neck of 150 - 10 and 150 - 30 mm.
    assert rows["refined"]["mpjpe_mm"] == pytest.approx((14 * 10 + 140 + 14 * 30 + 120) / 30, abs=1e-3)
    scores[:, :, PANOPTIC15.index("neck")] = 0.1
    write_npz(folder / "ground_truth.npz", **arrays, panoptic15_scores=scores)
    rows = evaluate_protocol([Sequence.open(folder)], "voxelpose")
    assert rows["refined"]["mpjpe_mm"] == pytest.approx(20, abs=1e-3) and rows["refined"]["joints"] == 14


def shelf_folder(path: Path, ids: list[int], **more: np.ndarray) -> Path:
    make(path, 0, 0)
    shelf = convert(two_people(), "coco17", "shelf15")
    shelf[..., SHELF15.indices(["neck", "head_top"]), :] = shelf_head(two_people(), np.array([0, 0, 1.0]))
    names = np.array(SHELF15.joints)
    write_npz(path / "ground_truth.npz", shelf15=shelf.transpose(1, 0, 2, 3), joint_names=names, ids=np.array(ids),
              **more)  # fmt: skip
    guess = moved(0, 0)
    guess[1, :5, 15] += 3.0  # the second person's left ankle, in half of the frames: one of 10 limbs
    bodies(guess, ["p0", "p1"], np.arange(FRAMES)).save(path / "results" / "refined.npz")
    return path


def test_shelf_table(tmp_path: Path) -> None:
    rows = evaluate_protocol([Sequence.open(shelf_folder(tmp_path / "a", [0, 2]))], "shelf")
    assert rows["refined"]["actor1"] == 100 and rows["refined"]["actor3"] == pytest.approx(95)
    assert rows["refined"]["average"] == pytest.approx(97.5)
    assert rows["refined"]["lower_legs"] == pytest.approx(87.5) and "actor2" not in rows["refined"]
    # The fourth actor has no part in the average.
    rows = evaluate_protocol([Sequence.open(shelf_folder(tmp_path / "b", [0, 3]))], "shelf")
    assert rows["refined"]["average"] == 100
    with pytest.raises(InputError, match="none of the first three actors"):
        evaluate_protocol([Sequence.open(shelf_folder(tmp_path / "c", [3, 4]))], "shelf")


def test_shelf_counts_the_published_frames(tmp_path: Path) -> None:
    numbers = np.arange(295, 305)  # frames 0 to 4 come before the test's first, 300
    path = shelf_folder(tmp_path / "a", [0, 2], source_frames=numbers)
    assert evaluate_protocol([Sequence.open(path)], "shelf")["refined"]["average"] == 100
    path = shelf_folder(tmp_path / "b", [0, 2], source_frames=numbers + 1000)
    with pytest.raises(InputError, match="none of the frames is among the protocol's"):
        evaluate_protocol([Sequence.open(path)], "shelf")
    assert 300 in SPLITS["voxelpose-shelf"].frames[0] and 299 not in SPLITS["voxelpose-shelf"].frames[0]


def test_campus_heads_are_the_plain_conversion(tmp_path: Path) -> None:
    path, ends = shelf_folder(tmp_path / "a", [0, 1]), SHELF15.indices(["neck", "head_top"])
    truth = convert(two_people(), "coco17", "shelf15")
    blended = shelf_head(two_people(), np.array([0, 0, 1.0]))
    # Both ends moved by 0.45 of the head's length along the mean way from Shelf's blend to the plain conversion: the
    # plain one is within half of the length, the blend is not.
    way = (truth[..., ends, :] - blended).mean(axis=-2, keepdims=True)
    length = np.linalg.norm(truth[0, 0, ends[0]] - truth[0, 0, ends[1]])
    truth[..., ends, :] += 0.45 * length * way / np.linalg.norm(way, axis=-1, keepdims=True)
    names = np.array(SHELF15.joints)
    write_npz(path / "ground_truth.npz", shelf15=truth.transpose(1, 0, 2, 3), joint_names=names, ids=np.array([0, 1]))
    sequence = Sequence.open(path)
    assert evaluate_protocol([sequence], "campus")["refined"]["head"] == 100
    assert evaluate_protocol([sequence], "shelf")["refined"]["head"] == 0


def test_shelf_capture(data_folder: Path, tmp_path: Path) -> None:
    """The estimate of triangulation on the real Shelf frames: as measured when this was written, or better."""
    import shutil

    folder = tmp_path / "shelf"
    shutil.copytree(data_folder / "shelf_dev", folder)
    main(["estimate", str(folder), "--method", "triangulation"])
    row = evaluate_protocol([Sequence.open(folder)], "shelf")["estimate"]
    assert row["actor1"] > 95 and row["average"] > 90


# ---- the command and its messages ----


def test_the_command_prints_and_writes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = make(tmp_path / "pair01_fight09", 0.02, 0.02)
    main(["evaluate", str(folder), "--protocol", "closemocap", "--also", str(other)])
    said = capsys.readouterr().out
    assert "closemocap's protocol" in said and "refined, fight" in said and "PCK100" in said
    written = json.loads((folder / "results" / "protocol_closemocap.json").read_text())
    assert written["sequences"] == ["pair00_hug00", "pair01_fight09"]
    assert written["rows"]["refined, fight"]["mpjpe_mm"] == pytest.approx(20, abs=1e-3)
    main(["evaluate", str(folder), "--protocol", "avatarpose"])
    assert "AP50 oracle" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(folder), "--also", str(other)])
    assert stop.value.code == 2 and "--also without --protocol" in capsys.readouterr().err


def test_messages(folder: Path, tmp_path: Path) -> None:
    sequence = Sequence.open(folder)
    with pytest.raises(InputError, match="no such protocol"):
        evaluate_protocol([sequence], "coco")
    with pytest.raises(InputError, match="no annotations as of Shelf"):
        evaluate_protocol([sequence], "campus")
    shelf = Sequence.open(shelf_folder(tmp_path / "shelf", [0, 1]))
    with pytest.raises(InputError, match="is of one sequence"):
        evaluate_protocol([shelf, shelf], "shelf")
    with pytest.raises(InputError, match=r"not of the kind that avatarpose.*shelf or campus"):
        evaluate_protocol([shelf], "avatarpose")
    (folder / "ground_truth.npz").unlink()
    with pytest.raises(InputError, match="no such file"):
        write_protocol([sequence], "avatarpose")
    assert set(PROTOCOLS) == {"avatarpose", "closemocap", "voxelpose", "shelf", "campus"}


def test_figures_without_meaning_have_no_column() -> None:
    unknown = Scene("x", np.arange(1), at(0.02), np.ones((1, 1)), at(0.0), complete=False)
    table = protocol_table({"refined": avatarpose_figures([unknown])}, "avatarpose")
    shown = " ".join(map(str, [*(column.header for column in table.columns), *table.columns[0].cells]))
    assert "MPJPE mm" in shown and "AP" not in shown
