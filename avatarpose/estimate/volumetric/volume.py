"""The volume around one person: where its voxels are, what the views show there, where the people's anchors stand.

Zhou et al., CloseMoCap, section 3.2: a cube of 2 m about the pelvis whose z axis runs from the pelvis to the neck
("unposed", so that standing and lying people look alike), its keypoint features (eq. 1) and its conditional volumes.
The turn about that axis, which the paper leaves open, is the least rotation from upright: the volume keeps the world's
azimuth. Features are evaluated from the Gaussians of the heatmaps at the projected voxels, never drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from avatarpose.cameras import LEAST_DEPTH, Cameras, distort
from avatarpose.estimate.volumetric.evidence import Gaussians
from avatarpose.skeletons import conversion_matrix

SIDE = 2.0
"""Metres along each edge of the volume."""
RESOLUTION = 32
"""Voxels along each edge; the outermost lie on the faces."""
PITCH = SIDE / (RESOLUTION - 1)
"""Metres between neighbouring voxels."""

_ABSENT = -1e4  # exponent of a Gaussian that is not there
_LEAST_EXPONENT = -25.0
_FEW_DETECTIONS = 6
_UNIT = 100.0  # pixels are counted in hundreds, so that the quadratic form keeps its digits in single precision
_CUDA_CHUNK = 32  # samples handled at once on CUDA; one at a time on the CPU, whose caches are small


def voxels(device: torch.device | str = "cpu") -> Float[Tensor, "voxels 3"]:
    """Places of the voxels in the volume's own frame, metres; x slowest, z fastest."""
    axis = torch.linspace(-SIDE / 2, SIDE / 2, RESOLUTION, device=device)
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).reshape(-1, 3)


