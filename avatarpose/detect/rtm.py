"""RTMPose (Jiang et al. 2023), from boxes, and RTMO (Lu et al. 2024), in one stage, as ONNX files.

The files are the user's; nothing is downloaded.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from avatarpose.detect.config import DetectConfig
from avatarpose.detect.interface import Boxes, Image, People
from avatarpose.detect.onnx_models import (
    SOURCES,
    OnnxModel,
    as_input,
    crop_matrix,
    decode_boxes,
    decode_simcc,
    letterbox,
)
from avatarpose.detect.people import clip_boxes, suppress_boxes
from avatarpose.errors import InputError

# Orders of joints that begin with COCO-17: COCO itself, Halpe-26 and COCO-WholeBody's 133.
JOINT_COUNTS = (17, 26, 133)
BATCH = 8


class _BoxFinder:
    """People's boxes by YOLOX or RTMDet; a file with "rtmdet" in its name takes normalised colours."""

    def __init__(self, path: Path, config: DetectConfig) -> None:
        self.model = OnnxModel(path, "person detector", (640, 640), config.device, config.threads)
        self._normalise = "rtmdet" in str(self.model.path).lower()
        self._least = config.box_score

    def boxes(self, images: list[Image]) -> list[Boxes]:
        """The boxes of each image, best first."""
        height, width = self.model.height, self.model.width
        boxed = [letterbox(image, height, width) for image in images]
        outputs = self.model.run(as_input([canvas for canvas, _ in boxed], bgr=True, normalise=self._normalise))
        found = []
        for n, (_, scale) in enumerate(boxed):
            try:
                rows = decode_boxes([output[n] for output in outputs], height, width, self._least)
            except ValueError as error:
                raise InputError("not a person detector", file=self.model.path, found=error, hint=SOURCES) from None
            found.append(clip_boxes(rows[:, :4] / scale, images[n].shape[1], images[n].shape[0]))
        return found


class RTMPoseDetector:
    """RTMPose within boxes: of the person detector where there is one, else of the guide.

    Raises:
        InputError: a file or the package is missing, or a file is another model.
    """

    def __init__(self, config: DetectConfig) -> None:
        self.model = OnnxModel(config.model, "pose model (RTMPose)", (256, 192), config.device, config.threads)
        shapes = self.model.output_shapes
        if len(shapes) != 2 or any(len(shape) != 3 for shape in shapes):
            raise _other_model("RTMPose", self.model, "two outputs (N, joints, bins)")
        self.finder = None if config.det_model is None else _BoxFinder(config.det_model, config)
        self.guided = self.finder is None
        self.batch_size = config.batch or BATCH
        self.name = f"rtmpose {self.model.path.name}"
        if self.finder is not None:
            self.name += f", boxes {self.finder.model.path.name}"

    def detect(self, images: list[Image], boxes: list[Boxes] | None = None) -> list[People]:
        """See `Detector`. Without a person detector each region is taken for one person, or else the whole image."""
        if self.finder is not None:
            boxes = self.finder.boxes(images)
        else:
            boxes = [self._single(*pair) for pair in zip(images, boxes or [None] * len(images), strict=True)]
        height, width = self.model.height, self.model.width
        matrices = [crop_matrix(box, height, width) for regions in boxes for box in regions]
        sources = [image for image, regions in zip(images, boxes, strict=True) for _ in regions]
        found: list[np.ndarray] = []
        for start in range(0, len(matrices), 2 * BATCH):
            part = slice(start, start + 2 * BATCH)
            crops = [
                cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
                for image, matrix in zip(sources[part], matrices[part], strict=True)
            ]
            found.extend(self._joints(crops))
        for joints, matrix in zip(found, matrices, strict=True):
            joints[:, :2] = (joints[:, :2] - matrix[:, 2]) / matrix[0, 0] + 0.5
        ends = np.cumsum([0, *map(len, boxes)])
        return [np.array(found[a:b]).reshape(-1, 17, 3) for a, b in pairwise(ends)]

    def _joints(self, crops: list[Image]) -> list[np.ndarray]:
        height, width = self.model.height, self.model.width
        x, y = self.model.run(as_input(crops, bgr=False, normalise=True))
        if x.shape[1] not in JOINT_COUNTS or x.shape[1] != y.shape[1]:
            raise _other_model("RTMPose", self.model, f"{JOINT_COUNTS} joints", f"{x.shape[1]}")
        if x.shape[-1] * height != y.shape[-1] * width:
            raise _other_model("RTMPose", self.model, "as many bins a pixel in x and y", f"{x.shape}, {y.shape}")
        return list(decode_simcc(x, y, height, width)[:, :17].astype(np.float64))

    @staticmethod
    def _single(image: Image, regions: Boxes | None) -> Boxes:
        """Regions of one person each: those that lie in another are the same person's."""
        height, width = image.shape[:2]
        whole = np.array([[0.0, 0.0, width, height]])
        regions = clip_boxes(whole[:0] if regions is None else regions, width, height)
        if len(regions) == 0:
            return whole
        areas = np.prod(regions[:, 2:] - regions[:, :2], axis=-1)
        smaller = regions[areas < 0.8 * width * height]
        if len(smaller) == 0:
            return whole
        return smaller[suppress_boxes(smaller, -np.prod(smaller[:, 2:] - smaller[:, :2], axis=-1), 0.6)]


class RTMODetector:
    """RTMO: boxes and joints of everybody in one step.

    Raises:
        InputError: the file or the package is missing, or the file is another model.
    """

    guided = False

    def __init__(self, config: DetectConfig) -> None:
        self.model = OnnxModel(config.model, "pose model (RTMO)", (640, 640), config.device, config.threads)
        if sorted(len(shape) for shape in self.model.output_shapes) != [3, 4]:
            raise _other_model("RTMO", self.model, "outputs (N, people, 5) and (N, people, 17, 3)")
        self._least = config.box_score
        self.batch_size = config.batch or BATCH
        self.name = f"rtmo {self.model.path.name}"

    def detect(self, images: list[Image], boxes: list[Boxes] | None = None) -> list[People]:
        """See `Detector`; regions are not used."""
        height, width = self.model.height, self.model.width
        boxed = [letterbox(image, height, width) for image in images]
        outputs = self.model.run(as_input([canvas for canvas, _ in boxed], bgr=True, normalise=False))
        rows, joints = sorted(outputs, key=lambda output: output.ndim)
        if rows.shape[-1] != 5 or joints.shape[2:] != (17, 3):
            expected = "(N, people, 5) and (N, people, 17, 3)"
            raise _other_model("RTMO", self.model, expected, f"{rows.shape}, {joints.shape}")
        found = []
        for n, (_, scale) in enumerate(boxed):
            good = np.flatnonzero(rows[n, :, 4] >= self._least)
            kept = good[suppress_boxes(rows[n, good, :4], rows[n, good, 4], 0.65)]
            people = joints[n, kept].astype(np.float64)
            people[..., :2] = (people[..., :2] + 0.5) / scale
            found.append(people)
        return found


def _other_model(name: str, model: OnnxModel, expected: str, found: str | None = None) -> InputError:
    return InputError(
        f"not a model of {name}", file=model.path, expected=expected, found=found or model.output_shapes, hint=SOURCES
    )
