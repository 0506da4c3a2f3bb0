"""Smooth curves through given points: of vectors, and of rotations on their own manifold.

One construction serves both: the pyramid of Barry and Goldman ("A recursive evaluation algorithm for a class of
Catmull-Rom splines", SIGGRAPH 1988) needs nothing but mixing two points, which is a straight line between vectors and
a great arc between unit quaternions (slerp; Schlag, "Using geometric constructions to interpolate orientation with
quaternions", Graphics Gems II, 1991). The curve passes through every point and its velocity does not jump there.
"""

from __future__ import annotations

from collections.abc import Callable

import roma
import torch
from jaxtyping import Float
from torch import Tensor

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(a, b, share of b), over the leading dimension; shares below 0 and above 1 go on beyond a and b."""


def mix_vectors(a: Float[Tensor, "*batch"], b: Float[Tensor, "*batch"], share: Float[Tensor, " n"]) -> Tensor:
    """The straight line from a to b."""
    return torch.lerp(a, b, share.reshape(-1, *(1,) * (a.ndim - 1)))


def mix_rotations(a: Float[Tensor, "n *batch 4"], b: Float[Tensor, "n *batch 4"], share: Float[Tensor, " n"]) -> Tensor:
    """The shortest great arc between unit quaternions (x, y, z, w): a (a^-1 b)^share."""
    between = roma.quat_product(roma.quat_conjugation(a), b)
    between = torch.where(between[..., 3:] < 0, -between, between)
    turn = roma.unitquat_to_rotvec(between) * share.reshape(-1, *(1,) * (a.ndim - 1))
    return roma.quat_product(a, roma.rotvec_to_unitquat(turn))


def catmull_rom(
    knots: Float[Tensor, " knots"],
    points: Float[Tensor, "knots ..."],
    times: Float[Tensor, " times"],
    mix: Mix = mix_vectors,
) -> Float[Tensor, "times ..."]:
    """The curve through `points` at the times `knots`, looked up at `times`; it stands still before and after.

    At both ends the curve is continued by a mirrored point, so that it starts and ends straight.

    Args:
        knots: ascending times, at any distances.
        points: what the curve passes through; unit quaternions for `mix_rotations`.
        times: where to look.

    Raises:
        ValueError: times of the knots that do not ascend.
    """
    if len(knots) == 1:
        return points.expand(len(times), *points.shape[1:]).clone()
    if not bool((knots[1:] > knots[:-1]).all()):
        raise ValueError(f"spline: knots that do not ascend: {knots.tolist()}")
    minus, two = knots.new_tensor([-1.0]), knots.new_tensor([2.0])
    before, after = mix(points[:1], points[1:2], minus), mix(points[-2:-1], points[-1:], two)
    p = torch.cat([before, points, after])
    t = torch.cat([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    x = times.clamp(float(knots[0]), float(knots[-1]))
    left = (torch.searchsorted(knots, x, right=True) - 1).clamp(0, len(knots) - 2)  # x lies in t[left+1], t[left+2]
    t0, t1, t2, t3 = (t[left + k] for k in range(4))
    a = [mix(p[left + k], p[left + k + 1], (x - t[left + k]) / (t[left + k + 1] - t[left + k])) for k in range(3)]
    b = [mix(a[0], a[1], (x - t0) / (t2 - t0)), mix(a[1], a[2], (x - t1) / (t3 - t1))]
    return mix(b[0], b[1], (x - t1) / (t2 - t1))


def spline_rotvecs(
    knots: Float[Tensor, " knots"], rotvecs: Float[Tensor, "knots *batch 3"], times: Float[Tensor, " times"]
) -> Float[Tensor, "times *batch 3"]:
    """`catmull_rom` of rotations given and returned as rotation vectors, radians."""
    return roma.unitquat_to_rotvec(catmull_rom(knots, roma.rotvec_to_unitquat(rotvecs), times, mix_rotations))
