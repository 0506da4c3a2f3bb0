"""2D keypoints of other tools, by format.

| format | what one camera has | joints | score |
|---|---|---|---|
| openpose | a folder, one JSON a frame (`--write_json`) | BODY_25, BODY_25B, COCO-18 | joint's |
| alphapose | alphapose-results.json (list, cmu, open), or a JSON an image | COCO-17, Halpe-26/136, COCO-18 | joint's |
| coco | a JSON of results or of annotations | COCO-17, WholeBody-133 | joint's; where it is a flag, the person's |
| easymocap | a folder, one JSON a frame (`annots/<camera>`) | BODY_25, COCO-17 | joint's |

All four put the centres of pixels at integers, so 0.5 is added to x and y. All give COCO-17, NaN where the score is 0,
and scores of at most 1. Frames are numbered by the last number in a name; `rows_of_numbers` says how numbers become
frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from avatarpose.errors import InputError
from avatarpose.importers.keypoints_lists import ALPHAPOSE_NAME, read_alphapose, read_coco
from avatarpose.importers.keypoints_openpose import read_easymocap, read_openpose
from avatarpose.importers.numbering import load_json, match_cameras

Reader = Callable[[Path, "str | None", "int | None"], Float[np.ndarray, "frames detections 17 3"]]

KEYPOINT_FORMATS: dict[str, Reader] = {
    "openpose": read_openpose,
    "alphapose": read_alphapose,
    "coco": read_coco,
    "easymocap": read_easymocap,
}
"""Reader of each format: (path of one camera, its name, number of its frames or None)."""


def read_keypoints_of(
    path: Path, format: str, camera: str, frames: int | None
) -> Float[np.ndarray, "frames detections 17 3"]:
    """The 2D keypoints of one camera.

    Args:
        path: folder or file of this camera.
        format: a key of KEYPOINT_FORMATS, or "auto".
        camera: its name, for messages.
        frames: how many frames the camera has; None where nobody knows.

    Returns:
        COCO-17; x, y in pixels with pixel centres at half, score 0 to 1; float32, NaN where absent.

    Raises:
        InputError: no such format, or as the format's reader.
    """
    if format == "auto":
        format = guess_keypoint_format(path)
    if format not in KEYPOINT_FORMATS:
        raise InputError("no such format of keypoints", expected=f"auto, {', '.join(KEYPOINT_FORMATS)}", found=format)
    if not Path(path).exists():
        raise InputError("no such file or folder of keypoints", file=path, camera=camera)
    return KEYPOINT_FORMATS[format](Path(path), camera, frames)


def guess_keypoint_format(path: Path) -> str:
    """The format of a file or folder (of one camera or of all), by the first JSON in it.

    Raises:
        InputError: no JSON, or none of the known formats.
    """
    path = Path(path)
    file = path
    if path.is_dir():
        file = next(iter(sorted(path.rglob("*.json"))), None)
        if file is None:
            raise InputError("no keypoints", file=path, expected="a .json")
    elif not path.is_file():
        raise InputError("no such file or folder of keypoints", file=path)
    content = load_json(file)
    found = _format_of(content, file)
    if found is None:
        raise InputError(
            "keypoints of an unknown format", file=file, expected=" or ".join(KEYPOINT_FORMATS),
            found=", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__,
            hint="Name the format",
        )  # fmt: skip
    return found


def _format_of(content: Any, file: Path) -> str | None:
    by_alphapose = file.name == ALPHAPOSE_NAME or file.parent.name == "sep-json"
    if isinstance(content, list):
        first = content[0] if content else None
        if not isinstance(first, dict):
            return None
        if "image_id" in first:
            # AlphaPose names images by file and adds the box; both are lists of results otherwise.
            joints = first.get("keypoints")
            halpe = isinstance(joints, list) and len(joints) in (3 * 26, 3 * 136)
            return "alphapose" if by_alphapose or halpe or {"box", "idx"} & set(first) else "coco"
        return "easymocap" if {"personID", "keypoints"} <= set(first) else None
    if not isinstance(content, dict):
        return None
    if "annots" in content:
        return "easymocap"
    if {"images", "annotations"} <= set(content):
        return "coco"
    if "people" in content:
        return "alphapose" if by_alphapose or str(content.get("version", "")).startswith("AlphaPose") else "openpose"
    inner = next(iter(content.values()), None)
    if "bodies" in content or (isinstance(inner, dict) and {"people", "bodies"} & set(inner)):
        return "alphapose"
    return None


def find_keypoint_sources(root: Path, cameras: Sequence[str]) -> dict[str, Path]:
    """Which folder or file under `root` belongs to which camera: by name, or by order where the counts are equal.

    `root` holds a folder or a JSON a camera (`cam01_json/`, `json_cam01/`, `cam01.json`); EasyMocap's root with its
    `annots/` will do too, and for a single camera the folder or file itself.

    Raises:
        InputError: no keypoints there; a camera with none or several; one folder for two cameras.
    """
    root = Path(root)
    if not root.exists():
        raise InputError("no such file or folder of keypoints", file=root)
    if root.is_file():
        if len(cameras) == 1:
            return {cameras[0]: root}
        expected = f"a folder with one for each of {', '.join(cameras)}"
        raise InputError("one file for several cameras", file=root, expected=expected)
    if (root / "annots").is_dir():
        root = root / "annots"
    folders = [path for path in root.iterdir() if path.is_dir() and any(path.rglob("*.json"))]
    files = [path for path in root.glob("*.json") if not path.name.startswith(".")]
    if len(cameras) == 1 and files and not folders:
        return {cameras[0]: root}
    return match_cameras(folders or files, cameras, root, "keypoints")
