"""A small sequence with results to film: the embedded capture with two made-up people in untrained avatars."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch

from avatarpose.body import BodyModel
from avatarpose.results import Bodies
from optimize.avatars import Avatars
from optimize.checkpoint import save_avatar
from optimize.config import RefineConfig
from renderer.field import FieldConfig

FPS = 20.0
SMALL_FIELD = FieldConfig(levels=4, geometry_levels=2, log2_table=10, finest_resolution=64, surface_width=0.004)
STANDING = (np.pi / 2, 0.0, 0.0)
"""Root orientation that brings the body's y up to the world's z."""


def two_people(body: BodyModel, frames: int = 6) -> Bodies:
    """p0 steps along x with an arm swinging, p1 stands beside; p1 comes in frame 1."""
    poses, trans = np.zeros((2, frames, 72), np.float32), np.zeros((2, frames, 3), np.float32)
    betas = np.zeros((2, 10), np.float32)
    betas[1, 0] = 1.5
    poses[..., :3] = STANDING
    poses[0, :, 48:51] = np.linspace(0, 1, frames)[:, None] * (0, 0, -1.2)
    spread = torch.as_tensor(betas)[:, None].expand(2, frames, 10)
    soles = body.vertices(*(torch.as_tensor(x) for x in (betas, poses[:, 0], trans[:, 0])))[..., 2].amin(dim=1)
    trans[..., 2] = -soles.numpy()[:, None]
    trans[0, :, 0] = -0.4 + 0.05 * np.arange(frames)
    trans[1, :, 0] = 0.5
    given = [spread, torch.as_tensor(poses), torch.as_tensor(trans)]
    valid = np.ones((2, frames), bool)
    valid[1, 0] = False
    return Bodies(
        people=["p0", "p1"], frames=np.arange(frames), fps=FPS, betas=betas, poses=poses, trans=trans,
        joints=body.joints(*given).numpy(), keypoints=body.keypoints(*given).numpy(), valid=valid,
        body_name=body.name, body_sha256=body.sha256,
    )  # fmt: skip


def write_sequence(folder: Path, body: BodyModel) -> Path:
    """Makes the sequence in `folder`; the avatars are red (p0) and blue (p1)."""
    with as_file(files("assets") / "embrace") as source:
        shutil.copytree(source, folder)
    bodies = two_people(body)
    bodies.save(folder / "results" / "refined.npz")
    torch.manual_seed(0)
    avatars = Avatars(body, torch.as_tensor(bodies.betas), 1, RefineConfig(preset="test", field=SMALL_FIELD))
    avatars.set_surface_width(0.004)
    for p, (name, tint) in enumerate(zip(bodies.people, ((4.0, -4.0, -4.0), (-4.0, -4.0, 4.0)), strict=True)):
        with torch.no_grad():
            avatars.fields[p].colour_out.bias.copy_(torch.tensor(tint))
        described = {"field": asdict(SMALL_FIELD), "betas": bodies.betas[p].tolist(), "body": body.name,
                     "body_sha256": body.sha256}  # fmt: skip
        modules = {"field": avatars.fields[p], "shading": avatars.shading[p]}
        save_avatar(folder / "results" / "avatars" / f"{name}.safetensors", modules, described)
    return folder
