"""Hi4D (Yin et al., CVPR 2023): pairs in close contact, 8 cameras, SMPL registered to scans.

    pair14/talk14/
      cameras/rgb_cameras.npz               ids, intrinsics (8, 3, 3), extrinsics (8, 3, 4), dist_coeffs (8, 5); metres
      images/4/000009.jpg                   by camera, numbered as the scans
      seg/img_seg_mask/4/{0,1,all}/000009.png
      smpl/000009.npz                       joints_3d (2, 24, 3), verts (2, 6890, 3), and the parameters

The world's y axis points up (AvatarPose turns it by 90 degrees about x to have z up; here it stays); 30 frames a
second.

Truth: SMPL's 24 joints. COCO keypoints by the body's own regressor on `verts` where SMPL's licensed file is given
(`--body`); otherwise the twelve limb joints, which are SMPL's joints of the same names, and no face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from avatarpose.body import BodyModel, load_body
from avatarpose.datasets.base import Recording, Say, Truth, by_first_x, need
from avatarpose.errors import InputError
from avatarpose.importers.numbering import numbered_files
from avatarpose.importers.settings import ImportSettings
from avatarpose.io import read_npz
from avatarpose.skeletons import convert

FPS = 30.0
UP = "y"
_VERTICES = 6890


def prepare(settings: ImportSettings, say: Say) -> Recording:
    """One action of one pair: SRC is its folder."""
    source = settings.source
    cameras = need(source / "cameras" / "rgb_cameras.npz", "calibration of Hi4D")
    images = need(source / "images", "images of Hi4D")
    masks = source / "seg" / "img_seg_mask"
    if settings.masks is None and not masks.is_dir():
        say(f"no masks: {masks} is not there")
    settings = replace(
        settings,
        calibration=settings.calibration or cameras,
        calibration_format="hi4d" if settings.calibration is None else settings.calibration_format,
        footage=settings.footage or images,
        masks=settings.masks or (masks if masks.is_dir() else None),
        fps=settings.fps or FPS,
        up=UP if settings.up == "auto" else settings.up,
        people=settings.people or 2,
    )
    smpl = source / "smpl"
    if not smpl.is_dir():
        say(f"no truth: {smpl} is not there")
        return Recording(settings)
    body = None if settings.body is None else load_body(settings.body)
    if body is not None and len(body.v_template) != _VERTICES:
        raise InputError(
            "Hi4D's truth is of SMPL's mesh", file=settings.body, expected=f"a body of {_VERTICES} vertices",
            found=f"{len(body.v_template)}", hint="Without --body the limb joints are the truth",
        )  # fmt: skip
    return Recording(settings, truth=lambda numbers: read_truth(smpl, numbers, body))


def read_truth(folder: Path, numbers: Sequence[int], body: BodyModel | None = None) -> Truth:
    """joints (P, F, 24, 3), keypoints (P, F, 17, 3), metres, world; NaN in frames without a file.

    Args:
        folder: smpl/.
        numbers: (F,) the frames' numbers.
        body: SMPL, for keypoints by its regressor.

    Raises:
        InputError: no file for any of the frames, a damaged one, or arrays of another shape.
    """
    files = numbered_files(folder, "*.npz")
    known = [f for f, number in enumerate(numbers) if number in files]
    if not known:
        raise InputError("no SMPL fit of any of the frames", file=folder, expected=f"{numbers[0]:06d}.npz",
                         found=f"{len(files)} others")  # fmt: skip
    keys = ("joints_3d",) if body is None else ("joints_3d", "verts")
    joints = keypoints = None
    for f in known:
        path = files[numbers[f]]
        data = read_npz(path, keys)
        people = len(data["joints_3d"]) if joints is None else len(joints)
        found = _points(data["joints_3d"], (people, 24, 3), "joints_3d", path)
        if joints is None:
            joints = np.full((people, len(numbers), 24, 3), np.nan)
            keypoints = np.full((people, len(numbers), 17, 3), np.nan)
        joints[:, f] = found
        if body is None:
            keypoints[:, f] = convert(found, "smpl24", "coco17")
        else:
            verts = _points(data["verts"], (people, _VERTICES, 3), "verts", path)
            keypoints[:, f] = body.coco_regressor.double().numpy() @ verts
    order = by_first_x(joints[:, :, 0])
    return {
        "joints": joints[order].astype(np.float32),
        "keypoints": keypoints[order].astype(np.float32),
        "subjects": np.array(order),
    }


def _points(array: np.ndarray, shape: tuple[int, ...], name: str, path: Path) -> np.ndarray:
    if array.shape != shape or array.dtype.kind != "f":
        raise InputError(f"{name} has the wrong shape", file=path, expected=shape, found=f"{array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{name} is not finite", file=path, expected="numbers")
    return array.astype(np.float64)
