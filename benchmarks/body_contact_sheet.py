"""Draws the body in several poses and shapes, to be looked at.

    python -m benchmarks.body_contact_sheet --out body.png [--body PATH]

Rays are cast at the mesh (trimesh with embreex), so what is seen is the surface itself, holes and all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import trimesh
from trimesh.ray.ray_pyembree import RayMeshIntersector

from avatarpose.body import CANONICAL_POSE, BodyModel, load_body, vertex_normals
from avatarpose.io import write_image

CELL = 256
LIGHT = np.array([-0.35, 0.5, 0.8]) / np.linalg.norm([0.35, 0.5, 0.8])  # right, up, towards the eye
JOINT = {
    "l_hip": 1, "r_hip": 2, "spine1": 3, "l_knee": 4, "r_knee": 5, "spine2": 6, "spine3": 9, "neck": 12, "head": 15,
    "l_shoulder": 16, "r_shoulder": 17, "l_elbow": 18, "r_elbow": 19, "l_wrist": 20, "r_wrist": 21,
}  # fmt: skip


def named_pose(**rotations: tuple[float, float, float]) -> torch.Tensor:
    """A pose (72,) from axis-angles in degrees by joint name; the rest zero."""
    pose = torch.zeros(24, 3)
    for joint, degrees in rotations.items():
        pose[JOINT[joint]] = torch.deg2rad(torch.tensor(degrees))
    return pose.reshape(72)


POSES = {
    "zero": torch.zeros(72),
    "canonical": CANONICAL_POSE,
    "standing": named_pose(l_shoulder=(0, 0, -72), r_shoulder=(0, 0, 72), l_elbow=(0, -15, 0), r_elbow=(0, 15, 0)),
    "walking": named_pose(
        l_hip=(-25, 0, 0), r_hip=(20, 0, 0), r_knee=(25, 0, 0), l_knee=(5, 0, 0),
        l_shoulder=(20, 0, -70), r_shoulder=(-20, 0, 70), l_elbow=(0, -30, 0), r_elbow=(0, 40, 0),
    ),
    "embrace": named_pose(
        l_shoulder=(0, -75, -15), r_shoulder=(0, 75, 20), l_elbow=(0, -80, 0), r_elbow=(0, 85, 0), head=(0, 25, 0),
        spine3=(10, 0, 0),
    ),
    "sitting": named_pose(
        l_hip=(-85, 10, 0), r_hip=(-85, -10, 0), l_knee=(85, 0, 0), r_knee=(85, 0, 0), l_shoulder=(0, -30, -60),
        r_shoulder=(0, 30, 60), l_elbow=(0, -60, 0), r_elbow=(0, 60, 0),
    ),
    "reaching up": named_pose(l_shoulder=(0, 0, 70), r_shoulder=(0, -20, -60), r_elbow=(0, 60, 0), spine3=(-10, 0, 8)),
    "kicking": named_pose(
        l_hip=(-80, 0, 20), l_knee=(25, 0, 0), r_knee=(15, 0, 0), spine1=(-10, 0, 0), l_shoulder=(0, 30, -20),
        r_shoulder=(0, 20, 30), r_elbow=(0, 100, 0), l_elbow=(0, -90, 0),
    ),
}  # fmt: skip


def shapes() -> dict[str, torch.Tensor]:
    """The mean, and two standard deviations either way along the first four directions."""
    found = {"mean": torch.zeros(10)}
    for direction in range(4):
        for sign in (-2.0, 2.0):
            betas = torch.zeros(10)
            betas[direction] = sign
            found[f"{direction} {sign:+.0f}"] = betas
    return found


def draw(
    body: BodyModel, betas: torch.Tensor, pose: torch.Tensor, yaw: float, window: tuple[float, float, float]
) -> np.ndarray:
    """One orthographic view (CELL, CELL, 3) uint8, `yaw` degrees around the body; window: centre x, y and size in m."""
    vertices = body.vertices(betas, pose, torch.zeros(3))
    normals = vertex_normals(vertices, body.faces).numpy()
    mesh = trimesh.Trimesh(vertices.numpy(), body.faces.numpy(), process=False)
    angle = np.radians(yaw)
    right = np.array([np.cos(angle), 0.0, -np.sin(angle)])
    back = np.array([np.sin(angle), 0.0, np.cos(angle)])  # from the body to the eye
    light = LIGHT @ np.stack([right, [0.0, 1.0, 0.0], back])

    centre_x, centre_y, size = window
    offset = ((np.arange(CELL) + 0.5) / CELL - 0.5) * size
    x, y = np.meshgrid(offset + centre_x, -offset + centre_y)
    origins = x.reshape(-1, 1) * right + y.reshape(-1, 1) * np.array([0.0, 1.0, 0.0]) + 5.0 * back
    points, rays, triangles = RayMeshIntersector(mesh).intersects_location(
        origins, np.broadcast_to(-back, origins.shape), multiple_hits=False
    )
    corners = mesh.triangles[triangles]
    weights = trimesh.triangles.points_to_barycentric(corners, points)
    normal = (weights[..., None] * normals[body.faces.numpy()[triangles]]).sum(axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    outside = mesh.face_normals[triangles] @ back > 0
    shade = 0.25 + 0.75 * np.clip(normal @ light, 0, 1)
    colour = np.where(outside[:, None], [225.0, 190.0, 165.0], [255.0, 0.0, 0.0])  # red: the inside shows
    image = np.full((CELL * CELL, 3), 245.0)
    image[rays] = colour * shade[:, None]
    return image.reshape(CELL, CELL, 3).astype(np.uint8)


def contact_sheet(body: BodyModel) -> np.ndarray:
    """Poses (front and side), shapes (front and side), and the head, a hand and the feet close up."""
    mean = torch.zeros(10)
    centre = {"sitting": (0, 0, 1.95), "reaching up": (0, 0.15, 2.4)}
    poses = [[draw(body, mean, p, yaw, centre.get(n, (0, -0.05, 1.95))) for n, p in POSES.items()] for yaw in (0, 50)]
    people = [[draw(body, b, POSES["standing"], yaw, (0, -0.08, 1.95)) for b in shapes().values()] for yaw in (0, 90)]
    head = float(body.joints(mean, torch.zeros(72), torch.zeros(3))[15, 1])
    close = [
        *(draw(body, mean, POSES["zero"], yaw, (0, head + 0.03, 0.35)) for yaw in (0, 45, 90, 180)),
        draw(body, mean, POSES["zero"], 0, (0.72, head - 0.19, 0.35)),
        draw(body, mean, POSES["standing"], 0, (0.2, head - 0.2, 0.5)),
        draw(body, mean, POSES["standing"], 180, (0, head - 0.3, 0.7)),
        draw(body, mean, POSES["zero"], 30, (0, -0.8, 0.5)),
    ]
    rows = [*poses, *people, close]
    width = max(len(row) for row in rows)
    blank = np.full((CELL, CELL, 3), 245, dtype=np.uint8)
    return np.vstack([np.hstack([*row, *[blank] * (width - len(row))]) for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--body", type=Path, default=None)
    arguments = parser.parse_args()
    write_image(arguments.out, contact_sheet(load_body(arguments.body)))


if __name__ == "__main__":
    main()
