"""From other tools' files to a sequence folder: Qualisys calibration, OpenPose JSON, simple masks.

Which convention a source follows is decided here, once:

| source | pixel centres | lengths | rotation |
|---|---|---|---|
| Qualisys .qca.txt | integers: 0.5 is added | mm, pixels / 64 | world to camera, camera axes x right, y up, z back |
| OpenPose JSON | integers: 0.5 is added | pixels | - |
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.skeletons import COCO17, convert, convert_scores

SUBPIXELS = 64
"""Qualisys counts image coordinates and focal lengths in 64ths of a pixel."""


def read_qualisys(path: Path | str) -> Cameras:
    """Reads the cameras of a Qualisys calibration (.qca.txt, which is XML), named by their serial.

    The file's r11..r33 turns the world into a camera that looks along -z with y up; x, y, z is its centre in mm. Its
    radial and tangential distortion act on normalised coordinates as OpenCV's.

    Raises:
        InputError: absent, no XML, or without cameras.
    """
    path = Path(path)
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except ElementTree.ParseError as error:
        raise InputError("not a Qualisys calibration", file=path, expected="XML", found=error) from None
    names, K, R, t, dist, sizes = [], [], [], [], [], []
    for camera in root.iter("camera"):
        place, lens, video = camera.find("transform"), camera.find("intrinsic"), camera.find("fov_video")
        if place is None or lens is None or video is None or "serial" not in camera.attrib:
            continue  # a camera of the marker system without video
        number = {**{k: float(v) for k, v in place.attrib.items()}, **{k: float(v) for k, v in lens.attrib.items()}}
        R_file = np.array([[number[f"r{i}{j}"] for j in (1, 2, 3)] for i in (1, 2, 3)])
        R_cam_world = np.diag([1.0, -1.0, -1.0]) @ R_file
        centre = np.array([number[axis] for axis in "xyz"]) / 1000
        left, top, right, bottom = (int(video.attrib[side]) for side in ("left", "top", "right", "bottom"))
        names.append(camera.attrib["serial"])
        focal = number["focalLengthU"] / SUBPIXELS, number["focalLengthV"] / SUBPIXELS
        middle = number["centerPointU"] / SUBPIXELS - left + 0.5, number["centerPointV"] / SUBPIXELS - top + 0.5
        K.append([[focal[0], number["skew"] / SUBPIXELS, middle[0]], [0, focal[1], middle[1]], [0, 0, 1]])
        R.append(R_cam_world)
        t.append(-R_cam_world @ centre)
        radial = [number[f"radialDistortion{i}"] for i in (1, 2, 3)]
        tangential = [number[f"tangentalDistortion{i}"] for i in (1, 2)]
        dist.append([*radial[:2], *tangential, radial[2]])
        sizes.append((right - left + 1, bottom - top + 1))
    if not names:
        raise InputError("no video camera in the calibration", file=path, expected="<camera> entries with fov_video")
    return Cameras(
        names=tuple(names),
        K=torch.tensor(K, dtype=torch.float64),
        R=torch.tensor(np.array(R)),
        t=torch.tensor(np.array(t)),
        dist=torch.tensor(dist, dtype=torch.float64),
        width=torch.tensor([size[0] for size in sizes]),
        height=torch.tensor([size[1] for size in sizes]),
    )


def read_openpose(folder: Path | str) -> Float[np.ndarray, "frames detections 17 3"]:
    """Reads OpenPose's JSON, one file a frame, as COCO-17 with scores; NaN where a joint is absent (score 0).

    BODY_25B and BODY_25 both have 25 joints and nothing in the file says which; joint 8 tells them apart.

    Raises:
        InputError: no files, a malformed one, or people of another number of joints.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.json"), key=lambda f: [int(n) for n in re.findall(r"\d+", f.stem)])
    if not files:
        raise InputError("no OpenPose JSON", file=folder, expected="one .json a frame")
    frames = []
    for file in files:
        try:
            people = json.loads(file.read_text())["people"]
            rows = [np.array(person["pose_keypoints_2d"], float).reshape(-1, 3) for person in people]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise InputError("malformed OpenPose JSON", file=file, found=error) from None
        if any(len(row) != 25 for row in rows):
            raise InputError("not BODY_25 or BODY_25B", file=file, expected="25 joints", found={len(r) for r in rows})
        frames.append(rows)
    order = "body25b" if _is_body25b([row for rows in frames for row in rows]) else "body25"
    result = np.full((len(frames), max(1, max(map(len, frames))), 17, 3), np.nan, np.float32)
    for f, rows in enumerate(frames):
        for d, row in enumerate(rows):
            row[row[:, 2] <= 0] = np.nan
            result[f, d, :, :2] = convert(row[:, :2], order, "coco17") + 0.5
            result[f, d, :, 2] = convert_scores(row[:, 2], order, "coco17")
    result[~np.isfinite(result).all(-1)] = np.nan
    return result


def _is_body25b(rows: list[np.ndarray]) -> bool:
    """False where joint 8 lies half way between joints 9 and 12, as the middle of the hips does in BODY_25."""
    known = [row for row in rows if (row[[8, 9, 12], 2] > 0).all()]
    if not known:
        return True
    apart = [np.linalg.norm(row[8, :2] - (row[9, :2] + row[12, :2]) / 2) for row in known]
    size = [np.ptp(row[row[:, 2] > 0, :2], axis=0).max() for row in known]
    return float(np.median(np.array(apart) / np.maximum(size, 1))) > 0.05


