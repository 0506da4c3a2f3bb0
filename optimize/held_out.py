"""Pixels that no step looks at: whether a segment has brought anything that was not learned by heart."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from optimize import losses
from optimize.avatars import body_motion
from optimize.config import Stage
from optimize.pixels import Pool
from optimize.stages import Problem, Window, compare_colours, render_batch
from renderer.hash_grid import level_window

RAYS = 1024
FRAMES = 16
"""At most so many frames are looked at, spread over the capture."""


@dataclass
class HeldOut:
    """Some pixels of some frames, kept out of the pools they were drawn for."""

    pools: list[Pool]
    frames: list[int]
    groups: list[Int[Tensor, " groups"]]
    seed: int

    @classmethod
    def take(cls, pools: dict[int, Pool], seed: int) -> HeldOut:
        """Takes groups of pixels out of the pools: their probability is zero from here on."""
        rng = np.random.default_rng(seed)
        known = [f for f, pool in sorted(pools.items()) if len(pool.weight) > 1]
        spread = np.linspace(0, len(known) - 1, min(FRAMES, len(known))).round().astype(int)
        frames = [known[i] for i in spread]
        chosen, groups = [pools[f] for f in frames], []
        for pool in chosen:
            size, patch = pool.camera.shape
            # Never more than a tenth of a pool.
            count = max(1, min(RAYS // (len(chosen) * patch), size // 10))
            index = torch.from_numpy(rng.choice(size, count, replace=False)).to(pool.weight.device)
            pool.weight[index] = 0.0
            groups.append(index)
        return cls(chosen, frames, groups, seed)

    @torch.no_grad()
    def error(self, problem: Problem, stage: Stage) -> Float[Tensor, " frames"]:
        """Of each frame: colours and masks, in the proportion of pose stages; the same random numbers every time."""
        config, device = problem.config, problem.triple.device
        found = torch.zeros(len(self.frames), device=device)
        if not self.frames:
            return found
        generator = torch.Generator(device=device).manual_seed(self.seed)
        batch = problem.source.gather(self.pools, self.groups)
        window = Window(list(range(problem.poses.valid.shape[1])), self.frames, problem.triple)
        motion = body_motion(problem.body, problem.avatars, problem.poses(), problem.shape_moves)
        levels = level_window(stage.detail, config.field.levels, config.field.geometry_levels)
        quiet = replace(stage, collision=False)  # its samples are others
        rendering, _ = render_batch(
            problem, quiet, motion, batch, window, levels, generator, config.ablation.rgb, iteration=0
        )
        by_ray = torch.zeros(len(batch.frame), device=device)
        if config.ablation.rgb:
            compared = compare_colours(problem, rendering, batch, generator)
            colour = losses.huber(compared.shown - compared.target, config.huber).mean(dim=-1)
            by_ray += config.pose.rgb * colour * batch.coloured
        if config.ablation.mask:
            by_ray += config.pose.alpha * (rendering.alpha - (batch.label == 1).float()).square() * (batch.label != 2)
        return found.index_add(0, batch.frame, by_ray) / torch.bincount(batch.frame, minlength=len(found))


def stands_still(before: Float[Tensor, " frames"], after: Float[Tensor, " frames"], least_gain: float) -> bool:
    """Whether no frame's error fell by that share. (A few frames that are still put right hardly show in a mean.)"""
    return bool((after > (1 - least_gain) * before).all())
