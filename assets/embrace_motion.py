"""The hand-made motion of the embedded capture: two people step towards each other and embrace.

The motion is described by where hands, feet and chests should be at each moment; the poses that do this are found by
inverse kinematics over all frames together, with bounds on the joints, smooth accelerations and no people inside each
other. Bodies are held apart by spheres that fill them.
"""

from dataclasses import dataclass

import numpy as np
import roma
import torch
import trimesh
from jaxtyping import Float
from scipy.spatial import cKDTree
from torch import Tensor

from avatarpose.body import BodyModel

PELVIS, NECK, HEAD = 0, 12, 15
KNEES, ANKLES, FEET = (4, 5), (7, 8), (10, 11)
SPINE = (3, 6, 9)
SHOULDERS, ELBOWS, WRISTS, HANDS = (16, 17), (18, 19), (20, 21), (22, 23)
ARM_BONES = (18, 19, 20, 21, 22, 23)
GAP = 0.035  # metres between the skins, so that two layers of clothes fit


@dataclass(frozen=True)
class Spheres:
    """Spheres that fill a body in its rest pose: centres (S, 3) metres, radii (S,), bone weights (S, 24)."""

    centres: Tensor
    radii: Tensor
    weights: Tensor

    def posed(self, transforms: Float[Tensor, "frames 24 4 4"]) -> Float[Tensor, "frames spheres 3"]:
        blended = torch.einsum("sj,fjab->fsab", self.weights, transforms)
        return torch.einsum("fsab,sb->fsa", blended[..., :3, :3], self.centres) + blended[..., :3, 3]


def fill_with_spheres(vertices: np.ndarray, faces: np.ndarray, weights: np.ndarray, count: int = 160) -> Spheres:
    """Greedy cover of a closed mesh, vertices (V, 3) in metres, by its largest inscribed spheres."""
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    lo, hi = mesh.bounds
    lattice = np.stack(np.meshgrid(*[np.arange(a, b, 0.014) for a, b in zip(lo, hi, strict=True)], indexing="ij"), -1)
    lattice = lattice.reshape(-1, 3)
    lattice = lattice[mesh.contains(lattice)]
    radii, nearest = cKDTree(vertices).query(lattice)
    centres, chosen_radii, chosen_weights = [], [], []
    left = np.ones(len(lattice), bool)
    for _ in range(count):
        best = int(np.argmax(np.where(left, radii, 0)))
        centres.append(lattice[best])
        chosen_radii.append(radii[best])
        chosen_weights.append(weights[nearest[best]])
        left &= np.linalg.norm(lattice - lattice[best], axis=1) > radii[best]
    return Spheres(*(torch.from_numpy(np.array(x)) for x in (centres, chosen_radii, chosen_weights)))


