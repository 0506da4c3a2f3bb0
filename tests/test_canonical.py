"""Inverse skinning and distances by Warp against the plain way: values and all gradients."""

import pytest
import torch
from capsule_people import geometry, person, posed_vertices

from renderer.canonical_warp import canonical_points
from renderer.skinning import inverse_skin, signed_body_distance, to_root


@pytest.mark.parametrize("shaped", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_values_and_gradients_are_those_of_the_plain_way(shaped, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(4)
    body = geometry(4, torch.float32)
    turns, trans = (0.3 * torch.randn(2, 3, 3)).requires_grad_(), torch.randn(2, 3).requires_grad_()
    offset = (0.01 * torch.randn_like(body.vertices)).requires_grad_() if shaped else None
    posed = person(body, turns, trans, offset)
    frame = torch.arange(2).repeat_interleave(3000)
    vertex = torch.randint(len(body.vertices), (6000,))
    with torch.no_grad():
        surface = torch.stack([posed_vertices(posed, b) for b in range(2)])[frame, vertex]
    # Within the plane's range, beyond it and between, on both sides of the skin.
    points = (surface + 0.04 * torch.randn(6000, 3)).requires_grad_()
    learned = [points, turns, trans, *([offset] if shaped else [])]
    by_x, by_distance = torch.randn(6000, 3), torch.randn(6000)

    def differentiated(x_ref, distance):
        loss = (x_ref * by_x).sum() + (distance * by_distance).sum()
        return x_ref.detach(), distance.detach(), *torch.autograd.grad(loss, learned, retain_graph=True)

    x_ref = inverse_skin(to_root(points, frame, posed), frame, vertex, posed)
    plain = differentiated(x_ref, signed_body_distance(x_ref, vertex, body))
    fast = differentiated(*canonical_points(points, frame, vertex, posed))
    for expected, found in zip(plain, fast, strict=True):
        assert (found - expected).norm() < 1e-4 * expected.norm()
