"""`avatarpose import`: from folders of other tools to a sequence, its options, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from rig_files import (
    HEIGHT,
    WIDTH,
    TrueCamera,
    project,
    rig,
    write_caliscope,
    write_easymocap,
    write_hi4d,
    write_panoptic,
    write_qualisys,
    write_toml,
)
from test_import_cameras import people
from video_files import write_video

from avatarpose.cameras import Cameras
from avatarpose.cli import main
from avatarpose.errors import InputError
from avatarpose.importers.assemble import import_sequence
from avatarpose.importers.calibration import read_calibration
from avatarpose.importers.crop import framings, shows_bars
from avatarpose.importers.media import find_footage, match_footage
from avatarpose.importers.settings import ImportSettings, corner_pairs, number_pairs, pairs, parse_size
from avatarpose.io import read_json, write_image
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence

LENS = (-0.05, 0.01, 0, 0, 0)
FRAMES = 6


def bring(source: Path, target: Path, **options) -> tuple[Sequence, str]:
    """Imports; returns the opened sequence and what was said."""
    said = StringIO()
    import_sequence(ImportSettings(source, target, **options), Console(file=said, width=400))
    return Sequence.open(target), said.getvalue()


def write_images(folder: Path, frames: int, first: int = 0, step: int = 1, size: tuple[int, int] = (64, 48)) -> None:
    for n in range(frames):
        image = np.full((size[1], size[0], 3), 10 * n + 20, np.uint8)
        write_image(folder / f"frame_{first + n * step:04d}.png", image)


def small(cameras: list[TrueCamera]) -> list[TrueCamera]:
    """The rig with images of a tenth of the size, so that its footage is 64 x 48."""
    to_small = np.diag([0.1, 0.1, 1])
    return [replace(camera, K=to_small @ camera.K, dist=np.zeros(5)) for camera in cameras]


def openpose(folder: Path, cameras: list[TrueCamera], change: Callable | None = None, noise: float = 0.4) -> Path:
    """BODY_25 JSON of two people, one folder a camera; `change` moves the pixels of a camera."""
    order = (0, 16, 15, 18, 17, 5, 2, 6, 3, 7, 4, 12, 9, 13, 10, 14, 11)  # where COCO's joints stand in BODY_25
    rng = np.random.default_rng(3)
    points = people(FRAMES)
    for camera in cameras:
        pixels = project(camera, points) + rng.normal(0, noise, (*points.shape[:3], 2))
        pixels = pixels if change is None else change(camera, pixels)
        (folder / f"{camera.name}_json").mkdir(parents=True)
        for f in range(FRAMES):
            found = []
            for p in range(len(points)):
                rows = np.zeros((25, 3))
                rows[list(order)] = np.column_stack((pixels[p, f], np.full(17, 0.9)))
                rows[8] = (rows[9] + rows[12]) / 2
                found.append({"pose_keypoints_2d": rows.ravel().tolist()})
            file = folder / f"{camera.name}_json" / f"{camera.name}_{f:012d}_keypoints.json"
            file.write_text(json.dumps({"version": 1.3, "people": found}))
    return folder


@pytest.fixture()
def recording(tmp_path: Path) -> Path:
    """EasyMocap's layout: intri.yml, extri.yml and images/01, 02, ..., numbered from 11."""
    folder = tmp_path / "recording"
    folder.mkdir()
    cameras = small(rig())
    write_easymocap(folder, cameras)
    for camera in cameras:
        write_images(folder / "images" / camera.name, FRAMES, first=11)
    return folder


# ---- what works ----


