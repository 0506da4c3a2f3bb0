"""Whose mask is whose: people's own masks carry names from wherever they come; bodies carry those of the estimate."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from avatarpose.frames import FrameCache
from avatarpose.sequence import FOREGROUND

FRAMES = 8
"""Frames looked at, evenly spread."""
LEAST_SHARE = 0.3
"""Of a person's joints that must lie in a mask for it to be that person's; joints behind others lie in theirs."""
SAME_NAME = 0.02
"""Share by which a mask of the person's own name is preferred: where people cannot be told apart, names decide."""


def owners_of_masks(
    images: FrameCache,
    people: list[str],
    keypoints: Float[np.ndarray, "people frames 17 3"],
    valid: Bool[np.ndarray, "people frames"],
) -> dict[str, int]:
    """The person (index) whom each name of a mask means; names that mean nobody are left out.

    Names and people are paired one to one so that most of the projected joints lie in their own mask.

    Args:
        images: the capture.
        people: names of the bodies.
        keypoints: of the bodies, metres, world.
        valid: who is there when.
    """
    frames = valid.shape[1]
    inside: dict[str, np.ndarray] = {}
    looked: dict[str, np.ndarray] = {}
    for f in np.unique(np.linspace(0, frames - 1, min(FRAMES, frames)).round().astype(int)):
        joints = torch.as_tensor(np.nan_to_num(keypoints[:, f])).to(images.cameras.K.dtype)
        pixels, depth = images.cameras.project(joints.reshape(-1, 3))
        for c in range(len(images.cameras)):
            masks = images.sequence.person_masks(c, int(f))
            if not masks:
                continue
            height, width = next(iter(masks.values())).shape
            column, row = np.floor(pixels[c].numpy()).astype(int).T
            seen = (depth[c].numpy() > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            seen &= valid[:, f].repeat(joints.shape[1])
            for name, mask in masks.items():
                hit = np.zeros(len(seen))
                hit[seen] = mask[row[seen], column[seen]] == FOREGROUND
                by_person = (part.reshape(len(people), -1).sum(axis=1) for part in (hit, seen))
                for total, part in zip((inside, looked), by_person, strict=True):
                    total[name] = total.get(name, 0.0) + part
    if not inside:
        return {}
    names = sorted(inside)
    share = np.array([inside[name] / np.maximum(looked[name], 1) for name in names])
    same = np.array([[name == person for person in people] for name in names])
    pairs = zip(*linear_sum_assignment(share + SAME_NAME * same, maximize=True), strict=True)
    return {names[n]: int(p) for n, p in pairs if share[n, p] >= LEAST_SHARE}
