"""The frame cache: right images, bounded memory, reading ahead, errors where they are asked for."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from video_files import level, write_video

from avatarpose.errors import InputError
from avatarpose.frames import FrameCache
from avatarpose.io import write_image, write_json
from avatarpose.sequence import Sequence

WIDTH, HEIGHT, FRAMES = 32, 24, 8
SIZE = WIDTH * HEIGHT * 3


@pytest.fixture
def sequence(tmp_path: Path) -> Sequence:
    """Two cameras; images of level 20 f + c, masks of camera 0 only."""
    cameras = {}
    for c, name in enumerate(("a", "b")):
        K = [[30, 0, WIDTH / 2], [0, 30, HEIGHT / 2], [0, 0, 1]]
        cameras[name] = {"K": K, "R": np.eye(3), "t": [c, 0, 3], "width": WIDTH, "height": HEIGHT}
        for f in range(FRAMES):
            image = np.full((HEIGHT, WIDTH, 3), 20 * f + c, np.uint8)
            write_image(tmp_path / "images" / name / f"{f:06d}.png", image)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, ::2] = 255
    for name in ("000002", "000002_p0"):
        write_image(tmp_path / "masks" / "a" / f"{name}.png", mask)
    write_json(tmp_path / "cameras.json", cameras)
    write_json(tmp_path / "sequence.json", {"fps": 20, "frames": FRAMES, "unit": "m", "up": "z"})
    return Sequence.open(tmp_path)


@pytest.fixture
def reads(sequence: Sequence, monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each image was read from disk."""
    counter, read = Counter(), sequence.image_and_passed

    def counted(c: int, f: int, passed: object) -> np.ndarray:
        counter[c, f] += 1
        time.sleep(0.002)
        return read(c, f, passed)

    monkeypatch.setattr(sequence, "image_and_passed", counted)
    return counter


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_images_and_masks_are_the_sequences(sequence: Sequence):
    with FrameCache(sequence, 100 * SIZE) as cache:
        for c, f in np.ndindex(2, FRAMES):
            np.testing.assert_array_equal(cache.image(c, f), sequence.image(c, f))
        np.testing.assert_array_equal(cache.mask(0, 2), sequence.mask(0, 2))
        np.testing.assert_array_equal(cache.mask(0, 2, "p0"), sequence.mask(0, 2))
        assert cache.mask(1, 2) is None and cache.mask(0, 2, "p1") is None
        with pytest.raises(ValueError, match="read-only"):
            cache.image(0, 0)[:] = 0


def test_memory_is_bounded_and_the_least_recent_goes(sequence: Sequence, reads: Counter):
    with FrameCache(sequence, 3 * SIZE, threads=0) as cache:
        for f in (0, 1, 2, 0, 3, 0, 1):
            cache.image(0, f)
            assert cache.bytes_kept <= 3 * SIZE
        # Frame 3 pushed out 1 (not 0, used again), and reading 1 anew pushed out 2.
        assert reads == {(0, 0): 1, (0, 1): 2, (0, 2): 1, (0, 3): 1}
        cache.image(0, 2)
        assert reads[0, 2] == 2 and cache.bytes_kept == 3 * SIZE


def test_image_larger_than_the_memory_is_not_kept(sequence: Sequence, reads: Counter):
    with FrameCache(sequence, SIZE - 1) as cache:
        assert [cache.image(0, 1)[0, 0, 0] for _ in range(3)] == [20] * 3
        assert reads[0, 1] == 3 and cache.bytes_kept == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_ahead_takes_half_the_memory_and_goes_on_as_frames_are_used(
    sequence: Sequence, reads: Counter, threads: int
):
    pairs = [(0, f) for f in range(FRAMES)]
    with FrameCache(sequence, 6 * SIZE, threads) as cache:
        cache.prefetch(pairs)
        until(lambda: len(reads) == 3)
        time.sleep(0.05)
        assert set(reads) == {(0, 0), (0, 1), (0, 2)}
        cache.image(0, 0)
        until(lambda: (0, 3) in reads)
        for c, f in pairs:
            assert cache.image(c, f)[0, 0, 0] == 20 * f
            assert cache.bytes_kept <= 6 * SIZE
        assert max(reads.values()) == 1


