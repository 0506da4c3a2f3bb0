"""The exported surfaces: the avatar's level set on the skin's own triangles, and taken out of the volume."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import trimesh
from exported_people import make_bodies, make_capture, write_avatars
from scipy.spatial import cKDTree

from avatarpose.body import load_body, vertex_normals
from avatarpose.sequence import Sequence
from optimize.pictures import load_avatars
from renderer.shell import Shell
from renderer.skinning import signed_body_distance
from viewer.export.exporter import ExportSettings, export_people
from viewer.export.surfaces import (
    closed_crevices,
    displaced,
    extracted,
    largest_piece,
    learned_surface,
    surface_net,
    thickness,
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """(avatars, bodies, body)"""
    folder, bodies, body = make_capture(tmp_path_factory.mktemp("surfaces") / "capture")
    return load_avatars(Sequence.open(folder), ["p0", "p1"], body)[0], bodies, body


def depth_in_metres(points: np.ndarray, geometry, field) -> np.ndarray:
    """Distance below the visible surface, by the field's definition: offset less the signed distance to the skin."""
    points = torch.as_tensor(points, dtype=torch.float32)
    vertex, distance = Shell(geometry.vertices, 0.08).query(points)
    assert torch.isfinite(distance).all()
    with torch.no_grad():
        return (field.offset(points) - signed_body_distance(points, vertex, geometry)).numpy()


def test_displaced_skin_is_the_level_set(learned) -> None:
    avatars = learned[0]
    geometry, field = avatars.geometry[0], avatars.fields[0]
    points = displaced(geometry, field)
    distance = ((points - geometry.vertices) * geometry.normals).sum(dim=1)
    assert float(distance.std()) > 0.001  # the offset varies
    assert float((field.offset(points) - distance).abs().max()) < 1e-4
    # In folds, where another vertex is nearer (between fingers, behind ears), it lies below the level set, unseen.
    depth = depth_in_metres(points.numpy(), geometry, field)
    assert np.median(np.abs(depth)) < 2e-4 and np.mean(np.abs(depth) < 2e-3) > 0.7 and depth.min() > -2e-4


def test_a_field_inside_the_skin_does_not_turn_toes_inside_out(learned) -> None:
    """Fingers and toes thinner than twice the offset keep their volume's sign."""
    avatars, _, body = learned
    geometry, field = avatars.geometry[0], copy.deepcopy(avatars.fields[0])
    torch.nn.init.zeros_(field.offset_head.weight)
    torch.nn.init.constant_(field.offset_head.bias, -9.0)  # the offset's least: 10 mm inside
    moved = displaced(geometry, field) - geometry.vertices
    inwards = -(moved * geometry.normals).sum(dim=1)
    assert float(inwards.max()) == pytest.approx(0.01, abs=1e-4) and float(inwards.min()) > 0
    thin = thickness(geometry)
    assert 0.05 < float((thin < 0.02).float().mean()) < 0.6 and float((inwards / thin).max()) < 0.201
    before, after = (vertex_normals(v, body.faces) for v in (geometry.vertices, geometry.vertices + moved))
    kept = float(((before * after).sum(dim=1) > 0).float().mean())
    plain = geometry.vertices - 0.01 * geometry.normals
    turned = float(((before * vertex_normals(plain, body.faces)).sum(dim=1) > 0).float().mean())
    assert kept > 0.95 and turned < kept - 0.02, (kept, turned)


def test_volume_is_the_level_set_in_one_piece(learned) -> None:
    avatars = learned[0]
    geometry, field = avatars.geometry[1], avatars.fields[1]
    vertices, faces = extracted(geometry, field, cell=0.012)
    depth = depth_in_metres(vertices, geometry, field)
    assert np.median(np.abs(depth)) < 1e-3 and np.quantile(np.abs(depth), 0.95) < 4e-3
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.body_count == 1 and mesh.is_winding_consistent and mesh.is_watertight
    skin = trimesh.Trimesh(geometry.vertices.numpy(), load_body().faces.numpy(), process=False)
    assert 1.1 * skin.volume < mesh.volume < 1.8 * skin.volume


