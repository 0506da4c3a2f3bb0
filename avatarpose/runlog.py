"""What a run did: settings, versions, seconds and peak memory of each stage, in `results/run.json`."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avatarpose import __version__
from avatarpose.errors import InputError
from avatarpose.io import read_json, write_json

if TYPE_CHECKING:  # `avatarpose doctor` tells the versions without the seconds that importing torch takes
    import torch

PACKAGES = ("torch", "numpy", "scipy", "opencv-python-headless", "warp-lang", "safetensors", "roma")


def package_versions() -> dict[str, str]:
    """Versions of the project, of Python and of the packages whose numerics a result depends on."""
    found = {"avatarpose": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def describe_device(device: torch.device) -> dict[str, Any]:
    """The device in words, with the processor's cores and torch's threads."""
    import torch

    named = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {"device": device.type, "name": named, "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def _restart_peak(device: torch.device) -> None:
    """Makes the kernel count this process's peak memory anew, where it can (Linux)."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_memory() -> int:
    """Peak resident memory of this process in bytes, since the last restart of the count where the system has one."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class RunLog:
    """`results/run.json`: grows by one entry a stage; entries of earlier runs of other stages stay."""

    def __init__(self, path: Path, settings: Mapping[str, Any], device: torch.device) -> None:
        self.path, self.device = path, device
        self.data: dict[str, Any] = {"stages": {}}
        if path.is_file():
            try:
                self.data["stages"] = dict(read_json(path).get("stages", {}))
            except InputError:
                self.data["stages"] = {}  # only a log: a damaged one is written anew
        self.data |= {
            "settings": dict(settings),
            "versions": package_versions(),
            "device": describe_device(device),
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Measures the block as stage `name`; what the block puts into the yielded dict is kept beside the figures."""
        _restart_peak(self.device)
        notes: dict[str, Any] = {}
        start, worked = time.perf_counter(), time.process_time()
        yield notes
        entry = {
            "seconds": round(time.perf_counter() - start, 3),
            # Of all threads together: what other programs do on the machine matters little to it.
            "processor_seconds": round(time.process_time() - worked, 3),
            "peak_memory_mb": round(peak_memory() / 2**20),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **notes,
        }
        if self.device.type == "cuda":
            import torch

            entry["peak_device_memory_mb"] = round(torch.cuda.max_memory_allocated(self.device) / 2**20)
        self.data["stages"][name] = entry
        write_json(self.path, self.data)

    def seconds(self, name: str) -> float | None:
        """Seconds that stage `name` took when it last ran here; None when its output was brought."""
        entry = self.data["stages"].get(name)
        return None if entry is None else entry["seconds"]
