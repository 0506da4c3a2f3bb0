"""People as capsules on their COCO-17 joints: how deep two people overlap, and who hides whose joints from a camera.

Numpy throughout: the arrays are small, and torch's cost per call would dominate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from avatarpose.skeletons import COCO17

# 17 the middle of the shoulders, 18 of the hips, 19 of the ears, 20 the top of the head.
_SEGMENTS = np.array(
    [(17, 18), (19, 20), (5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16)], dtype=np.int64
)
RADII = np.array([0.12, 0.09, 0.05, 0.04, 0.05, 0.04, 0.07, 0.055, 0.07, 0.055])
"""Metres: torso, head, then upper arm and forearm, thigh and shin of each side. A lean adult's, without clothes."""
_TORSO, _HEAD = 0, 1
FACE = COCO17.indices(["nose", "left_eye", "right_eye", "left_ear", "right_ear"])
_SHOULDERS, _HIPS, _EARS = (COCO17.indices([f"left_{part}", f"right_{part}"]) for part in ("shoulder", "hip", "ear"))
# Joints that the own torso can hide; shoulders and hips are on it.
_BEHIND_TORSO = np.zeros(17, dtype=bool)
_BEHIND_TORSO[COCO17.indices(f"{side}_{part}" for side in ("left", "right") for part in ("elbow", "wrist"))] = True


def capsules(
    keypoints: Float[np.ndarray, "*batch 17 3"],
) -> tuple[Float[np.ndarray, "*batch 10 3"], Float[np.ndarray, "*batch 10 3"]]:
    """Ends of the axes of a person's capsules, whose radii are `RADII`, metres."""
    shoulders, hips, ears = (keypoints[..., pair, :].mean(axis=-2) for pair in (_SHOULDERS, _HIPS, _EARS))
    top = ears + 0.4 * (ears - shoulders)
    points = np.concatenate([keypoints, np.stack([shoulders, hips, ears, top], axis=-2)], axis=-2)
    return points[..., _SEGMENTS[:, 0], :], points[..., _SEGMENTS[:, 1], :]


def segment_distance(
    p0: Float[np.ndarray, "*#batch 3"],
    p1: Float[np.ndarray, "*#batch 3"],
    q0: Float[np.ndarray, "*#batch 3"],
    q1: Float[np.ndarray, "*#batch 3"],
) -> Float[np.ndarray, "*batch"]:
    """Least distance of two segments (Ericson, "Real-Time Collision Detection", 5.1.9)."""
    u, v, w = p1 - p0, q1 - q0, p0 - q0
    a, e = np.maximum((u * u).sum(-1), 1e-12), np.maximum((v * v).sum(-1), 1e-12)
    b, c, f = (u * v).sum(-1), (u * w).sum(-1), (v * w).sum(-1)
    s = np.clip((b * f - c * e) / np.maximum(a * e - b * b, 1e-12), 0.0, 1.0)
    t = np.clip((b * s + f) / e, 0.0, 1.0)
    s = np.clip((b * t - c) / a, 0.0, 1.0)
    return np.linalg.norm(w + s[..., None] * u - t[..., None] * v, axis=-1)


def overlap(
    first: Float[np.ndarray, "*#batch 17 3"], second: Float[np.ndarray, "*#batch 17 3"]
) -> Float[np.ndarray, "*batch"]:
    """How deep the capsules of two people penetrate at most, metres; negative: the gap between them."""
    a0, a1 = capsules(first)
    b0, b1 = capsules(second)
    gap = segment_distance(
        a0[..., :, None, :], a1[..., :, None, :], b0[..., None, :, :], b1[..., None, :, :]
    )  # (..., 10, 10)
    return (RADII[:, None] + RADII - gap).max(axis=(-2, -1))


@dataclass(frozen=True)
class Sight:
    """What stands between V cameras and the joints of P people.

    Attributes:
        by_other: (V, P, 17) whether a limb, the torso or the head of another person is in front of the joint.
        hider: (V, P, 17) index of the nearest such person; -1 where there is none.
        by_self: (V, P, 17) whether the own torso (elbows, wrists) or head (face) is, other people left aside.
        from_behind: (V, P) whether the camera sees the person's back.
    """

    by_other: Bool[np.ndarray, "views people 17"]
    hider: Int[np.ndarray, "views people 17"]
    by_self: Bool[np.ndarray, "views people 17"]
    from_behind: Bool[np.ndarray, "views people"]


