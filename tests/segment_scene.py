"""A made-up scene for the segmentation: people of capsules before a wall, seen by two cameras, with true masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from avatarpose.cameras import Cameras
from avatarpose.io import write_image, write_json, write_npz
from avatarpose.segment.people import limbs_depth, project
from avatarpose.skeletons import COCO17

SIZE = (200, 240)  # height, width
STANDING = {
    "nose": (0, 0.08, 1.62), "left_eye": (0.03, 0.07, 1.65), "right_eye": (-0.03, 0.07, 1.65),
    "left_ear": (0.07, 0, 1.63), "right_ear": (-0.07, 0, 1.63), "left_shoulder": (0.18, 0, 1.42),
    "right_shoulder": (-0.18, 0, 1.42), "left_elbow": (0.36, 0, 1.18), "right_elbow": (-0.36, 0, 1.18),
    "left_wrist": (0.52, 0, 1.02), "right_wrist": (-0.52, 0, 1.02), "left_hip": (0.1, 0, 0.92),
    "right_hip": (-0.1, 0, 0.92), "left_knee": (0.13, 0, 0.5), "right_knee": (-0.13, 0, 0.5),
    "left_ankle": (0.15, 0, 0.1), "right_ankle": (-0.15, 0, 0.1),
}  # fmt: skip
COLOURS = ((190, 60, 50), (40, 150, 90))


def standing(x: float, y: float = 0.0) -> np.ndarray:
    """Joints (17, 3) of someone who stands at (x, y), metres, z up."""
    return np.array([STANDING[name] for name in COCO17.joints]) + np.array([x, y, 0.0])


def cameras() -> Cameras:
    """Two cameras four metres in front of the people, looking along +y and a little to the side."""
    R, t = [], []
    for angle in (0.0, 0.35):
        forward = np.array([np.sin(angle), np.cos(angle), 0.0])
        right, down = np.array([forward[1], -forward[0], 0.0]), np.array([0.0, 0.0, -1.0])
        R.append(np.stack([right, down, forward]))
        t.append(-R[-1] @ (np.array([0.0, 0.0, 0.9]) - 4.0 * forward))
    height, width = SIZE
    K = np.array([[330.0, 0, width / 2], [0, 330.0, height / 2], [0, 0, 1]])
    return Cameras(
        ("left", "right"), torch.tensor(np.stack([K, K])), torch.tensor(np.array(R)), torch.tensor(np.array(t)),
        torch.zeros(2, 5, dtype=torch.float64), torch.tensor([width] * 2), torch.tensor([height] * 2),
    )  # fmt: skip


def wall(c: int) -> np.ndarray:
    """The empty scene as camera c sees it, (H, W, 3) uint8."""
    smooth = np.random.default_rng(c).normal(0, 1, (*SIZE, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(smooth, (0, 0), 3)
    return np.clip(130 + 60 * smooth + np.array([0, 10, 20]), 0, 255).astype(np.uint8)


def write_scene(
    folder: Path,
    people: list[list[np.ndarray]],
    seed: int = 0,
    ball: bool = False,
    light: float = 0.0,
    shadow: bool = True,
) -> dict[tuple[int, int], np.ndarray]:
    """Writes the sequence and returns the true masks (H, W) bool by (camera, frame) index.

    Args:
        people: per frame, joints (17, 3) of each person.
        ball: a ball without joints crosses the pictures.
        shadow: people cast one.
        light: by this share the light grows from the first frame to the last.
    """
    rng, rig, truth = np.random.default_rng(seed), cameras(), {}
    most = max(map(len, people))
    for c, name in enumerate(rig.names):
        rows = np.full((len(people), most, 17, 3), np.nan, np.float32)
        for f, joints in enumerate(people):
            image = wall(c).astype(np.float32)
            # Everybody's shadow lies on the wall, to the right.
            depths = [limbs_depth(points, rig[c]) for points in joints]
            for depth in depths if shadow else ():
                dark = np.roll(np.isfinite(depth), 38, axis=1)
                dark[:, :38] = False
                image[dark] = np.minimum(image[dark], 0.65 * wall(c)[dark])
            if ball:
                cv2.circle(image, (20 + 11 * f, 24), 9, (20, 20, 220), -1)
            mask = np.zeros(SIZE, bool)
            for p in np.argsort([-points[:, 1].mean() for points in joints]):
                inside = np.isfinite(depths[p])
                pattern = 1 + 0.2 * np.sin(np.mgrid[: SIZE[0], : SIZE[1]].sum(0) / 4)[inside, None]
                image[inside] = np.array(COLOURS[p]) * pattern
                mask |= inside
            image *= 1 + light * f / max(len(people) - 1, 1)
            image += rng.normal(0, 2, image.shape)
            write_image(folder / "images" / name / f"{f:06d}.png", np.clip(image, 0, 255).astype(np.uint8))
            truth[c, f] = mask
            for p in range(len(joints)):
                pixels, _ = project(joints[p], rig[c])
                rows[f, p, :, :2], rows[f, p, :, 2] = pixels + rng.normal(0, 1, pixels.shape), 0.9
        write_npz(folder / "keypoints2d" / f"{name}.npz", keypoints=rows)
    rig.save(folder / "cameras.json")
    header = {"fps": 20.0, "frames": len(people), "unit": "m", "up": "z", "people": most}
    write_json(folder / "sequence.json", header)
    return truth


def overlap(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union, unknown pixels left out."""
    known = mask != 128
    return float(((mask == 255) & truth)[known].sum() / max(((mask == 255) | truth)[known].sum(), 1))
