"""The whole renderer against a slow one written from the definition, its gradients, and what must be seen of people."""

import math

import pytest
import torch
from capsule_people import SmoothField, geometry, person, posed_vertices, rays_towards

from renderer.field import AvatarField, FieldConfig, FieldSample
from renderer.render import PersonRender, render, render_samples
from renderer.sampling import RayBatch, SamplingConfig, sample_people
from renderer.shading import CameraColour, SphericalHarmonicShading, harmonic_basis
from renderer.shell import Shell

PLAIN = SamplingConfig(jitter=False, cull=False, max_samples=1000, colour_weight=0.0)
RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)


class Scene:
    """People side by side or one behind the other, in two frames, and rays from the front."""

    def __init__(self, places, tints, rays=24, dtype=torch.float64, frames=2, detail=3):
        self.body = geometry(detail, dtype)
        generator = torch.Generator().manual_seed(11)
        self.turns = 0.25 * torch.randn(len(places), frames, 3, 3, generator=generator, dtype=torch.float64).to(dtype)
        self.trans = torch.tensor(places, dtype=dtype)[:, None].repeat(1, frames, 1)
        self.fields = [SmoothField(tint) for tint in tints]
        self.shells = self.shells_of(self.posed(self.turns, self.trans))
        spread = torch.tensor([0.5, 0.9, 0.2], dtype=dtype)
        aim = (2 * torch.rand(rays, 3, generator=generator, dtype=torch.float64).to(dtype) - 1) * spread
        frame = torch.randint(frames, (rays,), generator=generator)
        self.rays = RayBatch(*rays_towards(aim, (0.0, 0.1, -2.5)), frame)
        self.background = torch.rand(rays, 3, generator=generator, dtype=torch.float64).to(dtype)

    def posed(self, turns, trans, shape_offset=None):
        return [person(self.body, turns[p], trans[p], shape_offset) for p in range(len(turns))]

    def shells_of(self, posed):
        return [[Shell(posed_vertices(one, b)) for b in range(len(one.T_world_root))] for one in posed]

    def people(self, turns=None, trans=None, shape_offset=None, shading=None):
        posed = self.posed(
            self.turns if turns is None else turns, self.trans if trans is None else trans, shape_offset
        )
        return [PersonRender(one, field, shading) for one, field in zip(posed, self.fields, strict=True)]

    def render(self, config=PLAIN, **arguments):
        return render(self.people(), self.shells, self.rays, config, self.background, **arguments)


@pytest.fixture
def pair() -> Scene:
    return Scene([(-0.1, 0.0, 0.0), (0.15, 0.1, 0.1)], [RED, BLUE])


def smooth_step(t):
    t = min(max(t, 0.0), 1.0)
    return t * t * (3 - 2 * t)


def slow_render(scene, config, shift=0.5):
    """Ray by ray and sample by sample; nearest vertex by all distances, skinning by its definition."""
    people = scene.people()
    colours, alphas, depths = [], [], []
    for r in range(len(scene.rays.frame)):
        b = int(scene.rays.frame[r])
        samples = []
        for p, one in enumerate(people):
            body, vertices = one.posed.geometry, posed_vertices(one.posed, b)
            for k in range(400):
                z = (k + shift) * config.step
                point = scene.rays.origins[r] + z * scene.rays.directions[r]
                distance = (vertices - point).norm(dim=1)
                v = int(distance.argmin())
                if distance[v] > config.shell:
                    continue
                bones = one.posed.T_world_canonical[b, body.skin_indices[v]]
                blend = (body.skin_weights[v][:, None, None] * bones).sum(dim=0)
                x = torch.linalg.solve(blend[:3, :3], point - blend[:3, 3])
                relative = x - body.vertices[v]
                plane, length = relative @ body.normals[v], relative.norm()
                s = smooth_step((float(length) - 0.03) / 0.02)
                signed = (1 - s) * plane + s * torch.clamp(2 * plane, -length, length)
                if signed < -config.inside:
                    samples.append((z, p, 8.0 / config.step, torch.zeros(3, dtype=torch.float64)))
                else:
                    field = one.field(x[None], signed[None])
                    density = float(field.density[0]) * smooth_step((0.06 - float(signed)) / 0.015)
                    filled = smooth_step((-0.02 - float(signed)) / 0.01)
                    samples.append((z, p, (1 - filled) * density + filled * 8.0 / config.step, field.albedo[0]))
        colour, alpha, depth = torch.zeros(3, dtype=torch.float64), 0.0, 0.0
        for z in sorted({sample[0] for sample in samples}):
            slab = [sample for sample in samples if sample[0] == z]
            total = sum(density for _, _, density, _ in slab)
            for _, _, density, tint in slab:
                weight = (1 - alpha) * (1 - math.exp(-total * config.step)) * density / total
                colour, depth = colour + weight * tint, depth + weight * z
            alpha = alpha + (1 - alpha) * (1 - math.exp(-total * config.step))
        colours.append(colour + (1 - alpha) * scene.background[r])
        alphas.append(alpha)
        depths.append(depth / max(alpha, 1e-6))
    return torch.stack(colours), torch.tensor(alphas).double(), torch.tensor(depths).double()


