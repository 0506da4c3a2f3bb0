"""Compositing against closed forms, and against a slow loop that follows the definition."""

import math

import pytest
import torch

from renderer.compositing import composite as composite_opacity
from renderer.compositing import depth_order, sum_over_rays

STEP = 0.01


def composite(ray, z, person, density, colour, step, rays, people):
    """Opacities, and colours with them."""
    result = composite_opacity(ray, z, person, density, step, rays, people)
    if colour is not None:
        result.colour = sum_over_rays(ray, result.weights[:, None] * colour, rays)
    return result


def one_ray(z, person, density, colour=None):
    z, density = torch.tensor(z, dtype=torch.float64), torch.tensor(density, dtype=torch.float64)
    colour = None if colour is None else torch.tensor(colour, dtype=torch.float64)
    return composite(torch.zeros(len(z), dtype=torch.long), z, torch.tensor(person), density, colour, STEP, 1, 2)


def slow_twin(ray, z, person, density, colour, step, rays, people):
    """Sample by sample, ray by ray; samples of equal depth make one slab."""
    weights = torch.zeros_like(density)
    for r in range(rays):
        mine = torch.nonzero(ray == r)[:, 0]
        through = torch.ones((), dtype=density.dtype)
        for depth in sorted(set(z[mine].tolist())):
            slab = mine[z[mine] == depth]
            total = density[slab].sum()
            for index in slab.tolist():
                if total > 0:
                    weights[index] = through * (1 - torch.exp(-total * step)) * density[index] / total
            through = through * torch.exp(-total * step)
    alpha = torch.stack([weights[ray == r].sum() for r in range(rays)])
    parts = [[weights[(ray == r) & (person == p)].sum() for p in range(people)] for r in range(rays)]
    colours = torch.stack([(weights[:, None] * colour)[ray == r].sum(dim=0) for r in range(rays)])
    depth = torch.stack([(weights * z)[ray == r].sum() for r in range(rays)]) / alpha.clamp(min=1e-6)
    return colours, alpha, torch.stack([torch.stack(part) for part in parts]), depth, weights


def random_samples(count=300, rays=20, people=3, ties=False, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)
    ray = torch.randint(rays - 2, (count,), generator=generator)  # two rays stay empty
    z = 1 + torch.rand(count, generator=generator, dtype=dtype)
    if ties:
        z = torch.round(z * 10) / 10
    person = torch.randint(people, (count,), generator=generator)
    density = 300 * torch.rand(count, generator=generator, dtype=dtype) ** 4
    density[::17] = 0
    colour = torch.rand(count, 3, generator=generator, dtype=dtype)
    return ray, z, person, density, colour, STEP, rays, people


def test_two_slabs_in_closed_form():
    # 0.2 m of density 3 in front of 0.1 m of density 8, seen through a gap
    front, back = 20, 10
    z = [1 + STEP * (i + 0.5) for i in range(front)] + [2 + STEP * (i + 0.5) for i in range(back)]
    person = [0] * front + [1] * back
    red, blue = [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]
    result = one_ray(z, person, [3.0] * front + [8.0] * back, [red] * front + [blue] * back)
    near, far = 1 - math.exp(-3 * 0.2), math.exp(-3 * 0.2) * (1 - math.exp(-8 * 0.1))
    torch.testing.assert_close(result.person_alpha[0], torch.tensor([near, far], dtype=torch.float64))
    torch.testing.assert_close(result.alpha[0].item(), 1 - math.exp(-3 * 0.2 - 8 * 0.1))
    torch.testing.assert_close(result.colour[0], torch.tensor([near, 0.0, far], dtype=torch.float64))
    torch.testing.assert_close(result.opacity[0].item(), 1 - math.exp(-0.03))


def test_the_depth_of_a_thin_wall_is_where_it_stands():
    result = one_ray([1.5, 2.5], [0, 1], [5000.0, 5000.0])
    assert result.depth.item() == pytest.approx(1.5, abs=1e-6)


