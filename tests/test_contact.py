"""Interpenetration against spheres worked out by hand and against ray parity on body meshes."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from avatarpose.body import load_body, vertex_normals
from avatarpose.body.contact import Surface, penetration


def ball(radius: float, centre=(0.0, 0.0, 0.0)) -> Surface:
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    return Surface(mesh.vertices + np.array(centre), mesh.vertices / radius)


def test_two_balls():
    # Radii 0.2, centres 0.3 apart: the deepest point of each is 0.1 below the other's surface, and the lens has the
    # volume pi (4 r + d) (2 r - d)^2 / 12 = pi * 1.1 * 0.01 / 12 m^3 = 2.880 litres.
    depth, volume = penetration(ball(0.2), ball(0.2, (0.3, 0, 0)))
    assert depth == pytest.approx(0.1, abs=0.002)
    assert volume == pytest.approx(2.880, rel=0.03)


def test_apart():
    assert penetration(ball(0.2), ball(0.2, (0.41, 0, 0))) == (0.0, 0.0)


def test_ball_within_a_ball():
    depth, volume = penetration(ball(0.3), ball(0.1))
    assert depth == pytest.approx(0.3 - 0.1, abs=0.004)  # every vertex of the small one is 0.2 below the large surface
    assert volume == pytest.approx(1000 * 4 / 3 * np.pi * 0.1**3, rel=0.03)


def test_bodies_as_by_ray_parity():
    body = load_body()
    vertices = body.vertices(torch.zeros(10), torch.zeros(72), torch.zeros(3))
    first = Surface(vertices.numpy(), vertex_normals(vertices, body.faces).numpy())
    second = Surface(first.vertices + np.array([0.55, 0.02, 0.05]), first.normals)  # one's hand in the other's chest
    depth, _ = penetration(first, second)
    oracle = trimesh.Trimesh(second.vertices, body.faces.numpy(), process=False)
    points = first.vertices[np.all((first.vertices > oracle.bounds[0]) & (first.vertices < oracle.bounds[1]), axis=1)]
    inside = oracle.contains(points)
    assert inside.sum() > 50
    agree = (second.depth(points) > 0) == inside
    assert agree.mean() > 0.995
    reverse = trimesh.Trimesh(first.vertices, body.faces.numpy(), process=False)
    back = second.vertices[reverse.contains(second.vertices)]
    by_rays = max(
        cKDTree(mesh.vertices).query(chosen)[0].max()
        for mesh, chosen in ((oracle, points[inside]), (reverse, back))
    )
    assert depth == pytest.approx(by_rays, abs=0.004)
