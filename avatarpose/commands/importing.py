"""Bringing captures of other tools."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Up = Literal["auto", "x", "y", "z", "-x", "-y", "-z"]


@dataclass(kw_only=True)
class Import:
    """Make a sequence folder from videos or images and a calibration of another tool; footage is linked, not copied.

    Calibrations: EasyMocap and OpenCV YAML, Qualisys .qca.txt, Pose2Sim, aniposelib and Caliscope TOML, COLMAP, Hi4D,
    CMU Panoptic and VoxelPose JSON, Vicon .xcp.

    Example: avatarpose import recording my_sequence --calibration Calib.qca.txt --keypoints openpose
    """

    source: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC", help="Folder of the recording: footage, calibration.")
    ]
    sequence: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(metavar="SEQUENCE", help="Sequence folder to make.")
    ]
    calibration: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Calibration file or folder, this and other paths also as seen from SRC; by default the one in SRC."""
    calibration_format: Literal[
        "auto", "avatarpose", "opencv", "qualisys", "toml", "colmap", "hi4d", "panoptic", "voxelpose", "vicon"
    ] = "auto"
    """Format of the calibration; auto: told by its content. opencv is EasyMocap's too."""
    footage: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with a video, or a folder of images, a camera; by default SRC/videos, SRC/images or SRC itself."""
    media: Literal["link", "copy"] = "link"
    """Link the footage where it is, or copy it."""
    map: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FOOTAGE=CAM")] = ()
    """Which camera a video or folder is of, where names do not tell: GOPR0012=cam01 GOPR0044=cam02."""
    cameras: Annotated[str, tyro.conf.arg(metavar="A,B,...")] = ""
    """Bring only these cameras: names with commas between."""
    size: Annotated[str, tyro.conf.arg(metavar="WxH")] = ""
    """Size of the images of cameras of which neither calibration nor footage tells it: 1920x1080."""
    fps: float | None = None
    """Frames per second of the common clock; by default as the videos say."""
    frames: Annotated[str, tyro.conf.arg(metavar="A:B:S")] = ""
    """Bring frames a:b:s of the common clock, from a up to but not including b in steps of s."""
    offset: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CAM=FRAMES")] = ()
    """Its own frame, counted from 0, that a camera shows at frame 0 of the common clock: cam01=2.5."""
    rate: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CAM=FPS")] = ()
    """Frames per second of a camera that runs at its own rate: cam01=59.94."""
    crop: Annotated[tuple[str, ...], tyro.conf.arg(metavar="CAM=LEFT,TOP")] = ()
    """Where the images of a camera were cut out of the calibrated image, pixels: cam01=8,0."""
    unit: Annotated[str, tyro.conf.arg(metavar="UNIT")] = "auto"
    """Unit of the calibration: m, cm, mm or metres per unit; auto: as the format defines it, else m if plausible."""
    up: Up = "auto"
    """Which axis of the world points up (a negative one with =: --up=-y); auto: as the format defines it, else as
    people and cameras stand."""
    people: int | None = None
    """How many people there are, as a hint."""
    keypoints: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """2D keypoints: a folder with a folder or file a camera."""
    keypoints_format: Literal["auto", "openpose", "alphapose", "coco", "easymocap"] = "auto"
    """Format of the keypoints; auto: told by their content."""
    masks: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Masks: a folder with a folder of pictures a camera, of all people or with a label for each."""
    fits: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Body fits that `refine` starts from instead of registering bodies itself."""
    fits_format: Literal["auto", "easymocap", "amass", "hi4d"] = "auto"
    """Format of the fits; auto: told by their content."""
    body: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Body model of the fits in SMPL's format; by default the open body of the package."""
    format: Literal["auto", "hi4d", "chi3d", "panoptic", "shelf", "campus", "multihuman"] = "auto"
    """Layout of SRC where it is a sequence of a public data set: its parts are found, and its truth comes along."""
    split: Annotated[str, tyro.conf.arg(metavar="NAME")] = ""
    """With --format: only the cameras and frames that a paper uses, as avatarpose-hi4d; docs/datasets.md has all."""
    add: bool = False
    """Add keypoints, masks or fits to a sequence that is there and lacks them."""

    def execute(self) -> None:
        from avatarpose.importers.assemble import import_sequence
        from avatarpose.importers.settings import ImportSettings

        import_sequence(ImportSettings(**asdict(self)))
