"""The detect stage with detectors made here: files, resume, batches, regions, errors; and the arithmetic of boxes."""

import re
import shlex
import shutil
from importlib.resources import files
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_cli import exit_code

from avatarpose import cli
from avatarpose.detect import DetectConfig, Detector, available_detectors, create_detector, detect_sequence
from avatarpose.detect.guide import Guide, foreground_boxes
from avatarpose.detect.people import (
    box_of,
    box_overlaps,
    clean_people,
    merge_regions,
    similarity,
    suppress_boxes,
    suppress_people,
)
from avatarpose.errors import InputError
from avatarpose.io import read_json, write_image, write_json, write_npz
from avatarpose.sequence import Sequence
from tests.video_files import level, write_video

CAPTURE = Path(str(files("assets"))) / "embrace"
STANDING = np.array(
    [
        [0, 0], [3, -3], [-3, -3], [6, -1], [-6, -1], [15, 20], [-15, 20], [20, 45], [-20, 45],
        [22, 65], [-22, 65], [9, 70], [-9, 70], [9, 100], [-9, 100], [9, 130], [-9, 130],
    ], float,
)  # fmt: skip


def person(x: float, y: float, size: float = 1.0, score: float = 0.9) -> np.ndarray:
    return np.column_stack((STANDING * size + (x, y), np.full(17, score)))


class Brightest:
    """Puts a person's nose at the brightest pixel of the image's red channel, and writes down what it was asked."""

    name, batch_size, guided = "brightest", 3, True

    def __init__(self, config: DetectConfig | None = None) -> None:
        self.batches: list[int] = []
        self.boxes: list[np.ndarray] = []
        self.fail_after: int | None = None

    def detect(self, images, boxes=None):
        if self.fail_after is not None and sum(self.batches) >= self.fail_after:
            raise KeyboardInterrupt
        self.batches.append(len(images))
        self.boxes.extend(boxes or [])
        found = []
        for image in images:
            y, x = np.unravel_index(int(image[..., 0].argmax()), image.shape[:2])
            found.append(person(x + 0.5, y + 0.5, 0.3)[None])
        return found


def spot(f: int, c: int) -> tuple[int, int]:
    return 20 + 2 * f, 30 + 5 * c


@pytest.fixture()
def capture(tmp_path: Path) -> Path:
    """A sequence of two cameras and ten frames, black but for a spot that moves and is brightest in its middle."""
    folder = tmp_path / "dots"
    entry = {"K": [[100, 0, 60], [0, 100, 45], [0, 0, 1]], "R": np.eye(3).tolist(), "t": [0, 0, 3], "dist": [0] * 5}
    cameras = {f"cam{c:02d}": {**entry, "width": 120, "height": 90} for c in range(2)}
    write_json(folder / "cameras.json", cameras)
    write_json(folder / "sequence.json", {"fps": 20, "frames": 10, "unit": "m", "up": "z", "people": None})
    for c, f in np.ndindex(2, 10):
        image = np.zeros((90, 120, 3), np.uint8)
        x, y = spot(f, c)
        image[y - 3 : y + 4, x - 3 : x + 4] = 200
        image[y, x] = 255
        write_image(folder / "images" / f"cam{c:02d}" / f"{f:06d}.png", image)
    return folder


def test_writes_keypoints_in_our_convention(capture: Path) -> None:
    detector, told = Brightest(), []
    assert isinstance(detector, Detector)
    sequence = Sequence.open(capture)
    assert not sequence.has_keypoints
    report = detect_sequence(sequence, DetectConfig(), lambda *said: told.append(said), detector)
    assert sequence.has_keypoints and sequence.keypoints2d.shape == (2, 10, 1, 17, 3)
    for c, f in np.ndindex(2, 10):
        np.testing.assert_allclose(sequence.keypoints2d[c, f, 0, 0], (*np.add(spot(f, c), 0.5), 0.9), rtol=1e-6)
    with np.load(capture / "keypoints2d" / "cam01.npz", allow_pickle=False) as stored:
        assert stored["keypoints"].dtype == np.float32 and stored["boxes"].shape == (10, 1, 4)
        assert stored["searched"].all() and str(stored["detector"]) == "brightest"
        np.testing.assert_allclose(stored["boxes"][4, 0], box_of(stored["keypoints"][4, 0]), rtol=1e-6)
    assert detector.batches == [3, 3, 3, 1] * 2 and told[-1][:3] == (20, 20, "cam01")
    assert report.images == {"cam00": 10, "cam01": 10} and report.people["cam00"] == 1.0
    assert not list((capture / "results").rglob("*.npz"))


