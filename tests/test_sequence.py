"""The sequence folder: what opens, what is read, and every trouble named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from video_files import level, write_video

from avatarpose.errors import InputError
from avatarpose.io import write_image, write_json, write_npz
from avatarpose.keypoints2d import interpolate_detections
from avatarpose.sequence import Sequence, normalise_mask, parse_frames

WIDTH, HEIGHT, FRAMES = 64, 48, 6
CAMERAS = ("left", "middle", "right")


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Grey of level 10 * number."""
    return np.full((height, width, 3), 10 * number, np.uint8)


def person(x: float, y: float) -> np.ndarray:
    """(17, 3) joints on a small grid about (x, y), score 1."""
    grid = np.stack((np.arange(17) % 4 * 2.0 + x, np.arange(17) // 4 * 3.0 + y, np.ones(17)), axis=-1)
    return grid.astype(np.float32)


def change(path: Path, edit: Callable[[dict], None]) -> None:
    """Edits a JSON file in place."""
    value = json.loads(path.read_text())
    edit(value)
    path.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cameras, six frames of images, masks and keypoints of two detections (one in the last camera)."""
    folder = tmp_path_factory.mktemp("original")
    write_json(folder / "sequence.json", {"fps": 20.0, "frames": FRAMES, "unit": "m", "up": "z", "people": 2})
    cameras = {}
    for i, name in enumerate(CAMERAS):
        K = [[60, 0, WIDTH / 2], [0, 60, HEIGHT / 2], [0, 0, 1]]
        cameras[name] = {"K": K, "R": np.eye(3), "t": [0.1 * i, 0, 3], "width": WIDTH, "height": HEIGHT}
        for number in range(FRAMES):
            write_image(folder / "images" / name / f"{number:06d}.png", picture(number))
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[10:30, number : number + 9] = 255
            write_image(folder / "masks" / name / f"{number:06d}.png", mask)
        rows = np.stack([np.stack((person(5 + n, 5), person(40 - n, 20)))[: 1 if i == 2 else 2] for n in range(FRAMES)])
        write_npz(folder / "keypoints2d" / f"{name}.npz", keypoints=rows)
    write_json(folder / "cameras.json", cameras)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of `original` to spoil."""
    return shutil.copytree(original, tmp_path / "hug")


# ---- what opens ----


def test_open(folder: Path):
    sequence = Sequence.open(folder)
    assert (sequence.name, sequence.fps, sequence.up, sequence.people_hint) == ("hug", 20.0, "z", 2)
    assert sequence.cameras.names == CAMERAS
    assert sequence.frames.tolist() == list(range(FRAMES))
    assert sequence.up_vector.tolist() == [0, 0, 1]
    assert sequence.has_images and sequence.has_masks and sequence.has_keypoints
    assert sequence.results == folder / "results" and not sequence.results.exists()
    np.testing.assert_array_equal(sequence.image(1, 4), picture(4))
    mask = sequence.mask(0, 3)
    assert mask.shape == (HEIGHT, WIDTH) and mask[10:30, 3:12].min() == 255 and mask.sum() == 255 * 20 * 9
    done = []
    sequence.verify(lambda now, all: done.append((now, all)))
    assert done == [(i + 1, 18) for i in range(18)]


def test_keypoints_are_padded(folder: Path):
    keypoints = Sequence.open(folder).keypoints2d
    assert keypoints.shape == (3, FRAMES, 2, 17, 3) and keypoints.dtype == np.float32
    np.testing.assert_array_equal(keypoints[0, 4, 0], person(9, 5))
    assert np.isnan(keypoints[2, :, 1]).all() and np.isfinite(keypoints[:2]).all()


def test_choice_of_cameras_and_frames(folder: Path):
    sequence = Sequence.open(folder, cameras=["right", "left"], frames=parse_frames("1:6:2"))
    assert sequence.cameras.names == ("left", "right") and sequence.frames.tolist() == [1, 3, 5]
    np.testing.assert_array_equal(sequence.image(1, 2), picture(5))
    np.testing.assert_array_equal(sequence.keypoints2d[0, 1, 0], person(8, 5))
    assert Sequence.open(folder, leave_out=["middle"]).cameras.names == ("left", "right")


def test_keypoints_alone_are_enough(folder: Path):
    shutil.rmtree(folder / "images")
    shutil.rmtree(folder / "masks")
    sequence = Sequence.open(folder)
    assert not sequence.has_images and not sequence.has_masks and sequence.mask(0, 0) is None
    assert sequence.keypoints2d.shape[0] == 3
    with pytest.raises(InputError, match="no images"):
        sequence.image(0, 0)


def test_person_masks_and_files_that_come_later(folder: Path):
    sequence = Sequence.open(folder)
    assert sequence.person_masks(0, 2) == {} and sequence.mask(0, 2, "p1") is None
    write_image(sequence.mask_path(0, 2, "p1"), np.full((HEIGHT, WIDTH), 255, np.uint8))
    assert list(sequence.person_masks(0, 2)) == ["p1"] and sequence.mask(0, 2, "p1").min() == 255
    sequence.mask_path(1, 5).unlink()
    assert not sequence.has_masks and sequence.mask(1, 5) is None


def test_mask_values_move_to_the_nearest_level():
    values = np.array([[0, 1, 63, 64, 127, 128, 129, 191, 192, 254, 255]], np.uint8)
    assert normalise_mask(values).tolist() == [[0, 0, 0, 128, 128, 128, 128, 128, 255, 255, 255]]


@pytest.mark.parametrize("kind", ["duo_a", "duo_b", "shelf_dev"])
def test_captures_open(data_folder: Path, kind: str):
    sequence = Sequence.open(data_folder / kind)
    assert len(sequence.cameras) == {"duo_a": 8, "duo_b": 4, "shelf_dev": 5}[kind]
    assert sequence.keypoints2d.shape[:2] == (len(sequence.cameras), len(sequence.frames))
    assert sequence.has_images == (kind != "shelf_dev")


# ---- videos, crops and clocks ----


def test_videos_instead_of_images(folder: Path):
    shutil.rmtree(folder / "images" / "middle")
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "middle.mp4", frames=FRAMES, width=WIDTH, height=HEIGHT)
    sequence = Sequence.open(folder, frames=slice(2, None))
    assert level(sequence.image(1, 3)) == pytest.approx(5, abs=0.3)
    assert level(sequence.image(1, 0)) == pytest.approx(2, abs=0.3)
    assert sequence.mask(1, 0).max() == 255
    sequence.close()


def test_declared_crop_explains_smaller_images(folder: Path):
    for number in range(FRAMES):
        write_image(folder / "images" / "left" / f"{number:06d}.png", picture(number, WIDTH - 8))
        write_image(folder / "masks" / "left" / f"{number:06d}.png", picture(number, WIDTH - 8)[..., 0])
    with pytest.raises(InputError, match=r"camera left, frame 0: image of another size.*64 x 48.*found 56 x 48"):
        Sequence.open(folder)
    change(folder / "cameras.json", lambda cameras: cameras["left"].update(crop=[5, 0]))
    sequence = Sequence.open(folder)
    assert sequence.cameras.width.tolist() == [56, 64, 64]
    assert sequence.cameras.K[0, 0, 2] == WIDTH / 2 - 5 and sequence.mask(0, 0).shape == (48, 56)
    change(folder / "cameras.json", lambda cameras: cameras["left"].update(crop=[9, 0]))
    with pytest.raises(InputError, match=r"expected 55 x 48 pixels, found 56 x 48"):
        Sequence.open(folder)


def test_offset_takes_the_nearest_image_and_drops_unseen_frames(folder: Path):
    """Offset 1.6: common frame f is own frame f + 1.6, so image f + 2; own frames end at 5."""
    change(folder / "cameras.json", lambda cameras: cameras["right"].update(offset=1.6))
    sequence = Sequence.open(folder)
    assert sequence.frames.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(sequence.own_time(2), [1.6, 2.6, 3.6, 4.6])
    np.testing.assert_array_equal(sequence.image(2, 1), picture(3))
    assert sequence.mask_path(2, 1).name == "000003.png"
    np.testing.assert_array_equal(sequence.image(0, 1), picture(1))
    np.testing.assert_allclose(sequence.keypoints2d[2, 1, 0], person(5 + 2.6, 5), rtol=1e-6)


def test_camera_of_half_the_rate(folder: Path):
    """10 frames a second in a sequence of 20: common frame 4 is own frame 2, frame 3 own time 1.5."""
    for number in range(3, FRAMES):
        (folder / "images" / "right" / f"{number:06d}.png").unlink()
    rows = np.stack([person(5 + 2 * n, 5)[None] for n in range(3)])
    write_npz(folder / "keypoints2d" / "right.npz", keypoints=rows)
    change(folder / "cameras.json", lambda cameras: cameras["right"].update(fps=10))
    sequence = Sequence.open(folder)
    assert sequence.frames.tolist() == [0, 1, 2, 3, 4] and sequence.own_frame(2, 4) == 2
    np.testing.assert_allclose(sequence.keypoints2d[2, 3, 0], person(8, 5), rtol=1e-6)


def test_interpolated_detections_are_paired_by_place():
    """Two people swap rows; a joint seen once stays where it was; the third detections are too far apart to pair."""
    first = np.stack((person(10, 10), person(100, 10), person(300, 10)))
    second = np.stack((person(104, 10), person(14, 14), person(330, 10)))
    first[0, 3] = np.nan
    second[1, 4] = np.nan
    rows = np.stack((first, second)).astype(np.float32)
    middle = interpolate_detections(rows, np.array([0.25]))[0]
    expected = person(11, 11)
    expected[3], expected[4] = np.nan, person(10, 10)[4]
    np.testing.assert_allclose(middle[0], expected, rtol=1e-6)
    np.testing.assert_allclose(middle[1], person(101, 10), rtol=1e-6)
    np.testing.assert_allclose(middle[2], person(300, 10), rtol=1e-6)
    outside = interpolate_detections(rows, np.array([-0.4, 1.4, -0.6, 1.6]))
    np.testing.assert_array_equal(outside[:2], rows)
    assert np.isnan(outside[2:]).all()


# ---- selections ----


def test_parse_frames():
    frames = np.arange(10)
    cases = {"2:8:3": [2, 5], "7:": [7, 8, 9], ":2": [0, 1], "::4": [0, 4, 8], "6": [6], "3:5": [3, 4]}
    for text, expected in {**cases, ":": list(range(10))}.items():
        assert frames[parse_frames(text)].tolist() == expected


@pytest.mark.parametrize("text", ["", "a:b", "1:2:3:4", "-3:", "1.5", "5:5", "8:2", "1:9:0", "1 2"])
def test_bad_selections(text: str):
    with pytest.raises(InputError, match="selection"):
        parse_frames(text)


# ---- troubles ----


def opens_with(folder: Path, message: str, **choice: object) -> None:
    with pytest.raises(InputError, match=message):
        Sequence.open(folder, **choice)


def test_no_folder(tmp_path: Path):
    opens_with(tmp_path / "none", "none: no such sequence folder")


@pytest.mark.parametrize("name", ["sequence.json", "cameras.json"])
def test_missing_or_malformed_json(folder: Path, name: str):
    (folder / name).write_text('{"fps": 20.0,')
    opens_with(folder, rf"{name}: malformed JSON at line 1")
    (folder / name).unlink()
    opens_with(folder, rf"{name}: no such file")


@pytest.mark.parametrize("key", ["fps", "frames", "unit", "up"])
def test_missing_key(folder: Path, key: str):
    change(folder / "sequence.json", lambda header: header.pop(key))
    opens_with(folder, rf"sequence\.json: lacks {key}")


@pytest.mark.parametrize(
    ("key", "value"),
    [("fps", 0), ("fps", "20"), ("fps", float("nan")), ("frames", 0), ("frames", 2.5), ("unit", "mm"), ("up", "w"),
     ("up", []), ("people", 0), ("people", True)],
)  # fmt: skip
def test_impossible_value(folder: Path, key: str, value: object):
    change(folder / "sequence.json", lambda header: header.update({key: value}))
    opens_with(folder, rf"sequence\.json: impossible {key} \(expected .*found")


def test_camera_without_images(folder: Path):
    shutil.rmtree(folder / "images" / "middle")
    opens_with(folder, r"camera middle: camera has no images \(expected images/middle/ or videos/middle\.mp4")
    assert len(Sequence.open(folder, leave_out=["middle"]).cameras) == 2


@pytest.mark.parametrize("place", ["images/extra", "masks/extra"])
def test_folder_of_unknown_camera(folder: Path, place: str):
    (folder / place).mkdir()
    opens_with(folder, r"camera extra: camera is missing from cameras\.json \(expected left, middle, right")


def test_keypoints_of_unknown_camera(folder: Path):
    shutil.copy(folder / "keypoints2d" / "left.npz", folder / "keypoints2d" / "extra.npz")
    opens_with(folder, r"extra\.npz, camera extra: camera is missing from cameras\.json")


def test_camera_without_keypoints(folder: Path):
    (folder / "keypoints2d" / "middle.npz").unlink()
    sequence = Sequence.open(folder)
    assert not sequence.has_keypoints
    with pytest.raises(InputError, match=r"middle\.npz, camera middle: camera has no 2D keypoints"):
        _ = sequence.keypoints2d


def test_one_camera_only(folder: Path):
    opens_with(folder, r"too few cameras \(expected at least 2, found 1 \(left\)\)", cameras=["left"])
    opens_with(folder, "found 0", leave_out=CAMERAS)
    assert len(Sequence.open(folder, cameras=["left"], least_cameras=1).cameras) == 1
    change(folder / "cameras.json", lambda cameras: [cameras.pop(name) for name in ("middle", "right")])
    for kind in ("images", "masks"):
        for name in ("middle", "right"):
            shutil.rmtree(folder / kind / name)
            (folder / "keypoints2d" / f"{name}.npz").unlink(missing_ok=True)
    opens_with(folder, "too few cameras")


@pytest.mark.parametrize("choice", ["cameras", "leave_out"])
def test_unknown_camera_in_choice(folder: Path, choice: str):
    message = r"cameras\.json, camera nobody: no such camera \(expected left, middle, right"
    opens_with(folder, message, **{choice: ["left", "nobody"]})


def test_no_frames_left(folder: Path):
    opens_with(folder, r"no frames left \(expected frames from 0 to 5", frames=slice(6, 9))
    change(folder / "cameras.json", lambda cameras: cameras["right"].update(offset=50))
    opens_with(folder, r"no frames left .*\(0 are\)")


def test_nan_in_calibration(folder: Path):
    change(folder / "cameras.json", lambda cameras: cameras["right"]["t"].__setitem__(0, float("nan")))
    opens_with(folder, r"cameras\.json, camera right: t is not finite")


def test_different_frame_counts(folder: Path):
    (folder / "images" / "right" / "000005.png").unlink()
    opens_with(folder, r"images/right, camera right: different frame counts .*left: 6, middle: 6, right: 5")
    write_image(folder / "images" / "right" / "000006.png", picture(6))
    opens_with(folder, r"camera right, frame 5: frame missing")


def test_different_frame_counts_of_videos_and_keypoints(folder: Path):
    shutil.rmtree(folder / "images" / "right")
    (folder / "videos").mkdir()
    write_video(folder / "videos" / "right.mp4", frames=FRAMES + 1, width=WIDTH, height=HEIGHT)
    opens_with(folder, r"right\.mp4, camera right: different frame counts")
    write_video(folder / "videos" / "right.mp4", frames=FRAMES, width=WIDTH, height=HEIGHT)
    write_npz(folder / "keypoints2d" / "left.npz", keypoints=np.zeros((5, 1, 17, 3), np.float32))
    with pytest.raises(InputError, match=r"left\.npz, camera left: different frame counts .*6 frames, found 5"):
        _ = Sequence.open(folder).keypoints2d


def test_truncated_video_and_image(folder: Path):
    path = folder / "images" / "left" / "000003.png"
    path.write_bytes(path.read_bytes()[:-30])
    sequence = Sequence.open(folder)
    with pytest.raises(InputError, match=r"left/000003\.png.*truncated"):
        sequence.verify()
    shutil.rmtree(folder / "images" / "left")
    (folder / "videos").mkdir()
    path = folder / "videos" / "left.mp4"
    write_video(path, frames=FRAMES, width=WIDTH, height=HEIGHT)
    path.write_bytes(path.read_bytes()[:-200])
    opens_with(folder, r"left\.mp4, frame 5: truncated video \(expected 6 frames, found 5 whole ones")


def test_later_image_and_mask_of_another_size(folder: Path):
    write_image(folder / "images" / "left" / "000004.png", picture(4, 32))
    write_image(folder / "masks" / "left" / "000002.png", picture(4, 32)[..., 0])
    sequence = Sequence.open(folder)
    with pytest.raises(InputError, match=r"000004\.png, camera left, frame 4: image of another size.*found 32 x 48"):
        sequence.image(0, 4)
    with pytest.raises(InputError, match=r"000002\.png, camera left, frame 2: mask of another size.*found 32 x 48"):
        sequence.mask(0, 2)


def test_badly_named_images(folder: Path):
    write_image(folder / "images" / "left" / "frame_7.png", picture(0))
    opens_with(folder, r"frame_7\.png: image is not named by its frame")
    (folder / "images" / "left" / "frame_7.png").rename(folder / "images" / "left" / "5.jpg")
    opens_with(folder, r"camera left, frame 5: two images of one frame")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((FRAMES, 1, 25, 3), np.float32), "wrong shape"),
        (np.zeros((FRAMES, 1, 17, 3), np.int64), "wrong shape or type"),
        (np.full((FRAMES, 1, 17, 3), np.inf, np.float32), "frame 0: keypoints are infinite"),
    ],
)
def test_bad_keypoints(folder: Path, rows: np.ndarray, message: str):
    write_npz(folder / "keypoints2d" / "left.npz", keypoints=rows)
    with pytest.raises(InputError, match=rf"left\.npz, camera left.*{message}"):
        _ = Sequence.open(folder).keypoints2d
