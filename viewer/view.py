"""Where a picture is seen from: an ideal camera of any size, free in space or that of a capture camera.

The conventions are those of `avatarpose.cameras`: x right, y down, z forward, `x_cam = R x_world + t`, pixel centres at
i + 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from avatarpose.cameras import Cameras

NEAR = 0.02
"""Metres: what is nearer to the camera's plane is not drawn."""


@dataclass(frozen=True, eq=False)
class View:
    """One pinhole camera without distortion.

    Attributes:
        K: (3, 3) intrinsics, pixels.
        R, t: world to camera, metres.
        width, height: size of the picture, pixels.
    """

    K: Float[np.ndarray, "3 3"]
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]
    width: int
    height: int

    @classmethod
    def look_at(
        cls,
        position: Float[np.ndarray, " 3"],
        target: Float[np.ndarray, " 3"],
        up: Float[np.ndarray, " 3"],
        fov_deg: float,
        width: int,
        height: int,
    ) -> View:
        """A camera at `position` that has `target` in the middle of its picture.

        Args:
            up: any vector that points to the upper half of the picture; where it lies along the line of sight, another
                is taken.
            fov_deg: angle of view from the top to the bottom of the picture, degrees.
        """
        forward = _unit(np.asarray(target, float) - np.asarray(position, float))
        right = np.cross(forward, np.asarray(up, float))
        if np.linalg.norm(right) < 1e-6:
            right = np.cross(forward, np.eye(3)[np.abs(forward).argmin()])
        right = _unit(right)
        R = np.stack([right, np.cross(forward, right), forward])
        focal = 0.5 * height / math.tan(math.radians(fov_deg) / 2)
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        return cls(K, R, -R @ np.asarray(position, float), int(width), int(height))

    @classmethod
    def through(cls, cameras: Cameras, c: int) -> View:
        """What camera c would see through an ideal lens with the same K."""
        numbers = (getattr(cameras, key)[c].double().cpu().numpy() for key in ("K", "R", "t"))
        return cls(*numbers, int(cameras.width[c]), int(cameras.height[c]))

    @property
    def position(self) -> Float[np.ndarray, " 3"]:
        return -self.R.T @ self.t

    @property
    def forward(self) -> Float[np.ndarray, " 3"]:
        return self.R[2]

    @property
    def up(self) -> Float[np.ndarray, " 3"]:
        return -self.R[1]

    @property
    def fov_deg(self) -> float:
        """Angle of view from top to bottom, degrees, as if the optical axis stood in the middle."""
        return math.degrees(2 * math.atan(0.5 * self.height / self.K[1, 1]))

    def fitted(self, width: int, height: int) -> View:
        """The same view in a picture of another size: all of it seen, in the middle, the rest around it."""
        scale, left, top = _placement(self.width, self.height, width, height)
        K = self.K.copy()
        K[:2] *= scale
        K[0, 2] += left
        K[1, 2] += top
        return replace(self, K=K, width=int(width), height=int(height))

    def cameras(self, name: str = "view") -> Cameras:
        """The view as a set of one camera."""
        return Cameras(
            (name,),
            *(torch.as_tensor(np.array(value), dtype=torch.float64)[None] for value in (self.K, self.R, self.t)),
            torch.zeros(1, 5, dtype=torch.float64),
            torch.tensor([self.width]),
            torch.tensor([self.height]),
        )

    def to_camera(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """World points in the camera's frame, metres."""
        return points @ self.R.T + self.t

    def to_pixels(self, camera_points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 2"]:
        """Pixels of points in the camera's frame that lie in front of it."""
        return (camera_points @ self.K.T)[..., :2] / camera_points[..., 2:]


def fit_image(
    image: UInt8[np.ndarray, "h w 3"], width: int, height: int, around: Float[np.ndarray, " 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """An image placed in a picture of another size just as `View.fitted` places its view; `around` is RGB, 0 to 1."""
    scale, left, top = _placement(image.shape[1], image.shape[0], width, height)
    rest = np.full(2, scale)
    if scale < 1:  # warpAffine samples points; shrinking needs a mean first
        small = [max(round(size * scale), 1) for size in image.shape[1::-1]]
        rest = scale * np.array(image.shape[1::-1]) / small
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    shift = np.array([[rest[0], 0, left + 0.5 * rest[0] - 0.5], [0, rest[1], top + 0.5 * rest[1] - 0.5]])
    border = tuple(float(v) for v in 255 * np.asarray(around))
    return cv2.warpAffine(image, shift, (width, height), flags=cv2.INTER_LINEAR, borderValue=border)


def _placement(width: int, height: int, into_width: int, into_height: int) -> tuple[float, float, float]:
    scale = min(into_width / width, into_height / height)
    return scale, (into_width - scale * width) / 2, (into_height - scale * height) / 2


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
