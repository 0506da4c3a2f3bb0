"""Skeleton registry: joint names, limbs, left-right pairs, and the named conversions between them.

Everything is data. A conversion says, for each joint of the target, which joints of the source it is a weighted sum of;
a joint that the source cannot give is left out of the table and comes back NaN.

Sources of the orders: COCO-17 (cocodataset.org, person keypoints); SMPL-24 (Loper et al. 2015); Panoptic-15 (CMU
Panoptic Studio, the order of VoxelPose); Shelf-14 (Belagiannis et al. 2014), Shelf-15 adds the middle of the hips;
BODY_25 and BODY_25B (OpenPose); Human3.6M-17 (the order of VideoPose3D); skel19 (4D Association, Zhang et al. 2020).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class Skeleton:
    """An ordered set of joints.

    Attributes:
        name: key in `SKELETONS`.
        joints: joint names in order; `left_` and `right_` are the person's own sides.
        edges: pairs of joint indices to draw as bones, together connecting all joints.
        root: index of the joint that root-relative metrics subtract, None where the skeleton has none.
    """

    name: str
    joints: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    root: int | None

    def __len__(self) -> int:
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Index of a joint by name. Raises KeyError naming the skeleton's joints."""
        if joint not in self.joints:
            raise KeyError(f"skeleton {self.name} has no joint '{joint}'; it has {', '.join(self.joints)}")
        return self.joints.index(joint)

    def indices(self, joints: Iterable[str]) -> list[int]:
        """Indices of several joints by name."""
        return [self.index(joint) for joint in joints]

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(left, right) index pairs."""
        return tuple(
            (i, self.index("right_" + joint.removeprefix("left_")))
            for i, joint in enumerate(self.joints)
            if joint.startswith("left_")
        )

    @property
    def flip(self) -> tuple[int, ...]:
        """Permutation that exchanges left and right: `mirrored = points[..., flip, :]`."""
        order = list(range(len(self)))
        for left, right in self.pairs:
            order[left], order[right] = right, left
        return tuple(order)


def _skeleton(name: str, joints: str, edges: str, root: str | None) -> Skeleton:
    names = tuple(joints.split())
    bones = tuple((int(a), int(b)) for a, b in (bone.split("-") for bone in edges.split()))
    return Skeleton(name, names, bones, None if root is None else names.index(root))


SMPL_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""Parent of each SMPL joint, -1 for the root."""

_SKEL19_PARENTS = (-1, 0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8, 11, 12, 14, 13)

COCO17 = _skeleton(
    "coco17",
    """nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist
    right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle""",
    "15-13 13-11 16-14 14-12 11-12 5-11 6-12 5-6 5-7 6-8 7-9 8-10 1-2 0-1 0-2 1-3 2-4 3-5 4-6",
    root=None,
)
SMPL24 = _skeleton(
    "smpl24",
    """pelvis left_hip right_hip spine1 left_knee right_knee spine2 left_ankle right_ankle spine3 left_foot right_foot
    neck left_collar right_collar head left_shoulder right_shoulder left_elbow right_elbow left_wrist right_wrist
    left_hand right_hand""",
    " ".join(f"{parent}-{child}" for child, parent in enumerate(SMPL_PARENTS) if parent >= 0),
    root="pelvis",
)
PANOPTIC15 = _skeleton(
    "panoptic15",
    """neck nose mid_hip left_shoulder left_elbow left_wrist left_hip left_knee left_ankle right_shoulder right_elbow
    right_wrist right_hip right_knee right_ankle""",
    "0-1 0-2 0-3 3-4 4-5 0-9 9-10 10-11 2-6 2-12 6-7 7-8 12-13 13-14",
    root="mid_hip",
)
_SHELF_JOINTS = """right_ankle right_knee right_hip left_hip left_knee left_ankle right_wrist right_elbow right_shoulder
    left_shoulder left_elbow left_wrist neck head_top"""  # `neck` is the data set's "bottom of the head"
