"""From voxels to rays: joints of the network, drawn to the 2D peaks near them.

Voxels are 64 mm apart and heatmaps as wide, so the network is right about whose joint is where and about joints few
views see, and less so about millimetres; the peaks themselves are exact places. Each joint is the most likely place
given both: least squares over the network's joint and the rays of one peak of each view, the one of most weight,

    x = argmin |x - x_net|^2 / s_net^2 + sum_v w_v |(I - d_v d_v^T)(x - o_v)|^2,

w_v the peak's squared height times Tukey's biweight of the ray's distance over the radius, over s_ray^2, and the less
the farther the camera is (over its distance, the mean over the views being one), as in `estimate.triangulation.refine`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from avatarpose.cameras import Cameras
from avatarpose.estimate.affinity import biweight, nearness, point_ray_distance
from avatarpose.estimate.volumetric.config import PolishConfig
from avatarpose.estimate.volumetric.evidence import Gaussians


def polish(
    joints: Float[np.ndarray, "people joints 3"],
    gaussians: Gaussians,
    cameras: Cameras,
    config: PolishConfig,
) -> tuple[Float[np.ndarray, "people joints 3"], Float[np.ndarray, "people joints"]]:
    """Joints of one frame drawn to the rays of their peaks (metres, world).

    Returns:
        Joints; and how many views drew each, every view counting as much as its weight at that place (0 to V).
    """
    pixels = gaussians.means.double()
    with torch.no_grad():
        origins, directions = cameras.to(dtype=torch.float64, device="cpu").rays(pixels)
    origins = origins[:, 0, 0].numpy()  # (V, 3)
    directions = directions.numpy()  # (V, D, J, 3)
    square = gaussians.heights.numpy().transpose(2, 0, 1) ** 2  # (J, V, D)
    start, support = joints, np.zeros(joints.shape[:2])
    for _ in range(config.iterations):
        at = joints[:, :, None, None]  # (P, J, 1, 1, 3)
        rays = directions.transpose(2, 0, 1, 3)[None]  # (1, J, V, D, 3)
        away = point_ray_distance(at, origins[:, None], rays)  # (P, J, V, D)
        # Of a view's peaks, the one that draws most: a low one, of somebody else, does not stand before one's own.
        draw = biweight(away, config.radius) * square
        best = draw.argmax(axis=-1)[..., None]
        weight = np.take_along_axis(draw, best, axis=-1)[..., 0] / config.ray_spread**2  # (P, J, V)
        direction = np.take_along_axis(np.broadcast_to(rays, (*away.shape, 3)), best[..., None], axis=3)[..., 0, :]
        weight *= nearness(np.linalg.norm(joints[:, :, None] - origins, axis=-1), weight > 0)
        across = np.eye(3) - direction[..., :, None] * direction[..., None, :]
        across *= weight[..., None, None]
        normal = across.sum(axis=2) + np.eye(3) / config.network_spread**2
        right = np.einsum("pjvab,vb->pja", across, origins) + start / config.network_spread**2
        joints = np.linalg.solve(normal, right[..., None])[..., 0]
        support = (weight * config.ray_spread**2).sum(axis=-1)
    return joints, support
