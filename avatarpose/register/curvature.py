"""Gauss-Newton curvature of the fit's cost, factored, as the change of variables in which L-BFGS converges fast.

With fps in the cost the smoothness terms are thousands of times stiffer than the pose prior, and plain L-BFGS crawls.
The curvature is block-banded in time (accelerations couple three frames) with one dense border for the shape, so its
Cholesky factor costs time linear in the number of frames. It need not be exact: the gradients are.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.linalg import cholesky, cholesky_banded, solve_triangular
from scipy.linalg.lapack import dtbtrs

N_POSE = 75
"""Unknowns of a frame: turn of the root (3), rotation vectors of 23 joints (69), translation (3)."""
N_SHAPE = 10
_REACH = 2
"""Frames that one term of the cost couples with the next ones."""
_SECOND_DIFFERENCE = (1.0, -2.0, 1.0)

Array = np.ndarray


class Factor:
    """H = L L^T of one person's curvature; maps whitened steps z to steps x = L^-T z and gradients back.

    Args:
        diagonal: (F, 75, 75), beside: (F - 1, 75, 75), and beyond: (F - 2, 75, 75), the blocks (t, t), (t, t + 1) and
            (t, t + 2) of the frames' curvature.
        border: (F, 75, 10) blocks of frames with the shape.
        corner: (10, 10) block of the shape.
    """

    def __init__(self, diagonal: Array, beside: Array, beyond: Array, border: Array, corner: Array) -> None:
        frames = len(diagonal)
        size = frames * N_POSE
        bands = np.zeros((min((_REACH + 1) * N_POSE, size), size))
        row, column = np.meshgrid(np.arange(N_POSE), np.arange(N_POSE), indexing="ij")
        for ahead, blocks in enumerate((diagonal, beside, beyond)):
            # Lower form: bands[i - j, j] = H[i, j]; the block (t, t + ahead) of a symmetric matrix stands transposed.
            for t, block in enumerate(blocks):
                i, j = column + (t + ahead) * N_POSE, row + t * N_POSE
                below = i >= j
                bands[(i - j)[below], j[below]] = block[below]
        self._bands = cholesky_banded(bands, lower=True, overwrite_ab=True)
        self._across = self._forward(border.reshape(size, N_SHAPE))
        self._corner = cholesky(corner - self._across.T @ self._across, lower=True)

    def _forward(self, right: Array) -> Array:
        return dtbtrs(self._bands, right, uplo="L", trans="N")[0]

    def _backward(self, right: Array) -> Array:
        return dtbtrs(self._bands, right, uplo="L", trans="T")[0]

    def step(self, pose: Array, shape: Array) -> tuple[Array, Array]:
        """x = L^-T z, for z in two parts: (75 F,) of the frames and (10,) of the shape."""
        shape = solve_triangular(self._corner, shape, lower=True, trans="T")
        return self._backward((pose - self._across @ shape)[:, None])[:, 0], shape

    def gradient(self, pose: Array, shape: Array) -> tuple[Array, Array]:
        """Gradient with respect to z from that with respect to x: L^-1 g."""
        pose = self._forward(pose[:, None])[:, 0]
        return pose, solve_triangular(self._corner, shape - self._across.T @ pose, lower=True)


def build_factors(
    slopes: Float[torch.Tensor, "people frames 17 3 85"],
    measured: Float[torch.Tensor, "people frames 17 3 3"],
    linear: Float[torch.Tensor, "people inner 17"],
    angular: Float[torch.Tensor, "people inner 24"],
    prior: Float[torch.Tensor, "people frames 75"],
    shape_prior: float,
    present: Bool[torch.Tensor, "people frames"],
) -> list[Factor]:
    """One factored curvature per person.

    Args:
        slopes: derivatives of the keypoints with respect to the 75 unknowns of their frame and the 10 of the shape.
        measured: curvature of the measurements with respect to each keypoint.
        linear: weights of the squared second differences of the keypoints, for frames t, t + 1, t + 2.
        angular: the same for the joints' rotation vectors (root first).
        prior: diagonal curvature of the pose prior.
        shape_prior: curvature of the shape prior.
        present: frames that the person is in; the others get unit curvature, they carry no cost.
    """
    pose_slopes, shape_slopes = slopes[..., :N_POSE], slopes[..., N_POSE:]
    frames = slopes.shape[1]
    absent = torch.where(present[..., None], prior, 1.0)
    # The keypoint curvature between frames a and a + ahead is a sum of measurements and of second differences.
    isotropic = torch.eye(3, dtype=slopes.dtype)
    blocks: list[torch.Tensor] = []
    couplings = []
    for ahead in range(_REACH + 1):
        weight = torch.zeros(*slopes.shape[:2], slopes.shape[2], dtype=slopes.dtype)[:, : max(frames - ahead, 0)]
        turning = torch.zeros(slopes.shape[0], weight.shape[1], 24, dtype=slopes.dtype)
        for first in range(3 - ahead):
            factor = _SECOND_DIFFERENCE[first] * _SECOND_DIFFERENCE[first + ahead]
            weight[:, first : first + linear.shape[1]] += factor * linear
            turning[:, first : first + linear.shape[1]] += factor * angular
        coupling = weight[..., None, None] * isotropic
        if ahead == 0:
            coupling = coupling + measured
        couplings.append(coupling)
        here, later = pose_slopes[:, : weight.shape[1]], pose_slopes[:, ahead:]
        block = torch.einsum("pfkxa,pfkxy,pfkyb->pfab", here, coupling, later)
        diagonal = torch.cat((turning.repeat_interleave(3, dim=-1), torch.zeros_like(turning[..., :3])), dim=-1)
        block = block + torch.diag_embed(diagonal + (absent if ahead == 0 else 0.0))
        blocks.append(block)
    pulled = torch.einsum("pfkxy,pfkyb->pfkxb", couplings[0], shape_slopes)
    for ahead in (1, 2):
        if frames <= ahead:
            continue
        pulled[:, :-ahead] += torch.einsum("pfkxy,pfkyb->pfkxb", couplings[ahead], shape_slopes[:, ahead:])
        pulled[:, ahead:] += torch.einsum("pfkxy,pfkyb->pfkxb", couplings[ahead], shape_slopes[:, :-ahead])
    border = torch.einsum("pfkxa,pfkxb->pfab", pose_slopes, pulled)
    shape_corner = torch.einsum("pfkxa,pfkxb->pab", shape_slopes, pulled)
    shape_corner = shape_corner + shape_prior * torch.eye(N_SHAPE, dtype=slopes.dtype)
    return [
        Factor(*(block[p].numpy() for block in blocks), border[p].numpy(), shape_corner[p].numpy())
        for p in range(len(slopes))
    ]
