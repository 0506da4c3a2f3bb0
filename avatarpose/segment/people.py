"""Who is where in the images, from the best that is known: registered bodies, 3D joints, or 2D keypoints alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float

from avatarpose.body import BodyModel, load_body
from avatarpose.body.silhouette import depth_map
from avatarpose.cameras import Cameras
from avatarpose.results import Bodies, Joints3D
from avatarpose.segment.config import BodyMaskConfig
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17

LEAST_JOINTS = 5
"""A detection of fewer joints says too little about where the person is."""

_KEPT = 4  # pictures of depth

_WIDER = 0.04
"""Share of a person's height added around what is near 2D joints, which are off by some pixels themselves."""

# Radius about each bone of COCO-17, metres: half the flesh of an adult, clothed.
_RADII = {"shoulder": 0.07, "elbow": 0.055, "wrist": 0.045, "hip": 0.11, "knee": 0.085, "ankle": 0.06}
_HEAD, _NECK, _HAND, _FOOT, _TRUNK = 0.125, 0.07, 0.08, 0.09, 0.10


@dataclass
class Zones:
    """Where people are, by how sure that is; (H, W) bool each, every one within the next.

    `exact` says that `close` is the surface of a known body with room for its clothes, not a guess about joints.
    """

    sure: Bool[np.ndarray, "height width"]
    close: Bool[np.ndarray, "height width"]
    near: Bool[np.ndarray, "height width"]
    exact: bool = False


class People:
    """The people of a sequence as seen in its images.

    Attributes:
        names: their names; empty where only 2D keypoints are known, whose rows carry no identity.
        source: file that says where they are: "refined.npz", "initial.npz", "joints3d.npz" or "keypoints2d".
        path: that file (the folder of the keypoints).
    """

    def __init__(self, sequence: Sequence, config: BodyMaskConfig | None = None, body: Path | None = None) -> None:
        self.sequence = sequence
        self.config = config or BodyMaskConfig()
        self.body_path = body
        self._drawn: dict[tuple[int, int, float, float], np.ndarray] = {}
        self._bodies: Bodies | None = None
        self._joints: Joints3D | None = None
        for name in ("refined.npz", "initial.npz", "joints3d.npz"):
            path = sequence.results / name
            if not path.is_file():
                continue
            self.source, self.path = name, path
            if name == "joints3d.npz":
                self._joints = Joints3D.load(path)
            else:
                self._bodies = Bodies.load(path)
            break
        else:
            self.source, self.path = "keypoints2d", sequence.folder / "keypoints2d"
        known = self._bodies or self._joints
        self.names: list[str] = list(known.people) if known is not None else []
        self._place = {int(n): i for i, n in enumerate(known.frames)} if known is not None else {}

    @property
    def has_bodies(self) -> bool:
        """Whether the surfaces of the people are known."""
        return self._bodies is not None

    @cached_property
    def _has_keypoints(self) -> bool:
        return self.sequence.has_keypoints

    @property
    def known(self) -> bool:
        """Whether anything says where people are."""
        return bool(self.names) or self._has_keypoints

    @cached_property
    def model(self) -> BodyModel:
        return load_body(self.body_path)

    def known_in(self, f: int) -> bool:
        """Whether frame index f is one of those the named people are known in."""
        return int(self.sequence.frames[f]) in self._place

    def detections(self, c: int, f: int) -> Float[np.ndarray, "detections 17 3"]:
        """2D detections of camera c in frame f that have enough joints; none where there is no file."""
        if not self._has_keypoints:
            return np.zeros((0, 17, 3), np.float32)
        rows = self.sequence.keypoints2d[c, f]
        return rows[np.isfinite(rows).all(-1).sum(-1) >= LEAST_JOINTS]

    def points(self, f: int) -> Float[np.ndarray, "people 17 3"]:
        """3D keypoints of the named people, metres, world; NaN where someone is absent."""
        known, at = self._bodies or self._joints, self._place.get(int(self.sequence.frames[f]))
        if known is None or at is None:
            return np.full((len(self.names), 17, 3), np.nan)
        return np.where(known.valid[:, at, None, None], known.keypoints[:, at], np.nan).astype(np.float64)

    def pixels(self, c: int, f: int) -> Float[np.ndarray, "people 17 2"]:
        """The named people's joints in the image of camera c, pixels; NaN where absent or behind the camera."""
        return project(self.points(f), self.sequence.cameras[c])[0]

    def depths(self, c: int, f: int, scale: float = 1.0, slim: float = 1.0) -> Float[np.ndarray, "people height width"]:
        """Depth of each named person in every pixel, metres, infinite where the person is not.

        Args:
            c, f: camera and frame index.
            scale: of the picture, against the image on disk.
            slim: where only joints are known, limbs are drawn by this share of their usual radius.

        Returns:
            float32, not to be written to: the last few are kept.
        """
        key = (c, f, scale, 1.0 if self.has_bodies else slim)
        if key in self._drawn:
            return self._drawn[key]
        camera = self.sequence.cameras[c]
        camera = camera.scaled(scale) if scale != 1 else camera
        size = (int(camera.height[0]), int(camera.width[0]))
        result = np.full((len(self.names), *size), np.inf, np.float32)
        points = self.points(f)
        there = np.flatnonzero(np.isfinite(points).all(-1).any(-1))
        for p in there:
            if self._bodies is not None:
                result[p] = depth_map(self._vertices(p, f), self.model.faces.numpy(), camera)
            else:
                result[p] = limbs_depth(points[p], camera, slim)
        while len(self._drawn) >= _KEPT:
            self._drawn.pop(next(iter(self._drawn)))
        self._drawn[key] = result
        return result

    def zones(self, c: int, f: int, scale: float = 1.0) -> Zones:
        """Where people are in the image of camera c, by named people where they are known, else by 2D keypoints."""
        camera = self.sequence.cameras[c]
        camera = camera.scaled(scale) if scale != 1 else camera
        size = (int(camera.height[0]), int(camera.width[0]))
        if not self.known_in(f):
            ratio = np.array([size[1], size[0]]) / self.image_size(c)
            return zones_of_joints(self.detections(c, f)[..., :2] * ratio, size)
        sure, close, near = (np.zeros(size, bool) for _ in range(3))
        depths = self.depths(c, f, scale)
        slim = depths if self.has_bodies else self.depths(c, f, scale, slim=0.5)
        for depth, thin in zip(depths, slim, strict=True):
            inside = np.isfinite(depth)
            if not inside.any():
                continue
            metre = float(camera.K[0, 0, 0]) / float(np.median(depth[inside]))  # pixels per metre at the person
            outside = distance_to(inside)
            sure |= distance_to(~inside) > self.config.core * metre if self.has_bodies else np.isfinite(thin)
            close |= outside <= self.config.clothes * metre
            near |= outside <= (self.config.far + 0.05) * metre
            for wrist in project(self.points(f), camera)[0][:, [9, 10]].reshape(-1, 2):
                if np.isfinite(wrist).all():
                    mark = np.zeros(size, np.uint8)
                    cv2.circle(mark, pixel_of(wrist), max(1, round(self.config.hand * metre)), 1, -1)
                    near |= mark > 0
        return Zones(sure, close, near, self.has_bodies)

    def anyone_near(self, c: int, f: int, scale: float) -> Bool[np.ndarray, "height width"]:
        """Where anyone at all may be, known by name or only detected; for finding what is never empty."""
        near = self.zones(c, f, scale).near
        ratio = np.array([near.shape[1], near.shape[0]]) / self.image_size(c)
        return near | zones_of_joints(self.detections(c, f)[..., :2] * ratio, near.shape).near

    def image_size(self, c: int) -> Float[np.ndarray, " 2"]:
        """(width, height) of camera c's images on disk."""
        cameras = self.sequence.cameras
        return np.array([float(cameras.width[c]), float(cameras.height[c])])

    def _vertices(self, p: int, f: int) -> np.ndarray:
        bodies, at = self._bodies, self._place[int(self.sequence.frames[f])]
        values = (bodies.betas[p], bodies.poses[p, at], bodies.trans[p, at])
        with torch.no_grad():
            return self.model.vertices(*(torch.as_tensor(value) for value in values)).numpy()


