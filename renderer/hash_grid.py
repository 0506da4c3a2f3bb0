"""Multiresolution hash encoding of positions: the plain torch specification, and the choice of what computes it.

Source: Mueller et al., "Instant Neural Graphics Primitives with a Multiresolution Hash Encoding", SIGGRAPH 2022,
Eq. 1 to 4. Level l is a grid of N_l cells a side over the unit cube, N_l growing geometrically from the base to the
finest resolution, with one feature vector at every corner of a cell; a position gets the trilinear mean of its cell's
eight corners. Levels whose corners all fit in the table are indexed densely, finer ones by a spatial hash without
collision handling.

`hash_encode` is the specification and runs everywhere in any precision; `renderer.hash_grid_warp` computes the same in
float32 through NVIDIA Warp, on CPU and CUDA, several times as fast, and `renderer.hash_grid_tcnn` through tiny-cuda-nn,
on CUDA. All share one table.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Implementation = Literal["auto", "torch", "warp", "tinycudann"]

# Eq. 4 of the paper; the first is 1 so that neighbours along x stay neighbours in memory.
HASH_PRIMES = (1, 2_654_435_761, 805_459_861)
INITIAL_RANGE = 1e-4
CHECK_TOLERANCE = 1e-4
TIMED_POINTS = 16_384
TIMED_REPEATS = 5

NAMES = {"torch": "plain torch", "warp": "Warp", "tinycudann": "tiny-cuda-nn"}
FAST = {"warp": "renderer.hash_grid_warp", "tinycudann": "renderer.hash_grid_tcnn"}
"""Package that is needed, and the module here that uses it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GridLayout:
    """Where each level's corners lie in the one table of feature vectors."""

    resolutions: tuple[int, ...]
    """Cells along one side, per level, coarse first."""
    offsets: tuple[int, ...]
    """First row of each level in the table, and the table's length at the end (levels + 1 numbers)."""
    dense: tuple[bool, ...]
    """Whether a level's corners each have a row of their own."""
    features: int
    """Features at every corner."""
    log2_table: int
    """Binary logarithm of the largest number of rows a level may take."""

    @property
    def levels(self) -> int:
        return len(self.resolutions)

    @property
    def rows(self) -> int:
        return self.offsets[-1]


def grid_layout(
    levels: int, features: int, log2_table: int, base_resolution: int, finest_resolution: int
) -> GridLayout:
    """Lay out the levels: N_l = N_min b^l, b = (N_max / N_min)^(1 / (levels - 1)) (Eq. 2 and 3).

    N_l is rounded to the nearest whole number where the paper rounds down: a finest resolution that was itself rounded
    (7,006 for 16 x 1.5^15) then gives the levels it came from (24, 36, 54, ...).

    Raises:
        ValueError: a number is below 1, or the finest resolution below the base.
    """
    if min(levels, features, log2_table, base_resolution) < 1 or finest_resolution < base_resolution:
        raise ValueError(
            "hash grid: levels, features, log2_table and base_resolution must be at least 1 and finest_resolution at "
            f"least base_resolution; got {levels}, {features}, {log2_table}, {base_resolution}, {finest_resolution}"
        )
    growth = (finest_resolution / base_resolution) ** (1 / (levels - 1)) if levels > 1 else 1.0
    resolutions = tuple(round(base_resolution * growth**level) for level in range(levels))
    corners = [(resolution + 1) ** 3 for resolution in resolutions]
    dense = tuple(count <= 2**log2_table for count in corners)
    offsets = [0]
    for count in corners:
        offsets.append(offsets[-1] + min(count, 2**log2_table))
    return GridLayout(resolutions, tuple(offsets), dense, features, log2_table)


def corner_rows(cell: Int[Tensor, "points 8 3"], level: int, layout: GridLayout) -> Int[Tensor, "points 8"]:
    """Rows, within the level's part of the table, of its corners at integer coordinates 0 to N_l."""
    x, y, z = cell.unbind(-1)
    if layout.dense[level]:
        side = layout.resolutions[level] + 1
        rows = x + side * (y + side * z)
    else:
        # The low bits of the products are those of 32-bit arithmetic, so int64 does without a wrap-around.
        rows = (x * HASH_PRIMES[0] ^ y * HASH_PRIMES[1] ^ z * HASH_PRIMES[2]) & (2**layout.log2_table - 1)
    return rows


