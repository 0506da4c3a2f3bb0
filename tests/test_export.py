"""Exports: options and refusals, and the formats that are read back as text, arrays and meshes."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import roma
import torch
import trimesh
from exported_people import FPS, Z_TO_Y, bvh_joints, even_frames, make_bodies, make_capture

from avatarpose.body import load_body
from avatarpose.cli import main
from avatarpose.errors import InputError
from avatarpose.io import read_npz
from avatarpose.results import Bodies
from avatarpose.train.motion_files import SMPL_PELVIS, read_clips
from viewer.export.amass import amass
from viewer.export.bvh import euler_zxy
from viewer.export.exporter import FORMATS, ExportSettings, _skinning_notes, export_people
from viewer.export.scene import Axes, make_scene
from viewer.export.surfaces import placed, plain_surface


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return make_capture(tmp_path_factory.mktemp("export") / "capture")


def export(capture, out: Path, name: str, **options) -> list[Path]:
    return export_people(capture[0], ExportSettings(name, out, **options)).files


def exit_code(*arguments: object) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


# ---- BVH ----


def test_bvh_gives_the_joints(capture, tmp_path: Path) -> None:
    _, bodies, _ = capture
    paths = export(capture, tmp_path / "bvh", "bvh")
    assert [path.name for path in paths] == ["p0.bvh", "p1.bvh"]
    numbers, at = even_frames(bodies)
    for index, path in enumerate(paths):
        names, seconds, places = bvh_joints(path.read_text())
        assert seconds == pytest.approx(1 / FPS) and len(places) == len(numbers) == 9
        order = [names.index(name) for name in make_scene("x", "z", bodies, load_body(), Axes()).joint_names]
        wanted = 100 * bodies.joints[index] @ Z_TO_Y.T
        there = bodies.valid[index]
        assert np.abs(places[at][there][:, order] - wanted[there]).max() < 0.01  # cm: a tenth of a millimetre
        # Absent, the person stands as in the last frame there was.
        for frame in range(1, len(numbers)):
            if frame not in at[there]:
                np.testing.assert_array_equal(places[frame], places[frame - 1])


def test_bvh_stands_upright_at_rest(capture, tmp_path: Path) -> None:
    """With all angles zero the skeleton is a T whose head is up, whichever axis that is."""
    for up, axis in (("y", 1), ("z", 2)):
        (path,) = export(capture, tmp_path / f"{up}.bvh", "bvh", people=("p0",), up=up)
        hierarchy, motion = path.read_text().split("Frame Time")
        zeros = " ".join("0" * len(motion.splitlines()[1].split()))
        names, _, places = bvh_joints(f"{hierarchy}Frame Time: 0.05\n{zeros}\n".replace("Frames: 9", "Frames: 1"))
        rise = places[0, names.index("head")] - places[0, names.index("left_foot")]
        assert rise.argmax() == axis and rise[axis] > 100
        span = places[0, names.index("left_hand")] - places[0, names.index("right_hand")]
        assert span.argmax() == 0 and span[0] > 80


def test_angles_do_not_jump() -> None:
    """A turn through the singularity and beyond half a turn, in steps of three degrees."""
    time = torch.linspace(0, 1, 121, dtype=torch.float64)
    R = roma.rotvec_to_rotmat(time[:, None] * torch.tensor([6.3, 0.4, 0.2], dtype=torch.float64)).numpy()[:, None]
    angles = euler_zxy(R)
    back = roma.euler_to_rotmat("ZXY", torch.from_numpy(angles), degrees=True).numpy()
    np.testing.assert_allclose(back, R, atol=1e-9)
    assert np.abs(np.diff(angles, axis=0)).max() < 90
    plain = roma.rotmat_to_euler("ZXY", torch.from_numpy(R), degrees=True).numpy()
    assert np.abs(np.diff(plain, axis=0)).max() > 150


# ---- TRC ----


def test_trc_gives_joints_and_keypoints(capture, tmp_path: Path) -> None:
    _, bodies, _ = capture
    numbers, at = even_frames(bodies)
    for index, path in enumerate(export(capture, tmp_path, "trc")):
        lines = path.read_text().split("\n")
        head = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=True))
        assert (head["Units"], head["DataRate"], head["NumFrames"], head["NumMarkers"]) == ("mm", "20", "9", "41")
        names = [name for name in lines[3].split("\t")[2:] if name]
        assert len(set(names)) == len(names) == 41 and names[0] == "pelvis" and names[24] == "coco_nose"
        assert lines[4].split("\t")[2:5] == ["X1", "Y1", "Z1"] and lines[5] == ""
        rows = [line.split("\t") for line in lines[6:] if line]
        assert len(rows) == len(numbers) and {len(row) for row in rows} == {2 + 3 * 41}
        assert [float(row[1]) for row in rows] == pytest.approx([frame / FPS for frame in range(9)])
        points = np.array([[float(cell) if cell else np.nan for cell in row[2:]] for row in rows]).reshape(9, 41, 3)
        places = np.concatenate([bodies.joints[index], bodies.keypoints[index]], axis=1)
        wanted = np.full((9, 41, 3), np.nan)
        wanted[at] = 1000 * places @ Z_TO_Y.T
        np.testing.assert_allclose(points, wanted, atol=0.006)


# ---- AMASS ----


def test_amass_is_read_by_the_reader_of_motion(capture, tmp_path: Path) -> None:
    """SMPL's pelvis lands where the person's is, with z up; the body's own values give all joints."""
    _, bodies, body = capture
    _, at = even_frames(bodies)
    for index, path in enumerate(export(capture, tmp_path, "amass")):
        arrays = read_npz(path)
        assert arrays["poses"].shape == (9, 156) and arrays["betas"].shape == (16,) and not arrays["betas"].any()
        assert float(arrays["mocap_framerate"]) == FPS and str(arrays["gender"]) == "neutral"
        (clip,) = read_clips(path, "x")
        there = bodies.valid[index]
        np.testing.assert_allclose(clip.pelvis[at][there], bodies.joints[index, there, 0], atol=1e-5)
        np.testing.assert_allclose(arrays["trans"][at][there] + SMPL_PELVIS, bodies.joints[index, there, 0], atol=1e-5)
        np.testing.assert_array_equal(arrays["valid"][at], there)
        values = [torch.as_tensor(arrays[f"body_{name}"]).float() for name in ("betas", "poses", "trans")]
        joints = body.joints(*values).numpy()
        np.testing.assert_allclose(joints[at][there], bodies.joints[index, there], atol=1e-4)
        np.testing.assert_array_equal(arrays["poses"][:, :66], arrays["body_poses"][:, :66])
        assert not arrays["poses"][:, 66:].any()


