"""Joints drawn to the rays of their peaks: exact rays, other people's, none, one, and the weights by hand."""

import numpy as np
import pytest
import torch
from test_estimate import STANDING, ring

from avatarpose.cameras import Cameras
from avatarpose.estimate.affinity import point_ray_distance
from avatarpose.estimate.volumetric.config import PolishConfig
from avatarpose.estimate.volumetric.evidence import Gaussians
from avatarpose.estimate.volumetric.polish import polish

CONFIG = PolishConfig(radius=0.1, ray_spread=0.025, network_spread=0.025)


def peaks(cameras: Cameras, people: np.ndarray, height: float = 1.0) -> Gaussians:
    """Exact peaks of people (P, 17, 3), a row a person."""
    means, _ = cameras.project(torch.tensor(people))
    precisions = torch.tensor([0.01, 0.0, 0.01], dtype=torch.float64).expand(*means.shape[:-1], 3)
    return Gaussians(means, precisions, torch.full(means.shape[:-1], height, dtype=torch.float64))


def without(gaussians: Gaussians, absent: np.ndarray) -> Gaussians:
    """The same less the peaks where `absent` (V, D, 17)."""
    heights = torch.where(torch.tensor(absent), 0.0, gaussians.heights)
    means = torch.where(torch.tensor(absent)[..., None], 0.0, gaussians.means)
    return Gaussians(means, gaussians.precisions, heights)


def displaced(people: np.ndarray, distance: float = 0.04) -> np.ndarray:
    """The joints, each moved by `distance`, metres, in a direction of its own."""
    away = np.random.default_rng(0).normal(size=people.shape)
    return people + distance * away / np.linalg.norm(away, axis=-1, keepdims=True)


def test_exact_rays_put_displaced_joints_back() -> None:
    """Of n views across a joint's displacement, 2 n / 3 of it are seen on average: 1 part in 1 + 2 n / 3 is left."""
    cameras, truth = ring(6), STANDING[None]
    start = displaced(truth)
    found, support = polish(start, peaks(cameras, truth), cameras, CONFIG)
    error = np.linalg.norm(found - truth, axis=-1)
    assert error.mean() == pytest.approx(0.04 / 5, rel=0.2) and error.max() < 0.012
    assert support.shape == (1, 17) and support.min() > 5.5 and support.max() <= 6
    sure = PolishConfig(radius=0.1, network_spread=1.0)
    found, support = polish(start, peaks(cameras, truth), cameras, sure)
    np.testing.assert_allclose(found, truth, atol=2e-4)  # (s_ray / s_net)^2 / n of the displacement are left
    assert support.min() > 5.99


def test_rays_outside_the_radius_do_nothing() -> None:
    cameras = ring(5)
    people = STANDING + np.array([[0.0, 0, 0], [0.35, 0.3, 0]])[:, None]
    alone = peaks(cameras, people)
    hidden = np.zeros(alone.heights.shape, bool)
    hidden[:, 0] = True
    start = displaced(people[:1], 0.01)
    found, support = polish(start, without(alone, hidden), cameras, CONFIG)
    origins, directions = cameras.rays(alone.means)
    distance = point_ray_distance(start[0], origins[:, 1, :1].numpy(), directions[:, 1].numpy())  # (V, 17)
    far = distance.min(axis=0) >= CONFIG.radius
    assert 5 < far.sum() < 17
    np.testing.assert_allclose(found[0, far], start[0, far], rtol=1e-12)
    assert (support[0, far] == 0).all() and (support[0, ~far] > 0).all()


def test_each_view_gives_its_nearest_peak() -> None:
    """Of two people 12 cm apart each joint is drawn to its own, although both rays are near enough to draw."""
    cameras = ring(6)
    people = STANDING + np.array([[0.0, 0, 0], [0.0, 0.0, 0.12]])[:, None]
    found, support = polish(displaced(people, 0.03), peaks(cameras, people), cameras, CONFIG)
    assert np.linalg.norm(found - people, axis=-1).max() < 0.01
    assert support.max() <= 6


