"""Exports read back by libraries that did not write them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import three_js
import torch
import trimesh
from browser import find_browser
from exported_people import FPS, Z_TO_Y, Gltf, bvh_joints, even_frames, make_bodies, make_capture

from avatarpose.body import load_body
from avatarpose.io import read_image, write_npz
from avatarpose.skeletons import SKELETONS
from viewer.export.exporter import ExportSettings, export_people

JOINTS = SKELETONS["smpl24"].joints


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    return make_capture(tmp_path_factory.mktemp("readers") / "capture")


@pytest.fixture(scope="module")
def glb(capture, tmp_path_factory) -> Path:
    """The avatars as glb."""
    path = tmp_path_factory.mktemp("readers") / "people.glb"
    export_people(capture[0], ExportSettings("glb", path))
    return path


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory) -> Path:
    """A folder with the npm packages that are used here."""
    folder = tmp_path_factory.mktemp("npm")
    trouble = three_js.npm_install(folder, "gltf-validator@2.0.0-dev.3.10", three_js.THREE)
    if trouble:
        pytest.skip(trouble)
    return folder


@pytest.mark.parametrize("options", [{}, {"surface": "body"}, {"surface": "volume"}, {"up": "z", "unit": "cm"}])
def test_the_official_validator_finds_nothing(options: dict, capture, node_modules: Path, tmp_path: Path) -> None:
    path = tmp_path / "people.glb"
    export_people(capture[0], ExportSettings("glb", path, **options))
    script = """
        const validator = require('gltf-validator'), fs = require('fs');
        validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))
            .then(report => console.log(JSON.stringify(report)));
    """
    command = ["node", "-e", script, str(path)]
    done = subprocess.run(command, cwd=node_modules, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["info"]["hasSkins"] and report["info"]["animationCount"] == 1
    # Counted in whole sets of four: the avatars hang on four joints, the others on more.
    assert report["info"]["maxInfluences"] == (8 if "surface" in options else 4)
    issues = report["issues"]
    assert issues["numErrors"] == 0 and issues["numWarnings"] == 0, json.dumps(issues, indent=1)


def test_the_validator_does_find_errors(glb: Path, node_modules: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.glb"
    broken.write_bytes(glb.read_bytes().replace(b'"type":"MAT4"', b'"type":"VEC4"'))
    script = (
        "const v = require('gltf-validator'); v.validateBytes(new Uint8Array(require('fs').readFileSync("
        "process.argv[1]))).then(r => console.log(r.issues.numErrors))"
    )
    command = ["node", "-e", script, str(broken)]
    done = subprocess.run(command, cwd=node_modules, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0


def test_three_js_moves_the_joints_to_their_places(capture, glb: Path, node_modules: Path, tmp_path: Path) -> None:
    if find_browser() is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    bodies = capture[1]
    _, at = even_frames(bodies)
    picture = tmp_path / "people.png"
    # Not the last frame, where the clip begins anew; a little later than each frame, for steps fall on the frames.
    frames = [int(column) for column in at[:-1]]
    times = [frame / FPS + 1e-5 for frame in frames]
    seen = three_js.look(glb, node_modules, times, picture, 320, (4, 2.5, 5), (0, 1, 0))
    assert seen["animations"] == 1
    gltf = Gltf.read(glb.read_bytes())
    for number, frame in enumerate(frames):
        for index, name in enumerate(bodies.people):
            if not bodies.valid[index, number]:
                continue
            found = seen["frames"][number][f"{name}_surface"]
            wanted = bodies.joints[index, number] @ Z_TO_Y.T
            assert np.abs(np.array(found["bones"]) - wanted).max() < 1e-3
            assert np.abs(np.array(found["vertices"]) - gltf.skinned(index, frame)[::97]).max() < 1e-3
    image = read_image(picture)
    shown = np.abs(image.astype(int) - image[0, 0]).sum(-1) > 60
    assert 0.02 < shown.mean() < 0.6


def test_pygltflib_reads_the_joints(capture, glb: Path) -> None:
    pygltflib = pytest.importorskip("pygltflib", reason="pip install pygltflib")
    bodies = capture[1]
    read = pygltflib.GLTF2().load(str(glb))
    # pygltflib parses the file; the numbers are evaluated here.
    gltf = Gltf(json.loads(read.to_json()), read.binary_blob())
    for accessor in gltf.json["accessors"]:
        accessor.setdefault("normalized", False)
    _, at = even_frames(bodies)
    for index in range(2):
        for frame, column in enumerate(at):
            if bodies.valid[index, frame]:
                places = gltf.joint_transforms(index, column)[:, :3, 3]
                assert np.abs(places - bodies.joints[index, frame] @ Z_TO_Y.T).max() < 1e-3


def test_bvh_is_read(capture, tmp_path: Path) -> None:
    bvh = pytest.importorskip("bvh", reason="pip install bvh")
    export_people(capture[0], ExportSettings("bvh", tmp_path))
    for name in ("p0", "p1"):
        text = (tmp_path / f"{name}.bvh").read_text()
        read = bvh.Bvh(text)
        assert sorted(read.get_joints_names()) == sorted(JOINTS) and read.nframes == 9
        assert read.frame_time == pytest.approx(1 / FPS)
        names, _, places = bvh_joints(text)
        root = [[read.frame_joint_channel(f, "pelvis", f"{axis}position") for axis in "XYZ"] for f in range(9)]
        np.testing.assert_allclose(root, places[:, names.index("pelvis")], atol=1e-4)
        for joint in ("left_knee", "head"):
            assert read.joint_channels(joint) == ["Zrotation", "Xrotation", "Yrotation"]
            length = np.linalg.norm(read.joint_offset(joint))
            parent = read.joint_parent(joint).name
            apart = places[:, names.index(joint)] - places[:, names.index(parent)]
            np.testing.assert_allclose(np.linalg.norm(apart, axis=1), length, atol=1e-3)


def test_c3d_is_read(capture, tmp_path: Path) -> None:
    """Written with ezc3d, read with the package c3d."""
    pytest.importorskip("ezc3d", reason="pip install ezc3d")
    c3d = pytest.importorskip("c3d", reason="pip install c3d")
    bodies = capture[1]
    path = tmp_path / "people.c3d"
    export_people(capture[0], ExportSettings("c3d", path))
    with open(path, "rb") as file, pytest.warns(UserWarning, match="No analog data"):
        reader = c3d.Reader(file)
        labels = [label.strip() for label in reader.point_labels]
        points = np.stack([points for _, points, _ in reader.read_frames()])
        assert reader.point_rate == FPS and reader.get("POINT:UNITS").string_value.strip() == "mm"
        assert reader.get("POINT:Y_SCREEN").string_value.strip() == "+Z"
    assert len(labels) == 82 and labels[0] == "p0:pelvis" and labels[41 + 24] == "p1:coco_nose"
    _, at = even_frames(bodies)
    for index in range(2):
        own = points[at, 41 * index : 41 * index + 41]
        there = bodies.valid[index]
        wanted = 1000 * np.concatenate([bodies.joints[index], bodies.keypoints[index]], axis=1)
        assert np.abs(own[there][..., :3] - wanted[there]).max() < 1e-2
        # The fourth number is the residual: -1 says that the point is not there.
        assert (own[~there][..., 3] == -1).all() and (own[there][..., 3] == 0).all()


USD_READER = """
import json, sys
import numpy as np
from pxr import Usd, UsdGeom, UsdSkel
stage = Usd.Stage.Open(sys.argv[1])
found = {"up": UsdGeom.GetStageUpAxis(stage), "metres": UsdGeom.GetStageMetersPerUnit(stage),
         "rate": stage.GetTimeCodesPerSecond(), "last": stage.GetEndTimeCode(), "people": {}}
