"""The meshes that people are exported as: their body's skin, their avatar's surface, and its colours.

An avatar's visible surface is where the signed distance to the skin equals the offset its field has learned
(`renderer.field`). `avatar` moves each vertex of the skin along its normal until that holds: the body's own triangles,
with every detail of hands and face. `volume` takes the same level set out of the field itself on a grid, so that
nothing runs through anything else, and keeps its largest connected piece.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import label
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from avatarpose.body import BodyModel
from avatarpose.sequence import Sequence
from optimize.avatars import Avatars
from optimize.pictures import load_avatars
from renderer.field import AvatarField, silhouette_shift
from renderer.shell import Shell
from renderer.skinning import SkinnedGeometry, signed_body_distance
from viewer.export.scene import Axes, Surface

PLAIN_COLOURS = ((0.80, 0.62, 0.40), (0.42, 0.62, 0.80), (0.80, 0.48, 0.58), (0.52, 0.72, 0.46))
"""sRGB, for people without an avatar."""
CELL = 0.008
"""Metres, side of the grid's cells that a volume is taken out of."""
THICKNESS = 0.06
"""Metres from the skin within which the surface can stand."""
JUST_INSIDE = 0.01
DEEPEST = 0.2
"""Of the thickness of a limb: how far inside the skin the displaced surface may lie."""
CHUNK = 1 << 17
"""Points the field is asked for at once."""
NEIGHBOURS = 6
"""Vertices of the skin whose weights a vertex of a volume takes a mean of."""

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Canonical:
    """A mesh in the body's rest space in metres, of the shape the avatar was learned with."""

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "triangles 3"]
    weights: Float[np.ndarray, "vertices 24"]
    shape_offset: Float[np.ndarray, "vertices 3"]
    """What brings it to the shape in the results, metres."""
    colours: Float[np.ndarray, "vertices 3"]


def plain_surface(body: BodyModel, betas: Float[np.ndarray, " 10"], index: int) -> Canonical:
    """The skin of one person in one colour."""
    vertices = body.rest_vertices(torch.as_tensor(betas, dtype=body.dtype)).numpy()
    colours = np.tile(PLAIN_COLOURS[index % len(PLAIN_COLOURS)], (len(vertices), 1))
    return Canonical(vertices, body.faces.numpy(), body.weights.numpy(), np.zeros_like(vertices), colours)


@torch.no_grad()
def learned_surface(
    kind: str, avatars: Avatars, index: int, body: BodyModel, betas: Float[np.ndarray, " 10"]
) -> Canonical:
    """The surface of one person with the colours of their avatar.

    Args:
        kind: "body" for the skin (in the avatar's colours), "avatar" or "volume".
        index: of the person among the avatars.
        betas: (10,) the shape to give it; the avatar may have been learned with another.
    """
    geometry, field = avatars.geometry[index], avatars.fields[index]
    skin = geometry.vertices
    to_shape = body.rest_vertices(torch.as_tensor(betas, dtype=torch.float32)) - skin
    visible = displaced(geometry, field)
    colours = _colours(avatars, index, visible)
    if kind == "volume":
        vertices, faces = extracted(geometry, field)
        weights, offset = _from_skin(geometry, to_shape, vertices)
        colours = _colours(avatars, index, torch.from_numpy(vertices).float())
        return Canonical(vertices, faces, weights, offset, colours)
    # The avatar hangs on the strongest joints only, as it does where it is learned; the skin on all of them.
    weights = body.weights if kind == "body" else geometry.bone_weights
    vertices = skin if kind == "body" else visible
    return Canonical(vertices.numpy(), body.faces.numpy(), weights.numpy(), to_shape.numpy(), colours)


def surfaces(
    sequence: Sequence, body: BodyModel, people: list[str], betas: Float[np.ndarray, "people 10"], kind: str,
    progress: Progress,
) -> list[Canonical]:  # fmt: skip
    """The surface of every person, of one kind; only "body" is there without avatars, in plain colours.

    Raises:
        InputError: an avatar is absent or damaged.
    """
    body = body.to(torch.float32, "cpu")
    learned = all((sequence.results / "avatars" / f"{name}.safetensors").is_file() for name in people)
    avatars = load_avatars(sequence, people, body)[0] if learned or kind != "body" else None
    found = []
    for index, name in enumerate(people):
        progress(index, len(people), f"surface of {name}")
        one = plain_surface(body, betas[index], index)
        found.append(one if avatars is None else learned_surface(kind, avatars, index, body, betas[index]))
    return found


def placed(surface: Canonical, axes: Axes, posedirs: torch.Tensor | None = None) -> Surface:
    """The surface of the results' shape in the axes and unit of a file.

    Args:
        posedirs: (V,3,207) of the body, for its skin.
    """
    weights = surface.weights.astype(np.float64)
    directions = None
    if posedirs is not None:
        directions = axes.scale * np.einsum("ab,vbp->vap", axes.turn_from("y"), posedirs.double().numpy())
    return Surface(
        vertices=axes.scale * (surface.vertices + surface.shape_offset).astype(np.float64) @ axes.turn_from("y").T,
        faces=surface.faces,
        weights=weights / weights.sum(axis=1, keepdims=True),
        colours=surface.colours,
        pose_directions=directions,
    )