def test_images_are_linked_by_common_number(recording: Path, tmp_path: Path) -> None:
    sequence, said = bring(recording, tmp_path / "seq", fps=25.0, people=2)
    assert sequence.fps == 25 and len(sequence.frames) == FRAMES and sequence.up == "z" and sequence.people_hint == 2
    assert sequence.cameras.names == ("01", "02", "03", "04") and "up is z" in said
    link = tmp_path / "seq" / "images" / "03" / "000002.png"
    assert link.is_symlink() and link.resolve() == (recording / "images/03/frame_0013.png").resolve()
    assert (sequence.image(2, 4) == 60).all()
    truth = small(rig())
    for c, camera in enumerate(truth):
        np.testing.assert_allclose(sequence.cameras.K[c, :2, 2] - 0.5, camera.K[:2, 2], atol=1e-9)
        np.testing.assert_allclose(sequence.cameras.centres[c], camera.centre, atol=1e-9)


def test_chosen_frames_of_images_are_numbered_anew(recording: Path, tmp_path: Path) -> None:
    sequence, _ = bring(recording, tmp_path / "seq", fps=30.0, frames="1:6:2", media="copy")
    assert sequence.fps == 15 and len(sequence.frames) == 3
    assert [int(sequence.image(0, f)[0, 0, 0]) for f in range(3)] == [30, 50, 70]
    assert not (tmp_path / "seq" / "images" / "01" / "000000.png").is_symlink()