cache = UsdSkel.Cache()
for prim in stage.Traverse():
    if not prim.IsA(UsdSkel.Root):
        continue
    cache.Populate(UsdSkel.Root(prim), Usd.PrimDefaultPredicate)
    skeleton = cache.GetSkelQuery(UsdSkel.Skeleton(prim.GetChild(prim.GetName() + "_skeleton")))
    mesh = prim.GetChild(prim.GetName() + "_surface")
    skin, points = cache.GetSkinningQuery(mesh), UsdGeom.Mesh(mesh).GetPointsAttr().Get()
    person = {"joints": [], "visible": [], "names": [str(n) for n in skeleton.GetJointOrder()]}
    for frame in range(int(stage.GetEndTimeCode()) + 1):
        person["joints"].append(np.array(skeleton.ComputeJointSkelTransforms(frame))[:, 3, :3].tolist())
        person["visible"].append(UsdGeom.Imageable(prim).ComputeVisibility(frame) != "invisible")
    skinned = type(points)(points)
    assert skin.ComputeSkinnedPoints(skeleton.ComputeSkinningTransforms(3), skinned, 3)
    person["skinned"] = np.array(skinned).tolist()
    person["colour"] = np.array(UsdGeom.Mesh(mesh).GetDisplayColorPrimvar().Get()).tolist()
    found["people"][prim.GetName()] = person
