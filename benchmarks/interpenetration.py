"""Deepest interpenetration of the body meshes of a run: `python benchmarks/interpenetration.py SEQ`.

Prints, for the initial and the refined bodies and for the truth, the depth in millimetres of the deepest vertex of one
person inside another, over all frames and pairs. The truth's own meshes are not part of a capture, so the body is
fitted to the true joints first; its residual is printed beside.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import roma
import torch
import trimesh
from scipy.spatial import cKDTree

from avatarpose.body import BodyModel, load_body
from avatarpose.io import read_npz
from avatarpose.results import Bodies

FIT_STEPS = 600


def deepest(body: BodyModel, betas: np.ndarray, poses: np.ndarray, trans: np.ndarray, valid: np.ndarray) -> float:
    """Depth in metres of the deepest vertex of any person inside any other, over all frames.

    Whether a vertex is inside is decided by ray parity on the closed mesh; its depth is its distance to the other
    surface's nearest vertex (they are about 10 mm apart).
    """
    faces = body.faces.numpy()
    depth = 0.0
    for frame in range(poses.shape[1]):
        present = np.flatnonzero(valid[:, frame])
        meshes = []
        for person in present:
            arguments = (
                torch.as_tensor(x, dtype=torch.float32)
                for x in (betas[person], poses[person, frame], trans[person, frame])
            )
            meshes.append(trimesh.Trimesh(body.vertices(*arguments).numpy(), faces, process=False))
        for a, inner in enumerate(meshes):
            for b, outer in enumerate(meshes):
                if a == b:
                    continue
                low, high = outer.bounds
                near = inner.vertices[np.all((inner.vertices > low) & (inner.vertices < high), axis=1)]
                if not len(near):
                    continue
                inside = near[outer.contains(near)]
                if len(inside):
                    depth = max(depth, float(cKDTree(outer.vertices).query(inside)[0].max()))
    return depth


def fit_to_joints(body: BodyModel, joints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Body parameters whose 24 joints meet the given ones (P, F, 24, 3), and the mean residual in metres."""
    target = torch.as_tensor(joints, dtype=torch.float32)
    people, frames = target.shape[:2]
    betas = torch.zeros(people, 1, 10, requires_grad=True)
    poses = torch.zeros(people, frames, 72)
    zero = body.rest_joints(torch.zeros(10))
    for p in range(people):
        for f in range(frames):
            torso = [0, 1, 2, 12, 16, 17]
            source, goal = zero[torso] - zero[torso].mean(0), target[p, f, torso] - target[p, f, torso].mean(0)
            u, _, vt = torch.linalg.svd(goal.T @ source)
            sign = torch.diag(torch.tensor([1.0, 1.0, float(torch.sign(torch.linalg.det(u @ vt)))]))
            poses[p, f, :3] = roma.rotmat_to_rotvec(u @ sign @ vt)
    poses.requires_grad_(True)
    trans = (target[:, :, 0] - zero[0]).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([{"params": [poses, betas], "lr": 0.03}, {"params": [trans], "lr": 0.01}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, FIT_STEPS)
    for _ in range(FIT_STEPS):
        found = body.joints(betas.expand(people, frames, 10), poses, trans)
        prior = 1e-5 * betas.square().sum() + 1e-6 * poses[..., 3:].square().sum(-1).mean()
        loss = (found - target).square().sum(-1).mean() + prior
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    residual = float((found - target).detach().norm(dim=-1).mean())
    return betas.detach()[:, 0].numpy(), poses.detach().numpy(), trans.detach().numpy(), residual


def main() -> None:
    folder = Path(sys.argv[1])
    body = load_body()
    for name in ("initial", "refined"):
        bodies = Bodies.load(folder / "results" / f"{name}.npz")
        depth = deepest(body, bodies.betas, bodies.poses, bodies.trans, bodies.valid)
        print(f"{name:8s} deepest interpenetration {1000 * depth:6.1f} mm")
    if (folder / "ground_truth.npz").is_file():
        joints = read_npz(folder / "ground_truth.npz", ["joints"])["joints"]
        betas, poses, trans, residual = fit_to_joints(body, joints)
        depth = deepest(body, betas, poses, trans, np.ones(joints.shape[:2], dtype=bool))
        print(
            f"truth    deepest interpenetration {1000 * depth:6.1f} mm (body fitted to the true joints, "
            f"residual {1000 * residual:.1f} mm)"
        )


if __name__ == "__main__":
    main()
