"""Models of OpenMMLab as ONNX files: opening them, and the plain tensors to boxes, joints and scores.

Coordinates of the networks have pixel centres at integers, as the annotations they learned from; they are moved by 0.5.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from avatarpose.detect.people import suppress_boxes
from avatarpose.errors import InputError

INSTALL = "pip install onnxruntime"
SOURCES = (
    "RTMPose, RTMO, YOLOX and RTMDet as ONNX: the tables of "
    "https://github.com/open-mmlab/mmpose/tree/main/projects/rtmpose link to zip files that hold end2end.onnx, "
    "the README of https://github.com/Tau-J/rtmlib lists more"
)
# Mean and standard deviation of ImageNet's red, green, blue (RTMPose takes RGB, the others BGR).
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)
PADDING = 114


class OnnxModel:
    """An ONNX file with one image input (N, 3, H, W).

    Attributes:
        path: the file.
        height, width: of the input; `size` where the file leaves them open.
        batch: images it takes at once; None: any number.

    Raises:
        InputError: the package or the file is missing, or the file is no such model.
    """

    def __init__(self, path: Path | None, what: str, size: tuple[int, int], device: str = "cpu", threads: int = 0):
        if path is None:
            raise InputError(f"no file with the {what}", expected="its path", hint=SOURCES)
        self.path = Path(path)
        if not self.path.is_file():
            raise InputError(f"no such file with the {what}", file=self.path, hint=SOURCES)
        try:
            import onnxruntime
        except ImportError as error:
            raise InputError("onnxruntime cannot be imported", found=error, hint=f"Install it: {INSTALL}") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.log_severity_level = 3
        providers = _providers(device, onnxruntime.get_available_providers())
        try:
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=providers)
        except Exception as error:  # onnxruntime has a dozen classes of its own for a file it cannot use
            found = str(error).splitlines()[0]
            raise InputError("damaged, or not an ONNX model", file=self.path, found=found) from None
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if inputs else []
        if len(inputs) != 1 or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
            raise InputError(
                f"not the {what}", file=self.path, expected="one input (N, 3, H, W)", found=[i.shape for i in inputs]
            )
        self._input = inputs[0].name
        self.batch = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        self.height, self.width = (
            n if isinstance(n, int) and n > 0 else other for n, other in zip(shape[2:], size, strict=True)
        )
        self.output_shapes: list[list[Any]] = [list(output.shape) for output in self._session.get_outputs()]

    def run(self, images: Float32[np.ndarray, "n 3 h w"]) -> list[np.ndarray]:
        """The outputs, N leading, for any N."""
        if self.batch is None:
            return self._session.run(None, {self._input: images})
        parts = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            short = self.batch - len(part)
            filled = np.concatenate((part, np.zeros((short, *part.shape[1:]), np.float32))) if short else part
            parts.append([out[: len(part)] for out in self._session.run(None, {self._input: filled})])
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def _providers(device: str, available: list[str]) -> list[Any]:
    """What onnxruntime computes with. Raises InputError where the device asked for is not to be had."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not index.isdigit()):
        raise InputError("no such device", expected="cpu, cuda, cuda:0, ... or auto", found=device)
    has_cuda = "CUDAExecutionProvider" in available
    if kind == "cuda" and not has_cuda:
        hint = "pip uninstall onnxruntime && pip install onnxruntime-gpu"
        raise InputError("this onnxruntime has no CUDA", expected="onnxruntime-gpu", found=device, hint=hint)
    cuda = [("CUDAExecutionProvider", {"device_id": int(index or 0)})] if has_cuda and kind != "cpu" else []
    return [*cuda, "CPUExecutionProvider"]


def kind_of(path: Path) -> str:
    """rtmo or rtmpose, by the outputs of the file.

    Raises:
        InputError: neither.
    """
    model = OnnxModel(path, "pose model", (256, 192))
    ranks = sorted(len(shape) for shape in model.output_shapes)
    if ranks == [3, 4]:
        return "rtmo"
    if ranks == [3, 3]:
        return "rtmpose"
    raise InputError(
        "neither RTMPose nor RTMO", file=path, expected="outputs of 3 and 3, or 3 and 4 dimensions",
        found=model.output_shapes, hint=SOURCES,
    )  # fmt: skip


