"""2D keypoints from the images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from avatarpose.commands.shared import Selection, SequenceFolder

if TYPE_CHECKING:
    from avatarpose.detect import DetectConfig


@dataclass(kw_only=True)
class DetectOptions:
    detector: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    """mediapipe, rtmpose, rtmo, or module:Class of your own; auto: what --model is, MediaPipe without --model."""
    model: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """ONNX file of RTMPose or RTMO (docs/detectors.md says where they are to be had)."""
    det_model: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """ONNX file of YOLOX or RTMDet that finds the people for RTMPose; without it, the guide does."""
    guide: Literal["auto", "masks", "motion", "none"] = "auto"
    """Regions to look in: masks of the sequence, motion before a static background, or masks where there are any."""
    most_people: int = 0
    """Most people in one image; 0: two more than sequence.json says, six where it says nothing."""
    person_score: float = 0.3
    """People whose joints score less on average are dropped."""
    joint_score: float = 0.05
    """Joints that score less are left out."""
    box_score: float = 0.3
    """Boxes of RTMO and of the person detector that score less are dropped."""
    duplicate: float = 0.6
    """Two detections that are more alike (object keypoint similarity, 0 to 1) are one person."""
    search_every: int = 10
    """The whole image is searched every so many images; between, the regions and where people were before."""
    batch: int = 0
    """Images handed to the detector at once; 0: as many as it likes."""
    threads: int = 0
    """Threads that detect; 0: one a core."""


@dataclass(kw_only=True)
class Detect(DetectOptions, Selection):
    """Find people's joints in the images: keypoints2d/CAMERA.npz. Files that are there are kept.

    A detection that was stopped goes on where it was.

    Example: avatarpose detect my_sequence --detector mediapipe --frames 0:20
    """

    sequence: SequenceFolder
    device: str = "auto"
    """cpu, cuda, cuda:1, ..., or auto: CUDA where onnxruntime has it (ONNX models only)."""
    redo: bool = False
    """Detect again although keypoints are there; files that you brought are copied to results/detect/given first."""

    def execute(self) -> None:
        import torch
        from rich.console import Console

        from avatarpose.detect import detect_sequence
        from avatarpose.progress import progress_bar
        from avatarpose.runlog import RunLog
        from avatarpose.sequence import open_selected

        console = Console(stderr=True)
        sequence = open_selected(self.sequence, self.cameras, self.leave_out, self.frames, least_cameras=1)
        config = detect_config(self, self.device, self.redo)
        said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        log = RunLog(sequence.results / "run.json", said, torch.device("cpu"))
        with log.stage("detect") as notes:
            with progress_bar(console, "detect") as update:
                report = detect_sequence(sequence, config, update)
            notes |= {"detector": report.detector, "images": report.images, "settings": config.settings()}
        for name in report.kept:
            console.print(f"{name}: keypoints are there, kept")
        for name, count in report.images.items():
            console.print(f"{name}: {count} images searched, {report.people[name]:.2f} people in each on average")
        stale = sequence.results / "joints3d.npz"
        if report.images and stale.is_file():
            console.print(f"{stale} was made from other keypoints: `avatarpose estimate --redo` makes it anew")


def detect_config(options: DetectOptions, device: str, redo: bool = False) -> DetectConfig:
    """The settings that the options say."""
    from avatarpose.detect import DetectConfig

    own = {field.name: getattr(options, field.name) for field in fields(DetectOptions) if field.name != "most_people"}
    return DetectConfig(**own, people=options.most_people, device=device, redo=redo)
