"""Segmentation by background model: what is found, what is left alone, what goes on where it was."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from segment_scene import cameras, overlap, standing, wall, write_scene
from test_cli import exit_code

from avatarpose.errors import InputError
from avatarpose.io import read_image, write_image
from avatarpose.results import Joints3D
from avatarpose.segment import SegmentConfig, available_segmenters, segment_sequence
from avatarpose.segment.background import enlarged
from avatarpose.sequence import Sequence

WALK = [[standing(x)] for x in np.linspace(-0.8, 0.8, 9)]


def write_joints(folder: Path, people: list[list[np.ndarray]]) -> None:
    keypoints = np.stack([np.stack(joints) for joints in people], axis=1).astype(np.float32)
    count, frames = keypoints.shape[:2]
    names = [f"p{p}" for p in range(count)]
    found = Joints3D(names, np.arange(frames), keypoints, np.ones((count, frames, 17)), np.ones((count, frames), bool))
    found.save(folder / "results" / "joints3d.npz")


def left_camera(folder: Path, frames: slice | None = None) -> Sequence:
    return Sequence.open(folder, ["left"], frames=frames, least_cameras=1)


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("walk") / "scene"
    return folder, write_scene(folder, WALK, ball=True, light=0.15)


@pytest.fixture()
def scene(walked: tuple[Path, dict], tmp_path: Path) -> tuple[Path, dict]:
    from shutil import copytree

    return copytree(walked[0], tmp_path / "my_sequence"), walked[1]


def test_people_are_found_without_shadow_or_ball_in_changing_light(scene: tuple[Path, dict]) -> None:
    folder, truth = scene
    report = segment_sequence(Sequence.open(folder))
    assert report.method == "background" and report.source == "keypoints2d" and report.people == []
    sequence = Sequence.open(folder)
    assert sequence.has_masks and all(camera.made == 9 for camera in report.cameras.values())
    for (c, f), inside in truth.items():
        mask = sequence.mask(c, f)
        assert set(np.unique(mask)) <= {0, 128, 255}
        assert overlap(mask, inside) > 0.85, (c, f)
        assert (mask == 128).sum() < 0.35 * inside.sum()
        shadow = np.roll(inside, 38, axis=1) & ~inside
        shadow[:, :38] = False
        assert (mask[shadow] == 255).mean() < 0.1
        ball = np.zeros(inside.shape, np.uint8)
        cv2.circle(ball, (20 + 11 * f, 24), 8, 1, -1)
        assert not (mask[(ball > 0) & ~cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))).astype(bool)] == 255).any()
    mean = np.mean([overlap(sequence.mask(c, f), inside) for (c, f), inside in truth.items()])
    assert mean > 0.93, mean


def test_who_never_moves_is_found_all_the_same_and_said_to_be_guessed(tmp_path: Path) -> None:
    truth = write_scene(tmp_path / "still", [[standing(0.0)]] * 6)
    report = segment_sequence(Sequence.open(tmp_path / "still"))
    sequence = Sequence.open(tmp_path / "still")
    assert np.mean([overlap(sequence.mask(*key), inside) for key, inside in truth.items()]) > 0.8
    for name in ("left", "right"):
        notes = report.cameras[name].notes
        assert notes["fallback_share"] > 0.9 and notes["never_seen_pixels"] > truth[0, 0].sum() * 0.8
    assert any("never seen empty" in message and "left" in message for message in report.messages)

    # A picture of the empty scene settles it.
    for c, name in enumerate(cameras().names):
        write_image(tmp_path / "plates" / f"{name}.png", wall(c))
    config = SegmentConfig(plates=tmp_path / "plates", redo=True)
    report = segment_sequence(Sequence.open(tmp_path / "still"), config)
    assert report.cameras["left"].notes["never_seen_pixels"] == 0
    sequence = Sequence.open(tmp_path / "still")
    assert np.mean([overlap(sequence.mask(*key), inside) for key, inside in truth.items()]) > 0.95


def test_masks_from_elsewhere_stay_and_own_ones_are_made_anew_only_on_demand(scene: tuple[Path, dict]) -> None:
    folder, _ = scene
    given = folder / "masks" / "left" / "000003.png"
    write_image(given, np.full((200, 240), 255, np.uint8))
    report = segment_sequence(left_camera(folder, slice(0, 6)))
    assert report.cameras["left"].given == 1 and report.cameras["left"].made == 5
    changed = folder / "masks" / "left" / "000001.png"
    write_image(changed, np.zeros((200, 240), np.uint8))  # touched up by hand
    mine = folder / "masks" / "left" / "000002.png"
    before = mine.stat().st_mtime_ns
    segment_sequence(left_camera(folder, slice(0, 6)))
    assert mine.stat().st_mtime_ns == before
    report = segment_sequence(left_camera(folder, slice(0, 6)), SegmentConfig(redo=True))
    assert report.cameras["left"].given == 2 and report.cameras["left"].made == 4
    assert mine.stat().st_mtime_ns != before
    assert (read_image(given, grey=True) == 255).all() and not read_image(changed, grey=True).any()


def test_stopped_anywhere_it_goes_on_and_ends_the_same(scene: tuple[Path, dict], monkeypatch) -> None:
    from avatarpose.segment import record

    folder, _ = scene
    monkeypatch.setattr(record, "FLUSH_EVERY", 3)

    class Stop(Exception):
        pass

    def stop(done: int, total: int, text: str = "") -> None:
        if done == 7:
            raise Stop

    with pytest.raises(Stop):
        segment_sequence(left_camera(folder), update=stop)
    half = sorted((folder / "masks").rglob("*.png"))
    assert 3 <= len(half) < 9
    recorded = json.loads((folder / "results" / "segment.json").read_text())["files"]
    assert all(f"masks/left/{path.name}" in recorded for path in half)
    # Killed after the record was written and before a mask was: nothing is lost but the mask.
    half[0].unlink()
    report = segment_sequence(left_camera(folder))
    assert report.cameras["left"].made == 9 - len(half) + 1 and report.cameras["left"].given == 0
    resumed = {path.name: path.read_bytes() for path in (folder / "masks" / "left").iterdir()}
    segment_sequence(left_camera(folder), SegmentConfig(redo=True))
    assert resumed == {path.name: path.read_bytes() for path in (folder / "masks" / "left").iterdir()}


def test_people_get_masks_of_their_own_once_they_have_names(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    # Two people pass each other; the first is nearer to the cameras.
    people = [[standing(x, -0.4), standing(-x, 0.4)] for x in np.linspace(-0.7, 0.7, 7)]
    truth = write_scene(folder, people, shadow=False)
    segment_sequence(Sequence.open(folder))
    assert not list((folder / "masks").rglob("*_*.png"))
    union = (folder / "masks" / "left" / "000004.png").read_bytes()
    write_joints(folder, people)
    report = segment_sequence(Sequence.open(folder))
    assert report.people == ["p0", "p1"] and all(camera.people == 14 for camera in report.cameras.values())
    assert (folder / "masks" / "left" / "000004.png").read_bytes() == union
    assert any("--redo" in message for message in report.messages)
    sequence = Sequence.open(folder)
    for c, f in truth:
        masks, together, image = sequence.person_masks(c, f), sequence.mask(c, f), sequence.image(c, f)
        assert set(masks) == {"p0", "p1"}
        assert not ((masks["p0"] == 255) & (masks["p1"] == 255)).any()
        assert ((masks["p0"] == 255) | (masks["p1"] == 255))[together == 255].mean() > 0.6
        # Red clothes are the first person's, green the other's.
        redder = image[..., 0].astype(int) - image[..., 1]
        red, green = redder > 30, redder < -30
        assert green[masks["p0"] == 255].mean() < 0.03 and red[masks["p0"] == 255].mean() > 0.9
        if (masks["p1"] == 255).any():
            assert red[masks["p1"] == 255].mean() < 0.1


def test_fractions_of_the_size_keep_three_values() -> None:
    small = np.zeros((30, 40), np.uint8)
    small[5:20, 10:30], small[20:22, 10:30] = 255, 128
    large = enlarged(small, (120, 90))
    assert large.shape == (90, 120) and set(np.unique(large)) == {0, 128, 255}
    assert abs((large == 255).sum() - 9 * (small == 255).sum()) < 0.05 * 9 * (small == 255).sum()


def test_wrong_input_ends_with_2_and_says_what(scene: tuple[Path, dict], capsys, tmp_path: Path) -> None:
    folder, _ = scene
    write_image(tmp_path / "small" / "left.png", np.zeros((20, 24, 3), np.uint8))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "left.png").write_bytes(b"\x89PNG broken")
    cases = [
        ((str(folder), "--plates", str(tmp_path / "none")), "none"),
        ((str(folder), "--plates", str(tmp_path)), "left"),
        ((str(folder), "--plates", str(tmp_path / "small")), "240 x 200"),
        ((str(folder), "--plates", str(tmp_path / "torn")), "left.png"),
        ((str(folder), "--refine"), "initial.npz"),
        ((str(folder), "--method", "sam"), "checkpoint"),
        ((str(folder), "--cameras", "middle"), "middle"),
        ((str(tmp_path / "nowhere"),), "nowhere"),
    ]
    for arguments, word in cases:
        assert exit_code("segment", *arguments) == 2, arguments
        message = capsys.readouterr().err
        assert word in message and "Traceback" not in message, message
    (folder / "keypoints2d" / "left.npz").unlink()
    assert exit_code("segment", str(folder)) == 2
    assert "detect" in capsys.readouterr().err
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "segment.json").write_text("{")
    assert exit_code("segment", str(folder), "--cameras", "right") == 2
    assert "segment.json" in capsys.readouterr().err
    assert not (folder / "masks").exists()
    with pytest.raises(InputError, match="no such method"):
        segment_sequence(Sequence.open(folder, ["right"], least_cameras=1), SegmentConfig("guess"))


def test_the_command_segments_what_is_chosen(scene: tuple[Path, dict], capsys) -> None:
    folder, _ = scene
    assert exit_code("segment", str(folder), "--method", "background", "--cameras", "right", "--frames", "2:8:3") == 0
    assert "right" in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "masks").rglob("*.png")) == ["000002.png", "000005.png"]
    log = json.loads((folder / "results" / "run.json").read_text())
    assert log["stages"]["segment"]["method"] == "background"
    assert set(available_segmenters()) == {"background", "sam", "sam2", "mediapipe"}
