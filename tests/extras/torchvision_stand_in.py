"""The two functions and two names that segment-anything takes from torchvision, where torchvision cannot be imported.

torchvision has to be built for the very torch that is installed; with a CPU torch it often is not.
"""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import torch
from PIL import Image


def install() -> None:
    """Puts the stand-in where `import torchvision` finds it, unless the real one works."""
    try:
        import torchvision.ops  # noqa: F401
    except (ImportError, RuntimeError):
        names = ("", ".transforms", ".transforms.functional", ".ops", ".ops.boxes")
        for name in names:
            sys.modules[f"torchvision{name}"] = ModuleType(f"torchvision{name}")
        functional = sys.modules["torchvision.transforms.functional"]
        functional.to_pil_image = lambda image: Image.fromarray(np.asarray(image))
        functional.resize = lambda image, size: image.resize(tuple(size)[::-1], Image.Resampling.BILINEAR)
        boxes = sys.modules["torchvision.ops.boxes"]
        boxes.box_area = lambda b: (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
        boxes.batched_nms = lambda b, scores, groups, threshold: torch.arange(len(b))
