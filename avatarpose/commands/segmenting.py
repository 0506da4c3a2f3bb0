"""Masks from the images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from avatarpose.commands.shared import Selection, SequenceFolder

if TYPE_CHECKING:
    from avatarpose.segment import SegmentConfig


@dataclass(kw_only=True)
class Segment(Selection):
    """Find which pixels are people: masks/CAMERA/FRAME.png, and FRAME_PERSON.png once people have names.

    Masks that are there are kept; those from elsewhere are never overwritten. A segmentation that was stopped goes on
    where it was. After `register`, --refine checks the masks against the bodies.

    Example: avatarpose segment my_sequence --method background --frames 0:20
    """

    sequence: SequenceFolder
    method: Literal["auto", "background", "sam", "sam2", "mediapipe"] = "auto"
    """background: static cameras, no weights. sam, sam2: Segment Anything, with --checkpoint. mediapipe: a small
    network that its package carries. auto: sam or sam2 where a checkpoint is given, else background."""
    plates: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Pictures of the empty scene, CAMERA.png, for the background method; without them it learns from the clip."""
    checkpoint: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Weights of Segment Anything (any size) or of SAM 2."""
    model: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """Configuration of SAM 2, such as configs/sam2.1/sam2.1_hiera_s.yaml; the size of Segment Anything is read off its
    weights."""
    refine: bool = False
    """Check the masks against the bodies in results/: fill what the bodies cover, drop what is far from everybody."""
    band: float = 0.004
    """Width of the unknown band on either side of an uncertain edge, as a share of the image's longer side."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ..., or auto: CUDA where there is a device (sam and sam2)."""
    body: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Body model of the results (.npz or official .pkl); by default the open body of the package."""
    redo: bool = False
    """Make the masks anew that this command made; masks from elsewhere stay."""

    def execute(self) -> None:
        from rich.console import Console
        from rich.table import Table

        from avatarpose.pipeline import tables, torch_device
        from avatarpose.progress import progress_bar
        from avatarpose.runlog import RunLog
        from avatarpose.segment import segment_sequence
        from avatarpose.sequence import open_selected

        console, device = Console(stderr=True), torch_device(self.device)
        sequence = open_selected(self.sequence, self.cameras, self.leave_out, self.frames, least_cameras=1)
        said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(self).items()}
        log = RunLog(sequence.results / "run.json", said, device)
        with log.stage("segment") as notes:
            with progress_bar(console, "segment") as update:
                report = segment_sequence(sequence, self.config(str(device)), update, self.body)
            notes |= {"method": report.method}
        table = Table("camera", "made", "of single people", "kept", "given", "unknown / people", "seconds")
        for name, camera in report.cameras.items():
            numbers = (camera.made, camera.people, camera.kept, camera.given)
            table.add_row(name, *map(str, numbers), f"{camera.unknown:.3f}", f"{camera.seconds:.1f}")
        tables().print(table)
        for message in report.messages:
            console.print(message, highlight=False)

    def config(self, device: str) -> SegmentConfig:
        """The settings that the options ask for."""
        from avatarpose.segment import SegmentConfig

        return SegmentConfig(
            method=self.method, plates=self.plates, checkpoint=self.checkpoint, model=self.model, refine=self.refine,
            redo=self.redo, device=device, band=self.band,
        )  # fmt: skip
