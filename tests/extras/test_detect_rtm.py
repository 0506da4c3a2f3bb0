"""RTMPose, RTMO and person detectors as ONNX files: tiny models made here, whose answers are known."""

from pathlib import Path

import numpy as np
import pytest

from avatarpose.detect import DetectConfig, Detector, create_detector
from avatarpose.detect.onnx_models import (
    OnnxModel,
    as_input,
    crop_matrix,
    decode_boxes,
    decode_simcc,
    kind_of,
    letterbox,
)
from avatarpose.detect.rtm import RTMODetector, RTMPoseDetector
from avatarpose.errors import InputError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
HEIGHT, WIDTH = 256, 192


def save(path: Path, nodes: list, constants: dict[str, np.ndarray], inputs: tuple, outputs: dict[str, tuple]) -> Path:
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "tiny", [onnx.helper.make_tensor_value_info("input", floats, inputs)],
        [onnx.helper.make_tensor_value_info(name, floats, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def brightest_red(path: Path, joints: int = 17, batch: int | str = "n") -> Path:
    """A "RTMPose" that finds every joint where the first channel of its input is brightest."""
    node = onnx.helper.make_node
    nodes = [
        node("Slice", ["input", "zero", "one", "axis"], ["red"]),
        node("ReduceMax", ["red"], ["columns"], axes=[1, 2], keepdims=0),
        node("ReduceMax", ["red"], ["rows"], axes=[1, 3], keepdims=0),
    ]
    for source, name in (("columns", "simcc_x"), ("rows", "simcc_y")):
        nodes += [
            node("Unsqueeze", [source, "axis"], [f"{source}1"]),
            node("Resize", [f"{source}1", "", "twice"], [f"{source}2"], mode="nearest",
                 coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
            node("Tile", [f"{source}2", "joints"], [name]),
        ]  # fmt: skip
    constants = {
        "zero": np.array([0]), "one": np.array([1]), "axis": np.array([1]),
        "twice": np.array([1, 1, 2], np.float32), "joints": np.array([1, joints, 1]),
    }  # fmt: skip
    outputs = {"simcc_x": (batch, joints, 2 * WIDTH), "simcc_y": (batch, joints, 2 * HEIGHT)}
    return save(path, nodes, constants, (batch, 3, HEIGHT, WIDTH), outputs)


def constant(path: Path, size: int = 640, **outputs: np.ndarray) -> Path:
    """A model that says the same whatever it sees."""
    nodes = [
        onnx.helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
        onnx.helper.make_node("Mul", ["mean", "nought"], ["nothing"]),
    ]
    nodes += [onnx.helper.make_node("Add", [f"{name}_value", "nothing"], [name]) for name in outputs]
    constants = {f"{name}_value": value.astype(np.float32) for name, value in outputs.items()}
    constants["nought"] = np.array(0, np.float32)
    shapes = {name: value.shape for name, value in outputs.items()}
    return save(path, nodes, constants, (1, 3, size, size), shapes)


def blob(x: float, y: float, channel: int = 0, shape: tuple[int, int] = (480, 640)) -> np.ndarray:
    """Bright at (x, y), pixel centres at i + 0.5."""
    image = np.zeros((*shape, 3), np.uint8)
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    image[..., channel] = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 6**2))
    return image


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_rtmpose_finds_what_its_network_sees(tmp_path: Path, batch: int | str) -> None:
    path = brightest_red(tmp_path / "pose.onnx", batch=batch)
    detector = RTMPoseDetector(DetectConfig(model=path, device="cpu"))
    assert isinstance(detector, Detector) and detector.guided and detector.name == "rtmpose pose.onnx"
    images = [np.maximum(blob(300.5, 200.5), blob(250.5, 300.5, channel=2)), blob(100, 120), blob(30, 40)]
    boxes = [np.array([[200.0, 100, 400, 380], [280, 150, 330, 260]]), np.array([[60.0, 60, 150, 200]]), None]
    found = detector.detect(images, [b if b is not None else np.zeros((0, 4)) for b in boxes])
    assert [len(people) for people in found] == [2, 1, 1]
    places, scales = [(300.5, 200.5), (100, 120), (30, 40)], [(1.4, 0.6), (0.7,), (4.2,)]
    for people, place, pixels in zip(found, places, scales, strict=True):
        for person, pixel in zip(people, pixels, strict=True):
            # The blob, in levels of 8 bits, is flat for a pixel about its middle and sampled at the crop's pixels.
            np.testing.assert_allclose(person[:, :2], np.broadcast_to(place, (17, 2)), atol=max(0.8 * pixel, 0.6))
            assert (person[:, 2] == 1).all()


@pytest.mark.parametrize("joints", [26, 133])
def test_more_joints_begin_with_coco(tmp_path: Path, joints: int) -> None:
    detector = RTMPoseDetector(DetectConfig(model=brightest_red(tmp_path / "pose.onnx", joints), device="cpu"))
    assert detector.detect([blob(300, 200)])[0].shape == (1, 17, 3)


def test_crop_agrees_with_rtmlib(tmp_path: Path) -> None:
    rtmlib = pytest.importorskip("rtmlib")
    path = brightest_red(tmp_path / "pose.onnx")
    theirs = rtmlib.RTMPose(str(path), model_input_size=(WIDTH, HEIGHT), backend="onnxruntime", device="cpu")
    ours = RTMPoseDetector(DetectConfig(model=path, device="cpu"))
    rng = np.random.default_rng(0)
    for _ in range(5):
        place, size = rng.uniform((150, 150), (450, 350)), rng.uniform(60, 120, 2)
        image, box = blob(*place), np.concatenate((place - size, place + size / 2))
        expected, _ = theirs(image, bboxes=[box - 0.5])  # pixel centres at integers
        np.testing.assert_allclose(ours.detect([image], [box[None]])[0][0, :, :2], expected[0] + 0.5, atol=1e-3)


def test_boxes_of_a_person_detector(tmp_path: Path) -> None:
    rows = [[160, 120, 320, 400, 0.9], [162, 121, 320, 400, 0.8], [400, 100, 500, 300, 0.5], [0, 0, 9, 9, 0.1]]
    finder = constant(tmp_path / "yolox.onnx", dets=np.array([rows]), labels=np.array([[0, 0, 0, 0]]))
    path = brightest_red(tmp_path / "pose.onnx")
    detector = create_detector(DetectConfig(model=path, det_model=finder, device="cpu"))
    assert isinstance(detector, RTMPoseDetector) and not detector.guided
    image = blob(480, 500, shape=(960, 1280))
    # The image is twice as large as the network's.
    np.testing.assert_allclose(detector.finder.boxes([image])[0], [[320, 240, 640, 800], [800, 200, 1000, 600]])
    found = detector.detect([image, image])
    assert [len(people) for people in found] == [2, 2]
    np.testing.assert_allclose(found[1][0, 3, :2], (480, 500), atol=2)


def test_raw_yolox_by_hand() -> None:
    """64 pixels: 8 x 8 + 4 x 4 + 2 x 2 cells. Cell (3, 2) of stride 8, and a dog in cell (1, 0) of stride 32."""
    raw = np.zeros((84, 7), np.float32)
    raw[2 * 8 + 3] = (0.5, 0.25, np.log(2), np.log(4), 0.9, 0.8, 0.0)
    raw[80 + 1] = (0.5, 0.5, 0, 0, 0.9, 0.0, 0.8)
    # Centre (3.5, 2.25) * 8 = (28, 18), size (16, 32), score 0.72.
    np.testing.assert_allclose(decode_boxes([raw], 64, 64, 0.3), [[20, 2, 36, 34, 0.72]], rtol=1e-6)
    with pytest.raises(ValueError, match="expected 84 boxes, found 80"):
        decode_boxes([raw[:80]], 64, 64, 0.3)
    with pytest.raises(ValueError, match=r"found \[\(5, 4\)\]"):
        decode_boxes([np.zeros((5, 4))], 64, 64, 0.3)
    labelled = decode_boxes([np.array([[0, 0, 9, 9, 0.9], [5, 5, 9, 9, 0.8]]), np.array([16, 0])], 64, 64, 0.3)
    np.testing.assert_allclose(labelled, [[5, 5, 9, 9, 0.8]])


def test_simcc_by_hand() -> None:
    x, y = np.zeros((1, 1, 2 * WIDTH)), np.zeros((1, 1, 2 * HEIGHT))
    x[0, 0, 101], y[0, 0, 40] = 0.7, 0.6
    np.testing.assert_allclose(decode_simcc(x, y, HEIGHT, WIDTH), [[[50.5, 20, 0.6]]])


def test_rtmo(tmp_path: Path) -> None:
    joints = np.zeros((1, 3, 17, 3))
    joints[0, :, :, 0], joints[0, :, :, 1], joints[0, :, :, 2] = 99.5, 49.5, 0.7
    joints[0, 2] += 100
    dets = np.array([[[80, 30, 120, 70, 0.9], [81, 30, 120, 70, 0.5], [180, 130, 220, 170, 0.2]]])
    path = constant(tmp_path / "rtmo.onnx", dets=dets, keypoints=joints)
    assert kind_of(path) == "rtmo" and kind_of(brightest_red(tmp_path / "pose.onnx")) == "rtmpose"
    detector = create_detector(DetectConfig(model=path, device="cpu"))
    assert isinstance(detector, RTMODetector)
    found = detector.detect([np.zeros((960, 1280, 3), np.uint8)] * 2)
    assert [people.shape for people in found] == [(1, 17, 3)] * 2
    # Pixel centres at integers in the network's 640 pixels, from the corner in the image's 1280.
    np.testing.assert_allclose(found[1][0, 0], (200, 100, 0.7), rtol=1e-6)
    low = create_detector(DetectConfig(model=path, box_score=0.1, device="cpu"))
    assert len(low.detect([np.zeros((960, 1280, 3), np.uint8)])[0]) == 2


def test_images_in() -> None:
    canvas, scale = letterbox(np.full((100, 50, 3), 7, np.uint8), 64, 64)
    assert scale == 0.64 and (canvas[:64, :32] == 7).all() and (canvas[:, 32:] == 114).all()
    matrix = crop_matrix(np.array([10.5, 20.5, 30.5, 60.5]), 256, 192)
    np.testing.assert_allclose(matrix @ (20, 40, 1), (96, 128))  # the middle of the box, in OpenCV's coordinates
    assert matrix[0, 0] == pytest.approx(256 / (40 * 1.25))
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 255
    assert as_input([image], bgr=True, normalise=False)[0, :, 0, 0].tolist() == [0, 0, 255]
    np.testing.assert_allclose(as_input([image], bgr=False, normalise=True)[0, 0], (255 - 123.675) / 58.395, rtol=1e-6)


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"not a model")
    pose, other = brightest_red(tmp_path / "pose.onnx"), constant(tmp_path / "other.onnx", out=np.zeros((1, 5)))
    few = brightest_red(tmp_path / "few.onnx", joints=9)
    for config, words in (
        (DetectConfig(detector="rtmpose"), "no file with the pose model.*onnx"),
        (DetectConfig(detector="rtmo", model=tmp_path / "none.onnx"), "none.onnx.*no such file.*mmpose"),
        (DetectConfig(model=tmp_path / "none.onnx"), "none.onnx.*no such file"),
        (DetectConfig(detector="rtmpose", model=junk), "junk.onnx.*not an ONNX model"),
        (DetectConfig(model=other), "other.onnx.*neither RTMPose nor RTMO"),
        (DetectConfig(detector="rtmo", model=pose), "pose.onnx.*not a model of RTMO"),
        (DetectConfig(detector="rtmpose", model=other), "other.onnx.*not a model of RTMPose"),
        (DetectConfig(model=pose, det_model=tmp_path / "none.onnx"), "none.onnx.*person detector"),
        (DetectConfig(model=pose, device="abacus"), "no such device.*abacus"),
    ):
        with pytest.raises(InputError, match=words):
            create_detector(config)
    with pytest.raises(InputError, match="17, 26, 133"):
        create_detector(DetectConfig(model=few)).detect([blob(9, 9)])
    detector = create_detector(DetectConfig(model=pose, det_model=other))
    with pytest.raises(InputError, match=r"other.onnx.*not a person detector"):
        detector.detect([blob(9, 9)])
    assert OnnxModel(pose, "pose model", (1, 1)).batch is None
