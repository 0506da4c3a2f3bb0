"""Checkpoints of a refinement, and the avatars' own files.

A checkpoint holds parameters, optimiser state, the stage clock and the joints that the next pools are drawn around.
Random numbers and pools are drawn afresh from (seed, stage, segment) for every segment, so a run that was killed and
one that was not see the same numbers.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from avatarpose.errors import InputError
from avatarpose.io import write_bytes
from optimize.config import RefineConfig

CHECKPOINT_NAME = "refine.pt"
LAYOUT = b"2"
"""Changes with what a checkpoint holds, so that an older one is not continued."""


@dataclass(frozen=True)
class Clock:
    """Where the alternation stands: the stage, and the iterations already done in it."""

    stage: int = 0
    iteration: int = 0


def fingerprint(config: RefineConfig, inputs: list[bytes]) -> str:
    """Identifies settings and inputs: a checkpoint of another run must not be continued."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True, default=str).encode())
    for part in (LAYOUT, *inputs):
        digest.update(part)
    return digest.hexdigest()


def save_checkpoint(
    folder: Path, run: str, clock: Clock, modules: dict[str, nn.Module], optimiser: torch.optim.Optimizer | None
) -> None:
    state = {
        "run": run,
        "stage": clock.stage,
        "iteration": clock.iteration,
        "modules": {name: module.state_dict() for name, module in modules.items()},
        "optimiser": None if optimiser is None else optimiser.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(folder / CHECKPOINT_NAME, buffer.getvalue())


def load_checkpoint(
    folder: Path, run: str, modules: dict[str, nn.Module], device: torch.device
) -> tuple[Clock, dict | None] | None:
    """Restores the modules; returns the clock and the optimiser's state, or None where there is nothing to go on from.

    A checkpoint of other settings or inputs is left alone and ignored.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / CHECKPOINT_NAME
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:
        raise InputError(
            "damaged checkpoint; delete it to start the refinement afresh", file=path, found=error
        ) from error
    if state.get("run") != run:
        return None
    for name, module in modules.items():
        module.load_state_dict(state["modules"][name])
    return Clock(state["stage"], state["iteration"]), state["optimiser"]


def save_avatar(path: Path, modules: dict[str, nn.Module], metadata: dict) -> None:
    """One person's avatar as safetensors; `metadata` (JSON-able) describes field and body."""
    tensors = {
        f"{prefix}.{name}": tensor.detach().cpu().contiguous()
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }
    write_bytes(path, save(tensors, metadata={"avatar": json.dumps(metadata)}))


def load_avatar(path: Path, modules: dict[str, nn.Module]) -> None:
    """Restores what `save_avatar` wrote.

    Raises:
        InputError: the file is absent, damaged or of another layout.
    """
    try:
        tensors = load_file(str(path))
        for prefix, module in modules.items():
            start = f"{prefix}."
            module.load_state_dict({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})
    except Exception as error:
        raise InputError("not an avatar of this kind", file=path, expected="what refine writes", found=error) from error
