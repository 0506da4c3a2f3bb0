"""Inverse skinning against the definition, its gradients against autograd through it, and the signed distance."""

import pytest
import torch
import trimesh
from capsule_people import geometry, person, transforms

from renderer.skinning import (
    SkinnedGeometry,
    inverse_skin,
    rigid_inverse,
    signed_body_distance,
    to_root,
    world_normals,
)


def by_definition(points, frame, vertex, posed):
    """x with sum_j w_j T_j (x + shape offset) = point, solved point by point in the world frame."""
    body = posed.geometry
    solved = []
    for point, b, v in zip(points, frame.tolist(), vertex.tolist(), strict=True):
        blend = sum(
            w * posed.T_world_canonical[b, j] for w, j in zip(body.skin_weights[v], body.skin_indices[v], strict=True)
        )
        x = torch.linalg.solve(blend[:3, :3], point - blend[:3, 3])
        solved.append(x if posed.shape_offset is None else x - posed.shape_offset[v])
    return torch.stack(solved)


@pytest.fixture(scope="module")
def body() -> SkinnedGeometry:
    return geometry()


@pytest.fixture
def pose():
    generator = torch.Generator().manual_seed(3)
    turns = 0.6 * torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
    trans = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    return turns.requires_grad_(), trans.requires_grad_()


def points_near(posed, count=12):
    frame = torch.arange(count) * len(posed.T_world_root) // count
    vertex = torch.arange(count) * 37 % len(posed.geometry.vertices)
    rest = posed.geometry.vertices[vertex] + 0.03 * posed.geometry.normals[vertex]
    blend = torch.einsum(
        "nk,nkab->nab",
        posed.geometry.skin_weights[vertex],
        posed.T_world_canonical[frame[:, None], posed.geometry.skin_indices[vertex]],
    )
    world = (blend[:, :3, :3] @ rest[..., None])[..., 0] + blend[:, :3, 3]
    return world.detach(), frame, vertex, rest


def test_inverse_skin_takes_skinned_points_back(body, pose):
    posed = person(body, *pose)
    points, frame, vertex, rest = points_near(posed)
    x_ref = inverse_skin(to_root(points, frame, posed), frame, vertex, posed)
    torch.testing.assert_close(x_ref, rest, atol=1e-12, rtol=0)


def test_float32_is_exact_to_a_hundredth_of_a_millimetre(body, pose):
    turns, trans = (value.detach().float() for value in pose)
    single = geometry(dtype=torch.float32)
    points, frame, vertex, rest = points_near(person(body, *pose))
    posed = person(single, turns, trans)
    x_ref = inverse_skin(to_root(points.float(), frame, posed), frame, vertex, posed)
    assert (x_ref - rest.float()).norm(dim=1).max() < 1e-5


def test_values_and_gradients_agree_with_the_definition(body, pose):
    turns, trans = pose
    shape_offset = (0.01 * torch.randn_like(body.vertices)).requires_grad_()
    posed = person(body, turns, trans, shape_offset)
    points, frame, vertex, _ = points_near(posed)
    points.requires_grad_()
    leaves = (points, turns, trans, shape_offset)
    weight = torch.randn_like(points)

    fast = inverse_skin(to_root(points, frame, posed), frame, vertex, posed)
    slow = by_definition(points, frame, vertex, posed)
    torch.testing.assert_close(fast, slow, atol=1e-12, rtol=0)
    for ours, theirs in zip(
        torch.autograd.grad((fast * weight).sum(), leaves, retain_graph=True),
        torch.autograd.grad((slow * weight).sum(), leaves),
        strict=True,
    ):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)


def test_root_orientation_and_translation_get_the_gradient_of_finite_differences(body, pose):
    turns, trans = (value.detach() for value in pose)
    points, frame, vertex, _ = points_near(person(body, turns, trans))

    def summed(turns, trans):
        posed = person(body, turns, trans)
        x_ref = inverse_skin(to_root(points, frame, posed), frame, vertex, posed)
        return (x_ref * torch.linspace(1, 2, x_ref.numel(), dtype=x_ref.dtype).view_as(x_ref)).sum()

    for place in ((0, 0, 1), (1, 0, 2)):  # frame, root, axis
        step = torch.zeros_like(turns)
        step[place] = 1e-6
        difference = (summed(turns + step, trans) - summed(turns - step, trans)) / 2e-6
        gradient = torch.autograd.functional.jacobian(lambda value: summed(value, trans), turns)[place]
        assert abs(difference) > 0.1
        assert gradient.item() == pytest.approx(difference.item(), rel=1e-6)
    step = torch.zeros_like(trans)
    step[1, 0] = 1e-6
    difference = (summed(turns, trans + step) - summed(turns, trans - step)) / 2e-6
    gradient = torch.autograd.functional.jacobian(lambda value: summed(turns, value), trans)[1, 0]
    assert abs(difference) > 0.1
    assert gradient.item() == pytest.approx(difference.item(), rel=1e-6)


def test_gradcheck(body, pose):
    turns, trans = pose
    points, frame, vertex, _ = points_near(person(body, turns, trans), count=4)

    def skinned(points, turns, trans):
        posed = person(body, turns, trans)
        return inverse_skin(to_root(points, frame, posed), frame, vertex, posed)

    assert torch.autograd.gradcheck(skinned, (points.requires_grad_(), turns, trans))


