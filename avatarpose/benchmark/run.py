"""Runs what is planned, on one or several devices at once, and goes on where it was stopped."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

from avatarpose.benchmark.plan import DONE, Job, prepare
from avatarpose.io import write_json


def run_jobs(
    jobs: Sequence[Job], devices: Sequence[str], threads: int, update: Callable[[int, int, str], None] | None = None
) -> list[Job]:
    """Runs every job that is not done; returns those that failed (their output is in log.txt of their folder).

    Args:
        devices: each runs one job at a time, so `("cpu", "cpu")` runs two at once.
        threads: of each job's torch; 0 shares the cores evenly.
        update: called with the jobs done, their number, and the name of the one that ended.

    Raises:
        InputError: see `prepare`.
    """
    for job in jobs:
        prepare(job)
    waiting = [job for job in jobs if not (job.folder / DONE).is_file()]
    free: SimpleQueue[str] = SimpleQueue()
    for device in devices:
        free.put(device)
    cores = threads or max(1, (os.cpu_count() or 1) // len(devices))
    lock, done, failed = threading.Lock(), len(jobs) - len(waiting), []

    def work(job: Job) -> None:
        nonlocal done
        device = free.get()
        try:
            code = _run(job, device, cores)
        finally:
            free.put(device)
        with lock:
            done += 1
            if code != 0:
                failed.append(job)
            if update is not None:
                update(done, len(jobs), job.name)

    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(work, waiting))
    return [job for job in jobs if job in failed]


def _run(job: Job, device: str, threads: int) -> int:
    command = [sys.executable, "-m", "avatarpose.cli", *job.arguments, "--device", device]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with (job.folder / "log.txt").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code == 0:
        write_json(job.folder / DONE, {"device": device, "threads": threads})
    return code