def hash_encode(
    positions: Float[Tensor, "points 3"],
    table: Float[Tensor, "rows features"],
    layout: GridLayout,
    level_weights: Float[Tensor, " levels"] | None = None,
    levels: int | None = None,
) -> Float[Tensor, "points encoded"]:
    """Encode positions of the unit cube in plain torch; the specification of the encoding.

    Args:
        positions: (N,3) in [0, 1]; what lies outside takes the value at the nearest point of the cube, and no gradient.
        table: (rows, features) feature vectors of all levels.
        layout: how the table is laid out.
        level_weights: (L,) factor of each level's features; constants, no gradient. None: all one.
        levels: encode only that many of the coarsest levels. None: all.

    Returns:
        (N, levels * features), coarse levels first, differentiable in the table and the positions.
    """
    levels = layout.levels if levels is None else levels
    corners = torch.tensor([[i & 1, i >> 1 & 1, i >> 2] for i in range(8)], device=positions.device)
    clamped = positions.clamp(0.0, 1.0)
    encoded = []
    # Split once: the gradient of the whole table is then put together once, not level by level.
    parts = torch.split(table, [b - a for a, b in zip(layout.offsets[:-1], layout.offsets[1:], strict=True)])
    for level in range(levels):
        resolution = layout.resolutions[level]
        scaled = clamped * resolution
        cell = scaled.detach().floor().long().clamp(0, resolution - 1)
        fraction = scaled - cell
        rows = corner_rows(cell[:, None] + corners, level, layout)
        x, y, z = torch.stack([1 - fraction, fraction], dim=-1).unbind(1)
        weights = (z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]).flatten(1)
        features = (F.embedding(rows, parts[level]) * weights[..., None]).sum(dim=1)
        encoded.append(features if level_weights is None else features * level_weights[level].detach())
    return torch.cat(encoded, dim=1)


def level_window(detail: float, levels: int, coarse: int = 1) -> Float[Tensor, " levels"]:
    """Weights of the levels when a share `detail` of them is in use: 1 for coarse levels, 0 for fine, a cosine between.

    The window of Park et al., "Nerfies", ICCV 2021, Eq. 8, over levels instead of frequencies. The coarsest `coarse`
    levels are always in use.

    Args:
        detail: 0 (only the coarsest levels) to 1 (all).
        levels: number of levels.

    Returns:
        (levels,) float32, on the CPU.
    """
    opened = coarse + detail * (levels - coarse) - torch.arange(levels, dtype=torch.float32)
    return (1 - torch.cos(math.pi * opened.clamp(0.0, 1.0))) / 2


def check_encoder(encode: Callable[..., Tensor], device: torch.device, features: int) -> None:
    """Compare an implementation of `hash_encode` with it on a few points: values and both gradients.

    Raises:
        RuntimeError: they differ.
    """
    # The first level is dense, with a number of rows that is no power of two; the second is hashed.
    layout = grid_layout(levels=2, features=features, log2_table=8, base_resolution=4, finest_resolution=20)
    results = []
    with torch.enable_grad():  # the first call of a process may come under no_grad
        for one in (hash_encode, encode):
            positions = torch.linspace(-0.03, 1.01, 24).view(8, 3).to(device).requires_grad_()
            table = torch.linspace(-1, 1, layout.rows * features).view(-1, features).sin().to(device).requires_grad_()
            encoded = one(positions, table, layout)
            results.append((encoded, *torch.autograd.grad(encoded.square().sum(), (positions, table))))
    for plain, fast in zip(*results, strict=True):
        if not torch.allclose(plain, fast, rtol=CHECK_TOLERANCE, atol=CHECK_TOLERANCE):
            difference = (plain - fast).detach().abs().max().item()
            raise RuntimeError(f"its results differ from plain torch by {difference:.2g}")


def _encoder(name: str) -> Callable[..., Tensor]:
    return hash_encode if name == "torch" else importlib.import_module(FAST[name]).hash_encode


@functools.cache
def backend_trouble(name: str, device_type: str, features: int = 4) -> str | None:
    """Why a fast implementation cannot be used on a kind of device, or None where it can. Compiles and runs it once."""
    if name == "tinycudann" and device_type != "cuda":
        return "it runs on CUDA only"
    if importlib.util.find_spec(name) is None:
        return f"package {'warp-lang' if name == 'warp' else name} is not installed"
    if device_type == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    try:
        importlib.import_module(FAST[name]).check(torch.device(device_type), features)
    except Exception as error:  # a broken driver, compiler cache or wheel shows itself in many ways
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return None


def _milliseconds(names: Sequence[str], device_type: str, features: int) -> dict[str, float]:
    """Median time of an encoding with both its gradients, the implementations taking turns."""
    device = torch.device(device_type)
    layout = grid_layout(levels=8, features=features, log2_table=16, base_resolution=16, finest_resolution=768)
    # Spread evenly without a random generator, whose numbers others count on.
    steps = torch.tensor([0.8191725, 0.6710436, 0.5497005], dtype=torch.float64)
    positions = (torch.arange(TIMED_POINTS)[:, None] * steps % 1.0).float().to(device).requires_grad_()
    table = torch.zeros(layout.rows, features, device=device, requires_grad=True)
    times: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(TIMED_REPEATS + 2):
        for name in names:
            if device_type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            with torch.enable_grad():
                encoded = _encoder(name)(positions, table, layout)
                torch.autograd.grad(encoded, (positions, table), torch.ones_like(encoded))
            if device_type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 2:  # the first two warm up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


