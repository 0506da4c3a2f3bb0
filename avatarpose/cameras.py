"""Calibrated cameras: projection, rays and undistortion, in torch and differentiable.

The camera is OpenCV's: x right, y down, z forward, `x_cam = R x_world + t`, lens distortion `[k1, k2, p1, p2, k3]` on
normalised coordinates (OpenCV documentation, "Camera Calibration and 3D Reconstruction"; Brown, Photogrammetric
Engineering 1971). Pixel coordinates count from the outer corner of the top-left pixel, so that the centre of pixel i is
i + 0.5; OpenCV puts it at i, so half a pixel is taken off what goes to OpenCV and added to what comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from avatarpose.errors import InputError
from avatarpose.io import read_json, write_json

# Points nearer than this to the camera's plane, metres, have no image.
LEAST_DEPTH = 1e-3
_STAGES, _NEWTON_STEPS = 6, 6
_ROTATION_TOLERANCE = 1e-3


def distort(xy: Float[Tensor, "*batch 2"], dist: Float[Tensor, "*#batch 5"]) -> Float[Tensor, "*batch 2"]:
    """Ideal normalised coordinates to those the lens makes of them (OpenCV's five-parameter model)."""
    x, y = xy.unbind(-1)
    k1, k2, p1, p2, k3 = dist.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return torch.stack(
        (
            x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
            y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
        ),
        dim=-1,
    )


def _distortion_jacobian(xy: Tensor, dist: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries (xx, xy = yx, yy) of the symmetric derivative of `distort`."""
    x, y = xy.unbind(-1)
    k1, k2, p1, p2, k3 = dist.unbind(-1)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2 * (k1 + r2 * (2 * k2 + 3 * k3 * r2))
    xx = radial + x * x * slope + 2 * p1 * y + 6 * p2 * x
    mixed = x * y * slope + 2 * p1 * x + 2 * p2 * y
    yy = radial + y * y * slope + 6 * p1 * y + 2 * p2 * x
    return xx, mixed, yy


def undistort(xy: Float[Tensor, "*batch 2"], dist: Float[Tensor, "*#batch 5"]) -> Float[Tensor, "*batch 2"]:
    """Inverse of `distort`, differentiable in both arguments.

    Newton's method finds the root without recording it, following it from the optical axis outwards, because started
    at the pixel itself it can leave for a wrong root beyond the lens's turning point. One more recorded step from the
    root, with the derivative held fixed, has the exact first derivatives (implicit function theorem); second ones are
    not available. Pixels that the lens cannot produce have no root: what is returned for them is finite, no more.
    """
    target = xy.detach()
    with torch.no_grad():
        fixed = dist.detach()
        root = target.expand(torch.broadcast_shapes(target.shape, (*fixed.shape[:-1], 2))) / _STAGES
        for stage in range(1, _STAGES):
            root = root - _newton_step(root, fixed, target * (stage / _STAGES))
            root = root * ((stage + 1) / stage)
        for _ in range(_NEWTON_STEPS):
            root = root - _newton_step(root, fixed, target)
    return root - _newton_step(root, dist, xy)


def _newton_step(root: Tensor, dist: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        xx, mixed, yy = _distortion_jacobian(root, dist.detach())
        determinant = xx * yy - mixed * mixed
        determinant = torch.where(determinant.abs() < 1e-6, torch.full_like(determinant, 1e-6), determinant)
    ex, ey = (distort(root, dist) - target).unbind(-1)
    return torch.stack(((yy * ex - mixed * ey) / determinant, (xx * ey - mixed * ex) / determinant), dim=-1)


def _rotate(R: Tensor, vectors: Tensor) -> Tensor:
    # A broadcast matmul would copy R for every vector and run one tiny product each.
    return (R * vectors[..., None, :]).sum(-1)


def _to_pixels(xy: Tensor, K: Tensor) -> Tensor:
    return _rotate(K[..., :2, :2], xy) + K[..., :2, 2]


def _to_normalised(pixels: Tensor, K: Tensor) -> Tensor:
    y = (pixels[..., 1] - K[..., 1, 2]) / K[..., 1, 1]
    x = (pixels[..., 0] - K[..., 0, 2] - K[..., 0, 1] * y) / K[..., 0, 0]
    return torch.stack((x, y), dim=-1)


def project_points(
    points: Float[Tensor, "*#batch 3"],
    K: Float[Tensor, "*#batch 3 3"],
    R: Float[Tensor, "*#batch 3 3"],
    t: Float[Tensor, "*#batch 3"],
    dist: Float[Tensor, "*#batch 5"] | None = None,
) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"]]:
    """Projects world points; leading dimensions broadcast, so every point may have its own camera.

    Args:
        points: metres, world.
        K, R, t: intrinsics in pixels, rotation and translation (metres) of `x_cam = R x_world + t`.
        dist: OpenCV's [k1, k2, p1, p2, k3]; None for an ideal lens.

    Returns:
        Pixels (of the distorted image) and depth along the optical axis in metres. Where depth is below `LEAST_DEPTH`
        the point has no image; the pixels are finite there and mean nothing.
    """
    camera = _rotate(R, points) + t
    depth = camera[..., 2]
    safe = torch.where(depth > LEAST_DEPTH, depth, torch.ones_like(depth))
    xy = camera[..., :2] / safe[..., None]
    return _to_pixels(xy if dist is None else distort(xy, dist), K), depth


def pixel_rays(
    pixels: Float[Tensor, "*#batch 2"],
    K: Float[Tensor, "*#batch 3 3"],
    R: Float[Tensor, "*#batch 3 3"],
    t: Float[Tensor, "*#batch 3"],
    dist: Float[Tensor, "*#batch 5"] | None = None,
) -> tuple[Float[Tensor, "*batch 3"], Float[Tensor, "*batch 3"]]:
    """Rays through pixels of the distorted image; leading dimensions broadcast, so every pixel may have its own camera.

    Args:
        pixels: pixel coordinates.
        K, R, t, dist: as in `project_points`.

    Returns:
        Origins (the camera's centre), metres, world, and unit directions, world.
    """
    xy = _to_normalised(pixels, K)
    if dist is not None:
        xy = undistort(xy, dist)
    camera = torch.cat((xy, torch.ones_like(xy[..., :1])), dim=-1)
    direction = _rotate(R.mT, camera)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    return -_rotate(R.mT, t).expand_as(direction), direction


@dataclass(frozen=True)
class Cameras:
    """C calibrated cameras as batched tensors.

    Attributes:
        names: names of the cameras.
        K: (C, 3, 3) intrinsics of the image as it is on disk, pixels, pixel centres at i + 0.5.
        R: (C, 3, 3) rotation world to camera.
        t: (C, 3) translation, metres: `x_cam = R x_world + t`.
        dist: (C, 5) OpenCV's [k1, k2, p1, p2, k3].
        width, height: (C,) size of the image, pixels, int64.
        offset: (C,) the frame of the camera's own that shows frame 0 of the common clock; may be fractional.
        fps: (C,) the camera's own frames per second; NaN where it is the sequence's.
    """

    names: tuple[str, ...]
    K: Float[Tensor, "cameras 3 3"]
    R: Float[Tensor, "cameras 3 3"]
    t: Float[Tensor, "cameras 3"]
    dist: Float[Tensor, "cameras 5"]
    width: Int[Tensor, " cameras"]
    height: Int[Tensor, " cameras"]
    offset: Float[Tensor, " cameras"] = None
    fps: Float[Tensor, " cameras"] = None

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.offset is None:
            object.__setattr__(self, "offset", torch.zeros(count, dtype=torch.float64))
        if self.fps is None:
            object.__setattr__(self, "fps", torch.full((count,), torch.nan, dtype=torch.float64))
        for name, shape in {"K": (3, 3), "R": (3, 3), "t": (3,), "dist": (5,), "width": (), "height": ()}.items():
            if getattr(self, name).shape != (count, *shape):
                raise ValueError(f"{name}: expected shape {(count, *shape)}, found {tuple(getattr(self, name).shape)}")

    # ---- files ----

    @classmethod
    def load(cls, path: Path | str) -> Cameras:
        """Reads cameras.json.

        `width`, `height` and `K` of the file are those of the calibrated image. An entry `"crop": [left, top]` says
        that the images on disk start at its pixel (left, top): the principal point moves by (-left, -top) and the size
        shrinks by (left, top). What is cut at the right and bottom is not written down; `Sequence` takes it from the
        images. What this class holds, and `save` writes, is the image on disk, without a crop.

        Raises:
            InputError: malformed JSON, no camera, a missing or misshapen entry, NaN, a matrix that is no rotation or no
                intrinsic matrix, an impossible size or crop; the message names the camera.
        """
        path = Path(path)
        entries = read_json(path)
        if not entries:
            raise InputError("no camera in the calibration", file=path, expected="one entry per camera", found="{}")
        rows = [_read_entry(path, name, entry) for name, entry in entries.items()]
        tensors = {
            key: torch.tensor(np.stack([row[key] for row in rows]), dtype=torch.float64)
            for key in ("K", "R", "t", "dist", "offset", "fps")
        }
        sizes = {key: torch.tensor([row[key] for row in rows], dtype=torch.int64) for key in ("width", "height")}
        return cls(names=tuple(entries), **tensors, **sizes)

    def save(self, path: Path | str) -> None:
        """Writes cameras.json atomically."""
        entries = {}
        for i, name in enumerate(self.names):
            entries[name] = {key: getattr(self, key)[i].tolist() for key in ("K", "R", "t", "dist", "width", "height")}
            if float(self.offset[i]) != 0:
                entries[name]["offset"] = float(self.offset[i])
            if not bool(self.fps[i].isnan()):
                entries[name]["fps"] = float(self.fps[i])
        write_json(path, entries)

    # ---- choosing and converting ----

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int | slice | Sequence[int]) -> Cameras:
        """The cameras at some indices; an int gives one camera (still batched, C = 1)."""
        if isinstance(index, slice):
            index = range(len(self))[index]
        elif isinstance(index, int):
            index = [range(len(self))[index]]
        indices = [int(i) for i in index]
        names = tuple(self.names[i] for i in indices)
        chosen = torch.tensor(indices, dtype=torch.int64, device=self.K.device)
        fields = ("K", "R", "t", "dist", "width", "height", "offset", "fps")
        return Cameras(names, **{key: getattr(self, key)[chosen.to(getattr(self, key).device)] for key in fields})

    def select(self, names: Iterable[str]) -> Cameras:
        """The cameras with these names, in the order given.

        Raises:
            InputError: a name is unknown.
        """
        names = list(names)
        for name in names:
            if name not in self.names:
                raise InputError(f"no camera is called {name!r}", expected=", ".join(self.names), found=name)
        return self[[self.names.index(name) for name in names]]

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Cameras:
        """The same cameras with K, R, t and dist in another type or on another device (sizes and clocks stay put)."""
        moved = {key: getattr(self, key).to(dtype=dtype, device=device) for key in ("K", "R", "t", "dist")}
        return replace(self, **moved)

    def scaled(self, scale: float) -> Cameras:
        """The cameras of the images resized by `scale`.

        Sizes are rounded to whole pixels, and K is scaled by the ratio of the sizes, which is what `cv2.resize` does.
        """
        width = (self.width * scale).round().clamp_min(1).to(torch.int64)
        height = (self.height * scale).round().clamp_min(1).to(torch.int64)
        ratio = torch.stack((width / self.width, height / self.height, torch.ones_like(width)), dim=-1)
        return replace(self, K=self.K * ratio.to(self.K)[..., None], width=width, height=height)

    def cropped(
        self,
        left: int | Int[Tensor, " cameras"],
        top: int | Int[Tensor, " cameras"],
        width: int | Int[Tensor, " cameras"],
        height: int | Int[Tensor, " cameras"],
    ) -> Cameras:
        """The cameras of windows of the images: corner (left, top) and size, pixels, one for all or (C,)."""
        left, top, width, height = (
            torch.as_tensor(value, dtype=torch.int64).expand(len(self)) for value in (left, top, width, height)
        )
        K = self.K.clone()
        K[:, :2, 2] -= torch.stack((left, top), dim=-1).to(K)
        return replace(self, K=K, width=width.clone(), height=height.clone())

    # ---- geometry ----

    @property
    def centres(self) -> Float[Tensor, "cameras 3"]:
        """Optical centres, metres, world."""
        return -_rotate(self.R.mT, self.t)

    @property
    def T_cam_world(self) -> Float[Tensor, "cameras 4 4"]:
        """Rigid transforms, world to camera."""
        T = torch.eye(4, dtype=self.K.dtype, device=self.K.device).repeat(len(self), 1, 1)
        T[:, :3, :3], T[:, :3, 3] = self.R, self.t
        return T

    @cached_property
    def has_distortion(self) -> bool:
        """Whether any lens is not ideal."""
        return bool((self.dist != 0).any())

    def _batched(self, dims: int) -> dict[str, Tensor | None]:
        """K, R, t and dist with `dims` unit dimensions after the cameras' one."""
        ones = (1,) * dims
        fields = {key: getattr(self, key) for key in ("K", "R", "t", "dist")}
        shaped = {key: value.reshape(len(self), *ones, *value.shape[1:]) for key, value in fields.items()}
        return shaped if self.has_distortion else {**shaped, "dist": None}

    def project(
        self, points: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "cameras *batch 2"], Float[Tensor, " cameras *batch"]]:
        """Projects points, metres, world, into every camera; see `project_points` for what is returned."""
        return project_points(points, **self._batched(points.ndim - 1))

    def rays(
        self, pixels: Float[Tensor, "cameras *batch 2"]
    ) -> tuple[Float[Tensor, "cameras *batch 3"], Float[Tensor, "cameras *batch 3"]]:
        """Rays through each camera's own pixels; see `pixel_rays` for what is returned."""
        return pixel_rays(pixels, **self._batched(pixels.ndim - 2))

    def undistort_pixels(self, pixels: Float[Tensor, "cameras *batch 2"]) -> Float[Tensor, "cameras *batch 2"]:
        """Where the pixels would be through an ideal lens with the same K."""
        if not self.has_distortion:
            return pixels
        fields = self._batched(pixels.ndim - 2)
        return _to_pixels(undistort(_to_normalised(pixels, fields["K"]), fields["dist"]), fields["K"])

    @cached_property
    def turning_radius(self) -> Float[Tensor, " cameras"]:
        """Ideal normalised radius at which each lens's radial curve turns back (inf where it never does).

        The polynomial fits the calibrated image alone; beyond the turn it folds the far outside back into the image.
        """
        radii = []
        for k1, k2, _, _, k3 in self.dist.detach().cpu().double().tolist():
            roots = np.roots([7 * k3, 5 * k2, 3 * k1, 1.0])
            squares = [root.real for root in roots if abs(root.imag) < 1e-9 and root.real > 0]
            radii.append(min(squares) ** 0.5 if squares else float("inf"))
        return torch.tensor(radii, dtype=self.K.dtype, device=self.K.device)

    def sees(self, points: Float[Tensor, "*batch 3"], margin: float = 0.0) -> Bool[Tensor, " cameras *batch"]:
        """Whether each point falls in each image, `margin` pixels or more inside its border; occlusion is ignored."""
        pixels, depth = self.project(points)
        fields = self._batched(points.ndim - 1)
        camera = _rotate(fields["R"], points) + fields["t"]
        shape = (len(self),) + (1,) * (points.ndim - 1)
        radius = camera[..., :2].norm(dim=-1) / depth.clamp_min(LEAST_DEPTH)
        seen = (depth > LEAST_DEPTH) & (radius < self.turning_radius.reshape(shape))
        for axis, size in enumerate((self.width, self.height)):
            size = size.to(pixels.device).reshape(shape)
            seen = seen & (pixels[..., axis] >= margin) & (pixels[..., axis] <= size - margin)
        return seen


def undistort_image(
    image: np.ndarray, camera: Cameras, interpolation: int = cv2.INTER_LINEAR, border: int = 0
) -> np.ndarray:
    """The image an ideal lens with the same K would have made.

    Args:
        image: (H, W) or (H, W, 3), any type OpenCV remaps.
        camera: one camera (`cameras[c]`).
        interpolation: OpenCV's flag; INTER_NEAREST for masks.
        border: value where the lens saw nothing.

    Returns:
        The image, same shape and type.
    """
    if len(camera) != 1:
        raise ValueError(f"expected one camera, found {len(camera)}")
    height, width = image.shape[:2]
    K = camera.K[0].detach().cpu().double().numpy().copy()
    K[:2, 2] -= 0.5
    dist = camera.dist[0].detach().cpu().double().numpy()
    maps = cv2.initUndistortRectifyMap(K, dist, None, K, (width, height), cv2.CV_32FC1)
    return cv2.remap(image, *maps, interpolation, borderMode=cv2.BORDER_CONSTANT, borderValue=(border,) * 3)


# ---- reading cameras.json ----


def _read_entry(path: Path, name: str, entry: Any) -> dict[str, Any]:
    """One camera of cameras.json, checked, with its crop taken into K and size."""
    if not name or name.startswith(".") or "/" in name or "\\" in name:
        raise InputError("impossible camera name", file=path, camera=name, expected="a name that can be a folder's")
    if not isinstance(entry, Mapping):
        raise InputError("not an object", file=path, camera=name, expected="{K, R, t, width, height}", found=entry)
    for key in ("K", "R", "t", "width", "height"):
        if key not in entry:
            raise InputError(f"lacks {key}", file=path, camera=name, expected=key, found=", ".join(entry))
    K, R = _array(path, name, entry, "K", (3, 3)), _array(path, name, entry, "R", (3, 3))
    t, dist = _array(path, name, entry, "t", (3,)), _array(path, name, {"dist": [0] * 5, **entry}, "dist", (5,))
    error = max(float(np.abs(R @ R.T - np.eye(3)).max()), abs(float(np.linalg.det(R)) - 1))
    if error > _ROTATION_TOLERANCE:
        raise InputError(
            "R is not a rotation", file=path, camera=name,
            expected="R R' = I and det R = 1", found=f"determinant {np.linalg.det(R):.4g}, largest error {error:.3g}",
        )  # fmt: skip
    if not (K[0, 0] > 0 and K[1, 1] > 0 and K[1, 0] == 0 and np.array_equal(K[2], (0, 0, 1))):
        raise InputError(
            "K is not an intrinsic matrix", file=path, camera=name,
            expected="[[fx > 0, skew, cx], [0, fy > 0, cy], [0, 0, 1]]", found=K.tolist(),
        )  # fmt: skip
    size = np.array([_size(path, name, entry, key) for key in ("width", "height")])
    crop = _array(path, name, {"crop": [0, 0], **entry}, "crop", (2,))
    if (crop < 0).any() or (crop >= size).any() or (crop != crop.round()).any():
        raise InputError(
            "impossible crop", file=path, camera=name,
            expected=f"whole [left, top] from 0 to below {size.tolist()}", found=crop.tolist(),
        )  # fmt: skip
    K[:2, 2] -= crop
    width, height = (size - crop.astype(int)).tolist()
    offset = _array(path, name, {"offset": 0, **entry}, "offset", ())
    fps = np.array(np.nan) if entry.get("fps") is None else _array(path, name, entry, "fps", ())
    if fps <= 0:
        raise InputError("impossible fps", file=path, camera=name, expected="above 0", found=float(fps))
    return {"K": K, "R": R, "t": t, "dist": dist, "offset": offset, "fps": fps, "width": width, "height": height}


def _array(path: Path, name: str, entry: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        value = np.array(entry[key], dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{key} is not made of numbers", file=path, camera=name, found=entry[key]) from None
    if value.shape != shape:
        raise InputError(f"{key} has the wrong shape", file=path, camera=name, expected=shape, found=value.shape)
    if not np.isfinite(value).all():
        raise InputError(f"{key} is not finite", file=path, camera=name, expected="numbers", found=value.tolist())
    return value


def _size(path: Path, name: str, entry: Mapping[str, Any], key: str) -> int:
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < 1e6 or value % 1:
        raise InputError(f"impossible {key}", file=path, camera=name, expected="a whole number of pixels", found=value)
    return int(value)
