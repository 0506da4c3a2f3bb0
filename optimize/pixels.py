"""Which pixels the losses look at: pools of pixels drawn from every image, and the rays of one iteration.

Images are read once a segment, in order, so memory does not grow with the length of the capture: of every image a pool
of pixels is kept on the device (people, mask edges, some background), with their rays, colours and mask labels, in the
narrowest types that hold them: `BYTES_PER_PIXEL` each.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int16, UInt8
from torch import Tensor

from avatarpose.frames import FrameCache

BACKGROUND, UNKNOWN, FOREGROUND = 0, 128, 255
# Shares of people, of the band around mask edges and of the surroundings in a pool.
SHARE_PEOPLE, SHARE_EDGE, SHARE_AROUND = 0.55, 0.35, 0.10
BYTES_PER_PIXEL = 25
EDGE_WIDTH = 12  # pixels: the band around mask edges that is looked at more often (half the published kernel)


@dataclass
class Pool:
    """The pixels kept of one frame, of all its cameras. Groups are square patches (one pixel where patch is 1)."""

    camera: Int16[Tensor, "groups patch"]
    direction: Float[Tensor, "groups patch 3"]
    colour: UInt8[Tensor, "groups patch 3"]
    """RGB, blurred inside the mask where the stage asks for it."""
    label: UInt8[Tensor, "groups patch"]
    """0 background, 1 foreground, 2 unknown."""
    coloured: Bool[Tensor, "groups patch"]
    """Whether the colour loss may look there: neither unknown nor within the band at a mask's edge."""
    person: Int16[Tensor, "groups patch"]
    """Index of the person whose own mask covers the pixel, -1 none, -2 where nobody's mask is known."""
    weight: Float[Tensor, " groups"]
    """Relative probability of being drawn: grows with the disagreement last seen."""
    by_person: bool = False
    """Whether anybody's own mask is known at any of its pixels."""

    @classmethod
    def empty(cls, size: int, device: torch.device, groups: int = 0) -> Pool:
        """Of `groups` groups of `size` pixels of which nothing is known."""
        camera = torch.zeros(groups, size, dtype=torch.int16, device=device)
        colour = torch.zeros(groups, size, 3, dtype=torch.uint8, device=device)
        label = torch.full_like(colour[..., 0], 2)
        weight = torch.ones(groups, device=device)
        coloured, person = torch.zeros_like(label, dtype=torch.bool), torch.full_like(camera, -2)
        return cls(camera, colour.float(), colour, label, coloured, person, weight)


@dataclass
class PixelBatch:
    """The rays of one iteration with what was seen there."""

    origin: Float[Tensor, "rays 3"]
    direction: Float[Tensor, "rays 3"]
    camera: Int[Tensor, " rays"]
    frame: Int[Tensor, " rays"]
    """Index into the frames of this iteration."""
    colour: Float[Tensor, "rays 3"]
    """RGB in 0 to 1."""
    label: Int[Tensor, " rays"]
    coloured: Bool[Tensor, " rays"]
    person: Int[Tensor, " rays"]
    group: Int[Tensor, " groups"]
    """Index of each group in its frame's pool."""
    counts: list[int]
    """Groups of each frame; they stand in the frames' order."""
    by_person: bool
    """Whether anybody's own mask is known at any of the frames' pixels."""


def blur_inside(image: Float[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], sigma: float) -> np.ndarray:
    """Gaussian blur of `sigma` pixels that mixes foreground with foreground only (normalised convolution)."""
    weight = mask.astype(np.float32)
    blurred = cv2.GaussianBlur(image * weight[..., None], (0, 0), sigma)
    norm = cv2.GaussianBlur(weight, (0, 0), sigma)
    return np.where(mask[..., None], blurred / np.maximum(norm, 1e-3)[..., None], image)


