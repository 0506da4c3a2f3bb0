"""Small videos whose frames say their own number."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

STEP = 10


def write_video(path: Path, frames: int, width: int = 64, height: int = 48) -> None:
    """20 a second, a key frame every 8; the right half of frame i is grey of level STEP * i, the left half noise.

    H.264 with B-frames, which are decoded out of order, and the index first; AVI: MPEG-4, no presentation times.
    """
    rng = np.random.default_rng(0)
    avi = path.suffix == ".avi"
    with av.open(str(path), "w", options={"movflags": "faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("mpeg4" if avi else "libx264", rate=Fraction(20))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", 20_000_000
        stream.options = {"g": "8"} if avi else {"g": "8", "bf": "2", "crf": "1", "sc_threshold": "0"}
        for i in range(frames):
            image = np.full((height, width, 3), STEP * i, np.uint8)
            image[:, : width // 2] = rng.integers(0, 256, (height, width // 2, 1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def level(image: np.ndarray) -> float:
    """The number of the frame that an image of `write_video` shows."""
    return float(image[:, image.shape[1] // 2 + 4 :].mean()) / STEP