# ---- images in ----


def letterbox(
    image: UInt8[np.ndarray, "h w 3"], height: int, width: int
) -> tuple[UInt8[np.ndarray, "height width 3"], float]:
    """The image shrunk or enlarged into the top-left corner of a grey one, and by how much."""
    scale = min(height / image.shape[0], width / image.shape[1])
    size = max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale))
    canvas = np.full((height, width, 3), PADDING, np.uint8)
    canvas[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return canvas, scale


def crop_matrix(box: Float[np.ndarray, " 4"], height: int, width: int, padding: float = 1.25) -> np.ndarray:
    """(2, 3) from the image to a crop about a box, in OpenCV's coordinates (pixel centres at integers).

    The box, grown by `padding` and to the crop's proportions, fills the crop; its middle comes to (width / 2,
    height / 2) as in MMPose's `get_warp_matrix`, with which the networks were trained.
    """
    centre = (box[:2] + box[2:]) / 2 - 0.5
    sides = (box[2:] - box[:2]) * padding
    scale = 1.0 / max(sides[0] / width, sides[1] / height, 1e-6)
    return np.array([[scale, 0, width / 2 - scale * centre[0]], [0, scale, height / 2 - scale * centre[1]]])


def as_input(images: list[UInt8[np.ndarray, "h w 3"]], bgr: bool, normalise: bool) -> Float32[np.ndarray, "n 3 h w"]:
    """RGB images as a network takes them."""
    stacked = np.stack(images).astype(np.float32)
    if normalise:
        stacked = (stacked - MEAN) / STD
    if bgr:
        stacked = stacked[..., ::-1]
    return np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))


# ---- tensors out ----


def decode_simcc(
    x: Float[np.ndarray, "n joints bins_x"], y: Float[np.ndarray, "n joints bins_y"], height: int, width: int
) -> Float[np.ndarray, "n joints 3"]:
    """Joints in the crop (pixel centres at integers) and scores, from a class per axis and bin (SimCC, Li et al. 2022).

    A bin is a fraction of a pixel, bins / width; the score is the smaller of both maxima, within 0 and 1.
    """
    place = np.stack((x.argmax(-1) * width / x.shape[-1], y.argmax(-1) * height / y.shape[-1]), axis=-1)
    score = np.clip(np.minimum(x.max(-1), y.max(-1)), 0, 1)
    return np.concatenate((place, score[..., None]), axis=-1)


def decode_boxes(
    outputs: list[np.ndarray], height: int, width: int, least: float, overlap: float = 0.45
) -> Float[np.ndarray, "boxes 5"]:
    """Boxes of people (left, top, right, bottom, score) of one image, in the network's input.

    Either (N, 5) boxes, whose labels are a second output (0: person), or YOLOX's raw (A, 5 + classes): centre and
    logarithm of the size, in strides of 8, 16, 32 pixels, then objectness and classes (Ge et al. 2021).

    Raises:
        ValueError: the outputs are of no such shape.
    """
    first = outputs[0]
    if first.ndim == 2 and first.shape[-1] == 5:
        found = first
        if len(outputs) > 1 and outputs[1].shape == first.shape[:1]:
            found = found[outputs[1] == 0]
    elif first.ndim == 2 and first.shape[-1] >= 6:
        grids = []
        for stride in (8, 16, 32):
            rows, columns = np.mgrid[: height // stride, : width // stride]
            grids.append(np.stack((columns.ravel(), rows.ravel(), np.full(rows.size, stride)), axis=-1))
        grid = np.concatenate(grids)
        if len(grid) != len(first):
            raise ValueError(f"expected {len(grid)} boxes, found {len(first)}")
        stride = grid[:, 2:]
        centre, size = (first[:, :2] + grid[:, :2]) * stride, np.exp(first[:, 2:4]) * stride
        found = np.hstack((centre - size / 2, centre + size / 2, first[:, 4:5] * first[:, 5:6]))
    else:
        raise ValueError(f"expected (N, 5) or (A, 5 + classes), found {[o.shape for o in outputs]}")
    found = found[found[:, 4] >= least]
    return found[suppress_boxes(found[:, :4], found[:, 4], overlap)]
