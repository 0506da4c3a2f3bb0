"""What is believed before looking: angles of the joints, elbows and knees, motion. Costs are negative log densities."""

from __future__ import annotations

import functools
import math

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor

N_JOINTS = 24
_DEGREE = math.pi / 180

# Mean and spread in degrees of the rotation vector of each joint against its parent, about the body's axes in the zero
# pose (x to the person's left, y up, z to the front); right joints mirror the left (y and z change sign). Ranges of
# human joints in textbooks of kinesiology, halved; joints that COCO keypoints hardly show are held near zero.
_SPREADS = {
    # joint: ((mean x, y, z), (spread x, y, z))
    1: ((-15, 0, 0), (35, 25, 20)),  # hips
    3: ((3, 0, 0), (8, 8, 8)),  # spine
    4: ((20, 0, 0), (40, 6, 6)),  # knees
    6: ((3, 0, 0), (8, 8, 8)),
    7: ((0, 0, 0), (12, 10, 8)),  # ankles
    9: ((3, 0, 0), (8, 8, 8)),
    10: ((0, 0, 0), (5, 5, 5)),  # toes
    12: ((0, 0, 0), (15, 20, 15)),  # neck
    13: ((0, 0, 0), (6, 10, 10)),  # collars
    15: ((0, 0, 0), (15, 20, 15)),  # head
    16: ((0, -15, -45), (45, 45, 45)),  # shoulders
    18: ((0, -40, 0), (20, 50, 8)),  # elbows
    20: ((0, 0, 0), (12, 12, 12)),  # wrists
    22: ((0, 0, 0), (5, 5, 5)),  # hands
}
_MIRROR = {1: 2, 4: 5, 7: 8, 10: 11, 13: 14, 16: 17, 18: 19, 20: 21, 22: 23}

# Joint, axis and the sign of bending backwards, in SMPL's T-pose: the left forearm, along +x, comes forward by a
# negative turn about y; a shin, along -y, goes back by a positive turn about x (SMPLify's four angles).
HINGES = ((18, 1, 1.0), (19, 1, -1.0), (4, 0, -1.0), (5, 0, -1.0))
_HINGE_SHARPNESS = 5.0


@functools.cache
def pose_table(dtype: torch.dtype, device: torch.device) -> tuple[Float[Tensor, "23 3"], Float[Tensor, "23 3"]]:
    """Mean and spread, radians, of the rotation vectors of the 23 joints below the root."""
    mean, spread = torch.zeros(N_JOINTS, 3, dtype=dtype), torch.ones(N_JOINTS, 3, dtype=dtype)
    flip = torch.tensor([1.0, -1.0, -1.0], dtype=dtype)
    for joint, (middle, width) in _SPREADS.items():
        mean[joint] = torch.tensor(middle, dtype=dtype) * _DEGREE
        spread[joint] = torch.tensor(width, dtype=dtype) * _DEGREE
        if joint in _MIRROR:
            mean[_MIRROR[joint]] = mean[joint] * flip
            spread[_MIRROR[joint]] = spread[joint]
    return mean[1:].to(device), spread[1:].to(device)


def pose_cost(
    angles: Float[Tensor, "*batch 23 3"], mean: Float[Tensor, "23 3"], spread: Float[Tensor, "23 3"]
) -> Float[Tensor, "*batch"]:
    """Half the squared distance to the mean, in spreads, summed over the joints."""
    return 0.5 * ((angles - mean) / spread).square().sum(dim=(-1, -2))


def hinge_cost(angles: Float[Tensor, "*batch 23 3"]) -> Float[Tensor, "*batch"]:
    """(exp(5 s theta) - 1)^2 of elbows and knees that bend backwards, summed; zero for those that bend forwards.

    SMPLify's exp(s theta)^2 (Bogo et al. 2016) also pulls bent joints to bend further; this is its part beyond zero.
    """
    joints = torch.tensor([joint - 1 for joint, _, _ in HINGES], device=angles.device)
    axes = torch.tensor([axis for _, axis, _ in HINGES], device=angles.device)
    signs = torch.tensor([sign for _, _, sign in HINGES], dtype=angles.dtype, device=angles.device)
    backwards = (signs * angles[..., joints, axes]).clamp(min=0, max=1)
    return torch.expm1(_HINGE_SHARPNESS * backwards).square().sum(dim=-1)


def charbonnier(square: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """sqrt(1 + x^2) - 1 from x^2: half the square when small, linear when large."""
    return (1 + square).sqrt() - 1


def geman_mcclure(square: Float[Tensor, "*batch"], scale: float) -> Float[Tensor, "*batch"]:
    """Half of x^2 / (1 + x^2 / scale^2) from x^2: half the square when small, never above scale^2 / 2."""
    return 0.5 * square / (1 + square / scale**2)


def acceleration_cost(
    points: Float[Tensor, "people frames points 3"], triple: Bool[Tensor, "people inner"], fps: float, spread: float
) -> Float[Tensor, ""]:
    """Robust acceleration of points (metres) in units of `spread` (m/s^2), summed over points and chosen triples.

    Args:
        triple: whether frames t, t + 1, t + 2 are all there and evenly spaced.
    """
    second = points[:, :-2] - 2 * points[:, 1:-1] + points[:, 2:]
    cost = charbonnier((second * (fps**2 / spread)).square().sum(dim=-1)).sum(dim=-1)
    return torch.where(triple, cost, 0.0).sum()


def angular_acceleration_cost(
    rotations: Float[Tensor, "people frames joints 3 3"],
    triple: Bool[Tensor, "people inner"],
    fps: float,
    spread: float,
) -> Float[Tensor, ""]:
    """Robust change of angular velocity in units of `spread` (rad/s^2), summed over joints and chosen triples.

    The turn between two frames is taken from the antisymmetric part of R_t^T R_{t+1}, sin(angle) times the axis: the
    angle itself to third order, and smooth everywhere.
    """
    step = rotations[:, :-1].transpose(-1, -2) @ rotations[:, 1:]
    turn = 0.5 * (step - step.transpose(-1, -2))
    velocity = torch.stack((turn[..., 2, 1], turn[..., 0, 2], turn[..., 1, 0]), dim=-1)
    change = (velocity[:, 1:] - velocity[:, :-1]) * (fps**2 / spread)
    cost = charbonnier(change.square().sum(dim=-1)).sum(dim=-1)
    return torch.where(triple, cost, 0.0).sum()


def local_rotations(
    root: Float[Tensor, "*batch 3 3"], angles: Float[Tensor, "*batch 23 3"]
) -> Float[Tensor, "*batch 24 3 3"]:
    """Rotation of every joint against its parent, the root's against the world."""
    return torch.cat((root[..., None, :, :], roma.rotvec_to_rotmat(angles)), dim=-3)
