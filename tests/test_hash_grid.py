"""The hash-grid encoding: against the paper worked out point by point, and Warp against plain torch."""

import itertools
import logging

import numpy as np
import pytest
import torch

from renderer import hash_grid
from renderer.hash_grid import HashGrid, available_backends, grid_layout, hash_encode, level_window

SMALL = dict(levels=4, features=2, log2_table=8, base_resolution=3, finest_resolution=40)


def slow_encode(position, table, layout):
    """The encoding of one point after the paper's text, in plain Python with 32-bit wrap-around hashing."""
    encoded = []
    for level, cells in enumerate(layout.resolutions):
        scaled = [min(max(float(c), 0.0), 1.0) * cells for c in position]
        cell = [min(int(np.floor(s)), cells - 1) for s in scaled]
        total = np.zeros(layout.features)
        for step in itertools.product((0, 1), repeat=3):
            corner = [c + d for c, d in zip(cell, step, strict=True)]
            weight = np.prod([s - c if d else 1 - (s - c) for s, c, d in zip(scaled, cell, step, strict=True)])
            if (cells + 1) ** 3 <= 2**layout.log2_table:
                row = corner[0] + corner[1] * (cells + 1) + corner[2] * (cells + 1) ** 2
            else:
                hashed = [(c * p) % 2**32 for c, p in zip(corner, (1, 2654435761, 805459861), strict=True)]
                row = (hashed[0] ^ hashed[1] ^ hashed[2]) % 2**layout.log2_table
            total += weight * table[layout.offsets[level] + row]
        encoded.append(total)
    return np.concatenate(encoded)


def points_off_borders(layout, count, dtype=torch.float64):
    """Points of the cube that keep a twentieth of a cell from every cell border of every level."""
    points = torch.rand(40 * count, 3, dtype=torch.float64)
    keep = torch.ones(len(points), dtype=torch.bool)
    for cells in layout.resolutions:
        keep &= ((points * cells) % 1.0 - 0.5).abs().amax(dim=1) < 0.45
    assert int(keep.sum()) >= count
    return points[keep][:count].to(dtype)


def test_layout_of_the_published_grid():
    layout = grid_layout(levels=16, features=2, log2_table=19, base_resolution=16, finest_resolution=7006)
    assert layout.resolutions[0] == 16 and layout.resolutions[-1] == 7006
    assert layout.resolutions[1:5] == (24, 36, 54, 81)  # 16 x 1.5^l
    # 17^3, 25^3, 37^3, 55^3 corners fit in 2^19 = 524,288 rows; 82^3 = 551,368 do not.
    assert layout.dense == (True,) * 4 + (False,) * 12
    assert layout.rows == 17**3 + 25**3 + 37**3 + 55**3 + 12 * 2**19


def test_plain_encoding_follows_the_paper():
    layout = grid_layout(**SMALL)
    assert layout.dense == (True, False, False, False)
    table = torch.randn(layout.rows, layout.features, dtype=torch.float64)
    points = torch.cat([torch.rand(20, 3), torch.tensor([[0.0, 0, 0], [1, 1, 1], [-0.2, 0.3, 1.7]])]).double()
    expected = np.stack([slow_encode(p, table.numpy(), layout) for p in points.numpy()])
    np.testing.assert_allclose(hash_encode(points, table, layout).numpy(), expected, atol=1e-12)


def test_linear_functions_are_reproduced_with_their_gradient():
    layout = grid_layout(levels=1, features=1, log2_table=12, base_resolution=8, finest_resolution=8)
    z, y, x = torch.meshgrid(*[torch.arange(9, dtype=torch.float64) / 8] * 3, indexing="ij")
    table = (2 * x - 3 * y + 5 * z + 1).reshape(-1, 1)
    points = torch.rand(50, 3, dtype=torch.float64, requires_grad=True)
    encoded = hash_encode(points, table, layout)
    torch.testing.assert_close(encoded[:, 0], points @ torch.tensor([2.0, -3, 5]).double() + 1)
    (grad,) = torch.autograd.grad(encoded.sum(), points)
    torch.testing.assert_close(grad, torch.tensor([2.0, -3, 5]).double().expand(50, 3))


def test_gradcheck_in_positions_and_table():
    layout = grid_layout(levels=3, features=2, log2_table=5, base_resolution=2, finest_resolution=9)
    points = points_off_borders(layout, 6).requires_grad_()
    table = torch.randn(layout.rows, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0.7, 0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda p, t: hash_encode(p, t, layout, weights), (points, table))


def test_outside_the_cube_the_nearest_value_and_no_gradient():
    layout = grid_layout(**SMALL)
    table = torch.randn(layout.rows, 2, dtype=torch.float64)
    points = torch.tensor([[1.4, 0.31, -0.2]], dtype=torch.float64, requires_grad=True)
    encoded = hash_encode(points, table, layout)
    torch.testing.assert_close(encoded, hash_encode(torch.tensor([[1.0, 0.31, 0.0]]).double(), table, layout))
    (grad,) = torch.autograd.grad(encoded.sum(), points)
    assert grad[0, 0] == 0 and grad[0, 2] == 0 and grad[0, 1] != 0


