"""Where rays are sampled: on a lattice along each ray, only inside somebody's shell, and only as far as light can come.

No gradient flows through anything here: depths, nearest vertices and the choice of the samples are constants.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from renderer.body_shell import BodyShell, march
from renderer.shell import Shell
from renderer.skinning import (
    PosedPerson,
    frame_spans,
    inverse_skin_by_span,
    signed_body_distance,
    to_root_by_span,
)

LATTICE_CHUNK = 2**22
"""Lattice points looked up at once; bounds the memory of long or many rays."""


@dataclass(frozen=True)
class SamplingConfig:
    """How rays are sampled."""

    step: float = 0.010
    """Metres between the samples of a person along a ray, and the length each sample stands for."""
    shell: float = 0.06
    """Metres around the body's vertices within which samples are kept."""
    inside: float = 0.03
    """Metres under the skin from which a body is opaque: no network is asked there."""
    max_samples: int = 64
    """Samples of one person kept on one ray, nearest first."""
    jitter: bool = True
    """Shift the lattice by a random part of a step, for each ray and person; else by half a step."""
    cull: bool = True
    """Drop, on each ray, all samples of all people behind one that lies deeper than `inside` in anybody.

    That sample lets no more than exp(-8) of the light through (`renderer.render.SATURATED_OPTICAL_DEPTH`), so what is
    dropped weighs less than 4e-4 altogether, and as a rule far less, for little light comes that deep. It is the first
    such sample among probes: all samples of `BodyShell`s; of `Shell`s every few, no more than `inside` apart. Switch it
    off where hidden samples matter for themselves, as in a loss on overlapping bodies.
    """

    colour_weight: float = 1e-3
    """Samples of a smaller weight count for opacity and depth, but their colour is not asked for and stays black: two
    fifths of the samples, and together about a thousandth of the light. 0 asks for all."""

    def __post_init__(self) -> None:
        lengths = {name: getattr(self, name) for name in ("step", "shell", "inside", "max_samples")}
        if min(lengths.values()) <= 0:
            raise ValueError(f"sampling: {lengths} must be positive")


@dataclass
class RayBatch:
    """R rays in the world."""

    origins: Float[Tensor, "rays 3"]
    """Metres."""
    directions: Float[Tensor, "rays 3"]
    """Unit."""
    frame: Int[Tensor, " rays"]
    """Which frame of the batch of poses a ray sees."""


@dataclass
class Samples:
    """N samples of all rays and people, grouped by person, then by frame, then by ray, then by rising depth."""

    ray: Int[Tensor, " samples"]
    person: Int[Tensor, " samples"]
    frame: Int[Tensor, " samples"]
    z: Float[Tensor, " samples"]
    """Metres along the ray."""
    vertex: Int[Tensor, " samples"]
    """Nearest vertex of that person in that frame."""
    counts: list[int]
    """Samples of each person: the lengths of the groups."""
    step: float
    """Metres of ray each sample stands for."""

    def __len__(self) -> int:
        return len(self.z)

    def points(self, rays: RayBatch) -> Float[Tensor, "samples 3"]:
        """World positions o + z d, metres, differentiable in the rays."""
        return rays.origins.index_select(0, self.ray) + self.z[:, None] * rays.directions.index_select(0, self.ray)


