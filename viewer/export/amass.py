"""AMASS's npz: angles of SMPL-H, which tools for SMPL read.

Mahmood et al., "AMASS: Archive of Motion Capture as Surface Shapes", ICCV 2019. Metres; z up unless asked otherwise.
The first 22 joints of SMPL-H are SMPL's; SMPL's two hands have no place among SMPL-H's fingers, which are zero here.

Who reads the file puts SMPL's own body into it. For a result of the open body, whose shapes mean something else, betas
are therefore zero, the average person, and `trans` is what brings SMPL's pelvis to the right place. Under `body_...`
stand the values for the body model of the result, with all 72 angles.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from avatarpose.train.motion_files import SMPL_PELVIS
from viewer.export.scene import Person, Scene

BODY_ANGLES, SMPLH_ANGLES, SMPLH_BETAS, DYNAMIC_BETAS = 66, 156, 16, 8


def amass(scene: Scene, person: Person) -> dict[str, Any]:
    """The arrays of the file; its unit must be the metre."""
    count = len(scene.frames)
    poses = np.zeros((count, SMPLH_ANGLES))
    poses[:, :BODY_ANGLES] = person.poses[:, :BODY_ANGLES]
    betas, trans = np.zeros(SMPLH_BETAS), person.trans
    if scene.smpl:
        betas[: len(person.betas)] = person.betas
    else:
        trans = person.root - SMPL_PELVIS
    return {
        "trans": trans, "poses": poses, "betas": betas, "dmpls": np.zeros((count, DYNAMIC_BETAS)),
        "gender": np.array("neutral"), "mocap_framerate": np.float64(scene.fps), "frames": scene.frames,
        "valid": person.valid, "body": np.array([scene.body_name, scene.body_sha256]), "body_betas": person.betas,
        "body_poses": person.poses, "body_trans": person.trans,
    }  # fmt: skip
