"""Launching Warp kernels on torch's tensors: on torch's stream on CUDA, on as many threads as torch has on the CPU.

Warp runs a CPU kernel on the calling thread alone and lets go of the interpreter's lock inside it, so work is cut into
one launch a thread.
"""

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import warp as wp


@functools.cache
def start_warp() -> None:
    """Initialise Warp, quietly; done once."""
    if hasattr(wp.config, "log_level"):
        wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)
    else:
        wp.config.quiet = True
    wp.init()


def stream_of(device: torch.device) -> wp.Stream | None:
    """Torch's current stream on CUDA, None on the CPU."""
    return wp.stream_from_torch(torch.cuda.current_stream(device)) if device.type == "cuda" else None


def threads_for(count: int, per_thread: int, device: torch.device) -> int:
    """How many threads `count` pieces of work are worth, at least `per_thread` each."""
    if device.type != "cpu":
        return 1
    return max(1, min(torch.get_num_threads(), count // per_thread))


@functools.cache
def _pool(process: int, workers: int) -> ThreadPoolExecutor:
    """Threads for CPU launches; by process, since threads do not survive a fork."""
    return ThreadPoolExecutor(workers, thread_name_prefix="warp")


def run_side_by_side(jobs: list[Callable[[], None]]) -> None:
    """Run jobs at the same time, the last on this thread."""
    pending = [_pool(os.getpid(), len(jobs) - 1).submit(job) for job in jobs[:-1]]
    try:
        jobs[-1]()
    finally:
        for future in pending:
            future.result()


def launch_over(
    kernel: wp.Kernel, count: int, inputs: list, outputs: list, device: torch.device, per_thread: int
) -> None:
    """Launch a kernel over `count` pieces of work. It takes the first piece's number after `inputs`, as `start`."""
    threads = threads_for(count, per_thread, device)
    bounds = [count * thread // threads for thread in range(threads + 1)]
    run_side_by_side([
        functools.partial(
            wp.launch, kernel, dim=stop - start, inputs=[*inputs, start], outputs=outputs,
            device=wp.device_from_torch(device), stream=stream_of(device),
        )
        for start, stop in itertools.pairwise(bounds)
    ])  # fmt: skip