@torch.no_grad()
def sample_people(
    rays: RayBatch,
    people: list[PosedPerson],
    shells: list[list[Shell | None]] | list[list[BodyShell | None]],
    config: SamplingConfig,
    generator: torch.Generator | None = None,
) -> Samples:
    """Sample rays where they pass through people's shells.

    On each ray, a person's samples lie at z = (k + u) step for whole numbers k, with one shift u in [0, 1) for each ray
    and person; so the lattice does not move with the body. Kept are those whose nearest vertex is within the shell.

    Args:
        rays: R rays.
        people: P people, posed in B frames.
        shells: for each person and frame of the batch, the shell; None where the person is absent. `BodyShell`s are
            fast, `Shell`s exact.
        config: settings; shells thinner than `config.shell` bound the samples by their own thickness.
        generator: of the shifts.

    Raises:
        ValueError: shells that do not match people and frames, or rays of frames that are not there.
    """
    device, dtype = rays.origins.device, rays.origins.dtype
    _check(rays, people, shells)
    shift = torch.full((len(people), len(rays.frame)), 0.5, dtype=dtype, device=device)
    if config.jitter:
        where = generator.device if generator is not None else device
        shift = torch.rand(shift.shape, generator=generator, device=where, dtype=dtype).to(device)

    empty = torch.zeros(0, dtype=torch.long, device=device)
    samples = Samples(empty, empty, empty, empty.to(dtype), empty, [0] * len(people), config.step)
    if len(rays.frame) == 0 or not any(shell is not None for row in shells for shell in row):
        return samples
    if all(isinstance(shell, BodyShell) for row in shells for shell in row if shell is not None):
        return _march_bodies(rays, shells, shift, config)
    samples, number = _march(rays, shells, shift, config.step)
    if config.cull:
        samples = _ask_until_deep(samples, number, rays, people, shells, config)
    else:
        samples = _keep(samples, *_nearest(samples, rays, shells, config))
    return _limit(samples, len(rays.frame), config.max_samples)


def _check(rays: RayBatch, people: list[PosedPerson], shells: list[list[Shell | None]]) -> None:
    frames = [len(person.T_world_root) for person in people]
    if [len(row) for row in shells] != frames:
        raise ValueError(f"sampling: shells for {[len(row) for row in shells]} frames, people posed in {frames}")
    if frames and len(rays.frame):
        first, last = (int(frame) for frame in torch.aminmax(rays.frame))
        if first < 0 or last >= max(frames):
            raise ValueError(f"sampling: rays of frames {first} to {last}, people posed in {frames}")


def _march_bodies(
    rays: RayBatch, shells: list[list[BodyShell | None]], shift: Tensor, config: SamplingConfig
) -> Samples:
    """All of it in one kernel, by the bodies' tables; every sample is a probe."""
    by_frame = torch.argsort(rays.frame, stable=True)
    thickness = min(shell.thickness for row in shells for shell in row if shell is not None)
    person, row, number, vertex = march(
        shells,
        rays.origins.index_select(0, by_frame),
        rays.directions.index_select(0, by_frame),
        rays.frame.index_select(0, by_frame),
        shift.index_select(1, by_frame),
        config.step,
        min(config.shell, thickness),
        config.inside if config.cull else math.inf,
        config.max_samples,
    )
    ray = by_frame.index_select(0, row)
    z = (number + shift[person, ray]) * config.step
    counts = torch.bincount(person, minlength=len(shells)).tolist()
    return Samples(ray, person, rays.frame.index_select(0, ray), z, vertex, counts, config.step)


