"""Settings of the detection of 2D keypoints."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avatarpose.io import sha256

GUIDES = ("auto", "masks", "motion", "none")


@dataclass(frozen=True)
class DetectConfig:
    """What a detection depends on besides the images.

    Attributes:
        detector: name of a detector (`available_detectors`), `module:Class`, or auto: RTMO or RTMPose where `model` is
            given, MediaPipe elsewhere.
        model: ONNX file of RTMPose or RTMO.
        det_model: ONNX file that finds people's boxes for RTMPose (YOLOX or RTMDet); None: boxes from the guide.
        guide: where regions to look in come from besides the last image's people: masks of the sequence, motion before
            a static background, none, or auto: masks where there are any, else motion.
        people: most people in one image; 0: two more than the sequence says, six where it says nothing.
        person_score: people whose joints score less on average are dropped.
        joint_score: joints that score less become NaN.
        box_score: boxes of the person detector (or of RTMO) that score less are dropped.
        duplicate: two detections with an object keypoint similarity above this are one person.
        search_every: the whole image is searched again every so many images; between, only regions.
        batch: images handed to the detector at once; 0: as many as it likes.
        threads: threads that detect; 0: one a core.
        device: cpu, cuda, cuda:1, ... or auto: CUDA where onnxruntime has it (ONNX models only).
        redo: detect again although the keypoints are there.
    """

    detector: str = "auto"
    model: Path | None = None
    det_model: Path | None = None
    guide: str = "auto"
    people: int = 0
    person_score: float = 0.3
    joint_score: float = 0.05
    box_score: float = 0.3
    duplicate: float = 0.6
    search_every: int = 10
    batch: int = 0
    threads: int = 0
    device: str = "auto"
    redo: bool = False

    def settings(self) -> dict[str, Any]:
        """What the keypoints depend on, in plain types; model files by name and content."""
        plain = ("guide", "people", "person_score", "joint_score", "box_score", "duplicate", "search_every", "batch")
        chosen: dict[str, Any] = {name: getattr(self, name) for name in plain}
        for name in ("model", "det_model"):
            path = getattr(self, name)
            chosen[name] = None if path is None else f"{path.name} {sha256(path)[:16]}"
        return chosen


def describe(settings: dict[str, Any]) -> str:
    """Settings as one line of JSON, the same for the same settings."""
    return json.dumps(settings, sort_keys=True)
