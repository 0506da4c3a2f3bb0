"""Turns the Pose2Sim single-person demo (Qualisys calibration, OpenPose JSON, videos) into a sequence folder.

    python -m benchmarks.convert_pose2sim SOURCE OUT [--frames 0:100:5] [--height 960]

SOURCE holds `Calib.qca.txt`, `videos/camXX.mp4` and `openpose/camXX_json/`. Only the person who is largest in the image
is kept, here the man who balances and not the bystander; masks are made by GrabCut around his joints. Frames are
numbered anew from 0, so that fps is the source's over the step.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from avatarpose.convert import fit_into_frame, grabcut_mask, read_openpose, read_qualisys, reprojection_errors
from avatarpose.io import write_image, write_json, write_npz
from avatarpose.sequence import parse_frames
from avatarpose.video import VideoReader


def largest(keypoints: np.ndarray) -> np.ndarray:
    """The detection (F, 17, 3) that is tallest in the image, of (F, D, 17, 3)."""
    y = keypoints[..., 1]
    heights = np.where(np.isnan(y), -np.inf, y).max(-1) - np.where(np.isnan(y), np.inf, y).min(-1)
    return np.take_along_axis(keypoints, heights.argmax(1)[:, None, None, None], 1)[:, 0]


def median_image(images: list[np.ndarray]) -> np.ndarray:
    return np.median(np.stack(images), axis=0).astype(np.uint8)


def convert(source: Path, out: Path, frames: slice, height: int) -> None:
    """Writes the sequence folder `out`: images scaled to `height` pixels, masks, keypoints, cameras."""
    cameras = read_qualisys(source / "Calib.qca.txt")
    videos = [VideoReader(source / "videos" / f"{name}.mp4") for name in cameras.names]
    count = min(map(len, videos))
    numbers = list(range(count))[frames]
    for c, video in enumerate(videos):
        if (video.width, video.height) != (int(cameras.width[c]), int(cameras.height[c])):
            cameras = fit_into_frame(cameras, c, video.read(0))
            print(f"{cameras.names[c]}: shrunk into {video.width} x {video.height} with black bars")
    keypoints = [read_openpose(source / "openpose" / f"{name}_json") for name in cameras.names]
    errors = reprojection_errors(cameras, np.stack([largest(k) for k in keypoints]))
    for name, error in zip(cameras.names, errors, strict=True):
        print(f"{name}: detections {np.nanmedian(error):.1f} px (median) from the point all cameras agree on")

    scale = height / int(cameras.height[0])
    scaled = cameras.scaled(scale)
    for c, name in enumerate(cameras.names):
        size = int(scaled.width[c]), int(scaled.height[c])
        people = largest(keypoints[c])[numbers]
        people[..., :2] *= scale
        images = [cv2.resize(videos[c].read(n), size, interpolation=cv2.INTER_AREA) for n in numbers]
        background = median_image([cv2.resize(videos[c].read(n), size) for n in range(0, count, max(1, count // 25))])

        def write(f: int, name=name, images=images, people=people, background=background) -> None:
            write_image(out / "images" / name / f"{f:06d}.jpg", images[f])
            write_image(out / "masks" / name / f"{f:06d}.png", grabcut_mask(images[f], people[f][None], background))

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, range(len(numbers))))
        write_npz(out / "keypoints2d" / f"{name}.npz", keypoints=people[:, None])
    scaled.save(out / "cameras.json")
    fps = (videos[0].fps or 60.0) / (frames.step or 1)
    write_json(out / "sequence.json", {"fps": fps, "frames": len(numbers), "unit": "m", "up": "z", "people": 1})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", default="0:100:5", help="a:b:s")
    parser.add_argument("--height", type=int, default=960, help="of the images written, pixels")
    options = parser.parse_args()
    convert(options.source, options.out, parse_frames(options.frames), options.height)


if __name__ == "__main__":
    main()
