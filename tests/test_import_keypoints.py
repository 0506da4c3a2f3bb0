"""2D keypoints of other tools: tiny files of the real layouts with known numbers, and what is wrong with them."""

import json
from pathlib import Path

import numpy as np
import pytest

from avatarpose.errors import InputError
from avatarpose.importers.keypoints import (
    KEYPOINT_FORMATS,
    find_keypoint_sources,
    guess_keypoint_format,
    read_keypoints_of,
)
from avatarpose.importers.numbering import frame_number, rows_of_numbers
from avatarpose.skeletons import BODY25, BODY25B, COCO17

AT = {
    "nose": (100, 50), "left_eye": (104, 46), "right_eye": (96, 46), "left_ear": (110, 50), "right_ear": (90, 50),
    "left_shoulder": (120, 80), "right_shoulder": (80, 80), "left_elbow": (130, 120), "right_elbow": (70, 120),
    "left_wrist": (135, 160), "right_wrist": (65, 160), "left_hip": (112, 160), "right_hip": (88, 160),
    "left_knee": (112, 220), "right_knee": (88, 220), "left_ankle": (112, 280), "right_ankle": (88, 280),
    "mid_hip": (100, 160), "neck": (100, 80), "upper_neck": (100, 70), "head_top": (100, 20),
}  # fmt: skip
COCO18 = [
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist",
    "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle", "right_eye", "left_eye",
    "right_ear", "left_ear",
]  # fmt: skip
MISSING = "left_wrist"


def person(joints: tuple[str, ...] | list[str], shift: float = 0) -> list[float]:
    """x, y, score of a standing person in an order of joints; the left wrist is not found."""
    rows = [[AT[j][0] + shift, AT[j][1], 0.9] if j in AT else [100, 285, 0.5] for j in joints]
    rows[list(joints).index(MISSING)] = [0, 0, 0]
    return [float(value) for row in rows for value in row]


def expected(shift: float = 0, score: float = 0.9) -> np.ndarray:
    rows = np.array([[AT[j][0] + shift + 0.5, AT[j][1] + 0.5, score] for j in COCO17.joints])
    rows[COCO17.index(MISSING)] = np.nan
    return rows