@functools.cache
def _automatic(device_type: str, features: int = 4) -> tuple[tuple[str, ...], str]:
    """What can compute in float32, first what `auto` takes, and why that: on CUDA the fastest, elsewhere Warp."""
    usable = [name for name in FAST if backend_trouble(name, device_type, features) is None]
    if not usable:
        return ("torch",), str(backend_trouble("warp", device_type, features))
    if device_type != "cuda":
        return (*usable, "torch"), "its kernels work here and are faster"
    times = _milliseconds([*usable, "torch"], device_type, features)
    order = sorted(times, key=times.__getitem__)
    spent = ", ".join(f"{NAMES[name]} {times[name]:.2f} ms" for name in order)
    return tuple(order), f"fastest for {TIMED_POINTS:,} points: {spent}"


def available_backends(device: torch.device | str = "cpu") -> dict[str, str]:
    """What computes the hash grid on a device, each with a sentence that says why.

    The first is what `implementation="auto"` takes in float32. What cannot be used comes last, and its sentence says
    what is wrong. May compile kernels (a few seconds, once on a machine).
    """
    device = torch.device(device)
    order, why = _automatic(device.type)
    said = dict.fromkeys(order, "its results agree with plain torch")
    said["torch"] = "runs everywhere; the specification, and what computes in double precision"
    if len(order) > 1:
        said[order[0]] += f"; {why}"
    for name in FAST:
        if name not in said:
            said[name] = f"not usable on {device.type}: {backend_trouble(name, device.type)}"
    return said


@functools.cache
def _choose(implementation: Implementation, device_type: str, features: int) -> str:
    """What computes in float32."""
    if implementation == "auto":
        order, why = _automatic(device_type, features)
        _announce(device_type, order[0], why)
        return order[0]
    if implementation != "torch" and (trouble := backend_trouble(implementation, device_type, features)) is not None:
        raise RuntimeError(f"hash grid: {implementation} was asked for but cannot be used on {device_type}: {trouble}")
    return implementation


@functools.cache
def _announce(device_type: str, chosen: str, reason: str) -> None:
    logger.info("hash grid on %s: %s (%s)", device_type, NAMES[chosen], reason)


class HashGrid(nn.Module):
    """A learned multiresolution hash encoding.

    Args:
        levels, features, log2_table, base_resolution, finest_resolution: see `grid_layout`.
        implementation: "torch", "warp", "tinycudann", or "auto" for what is fastest here. Anything but float32 always
            runs in torch.

    Raises:
        ValueError: sizes that make no grid, or an unknown implementation.
    """

    def __init__(
        self,
        levels: int = 8,
        features: int = 4,
        log2_table: int = 16,
        base_resolution: int = 16,
        finest_resolution: int = 768,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        if implementation not in get_args(Implementation):
            expected = ", ".join(get_args(Implementation))
            raise ValueError(f"hash grid: implementation {implementation!r}, expected one of {expected}")
        self.layout = grid_layout(levels, features, log2_table, base_resolution, finest_resolution)
        self.implementation: Implementation = implementation
        self.table = nn.Parameter(torch.empty(self.layout.rows, features).uniform_(-INITIAL_RANGE, INITIAL_RANGE))

    def backend(self) -> str:
        """What computes the encoding for the table as it is now: "torch", "warp" or "tinycudann".

        Raises:
            RuntimeError: what was asked for does not work here.
        """
        if self.table.dtype != torch.float32:
            return "torch"
        return _choose(self.implementation, self.table.device.type, self.layout.features)

    def forward(
        self,
        positions: Float[Tensor, "points 3"],
        level_weights: Float[Tensor, " levels"] | Sequence[float] | None = None,
        levels: int | None = None,
    ) -> Float[Tensor, "points encoded"]:
        """Encode positions (N,3) of the unit cube to (N, levels * features); see `hash_encode`.

        Raises:
            ValueError: weights of another number of levels, or more levels than there are.
            RuntimeError: the implementation that was asked for does not work here.
        """
        if levels is not None and not 1 <= levels <= self.layout.levels:
            raise ValueError(f"hash grid: {levels} levels asked for, the grid has {self.layout.levels}")
        if level_weights is not None:
            level_weights = torch.as_tensor(level_weights, dtype=self.table.dtype, device=self.table.device)
            if level_weights.shape != (self.layout.levels,):
                raise ValueError(
                    f"hash grid: level weights of shape {tuple(level_weights.shape)}, expected ({self.layout.levels},)"
                )
        backend = self.backend() if positions.dtype == torch.float32 else "torch"
        return _encoder(backend)(positions, self.table, self.layout, level_weights, levels)

    def extra_repr(self) -> str:
        resolutions = self.layout.resolutions
        return f"levels={len(resolutions)}, features={self.layout.features}, cells={resolutions[0]}..{resolutions[-1]}"