def edge_band(foreground: Bool[np.ndarray, "h w"], width: int) -> Bool[np.ndarray, "h w"]:
    """Pixels within `width` pixels of the mask's edge, on both sides."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1))
    raster = foreground.astype(np.uint8)
    return cv2.dilate(raster, kernel) != cv2.erode(raster, kernel)


class PixelSource:
    """Draws pools from the images of a sequence.

    Args:
        images: images and masks of the capture, read ahead and within a limit of memory.
        owners: the person (index of the poses) whom each name of a mask means (`optimize.mask_people`).
        edge: pixels on either side of a mask's edge that carry no colour loss.
        untrusted: (F,) frames of which every pixel is unknown, so that no loss looks there; None for no frame.
    """

    def __init__(
        self,
        images: FrameCache,
        owners: dict[str, int],
        edge: int,
        device: torch.device,
        untrusted: Bool[np.ndarray, " frames"] | None = None,
    ) -> None:
        self.images = images
        self.owners = owners
        self.edge = edge
        self.device = device
        self.untrusted = untrusted
        self.centres = images.cameras.centres.to(torch.float32).to(device)
        self._cameras = images.cameras

    def announce(self, frames: list[int]) -> None:
        """Say which frames will be asked for next, so that their images are read ahead."""
        cameras = range(len(self._cameras.names))
        self.images.prefetch([(c, f) for f in frames for c in cameras], masks=True)

    def pool(
        self, frame: int, boxes: Float[np.ndarray, "cameras 4"], pixels: int, patch: int, blur: float, seed: int
    ) -> Pool:
        """The pool of one frame. `boxes` are the pixel rectangles (left, top, right, bottom) people project into."""
        rng = np.random.default_rng([seed, frame])
        parts = [
            self._image_pool(camera, frame, boxes[camera], pixels, patch, blur, rng)
            for camera in range(len(self._cameras.names))
        ]
        parts = [part for part in parts if part is not None]
        if not parts:
            return Pool.empty(patch * patch, self.device)
        merged = {key: torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in parts[0]}
        if self.untrusted is not None and self.untrusted[frame]:
            merged["label"][:], merged["coloured"][:], merged["person"][:] = 2, False, -2
        weight = torch.ones(merged["camera"].shape[0], device=self.device)
        by_person = bool((merged["person"] > -2).any())
        return Pool(**{k: v.to(self.device) for k, v in merged.items()}, weight=weight, by_person=by_person)

    def _image_pool(self, camera, frame, box, pixels, patch, blur, rng) -> dict[str, np.ndarray] | None:
        height, width = int(self._cameras.height[camera]), int(self._cameras.width[camera])
        left, top = max(int(box[0]), 0), max(int(box[1]), 0)
        right, bottom = min(int(np.ceil(box[2])), width), min(int(np.ceil(box[3])), height)
        if left >= right or top >= bottom:
            return None
        # Work on the part of the image that the box's pixels depend on.
        border = max(EDGE_WIDTH, self.edge, patch) + int(np.ceil(4 * blur)) + 1
        x, y = max(left - border, 0), max(top - border, 0)
        window = np.s_[y : bottom + border, x : right + border]
        mask = self.images.mask(camera, frame)[window]
        foreground = mask == FOREGROUND
        height, width = mask.shape
        inside = np.zeros((height, width), dtype=bool)
        inside[top - y : bottom - y, left - x : right - x] = True
        near_edge = edge_band(foreground, EDGE_WIDTH) & inside
        groups = max(1, pixels // (patch * patch))
        rows, columns = _draw(foreground & inside, near_edge, inside, groups, rng)
        if patch > 1:
            rows = np.clip(rows - patch // 2, 0, height - patch)[:, None, None] + np.arange(patch)[None, :, None]
            columns = np.clip(columns - patch // 2, 0, width - patch)[:, None, None] + np.arange(patch)[None, None, :]
            rows, columns = (
                np.broadcast_to(one, (len(one), patch, patch)).reshape(len(one), -1)
                for one in np.broadcast_arrays(rows, columns)
            )
        else:
            rows, columns = rows[:, None], columns[:, None]
        image = self.images.image(camera, frame)[window]
        if blur > 0:
            image = np.rint(blur_inside(image.astype(np.float32), foreground, blur)).astype(np.uint8)
        label = np.where(foreground, 1, np.where(mask == UNKNOWN, 2, 0)).astype(np.uint8)
        coloured = ~edge_band(foreground, self.edge) & (label != 2)
        person = np.full((height, width), -2, dtype=np.int16)
        own = self.images.sequence.person_masks(camera, frame)
        if own:
            person[:] = -1
            for name, raster in own.items():
                if name in self.owners:
                    person[raster[window] == FOREGROUND] = self.owners[name]
                    person[raster[window] == UNKNOWN] = -2
        pixel_centres = torch.from_numpy(np.stack([columns + x, rows + y], axis=-1) + 0.5)
        _, directions = self._cameras.select([self._cameras.names[camera]]).rays(pixel_centres[None])
        return {
            "camera": np.full(rows.shape, camera, dtype=np.int16),
            "direction": directions[0].to(torch.float32).numpy(),
            "colour": image[rows, columns],
            "label": label[rows, columns],
            "coloured": coloured[rows, columns],
            "person": person[rows, columns],
        }

    def batch(self, pools: list[Pool], rays: int, generator: torch.Generator) -> PixelBatch:
        """`rays` rays shared evenly by the given frames' pools, drawn by the pools' weights."""
        with_pixels = sum(1 for pool in pools if pool.camera.numel())
        groups = []
        for pool in pools:
            if not pool.camera.numel():
                groups.append(torch.zeros(0, dtype=torch.long, device=self.device))
                continue
            count = max(1, rays // (with_pixels * pool.camera.shape[1]))
            groups.append(torch.multinomial(pool.weight, count, replacement=True, generator=generator))
        return self.gather(pools, groups)

    def gather(self, pools: list[Pool], groups: list[Int[Tensor, " groups"]]) -> PixelBatch:
        """The rays of the given groups of each frame's pool."""
        pairs = list(zip(pools, groups, strict=True))
        columns = {
            name: torch.cat([getattr(pool, name)[index].flatten(0, 1) for pool, index in pairs])
            for name in ("camera", "direction", "colour", "label", "coloured", "person")
        }
        columns |= {name: columns[name].long() for name in ("camera", "label", "person")}
        columns["colour"] = columns["colour"].float() / 255.0
        sizes = [len(index) * pool.camera.shape[1] for pool, index in pairs]
        frame = torch.cat([torch.full((size,), b, device=self.device) for b, size in enumerate(sizes)])
        return PixelBatch(
            origin=self.centres[columns["camera"]], frame=frame, group=torch.cat(groups),
            counts=[len(index) for index in groups], by_person=any(pool.by_person for pool in pools), **columns,
        )  # fmt: skip


def note_disagreement(pools: list[Pool], batch: PixelBatch, error: Float[Tensor, " rays"]) -> None:
    """Raise the weight of groups whose error (in units of a typical error) is large, so they are seen more often."""
    size = pools[0].camera.shape[1]
    per_group = error.detach().reshape(-1, size).mean(dim=1)
    typical = per_group.mean().clamp(min=1e-6)
    target = (0.5 + 0.5 * per_group / typical).clamp(max=3.0)
    parts = zip(pools, target.split(batch.counts), batch.group.split(batch.counts), strict=True)
    for pool, wanted, index in parts:
        pool.weight[index] = 0.5 * pool.weight[index] + 0.5 * wanted


def _draw(people, edge, around, groups: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = [], []
    for region, share in ((people, SHARE_PEOPLE), (edge, SHARE_EDGE), (around, SHARE_AROUND)):
        candidates = np.flatnonzero(region)
        count = max(1, round(groups * share))
        if candidates.size == 0:
            continue
        drawn = rng.choice(candidates, size=min(count, candidates.size), replace=False)
        rows.append(drawn // region.shape[1])
        columns.append(drawn % region.shape[1])
    return np.concatenate(rows), np.concatenate(columns)
