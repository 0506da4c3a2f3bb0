"""2D evidence: size and width of detections, peaks of heatmap files, and what is refused."""

import numpy as np
import pytest
import torch
from test_estimate import STANDING, ring

from avatarpose.errors import InputError
from avatarpose.estimate.volumetric.evidence import (
    Gaussians,
    complete_sizes,
    find_peaks,
    gaussians_from_heatmaps,
    gaussians_from_keypoints,
    pixels_per_metre,
)


def heatmaps_of(
    gaussians: Gaussians, view: int, size: tuple[int, int], stride: float, origin: np.ndarray
) -> np.ndarray:
    """Heatmaps (17, h, w) by the definition: the highest Gaussian at the centre of each cell."""
    x = origin[0] + stride * (np.arange(size[1]) + 0.5)
    y = origin[1] + stride * (np.arange(size[0]) + 0.5)
    u = np.stack(np.meshgrid(x, y), axis=-1)[None, None] - gaussians.means[view].numpy()[:, :, None, None]
    xx, xy, yy = np.moveaxis(gaussians.precisions[view].numpy()[:, :, None, None], -1, 0)
    square = xx * u[..., 0] ** 2 + 2 * xy * u[..., 0] * u[..., 1] + yy * u[..., 1] ** 2
    return (gaussians.heights[view].numpy()[:, :, None, None] * np.exp(-0.5 * square)).max(axis=0)


def moved(x: float, y: float) -> np.ndarray:
    """Joints (17, 3) of somebody standing there."""
    return STANDING + np.array([x, y, 0.0])


def detected(people: np.ndarray, cameras) -> np.ndarray:
    """Exact detections (C, P, 17, 3) with score 0.9."""
    pixels, _ = cameras.project(torch.tensor(people))
    return np.concatenate([pixels.numpy(), np.full((*pixels.shape[:-1], 1), 0.9)], axis=-1)


def test_width_is_the_persons_size_in_the_image():
    near, far = moved(0.8, 0.0), moved(-1.0, 0.5)
    cameras = ring(4)
    rows = detected(np.stack([near, far]), cameras)
    gaussians = gaussians_from_keypoints(rows, sigma_metres=0.07)
    _, depth = cameras.project(torch.tensor(np.stack([near, far]).mean(axis=1)))
    expected = 0.07 * 500.0 / depth.numpy()  # sigma = size at the person in pixels; focal length 500
    sigma = gaussians.precisions[..., 0].rsqrt().numpy()
    np.testing.assert_allclose(sigma, np.broadcast_to(expected[..., None], sigma.shape), rtol=0.15)
    np.testing.assert_allclose(gaussians.precisions[..., 1], 0)
    np.testing.assert_allclose(gaussians.means, rows[..., :2], rtol=1e-6)
    assert (gaussians.heights == np.float32(0.9)).all() and gaussians.means.dtype == torch.float32


def test_size_withstands_foreshortening_and_one_wrong_joint():
    rows = detected(STANDING[None], ring(1))[0, 0]
    size = pixels_per_metre(rows)
    lying = rows.copy()
    lying[13:17, :2] = rows[[11, 12, 11, 12], :2]  # the legs point at the camera
    wrong = rows.copy()
    wrong[10, :2] += 400  # one wrist far away lengthens one limb
    np.testing.assert_allclose([pixels_per_metre(lying), pixels_per_metre(wrong)], size, rtol=0.15)
    few = np.full_like(rows, np.nan)
    few[[5, 7]] = rows[[5, 7]]
    assert np.isnan(pixels_per_metre(few))


def test_unknown_sizes_come_from_the_view():
    sizes = np.array([[[100.0, np.nan], [120.0, 140.0]], [[np.nan, np.nan], [np.nan, 50.0]], [[np.nan] * 2] * 2])
    filled = complete_sizes(sizes)  # (views, frames, detections)
    np.testing.assert_array_equal(filled[0], [[100, 100], [120, 140]])  # the other detection of the frame
    np.testing.assert_array_equal(filled[1], [[50, 50], [50, 50]])  # the frame's, else the other frame's
    np.testing.assert_array_equal(filled[2], 200)


def test_absent_joints_and_nobody():
    rows = detected(STANDING[None], ring(2))
    rows[0, 0, 3], rows[1, 0, 4, 2] = np.nan, 0.05
    gaussians = gaussians_from_keypoints(rows)
    for view, joint in ((0, 3), (1, 4)):
        assert gaussians.heights[view, 0, joint] == 0 and (gaussians.means[view, 0, joint] == 0).all()
        assert gaussians.precisions[view, 0, joint].tolist() == [1, 0, 1]
    assert (gaussians.heights > 0).sum() == 2 * 17 - 2
    nobody = gaussians_from_keypoints(np.zeros((2, 0, 17, 3)))
    assert nobody.heights.shape == (2, 1, 17) and not nobody.heights.any()


