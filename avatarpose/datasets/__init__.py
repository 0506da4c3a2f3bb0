"""Public data sets in the layout in which they are distributed, turned into sequence folders by `avatarpose import`.

A reader finds calibration, footage and masks, which the import then treats as anybody's, and makes ground_truth.npz.
None of the data comes with this software; `DATASETS` says where it is to be had and under what terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from avatarpose.datasets import chi3d, hi4d, multihuman, panoptic, shelf
from avatarpose.datasets.base import DataSet, Recording, Say
from avatarpose.datasets.splits import SPLITS, Split, find_split
from avatarpose.errors import InputError
from avatarpose.importers.media import find_footage
from avatarpose.importers.settings import ImportSettings
from avatarpose.io import write_npz

_RESEARCH = "research only, on request"

DATASETS: dict[str, DataSet] = {
    "hi4d": DataSet(
        "Hi4D (Yin et al., CVPR 2023)", "https://yifeiyin04.github.io/Hi4D",
        f"{_RESEARCH}; not to be passed on", "pairXX/actionXX", hi4d.prepare,
    ),
    "chi3d": DataSet(
        "CHI3D (Fieraru et al., CVPR 2020)", "http://vision.imar.ro/ci3d",
        f"{_RESEARCH}; not to be passed on", "train/sXX/ACTION", chi3d.prepare,
    ),
    "panoptic": DataSet(
        "CMU Panoptic (Joo et al., TPAMI 2017)", "http://domedb.perception.cs.cmu.edu",
        "non-commercial research only, free to download", "a sequence's folder", panoptic.prepare,
    ),
    "shelf": DataSet(
        "Shelf (Belagiannis et al., CVPR 2014)", "http://campar.in.tum.de/Chair/MultiHumanPose",
        "public benchmark, cite the paper; no licence is stated", "the folder Shelf", shelf.prepare_shelf,
    ),
    "campus": DataSet(
        "Campus (Belagiannis et al., CVPR 2014)", "http://campar.in.tum.de/Chair/MultiHumanPose",
        "public benchmark, cite the paper; no licence is stated", "the campus sequence's folder", shelf.prepare_campus,
    ),
    "multihuman": DataSet(
        "MultiHuman (Zheng et al., ICCV 2021)", "https://github.com/y-zheng18/MultiHuman-Dataset",
        "non-commercial research only, on a signed request; not to be passed on", "a Real-Cap sequence's folder",
        multihuman.prepare,
    ),
}  # fmt: skip
"""By the name that `--format` takes."""


def prepare(settings: ImportSettings, say: Say) -> Recording:
    """The sequence of a data set that `settings.source` is.

    Raises:
        InputError: a part of it is missing or malformed; says where the data set is to be had.
    """
    if settings.format not in DATASETS:
        raise InputError("no such data set", expected=", ".join(DATASETS), found=settings.format)
    if settings.add:
        raise InputError("--add with --format", expected="one of them", hint="A data set comes as a whole")
    dataset = DATASETS[settings.format]
    split = find_split(settings.split, settings.format) if settings.split else None
    if split is not None and not settings.cameras and split.cameras is not None:
        settings = replace(settings, cameras=",".join(split.cameras))
    try:
        recording = dataset.prepare(settings, say)
    except InputError as error:
        advice = (error.hint, f"SRC is {dataset.layout}", dataset.where)
        hint = ". ".join(text.rstrip(".") for text in advice if text)
        raise InputError(
            error.problem, file=error.file, camera=error.camera, frame=error.frame, expected=error.expected,
            found=error.found, hint=hint,
        ) from None  # fmt: skip
    if split is None:
        return recording
    say(f"{settings.split}: {split.note}")
    if settings.frames or split.frames is None:
        return recording
    return replace(recording, settings=replace(recording.settings, frames=_frames_of(split, recording)))


def _frames_of(split: Split, recording: Recording) -> str:
    """The split's frames as a choice of the common clock's, which counts the first image as 0."""
    footage = recording.footage or find_footage(recording.settings.footage or recording.settings.source, asked=True)
    first = next(iter(footage.values()))
    numbers = list(first.images) or list(range(len(first)))
    start, stop = min(part.start for part in split.frames), max(part.stop for part in split.frames)
    inside = [i for i, number in enumerate(numbers) if start <= number < stop]
    if not inside:
        raise InputError("none of the split's frames is there", file=first.path, expected=f"{start} to {stop - 1}",
                         found=f"{numbers[0]} to {numbers[-1]}")  # fmt: skip
    return f"{inside[0]}:{inside[-1] + 1}:1"


def add_truth(recording: Recording, folder: Path, numbers: Sequence[int], say: Say) -> None:
    """Writes ground_truth.npz of a new sequence folder, and names masks of single people as the truth orders them.

    Args:
        recording: as `prepare` found it.
        folder: with everything else in it.
        numbers: (F,) the source's numbers of its frames.
    """
    if recording.truth is None:
        return
    truth = recording.truth([int(number) for number in numbers])
    if truth is None:
        return
    write_npz(
        folder / "ground_truth.npz", **truth,
        dataset=np.array(recording.settings.format), source_frames=np.asarray(numbers, np.int64),
    )  # fmt: skip
    known = truth.get("keypoints", truth.get("shelf15"))
    say(f"truth: {int(np.isfinite(known).all(axis=-1).any(axis=-1).sum())} person-frames")
    if "subjects" in truth and recording.settings.masks is not None:
        _rename_masks(folder / "masks", [int(subject) for subject in truth["subjects"]])


def _rename_masks(folder: Path, subjects: list[int]) -> None:
    """Files of subject `subjects[p]`, imported as p<subject>, become those of person p."""
    if subjects == sorted(subjects):
        return
    names = {f"p{subject}": f"p{p}" for p, subject in enumerate(subjects)}
    moved = [path for path in folder.glob("*/*_p*.png") if path.stem.rpartition("_")[2] in names]
    aside = [path.rename(path.with_name(f".{path.name}")) for path in moved]
    for path in aside:
        stem, _, person = path.stem.removeprefix(".").rpartition("_")
        path.rename(path.with_name(f"{stem}_{names[person]}.png"))


__all__ = ["DATASETS", "SPLITS", "DataSet", "Recording", "Split", "add_truth", "find_split", "prepare"]