def test_shape_and_light_of_the_result(learned) -> None:
    """The avatar was learned with another shape and colourless light; the result's shape and mean light are taken."""
    avatars, bodies, body = learned
    made = learned_surface("body", avatars, 0, body, bodies.betas[0])
    wanted = body.rest_vertices(torch.as_tensor(bodies.betas[0])).numpy()
    np.testing.assert_allclose(made.vertices + made.shape_offset, wanted, atol=1e-6)
    assert np.abs(made.shape_offset).max() > 1e-3
    points = displaced(avatars.geometry[0], avatars.fields[0])
    with torch.no_grad():
        albedo = avatars.fields[0](points, torch.zeros(len(points))).albedo.numpy()
    np.testing.assert_allclose(made.colours, np.clip(albedo * [1.1, 1.0, 0.9], 0, 1), atol=1e-6)


def test_surfaces_move_together(learned, tmp_path_factory) -> None:
    """In another pose the volume still lies on the displaced skin, so weights and shape were carried over rightly."""
    folder, bodies, body = make_capture(tmp_path_factory.mktemp("move") / "capture", avatars=False)
    poses = bodies.poses.copy()
    poses[0, 2, 3:] = 0
    poses[0, 2, 3 * 16 + 2], poses[0, 2, 3 * 4] = -0.7, 0.9
    values = (torch.as_tensor(value) for value in (bodies.betas[0], poses[0, 2], bodies.trans[0, 2]))
    bodies.poses[0, 2], bodies.joints[0, 2] = poses[0, 2], body.joints(*values).numpy()
    bodies.save(folder / "results" / "refined.npz")
    write_avatars(folder / "results" / "avatars", body, make_bodies(body))
    found = {}
    for kind in ("avatar", "volume"):
        settings = ExportSettings("ply", folder / kind, people=("p0",), frames="4", surface=kind)
        (path,) = export_people(folder, settings).files
        found[kind] = trimesh.load(path, process=False)
    samples = trimesh.sample.sample_surface(found["avatar"], 300_000, seed=0)[0]  # some 2.5 mm apart
    distance, _ = cKDTree(samples).query(found["volume"].vertices)
    assert np.median(distance) < 2.5e-3 and np.quantile(distance, 0.9) < 6e-3


def test_a_sphere_comes_out_round_and_outwards() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(24.0)] * 3, indexing="ij"), axis=-1)
    vertices, faces = surface_net(8.0 - np.linalg.norm(grid - [11.2, 11.5, 11.9], axis=-1))
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.02)
    assert np.abs(np.linalg.norm(vertices - [11.2, 11.5, 11.9], axis=1) - 8).max() < 0.2


def test_insides_that_touch_along_an_edge_are_joined() -> None:
    values = np.full((8, 8, 8), -1.0)
    values[2:4, 2:4, 3:5] = values[4:6, 4:6, 3:5] = 1
    as_it_is = trimesh.Trimesh(*surface_net(values), process=False)
    joined = trimesh.Trimesh(*surface_net(closed_crevices(values)), process=False)
    assert not as_it_is.is_watertight and joined.is_watertight and joined.body_count == 1


def test_only_the_largest_piece_is_kept() -> None:
    small, large = trimesh.creation.icosphere(2, 0.3), trimesh.creation.icosphere(3, 0.2)
    vertices = np.concatenate([small.vertices, large.vertices + np.array([2, 0, 0])])
    kept, faces = largest_piece(vertices, np.concatenate([small.faces, large.faces + len(small.vertices)]))
    assert len(kept) == len(large.vertices) and np.allclose(kept.mean(axis=0), [2, 0, 0])
    np.testing.assert_allclose(trimesh.Trimesh(kept, faces).volume, large.volume)
