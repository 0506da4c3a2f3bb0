"""What this machine has, and which fast paths will be used: `avatarpose doctor`."""

from __future__ import annotations

import os
from importlib.util import find_spec

import torch
from rich.console import Console
from rich.table import Table

from avatarpose.body import load_body
from avatarpose.errors import InputError
from avatarpose.runlog import describe_device, package_versions

# Packages that are used when they are there, and what for.
OPTIONAL = {
    "warp": "hash-grid encoding, nearest vertices on CUDA; without it plain torch, about 1.5 times slower",
    "smplx": "oracle of the body model's tests",
    "lpips": "the perceptual loss of the paper preset",
    "anny": "baking the open body anew",
    "embreex": "drawing the embedded capture anew, the interpenetration benchmark",
}


def report(console: Console | None = None) -> None:
    """Prints versions, devices, optional packages and the open body's state."""
    console = console or Console()
    console.print("versions: " + ", ".join(f"{name} {version}" for name, version in package_versions().items()))
    cpu = describe_device(torch.device("cpu"))
    console.print(f"CPU: {cpu['name'] or 'unknown'}, {cpu['cores']} cores, {cpu['threads']} threads in torch")
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        console.print(f"CUDA device {index}: {torch.cuda.get_device_name(index)}, {memory:.0f} GB")
    if torch.cuda.is_available():
        console.print("runs will use CUDA (--device cpu to choose the CPU) and the preset gpu")
    else:
        built = torch.version.cuda is not None
        why = "torch finds no CUDA device or driver" if built else "this torch is built without CUDA"
        console.print(f"runs will use the CPU and the preset cpu: {why}")
    waiting = os.environ.get("OMP_WAIT_POLICY", "unset")
    console.print(f"OMP_WAIT_POLICY: {waiting}" + ("" if waiting.upper() == "PASSIVE" else " (PASSIVE is faster)"))
    # The renderer stands above this package, so it is imported where it is asked.
    from renderer.hash_grid import available_backends

    chosen, *others = available_backends("cuda" if torch.cuda.is_available() else "cpu").items()
    console.print(f"hash grid: {chosen[0]} will be used, {chosen[1]}")
    for name, reason in others:
        console.print(f"hash grid: {name}, {reason}")
    table = Table("package", "here", "used for")
    for name, use in OPTIONAL.items():
        table.add_row(name, "yes" if find_spec(name) else "no", use)
    console.print(table)
    try:
        body = load_body()
        console.print(f"body: {body.name}, {len(body.v_template)} vertices, sha256 {body.sha256[:12]}")
    except InputError as error:
        console.print(f"body: {error}")
