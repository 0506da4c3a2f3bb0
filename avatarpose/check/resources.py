"""What a run will take: time, memory, disk. Estimates, from one short measurement here and figures measured elsewhere.

A run's time is that of its iterations, nearly all of it in rendering. How long one takes was measured once on a
reference machine, together with the time of a small piece of it (evaluating and differentiating one avatar's field);
here only the piece is timed, and the ratio scales the rest. Other work on the machine can triple it.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from avatarpose.sequence import Sequence

_POINTS = 16_384
_REPEATS = 8
# Measured on a virtual x86-64 machine without a GPU, preset cpu, two people, 1,024 rays (docs/benchmarks.md), with the
# piece timed on that machine.
_REFERENCE_STEP = {"avatar": 0.065, "pose": 0.080, "silhouette": 0.080, "joint": 0.115}
_REFERENCE_PIECE = 0.060
_FIXED = 0.25  # share of a step that does not grow with rays and people
_LEAST_STEP_CUDA = 0.03  # seconds: some 700 launches
_ESTIMATE_SECONDS = {"triangulation": 0.01, "volumetric": 0.1}  # per frame and person
_REGISTER_SECONDS = 0.11  # per frame and person
_IMAGE_SECONDS = 0.012  # to decode a megapixel with its mask, once for each segment of the schedule
_BASE_MEMORY = 0.7e9  # the process with torch, a body and two avatars
_AVATAR_BYTES = {"cpu": 6.6e6, "gpu": 6.6e6, "paper": 1.1e8}


@dataclass(frozen=True)
class Need:
    """Of one preset.

    Attributes:
        seconds: expected.
        memory: bytes of main memory.
        disk: bytes written to results/.
    """

    preset: str
    seconds: float
    memory: float
    disk: float


@dataclass(frozen=True)
class Machine:
    """What there is.

    Attributes:
        device: cpu or cuda.
        piece: seconds that the timed piece took.
        memory: bytes of main memory free; None where the system does not say.
        disk: bytes free where the results go.
    """

    device: str
    piece: float
    memory: float | None
    disk: float

    @property
    def slowness(self) -> float:
        """Times as slow as the reference machine."""
        return self.piece / _REFERENCE_PIECE


def time_piece(device: str, points: int = _POINTS) -> float:
    """Least seconds of one evaluation of an avatar's field, forward and backward, at `points` points, on one thread.

    On a CPU its own time is counted, not the wall's, so that what else runs on the machine just now matters little.
    """
    import torch

    # The renderer stands above this package, so it is imported where it is timed.
    from renderer.field import AvatarField, FieldConfig

    generator = torch.Generator().manual_seed(0)
    field = AvatarField(FieldConfig(), torch.zeros(3), 1.0).to(device)
    where = (torch.rand(points, 3, generator=generator) - 0.5).to(device)
    distance = (0.02 * torch.rand(points, generator=generator)).to(device)
    threads, seconds = torch.get_num_threads(), []
    clock = time.perf_counter if device == "cuda" else time.process_time
    torch.set_num_threads(1)  # a neighbour's work on one of two cores makes two threads slower than one
    try:
        for _ in range(_REPEATS):
            start = clock()
            sample = field(where.requires_grad_(), distance)
            (sample.density.sum() + sample.albedo.sum()).backward()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(clock() - start)
    finally:
        torch.set_num_threads(threads)
    return min(seconds)  # the first compiles kernels, and others may have met other work


def free_memory() -> float | None:
    """Bytes of main memory that are free or can be freed, on Linux."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024.0
    except OSError:
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None


def look_at_machine(folder: Path) -> Machine:
    """Measures this machine; takes a second or two."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Machine(device, time_piece(device), free_memory(), float(shutil.disk_usage(folder).free))


def needs(sequence: Sequence, people: int, machine: Machine, memory_limit: float = 1e9) -> list[Need]:
    """Time, memory and disk by preset, for all chosen cameras and frames.

    Args:
        people: how many there are.
        memory_limit: bytes that cached images may take (`--memory`).
    """
    from optimize.config import preset
    from optimize.pixels import BYTES_PER_PIXEL
    from optimize.pools import POOL_LIMIT

    cameras, frames = len(sequence.cameras), len(sequence.frames)
    pixels = float((sequence.cameras.width * sequence.cameras.height).sum())
    first = frames * people * (_ESTIMATE_SECONDS["volumetric"] + _REGISTER_SECONDS) * machine.slowness
    found = []
    for name in ("cpu", "gpu", "paper"):
        config = preset(name).for_frames(frames)
        size = config.rays / 1024 * max(people, 1) / 2
        by_size = (_FIXED + (1 - _FIXED) * size) * machine.slowness
        least = _LEAST_STEP_CUDA if machine.device == "cuda" else 0.0
        steps = sum(stage.iterations * max(_REFERENCE_STEP[stage.kind] * by_size, least) for stage in config.stages)
        segments = sum(-(-stage.iterations // config.segment) for stage in config.stages)
        images = segments * frames * pixels * 1e-6 * _IMAGE_SECONDS
        if frames * pixels * 4 < memory_limit:
            images /= segments  # they stay in memory after the first time
        pool = 2 * min(config.pool_pixels * frames * cameras, POOL_LIMIT) * BYTES_PER_PIXEL  # the next one's too
        memory = _BASE_MEMORY * max(1, config.rays / 4096) + min(frames * pixels * 4, memory_limit) + pool
        disk = 3 * people * _AVATAR_BYTES[name] + 3e6 + frames * people * 5e3
        found.append(Need(name, first + steps + images, memory, disk))
    return found
