"""Marker files: the body's joints and the COCO keypoints as points, in TRC (OpenSim) and C3D.

OpenSim documentation, "Marker (.trc) Files"; Motion Lab Systems, "The C3D File Format User Guide". The keypoints' names
begin with `coco_`, since some joints share theirs. A person who is absent has blank fields in TRC and invalid points
in C3D.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatarpose.errors import InputError
from avatarpose.io import write_bytes
from viewer.export.scene import Person, Scene

PREFIX = "coco_"


def marker_names(scene: Scene) -> list[str]:
    """Names of a person's points: the 24 joints, then the 17 keypoints."""
    return [*scene.joint_names, *(PREFIX + name for name in scene.keypoint_names)]


def markers(person: Person) -> Float[np.ndarray, "frames 41 3"]:
    """Places of a person's points in the file's axes and unit; NaN where they are absent."""
    return np.concatenate([person.joints, person.keypoints], axis=1)


def trc(scene: Scene, person: Person) -> bytes:
    """The bytes of one person's TRC file."""
    names, points = marker_names(scene), markers(person)
    rate, count = f"{scene.fps:.6g}", len(scene.frames)
    lines = [
        f"PathFileType\t4\t(X/Y/Z)\t{person.name}.trc",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits\tOrigDataRate\tOrigDataStartFrame\tOrigNumFrames",
        f"{rate}\t{rate}\t{count}\t{len(names)}\t{scene.axes.unit}\t{rate}\t1\t{count}",
        "Frame#\tTime\t" + "\t\t\t".join(names) + "\t\t",
        "\t\t" + "\t".join(f"X{n}\tY{n}\tZ{n}" for n in range(1, len(names) + 1)),
        "",
    ]
    # As many digits after the point as make a hundredth of a millimetre.
    digits = {"mm": 2, "cm": 3, "m": 5}[scene.axes.unit]
    for number, (time, row) in enumerate(zip(scene.times, points.reshape(count, -1), strict=True), start=1):
        fields = ["" if np.isnan(value) else f"{value:.{digits}f}" for value in row]
        lines.append("\t".join([str(number), f"{time:.6f}", *fields]))
    return ("\n".join(lines) + "\n").encode()


def write_c3d(path: Path, scene: Scene) -> None:
    """Writes everybody's points into one C3D file, labelled `person:point`.

    Raises:
        InputError: ezc3d is not installed.
    """
    try:
        import ezc3d
    except ImportError as error:
        raise InputError("C3D files need the package ezc3d", hint="pip install ezc3d") from error
    points = np.concatenate([markers(person) for person in scene.people], axis=1)  # (F, points, 3)
    known = np.isfinite(points).all(-1)
    data = np.ones((4, points.shape[1], len(points)))
    data[:3] = points.transpose(2, 1, 0)
    file = ezc3d.c3d()
    labels = [f"{person.name}:{name}" for person in scene.people for name in marker_names(scene)]
    file["parameters"]["POINT"]["LABELS"]["value"] = labels
    file["parameters"]["POINT"]["RATE"]["value"] = [scene.fps]
    file["parameters"]["POINT"]["UNITS"]["value"] = [scene.axes.unit]
    up = scene.axes.up if scene.axes.up[0] == "-" else f"+{scene.axes.up}"
    file.add_parameter("POINT", "Y_SCREEN", [up.upper()])
    file.add_parameter("POINT", "X_SCREEN", ["+Y" if scene.axes.up[-1] == "x" else "+X"])
    file["data"]["points"] = data
    file["data"]["meta_points"]["residuals"] = np.where(known, 0.0, -1.0).T[None]
    # ezc3d writes to a path only; from there the file goes where it belongs, whole.
    with tempfile.TemporaryDirectory() as folder:
        temporary = os.path.join(folder, "points.c3d")
        file.write(temporary)
        write_bytes(path, Path(temporary).read_bytes())