def test_agrees_with_the_slow_twin(pair):
    result = pair.render()
    colour, alpha, depth = slow_render(pair, PLAIN)
    assert 5 < int((alpha > 0.5).sum()) < 24
    torch.testing.assert_close(result.colour, colour, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.alpha, alpha, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.depth, depth, atol=1e-6, rtol=0)


def test_one_person_is_plain_volume_rendering():
    alone = Scene([(0.0, 0.0, 0.0)], [RED])
    result = alone.render()
    colour, alpha, _ = slow_render(alone, PLAIN)
    torch.testing.assert_close(result.colour, colour, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.person_alpha[:, 0], alpha, atol=1e-6, rtol=0)
    torch.testing.assert_close(result.person_alpha[:, 0], result.alpha)


def test_gradcheck_from_pose_to_pixel(pair):
    people = [one.posed for one in pair.people()]
    samples = sample_people(pair.rays, people, pair.shells, SamplingConfig(step=0.02, jitter=False, max_samples=20))
    shape_offset = torch.zeros_like(pair.body.vertices)

    def pixels(turns, trans, stretch):
        people = pair.people(turns, trans, shape_offset + stretch * pair.body.vertices)
        result = render_samples(people, samples, pair.rays, PLAIN, pair.background)
        return result.colour, result.person_alpha, result.depth

    stretch = torch.tensor([0.01, -0.02, 0.03], dtype=torch.float64, requires_grad=True)
    arguments = (pair.turns.requires_grad_(), pair.trans.requires_grad_(), stretch)
    assert torch.autograd.gradcheck(pixels, arguments, eps=1e-7, atol=1e-4, rtol=1e-4)


def test_every_pose_parameter_gets_a_photometric_gradient(pair):
    turns, trans = pair.turns.requires_grad_(), pair.trans.requires_grad_()
    result = render(pair.people(turns, trans), pair.shells, pair.rays, SamplingConfig(), pair.background)
    (result.colour - 0.5).square().sum().backward()
    # Both people, both frames: all bones with the root, and all axes of the translation.
    assert turns.grad.abs().min() > 1e-6
    assert trans.grad.abs().min() > 1e-4


def test_translation_gradient_predicts_the_change_of_the_whole_render():
    """Sampling anew after a small move agrees with the gradient at fixed samples: nothing jumps where samples end."""
    scene = Scene([(-0.1, 0.0, 0.0), (0.15, 0.1, 0.1)], [RED, BLUE], rays=200, detail=4)
    scene.fields = [SmoothField(RED, beta=0.012), SmoothField(BLUE, beta=0.012)]
    config = SamplingConfig(step=0.002, jitter=False, cull=False, max_samples=1000)
    weight = torch.linspace(0, 1, 200, dtype=torch.float64)

    def opacity(trans):
        with torch.no_grad():
            shells = scene.shells_of(scene.posed(scene.turns, trans))
        return (render(scene.people(None, trans), shells, scene.rays, config).alpha * weight).sum()

    trans = scene.trans.clone().requires_grad_()
    opacity(trans).backward()
    gradient = trans.grad.sum(dim=(0, 1))
    difference = torch.zeros(3, dtype=torch.float64)
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[axis] = 1e-3
        difference[axis] = (opacity(scene.trans + step) - opacity(scene.trans - step)) / 2e-3
    assert difference.norm() > 10
    # What is left are the facets of the mesh. With a jump at the shell's border it would be half.
    assert (gradient - difference).norm() < 0.06 * difference.norm()