def test_keeps_what_is_there_and_redo_saves_what_was_brought(capture: Path) -> None:
    brought = np.full((10, 2, 17, 3), 7.0, np.float32)
    write_npz(capture / "keypoints2d" / "cam00.npz", keypoints=brought)
    detector = Brightest()
    report = detect_sequence(Sequence.open(capture), DetectConfig(), detector=detector)
    assert report.kept == ("cam00",) and sum(detector.batches) == 10
    np.testing.assert_array_equal(Sequence.open(capture).keypoints2d[0], brought)
    assert detect_sequence(Sequence.open(capture), DetectConfig(), detector=detector).detector is None
    assert sum(detector.batches) == 10
    detect_sequence(Sequence.open(capture), DetectConfig(redo=True), detector=detector)
    assert sum(detector.batches) == 30
    assert Sequence.open(capture).keypoints2d[0, 0, 0, 0, 2] == np.float32(0.9)
    with np.load(capture / "results" / "detect" / "given" / "cam00.npz") as given:
        np.testing.assert_array_equal(given["keypoints"], brought)
    # Another one that is brought later is saved beside the first.
    write_npz(capture / "keypoints2d" / "cam00.npz", keypoints=brought + 1)
    detect_sequence(Sequence.open(capture), DetectConfig(redo=True), detector=detector)
    saved = {path.name: np.load(path)["keypoints"].max() for path in (capture / "results/detect/given").iterdir()}
    assert saved == {"cam00.npz": 7, "cam00_1.npz": 8}


