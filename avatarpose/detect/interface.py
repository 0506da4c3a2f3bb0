"""What a detector is. docs/detectors.md shows how to add one."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

Image: TypeAlias = UInt8[np.ndarray, "height width 3"]
Boxes: TypeAlias = Float[np.ndarray, "boxes 4"]
People: TypeAlias = Float[np.ndarray, "people 17 3"]


@runtime_checkable
class Detector(Protocol):
    """Finds people's joints in images.

    Attributes:
        name: what is written beside the keypoints.
        batch_size: images it likes to get at once.
        guided: whether regions to look in help it; they cost time to make.
    """

    name: str
    batch_size: int
    guided: bool

    def detect(self, images: list[Image], boxes: list[Boxes] | None = None) -> list[People]:
        """The people in each image.

        Args:
            images: RGB, any size.
            boxes: for each image, regions (left, top, right, bottom) in pixels where people may be; a region may hold
                several people, a person may be in several regions. None: nothing is known.

        Returns:
            For each image x, y, score of the COCO-17 joints of each person, in any order; pixel centres at i + 0.5,
            NaN where a joint is absent.
        """
        ...
