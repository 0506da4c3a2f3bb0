"""Metrics against numbers worked out by hand, and alignment against SciPy."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from avatarpose import metrics

NAN = np.nan


def cross(x: float, y: float) -> np.ndarray:
    """Four joints at +-x on the first axis and +-y on the second."""
    return np.array([[x, 0, 0], [-x, 0, 0], [0, y, 0], [0, -y, 0]], float)


def octahedron(x: float, y: float, z: float) -> np.ndarray:
    return np.concatenate([np.diag([x, y, z]), -np.diag([x, y, z])])


def test_joint_errors_and_mpjpe():
    truth = np.zeros((4, 3))
    predicted = np.array([[0.03, 0.04, 0], [0, 0, 0.1], [NAN] * 3, [0.3, 0, 0]])
    truth[3] = NAN
    # 3-4-5 triangle: 0.05; 0.1; not predicted; no truth.
    np.testing.assert_allclose(metrics.joint_errors(predicted, truth), [0.05, 0.1, NAN, NAN])
    np.testing.assert_allclose(metrics.joint_errors(predicted, truth, missing=0.5), [0.05, 0.1, 0.5, NAN])
    # (0.05 + 0.1) / 2 = 0.075; with the missing one (0.05 + 0.1 + 0.5) / 3 = 0.21666...
    assert metrics.mpjpe(predicted, truth) == pytest.approx(0.075)
    assert metrics.mpjpe(predicted, truth, missing=0.5) == pytest.approx(0.65 / 3)


def test_mpjpe_without_anything_to_compare_is_nan():
    assert np.isnan(metrics.mpjpe(np.full((2, 3), NAN), np.zeros((2, 3))))


def test_mpjpe_does_not_align():
    # A pose moved by 0.1 is wrong by 0.1 everywhere.
    assert metrics.mpjpe(cross(1, 1) + 0.1 * np.array([1, 0, 0]), cross(1, 1)) == pytest.approx(0.1)


def test_pa_mpjpe_forgives_similarity_transforms():
    truth = np.random.default_rng(0).normal(size=(5, 12, 3))
    turn = Rotation.random(5, random_state=1).as_matrix()
    moved = 1.7 * np.einsum("nij,nkj->nki", turn, truth) + [1.0, -2.0, 0.5]
    assert metrics.pa_mpjpe(moved, truth) == pytest.approx(0, abs=1e-12)
    # Without scale: the aligned pose is 1.7 times too large about its centre.
    centred = truth - truth.mean(axis=1, keepdims=True)
    assert metrics.pa_mpjpe(moved, truth, scale="none") == pytest.approx(0.7 * np.linalg.norm(centred, axis=-1).mean())


def test_pa_mpjpe_by_hand():
    # Prediction (+-1, +-2) on truth (+-1, +-1): no turn helps; scale (1 + 2) / (1 + 4) = 0.6 leaves |1 - 0.6| = 0.4 and
    # |1 - 1.2| = 0.2, mean 0.3.
    assert metrics.pa_mpjpe(cross(1, 2), cross(1, 1)) == pytest.approx(0.3)
    # Ratio of norms: sqrt(4 / 10) = 0.6325 leaves 0.3675 and 0.2649, mean 0.31623.
    assert metrics.pa_mpjpe(cross(1, 2), cross(1, 1), scale="norm_ratio") == pytest.approx(0.316228, abs=1e-6)
    # Rigid: 0 and 1, mean 0.5.
    assert metrics.pa_mpjpe(cross(1, 2), cross(1, 1), scale="none") == pytest.approx(0.5)


def test_pa_mpjpe_does_not_mirror_unless_asked():
    truth, mirrored = octahedron(1, 2, 3), octahedron(-1, 2, 3)
    assert metrics.pa_mpjpe(mirrored, truth, reflection=True) == pytest.approx(0, abs=1e-12)
    # The covariance is diag(-2, 8, 18). A proper rotation keeps the two large axes and gives up the small one: R = I,
    # scale (18 + 8 - 2) / (2 + 8 + 18) = 6/7. Errors 1 + 6/7, 2/7, 3/7: mean 18/21 = 6/7.
    assert metrics.pa_mpjpe(mirrored, truth) == pytest.approx(6 / 7)


def test_alignment_agrees_with_scipy():
    rng = np.random.default_rng(3)
    truth, predicted = rng.normal(size=(2, 10, 3))
    start, end = predicted - predicted.mean(0), truth - truth.mean(0)
    turn, _ = Rotation.align_vectors(end, start)
    turned = turn.apply(start)
    expected = (turned * end).sum() / (start**2).sum() * turned + truth.mean(0)
    np.testing.assert_allclose(metrics.procrustes_align(predicted, truth), expected, atol=1e-9)


def test_alignment_uses_the_common_joints_alone():
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(10, 3))
    predicted = Rotation.random(random_state=5).apply(truth) * 0.5 + 1.0
    predicted[2], truth[7] = NAN, NAN
    aligned = metrics.procrustes_align(predicted, truth)
    both = [i for i in range(10) if i not in (2, 7)]
    np.testing.assert_allclose(aligned[both], truth[both], atol=1e-12)
    assert np.isnan(aligned[2]).all()
    # One of nine joints with truth missing at 0.45: 0.05.
    assert metrics.pa_mpjpe(predicted, truth, missing=0.45) == pytest.approx(0.05)


def test_two_joints_cannot_be_aligned():
    truth = np.random.default_rng(6).normal(size=(4, 3))
    predicted = truth.copy()
    predicted[2:] = NAN
    assert metrics.pa_mpjpe(predicted, truth, missing=0.5) == pytest.approx(0.5)


def test_n_mpjpe_by_hand():
    truth = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], float)
    predicted = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0]], float) + 5.0
    # From the root: s = (2 + 1) / (4 + 1) = 0.6; errors 0, |1 - 1.2| = 0.2, |1 - 0.6| = 0.4: mean 0.2.
    assert metrics.n_mpjpe(predicted, truth, root=0) == pytest.approx(0.2)
    # Ratio of norms: s = sqrt(2 / 5) = 0.63246; errors 0, 0.26491, 0.36754: mean 0.210819.
    assert metrics.n_mpjpe(predicted, truth, root=0, scale="norm_ratio") == pytest.approx(0.210819, abs=1e-6)
    # About the mean, twice the size and elsewhere is no error, but turned it is: a quarter turn of the cross swaps its
    # axes, <x, y> = 0, s = 0, so every joint is 1 away.
    assert metrics.n_mpjpe(2 * cross(1, 1) + 3.0, cross(1, 1)) == pytest.approx(0, abs=1e-12)
    assert metrics.n_mpjpe(cross(1, 1)[[2, 3, 1, 0]], cross(1, 1)) == pytest.approx(1.0)


def test_pck3d_by_hand():
    truth = np.zeros((2, 3, 3))
    predicted = truth.copy()
    predicted[0, :, 0] = [0.04, 0.06, 0.2]
    predicted[1, 0, 0], predicted[1, 1], truth[1, 2] = 0.04, NAN, NAN
    # Errors 0.04, 0.06, 0.2, 0.04, missing, no truth: of the five that count 2, 3 and 4 are within 0.05, 0.15, 0.3.
    assert metrics.pck3d(predicted, truth, 0.05) == pytest.approx(2 / 5)
    assert metrics.pck3d(predicted, truth) == pytest.approx(3 / 5)
    assert metrics.pck3d(predicted, truth, 0.3) == pytest.approx(4 / 5)


def test_pcp3d_by_hand():
    # A chain of three limbs, 0.4 m, 0.4 m and 0.6 m long: tolerances 0.2, 0.2, 0.3.
    truth = np.array([[0, 0, 0], [0.4, 0, 0], [0.8, 0, 0], [1.4, 0, 0], [NAN] * 3])
    limbs = [(0, 1), (1, 2), (2, 3), (3, 4)]
    predicted = truth.copy()
    predicted[:4, 1] = [0.0, 0.3, 0.2, 0.35]
    # Means of the ends: 0.15 right, 0.25 wrong, 0.275 right, and no truth.
    np.testing.assert_array_equal(metrics.correct_limbs(predicted, truth, limbs), [1, 0, 1, NAN])
    assert metrics.pcp3d(predicted, truth, limbs) == pytest.approx(2 / 3)
    # Half the tolerance, 0.1, 0.1, 0.15: none.
    assert metrics.pcp3d(predicted, truth, limbs, alpha=0.25) == 0
    # An end not predicted makes both its limbs wrong.
    predicted[2] = NAN
    np.testing.assert_array_equal(metrics.correct_limbs(predicted, truth, limbs), [1, 0, 0, NAN])


def test_nearest_truth():
    truth = np.zeros((2, 3, 3))
    truth[1] += [1.0, 0, 0]
    truth[1, 2] = NAN
    predicted = np.zeros((4, 3, 3))
    predicted[0, :, 0] = 0.1
    predicted[1, :, 0] = 0.7
    predicted[2, :, 0], predicted[2, 0] = 0.9, NAN
    predicted[3] = NAN
    who, errors = metrics.nearest_truth(predicted, truth)
    # 0.1 from the first; 0.3 from the second over its two joints; 0.1 over the one joint both have; nothing.
    assert who.tolist() == [0, 1, 1, -1]
    np.testing.assert_allclose(errors, [0.1, 0.3, 0.1, np.inf])
    # A joint not predicted counts 0.5: (0.5 + 0.1) / 2 = 0.3 from the second.
    who, errors = metrics.nearest_truth(predicted, truth, missing=0.5)
    np.testing.assert_allclose(errors[:3], [0.1, 0.3, 0.3])
    assert who[:3].tolist() == [0, 1, 1]


def test_average_precision_by_hand():
    # Three people. By score: right, wrong (0.2 away), right. Precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3; made
    # monotone 1, 2/3, 2/3: area 1/3 * 1 + 1/3 * 2/3 = 5/9.
    scores, errors, truths = np.array([0.7, 0.9, 0.8]), np.array([0.02, 0.01, 0.2]), np.array([2, 0, 1])
    assert metrics.average_precision(scores, errors, truths, 3, 0.05) == pytest.approx(5 / 9)
    # At 0.25 all are right.
    assert metrics.average_precision(scores, errors, truths, 3, 0.25) == pytest.approx(1.0)
    # Ranked by its own error the wrong one comes last: precision 1, 1, 2/3 gives 2/3, the optimistic reading.
    assert metrics.average_precision(-errors, errors, truths, 3, 0.05) == pytest.approx(2 / 3)


def test_average_precision_counts_a_person_once():
    # The second detection of person 0 is wrong though near: precision 1, 1/2, 2/3 as above over two people,
    # area 1/2 * 1 + 1/2 * 2/3 = 5/6.
    scores, errors, truths = np.array([0.9, 0.8, 0.7]), np.array([0.01, 0.01, 0.01]), np.array([0, 0, 1])
    assert metrics.average_precision(scores, errors, truths, 2, 0.05) == pytest.approx(5 / 6)
    assert metrics.recall(errors, truths, 2) == 1.0


def test_average_precision_of_equal_scores_does_not_depend_on_order():
    errors, truths = np.array([0.01, 0.2, 0.01, 0.3]), np.array([0, 1, 2, -1])
    # All enter together: 2 right of 4, recall 2/3: 2/3 * 1/2 = 1/3 whichever comes first.
    for order in ([0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0]):
        found = metrics.average_precision(np.ones(4), errors[order], truths[order], 3, 0.05)
        assert found == pytest.approx(1 / 3)


def test_detections_of_nobody_and_no_detections():
    scores, errors, truths = np.array([0.9]), np.array([0.01]), np.array([-1])
    assert metrics.average_precision(scores, errors, truths, 1, 0.05) == 0
    assert metrics.recall(errors, truths, 1) == 0
    empty = np.zeros(0)
    assert metrics.average_precision(empty, empty, empty.astype(int), 2, 0.05) == 0
    assert metrics.recall(empty, empty.astype(int), 2) == 0
    assert np.isnan(metrics.average_precision(empty, empty, empty.astype(int), 0, 0.05))


def test_recall_by_hand():
    # Of 4 people: 0 found twice, 1 found at 0.6 only, 2 found at 0.4: 2 / 4.
    errors, truths = np.array([0.1, 0.2, 0.6, 0.4]), np.array([0, 0, 1, 2])
    assert metrics.recall(errors, truths, 4) == 0.5
    assert metrics.recall(errors, truths, 4, threshold=0.7) == 0.75
