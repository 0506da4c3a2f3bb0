"""The sequences, cameras and frames that papers train and test on, as far as they are published.

What a paper or its code does not say stands as None here, and `note` says so: nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from avatarpose.errors import InputError

_HI4D_CAMERAS = ("4", "16", "28", "40", "52", "64", "76", "88")


@dataclass(frozen=True)
class Split:
    """What of a data set a paper uses.

    Attributes:
        paper: whose it is.
        dataset: key of `avatarpose.datasets.DATASETS`.
        sequences: as the data set calls them; None: not published.
        cameras: names in the data set; None: not published, or all of them (`note` says which).
        frames: the source's frame numbers, ranges without their ends; None: all, or not published.
        note: what is known beyond that, and what is not published.
    """

    paper: str
    dataset: str
    sequences: tuple[str, ...] | None
    cameras: tuple[str, ...] | None
    frames: tuple[range, ...] | None
    note: str


SPLITS: dict[str, Split] = {
    "avatarpose-hi4d": Split(
        "AvatarPose, ECCV 2024", "hi4d", ("pair14/talk14",), _HI4D_CAMERAS, (range(9, 149),),
        "The one sequence that the released configuration has, with its 8 cameras and 140 frames. The list of "
        "sequences behind the paper's table is not published (asked for in its repository, without an answer). The "
        "cameras it validates on, 4, 28, 52 and 76, are among those it learns from: none is held out.",
    ),
    "avatarpose-chi3d": Split(
        "AvatarPose, ECCV 2024", "chi3d", None, None, None,
        "Neither sequences nor frames nor a configuration are published.",
    ),
    "closemocap-hi4d": Split(
        "CloseMoCap", "hi4d",
        ("fight00", "fight12", "hug00", "hug09", "hug12", "dance10", "dance14", "dance28", "pose32", "pose37"),
        _HI4D_CAMERAS, None,
        "Test sequences and 8 views as in the paper; the number is that of the pair. Which frames is not said. The "
        "table over views takes 4, 6 and 8 of them without saying which.",
    ),
    "closemocap-chi3d": Split(
        "CloseMoCap", "chi3d", ("s03",), None, None,
        "Test subject s03, all its actions, at 10 of the 50 frames a second (--frames ::5), all 4 cameras.",
    ),
    "voxelpose-panoptic": Split(
        "VoxelPose, ECCV 2020", "panoptic",
        ("160906_pizza1", "160422_haggling1", "160906_ian5", "160906_band4"),
        ("00_03", "00_06", "00_12", "00_13", "00_23"), None,
        "Validation sequences, every 12th frame (--frames ::12); training takes every 3rd frame of ten others.",
    ),
    "voxelpose-shelf": Split(
        "VoxelPose, ECCV 2020", "shelf", ("Shelf",), ("0", "1", "2", "3", "4"), (range(300, 601),),
        "Frames 300 to 600; the average is over the first three actors.",
    ),
    "voxelpose-campus": Split(
        "VoxelPose, ECCV 2020", "campus", ("Campus",), ("0", "1", "2"), (range(350, 471), range(650, 751)),
        "Frames 350 to 470 and 650 to 750; the average is over the three actors.",
    ),
}  # fmt: skip
"""By paper and data set, as `--split` takes them."""


def find_split(name: str, dataset: str | None = None) -> Split:
    """The split of that name. Raises InputError where there is none, or it is of another data set."""
    if name not in SPLITS:
        raise InputError("no such split", expected=", ".join(SPLITS), found=name)
    split = SPLITS[name]
    if dataset is not None and split.dataset != dataset:
        raise InputError("a split of another data set", expected=split.dataset, found=f"--format {dataset}")
    return split