def test_a_low_peak_does_not_stand_before_a_high_one() -> None:
    """Somebody else's, which counts a tenth, may lie nearer to where the joint is believed to be."""
    cameras = ring(6)
    people = STANDING + np.array([[0.0, 0, 0], [0.0, 0.0, 0.08]])[:, None]
    both = peaks(cameras, people)
    heights = both.heights.clone()
    heights[:, 1] *= 0.1
    start = people[:1] + np.array([0.0, 0.0, 0.06])
    found, _ = polish(start, Gaussians(both.means, both.precisions, heights), cameras, CONFIG)
    other = np.zeros(both.heights.shape, bool)
    other[:, 1] = True
    alone, _ = polish(start, without(both, other), cameras, CONFIG)
    np.testing.assert_allclose(found, alone, atol=1e-12)


def test_without_rays_joints_stay() -> None:
    cameras, truth = ring(4), STANDING[None]
    all_of_them = np.ones((4, 1, 17), bool)
    start = displaced(truth)
    found, support = polish(start, without(peaks(cameras, truth), all_of_them), cameras, CONFIG)
    np.testing.assert_allclose(found, start, rtol=1e-12)
    assert (support == 0).all()


def test_one_ray_moves_a_joint_only_across_itself() -> None:
    cameras, truth = ring(4), STANDING[None]
    hidden = np.ones((4, 1, 17), bool)
    hidden[2] = False
    start = displaced(truth)
    found, support = polish(start, without(peaks(cameras, truth), hidden), cameras, CONFIG)
    along = truth[0] - cameras.centres[2].numpy()
    along /= np.linalg.norm(along, axis=-1, keepdims=True)
    moved = found[0] - start[0]
    np.testing.assert_allclose((moved * along).sum(axis=-1), 0.0, atol=1e-9)
    before, after = (np.linalg.norm(np.cross(x - truth[0], along), axis=-1) for x in (start[0], found[0]))
    assert (after < 0.75 * before).all() and (after > 0.45 * before).all()  # half way at full weight
    assert ((support > 0) & (support <= 1)).all()


def test_weights_by_hand() -> None:
    """A joint 5 cm beside the one ray, of height 0.8, radius 10 cm: (1 - 1/4)^2 0.8^2 = 0.36 of a full ray's weight."""
    camera = Cameras(
        ("c",), torch.tensor([[[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]]), torch.eye(3)[None], torch.zeros(1, 3),
        torch.zeros(1, 5), torch.tensor([640]), torch.tensor([480]),
    )  # fmt: skip
    means = torch.tensor([320.0, 240.0]).expand(1, 1, 1, 2)
    ray = Gaussians(means, torch.tensor([1.0, 0, 1]).expand(1, 1, 1, 3), torch.full((1, 1, 1), 0.8))
    joint = np.array([[[0.05, 0.0, 2.0]]])
    once = PolishConfig(radius=0.1, ray_spread=0.02, network_spread=0.02, iterations=1)
    found, support = polish(joint, ray, camera, once)
    np.testing.assert_allclose(found[0, 0], [0.05 / 1.36, 0, 2.0], atol=1e-9)
    assert support[0, 0] == pytest.approx(0.36)
    # A network twice as unsure: its precision counts a quarter.
    unsure = PolishConfig(radius=0.1, ray_spread=0.02, network_spread=0.04, iterations=1)
    found, _ = polish(joint, ray, camera, unsure)
    np.testing.assert_allclose(found[0, 0], [0.05 * 0.25 / (0.25 + 0.36), 0, 2.0], atol=1e-9)
    # Many times: the place x where x (1 + 0.64 (1 - (x / 0.1)^2)^2) = 0.05.
    often = PolishConfig(radius=0.1, ray_spread=0.02, network_spread=0.02, iterations=30)
    x = polish(joint, ray, camera, often)[0][0, 0, 0]
    assert x * (1 + 0.64 * (1 - (x / 0.1) ** 2) ** 2) == pytest.approx(0.05, rel=1e-6)
