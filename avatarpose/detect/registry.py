"""Detectors by name. docs/detectors.md shows how to add one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from avatarpose.detect.config import DetectConfig
from avatarpose.detect.interface import Detector
from avatarpose.errors import InputError


def _mediapipe(config: DetectConfig) -> Detector:
    from avatarpose.detect.mediapipe import MediaPipeDetector

    return MediaPipeDetector(config)


def _rtmpose(config: DetectConfig) -> Detector:
    from avatarpose.detect.rtm import RTMPoseDetector

    return RTMPoseDetector(config)


def _rtmo(config: DetectConfig) -> Detector:
    from avatarpose.detect.rtm import RTMODetector

    return RTMODetector(config)


DETECTORS: dict[str, Callable[[DetectConfig], Detector]] = {
    "mediapipe": _mediapipe,
    "rtmpose": _rtmpose,
    "rtmo": _rtmo,
}


def create_detector(config: DetectConfig) -> Detector:
    """The detector that the settings name.

    Raises:
        InputError: there is no such detector, or it lacks a package or a file.
    """
    name = config.detector
    if name == "auto":
        name = "mediapipe"
        if config.model is not None:
            from avatarpose.detect.onnx_models import kind_of

            name = kind_of(config.model)
    if name in DETECTORS:
        return DETECTORS[name](config)
    if ":" in name:
        return _by_path(name)(config)
    known = ", ".join(("auto", *DETECTORS, "module:Class"))
    raise InputError("no such detector", expected=known, found=name)


def _by_path(name: str) -> Callable[[DetectConfig], Detector]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "The module must be importable: install it, or set PYTHONPATH to its folder"
        raise InputError("no such detector", expected="module:Class", found=f"{name}: {error}", hint=hint) from None


def available_detectors() -> dict[str, str]:
    """For each detector whether it can be used, and why not or what for; imports none of their packages."""
    from avatarpose.detect.onnx_models import INSTALL as ONNX
    from avatarpose.detect.onnx_models import SOURCES

    onnx = "needs model files, by --model (and --det-model)" if find_spec("onnxruntime") else f"missing: {ONNX}"
    return {"mediapipe": _mediapipe_state(), "rtmpose": f"{onnx}. {SOURCES}", "rtmo": f"{onnx}. {SOURCES}"}


def _mediapipe_state() -> str:
    from avatarpose.detect.mediapipe import CARRIES_MODEL, INSTALL

    try:
        found = version("mediapipe")
    except PackageNotFoundError:
        return f"missing: {INSTALL}"
    needed = [name for name in ("matplotlib", "absl", "google.protobuf") if not _there(name)]
    if needed:
        return f"version {found} lacks {', '.join(needed)}: {INSTALL}"
    if found != CARRIES_MODEL:
        return f"version {found} may carry no model; tested with {CARRIES_MODEL}: {INSTALL}"
    return f"version {found}, carries its model: the default"


def _there(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False
