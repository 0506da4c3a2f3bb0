"""Stick figures before a ring of cameras, for tests that need to know where everybody is and which camera is wrong."""

from dataclasses import replace

import cv2
import numpy as np
import torch

from avatarpose.cameras import Cameras

WIDTH, HEIGHT, FPS = 640, 480, 20.0
# COCO-17, metres: x to the person's left, y forward, z up.
BODY = np.array([
    (0, 0.1, 1.6), (0.03, 0.09, 1.63), (-0.03, 0.09, 1.63), (0.07, 0.02, 1.61), (-0.07, 0.02, 1.61),
    (0.18, 0, 1.4), (-0.18, 0, 1.4), (0.3, 0.02, 1.13), (-0.3, 0.02, 1.13), (0.3, 0.2, 0.95), (-0.3, 0.2, 0.95),
    (0.1, 0, 0.93), (-0.1, 0, 0.93), (0.11, 0.02, 0.5), (-0.11, 0.02, 0.5), (0.11, -0.02, 0.08), (-0.11, -0.02, 0.08),
])  # fmt: skip


def ring(count: int, radius: float = 4.0) -> Cameras:
    """Cameras around the origin, 1.3 to 2.2 m high, that look at it."""
    names, R, t = [], [], []
    for c in range(count):
        angle = 2 * np.pi * (c + 0.2 * np.sin(5 * c)) / count
        centre = np.array([radius * np.cos(angle), radius * np.sin(angle), 1.3 + 0.9 * (c % 3) / 2])
        z = np.array([0, 0, 0.9]) - centre
        z = z / np.linalg.norm(z)
        x = np.cross(z, (0, 0, 1))
        x = x / np.linalg.norm(x)
        names.append(f"cam{c}")
        R.append(np.stack((x, np.cross(z, x), z)))
        t.append(-R[-1] @ centre)
    K = torch.tensor([[600.0, 0, WIDTH / 2], [0, 600.0, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(
        names=tuple(names),
        K=K.expand(count, 3, 3).clone(),
        R=torch.from_numpy(np.array(R)),
        t=torch.from_numpy(np.array(t)),
        dist=torch.tensor([[-0.05, 0.01, 0, 0, 0]], dtype=torch.float64).expand(count, 5).clone(),
        width=torch.full((count,), WIDTH),
        height=torch.full((count,), HEIGHT),
    )


def joints(times: np.ndarray, people: int = 2, moving: bool = True) -> np.ndarray:
    """(P, F, 17, 3) metres: people who walk in ellipses, sway and swing their arms; times in seconds."""
    times = np.asarray(times) if moving else np.zeros_like(times)
    found = []
    for p in range(people):
        turn = 0.7 * times + 2.5 * p
        cos, sin = np.cos(turn), np.sin(turn)
        local = np.broadcast_to(BODY * (0.95 + 0.08 * p), (len(times), 17, 3)).copy()
        for joint, phase in ((7, 0.0), (8, 2.0), (9, 0.4), (10, 2.4), (13, 2.0), (14, 0.0), (15, 2.0), (16, 0.0)):
            local[:, joint, 1] += 0.15 * np.sin(5 * times + phase + p)
            local[:, joint, 2] += 0.05 * np.cos(4 * times + phase)
        x = cos[:, None] * local[..., 0] - sin[:, None] * local[..., 1]
        y = sin[:, None] * local[..., 0] + cos[:, None] * local[..., 1]
        path = np.stack((0.6 * np.cos(1.3 * times + 3 * p) + 0.4 * p, 0.5 * np.sin(1.7 * times + p)), -1)
        found.append(np.stack((x + path[:, :1], y + path[:, 1:], local[..., 2]), -1))
    return np.stack(found)


def detections(
    cameras: Cameras, frames: int, people: int = 2, noise: float = 2.0, offsets: dict[int, float] | None = None,
    moving: bool = True,
) -> np.ndarray:  # fmt: skip
    """(C, F, P, 17, 3) what a detector sees: rows shuffled, a tenth of the joints missed, `noise` pixels.

    Args:
        offsets: camera index -> the camera's frame f + offset shows what the others show at f.
    """
    rng = np.random.default_rng(0)
    found = np.full((len(cameras), frames, people, 17, 3), np.nan, np.float32)
    for c in range(len(cameras)):
        times = (np.arange(frames) - (offsets or {}).get(c, 0.0)) / FPS
        points = torch.from_numpy(np.moveaxis(joints(times, people, moving), 0, 1).copy())
        pixels = cameras[[c]].project(points)[0][0].numpy() + rng.normal(0, noise, (frames, people, 17, 2))
        rows = np.concatenate((pixels, np.full((*pixels.shape[:-1], 1), 0.9)), -1)
        rows[rng.random(rows.shape[:-1]) < 0.1] = np.nan
        found[c] = np.stack([row[rng.permutation(people)] for row in rows])
    return found


def turned(cameras: Cameras, c: int, degrees: float, axis: int = 1) -> Cameras:
    """The calibration with camera c said to be turned about one of its own axes, its place as it is."""
    vector = np.zeros(3)
    vector[axis] = np.radians(degrees)
    R, t = cameras.R.clone(), cameras.t.clone()
    R[c] = torch.from_numpy(cv2.Rodrigues(vector)[0]) @ R[c]
    t[c] = -R[c] @ cameras.centres[c]
    return replace(cameras, R=R, t=t)
