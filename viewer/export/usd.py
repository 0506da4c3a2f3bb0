"""Universal Scene Description: a SkelRoot per person, with UsdSkel's skeleton, animation and skinned mesh, as text.

Pixar, "UsdSkel: Skeleton Schema". Matrices act on rows, so they are the transposes of this project's. The text needs no
package; the binary `.usdc` is made of it by `usd-core`. A person who is absent is invisible.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from avatarpose import __version__
from avatarpose.errors import InputError
from viewer.export.scene import Person, Scene, linear_colours, quaternions

INFLUENCES = 8


def usda(scene: Scene) -> bytes:
    """The text of the file; every person must have a surface."""
    names: list[str] = ["skin"]
    for person in scene.people:
        name = re.sub(r"\W", "_", person.name, flags=re.ASCII)
        name = f"_{name}" if name[:1].isdigit() else name
        while name in names:
            name += "_"
        names.append(name)
    people = "\n".join(_person(scene, person, name) for person, name in zip(scene.people, names[1:], strict=True))
    metres = 1 / scene.axes.scale
    return f'''#usda 1.0
(
    defaultPrim = "capture"
    doc = "avatarpose {__version__}: {_quoted(scene.name)}"
    metersPerUnit = {metres:.10g}
    upAxis = "{scene.axes.up.upper()}"
    startTimeCode = 0
    endTimeCode = {len(scene.frames) - 1}
    timeCodesPerSecond = {scene.fps:.10g}
    framesPerSecond = {scene.fps:.10g}
)

def Xform "capture"
{{
    def Material "skin"
    {{
        token outputs:surface.connect = </capture/skin/surface.outputs:surface>
        def Shader "surface"
        {{
            uniform token info:id = "UsdPreviewSurface"
            color3f inputs:diffuseColor.connect = </capture/skin/colour.outputs:result>
            float inputs:roughness = 0.9
            token outputs:surface
        }}
        def Shader "colour"
        {{
            uniform token info:id = "UsdPrimvarReader_float3"
            string inputs:varname = "displayColor"
            float3 outputs:result
        }}
    }}
{people}
}}
'''.encode()


def usdc(text: bytes) -> bytes:
    """The same scene in USD's binary form.

    Raises:
        InputError: usd-core is not installed.
    """
    try:
        from pxr import Sdf
    except ImportError as error:
        hint = "pip install usd-core, or write .usda, which needs nothing"
        raise InputError("binary USD files need the package usd-core", hint=hint) from error
    layer = Sdf.Layer.CreateAnonymous(".usda")
    layer.ImportFromString(text.decode())
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "scene.usdc")
        layer.Export(path)
        return Path(path).read_bytes()


def _person(scene: Scene, person: Person, name: str) -> str:
    surface, root = person.surface, f"/capture/{name}"
    joints, weights = surface.strongest(min(INFLUENCES, surface.influences))
    count, width = len(surface.vertices), joints.shape[1]
    bind = np.linalg.inv(person.inverse_bind)
    rest = np.tile(np.eye(4), (len(scene.parents), 1, 1))
    rest[:, :3, 3] = person.offsets
    turns = np.roll(quaternions(person.rotations), 1, axis=-1)  # w first
    places = np.tile(person.offsets, (len(scene.frames), 1, 1))
    places[:, 0] = person.root
    paths = ", ".join(f'"{path}"' for path in _paths(scene))
    visibility = ""
    if not person.valid.all():
        words = ('"inherited"' if there else '"invisible"' for there in person.valid)
        visibility = f"token visibility.timeSamples = {_samples(words)}"
    return f'''
    def SkelRoot "{name}"
    {{
        {visibility}
        def Skeleton "{name}_skeleton" (
            prepend apiSchemas = ["SkelBindingAPI"]
        )
        {{
            uniform token[] joints = [{paths}]
            uniform matrix4d[] bindTransforms = {_matrices(bind)}
            uniform matrix4d[] restTransforms = {_matrices(rest)}
            rel skel:animationSource = <{root}/{name}_motion>
        }}
        def SkelAnimation "{name}_motion"
        {{
            uniform token[] joints = [{paths}]
            float3[] translations.timeSamples = {_samples(_tuples(row) for row in places)}
            quatf[] rotations.timeSamples = {_samples(_tuples(row) for row in turns)}
            half3[] scales = {_tuples(np.ones((len(scene.parents), 3)))}
        }}
        def Mesh "{name}_surface" (
            prepend apiSchemas = ["SkelBindingAPI", "MaterialBindingAPI"]
        )
        {{
            uniform token subdivisionScheme = "none"
            float3[] extent = {_tuples(np.stack([surface.vertices.min(0), surface.vertices.max(0)]))}
            int[] faceVertexCounts = {_numbers(np.full(len(surface.faces), 3))}
            int[] faceVertexIndices = {_numbers(surface.faces.reshape(-1))}
            point3f[] points = {_tuples(surface.vertices)}
            normal3f[] normals = {_tuples(surface.normals)} (
                interpolation = "vertex"
            )
            color3f[] primvars:displayColor = {_tuples(linear_colours(surface.colours))} (
                interpolation = "vertex"
            )
            int[] primvars:skel:jointIndices = {_numbers(joints.reshape(count * width))} (
                elementSize = {width}
                interpolation = "vertex"
            )
            float[] primvars:skel:jointWeights = {_numbers(weights.reshape(count * width))} (
                elementSize = {width}
                interpolation = "vertex"
            )
            matrix4d primvars:skel:geomBindTransform = {_matrix(np.eye(4))}
            rel skel:skeleton = <{root}/{name}_skeleton>
            rel material:binding = </capture/skin>
        }}
    }}'''


def _paths(scene: Scene) -> list[str]:
    """Names of the joints below each other: pelvis/left_hip/left_knee."""
    paths: list[str] = []
    for name, parent in zip(scene.joint_names, scene.parents, strict=True):
        paths.append(name if parent < 0 else f"{paths[parent]}/{name}")
    return paths


def _numbers(values: np.ndarray) -> str:
    return "[" + ", ".join(f"{value:.7g}" for value in values.tolist()) + "]"


def _tuple(row: list[float]) -> str:
    return "(" + ", ".join(f"{value:.7g}" for value in row) + ")"


def _tuples(rows: np.ndarray) -> str:
    return "[" + ", ".join(_tuple(row) for row in rows.tolist()) + "]"


def _matrix(matrix: np.ndarray) -> str:
    return "( " + ", ".join("(" + ", ".join(f"{value:.12g}" for value in row) + ")" for row in matrix.T.tolist()) + " )"


def _matrices(matrices: np.ndarray) -> str:
    return "[" + ", ".join(_matrix(matrix) for matrix in matrices) + "]"


def _samples(values: Iterable[str]) -> str:
    return "{" + ", ".join(f"{time}: {value}" for time, value in enumerate(values)) + "}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
