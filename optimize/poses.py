"""The poses of all people over all frames, as parameters of the refinement.

pose = start + MLP(start, time) (AvatarPose Sec. 3.4) and, as a setting, a free correction per frame; root orientation
and translation have a correction per frame each, the shape one shared by all frames. The free corrections are optimised
in directions that all matter alike (`optimize.curvature`): a parameter's step moves all joints of its frame.
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
PARAMETERS = 75
"""Of one body in one frame: turn of the root in world axes (3), angles of the other joints (69), translation (3)."""


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


OWN_SHARE = 0.5
"""Of a frame's movement, what comes from its own steps alone; its neighbours' and its own steps share the rest."""


def time_kernel(
    present: Bool[Tensor, "people frames"], times: Float[Tensor, " frames"], seconds: float
) -> Float[Tensor, "people frames offsets"]:
    """Weights of the steps of each frame's neighbours (offsets -n to n) in its own movement; their sum is one.

    Gaussian in time with a standard deviation of `seconds`, of frames in which the person is, and `OWN_SHARE` more for
    the frame itself: what errs slowly is put right by every draw of a frame nearby, what errs fast by its own.
    """
    count = len(times)
    if seconds <= 0 or count < 2:
        return torch.ones(*present.shape, 1)
    reach = min(count - 1, math.ceil(3 * seconds / float((times[1:] - times[:-1]).min())))
    index = torch.arange(count)[:, None] + torch.arange(-reach, reach + 1)
    inside = (index >= 0) & (index < count)
    index = index.clamp(0, count - 1)
    weight = torch.exp(-0.5 * ((times[index] - times[:, None]) / seconds).square()) * inside
    weight = weight * present[:, index]
    weight = (1 - OWN_SHARE) * weight / weight.sum(dim=-1, keepdim=True).clamp(min=1e-6)
    weight[..., reach] += OWN_SHARE
    return weight


class PoseParameters(nn.Module):
    """Start values (buffers) and corrections (parameters) of every person's body in every frame."""

    def __init__(
        self,
        betas: Float[Tensor, "people shapes"],
        poses: Float[Tensor, "people frames 72"],
        trans: Float[Tensor, "people frames 3"],
        valid: Bool[Tensor, "people frames"],
        pose_param: PoseParam,
        times: Float[Tensor, " frames"] | None = None,
    ) -> None:
        """`times`: of the frames, seconds; by default one apart."""
        super().__init__()
        people, frames = valid.shape
        self.register_buffer("start_betas", betas)
        self.register_buffer("start_poses", torch.where(valid[..., None], poses, torch.zeros_like(poses)))
        self.register_buffer("start_trans", torch.where(valid[..., None], trans, torch.zeros_like(trans)))
        self.register_buffer("valid", valid)
        self.present = valid.cpu()
        """`valid` where it can be read without waiting for the device."""
        self.delta_betas = nn.Parameter(torch.zeros_like(betas))
        self.register_buffer("last_joints", torch.zeros(people, frames, 24, 3))
        """Metres, world: the joints when the last segment began. The next one's pixels are drawn around them."""
        self.register_buffer("corrections", torch.zeros(people, frames, PARAMETERS))
        self.register_buffer("directions", torch.eye(PARAMETERS).repeat(people, frames, 1, 1))
        self.steps = nn.Parameter(torch.zeros(people, frames, PARAMETERS))
        self.times = torch.arange(frames, dtype=torch.float32) if times is None else times.cpu()
        self._spread(0.0)
        self.turns_joints = pose_param != "mlp"
        """Whether the angles have free corrections."""
        times = torch.linspace(-1.0, 1.0, frames) if frames > 1 else torch.zeros(1)
        self.networks = PoseNetworks(people, times) if pose_param != "direct" else None

    @torch.no_grad()
    def set_directions(self, directions: Float[Tensor, "people frames 75 75"], time_spread: float = 0.0) -> None:
        """Optimise along other directions from here on: the columns of each matrix are what a unit step moves.

        `time_spread`: seconds over which a frame's steps move its neighbours too (`time_kernel`).
        """
        self.corrections += self._moved(slice(None))
        self.steps.zero_()
        self.directions.copy_(directions)
        if not self.turns_joints:
            self.directions[..., 3:72, :] = 0.0
        self._spread(time_spread)

    def _spread(self, seconds: float) -> None:
        self.time_spread = seconds
        self._kernel = time_kernel(self.present, self.times, seconds)

    def get_extra_state(self) -> dict[str, float]:
        """Without it, stored steps would mean other poses."""
        return {"time_spread": self.time_spread}

    def set_extra_state(self, state: dict[str, float]) -> None:
        self._spread(state["time_spread"])

    def _moved(self, chosen: slice | list[int]) -> Float[Tensor, "people chosen 75"]:
        """What the steps add to the corrections of the chosen frames."""
        frames, reach, device = torch.arange(self.steps.shape[1]), self._kernel.shape[2] // 2, self.steps.device
        near = (frames[chosen, None] + torch.arange(-reach, reach + 1)).clamp(0, len(frames) - 1).to(device)
        weights = self._kernel[:, chosen, None].to(device)
        steps = (weights @ self.steps[:, near])[..., 0, :]  # (P, B, 1, n) by (P, B, n, 75)
        return (self.directions[:, chosen] @ steps[..., None])[..., 0]

    def forward(self, frames: list[int] | None = None) -> BodyParameters:
        """The bodies in the given frames (in any order, also twice), or in all."""
        chosen = slice(None) if frames is None or frames == list(range(self.steps.shape[1])) else frames
        correction = self.corrections[:, chosen] + self._moved(chosen)
        start = self.start_poses[:, chosen]
        root = roma.rotvec_composition((correction[..., :3], start[..., :3]), normalize=False)
        body = start[..., 3:] + correction[..., 3:72]
        if self.networks is not None:
            body = body + self.networks(self.start_poses[..., 3:])[:, chosen]
        return BodyParameters(
            betas=self.start_betas + self.delta_betas,
            poses=torch.cat([root, body], dim=-1),
            trans=self.start_trans[:, chosen] + correction[..., 72:],
        )