def test_amass_of_smpl_keeps_its_shape() -> None:
    body = replace(load_body(), bind_rotations=None, name="SMPL_NEUTRAL")
    bodies = make_bodies(body)
    scene = make_scene("x", "z", bodies, body, Axes("z", "m"))
    arrays = amass(scene, scene.people[0])
    np.testing.assert_array_equal(arrays["betas"][:10], bodies.betas[0])
    np.testing.assert_allclose(arrays["trans"][0], bodies.trans[0, 0], atol=1e-5)


# ---- PLY, OBJ ----


@pytest.mark.parametrize("kind", ["ply", "obj"])
def test_meshes_are_the_posed_body(kind: str, capture, tmp_path: Path) -> None:
    _, bodies, body = capture
    paths = export(capture, tmp_path, kind, surface="body", frames="2:6")
    wanted = [f"p0_00000{f}.{kind}" for f in (2, 3, 4, 5)] + [f"p1_00000{f}.{kind}" for f in (3, 4, 5)]
    assert [path.name for path in paths] == wanted
    for path in (paths[3], paths[-1]):
        index, frame = int(path.name[1]), list(bodies.frames).index(int(path.stem[3:]))
        values = (bodies.betas[index], bodies.poses[index, frame], bodies.trans[index, frame])
        vertices = body.vertices(*map(torch.as_tensor, values)).numpy() @ Z_TO_Y.T
        mesh = trimesh.load(path, process=False)
        np.testing.assert_allclose(mesh.vertices, vertices, atol=2e-5)
        np.testing.assert_array_equal(mesh.faces, body.faces.numpy())
        colours = mesh.visual.vertex_colors[:, :3]
        assert mesh.visual.kind == "vertex" and colours.std(axis=0).min() > 3


