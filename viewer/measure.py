"""Where a result is wrong: the error of every joint of every person in every frame.

With truth the error is the distance from it in millimetres; without, how far the joint, projected into the cameras,
lies from the 2D keypoints there, in pixels (the median over the cameras that have one). The 12 joints from shoulders to
ankles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from avatarpose.errors import InputError
from avatarpose.estimate import associate
from avatarpose.results import Joints3D
from avatarpose.skeletons import COCO17, LIMB_JOINTS
from viewer.data import ViewerData

_LIMBS = COCO17.indices(LIMB_JOINTS)


@dataclass(frozen=True)
class Errors:
    """Errors of one kind of result.

    Attributes:
        unit: "mm" from the truth, or "px" from the 2D keypoints.
        values: (P, F, 12), NaN where there is nothing to compare with.
        people: names of the P people.
        joints: names of the 12 joints.
    """

    unit: str
    values: Float[np.ndarray, "people frames 12"]
    people: tuple[str, ...]
    joints: tuple[str, ...] = LIMB_JOINTS

    @property
    def by_frame(self) -> Float[np.ndarray, "people frames"]:
        """Mean over the joints."""
        return known_mean(self.values, 2)

    @property
    def by_joint(self) -> Float[np.ndarray, "people 12"]:
        """Mean over the frames."""
        return known_mean(self.values, 1)

    def worst(self, count: int = 10) -> list[tuple[int, str, str, float]]:
        """The worst person-frames: frame index, person, their worst joint there, mean error; the worst first."""
        by_frame = self.by_frame
        order = np.argsort(np.where(np.isnan(by_frame), -np.inf, by_frame), axis=None)[::-1][:count]
        rows = []
        for p, f in zip(*np.unravel_index(order, by_frame.shape), strict=True):
            if np.isfinite(by_frame[p, f]):
                joint = self.joints[int(np.nanargmax(self.values[p, f]))]
                rows.append((int(f), self.people[p], joint.replace("_", " "), float(by_frame[p, f])))
        return rows


def errors(data: ViewerData, kind: str) -> Errors | None:
    """Errors of the joints of a kind; None where there is nothing to compare them with."""
    if kind not in data.joints or kind == "truth":
        return None
    joints = data.joints[kind]
    if data.true_keypoints is not None:
        away = 1000 * np.linalg.norm(joints - data.true_keypoints, axis=-1)
        return Errors("mm", away[:, :, _LIMBS], tuple(data.people))
    if not data.sequence.has_keypoints:
        return None
    return Errors("px", _reprojection(data, joints)[:, :, _LIMBS], tuple(data.people))


def _reprojection(data: ViewerData, joints: Float[np.ndarray, "people frames 17 3"]) -> np.ndarray:
    """(P, F, 17) pixels between projected joints and the detections of the same person."""
    sequence = data.sequence
    valid = np.isfinite(joints).all(axis=(2, 3))
    found = Joints3D(data.people, data.frames, joints.astype(np.float32), np.ones(joints.shape[:3], np.float32), valid)
    try:
        rows = associate(sequence, found).rows  # (C, F, P)
    except InputError:
        return np.full(joints.shape[:3], np.nan)
    places = [data.place(f) for f in range(len(data.frames))]
    detections = sequence.keypoints2d[:, places]
    index = np.maximum(rows, 0)[..., None, None]
    taken = np.take_along_axis(detections, np.broadcast_to(index, (*rows.shape, 17, 3)), axis=2)
    taken = np.where((rows >= 0)[..., None, None], taken, np.nan)  # (C, F, P, 17, 3)
    pixels, depth = sequence.cameras.project(torch.as_tensor(np.nan_to_num(joints)).transpose(0, 1))
    pixels = np.where((depth > 0)[..., None], pixels.numpy(), np.nan)
    away = np.linalg.norm(pixels - taken[..., :2], axis=-1).transpose(2, 1, 3, 0)  # (P, F, 17, C)
    known = np.isfinite(away).any(-1)
    out = np.full(known.shape, np.nan)
    out[known] = np.nanmedian(away[known], axis=-1)
    return np.where(valid[..., None], out, np.nan)


def difference_at_vertices(data: ViewerData, kind: str, person: str, f: int) -> Float[np.ndarray, " vertices"] | None:
    """How far the surface is off at each vertex, millimetres; None where there is nothing to compare with.

    With truth, each vertex moves as far as the joints it is skinned to: sum_j w_vj |joint_j - truth_j|. Without, the
    distance between the initial and the refined surface.
    """
    surface = data.surface(kind, person, f)
    if surface is None:
        return None
    truth = data.joints.get("truth")
    if truth is not None and truth.shape[2] == 24:
        true = truth[data.people.index(person), f]
        if np.isfinite(true).all():
            away = np.linalg.norm(data.body_joints(kind, person, f) - true, axis=-1)
            return 1000 * (data.body.weights.cpu().numpy() @ away)
    other = data.surface("initial" if kind == "refined" else "refined", person, f)
    return None if other is None else 1000 * np.linalg.norm(surface.vertices - other.vertices, axis=-1)


def known_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean along an axis of what is finite; NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0).sum(axis=axis)
    count = known.sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