def test_frames_may_come_in_any_order(body, pose):
    posed = person(body, *pose)
    points, frame, vertex, rest = points_near(posed)
    shuffled = torch.randperm(len(points))
    x_ref = inverse_skin(
        to_root(points[shuffled], frame[shuffled], posed), frame[shuffled], vertex[shuffled], posed
    )
    torch.testing.assert_close(x_ref, rest[shuffled], atol=1e-12, rtol=0)
    ordered = world_normals(frame, vertex, posed)
    torch.testing.assert_close(world_normals(frame[shuffled], vertex[shuffled], posed), ordered[shuffled])


def test_no_points_at_all(body, pose):
    posed = person(body, *pose)
    none, empty = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, dtype=torch.long)
    x_ref = inverse_skin(to_root(none, empty, posed), empty, empty, posed)
    assert x_ref.shape == (0, 3)
    x_ref.sum().backward()
    assert signed_body_distance(x_ref, empty, body).shape == (0,)
    assert world_normals(empty, empty, posed).shape == (0, 3)


def test_bones_turned_against_each_other_give_finite_numbers(body):
    turns = torch.zeros(1, 3, 3, dtype=torch.float64)
    turns[0, 1, 1] = torch.pi  # the blend of a bone and itself turned by half a turn is singular
    turns.requires_grad_()
    half = SkinnedGeometry(
        body.vertices, body.normals, body.skin_indices, torch.tensor([0.5, 0.5, 0, 0]).double().expand(642, 4)
    )
    posed = person(half, turns, torch.zeros(1, 3, dtype=torch.float64))
    frame = torch.zeros(5, dtype=torch.long)
    x_ref = inverse_skin(to_root(torch.rand(5, 3).double(), frame, posed), frame, frame, posed)
    x_ref.sum().backward()
    assert torch.isfinite(x_ref).all()
    assert torch.isfinite(turns.grad).all()


def test_rigid_inverse(pose):
    _, T_world_root = transforms(*pose)
    eye = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    torch.testing.assert_close(rigid_inverse(T_world_root) @ T_world_root, eye, atol=1e-12, rtol=0)


def test_world_normals_turn_with_the_body(body):
    turns = torch.zeros(1, 3, 3, dtype=torch.float64)
    turns[0, 0, 2] = torch.pi / 2  # x to y, y to -x
    posed = person(body, turns, torch.ones(1, 3, dtype=torch.float64))
    vertex = torch.arange(642)
    normals = world_normals(torch.zeros_like(vertex), vertex, posed)
    x, y, z = body.normals.unbind(dim=1)
    torch.testing.assert_close(normals, torch.stack([-y, x, z], dim=1), atol=1e-12, rtol=0)


def test_signed_distance_of_one_vertex_in_numbers():
    one = torch.ones(1, 1)
    flat = SkinnedGeometry(
        torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1, 1, dtype=torch.long), one
    )
    cases = [
        ((0.0, 0.0, 0.010), 0.010),  # near: to the plane
        ((0.020, 0.0, -0.015), -0.015),
        ((0.0, 0.0, 0.060), 0.060),  # far: to the vertex
        ((0.036, 0.0, -0.048), -0.060),
        ((0.060, 0.0, 0.0), 0.0),  # in the tangent plane a vertex decides nothing
        ((0.080, 0.0, 0.006), 0.012),  # close to it: 2 n.r
        # halfway from 30 to 50 mm: the mean of 24 mm to the plane and 40 mm to the vertex
        ((0.032, 0.0, 0.024), 0.032),
    ]
    points = torch.tensor([point for point, _ in cases])
    expected = torch.tensor([distance for _, distance in cases])
    found = signed_body_distance(points, torch.zeros(len(cases), dtype=torch.long), flat)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-6)


def test_signed_distance_of_a_sphere_through_the_whole_shell():
    ball = trimesh.creation.icosphere(4, radius=0.3)
    vertices = torch.from_numpy(ball.vertices.copy())
    ones = torch.ones(len(vertices), 1, dtype=torch.float64)
    sphere = SkinnedGeometry(vertices, vertices / 0.3, torch.zeros(len(vertices), 1, dtype=torch.long), ones)
    direction = torch.nn.functional.normalize(torch.randn(2000, 3, dtype=torch.float64), dim=1)
    depth = torch.linspace(-0.055, 0.055, 2000, dtype=torch.float64)
    points = direction * (0.3 + depth)[:, None]
    vertex = torch.cdist(points, vertices).argmin(dim=1)
    # Vertices lie 20 mm apart: a point up to 14 mm aside of its vertex is that much farther from it than from the skin.
    assert (signed_body_distance(points, vertex, sphere) - depth).abs().max() < 2.5e-3


def test_signed_distance_is_differentiable_and_continuous(body):
    vertex = torch.zeros(6, dtype=torch.long)
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(6, 3, generator=generator, dtype=torch.float64), dim=1)
    lengths = torch.tensor([0.01, 0.029, 0.035, 0.041, 0.052, 0.06], dtype=torch.float64)
    points = (body.vertices[0] + lengths[:, None] * directions).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: signed_body_distance(x, vertex, body), (points,))
    # Along a path through all lengths and angles no step of 0.1 mm changes the distance by more than 0.5 mm.
    t = torch.linspace(0, 1, 20001, dtype=torch.float64)
    path = body.vertices[0] + torch.stack([(0.08 * t), 0.08 * t * torch.cos(25 * t), 0.08 * t * torch.sin(25 * t)], 1)
    distance = signed_body_distance(path, torch.zeros(len(t), dtype=torch.long), body)
    assert (distance.diff().abs() / path.diff(dim=0).norm(dim=1)).max() < 5