def reprojection_errors(
    cameras: Cameras, keypoints: Float[np.ndarray, "cameras frames 17 3"]
) -> Float[np.ndarray, "cameras frames 17"]:
    """Pixels between one person's detections and the point that all cameras' rays come nearest to; NaN where unseen."""
    weights = torch.tensor(np.nan_to_num(keypoints[..., 2]))
    seen = torch.tensor(np.isfinite(keypoints).all(-1))
    pixels = torch.tensor(np.nan_to_num(keypoints[..., :2]), dtype=torch.float64)
    origins, directions = cameras.rays(pixels)
    across = torch.eye(3, dtype=torch.float64) - directions[..., :, None] * directions[..., None, :]
    across = across * (weights * seen).double()[..., None, None]
    A, b = across.sum(0), (across @ origins[..., None]).sum(0)
    points = torch.linalg.solve(A + 1e-9 * torch.eye(3, dtype=torch.float64), b)[..., 0]
    again, _ = cameras.project(points)
    error = (again - pixels).norm(dim=-1).numpy()
    return np.where(seen.numpy() & (seen.sum(0) >= 2).numpy(), error, np.nan)


def fit_into_frame(cameras: Cameras, c: int, image: UInt8[np.ndarray, "height width 3"]) -> Cameras:
    """Corrects one camera for images that were shrunk, whole, into a smaller frame with black bars.

    Args:
        cameras: as calibrated.
        c: index of the camera.
        image: one of its images, of another size than the calibration's.

    Raises:
        InputError: the bars are not where a whole image in the middle of the frame would leave them; then the image was
            cut, and only a `crop` in cameras.json can say where.
    """
    height, width = image.shape[:2]
    full = int(cameras.width[c]), int(cameras.height[c])
    scale = min(width / full[0], height / full[1])
    left, top = (width - scale * full[0]) / 2, (height - scale * full[1]) / 2
    bright = image.max(-1).astype(float)
    rows, columns = bright.mean(1) > 20, bright.mean(0) > 20
    shown = np.flatnonzero(columns), np.flatnonzero(rows)
    expected = (left, top, width - left, height - top)
    found = (shown[0][0], shown[1][0], shown[0][-1] + 1, shown[1][-1] + 1) if rows.any() and columns.any() else None
    if found is None or np.abs(np.subtract(found, expected)).max() > 2:
        raise InputError(
            "images are smaller than calibrated, and not by shrinking", camera=cameras.names[c],
            expected=f"a picture at (left, top, right, bottom) {tuple(round(v) for v in expected)}", found=found,
        )  # fmt: skip
    to_frame = torch.tensor([[scale, 0, left], [0, scale, top], [0, 0, 1]], dtype=cameras.K.dtype)
    K, sizes = cameras.K.clone(), {"width": cameras.width.clone(), "height": cameras.height.clone()}
    K[c] = to_frame @ K[c]
    sizes["width"][c], sizes["height"][c] = width, height
    return replace(cameras, K=K, **sizes)


def grabcut_mask(
    image: UInt8[np.ndarray, "height width 3"],
    keypoints: Float[np.ndarray, "detections 17 3"],
    background: UInt8[np.ndarray, "height width 3"] | None = None,
    working_height: int = 480,
) -> UInt8[np.ndarray, "height width"]:
    """People in an image by GrabCut (Rother et al. 2004), seeded by their joints: 255 inside, 0 outside, 128 unknown.

    A stand-in where nothing better is at hand. Bones and the trunk are surely people, all that is farther than a head's
    width from every bone surely is not. Where a background image is given, such as the median over the clip, GrabCut's
    word is taken where the image differs from it and right at the bones; elsewhere the two may disagree (a foot that
    stands still is in the median, a wall of skin's colour fools GrabCut), and there the mask says unknown.
    """
    scale = working_height / image.shape[0]
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    sure, close, near = (np.zeros(small.shape[:2], np.uint8) for _ in range(3))
    for person in keypoints:
        _draw_body(person[:, :2] * scale, sure, close, near)
    if not sure.any():
        return np.zeros(image.shape[:2], np.uint8)
    labels = np.where(near > 0, cv2.GC_PR_BGD, cv2.GC_BGD).astype(np.uint8)
    labels[close > 0] = cv2.GC_PR_FGD
    differs = np.ones_like(sure)
    if background is not None:
        behind = cv2.resize(background, small.shape[1::-1], interpolation=cv2.INTER_AREA)
        differs = cv2.dilate((np.abs(small.astype(int) - behind).max(-1) > 25).astype(np.uint8), np.ones((3, 3)))
        labels[(differs > 0) & (near > 0)] = cv2.GC_PR_FGD
    labels[sure > 0] = cv2.GC_FGD
    cv2.setRNGSeed(0)
    cv2.grabCut(small[..., ::-1].copy(), labels, None, np.zeros((1, 65)), np.zeros((1, 65)), 4, cv2.GC_INIT_WITH_MASK)
    inside = _connected_to(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8), sure) > 0
    trusted = (differs > 0) | (sure > 0)
    result = np.where(inside & trusted, 255, 0).astype(np.uint8)
    result[(inside & ~trusted) | (~inside & ~trusted & (close > 0))] = 128
    return cv2.resize(result, image.shape[1::-1], interpolation=cv2.INTER_NEAREST)


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


def _connected_to(inside: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """The connected parts of a mask that hold a seed, cleaned of specks."""
    inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) | (seeds > 0).astype(np.uint8)
    _, parts = cv2.connectedComponents(inside)
    wanted = np.unique(parts[seeds > 0])
    return np.isin(parts, wanted[wanted > 0]).astype(np.uint8)
