"""A capture with results for the tests of the exports, and readers of our own for the formats that are text or glTF."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import roma
import torch

from avatarpose.body import BodyModel, load_body
from avatarpose.results import Bodies
from optimize.avatars import Avatars
from optimize.checkpoint import save_avatar
from optimize.config import RefineConfig
from renderer.field import FieldConfig

PEOPLE = ["p0", "p1"]
FRAMES = [2, 3, 4, 5, 8, 9, 10]
"""Numbers on the common clock; two are left out in between."""
FPS = 20.0
Z_TO_Y = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""The embedded capture is z up: to y up."""


def make_bodies(body: BodyModel, frames: list[int] = FRAMES) -> Bodies:
    """Two people who tumble through all orientations; p1 is missing in the first frame and in the last but one."""
    generator = torch.Generator().manual_seed(3)
    count = len(frames)
    time = torch.arange(count) / count
    betas = torch.randn(2, 10, generator=generator)
    phase, size = (torch.rand(2, 1, 72, generator=generator) for _ in range(2))
    poses = 1.4 * size * torch.sin(6.3 * (time[None, :, None] + phase))
    poses[..., :3] = torch.tensor([1.0, 2.0, 0.5]) * (1 + 2 * time)[:, None]
    trans = torch.stack([time, -time, 1 + 0.3 * time], dim=-1) * torch.tensor([[[1.0]], [[-1.0]]])
    spread = betas[:, None].expand(2, count, 10)
    arrays = {"poses": poses, "trans": trans}
    arrays |= {"joints": body.joints(spread, poses, trans), "keypoints": body.keypoints(spread, poses, trans)}
    arrays = {name: array.numpy().astype(np.float32).copy() for name, array in arrays.items()}
    valid = np.ones((2, count), bool)
    if count > 3:
        valid[1, [0, count - 2]] = False
    for array in arrays.values():
        array[~valid] = np.nan
    return Bodies(
        people=list(PEOPLE), frames=np.array(frames), fps=FPS, betas=betas.numpy(), valid=valid, body_name=body.name,
        body_sha256=body.sha256, **arrays,
    )  # fmt: skip


def make_capture(folder: Path, avatars: bool = True) -> tuple[Path, Bodies, BodyModel]:
    """A sequence folder without images, with results and, if asked, avatars whose surfaces and colours vary."""
    folder.mkdir()
    for name in ("sequence.json", "cameras.json"):
        shutil.copy(Path(str(files("assets"))) / "embrace" / name, folder)
    body = load_body()
    bodies = make_bodies(body)
    for name in ("initial", "refined"):
        bodies.save(folder / "results" / f"{name}.npz")
    if avatars:
        write_avatars(folder / "results" / "avatars", body, bodies)
    return folder, bodies, body


def write_avatars(folder: Path, body: BodyModel, bodies: Bodies) -> None:
    """Small avatars, learned with another shape than the results have."""
    torch.manual_seed(5)
    field = FieldConfig(levels=4, geometry_levels=2, log2_table=12, base_resolution=8, finest_resolution=64, hidden=16)
    betas = torch.as_tensor(bodies.betas) + 0.1
    made = Avatars(body, betas, 1, RefineConfig(preset="stored", field=field))
    for index, name in enumerate(bodies.people):
        one = made.fields[index]
        torch.nn.init.normal_(one.grid.table, std=0.3)
        torch.nn.init.normal_(one.offset_head.weight, std=0.25)
        torch.nn.init.normal_(one.colour_out.weight, std=4.0)
        made.shading[index].constant.data = torch.tensor([0.1, 0.0, -0.1])
        metadata = {
            "field": asdict(field), "betas": betas[index].tolist(), "body": bodies.body_name,
            "body_sha256": bodies.body_sha256,
        }  # fmt: skip
        modules = {"field": one, "shading": made.shading[index]}
        save_avatar(folder / f"{name}.safetensors", modules, metadata)


def even_frames(bodies: Bodies) -> tuple[list[int], np.ndarray]:
    """The frames that a file should have, and for each of the results' frames where it is among them."""
    numbers = list(range(bodies.frames[0], bodies.frames[-1] + 1))
    return numbers, np.array([numbers.index(number) for number in bodies.frames])


# ---- BVH ----