def _march(
    rays: RayBatch, shells: list[list[Shell | None]], shift: Tensor, step: float
) -> tuple[Samples, Int[Tensor, " samples"]]:
    """Lattice points in occupied cells, of all people and frames at once, and their whole numbers k on the lattice."""
    device, dtype = rays.origins.device, rays.origins.dtype
    frames = max(len(row) for row in shells)
    flat: list[Shell | None] = [shell for row in shells for shell in row + [None] * (frames - len(row))]
    there = next(shell for shell in flat if shell is not None)
    # Tables over (person, frame): an absent body has a box that no comparison finds.
    nowhere = torch.full_like(there.low, torch.nan)
    low = torch.stack([shell.low if shell else nowhere for shell in flat]).to(dtype)
    high = torch.stack([shell.high if shell else nowhere for shell in flat]).to(dtype)
    origin = torch.stack([(shell or there).origin for shell in flat]).to(dtype)
    size = torch.tensor([(shell or there).occupancy.shape for shell in flat], device=device)
    voxel = torch.tensor([(shell or there).voxel for shell in flat], dtype=dtype, device=device)
    cells = torch.cat([shell.occupancy.flatten() for shell in flat if shell])
    lengths = torch.tensor([shell.occupancy.numel() if shell else 0 for shell in flat], device=device)
    base = lengths.cumsum(0) - lengths

    # Every ray against every person's box in the ray's frame, rays together by frame.
    by_frame = torch.argsort(rays.frame, stable=True)
    table = (torch.arange(len(shells), device=device)[:, None] * frames + rays.frame[by_frame]).flatten()
    ray = by_frame.repeat(len(shells))
    o, d = rays.origins.index_select(0, ray), rays.directions.index_select(0, ray)
    # A direction with a zero component never leaves the slab: the division gives infinities of the right sign.
    d_safe = torch.where(d == 0, torch.finfo(dtype).tiny, d)
    enter = (low.index_select(0, table) - o) / d_safe
    leave = (high.index_select(0, table) - o) / d_safe
    near = torch.minimum(enter, leave).amax(dim=1).clamp(min=0.0)
    far = torch.maximum(enter, leave).amin(dim=1)
    hit = torch.nonzero(far > near)[:, 0]
    ray, table, near, far = (t.index_select(0, hit) for t in (ray, table, near, far))
    person = table // frames
    u = shift[person, ray]
    first = torch.ceil(near / step - u)
    count = (torch.floor(far / step - u) - first + 1).clamp(min=0).long()
    z_first = (first + u) * step

    # In cells of the grid: position = start + k * stride.
    per_cell = 1 / voxel.index_select(0, table)
    o, d = o.index_select(0, hit), d.index_select(0, hit)
    start = (o + z_first[:, None] * d - origin.index_select(0, table)) * per_cell[:, None]
    stride = d * (step * per_cell)[:, None]
    side = size.index_select(0, table).to(torch.int32)
    base = base.index_select(0, table).to(torch.int32)
    rows, columns = [], []
    longest = int(count.max()) if len(count) else 0
    k = torch.arange(longest, device=device, dtype=dtype)
    chunk = max(1, LATTICE_CHUNK // max(longest, 1))
    for begin in range(0, len(hit), chunk):
        end = min(begin + chunk, len(hit))
        for axis in range(3):
            place = torch.addcmul(start[begin:end, axis, None], stride[begin:end, axis, None], k).to(torch.int32)
            cell = place if axis == 0 else cell * side[begin:end, axis, None] + place
        cell = (cell + base[begin:end, None]).clamp_(0, len(cells) - 1)
        found = cells.index_select(0, cell.flatten()).view(cell.shape)
        found &= k < count[begin:end, None]
        row, column = torch.nonzero(found, as_tuple=True)
        rows.append(row + begin)
        columns.append(column)
    row = torch.cat(rows) if rows else hit
    column = torch.cat(columns) if columns else hit
    number = first.index_select(0, row).long() + column
    z = (number + u.index_select(0, row)) * step
    person = person.index_select(0, row)
    frame = table.index_select(0, row) - person * frames
    counts = torch.bincount(person, minlength=len(shells)).tolist()
    return Samples(ray.index_select(0, row), person, frame, z, torch.zeros_like(row), counts, step), number


def _nearest(
    samples: Samples, rays: RayBatch, shells: list[list[Shell | None]], config: SamplingConfig
) -> tuple[Tensor, Tensor]:
    """Nearest vertex of each sample, and which samples lie in the shell."""
    points = samples.points(rays)
    vertex = torch.zeros_like(samples.ray)
    distance = torch.full_like(samples.z, torch.inf)
    begin = 0
    for row, count in zip(shells, samples.counts, strict=True):
        spans, _ = frame_spans(samples.frame[begin : begin + count], len(row))
        for frame, start, stop in spans:
            shell = row[frame]
            if shell is not None and stop > start:
                part = slice(begin + start, begin + stop)
                vertex[part], distance[part] = shell.query(points[part])
        begin += count
    return vertex, distance <= config.shell


def _keep(samples: Samples, vertex: Tensor, chosen: Tensor) -> Samples:
    """The chosen samples, with the given vertices."""
    index = torch.nonzero(chosen)[:, 0]
    person = samples.person.index_select(0, index)
    return Samples(
        samples.ray.index_select(0, index),
        person,
        samples.frame.index_select(0, index),
        samples.z.index_select(0, index),
        vertex.index_select(0, index),
        torch.bincount(person, minlength=len(samples.counts)).tolist(),
        samples.step,
    )


def _ask_until_deep(
    samples: Samples,
    number: Tensor,
    rays: RayBatch,
    people: list[PosedPerson],
    shells: list[list[Shell | None]],
    config: SamplingConfig,
) -> Samples:
    """Keep what lies in the shells, on each ray up to the first probe deeper than `inside` in anybody.

    Probes are every few points of the lattice, no farther apart than `inside`. They are asked for their vertices first,
    and of the others only those that lie before the deep ones: most of what is hidden is never asked.
    """
    apart = max(1, int(config.inside / config.step + 1e-6))
    is_probe = number % apart == 0
    probes = _keep(samples, samples.vertex, is_probe)
    probe_vertex, probe_near = _nearest(probes, rays, shells, config)
    asked = _keep(probes, probe_vertex, probe_near)
    deep = torch.nonzero(_body_distance(asked, rays, people) < -config.inside)[:, 0]
    last = torch.full((len(rays.frame),), torch.inf, dtype=samples.z.dtype, device=samples.z.device)
    last.scatter_reduce_(0, asked.ray.index_select(0, deep), asked.z.index_select(0, deep), "amin")

    ahead = samples.z <= last.index_select(0, samples.ray)
    others = ahead & ~is_probe
    vertex, near = _nearest(_keep(samples, samples.vertex, others), rays, shells, config)
    every_vertex, every_near = torch.zeros_like(samples.vertex), torch.zeros_like(is_probe)
    for chosen, its_vertex, its_near in ((is_probe, probe_vertex, probe_near), (others, vertex, near)):
        every_vertex.masked_scatter_(chosen, its_vertex)
        every_near.masked_scatter_(chosen, its_near)
    return _keep(samples, every_vertex, every_near & ahead)


def _body_distance(samples: Samples, rays: RayBatch, people: list[PosedPerson]) -> Tensor:
    """Signed distance (N,) in metres from the skin of the samples' own person."""
    distances = []
    for person, points, vertex, frame in zip(
        people,
        samples.points(rays).split(samples.counts),
        samples.vertex.split(samples.counts),
        samples.frame.split(samples.counts),
        strict=True,
    ):
        spans, _ = frame_spans(frame, len(person.T_world_root))
        x_ref = inverse_skin_by_span(to_root_by_span(points, spans, person), spans, vertex, person)
        distances.append(signed_body_distance(x_ref, vertex, person.geometry))
    return torch.cat(distances)


def _limit(samples: Samples, rays: int, most: int) -> Samples:
    """Keep the nearest `most` samples of every ray and person."""
    if len(samples) == 0:
        return samples
    group = samples.person * rays + samples.ray
    count = torch.bincount(group, minlength=rays * len(samples.counts))
    if int(count.max()) <= most:
        return samples
    # Samples of one group lie together, in rising depth.
    index = torch.arange(len(samples), device=group.device)
    fresh = torch.ones_like(group, dtype=torch.bool)
    fresh[1:] = group[1:] != group[:-1]
    rank = index - torch.cummax(torch.where(fresh, index, 0), dim=0).values
    return _keep(samples, samples.vertex, rank < most)
