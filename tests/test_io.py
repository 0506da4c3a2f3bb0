"""Files: whole or not at all, and errors that name them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from avatarpose import io
from avatarpose.errors import InputError


def picture(height: int = 40, width: int = 60) -> np.ndarray:
    """Smooth colours, different in each channel, so that swapped channels and grey filling show."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack((x, y, 255 - x), axis=-1).astype(np.uint8)


def test_message_names_everything():
    error = InputError("wrong size", file="a.png", camera="cam0", frame=3, expected="4 x 4", found="5 x 4", hint="Crop")
    assert str(error) == "a.png, camera cam0, frame 3: wrong size (expected 4 x 4, found 5 x 4). Crop"
    assert (error.camera, error.frame) == ("cam0", 3)


def test_npz_round_trip(tmp_path: Path):
    path = tmp_path / "new" / "folder" / "a.npz"
    io.write_npz(path, x=np.arange(6, dtype=np.float32).reshape(2, 3), names=np.array(["p0", "p1"]))
    data = io.read_npz(path)
    assert data["x"].dtype == np.float32 and data["x"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert data["names"].tolist() == ["p0", "p1"]
    assert list(io.read_npz(path, ["x"])) == ["x"]


def test_killed_writer_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.json"
    io.write_json(path, {"old": 1})

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(KeyboardInterrupt):
        io.write_json(path, {"new": 2})
    assert io.read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_objects_are_neither_written_nor_read(tmp_path: Path):
    with pytest.raises(ValueError, match="Python objects"):
        io.write_npz(tmp_path / "a.npz", x=np.array([{}], dtype=object))
    np.savez(tmp_path / "b.npz", x=np.array([{}], dtype=object))
    with pytest.raises(InputError, match=r"b\.npz: damaged"):
        io.read_npz(tmp_path / "b.npz")


def test_bad_npz_is_named(tmp_path: Path):
    path = tmp_path / "a.npz"
    with pytest.raises(InputError, match=r"a\.npz: no such file"):
        io.read_npz(path)
    io.write_npz(path, x=np.random.default_rng(0).random(1000), y=1)
    with pytest.raises(InputError, match=r"lacks z \(expected x, z, found x, y\)"):
        io.read_npz(path, ["x", "z"])
    whole = path.read_bytes()
    for part in (whole[: len(whole) // 2], b"", b"something else", whole[:300] + bytes(50) + whole[350:]):
        path.write_bytes(part)
        with pytest.raises(InputError, match=r"a\.npz: damaged"):
            io.read_npz(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match="not an archive of arrays"):
        io.read_npz(tmp_path / "one.npy")


def test_json_round_trip_and_errors(tmp_path: Path):
    path = tmp_path / "a.json"
    io.write_json(path, {"x": np.float32(0.5), "y": np.arange(3), "z": tmp_path})
    assert io.read_json(path, ["x"]) == {"x": 0.5, "y": [0, 1, 2], "z": str(tmp_path)}
    with pytest.raises(InputError, match="lacks fps"):
        io.read_json(path, ["x", "fps"])
    path.write_text('{"x": 1,\n "y" 2}')
    with pytest.raises(InputError, match=r"a\.json: malformed JSON at line 2, column 6"):
        io.read_json(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match="expected UTF-8"):
        io.read_json(path)
    with pytest.raises(InputError, match="no such file"):
        io.read_json(tmp_path / "b.json")
    with pytest.raises(TypeError):
        io.write_json(path, {"x": {1, 2}})


def test_images_are_rgb_and_come_back(tmp_path: Path):
    io.write_image(tmp_path / "a.png", picture())
    np.testing.assert_array_equal(io.read_image(tmp_path / "a.png"), picture())
    io.write_image(tmp_path / "a.jpg", picture())
    assert np.abs(io.read_image(tmp_path / "a.jpg").astype(int) - picture()).max() < 20
    io.write_image(tmp_path / "m.png", picture()[..., 0])
    np.testing.assert_array_equal(io.read_image(tmp_path / "m.png", grey=True), picture()[..., 0])
    with pytest.raises(ValueError, match="uint8"):
        io.write_image(tmp_path / "a.png", picture().astype(np.float32))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("part", [0.98, 0.5, 0.05, 0.0])
def test_truncated_image_is_named(tmp_path: Path, suffix: str, part: float):
    path = tmp_path / f"000007{suffix}"
    io.write_image(path, picture(200, 300))
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(InputError, match=rf"000007\{suffix}: (truncated|damaged)"):
        io.read_image(path)


def test_thumbnail_does_not_hide_a_truncated_jpeg(tmp_path: Path):
    """An EXIF thumbnail is a whole JPEG inside the header, end marker and all."""
    io.write_image(tmp_path / "t.jpg", picture(8, 8))
    io.write_image(tmp_path / "a.jpg", picture())
    thumbnail, data = (tmp_path / "t.jpg").read_bytes(), (tmp_path / "a.jpg").read_bytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = data[:2] + segment + data[2:]
    (tmp_path / "b.jpg").write_bytes(whole)
    np.testing.assert_array_equal(io.read_image(tmp_path / "b.jpg"), io.read_image(tmp_path / "a.jpg"))
    (tmp_path / "b.jpg").write_bytes(whole[:-100])
    with pytest.raises(InputError, match="truncated"):
        io.read_image(tmp_path / "b.jpg")


def test_not_an_image(tmp_path: Path):
    (tmp_path / "a.png").write_text(json.dumps("hello"))
    with pytest.raises(InputError, match="not an image"):
        io.read_image(tmp_path / "a.png")
    with pytest.raises(InputError, match="no such image"):
        io.read_image(tmp_path / "b.png")


def test_sha256_of_known_text(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert io.sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