def bvh_joints(text: str) -> tuple[list[str], float, np.ndarray]:
    """Names, seconds a frame and places (F, J, 3) of the joints of a BVH file, by its definition."""
    hierarchy, motion = text.split("MOTION")
    names, parents, offsets, channels, stack = [], [], [], [], []
    for words in (line.split() for line in hierarchy.splitlines()[1:] if line.strip()):
        if words[0] in ("ROOT", "JOINT", "End"):
            parents.append(stack[-1] if stack else -1)
            names.append(words[1] if words[0] != "End" else "")
            channels.append([])
        elif words[0] == "{":
            stack.append(len(names) - 1)
        elif words[0] == "}":
            stack.pop()
        elif words[0] == "OFFSET":
            offsets.append([float(word) for word in words[1:]])
        elif words[0] == "CHANNELS":
            assert int(words[1]) == len(words) - 2
            channels[-1] = words[2:]
    rows = [line.split() for line in motion.strip().splitlines()]
    assert rows[0][0] == "Frames:" and rows[1][:2] == ["Frame", "Time:"]
    values = np.array([[float(word) for word in row] for row in rows[2:]])
    assert values.shape == (int(rows[0][1]), sum(map(len, channels)))
    places = np.zeros((len(values), len(names), 3))
    for frame, numbers in enumerate(values):
        turns, numbers = [], list(numbers)
        for joint, parent in enumerate(parents):
            shift, turn = np.array(offsets[joint]), np.eye(3)
            for channel in channels[joint]:
                axis, value = "XYZ".index(channel[0]), numbers.pop(0)
                if channel.endswith("position"):
                    shift[axis] += value
                else:
                    turn = turn @ roma.rotvec_to_rotmat(torch.eye(3).double()[axis] * np.deg2rad(value)).numpy()
            above, at = (turns[parent], places[frame, parent]) if parent >= 0 else (np.eye(3), np.zeros(3))
            places[frame, joint] = at + above @ shift
            turns.append(above @ turn)
    kept = [index for index, name in enumerate(names) if name]
    return [names[index] for index in kept], float(rows[1][2]), places[:, kept]


# ---- glTF ----

_COMPONENTS = {5126: "<f4", 5121: "u1", 5123: "<u2", 5125: "<u4"}
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4, "MAT4": 16}


@dataclass
class Gltf:
    """The parts of a glTF file that matter here, whoever read it."""

    json: dict
    data: bytes

    @classmethod
    def read(cls, content: bytes) -> Gltf:
        magic, version, length = struct.unpack_from("<4sII", content)
        assert (magic, version, length) == (b"glTF", 2, len(content))
        size, kind = struct.unpack_from("<I4s", content, 12)
        assert kind == b"JSON"
        size_of_data, kind = struct.unpack_from("<I4s", content, 20 + size)
        assert kind == b"BIN\0"
        return cls(json.loads(content[20 : 20 + size]), content[28 + size : 28 + size + size_of_data])

    def array(self, index: int) -> np.ndarray:
        accessor = self.json["accessors"][index]
        view = self.json["bufferViews"][accessor["bufferView"]]
        width, kind = _WIDTHS[accessor["type"]], np.dtype(_COMPONENTS[accessor["componentType"]])
        count = width * accessor["count"]
        array = np.frombuffer(self.data, kind, count, view["byteOffset"]).reshape(-1, width)
        return array / np.iinfo(kind).max if accessor.get("normalized") else array

    def tracks(self) -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]:
        """Times and values by node and what is animated."""
        (animation,) = self.json["animations"]
        found = {}
        for channel in animation["channels"]:
            sampler = animation["samplers"][channel["sampler"]]
            key = channel["target"]["node"], channel["target"]["path"]
            found[key] = self.array(sampler["input"])[:, 0], self.array(sampler["output"])
        return found

    def joint_transforms(self, skin: int, frame: int) -> np.ndarray:
        """T_world_joint (J, 4, 4) of a skin's joints at a sample of the animation."""
        nodes, tracks = self.json["nodes"], self.tracks()
        parents = {child: parent for parent, node in enumerate(nodes) for child in node.get("children", ())}

        def world(index: int) -> np.ndarray:
            def value(path: str, default: list[float]) -> np.ndarray:
                if (index, path) in tracks:
                    return tracks[index, path][1][frame]
                return np.array(nodes[index].get(path, default))

            turn = roma.unitquat_to_rotmat(torch.tensor(value("rotation", [0, 0, 0, 1.0])).double()).numpy()
            T = np.eye(4)
            T[:3, :3] = turn * value("scale", [1.0, 1, 1])
            T[:3, 3] = value("translation", [0.0, 0, 0])
            return world(parents[index]) @ T if index in parents else T

        return np.stack([world(joint) for joint in self.json["skins"][skin]["joints"]])

    def skinned(self, skin: int, frame: int) -> np.ndarray:
        """Vertices (V, 3) of the mesh that hangs on a skin, with all its sets of joints."""
        node = next(node for node in self.json["nodes"] if node.get("skin") == skin)
        attributes = self.json["meshes"][node["mesh"]]["primitives"][0]["attributes"]
        bind = self.array(self.json["skins"][skin]["inverseBindMatrices"]).reshape(-1, 4, 4).transpose(0, 2, 1)
        T = self.joint_transforms(skin, frame) @ bind
        points = self.array(attributes["POSITION"])
        points = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        total = np.zeros((len(points), 4))
        for number in range(2):
            if f"JOINTS_{number}" in attributes:
                joints, weights = (self.array(attributes[f"{kind}_{number}"]) for kind in ("JOINTS", "WEIGHTS"))
                total += np.einsum("vk,vkab,vb->va", weights, T[joints], points)
        return total[:, :3]
