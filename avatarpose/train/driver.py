"""`avatarpose train volumetric`: motion files in, weights out; stopped and started again it goes on where it was."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.data import DataLoader, Dataset

from avatarpose.body import load_body
from avatarpose.errors import InputError
from avatarpose.estimate.volumetric.estimator import packaged_weights
from avatarpose.estimate.volumetric.network import NetworkConfig, save_network
from avatarpose.io import write_bytes
from avatarpose.sequence import Sequence
from avatarpose.skeletons import skeleton
from avatarpose.train.loop import CHECKPOINT, CURVE, TrainConfig, Training, processes
from avatarpose.train.motion import load_motion
from avatarpose.train.noise_config import NoiseConfig
from avatarpose.train.rigs import rig_from, stage_of
from avatarpose.train.samples import Batch, SampleConfig, SampleMaker

WEIGHTS = "weights.safetensors"
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_SAVE_SECONDS = 60
_STEPS_BETWEEN_LINES = 25


@dataclass(frozen=True)
class TrainJob:
    """What is trained on what, where."""

    motion: tuple[Path, ...]
    """Motion files (.npz), or folders of AMASS files."""
    out: Path
    """Folder for the checkpoint, the curve and the weights."""
    exclude: tuple[str, ...] = ()
    """Clips that are kept out, with the wildcards of `fnmatch`."""
    config: TrainConfig = field(default_factory=TrainConfig)
    rig: Path | None = None
    """Sequence whose cameras are trained for; by default random rigs."""
    start: Path | None = None
    """Weights to begin with."""
    body: Path | None = None
    device: str = "cpu"
    processes: int = 1
    """Processes that share each batch; on a CPU one a core is fastest. The result depends on their number."""
    workers: int = 0
    """Processes that make samples beside the training; on CUDA one a core."""
    minutes: float = 0
    """Stop after this time, to be continued; 0: no limit."""
    cache: Path | None = None
    """Folder for the poses fitted to the motion."""


def job_of(command: Any) -> TrainJob:
    """The job that the options of `avatarpose train volumetric` ask for.

    Raises:
        InputError: no such device, or a folder that is no sequence.
    """
    from avatarpose.pipeline import torch_device

    start, rate = command.start, command.learning_rate
    network = NetworkConfig(
        width=command.width, skeleton=command.skeleton, joints=len(skeleton(command.skeleton)),
        anchors=command.ablate != "anchors",
    )  # fmt: skip
    if command.finetune_rig is not None:
        start, rate = start or packaged_weights(), 0.1 * rate
    noise = NoiseConfig.none() if command.ablate == "noise" else NoiseConfig()
    config = TrainConfig(
        network=network,
        samples=SampleConfig(noise=noise, skeleton=command.skeleton),
        total=command.samples, batch=command.batch, learning_rate=rate, seed=command.seed,
        focal=0.0 if command.ablate == "focal" else TrainConfig.focal,
    )  # fmt: skip
    return TrainJob(
        motion=command.motion, out=command.out, exclude=command.exclude, config=config, rig=command.finetune_rig,
        start=start, body=command.body, device=str(torch_device(command.device)), processes=command.processes,
        workers=command.workers, minutes=command.minutes, cache=Path.home() / ".cache" / "avatarpose",
    )  # fmt: skip


class _Batches(Dataset):
    """Batch of each step of this process."""

    def __init__(self, maker: SampleMaker, size: int, first: int, steps: int, rank: int, world: int) -> None:
        self.maker, self.size, self.first, self.steps, self.rank, self.world = maker, size, first, steps, rank, world

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        return self.maker.batch((self.first + index) * self.world + self.rank, self.size)


def make_maker(job: TrainJob) -> SampleMaker:
    """The samples of a job. Raises InputError where the motion or the rig cannot be read."""
    body = load_body(job.body)
    pool = load_motion(job.motion, body, exclude=job.exclude, cache=job.cache)
    rig = None
    if job.rig is not None:
        rig = partial(rig_from, stage_of(Sequence.open(job.rig)))
    return SampleMaker(pool, body, job.config.samples, job.config.seed, rig)


def train(job: TrainJob) -> Path:
    """Trains; returns the path of the weights."""
    job.out.mkdir(parents=True, exist_ok=True)
    if job.config.batch % job.processes:
        expected = f"a multiple of {job.processes}"
        raise InputError("the processes cannot share a batch", expected=expected, found=job.config.batch)
    if job.processes == 1:
        _work(0, job, 0)
    else:
        make_maker(job)  # so that what is wrong with the input is said once, and the fitted poses are there for all
        torch.multiprocessing.spawn(_work, (job, free_port()), nprocs=job.processes)
    return job.out / WEIGHTS


def free_port() -> int:
    """A port of this machine on which its processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _work(rank: int, job: TrainJob, port: int) -> None:
    """One of the training's processes."""
    _keep_memory()
    if job.processes > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.processes))
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=job.processes
        )
    maker = make_maker(job)
    training = Training(maker, job.config, job.out, torch.device(job.device), job.start)
    _run(training, job, rank, Console(stderr=True, quiet=rank > 0))
    if job.processes > 1:
        torch.distributed.destroy_process_group()


