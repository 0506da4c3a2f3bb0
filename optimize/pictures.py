"""Pictures of refined people: the avatars rendered from any camera, from the files of a results folder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence as Listing
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.cameras import LEAST_DEPTH, Cameras
from avatarpose.errors import InputError
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from optimize.avatars import Avatars, BodyMotion, body_motion, render_people
from optimize.checkpoint import load_avatar
from optimize.config import RefineConfig, preset
from optimize.poses import BodyParameters
from renderer.compositing import sum_over_rays
from renderer.field import AvatarField, FieldConfig
from renderer.render import PersonRender, Rendering, render
from renderer.sampling import RayBatch, SamplingConfig
from renderer.skinning import world_normals

RAYS_AT_ONCE = 4096
"""Rays rendered at once: more is no faster on a CPU."""
BYTES_PER_RAY = 40_000
"""Memory that a ray takes while it is rendered, at the most: rays that graze two people along their whole length."""
EMPTY_WIDTHS = 7.0
"""Widths of the density's transition outside of the surface beyond which pictures need no samples: opacities move by
one of 255 levels at the most. (Gradients need more, `renderer.surface_table.EMPTY_WIDTHS`.)"""
TILES = 256
"""Squares along the larger side of a picture, of two pixels or more, that are rendered or left out together."""


def load_avatars(sequence: Sequence, people: list[str], body: BodyModel) -> tuple[Avatars, RefineConfig]:
    """The avatars of a results folder, as `refine` left them.

    Raises:
        InputError: a file is absent or damaged.
    """
    paths = [sequence.results / "avatars" / f"{name}.safetensors" for name in people]
    return load_avatar_files(paths, body, len(sequence.cameras.names))


def load_avatar_files(paths: Listing[Path], body: BodyModel, cameras: int = 1) -> tuple[Avatars, RefineConfig]:
    """Avatars from their own files, whichever sequence they were learned on; one file may be named more than once.

    Raises:
        InputError: a file is absent, damaged, or of another body.
    """
    metadata = [_read_metadata(Path(path), body) for path in paths]
    known = set(FieldConfig.__dataclass_fields__) - {"implementation"}
    fields = [FieldConfig(**{k: v for k, v in one["field"].items() if k in known}) for one in metadata]
    base = preset("cpu")
    config = RefineConfig(preset="stored", field=fields[0], sampling=base.sampling)
    betas = torch.tensor([one["betas"] for one in metadata], dtype=torch.float32)
    avatars = Avatars(body, betas, cameras, config)
    for person, path in enumerate(paths):
        if fields[person] != config.field:
            first = avatars.fields[person]
            avatars.fields[person] = AvatarField(fields[person], first.centre, float(first.half_extent))
        load_avatar(Path(path), {"field": avatars.fields[person], "shading": avatars.shading[person]})
    return avatars.requires_grad_(False), config


def _read_metadata(path: Path, body: BodyModel) -> dict:
    if not path.is_file():
        raise InputError("no such avatar", file=path, hint="`avatarpose refine` writes it")
    try:
        with safe_open(str(path), framework="pt") as file:
            found = json.loads((file.metadata() or {}).get("avatar", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError("not an avatar", file=path, expected="what refine writes", found=error) from error
    if "betas" not in found or "field" not in found:
        raise InputError("not an avatar", file=path, expected="what refine writes", found="no description of it")
    if found.get("body_sha256", body.sha256) != body.sha256:
        raise InputError(
            "the avatar is of another body", file=path, expected=f"{body.name}, {body.sha256[:12]}",
            found=f"{found.get('body')}, {found['body_sha256'][:12]}", hint="Choose its body with --body",
        )  # fmt: skip
    return found


@dataclass
class Picture:
    """What one camera sees of P people; all of it 0 where it sees nobody.

    Attributes:
        colour: (H, W, 3) RGB, 0 to 1, multiplied by the opacity: over nothing.
        alpha: (H, W) opacity of all people together.
        person_alpha: (H, W, P) each person's part of it that is not hidden by others.
        depth: (H, W) metres along the optical axis, mean over what is seen.
        normals: (H, W, 3) unit normals of the skin, world; None where they were not asked for.
    """

    colour: Float[np.ndarray, "height width 3"]
    alpha: Float[np.ndarray, "height width"]
    person_alpha: Float[np.ndarray, "height width people"]
    depth: Float[np.ndarray, "height width"]
    normals: Float[np.ndarray, "height width 3"] | None = None

    def over(self, background: Float[np.ndarray, "*size 3"]) -> Float[np.ndarray, "height width 3"]:
        """The colours before a background, one colour or a picture of them."""
        return self.colour + (1 - self.alpha[..., None]) * background


class PeopleRenderer:
    """Avatars in motion, ready to be rendered frame by frame from any camera.

    Args:
        avatars: P people.
        body: the body they were learned on.
        parameters: their motion.
        valid: (P, F) who is there when.
        sampling: settings of the rays. The samples of all rays lie at the same depths, so that pictures do not flicker.
        device: where to render.
        memory: bytes that rendering may take besides the avatars.
    """

    @torch.no_grad()
    def __init__(
        self,
        avatars: Avatars,
        body: BodyModel,
        parameters: BodyParameters,
        valid: Bool[Tensor, "people frames"],
        sampling: SamplingConfig,
        device: torch.device | str = "cpu",
        memory: float = 1e9,
    ) -> None:
        self.device = torch.device(device)
        self.avatars = avatars.to(self.device)
        self.avatars.geometry = [
            replace(one, **{key: getattr(one, key).to(self.device) for key in one.__dataclass_fields__})
            for one in avatars.geometry
        ]
        self.sampling = replace(sampling, jitter=False)
        self.valid = valid
        parameters = BodyParameters(
            *(torch.nan_to_num(getattr(parameters, key)).to(self.device) for key in ("betas", "poses", "trans"))
        )
        body = body.to(device=self.device)
        self.motion: BodyMotion = body_motion(body, self.avatars, parameters, shape_moves=True)
        self.rays_at_once = max(64, int(memory / BYTES_PER_RAY))
        if self.device.type == "cpu":
            self.rays_at_once = min(self.rays_at_once, RAYS_AT_ONCE)
        self.surfaces = self.avatars.surfaces()
        reaches = (self.sampling.shell if one is None else one.reach(EMPTY_WIDTHS) for one in self.surfaces)
        self.thickness = min(self.sampling.shell, max(reaches))
        self._posed: tuple[int, list[PersonRender], list, list[Tensor]] | None = None

    @torch.no_grad()
    def picture(self, frame: int, camera: Cameras, normals: bool = False) -> Picture:
        """What one camera sees in one frame of the motion.

        Args:
            frame: index into the motion's frames.
            camera: one camera, with its lens.
            normals: whether to make the normals too.
        """
        if len(camera) != 1:
            raise ValueError(f"expected one camera, found {len(camera)}")
        height, width, people = int(camera.height[0]), int(camera.width[0]), len(self.avatars.fields)
        found = Picture(
            *(np.zeros((height, width, *more), np.float32) for more in ((3,), (), (people,), ())),
            normals=np.zeros((height, width, 3), np.float32) if normals else None,
        )
        posed, shells, vertices = self._pose(frame)
        pixels = covered_pixels(vertices, camera, self.thickness)
        if not len(pixels):
            return found
        origins, directions = camera.rays(torch.from_numpy(pixels + 0.5)[None])
        cosine = (directions[0] @ camera.R[0, 2]).numpy()
        origins, directions = origins[0].float().to(self.device), directions[0].float().to(self.device)
        for start in range(0, len(pixels), self.rays_at_once):
            part = slice(start, start + self.rays_at_once)
            rays = RayBatch(origins[part], directions[part], torch.zeros_like(origins[part, 0], dtype=torch.long))
            made = render(posed, shells, rays, self.sampling)
            columns, rows = pixels[part].T
            found.colour[rows, columns] = made.colour.clamp(0, 1).cpu().numpy()
            found.alpha[rows, columns] = made.alpha.cpu().numpy()
            found.person_alpha[rows, columns] = made.person_alpha.cpu().numpy()
            found.depth[rows, columns] = made.depth.cpu().numpy() * cosine[part]
            if found.normals is not None:
                found.normals[rows, columns] = _normals(made, posed, len(rays.frame)).cpu().numpy()
        return found

    def vertices(self, frame: int) -> list[Float[Tensor, "vertices 3"]]:
        """Vertices of the bodies that are there in one frame, metres, world."""
        return self._pose(frame)[2]

    @torch.no_grad()
    def _pose(self, frame: int) -> tuple[list[PersonRender], list, list[Tensor]]:
        """The people of one frame, their shells, the vertices of those who are there; kept until another is asked."""
        if self._posed is None or self._posed[0] != frame:
            posed, shells = render_people(
                self.avatars, self.motion, self.valid, [frame], self.thickness, self.surfaces
            )
            vertices = [row[0].vertices for row in shells if row[0] is not None]
            self._posed = (frame, posed, shells, vertices)
        return self._posed[1:]


def _normals(made: Rendering, people: list[PersonRender], rays: int) -> Float[Tensor, "rays 3"]:
    """Mean normal of the skin under what each ray sees, of unit length where anything is seen."""
    samples = made.samples
    parts = zip(people, samples.frame.split(samples.counts), samples.vertex.split(samples.counts), strict=True)
    each = torch.cat([world_normals(frame, vertex, person.posed) for person, frame, vertex in parts])
    return torch.nn.functional.normalize(sum_over_rays(samples.ray, made.weights[:, None] * each, rays), dim=1)


def covered_pixels(
    vertices: list[Float[Tensor, "vertices 3"]], camera: Cameras, thickness: float
) -> Int[np.ndarray, "pixels 2"]:
    """The pixels (column, row) whose rays may come within `thickness` metres of a vertex; none is missed.

    A ball of radius r at depth z, seen at distance rho from the axis (in units of the focal length f), has an image
    within f r (1 + rho^2) / (z - r) of that of its centre. Images are collected in squares of pixels (`TILES`).
    """
    height, width = int(camera.height[0]), int(camera.width[0])
    tile = max(2, -(-max(height, width) // TILES))
    rows, columns = -(-height // tile), -(-width // tile)
    covered = np.zeros((rows, columns), np.uint8)
    for points in vertices:
        points = points.to(device=camera.K.device, dtype=camera.K.dtype)
        pixels, depth = camera.project(points)
        pixels, depth = pixels[0], depth[0]
        ahead = depth > -thickness
        if not bool(ahead.any()):
            continue
        if bool((depth[ahead] < 2 * thickness + LEAST_DEPTH).any()):
            covered[:] = 1  # the camera stands in the body or next to it
            break
        K = camera.K[0]
        rho2 = ((pixels - K[:2, 2]) / torch.stack([K[0, 0], K[1, 1]])).square().sum(dim=1)
        reach = K[:2, :2].max() * thickness * (1 + rho2) / (depth - thickness)
        seen = ahead & (pixels > -reach[:, None]).all(dim=1)
        seen &= (pixels[:, 0] < width + reach) & (pixels[:, 1] < height + reach)
        if not bool(seen.any()):
            continue
        if float(reach[seen].max()) > max(height, width) / 4:
            covered[:] = 1  # a body at the camera's elbow; the renderer itself passes over empty rays quickly
            break
        # A square touches the ball up to a diagonal farther away than the ball's edge. A border of that width keeps the
        # vertices outside the picture whose balls come into it.
        border = math.ceil(float(reach[seen].max()) / tile + 1.5)
        around = np.zeros((rows + 2 * border, columns + 2 * border), np.uint8)
        cells = (pixels[seen] / tile).floor().long().numpy() + border
        around[cells[:, 1], cells[:, 0]] = 1
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * border + 1, 2 * border + 1))
        around = cv2.dilate(around, disc)
        covered |= around[border : border + rows, border : border + columns]
    row, column = np.nonzero(covered.repeat(tile, axis=0).repeat(tile, axis=1)[:height, :width])
    return np.stack([column, row], axis=1)


def rendered_views(
    sequence: Sequence, bodies: Bodies, body: BodyModel, views: list[tuple[int, int]], device: str = "cpu"
) -> dict[tuple[int, int], np.ndarray]:
    """The avatars in their refined poses over a light background, as (H, W, 3) uint8 RGB, by (camera, frame) index."""
    avatars, config = load_avatars(sequence, list(bodies.people), body)
    parameters = BodyParameters(
        *(torch.as_tensor(x, dtype=torch.float32) for x in (bodies.betas, bodies.poses, bodies.trans))
    )
    renderer = PeopleRenderer(avatars, body, parameters, torch.as_tensor(bodies.valid), config.sampling, device)
    pictures = {}
    for c, f in sorted(views, key=lambda view: view[1]):
        seen = renderer.picture(f, sequence.cameras[c]).over(np.full(3, 235 / 255, np.float32))
        pictures[(c, f)] = np.round(255 * seen).astype(np.uint8)
    return pictures
