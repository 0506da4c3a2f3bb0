"""The avatar field: how its density stands to the skin, what may change what, and that it can be fitted."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from renderer.field import AvatarField, FieldConfig, FieldSample, offset_penalty, offset_smoothness
from renderer.hash_grid import level_window

CENTRE = torch.tensor([0.1, 0.2, 0.9])
HALF = 1.2


def make(**changes) -> AvatarField:
    sizes = dict(levels=6, features=2, log2_table=12, finest_resolution=200, implementation="torch")
    return AvatarField(FieldConfig(**{**sizes, **changes}), CENTRE, HALF)


def lively(field: AvatarField) -> AvatarField:
    """The field with everything about it random, so that nothing holds because it is zero."""
    with torch.no_grad():
        field.grid.table.normal_(std=0.5)
        field.offset_head.weight.normal_(std=0.3)
        if field.residual_head is not None:
            field.residual_head.weight.normal_(std=0.3)
    return field


def points(count: int) -> torch.Tensor:
    return CENTRE + HALF * (1.8 * torch.rand(count, 3) - 0.9)


def sample_with(offset: list[float]) -> FieldSample:
    values = torch.tensor(offset)
    return FieldSample(torch.zeros_like(values), None, values, torch.zeros_like(values))


def test_the_surface_starts_ten_millimetres_outside_the_skin():
    for config in (FieldConfig(), FieldConfig(levels=16, features=2, finest_resolution=7006)):
        offset = AvatarField(config, CENTRE, HALF).offset(points(500))
        torch.testing.assert_close(offset, torch.full((500,), 0.010), atol=1e-3, rtol=0)


def test_transmittance_through_a_flat_surface_is_the_logistic_curve():
    """Along a ray that meets the surface head-on, T(s) = sigmoid(s / beta): one half on the surface."""
    field = make(silhouette_radius=None)
    field.beta.fill_(0.006)
    step = 1e-4
    distance = torch.arange(0.15, -0.02, -step)  # of the skin; the surface lies at 0.010
    density = field(CENTRE.expand(len(distance), 3), distance - step / 2, want_colour=False).density.detach().double()
    transmittance = torch.exp(-torch.cumsum(density * step, dim=0))
    surface = field.offset(CENTRE[None]).item()
    expected = torch.sigmoid((distance.double() - step - surface) / 0.006)
    torch.testing.assert_close(transmittance, expected, atol=1e-4, rtol=0)
    at_surface = int((distance - surface).abs().argmin())
    assert abs(transmittance[at_surface].item() - 0.5) < 0.01


@pytest.mark.parametrize("beta", [0.003, 0.006, 0.01])
def test_the_outline_of_a_limb_lies_at_the_offset_whatever_the_width(beta):
    """Rays past a cylinder of 50 mm, with clothes 10 mm off the skin: opacity one half where they touch the clothes."""
    field = make()
    field.beta.fill_(beta)
    surface = field.offset(CENTRE[None]).item()
    along = torch.arange(-0.25, 0.25, 5e-4)
    for height, thicker in ((0.0015, False), (-0.0015, True)):
        skin = torch.sqrt((0.05 + surface + height) ** 2 + along**2) - 0.05
        density = field(CENTRE.expand(len(skin), 3), skin, want_colour=False).density
        opacity = 1 - torch.exp(-(density * 5e-4).sum())
        assert (opacity > 0.5) == thicker, f"opacity {opacity:.2f} at {1000 * height} mm"


def test_the_interior_is_filled_and_the_air_empty():
    field = lively(make(silhouette_radius=None))
    x = points(200)
    deep = field(x, torch.full((200,), -0.1)).density
    torch.testing.assert_close(deep, torch.full((200,), 100.0), rtol=1e-3, atol=0)  # 1 / beta = 1 / 10 mm
    assert field(x, torch.full((200,), 0.2)).density.max() < 1e-4 / field.beta
    sample = field(x, torch.zeros(200))
    torch.testing.assert_close(sample.raw_density, sample.offset / 0.01)
    torch.testing.assert_close(sample.density, torch.sigmoid(sample.offset / 0.01) / 0.01)


def test_the_offset_keeps_to_its_range():
    field = lively(make())
    with torch.no_grad():
        field.offset_head.weight.mul_(1000)
    offset = field.offset(points(2000))
    assert offset.min() >= -0.0101 and offset.max() <= 0.0501
    assert offset.min() < 0 and offset.max() > 0.04


@pytest.mark.parametrize("residual", [False, True])
def test_gradcheck(residual):
    field = lively(make(residual=residual, finest_resolution=40, hidden=8, geometry_features=3)).double()
    x = points(4).double().requires_grad_()
    distance = (0.02 * torch.randn(4).double()).requires_grad_()
    weights = level_window(0.6, 6)

    def outputs(x, distance):
        sample = field(x, distance, weights)
        return sample.density, sample.albedo, sample.offset, sample.raw_density

    assert torch.autograd.gradcheck(outputs, (x, distance), eps=1e-7, atol=1e-4, rtol=1e-3)


def test_without_colour_the_same_geometry():
    field = lively(make())
    x, distance = points(50), 0.02 * torch.randn(50)
    full, bare = field(x, distance), field(x, distance, want_colour=False)
    assert bare.albedo is None
    assert full.albedo.shape == (50, 3) and full.albedo.min() > 0 and full.albedo.max() < 1
    torch.testing.assert_close(bare.density, full.density)
    torch.testing.assert_close(field.offset(x), full.offset)


def test_only_coarse_levels_move_the_surface():
    field = lively(make(geometry_levels=3))
    x, distance = points(50), torch.zeros(50)
    before = field(x, distance)
    with torch.no_grad():
        field.grid.table[field.grid.layout.offsets[3] :].normal_()
    after = field(x, distance)
    assert torch.equal(after.offset, before.offset)
    assert (after.albedo - before.albedo).abs().max() > 0.01


def test_level_weights_switch_levels_off():
    field = lively(make())
    x, distance = points(50), torch.zeros(50)
    before = field(x, distance, torch.zeros(6))
    with torch.no_grad():
        field.grid.table.normal_()
    after = field(x, distance, torch.zeros(6))
    assert torch.equal(after.albedo, before.albedo) and torch.equal(after.offset, before.offset)
    assert (after.offset - after.offset[0]).abs().max() < 1e-7


def test_the_field_learns_an_offset_and_a_texture():
    field = make(levels=8, features=4, implementation="auto")
    optimiser = torch.optim.Adam(field.parameters(), lr=1e-2, betas=(0.9, 0.99), eps=1e-15)

    def truth(x):
        angle = 2 * math.pi / 0.8 * (x - CENTRE)
        colour = 0.5 + 0.4 * torch.sin(4 * angle)
        return 0.015 + 0.01 * torch.sin(angle[:, 0]), colour

    def skin(count):  # a vertical cylinder of 20 cm
        angle, height = 2 * math.pi * torch.rand(count), torch.rand(count) - 0.5
        return CENTRE + torch.stack([0.2 * angle.cos(), 0.2 * angle.sin(), height], dim=1)

    for _ in range(200):
        x = skin(1500)
        sample = field(x, torch.zeros(len(x)))
        offset, colour = truth(x)
        loss = ((sample.offset - offset) / 0.01).square().mean() + (sample.albedo - colour).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    x = skin(2000)
    offset, colour = truth(x)
    sample = field(x, torch.zeros(len(x)))
    assert (sample.offset - offset).square().mean().sqrt() < 1e-3  # it starts at 8.7 mm
    assert (sample.albedo - colour).square().mean().sqrt() < 0.05  # a constant leaves 0.28


def test_offset_penalty_by_hand():
    # 45 mm is 15 mm = 1.5 scales too far: 1.5 - 0.5 = 1; -5 mm is half a scale: 0.5 x 0.25; the others are free.
    assert offset_penalty(sample_with([0.045])).item() == pytest.approx(1.0, rel=1e-4)
    assert offset_penalty(sample_with([-0.005])).item() == pytest.approx(0.125, rel=1e-4)
    assert offset_penalty(sample_with([0.0, 0.012, 0.03])).item() == pytest.approx(0.0, abs=1e-9)
    assert offset_penalty(sample_with([0.045, 0.01])).item() == pytest.approx(0.5, rel=1e-4)


class Tilted(AvatarField):
    """An offset that grows by `slope` metres per metre along x."""

    slope = 0.05

    def offset(self, x_ref, level_weights=None):
        return 0.01 + self.slope * (x_ref[:, 0] - CENTRE[0])


def test_offset_smoothness_by_hand():
    field = Tilted(FieldConfig(levels=4, log2_table=8, implementation="torch"), CENTRE, HALF)
    x = points(20_000).requires_grad_()
    sample = sample_with(field.offset(x).tolist())
    along_x = torch.tensor([1.0, 0, 0]).expand_as(x)
    assert offset_smoothness(field, x, sample, normals=along_x).item() == pytest.approx(0.0, abs=1e-6)
    # Seen from above, the step's x share is a cosine: half the mean square of 0.5 cos, 0.5 x 0.25 x 0.5.
    along_z = torch.tensor([0.0, 0, 1]).expand_as(x)
    steep = offset_smoothness(field, x, sample, normals=along_z, count=None)
    assert steep.item() == pytest.approx(0.0625, rel=0.03)
    # In any direction of space the mean square of the x share is a third.
    free = offset_smoothness(field, x, sample, count=None)
    assert free.item() == pytest.approx(0.125 / 3, rel=0.03)
    assert x.grad is None


def test_offset_smoothness_flattens_and_leaves_the_points_alone():
    field = lively(make())
    x = points(3000).requires_grad_()
    assert offset_smoothness(make(), x, make()(x, torch.zeros(3000))).item() < 1e-4
    generator = torch.Generator().manual_seed(3)
    sample = field(x, torch.zeros(3000), want_colour=False)
    loss = offset_smoothness(field, x.clone(), sample, generator=generator)
    again = offset_smoothness(field, x.clone(), sample, generator=torch.Generator().manual_seed(3))
    assert loss.item() == again.item() > 0.01
    loss.backward()
    assert field.offset_head.weight.grad.abs().max() > 0


def test_parameters_are_split_without_loss():
    field = make(residual=True)
    own, rest = list(field.offset_parameters()), list(field.shared_parameters())
    assert {id(p) for p in own + rest} == {id(p) for p in field.parameters()}
    assert len(own) + len(rest) == len(list(field.parameters())) and len(own) == 4


def test_residual_density_starts_as_next_to_nothing():
    field = make(residual=True)
    sample = field(points(100), torch.full((100,), 0.3))
    assert sample.density.min() > 0 and sample.density.max() < 0.3  # 1/m: 6 cm of it hide less than 2 %
    sample.density.sum().backward()
    assert field.residual_head.bias.grad.abs() > 0


def test_saved_and_loaded_through_safetensors(tmp_path):
    field = lively(make())
    field.beta.fill_(0.004)
    save_file(field.state_dict(), tmp_path / "p0.safetensors")
    other = make()
    other.load_state_dict(load_file(tmp_path / "p0.safetensors"))
    x, distance = points(20), 0.02 * torch.randn(20)
    assert torch.equal(other(x, distance).density, field(x, distance).density)
    assert torch.equal(other(x, distance).albedo, field(x, distance).albedo)


def test_warp_and_plain_torch_give_the_same_field():
    plain, fast = lively(make(implementation="torch")), make(implementation="warp")
    fast.load_state_dict(plain.state_dict())
    x, distance = points(3000), 0.02 * torch.randn(3000)
    results = []
    for field in (plain, fast):
        at = x.clone().requires_grad_()
        sample = field(at, distance)
        loss = sample.density.mean() / 50 + sample.albedo.square().sum(dim=1).mean()
        grads = torch.autograd.grad(loss, [at, *field.parameters()])
        results.append((sample.density, sample.albedo, *grads))
    for expected, got in zip(*results, strict=True):
        scale = expected.detach().abs().max()
        # Not to the last digit: a point within rounding of a cell's border may take the slope of the next cell.
        assert ((got - expected).abs() / scale > 1e-4).double().mean() < 1e-3


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="half extent"):
        AvatarField(FieldConfig(), CENTRE, 0.0)
    with pytest.raises(ValueError, match="9 geometry levels of 6"):
        make(geometry_levels=9)
    with pytest.raises(ValueError, match=r"starting offset 0\.06 m"):
        make(offset_start=0.06)