def _keep_memory() -> None:
    """Lets glibc keep freed memory: handing back and clearing large tensors every step costs a fifth of the time."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_M_MMAP_MAX, 0)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _run(training: Training, job: TrainJob, rank: int, console: Console) -> None:
    config, size = job.config, job.config.batch // job.processes
    started, before = time.monotonic(), training.seconds
    saved, lines = started, []
    first, last = training.seen // config.batch, -(-config.total // config.batch)
    for step, batch in enumerate(_batches(training.maker, job, size, first, last - first, rank), start=first + 1):
        lines.append(training.step(batch))
        now = time.monotonic()
        training.seconds = before + now - started
        over = step == last or _agreed(bool(job.minutes) and now - started > 60 * job.minutes)
        if step % _STEPS_BETWEEN_LINES == 0 or over:
            mean = {key: round(sum(line[key] for line in lines) / len(lines), 4) for key in lines[0]}
            lines = []
            if rank == 0:
                _report(training, mean, console)
        if rank == 0 and (over or now - saved > _SAVE_SECONDS):
            saved = now
            _save(training, job)
        if over:
            break


def _agreed(over: bool) -> bool:
    """Whether any process says so: all must stop at the same step."""
    if processes() == 1:
        return over
    vote = torch.tensor(float(over))
    torch.distributed.all_reduce(vote)
    return bool(vote > 0)


def _batches(maker: SampleMaker, job: TrainJob, size: int, first: int, steps: int, rank: int) -> Iterator[Batch]:
    data = _Batches(maker, size, first, max(steps, 0), rank, job.processes)
    return iter(DataLoader(data, batch_size=None, shuffle=False, num_workers=job.workers))


def _report(training: Training, mean: dict[str, float], console: Console) -> None:
    line = {"seen": training.seen, "seconds": round(training.seconds, 1), **mean}
    with (training.out / CURVE).open("a") as file:
        file.write(json.dumps(line) + "\n")
    total = training.config.total
    left = training.seconds / max(training.seen, 1) * (total - training.seen) / 60
    terms = ", ".join(f"{key} {value:.3f}" for key, value in mean.items())
    console.print(f"{training.seen}/{total} samples, {left:.0f} min left: {terms}")


def _save(training: Training, job: TrainJob) -> None:
    buffer = io.BytesIO()
    torch.save(training.checkpoint(), buffer)
    write_bytes(job.out / CHECKPOINT, buffer.getvalue())
    facts = {"samples": str(training.seen), "seconds": f"{training.seconds:.0f}", "device": job.device}
    save_network(job.out / WEIGHTS, training.average, **facts)
