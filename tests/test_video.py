"""Videos written here, read back by frame number; OpenCV is the oracle for rotation."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from video_files import level, write_video

from avatarpose.errors import InputError
from avatarpose.video import VideoReader

FRAMES = 23


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_every_frame_by_number_in_any_order(tmp_path: Path, suffix: str):
    write_video(tmp_path / f"a{suffix}", FRAMES)
    reader = VideoReader(tmp_path / f"a{suffix}")
    assert (len(reader), reader.width, reader.height, reader.fps) == (FRAMES, 64, 48, 20.0)
    order = [*range(FRAMES), 5, 4, 22, 0, 0, 9, 16, 15, 8, 7, 1]
    for number in order:
        assert level(reader.read(number)) == pytest.approx(number, abs=0.3)
    assert reader.read(3)[:, :28].std() > 50 and reader.read(3)[:, 36:].std() < 1
    reader.close()
    assert level(reader.read(11)) == pytest.approx(11, abs=0.3)


def test_frames_in_order_are_not_sought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "a.mp4", FRAMES)
    reader = VideoReader(tmp_path / "a.mp4")
    monkeypatch.setattr(reader, "_seek", lambda start: pytest.fail(f"sought {start}"))
    for number in range(0, FRAMES, 2):
        reader.read(number)


def test_frames_are_told_by_their_time_where_seeking_lands_early(tmp_path: Path):
    """Frame 13 is taken for a key frame; FFmpeg goes back to 8, the true one."""
    write_video(tmp_path / "a.mp4", FRAMES)
    reader = VideoReader(tmp_path / "a.mp4")
    reader._starts = [0, 13]
    reader.read(22)
    assert level(reader.read(14)) == pytest.approx(14, abs=0.3)


def test_frames_on_the_way_are_handed_over(tmp_path: Path):
    write_video(tmp_path / "a.mp4", FRAMES)
    passed = {}
    VideoReader(tmp_path / "a.mp4").read(14, lambda number, image: passed.update({number: level(image)}))
    assert set(range(8, 14)) <= set(passed)
    assert all(value == pytest.approx(number, abs=0.3) for number, value in passed.items())


def test_what_the_caller_does_to_an_image_stays_there(tmp_path: Path):
    write_video(tmp_path / "a.mp4", FRAMES)
    reader = VideoReader(tmp_path / "a.mp4")
    reader.read(7)[:] = 0
    assert level(reader.read(7)) == pytest.approx(7, abs=0.3)


def test_real_videos_agree_with_opencv(data_folder: Path):
    path = data_folder / "pose2sim_single" / "videos" / "cam02.mp4"
    reader, oracle = VideoReader(path), cv2.VideoCapture(str(path))
    assert len(reader) == 100
    for number in range(6):
        done, image = oracle.read()
        assert done
        np.testing.assert_array_equal(reader.read(number), image[..., ::-1])


def test_rotated_video_is_shown_upright(tmp_path: Path):
    """A phone's quarter turn, written into the track header as ISO 14496-12 says (16.16 fixed point, 2.30 for w)."""
    path = tmp_path / "a.mp4"
    write_video(path, frames=3)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    one, minus = 1 << 16, (1 << 32) - (1 << 16)
    matrix = [0, one, 0, minus, 0, 0, 48 << 16, 0, 1 << 30]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big") for value in matrix)
    path.write_bytes(data)
    reader = VideoReader(path)
    done, expected = cv2.VideoCapture(str(path)).read()
    assert done and expected.shape == (64, 48, 3) and (reader.width, reader.height) == (48, 64)
    np.testing.assert_array_equal(reader.read(0), expected[..., ::-1])


@pytest.mark.parametrize("part", [0.9, 0.5, 0.1])
def test_truncated_video_is_named(tmp_path: Path, part: float):
    path = tmp_path / "cam01.mp4"
    write_video(path, FRAMES)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=r"cam01\.mp4.*(truncated|no readable video)"):
        VideoReader(path)


def test_header_lost_with_the_end(tmp_path: Path):
    """Without faststart the index is at the end, so a cut file cannot be opened at all."""
    write_video(tmp_path / "a.mp4", FRAMES)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(data[data.index(b"mdat") - 4 :])
    with pytest.raises(InputError, match=r"a\.mp4.*damaged or truncated"):
        VideoReader(tmp_path / "a.mp4")


def test_corrupt_video_is_named(tmp_path: Path):
    path = tmp_path / "a.mp4"
    write_video(path, FRAMES)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.mp4, frame 0: (damaged|frame cannot be decoded)"):
        VideoReader(path)


def test_corrupt_frame_in_the_middle_is_named(tmp_path: Path):
    """What comes before the damage, and after the next key frame, is still read."""
    path = tmp_path / "a.mp4"
    write_video(path, FRAMES)
    data = bytearray(path.read_bytes())
    middle = (data.index(b"mdat") + len(data)) // 2
    data[middle : middle + 3000] = b"\xff" * 3000
    path.write_bytes(data)
    reader = VideoReader(path)
    assert level(reader.read(2)) == pytest.approx(2, abs=0.3)
    with pytest.raises(InputError, match=r"a\.mp4, frame \d+: ") as error:
        for number in range(FRAMES):
            reader.read(number)
    assert 8 <= error.value.frame < 16
    assert level(reader.read(20)) == pytest.approx(20, abs=0.3)


def test_no_video(tmp_path: Path):
    with pytest.raises(InputError, match="no such video"):
        VideoReader(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(InputError, match=r"text\.mp4: damaged"):
        VideoReader(tmp_path / "text.mp4")
    write_video(tmp_path / "a.mp4", FRAMES)
    reader = VideoReader(tmp_path / "a.mp4")
    for number in (-1, FRAMES):
        with pytest.raises(InputError, match=f"frame {number}: no such frame"):
            reader.read(number)