def zones_of_joints(people: Float[np.ndarray, "people 17 2"], size: tuple[int, int]) -> Zones:
    """Where people may be by their 2D joints alone, in a picture of (height, width)."""
    sure, close, near = (np.zeros(size, np.uint8) for _ in range(3))
    for points in people:
        own = np.zeros_like(near)
        _draw_body(points, sure, close, own)
        if own.any():
            height = float(np.nanmax(np.ptp(points[np.isfinite(points).all(-1)], axis=0)))
            near |= (distance_to(own > 0) <= _WIDER * height).astype(np.uint8)
    return Zones(sure > 0, close > 0, near > 0)


def _draw_body(points: np.ndarray, sure: np.ndarray, close: np.ndarray, near: np.ndarray) -> None:
    """Marks where a person with joints (17, 2) surely is, probably is and may be, in three images (H, W) in place."""
    known = np.isfinite(points).all(-1)
    if known.sum() < 5:
        return
    size = np.ptp(points[known], axis=0).max()  # about the person's height
    at = np.nan_to_num(points - 0.5).round().astype(int)

    def line(image: np.ndarray, a: np.ndarray, b: np.ndarray, width: float) -> None:
        cv2.line(image, tuple(map(int, a)), tuple(map(int, b)), 255, max(1, round(width * size)))

    for a, b in COCO17.edges:
        if known[a] and known[b]:
            head = a < 5 and b < 5
            thigh = {a, b} in ({11, 13}, {12, 14})
            line(sure, at[a], at[b], 0.04 if thigh else 0.02)
            line(close, at[a], at[b], 0.09 if thigh else 0.05)
            line(near, at[a], at[b], 0.20 if head else 0.16)
    trunk = [5, 6, 12, 11]
    if known[trunk].all():
        for image in (sure, close, near):
            cv2.fillConvexPoly(image, cv2.convexHull(at[trunk]), 255)
    if known[[0, 5, 6]].all():  # the neck; no bone of COCO's goes from the trunk to the face's front
        throat = (at[5] + at[6]) / 2
        line(sure, at[0], throat, 0.02)
        line(close, at[0], throat, 0.05)
    for ankle, knee in ((15, 13), (16, 14)):
        if known[ankle] and known[knee]:  # heels lie on in the direction of the shin
            line(close, at[ankle], at[ankle] + 0.2 * (at[ankle] - at[knee]), 0.10)
    for joint in (0, 3, 4, 7, 8, 9, 10, 15, 16):  # hair, hands and feet reach beyond ears, wrists and ankles
        if known[joint]:
            cv2.circle(near, tuple(map(int, at[joint])), round(0.13 * size), 255, -1)


