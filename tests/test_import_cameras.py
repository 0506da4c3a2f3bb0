"""Calibrations of other tools: tiny files of the real layouts with known numbers, and broken ones of each."""

import json
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rig_files
import torch
from rig_files import HEIGHT, WIDTH, WRITERS, project, rig, write_colmap_text, write_easymocap, write_vicon

from avatarpose.errors import InputError
from avatarpose.importers.agreement import (
    body_evidence,
    epipolar_errors,
    nearest_points,
    pair_people,
    reprojection_errors,
)
from avatarpose.importers.calibration import (
    CALIBRATION_FORMATS,
    Calibration,
    find_calibration,
    guess_format,
    read_calibration,
)
from avatarpose.importers.calibration.vicon import fit_lens
from avatarpose.importers.units import metres_per_unit, up_axis
from benchmarks.caliscope_board import CORNERS, board_errors, length_errors, read_corners

METRES = {"colmap": None, "hi4d": 1.0, "opencv": None, "panoptic": 0.01, "qualisys": 0.001, "vicon": 0.001,
          "voxelpose": 0.001}  # fmt: skip


def sized(calibration: Calibration) -> Calibration:
    """With the size of the images, which some sources do not say."""
    cameras = tuple(replace(camera, size=camera.size or (WIDTH, HEIGHT)) for camera in calibration.cameras)
    return replace(calibration, cameras=cameras)


def without_lens(layout: str) -> tuple[float, ...]:
    """COLMAP's OPENCV has no k3, Vicon's model is not OpenCV's."""
    return {"colmap_text": (-0.12, 0.05, 0.001, -0.002, 0), "colmap_binary": (-0.12, 0.05, 0.001, -0.002, 0),
            "vicon": (0, 0, 0, 0, 0)}.get(layout, (-0.12, 0.05, 0.001, -0.002, 0.01))  # fmt: skip


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_projects_as_opencv_does(layout: str, tmp_path: Path) -> None:
    """The end of all conventions: points projected by the imported cameras land where OpenCV puts them."""
    truth = rig(dist=without_lens(layout))
    format, write = WRITERS[layout]
    path = write(tmp_path, truth)
    assert guess_format(path) == format
    found = sized(read_calibration(path))
    assert found.format == format
    if format in METRES:
        assert found.metres == METRES[format]
    assert [camera.size for camera in found.cameras] == [(WIDTH, HEIGHT)] * 4
    cameras = found.as_cameras(found.metres or 1.0)
    points = np.random.default_rng(0).uniform((-1, -1, 0), (1, 1, 1.8), (50, 3))
    own = points @ np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]) if layout == "panoptic" else points
    pixels, depth = cameras.project(torch.tensor(own))
    assert (depth > 0.5).all()
    for c, camera in enumerate(truth):
        assert found.names[c] in (camera.name, f"cam_{int(camera.name)}", str(int(camera.name)))
        # OpenCV puts pixel centres at integers, the project at i + 0.5.
        np.testing.assert_allclose(pixels[c].numpy(), project(camera, points) + 0.5, atol=1e-6)


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_found_in_its_folder(layout: str, tmp_path: Path) -> None:
    WRITERS[layout][1](tmp_path, rig(dist=without_lens(layout)))
    assert len(find_calibration(tmp_path).cameras) == 4


def test_up_and_unit_by_definition_and_by_guess(tmp_path: Path) -> None:
    said: list[str] = []
    for layout, up in (("panoptic", "-y"), ("qualisys", "z"), ("pose2sim", "z"), ("hi4d", "z")):
        folder = tmp_path / layout
        folder.mkdir()
        found = sized(read_calibration(WRITERS[layout][1](folder, rig())))
        metres = metres_per_unit(found, "auto", None, said.append)
        assert up_axis(found, found.as_cameras(metres), "auto", None, said.append) == up
    assert len(said) == 2 and all("up is z: cameras stand along it" in text for text in said)


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{old!r} is not in {path.name}"
    path.write_text(text.replace(old, new, 1))


