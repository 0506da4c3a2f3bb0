"""Pictures of refined people: the avatars rendered from a camera, from the files of a results folder."""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors import safe_open

from avatarpose.body import BodyModel
from avatarpose.errors import InputError
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from optimize.avatars import Avatars, ShellCache, body_motion, image_boxes, render_people
from optimize.checkpoint import load_avatar
from optimize.config import RefineConfig, preset
from optimize.poses import BodyParameters
from renderer.field import FieldConfig
from renderer.render import render
from renderer.sampling import RayBatch

CHUNK = 4096
"""Rays rendered at once."""


def load_avatars(sequence: Sequence, people: list[str], body: BodyModel) -> tuple[Avatars, RefineConfig]:
    """The avatars of a results folder, as `refine` left them.

    Raises:
        InputError: a file is absent or damaged.
    """
    paths = [sequence.results / "avatars" / f"{name}.safetensors" for name in people]
    metadata = []
    for path in paths:
        if not path.is_file():
            raise InputError("no such avatar", file=path, hint="`avatarpose refine` writes it")
        with safe_open(str(path), framework="pt") as file:
            metadata.append(json.loads((file.metadata() or {}).get("avatar", "{}")))
    known = FieldConfig.__dataclass_fields__
    field = FieldConfig(**{k: v for k, v in metadata[0].get("field", {}).items() if k in known})
    base = preset("cpu")
    config = RefineConfig(preset="stored", field=field, sampling=base.sampling)
    betas = torch.tensor([entry["betas"] for entry in metadata], dtype=torch.float32)
    avatars = Avatars(body, betas, len(sequence.cameras.names), config)
    for person, path in enumerate(paths):
        load_avatar(path, {"field": avatars.fields[person], "shading": avatars.shading[person]})
    return avatars.requires_grad_(False), config


@torch.no_grad()
def rendered_views(
    sequence: Sequence, bodies: Bodies, body: BodyModel, views: list[tuple[int, int]], device: str = "cpu"
) -> dict[tuple[int, int], np.ndarray]:
    """The avatars in their refined poses over a light background, as (H, W, 3) uint8 RGB, by (camera, frame) index."""
    avatars, config = load_avatars(sequence, list(bodies.people), body)
    avatars = avatars.to(device)
    valid = torch.as_tensor(bodies.valid)
    parameters = BodyParameters(
        *(
            torch.nan_to_num(torch.as_tensor(x, dtype=torch.float32, device=device))
            for x in (bodies.betas, bodies.poses, bodies.trans)
        )
    )
    motion = body_motion(body, avatars, parameters, shape_moves=True)
    cache = ShellCache(avatars, config.sampling.shell)
    pictures = {}
    for camera, frame in views:
        people, shells = render_people(avatars, motion, valid, [frame], cache)
        present = valid[:, frame].numpy()
        box = image_boxes(bodies.joints[present, frame], sequence.cameras)[camera] if present.any() else np.zeros(4)
        pictures[(camera, frame)] = _picture(sequence, camera, people, shells, config, box, device)
    return pictures


def _picture(sequence, camera: int, people, shells, config: RefineConfig, box, device: str) -> np.ndarray:
    one = sequence.cameras.select([sequence.cameras.names[camera]])
    height, width = int(one.height[0]), int(one.width[0])
    picture = np.full((height, width, 3), 235, dtype=np.uint8)
    left, top = max(int(box[0]), 0), max(int(box[1]), 0)
    right, bottom = min(int(np.ceil(box[2])), width), min(int(np.ceil(box[3])), height)
    if right <= left or bottom <= top:
        return picture
    rows, columns = np.mgrid[top:bottom, left:right]
    pixels = torch.from_numpy(np.stack([columns, rows], axis=-1).reshape(-1, 2) + 0.5)
    origins, directions = one.rays(pixels[None])
    origins, directions = origins[0].float().to(device), directions[0].float().to(device)
    colours = []
    for start in range(0, len(directions), CHUNK):
        part = slice(start, start + CHUNK)
        count = directions[part].shape[0]
        rays = RayBatch(
            origins=origins[part].expand(count, 3),
            directions=directions[part],
            frame=torch.zeros(count, dtype=torch.long, device=device),
        )
        behind = torch.full((count, 3), 235 / 255, device=device)
        colours.append(render(people, shells, rays, config.sampling, background=behind).colour.cpu())
    block = torch.cat(colours).clamp(0, 1).numpy().reshape(bottom - top, right - left, 3)
    picture[top:bottom, left:right] = np.round(255 * block).astype(np.uint8)
    return picture
