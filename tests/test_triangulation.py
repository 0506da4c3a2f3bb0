"""Rays, distances and robust triangulation, against numbers worked out by hand and OpenCV's triangulation."""

import cv2
import numpy as np
import pytest
import torch

from avatarpose.cameras import Cameras
from avatarpose.estimate.affinity import MIRRORED, Rays, agreement, closest_points, point_ray_distance, support
from avatarpose.estimate.births import plausible
from avatarpose.estimate.config import TriangulationConfig
from avatarpose.estimate.joints import exchange
from avatarpose.estimate.matching import assign
from avatarpose.estimate.triangulation import hypotheses, refine, solve

X, Y, Z = np.eye(3)


def aimed(origins: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Unit directions (N, C, 3) from each origin to each target (N, 3)."""
    direction = target[:, None] - origins
    return direction / np.linalg.norm(direction, axis=-1, keepdims=True)


def test_distance_of_a_point_from_a_ray_by_hand():
    # The ray is the x axis; (5, 3, 4) is sqrt(9 + 16) = 5 from it; a point behind the origin sees no ray.
    assert point_ray_distance(np.array([5.0, 3.0, 4.0]), np.zeros(3), X) == pytest.approx(5.0)
    assert point_ray_distance(np.array([-1.0, 0.0, 0.0]), np.zeros(3), X) == np.inf
    assert np.isnan(point_ray_distance(np.full(3, np.nan), np.zeros(3), X))


def test_agreement_by_hand():
    # 1 - (0.05 / 0.1)^2 = 0.75; the radius is neutral; beyond it the floor is -1/2; unknown says nothing.
    values = agreement(np.array([0.0, 0.05, 0.1, 3.0, np.inf, np.nan]), 0.1)
    np.testing.assert_allclose(values, [1.0, 0.75, 0.0, -0.5, -0.5, 0.0], atol=1e-12)


def test_closest_points_of_two_skew_rays_by_hand():
    # One ray along x at height 0; one along y through (2, -1, 0.1): they pass at (2, 0), 0.1 apart.
    middle, gap = closest_points(np.zeros(3), X, np.array([2.0, -1.0, 0.1]), Y, min_angle=5.0)
    np.testing.assert_allclose(middle, [2.0, 0.0, 0.05])
    assert gap == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("origin", "direction"),
    [((2, 1, 0), Y), ((0, 1, 0), X), ((9, 0, 0), -X), ((2, -1, 0), np.zeros(3))],
    ids=["they meet behind", "parallel", "opposite", "not detected"],
)
def test_closest_points_refuses(origin, direction):
    middle, gap = closest_points(np.zeros(3), X, np.array(origin, float), direction, min_angle=5.0)
    assert np.isnan(middle).all() and np.isnan(gap)


def test_solve_weighs_three_perpendicular_rays_by_hand():
    # Rays along y and z through (0, ., .) and (1, ., .): only they see x, with weights 1 and 3, so x = 3/4. The first
    # has z = 0 and the second y = 0; nobody else sees those.
    origins = np.array([[0.0, -5.0, 0.0], [1.0, 0.0, -5.0]])
    points, normal = solve(origins, np.stack([Y, Z])[None], np.array([[1.0, 3.0]]))
    np.testing.assert_allclose(points[0], [0.75, 0.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(normal[0], np.diag([4.0, 3.0, 1.0]))


def test_solve_needs_two_rays_that_are_not_parallel():
    origins = np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    points, _ = solve(origins, np.stack([[X, X], [X, Z]]), np.array([[1.0, 1.0], [1.0, 0.0]]))
    assert np.isnan(points).all()


def ring(count: int, radius: float = 4.0, height: float = 1.5) -> Cameras:
    """Cameras on a ring looking at (0, 0, 1), with a lens that is not ideal."""
    angles = 2 * np.pi * np.arange(count) / count
    centres = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(count, height)], axis=-1)
    forward = np.array([0, 0, 1.0]) - centres
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.cross(forward, Z)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    R = np.stack([right, np.cross(forward, right), forward], axis=1)
    K = np.array([[600.0, 0, 320], [0, 600.0, 240], [0, 0, 1]])
    return Cameras(
        names=tuple(f"cam{c:02d}" for c in range(count)),
        K=torch.tensor(K).repeat(count, 1, 1), R=torch.tensor(R),
        t=torch.tensor(-np.einsum("cij,cj->ci", R, centres)),
        dist=torch.tensor([[-0.1, 0.02, 0.001, -0.001, 0.0]] * count, dtype=torch.float64),
        width=torch.full((count,), 640), height=torch.full((count,), 480),
    )  # fmt: skip


def test_triangulation_of_distorted_pixels_agrees_with_opencv():
    cameras = ring(5)[[0, 1]]
    truth = np.random.default_rng(0).uniform([-0.8, -0.8, 0.2], [0.8, 0.8, 1.8], (17, 3))
    pixels, _ = cameras.project(torch.tensor(truth))
    keypoints = np.concatenate([pixels.numpy(), np.ones((2, 17, 1))], axis=-1)[:, None, None]
    rays = Rays.from_keypoints(cameras, keypoints)
    ours, _ = solve(rays.origins, np.moveaxis(rays.directions[:, 0, 0], 0, 1), np.ones((17, 2)))
    ideal = cameras.undistort_pixels(pixels).numpy()
    P = (cameras.K @ torch.cat([cameras.R, cameras.t[..., None]], dim=-1)).numpy()
    theirs = cv2.triangulatePoints(P[0], P[1], ideal[0].T, ideal[1].T)
    np.testing.assert_allclose(ours, (theirs[:3] / theirs[3]).T, atol=1e-6)
    np.testing.assert_allclose(ours, truth, atol=1e-6)


def test_absent_and_unsure_joints_cast_no_ray():
    keypoints = np.full((2, 1, 1, 17, 3), 100.0)
    keypoints[..., 2] = 0.8
    keypoints[0, 0, 0, 3] = np.nan
    keypoints[1, 0, 0, 4, 2] = 0.05
    rays = Rays.from_keypoints(ring(2), keypoints, min_score=0.1)
    assert rays.scores[0, 0, 0, 3] == 0 and not rays.directions[0, 0, 0, 3].any()
    assert rays.scores[1, 0, 0, 4] == 0 and (rays.scores > 0).sum() == 2 * 17 - 2


ORIGINS = np.array([[4.0, 0, 1], [0, 4, 1], [-4, 0.5, 1], [0.5, -4, 1], [3, 3, 2]])


def test_two_views_that_saw_somebody_else_are_dropped_for_that_joint_alone():
    target = np.array([[0.0, 0, 1], [0.3, 0.1, 1.4]])
    directions = aimed(ORIGINS, target)
    directions[0, :2] = aimed(ORIGINS, target + 0.5)[0, :2]
    scores = np.ones((2, 5))
    points, value = hypotheses(ORIGINS, directions, scores, 0.1, 5.0)
    np.testing.assert_allclose(points[:, 0], target, atol=1e-9)
    np.testing.assert_allclose(value[:, 0], [3.0, 5.0], atol=1e-9)
    np.testing.assert_allclose(points[0, 1], target[0] + 0.5, atol=1e-9)  # the runner-up is the other person's joint
    found = refine(points[:, 0], ORIGINS, directions, scores, 0.1, 0.08, 5.0)
    np.testing.assert_allclose(found.points, target, atol=1e-9)
    assert found.inliers.tolist() == [[False, False, True, True, True], [True] * 5]


def test_refinement_from_a_wrong_start_reaches_the_least_squares_solution():
    rng = np.random.default_rng(1)
    target = rng.uniform(-0.5, 0.5, (50, 3)) + Z
    directions = aimed(ORIGINS, target)
    directions += rng.normal(0, 0.005, directions.shape)
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    found = refine(target + 0.03, ORIGINS, directions, np.ones((50, 5)), 0.3, 0.2, 5.0, iterations=30)
    plain, _ = solve(ORIGINS, directions, np.ones((50, 5)))
    error = np.linalg.norm(found.points - target, axis=-1)
    assert error.mean() < 1.1 * np.linalg.norm(plain - target, axis=-1).mean()
    # The expected deviation is of one axis, the error of three; the noise here is about 2 cm, near the usual 3.5 cm.
    assert 0.3 < np.sqrt((error**2).mean() / 3) / np.median(found.deviation) < 1.5


def test_joints_of_two_views_are_dropped_when_the_views_disagree_or_look_along_one_line():
    two = ORIGINS[:2]
    target = np.array([[0.0, 0, 1]] * 2)
    directions = aimed(two, target)
    directions[1, 0] = aimed(two, target + 0.19 * Z)[1, 0]  # rays 0.19 apart: 0.095 each, within 0.12, above 0.08
    found = refine(target + 0.09 * Z * [[0], [1]], two, directions, np.ones((2, 2)), 0.12, 0.08, 5.0)
    np.testing.assert_allclose(found.points[0], target[0], atol=1e-9)
    assert np.isnan(found.points[1]).all() and not found.inliers[1].any() and found.deviation[1] == np.inf
    opposite = np.array([[4.0, 0, 1], [-4, 0, 1]])
    found = refine(target[:1], opposite, aimed(opposite, target[:1] + 0.01 * Y), np.ones((1, 2)), 0.12, 0.08, 5.0)
    assert np.isnan(found.points).all()


def test_more_views_and_wider_angles_make_a_surer_joint():
    target = np.array([[0.0, 0, 1]])
    deviation = [
        refine(target, o, aimed(o, target), np.ones((1, len(o))), 0.1, 0.1, 5.0).deviation[0]
        for o in (ORIGINS, ORIGINS[:3], ORIGINS[:2], ORIGINS[[0, 4]])
    ]
    assert deviation == sorted(deviation)


def test_rays_under_the_other_sides_name_are_passed_on():
    rng = np.random.default_rng(2)
    joints = rng.uniform(-0.5, 0.5, (1, 1, 17, 3)) + Z
    directions = aimed(ORIGINS, joints.reshape(-1, 3)).reshape(1, 1, 17, 5, 3)
    swapped = directions.copy()
    swapped[0, 0, :, 1] = directions[0, 0, MIRRORED, 1]
    after, scores = exchange(ORIGINS, swapped, np.ones((1, 1, 17, 5)), joints, TriangulationConfig())
    np.testing.assert_allclose(after, directions)
    assert scores[0, 0, 0].tolist() == [1.0] * 5 and scores[0, 0, 15].tolist() == [1.0, 0.5, 1.0, 1.0, 1.0]


def test_assignment_is_one_to_one_and_greatest_in_total():
    # Alone, both people would take row 0; 5 + 4 > 6 + 1. The second camera has too little support for anybody.
    value = np.array([[[6.0, 5.0], [0.5, 0.2]], [[4.0, 1.0], [0.1, 0.9]]])
    assert assign(value, 1.0).tolist() == [[1, 0], [-1, -1]]


def test_support_sums_scores_of_agreeing_joints():
    points = np.full((1, 17, 3), np.nan)
    points[0, :3] = [[0, 0, 1], [0, 0, 1.2], [0, 0, 1.4]]
    directions = np.zeros((5, 1, 17, 3))
    directions[:, 0, :3] = np.moveaxis(aimed(ORIGINS, points[0, :3]), 0, 1)
    directions[0, 0, 2] = -directions[0, 0, 2]
    scores = np.zeros((5, 1, 17))
    scores[:, 0, :3] = [0.9, 0.8, 0.4]
    frame = Rays(ORIGINS, directions[:, None], scores[:, None]).frame(0)
    np.testing.assert_allclose(support(points, frame, 0.1)[0, :, 0], [0.9 + 0.8 - 0.2, 2.1, 2.1, 2.1, 2.1])


def test_bone_lengths_tell_people_from_accidents():
    points = np.full((2, 17, 3), np.nan)
    points[:, [5, 7, 9]] = [[0, 0, 1.4], [0, 0, 1.1], [0, 0, 0.85]]
    points[1, 9] = [0, 1.0, 0.85]
    assert plausible(points).tolist() == [1.0, pytest.approx(2 / 3)]
