"""Frames on disk while a film is being made, and the finished film: H.264, VP9, ProRes, GIF, or a folder of images.

Every frame is kept in `<film>.parts/` as soon as it is rendered, so a film that was stopped goes on where it was. The
film itself appears whole, at the end, and the parts go.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from avatarpose.errors import InputError
from avatarpose.io import read_json, write_bytes, write_json

ABOUT = "film.json"


@dataclass(frozen=True)
class Format:
    """How one kind of video file is encoded."""

    container: str
    codec: str
    pixels: str
    options: dict[str, str]
    transparent: str | None = None
    """Pixel format that keeps the opacity, where there is one."""
    even: bool = True
    """Whether width and height must be even."""


FORMATS = {
    ".mp4": Format("mp4", "libx264", "yuv420p", {"crf": "16", "preset": "medium", "movflags": "+faststart"}),
    ".webm": Format("webm", "libvpx-vp9", "yuv420p", {"crf": "24", "b": "0", "cpu-used": "4"}, "yuva420p"),
    ".mov": Format("mov", "prores_ks", "yuva444p10le", {"profile": "4"}, "yuva444p10le"),
    ".gif": Format("gif", "gif", "pal8", {}, even=False),
}
MOST_GIF_FPS = 50


def film_format(out: Path) -> Format | None:
    """How a file of that name is written; None for a folder of PNG images (a name without a suffix).

    Raises:
        InputError: another suffix, or the format's encoder is missing here.
    """
    if not out.suffix:
        return None
    kind = FORMATS.get(out.suffix.lower())
    if kind is None:
        expected = ", ".join(FORMATS) + ", or no suffix for a folder of PNG images"
        raise InputError("no such format of a film", file=out, expected=expected, found=out.suffix)
    try:
        av.codec.Codec(kind.codec, "w")
    except ValueError:
        raise InputError(
            f"this PyAV has no encoder {kind.codec}", file=out, expected="a PyAV wheel from PyPI",
            hint="Write a folder of PNG images instead: --out without a suffix",
        ) from None  # fmt: skip
    return kind


class Parts:
    """Rendered frames, a PNG a frame and layer, of one film and of no other.

    Args:
        out: the film to be.
        fingerprint: what the frames depend on. Frames of another fingerprint are thrown away.
        layers: names of the layers; a frame is there when all of them are.
    """

    def __init__(self, out: Path, fingerprint: str, layers: list[str]) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self.layers = layers
        about = self.folder / ABOUT
        if self.folder.exists():
            if not about.is_file() and any(self.folder.iterdir()):
                raise InputError(
                    "would write into a folder with other things in it", file=self.folder, expected=f"no such folder, "
                    f"or one with {ABOUT} in it", hint="Choose another --out",
                )  # fmt: skip
            known = about.is_file() and read_json(about).get("fingerprint") == fingerprint
            if not known:
                shutil.rmtree(self.folder)
        write_json(about, {"fingerprint": fingerprint})

    def path(self, layer: str, index: int) -> Path:
        return self.folder / layer / f"{index:06d}.png"

    def has(self, index: int) -> bool:
        """Whether a frame is there."""
        return all(self.path(layer, index).is_file() for layer in self.layers)

    def write(self, index: int, images: dict[str, np.ndarray]) -> None:
        """Keeps a frame: of each layer an image (H, W), (H, W, 3) or (H, W, 4), uint8, or (H, W) uint16."""
        for layer in self.layers:
            write_png(self.path(layer, index), images[layer])

    def read(self, layer: str, index: int) -> np.ndarray:
        return read_png(self.path(layer, index))

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def write_png(path: Path, image: np.ndarray) -> None:
    """Writes grey, RGB or RGBA, 8 or 16 bits, atomically."""
    codes = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    ordered = image if image.ndim == 2 else cv2.cvtColor(image, codes[image.shape[2]])
    _, data = cv2.imencode(".png", ordered, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    write_bytes(path, data.tobytes())


def read_png(path: Path) -> np.ndarray:
    """What `write_png` wrote.

    Raises:
        InputError: the file is absent or damaged.
    """
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.is_file() else None
    if image is None:
        raise InputError("a rendered frame is absent or damaged", file=path, hint="Render again with --redo")
    codes = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
    return image if image.ndim == 2 else cv2.cvtColor(image, codes[image.shape[2]])


def write_film(out: Path, frames: Iterable[np.ndarray], fps: float, kind: Format) -> None:
    """Encodes frames (H, W, 3) RGB or (H, W, 4) RGBA, uint8, all of one size; the file appears when it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex}.tmp")
    try:
        with av.open(str(temporary), "w", format=kind.container) as container:
            if kind.codec == "gif":
                _encode_gif(container, iter(frames), fps)
            else:
                _encode(container, iter(frames), fps, kind)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def _encode(container, frames: Iterator[np.ndarray], fps: float, kind: Format) -> None:
    stream = None
    for image in frames:
        clear = image.shape[2] == 4
        if stream is None:
            stream = container.add_stream(kind.codec, rate=_rate(fps), options=dict(kind.options))
            stream.width, stream.height = image.shape[1], image.shape[0]
            stream.pix_fmt = kind.transparent if clear else kind.pixels
            # Players take the colours of a file that says nothing for what its size suggests.
            stream.codec_context.colorspace = stream.codec_context.color_primaries = 1  # BT.709
            stream.codec_context.color_trc = stream.codec_context.color_range = 1
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgba" if clear else "rgb24")
        frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709", dst_color_range="MPEG")
        container.mux(stream.encode(frame))
    if stream is not None:
        container.mux(stream.encode())


def _encode_gif(container, frames: Iterator[np.ndarray], fps: float) -> None:
    """One palette for the whole film, as FFmpeg's palettegen and paletteuse make it: hence all frames at once."""
    first = next(frames)
    stream = container.add_stream("gif", rate=_rate(fps))
    stream.width, stream.height, stream.pix_fmt = first.shape[1], first.shape[0], "pal8"
    graph = av.filter.Graph()
    rate = _rate(fps)
    source = graph.add_buffer(width=first.shape[1], height=first.shape[0], format="rgb24", time_base=1 / rate)
    split = graph.add("split")
    palette, use = graph.add("palettegen", "stats_mode=diff"), graph.add("paletteuse", "dither=sierra2_4a")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    image: np.ndarray | None = first
    number = 0
    while image is not None:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.time_base = number, 1 / rate
        source.push(frame)
        image, number = next(frames, None), number + 1
    source.push(None)
    while True:
        try:
            frame = sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            break
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)
