"""Shelf and Campus (Belagiannis et al., CVPR 2014; TPAMI 2016): a few people, 5 and 3 cameras, 25 frames a second.

    Shelf/
      Camera0/img_000000.png ...            Campus: Camera0/campus4-c0-00000.png ...
      actorsGT.mat                          actor3D: a cell a person of cells a frame, (14, 3) metres or empty
      calibration_shelf.json                VoxelPose's table of the lenses and poses (millimetres, z up)

The published calibration is a 3 x 4 projection matrix a camera; VoxelPose's repository has it in parts, with the lens,
as calibration_shelf.json and calibration_campus.json, and these are read. Another calibration can be given with
`--calibration`. Frame numbers are those of the images.

Truth: `shelf15`, the 14 annotated joints and the middle of the hips, of the actors annotated in the chosen frames
(`ids`, counted from 0). Others in the scene have none, so precision means nothing here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from avatarpose.datasets.base import Recording, Say, Truth, need
from avatarpose.errors import InputError
from avatarpose.importers.settings import ImportSettings
from avatarpose.skeletons import SHELF14, SHELF15, convert

FPS = 25.0
UP = "z"


def prepare_shelf(settings: ImportSettings, say: Say) -> Recording:
    """SRC is the folder Shelf."""
    return _prepare(settings, say, "calibration_shelf.json")


def prepare_campus(settings: ImportSettings, say: Say) -> Recording:
    """SRC is the folder of the campus sequence."""
    return _prepare(settings, say, "calibration_campus.json")


def _prepare(settings: ImportSettings, say: Say, calibration: str) -> Recording:
    source = settings.source
    cameras = sorted(path.name for path in source.glob("Camera*") if path.is_dir())
    if settings.footage is None and not cameras:
        raise InputError("no images", file=source, expected="Camera0, Camera1, ...")
    if settings.calibration is None and not (source / calibration).is_file():
        raise InputError(
            "no calibration", file=source / calibration, expected=calibration,
            hint="It is in VoxelPose's repository, github.com/microsoft/voxelpose-pytorch, under data",
        )  # fmt: skip
    own = settings.calibration is None
    settings = replace(
        settings,
        calibration=settings.calibration or source / calibration,
        calibration_format="voxelpose" if own else settings.calibration_format,
        map=settings.map or (tuple(f"{name}={name.removeprefix('Camera')}" for name in cameras) if own else ()),
        fps=settings.fps or FPS,
        up=UP if settings.up == "auto" else settings.up,
    )
    truth = need(source / "actorsGT.mat", "truth")
    return Recording(settings, truth=lambda numbers: read_truth(truth, numbers, say))


def read_truth(path: Path, numbers: Sequence[int], say: Say = lambda text: None) -> Truth | None:
    """shelf15 (F, P, 15, 3) metres, world, NaN where not annotated; ids (P,); joint_names (15,).

    Returns:
        None where nobody is annotated in these frames.

    Raises:
        InputError: absent, no MATLAB file of version 5, or without actor3D of the expected layout.
    """
    actors = read_actors(path)
    found = np.full((len(numbers), len(actors), len(SHELF14), 3), np.nan)
    for a, frames in enumerate(actors):
        for f, number in enumerate(numbers):
            if number < len(frames) and frames[number] is not None:
                found[f, a] = frames[number]
    ids = np.flatnonzero(np.isfinite(found).any(axis=(0, 2, 3)))
    if not len(ids):
        say("no truth: nobody is annotated in these frames")
        return None
    return {
        "shelf15": convert(found[:, ids], "shelf14", "shelf15").astype(np.float32),
        "ids": ids,
        "joint_names": np.array(SHELF15.joints),
    }


def read_actors(path: Path) -> list[list[np.ndarray | None]]:
    """By actor and frame number (14, 3) metres, or None where not annotated. Errors as `read_truth`."""
    try:
        cells = loadmat(path, variable_names=["actor3D"], struct_as_record=True).get("actor3D")
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (ValueError, TypeError, NotImplementedError, OSError, KeyError, IndexError) as error:
        raise InputError("damaged, or not a MATLAB file of version 5", file=path, found=error) from error
    if cells is None:
        raise InputError("lacks actor3D", file=path, expected="actor3D")
    if cells.dtype != object:
        raise InputError("actor3D is no cell array", file=path, expected="a cell a person", found=cells.dtype)
    while cells.size == 1 and _is_cells(cells.flat[0]) and _is_cells(cells.flat[0].flat[0]):
        cells = cells.flat[0]  # some copies are wrapped once more
    return [[_pose(cell, path, a, n) for n, cell in enumerate(_frames(actor, path))] for a, actor in
            enumerate(cells.ravel())]  # fmt: skip


def _is_cells(value: object) -> bool:
    """Whether it is a cell array with something in it."""
    return isinstance(value, np.ndarray) and value.dtype == object and value.size > 0


def _frames(actor: object, path: Path) -> np.ndarray:
    if not isinstance(actor, np.ndarray) or actor.dtype != object:
        raise InputError("an actor of actor3D is no cell array", file=path, expected="a cell a frame")
    return actor.ravel()


def _pose(cell: object, path: Path, actor: int, frame: int) -> np.ndarray | None:
    value = np.asarray(cell)
    while value.dtype == object and value.size == 1:
        value = np.asarray(value.flat[0])
    if value.size <= 1:
        return None
    if value.shape != (len(SHELF14), 3) or value.dtype.kind not in "fiu":
        raise InputError(f"a pose of actor {actor} of another shape", file=path, frame=frame, expected=(14, 3),
                         found=value.shape)  # fmt: skip
    return value.astype(np.float64) if np.isfinite(value).all() else None