def test_a_mesh_a_frame_keeps_what_skinning_cannot(capture, tmp_path: Path) -> None:
    """Pose-dependent corrections of a body in SMPL's format are in the meshes, and glb says how much it lacks."""
    _, bodies, body = capture
    posedirs = 0.004 * torch.randn(*body.v_template.shape, 207, generator=torch.Generator().manual_seed(0))
    corrected = replace(body, posedirs=posedirs)
    scene = make_scene("x", "z", bodies, corrected, Axes("y", "cm"))
    surface = placed(plain_surface(corrected, bodies.betas[0], 0), scene.axes, posedirs)
    person = replace(scene.people[0], surface=surface)
    values = (bodies.betas[0], bodies.poses[0, 2], bodies.trans[0, 2])
    exact = 100 * corrected.vertices(*map(torch.as_tensor, values)).numpy() @ Z_TO_Y.T
    np.testing.assert_allclose(person.posed_vertices(scene.parents, 2), exact, atol=1e-3)
    plain = person.posed_vertices(scene.parents, 2, surface.limited(8))
    assert np.abs(plain - exact).max() > 1
    (note, _) = _skinning_notes(replace(scene, people=[person]), 8, True)
    assert "cannot keep" in note


# ---- axes, units, choices ----


def test_axes_turn_the_least() -> None:
    for up in ("x", "y", "z", "-x", "-y", "-z"):
        for source in ("x", "y", "z", "-x", "-y", "-z"):
            turn = Axes(up).turn_from(source)
            target, start = (
                np.array([float(name[-1] == axis) for axis in "xyz"]) * (-1) ** name.count("-") for name in (up, source)
            )
            np.testing.assert_allclose(turn @ start, target, atol=1e-12)
            np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
            assert np.linalg.det(turn) == pytest.approx(1)
    np.testing.assert_allclose(Axes("y").turn_from("z"), Z_TO_Y)


@pytest.mark.parametrize(("up", "unit"), [("y", "m"), ("-z", "mm"), ("x", "cm")])
def test_joints_hold_in_any_axes_and_unit(up: str, unit: str, capture) -> None:
    _, bodies, body = capture
    axes = Axes(up, unit)
    scene = make_scene("x", "z", bodies, body, axes)
    turn = axes.turn_from("z")
    _, at = even_frames(bodies)
    for index, person in enumerate(scene.people):
        there = bodies.valid[index]
        wanted = axes.scale * bodies.joints[index, there] @ turn.T
        found = person.skeleton(scene.parents)[at][there]
        np.testing.assert_allclose(found[..., :3, 3] / axes.scale, wanted / axes.scale, atol=2e-6)
        np.testing.assert_allclose(person.joints[at][there], wanted, rtol=1e-6)
        assert np.isnan(person.joints[~person.valid]).all() and np.isfinite(person.rotations).all()


def test_frames_in_steps_slow_the_rate(capture, tmp_path: Path) -> None:
    (path,) = export(capture, tmp_path / "p0.bvh", "bvh", people=("p0",), frames="2:9:2")
    _, seconds, places = bvh_joints(path.read_text())
    assert seconds == pytest.approx(2 / FPS) and len(places) == 4  # 2, 4, (6,) 8


def test_one_frame(capture, tmp_path: Path) -> None:
    (path,) = export(capture, tmp_path / "p0.bvh", "bvh", people=("p0",), frames="4")
    assert bvh_joints(path.read_text())[2].shape == (1, 24, 3)


# ---- the command ----


def test_help_shows_an_example(capsys) -> None:
    assert exit_code("export", "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Example: avatarpose export my_sequence --format glb --out people.glb" in shown


def test_command_writes_and_says_what(capture, capsys, tmp_path: Path) -> None:
    options = ("--format", "trc", "--out", tmp_path / "trc", "--people", "p1", "--up", "z")
    assert exit_code("export", capture[0], *options) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(tmp_path / "trc" / "p1.trc") and (tmp_path / "trc" / "p1.trc").is_file()
    assert "z up, mm, 9 frames at 20 a second" in said.err and "frames without p1 are left blank" in said.err


# ---- refusals ----


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--format", "glb", "--out", "{out}/a.txt"), ("a.txt", ".glb")),
        (("--format", "bvh", "--out", "{out}/a.bvh"), ("a.bvh", "folder")),
        (("--format", "obj", "--out", "{out}/a.obj"), ("a.obj", "folder")),
        (("--format", "amass", "--out", "{out}", "--unit", "cm"), ("amass", "unit", "cm")),
        (("--format", "usd", "--out", "{out}/a.usda", "--up", "x"), ("usd", "up axis", "x")),
        (("--format", "bvh", "--out", "{out}", "--people", "p7"), ("p7", "p0, p1")),
        (("--format", "bvh", "--out", "{out}", "--frames", "50:60"), ("50:60", "2 to 10")),
        (("--format", "bvh", "--out", "{out}", "--frames", "2", "--people", "p1"), ("p1", "none of the frames")),
        (("--format", "bvh", "--out", "{out}", "--body", "{out}/no.npz"), ("no.npz",)),
    ],
)
def test_wrong_options_end_with_2(arguments, words, capture, capsys, tmp_path: Path) -> None:
    assert exit_code("export", capture[0], *(argument.format(out=tmp_path) for argument in arguments)) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words) and "Traceback" not in message, message
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(capture, capsys, tmp_path: Path) -> None:
    command = ("export", capture[0], "--format", "bvh", "--out", tmp_path)
    (tmp_path / "p1.bvh").write_text("mine")
    assert exit_code(*command) == 2
    message = capsys.readouterr().err
    assert "p1.bvh" in message and "--redo" in message
    assert [path.name for path in tmp_path.iterdir()] == ["p1.bvh"]
    assert exit_code(*command, "--redo") == 0
    assert (tmp_path / "p1.bvh").read_text().startswith("HIERARCHY")