def cut_short(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def set_json(path: Path, change: Callable[[dict], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def set_npz(path: Path, **arrays: np.ndarray | None) -> None:
    with np.load(path) as data:
        kept = {key: data[key] for key in data.files}
    kept.update(arrays)
    np.savez(path, **{key: value for key, value in kept.items() if value is not None})


def swap(old: str, new: str) -> Callable[[Path], None]:
    return lambda path: edited(path, old, new)


def in_json(change: Callable[[dict], None]) -> Callable[[Path], None]:
    return lambda path: set_json(path, change)


def in_npz(**arrays: np.ndarray | None) -> Callable[[Path], None]:
    return lambda path: set_npz(path, **arrays)


INTRI, EXTRI, QCA, TOML, ARRAY = "intri.yml", "extri.yml", "session.qca.txt", "Calib.toml", "camera_array.toml"
HI4D, PANOPTIC, SHELF, XCP = "rgb_cameras.npz", "calibration_take.json", "calibration_shelf.json", "take.xcp"
NAN = np.full((4, 3, 3), np.nan)

BROKEN: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("easymocap", INTRI, cut_short, r"intri\.yml(: malformed|, camera 03)"),
    ("easymocap", EXTRI, cut_short, r"extri\.yml(: malformed|, camera 03)"),
    ("easymocap", EXTRI, swap("T_03:", "X_03:"), r"camera 03: lacks T_03"),
    ("easymocap", INTRI, swap("K_02:", "X_02:"), r"camera 02: lacks K_02"),
    ("easymocap", EXTRI, Path.unlink, r"camera 01: lacks R_01"),
    ("easymocap", INTRI, swap("data: [ 500.0,", "data: [ .Nan,"), r"camera 01: K is not finite"),
    ("easymocap", INTRI, swap("rows: 3", "rows: 2"), r"intri\.yml: K_01 is not a matrix"),
    ("opencv_each", "02.yml", swap("camera_matrix:", "nothing:"), r"camera 02: lacks K"),
    ("opencv_each", "02.yml", swap("image_width: 640", "image_width: 0"), r"camera 02: impossible image size"),
    ("qualisys", QCA, cut_short, r"session\.qca\.txt: not a Qualisys calibration"),
    ("qualisys", QCA, swap("skew=", "skewed="), r"camera 01: lacks skew"),
    ("qualisys", QCA, swap('<transform x="', '<transform x="wide '), r"camera 01: x is not a number"),
    ("qualisys", QCA, swap('r12="', 'r12="5" x12="'), r"camera 01: not a rotation"),
    ("qualisys", QCA, swap('focalLengthU="', 'focalLengthU="nan" x0="'), r"camera 01: K is not finite"),
    ("qualisys", QCA, lambda p: p.write_text("<calibration><camera/></calibration>"), r"no calibrated camera"),
    ("pose2sim", TOML, cut_short, r"Calib\.toml: malformed TOML|camera 03: lacks"),
    ("pose2sim", TOML, swap("translation", "shift"), r"camera 01: lacks translation"),
    ("pose2sim", TOML, swap("fisheye = false", "fisheye = true"), r"camera 01: fisheye lens"),
    ("pose2sim", TOML, swap("rotation = [", "rotation = [0.0, "), r"camera 01: rotation has the wrong shape"),
    ("pose2sim", TOML, swap("translation = [", "translation = [nan, "), r"translation has the wrong shape"),
    ("pose2sim", TOML, swap("[640.0,", "[inf,"), r"camera 01: image size is not finite"),
    ("pose2sim", TOML, swap('"02"', '"01"'), r"camera 01: two cameras of one name"),
    ("caliscope", ARRAY, swap("matrix = [[", "matrix = [[-"), r"camera cam_1: K is not an intrinsic matrix"),
    ("colmap_text", "cameras.txt", swap(" OPENCV ", " OPENCV_FISHEYE "), r"lens model OPENCV_FISHEYE"),
    ("colmap_text", "cameras.txt", swap(" OPENCV ", " RADIAL "), r"RADIAL of 8 parameters"),
    ("colmap_text", "cameras.txt", swap(" 640 ", " wide "), r"cameras\.txt: malformed line"),
    ("colmap_text", "images.txt", swap(" 1 01/", " 9 01/"), r"camera 01: image of an unknown camera"),
    ("colmap_text", "images.txt", swap("10.5 20.25 -1 30 40 7\n", ""), r"images\.txt: malformed line"),
    ("colmap_binary", "images.bin", cut_short, r"images\.bin: truncated"),
    ("colmap_binary", "cameras.bin", cut_short, r"cameras\.bin: truncated"),
    ("colmap_binary", "images.bin", Path.unlink, r"no COLMAP model"),
    ("hi4d", HI4D, cut_short, r"rgb_cameras\.npz: damaged"),
    ("hi4d", HI4D, in_npz(dist_coeffs=None), r"lacks dist_coeffs"),
    ("hi4d", HI4D, in_npz(extrinsics=np.zeros((4, 4, 4))), r"extrinsics has the wrong shape"),
    ("hi4d", HI4D, in_npz(dist_coeffs=np.ones((4, 8))), r"camera 1: distortion model with more terms"),
    ("hi4d", HI4D, in_npz(intrinsics=NAN), r"intrinsics is not finite"),
    ("panoptic", PANOPTIC, cut_short, r"malformed JSON at line"),
    ("panoptic", PANOPTIC, in_json(lambda v: v["cameras"][1].pop("t")), r"camera 02: lacks t"),
    ("panoptic", PANOPTIC, in_json(lambda v: v["cameras"][2].update(R=[[1, 0], [0, 1]])), r"camera 03: rotation has"),
    ("voxelpose", SHELF, in_json(lambda v: v["04"].pop("k")), r"camera 04: lacks k"),
    ("voxelpose", SHELF, in_json(lambda v: v["01"].update(p=[1])), r"camera 01: p has the wrong shape"),
    ("voxelpose", SHELF, cut_short, r"malformed JSON at line"),
    ("vicon", XCP, cut_short, r"take\.xcp: not a Vicon calibration"),
    ("vicon", XCP, swap("FOCAL_LENGTH", "LENGTH"), r"camera 01: lacks FOCAL_LENGTH"),
    ("vicon", XCP, swap('ORIENTATION="', 'ORIENTATION="0 '), r"camera 01: ORIENTATION has the wrong shape"),
    ("vicon", XCP, swap('POSITION="', 'POSITION="x'), r"camera 01: POSITION is not made of numbers"),
]  # fmt: skip
NAMES = [f"{layout}-{i}" for i, (layout, *_) in enumerate(BROKEN)]


@pytest.mark.parametrize(("layout", "name", "spoil", "words"), BROKEN, ids=NAMES)
def test_broken_calibrations_say_what_is_wrong(layout: str, name: str, spoil, words: str, tmp_path: Path) -> None:
    format, write = WRITERS[layout]
    path = write(tmp_path, rig(dist=without_lens(layout)))
    spoil(tmp_path / name)
    with pytest.raises(InputError, match=words):
        read_calibration(path, format)


@pytest.mark.parametrize("format", CALIBRATION_FORMATS)
def test_absent_and_foreign_files_are_refused_by_every_reader(format: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such calibration"):
        read_calibration(tmp_path / "nothing.yml", format)
    foreign = tmp_path / "notes.txt"
    foreign.write_text("Bring the tripod.")
    with pytest.raises(InputError):
        read_calibration(foreign, format)
    foreign.write_bytes(bytes(range(256)))
    with pytest.raises(InputError):
        read_calibration(foreign, format)


def test_what_cannot_be_told_is_asked(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Bring the tripod.")
    with pytest.raises(InputError, match="not a calibration that is known"):
        read_calibration(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="no calibration found"):
        find_calibration(tmp_path)
    write_easymocap(tmp_path, rig())
    rig_files.write_qualisys(tmp_path, rig(3))
    with pytest.raises(InputError, match=r"several calibrations.*session\.qca\.txt.*--calibration"):
        find_calibration(tmp_path)
    assert find_calibration(tmp_path, "qualisys").format == "qualisys"


HEADS = ("", "---\n", "%YAML 1.2\n---\n", "%YAML:1.0\r\n---\r\n", "\ufeff# by hand\n%YAML:1.0\n---\n")


@pytest.mark.parametrize("head", HEADS)
def test_first_lines_of_yaml_do_not_matter(head: str, tmp_path: Path) -> None:
    for file in (write_easymocap(tmp_path, rig()), tmp_path / "extri.yml"):
        edited(file, "%YAML:1.0\n---\n", head)
    assert read_calibration(tmp_path).names == ("01", "02", "03", "04")


def test_stereo_files_of_opencv(tmp_path: Path) -> None:
    one, two = rig(2)
    head = "%YAML:1.0\n---\n"
    matrix = rig_files._matrix
    text = matrix("M1", one.K) + matrix("D1", one.dist[None]) + matrix("M2", two.K) + matrix("D2", two.dist[None])
    (tmp_path / "intrinsics.yml").write_text(head + text)
    R = two.R @ one.R.T
    (tmp_path / "extrinsics.yml").write_text(head + matrix("R", R) + matrix("T", (two.t - R @ one.t)[:, None]))
    found = read_calibration(tmp_path / "intrinsics.yml")
    assert found.names == ("1", "2")
    np.testing.assert_allclose(found.cameras[0].R, np.eye(3))
    np.testing.assert_allclose(found.cameras[1].centre, one.R @ two.centre + one.t, atol=1e-12)


def test_a_moving_colmap_camera_is_refused(tmp_path: Path) -> None:
    write_colmap_text(tmp_path, rig(dist=without_lens("colmap_text")))
    lines = (tmp_path / "images.txt").read_text().splitlines()
    second = lines[3].split()
    second[5] = str(float(second[5]) + 0.2)
    lines[3] = " ".join(second)
    (tmp_path / "images.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match="camera 01: the camera moves"):
        read_calibration(tmp_path)


def test_caliscope_leaves_out_what_it_was_told_to(tmp_path: Path) -> None:
    path = rig_files.write_caliscope(tmp_path, rig())
    edited(path, "ignore = false", "ignore = true")
    found = read_calibration(path)
    assert found.names == ("cam_2", "cam_3", "cam_4") and "cam_1 left out" in found.notes[0]


def test_vicons_lens_the_other_way_round(tmp_path: Path) -> None:
    """Pixels that our lens model makes are brought back to the ideal ones by Vicon's own formula."""
    radial = (-2.0e-7, 4.0e-13)  # 640 x 480: moves the corners by 13 px
    truth = rig(dist=(0, 0, 0, 0, 0))
    found = read_calibration(write_vicon(tmp_path, truth, radial))
    assert all("fitted to Vicon's within" in note for note in found.notes) and len(found.notes) == 4
    points = np.random.default_rng(0).uniform((-1, -1, 0.2), (1, 1, 1.6), (200, 3))
    pixels, _ = found.as_cameras(0.001).project(torch.tensor(points))
    for c, camera in enumerate(truth):
        seen = pixels[c].numpy() - 0.5
        d = seen - camera.K[:2, 2]
        r2 = (d**2 * (1, (camera.K[0, 0] / camera.K[1, 1]) ** 2)).sum(-1, keepdims=True)
        ideal = camera.K[:2, 2] + d * (1 + radial[0] * r2 + radial[1] * r2**2)
        np.testing.assert_allclose(ideal, project(camera, points), atol=0.05)
        assert np.abs(seen - ideal).max() > 1
    with pytest.raises(InputError, match=r"camera 01: a lens that.*Undistort"):
        write_vicon(tmp_path, truth, (-4e-6, 0.0))
        read_calibration(tmp_path / "take.xcp")
    dist, missed = fit_lens(truth[0].K, np.array([640, 480]), np.array([318.5, 241.25]), np.zeros(3))
    assert np.abs(dist).max() < 1e-9 and missed < 1e-6


# ---- units ----


@pytest.mark.parametrize(("factor", "unit"), [(1000.0, "mm"), (100.0, "cm")])
def test_another_unit_is_suspected_and_said(factor: float, unit: str, tmp_path: Path) -> None:
    found = read_calibration(write_easymocap(tmp_path, rig()))
    scaled = replace(found, cameras=tuple(replace(c, t=c.t * factor) for c in found.cameras))
    said: list[str] = []
    with pytest.raises(InputError, match=rf"impossible unit.*--unit {unit}"):
        metres_per_unit(scaled, "auto", None, said.append)
    assert metres_per_unit(scaled, unit, None, said.append) == pytest.approx(1 / factor) and not said
    assert metres_per_unit(scaled, "m", None, said.append) == 1.0 and "unlikely" in said[0]
    assert metres_per_unit(scaled, "0.0254", None, said.append) == 0.0254
    with pytest.raises(InputError, match="no such unit"):
        metres_per_unit(scaled, "furlong", None, said.append)


def people(frames: int = 6) -> np.ndarray:
    """(2, F, 17, 3) two people of 1.70 m, standing and turning, in COCO's order, metres, z up."""
    y = [0, 0.03, -0.03, 0.07, -0.07, 0.18, -0.18, 0.22, -0.22, 0.25, -0.25, 0.1, -0.1, 0.1, -0.1, 0.1, -0.1]
    z = [1.58, 1.61, 1.61, 1.59, 1.59, 1.40, 1.40, 1.12, 1.12, 0.9, 0.9, 0.90, 0.90, 0.49, 0.49, 0.07, 0.07]
    x = [0.1, 0.08, 0.08, 0.0, 0.0] + [0.0] * 12
    body = np.array([x, y, z]).T
    result = np.zeros((2, frames, 17, 3))
    for p, f in np.ndindex(2, frames):
        a = 0.4 * f + 2 * p
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        result[p, f] = body @ turn.T + (0.5 - p, 0.1 * f - 0.3, 0)
    return result


def keypoints_of(points: np.ndarray, cameras, shift: dict[int, tuple[float, float]] | None = None) -> list[np.ndarray]:
    """Detections of people (P, F, 17, 3) in each camera, rows swapped in every second camera and frame."""
    pixels = cameras.project(torch.tensor(points))[0].numpy() + np.random.default_rng(1).normal(
        0, 0.5, (len(cameras), *points.shape[:3], 2)
    )
    result = []
    for c in range(len(cameras)):
        rows = np.concatenate((pixels[c] + (shift or {}).get(c, (0, 0)), np.full((*points.shape[:3], 1), 0.9)), -1)
        rows = rows.swapaxes(0, 1).astype(np.float32)
        rows[c % 2 :: 2] = rows[c % 2 :: 2, ::-1]
        result.append(rows)
    return result


def test_people_are_paired_without_a_unit_and_measured(tmp_path: Path) -> None:
    found = sized(read_calibration(write_easymocap(tmp_path, rig())))
    for unit in (1.0, 1000.0):
        cameras = found.as_cameras(unit)
        seen = keypoints_of(people() * unit, cameras)
        paired = pair_people(cameras, seen)
        assert len(paired) == 6 and all(len(p.frames) == 12 for p in paired)
        assert all(np.nanmedian(epipolar_errors(cameras, p.cameras, p.pixels)) < 1.5 for p in paired)
        bodies = body_evidence(cameras, paired)
        assert np.median(bodies.heights) / unit == pytest.approx(1.70, abs=0.06)
        np.testing.assert_allclose(bodies.ups.mean(0), (0, 0, 1), atol=0.03)
    said: list[str] = []
    assert up_axis(found, found.as_cameras(1.0), "auto", bodies, said.append) == "z" and "people stand" in said[0]
    with pytest.raises(InputError, match=r"people 1.*m tall.*--unit mm"):
        metres_per_unit(found.__class__(**{**found.__dict__, "cameras": scaled(found, 1000)}), "auto", bodies, print)


def scaled(found: Calibration, factor: float):
    return tuple(replace(camera, t=camera.t * factor) for camera in found.cameras)


def test_reprojection_error_of_one_shifted_view(tmp_path: Path) -> None:
    cameras = sized(read_calibration(write_easymocap(tmp_path, rig()))).as_cameras(1.0)
    points = people()[0]
    pixels = cameras.project(torch.tensor(points))[0].numpy()
    keypoints = np.concatenate([pixels, np.ones((*pixels.shape[:-1], 1))], -1)
    np.testing.assert_allclose(nearest_points(cameras, keypoints), points, atol=1e-9)
    assert np.nanmax(reprojection_errors(cameras, keypoints)) < 1e-6
    keypoints[1, ..., 0] += 8
    error = np.nanmedian(reprojection_errors(cameras, keypoints), axis=(1, 2))
    assert error.argmax() == 1 and 3 < error[1] < 8 and (np.delete(error, 1) < error[1]).all()
    keypoints[2:] = np.nan
    keypoints[1, :, 3] = np.nan
    assert np.isnan(nearest_points(cameras, keypoints)[:, 3]).all()


# ---- real calibrations ----


def test_caliscope_agrees_with_its_file_and_with_its_board(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "caliscope"
    found = find_calibration(folder)  # three files of it say the same
    assert found.names == ("cam_0", "cam_1", "cam_2", "cam_3") and found.metres == 1.0
    cameras = found.as_cameras(1.0)
    cameras.save(tmp_path / "cameras.json")
    written = json.loads((tmp_path / "cameras.json").read_text())
    for key, entry in tomllib.loads((folder / "camera_array.toml").read_text())["cameras"].items():
        mine = written[f"cam_{key}"]
        half = [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
        np.testing.assert_allclose(np.array(mine["K"]) - half, entry["matrix"], atol=1e-6)
        for own, theirs in (("R", "rotation"), ("t", "translation"), ("dist", "distortions")):
            np.testing.assert_allclose(mine[own], entry[theirs], atol=1e-6)
        assert [mine["width"], mine["height"]] == entry["size"]
    seen, board = read_corners(folder / CORNERS, 4)
    assert np.median(length_errors(cameras, seen, board)) < 0.6e-3
    assert np.median(board_errors(cameras, seen, board)) < 1.1e-3
    assert np.nanmedian(reprojection_errors(cameras, seen)) < 1.2


def test_qualisys_agrees_with_the_same_calibration_in_toml(data_folder: Path) -> None:
    single = data_folder / "pose2sim_single"
    a, b = read_calibration(single / "Calib.qca.txt"), read_calibration(single / "Calib_qualisys.toml")
    assert a.names == ("cam01", "cam02", "cam03", "cam04") and b.names == ("cam_01", "cam_02", "cam_03", "cam_04")
    for one, other in zip(a.cameras, b.cameras, strict=True):
        np.testing.assert_allclose(one.K[[0, 1], [0, 1]], other.K[[0, 1], [0, 1]], atol=1e-6)
        np.testing.assert_allclose(one.K[:2, 2], other.K[:2, 2], atol=0.6)
        np.testing.assert_allclose(one.R, other.R, atol=1e-9)
        np.testing.assert_allclose(one.t * a.metres, other.t, atol=1e-9)
        assert one.size == other.size == (1088, 1920)


def test_cameras_of_another_sequence(data_folder: Path, tmp_path: Path) -> None:
    shutil.copy(data_folder / "duo_a" / "cameras.json", tmp_path)
    found = read_calibration(tmp_path)
    assert found.format == "avatarpose" and len(found.cameras) == 8
