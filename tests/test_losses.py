"""Losses against numbers worked out by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from avatarpose.register.priors import acceleration_cost
from optimize import losses
from optimize.pixels import blur_inside, edge_band
from optimize.stages import Window


def test_colour_loss_is_half_the_square_below_delta_and_ignores_uncoloured_rays():
    rendered = torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0]])
    target = torch.tensor([[0.45, 0.5, 0.5], [0.0, 0.0, 0.0]])
    only_first = losses.colour_loss(rendered, target, torch.tensor([True, False]), delta=0.1)
    # 0.5 * 0.05^2 in one of three channels
    assert only_first.item() == pytest.approx(0.5 * 0.05**2 / 3)
    both = losses.colour_loss(rendered, target, torch.tensor([True, True]), delta=0.1)
    # second ray: 0.1 * (1 - 0.05) in one of three channels
    assert both.item() == pytest.approx((0.5 * 0.05**2 / 3 + 0.1 * 0.95 / 3) / 2)


def test_cross_entropy_punishes_missing_and_surplus_opacity_alike():
    alpha = torch.tensor([0.8, 0.2, 0.3])
    label = torch.tensor([1, 0, 2])
    # both known pixels have probability 0.8 of their label; the unknown one does not count
    assert losses.alpha_cross_entropy(alpha, label).item() == pytest.approx(-math.log(0.8), rel=1e-5)


def test_cross_entropy_is_finite_at_saturated_opacity():
    alpha = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = losses.alpha_cross_entropy(alpha, torch.tensor([1, 0]))
    assert loss.item() == pytest.approx(-math.log(1e-3), rel=1e-4)


def test_person_cross_entropy_sums_over_people_and_skips_unknown_pixels():
    person_alpha = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    loss = losses.person_cross_entropy(person_alpha, torch.tensor([0, -2]))
    assert loss.item() == pytest.approx(-2 * math.log(0.9), rel=1e-5)


def test_hard_surface_is_zero_at_zero_and_one_and_largest_at_half():
    assert losses.hard_surface(torch.tensor([0.0, 1.0])).item() == pytest.approx(0.0, abs=1e-6)
    # at one half: -log(2 e^-0.5) + log(1 + e^-1)
    expected = -math.log(2 * math.exp(-0.5)) + math.log(1 + math.exp(-1))
    assert losses.hard_surface(torch.tensor([0.5])).item() == pytest.approx(expected, rel=1e-5)


def test_layer_entropy_of_a_shared_pixel():
    # two people at one half each: -0.5 log 0.5 each
    assert losses.layer_entropy(torch.tensor([[0.5, 0.5]])).item() == pytest.approx(0.5 * math.log(2), rel=1e-5)
    assert losses.layer_entropy(torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.0, abs=1e-6)


def test_acceleration_is_in_physical_units():
    # x = 20 t^2 metres has 40 m/s^2, one unit, at any frame rate: sqrt(2) - 1
    for fps in (20.0, 60.0):
        t = torch.arange(5, dtype=torch.float64) / fps
        positions = torch.zeros(1, 5, 1, 3, dtype=torch.float64)
        positions[0, :, 0, 0] = 20 * t**2
        loss = losses.mean_acceleration(positions, torch.ones(1, 3, dtype=torch.bool), fps)
        assert loss.item() == pytest.approx(math.sqrt(2) - 1, rel=1e-9)


def test_constant_velocity_and_constant_turn_cost_nothing():
    import roma

    t = torch.arange(5, dtype=torch.float64)
    positions = torch.stack([t, 2 * t, -t], dim=-1)[None, :, None]
    there = torch.ones(1, 3, dtype=torch.bool)
    assert losses.mean_acceleration(positions, there, 20.0).item() == pytest.approx(0.0, abs=1e-12)
    turns = roma.rotvec_to_rotmat(torch.stack([0 * t, 0.3 * t, 0 * t], dim=-1))[None, :, None]
    assert losses.mean_angular_acceleration(turns, there, 20.0).item() == pytest.approx(0.0, abs=1e-12)


def test_angular_acceleration_of_a_small_jump():
    import roma

    fps, jump = 20.0, 0.015
    angles = torch.tensor([0.0, 0.0, jump], dtype=torch.float64)
    turns = roma.rotvec_to_rotmat(torch.stack([angles * 0, angles, angles * 0], dim=-1))[None, :, None]
    loss = losses.mean_angular_acceleration(turns, torch.ones(1, 1, dtype=torch.bool), fps)
    # 0.015 rad between two frames after rest: 0.015 * 400 = 6 rad/s^2, 0.04 units
    assert loss.item() == pytest.approx(math.sqrt(1 + 0.04**2) - 1, rel=1e-3)


def test_missing_frames_carry_no_acceleration():
    positions = torch.randn(1, 5, 2, 3)
    assert losses.mean_acceleration(positions, torch.zeros(1, 3, dtype=torch.bool), 20.0).item() == 0.0


def test_a_long_capture_is_posed_around_the_drawn_frames():
    valid = torch.ones(2, 100, dtype=torch.bool)
    triple = torch.ones(2, 98, dtype=torch.bool)
    triple[1, 59] = False  # frames 59 to 61 of one person
    problem = SimpleNamespace(poses=SimpleNamespace(valid=valid), triple=triple)
    window = Window.around(problem, [0, 7, 60, 99])
    assert window.frames == [0, 1, 2, 6, 7, 8, 59, 60, 61, 97, 98, 99]
    assert [window.frames[i] for i in window.drawn] == [0, 7, 60, 99]
    places = window.triple.nonzero().tolist()
    assert places == [[0, 0], [0, 3], [0, 6], [0, 9], [1, 0], [1, 3], [1, 9]]
    short = SimpleNamespace(poses=SimpleNamespace(valid=valid[:, :20]), triple=triple[:, :18])
    assert Window.around(short, [3, 5]).frames == list(range(20))
    # Over all frames in turn, the windows see every acceleration once, as the whole capture does.
    positions = torch.randn(2, 100, 4, 3).cumsum(dim=1)
    whole = acceleration_cost(positions, triple, 20.0, 40.0)
    drawn = [list(range(f, f + 4)) for f in range(1, 97, 4)] + [[97, 98]]
    parts = [Window.around(problem, frames) for frames in drawn]
    seen = sum(acceleration_cost(positions[:, part.frames], part.triple, 20.0, 40.0) for part in parts)
    torch.testing.assert_close(seen, whole)


def test_edge_band_reaches_its_width_on_both_sides():
    mask = torch.zeros(20, 20, dtype=torch.bool).numpy()
    mask[:, 10:] = True
    band = edge_band(mask, 2)
    assert band[10].nonzero()[0].tolist() == [8, 9, 10, 11]


def test_blur_mixes_no_background_in():
    mask = torch.zeros(20, 20, dtype=torch.bool).numpy()
    mask[:, 10:] = True
    image = mask[..., None].astype("float32").repeat(3, axis=2)
    blurred = blur_inside(image, mask, 2.0)
    assert blurred[mask].min() == pytest.approx(1.0, abs=1e-5)
    assert blurred[~mask].max() == 0.0


def test_patch_loss_hands_whole_patches_to_the_network():
    from optimize.perceptual import patch_loss

    seen = []

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append((a, b))
        return (a - b).abs().mean(dim=(1, 2, 3))

    rendered = torch.arange(2 * 9 * 3, dtype=torch.float32).reshape(18, 3) / 54
    target = rendered.clone()
    target[9:] = rendered[9:] - 0.1
    # the second patch is 0.1 off, 0.2 after the stretch to -1..1; mean over two patches
    assert patch_loss(distance, rendered, target, 3).item() == pytest.approx(0.1, rel=1e-4)
    patch = seen[0][0]
    assert patch.shape == (2, 3, 3, 3)
    assert torch.allclose(patch[0, :, 1, 2], 2 * rendered[5] - 1)