@torch.no_grad()
def displaced(geometry: SkinnedGeometry, field: AvatarField, rounds: int = 12) -> Float[torch.Tensor, "vertices 3"]:
    """The skin's vertices moved along their normals by the offset that the field has where they arrive, metres.

    A field may stand inside the skin by more than half a toe's thickness, and then has no surface there. The mesh stops
    short of turning inside out.
    """
    distance = torch.full((len(geometry.vertices),), field.config.offset_start)
    for _ in range(rounds):
        found = field.offset(geometry.vertices + distance[:, None] * geometry.normals)
        distance = 0.5 * (distance + found)  # half a step: the offset may change along the normal
    if bool((distance < 0).any()):
        distance = torch.maximum(distance, -DEEPEST * thickness(geometry))
    return geometry.vertices + distance[:, None] * geometry.normals


def thickness(geometry: SkinnedGeometry, within: float = 0.05) -> Float[torch.Tensor, " vertices"]:
    """Metres from each vertex inwards to the nearest one that faces the other way, or `within` where it is farther."""
    vertices, normals = geometry.vertices.double().numpy(), geometry.normals.double().numpy()
    i, j = cKDTree(vertices).query_pairs(within, output_type="ndarray").T
    between = vertices[j] - vertices[i]
    inwards = ((between * normals[i]).sum(1) < 0) & ((between * normals[j]).sum(1) > 0)
    opposite = inwards & ((normals[i] * normals[j]).sum(1) < -0.3)
    found = np.full(len(vertices), within)
    for end in (i, j):
        np.minimum.at(found, end[opposite], np.linalg.norm(between[opposite], axis=1))
    return torch.from_numpy(found).float()


def _colours(avatars: Avatars, index: int, points: torch.Tensor) -> Float[np.ndarray, "points 3"]:
    """sRGB at points of canonical space: the albedo under the mean of the light that was learned with it."""
    light = (1 + avatars.shading[index].constant).clamp(min=0) if avatars.use_shading else torch.ones(1)
    parts = []
    for chunk in points.split(CHUNK):
        parts.append(avatars.fields[index](chunk, torch.zeros(len(chunk))).albedo * light)
    return torch.cat(parts).clamp(0, 1).numpy()


# ---- the level set ----


def extracted(
    geometry: SkinnedGeometry, field: AvatarField, cell: float = CELL
) -> tuple[Float[np.ndarray, "vertices 3"], Int[np.ndarray, "triangles 3"]]:
    """The largest connected piece of the avatar's surface, taken out of its field on a grid.

    Args:
        cell: metres, side of the cells.

    Returns:
        Vertices in canonical space, metres, and triangles that turn counter-clockwise seen from outside.
    """
    shell = Shell(geometry.vertices, THICKNESS)
    low = geometry.vertices.amin(0).numpy() - THICKNESS - 2 * cell
    size = np.ceil((geometry.vertices.amax(0).numpy() + THICKNESS + 2 * cell - low) / cell).astype(int) + 1
    values = np.full(size, np.nan, np.float32)
    flat = values.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        index = np.arange(start, min(start + CHUNK, flat.size))
        points = torch.from_numpy(low + np.stack(np.unravel_index(index, size), axis=1) * cell).float()
        index, points = torch.from_numpy(index)[near := shell.occupied(points)], points[near]
        vertex, distance = shell.query(points)
        reached = torch.isfinite(distance)
        flat[index[reached].numpy()] = _depth(points[reached], vertex[reached], geometry, field).numpy()
    # Beyond the shell, what can be reached from the grid's corner is outside, and the core of the body is inside.
    pieces, _ = label(np.isnan(values))
    values[(pieces != 0) & (pieces == pieces[0, 0, 0])] = -1.0
    values[np.isnan(values)] = 1.0
    vertices, faces = surface_net(closed_crevices(values))
    return largest_piece(low + vertices * cell, faces)


@torch.no_grad()
def _depth(points: torch.Tensor, vertex: torch.Tensor, geometry: SkinnedGeometry, field: AvatarField) -> torch.Tensor:
    """Depth below the visible surface in units of the field's beta, positive inside."""
    sample = field(points, signed_body_distance(points, vertex, geometry), want_colour=False)
    if field.residual_head is None:
        return sample.raw_density + silhouette_shift(field.beta, field.config.silhouette_radius)
    # With density that is not tied to the skin, the same level of the whole density.
    share = (sample.density * field.beta).clamp(1e-6, 1 - 1e-6)
    return torch.logit(share) + silhouette_shift(field.beta, field.config.silhouette_radius)


