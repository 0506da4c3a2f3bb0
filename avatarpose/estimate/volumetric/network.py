"""The two-stage network of the volumetric estimator (Zhou et al., CloseMoCap, section 3.3), on V2V networks.

    heat  = sigmoid(V2V(F, S) + a log F + d log S + b)            3D heatmaps of everybody in the volume  (first stage)
    P     = softmax(V2V(heat, own anchors, -others' anchors) + c log heat)                               (second stage)
    joint = sum over voxels of P times the voxel's place                                                 (eq. 6)

S is the share of the views that see a voxel. It and the logarithmic terms, which the paper has not, start the network
as what it must become: the heatmaps' own mean, sharpened. It then learns what to take away and what to add, from far
fewer samples.
The V2V networks are those of Moon et al. (2018) as used by VoxelPose (Tu et al., 2020).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from avatarpose.errors import InputError
from avatarpose.estimate.volumetric.volume import RESOLUTION, voxels
from avatarpose.io import write_bytes

_FLOOR_FEATURES, _FLOOR_HEAT = 1e-3, 1e-4


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of the network; kept with its weights."""

    width: Literal["full", "light"] = "light"
    """`full`: the paper's two V2V networks of 3.3 M parameters, whose first layers work on all 32^3 voxels. `light`:
    narrower, on 16^3 voxels after folding 2^3 into channels, about a twentieth of the arithmetic."""
    joints: int = 17
    """Number of joints, in the order of the skeleton."""
    skeleton: Literal["coco17", "panoptic15"] = "coco17"
    """What the joints are."""
    anchors: bool = True
    """Whether the second stage is told where the pelvises and necks are; without, an ablation."""
    anchor_sigma: float = 0.05
    """Metres: spread of the anchors' Gaussians."""


class Residual(nn.Module):
    """Two 3^3 convolutions and a skip connection."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm3d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv3d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm3d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if inputs != outputs:
            self.skip = nn.Sequential(nn.Conv3d(inputs, outputs, 1, bias=False), nn.BatchNorm3d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layers(x) + self.skip(x))


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose3d(inputs, outputs, 2, stride=2, bias=False), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)
    )


class V2V(nn.Module):
    """An hourglass over voxels: two halvings, the skips added back, linear output at the input's resolution."""

    def __init__(self, inputs: int, outputs: int, width: Literal["full", "light"]) -> None:
        super().__init__()
        if width == "full":
            first, a, b, c = 16, 32, 64, 128
            self.stem = nn.Sequential(
                nn.Conv3d(inputs, first, 7, padding=3, bias=False), nn.BatchNorm3d(first), nn.ReLU(inplace=True),
                Residual(first, a),
            )  # fmt: skip
            self.head: nn.Module = nn.Conv3d(a, outputs, 1)
        else:
            a, b, c = 24, 48, 40
            self.stem = nn.Sequential(
                nn.Conv3d(inputs, a, 2, stride=2, bias=False), nn.BatchNorm3d(a), nn.ReLU(inplace=True),
                Residual(a, a),
            )  # fmt: skip
            self.head = nn.ConvTranspose3d(a, outputs, 2, stride=2)
        self.skip1, self.skip2 = Residual(a, a), Residual(b, b)
        self.down1 = nn.Sequential(nn.MaxPool3d(2), Residual(a, b))
        self.down2 = nn.Sequential(nn.MaxPool3d(2), Residual(b, c), Residual(c, c), Residual(c, c))
        self.up2, self.join2 = _up(c, b), Residual(b, b)
        self.up1 = _up(b, a)
        # Nothing is added to what the logarithmic terms say until it has been learnt.
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        middle = self.down1(fine)
        coarse = self.down2(middle)
        middle = self.join2(self.up2(coarse) + self.skip2(middle))
        return self.head(self.up1(middle) + self.skip1(fine))


class VolumetricNetwork(nn.Module):
    """Both stages."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        joints, anchors = config.joints, 4 if config.anchors else 0
        self.everyone = V2V(joints + 1, joints, config.width)
        self.one = V2V(joints + anchors, joints, config.width)
        shape = (joints, 1, 1, 1)
        self.feature_weight = nn.Parameter(torch.full(shape, 4.0))
        self.share_weight = nn.Parameter(torch.full(shape, 4.0))
        self.feature_bias = nn.Parameter(torch.full(shape, 1.0))
        self.heat_weight = nn.Parameter(torch.full(shape, 4.0))
        self.register_buffer("grid", voxels(), persistent=False)

    def heatmaps(self, features: Float[Tensor, "samples joints+1 x y z"]) -> Float[Tensor, "samples joints x y z"]:
        """Logits of the 3D heatmaps of everybody: the first stage. `features` as `feature_volume` gives them."""
        # Voxel by voxel in one memory layout, and in single precision: half precision has no digits left near 1.
        logits = self.everyone(_channels_last(features)).contiguous().float()
        logs = (features.float() + _FLOOR_FEATURES).log()
        return logits + self.feature_weight * logs[:, :-1] + self.share_weight * logs[:, -1:] + self.feature_bias

    def joints(
        self,
        heat: Float[Tensor, "samples joints x y z"],
        own: Float[Tensor, "samples 2 x y z"],
        others: Float[Tensor, "samples 2 x y z"],
    ) -> tuple[Float[Tensor, "samples joints 3"], Float[Tensor, "samples joints voxels"]]:
        """The person's own joints (metres, volume frame) and their probabilities over the voxels: the second stage."""
        inputs = torch.cat((heat, own, -others), dim=1) if self.config.anchors else heat
        logits = self.one(_channels_last(inputs)).contiguous().float()
        logits = logits + self.heat_weight * (heat.float() + _FLOOR_HEAT).log()
        probability = logits.flatten(2).softmax(dim=-1)
        return probability @ self.grid, probability

    def forward(
        self, features: Tensor, own: Tensor, others: Tensor
    ) -> tuple[Tensor, Float[Tensor, "samples joints 3"], Float[Tensor, "samples joints voxels"]]:
        """Logits of the first stage; joints and their probabilities. Inputs (B, channels, voxels) or (..., x, y, z)."""
        features, own, others = (x.reshape(*x.shape[:2], *[RESOLUTION] * 3) for x in (features, own, others))
        logits = self.heatmaps(features)
        return logits, *self.joints(logits.sigmoid(), own, others)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


def make_network(config: NetworkConfig) -> VolumetricNetwork:
    """A network not trained yet, laid out in memory as convolutions like it."""
    network = VolumetricNetwork(config)
    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    return network


def save_network(path: Path, network: VolumetricNetwork, half: bool = True, **facts: str) -> None:
    """Writes the weights as safetensors, in half precision, with the configuration and `facts` about their making."""
    state = {}
    for name, value in network.state_dict().items():
        value = value.detach().cpu().contiguous()
        state[name] = value.half() if half and value.is_floating_point() else value
    metadata = {"config": json.dumps(asdict(network.config)), **facts}
    write_bytes(path, save(state, metadata))


def load_network(path: Path, device: torch.device | str = "cpu") -> VolumetricNetwork:
    """Reads weights that `save_network` wrote. Raises InputError where the file is something else."""
    if not path.is_file():
        raise InputError("no weights of the volumetric estimator", file=path, expected="a .safetensors file")
    try:
        with safe_open(str(path), "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = NetworkConfig(**json.loads(metadata["config"]))
        network = make_network(config)
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            "not weights of the volumetric estimator", file=path,
            expected="what `avatarpose train volumetric` writes", found=str(error).splitlines()[0],
        ) from None  # fmt: skip
    return network.eval().to(device)
