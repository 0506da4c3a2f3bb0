"""Images and masks kept in memory up to a limit, and read ahead of time by threads."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from jaxtyping import UInt8

from avatarpose.errors import InputError
from avatarpose.sequence import Sequence

# (camera index, frame index, "image", "mask" or "mask of <person>")
_Key = tuple[int, int, str]
_IMAGE, _MASK = "image", "mask"


class FrameCache:
    """Images and masks of a sequence by camera and frame index, least recently used out first.

    At most `memory_bytes` of pixels are kept (what callers still hold is theirs). Reading ahead takes no more than half
    of that for frames nobody has asked for yet. When a video has to be decoded through other frames of the sequence,
    those are kept too. Safe to use from several threads.

    Args:
        sequence: the sequence.
        memory_bytes: limit on the bytes kept.
        threads: how many threads read ahead; 0 for none.
        scale: images and masks are resized by this, to the size of `sequence.cameras.scaled(scale)`.
    """

    def __init__(self, sequence: Sequence, memory_bytes: int, threads: int = 1, scale: float = 1.0) -> None:
        if memory_bytes <= 0 or scale <= 0 or threads < 0:
            raise ValueError("memory_bytes and scale must be above 0, threads 0 or more")
        self.sequence = sequence
        self.memory_bytes = memory_bytes
        self.cameras = sequence.cameras.scaled(scale) if scale != 1 else sequence.cameras
        self._scale = scale
        self._kept: OrderedDict[_Key, np.ndarray | None] = OrderedDict()
        self._bytes = 0
        # Read ahead and not asked for yet; only what the last call of `prefetch` wants counts.
        self._wanted: set[_Key] = set()
        self._unused: set[_Key] = set()
        self._unused_bytes = 0
        self._busy: set[_Key] = set()
        self._ahead: deque[_Key] = deque()
        self._closed = False
        self._changed = threading.Condition()
        # A chosen frame of a camera by its number on the camera's own clock, for what a video decoder passes through.
        self._chosen = [
            {sequence.own_frame(c, f): f for f in range(len(sequence.frames))} for c in range(len(sequence.cameras))
        ]
        self._threads = [threading.Thread(target=self._read_ahead, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def image(self, c: int, f: int) -> UInt8[np.ndarray, "height width 3"]:
        """Image of camera c at frame f, RGB; not to be written to.

        Raises:
            InputError: as `Sequence.image`.
        """
        return self._get((c, f, _IMAGE))

    def mask(self, c: int, f: int, person: str | None = None) -> UInt8[np.ndarray, "height width"] | None:
        """Mask of camera c at frame f, of all people or one, or None; not to be written to.

        Raises:
            InputError: as `Sequence.mask`.
        """
        return self._get((c, f, _MASK if person is None else f"{_MASK} of {person}"))

    def prefetch(self, pairs: Iterable[tuple[int, int]], masks: bool = False) -> None:
        """Starts reading images (and masks) of (camera, frame) index pairs, in this order, and returns at once.

        Replaces what an earlier call asked for and is not read yet.
        """
        kinds = (_IMAGE, _MASK) if masks else (_IMAGE,)
        with self._changed:
            self._ahead = deque((c, f, kind) for c, f in pairs for kind in kinds)
            self._wanted = set(self._ahead)
            for key in self._unused - self._wanted:
                self._mark_used(key)
            self._changed.notify_all()

    def walk(self, pairs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, UInt8[np.ndarray, "height width 3"]]]:
        """Yields (c, f, image) for index pairs in order, reading ahead of the caller."""
        pairs = list(pairs)
        self.prefetch(pairs)
        for c, f in pairs:
            yield c, f, self.image(c, f)

    @property
    def bytes_kept(self) -> int:
        """Bytes of pixels kept now."""
        return self._bytes

    def close(self) -> None:
        """Stops the threads and forgets everything; `image` and `mask` go on working, without memory."""
        with self._changed:
            self._closed = True
            self._ahead.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        with self._changed:
            self._kept.clear()
            self._unused.clear()
            self._bytes = self._unused_bytes = 0

    def __enter__(self) -> FrameCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- inside ----

    def _get(self, key: _Key) -> np.ndarray | None:
        with self._changed:
            while key in self._busy:
                self._changed.wait()
            if key in self._kept:
                self._kept.move_to_end(key)
                self._mark_used(key)
                return self._kept[key]
            self._busy.add(key)
        return self._load(key, ahead=False)

    def _load(self, key: _Key, ahead: bool) -> np.ndarray | None:
        """Reads one item, already marked busy, and keeps it."""
        try:
            value = self._read(key)
            with self._changed:
                self._keep(key, value)
                if ahead and key in self._kept and key in self._wanted:
                    self._unused.add(key)
                    self._unused_bytes += value.nbytes
            return value
        finally:
            with self._changed:
                self._busy.discard(key)
                self._changed.notify_all()

    def _read(self, key: _Key) -> np.ndarray | None:
        c, f, kind = key
        if kind == _IMAGE:
            image = self.sequence.image_and_passed(c, f, lambda number, passed: self._passed(c, number, passed))
            return self._resized(image, c, cv2.INTER_AREA if self._scale < 1 else cv2.INTER_LINEAR)
        mask = self.sequence.mask(c, f, None if kind == _MASK else kind.removeprefix(f"{_MASK} of "))
        return None if mask is None else self._resized(mask, c, cv2.INTER_NEAREST_EXACT)

    def _resized(self, image: np.ndarray, c: int, interpolation: int) -> np.ndarray:
        if self._scale != 1:
            size = (int(self.cameras.width[c]), int(self.cameras.height[c]))
            image = cv2.resize(image, size, interpolation=interpolation)
        image.setflags(write=False)
        return image

    def _passed(self, c: int, number: int, image: np.ndarray) -> None:
        f = self._chosen[c].get(number)
        if f is not None:
            value = self._resized(image, c, cv2.INTER_AREA if self._scale < 1 else cv2.INTER_LINEAR)
            with self._changed:
                self._keep((c, f, _IMAGE), value)

    def _keep(self, key: _Key, value: np.ndarray | None) -> None:
        """Puts an item in as the most recent one and drops the oldest beyond the limit; the lock is held."""
        size = 0 if value is None else value.nbytes
        if self._closed or key in self._kept or size > self.memory_bytes or value is None:
            return
        self._kept[key] = value
        self._bytes += size
        while self._bytes > self.memory_bytes:
            oldest, dropped = self._kept.popitem(last=False)
            self._mark_used(oldest, dropped)
            self._bytes -= dropped.nbytes

    def _mark_used(self, key: _Key, value: np.ndarray | None = None) -> None:
        if key in self._unused:
            self._unused.discard(key)
            self._unused_bytes -= (self._kept[key] if value is None else value).nbytes
            self._changed.notify_all()

    def _read_ahead(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not (self._ahead and self._has_room()):
                    self._changed.wait()
                if self._closed:
                    return
                key = self._ahead.popleft()
                if key in self._kept or key in self._busy:
                    continue
                self._busy.add(key)
            try:
                self._load(key, ahead=True)
            except InputError:
                # Whoever asks for this frame reads it again and is told.
                continue

    def _has_room(self) -> bool:
        c = self._ahead[0][0]
        size = int(self.cameras.width[c]) * int(self.cameras.height[c]) * (3 if self._ahead[0][2] == _IMAGE else 1)
        return self._unused_bytes + size * (1 + len(self._busy)) <= self.memory_bytes // 2