def test_order_of_people_is_irrelevant(pair):
    first = pair.render()
    people, shells = pair.people()[::-1], pair.shells[::-1]
    second = render(people, shells, pair.rays, PLAIN, pair.background)
    torch.testing.assert_close(second.colour, first.colour, atol=1e-12, rtol=0)
    torch.testing.assert_close(second.person_alpha.flip(1), first.person_alpha, atol=1e-12, rtol=0)
    torch.testing.assert_close(second.depth, first.depth, atol=1e-12, rtol=0)


def test_who_stands_in_front_hides_who_stands_behind():
    places = [(0.0, 0.0, 0.0), (0.0, 0.0, 0.6)]
    scene = Scene(places, [RED, BLUE])
    scene.turns.zero_()
    ahead = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    origins = torch.tensor([[0.01, 0.0, -2.0], [0.01, 0.0, 3.0]], dtype=torch.float64)
    rays = RayBatch(origins, ahead, torch.zeros(2, dtype=torch.long))
    shells = scene.shells_of(scene.posed(scene.turns, scene.trans))
    for config in (PLAIN, SamplingConfig()):
        result = render(scene.people(), shells, rays, config)
        assert result.colour[0, 0] > 3 * result.colour[0, 2]  # red from the front
        assert result.colour[1, 2] > 3 * result.colour[1, 0]  # blue from behind
        torch.testing.assert_close(result.person_alpha, torch.eye(2, dtype=torch.float64), atol=2e-3, rtol=0)
        # The surface stands about 1 cm outside the skin, which is 15 cm from the middle.
        assert result.depth.tolist() == pytest.approx([2.0 - 0.16, 3.0 - 0.6 - 0.16], abs=0.015)


def test_parts_of_people_sum_to_the_whole(pair):
    result = pair.render(SamplingConfig())
    torch.testing.assert_close(result.person_alpha.sum(dim=1), result.alpha)
    assert bool(((result.person_alpha > 0.05).sum(dim=1) == 2).any())  # some rays see both
    assert result.weights.shape == result.density.shape == result.offset.shape == result.samples.z.shape


def test_the_cull_saves_samples_and_changes_nothing_to_be_seen(pair):
    full = pair.render(SamplingConfig(jitter=False, cull=False))
    culled = pair.render(SamplingConfig(jitter=False, cull=True))
    assert len(culled.samples) < 0.85 * len(full.samples)
    torch.testing.assert_close(culled.colour, full.colour, atol=4e-4, rtol=0)
    torch.testing.assert_close(culled.person_alpha, full.person_alpha, atol=4e-4, rtol=0)


def test_no_network_is_asked_deep_inside():
    asked = []

    class Spy(SmoothField):
        def __call__(self, x_ref, body_distance, level_weights=None, want_colour=True):
            if not want_colour:
                asked.append(body_distance.detach())
            return super().__call__(x_ref, body_distance, level_weights, want_colour)

    scene = Scene([(0.0, 0.0, 0.0)], [RED])
    scene.fields = [Spy(RED)]
    result = scene.render()
    deep = result.body_distance < -0.03
    assert 20 < int(deep.sum()) < len(deep)
    assert torch.equal(result.evaluated, ~deep)
    assert torch.cat(asked).min() >= -0.03 and len(torch.cat(asked)) == int((~deep).sum())
    assert bool((result.density[deep] == 800).all()) and bool((result.offset[deep] == 0).all())


def test_colour_is_asked_only_where_it_weighs(pair):
    asked = []

    class Spy(SmoothField):
        def __call__(self, x_ref, body_distance, level_weights=None, want_colour=True):
            if want_colour:
                asked.append(x_ref.detach())
            return super().__call__(x_ref, body_distance, level_weights, want_colour)

    full = pair.render()
    pair.fields = [Spy(RED), Spy(BLUE)]
    sparing = pair.render(SamplingConfig(jitter=False, cull=False, max_samples=1000, colour_weight=1e-3))
    weighty = full.evaluated & (full.weights >= 1e-3)
    torch.testing.assert_close(torch.cat(asked), full.x_ref[weighty])
    assert int(weighty.sum()) < 0.7 * len(full.samples)
    assert torch.equal(sparing.alpha, full.alpha)
    torch.testing.assert_close(sparing.colour, full.colour, atol=5e-3, rtol=0)


