"""Conversion from Qualisys and OpenPose files, and masks by GrabCut."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from avatarpose.cameras import Cameras
from avatarpose.convert import (
    fit_into_frame,
    grabcut_mask,
    read_openpose,
    read_qualisys,
    reprojection_errors,
)
from avatarpose.errors import InputError
from avatarpose.skeletons import BODY25, BODY25B, COCO17


@pytest.fixture(scope="module")
def single(data_folder: Path) -> Path:
    return data_folder / "pose2sim_single"


def camera(width: int = 1088, height: int = 1920) -> Cameras:
    K = torch.tensor([[[1600.0, 0, 540], [0, 1600, 960], [0, 0, 1]]], dtype=torch.float64)
    eye, zero = torch.eye(3, dtype=torch.float64)[None], torch.zeros(1, 3, dtype=torch.float64)
    dist = torch.zeros(1, 5, dtype=torch.float64)
    return Cameras(("a",), K, eye, zero, dist, torch.tensor([width]), torch.tensor([height]))


def test_qualisys_agrees_with_the_same_calibration_in_toml(single: Path) -> None:
    cameras = read_qualisys(single / "Calib.qca.txt")
    lines = (line.split(" = ") for line in (single / "Calib_qualisys.toml").read_text().splitlines() if " = " in line)
    values = [(key, json.loads(value)) for key, value in lines if key in ("size", "matrix", "rotation", "translation")]
    expected = [dict(values[i : i + 4]) for i in range(0, 16, 4)]
    assert cameras.names == ("cam01", "cam02", "cam03", "cam04")
    for c, entry in enumerate(expected):
        # The file counts pixel centres as integers, the project half a pixel further; its lens centre is the .qca's.
        np.testing.assert_allclose(cameras.K[c, [0, 1], [0, 1]], np.diag(entry["matrix"])[:2], atol=1e-6)
        np.testing.assert_allclose(cameras.K[c, :2, 2] - 0.5, np.array(entry["matrix"])[:2, 2], atol=0.6)
        np.testing.assert_allclose(cameras.R[c], cv2.Rodrigues(np.array(entry["rotation"]))[0], atol=1e-9)
        np.testing.assert_allclose(cameras.t[c], entry["translation"], atol=1e-9)
        assert (cameras.width[c], cameras.height[c]) == tuple(entry["size"])


def test_real_detections_meet_in_space(single: Path) -> None:
    cameras = read_qualisys(single / "Calib.qca.txt").select(["cam03", "cam04"])
    found = np.stack([read_openpose(single / "openpose" / f"{name}_json")[:, 0] for name in cameras.names])
    assert found.shape == (2, 100, 17, 3)
    assert np.nanmedian(reprojection_errors(cameras, found)) < 15  # cam03 is known to be about 10 px off
    mirrored = found[..., COCO17.flip, :]
    mirrored[1] = found[1]
    assert np.nanmedian(reprojection_errors(cameras, mirrored)) > 30


@pytest.mark.parametrize("order", [BODY25, BODY25B])
def test_both_openpose_orders_are_told_apart(order, tmp_path: Path) -> None:
    at = {"nose": (100, 50), "left_eye": (104, 46), "right_eye": (96, 46), "left_ear": (110, 50), "right_ear": (90, 50)}
    at |= {"left_shoulder": (120, 80), "right_shoulder": (80, 80), "left_elbow": (130, 120), "right_elbow": (70, 120)}
    at |= {"left_wrist": (135, 160), "right_wrist": (65, 160), "left_hip": (112, 160), "right_hip": (88, 160)}
    at |= {"left_knee": (112, 220), "right_knee": (88, 220), "left_ankle": (112, 280), "right_ankle": (88, 280)}
    at |= {"mid_hip": (100, 160), "neck": (100, 80), "upper_neck": (100, 70), "head_top": (100, 20)}
    row = [[*at[j], 0.9] if j in at else [100, 285, 0.5] for j in order.joints]
    row[order.index("left_wrist")] = [0, 0, 0]
    people = [{"pose_keypoints_2d": np.array(row, float).ravel().tolist()}]
    for n, rows in ((9, people), (10, []), (8, people)):
        (tmp_path / f"cam.{n}.json").write_text(json.dumps({"people": rows}))
    found = read_openpose(tmp_path)
    assert found.shape == (3, 1, 17, 3)  # in the order of the numbers, not of the letters: 8, 9, 10
    assert np.isnan(found[2]).all()
    for k, joint in enumerate(COCO17.joints):
        if joint == "left_wrist":
            assert np.isnan(found[0, 0, k]).all()
        else:
            np.testing.assert_allclose(found[0, 0, k], [at[joint][0] + 0.5, at[joint][1] + 0.5, 0.9], atol=1e-5)


def test_malformed_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no OpenPose JSON"):
        read_openpose(tmp_path)
    (tmp_path / "a.0.json").write_text("{")
    with pytest.raises(InputError, match=r"a\.0\.json"):
        read_openpose(tmp_path)
    (tmp_path / "a.0.json").write_text(json.dumps({"people": [{"pose_keypoints_2d": [1.0] * 54}]}))
    with pytest.raises(InputError, match="25 joints"):
        read_openpose(tmp_path)
    (tmp_path / "calibration.txt").write_text("not xml")
    with pytest.raises(InputError, match=r"calibration\.txt"):
        read_qualisys(tmp_path / "calibration.txt")


def test_reprojection_error_of_one_shifted_view() -> None:
    """Three cameras on a line; the middle one sees everything 6 px to the right of where it is."""
    one = camera()
    cameras = replace(
        one, names=("a", "b", "c"), **{k: getattr(one, k).expand(3, *getattr(one, k).shape[1:]).clone() for k in
        ("K", "R", "dist", "width", "height")}, t=torch.tensor([[-1.0, 0, 0], [0, 0, 0], [1, 0, 0]]).double(),
        offset=None, fps=None,
    )  # fmt: skip
    points = torch.rand(1, 17, 3, dtype=torch.float64) + torch.tensor([0.0, 0, 4])
    pixels, _ = cameras.project(points)
    keypoints = np.concatenate([pixels.numpy(), np.ones((3, 1, 17, 1))], -1)
    assert np.nanmax(reprojection_errors(cameras, keypoints)) < 1e-4
    keypoints[1, ..., 0] += 6
    # The least-squares point moves by a third of what the middle view asks for: errors of 2, 4 and 2 px.
    np.testing.assert_allclose(np.nanmedian(reprojection_errors(cameras, keypoints), axis=(1, 2)), [2, 4, 2], atol=0.3)


def test_a_picture_shrunk_into_a_frame_is_recognised_by_its_bars() -> None:
    cameras = camera()
    image = np.zeros((1920, 1080, 3), np.uint8)
    image[7:1913] = 120  # 1920 * 1080 / 1088 = 1905.9 rows
    fitted = fit_into_frame(cameras, 0, image)
    assert (int(fitted.width[0]), int(fitted.height[0])) == (1080, 1920)
    point = torch.tensor([[0.3, -0.2, 2.0]], dtype=torch.float64)
    (u, v), (u2, v2) = cameras.project(point)[0][0, 0], fitted.project(point)[0][0, 0]
    assert float(u2) == pytest.approx(float(u) * 1080 / 1088)
    assert float(v2) == pytest.approx(float(v) * 1080 / 1088 + (1920 - 1920 * 1080 / 1088) / 2)
    with pytest.raises(InputError, match="not by shrinking"):
        fit_into_frame(cameras, 0, np.full((1920, 1080, 3), 120, np.uint8))


def test_grabcut_finds_a_figure_and_leaves_what_is_doubtful_open() -> None:
    rng = np.random.default_rng(0)
    background = rng.integers(90, 130, (480, 320, 3)).astype(np.uint8)
    figure = np.zeros((480, 320), np.uint8)
    cv2.ellipse(figure, (160, 200), (36, 90), 0, 0, 360, 255, -1)
    cv2.circle(figure, (160, 80), 26, 255, -1)
    for x in (140, 180):
        cv2.line(figure, (x, 270), (x, 410), 255, 26)
    image = background.copy()
    image[figure > 0] = (200, 60, 50)
    points = dict(nose=(160, 84), left_shoulder=(182, 150), right_shoulder=(138, 150), left_hip=(178, 270))
    points |= dict(right_hip=(142, 270), left_knee=(180, 340), right_knee=(140, 340), left_ankle=(180, 405))
    points |= dict(right_ankle=(140, 405))
    keypoints = np.full((1, 17, 3), np.nan)
    for joint, at in points.items():
        keypoints[0, COCO17.index(joint)] = (*at, 1)
    for behind in (None, background):
        mask = grabcut_mask(image, keypoints, behind)
        assert set(np.unique(mask)) <= {0, 128, 255}
        overlap = ((mask == 255) & (figure > 0)).sum() / ((mask == 255) | (figure > 0)).sum()
        assert overlap > 0.9
    assert not grabcut_mask(image, np.full((1, 17, 3), np.nan)).any()
    # A figure that is in the background too is nowhere surely absent along its bones.
    still = grabcut_mask(image, keypoints, image)
    assert (still[(figure > 0)] == 0).mean() < 0.1 and (still == 128).sum() > 1000