def write(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def openpose(values: list[float]) -> dict:
    return {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": values, "face_keypoints_2d": []}]}


# ---- OpenPose ----


@pytest.mark.parametrize("joints", [BODY25.joints, BODY25B.joints, COCO18], ids=["body25", "body25b", "coco18"])
def test_openpose_orders_are_told_apart(joints, tmp_path: Path) -> None:
    for number, people in ((9, openpose(person(joints, 3))), (10, {"people": []}), (8, openpose(person(joints)))):
        write(tmp_path / f"cam.{number}.json", people)
    assert guess_keypoint_format(tmp_path) == "openpose"
    found = read_keypoints_of(tmp_path, "auto", "cam", None)
    assert found.shape == (3, 1, 17, 3) and found.dtype == np.float32
    # In the order of the numbers, not of the letters: 8, 9, 10.
    np.testing.assert_allclose(found[0, 0], expected(), atol=1e-5)
    np.testing.assert_allclose(found[1, 0], expected(3), atol=1e-5)
    assert np.isnan(found[2]).all()


def test_openpose_without_hips_is_still_told_apart(tmp_path: Path) -> None:
    for joints in (BODY25.joints, BODY25B.joints):
        rows = np.array(person(joints)).reshape(-1, 3)
        below = [k for k, j in enumerate(joints) if j not in AT or AT[j][1] > 125]
        rows[below] = 0
        folder = tmp_path / str(len(joints[1]))
        write(folder / "cam_000000_keypoints.json", openpose(rows.ravel().tolist()))
        found = read_keypoints_of(folder, "openpose", "cam", 1)[0, 0]
        top = COCO17.indices(["nose", "left_eye", "right_ear", "left_shoulder", "right_elbow"])
        np.testing.assert_allclose(found[top], expected()[top], atol=1e-5)
        assert np.isnan(found[COCO17.index("left_knee")]).all()


def test_a_missing_file_between_others_is_a_frame_without_people(tmp_path: Path) -> None:
    for number in (11, 12, 14):
        write(tmp_path / f"a_{number:012d}_keypoints.json", openpose(person(BODY25.joints, number)))
    found = read_keypoints_of(tmp_path, "openpose", "a", 4)
    assert found.shape == (4, 1, 17, 3) and np.isnan(found[2]).all()
    np.testing.assert_allclose(found[3, 0], expected(14), atol=1e-5)
    with pytest.raises(InputError, match=r"camera a: different frame counts .expected 5 frames, found 4"):
        read_keypoints_of(tmp_path, "openpose", "a", 5)
    with pytest.raises(InputError, match="expected 3 frames, found 4"):
        read_keypoints_of(tmp_path, "openpose", "a", 3)


def test_real_openpose_files(data_folder: Path) -> None:
    root = data_folder / "pose2sim_single" / "openpose"
    cameras = ["cam01", "cam02", "cam03", "cam04"]
    found = find_keypoint_sources(root, cameras)
    assert {camera: path.name for camera, path in found.items()} == {camera: f"{camera}_json" for camera in cameras}
    assert guess_keypoint_format(root) == "openpose"
    rows = read_keypoints_of(found["cam01"], "openpose", "cam01", 100)
    assert rows.shape == (100, 3, 17, 3)  # up to three at once: the man, and a few phantoms
    # The first lines of the first file: nose and left eye (BODY_25B begins as COCO does).
    np.testing.assert_allclose(rows[0, 0, 0], [505.732, 432.13, 0.664216], atol=1e-3)
    np.testing.assert_allclose(rows[0, 0, 1], [516.349, 411.113, 0.60741], atol=1e-3)
    # Shoulders above hips above ankles in an upright man's picture, in nearly every frame.
    y = rows[:, 0, :, 1]
    upright = (y[:, 5] < y[:, 11]) & (y[:, 11] < y[:, 15]) & (y[:, 6] < y[:, 12])
    assert upright.mean() > 0.9


# ---- lists: COCO and AlphaPose ----


def result(image: object, joints=COCO17.joints, shift: float = 0, **more) -> dict:
    return {"image_id": image, "category_id": 1, "keypoints": person(joints, shift), "score": 0.7, **more}


def test_coco_results_by_number_and_by_name(tmp_path: Path) -> None:
    by_number = write(tmp_path / "a.json", [result(1), result(1, shift=50), result(3, shift=5)])
    found = read_keypoints_of(by_number, "auto", "a", 5)  # from 0, for number 0 may be a frame without people
    assert guess_keypoint_format(by_number) == "coco" and found.shape == (5, 2, 17, 3)
    assert [int(np.isfinite(found[f, :, 0, 0]).sum()) for f in range(5)] == [0, 2, 0, 1, 0]
    np.testing.assert_allclose(found[3, 0], expected(5), atol=1e-5)
    np.testing.assert_allclose(read_keypoints_of(by_number, "coco", "a", 3)[2, 0], expected(5), atol=1e-5)  # from 1
    by_name = write(tmp_path / "b.json", [result("b/frame_000100.jpg"), result("b/frame_000108.jpg", shift=5)])
    np.testing.assert_allclose(read_keypoints_of(by_name, "coco", "b", 2)[1, 0], expected(5), atol=1e-5)
    assert read_keypoints_of(by_name, "coco", "b", 9).shape == (9, 1, 17, 3)
    with pytest.raises(InputError, match="expected 1 frames, found 2, numbered 100 to 108"):
        read_keypoints_of(by_name, "coco", "b", 1)


def test_coco_flags_are_no_scores(tmp_path: Path) -> None:
    entry = result(0)
    entry["keypoints"][2::3] = [2.0 if value else 0.0 for value in entry["keypoints"][2::3]]
    file = write(tmp_path / "a.json", [entry, {"image_id": 0, "category_id": 3, "keypoints": [1.0] * 51}])
    found = read_keypoints_of(file, "coco", "a", 1)
    assert found.shape == (1, 1, 17, 3)  # category 3 is no person
    np.testing.assert_allclose(found[0, 0], expected(score=0.7), atol=1e-5)


def annotations(tmp_path: Path) -> Path:
    row = person(COCO17.joints)
    row[2::3] = [2.0 if value else 0.0 for value in row[2::3]]
    images = [{"id": 40 + n, "file_name": f"000{n}.jpg", "width": 640, "height": 480} for n in (2, 0, 1)]
    boxes = [
        {"id": 1, "image_id": 41, "category_id": 1, "keypoints": row, "num_keypoints": 16},
        {"id": 2, "image_id": 42, "category_id": 1, "bbox": [0, 0, 1, 1]},
    ]
    return write(tmp_path / "cam.json", {"images": images, "annotations": boxes, "categories": [{"id": 1}]})


def test_coco_annotations(tmp_path: Path) -> None:
    file = annotations(tmp_path)
    found = read_keypoints_of(file, "auto", "cam", 3)
    assert guess_keypoint_format(file) == "coco" and found.shape == (3, 1, 17, 3)
    np.testing.assert_allclose(found[1, 0], expected(score=1.0), atol=1e-5)
    assert np.isnan(found[[0, 2]]).all()
    with pytest.raises(InputError, match="expected 4 frames, found 3"):
        read_keypoints_of(file, "coco", "cam", 4)


@pytest.mark.parametrize("extra", [0, 9, 119], ids=["coco17", "halpe26", "halpe136"])
def test_alphapose_list(extra: int, tmp_path: Path) -> None:
    rows = [result(f"{n}.jpg", shift=n, box=[0, 0, 9, 9], idx=1) for n in (10, 2)]
    for entry in rows:
        entry["keypoints"] += [5.0, 5.0, 0.4] * extra
        entry["keypoints"][2] = 1.3  # AlphaPose's scores may pass 1
    write(tmp_path / "cam" / "alphapose-results.json", rows)
    assert guess_keypoint_format(tmp_path) == "alphapose"
    found = read_keypoints_of(tmp_path / "cam", "auto", "cam", 11)
    assert found.shape == (11, 1, 17, 3) and found[2, 0, 0, 2] == 1
    np.testing.assert_allclose(found[10, 0, 1:], expected(10)[1:], atol=1e-5)


@pytest.mark.parametrize("kind", ["open", "cmu"])
@pytest.mark.parametrize("separate", [False, True])
def test_alphapose_by_image(kind: str, separate: bool, tmp_path: Path) -> None:
    group, key = {"open": ("people", "pose_keypoints_2d"), "cmu": ("bodies", "joints")}[kind]
    images = {f"{n}.jpg": {"version": "AlphaPose v0.3", group: [{key: person(COCO18, n)}]} for n in (1, 3)}
    if separate:
        for name, image in images.items():
            write(tmp_path / "sep-json" / name.replace("jpg", "json"), image)
        path = tmp_path / "sep-json"
    else:
        path = write(tmp_path / "alphapose-results.json", images)
    assert guess_keypoint_format(path) == "alphapose"
    found = read_keypoints_of(path, "alphapose", "cam", 5)
    assert [bool(np.isfinite(rows).any()) for rows in found] == [False, True, False, True, False]
    np.testing.assert_allclose(found[3, 0], expected(3), atol=1e-5)


# ---- EasyMocap ----


def easymocap(shift: float = 0) -> dict:
    rows = np.array(person(BODY25.joints, shift)).reshape(-1, 3).tolist()
    return {"filename": "images/1/000000.jpg", "annots": [{"personID": 0, "bbox": [0, 0, 9, 9, 1], "keypoints": rows}]}


def test_easymocap(tmp_path: Path) -> None:
    for number in (0, 1):
        write(tmp_path / "annots" / "1" / f"{number:06d}.json", easymocap(number))
        write(tmp_path / "annots" / "2" / f"{number:06d}.json", {"annots": []})
    assert guess_keypoint_format(tmp_path) == "easymocap"
    sources = find_keypoint_sources(tmp_path, ["1", "2"])
    assert [sources[camera].name for camera in ("1", "2")] == ["1", "2"]
    found = read_keypoints_of(sources["1"], "auto", "1", 2)
    np.testing.assert_allclose(found[1, 0], expected(1), atol=1e-5)
    assert np.isnan(read_keypoints_of(sources["2"], "easymocap", "2", 2)).all()


# ---- files to cameras, names to frames ----


def sources(tmp_path: Path, *names: str) -> Path:
    for name in names:
        write(tmp_path / name if name.endswith(".json") else tmp_path / name / "0.json", {"people": []})
    return tmp_path


@pytest.mark.parametrize(
    ("names", "cameras"),
    [
        (["cam1", "cam10", "cam2"], ["cam1", "cam2", "cam10"]),
        (["cam1_json", "cam10_json", "cam2_json"], ["cam1", "cam2", "cam10"]),
        (["json_cam1.json", "json_cam10.json", "json_cam2.json"], ["cam1", "cam2", "cam10"]),
        (["view1", "view10", "view2"], ["a", "b", "c"]),  # by order: 1, 2, 10
        (["Video1.json", "Video2.json", "Video10.json"], ["1", "2", "10"]),
    ],
)
def test_sources_are_matched(names: list[str], cameras: list[str], tmp_path: Path) -> None:
    found = find_keypoint_sources(sources(tmp_path, *names), cameras)
    digits = {camera: "".join(c for c in path.stem if c.isdigit()) for camera, path in found.items()}
    assert digits == dict(zip(cameras, ["1", "2", "10"], strict=True))


@pytest.mark.parametrize(
    ("names", "cameras", "message"),
    [
        ([], ["a", "b"], "no keypoints there"),
        (["cam1", "cam2"], ["cam1", "cam2", "cam3"], "camera cam3: camera has no keypoints"),
        (["x", "y"], ["cam1", "cam2", "cam3"], "camera cam1: camera has no keypoints"),
        (["cam1_a", "cam1_b", "cam2"], ["cam1", "cam2"], "several keypoints for one camera"),
        (["left_right"], ["left", "right"], "the same keypoints for two cameras"),
    ],
)
def test_sources_that_do_not_match(names: list[str], cameras: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        find_keypoint_sources(sources(tmp_path, *names), cameras)


def test_one_camera_is_its_own_source(tmp_path: Path) -> None:
    folder = sources(tmp_path, "frame_0.json", "frame_1.json")
    assert find_keypoint_sources(folder, ["front"]) == {"front": folder}
    assert find_keypoint_sources(folder / "frame_0.json", ["front"]) == {"front": folder / "frame_0.json"}
    with pytest.raises(InputError, match="one file for several cameras"):
        find_keypoint_sources(folder / "frame_0.json", ["front", "back"])
    with pytest.raises(InputError, match="no such file or folder"):
        find_keypoint_sources(folder / "none", ["front"])


def test_numbers_become_frames() -> None:
    assert frame_number("cam01_000000000012_keypoints.json", "f") == 12
    assert frame_number("12.jpg", "f") == 12 and frame_number("cam.7", "f") == 7

    def rows(numbers: list[int], frames: int | None, every: bool) -> tuple[list[int], int]:
        row_of, count = rows_of_numbers(numbers, frames, every, "f")
        return [row_of[number] for number in numbers], count

    assert rows([11, 12, 14], None, True) == ([0, 1, 3], 4)
    assert rows([0, 4, 8], None, True) == ([0, 1, 2], 3)  # every fourth frame was kept
    assert rows([0, 4, 8], 3, True) == ([0, 1, 2], 3)
    assert rows([0, 4, 8], 9, True) == ([0, 4, 8], 9)  # every fourth frame was looked at
    assert rows([3, 5], 10, False) == ([3, 5], 10)
    assert rows([3, 10], 10, False) == ([2, 9], 10)
    assert rows([100, 105], 10, False) == ([0, 5], 10)
    assert rows([100, 104], 2, False) == ([0, 1], 2)
    assert rows([100, 104], None, False) == ([0, 4], 5)  # the frames between may simply be empty
    assert rows([7], None, True) == ([0], 1)
    for numbers, frames, every in (([0, 10], 10, False), ([5, 25], 20, False), ([0, 1], 3, True), ([0, 4, 8], 4, True)):
        with pytest.raises(InputError, match="different frame counts"):
            rows(numbers, frames, every)


# ---- what is wrong with them ----


def _broken(kind: str) -> tuple[object, str]:
    row = person(BODY25.joints)
    unit = np.array(row).reshape(-1, 3) / [300, 300, 1]
    return {
        "not a number": (openpose(["x", *row[1:]]), "malformed keypoints"),
        "short": (openpose(row[:-1]), "expected 25 or 18 joints of x, y, score, found 74 numbers"),
        "nan": (openpose([float("nan"), *row[1:]]), "not finite"),
        "no people": ({"version": 1.3}, "malformed OpenPose JSON"),
        "no row": ({"people": [{"face_keypoints_2d": []}]}, "malformed OpenPose JSON"),
        "a list": ([1, 2], "malformed OpenPose JSON"),
        "0 to 1": (openpose(unit.ravel().tolist()), "keypoints are not in pixels"),
    }[kind]


@pytest.mark.parametrize("kind", ["not a number", "short", "nan", "no people", "no row", "a list", "0 to 1"])
def test_broken_openpose(kind: str, tmp_path: Path) -> None:
    content, message = _broken(kind)
    write(tmp_path / "cam.0.json", content)
    with pytest.raises(InputError, match=message) as error:
        read_keypoints_of(tmp_path, "openpose", "cam", None)
    assert str(tmp_path) in str(error.value) and "camera cam" in str(error.value)


@pytest.mark.parametrize("format", list(KEYPOINT_FORMATS))
def test_truncated_and_absent_files(format: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder of keypoints"):
        read_keypoints_of(tmp_path / "none", format, "cam", None)
    with pytest.raises(InputError, match=str(tmp_path)):
        read_keypoints_of(tmp_path, format, "cam", None)
    text = json.dumps({"openpose": openpose([1.0]), "easymocap": easymocap()}.get(format, [result(0)]))
    (tmp_path / "cam.0.json").write_text(text[: len(text) // 2])
    with pytest.raises(InputError, match=r"cam\.0\.json, camera cam: malformed JSON at line 1"):
        read_keypoints_of(tmp_path, format, "cam", None)
    (tmp_path / "cam.0.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_keypoints_of(tmp_path, format, "cam", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 0}], "malformed entry"),
        ([{"image_id": [0], "keypoints": []}], "malformed entry"),
        ([result("front.jpg")], "no frame number in the name"),
        ([{**result(0), "keypoints": [1.0] * 50}], "found 50 numbers"),
        ([{**result(0), "keypoints": [1.0] * 51, "score": "high"}], "score is no number"),
        ([], "no keypoints"),
        ({"results": []}, "malformed keypoints JSON"),
        ({"images": [{"name": 1}], "annotations": []}, "malformed COCO annotations"),
        ({"images": [{"id": 1}], "annotations": [result(2)]}, "annotation of an image that is not listed"),
        ({"images": [{"id": 1, "file_name": "7.jpg"}, {"id": 2, "file_name": "b/7.jpg"}], "annotations": []},
         "two images of one frame"),
    ],
)  # fmt: skip
def test_broken_coco(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_keypoints_of(write(tmp_path / "cam.json", content), "coco", "cam", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0.jpg": {"persons": []}}, "malformed AlphaPose JSON"),
        ({"0.jpg": {"people": [{"joints": []}]}}, "malformed AlphaPose JSON"),
        ({"front.jpg": {"people": []}}, "no frame number"),
        ("text", "malformed AlphaPose JSON"),
        ([{**result("0.jpg"), "keypoints": [1.0] * 48}], "found 48 numbers"),  # MPII's 16 joints
    ],
)
def test_broken_alphapose(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_keypoints_of(write(tmp_path / "cam.json", content), "alphapose", "cam", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annots": {"0": []}}, "malformed EasyMocap JSON"),
        ({"annots": [{"personID": 0}]}, "a person without keypoints"),
        ({"annots": [{"keypoints": [[1, 2, 3]] * 24}]}, "found 72 numbers"),
        ({"annots": [{"keypoints": [[1, 2, float("inf")]] * 25}]}, "not finite"),
    ],
)
def test_broken_easymocap(content: object, message: str, tmp_path: Path) -> None:
    write(tmp_path / "000000.json", content)
    with pytest.raises(InputError, match=message):
        read_keypoints_of(tmp_path, "easymocap", "cam", None)


def test_two_files_of_one_frame_and_unknown_formats(tmp_path: Path) -> None:
    for name in ("0001.json", "a_1.json"):
        write(tmp_path / name, {"people": []})
    with pytest.raises(InputError, match="two files of one frame"):
        read_keypoints_of(tmp_path, "openpose", "cam", None)
    with pytest.raises(InputError, match="no such format of keypoints"):
        read_keypoints_of(tmp_path, "vitpose", "cam", None)
    strange = write(tmp_path / "strange" / "a.json", {"poses": []})
    with pytest.raises(InputError, match=r"unknown format .*found poses"):
        guess_keypoint_format(strange.parent)
    with pytest.raises(InputError, match="no keypoints"):
        (tmp_path / "empty").mkdir()
        guess_keypoint_format(tmp_path / "empty")