def test_rays_that_meet_nobody_see_the_background(pair):
    away = RayBatch(pair.rays.origins, -pair.rays.directions, pair.rays.frame)
    trans = pair.trans.requires_grad_()
    result = render(pair.people(None, trans), pair.shells, away, SamplingConfig(), pair.background)
    assert torch.equal(result.colour, pair.background)
    assert result.alpha.abs().sum() == 0 and result.depth.abs().sum() == 0
    (result.colour.sum() + result.alpha.sum() + result.offset.sum()).backward()
    assert trans.grad.abs().sum() == 0
    dark = render(pair.people(), pair.shells, away, SamplingConfig())
    assert dark.colour.abs().sum() == 0


@pytest.mark.parametrize("people, rays", [(0, 24), (0, 0), (2, 0)])
def test_nobody_and_no_rays(pair, people, rays):
    some = RayBatch(pair.rays.origins[:rays], pair.rays.directions[:rays], pair.rays.frame[:rays])
    result = render(pair.people()[:people], pair.shells[:people], some, SamplingConfig(), pair.background[:rays])
    torch.testing.assert_close(result.colour, pair.background[:rays])
    assert result.person_alpha.shape == (rays, people)
    assert result.x_ref.shape == (0, 3) and result.evaluated.shape == (0,)


def test_an_absent_person_is_as_if_not_in_the_list(pair):
    shells = [pair.shells[0], [None, None]]
    both = render(pair.people(), shells, pair.rays, PLAIN, pair.background)
    alone = render(pair.people()[:1], pair.shells[:1], pair.rays, PLAIN, pair.background)
    torch.testing.assert_close(both.colour, alone.colour)
    assert both.person_alpha[:, 1].abs().sum() == 0