def smooth_step(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return x * x * x * (x * (6 * x - 15) + 10)


def _targets(frames: int, faces_x: int, apart: float, approach: float) -> dict[str, Tensor]:
    """Where one person's pelvis and feet should be; `faces_x` is +1 for the person who looks along x, -1 for the other.

    The pair turns by 20 degrees as it meets, and each makes one step with its outer foot.
    """
    s = torch.linspace(0, 1, frames, dtype=torch.float64)
    turn = torch.deg2rad(torch.tensor(20.0)) * smooth_step(s * 1.1)
    along = torch.stack([turn.cos(), turn.sin()], -1) * faces_x
    side = torch.stack([-along[:, 1], along[:, 0]], -1)
    distance = apart - approach * smooth_step(s * 1.1)  # of the pelvis from the middle
    pelvis = -along * distance[:, None]
    yaw = torch.atan2(along[:, 1], along[:, 0])
    feet = []
    for foot, sign in enumerate((1.0, -1.0)):
        start = pelvis[0] + side[0] * 0.10 * sign - along[0] * 0.02
        end = pelvis[-1] + side[-1] * 0.13 * sign - along[-1] * (0.04 + 0.05 * foot)
        when = smooth_step((s - 0.45 * foot) / 0.55)
        lift = 0.10 * torch.sin(torch.pi * when.clamp(0, 1)) ** 2
        feet.append(torch.cat([start + (end - start) * when[:, None], lift[:, None]], -1))
    return {"pelvis": pelvis, "yaw": yaw, "feet": torch.stack(feet, 1), "time": s}


def embrace(
    bodies: list[BodyModel],
    spheres: list[Spheres],
    frames: int = 12,
    fps: float = 20.0,
    iterations: int = 700,
    apart: float = 0.33,
    approach: float = 0.13,
    gap: float = GAP,
) -> tuple[Float[Tensor, "2 frames 72"], Float[Tensor, "2 frames 3"]]:
    """Poses (axis-angle) and translations (metres, z up, floor at z = 0) of two people who embrace.

    The bodies' zero shape is the person's own. Deterministic.

    Args:
        apart, approach: of each pelvis from the middle at first, and how much of that they go, metres.
        gap: least distance of the skins, as far as the spheres fill the bodies, metres.
    """
    zero = torch.zeros(frames, 10, dtype=torch.float64)
    targets = [_targets(frames, sign, apart, approach) for sign in (1, -1)]
    rest = [b.rest_joints(zero[0]) for b in bodies]
    soles = [b.v_template[:, 1].min() for b in bodies]
    ankle_height = [float(r[list(ANKLES), 1].mean() - sole) for r, sole in zip(rest, soles, strict=True)]

    start = torch.zeros(2, frames, 72, dtype=torch.float64)
    trans = torch.zeros(2, frames, 3, dtype=torch.float64)
    for p, target in enumerate(targets):
        start[p, :, :3] = roma.rotmat_to_rotvec(_upright(target["yaw"]))
        trans[p, :, :2] = target["pelvis"]
        trans[p, :, 2] = rest[p][PELVIS, 1] - soles[p] - 0.02
        trans[p] -= rest[p][PELVIS]
        lower = smooth_step(torch.linspace(0, 1, frames).double() * 1.2)
        start[p, :, 3 * NECK + 1] = start[p, :, 3 * HEAD + 1] = 0.35 * lower  # heads turn past each other
        for side, sign in ((0, 1.0), (1, -1.0)):  # arms begin half lowered and reaching forward, and rise
            start[p, :, 3 * SHOULDERS[side] + 1] = -sign * (0.55 + 0.35 * lower)
            start[p, :, 3 * SHOULDERS[side] + 2] = -sign * (0.85 - 0.55 * lower)
            start[p, :, 3 * ELBOWS[side] + 1] = -sign * 0.7
    return _solve(bodies, spheres, targets, start, trans, ankle_height, fps, iterations, gap)


def _solve(
    bodies: list[BodyModel],
    spheres: list[Spheres],
    targets: list[dict[str, Tensor]],
    start: Tensor,
    trans_start: Tensor,
    ankle_height: list[float],
    fps: float,
    iterations: int,
    least_gap: float,
) -> tuple[Tensor, Tensor]:
    frames = start.shape[1]
    zero = torch.zeros(frames, 10, dtype=torch.float64)
    poses, trans = start.clone().requires_grad_(), trans_start.clone().requires_grad_()
    optimiser = torch.optim.Adam([poses, trans], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations, 5e-4)
    arm = torch.stack([s.weights[:, list(ARM_BONES)].sum(1) > 0.5 for s in spheres])
    weight = torch.full((24,), 0.15, dtype=torch.float64)  # how strongly a joint is held at its starting angle
    weight[[*SPINE, 13, 14]] = 4.0
    weight[[NECK, HEAD]] = 0.4
    weight[[*WRISTS, *HANDS, *FEET]] = 2.0
    weight[[*SHOULDERS, *ELBOWS]] = 0.03

    for iteration in range(iterations):
        # Smooth first, apart later: or a hand that starts on the wrong side jumps through an arm between two frames.
        firm = min(1.0, 0.01 + (iteration / (0.6 * iterations)) ** 2)
        optimiser.zero_grad()
        transforms = [b.transforms(zero, poses[p], trans[p]) for p, b in enumerate(bodies)]
        joints = [b.joints(zero, poses[p], trans[p]) for p, b in enumerate(bodies)]
        filled = [s.posed(t) for s, t in zip(spheres, transforms, strict=True)]
        loss = torch.zeros((), dtype=torch.float64)
        for p, target in enumerate(targets):
            other = 1 - p
            j, o = joints[p], joints[other]
            grip = smooth_step(target["time"] * 1.05)[:, None]
            back = _unit(o[:, SPINE[2]] - 0.5 * (j[:, SPINE[2]] + o[:, SPINE[2]])) * torch.tensor([1.0, 1.0, 0.0])
            left = torch.stack([-back[:, 1], back[:, 0], torch.zeros(frames)], -1)
            for side, sign in ((0, 1.0), (1, -1.0)):
                # One arm goes over the other's shoulder, one under the arm: the taller person's arms go above.
                level = 0.12 if (side == 0) else -0.10
                hold = o[:, SPINE[2]] + back * 0.15 - left * (0.03 * sign) + torch.tensor([0.0, 0.0, level])
                reach = hold * grip + (1 - grip) * j[:, HANDS[side]].detach()
                loss = loss + 20.0 * (grip * (j[:, HANDS[side]] - reach) ** 2).sum(-1).mean()
                ankle = j[:, ANKLES[side]]
                want = target["feet"][:, side] + torch.tensor([0.0, 0.0, ankle_height[p]])
                loss = loss + 30 * ((ankle - want) ** 2).sum(-1).mean()
                R_foot = transforms[p][:, ANKLES[side], :3, :3]
                loss = loss + 0.5 * ((R_foot - _foot(target["yaw"], sign)) ** 2).sum((1, 2)).mean()
                palm = -transforms[p][:, HANDS[side], :3, 1]
                loss = loss + 0.1 * (grip * (palm + back) ** 2).sum(-1).mean()
                bend = poses[p].reshape(frames, 24, 3)
                knee = bend[:, KNEES[side]]
                loss = loss + 0.3 * ((knee[:, 1:] ** 2).sum(-1) + 4 * (-knee[:, 0]).relu() ** 2).mean()
                elbow = bend[:, ELBOWS[side]]
                straight = 4 * (sign * elbow[:, 1]).relu() ** 2 + (-sign * elbow[:, 1] - 2.3).relu() ** 2
                loss = loss + 0.3 * (elbow[:, 0] ** 2 * 0.3 + elbow[:, 2] ** 2 + straight).mean()
            loss = loss + 10 * ((j[:, PELVIS, :2] - target["pelvis"]) ** 2).sum(-1).mean()
            held = (poses[p] - start[p]).reshape(frames, 24, 3).square().sum(-1)
            loss = loss + 0.02 * (held * weight).sum(-1).mean()
            root = roma.rotvec_geodesic_distance(poses[p, :, :3], start[p, :, :3])
            loss = loss + 2.0 * (root**2).mean()
            gap = torch.cdist(filled[p], filled[p]) - spheres[p].radii[:, None] - spheres[p].radii
            own = arm[p][:, None] & ~arm[p] & (spheres[p].weights[:, [16, 17]].sum(1) < 0.2)
            loss = loss + 400 * firm * ((0.01 - gap).relu() ** 2 * own).sum((1, 2)).mean()
            acceleration = (j[2:] - 2 * j[1:-1] + j[:-2]) * fps**2
            loss = loss + (3e-4 + 3e-3 * (1 - firm)) * (acceleration**2).sum(-1).mean()
        gap = torch.cdist(filled[0], filled[1]) - spheres[0].radii[:, None] - spheres[1].radii
        loss = loss + 20000 * firm * ((least_gap - gap).relu() ** 2).sum((1, 2)).mean()
        loss.backward()
        optimiser.step()
        schedule.step()
    return poses.detach(), trans.detach()


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-9)


def _upright(yaw: Tensor) -> Tensor:
    """Rotations (frames, 3, 3) from rest space, which has y up and looks along z, to a person who looks along `yaw`."""
    forward = torch.stack([yaw.cos(), yaw.sin(), torch.zeros_like(yaw)], -1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=yaw.dtype).expand_as(forward)
    return torch.stack([torch.linalg.cross(up, forward), up, forward], -1)


def _foot(yaw: Tensor, sign: float) -> Tensor:
    """How a foot stands: flat, toes 10 degrees outwards."""
    return _upright(yaw + np.deg2rad(10.0) * sign)
