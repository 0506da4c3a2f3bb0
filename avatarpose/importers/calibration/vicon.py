"""Vicon calibrations (.xcp, which is XML)."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from avatarpose.errors import InputError
from avatarpose.importers.calibration.rig import (
    Calibration,
    SourceCamera,
    calibration_of,
    camera_of,
    read_text,
    text_numbers,
)

WORST_FIT = 0.5
"""Pixels by which our lens model may miss Vicon's anywhere in the image."""


def is_vicon(path: Path, head: str) -> bool:
    """By its suffix."""
    return path.suffix.lower() == ".xcp"


def read_vicon(path: Path) -> Calibration:
    """Reads the cameras of an .xcp, named by DEVICEID; USERID and NAME are accepted for the footage too.

    ORIENTATION is a quaternion x, y, z, w that turns the world into a camera with x right, y down, z forward; POSITION
    its centre in mm. Of a camera with several key frames the first counts. The world is z up.

    Vicon's radial terms act the other way round than OpenCV's, in pixels: with d the vector from the centre of
    distortion to the seen pixel, the ideal pixel is centre + d (1 + k0 |d|^2 + k1 |d|^4 + k2 |d|^6). OpenCV's terms are
    fitted to that over the whole image, and how far they miss is said.

    Raises:
        InputError: absent, no XML, without cameras, lacking an entry, or a lens that our model misses by more than
            half a pixel.
    """
    try:
        root = ElementTree.fromstring(read_text(path).encode())
    except ElementTree.ParseError as error:
        raise InputError("not a Vicon calibration", file=path, expected="XML", found=error) from None
    cameras, notes = [], []
    for entry in root.iter("Camera"):
        name = entry.attrib.get("DEVICEID", "")
        frame = next(entry.iter("KeyFrame"), None)
        if frame is None or "ORIENTATION" not in frame.attrib:
            notes.append(f"camera {name or '?'} left out: it was not calibrated")
            continue
        camera, missed = _camera(path, name, entry.attrib, frame.attrib)
        cameras.append(camera)
        if missed:
            notes.append(f"camera {name}: lens model fitted to Vicon's within {missed:.2g} px")
    return calibration_of("vicon", path, cameras, metres=0.001, up="z", notes=notes)


def _camera(path: Path, name: str, of: dict[str, str], frame: dict[str, str]) -> tuple[SourceCamera, float]:
    """One camera, and by how many pixels its lens model misses."""
    size = text_numbers(of.get("SENSOR_SIZE"), "SENSOR_SIZE", path, name, 2)
    aspect = text_numbers(of.get("PIXEL_ASPECT_RATIO", "1"), "PIXEL_ASPECT_RATIO", path, name, 1)[0]
    skew = text_numbers(of.get("SKEW", "0"), "SKEW", path, name, 1)[0]
    focal = text_numbers(frame.get("FOCAL_LENGTH"), "FOCAL_LENGTH", path, name, 1)[0]
    middle = text_numbers(frame.get("PRINCIPAL_POINT"), "PRINCIPAL_POINT", path, name, 2)
    turn = text_numbers(frame.get("ORIENTATION"), "ORIENTATION", path, name, 4)
    centre = text_numbers(frame.get("POSITION"), "POSITION", path, name, 3)
    if np.linalg.norm(turn) < 1e-6 or aspect <= 0:
        raise InputError("impossible ORIENTATION or PIXEL_ASPECT_RATIO", file=path, camera=name, found=[*turn, aspect])
    R = Rotation.from_quat(turn).as_matrix()
    K = np.array([[focal, skew, middle[0]], [0, focal / aspect, middle[1]], [0, 0, 1]])
    about, terms = _radial(path, name, frame, middle)
    dist, missed = fit_lens(K, size, about, terms) if np.any(terms != 0) else (np.zeros(5), 0.0)
    if missed > WORST_FIT:
        raise InputError(
            "a lens that OpenCV's five terms do not describe", file=path, camera=name,
            expected=f"within {WORST_FIT} px everywhere in the image", found=f"{missed:.1f} px",
            hint="Undistort the images in Vicon's software first",
        )  # fmt: skip
    aliases = tuple(of[key] for key in ("USERID", "NAME") if of.get(key))
    return camera_of(path, name, K, R, -R @ centre, dist, size, aliases), missed


def _radial(
    path: Path, name: str, frame: dict[str, str], middle: np.ndarray
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 3"]]:
    """Centre of distortion and k0, k1, k2 of Vicon's two ways to write them."""
    terms = np.zeros(3)
    if "VICON_RADIAL2" in frame:  # ViconRadial2 cx cy k0 k1 k2
        words = frame["VICON_RADIAL2"].split(maxsplit=1)
        rest = words[-1] if words and words[0].lower().startswith("vicon") else frame["VICON_RADIAL2"]
        values = text_numbers(rest, "VICON_RADIAL2", path, name)
        if not 3 <= len(values) <= 5:
            raise InputError("impossible VICON_RADIAL2", file=path, camera=name, expected="cx cy k0 k1 k2", found=rest)
        terms[: len(values) - 2] = values[2:]
        return values[:2], terms
    if "VICON_RADIAL" in frame:
        values = text_numbers(frame["VICON_RADIAL"], "VICON_RADIAL", path, name, 2)
        terms[:2] = values
    return middle, terms


def fit_lens(
    K: Float[np.ndarray, "3 3"],
    size: Float[np.ndarray, " 2"],
    about: Float[np.ndarray, " 2"],
    terms: Float[np.ndarray, " 3"],
) -> tuple[Float[np.ndarray, " 5"], float]:
    """OpenCV's [k1, k2, p1, p2, k3] that come nearest to Vicon's correction, and the worst miss in pixels.

    The distortion is linear in the five terms, so a grid of seen pixels and their ideal points gives them by least
    squares. K, `about` and the grid share one convention of pixel centres; which does not matter here.
    """
    x, y = (axis.ravel() for axis in np.meshgrid(*(np.linspace(0, extent - 1, 33) for extent in size)))
    seen = np.stack((x, y), -1)
    d = seen - about
    r2 = (d**2 * (1, (K[0, 0] / K[1, 1]) ** 2)).sum(-1, keepdims=True)
    ideal = about + d * (1 + r2 * (terms[0] + r2 * (terms[1] + r2 * terms[2])))

    def normalised(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        v = (pixels[:, 1] - K[1, 2]) / K[1, 1]
        return (pixels[:, 0] - K[0, 2] - K[0, 1] * v) / K[0, 0], v

    (u, v), (su, sv) = normalised(ideal), normalised(seen)
    r2 = u * u + v * v
    along = [np.stack((u * r2**n, v * r2**n), -1) for n in (1, 2, 3)]
    columns = [along[0], along[1], np.stack((2 * u * v, r2 + 2 * v * v), -1),
               np.stack((r2 + 2 * u * u, 2 * u * v), -1), along[2]]  # fmt: skip
    A = np.stack(columns, -1).reshape(-1, 5)
    b = np.stack((su - u, sv - v), -1).reshape(-1)
    scale = np.abs(A).max(0) + 1e-30
    dist = np.linalg.lstsq(A / scale, b, rcond=1e-10)[0] / scale
    miss = (A @ dist - b).reshape(-1, 2) * (K[0, 0], K[1, 1])
    return dist, float(np.linalg.norm(miss, axis=-1).max())
