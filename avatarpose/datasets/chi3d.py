"""CHI3D (Fieraru et al., CVPR 2020): two people who interact, 4 cameras of 900 x 900, 50 frames a second, z up.

    train/s03/
      camera_parameters/<camera>/<action>.json   extrinsics {R, T}, intrinsics_w_distortion {f, c, k, p}
      videos/<camera>/<action>.mp4
      joints3d_25/<action>.json                  {"joints3d_25": (2, F, 25, 3)}, metres; the first 17 are Human3.6M's
      smplx/<action>.json                        transl, global_orient, body_pose, betas, ...; people first

A subject's folder holds many actions: SRC names one of them, as `train/s03/Grab 1`, although there is no such folder.

T is the camera's centre: x_cam = R (x - T). The published lens is Human3.6M's: with x the normalised point, k and p its
coefficients, x (1 + k1 r^2 + k2 r^4 + k3 r^6 + p2 x + p1 y) + (p2, p1) r^2, whose tangential part has half the cross
terms of OpenCV's. The five OpenCV terms that come nearest over the image are taken; the command says how far off.

Truth: with the licensed SMPL-X file (`--body SMPLX_NEUTRAL.npz`) the joints of the SMPL-X fits: 22 of SMPL's 24, the
hands unknown, and of the keypoints the limbs. Without it the limb joints of the motion capture, which are Human3.6M's
definition of the joints, up to some centimetres from SMPL's at the hips and shoulders. The test split has no truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avatarpose.datasets.base import Recording, Say, Truth, by_first_x, need
from avatarpose.errors import InputError
from avatarpose.importers.calibration import SourceCamera
from avatarpose.importers.calibration.rig import calibration_of, camera_of, missing, numbers
from avatarpose.importers.media import Footage
from avatarpose.importers.numbering import natural_key
from avatarpose.importers.settings import ImportSettings
from avatarpose.io import read_json, read_npz
from avatarpose.skeletons import COCO17, convert

FPS = 50.0
UP = "z"
SIZE = (900, 900)
_BODY_JOINTS = 22
_PUBLISHED_OFF = 0.05  # pixels: less need not be said


def prepare(settings: ImportSettings, say: Say) -> Recording:
    """One action of one pair of subjects: SRC is the subject's folder with the action's name."""
    subject, action = _subject_and_action(settings.source)
    wanted = {name.strip() for name in settings.cameras.split(",") if name.strip()}
    folder = need(subject / "camera_parameters", "calibration of CHI3D")
    names = sorted((p.name for p in folder.iterdir() if (p / f"{action}.json").is_file()), key=natural_key)
    for name in sorted(wanted - set(names)):
        raise InputError("--cameras of an unknown camera", file=folder, camera=name, expected=", ".join(names))
    names = [name for name in names if not wanted or name in wanted]
    cameras, footage = [], {}
    for name in names:
        camera, off = read_camera(folder / name / f"{action}.json", name)
        cameras.append(camera)
        if off > _PUBLISHED_OFF:
            say(f"{name}: OpenCV's lens model differs from the published one by up to {off:.2f} pixels")
        video = need(subject / "videos" / name / f"{action}.mp4", "video of CHI3D")
        footage[name] = Footage(name, video, {})
    settings = replace(
        settings, source=subject, cameras="", fps=settings.fps or FPS,
        up=UP if settings.up == "auto" else settings.up, people=settings.people or 2,
    )  # fmt: skip
    calibration = calibration_of("chi3d", folder, cameras, metres=1.0, up=UP)
    joints, fits = subject / "joints3d_25" / f"{action}.json", subject / "smplx" / f"{action}.json"
    if settings.body is not None:
        need(fits, "SMPL-X fits of CHI3D")
        return Recording(settings, calibration, footage, lambda chosen: smplx_truth(fits, settings.body, chosen))
    if not joints.is_file():
        say(f"no truth: {joints} is not there (the test split has none)")
        return Recording(settings, calibration, footage)
    return Recording(settings, calibration, footage, lambda chosen: marker_truth(joints, chosen))


def _subject_and_action(source: Path) -> tuple[Path, str]:
    subject, action = source.parent, source.name.removesuffix(".json")
    if subject.name in ("joints3d_25", "smplx", "gpp"):
        subject = subject.parent
    if (source / "camera_parameters").is_dir():
        known = sorted({p.stem for p in (source / "camera_parameters").glob("*/*.json")}, key=natural_key)
        raise InputError(
            "a subject's folder, with many actions", file=source, expected=f"{source.name}/ACTION",
            found=", ".join(known[:12]) or "no action",
        )  # fmt: skip
    if not any((subject / "camera_parameters").glob(f"*/{action}.json")):
        raise InputError("no such action of CHI3D", file=source, expected="<subject>/<action>, as train/s03/Grab 1")
    return subject, action


# ---- the camera ----


def read_camera(path: Path, name: str) -> tuple[SourceCamera, float]:
    """One camera in our terms, and how far its lens is from the published model at most, pixels.

    Raises:
        InputError: absent, malformed, or an entry is missing.
    """
    data = read_json(path, ("extrinsics", "intrinsics_w_distortion"))
    pose, lens = data["extrinsics"], data["intrinsics_w_distortion"]
    missing(pose, ("R", "T"), path, name)
    missing(lens, ("f", "c", "k", "p"), path, name)

    def flat(table: dict, key: str, count: int) -> np.ndarray:
        try:
            return numbers(np.asarray(table[key], np.float64).ravel(), (count,), key, path, name)
        except (TypeError, ValueError):
            raise InputError(f"{key} is not made of numbers", file=path, camera=name, found=table[key]) from None

    f, c, k, p = flat(lens, "f", 2), flat(lens, "c", 2), flat(lens, "k", 3), flat(lens, "p", 2)
    R = numbers(pose["R"], (3, 3), "R", path, name)
    dist, off = opencv_lens(f, c, k, p)
    K = [[f[0], 0, c[0]], [0, f[1], c[1]], [0, 0, 1]]
    return camera_of(path, name, K, R, -R @ flat(pose, "T", 3), dist, SIZE), off


def opencv_lens(
    f: Float[np.ndarray, " 2"], c: Float[np.ndarray, " 2"], k: Float[np.ndarray, " 3"], p: Float[np.ndarray, " 2"]
) -> tuple[Float[np.ndarray, " 5"], float]:
    """OpenCV's [k1, k2, p1, p2, k3] nearest to the published lens over the image (linear least squares), and the
    greatest distance left, pixels."""
    u, v = np.meshgrid(np.linspace(0, SIZE[0], 31), np.linspace(0, SIZE[1], 31))
    x, y = ((u - c[0]) / f[0]).ravel(), ((v - c[1]) / f[1]).ravel()
    r2 = x * x + y * y
    radial = k[0] * r2 + k[1] * r2**2 + k[2] * r2**3
    tangential = p[1] * x + p[0] * y
    target = np.concatenate([x * (radial + tangential) + p[1] * r2, y * (radial + tangential) + p[0] * r2])
    columns = [  # k1, k2, p1, p2, k3
        np.concatenate([x * r2, y * r2]),
        np.concatenate([x * r2**2, y * r2**2]),
        np.concatenate([2 * x * y, r2 + 2 * y * y]),
        np.concatenate([r2 + 2 * x * x, 2 * x * y]),
        np.concatenate([x * r2**3, y * r2**3]),
    ]
    if not p.any():
        return np.array([k[0], k[1], 0.0, 0.0, k[2]]), 0.0
    terms = np.linalg.lstsq(np.stack(columns, axis=1), target, rcond=None)[0]
    left = (np.stack(columns, axis=1) @ terms - target).reshape(2, -1) * f[:, None]
    return terms, float(np.linalg.norm(left, axis=0).max())


# ---- truth ----


def marker_truth(path: Path, chosen: Sequence[int]) -> Truth:
    """keypoints (P, F, 17, 3) from joints3d_25: the twelve limb joints, NaN elsewhere.

    Raises:
        InputError: absent, malformed, or of another shape.
    """
    joints = _array(read_json(path, ("joints3d_25",))["joints3d_25"], (2, None, 25, 3), "joints3d_25", path)
    found = convert(_rows(joints, chosen)[:, :, :17], "h36m17", "coco17")
    found[:, :, COCO17.index("nose")] = np.nan  # Human3.6M's joint there is no COCO nose
    order = by_first_x(found[:, :, COCO17.index("left_hip")])
    return {"keypoints": found[order].astype(np.float32), "subjects": np.array(order)}


def smplx_truth(path: Path, body: Path, chosen: Sequence[int]) -> Truth:
    """joints (P, F, 24, 3) of the SMPL-X fits, hands NaN, and keypoints (P, F, 17, 3), the limbs of them.

    Forward kinematics of the body's 22 joints (Pavlakos et al., "Expressive Body Capture", 2019, eq. 2; no vertex is
    needed): the root turns about its own rest joint.

    Args:
        path: smplx/<action>.json.
        body: SMPL-X's .npz as it is distributed.
        chosen: (F,) frame numbers.

    Raises:
        InputError: a file is absent or malformed.
    """
    model = read_npz(body, ("v_template", "shapedirs", "J_regressor", "kintree_table"))
    count = len(model["v_template"])
    if model["J_regressor"].shape != (55, count) or model["kintree_table"].shape != (2, 55):
        raise InputError("not SMPL-X", file=body, expected="J_regressor of 55 joints",
                         found=model["J_regressor"].shape, hint="CHI3D's fits are of SMPL-X")  # fmt: skip
    regressor = model["J_regressor"][:_BODY_JOINTS].astype(np.float64)
    template = regressor @ model["v_template"].astype(np.float64)
    directions = np.einsum("jv,vcb->jcb", regressor, model["shapedirs"][..., :10].astype(np.float64))
    parents = model["kintree_table"][0, :_BODY_JOINTS].astype(np.int64)
    data = read_json(path, ("transl", "global_orient", "body_pose", "betas"))
    transl = _array(data["transl"], (2, None, 3), "transl", path)
    frames = transl.shape[1]
    root = _array(data["global_orient"], (2, frames, 1, 3, 3), "global_orient", path)
    turns = np.concatenate([root, _array(data["body_pose"], (2, frames, 21, 3, 3), "body_pose", path)], axis=2)
    betas = _array(data["betas"], (2, frames, 10), "betas", path)
    rest = template + np.einsum("jcb,pfb->pfjc", directions, betas)
    places, rotations = [rest[:, :, 0] + transl], [turns[:, :, 0]]
    for joint in range(1, _BODY_JOINTS):
        parent = int(parents[joint])
        bone = rest[:, :, joint] - rest[:, :, parent]
        places.append(places[parent] + np.einsum("pfab,pfb->pfa", rotations[parent], bone))
        rotations.append(rotations[parent] @ turns[:, :, joint])
    joints = np.full((2, frames, 24, 3), np.nan)
    joints[:, :, :_BODY_JOINTS] = np.stack(places, axis=2)
    joints = _rows(joints, chosen)
    order = by_first_x(joints[:, :, 0])
    return {
        "joints": joints[order].astype(np.float32),
        "keypoints": convert(joints[order], "smpl24", "coco17").astype(np.float32),
        "subjects": np.array(order),
    }


def _rows(values: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """(P, F, ...) at frame numbers; NaN beyond the last one: videos may go on longer than the truth."""
    found = np.full((len(values), len(chosen), *values.shape[2:]), np.nan)
    inside = [f for f, number in enumerate(chosen) if number < values.shape[1]]
    found[:, inside] = values[:, [chosen[f] for f in inside]]
    return found


def _array(value: object, shape: tuple[int | None, ...], name: str, path: Path) -> np.ndarray:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} is not an array of numbers", file=path, expected=shape) from None
    fits = array.ndim == len(shape) and all(want in (None, size) for size, want in zip(array.shape, shape, strict=True))
    if not fits or not np.isfinite(array).all():
        found = array.shape if not fits else "NaN or infinity"
        raise InputError(f"{name} has the wrong shape or values", file=path, expected=shape, found=found)
    return array