def least_rotation(a: Float[Tensor, "*batch 3"], b: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation by the least angle that takes unit vector a to unit vector b.

    Opposite vectors have no such rotation; there it is half a turn about an axis across a.
    """
    a, b = torch.broadcast_tensors(a, b)
    # Half a turn about a, then half a turn about h, half way between a and b: together a turn in their plane.
    half = a + b
    across = torch.zeros_like(a).scatter(-1, a.abs().argmin(dim=-1, keepdim=True), 1.0)
    across = across - (across * a).sum(-1, keepdim=True) * a
    opposite = half.norm(dim=-1, keepdim=True) < 1e-3
    half = torch.nn.functional.normalize(torch.where(opposite, across, half), dim=-1)
    identity = torch.eye(3, dtype=a.dtype, device=a.device)
    about_half = 2 * half[..., :, None] * half[..., None, :] - identity
    about_a = 2 * a[..., :, None] * a[..., None, :] - identity
    return about_half @ about_a


@dataclass(frozen=True)
class Frames:
    """Where B volumes stand in the world: x_world = R_world_volume x_volume + origin."""

    origin: Float[Tensor, "volumes 3"]
    R_world_volume: Float[Tensor, "volumes 3 3"]

    @classmethod
    def at(
        cls, pelvis: Float[Tensor, "volumes 3"], neck: Float[Tensor, "volumes 3"], up: Float[Tensor, " 3"]
    ) -> Frames:
        """Volumes about the pelvis, their z axis from the pelvis to the neck (metres, world)."""
        z = torch.tensor([0.0, 0.0, 1.0], dtype=pelvis.dtype, device=pelvis.device)
        up = up.to(pelvis)
        spine = torch.nn.functional.normalize(neck - pelvis, dim=-1)
        return cls(pelvis, least_rotation(up.expand_as(spine), spine) @ least_rotation(z, up))

    def turned(self, angle: float) -> Frames:
        """The volumes turned by `angle` radians about their own z axis."""
        c, s = math.cos(angle), math.sin(angle)
        turn = self.R_world_volume.new_tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        return Frames(self.origin, self.R_world_volume @ turn)

    def to_world(self, points: Float[Tensor, "#volumes points 3"]) -> Float[Tensor, "volumes points 3"]:
        """Points of the volumes' own frames, in the world."""
        return points @ self.R_world_volume.mT + self.origin[:, None]

    def to_volume(self, points: Float[Tensor, "volumes points 3"]) -> Float[Tensor, "volumes points 3"]:
        """Points of the world, in the volumes' own frames."""
        return (points - self.origin[:, None]) @ self.R_world_volume


@dataclass(frozen=True)
class Views:
    """What V views show of each of B samples: calibrations and heatmaps. Views that are not there are padding."""

    K: Float[Tensor, "samples views 3 3"]
    R: Float[Tensor, "samples views 3 3"]
    t: Float[Tensor, "samples views 3"]
    dist: Float[Tensor, "samples views 5"] | None
    size: Float[Tensor, "samples views 2"]
    turning_radius: Float[Tensor, "samples views"]
    there: Bool[Tensor, "samples views"]
    quadratics: Float[Tensor, "samples views 6 peaks"]
    """Exponents of the Gaussians as coefficients of (x^2, xy, y^2, x, y, 1), pixels in hundreds from the image's
    centre; a peak is detection d of joint j at index d J + j."""
    reach: Float[Tensor, "samples views detections 4"]
    """Box in pixels outside which a detection shows nothing: left, top, right, bottom."""
    joints: int

    @classmethod
    def stack(cls, samples: Sequence[tuple[Cameras, Gaussians]]) -> Views:
        """Pads samples to common numbers of views and detections."""
        views = max(len(cameras) for cameras, _ in samples)
        detections = max(1, *(gaussians.means.shape[1] for _, gaussians in samples))
        joints = samples[0][1].means.shape[2]

        def padded(rows: list[Tensor], fill: float = 0.0) -> Tensor:
            return torch.stack(
                [torch.cat([row, row.new_full((views - len(row), *row.shape[1:]), fill)]) for row in rows]
            )

        cameras = [c for c, _ in samples]
        quadratics, reaches = [], []
        for rig, gaussians in samples:
            size = torch.stack((rig.width, rig.height), dim=-1).to(gaussians.means)
            spare = detections - gaussians.means.shape[1]
            quadratic, reach = _quadratics(gaussians, size)
            quadratics.append(torch.nn.functional.pad(quadratic, (0, 0, 0, spare)))
            quadratics[-1][:, 5, gaussians.means.shape[1] :] = _ABSENT
            reaches.append(torch.nn.functional.pad(reach, (0, 0, 0, spare)))
        distorted = any(rig.has_distortion for rig in cameras)
        size = [torch.stack((rig.width, rig.height), dim=-1).float() for rig in cameras]
        return cls(
            K=padded([rig.K.float() for rig in cameras], 1.0),
            R=padded([rig.R.float() for rig in cameras]),
            t=padded([rig.t.float() for rig in cameras]),
            dist=padded([rig.dist.float() for rig in cameras]) if distorted else None,
            size=padded(size, 1.0),
            turning_radius=padded([rig.turning_radius.float() for rig in cameras]),
            there=padded([torch.ones(len(rig), dtype=torch.bool) for rig in cameras]),
            quadratics=padded(quadratics).flatten(-2),
            reach=padded(reaches),
            joints=joints,
        )

    def repeat(self, count: int) -> Views:
        """`count` samples that show the same, from one."""
        fields = {k: v.expand(count, *v.shape[1:]) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Views(**fields)

    def to(self, device: torch.device | str) -> Views:
        """The same on another device."""
        moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return Views(**moved)


def _quadratics(gaussians: Gaussians, size: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (V, 6, D, J) of the exponents and boxes (V, D, 4) in which they are above exp(-8)."""
    centre = 0.5 * size[:, None, None]
    x, y = ((gaussians.means - centre) / _UNIT).unbind(-1)
    xx, xy, yy = (gaussians.precisions * _UNIT**2).unbind(-1)
    seen = gaussians.heights > 0
    log_height = torch.where(seen, gaussians.heights, 1.0).log()
    constant = log_height - 0.5 * (xx * x * x + 2 * xy * x * y + yy * y * y)
    terms = (-0.5 * xx, -xy, -0.5 * yy, xx * x + xy * y, xy * x + yy * y, constant)
    quadratic = torch.stack([torch.where(seen, term, 0.0) for term in terms], dim=1)
    quadratic[:, 5] = torch.where(seen, quadratic[:, 5], _ABSENT)
    determinant = (gaussians.precisions[..., 0] * gaussians.precisions[..., 2] - gaussians.precisions[..., 1] ** 2)
    spread = torch.stack((gaussians.precisions[..., 2], gaussians.precisions[..., 0]), dim=-1) / determinant[..., None]
    radius = 4 * spread.clamp_min(0).sqrt()
    low = torch.where(seen[..., None], gaussians.means - radius, torch.inf).amin(dim=2)
    high = torch.where(seen[..., None], gaussians.means + radius, -torch.inf).amax(dim=2)
    return quadratic, torch.cat((low, high), dim=-1)


def convert_gaussians(gaussians: Gaussians, skeleton: str) -> Gaussians:
    """Gaussians of COCO-17 joints as those of another skeleton, whose joints are weighted means of COCO's.

    Places and precisions are averaged; a joint is as sure as the least sure of those it is made of.
    """
    weights = torch.from_numpy(conversion_matrix("coco17", skeleton)).to(gaussians.means)
    if not bool(torch.isfinite(weights).all()):
        raise ValueError(f"{skeleton} has joints that COCO-17 cannot give")
    used = weights != 0
    heights = torch.where(used, gaussians.heights[..., None, :], torch.inf).amin(dim=-1)
    means, precisions = weights @ gaussians.means, weights @ gaussians.precisions
    seen = (heights > 0)[..., None]
    absent = torch.tensor([1.0, 0.0, 1.0]).to(precisions)
    return Gaussians(
        torch.where(seen, means, 0.0), torch.where(seen, precisions, absent), heights, gaussians.rows_are_people
    )


def feature_volume(
    views: Views, points: Float[Tensor, "samples points 3"]
) -> Float[Tensor, "samples joints+1 points"]:
    """Mean over the views that see a place of their heatmaps there (eq. 1); last, the share of the views that see it.

    A view sees what lies before the camera and inside the image; places no view sees are 0. The share, which the paper
    has not, tells what a mean is worth: of one view alone it is as high all along the ray.

    Args:
        points: metres, world.
    """
    samples, count = points.shape[:2]
    chunk = _CUDA_CHUNK if points.is_cuda else 1
    result = points.new_zeros(samples, views.joints + 1, count)
    for start in range(0, samples, chunk):
        part = slice(start, start + chunk)
        total, number = result[part, :-1], points.new_zeros(len(points[part]), count)
        for v in range(views.K.shape[1]):
            if points.is_cuda or bool(views.there[part, v].any()):
                heat, seen = _one_view(views, part, v, points[part])
                number += seen
                if heat is not None:
                    total += heat
        total /= number.clamp_min(1)[:, None]
        result[part, -1] = number / views.there[part].sum(dim=1, keepdim=True).clamp_min(1)
    return result


def _one_view(views: Views, part: slice, v: int, points: Tensor) -> tuple[Tensor | None, Tensor]:
    """Heatmaps (B, J, N) of view v at the points, 0 where it does not see them, and whether it sees them (B, N)."""
    # As `project_points`, by matrix products: this is most of the work of few people.
    camera = torch.baddbmm(views.t[part, v, None], points, views.R[part, v].mT)
    depth = camera[..., 2]
    seen = (depth > LEAST_DEPTH) & views.there[part, v, None]
    xy = camera[..., :2] / torch.where(seen, depth, 1.0)[..., None]
    if views.dist is not None:
        seen &= xy.norm(dim=-1) < views.turning_radius[part, v, None]
        xy = distort(xy, views.dist[part, v, None])
    K, size = views.K[part, v], views.size[part, v, None]
    pixels = torch.baddbmm(K[:, None, :2, 2], xy, K[:, :2, :2].mT)
    seen &= ((pixels >= 0) & (pixels <= size)).all(dim=-1)
    quadratics = views.quadratics[part, v]
    detections = views.reach.shape[2]
    if not points.is_cuda and detections > _FEW_DETECTIONS:
        # Of a crowd only those whom the volume can see are computed.
        if not bool(seen.any()):
            return None, seen
        visible = pixels[seen]
        low, high = visible.amin(dim=0), visible.amax(dim=0)
        reach = views.reach[part, v]
        near = ((reach[..., 2:] > low) & (reach[..., :2] < high)).all(dim=-1).any(dim=0)
        if not bool(near.any()):
            return None, seen
        quadratics = quadratics.unflatten(-1, (-1, views.joints))[..., near, :].flatten(-2)
    x, y = torch.where(seen[..., None], (pixels - 0.5 * size) / _UNIT, 0.0).unbind(-1)
    hidden = (~seen).to(x)
    basis = torch.stack((x * x, x * y, y * y, x, y, torch.ones_like(x), hidden), dim=1)  # (B, 7, N)
    dark = quadratics.new_full((*quadratics.shape[:1], 1, quadratics.shape[-1]), _ABSENT)
    exponents = (torch.cat((quadratics, dark), dim=1).mT @ basis).unflatten(1, (-1, views.joints))
    # Single precision may leave an exponent a little above 0; far below, the exponential is slow and does not count.
    return exponents.amax(dim=1).clamp_(_LEAST_EXPONENT, 0).exp_(), seen


def anchor_volume(
    anchors: Float[Tensor, "*batch 3"], sigma: float
) -> Float[Tensor, "*batch voxels"]:
    """Gaussians about points of the volumes' own frames (metres; NaN: nothing), evaluated at the voxels."""
    axis = torch.linspace(-SIDE / 2, SIDE / 2, RESOLUTION, device=anchors.device)
    square = torch.nan_to_num((anchors[..., None] - axis).square(), nan=torch.inf)
    # A Gaussian is the product of those along the axes.
    x, y, z = square.mul(-0.5 / sigma**2).clamp_(min=_LEAST_EXPONENT).exp().unbind(-2)
    plane = (x[..., :, None] * y[..., None, :]).flatten(-2)
    return (plane[..., :, None] * z[..., None, :]).flatten(-2)


def others_volume(
    anchors: Float[Tensor, "samples people anchors 3"], sigma: float
) -> Float[Tensor, "samples anchors voxels"]:
    """The anchors of all other people (NaN rows: nobody), largest value taken (eq. 4)."""
    if anchors.shape[1] == 0:
        return anchors.new_zeros(len(anchors), anchors.shape[2], RESOLUTION**3)
    return anchor_volume(anchors, sigma).amax(dim=1)
