"""The volumes of the volumetric estimator against drawn heatmaps and hand-worked geometry."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from avatarpose.cameras import Cameras
from avatarpose.estimate.volumetric.evidence import Gaussians
from avatarpose.estimate.volumetric.volume import (
    PITCH,
    RESOLUTION,
    SIDE,
    Frames,
    Views,
    anchor_volume,
    convert_gaussians,
    feature_volume,
    least_rotation,
    others_volume,
    voxels,
)

SIZE = (640, 480)
UP = torch.tensor([0.0, 0.0, 1.0])


def ring(count: int, distance: float = 3.5, distortion: float = 0.0) -> Cameras:
    """Cameras at 1.2 m around the origin, looking at it, z up."""
    R, t = [], []
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False):
        centre = np.array([distance * np.cos(angle), distance * np.sin(angle), 1.2])
        forward = -centre / np.linalg.norm(centre)
        right = np.cross(forward, [0, 0, 1.0])
        right /= np.linalg.norm(right)
        rotation = np.stack((right, np.cross(forward, right), forward))
        R.append(rotation)
        t.append(-rotation @ centre)
    K = torch.tensor([[500.0, 0, 320], [0, 510, 240], [0, 0, 1]]).repeat(count, 1, 1)
    dist = torch.tensor([distortion, -0.02, 0.001, 0.001, 0.0]) if distortion else torch.zeros(5)
    width, height = (torch.full((count,), size) for size in SIZE)
    R, t = (torch.tensor(np.array(x), dtype=torch.float32) for x in (R, t))
    return Cameras(tuple(f"c{i}" for i in range(count)), K, R, t, dist.repeat(count, 1), width, height)


def random_gaussians(views: int, detections: int, joints: int = 17) -> Gaussians:
    """Peaks somewhere in the images, of all widths and heights, a quarter of them absent."""
    shape = (views, detections, joints)
    spread = 4 + 12 * torch.rand(*shape, 2)
    turn = torch.rand(shape) * np.pi
    cos, sin = turn.cos(), turn.sin()
    a, b = spread[..., 0] ** -2, spread[..., 1] ** -2
    precisions = torch.stack((a * cos**2 + b * sin**2, (a - b) * cos * sin, a * sin**2 + b * cos**2), dim=-1)
    there = torch.rand(shape) > 0.25
    means = torch.rand(*shape, 2) * torch.tensor(SIZE)
    return Gaussians(means, precisions, torch.where(there, 0.1 + 0.9 * torch.rand(shape), 0.0))


def drawn(gaussians: Gaussians) -> torch.Tensor:
    """Heatmaps (V, J, height, width), the value at the centre of each pixel."""
    x, y = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="xy")
    maps = []
    for means, precisions, heights in zip(gaussians.means, gaussians.precisions, gaussians.heights, strict=True):
        dx, dy = x - means[..., 0, None, None], y - means[..., 1, None, None]
        xx, xy, yy = (precisions[..., i, None, None] for i in range(3))
        heat = heights[..., None, None] * torch.exp(-0.5 * (xx * dx**2 + 2 * xy * dx * dy + yy * dy**2))
        maps.append(heat.amax(dim=0))
    return torch.stack(maps)


@pytest.mark.parametrize("distortion", [0.0, 0.1])
def test_features_equal_drawing_and_sampling(distortion: float) -> None:
    cameras, gaussians = ring(4, distortion=distortion), random_gaussians(4, 3)
    pelvis = torch.tensor([[0.1, -0.2, 0.9]])
    frames = Frames.at(pelvis, pelvis + torch.tensor([[0.1, 0.2, 0.45]]), UP)
    points = frames.to_world(voxels()[None])
    found, share = feature_volume(Views.stack([(cameras, gaussians)]), points)[0].split((17, 1))

    pixels, _ = cameras.project(points[0])
    seen = cameras.sees(points[0])
    normalised = 2 * pixels / torch.tensor(SIZE) - 1  # corners of the image at -1 and 1: align_corners=False
    maps = drawn(gaussians)
    sampled = grid_sample(maps, normalised[:, None], align_corners=False, padding_mode="border")[:, :, 0]
    expected = (sampled * seen[:, None]).sum(dim=0) / seen.sum(dim=0).clamp_min(1)
    assert 0.2 < seen.float().mean() < 1  # some voxels are out of some images
    assert expected.max() > 0.3
    torch.testing.assert_close(share[0], seen.float().mean(dim=0))
    # Bilinear sampling between pixels of a Gaussian 4 pixels wide errs by up to an eighth of its curvature: 0.8 %.
    assert (found - expected).abs().max() < 0.012


def test_nothing_shows_behind_a_camera() -> None:
    """A camera inside the volume projects what is behind it through its centre; that must count for nothing."""
    cameras = ring(1, distance=0.5)
    gaussians = Gaussians(
        torch.tensor([320.0, 240.0]).expand(1, 1, 17, 2), torch.tensor([1e-5, 0, 1e-5]).expand(1, 1, 17, 3),
        torch.ones(1, 1, 17),
    )  # fmt: skip
    points = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 2.4]]])  # before it and, point-mirrored, behind it
    found = feature_volume(Views.stack([(cameras, gaussians)]), points)
    assert found[0, 0, 0] > 0.9
    assert found[0, 0, 1] < 1e-9


def test_mean_is_over_the_views_that_see_the_place() -> None:
    cameras = ring(3)
    t = cameras.t.clone()
    t[2, 0] += 50.0  # looks elsewhere
    cameras = dataclasses.replace(cameras, t=t)
    point = torch.zeros(1, 1, 3)
    pixels, _ = cameras.project(point[0])
    heights = torch.tensor([0.8, 0.4, 1.0])[:, None, None].expand(3, 1, 17)
    gaussians = Gaussians(
        pixels[:, :, None].expand(3, 1, 17, 2), torch.tensor([0.01, 0, 0.01]).expand(3, 1, 17, 3), heights
    )
    found = feature_volume(Views.stack([(cameras, gaussians)]), point)
    assert found[0, :17, 0] == pytest.approx(0.6, abs=1e-4)
    assert found[0, 17, 0] == pytest.approx(2 / 3)


def test_padding_of_a_batch_changes_nothing() -> None:
    samples = [(ring(4), random_gaussians(4, 3)), (ring(7), random_gaussians(7, 1))]
    points = voxels()[None] + torch.tensor([[[0.0, 0.1, 0.6]], [[0.3, 0.0, 0.8]]])
    together = feature_volume(Views.stack(samples), points)
    for i, sample in enumerate(samples):
        alone = feature_volume(Views.stack([sample]), points[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=0)


def test_least_rotation() -> None:
    a = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    b = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=-1)
    R = least_rotation(a, b)
    torch.testing.assert_close((R @ a[..., None])[..., 0], b)
    torch.testing.assert_close(R @ R.mT, torch.eye(3, dtype=torch.float64).expand(50, 3, 3))
    assert torch.linalg.det(R) == pytest.approx(1.0)
    angle = torch.acos(((R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1))
    torch.testing.assert_close(angle, torch.acos((a * b).sum(-1)))
    opposite = least_rotation(a, -a)
    torch.testing.assert_close((opposite @ a[..., None])[..., 0], -a)
    assert torch.linalg.det(opposite) == pytest.approx(1.0)


def test_volume_stands_on_pelvis_and_neck() -> None:
    pelvis, neck = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[1.4, 2.0, 0.8]])  # bent over
    frames = Frames.at(pelvis, neck, UP)
    local = frames.to_volume(torch.stack((pelvis, neck), dim=1))[0]
    torch.testing.assert_close(local, torch.tensor([[0.0, 0, 0], [0, 0, 0.5]]), atol=1e-6, rtol=0)
    points = torch.randn(1, 9, 3)
    torch.testing.assert_close(frames.to_volume(frames.to_world(points)), points, atol=1e-5, rtol=0)
    upright = Frames.at(pelvis, pelvis + UP, UP)
    torch.testing.assert_close(upright.R_world_volume[0], torch.eye(3))  # the world's azimuth is kept
    sideways = torch.tensor([0.0, 1.0, 0.0])
    lying = Frames.at(pelvis, pelvis + sideways, sideways)  # a world whose y is up
    torch.testing.assert_close(lying.to_world(torch.tensor([[[0.0, 0, 1]]]))[0, 0], pelvis[0] + sideways)


def test_voxels_reach_the_faces() -> None:
    grid = voxels().reshape(RESOLUTION, RESOLUTION, RESOLUTION, 3)
    assert grid[0, 0, 0].tolist() == [-SIDE / 2] * 3
    assert grid[-1, 0, 0].tolist() == [SIDE / 2, -SIDE / 2, -SIDE / 2]
    assert (grid[0, 0, 1] - grid[0, 0, 0]).tolist() == pytest.approx([0, 0, PITCH])


def test_anchor_volumes() -> None:
    grid = voxels()
    own = torch.stack((grid[1234], torch.tensor([0.3, 0.1, 0.2])))[None]
    heat = anchor_volume(own, 0.05)
    assert heat[0, 0, 1234] == pytest.approx(1)
    assert heat[0, 0, 1235] == pytest.approx(float(np.exp(-0.5 * (PITCH / 0.05) ** 2)), rel=1e-3)
    nobody = torch.full((1, 1, 2, 3), torch.nan)
    assert others_volume(nobody, 0.05).abs().max() < 1e-9
    two = torch.cat((own[:, None], own[:, None] + 0.5, nobody), dim=1)
    expected = torch.maximum(heat, anchor_volume(own + 0.5, 0.05))
    torch.testing.assert_close(others_volume(two, 0.05), expected)


def test_other_skeletons_take_their_peaks_from_coco() -> None:
    gaussians = random_gaussians(2, 3)
    other = convert_gaussians(gaussians, "panoptic15")
    assert other.means.shape == (2, 3, 15, 2)
    both = (gaussians.heights[..., 5] > 0) & (gaussians.heights[..., 6] > 0)
    assert both.any() and not both.all()
    neck = gaussians.means[..., 5:7, :].mean(dim=-2)
    torch.testing.assert_close(other.means[..., 0, :][both], neck[both])
    torch.testing.assert_close(other.heights[..., 0], gaussians.heights[..., 5:7].amin(dim=-1))
    torch.testing.assert_close(other.means[..., 5, :], gaussians.means[..., 9, :] * (other.heights[..., 5:6] > 0))
