"""Masks of other tools: every layout from small pictures, and what is wrong with them."""

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from avatarpose.errors import InputError
from avatarpose.importers.masks import import_masks
from avatarpose.io import read_image, write_image

WIDTH, HEIGHT = 40, 30


def blank() -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), np.uint8)


def two_people() -> np.ndarray:
    """Label 1 at the left, label 2 at the right."""
    labels = blank()
    labels[5:25, 4:14] = 1
    labels[8:28, 20:34] = 2
    return labels


def indexed_png(path: Path, indices: np.ndarray, palette: list[tuple[int, int, int]]) -> None:
    """A PNG with a palette, as DAVIS and SAM 2 write labels; OpenCV cannot write one."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = indices.shape
    rows = b"".join(b"\0" + row.tobytes() for row in indices.astype(np.uint8))
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    colours = b"".join(bytes(colour) for colour in palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    body = chunk(b"IHDR", head) + chunk(b"PLTE", colours) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def run(source: Path, out: Path, cameras: tuple[str, ...] = ("a", "b"), frames: list[int] | None = None, size=None):
    numbers = [0, 1] if frames is None else frames
    sizes = {camera: size or (WIDTH, HEIGHT) for camera in cameras}
    return import_masks(source, out, cameras, dict.fromkeys(cameras, numbers), sizes)


def written(out: Path, camera: str) -> dict[str, np.ndarray]:
    return {path.name: read_image(path, grey=True) for path in sorted((out / "masks" / camera).iterdir())}


@pytest.mark.parametrize("high", [1, 255])
def test_masks_of_all_people(high: int, tmp_path: Path) -> None:
    person = (two_people() > 0).astype(np.uint8)
    for camera in ("a_mask", "b_mask"):
        for number in (7, 8):
            write_image(tmp_path / "src" / camera / f"m_{number}.png", person * high * (number == 7))
    report = run(tmp_path / "src", tmp_path / "seq")
    assert report.kind == "union" and report.people == [] and report.written == {"a": 2, "b": 2} and not report.missing
    found = written(tmp_path / "seq", "a")
    assert list(found) == ["000000.png", "000001.png"]
    np.testing.assert_array_equal(found["000000.png"], person * 255)
    assert not found["000001.png"].any()


def test_soft_edges_and_unknown_move_to_the_nearest(tmp_path: Path) -> None:
    mask = blank()
    mask[4:20, 4:20], mask[4:20, 20:22] = 255, 128
    soft = cv2.GaussianBlur((two_people() > 0).astype(np.uint8) * 255, (0, 0), 0.4)
    assert len(np.unique(soft)) > 3
    write_image(tmp_path / "src" / "a" / "0.png", mask)
    write_image(tmp_path / "src" / "a" / "1.png", soft)
    report = run(tmp_path / "src" / "a", tmp_path / "seq", ("a",))
    assert report.kind == "union"
    np.testing.assert_array_equal(written(tmp_path / "seq", "a")["000000.png"], mask)
    assert set(np.unique(written(tmp_path / "seq", "a")["000001.png"])) <= {0, 128, 255}


def test_masks_kept_as_jpeg(tmp_path: Path) -> None:
    mask = (two_people() > 0).astype(np.uint8) * 255
    write_image(tmp_path / "src" / "a" / "0.jpg", mask)
    assert run(tmp_path / "src", tmp_path / "seq", ("a",)).missing == {"a": [1]}
    assert (written(tmp_path / "seq", "a")["000000.png"] == mask).mean() > 0.99


def check_two_people(out: Path, name: str = "000000") -> None:
    labels, found = two_people(), written(out, "a")
    np.testing.assert_array_equal(found[f"{name}.png"], (labels > 0) * 255)
    for person in (0, 1):
        np.testing.assert_array_equal(found[f"{name}_p{person}.png"], (labels == person + 1) * 255)


@pytest.mark.parametrize("bits", [8, 16])
def test_labels_are_people(bits: int, tmp_path: Path) -> None:
    folder = tmp_path / "src" / "a"
    folder.mkdir(parents=True)
    for number, labels in ((3, two_people()), (4, (two_people() == 2) * 2)):
        cv2.imwrite(str(folder / f"{number}.png"), labels.astype(np.uint8 if bits == 8 else np.uint16))
    report = run(tmp_path / "src", tmp_path / "seq", ("a",), [3, 4, 5])
    assert report.kind == "labels" and report.people == ["p0", "p1"] and report.missing == {"a": [2]}
    check_two_people(tmp_path / "seq")
    names = set(written(tmp_path / "seq", "a"))
    assert names == {"000000.png", "000000_p0.png", "000000_p1.png", "000001.png", "000001_p1.png"}


def test_255_beside_labels_is_unknown(tmp_path: Path) -> None:
    labels = two_people()
    labels[0] = 255
    write_image(tmp_path / "src" / "0.png", labels)
    run(tmp_path / "src", tmp_path / "seq", ("a",))
    found = written(tmp_path / "seq", "a")
    for name in ("000000.png", "000000_p0.png", "000000_p1.png"):
        assert (found[name][0] == 128).all() and (found[name][1:] != 128).all()


def test_labels_of_a_palette(tmp_path: Path) -> None:
    """The palette's order counts, not its colours': label 1 is brighter than label 2."""
    palette = [(0, 0, 0), (200, 30, 0), (0, 0, 90)] + [(0, 0, 0)] * 253
    indexed_png(tmp_path / "src" / "a" / "0.png", two_people(), palette)
    assert run(tmp_path / "src", tmp_path / "seq", ("a",)).kind == "labels"
    check_two_people(tmp_path / "seq")


def test_a_palette_of_greys_is_a_plain_mask(tmp_path: Path) -> None:
    indexed_png(tmp_path / "src" / "0.png", (two_people() > 0).astype(np.uint8), [(0, 0, 0), (255, 255, 255)])
    assert run(tmp_path / "src", tmp_path / "seq", ("a",)).kind == "union"
    np.testing.assert_array_equal(written(tmp_path / "seq", "a")["000000.png"], (two_people() > 0) * 255)


def test_a_colour_is_a_person(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (0, 0, 255), (0, 200, 0)], np.uint8)
    write_image(tmp_path / "src" / "a" / "0.png", colours[two_people()])
    assert run(tmp_path / "src", tmp_path / "seq", ("a",)).kind == "colours"
    check_two_people(tmp_path / "seq")


@pytest.mark.parametrize("together", [False, True])
def test_a_folder_a_person(together: bool, tmp_path: Path) -> None:
    labels = two_people()
    for camera in ("4", "16"):
        for person in (0, 1):
            write_image(tmp_path / "src" / camera / str(person) / "000011.png", (labels == person + 1) * np.uint8(255))
        if together:
            extra = (labels > 0) * np.uint8(255)
            extra[0] = 255  # something the two of them carry
            write_image(tmp_path / "src" / camera / "all" / "000011.png", extra)
    report = import_masks(
        tmp_path / "src", tmp_path / "seq", ["4", "16"],
        {"4": [10, 11], "16": [10, 11]}, {"4": (WIDTH, HEIGHT), "16": (WIDTH, HEIGHT)},
    )  # fmt: skip
    assert report.kind == "folders" and report.people == ["p0", "p1"] and report.missing == {"4": [0], "16": [0]}
    found = written(tmp_path / "seq", "4")
    np.testing.assert_array_equal(found["000001_p1.png"], (labels == 2) * 255)
    assert (found["000001.png"][0] == 255).all() == together
    np.testing.assert_array_equal(found["000001.png"][1:], (labels[1:] > 0) * 255)


def test_the_sequences_own_layout(tmp_path: Path) -> None:
    run_from = tmp_path / "src"
    write_image(run_from / "a" / "0.png", two_people())
    run(run_from, tmp_path / "seq", ("a",))
    report = run(tmp_path / "seq" / "masks", tmp_path / "again", ("a",))
    assert report.kind == "files" and report.people == ["p0", "p1"]
    check_two_people(tmp_path / "again")


def test_progress_and_numbers_of_the_images(tmp_path: Path) -> None:
    for number in (3, 5):
        write_image(tmp_path / "src" / f"{number}.png", (two_people() > 0) * np.uint8(255))
    said = []
    sizes = {"a": (WIDTH, HEIGHT)}
    import_masks(tmp_path / "src", tmp_path / "seq", ["a"], {"a": [2, 3, 4, 5]}, sizes, lambda *step: said.append(step))
    assert said == [(1, 2, "a"), (2, 2, "a")]
    assert list(written(tmp_path / "seq", "a")) == ["000001.png", "000003.png"]


def test_masks_of_frames_that_were_cut_off(tmp_path: Path) -> None:
    for number in range(6):
        write_image(tmp_path / "src" / f"{number}.png", np.full((HEIGHT, WIDTH), 255 * (number == 3), np.uint8))
    report = run(tmp_path / "src", tmp_path / "seq", ("a",), [2, 3])
    assert report.written == {"a": 2} and not report.missing
    assert [bool(mask.any()) for mask in written(tmp_path / "seq", "a").values()] == [False, True]


# ---- what is wrong ----


def test_masks_of_another_size(tmp_path: Path) -> None:
    write_image(tmp_path / "src" / "a" / "0.png", two_people())
    with pytest.raises(InputError, match=r"0\.png, camera a, frame 0: .*expected 80 x 60 pixels, found 40 x 30"):
        run(tmp_path / "src", tmp_path / "seq", ("a",), size=(80, 60))


def test_pictures_that_are_no_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_image(tmp_path / "src" / "0.png", rng.integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8))
    with pytest.raises(InputError, match="not a mask"):
        run(tmp_path / "src", tmp_path / "seq", ("a",))
    write_image(tmp_path / "src" / "0.png", rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8))
    with pytest.raises(InputError, match="a picture, not a mask"):
        run(tmp_path / "src", tmp_path / "seq", ("a",))
    write_image(tmp_path / "src" / "0.png", rng.integers(0, 3, (HEIGHT, WIDTH, 3)).astype(np.uint8) * 100)
    with pytest.raises(InputError, match="too many colours for masks"):
        run(tmp_path / "src", tmp_path / "seq", ("a",))
    assert not (tmp_path / "seq" / "masks").exists()


def test_damaged_and_missing_masks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder of masks"):
        run(tmp_path / "none", tmp_path / "seq")
    write_image(tmp_path / "src" / "a" / "0.png", two_people())
    with pytest.raises(InputError, match="camera b: camera has no masks"):
        run(tmp_path / "src", tmp_path / "seq")
    data = (tmp_path / "src" / "a" / "0.png").read_bytes()
    (tmp_path / "src" / "a" / "0.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"0\.png: truncated image"):
        run(tmp_path / "src", tmp_path / "seq", ("a",))
    (tmp_path / "src" / "a" / "0.png").write_bytes(b"text")
    with pytest.raises(InputError, match=r"0\.png: damaged, or not an image"):
        run(tmp_path / "src", tmp_path / "seq", ("a",))


def test_layouts_that_do_not_fit(tmp_path: Path) -> None:
    write_image(tmp_path / "src" / "a" / "0.png", two_people())
    write_image(tmp_path / "src" / "b" / "0" / "0.png", two_people())
    with pytest.raises(InputError, match="masks of different layouts"):
        run(tmp_path / "src", tmp_path / "seq")
    for number in range(4):
        write_image(tmp_path / "long" / f"{number + 1}.png", two_people())
    with pytest.raises(InputError, match="different frame counts"):
        run(tmp_path / "long", tmp_path / "seq", ("a",))
    for name in ("1_p0", "01_p0"):
        write_image(tmp_path / "twice" / f"{name}.png", two_people())
    with pytest.raises(InputError, match="two masks of one frame"):
        run(tmp_path / "twice", tmp_path / "seq", ("a",))
    write_image(tmp_path / "nameless" / "mask.png", two_people())
    with pytest.raises(InputError, match="no frame number"):
        run(tmp_path / "nameless", tmp_path / "seq", ("a",))
    write_image(tmp_path / "mixed" / "0.png", two_people())
    write_image(tmp_path / "mixed" / "1.bmp", two_people())
    with pytest.raises(InputError, match="masks of several formats"):
        run(tmp_path / "mixed", tmp_path / "seq", ("a",))


def test_masks_that_are_there_stay(tmp_path: Path) -> None:
    write_image(tmp_path / "src" / "0.png", two_people())
    write_image(tmp_path / "seq" / "masks" / "a" / "000000.png", blank())
    with pytest.raises(InputError, match="there are masks already"):
        run(tmp_path / "src", tmp_path / "seq", ("a",))
    assert not written(tmp_path / "seq", "a")["000000.png"].any()