def line_of_sight(
    keypoints: Float[np.ndarray, "people 17 3"],
    R: Float[np.ndarray, "views 3 3"],
    t: Float[np.ndarray, "views 3"],
    margin: float = 0.05,
) -> Sight:
    """Which joints each camera cannot see because a body is in the way.

    Args:
        keypoints: metres, world.
        R, t: `x_cam = R x_world + t`, metres.
        margin: a body hides what lies farther than this behind the axis of one of its limbs, metres.
    """
    people, views = len(keypoints), len(R)
    a, b = capsules(keypoints)  # (P, 10, 3)
    points = np.concatenate([keypoints.reshape(-1, 3), a.reshape(-1, 3), b.reshape(-1, 3)])
    in_camera = points @ R.transpose(0, 2, 1) + t[:, None]
    depth = np.maximum(in_camera[..., 2], 1e-3)
    image = in_camera[..., :2] / depth[..., None]
    n, m = 17 * people, 10 * people
    joint, start, end = image[:, :n, None], image[:, None, n : n + m], image[:, None, n + m :]
    z, z0, z1 = depth[:, :n, None], depth[:, None, n : n + m], depth[:, None, n + m :]
    axis = end - start
    along = ((joint - start) * axis).sum(-1) / np.maximum((axis * axis).sum(-1), 1e-12)
    along = np.clip(along, 0.0, 1.0)
    off = joint - start - along[..., None] * axis
    # Depth at that place of the image: its inverse is linear there.
    z_axis = z0 * z1 / (z1 + along * (z0 - z1))
    radius = np.tile(RADII, people)
    distance = np.sqrt((off * off).sum(-1)) * z_axis
    covered = (distance < radius) & (z > z_axis + margin)
    covered = covered.reshape(views, people, 17, people, 10)

    own = np.eye(people, dtype=bool)
    front = np.where(covered, z_axis.reshape(views, people, 17, people, 10), np.inf).min(axis=-1)
    front = np.where(own[:, None, :], np.inf, front)
    by_other = np.isfinite(front).any(axis=-1)
    hider = np.where(by_other, front.argmin(axis=-1), -1)

    index = np.arange(people)
    by_self = covered[:, index, :, index, _TORSO].transpose(1, 0, 2) & _BEHIND_TORSO
    by_self[..., FACE] = _face_hidden(keypoints, R, t)
    return Sight(by_other, hider, by_self, _from_behind(keypoints, R, t))


def _towards(points: np.ndarray, R: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Unit vectors (V, P, 3) from points (P, 3) to the cameras."""
    centres = -(R.transpose(0, 2, 1) @ t[..., None])[..., 0]
    to_camera = centres[:, None] - points
    return to_camera / np.linalg.norm(to_camera, axis=-1, keepdims=True)


def _from_behind(keypoints: np.ndarray, R: np.ndarray, t: np.ndarray) -> Bool[np.ndarray, "views people"]:
    pairs = keypoints[:, _SHOULDERS], keypoints[:, _HIPS]
    across = sum(pair[:, 0] - pair[:, 1] for pair in pairs)
    upwards = pairs[0].mean(axis=1) - pairs[1].mean(axis=1)
    forward = np.cross(across, upwards)
    return (_towards(pairs[0].mean(axis=1), R, t) * forward).sum(-1) < 0


def _face_hidden(keypoints: np.ndarray, R: np.ndarray, t: np.ndarray) -> Bool[np.ndarray, "views people 5"]:
    """Each point of the face is seen from the half space it faces; the ears from a little more."""
    face = keypoints[:, FACE]
    middle = face[:, 3:].mean(axis=1)
    to_camera = _towards(middle, R, t)
    outwards = face - middle[:, None]
    outwards = outwards / np.maximum(np.linalg.norm(outwards, axis=-1, keepdims=True), 1e-9)
    cosine = (to_camera[:, :, None] * outwards).sum(-1)
    return cosine < np.array([-0.2, -0.2, -0.2, -0.35, -0.35])
