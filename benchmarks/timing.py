"""What is timed, on a processor or on a device that works on its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

WARM_UPS = 3


def clock(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, with all that it started on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@dataclass
class Part:
    """What is timed: a call, and the gradient of the tensors it returns by its inputs."""

    call: Callable[[], object]
    inputs: list[Tensor] = field(default_factory=list)
    """Empty: nothing goes backward."""
    ahead: list[float] = field(default_factory=list)
    """Seconds forward, of every repeat."""
    back: list[float] = field(default_factory=list)
    peak: int = 0
    """Bytes on a CUDA device beyond what was held before."""

    def run(self, device: torch.device, keep: bool = True) -> None:
        """Once forward and backward; `keep` is False to warm up."""
        made, held = [], 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            held = torch.cuda.memory_allocated(device)
        ahead, back = clock(lambda: made.append(self.call()), device), 0.0
        if self.inputs:
            answers = made[0] if isinstance(made[0], list) else made
            made = [one for one in answers if one is not None and one.requires_grad]
            ones = [torch.ones_like(one) for one in made]
            back = clock(lambda: torch.autograd.grad(made, self.inputs, ones, allow_unused=True), device)
        if device.type == "cuda":
            self.peak = max(self.peak, torch.cuda.max_memory_allocated(device) - held)
        if keep:
            self.ahead.append(ahead)
            self.back.append(back)


def leaf(values: Tensor, learned: bool = True) -> Tensor:
    """The same numbers on their own, as what takes a gradient."""
    return values.detach().clone().requires_grad_(learned)
