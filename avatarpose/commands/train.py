"""Training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(kw_only=True)
class Train:
    """Train the volumetric estimator on synthetic people: OUT/weights.safetensors; the same command goes on with it.

    Example: avatarpose train volumetric --motion cmu.npz AMASS/CMU --out training --width light --processes 2
    """

    what: Annotated[Literal["volumetric"], tyro.conf.Positional]
    """What is trained."""
    motion: tuple[Path, ...]
    """Motion files: clips of 15 joints (.npz), AMASS files, .bvh, .amc with its .asf, or folders of them."""
    out: Path
    """Folder for the checkpoint, the curve and the weights."""
    exclude: tuple[str, ...] = ()
    """Clips to keep out, with the wildcards * and ?."""
    width: Literal["light", "full"] = "light"
    """Size of the network: light for CPUs, full as in the paper."""
    skeleton: Literal["coco17", "panoptic15"] = "coco17"
    """Joints to be found."""
    samples: int = 60_000
    """Samples to train on: volumes about a person, every one new."""
    batch: int = 16
    """Samples a step."""
    learning_rate: float = 3e-3
    seed: int = 0
    """The same seed, batch and number of processes make the same samples."""
    start: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Weights to begin with."""
    finetune_rig: Annotated[Path | None, tyro.conf.arg(metavar="SEQUENCE")] = None
    """Adapt to the cameras of this sequence: begins with the packaged weights (or --start), a tenth of the rate."""
    ablate: Literal["none", "anchors", "focal", "noise"] = "none"
    """For experiments. Train without anchor volumes, without the loss on 3D heatmaps, or without 2D augmentation."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..., or auto: CUDA where there is a device."""
    processes: int = 1
    """Processes that share each batch; on a CPU one a core is fastest."""
    workers: int = 0
    """Processes that make samples beside the training; on CUDA one a core."""
    minutes: float = 0.0
    """Stop after this time, to be continued by the same command; 0: no limit."""
    body: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Body model in SMPL's format whose joints are learned; by default the open body of the package."""

    def execute(self) -> None:
        from avatarpose.train.driver import job_of, train

        print(train(job_of(self)))
