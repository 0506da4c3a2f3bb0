"""The hash-grid encoding of `renderer.hash_grid` by tiny-cuda-nn (package `tinycudann`): float32, CUDA only.

tiny-cuda-nn's grid of several levels is not ours: it finds a point x of level l at (b^l N_min - 1) x + 1/2, half a cell
away and in cells of another size. But its grid of one level with base resolution N + 1 has N + 1 corners a side in our
order, dense where ours is and hashed by the same primes elsewhere, and finds x at N x + 1/2: given x - 1/(2N), at N x.
So the encoding is a composite of one such grid a level, each with positions of its own. They work on the table of
`HashGrid`, each level filled up to whole eights of rows, so avatars are the same whatever computes them.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from renderer.hash_grid import GridLayout, check_encoder
from renderer.hash_grid import hash_encode as hash_encode_plain

ROW_MULTIPLE = 8
BORDER = 2.5e-7
"""Share of the cube's side kept from its border, where rounding would find a cell outside."""


@functools.cache
def _encoding(layout: GridLayout, levels: int, device: torch.device) -> tuple[nn.Module, Tensor]:
    """The composite of the coarsest levels, and half a cell of each level."""
    import tinycudann

    grids = [
        {
            "otype": "HashGrid",
            "n_dims_to_encode": 3,
            "n_levels": 1,
            "n_features_per_level": layout.features,
            "log2_hashmap_size": layout.log2_table,
            "base_resolution": cells + 1,
        }
        for cells in layout.resolutions[:levels]
    ]
    encoding = tinycudann.Encoding(3 * levels, {"otype": "Composite", "nested": grids}, dtype=torch.float32)
    expected = len(_filled_up(torch.empty(layout.rows, layout.features, device="meta"), layout, levels))
    if encoding.params.numel() != expected:
        raise RuntimeError(f"its table has {encoding.params.numel()} numbers where {expected} are expected")
    encoding.params = nn.Parameter(torch.empty(0, device=device), requires_grad=False)  # ours is given with every call
    half_cells = 0.5 / torch.tensor(layout.resolutions[:levels], dtype=torch.float32, device=device)
    return encoding, half_cells


def _filled_up(table: Tensor, layout: GridLayout, levels: int) -> Tensor:
    """The rows of the coarsest levels, each level's number of rows made whole, flat."""
    sizes = [stop - start for start, stop in zip(layout.offsets[:-1], layout.offsets[1:], strict=True)]
    parts = torch.split(table, sizes)[:levels]
    return torch.cat([F.pad(part, (0, 0, 0, -len(part) % ROW_MULTIPLE)) for part in parts]).flatten()


def hash_encode(
    positions: Tensor, table: Tensor, layout: GridLayout, level_weights: Tensor | None = None, levels: int | None = None
) -> Tensor:
    """As `renderer.hash_grid.hash_encode`, for float32 tensors on CUDA. Call `check` first, once."""
    if len(positions) == 0:
        return hash_encode_plain(positions, table, layout, level_weights, levels)
    levels = layout.levels if levels is None else levels
    inside = positions.clamp(0.0, 1.0)
    inside = inside + (inside.clamp(BORDER, 1.0 - BORDER) - inside).detach()
    with torch.cuda.device_of(positions):
        encoding, half_cells = _encoding(layout, levels, positions.device)
        shifted = (inside[:, None] - half_cells[:, None]).flatten(1)
        encoded = torch.func.functional_call(encoding, {"params": _filled_up(table, layout, levels)}, (shifted,))
    encoded = encoded[:, : levels * layout.features]
    if level_weights is None:
        return encoded
    return encoded * level_weights[:levels].detach().repeat_interleave(layout.features)


@functools.cache
def check(device: torch.device, features: int = 4) -> None:
    """Compare with the plain encoding on a few points.

    Raises:
        RuntimeError: the values or gradients differ. Errors of tiny-cuda-nn pass through.
    """
    check_encoder(hash_encode, device, features)
