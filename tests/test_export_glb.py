"""glTF exports: joints, skin and colours read back, and what the format asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from exported_people import FPS, Z_TO_Y, Gltf, even_frames, make_capture

from avatarpose.skeletons import SKELETONS
from viewer.export.exporter import ExportSettings, export_people
from viewer.export.scene import linear_colours, quaternions


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return make_capture(tmp_path_factory.mktemp("glb") / "capture")


@pytest.fixture(scope="module")
def written(capture, tmp_path_factory):
    """The path of the whole capture as glb, on the avatars' surfaces, and what was said of it."""
    path = tmp_path_factory.mktemp("glb") / "people.glb"
    return path, export_people(capture[0], ExportSettings("glb", path)).notes


def test_joints_of_all_frames(capture, written) -> None:
    bodies, gltf = capture[1], Gltf.read(written[0].read_bytes())
    numbers, at = even_frames(bodies)
    for index in range(2):
        times, _ = gltf.tracks()[gltf.json["skins"][index]["joints"][0], "translation"]
        np.testing.assert_allclose(times, np.arange(len(numbers)) / FPS, atol=1e-6)
        for frame, column in enumerate(at):
            T = gltf.joint_transforms(index, column)
            if bodies.valid[index, frame]:
                assert np.abs(T[:, :3, 3] - bodies.joints[index, frame] @ Z_TO_Y.T).max() < 1e-5
            else:
                assert np.abs(T[:, :3, :3]).max() == 0 and np.ptp(T[:, :3, 3], axis=0).max() == 0
    assert any("p0, p1 are hidden" in note for note in written[1])


@pytest.mark.parametrize("surface", ["body", "avatar"])
def test_skin(surface: str, capture, tmp_path: Path) -> None:
    """The bare body has up to six joints a vertex, written in two sets; the avatars hang on four."""
    folder, bodies, _ = capture
    path = tmp_path / "p0.glb"
    done = export_people(folder, ExportSettings("glb", path, people=("p0",), surface=surface))
    gltf = Gltf.read(path.read_bytes())
    attributes = gltf.json["meshes"][0]["primitives"][0]["attributes"]
    assert ("JOINTS_1" in attributes) == (surface == "body")
    assert any("four joints" in note for note in done.notes) == (surface == "body")
    first = gltf.array(attributes["WEIGHTS_0"])
    total = first.sum(axis=1) + (gltf.array(attributes["WEIGHTS_1"]).sum(axis=1) if surface == "body" else 0)
    np.testing.assert_allclose(total, 1, atol=1e-6)
    np.testing.assert_array_equal(first, -np.sort(-first, axis=1))
    settings = ExportSettings("ply", tmp_path, people=("p0",), surface=surface, frames="8")
    mesh = trimesh.load(export_people(folder, settings).files[0], process=False)
    column = even_frames(bodies)[0].index(8)
    assert np.abs(gltf.skinned(0, column) - mesh.vertices).max() < 1e-5


def test_another_library_reads_meshes_and_colours(capture, written, tmp_path: Path) -> None:
    bodies, body = capture[1:]
    scene = trimesh.load(written[0])
    assert set(scene.geometry) == {"p0_surface", "p1_surface"}
    paths = export_people(capture[0], ExportSettings("ply", tmp_path, frames="3")).files
    for name, path in zip(("p0", "p1"), paths, strict=True):
        mesh = scene.geometry[f"{name}_surface"]
        np.testing.assert_array_equal(mesh.faces, body.faces.numpy())
        seen = trimesh.load(path, process=False).visual.vertex_colors[:, :3] / 255  # sRGB
        linear = mesh.visual.vertex_attributes["color"][:, :3] / 65535
        np.testing.assert_allclose(linear, linear_colours(seen), atol=0.01)
        # The surface stands outside the skin by what the avatar has learned.
        rest = body.rest_vertices(torch.as_tensor(bodies.betas[int(name[1])])).numpy()
        apart = np.linalg.norm(mesh.vertices - rest, axis=1)
        assert 0.003 < np.median(apart) < 0.03 and apart.max() < 0.055


def test_layout(written) -> None:
    """Alignment, the order of the skeleton, and skinned meshes at the scene's root, as the specification has it."""
    gltf = Gltf.read(written[0].read_bytes())
    assert all(view["byteOffset"] % 4 == 0 for view in gltf.json["bufferViews"])
    assert gltf.json["buffers"] == [{"byteLength": len(gltf.data)}]
    roots = gltf.json["scenes"][0]["nodes"]
    meshes = [index for index, node in enumerate(gltf.json["nodes"]) if "mesh" in node]
    assert len(meshes) == 2 and set(meshes) <= set(roots)
    for skin, name in zip(gltf.json["skins"], ("p0", "p1"), strict=True):
        above = gltf.json["nodes"][skin["skeleton"]]
        assert above["name"] == name and above["children"] == skin["joints"][:1] and skin["skeleton"] in roots
        assert tuple(gltf.json["nodes"][joint]["name"] for joint in skin["joints"]) == SKELETONS["smpl24"].joints
    for _, values in (track for (_, path), track in gltf.tracks().items() if path == "rotation"):
        np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)
        assert ((values[1:] * values[:-1]).sum(axis=1) >= 0).all()


def test_colours_are_made_linear() -> None:
    # Middle grey 0.5 in sRGB is ((0.5 + 0.055) / 1.055)^2.4 = 0.2140; 0.04 lies on the straight part: 0.04 / 12.92.
    np.testing.assert_allclose(linear_colours(np.array([0.0, 0.04, 0.5, 1.0])), [0, 0.0030960, 0.2140411, 1], atol=1e-6)


def test_quaternions_do_not_change_sign() -> None:
    angle = np.linspace(0, 4 * np.pi, 60)
    turns = np.zeros((60, 3, 3))
    turns[:, 0, 0] = turns[:, 1, 1] = np.cos(angle)
    turns[:, 1, 0], turns[:, 0, 1], turns[:, 2, 2] = np.sin(angle), -np.sin(angle), 1
    found = quaternions(turns)
    assert ((found[1:] * found[:-1]).sum(axis=1) > 0.9).all()
    # x, y, z, w: about z.
    half = angle[30] / 2
    np.testing.assert_allclose(np.abs(found[30]), np.abs([0, 0, np.sin(half), np.cos(half)]), atol=1e-9)
