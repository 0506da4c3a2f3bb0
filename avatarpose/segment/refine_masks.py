"""Masks and bodies against each other: what a body known to some centimetres says about a mask, and whose a pixel is.

Bodies are right about the trunk and the limbs and wrong about hands, hair and clothes; masks are the other way round.
So a body fills holes and drops what is far from everybody, but what hangs together with a person within the reach of a
wrist stays, although no body covers it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from avatarpose.body.silhouette import nearest_person
from avatarpose.segment.config import BodyMaskConfig
from avatarpose.segment.people import People, distance_to, pixel_of
from avatarpose.sequence import BACKGROUND, FOREGROUND, UNKNOWN


@dataclass
class View:
    """The named people in one picture.

    Attributes:
        names: of the P people.
        depths: (P, H, W) metres, infinite where the person is not.
        wrists: (P, 2, 2) pixels, NaN where unknown.
        metre: (P,) pixels that a metre is long at the person; NaN of people who are not in the picture.
    """

    names: list[str]
    depths: Float[np.ndarray, "people height width"]
    wrists: Float[np.ndarray, "people 2 2"]
    metre: Float[np.ndarray, " people"]

    @classmethod
    def of(cls, people: People, c: int, f: int) -> View:
        """Camera c's picture of frame index f."""
        depths = people.depths(c, f)
        focal = float(people.sequence.cameras.K[c, 0, 0])
        inside = np.isfinite(depths)
        metre = [focal / float(np.median(d[i])) if i.any() else np.nan for d, i in zip(depths, inside, strict=True)]
        return cls(people.names, depths, people.pixels(c, f)[:, [9, 10]], np.array(metre))


def refine_union(
    union: UInt8[np.ndarray, "height width"], view: View, band: int, config: BodyMaskConfig
) -> UInt8[np.ndarray, "height width"]:
    """A mask of all people, checked against their bodies.

    Inside a body's core, what was unknown becomes foreground, and so do holes that foreground encloses; other
    background there contradicts the body and becomes unknown. Far from every body, all becomes background but what is
    joined to a person and within reach of a wrist.

    Args:
        union: 0, 128, 255.
        view: the bodies in this picture.
        band: width of an unknown edge, pixels.
        config: distances.
    """
    result = union.copy()
    there = np.isfinite(view.metre)
    if not there.any():
        return result
    core, near, reach = (np.zeros(union.shape, bool) for _ in range(3))
    for depth, wrists, metre in zip(view.depths[there], view.wrists[there], view.metre[there], strict=True):
        inside = np.isfinite(depth)
        core |= distance_to(~inside) > config.core * metre
        near |= distance_to(inside) <= config.far * metre
        reach |= _discs(wrists, config.hand * metre, union.shape)
    # Joined to the near zone through pixels that are themselves within reach.
    possible = (union != BACKGROUND) & (near | reach)
    _, parts = cv2.connectedComponents(possible.astype(np.uint8), connectivity=8)
    held = np.unique(parts[possible & near])
    kept = near | (possible & np.isin(parts, held[held > 0]))
    result[~kept] = BACKGROUND
    result[core & (result == UNKNOWN)] = FOREGROUND
    missing = core & (result == BACKGROUND)
    result[missing] = np.where(_enclosed(result == BACKGROUND)[missing], FOREGROUND, UNKNOWN)
    # Where foreground was cut off, the cut itself is not an edge anybody saw.
    cut = (union == FOREGROUND) & ~kept
    result[(distance_to(cut) <= band) & (result == FOREGROUND)] = UNKNOWN
    return result


def _discs(centres: np.ndarray, radius: float, shape: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    drawn = np.zeros(shape, np.uint8)
    for centre in centres[np.isfinite(centres).all(-1)]:
        cv2.circle(drawn, pixel_of(centre), max(1, round(radius)), 1, -1)
    return drawn > 0


def _enclosed(region: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """The connected parts of a region that do not touch the border of the picture."""
    _, parts = cv2.connectedComponents(region.astype(np.uint8), connectivity=4)
    border = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    return region & ~np.isin(parts, border)


def label_people(
    union: UInt8[np.ndarray, "height width"], view: View, config: BodyMaskConfig, slack: float = 1.0
) -> dict[str, UInt8[np.ndarray, "height width"]]:
    """The union's pixels shared out: each person's visible part, by name, for the people in the picture.

    A pixel is the person's whose surface is in front there; outside all silhouettes it is the nearest silhouette's.
    Where two are about as near, or along the border between two, it is unknown in both masks.

    Args:
        union: 0, 128, 255.
        view: the people in this picture.
        config: distances.
        slack: multiplies the width of the border, for surfaces that are only guessed from joints.
    """
    there = np.flatnonzero(np.isfinite(view.metre))
    if not len(there):
        return {}
    outside = np.stack([distance_to(np.isfinite(view.depths[p])) / view.metre[p] for p in there])  # metres
    front = nearest_person(view.depths[there])
    owner = np.where(front >= 0, front, outside.argmin(0))
    width = config.contact * slack
    masks = {}
    for i, p in enumerate(there):
        mine = owner == i
        border = np.zeros(union.shape, bool)
        if len(there) > 1:
            other = (union != BACKGROUND) & ~mine
            border = mine & (distance_to(other) <= width * view.metre[p])
            border |= ~mine & (distance_to(mine & (union != BACKGROUND)) <= width * view.metre[p])
            second = np.delete(outside, i, axis=0).min(0)
            border |= (front < 0) & (np.abs(outside[i] - second) <= width)
        mask = np.where(mine, union, BACKGROUND).astype(np.uint8)
        mask[border & (union != BACKGROUND)] = UNKNOWN
        masks[view.names[p]] = mask
    return masks
