"""Cameras against OpenCV, hand-worked numbers and finite differences."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from avatarpose.cameras import (
    Cameras,
    distort,
    pixel_rays,
    project_points,
    undistort,
    undistort_image,
)
from avatarpose.errors import InputError

# A webcam, a wide action camera, a long lens and an ideal one; none turns back within its image.
LENSES = {
    "webcam": ([-0.3321, 0.0464, -0.0043, 0.0041, 0.0666], 903.5, 907.9),
    "wide": ([0.1689, -0.2266, 0.0014, 0.0004, 0.1061], 639.9, 639.5),
    "pincushion": ([0.25, 0.08, 0.002, -0.003, 0.01], 1400.0, 1390.0),
    "ideal": ([0.0, 0.0, 0.0, 0.0, 0.0], 1000.0, 1000.0),
}
SIZE = (1280, 720)


def make_cameras() -> Cameras:
    K, R, t, dist = [], [], [], []
    for i, (coefficients, fx, fy) in enumerate(LENSES.values()):
        K.append([[fx, 0, 618.8 + 5 * i], [0, fy, 394.7 - 9 * i], [0, 0, 1]])
        R.append(cv2.Rodrigues(np.array([0.2 * i, 0.3 - 0.2 * i, 0.1 * i]))[0])
        t.append([0.1 * i, -0.2, 3.0 + 0.2 * i])
        dist.append(coefficients)
    count = len(LENSES)
    K, R, t, dist = (torch.tensor(np.array(value), dtype=torch.float64) for value in (K, R, t, dist))
    return Cameras(tuple(LENSES), K, R, t, dist, torch.full((count,), SIZE[0]), torch.full((count,), SIZE[1]))


def pixel_grid() -> torch.Tensor:
    """(3 x 5, 2) pixels over the image, corners included."""
    x, y = torch.meshgrid(torch.linspace(0, SIZE[0], 5), torch.linspace(0, SIZE[1], 3), indexing="xy")
    return torch.stack((x, y), dim=-1).reshape(-1, 2).double()


def to_opencv(cameras: Cameras, c: int) -> tuple[np.ndarray, np.ndarray]:
    K = cameras.K[c].numpy().copy()
    K[:2, 2] -= 0.5
    return K, cameras.dist[c].numpy()


def entry(**changes: object) -> dict:
    camera = {"K": [[500, 0, 32], [0, 500, 24], [0, 0, 1]], "R": np.eye(3).tolist(), "t": [0, 0, 2]}
    return {**camera, "dist": [0, 0, 0, 0, 0], "width": 64, "height": 48, **changes}


# ---- projection ----


def test_projection_by_hand():
    """f = 100, centre (50, 40): (0.2, -0.1, 2) is at (0.1, -0.05); k1 = 0.1 stretches that by 1 + 0.1 * 0.0125."""
    K = torch.tensor([[100, 0, 50], [0, 100, 40], [0, 0, 1]], dtype=torch.float64)
    point, R, t = torch.tensor([0.2, -0.1, 2.0], dtype=torch.float64), torch.eye(3).double(), torch.zeros(3).double()
    pixels, depth = project_points(point, K, R, t)
    np.testing.assert_allclose(pixels, [60.0, 35.0], atol=1e-9)
    assert depth == 2
    pixels, _ = project_points(point, K, R, t, torch.tensor([0.1, 0, 0, 0, 0], dtype=torch.float64))
    np.testing.assert_allclose(pixels, [60.0125, 34.99375], atol=1e-9)
    # p1 = 0.01: dx = 2 p1 x y = -1e-4, dy = p1 (r2 + 2 y^2) = 0.01 (0.0125 + 0.005) = 1.75e-4
    pixels, _ = project_points(point, K, R, t, torch.tensor([0, 0, 0.01, 0, 0], dtype=torch.float64))
    np.testing.assert_allclose(pixels, [59.99, 35.0175], atol=1e-9)


def test_projection_agrees_with_opencv():
    cameras, points = make_cameras(), 0.8 * torch.randn(50, 3, dtype=torch.float64)
    pixels, depth = cameras.project(points)
    for c in range(len(cameras)):
        K, dist = to_opencv(cameras, c)
        rotation = cv2.Rodrigues(cameras.R[c].numpy())[0]
        expected, _ = cv2.projectPoints(points.numpy(), rotation, cameras.t[c].numpy(), K, dist)
        assert depth[c].min() > 0
        np.testing.assert_allclose(pixels[c].numpy() - 0.5, expected[:, 0], atol=1e-6)


def test_one_camera_per_point():
    """Broadcast leading dimensions: each point in its own camera equals the diagonal of all in all."""
    cameras = make_cameras()
    points = 0.5 * torch.randn(len(cameras), 3, dtype=torch.float64)
    every, depths = cameras.project(points)
    own, depth = project_points(points, cameras.K, cameras.R, cameras.t, cameras.dist)
    torch.testing.assert_close(own, every.diagonal().T)
    torch.testing.assert_close(depth, depths.diagonal())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_behind_have_finite_pixels_and_gradients(dtype: torch.dtype):
    cameras = make_cameras().to(dtype=dtype)
    behind = (cameras.centres - 3 * cameras.R[:, 2] + 0.7).clone()
    points = torch.cat((behind, cameras.centres)).requires_grad_()
    pixels, depth = cameras.project(points)
    pixels.sum().backward()
    assert (depth.diagonal() < 0).all() and not cameras.sees(points).diagonal().any()
    assert pixels.isfinite().all() and points.grad.isfinite().all()


def test_sees_nothing_folded_back_by_the_lens():
    """k1 = -0.4 turns back at radius 0.91; a point at radius 1.5 lands near the centre and is still not seen."""
    lens = dataclasses.replace(make_cameras()[3], dist=torch.tensor([[-0.4, 0, 0, 0, 0]]).double())
    lens = dataclasses.replace(lens, R=torch.eye(3).double()[None], t=torch.zeros(1, 3).double())
    assert lens.turning_radius.item() == pytest.approx((1 / 1.2) ** 0.5)
    points = torch.tensor([[1.5, 0, 1], [0.2, 0, 1], [0.2, 0, -1]]).double()
    pixels, _ = lens.project(points)
    assert 0 < pixels[0, 0, 0] < SIZE[0]
    assert lens.sees(points).tolist() == [[False, True, False]]


# ---- rays and undistortion ----


def test_rays_pass_through_what_projects_to_their_pixels():
    cameras = make_cameras()
    pixels = pixel_grid().expand(len(cameras), -1, -1)
    origins, directions = cameras.rays(pixels)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(pixels.shape[:-1]).double())
    torch.testing.assert_close(origins, cameras.centres[:, None].expand_as(origins))
    for c in range(len(cameras)):
        back, depth = cameras[c].project(origins[c] + 2.5 * directions[c])
        torch.testing.assert_close(back[0], pixels[c], rtol=0, atol=1e-8)
        assert (depth > 0).all()


def test_ray_through_the_principal_point_is_the_optical_axis():
    cameras = make_cameras()[3]
    _, direction = cameras.rays(cameras.K[:, None, :2, 2])
    torch.testing.assert_close(direction[0, 0], cameras.R[0, 2])


def test_skew_is_inverted():
    cameras = make_cameras()[0]
    cameras.K[0, 0, 1] = 7.0
    origins, directions = cameras.rays(pixel_grid()[None])
    back, _ = cameras.project((origins + directions)[0])
    torch.testing.assert_close(back[0], pixel_grid(), rtol=0, atol=1e-8)


def test_undistorted_pixels_agree_with_opencv():
    cameras = make_cameras()
    pixels = pixel_grid().expand(len(cameras), -1, -1)
    ideal = cameras.undistort_pixels(pixels)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-14)
    for c in range(len(cameras)):
        K, dist = to_opencv(cameras, c)
        expected = cv2.undistortPoints(pixels[c].numpy() - 0.5, K, dist, R=None, P=K, criteria=criteria)
        np.testing.assert_allclose(ideal[c].numpy() - 0.5, expected[:, 0], atol=1e-5)


def test_strong_real_lenses_come_back(data_folder: Path):
    """Four real webcams: every pixel of the border and inside undistorts and distorts back to itself."""
    tomllib = pytest.importorskip("tomllib")
    calibration = tomllib.loads((data_folder / "caliscope" / "camera_array.toml").read_text())
    for lens in calibration["cameras"].values():
        K = torch.tensor(lens["matrix"]).double()
        width, height = lens["size"]
        x, y = torch.meshgrid(torch.linspace(0, width, 33), torch.linspace(0, height, 19), indexing="xy")
        xy = (torch.stack((x, y), dim=-1).double() - K[:2, 2]) / torch.stack((K[0, 0], K[1, 1]))
        dist = torch.tensor(lens["distortions"]).double()
        torch.testing.assert_close(distort(undistort(xy, dist), dist), xy, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dist", [[0.4, -0.45, 0, 0, 0], [-0.5, 0.6, 0.003, -0.002, -0.3], [0.7, 0.2, 0, 0, -0.4]])
def test_lenses_that_mislead_plain_newton(dist: list[float]):
    """Up to 95 % of the radius at which the lens turns back; started at the pixel, Newton leaves for another root."""
    dist = torch.tensor(dist, dtype=torch.float64)
    lens = dataclasses.replace(make_cameras()[0], dist=dist[None])
    radius = 0.95 * min(float(lens.turning_radius), 1.2) * torch.linspace(0, 1, 40)[:, None, None]
    angle = torch.linspace(0, 6.28, 25)[:, None]
    xy = (radius * torch.cat((angle.cos(), angle.sin()), dim=-1)).double()
    torch.testing.assert_close(undistort(distort(xy, dist), dist), xy, rtol=0, atol=1e-7)


def test_pixels_no_lens_can_produce_stay_finite():
    dist = torch.tensor([-0.4, 0, 0, 0, 0], dtype=torch.float64, requires_grad=True)
    xy = torch.tensor([[0.7, 0], [3, 4]], dtype=torch.float64, requires_grad=True)
    result = undistort(xy, dist)
    result.sum().backward()
    assert result.isfinite().all() and xy.grad.isfinite().all() and dist.grad.isfinite().all()


def test_float32_undistortion_is_good_to_a_hundredth_of_a_pixel():
    cameras = make_cameras()
    pixels = pixel_grid().expand(len(cameras), -1, -1)
    rough = cameras.to(dtype=torch.float32).undistort_pixels(pixels.float())
    assert (rough - cameras.undistort_pixels(pixels)).abs().max() < 0.01


@pytest.mark.parametrize("name", ["webcam", "pincushion"])
def test_undistorted_image_takes_each_pixel_from_where_the_lens_put_it(name: str):
    """Each output pixel's centre goes through our own projection and is looked up by SciPy's bilinear interpolation."""
    camera = make_cameras().select([name]).scaled(0.1)
    width, height = int(camera.width), int(camera.height)
    image = cv2.GaussianBlur(np.random.default_rng(0).random((height, width), np.float32), (0, 0), 3)
    result = undistort_image(image, camera)
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    K = camera.K[0].numpy()
    xy = np.stack(((x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]), axis=-1)
    source = distort(torch.tensor(xy), camera.dist[0]).numpy() * [K[0, 0], K[1, 1]] + K[:2, 2] - 0.5
    expected = map_coordinates(image, [source[..., 1], source[..., 0]], order=1, cval=0.0)
    inside = ((source > 0) & (source < [width - 1, height - 1])).all(-1)
    assert inside.mean() > 0.5
    # OpenCV interpolates in steps of 1/32 of a pixel.
    np.testing.assert_allclose(result[inside], expected[inside], atol=2e-3)
    with pytest.raises(ValueError, match="one camera"):
        undistort_image(image, make_cameras())


# ---- gradients ----


def test_gradients_of_projection():
    cameras = make_cameras()[0:2]
    points = (0.5 * torch.randn(2, 3, dtype=torch.float64)).requires_grad_()
    inputs = [points, *(getattr(cameras, key).clone().requires_grad_() for key in ("K", "R", "t", "dist"))]
    assert torch.autograd.gradcheck(project_points, inputs)


def test_gradients_of_rays():
    """With respect to the pixel and every part of the calibration, through the inverse of the distortion."""
    cameras = make_cameras()[0:2]
    pixels = torch.tensor([[30.0, 700], [1200, 80]]).double().requires_grad_()
    inputs = [pixels, *(getattr(cameras, key).clone().requires_grad_() for key in ("K", "R", "t", "dist"))]
    assert torch.autograd.gradcheck(pixel_rays, inputs)


# ---- resizing, cutting, choosing ----


def test_scaled_camera_looks_at_the_resized_image():
    """A ramp whose value is the pixel coordinate shows, after OpenCV's resize, where each new pixel's centre was."""
    camera = make_cameras()[3].scaled(0.25)
    ramp = np.tile(np.arange(SIZE[0], dtype=np.float32) + 0.5, (SIZE[1], 1))
    small = cv2.resize(ramp, (int(camera.width), int(camera.height)), interpolation=cv2.INTER_AREA)
    full = make_cameras()[3]
    pixel = torch.tensor([[[17 + 0.5, 20 + 0.5]]]).double()
    _, direction = camera.rays(pixel)
    _, expected = full.rays(torch.tensor([[[float(small[20, 17]), 4 * 20.5]]]).double())
    torch.testing.assert_close(direction, expected)


def test_scaled_to_odd_size_uses_the_true_ratio():
    camera = make_cameras()[3].scaled(0.3333)
    assert (int(camera.width), int(camera.height)) == (427, 240)
    assert camera.K[0, 0, 0].item() == pytest.approx(1000 * 427 / 1280)
    assert camera.K[0, 1, 1].item() == pytest.approx(1000 * 240 / 720)


def test_cropped_moves_the_pixels():
    cameras, points = make_cameras(), 0.3 * torch.randn(6, 3, dtype=torch.float64)
    window = cameras.cropped(100, torch.tensor([10, 20, 30, 40]), 200, 150)
    shift = torch.tensor([[100, 10], [100, 20], [100, 30], [100, 40]]).double()
    torch.testing.assert_close(window.project(points)[0], cameras.project(points)[0] - shift[:, None])
    assert window.width.tolist() == [200] * 4 and window.height.tolist() == [150] * 4


def test_choosing_cameras():
    cameras = make_cameras()
    assert cameras.select(["ideal", "webcam"]).names == ("ideal", "webcam")
    assert cameras[-1].names == ("ideal",) and cameras[1:3].names == ("wide", "pincushion")
    torch.testing.assert_close(cameras[[2, 0]].K, cameras.K[[2, 0]])
    with pytest.raises(InputError, match=r"nobody.*expected webcam, wide"):
        cameras.select(["nobody"])
    assert cameras.to(dtype=torch.float32).R.dtype == torch.float32


def test_centres_and_transforms_agree():
    cameras = make_cameras()
    homogeneous = torch.cat((cameras.centres, torch.ones(4, 1).double()), dim=-1)
    at_origin = (cameras.T_cam_world @ homogeneous[..., None])[..., 0]
    torch.testing.assert_close(at_origin, torch.tensor([0, 0, 0, 1.0]).double().expand(4, 4), rtol=0, atol=1e-12)


# ---- cameras.json ----


def test_saved_cameras_come_back(tmp_path: Path):
    offset, fps = torch.tensor([0, 1.5, 0, 0]).double(), torch.tensor([torch.nan, 30, torch.nan, 60]).double()
    cameras = dataclasses.replace(make_cameras(), offset=offset, fps=fps)
    cameras.save(tmp_path / "cameras.json")
    again = Cameras.load(tmp_path / "cameras.json")
    assert again.names == cameras.names
    for key in ("K", "R", "t", "dist", "width", "height", "offset", "fps"):
        torch.testing.assert_close(getattr(again, key), getattr(cameras, key), rtol=0, atol=0, equal_nan=True)


def test_crop_shifts_principal_point_and_size(tmp_path: Path):
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"a": entry(crop=[4, 2])}))
    camera = Cameras.load(path)
    assert camera.K[0, :2, 2].tolist() == [28, 22] and (int(camera.width), int(camera.height)) == (60, 46)
    camera.save(path)
    torch.testing.assert_close(Cameras.load(path).K, camera.K)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"K": [[float("nan"), 0, 32], [0, 500, 24], [0, 0, 1]]}, "K is not finite"),
        ({"t": [0, float("inf"), 0]}, "t is not finite"),
        ({"dist": [0, 0, None, 0, 0]}, "dist is not"),
        ({"dist": [0.1, 0.2]}, r"dist has the wrong shape \(expected \(5,\), found \(2,\)\)"),
        ({"R": (2 * np.eye(3)).tolist()}, "R is not a rotation"),
        ({"R": np.diag([1, 1, -1]).tolist()}, "R is not a rotation.*determinant -1"),
        ({"R": [[1, 0], [0, 1]]}, "R has the wrong shape"),
        ({"K": [[-500, 0, 32], [0, 500, 24], [0, 0, 1]]}, "K is not an intrinsic matrix"),
        ({"K": "none"}, "K is not made of numbers"),
        ({"width": 0}, "impossible width"),
        ({"width": float("nan")}, "impossible width"),
        ({"height": 47.5}, "impossible height"),
        ({"crop": [64, 0]}, "impossible crop"),
        ({"crop": [-1, 0]}, "impossible crop"),
        ({"fps": 0}, "impossible fps"),
        ({"offset": "late"}, "offset is not made of numbers"),
    ],
)
def test_bad_calibration_is_named(tmp_path: Path, changes: dict, message: str):
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"left": entry(), "right": entry(**changes)}))
    with pytest.raises(InputError, match=rf"cameras\.json, camera right: {message}"):
        Cameras.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no camera"),
        ('{"a": 3}', "camera a: not an object"),
        ('{"../a": {}}', "impossible camera name"),
        (json.dumps({"a": {"K": 1}}), "camera a: lacks R"),
        ('{"a": ', "malformed JSON at line 1"),
        ("[]", "not a JSON object"),
    ],
)
def test_bad_calibration_file(tmp_path: Path, text: str, message: str):
    (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Cameras.load(tmp_path / "cameras.json")