def test_peaks_of_drawn_heatmaps_are_the_gaussians(tmp_path):
    """Gaussians drawn as float16 and found again: place within a tenth of a cell, width within 10 percent."""
    cameras = ring(3)
    people = np.stack([moved(0.9, 0.0), moved(-0.9, 0.3)])
    drawn = gaussians_from_keypoints(detected(people, cameras))
    stride, origin = 4.0, np.array([8.0, -4.0])
    paths = []
    for view in range(3):
        paths.append(tmp_path / f"{view}.npz")
        maps = heatmaps_of(drawn, view, (120, 160), stride, origin)
        np.savez(paths[-1], heatmaps=maps.astype(np.float16), stride=np.float32(stride), origin=origin)
    found = gaussians_from_heatmaps(paths, cameras.names, [0, 0, 0])
    assert not found.rows_are_people and found.means.shape == (3, 10, 17, 2)
    for view, person, joint in np.ndindex(3, 2, 17):
        other = drawn.means[view, 1 - person, joint] - drawn.means[view, person, joint]
        sigma = drawn.precisions[view, person, joint, 0].rsqrt()
        if other.norm() < 4 * sigma:
            continue  # the two melt into one peak, or shift each other
        away = (found.means[view, :, joint] - drawn.means[view, person, joint]).norm(dim=-1)
        away[found.heights[view, :, joint] == 0] = torch.inf
        nearest = int(away.argmin())
        assert away[nearest] < 0.1 * stride
        width = found.precisions[view, nearest, joint, 0].rsqrt()
        assert abs(width / sigma - 1) < 0.1 and found.heights[view, nearest, joint] > 0.8


def test_peaks_are_bounded_ranked_and_counted():
    maps = np.zeros((17, 40, 40), np.float32)
    places = [(3 * i + 2, 3 * i + 2) for i in range(12)]
    for i, (row, column) in enumerate(places):
        maps[5, row, column] = 0.05 + 0.07 * i  # single cells: narrower than any width allowed
    maps[6] = 0.5  # flat: one peak, as wide as allowed
    means, precisions, heights = find_peaks(maps, np.array([2.0, 2.0]), np.array([0.0, 0.0]))
    np.testing.assert_allclose(heights[:, 5], 0.05 + 0.07 * np.arange(11, 1, -1), rtol=1e-6)  # ten, highest first
    np.testing.assert_allclose(means[0, 5], 2.0 * (np.array(places[11]) + 0.5))
    np.testing.assert_allclose(precisions[0, 5], [1.0, 0.0, 1.0], atol=1e-6)  # half a cell of 2 pixels: sigma 1
    assert (heights[:, 6] > 0).sum() == 1
    np.testing.assert_allclose(precisions[0, 6, 0], 1 / 12.0**2)  # six cells of 2 pixels
    assert not heights[:, 0].any() and (precisions[:, 0] == [1, 0, 1]).all()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"heatmaps": np.zeros((17, 8), np.float16)}, "wrong shape or type"),
        ({"heatmaps": np.zeros((15, 8, 8), np.float16)}, "wrong shape or type"),
        ({"heatmaps": np.zeros((17, 8, 8), np.int64)}, "wrong shape or type"),
        ({"heatmaps": np.full((17, 8, 8), np.nan, np.float16)}, "not finite"),
        ({"stride": np.float32(0)}, "impossible stride"),
        ({"origin": np.zeros(3)}, "impossible origin"),
        ({"origin": None}, "lacks origin"),
        (None, "no 2D heatmaps"),
    ],
)
def test_bad_heatmap_files_are_named(tmp_path, change, problem):
    path = tmp_path / "000007.npz"
    if change is not None:
        arrays = {"heatmaps": np.zeros((17, 8, 8), np.float16), "stride": np.float32(4), "origin": np.zeros(2)} | change
        np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=problem) as error:
        gaussians_from_heatmaps([path], ("cam03",), [7])
    for part in (str(path), "camera cam03", "frame 7"):
        assert part in str(error.value)


def test_damaged_heatmap_file_is_named(tmp_path):
    path = tmp_path / "000007.npz"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match=r"000007\.npz, camera cam03, frame 7"):
        gaussians_from_heatmaps([path], ("cam03",), [7])