def test_a_new_request_replaces_the_old_one(sequence: Sequence, reads: Counter):
    with FrameCache(sequence, 4 * SIZE) as cache:
        cache.prefetch([(0, f) for f in range(FRAMES)])
        until(lambda: len(reads) == 2)
        cache.prefetch([(1, 6), (1, 7)])
        until(lambda: {(1, 6), (1, 7)} <= set(reads))
        assert (0, 3) not in reads


def test_walk(sequence: Sequence, reads: Counter):
    pairs = [(1, 5), (0, 5), (1, 5), (0, 0)]
    with FrameCache(sequence, 20 * SIZE, threads=2) as cache:
        assert [(c, f, int(image[0, 0, 0])) for c, f, image in cache.walk(pairs)] == [
            (1, 5, 101), (0, 5, 100), (1, 5, 101), (0, 0, 0)
        ]  # fmt: skip
    assert max(reads.values()) == 1


def test_masks_are_read_ahead(sequence: Sequence, monkeypatch: pytest.MonkeyPatch):
    asked, read = [], sequence.mask
    monkeypatch.setattr(sequence, "mask", lambda c, f, person: asked.append((c, f)) or read(c, f, person))
    with FrameCache(sequence, 20 * SIZE) as cache:
        cache.prefetch([(0, 2)], masks=True)
        until(lambda: cache.bytes_kept == SIZE + SIZE // 3)
        assert cache.mask(0, 2).max() == 255 and asked == [(0, 2)]


def test_many_threads_read_each_image_once(sequence: Sequence, reads: Counter):
    wrong = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, 2 * FRAMES, 60):
            c, f = int(i) % 2, int(i) // 2
            if (cache.image(c, f) != 20 * f + c).any():
                wrong.append((c, f))

    with FrameCache(sequence, 100 * SIZE, threads=2) as cache:
        cache.prefetch([(c, f) for f in range(FRAMES) for c in range(2)])
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong and set(reads.values()) == {1}


def test_damage_is_reported_to_who_asks_and_stops_nothing_else(sequence: Sequence, reads: Counter):
    path = sequence.image_path(0, 1)
    path.write_bytes(path.read_bytes()[:-20])
    with FrameCache(sequence, 20 * SIZE) as cache:
        cache.prefetch([(0, 0), (0, 1), (0, 2)])
        until(lambda: (0, 2) in reads)
        assert cache.image(0, 2)[0, 0, 0] == 40
        for _ in range(2):
            with pytest.raises(InputError, match=r"000001\.png: truncated"):
                cache.image(0, 1)


def test_resized_images_belong_to_the_scaled_cameras(sequence: Sequence):
    with FrameCache(sequence, 20 * SIZE, scale=0.4) as cache:
        assert (int(cache.cameras.width[0]), int(cache.cameras.height[0])) == (13, 10)
        assert cache.image(0, 3).shape == (10, 13, 3) and (cache.image(0, 3) == 60).all()
        assert set(np.unique(cache.mask(0, 2))) <= {0, 255}
        assert cache.cameras.K[0, 0, 2] == pytest.approx(6.5)


def test_frames_a_video_is_decoded_through_are_kept(tmp_path: Path, sequence: Sequence):
    (tmp_path / "images" / "b").rename(tmp_path / "unused")
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "b.mp4", FRAMES, WIDTH, HEIGHT)
    sequence = Sequence.open(tmp_path, frames=slice(1, None, 2))
    with FrameCache(sequence, 20 * SIZE, threads=0) as cache:
        cache.image(1, 3)
        assert cache.bytes_kept == 4 * SIZE
        sequence.close()
        (tmp_path / "videos" / "b.mp4").unlink()
        assert [level(cache.image(1, f)) for f in range(4)] == pytest.approx([1, 3, 5, 7], abs=0.3)


def test_close_ends_the_threads(sequence: Sequence):
    before = threading.active_count()
    cache = FrameCache(sequence, 2 * SIZE, threads=3)
    cache.prefetch([(0, f) for f in range(FRAMES)])
    cache.close()
    assert threading.active_count() == before and cache.bytes_kept == 0
    assert cache.image(0, 2)[0, 0, 0] == 40 and cache.bytes_kept == 0
