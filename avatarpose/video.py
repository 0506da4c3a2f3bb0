"""Videos, by frame number: exact to the frame, and without seeking while frames are asked for in order."""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from avatarpose.errors import InputError

# Decoding this many frames more costs about as much as seeking, which empties the decoder.
_WORTH_SEEKING = 8


class VideoReader:
    """Frames of one video file by number, counted from 0 in order of presentation.

    Opening reads the packets' time stamps (no decoding), which gives the true number of frames and where decoding can
    start. Frames asked for in rising order are decoded onwards; going back, or forward past a key frame, seeks once.
    One reader may be used from several threads; they take turns.

    Attributes:
        path: the file.
        width, height: size of a frame as shown (rotation taken into account), pixels.
        fps: average frames per second, or None if the file does not say.

    Raises:
        InputError: the file is absent, damaged, truncated, or holds no video.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._container = None
        self._decoded = None
        self._next = 0
        self._last: tuple[int, np.ndarray] | None = None
        with self._errors(), av.open(str(self.path)) as container:
            stream = self._stream_of(container)
            promised = stream.frames
            packets = [packet for packet in container.demux(stream) if packet.size]
            average = stream.average_rate
        if promised > len(packets) or any(packet.is_corrupt for packet in packets) or not packets:
            whole = sum(not packet.is_corrupt for packet in packets)
            raise InputError(
                "truncated video", file=self.path, frame=whole,
                expected=f"{promised or 'some'} frames", found=f"{whole} whole ones",
            )  # fmt: skip
        # Packets before the start of an edit list are decoded but never shown.
        shown = [packet for packet in packets if not packet.is_discard]
        self._times = sorted(_time(packet) for packet in shown)
        number_at = {time: number for number, time in enumerate(self._times)}
        self._starts = sorted(number_at[_time(packet)] for packet in shown if packet.is_keyframe)
        self.fps = float(average) if average else None
        self.height, self.width = self.read(0).shape[:2]

    def __len__(self) -> int:
        return len(self._times)

    def read(
        self, index: int, passed: Callable[[int, UInt8[np.ndarray, "height width 3"]], None] | None = None
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Frame `index` as RGB.

        Args:
            index: frame number.
            passed: if given, is called with number and image of every frame decoded on the way.

        Raises:
            InputError: the video has no such frame, or it cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise InputError("no such frame", file=self.path, frame=index, expected=f"0 to {len(self) - 1}")
        with self._lock:
            if self._last is None or self._last[0] != index:
                self._last = (index, self._decode(index, passed))
            return self._last[1].copy()

    def close(self) -> None:
        """Frees the decoder; the next `read` opens it again."""
        with self._lock:
            if self._container is not None:
                self._container.close()
            self._container = self._decoded = self._last = None

    def _decode(self, index: int, passed: Callable[[int, np.ndarray], None] | None) -> np.ndarray:
        key = bisect_right(self._starts, index) - 1
        start = self._starts[key] if key >= 0 else 0
        image = None
        with contextlib.suppress(InputError), self._errors(index):
            if self._container is None:
                self._open()
            if self._next > index or start > self._next + _WORTH_SEEKING:
                self._seek(start)
            image = self._onwards(index, passed)
        if image is None:
            # Some files cannot be entered at what they call a key frame, and a decoder with threads stumbles over
            # damage in later frames; from the beginning, frame by frame, gets all there is.
            try:
                with self._errors(index):
                    self._open(threads=False)
                    image = self._onwards(index, passed)
            finally:
                if image is None:
                    # What decodes after the damage is reached by a decoder that has not seen it.
                    self._container = self._decoded = None
        if image is None:
            raise InputError("frame cannot be decoded", file=self.path, frame=index, expected=f"{len(self)} frames")
        return image

    def _onwards(self, index: int, passed: Callable[[int, np.ndarray], None] | None) -> np.ndarray | None:
        """Decodes up to frame `index`; None if it does not come."""
        for frame in self._decoded:
            number = self._next if frame.pts is None else bisect_right(self._times, frame.pts) - 1
            self._next = number + 1
            if number >= index:
                # FFmpeg fills what it cannot decode with something plausible and marks the frame.
                return _to_rgb(frame) if number == index and not frame.is_corrupt else None
            if passed is not None and not frame.is_corrupt:
                passed(number, _to_rgb(frame))
        return None

    def _open(self, threads: bool = True) -> None:
        if self._container is not None:
            self._container.close()
        self._container = av.open(str(self.path))
        stream = self._stream_of(self._container)
        stream.thread_type = "AUTO" if threads else "NONE"
        self._decoded, self._next = self._container.decode(stream), 0

    def _seek(self, start: int) -> None:
        stream = self._stream_of(self._container)
        self._container.seek(self._times[start], stream=stream, backward=True)
        self._decoded, self._next = self._container.decode(stream), start

    def _stream_of(self, container: av.container.InputContainer) -> av.VideoStream:
        if not container.streams.video:
            raise InputError("holds no readable video", file=self.path)
        return container.streams.video[0]

    def _errors(self, frame: int | None = None) -> _VideoErrors:
        return _VideoErrors(self.path, frame)


class _VideoErrors:
    """Turns what FFmpeg reports inside the `with` block into InputError."""

    def __init__(self, path: Path, frame: int | None) -> None:
        self.path, self.frame = path, frame

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, av.error.FileNotFoundError):
            raise InputError("no such video", file=self.path) from None
        if isinstance(error, av.error.FFmpegError):
            raise InputError(
                "damaged or truncated video", file=self.path, frame=self.frame, found=error.strerror
            ) from error


def _time(packet: av.Packet) -> int:
    # AVI keeps decoding times only.
    return packet.dts if packet.pts is None else packet.pts


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    # FFmpeg gives the frame as stored and the counter-clockwise turn that shows it upright.
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image
