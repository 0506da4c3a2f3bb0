"""What is behind the people: one colour, nothing, or a floor with the soft shadows of what touches it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from viewer.video.paths import horizontal_axes

NAMED = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "ground": (0.93, 0.93, 0.94)}
FLOOR = np.array([0.80, 0.80, 0.81], np.float32)
LINE_SPACING, LINE_WIDTH, LINE_SHADE = 0.5, 0.012, 0.07
CELL = 0.02
"""Metres, side of a cell of the shadow's map."""
SHADOWS = ((0.05, 0.025, 0.75), (0.60, 0.12, 0.60))
"""(metres above the floor at which a shadow has faded to 1/e, metres of its blur, share of the light it takes): where
the body touches the floor, and where it stands in the light of the whole sky."""


def background_colour(text: str) -> Float[np.ndarray, " 3"] | None:
    """The colour that a background's name stands for, 0 to 1; None for `transparent`.

    Raises:
        InputError: neither a name nor #rrggbb.
    """
    if text == "transparent":
        return None
    if text in NAMED:
        return np.array(NAMED[text], np.float32)
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return np.array([int(text[i : i + 2], 16) for i in (1, 3, 5)], np.float32) / 255
    raise InputError("no such background", expected=", ".join([*NAMED, "transparent", "#rrggbb"]), found=text)


@dataclass(frozen=True)
class Floor:
    """A plane that fades into the background's colour, with lines every half metre.

    Attributes:
        up: (3,) unit vector.
        height: metres along `up`.
        centre: (3,) metres, world: middle of the floor (its height does not matter).
        radius: metres from the middle at which the floor has faded out.
        behind: (3,) colour of the background, 0 to 1.
    """

    up: Float[np.ndarray, " 3"]
    height: float
    centre: Float[np.ndarray, " 3"]
    radius: float
    behind: Float[np.ndarray, " 3"]

    def picture(
        self, camera: Cameras, vertices: list[Float[Tensor, "vertices 3"]]
    ) -> Float[np.ndarray, "height width 3"]:
        """The floor as one camera sees it, with the shadows of bodies given by their vertices (metres, world)."""
        height, width = int(camera.height[0]), int(camera.width[0])
        picture = np.broadcast_to(self.behind.astype(np.float32), (height, width, 3)).copy()
        rows, columns = np.mgrid[:height, :width]
        pixels = torch.from_numpy(np.stack([columns, rows], axis=-1) + 0.5)
        origins, directions = (x[0].float().numpy() for x in camera.rays(pixels[None]))
        slope = directions @ self.up.astype(np.float32)
        above = float(origins[0, 0] @ self.up) - self.height
        if above <= 0:
            return picture  # seen from below there is no floor
        hit = slope < -1e-4
        distance = np.where(hit, above / np.where(hit, -slope, 1), 0)
        points = origins + distance[..., None] * directions
        first, second = horizontal_axes(self.up)
        u, v = (((points - self.centre) @ axis).astype(np.float32) for axis in (first, second))
        share = np.clip(1 - np.hypot(u, v) / self.radius, 0, 1) * hit
        share = (share * share * (3 - 2 * share))[..., None]
        # How much of the floor a pixel sees: lines finer than that fade instead of flickering.
        footprint = distance / float(camera.K[0, 0, 0]) / np.maximum(-slope, 1e-3)
        light = 1 - LINE_SHADE * np.maximum(_lines(u, footprint), _lines(v, footprint))
        light = light * self._shadow(u, v, vertices, first, second)
        return picture + share * (FLOOR * light[..., None] - picture)

    def _shadow(self, u: np.ndarray, v: np.ndarray, vertices: list[Tensor], first: np.ndarray, second: np.ndarray):
        """Share of the light left at points of the floor (coordinates u, v in metres)."""
        if not vertices:
            return np.ones_like(u)
        points = torch.cat(list(vertices)).double().cpu().numpy()
        place = np.stack([(points - self.centre) @ first, (points - self.centre) @ second], axis=1)
        above = np.maximum(points @ self.up - self.height, 0)
        low = place.min(axis=0) - 0.6
        columns, rows = np.ceil((place.max(axis=0) + 0.6 - low) / CELL).astype(int)
        cells = ((place - low) / CELL).astype(int)
        light = np.ones((rows, columns), np.float32)
        for fade, blur, strength in SHADOWS:
            cover = np.zeros((rows, columns), np.float32)
            np.maximum.at(cover, (cells[:, 1], cells[:, 0]), np.exp(-above / fade).astype(np.float32))
            cover = cv2.dilate(cover, np.ones((3, 3), np.uint8))  # closes the gaps between vertices
            light *= 1 - strength * np.minimum(cv2.GaussianBlur(cover, (0, 0), blur / CELL), 1)
        # cv2 puts the centre of a cell at its whole number.
        at = [((x - start) / CELL - 0.5).astype(np.float32) for x, start in zip((u, v), low, strict=True)]
        return cv2.remap(light, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=1.0)


def _lines(coordinate: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Share of a pixel that a line covers, of lines across one coordinate."""
    width = np.maximum(LINE_WIDTH, footprint)
    away = np.abs(coordinate / LINE_SPACING - np.round(coordinate / LINE_SPACING)) * LINE_SPACING
    covered = np.clip((width / 2 - away) / np.maximum(footprint, 1e-6) + 0.5, 0, 1) * (LINE_WIDTH / width)
    return covered * np.clip(2 - footprint / (LINE_SPACING / 8), 0, 1)