def test_ten_people():
    places = [(0.35 * (i % 5) - 0.7, 0.0, 0.5 * (i // 5)) for i in range(10)]
    scene = Scene(places, [RED, BLUE] * 5, rays=60, dtype=torch.float32, frames=1)
    trans = scene.trans.clone().requires_grad_()
    result = render(scene.people(None, trans), scene.shells, scene.rays, SamplingConfig(), scene.background)
    result.colour.square().sum().backward()
    assert torch.isfinite(trans.grad).all()
    assert int((result.person_alpha.sum(dim=0) > 0.5).sum()) >= 6
    assert result.alpha.max() <= 1 + 1e-6


def test_silhouettes_ask_for_no_colour(pair):
    wanted = []

    class Spy(SmoothField):
        def __call__(self, x_ref, body_distance, level_weights=None, want_colour=True):
            wanted.append((want_colour, level_weights))
            return super().__call__(x_ref, body_distance, level_weights, want_colour)

    expected = pair.render()
    pair.fields = [Spy(RED), Spy(BLUE)]
    levels = torch.ones(3)
    result = pair.render(want_colour=False, level_weights=levels)
    assert wanted == [(False, levels), (False, levels)]
    torch.testing.assert_close(result.alpha, expected.alpha)
    torch.testing.assert_close(result.colour, (1 - result.alpha)[:, None] * pair.background)


def test_shading_multiplies_the_albedo_by_the_light_on_the_turned_normal():
    """Light from +x in the world on a body turned by a quarter turn about y."""
    scene = Scene([(0.0, 0.0, 0.0)], [RED], frames=1)
    scene.turns.zero_()
    scene.turns[0, 0, 0, 1] = math.pi / 2

    class White(SmoothField):
        def __call__(self, x_ref, body_distance, level_weights=None, want_colour=True):
            sample = super().__call__(x_ref, body_distance)
            return FieldSample(sample.density, torch.ones_like(x_ref), sample.offset, sample.raw_density)

    scene.fields = [White()]
    shading = SphericalHarmonicShading().double()
    posed = scene.people()[0].posed
    shells = [[Shell(posed_vertices(posed, 0))]]
    aside = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], dtype=torch.float64)
    rays = RayBatch(2 * aside, -aside, torch.zeros(2, dtype=torch.long))

    def red():
        return render(scene.people(shading=shading), shells, rays, SamplingConfig(jitter=False)).colour[:, 0].tolist()

    plain = red()
    assert plain == pytest.approx([1.0, 1.0], abs=0.05)
    with torch.no_grad():
        shading.directional[2] = 0.5 / math.sqrt(3)  # x, half as bright again on the side turned to the light
    assert red() == pytest.approx([1.5 * plain[0], 0.5 * plain[1]], rel=0.02)


def test_shading_and_camera_colour_start_as_the_identity_and_their_priors_measure_the_way_from_it():
    normals = torch.nn.functional.normalize(torch.randn(100, 3), dim=1)
    shading, colour = SphericalHarmonicShading(), CameraColour(2)
    torch.testing.assert_close(shading(normals), torch.ones(100, 3))
    values, alpha, camera = torch.rand(6, 3), torch.rand(6), torch.tensor([0, 1, 0, 1, 1, 1])
    torch.testing.assert_close(colour(values, alpha, camera), values)
    assert shading.prior().item() == 0 and colour.prior().item() == 0
    with torch.no_grad():
        colour.linear[1] = torch.diag(torch.tensor([2.0, 1.0, 1.0]))
        colour.constant[1] = torch.tensor([0.0, 0.5, 0.0])
    mapped = colour(values, alpha, camera)
    torch.testing.assert_close(mapped[0], values[0])
    expected = values[1] * torch.tensor([2.0, 1.0, 1.0]) + alpha[1] * torch.tensor([0.0, 0.5, 0.0])
    torch.testing.assert_close(mapped[1], expected)
    assert colour.prior().item() == pytest.approx(1 / 18 + 0.25 / 6)
    shading.directional.data[3, 1] = 0.4
    shading.constant.data[1] = 0.3
    everywhere = torch.nn.functional.normalize(torch.randn(200_000, 3), dim=1)
    measured = (shading(everywhere) - 1).square().mean()
    assert shading.prior().item() == pytest.approx((0.4**2 + 0.3**2) / 3)
    assert measured.item() == pytest.approx(shading.prior().item(), rel=0.03)


def test_harmonics_are_orthonormal_over_the_sphere():
    # Exact quadrature: Gauss-Legendre in z, equal angles around it.
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(6)
    angle = np.arange(12) * 2 * np.pi / 12
    z, phi = np.meshgrid(nodes, angle, indexing="ij")
    radius = np.sqrt(1 - z**2)
    normals = np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=-1).reshape(-1, 3)
    weight = torch.from_numpy(np.repeat(weights / 24, 12))
    basis = harmonic_basis(torch.from_numpy(normals))
    torch.testing.assert_close(basis.T @ (weight[:, None] * basis), torch.eye(8).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(weight @ basis, torch.zeros(8).double(), atol=1e-12, rtol=0)


def test_with_the_avatar_field_everything_learns():
    scene = Scene([(-0.1, 0.0, 0.0), (0.15, 0.1, 0.1)], [RED, BLUE], rays=60, dtype=torch.float32)
    scene.fields = [AvatarField(FieldConfig(levels=4, log2_table=12), torch.zeros(3), 0.8) for _ in range(2)]
    trans = scene.trans.clone().requires_grad_()
    shading = SphericalHarmonicShading()
    people = scene.people(None, trans, shading=shading)
    result = render(people, scene.shells, scene.rays, SamplingConfig(), scene.background, torch.ones(4))
    (result.colour - 0.3).square().mean().backward()
    for field in scene.fields:
        assert field.grid.table.grad.abs().max() > 0
        assert field.offset_head.bias.grad.abs().max() > 0
    assert shading.directional.grad.abs().max() > 0
    assert trans.grad.abs().min() > 0
    assert result.alpha.max() > 0.95

    away = RayBatch(scene.rays.origins, -scene.rays.directions, scene.rays.frame)
    nothing = render(scene.people(None, trans), scene.shells, away, SamplingConfig(), scene.background, torch.ones(4))
    gradient = torch.autograd.grad(nothing.colour.sum() + nothing.x_ref.sum(), [trans, scene.fields[0].grid.table])
    assert all(float(one.abs().sum()) == 0 for one in gradient)


def test_jitter_follows_the_generator(pair):
    def alpha(seed):
        return pair.render(SamplingConfig(), generator=torch.Generator().manual_seed(seed)).alpha

    assert torch.equal(alpha(1), alpha(1))
    assert not torch.equal(alpha(1), alpha(2))
    # Jitter moves the samples by less than a step: the picture stays.
    assert (alpha(1) - alpha(2)).abs().mean() < 0.05
