"""CMU Panoptic (Joo et al., ICCV 2015 and TPAMI 2017): the HD cameras and the 3D poses of stage 1.

    160422_haggling1/
      calibration_160422_haggling1.json                       centimetres, y down
      hdVideos/hd_00_03.mp4 or hdImgs/00_03/00_03_00000123.jpg
      hdPose3d_stage1_coco19/body3DScene_00000123.json        {"bodies": [{"id": 0, "joints19": [x, y, z, c] * 19}]}

29.97 frames a second; numbers are those of the HD frames. Truth: COCO keypoints (the 17 among the 19), with
`scores` (P, F, 17) their confidence, and `panoptic15`, the first 15 joints in the data set's own order, which VoxelPose
is scored on. A joint of confidence -1 is unknown; VoxelPose's protocol leaves out those up to 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from avatarpose.datasets.base import Recording, Say, Truth, by_first_x, need
from avatarpose.errors import InputError
from avatarpose.importers.numbering import load_json, numbered_files
from avatarpose.importers.settings import ImportSettings
from avatarpose.skeletons import COCO17, PANOPTIC15

FPS = 29.97
UP = "-y"
_CENTIMETRES = 0.01
JOINTS19 = (*PANOPTIC15.joints, "left_eye", "left_ear", "right_eye", "right_ear")
"""Order of `joints19`."""


def prepare(settings: ImportSettings, say: Say) -> Recording:
    """One sequence: SRC is its folder."""
    source = settings.source
    calibrations = sorted(source.glob("calibration_*.json"))
    if settings.calibration is None and not calibrations:
        raise InputError("no calibration of Panoptic", file=source, expected="calibration_<sequence>.json")
    footage = settings.footage
    if footage is None:
        footage = source / ("hdImgs" if (source / "hdImgs").is_dir() else "hdVideos")
        need(footage, "HD footage of Panoptic")
    poses = source / "hdPose3d_stage1_coco19"
    settings = replace(
        settings,
        calibration=settings.calibration or calibrations[0],
        calibration_format="panoptic" if settings.calibration is None else settings.calibration_format,
        footage=footage,
        fps=settings.fps or FPS,
        up=UP if settings.up == "auto" else settings.up,
    )
    if not poses.is_dir():
        say(f"no truth: {poses} is not there")
        return Recording(settings)
    return Recording(settings, truth=lambda numbers: read_truth(poses, numbers))


def read_truth(folder: Path, numbers: Sequence[int]) -> Truth | None:
    """keypoints (P, F, 17, 3), scores (P, F, 17), panoptic15 (P, F, 15, 3), panoptic15_scores; metres, world.

    Returns:
        None where nobody is in any of the frames.

    Raises:
        InputError: no file for any of the frames, or a malformed one.
    """
    files = numbered_files(folder, "body3DScene_*.json")
    known = [f for f, number in enumerate(numbers) if number in files]
    if not known:
        raise InputError("no pose of any of the frames", file=folder, expected=f"body3DScene_{numbers[0]:08d}.json",
                         found=f"{len(files)} others")  # fmt: skip
    people: dict[int, np.ndarray] = {}
    for f in known:
        for person, joints in _bodies(files[numbers[f]]):
            rows = people.setdefault(person, np.full((len(numbers), len(JOINTS19), 4), np.nan))
            if np.isfinite(rows[f]).any():
                raise InputError("a person twice in a frame", file=files[numbers[f]], found=f"id {person}")
            rows[f] = joints
    if not people:
        return None
    every = np.stack([people[person] for person in people])
    unknown = ~(every[..., 3] >= 0)
    points = np.where(unknown[..., None], np.nan, every[..., :3] * _CENTIMETRES)
    scores = np.where(unknown, 0.0, every[..., 3])
    columns, own = [JOINTS19.index(joint) for joint in COCO17.joints], list(range(len(PANOPTIC15)))
    order = by_first_x(points[:, :, PANOPTIC15.index("mid_hip")])
    return {
        "keypoints": points[order][:, :, columns].astype(np.float32),
        "scores": scores[order][:, :, columns].astype(np.float32),
        "panoptic15": points[order][:, :, own].astype(np.float32),
        "panoptic15_scores": scores[order][:, :, own].astype(np.float32),
        "subjects": np.array([list(people)[p] for p in order]),
    }


def _bodies(path: Path) -> list[tuple[int, np.ndarray]]:
    content = load_json(path)
    bodies = content.get("bodies") if isinstance(content, dict) else None
    if not isinstance(bodies, list):
        raise InputError("not a pose file of Panoptic", file=path, expected='{"bodies": [...]}')
    found = []
    for body in bodies:
        if not isinstance(body, dict) or not {"id", "joints19"} <= body.keys():
            raise InputError("a body without id or joints19", file=path, expected="id, joints19",
                             hint="hdPose3d_stage1_coco19 has them")  # fmt: skip
        try:
            joints = np.array(body["joints19"], np.float64)
            person = int(body["id"])
        except (TypeError, ValueError):
            raise InputError("joints19 are no numbers", file=path, found=body["joints19"]) from None
        if joints.size != 4 * len(JOINTS19) or not np.isfinite(joints).all():
            raise InputError("joints19 of another size", file=path, expected="19 times x, y, z, c", found=joints.shape)
        found.append((person, joints.reshape(-1, 4)))
    return found