print(json.dumps(found))
"""


@pytest.mark.parametrize(("name", "options"), [("a.usda", {}), ("a.usdc", {}), ("a.usda", {"up": "z", "unit": "cm"})])
def test_usd_is_evaluated(name: str, options: dict, capture, tmp_path: Path) -> None:
    """Pixar's library computes the skeletons and the skins from the text written here."""
    pytest.importorskip("pxr", reason="pip install usd-core")
    bodies = capture[1]
    path = tmp_path / name
    export_people(capture[0], ExportSettings("usd", path, surface="body", **options))
    done = subprocess.run([sys.executable, "-c", USD_READER, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    scale, turn = (100, np.eye(3)) if options else (1, Z_TO_Y)
    assert (found["up"], found["metres"], found["rate"], found["last"]) == ("Z" if options else "Y", 1 / scale, FPS, 8)
    _, at = even_frames(bodies)
    for index, person in enumerate(bodies.people):
        one = found["people"][person]
        assert one["names"][4] == "pelvis/left_hip/left_knee"
        there = bodies.valid[index]
        assert np.array(one["visible"])[at].tolist() == there.tolist()
        apart = np.array(one["joints"])[at][there] / scale - bodies.joints[index, there] @ turn.T
        assert np.abs(apart).max() < 1e-3
        settings = ExportSettings("obj", tmp_path / "obj", people=(person,), frames="5", surface="body", **options)
        rows = export_people(capture[0], settings).files[0].read_text().splitlines()
        vertices = np.array([row.split()[1:4] for row in rows if row.startswith("v ")], float)
        assert np.abs(np.array(one["skinned"]) - vertices).max() / scale < 1e-3
        assert len(one["colour"]) == len(vertices)


def test_meshes_are_read_by_another_library(capture, tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d", reason="pip install open3d")
    for kind in ("ply", "obj"):
        settings = ExportSettings(kind, tmp_path, people=("p0",), frames="8", surface="volume")
        (path,) = export_people(capture[0], settings).files
        mesh = open3d.io.read_triangle_mesh(str(path))
        assert mesh.has_vertex_colors() and len(mesh.vertices) > 20_000
        assert mesh.is_orientable() and len(mesh.cluster_connected_triangles()[1]) == 1


def test_amass_of_an_smpl_body_is_read_by_smplx(tmp_path: Path) -> None:
    """A body in SMPL's own form, with pose-dependent corrections, named by --body: joints, and PLY's vertices."""
    smplx = pytest.importorskip("smplx", reason="pip install smplx")
    body = load_body()
    posedirs = 2e-3 * torch.randn(*body.v_template.shape, 207, generator=torch.Generator().manual_seed(1))
    arrays = {name: getattr(body, name).numpy() for name in ("v_template", "shapedirs", "J_regressor", "weights")}
    arrays |= {"posedirs": posedirs.numpy(), "f": body.faces.numpy().astype(np.int64)}
    arrays["kintree_table"] = np.stack([np.array(body.parents) % 2**32, np.arange(24)])
    file = tmp_path / "SMPL_LIKE.npz"
    write_npz(file, coco_regressor=body.coco_regressor.numpy(), **arrays)
    folder, *_ = make_capture(tmp_path / "capture", avatars=False)
    bodies = make_bodies(load_body(file))
    bodies.save(folder / "results" / "refined.npz")
    for kind, out in (("amass", tmp_path), ("ply", tmp_path)):
        export_people(folder, ExportSettings(kind, out, up="z", body=file))
    done = export_people(folder, ExportSettings("glb", tmp_path / "a.glb", body=file))
    assert any("cannot keep: up to" in note for note in done.notes)

    _, at = even_frames(bodies)
    for index, name in enumerate(bodies.people):
        read = np.load(tmp_path / f"{name}.npz")
        count = len(read["poses"])
        # SMPL-H's fingers and SMPL's hands are other joints; the wrists' are the last that both have.
        poses = torch.from_numpy(np.concatenate([read["poses"][:, :66], read["body_poses"][:, 66:]], axis=1)).float()
        vertex_ids = dict.fromkeys([*smplx.vertex_ids.vertex_ids["smplh"]], 0)
        oracle = smplx.SMPL("", data_struct=SimpleNamespace(**arrays), vertex_ids=vertex_ids, batch_size=count)
        betas = torch.from_numpy(np.tile(read["betas"][:10], (count, 1))).float()
        trans = torch.from_numpy(read["trans"]).float()
        found = oracle(betas=betas, global_orient=poses[:, :3], body_pose=poses[:, 3:], transl=trans)
        there = bodies.valid[index]
        apart = found.joints[at][there, :24].detach().numpy() - bodies.joints[index, there]
        assert np.abs(apart).max() < 1e-3
        mesh = trimesh.load(tmp_path / f"{name}_000004.ply", process=False)
        frame = list(bodies.frames).index(4)
        np.testing.assert_allclose(found.vertices[at[frame]].detach().numpy(), mesh.vertices, atol=1e-4)