_SHELF_BONES = "0-1 1-2 3-4 4-5 6-7 7-8 9-10 10-11 12-13 12-8 12-9"
SHELF14 = _skeleton("shelf14", _SHELF_JOINTS, _SHELF_BONES + " 8-2 9-3 2-3", root=None)
SHELF15 = _skeleton("shelf15", _SHELF_JOINTS + " mid_hip", _SHELF_BONES + " 12-14 14-2 14-3", root="mid_hip")
BODY25 = _skeleton(
    "body25",
    """nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist mid_hip right_hip right_knee
    right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear left_big_toe left_small_toe
    left_heel right_big_toe right_small_toe right_heel""",
    """1-8 1-2 1-5 2-3 3-4 5-6 6-7 8-9 9-10 10-11 8-12 12-13 13-14 1-0 0-15 15-17 0-16 16-18 14-19 19-20 14-21
    11-22 22-23 11-24""",
    root="mid_hip",
)
BODY25B = _skeleton(
    "body25b",
    """nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow right_elbow left_wrist
    right_wrist left_hip right_hip left_knee right_knee left_ankle right_ankle upper_neck head_top left_big_toe
    left_small_toe left_heel right_big_toe right_small_toe right_heel""",
    """0-1 0-2 1-3 2-4 5-7 6-8 7-9 8-10 5-11 6-12 11-12 11-13 12-14 13-15 14-16 5-17 6-17 0-17 17-18 15-19 19-20
    15-21 16-22 22-23 16-24""",
    root=None,
)
H36M17 = _skeleton(
    "h36m17",
    """pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine thorax nose head left_shoulder
    left_elbow left_wrist right_shoulder right_elbow right_wrist""",
    "0-1 1-2 2-3 0-4 4-5 5-6 0-7 7-8 8-9 9-10 8-11 11-12 12-13 8-14 14-15 15-16",
    root="pelvis",
)
SKEL19 = _skeleton(
    "skel19",
    """mid_hip neck right_hip left_hip nose right_shoulder left_shoulder right_knee left_knee right_ear left_ear
    right_elbow left_elbow right_ankle left_ankle right_wrist left_wrist left_big_toe right_big_toe""",
    " ".join(f"{parent}-{child}" for child, parent in enumerate(_SKEL19_PARENTS) if parent >= 0),
    root="mid_hip",
)

SKELETONS: dict[str, Skeleton] = {
    s.name: s for s in (COCO17, SMPL24, PANOPTIC15, SHELF14, SHELF15, BODY25, BODY25B, H36M17, SKEL19)
}

LIMB_JOINTS: tuple[str, ...] = (
    *("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist"),
    *("left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle"),
)
"""The 12 joints, shoulders to ankles, that every skeleton here has and that metrics score unless they say otherwise."""

LIMBS: dict[str, tuple[tuple[str, str], ...]] = {
    "upper_arms": (("left_shoulder", "left_elbow"), ("right_shoulder", "right_elbow")),
    "lower_arms": (("left_elbow", "left_wrist"), ("right_elbow", "right_wrist")),
    "upper_legs": (("left_hip", "left_knee"), ("right_hip", "right_knee")),
    "lower_legs": (("left_knee", "left_ankle"), ("right_knee", "right_ankle")),
}
"""The 8 limbs between the 12 limb joints, by group."""

SHELF_LIMBS: dict[str, tuple[tuple[str, str], ...]] = {
    "head": (("neck", "head_top"),),
    "torso": (("neck", "mid_hip"),),
    **LIMBS,
}
"""The 10 limbs of the Shelf and Campus PCP tables, by group, in `shelf15`."""

Weights = Mapping[str, float]

_LIMBS_SAME: dict[str, Weights] = {joint: {joint: 1.0} for joint in LIMB_JOINTS}


def _same(*joints: str) -> dict[str, Weights]:
    return {joint: {joint: 1.0} for joint in joints}


def _mean(*joints: str) -> Weights:
    return {joint: 1.0 / len(joints) for joint in joints}


_MID_HIPS = _mean("left_hip", "right_hip")
_MID_SHOULDERS = _mean("left_shoulder", "right_shoulder")
_FACE = ("nose", "left_eye", "right_eye", "left_ear", "right_ear")
_BIG_TOES = ("left_big_toe", "right_big_toe")
_FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))

# VoxelPose's estimate of the Shelf head from COCO keypoints: the bottom of the head lies half way between the middle of
# the shoulders and the middle of the ears, the top as far beyond the ears again: bottom + 2 (ears - bottom).
_HEAD_BOTTOM = {"left_shoulder": 0.25, "right_shoulder": 0.25, "left_ear": 0.25, "right_ear": 0.25}
_HEAD_TOP = {"left_shoulder": -0.25, "right_shoulder": -0.25, "left_ear": 0.75, "right_ear": 0.75}

