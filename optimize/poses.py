"""The poses of all people over all frames, as parameters of the refinement.

pose = start + MLP(start, time) (AvatarPose Sec. 3.4) and, as a setting, a free correction per frame; root orientation
and translation have a correction per frame each, the shape one shared by all frames.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import roma
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

PoseParam = Literal["mlp", "direct", "both"]


@dataclass(frozen=True)
class BodyParameters:
    """SMPL parameters of all people and frames: metres and radians."""

    betas: Float[Tensor, "people shapes"]
    poses: Float[Tensor, "people frames 72"]
    trans: Float[Tensor, "people frames 3"]


class PoseNetworks(nn.Module):
    """One small network a person, evaluated together: (start pose, time) -> correction of the 23 body joints.

    Three hidden layers of 128 with ReLU; the last layer starts near zero so that the correction starts at zero.
    """

    def __init__(self, people: int, times: Float[Tensor, " frames"], width: int = 128, frequencies: int = 6) -> None:
        super().__init__()
        angles = math.pi * times[:, None] * torch.arange(1, frequencies + 1, dtype=times.dtype)
        self.register_buffer("time_features", torch.cat([angles.sin(), angles.cos()], dim=-1), persistent=False)
        sizes = [69 + 2 * frequencies, width, width, width, 69]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            bound = 1e-5 if layer == len(sizes) - 2 else math.sqrt(6.0 / fan_in)
            self.weights.append(nn.Parameter(torch.empty(people, fan_in, fan_out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.zeros(people, 1, fan_out)))

    def forward(self, start: Float[Tensor, "people frames 69"]) -> Float[Tensor, "people frames 69"]:
        people = start.shape[0]
        hidden = torch.cat([start, self.time_features.expand(people, -1, -1)], dim=-1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if layer < last:
                hidden = torch.relu(hidden)
        return hidden


class PoseParameters(nn.Module):
    """Start values (buffers) and corrections (parameters) of every person's body in every frame."""

    def __init__(
        self,
        betas: Float[Tensor, "people shapes"],
        poses: Float[Tensor, "people frames 72"],
        trans: Float[Tensor, "people frames 3"],
        valid: Bool[Tensor, "people frames"],
        pose_param: PoseParam,
    ) -> None:
        super().__init__()
        people, frames = valid.shape
        self.register_buffer("start_betas", betas)
        self.register_buffer("start_poses", torch.where(valid[..., None], poses, torch.zeros_like(poses)))
        self.register_buffer("start_trans", torch.where(valid[..., None], trans, torch.zeros_like(trans)))
        self.register_buffer("valid", valid)
        self.delta_betas = nn.Parameter(torch.zeros_like(betas))
        self.delta_root = nn.Parameter(torch.zeros(people, frames, 3))
        self.delta_trans = nn.Parameter(torch.zeros(people, frames, 3))
        self.delta_pose = nn.Parameter(torch.zeros(people, frames, 69)) if pose_param != "mlp" else None
        times = torch.linspace(-1.0, 1.0, frames) if frames > 1 else torch.zeros(1)
        self.networks = PoseNetworks(people, times) if pose_param != "direct" else None

    def forward(self) -> BodyParameters:
        root = roma.rotvec_composition((self.delta_root, self.start_poses[..., :3]), normalize=False)
        body = self.start_poses[..., 3:]
        correction = torch.zeros_like(body)
        if self.networks is not None:
            correction = correction + self.networks(body)
        if self.delta_pose is not None:
            correction = correction + self.delta_pose
        return BodyParameters(
            betas=self.start_betas + self.delta_betas,
            poses=torch.cat([root, body + correction], dim=-1),
            trans=self.start_trans + self.delta_trans,
        )
