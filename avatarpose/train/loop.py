"""Training of the volumetric estimator: focal loss on everybody's 3D heatmaps, L1 on the person's own joints."""

from __future__ import annotations

import copy
import json
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from avatarpose.errors import InputError
from avatarpose.estimate.volumetric.network import NetworkConfig, VolumetricNetwork, load_network, make_network
from avatarpose.estimate.volumetric.volume import anchor_volume, others_volume
from avatarpose.train.samples import Batch, SampleConfig, SampleMaker, inside

CHECKPOINT = "checkpoint.pt"
CURVE = "curve.jsonl"
_HELD_OUT = 2**31  # index of the first batch that is never trained on


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    samples: SampleConfig = field(default_factory=SampleConfig)
    total: int = 60_000
    """Samples to train on; the learning rate falls to nothing over them."""
    batch: int = 16
    learning_rate: float = 3e-3
    warm_up: float = 0.03
    """Share of the training in which the learning rate rises."""
    weight_decay: float = 1e-4
    focal: float = 1.0
    """Weight of the focal loss on the 3D heatmaps; 0 leaves it out, an ablation."""
    target_sigma: float = 0.0625
    """Metres: spread of the Gaussians of the 3D heatmaps."""
    l1: float = 10.0
    """Weight of the L1 loss of the joints, per metre."""
    average: float = 0.998
    """Decay per step of the running average of the weights, which is what is kept."""
    seed: int = 0


def focal_loss(
    logits: Float[Tensor, "samples joints voxels"], target: Float[Tensor, "samples joints voxels"]
) -> Float[Tensor, ""]:
    """Quality focal loss |y - p|^2 CE(p, y) for soft targets (Li et al., Generalized Focal Loss, 2020), over sum y."""
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return ((target - logits.sigmoid()).square() * entropy).sum() / target.sum().clamp_min(1.0)


def losses(
    network: VolumetricNetwork, batch: Batch, features: Tensor, config: TrainConfig
) -> tuple[dict[str, Tensor], Float[Tensor, "samples joints 3"]]:
    """Weighted terms of the loss, and the joints found."""
    sigma = config.network.anchor_sigma
    own, others = anchor_volume(batch.own, sigma), others_volume(batch.others, sigma)
    logits, joints, _ = network(features, own, others)
    known = inside(batch.joints)
    error = functional.l1_loss(joints, torch.nan_to_num(batch.joints), reduction="none").sum(dim=-1)
    terms = {"l1": config.l1 * (error * known).sum() / known.sum().clamp_min(1)}
    if config.focal > 0:
        with torch.no_grad():
            target = others_volume(batch.everyone, config.target_sigma)
        terms["focal"] = config.focal * focal_loss(logits.flatten(2), target)
    return terms, joints


def rate(progress: float, config: TrainConfig) -> float:
    """Share of the learning rate when `progress` of the training is done: a linear rise, then half a cosine."""
    if progress < config.warm_up:
        return progress / config.warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - config.warm_up) / (1 - config.warm_up))))


class Training:
    """One training, resumable: what it does next depends on its settings and its checkpoint alone."""

    def __init__(
        self, maker: SampleMaker, config: TrainConfig, out: Path, device: torch.device, start: Path | None = None
    ) -> None:
        """`start`: weights to begin with."""
        self.maker, self.config, self.out, self.device = maker, config, out, device
        torch.manual_seed(config.seed)
        self.network = load_network(start) if start else make_network(config.network)
        if start and self.network.config != config.network:
            raise InputError(
                "the weights are of another network", file=start, expected=config.network, found=self.network.config
            )
        self.network.to(device).train()
        decay = [p for p in self.network.parameters() if p.ndim == 5]
        plain = [p for p in self.network.parameters() if p.ndim != 5]
        groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.learning_rate)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.seen, self.seconds = 0, 0.0
        self.fingerprint = json.dumps(asdict(config), sort_keys=True, default=str)
        self._resume()

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:
            raise InputError("damaged checkpoint; delete it to start afresh", file=path, found=error) from error
        if state["settings"] != self.fingerprint:
            raise InputError(
                "a training with other settings is there", file=path, expected=self.fingerprint,
                found=state["settings"], hint="Choose another --out, or delete the checkpoint",
            )  # fmt: skip
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.seen, self.seconds = state["seen"], state["seconds"]

    def checkpoint(self) -> dict:
        """What a training goes on from."""
        return {
            "settings": self.fingerprint, "network": self.network.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(), "seen": self.seen, "seconds": self.seconds,
        }  # fmt: skip

    def step(self, batch: Batch) -> dict[str, float]:
        """One step of the optimiser; returns the terms of the loss and the mean error in millimetres."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.learning_rate * rate(self.seen / self.config.total, self.config)
        batch = batch.to(self.device)
        half = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with torch.no_grad():
            features = batch.features(self.network.grid)
        with half:
            terms, joints = losses(self.network, batch, features, self.config)
        self.optimiser.zero_grad(set_to_none=True)
        sum(terms.values()).backward()
        average_gradients(self.network)
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self._update_average()
        self.seen += len(batch.joints) * processes()
        return {**{k: float(v.detach()) for k, v in terms.items()}, "mm": float(mean_error(joints.detach(), batch))}

    @torch.no_grad()
    def _update_average(self) -> None:
        # At the beginning the average is of the few steps there have been.
        step = self.seen / self.config.batch
        decay = min(self.config.average, (1 + step) / (10 + step))
        for mean, value in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def validate(self, batches: int, size: int) -> dict[str, float]:
        """Mean error on samples never trained on (but of the same motion), millimetres, by the averaged weights."""
        network = self.average
        errors = []
        with torch.inference_mode():
            for k in range(batches):
                batch = self.maker.batch(_HELD_OUT + k, size).to(self.device)
                _, joints = losses(network, batch, batch.features(network.grid), self.config)
                errors.append(float(mean_error(joints, batch)))
        return {"mm": float(np.mean(errors)), "error": float(np.std(errors) / max(1, len(errors) - 1) ** 0.5)}


def mean_error(joints: Tensor, batch: Batch) -> Tensor:
    """Mean distance in millimetres over the joints inside the volumes."""
    known = inside(batch.joints)
    distance = (joints - torch.nan_to_num(batch.joints)).norm(dim=-1)
    return 1000 * (distance * known).sum() / known.sum().clamp_min(1)


def processes() -> int:
    """How many processes train together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def average_gradients(network: nn.Module) -> None:
    """The mean of all processes' gradients, in one message."""
    if processes() == 1:
        return
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= processes()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
