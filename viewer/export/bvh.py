"""Biovision Hierarchy: one skeleton and its angles, as text.

M. Meredith and S. Maddock, "Motion Capture File Formats Explained", 2001. A joint's rotation is Rz Rx Ry in the order
of its channels, degrees, about the axes of its parent; with all angles at zero the skeleton stands in a T.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from roma import rotmat_to_euler

from viewer.export.scene import Person, Scene

TIP = 0.4
"""A bone that ends in no joint gets a tip this fraction of its own length away, so that it has a direction."""
_CHANNELS = "Zrotation Xrotation Yrotation"


def bvh(scene: Scene, person: Person) -> bytes:
    """The file's bytes."""
    lines = ["HIERARCHY"]
    order: list[int] = []

    def describe(joint: int, depth: int) -> None:
        order.append(joint)
        indent, inside = "\t" * depth, "\t" * (depth + 1)
        lines.append(f"{indent}{'JOINT' if depth else 'ROOT'} {scene.joint_names[joint]}")
        lines.append(f"{indent}{{")
        # The root's place is wholly in its channels.
        offset = person.offsets[joint] if depth else np.zeros(3)
        lines.append(f"{inside}OFFSET {_numbers(offset)}")
        position = "" if depth else "Xposition Yposition Zposition "
        lines.append(f"{inside}CHANNELS {3 if depth else 6} {position}{_CHANNELS}")
        children = [child for child, parent in enumerate(scene.parents) if parent == joint]
        for child in children:
            describe(child, depth + 1)
        if not children:
            lines.extend([f"{inside}End Site", f"{inside}{{"])
            lines.extend([f"{inside}\tOFFSET {_numbers(TIP * offset)}", f"{inside}}}"])
        lines.append(f"{indent}}}")

    describe(0, 0)
    lines += ["MOTION", f"Frames: {len(scene.frames)}", f"Frame Time: {1 / scene.fps:.8f}"]
    angles = euler_zxy(person.rotations)[:, order].reshape(len(scene.frames), -1)
    lines += [f"{_numbers(place)} {_numbers(turn)}" for place, turn in zip(person.root, angles, strict=True)]
    return ("\n".join(lines) + "\n").encode()


def euler_zxy(rotations: Float[np.ndarray, "frames joints 3 3"]) -> Float[np.ndarray, "frames joints 3"]:
    """Angles z, x, y in degrees with R = Rz Rx Ry, each frame's the nearer to the last frame's of the two there are."""
    angles = rotmat_to_euler("ZXY", torch.from_numpy(np.ascontiguousarray(rotations)), degrees=True).numpy()
    for frame in range(1, len(angles)):
        last, here = angles[frame - 1], angles[frame]
        other = np.stack([here[:, 0] + 180, 180 - here[:, 1], here[:, 2] + 180], axis=-1)
        here, other = (turns + 360 * np.round((last - turns) / 360) for turns in (here, other))
        nearer = np.abs(other - last).sum(-1) < np.abs(here - last).sum(-1)
        angles[frame] = np.where(nearer[:, None], other, here)
    return angles


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in values)
