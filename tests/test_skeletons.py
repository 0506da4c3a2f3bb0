"""The skeleton registry: orders against the public index tables, conversions against numbers worked out by hand."""

import numpy as np
import pytest
import torch

from avatarpose.skeletons import (
    CONVERSIONS,
    LIMB_JOINTS,
    LIMBS,
    SHELF_LIMBS,
    SKELETONS,
    SMPL24,
    SMPL_PARENTS,
    conversion_matrix,
    convert,
    convert_scores,
    shelf_head,
    skeleton,
)

SIZES = {
    "coco17": 17,
    "smpl24": 24,
    "panoptic15": 15,
    "shelf14": 14,
    "shelf15": 15,
    "body25": 25,
    "body25b": 25,
    "h36m17": 17,
    "skel19": 19,
}


def labelled(name: str) -> np.ndarray:
    """Joint i of the skeleton at (i, 0, 0)."""
    points = np.zeros((SIZES[name], 3))
    points[:, 0] = np.arange(SIZES[name])
    return points


def test_registry_holds_every_skeleton_with_its_size():
    assert {name: len(s) for name, s in SKELETONS.items()} == SIZES


@pytest.mark.parametrize("name", SIZES)
def test_edges_connect_all_joints_and_mirror_onto_themselves(name):
    s = skeleton(name)
    assert len(set(s.joints)) == len(s.joints)
    reached = {0}
    for _ in s.joints:
        reached |= {j for edge in s.edges if reached & set(edge) for j in edge}
    assert reached == set(range(len(s)))
    mirrored = {frozenset((s.flip[a], s.flip[b])) for a, b in s.edges}
    assert mirrored == {frozenset(edge) for edge in s.edges}


@pytest.mark.parametrize("name", SIZES)
def test_flip_is_its_own_inverse_and_keeps_the_middle(name):
    s = skeleton(name)
    assert [s.flip[i] for i in s.flip] == list(range(len(s)))
    for i, joint in enumerate(s.joints):
        assert (s.flip[i] == i) == (not joint.startswith(("left_", "right_")))


def test_coco_pairs():
    assert skeleton("coco17").pairs == ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))


def test_smpl_tree():
    names = SMPL24.joints
    parent_of = {names[child]: names[parent] for child, parent in enumerate(SMPL_PARENTS) if parent >= 0}
    assert parent_of["left_knee"] == "left_hip"
    assert parent_of["right_hand"] == "right_wrist"
    assert parent_of["left_shoulder"] == "left_collar"
    assert parent_of["head"] == "neck"
    assert all(parent < child for child, parent in enumerate(SMPL_PARENTS))


def test_every_skeleton_has_the_limb_joints():
    for s in SKELETONS.values():
        assert len(s.indices(LIMB_JOINTS)) == 12
    assert sorted({joint for limbs in LIMBS.values() for limb in limbs for joint in limb}) == sorted(LIMB_JOINTS)
    assert sum(len(limbs) for limbs in LIMBS.values()) == 8
    assert sum(len(limbs) for limbs in SHELF_LIMBS.values()) == 10


# Index tables of public code: which source joint each target joint is. They pin the orders of both skeletons.
@pytest.mark.parametrize(
    ("source", "target", "table"),
    [
        # 4D Association's reading of OpenPose
        ("body25", "skel19", [8, 1, 9, 12, 0, 2, 5, 10, 13, 17, 18, 3, 6, 11, 14, 4, 7, 19, 22]),
        # AvatarPose
        ("skel19", "panoptic15", [1, 4, 0, 6, 12, 16, 3, 8, 14, 5, 11, 15, 2, 7, 13]),
        # EasyMocap
        ("body25", "panoptic15", [1, 0, 8, 5, 6, 7, 12, 13, 14, 2, 3, 4, 9, 10, 11]),
        ("body25", "shelf14", [11, 10, 9, 12, 13, 14, 4, 3, 2, 5, 6, 7, 1, 0]),
        # OpenPose lists COCO's joints first in BODY_25B
        ("body25b", "coco17", list(range(17))),
        # OpenPose's own COCO reading of BODY_25
        ("body25", "coco17", [0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11]),
    ],
)
def test_conversions_by_index(source, target, table):
    assert convert(labelled(source), source, target)[:, 0].tolist() == table


def test_coco_to_shelf_limbs_by_index():
    # VoxelPose: the first 12 Shelf joints are COCO's [16, 14, 12, 11, 13, 15, 10, 8, 6, 5, 7, 9].
    found = convert(labelled("coco17"), "coco17", "shelf14")[:12, 0]
    assert found.tolist() == [16, 14, 12, 11, 13, 15, 10, 8, 6, 5, 7, 9]


def test_coco_to_shelf_head():
    points = np.zeros((17, 3))
    points[5:7, 2] = 1.4  # shoulders
    points[3:5, 2] = 1.6  # ears
    points[[3, 5], 1], points[[4, 6], 1] = 0.1, -0.1
    # bottom = (1.4 + 1.6) / 2 = 1.5; top = bottom + 2 (1.6 - 1.5) = 1.7; both midway between left and right.
    head = convert(points, "coco17", "shelf14")[12:]
    np.testing.assert_allclose(head, [[0, 0, 1.5], [0, 0, 1.7]], atol=1e-12)