def test_names_that_files_cannot_have(capture, tmp_path: Path) -> None:
    """Two people may not write one file; a person's name may be anything."""
    folder, bodies, _ = make_capture(tmp_path / "capture", avatars=False)
    replace(bodies, people=["a/b", "a b"]).save(folder / "results" / "refined.npz")
    with pytest.raises(InputError, match="one file name"):
        export_people(folder, ExportSettings("bvh", tmp_path / "out"))
    (path,) = export_people(folder, ExportSettings("bvh", tmp_path / "out", people=("a/b",))).files
    assert path == tmp_path / "out" / "a_b.bvh"
    replace(bodies, people=["skin", "2 x"]).save(folder / "results" / "refined.npz")
    (path,) = export_people(folder, ExportSettings("usd", tmp_path / "a.usda")).files
    assert re.findall(r'def SkelRoot "(.*)"', path.read_text()) == ["skin_", "_2_x"]


def test_results_must_be_there_and_of_this_body(tmp_path: Path) -> None:
    folder, bodies, _ = make_capture(tmp_path / "capture", avatars=False)
    settings = ExportSettings("bvh", tmp_path / "out")
    replace(bodies, body_sha256="0" * 64).save(folder / "results" / "refined.npz")
    with pytest.raises(InputError, match=r"another body model.*--body"):
        export_people(folder, settings)
    joints = bodies.joints.copy()
    joints[0, 3, 5, 1] += 0.02
    replace(bodies, joints=joints).save(folder / "results" / "refined.npz")
    with pytest.raises(InputError, match=r"frame 5.*joints of p0.*20\.0 mm"):
        export_people(folder, settings)
    (folder / "results" / "refined.npz").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"refined\.npz.*damaged"):
        export_people(folder, settings)
    (folder / "results" / "refined.npz").unlink()
    with pytest.raises(InputError, match=r"refined\.npz.*avatarpose refine"):
        export_people(folder, settings)
    assert not (tmp_path / "out").exists()
    assert len(export_people(folder, replace(settings, which="initial")).files) == 2
    with pytest.raises(InputError, match=r"p0\.safetensors"):
        export_people(folder, ExportSettings("glb", tmp_path / "a.glb", which="initial", surface="avatar"))
    done = export_people(folder, ExportSettings("glb", tmp_path / "a.glb", which="initial"))
    assert any("plain colours" in note for note in done.notes)


def test_missing_packages_are_named(capture, tmp_path: Path, monkeypatch) -> None:
    for module, settings in (
        ("ezc3d", ExportSettings("c3d", tmp_path / "a.c3d")),
        ("pxr", ExportSettings("usd", tmp_path / "a.usdc", surface="body")),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match="pip install"):
            export_people(capture[0], settings)
    assert not list(tmp_path.iterdir())


def test_formats_and_their_defaults() -> None:
    assert {name: (form.axes.up, form.axes.unit) for name, form in FORMATS.items()} == {
        "glb": ("y", "m"), "usd": ("y", "m"), "bvh": ("y", "cm"), "amass": ("z", "m"), "trc": ("y", "mm"),
        "c3d": ("z", "mm"), "ply": ("y", "m"), "obj": ("y", "m"),
    }  # fmt: skip
    bodies = make_bodies(load_body(), [3])
    assert isinstance(bodies, Bodies) and make_scene("x", "z", bodies, load_body(), Axes()).fps == FPS