def test_goes_on_within_the_camera_after_a_kill(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Brightest()
    detect_sequence(Sequence.open(capture), DetectConfig(), detector=whole)
    files_of_whole = [(capture / "keypoints2d" / f"cam0{c}.npz").read_bytes() for c in range(2)]
    shutil.rmtree(capture / "keypoints2d")

    monkeypatch.setattr("avatarpose.detect.driver.SECONDS_BETWEEN_SAVES", -1.0)
    detector = Brightest()
    detector.fail_after = 16  # in the second camera, after two batches
    with pytest.raises(KeyboardInterrupt):
        detect_sequence(Sequence.open(capture), DetectConfig(), detector=detector)
    assert (capture / "keypoints2d" / "cam00.npz").is_file() and not (capture / "keypoints2d" / "cam01.npz").exists()
    again = Brightest()
    report = detect_sequence(Sequence.open(capture), DetectConfig(), detector=again)
    assert again.batches == [3, 1] and report.images == {"cam01": 4} and report.kept == ("cam00",)
    assert files_of_whole == [(capture / "keypoints2d" / f"cam0{c}.npz").read_bytes() for c in range(2)]
    # The regions it was shown are those it would have been shown.
    np.testing.assert_array_equal(np.array(again.boxes, object), np.array(whole.boxes[-4:], object))

    # A checkpoint of other settings, or a damaged one, is not used.
    for spoil in (lambda path: path.write_bytes(b"PK junk"), None):
        shutil.rmtree(capture / "keypoints2d")
        detector = Brightest()
        detector.fail_after = 6
        with pytest.raises(KeyboardInterrupt):
            detect_sequence(Sequence.open(capture), DetectConfig(), detector=detector)
        checkpoint = capture / "results" / "detect" / "cam00.npz"
        assert checkpoint.is_file()
        if spoil:
            spoil(checkpoint)
        third = Brightest()
        detect_sequence(Sequence.open(capture), DetectConfig(person_score=0.3 if spoil else 0.2), detector=third)
        assert sum(third.batches) == 20


def test_some_frames_now_and_the_others_later(capture: Path) -> None:
    detector = Brightest()
    detect_sequence(Sequence.open(capture, frames=slice(0, 10, 5)), DetectConfig(), detector=detector)
    assert Sequence.open(capture, frames=slice(0, 10, 5)).keypoints2d.shape == (2, 2, 1, 17, 3)
    sequence = Sequence.open(capture)
    assert not sequence.has_keypoints
    with pytest.raises(InputError, match=r"cam00.*frame 1: nobody was looked for"):
        _ = sequence.keypoints2d
    with pytest.raises(InputError, match="other settings"):
        detect_sequence(sequence, DetectConfig(duplicate=0.5), detector=detector)
    report = detect_sequence(sequence, DetectConfig(), detector=detector)
    assert report.images == {"cam00": 8, "cam01": 8} and np.isfinite(Sequence.open(capture).keypoints2d).all()
    # Redone for some frames, the others stay.
    report = detect_sequence(Sequence.open(capture, frames=slice(3, 4)), DetectConfig(redo=True), detector=detector)
    assert report.images == {"cam00": 1, "cam01": 1} and Sequence.open(capture).has_keypoints


def test_camera_with_a_clock_of_its_own(capture: Path) -> None:
    cameras = read_json(capture / "cameras.json")
    cameras["cam01"] |= {"offset": 2.5}
    write_json(capture / "cameras.json", cameras)
    sequence = Sequence.open(capture, frames=slice(0, 3))
    report = detect_sequence(sequence, DetectConfig(), detector=Brightest())
    assert report.images == {"cam00": 3, "cam01": 4}  # 2, 3, 4, 5 lie about 2.5, 3.5, 4.5
    np.testing.assert_allclose(sequence.keypoints2d[1, 0, 0, 0, :2], np.add(spot(2, 1), (1.5, 0.5)), atol=1e-4)


def test_video_is_read_once_in_order(capture: Path) -> None:
    shutil.rmtree(capture / "images")
    (capture / "videos").mkdir()
    for c in range(2):
        write_video(capture / "videos" / f"cam0{c}.mp4", 10, 120, 90)

    class Levels(Brightest):
        guided = False

        def detect(self, images, boxes=None):
            assert boxes is None
            return [person(60, 20, 0.3, 0.01 + level(image) / 11)[None] for image in images]

    sequence = Sequence.open(capture)
    detect_sequence(sequence, DetectConfig(person_score=0, joint_score=0), detector=Levels())
    np.testing.assert_allclose(sequence.keypoints2d[0, :, 0, 0, 2], 0.01 + np.arange(10) / 11, atol=0.02)


def test_detector_is_shown_the_guides_regions_and_where_people_were(capture: Path) -> None:
    mask = np.zeros((90, 120), np.uint8)
    mask[20:70, 30:60] = 255
    write_image(capture / "masks" / "cam00" / "000004.png", mask)
    detector = Brightest()
    config = DetectConfig(person_score=0, search_every=9)
    detect_sequence(Sequence.open(capture, cameras=["cam00"], least_cameras=1), config, detector=detector)
    whole = [0, 0, 120, 90]
    # Nothing is known of the first batch, and every ninth image is searched as a whole.
    assert [boxes.tolist() for boxes in detector.boxes[:3]] == [[whole]] * 3
    assert detector.boxes[9].tolist()[-1] == whole and whole not in detector.boxes[8].tolist()
    before = np.array(person(*np.add(spot(2, 0), 0.5), 0.3), np.float32)
    before = box_of(before[(before[:, :2] >= 0).all(-1)], 0.15)
    np.testing.assert_allclose(detector.boxes[3], [before], atol=1e-4)
    assert len(detector.boxes[4]) == 2  # the mask's region too
    np.testing.assert_allclose(detector.boxes[4][0], (30, 20, 60, 70), atol=4)
    with np.load(capture / "keypoints2d" / "cam00.npz") as stored:
        # He has no joint on the mask of frame 4 but few, and none is no person.
        assert np.isfinite(stored["keypoints"]).all((-1, -2)).any(-1).tolist() == [True] * 4 + [False] + [True] * 5


def test_motion_before_a_static_background(capture: Path) -> None:
    rng = np.random.default_rng(0)
    background = rng.integers(60, 160, (90, 120, 3), dtype=np.uint8)
    background = cv2.GaussianBlur(background, (0, 0), 3)

    def read(number: int) -> np.ndarray:
        image = background.copy()
        image[40:80, 10 * number : 10 * number + 12] = (250, 20, 20)
        return image

    sequence = Sequence.open(capture)
    guide = Guide(sequence, 0, list(range(10)), DetectConfig(guide="motion"), True, read)
    left, top, right, bottom = guide.regions(6, read(6))[0]
    assert (left, top, right, bottom) == pytest.approx((60, 40, 72, 80), abs=6)
    assert len(guide.regions(0, background)) == 0
    assert len(guide.regions(0, 255 - background)) == 0  # the light went on
    with pytest.raises(InputError, match="no masks"):
        Guide(sequence, 0, [0], DetectConfig(guide="masks"), True, read)
    with pytest.raises(InputError, match="no such guide"):
        Guide(sequence, 0, [0], DetectConfig(guide="stars"), True, read)


def test_foreground_boxes_are_in_pixels_of_the_image() -> None:
    small = np.zeros((90, 160), bool)
    small[30:60, 40:50] = True
    small[5:6, 5:6] = True  # a speck
    np.testing.assert_allclose(foreground_boxes(small, 1600, 900, reach=2), [(400, 300, 500, 600)])
    small[30:60, 58:68] = True
    assert len(foreground_boxes(small, 1600, 900, reach=2)) == 2
    np.testing.assert_allclose(foreground_boxes(small, 1600, 900, reach=5), [(400, 300, 680, 600)])


def test_what_is_kept_of_an_answer() -> None:
    good, faint, outside = person(60, 40), person(200, 40, score=0.1), person(500, 40)
    partly = person(96, 40)
    few = person(30, 40)
    few[3:, :2] = np.nan
    again = good + np.array([2, 0, -0.1])
    answer = np.array([faint, good, again, outside, partly, few])
    kept = clean_people(answer, 110, 180, most=9, person=0.3, joint=0.05, alike=0.6)
    assert len(kept) == 2
    np.testing.assert_array_equal(kept[0], good)
    assert np.isnan(kept[1][5]).all() and np.isfinite(kept[1][6]).all()  # its left shoulder is outside
    assert len(clean_people(answer, 110, 180, most=1, person=0.3, joint=0.05, alike=0.6)) == 1
    assert clean_people(np.zeros((0, 17, 3)), 10, 10, 1, 0, 0, 1).shape == (0, 17, 3)


def test_similarity_by_hand() -> None:
    one = person(50, 30)
    assert similarity(one, one) == pytest.approx(1)
    # The box is 44 x 133; only the nose is off, by 10 px, and k of the nose is 0.052: exp(-100 / (2 A k^2)).
    other = one.copy()
    other[0, 0] += 10
    assert similarity(one, other) == pytest.approx((16 + np.exp(-100 / (2 * 44 * 133 * 0.052**2))) / 17)
    other[4:] = np.nan
    assert similarity(one, other) > 0
    other[3:] = np.nan
    assert similarity(one, other) == 0
    assert len(suppress_people(np.array([one, person(51, 30, score=0.5), person(90, 30)]), 0.6)) == 2


def test_boxes_by_hand() -> None:
    first, second = np.array([[0, 0, 10, 10.0]]), np.array([[5, 0, 15, 10.0], [20, 20, 30, 30]])
    union, inside = box_overlaps(first, second)
    np.testing.assert_allclose(union, [[50 / 150, 0]])
    np.testing.assert_allclose(inside, [[0.5, 0]])
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [40, 0, 50, 10.0]])
    assert suppress_boxes(boxes, np.array([0.5, 0.9, 0.1]), 0.5).tolist() == [1, 2]
    merged = merge_regions(np.array([[0, 0, 20, 20], [15, 5, 22, 15.0], [100, 0, 110, 10]]))
    assert sorted(merged.tolist()) == [[0, 0, 22, 20], [100, 0, 110, 10]]
    assert np.isnan(box_of(np.full((17, 3), np.nan))).all()