def project(
    points: Float[np.ndarray, "*batch 3"], camera: Cameras
) -> tuple[Float[np.ndarray, "*batch 2"], Float[np.ndarray, "*batch"]]:
    """Pixels and depths of world points in one camera; NaN where a point is unknown or behind it."""
    known = torch.as_tensor(np.nan_to_num(points), dtype=camera.K.dtype)
    pixels, depth = (found[0].numpy().copy() for found in camera.project(known))
    bad = ~np.isfinite(points).all(-1) | (depth < 1e-2) | (np.abs(pixels) > 1e5).any(-1)
    pixels[bad], depth[bad] = np.nan, np.nan
    return pixels, depth


def pixel_of(point: Float[np.ndarray, " 2"]) -> tuple[int, int]:
    """The pixel that OpenCV's drawing functions call by these whole numbers."""
    return int(np.clip(round(point[0] - 0.5), -30000, 30000)), int(np.clip(round(point[1] - 0.5), -30000, 30000))


def distance_to(region: Bool[np.ndarray, "height width"]) -> Float[np.ndarray, "height width"]:
    """Distance of every pixel from a region, pixels; infinite where the region is empty."""
    if not region.any():
        return np.full(region.shape, np.inf, np.float32)
    return cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def limbs_depth(
    points: Float[np.ndarray, "17 3"], camera: Cameras, slim: float = 1.0
) -> Float[np.ndarray, "height width"]:
    """Depth, metres, of a person made of capsules about COCO-17 joints; infinite where there is none.

    A rough stand-in for a body's surface where only joints are known.
    """
    drawn = np.full((int(camera.height[0]), int(camera.width[0])), np.inf, np.float32)
    joint = {name: points[i] for i, name in enumerate(COCO17.joints) if np.isfinite(points[i]).all()}
    strokes: list[tuple[np.ndarray, np.ndarray, float]] = []
    for a, b in COCO17.edges:
        first, second = COCO17.joints[a], COCO17.joints[b]
        part = next((part for part in reversed(_RADII) if second.endswith(part) or first.endswith(part)), None)
        if part is not None and first in joint and second in joint:
            strokes.append((joint[first], joint[second], _RADII[part]))
    face = [joint[name] for name in COCO17.joints[:5] if name in joint]
    shoulders = [joint[name] for name in ("left_shoulder", "right_shoulder") if name in joint]
    hips = [joint[name] for name in ("left_hip", "right_hip") if name in joint]
    if face:
        strokes.append((np.mean(face, 0), np.mean(face, 0), _HEAD))
    if face and len(shoulders) == 2:
        strokes.append((np.mean(face, 0), np.mean(shoulders, 0), _NECK))
    if len(shoulders) == 2 and len(hips) == 2:
        strokes += [(s, h, _TRUNK) for s, h in zip(shoulders, hips, strict=True)]
        strokes.append((np.mean(shoulders, 0), np.mean(hips, 0), _TRUNK * 1.2))
    for side in ("left", "right"):
        for outer, inner, radius, reach in (("wrist", "elbow", _HAND, 0.3), ("ankle", "knee", _FOOT, 0.15)):
            end, start = joint.get(f"{side}_{outer}"), joint.get(f"{side}_{inner}")
            if end is not None and start is not None:
                tip = end + reach * (end - start)
                strokes.append((end, tip, radius))
    pieces = []
    for a, b, radius in strokes:
        steps = np.linspace(0, 1, 5)[:, None] if np.any(a != b) else np.zeros((2, 1))
        pixels, depth = project(a + steps * (b - a), camera)
        if np.isfinite(pixels).all():
            thick = 2 * slim * radius * float(camera.K[0, 0, 0]) / depth
            pieces += [
                (float(depth[i : i + 2].mean()), pixels[i], pixels[i + 1], max(1, round(float(thick[i]))))
                for i in range(len(pixels) - 1)
            ]
    for z, a, b, thick in sorted(pieces, key=lambda piece: -piece[0]):
        cv2.line(drawn, pixel_of(a), pixel_of(b), z, min(thick, 32767))
    return drawn