def test_shelf_head_blend():
    points = np.zeros((17, 3))
    points[5:7, 2] = 1.4  # shoulders
    points[3:5, 2] = 1.6  # ears
    points[0] = [0.2, 0.0, 1.6]  # nose, 0.2 before and 0.2 above the shoulders
    # On the line: bottom (0.1, 0, 1.5); top (0.75 * 0.2, 0, 1.4 + 1.5 * 0.2) = (0.15, 0, 1.7).
    # Plain: (0, 0, 1.5) and (0, 0, 1.7). Three quarters and one: (0.075, 0, 1.5), (0.1125, 0, 1.7).
    expected = [[0.075, 0, 1.5], [0.1125, 0, 1.7]]
    np.testing.assert_allclose(shelf_head(points, np.array([0.0, 0.0, 1.0])), expected, atol=1e-12)


def test_coco_to_h36m():
    # Middle of hips 11, 12 -> 11.5; of shoulders 5, 6 -> 5.5; spine (11.5 + 5.5) / 2 = 8.5; eyes 1, 2 -> 1.5; nose 0.
    found = convert(labelled("coco17"), "coco17", "h36m17")[:, 0]
    assert found.tolist() == [11.5, 12, 14, 16, 11, 13, 15, 8.5, 5.5, 0, 1.5, 5, 7, 9, 6, 8, 10]


def test_coco_to_panoptic():
    found = convert(labelled("coco17"), "coco17", "panoptic15")[:, 0]
    assert found.tolist() == [5.5, 0, 11.5, 5, 7, 9, 11, 13, 15, 6, 8, 10, 12, 14, 16]


def test_what_the_source_lacks_is_nan():
    found = convert(labelled("smpl24"), "smpl24", "coco17")
    assert np.isnan(found[:5]).all()
    # COCO's 12 limb joints are SMPL's 16..21 (arms), 1, 2, 4, 5, 7, 8 (legs).
    assert found[5:, 0].tolist() == [16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8]


def test_nan_reaches_only_the_joints_made_of_it():
    points = labelled("coco17")
    points[11] = np.nan  # left hip
    found = convert(points, "coco17", "h36m17")
    names = skeleton("h36m17").joints
    assert {names[i] for i in np.flatnonzero(np.isnan(found).any(-1))} == {"pelvis", "spine", "left_hip"}


@pytest.mark.parametrize(("source", "target"), CONVERSIONS)
def test_weights_sum_to_one_so_that_a_moved_world_gives_moved_joints(source, target):
    sums = conversion_matrix(source, target).sum(axis=1)
    assert all(np.isclose(total, 1.0) or total == 0.0 for total in sums)
    points = np.random.default_rng(0).normal(size=(2, SIZES[source], 3))
    shift = np.array([1.0, 2.0, 3.0])
    moved = convert(points + shift, source, target)
    np.testing.assert_allclose(moved, convert(points, source, target) + shift, atol=1e-12)


@pytest.mark.parametrize(("source", "target"), CONVERSIONS)
def test_conversions_keep_the_sides(source, target):
    points = np.random.default_rng(1).normal(size=(SIZES[source], 3))
    flipped = points[list(skeleton(source).flip)]
    expected = convert(points, source, target)[list(skeleton(target).flip)]
    np.testing.assert_allclose(convert(flipped, source, target), expected)


def test_torch_agrees_with_numpy_and_carries_gradients():
    points = np.random.default_rng(2).normal(size=(3, 17, 3))
    points[0, 4] = np.nan
    tensor = torch.tensor(points, requires_grad=True)
    found = convert(tensor, "coco17", "shelf15")
    np.testing.assert_allclose(found.detach().numpy(), convert(points, "coco17", "shelf15"))
    found[1].sum().backward()
    # Column sums of the weights: each source joint's total share in the target.
    np.testing.assert_allclose(tensor.grad[1, :, 0].numpy(), conversion_matrix("coco17", "shelf15").sum(0))


def test_scores_take_the_least_sure_and_zero_where_absent():
    scores = np.ones((17,), np.float32)
    scores[5], scores[6], scores[11], scores[13] = 0.4, 0.7, 0.9, np.nan
    found = dict(zip(skeleton("body25").joints, convert_scores(scores, "coco17", "body25"), strict=True))
    assert found["neck"] == np.float32(0.4)
    assert found["mid_hip"] == np.float32(0.9)
    assert found["left_knee"] == 0.0
    assert found["left_heel"] == 0.0
    assert found["nose"] == 1.0


def test_messages():
    with pytest.raises(KeyError, match="no conversion smpl24 -> body25"):
        convert(labelled("smpl24"), "smpl24", "body25")
    with pytest.raises(KeyError, match="no skeleton 'coco'"):
        skeleton("coco")
    with pytest.raises(ValueError, match="coco17 has 17 joints"):
        convert(np.zeros((16, 3)), "coco17", "shelf14")
    with pytest.raises(KeyError, match="no joint 'tail'"):
        skeleton("coco17").index("tail")