def test_detectors_by_name() -> None:
    assert set(available_detectors()) == {"mediapipe", "rtmpose", "rtmo"}
    assert create_detector(DetectConfig(detector="tests.test_detect:Brightest")).name == "brightest"
    for name in ("nobody", "tests.test_detect:Nobody", "tests.nowhere:Detector", ":"):
        with pytest.raises(InputError, match="no such detector"):
            create_detector(DetectConfig(detector=name))


def test_wrong_answers_of_a_detector_are_not_stored(capture: Path) -> None:
    class Wrong(Brightest):
        def detect(self, images, boxes=None):
            return [np.zeros((1, 133, 3))] * len(images)

    with pytest.raises(ValueError, match=r"expected \(people, 17, 3\)"):
        detect_sequence(Sequence.open(capture), DetectConfig(), detector=Wrong())
    assert not (capture / "keypoints2d").exists()


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = shutil.copytree(CAPTURE, tmp_path / "my_sequence")
    shutil.rmtree(folder / "keypoints2d")
    call = ("detect", str(folder), "--detector", "tests.test_detect:Brightest", "--cameras", "cam01", "--guide", "none")
    assert exit_code(*call, "--frames", "0:4", "--person-score", "0") == 0
    assert "cam01: 4 images searched" in capsys.readouterr().err
    entry = read_json(folder / "results" / "run.json")["stages"]["detect"]
    assert entry["detector"] == "brightest" and entry["images"] == {"cam01": 4} and entry["settings"]["guide"] == "none"
    assert [path.name for path in (folder / "keypoints2d").iterdir()] == ["cam01.npz"]
    assert exit_code(*call, "--frames", "0:4", "--person-score", "0") == 0
    assert "cam01: keypoints are there, kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("break_it", "arguments", "words"),
    [
        (lambda folder: shutil.rmtree(folder / "images"), (), ("no images",)),
        (lambda folder: (folder / "images/cam00/000003.png").write_bytes(b"\x89PNG junk"), (), ("000003.png",)),
        (lambda folder: (folder / "images/cam01/000003.png").unlink(), (), ("cam01", "frame")),
        (lambda folder: None, ("--detector", "nobody"), ("nobody", "mediapipe")),
        (lambda folder: None, ("--cameras", "cam09"), ("cam09", "cam00, cam01")),
        (lambda folder: None, ("--guide", "masks"), ("no masks", "cam00")),
        (lambda folder: (folder / "cameras.json").write_text("{"), (), ("cameras.json", "JSON")),
        (
            lambda folder: write_npz(
                folder / "keypoints2d/cam00.npz", keypoints=np.zeros((3, 1, 17, 3)), searched=np.ones(3, bool),
                detector="brightest", settings="",
            ),
            (), ("cam00.npz", "10 frames"),
        ),
        (
            lambda folder: (folder / "keypoints2d").mkdir() or (folder / "keypoints2d/cam00.npz").write_bytes(b"PK"),
            (), ("cam00.npz", "damaged"),
        ),
    ],
)  # fmt: skip
def test_broken_input_ends_with_2_and_says_what(break_it, arguments, words, capture: Path, capsys) -> None:
    break_it(capture)
    arguments = ("--detector", "tests.test_detect:Brightest", *arguments)
    assert exit_code("detect", str(capture), *arguments) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "Traceback" not in message


def test_the_documented_detector_works(capture: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "detectors.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line and not line.startswith("#")]) <= 10
    names: dict = {}
    exec(code, names)
    detector = names["MyDetector"](DetectConfig())
    assert isinstance(detector, Detector)
    detector.network = lambda image: [person(60, 20, 0.3)]
    sequence = Sequence.open(capture)
    detect_sequence(sequence, DetectConfig(), detector=detector)
    np.testing.assert_allclose(sequence.keypoints2d[1, 3, 0, 0, :2], (60.5, 20.5))


def test_example_of_the_help_parses(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_code("detect", "--help") == 0
    example = re.search(r"Example: avatarpose (.+?)\n *\n", capsys.readouterr().out, re.DOTALL)
    seen = []
    monkeypatch.setattr(cli.Detect, "execute", lambda self: seen.append(self))
    assert exit_code(*shlex.split(example[1])) == 0 and seen[0].frames == "0:20"
