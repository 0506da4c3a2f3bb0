"""glTF 2.0 binary: a skinned, vertex-coloured mesh and an animated skeleton per person.

Khronos Group, "glTF 2.0 Specification". All people are in one animation. Vertex colours are linear light, as the
specification wants them (3.7.2.1). A surface whose vertices hang on more than four joints gets a second set of joints
and weights; readers that know only the first set have the four strongest. A person who comes or goes has a root that is
scaled to nothing while they are absent, in steps.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from avatarpose import __version__
from viewer.export.scene import Person, Scene, linear_colours, quaternions

FLOAT, UNSIGNED_BYTE, UNSIGNED_SHORT, UNSIGNED_INT = 5126, 5121, 5123, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
_DTYPES = {FLOAT: "<f4", UNSIGNED_BYTE: "u1", UNSIGNED_SHORT: "<u2", UNSIGNED_INT: "<u4"}
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class _Document:
    """A glTF document and its one buffer, growing together."""

    def __init__(self) -> None:
        self.json: dict[str, list[dict[str, Any]]] = {}
        self.data = bytearray()

    def add(self, kind: str, entry: dict[str, Any]) -> int:
        """Adds to one of the document's lists; returns the index there."""
        entries = self.json.setdefault(kind, [])
        entries.append(entry)
        return len(entries) - 1

    def accessor(
        self, array: np.ndarray, component: int = FLOAT, target: int | None = None, bounds: bool = False,
        normalised: bool = False,
    ) -> int:  # fmt: skip
        """Stores (N,) or (N, k) numbers; `bounds` where the specification asks for the least and the greatest."""
        array = np.ascontiguousarray(array, _DTYPES[component])
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": array.nbytes}
        if target is not None:
            view["target"] = target
        self.data += array.tobytes() + b"\0" * (-array.nbytes % 4)
        entry: dict[str, Any] = {
            "bufferView": self.add("bufferViews", view), "componentType": component, "count": len(array),
            "type": _KINDS[array.shape[1] if array.ndim > 1 else 1],
        }  # fmt: skip
        if normalised:
            entry["normalized"] = True
        if bounds:
            rows = array.reshape(len(array), -1)
            entry |= {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}
        return self.add("accessors", entry)

    def bytes(self) -> bytes:
        """The whole file."""
        text = json.dumps({**self.json, "buffers": [{"byteLength": len(self.data)}]}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        length = 12 + 8 + len(text) + 8 + len(self.data)
        header = struct.pack("<4sII", b"glTF", 2, length)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(self.data), b"BIN\0")
        return header + chunks + bytes(self.data)


def glb(scene: Scene) -> bytes:
    """The file's bytes; every person must have a surface."""
    document = _Document()
    document.json["asset"] = {"version": "2.0", "generator": f"avatarpose {__version__}"}  # type: ignore[assignment]
    times = document.accessor(scene.times, bounds=True)
    material = document.add(
        "materials", {"name": "skin", "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.9}}
    )
    roots: list[int] = []
    samplers: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []

    def animate(node: int, path: str, values: np.ndarray, interpolation: str = "LINEAR") -> None:
        samplers.append({"input": times, "output": document.accessor(values), "interpolation": interpolation})
        channels.append({"sampler": len(samplers) - 1, "target": {"node": node, "path": path}})

    for person in scene.people:
        joints = _skeleton(document, scene, person)
        # A node of its own above each skeleton keeps programs from taking all people for one.
        above = document.add("nodes", {"name": person.name, "children": [joints[0]]})
        skin = document.add("skins", {
            "name": person.name, "joints": joints, "skeleton": above,
            # Matrices are stored column by column.
            "inverseBindMatrices": document.accessor(person.inverse_bind.transpose(0, 2, 1).reshape(-1, 16)),
        })  # fmt: skip
        name = f"{person.name}_surface"
        mesh = document.add("meshes", {"name": name, "primitives": [_primitive(document, person, material)]})
        # A skinned mesh follows its joints alone, so it stands beside them and not below.
        roots += [above, document.add("nodes", {"name": name, "mesh": mesh, "skin": skin})]
        animate(joints[0], "translation", person.root)
        turns = quaternions(person.rotations)
        for joint, node in enumerate(joints):
            animate(node, "rotation", turns[:, joint])
        if not person.valid.all():
            animate(joints[0], "scale", np.repeat(person.valid[:, None], 3, axis=1), "STEP")
    document.add("animations", {"name": scene.name, "samplers": samplers, "channels": channels})
    document.json["scene"] = document.add("scenes", {"name": scene.name, "nodes": roots})  # type: ignore[assignment]
    return document.bytes()


def _skeleton(document: _Document, scene: Scene, person: Person) -> list[int]:
    """The person's joints as nodes in the zero pose; their indices."""
    first = len(document.json.get("nodes", []))
    for joint, name in enumerate(scene.joint_names):
        node: dict[str, Any] = {"name": name, "translation": person.offsets[joint].tolist()}
        children = [first + child for child, parent in enumerate(scene.parents) if parent == joint]
        document.add("nodes", node | ({"children": children} if children else {}))
    return list(range(first, first + len(scene.joint_names)))


def _primitive(document: _Document, person: Person, material: int) -> dict[str, Any]:
    surface = person.surface
    colours = np.concatenate([linear_colours(surface.colours), np.ones((len(surface.colours), 1))], axis=1)
    attributes = {
        "POSITION": document.accessor(surface.vertices, target=ARRAY_BUFFER, bounds=True),
        "NORMAL": document.accessor(surface.normals, target=ARRAY_BUFFER),
        # 16 bits: 8 bits of linear light would show steps in the dark.
        "COLOR_0": document.accessor((colours * 65535).round(), UNSIGNED_SHORT, ARRAY_BUFFER, normalised=True),
    }
    sets = 1 if surface.influences <= 4 else 2
    joints, weights = surface.strongest(4 * sets)
    for number in range(sets):
        part = slice(4 * number, 4 * number + 4)
        attributes[f"JOINTS_{number}"] = document.accessor(joints[:, part], UNSIGNED_BYTE, ARRAY_BUFFER)
        attributes[f"WEIGHTS_{number}"] = document.accessor(weights[:, part], target=ARRAY_BUFFER)
    indices = document.accessor(surface.faces.reshape(-1), UNSIGNED_INT, ELEMENT_ARRAY_BUFFER)
    return {"attributes": attributes, "indices": indices, "material": material}