CONVERSIONS: dict[tuple[str, str], Mapping[str, Weights]] = {
    # From COCO-17, the project's own order.
    ("coco17", "panoptic15"): {**_LIMBS_SAME, **_same("nose"), "neck": _MID_SHOULDERS, "mid_hip": _MID_HIPS},
    ("coco17", "shelf14"): {**_LIMBS_SAME, "neck": _HEAD_BOTTOM, "head_top": _HEAD_TOP},
    ("coco17", "shelf15"): {**_LIMBS_SAME, "neck": _HEAD_BOTTOM, "head_top": _HEAD_TOP, "mid_hip": _MID_HIPS},
    ("coco17", "body25"): {**_LIMBS_SAME, **_same(*_FACE), "neck": _MID_SHOULDERS, "mid_hip": _MID_HIPS},
    ("coco17", "body25b"): {**_LIMBS_SAME, **_same(*_FACE)},
    # MotionBERT's table: spine half way from pelvis to thorax, head between the eyes.
    ("coco17", "h36m17"): {
        **_LIMBS_SAME,
        **_same("nose"),
        "pelvis": _MID_HIPS,
        "thorax": _MID_SHOULDERS,
        "spine": _mean("left_hip", "right_hip", "left_shoulder", "right_shoulder"),
        "head": _mean("left_eye", "right_eye"),
    },
    ("coco17", "skel19"): {
        **_LIMBS_SAME,
        **_same("nose", "left_ear", "right_ear"),
        "neck": _MID_SHOULDERS,
        "mid_hip": _MID_HIPS,
    },
    # To COCO-17.
    ("smpl24", "coco17"): _LIMBS_SAME,  # SMPL has no joint on the face
    ("panoptic15", "coco17"): {**_LIMBS_SAME, **_same("nose")},
    ("shelf14", "coco17"): _LIMBS_SAME,
    ("shelf15", "coco17"): _LIMBS_SAME,
    ("body25", "coco17"): {**_LIMBS_SAME, **_same(*_FACE)},
    ("body25b", "coco17"): {**_LIMBS_SAME, **_same(*_FACE)},
    ("h36m17", "coco17"): {**_LIMBS_SAME, **_same("nose")},
    ("skel19", "coco17"): {**_LIMBS_SAME, **_same("nose", "left_ear", "right_ear")},
    # Between the others.
    ("body25", "panoptic15"): {**_LIMBS_SAME, **_same("neck", "nose", "mid_hip")},
    ("body25", "shelf14"): {**_LIMBS_SAME, "neck": {"neck": 1.0}, "head_top": {"nose": 1.0}},  # EasyMocap's table
    ("body25", "skel19"): {**_LIMBS_SAME, **_same("mid_hip", "neck", "nose", "left_ear", "right_ear", *_BIG_TOES)},
    ("body25b", "body25"): {
        **_LIMBS_SAME,
        **_same(*_FACE, *_FEET),
        "neck": _MID_SHOULDERS,
        "mid_hip": _MID_HIPS,
    },
    ("body25", "body25b"): {**_LIMBS_SAME, **_same(*_FACE, *_FEET)},
    ("skel19", "panoptic15"): {**_LIMBS_SAME, **_same("neck", "nose", "mid_hip")},
    ("shelf14", "shelf15"): {**_LIMBS_SAME, **_same("neck", "head_top"), "mid_hip": _MID_HIPS},
    ("shelf15", "shelf14"): {**_LIMBS_SAME, **_same("neck", "head_top")},
    ("smpl24", "panoptic15"): {**_LIMBS_SAME, **_same("neck"), "mid_hip": _MID_HIPS},
    ("smpl24", "skel19"): {**_LIMBS_SAME, **_same("neck"), "mid_hip": {"pelvis": 1.0}},  # AvatarPose's CHI3D table
}
"""(source, target) -> {target joint: {source joint: weight}}."""


def skeleton(name: str) -> Skeleton:
    """The skeleton of that name. Raises KeyError listing the known names."""
    if name not in SKELETONS:
        raise KeyError(f"no skeleton '{name}'; known: {', '.join(SKELETONS)}")
    return SKELETONS[name]


@cache
def _matrix(source: str, target: str) -> Float[np.ndarray, "targets sources"]:
    start, end = skeleton(source), skeleton(target)
    if source == target:
        return np.eye(len(start))
    if (source, target) not in CONVERSIONS:
        known = ", ".join(f"{a} -> {b}" for a, b in CONVERSIONS)
        raise KeyError(f"no conversion {source} -> {target}; known: {known}")
    matrix = np.zeros((len(end), len(start)))
    for joint, weights in CONVERSIONS[source, target].items():
        for from_joint, weight in weights.items():
            matrix[end.index(joint), start.index(from_joint)] = weight
    return matrix


