"""Exports opened in Blender itself, which its makers publish as a Python package (some 500 MB: pip install bpy)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_people import FPS, even_frames, make_capture

from avatarpose.skeletons import SKELETONS
from viewer.export.exporter import ExportSettings, export_people

pytestmark = pytest.mark.skipif(importlib.util.find_spec("bpy") is None, reason="pip install bpy")

SCRIPT = """
import json, os, sys
import bpy
path, count, first = sys.argv[1], int(sys.argv[2]), 0
bpy.ops.wm.read_factory_settings(use_empty=True)
scene = bpy.context.scene
scene.render.fps = int(sys.argv[4])
if path.endswith(".glb"):
    bpy.ops.import_scene.gltf(filepath=path)
elif path.endswith(".usda"):
    bpy.ops.wm.usd_import(filepath=path)
else:
    first = 1
    bpy.ops.import_anim.bvh(filepath=path, global_scale=0.01, frame_start=first)
found = {}
for frame in range(count):
    scene.frame_set(first + frame)
    graph = bpy.context.evaluated_depsgraph_get()
    for thing in scene.objects:
        seen = thing.evaluated_get(graph)
        if thing.type == "ARMATURE":
            places = {bone.name: list(seen.matrix_world @ bone.head) for bone in seen.pose.bones}
            found.setdefault(thing.name, []).append(places)
        elif thing.type == "MESH" and thing.name.endswith("_surface"):
            vertices = list(seen.to_mesh().vertices)[::199]
            found.setdefault(thing.name, []).append([list(seen.matrix_world @ v.co) for v in vertices])
with open(sys.argv[3], "w") as file:
    json.dump(found, file)
os._exit(0)  # Blender as a module may crash while it is taken down
"""


@pytest.mark.parametrize("file", ["people.glb", "people.usda", "p0.bvh"])
def test_blender_moves_joints_and_skin_to_their_places(file: str, tmp_path: Path) -> None:
    """With default settings (BVH: in centimetres), in Blender's own axes, z up, as the capture's are."""
    folder, bodies, body = make_capture(tmp_path / "capture")
    path, kind = tmp_path / file, {"glb": "glb", "usda": "usd", "bvh": "bvh"}[file.split(".")[1]]
    export_people(folder, ExportSettings(kind, path, people=("p0",) if kind == "bvh" else (), surface="body"))
    numbers, at = even_frames(bodies)
    out = tmp_path / "found.json"
    command = [sys.executable, "-c", SCRIPT, str(path), str(len(numbers)), str(out), str(int(FPS))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and out.is_file(), done.stdout[-1500:] + done.stderr[-1500:]
    found = json.loads(out.read_text())
    for index, name in enumerate(bodies.people[: 1 if kind == "bvh" else 2]):
        there = bodies.valid[index]
        armature = found[f"{name}_skeleton" if kind == "usd" else name]
        places = np.array([[frame[joint] for joint in SKELETONS["smpl24"].joints] for frame in armature])
        assert np.abs(places[at][there] - bodies.joints[index, there]).max() < 1e-3
        if kind == "bvh":
            continue
        for frame in np.nonzero(there)[0][[0, -1]]:
            values = (bodies.betas[index], bodies.poses[index, frame], bodies.trans[index, frame])
            vertices = body.vertices(*map(torch.as_tensor, values)).numpy()[::199]
            assert np.abs(np.array(found[f"{name}_surface"][at[frame]]) - vertices).max() < 1e-3
