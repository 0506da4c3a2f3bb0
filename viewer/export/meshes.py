"""PLY and OBJ: the surface of one person in one frame, with vertex colours (sRGB).

G. Turk, "The PLY Polygon File Format", 1994; OBJ's vertex colours follow the coordinates, as most programs read them.
"""

from __future__ import annotations

import numpy as np

from viewer.export.scene import Person, Scene


def ply(scene: Scene, person: Person, frame: int) -> bytes:
    """The bytes of a binary PLY file, by frame index."""
    surface = person.surface
    vertices = np.zeros(len(surface.vertices), [("place", "<f4", 3), ("colour", "u1", 3)])
    vertices["place"] = person.posed_vertices(scene.parents, frame)
    vertices["colour"] = np.round(255 * np.clip(surface.colours, 0, 1))
    faces = np.zeros(len(surface.faces), [("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, surface.faces
    header = [
        "ply", "format binary_little_endian 1.0", f"comment {_title(scene, person, frame)}",
        f"element vertex {len(vertices)}", *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header",
    ]  # fmt: skip
    return ("\n".join(header) + "\n").encode() + vertices.tobytes() + faces.tobytes()


def obj(scene: Scene, person: Person, frame: int) -> bytes:
    """The bytes of an OBJ file, by frame index."""
    surface = person.surface
    rows = np.concatenate([person.posed_vertices(scene.parents, frame), np.clip(surface.colours, 0, 1)], axis=1)
    lines = [f"# {_title(scene, person, frame)}", f"o {person.name}"]
    lines += ["v {:.7g} {:.7g} {:.7g} {:.4f} {:.4f} {:.4f}".format(*row) for row in rows]
    lines += ["f {} {} {}".format(*corners) for corners in surface.faces + 1]
    return ("\n".join(lines) + "\n").encode()


def _title(scene: Scene, person: Person, frame: int) -> str:
    return f"{scene.name} {person.name} frame {scene.frames[frame]}, {scene.axes.unit}, {scene.axes.up} up"