def test_level_weights_and_fewer_levels():
    grid = HashGrid(**SMALL, implementation="torch")
    points = torch.rand(30, 3)
    full = grid(points)
    weighted = grid(points, level_weights=[1.0, 0.5, 0.0, 2.0])
    torch.testing.assert_close(weighted, full * torch.tensor([1.0, 1, 0.5, 0.5, 0, 0, 2, 2]))
    assert torch.equal(grid(points, levels=2), full[:, :4])


def test_level_window():
    # Of eight levels half are in use: 1 + 0.5 x 7 = 4.5 levels, the fifth at (1 - cos(pi / 2)) / 2 = 0.5.
    torch.testing.assert_close(level_window(0.5, 8), torch.tensor([1.0, 1, 1, 1, 0.5, 0, 0, 0]))
    assert torch.equal(level_window(1.0, 8), torch.ones(8))
    assert torch.equal(level_window(0.0, 4), torch.tensor([1.0, 0, 0, 0]))
    # A quarter into a level: (1 - cos(pi / 4)) / 2.
    torch.testing.assert_close(level_window(1.25 / 4, 5)[2], torch.tensor(0.146447))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("sizes", "weights", "levels"),
    [
        (dict(levels=8, features=4, log2_table=10), None, None),
        (dict(levels=5, features=2, log2_table=12), [1.0, 0.6, 1.0, 0.2, 0.0], None),
        (dict(levels=6, features=4, log2_table=10), [1.0, 1.0, 0.5, 0.0, 0.0, 0.0], 3),
    ],
)
def test_warp_agrees_with_plain_torch(sizes, weights, levels, threads):
    agree(sizes, weights, levels, "cpu", threads)


@pytest.mark.cuda
@pytest.mark.parametrize("features", [2, 4])
def test_warp_agrees_with_plain_torch_on_cuda(features):
    weights = [1.0, 1, 1, 1, 1, 1, 0.5, 0]
    agree(dict(levels=8, features=features, log2_table=14), weights, None, "cuda", torch.get_num_threads())