def closed_crevices(values: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "x y z"]:
    """Fills in points until no insides meet across the diagonal of a cell's face alone: two sheets would share an edge.

    What is filled in gets a value just above zero, for values whose scale is one.
    """
    values = values.copy()
    for _ in range(32):
        inside = values > 0
        fill = np.zeros_like(inside)
        for u, v in ((0, 1), (1, 2), (0, 2)):
            views = []
            for du, dv in ((0, 0), (0, 1), (1, 0), (1, 1)):
                part = [slice(None)] * 3
                part[u] = slice(1, None) if du else slice(None, -1)
                part[v] = slice(1, None) if dv else slice(None, -1)
                views.append(tuple(part))
            a, b, c, d = (inside[view] for view in views)
            crossed = (a == d) & (b == c) & (a != b)
            for view in views:
                fill[view] |= crossed & ~inside[view]
        if not fill.any():
            break
        values[fill] = JUST_INSIDE
    return values


def surface_net(
    values: Float[np.ndarray, "x y z"],
) -> tuple[Float[np.ndarray, "vertices 3"], Int[np.ndarray, "triangles 3"]]:
    """The surface on which `values` is zero, by surface nets (Gibson, "Constrained elastic surface nets", 1998).

    The dual of marching cubes: one vertex in each cell that the surface passes, at the mean of its crossings of the
    cell's edges, and two triangles across each edge of the grid that it crosses. The border must not be crossed.

    Returns:
        Vertices in grid coordinates and triangles that turn counter-clockwise seen from where values are negative.
    """
    inside = values > 0
    edges = [(a, b, axis) for axis in range(3) for a in range(8) if not (a >> axis) & 1 for b in (a | 1 << axis,)]
    count = _corner(inside, 0).astype(np.int8)
    for corner in range(1, 8):
        count += _corner(inside, corner)
    cells = np.argwhere((count > 0) & (count < 8))
    number = np.full(count.shape, -1)
    number[tuple(cells.T)] = np.arange(len(cells))

    total, crossings = np.zeros((len(cells), 3)), np.zeros(len(cells))
    at = [values[tuple((cells + _offset(corner)).T)].astype(np.float64) for corner in range(8)]
    for a, b, axis in edges:
        crossed = (at[a] > 0) != (at[b] > 0)
        step = at[a][crossed] / (at[a][crossed] - at[b][crossed])
        point = np.tile(_offset(a).astype(np.float64), (len(step), 1))
        point[:, axis] += step
        total[crossed] += point
        crossings[crossed] += 1
    vertices = cells + total / crossings[:, None]

    faces = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        ahead = [slice(None)] * 3
        behind = [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        for falls in (True, False):
            low, high = inside[tuple(behind)], inside[tuple(ahead)]
            edge = np.argwhere(low & ~high if falls else ~low & high)
            du, dv = np.eye(3, dtype=int)[u], np.eye(3, dtype=int)[v]
            quad = [number[tuple((edge - back).T)] for back in (du + dv, dv, 0 * du, du)]
            if not falls:
                quad.reverse()
            faces += [np.stack([quad[0], quad[1], quad[2]], axis=1), np.stack([quad[0], quad[2], quad[3]], axis=1)]
    return vertices, np.concatenate(faces)


def _offset(corner: int) -> np.ndarray:
    return np.array([corner & 1, corner >> 1 & 1, corner >> 2 & 1])


def _corner(inside: Bool[np.ndarray, "x y z"], corner: int) -> Bool[np.ndarray, "cx cy cz"]:
    """The grid's values at one corner of every cell."""
    dx, dy, dz = _offset(corner)
    x, y, z = inside.shape
    return inside[dx : x - 1 + dx, dy : y - 1 + dy, dz : z - 1 + dz]


def largest_piece(
    vertices: Float[np.ndarray, "vertices 3"], faces: Int[np.ndarray, "triangles 3"]
) -> tuple[Float[np.ndarray, "kept 3"], Int[np.ndarray, "triangles 3"]]:
    """The connected piece of a mesh with the most vertices."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(vertices),) * 2)
    _, piece = connected_components(graph, directed=False)
    kept = piece == np.bincount(piece).argmax()
    number = np.cumsum(kept) - 1
    return vertices[kept], number[faces[kept[faces[:, 0]]]]


def _from_skin(
    geometry: SkinnedGeometry, to_shape: torch.Tensor, vertices: Float[np.ndarray, "vertices 3"]
) -> tuple[Float[np.ndarray, "vertices 24"], Float[np.ndarray, "vertices 3"]]:
    """Weights and shape offset of points near the skin: means over the nearest vertices, the nearer the heavier.

    Where the avatar is rendered the nearest vertex decides alone, which on a mesh would show as creases.
    """
    distance, index = cKDTree(geometry.vertices.double().numpy()).query(vertices, k=NEIGHBOURS)
    share = 1 / np.maximum(distance, 1e-4) ** 2
    share /= share.sum(axis=1, keepdims=True)
    weights = geometry.bone_weights.numpy()
    weights = np.pad(weights, ((0, 0), (0, 24 - weights.shape[1])))
    return tuple(np.einsum("vk,vkc->vc", share, array[index]) for array in (weights, to_shape.numpy()))
