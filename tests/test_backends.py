"""Others' packages as oracles, where they are installed; and tiny-cuda-nn's grid, worked out in plain torch here."""

import itertools
import sys
from types import SimpleNamespace

import pytest
import torch
from capsule_people import geometry, person, posed_vertices

from renderer import hash_grid_tcnn
from renderer.body_shell import BodyShell
from renderer.compositing import composite
from renderer.hash_grid import HashGrid, grid_layout, hash_encode
from renderer.shell import Shell

STEP = 0.01


def rays_of_samples(rays: int, samples: int) -> tuple[torch.Tensor, ...]:
    """Depths (rays, samples), a step apart here and there with gaps between, and the ray of each."""
    gaps = torch.randint(1, 4, (rays, samples))
    z = 1.0 + STEP * gaps.cumsum(dim=1).double()
    return z, torch.arange(rays)[:, None].expand(rays, samples)


def test_one_person_composites_as_in_nerfacc():
    nerfacc = pytest.importorskip("nerfacc", reason="nerfacc is not installed: pip install nerfacc")
    z, ray = rays_of_samples(7, 30)
    density = (150.0 * torch.rand(7, 30, dtype=torch.float64) ** 3).requires_grad_()
    weights, _, opacity = nerfacc.render_weight_from_density(z - STEP / 2, z + STEP / 2, density)
    alpha = nerfacc.accumulate_along_rays(weights)
    depth = nerfacc.accumulate_along_rays(weights, z[..., None]) / alpha
    found = composite(ray.flatten(), z.flatten(), torch.zeros(210).long(), density.flatten(), STEP, 7, 1)
    assert alpha.mean() > 0.2 and weights.min() > 0
    torch.testing.assert_close(found.weights.view(7, 30), weights, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found.opacity.view(7, 30), opacity, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found.alpha, alpha[:, 0])
    torch.testing.assert_close(found.depth, depth[:, 0])
    factors = torch.randn(7, 30, dtype=torch.float64)
    by_density = [torch.autograd.grad((w.view(7, 30) * factors).sum(), density)[0] for w in (weights, found.weights)]
    torch.testing.assert_close(by_density[1], by_density[0], rtol=1e-9, atol=1e-13)