def agree(sizes, weights, levels, device, threads):
    """Values and gradients of both implementations, the gradients through random further factors."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        plain = HashGrid(**sizes, base_resolution=4, finest_resolution=100, implementation="torch").to(device)
        fast = HashGrid(**sizes, base_resolution=4, finest_resolution=100, implementation="warp").to(device)
        assert fast.backend() == "warp" and plain.backend() == "torch"
        torch.nn.init.normal_(plain.table)
        fast.load_state_dict(plain.state_dict())
        # Enough points to occupy several threads, some outside the cube; away from borders, where slopes jump.
        points = torch.cat([points_off_borders(plain.layout, 4000, torch.float32), 4 * torch.rand(500, 3) - 2])
        points = points.to(device)
        used = levels or plain.layout.levels
        factors = torch.randn(len(points), used * sizes["features"], device=device)
        results = []
        for grid in (plain, fast):
            positions = points.clone().requires_grad_()
            encoded = grid(positions, weights, levels)
            results.append((encoded, *torch.autograd.grad((encoded * factors).sum(), (positions, grid.table))))
        for expected, got in zip(*results, strict=True):
            scale = float(expected.detach().abs().max())
            torch.testing.assert_close(got / scale, expected / scale, rtol=0, atol=3e-6)
    finally:
        torch.set_num_threads(before)


def test_warp_gives_only_the_gradients_asked_for():
    grid = HashGrid(**SMALL, implementation="warp")
    points = torch.rand(100, 3)
    grid(points).sum().backward()  # an avatar stage: the points are fixed
    assert grid.table.grad is not None
    grid.table.grad = None
    grid.table.requires_grad_(False)
    points.requires_grad_()
    grid(points).sum().backward()  # a pose stage: the field is fixed
    assert grid.table.grad is None and points.grad is not None and points.grad.abs().max() > 0


def test_warp_is_the_same_in_every_run():
    grid = HashGrid(implementation="warp")
    points, factors = torch.rand(6000, 3), torch.randn(6000, 32)
    grads = []
    for _ in range(3):
        positions = points.clone().requires_grad_()
        grads.append(torch.autograd.grad((grid(positions) * factors).sum(), (positions, grid.table)))
    for other in grads[1:]:
        assert all(torch.equal(a, b) for a, b in zip(grads[0], other, strict=True))


@pytest.mark.parametrize("implementation", ["torch", "warp"])
def test_no_points_and_points_that_are_not_numbers(implementation):
    grid = HashGrid(**SMALL, implementation=implementation)
    empty = torch.empty(0, 3, requires_grad=True)
    encoded = grid(empty)
    assert encoded.shape == (0, 8)
    encoded.sum().backward()
    assert empty.grad.shape == (0, 3)
    points = torch.full((3, 3), float("nan"))
    points[1] = 0.5
    assert torch.equal(grid(points)[1:2], grid(points[1:2]))  # and nothing is read outside the table


def test_double_precision_always_runs_in_plain_torch():
    for implementation in ("auto", "warp"):
        grid = HashGrid(**SMALL, implementation=implementation).double()
        assert grid.backend() == "torch"
        assert grid(torch.rand(5, 3, dtype=torch.float64)).dtype == torch.float64


@pytest.fixture
def fresh_choice():
    caches = (hash_grid._choose, hash_grid._announce, hash_grid._automatic)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_auto_takes_warp_where_it_works_and_says_so_once(fresh_choice, caplog):
    with caplog.at_level(logging.INFO, logger="renderer.hash_grid"):
        for features in (2, 4, 4):
            assert HashGrid(features=features).backend() == "warp"
    assert [r.getMessage() for r in caplog.records] == ["hash grid on cpu: Warp (its kernels work here and are faster)"]
    backends = available_backends("cpu")
    assert list(backends) == ["warp", "torch", "tinycudann"] and "CUDA only" in backends["tinycudann"]


def test_without_warp_auto_takes_plain_torch(fresh_choice, monkeypatch, caplog):
    monkeypatch.setattr(hash_grid, "backend_trouble", lambda *_: "no compiler cache")
    with caplog.at_level(logging.INFO, logger="renderer.hash_grid"):
        assert HashGrid(**SMALL).backend() == "torch"
    assert [r.getMessage() for r in caplog.records] == ["hash grid on cpu: plain torch (no compiler cache)"]
    backends = available_backends("cpu")
    assert list(backends) == ["torch", "warp", "tinycudann"] and "no compiler cache" in backends["warp"]
    with pytest.raises(RuntimeError, match=r"warp was asked for.*no compiler cache"):
        HashGrid(**SMALL, implementation="warp")(torch.rand(2, 3))


@pytest.mark.parametrize(
    ("times", "order"),
    [
        ({"warp": 0.4, "tinycudann": 0.7, "torch": 6.0}, ["warp", "tinycudann", "torch"]),
        ({"warp": 0.4, "tinycudann": 0.2, "torch": 6.0}, ["tinycudann", "warp", "torch"]),
        ({"warp": 0.4, "torch": 0.3}, ["torch", "warp", "tinycudann"]),
    ],
)
def test_on_cuda_auto_takes_the_fastest_that_works(times, order, fresh_choice, monkeypatch, caplog):
    monkeypatch.setattr(hash_grid, "backend_trouble", lambda name, *_: None if name in times else "it is not installed")
    monkeypatch.setattr(hash_grid, "_milliseconds", lambda names, *_: {name: times[name] for name in names})
    with caplog.at_level(logging.INFO, logger="renderer.hash_grid"):
        assert hash_grid._choose("auto", "cuda", 4) == order[0]
    (message,) = [r.getMessage() for r in caplog.records]
    assert f"{hash_grid.NAMES[order[0]]} {times[order[0]]:.2f} ms, " in message
    backends = available_backends("cuda")
    assert list(backends) == order and "fastest for 16,384 points" in backends[order[0]]
    assert hash_grid._choose("warp", "cuda", 4) == "warp"


def test_implementations_are_timed_without_touching_the_random_numbers():
    state = torch.get_rng_state()
    times = hash_grid._milliseconds(["warp", "torch"], "cpu", 2)
    assert times["torch"] > times["warp"] > 0
    assert torch.equal(state, torch.get_rng_state())


def test_a_failing_check_is_a_reason_not_a_crash(monkeypatch):
    from renderer import hash_grid_warp

    def broken(*_):
        raise OSError("cannot write the kernel cache")

    monkeypatch.setattr(hash_grid_warp, "check", broken)
    assert hash_grid.backend_trouble.__wrapped__("warp", "cpu") == "OSError: cannot write the kernel cache"


def test_the_check_notices_wrong_results(monkeypatch):
    from renderer import hash_grid_warp

    monkeypatch.setattr(hash_grid_warp, "hash_encode", lambda *a: 1.01 * hash_encode(*a))
    with pytest.raises(RuntimeError, match="differ from plain torch"):
        hash_grid_warp.check.__wrapped__(torch.device("cpu"), 4)


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="finest_resolution"):
        HashGrid(base_resolution=32, finest_resolution=16)
    with pytest.raises(ValueError, match="implementation 'cuda'"):
        HashGrid(implementation="cuda")
    with pytest.raises(RuntimeError, match=r"tinycudann was asked for.*CUDA only"):
        HashGrid(**SMALL, implementation="tinycudann")(torch.rand(2, 3))
    grid = HashGrid(**SMALL, implementation="torch")
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(4,\)"):
        grid(torch.rand(2, 3), level_weights=[1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="5 levels"):
        grid(torch.rand(2, 3), levels=5)