def test_two_people_in_the_same_space_share_it_by_density():
    z = [1 + STEP * (i // 2 + 0.5) for i in range(20)]
    result = one_ray(z, [0, 1] * 10, [2.0, 6.0] * 10)
    total = 1 - math.exp(-8 * 0.1)
    torch.testing.assert_close(result.person_alpha[0], torch.tensor([total / 4, 3 * total / 4], dtype=torch.float64))


@pytest.mark.parametrize("ties", [False, True])
def test_agrees_with_the_slow_twin(ties):
    samples = random_samples(ties=ties)
    result = composite(*samples)
    found = (result.colour, result.alpha, result.person_alpha, result.depth, result.weights)
    for ours, theirs in zip(found, slow_twin(*samples), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)
    assert result.alpha[-2:].tolist() == [0, 0] and result.depth[-2:].tolist() == [0, 0]
    torch.testing.assert_close(result.opacity, 1 - torch.exp(-samples[3] * STEP))


@pytest.mark.parametrize("ties", [False, True])
def test_gradients_agree_with_the_slow_twin(ties):
    ray, z, person, density, colour, *rest = random_samples(count=60, rays=5, ties=ties)
    density = (density + 1).requires_grad_()
    colour.requires_grad_()
    result = composite(ray, z, person, density, colour, *rest)
    slow = slow_twin(ray, z, person, density, colour, *rest)
    weight = torch.linspace(0.5, 2, 15, dtype=torch.float64).view(5, 3)
    ours = torch.autograd.grad((result.colour * weight).sum() + result.depth.sum(), (density, colour))
    theirs = torch.autograd.grad((slow[0] * weight).sum() + slow[3].sum(), (density, colour))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-8)


@pytest.mark.parametrize("ties", [False, True])
def test_gradcheck(ties):
    ray, z, person, density, colour, *rest = random_samples(count=12, rays=3, ties=ties)

    def outputs(density, colour):
        result = composite(ray, z, person, density, colour, *rest)
        return result.colour, result.alpha, result.person_alpha, result.depth, result.weights

    assert torch.autograd.gradcheck(outputs, ((density + 1).requires_grad_(), colour.requires_grad_()))


@pytest.mark.parametrize("ties", [False, True])
def test_order_of_people_and_of_samples_is_irrelevant(ties):
    ray, z, person, density, colour, step, rays, people = random_samples(ties=ties)
    first = composite(ray, z, person, density, colour, step, rays, people)
    shuffle = torch.randperm(len(z))
    renamed = torch.tensor([2, 0, 1])[person]
    second = composite(
        ray[shuffle], z[shuffle], renamed[shuffle], density[shuffle], colour[shuffle], step, rays, people
    )
    torch.testing.assert_close(second.colour, first.colour, atol=1e-12, rtol=0)
    torch.testing.assert_close(second.person_alpha[:, [2, 0, 1]], first.person_alpha, atol=1e-12, rtol=0)
    torch.testing.assert_close(second.weights, first.weights[shuffle], atol=1e-12, rtol=0)


def test_the_width_of_gaps_and_the_neighbours_do_not_matter():
    near = one_ray([1.00, 1.01, 1.30], [0, 1, 0], [30.0, 40.0, 50.0])
    far = one_ray([1.00, 1.90, 7.30], [0, 1, 0], [30.0, 40.0, 50.0])
    torch.testing.assert_close(near.weights, far.weights, atol=0, rtol=1e-12)


def test_nothing_leaks_from_ray_to_ray():
    ray, z, person, density, colour, *rest = random_samples(dtype=torch.float32)
    alone = composite(ray, z, person, density, colour, *rest)
    density = torch.where(ray < 5, 1e30, density).requires_grad_()
    beside = composite(ray, z, person, density, colour, *rest)
    torch.testing.assert_close(beside.colour[5:], alone.colour[5:], atol=1e-6, rtol=0)
    beside.colour[5:].sum().backward()
    assert density.grad[ray < 5].abs().max() == 0


def test_float32_keeps_its_precision_with_many_opaque_rays_before():
    ray = torch.arange(20_000) // 10
    z = 1 + 0.01 * (torch.arange(20_000) % 10)
    density = torch.full((20_000,), 2000.0)
    density[-10:] = 3.0
    result = composite(ray, z, torch.zeros_like(ray), density, None, STEP, 2000, 1)
    assert result.alpha[-1].item() == pytest.approx(1 - math.exp(-0.3), abs=1e-6)


def test_depth_order_sorts_rays_then_depths_and_keeps_ties():
    ray = torch.tensor([1, 0, 1, 0, 1])
    z = torch.tensor([2.0, 900.0, 2.0, 0.5, 1.0])
    assert depth_order(ray, z).tolist() == [3, 1, 4, 0, 2]


def test_no_samples():
    none = torch.zeros(0, requires_grad=True)
    index = torch.zeros(0, dtype=torch.long)
    result = composite(index, none, index, none, torch.zeros(0, 3), STEP, 4, 2)
    assert result.alpha.tolist() == [0] * 4
    assert result.person_alpha.shape == (4, 2)
    assert result.colour.shape == (4, 3)
    result.alpha.sum().backward()