def test_people_at_the_same_depth_are_one_slab_in_nerfacc():
    nerfacc = pytest.importorskip("nerfacc", reason="nerfacc is not installed: pip install nerfacc")
    z, ray = rays_of_samples(5, 20)
    densities = 60.0 * torch.rand(2, 5, 20, dtype=torch.float64)
    slabs, _, _ = nerfacc.render_weight_from_density(z - STEP / 2, z + STEP / 2, densities.sum(dim=0))
    who = torch.arange(2).repeat_interleave(100)
    found = composite(ray.flatten().repeat(2), z.flatten().repeat(2), who, densities.flatten(), STEP, 5, 2)
    expected = slabs * densities / densities.sum(dim=0)
    torch.testing.assert_close(found.weights.view(2, 5, 20), expected, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(found.person_alpha, expected.sum(dim=2).T)


def test_nearest_vertices_are_those_of_pytorch3d():
    ops = pytest.importorskip("pytorch3d.ops", reason="pytorch3d has no wheel and is not installed")
    body = geometry(5, torch.float32)
    one = person(body, 0.3 * torch.randn(1, 3, 3), torch.zeros(1, 3))
    vertices = posed_vertices(one, 0)
    points = vertices[torch.randint(len(vertices), (3000,))] + 0.04 * torch.randn(3000, 3)
    square, nearest, _ = ops.knn_points(points[None], vertices[None], K=1)
    expected, distance = nearest[0, :, 0], square[0, :, 0].sqrt()
    exact, exact_distance = Shell(vertices).query(points)
    inside = torch.isfinite(exact_distance)
    clear = (distance - 0.06).abs() > 1e-5
    assert torch.equal(inside[clear], (distance < 0.06)[clear]) and 500 < int(inside.sum()) < 3000
    assert (exact == expected)[inside].float().mean() > 0.999  # but for ties
    torch.testing.assert_close(exact_distance[inside], distance[inside], rtol=1e-4, atol=1e-6)
    fast, fast_distance = BodyShell(body, one.T_world_canonical[0], vertices).query(points)
    both = inside & torch.isfinite(fast_distance)
    assert both.sum() > 0.98 * inside.sum()
    assert (fast == expected)[both].float().mean() > 0.95


class Composite(torch.nn.Module):
    """tiny-cuda-nn's composite of hash grids of one level, after its documentation, on any device.

    A level with base resolution R has scale R - 1 and finds x at x (R - 1) + 1/2; corners are dense where R^3 of them,
    filled up to eights, fit in the table, and hashed elsewhere; rows are taken modulo their number.
    """

    def __init__(self, n_input_dims, encoding_config, seed=1337, dtype=None):
        super().__init__()
        assert encoding_config["otype"] == "Composite" and dtype == torch.float32
        self.grids = encoding_config["nested"]
        assert all(grid["otype"] == "HashGrid" and grid["n_levels"] == 1 for grid in self.grids)
        assert sum(grid["n_dims_to_encode"] for grid in self.grids) == n_input_dims
        self.features = self.grids[0]["n_features_per_level"]
        whole = [-(-(grid["base_resolution"] ** 3) // 8) * 8 for grid in self.grids]
        self.rows = [min(w, 2 ** grid["log2_hashmap_size"]) for w, grid in zip(whole, self.grids, strict=True)]
        self.params = torch.nn.Parameter(torch.zeros(sum(self.rows) * self.features))

    def forward(self, x):
        levels, start = [], 0
        for n, (grid, rows) in enumerate(zip(self.grids, self.rows, strict=True)):
            table = self.params[start * self.features : (start + rows) * self.features].view(rows, self.features)
            start += rows
            levels.append(self._level(x[:, 3 * n : 3 * n + 3], table, grid["base_resolution"]))
        # As there, more columns than were asked for, up to a multiple.
        return torch.nn.functional.pad(torch.cat(levels, dim=1), (0, 2))

    def _level(self, x, table, side):
        place = x * (side - 1) + 0.5
        cell = place.detach().floor()
        part = place - cell
        total = 0
        for corner in itertools.product((0, 1), repeat=3):
            at = (cell.long() + torch.tensor(corner)) & 0xFFFFFFFF
            if len(table) >= side**3:
                row = at @ torch.tensor([1, side, side**2]) & 0xFFFFFFFF
            else:
                row = (at[:, 0] ^ at[:, 1] * 2654435761 ^ at[:, 2] * 805459861) & 0xFFFFFFFF
            weight = torch.where(torch.tensor(corner) == 1, part, 1 - part).prod(dim=1, keepdim=True)
            total = total + weight * table[row % len(table)]
        return total


@pytest.fixture
def plain_tinycudann(monkeypatch):
    """tiny-cuda-nn's place taken by its grid in plain torch."""
    monkeypatch.setitem(sys.modules, "tinycudann", SimpleNamespace(Encoding=Composite))
    caches = (hash_grid_tcnn._encoding, hash_grid_tcnn.check)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def agree(sizes, weights, levels, device):
    """Values and gradients of tiny-cuda-nn's grid and of the plain one, on one table."""
    layout = grid_layout(**sizes, base_resolution=4, finest_resolution=100)
    resolutions = torch.tensor(layout.resolutions)
    within = torch.rand(60_000, 3)
    # A slope jumps at the borders of cells, where rounding decides.
    off_borders = ((within[:, None] * resolutions[:, None] % 1.0 - 0.5).abs() < 0.45).all(dim=(1, 2))
    within = within[off_borders][:1000]
    assert len(within) == 1000
    of_the_cube = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    points = torch.cat([within, of_the_cube, 1.4 * torch.rand(500, 3) - 0.2])
    table = torch.randn(layout.rows, layout.features)
    weights = None if weights is None else torch.tensor(weights, device=device)
    factors = torch.randn(len(points), (levels or layout.levels) * layout.features, device=device)
    results = []
    for encode in (hash_encode, hash_grid_tcnn.hash_encode):
        positions, own = points.to(device).requires_grad_(), table.to(device).requires_grad_()
        encoded = encode(positions, own, layout, weights, levels)
        by_positions, by_table = torch.autograd.grad((encoded * factors).sum(), (positions, own))
        results.append((encoded, by_table, by_positions[:1008]))
        outside = ((points < 0) | (points > 1)).to(device)
        assert outside.sum() > 100 and by_positions[outside].abs().max() == 0
    for expected, got in zip(*results, strict=True):
        scale = float(expected.detach().abs().max())
        # Places differ by rounding, a millionth of the cube's side: so much of a hundred cells.
        torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=1e-4)


CASES = [
    (dict(levels=8, features=4, log2_table=10), None, None),
    (dict(levels=5, features=2, log2_table=14), [1.0, 0.6, 1.0, 0.2, 0.0], None),
    (dict(levels=6, features=4, log2_table=12), [1.0, 1.0, 0.5, 0.0, 0.0, 0.0], 3),
]


@pytest.mark.parametrize(("sizes", "weights", "levels"), CASES)
def test_one_level_grids_of_tinycudann_are_ours(sizes, weights, levels, plain_tinycudann):
    hash_grid_tcnn.check(torch.device("cpu"), sizes["features"])
    agree(sizes, weights, levels, "cpu")


@pytest.mark.cuda
@pytest.mark.parametrize(("sizes", "weights", "levels"), CASES)
def test_tinycudann_agrees_on_cuda(sizes, weights, levels):
    pytest.importorskip("tinycudann", reason="tiny-cuda-nn is not installed; there is no wheel of it")
    assert HashGrid(**sizes, implementation="tinycudann").to("cuda").backend() == "tinycudann"
    agree(sizes, weights, levels, "cuda")


@pytest.mark.parametrize("change", ["place", "hash", "rows"])
def test_another_grid_than_expected_is_noticed(change, plain_tinycudann, monkeypatch):
    level = Composite._level
    if change == "place":
        monkeypatch.setattr(Composite, "_level", lambda self, x, table, side: level(self, x + 0.5 / side, table, side))
    elif change == "hash":
        monkeypatch.setattr(Composite, "_level", lambda self, x, table, side: level(self, x, table.flip(0), side))
    else:
        init = Composite.__init__

        def longer(self, *arguments, **options):
            init(self, *arguments, **options)
            self.params = torch.nn.Parameter(torch.zeros(len(self.params) + 8))

        monkeypatch.setattr(Composite, "__init__", longer)
    with pytest.raises(RuntimeError, match="numbers where" if change == "rows" else "differ from plain torch"):
        hash_grid_tcnn.check(torch.device("cpu"), 4)


def test_no_points_and_fixed_tables(plain_tinycudann):
    layout = grid_layout(levels=3, features=2, log2_table=8, base_resolution=3, finest_resolution=20)
    table = torch.randn(layout.rows, 2, requires_grad=True)
    assert hash_grid_tcnn.hash_encode(torch.empty(0, 3), table, layout).shape == (0, 6)
    points = torch.rand(10, 3, requires_grad=True)
    encoded = hash_grid_tcnn.hash_encode(points, table.detach(), layout)
    encoded.sum().backward()
    assert table.grad is None and points.grad.abs().max() > 0
    other = hash_grid_tcnn.hash_encode(points, 2 * table.detach(), layout)
    torch.testing.assert_close(other, 2 * encoded)