def test_chosen_frames_of_videos_keep_the_whole_video(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    (folder / "videos").mkdir(parents=True)
    cameras = small(rig())
    for c in range(len(cameras)):
        write_video(folder / "videos" / f"cam{c + 1}.mp4", 9 + (c == 2))
    write_qualisys(folder, [replace(camera, name=f"CAM_{camera.name}") for camera in cameras])
    edited = (folder / "session.qca.txt").read_text().replace('right="639"', 'right="63"')
    (folder / "session.qca.txt").write_text(edited.replace('bottom="479"', 'bottom="47"'))
    sequence, said = bring(folder, tmp_path / "seq", frames="2:9:3")
    assert sequence.fps == pytest.approx(20 / 3) and len(sequence.frames) == 3 and sequence.up == "z"
    assert "different numbers of frames" in said and "CAM_03 10" in said
    assert sequence.cameras.names[0] == "CAM_01" and (tmp_path / "seq" / "videos" / "CAM_02.mp4").is_symlink()
    for c in range(4):
        assert [sequence.own_frame(c, f) for f in range(3)] == [2, 5, 8]
        assert round(float(sequence.image(c, 1)[:, 36:].mean()) / 10) == 5
    whole, _ = bring(folder, tmp_path / "whole")
    assert whole.fps == 20 and len(whole.frames) == 9 and whole.own_frame(2, 8) == 8


def test_offsets_and_rates_reach_the_sequence(recording: Path, tmp_path: Path) -> None:
    write_images(recording / "images" / "02", 14, first=11)
    sequence, _ = bring(recording, tmp_path / "seq", fps=20.0, offset=("02=1.5",), rate=("02=40",), frames="1:6")
    # Frame f is common frame f + 1: own frame 1.5 + 2 (f + 1).
    np.testing.assert_allclose(sequence.own_time(1), 3.5 + 2 * np.arange(5))
    np.testing.assert_allclose(sequence.own_time(0), np.arange(5))
    assert int(sequence.image(1, 1)[0, 0, 0]) == 20 + 10 * 6


def test_names_that_differ_are_matched_in_order_or_as_told(recording: Path, tmp_path: Path) -> None:
    images = recording / "images"
    for old, new in (("01", "left"), ("02", "middle"), ("03", "right"), ("04", "top")):
        (images / old).rename(images / new)
    _, said = bring(recording, tmp_path / "seq", fps=25.0)
    assert "taken in sorted order: left is 01, middle is 02, right is 03, top is 04" in said
    mapping = ("left=02", "middle=01", "right=03,top=04")
    bring(recording, tmp_path / "told", fps=25.0, map=mapping)
    link = tmp_path / "told" / "images" / "02" / "000000.png"
    assert link.resolve().parent.name == "left"


@pytest.mark.parametrize(
    ("camera", "aliases", "footage"),
    [
        ("00_07", ("hd_00_07",), "hd_00_07"),
        ("cam_0", ("port_0", "0"), "port_0"),
        ("cam_01", (), "Cam1"),
        ("cam01", (), "cam01_synced"),
        ("4", (), "4"),
        ("2111453", ("3",), "take.2111453"),
    ],
)  # fmt: skip
def test_footage_by_names_as_tools_write_them(camera: str, aliases: tuple[str, ...], footage: str, recording) -> None:
    known = read_calibration(recording / "intri.yml")
    first, second, *_ = known.cameras
    cameras = (replace(first, name=camera, aliases=aliases), replace(second, name="other_9"))
    matched = match_footage(["OTHER9", footage], replace(known, cameras=cameras), {}, lambda text: None)
    assert matched == {camera: footage, "other_9": "OTHER9"}


def test_keypoints_follow_a_camera_with_its_own_clock(tmp_path: Path) -> None:
    """Camera 02 shows everything one frame later; its offset says so, and people are found in it all the same."""
    folder = tmp_path / "recording"
    folder.mkdir()
    cameras = rig(dist=LENS)
    write_toml(folder, cameras)
    filmed(folder, {"02": (WIDTH - 30, HEIGHT)})

    def late(camera: TrueCamera, pixels: np.ndarray) -> np.ndarray:
        return np.roll(pixels, 1, axis=1) - (30, 0) if camera.name == "02" else pixels

    keypoints = openpose(folder / "kp", cameras, late)
    sequence, said = bring(folder, tmp_path / "seq", keypoints=keypoints, fps=30.0, offset=("02=1",))
    assert "02: cut at left, by the least error" in said and sequence.frames.tolist() == [0, 1, 2, 3, 4]
    expected = project(cameras[1], people(FRAMES)[0, :5]) + 0.5 - (30, 0)
    assert np.abs(sequence.keypoints2d[1, :, 0, :, :2] - expected).max() < 2.5


def test_cameras_without_footage_are_left_out_and_said(recording: Path, tmp_path: Path) -> None:
    (recording / "images" / "04").rename(recording / "elsewhere")
    sequence, said = bring(recording, tmp_path / "seq", fps=25.0)
    assert sequence.cameras.names == ("01", "02", "03") and "left out: 04" in said
    sequence, _ = bring(recording, tmp_path / "two", fps=25.0, cameras="03,01")
    assert sequence.cameras.names == ("01", "03")


def test_keypoints_without_footage_make_a_sequence(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    cameras = rig(dist=LENS)
    write_hi4d(folder, cameras)  # which calls its cameras 1, 2, 3, 4
    keypoints = openpose(folder / "openpose", [replace(camera, name=str(int(camera.name))) for camera in cameras])
    sequence, said = bring(folder, tmp_path / "seq", keypoints=keypoints, fps=50.0, size=f"{WIDTH}x{HEIGHT}")
    assert sequence.keypoints2d.shape == (4, FRAMES, 2, 17, 3) and not sequence.has_images
    expected = project(cameras[1], people(FRAMES)[0]) + 0.5
    assert np.abs(sequence.keypoints2d[1, :, 0, :, :2] - expected).max() < 2.5
    assert "people are about 1.7" in said and "up is z: people stand" in said
    with pytest.raises(InputError, match="--size"):
        bring(folder, tmp_path / "no_size", keypoints=keypoints, fps=50.0)
    with pytest.raises(InputError, match="--fps"):
        bring(folder, tmp_path / "no_fps", keypoints=keypoints, size=f"{WIDTH}x{HEIGHT}")


# ---- images of another size than calibrated ----


def filmed(folder: Path, sizes: dict[str, tuple[int, int]], bars: dict[str, int] | None = None) -> None:
    """Images that are grey, of the given sizes (others WIDTH x HEIGHT); `bars` rows above and below are black."""
    for camera in rig():
        size = sizes.get(camera.name, (WIDTH, HEIGHT))
        for f in range(FRAMES):
            image = np.full((size[1], size[0], 3), 120, np.uint8)
            rows = (bars or {}).get(camera.name, 0)
            if rows:
                image[:rows] = image[-rows:] = 0
            write_image(folder / "images" / camera.name / f"{f:06d}.jpg", image)


@pytest.mark.parametrize(
    ("cut_left", "found"), [(0, "cut at right"), (30, "cut at left"), (15, "cut at both sides")]
)
def test_people_tell_on_which_side_images_were_cut(cut_left: int, found: str, tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    cameras = rig(dist=LENS)
    write_toml(folder, cameras)
    filmed(folder, {"02": (WIDTH - 30, HEIGHT)})
    keypoints = openpose(folder / "kp", cameras, lambda c, p: p - (cut_left * (c.name == "02"), 0))
    sequence, said = bring(folder, tmp_path / "seq", keypoints=keypoints, fps=30.0)
    assert f"02: images are {WIDTH - 30}x{HEIGHT}, calibrated at {WIDTH}x{HEIGHT}; median epipolar error" in said
    assert f"02: {found}, by the least error" in said
    assert float(sequence.cameras.K[1, 0, 2]) == pytest.approx(cameras[1].K[0, 2] + 0.5 - cut_left)
    assert int(sequence.cameras.width[1]) == WIDTH - 30
    # What the user says counts for more.
    sequence, said = bring(folder, tmp_path / "told", keypoints=keypoints, fps=30.0, crop=("02=7,0",))
    assert float(sequence.cameras.K[1, 0, 2]) == pytest.approx(cameras[1].K[0, 2] + 0.5 - 7) and "as asked" in said


def test_bars_prove_a_shrunk_picture_and_keypoints_follow(tmp_path: Path) -> None:
    """Keypoints found in the original images are moved with the picture; those of the images themselves are not."""
    folder = tmp_path / "recording"
    folder.mkdir()
    cameras = rig(dist=LENS)
    write_toml(folder, cameras)
    narrow = WIDTH - 40
    scale = narrow / WIDTH
    bar = (HEIGHT - scale * HEIGHT) / 2
    filmed(folder, {"03": (narrow, HEIGHT)}, {"03": round(bar)})
    before = openpose(folder / "before", cameras)

    def shrink(camera: TrueCamera, pixels: np.ndarray) -> np.ndarray:
        return (pixels + 0.5) * scale + (0, bar) - 0.5 if camera.name == "03" else pixels

    after = openpose(folder / "after", cameras, shrink)
    one, said_one = bring(folder, tmp_path / "one", keypoints=before, fps=30.0)
    two, said_two = bring(folder, tmp_path / "two", keypoints=after, fps=30.0)
    assert "bars are seen" in said_one and "bars are seen" in said_two
    assert "detected before that" in said_one and "detected before that" not in said_two
    np.testing.assert_allclose(one.keypoints2d, two.keypoints2d, atol=1e-2)
    for sequence in (one, two):
        assert float(sequence.cameras.K[2, 0, 0]) == pytest.approx(cameras[2].K[0, 0] * scale)
        assert float(sequence.cameras.K[2, 1, 2]) == pytest.approx((cameras[2].K[1, 2] + 0.5) * scale + bar)


def test_without_people_only_what_is_seen_or_said_counts(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    write_toml(folder, rig())
    filmed(folder, {"01": (WIDTH, HEIGHT - 20)})
    with pytest.raises(InputError, match=r"camera 01: images of another size.*640x480.*640x460.*--crop 01=left,top"):
        bring(folder, tmp_path / "seq", fps=30.0)
    assert not (tmp_path / "seq").exists()
    bring(folder, tmp_path / "seq", fps=30.0, crop=("01=0,20",))
    with pytest.raises(InputError, match=r"camera 01: impossible crop.*top \+ 460 at most 480"):
        bring(folder, tmp_path / "far", fps=30.0, crop=("01=0,21",))


def test_resized_images_scale_the_intrinsics(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    cameras = rig()
    write_panoptic(folder, cameras)
    filmed(folder, {camera.name: (WIDTH // 2, HEIGHT // 2) for camera in cameras})
    sequence, said = bring(folder, tmp_path / "seq", fps=30.0)
    assert "resized by 0.5" in said and sequence.up == "-y"
    np.testing.assert_allclose(sequence.cameras.K[0, :2, 2], (cameras[0].K[:2, 2] + 0.5) / 2)
    np.testing.assert_allclose(np.diag(sequence.cameras.K[0])[:2], np.diag(cameras[0].K)[:2] / 2)


@pytest.mark.parametrize("of_the_small", [True, False])
def test_keypoints_of_resized_images_or_of_the_original_ones(of_the_small: bool, tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    cameras = rig(dist=LENS)
    write_toml(folder, cameras)
    filmed(folder, {camera.name: (WIDTH // 2, HEIGHT // 2) for camera in cameras})
    keypoints = openpose(folder / "kp", cameras, lambda c, p: (p + 0.5) / 2 - 0.5 if of_the_small else p)
    sequence, said = bring(folder, tmp_path / "seq", keypoints=keypoints, fps=30.0)
    assert ("detected before that" in said) is not of_the_small and "03: resized by 0.5" in said
    np.testing.assert_allclose(np.diag(sequence.cameras.K[0])[:2], np.diag(cameras[0].K)[:2] / 2)
    expected = (project(cameras[2], people(FRAMES)[0]) + 0.5) / 2
    assert np.abs(sequence.keypoints2d[2, :, 0, :, :2] - expected).max() < 2


def test_images_on_their_side_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    write_toml(folder, rig())
    filmed(folder, {"04": (HEIGHT, WIDTH)})
    with pytest.raises(InputError, match="camera 04: images lie on their side"):
        bring(folder, tmp_path / "seq", fps=30.0)


def test_framings_by_hand() -> None:
    """1088 x 1920 in 1080 x 1920: shrunk whole by 1080 / 1088, it has 1905.9 rows and bars of 7.06."""
    found = {f.name: f for f in framings((1088, 1920), (1080, 1920))}
    assert list(found) == ["shrunk whole, bars top and bottom", "cut at right", "cut at left", "cut at both sides"]
    shrunk = found["shrunk whole, bars top and bottom"]
    assert shrunk.top == pytest.approx(-7.0588, abs=1e-4) and shrunk.left == 0
    assert shrunk.move(np.array([[1088.0, 1920.0, 0.5]])) == pytest.approx(np.array([[1080, 1912.9412, 0.5]]))
    image = np.zeros((1920, 1080, 3), np.uint8)
    image[7:1913] = 120
    assert shows_bars(shrunk, (1088, 1920), image)
    assert not shows_bars(shrunk, (1088, 1920), np.full_like(image, 120))
    assert not shows_bars(shrunk, (1088, 1920), np.zeros_like(image))
    assert not shows_bars(found["cut at left"], (1088, 1920), image)
    assert next(f.name for f in framings((1920, 1080), (960, 540))) == "resized by 0.5"
    assert [f.name for f in framings((640, 480), (1000, 480))] == ["framed whole, bars left and right", "as calibrated"]


# ---- masks, and adding to a sequence ----


def test_masks_come_along_and_parts_can_be_added(recording: Path, tmp_path: Path) -> None:
    for camera in small(rig()):
        for n in range(FRAMES):
            mask = np.zeros((48, 64), np.uint8)
            mask[10:40, 20 + n : 40] = 1
            write_image(tmp_path / "masks" / camera.name / f"{11 + n:06d}.png", mask)
    sequence, _ = bring(recording, tmp_path / "seq", fps=25.0, masks=tmp_path / "masks", frames="2:5")
    assert sequence.has_masks and (sequence.mask(1, 0) == 255).sum() == 30 * 18
    without, _ = bring(recording, tmp_path / "bare", fps=25.0)
    assert not without.has_masks
    before = (tmp_path / "bare" / "cameras.json").read_bytes()
    added, _ = bring(recording, tmp_path / "bare", masks=tmp_path / "masks", add=True)
    assert added.has_masks and (added.mask(3, 5) == 255).sum() == 30 * 15
    assert (tmp_path / "bare" / "cameras.json").read_bytes() == before
    with pytest.raises(InputError, match="is there already"):
        bring(recording, tmp_path / "bare", masks=tmp_path / "masks", add=True)
    with pytest.raises(InputError, match="nothing to add"):
        bring(recording, tmp_path / "bare", add=True)
    with pytest.raises(InputError, match="no sequence to add to"):
        bring(recording, tmp_path / "nowhere", masks=tmp_path / "masks", add=True)


def test_body_fits_start_the_refinement(recording: Path, tmp_path: Path) -> None:
    """EasyMocap's fits of frames 12 to 14 of images numbered from 11, as frames 0 to 2 of frames 1 to 3."""
    for n in range(11, 17):
        fit = {"id": 0, "Rh": [[0, 0, 0.1]], "Th": [[0.1 * n, 0, 1]], "poses": [[0.0] * 72], "shapes": [[0.0] * 10]}
        (tmp_path / "fits" / "smpl").mkdir(parents=True, exist_ok=True)
        (tmp_path / "fits" / "smpl" / f"{n:06d}.json").write_text(json.dumps([fit]))
    options = {"fps": 25.0, "fits": tmp_path / "fits", "fits_format": "easymocap"}
    sequence, _ = bring(recording, tmp_path / "seq", frames="1:4", **options)
    bodies = Bodies.load(sequence.results / "initial.npz")
    assert bodies.frames.tolist() == [0, 1, 2] and bodies.fps == 25 and bodies.valid.all()
    np.testing.assert_allclose(np.diff(bodies.joints[0, :, 0, 0]), 0.1, atol=1e-5)
    whole, _ = bring(recording, tmp_path / "whole", **options)
    np.testing.assert_allclose(Bodies.load(whole.results / "initial.npz").joints[:, 1:4], bodies.joints, atol=1e-5)
    with pytest.raises(InputError, match=r"results/initial\.npz: is there already"):
        bring(recording, tmp_path / "seq", add=True, **options)


def test_keypoints_added_later_are_those_of_a_whole_import(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    cameras = rig(dist=LENS)
    write_caliscope(folder, cameras)
    filmed(folder, {})
    named = [replace(camera, name=f"cam_{int(camera.name)}") for camera in cameras]
    keypoints = openpose(folder / "kp", named)
    whole, _ = bring(folder, tmp_path / "whole", fps=30.0, keypoints=keypoints)
    bring(folder, tmp_path / "parts", fps=30.0)
    parts, _ = bring(folder, tmp_path / "parts", keypoints=keypoints, add=True)
    np.testing.assert_array_equal(whole.keypoints2d, parts.keypoints2d)


# ---- what is refused, and that nothing is left of it ----


def lose_frame(folder: Path) -> None:
    (folder / "images" / "02" / "frame_0013.png").unlink()


def truncate_image(folder: Path) -> None:
    file = folder / "images" / "03" / "frame_0011.png"
    file.write_bytes(file.read_bytes()[:40])


def add_stranger(folder: Path) -> None:
    write_images(folder / "images" / "05", FRAMES, first=11)


def rename_all(folder: Path) -> None:
    for camera in ("01", "02", "03"):
        (folder / "images" / camera).rename(folder / "images" / f"view{camera}x")
    for file in (folder / "images" / "04").iterdir():
        file.unlink()
    (folder / "images" / "04").rmdir()


def millimetres(folder: Path) -> None:
    write_easymocap(folder, [replace(camera, t=camera.t * 1000) for camera in small(rig())])


def kilometres_apart(folder: Path) -> None:
    write_qualisys(folder, [replace(camera, t=camera.t * 1000) for camera in small(rig())])
    for name in ("intri.yml", "extri.yml"):
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("spoil", "options", "words"),
    [
        (lose_frame, {}, r"camera 02, frame 13: frame missing"),
        (truncate_image, {}, r"frame_0011\.png: truncated image"),
        (add_stranger, {}, r"footage of a camera that is not calibrated.*05"),
        (rename_all, {}, r"footage of a camera that is not calibrated"),
        (millimetres, {}, r"impossible unit of length.*cameras up to .* m apart.*--unit mm"),
        (kilometres_apart, {"size": "64x48"}, r"impossible unit of length.*6003 m apart"),
        (None, {"fps": None}, r"frames per second unknown"),
        (None, {"fps": -1.0}, r"impossible --fps"),
        (None, {"frames": "7:9"}, r"no frames left"),
        (None, {"offset": ("05=1",)}, r"--offset of an unknown camera|camera 05: --offset of an unknown camera"),
        (None, {"rate": ("01=0",)}, r"camera 01: cannot read --rate"),
        (None, {"crop": ("01=4",)}, r"camera 01: cannot read --crop"),
        (None, {"map": ("11=01",)}, r"no such footage"),
        (None, {"map": ("01=09",)}, r"camera 09: no such camera"),
        (None, {"cameras": "01,07"}, r"camera 07: --cameras of an unknown camera"),
        (None, {"calibration": Path("nowhere.yml")}, r"nowhere\.yml: no such calibration"),
        (None, {"calibration_format": "vicon"}, r"no calibration found.*vicon"),
        (None, {"footage": Path("nowhere")}, r"nowhere: no such folder"),
        (None, {"keypoints": Path("nowhere")}, r"nowhere: no such file or folder of keypoints"),
        (None, {"masks": Path("nowhere")}, r"nowhere: no such folder of masks"),
        (None, {"unit": "ell"}, r"no such unit"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(spoil, options: dict, words: str, recording: Path, tmp_path: Path) -> None:
    if spoil is not None:
        spoil(recording)
    with pytest.raises(InputError, match=words):
        bring(recording, tmp_path / "seq", **{"fps": 25.0, **options})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recording"]


def test_nothing_of_the_users_is_overwritten(recording: Path, tmp_path: Path) -> None:
    bring(recording, tmp_path / "seq", fps=25.0)
    with pytest.raises(InputError, match=r"there is a sequence already.*--add"):
        bring(recording, tmp_path / "seq", fps=30.0)
    assert read_json(tmp_path / "seq" / "sequence.json")["fps"] == 25
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="would write into something else"):
        bring(recording, tmp_path / "letters", fps=30.0)
    (tmp_path / "empty").mkdir()
    bring(recording, tmp_path / "empty", fps=30.0)


def test_keypoints_of_other_images_are_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    folder.mkdir()
    cameras = rig(dist=LENS)
    write_toml(folder, cameras)
    filmed(folder, {})
    keypoints = openpose(folder / "kp", cameras, lambda c, p: p * (2.5 if c.name == "03" else 1))
    with pytest.raises(InputError, match="camera 03: keypoints outside of the image"):
        bring(folder, tmp_path / "seq", keypoints=keypoints, fps=30.0)


def test_options_that_are_pairs() -> None:
    assert pairs(("a=b", "c=d,e=f"), "--map", "x") == {"a": "b", "c": "d", "e": "f"}
    assert number_pairs(("cam01=2.5,cam02=-1",), "--offset", "x") == {"cam01": 2.5, "cam02": -1}
    assert corner_pairs(("a=8,0", "b=0,4,c=1,2")) == {"a": (8, 0), "b": (0, 4), "c": (1, 2)}
    assert parse_size("1920x1080") == (1920, 1080) and parse_size("") is None
    for wrong in (("a",), ("=b",), ("a=b", "a=c")):
        with pytest.raises(InputError):
            pairs(wrong, "--map", "x")
    for wrong in ("1920", "0x4", "axb"):
        with pytest.raises(InputError, match="--size"):
            parse_size(wrong)


def test_footage_is_found_beside_other_folders(tmp_path: Path) -> None:
    for name in ("cam1", "cam2", "masks", "annots"):
        write_images(tmp_path / name, 2)
    assert list(find_footage(tmp_path, asked=True)) == ["cam1", "cam2"]
    (tmp_path / "cam1" / "another_0001.png").write_bytes((tmp_path / "cam1" / "frame_0001.png").read_bytes())
    with pytest.raises(InputError, match="frame 1: two images of one frame"):
        find_footage(tmp_path, asked=True)


# ---- the command ----


def test_the_command_prints_what_is_wrong_and_ends_with_2(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    millimetres(recording)
    command = [sys.executable, "-m", "avatarpose.cli", "import", str(recording), str(tmp_path / "seq"), "--fps", "25"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "--unit mm" in done.stderr and "Traceback" not in done.stderr
    main(["import", str(recording), str(tmp_path / "seq"), "--fps", "25", "--unit", "mm", "--offset", "01=1", "02=0.5",
          "--up=-y", "--calibration", "intri.yml"])  # fmt: skip
    assert "4 cameras up to 6.00 m apart, 6 frames at 25 a second, -y up, images" in capsys.readouterr().err
    cameras = Cameras.load(tmp_path / "seq" / "cameras.json")
    assert cameras.offset.tolist() == [1, 0.5, 0, 0]


def test_help_shows_an_example(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["import", "--help"])
    assert not stop.value.code and "Example: avatarpose import recording my_sequence" in capsys.readouterr().out


# ---- real recordings ----


def test_pose2sim_single_from_its_raw_files(data_folder: Path, tmp_path: Path) -> None:
    source = data_folder / "pose2sim_single"
    sequence, said = bring(
        source, tmp_path / "seq", calibration=source / "Calib.qca.txt", keypoints=source / "openpose"
    )
    assert sequence.fps == 60 and len(sequence.frames) == 100 and sequence.up == "z"
    for camera in ("cam01", "cam02"):
        assert f"{camera}: images are 1080x1920, calibrated at 1088x1920; median epipolar error" in said
        # The files' keypoints are of the original images, which look as if eight columns were cut off at the right.
        assert f"{camera}: shrunk whole, bars top and bottom, because the bars are seen" in said
        assert f"{camera}: its keypoints were detected before that" in said
    assert "if cut at right " in said and "cam03: disagrees with the other cameras" in said
    assert sequence.cameras.width.tolist() == [1080, 1080, 1088, 1088]
    np.testing.assert_allclose(sequence.cameras.K[0, 0, 0], 107599.671875 / 64 * 1080 / 1088)
    assert all((tmp_path / "seq" / "videos" / f"cam0{c}.mp4").is_symlink() for c in (1, 2, 3, 4))
    assert sequence.image(3, 0).shape == (1920, 1088, 3)


def test_pose2sim_multi_needs_no_keypoints(data_folder: Path, tmp_path: Path) -> None:
    sequence, said = bring(data_folder / "pose2sim_multi", tmp_path / "seq")
    assert len(sequence.frames) == 100 and sequence.up == "z"
    assert sequence.cameras.width.tolist() == [1088] * 4 and "4 cameras up to 6.69 m apart" in said


def test_caliscope_with_its_videos(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "caliscope"
    sequence, said = bring(folder, tmp_path / "seq", footage=folder / "calibration" / "extrinsic")
    assert sequence.cameras.names == ("cam_0", "cam_1", "cam_2", "cam_3") and len(sequence.frames) == 57
    assert "1.44 m apart" in said and cv2.mean(sequence.image(0, 30))[0] > 10
    assert torch.isfinite(sequence.cameras.K).all()