def conversion_matrix(source: str, target: str) -> Float[np.ndarray, "targets sources"]:
    """Weights of the named conversion; a row of zeros is a target joint the source cannot give.

    Raises:
        KeyError: unknown skeleton, or no such conversion.
    """
    return _matrix(source, target).copy()


def convert(points: Array, source: str, target: str) -> Array:
    """Convert joint positions from one skeleton to another.

    Args:
        points: (..., S, D) numpy array or torch tensor of floats, any unit; NaN where a joint is unknown.
        source, target: names in `SKELETONS`.

    Returns:
        (..., T, D) of the same kind and dtype; differentiable for tensors. A joint is NaN where a joint it is made
        of is NaN, and where the source cannot give it.

    Raises:
        KeyError: unknown skeleton, or no such conversion.
        ValueError: the number of joints is not the source's.
    """
    matrix = _matrix(source, target)
    if points.ndim < 2 or points.shape[-2] != matrix.shape[1]:
        raise ValueError(
            f"{source} has {matrix.shape[1]} joints; expected (..., {matrix.shape[1]}, D), "
            f"found shape {tuple(points.shape)}"
        )
    if isinstance(points, torch.Tensor):
        weights = torch.as_tensor(matrix, dtype=points.dtype, device=points.device)
        unknown = torch.isnan(points)
        # 0 * NaN is NaN, so unknown joints are set aside before the product and their targets marked after it.
        lost = ((weights != 0).to(points.dtype) @ unknown.to(points.dtype) > 0) | (weights == 0).all(1)[:, None]
        return torch.where(lost, torch.nan, weights @ torch.where(unknown, 0.0, points))
    unknown = np.isnan(points)
    used = matrix != 0
    lost = (used.astype(np.float32) @ unknown.astype(np.float32) > 0) | ~used.any(axis=1)[:, None]
    return np.where(lost, np.nan, matrix @ np.where(unknown, 0.0, points)).astype(points.dtype)


def convert_scores(
    scores: Float[np.ndarray, "... sources"], source: str, target: str
) -> Float[np.ndarray, "... targets"]:
    """Convert detection scores: a joint made of several is as sure as the least sure of them.

    Returns:
        (..., T), 0 for a joint that the source cannot give; a NaN score counts as 0.

    Raises:
        KeyError, ValueError: as `convert`.
    """
    used = _matrix(source, target) != 0
    if scores.shape[-1] != used.shape[1]:
        raise ValueError(f"{source} has {used.shape[1]} joints, found scores of shape {scores.shape}")
    known = np.nan_to_num(scores, nan=0.0)[..., None, :]
    lowest = np.where(used, known, np.inf).min(axis=-1)
    return np.where(used.any(axis=1), lowest, 0.0).astype(scores.dtype)


def shelf_head(keypoints: Float[np.ndarray, "... 17 3"], up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "... 2 3"]:
    """Bottom and top of the head as the Shelf annotations place them, from COCO-17 keypoints.

    VoxelPose's blend for Shelf (its Campus numbers use the plain conversion `coco17 -> shelf14`): three quarters of
    points on the line from the middle of the shoulders to the nose, at half its length for the bottom, at 0.75 of its
    horizontal and 1.5 of its vertical part for the top, and one quarter of the plain conversion.

    Args:
        keypoints: (..., 17, 3) metres; NaN propagates.
        up: unit vector, the world's up.

    Returns:
        (..., 2, 3) metres: bottom of the head (`neck` of shelf14), top of the head.
    """
    shoulders = keypoints[..., COCO17.indices(["left_shoulder", "right_shoulder"]), :].mean(axis=-2)
    to_nose = keypoints[..., COCO17.index("nose"), :] - shoulders
    vertical = (to_nose @ up)[..., None] * up
    bottom = shoulders + 0.5 * to_nose
    top = shoulders + 0.75 * (to_nose - vertical) + 1.5 * vertical
    plain = convert(keypoints, "coco17", "shelf14")[..., SHELF14.indices(["neck", "head_top"]), :]
    return 0.75 * np.stack([bottom, top], axis=-2) + 0.25 * plain
