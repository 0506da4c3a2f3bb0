"""A rig of four cameras around people, written in the layouts of other tools."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

WIDTH, HEIGHT = 640, 480


@dataclass(frozen=True)
class TrueCamera:
    """K with pixel centres at integers, as OpenCV has it; metres, world z up."""

    name: str
    K: np.ndarray
    R: np.ndarray
    t: np.ndarray
    dist: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        return -self.R.T @ self.t


def rig(count: int = 4, dist: tuple[float, ...] = (-0.12, 0.05, 0.001, -0.002, 0.01)) -> list[TrueCamera]:
    """Cameras named 01, 02, ... on a circle of 3 m, 1.6 m above the floor, looking at its middle."""
    cameras = []
    for c in range(count):
        angle = 2 * np.pi * (c + 0.2) / count
        centre = np.array([3 * np.cos(angle), 3 * np.sin(angle), 1.6 + 0.1 * c])
        forward = np.array([0, 0, 0.9]) - centre
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, (0, 0, 1))
        right /= np.linalg.norm(right)
        R = np.stack((right, np.cross(forward, right), forward))
        K = np.array([[500.0 + c, 0, 318.5 + c], [0, 502.0 + c, 241.25], [0, 0, 1]])
        cameras.append(TrueCamera(f"{c + 1:02d}", K, R, -R @ centre, np.array(dist)))
    return cameras


def project(camera: TrueCamera, points: np.ndarray) -> np.ndarray:
    """Pixels, centres at integers, by OpenCV itself."""
    flat = points.reshape(-1, 3)
    pixels = cv2.projectPoints(flat, cv2.Rodrigues(camera.R)[0], camera.t, camera.K, camera.dist)[0]
    return pixels.reshape(*points.shape[:-1], 2)


# ---- writers: (folder, cameras) -> what to give to the reader ----


def _matrix(name: str, value: np.ndarray) -> str:
    value = np.atleast_2d(value)
    data = ", ".join(repr(float(x)) for x in value.ravel())
    rows, cols = value.shape
    return f"{name}: !!opencv-matrix\n   rows: {rows}\n   cols: {cols}\n   dt: d\n   data: [ {data} ]\n"


def write_easymocap(folder: Path, cameras: list[TrueCamera]) -> Path:
    names = "names:\n" + "".join(f'  - "{camera.name}"\n' for camera in cameras)
    intri = extri = "%YAML:1.0\n---\n" + names
    for camera in cameras:
        intri += _matrix(f"K_{camera.name}", camera.K) + _matrix(f"dist_{camera.name}", camera.dist[None])
        extri += _matrix(f"R_{camera.name}", cv2.Rodrigues(camera.R)[0]) + _matrix(f"Rot_{camera.name}", camera.R)
        extri += _matrix(f"T_{camera.name}", camera.t[:, None])
    (folder / "intri.yml").write_text(intri)
    (folder / "extri.yml").write_text(extri)
    return folder / "intri.yml"


def write_opencv_each(folder: Path, cameras: list[TrueCamera]) -> Path:
    for camera in cameras:
        text = "%YAML:1.0\n---\n" + f"image_width: {WIDTH}\nimage_height: {HEIGHT}\n"
        text += _matrix("camera_matrix", camera.K) + _matrix("distortion_coefficients", camera.dist[:, None])
        text += _matrix("R", camera.R) + _matrix("T", camera.t[:, None])
        (folder / f"{camera.name}.yml").write_text(text)
    return folder


def write_qualisys(folder: Path, cameras: list[TrueCamera]) -> Path:
    entries = ""
    for camera in cameras:
        R = np.diag([1, -1, -1]) @ camera.R
        turn = " ".join(f'r{i + 1}{j + 1}="{float(R[i, j])!r}"' for i in range(3) for j in range(3))
        x, y, z = camera.centre * 1000
        k1, k2, p1, p2, k3 = camera.dist
        lens = f'focalLengthU="{camera.K[0, 0] * 64}" focalLengthV="{camera.K[1, 1] * 64}" skew="0" '
        lens += f'centerPointU="{camera.K[0, 2] * 64}" centerPointV="{camera.K[1, 2] * 64}" '
        lens += f'radialDistortion1="{k1}" radialDistortion2="{k2}" radialDistortion3="{k3}" '
        lens += f'tangentalDistortion1="{p1}" tangentalDistortion2="{p2}"'
        entries += f'<camera serial="{camera.name}"><fov_video left="0" top="0" right="{WIDTH - 1}" '
        entries += f'bottom="{HEIGHT - 1}"/><transform x="{x}" y="{y}" z="{z}" {turn}/><intrinsic {lens}/></camera>\n'
    path = folder / "session.qca.txt"
    path.write_text(f"<?xml version='1.0'?>\n<calibration><cameras>\n{entries}</cameras></calibration>\n")
    return path


def write_toml(folder: Path, cameras: list[TrueCamera]) -> Path:
    text = ""
    for c, camera in enumerate(cameras):
        rotation = cv2.Rodrigues(camera.R)[0].ravel().tolist()
        text += f'[cam_{c}]\nname = "{camera.name}"\nsize = [{WIDTH}.0, {HEIGHT}.0]\nmatrix = {camera.K.tolist()}\n'
        text += f"distortions = {camera.dist.tolist()}\nrotation = {rotation}\ntranslation = {camera.t.tolist()}\n"
        text += "fisheye = false\n\n"
    path = folder / "Calib.toml"
    path.write_text(text + "[metadata]\nadjusted = false\nerror = 0.5\n")
    return path


def write_caliscope(folder: Path, cameras: list[TrueCamera]) -> Path:
    text = ""
    for camera in cameras:
        number = int(camera.name)
        text += f"[cameras.{number}]\ncam_id = {number}\nrotation_count = 0\nignore = false\n"
        text += f"size = [{WIDTH}, {HEIGHT}]\nmatrix = {camera.K.tolist()}\ndistortions = {camera.dist.tolist()}\n"
        text += f"translation = {camera.t.tolist()}\nrotation = {camera.R.tolist()}\n\n"
    path = folder / "camera_array.toml"
    path.write_text(text)
    return path


def _colmap(camera: TrueCamera) -> tuple[list[float], list[float]]:
    """Parameters of OPENCV, whose pixel centres are at half; quaternion w, x, y, z and t."""
    x, y, z, w = Rotation.from_matrix(camera.R).as_quat()
    K, (k1, k2, p1, p2, _) = camera.K, camera.dist
    lens = [K[0, 0], K[1, 1], K[0, 2] + 0.5, K[1, 2] + 0.5, k1, k2, p1, p2]
    return [float(v) for v in lens], [float(v) for v in (w, x, y, z, *camera.t)]


def write_colmap_text(folder: Path, cameras: list[TrueCamera]) -> Path:
    lenses, images = "# Camera list\n", "# Image list with two lines of data per image:\n"
    for c, camera in enumerate(cameras):
        lens, pose = _colmap(camera)
        lenses += f"{c + 1} OPENCV {WIDTH} {HEIGHT} {' '.join(map(repr, lens))}\n"
        # Two images of each; the points of the first are listed, the second has none, so its line is empty.
        for n, points in enumerate(("10.5 20.25 -1 30 40 7", "")):
            images += f"{2 * c + n + 1} {' '.join(map(repr, pose))} {c + 1} {camera.name}/{n:04d}.jpg\n{points}\n"
    (folder / "cameras.txt").write_text(lenses)
    (folder / "images.txt").write_text(images)
    (folder / "points3D.txt").write_text("")
    return folder


def write_colmap_binary(folder: Path, cameras: list[TrueCamera]) -> Path:
    lenses, images = struct.pack("<Q", len(cameras)), struct.pack("<Q", len(cameras))
    for c, camera in enumerate(cameras):
        lens, pose = _colmap(camera)
        lenses += struct.pack("<IiQQ8d", c + 1, 4, WIDTH, HEIGHT, *lens)
        images += struct.pack("<I7dI", c + 1, *pose, c + 1) + f"{camera.name}.jpg".encode() + b"\0"
        images += struct.pack("<Q", 2) + struct.pack("<ddqddq", 1.5, 2.5, -1, 3.5, 4.5, 9)
    (folder / "cameras.bin").write_bytes(lenses)
    (folder / "images.bin").write_bytes(images)
    return folder


def write_hi4d(folder: Path, cameras: list[TrueCamera]) -> Path:
    path = folder / "rgb_cameras.npz"
    np.savez(
        path, ids=np.array([int(camera.name) for camera in cameras]), intrinsics=np.stack([c.K for c in cameras]),
        extrinsics=np.stack([np.column_stack((c.R, c.t)) for c in cameras]),
        dist_coeffs=np.stack([c.dist for c in cameras]),
    )  # fmt: skip
    return path


def write_panoptic(folder: Path, cameras: list[TrueCamera]) -> Path:
    """In the world of the data set: y down, z forward, centimetres."""
    world = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # its axes to ours
    entries = [
        {"name": camera.name, "type": "hd", "resolution": [WIDTH, HEIGHT], "panel": 0, "node": c,
         "K": camera.K.tolist(), "distCoef": camera.dist.tolist(), "R": (camera.R @ world).tolist(),
         "t": (camera.t * 100)[:, None].tolist()}
        for c, camera in enumerate(cameras)
    ]  # fmt: skip
    path = folder / "calibration_take.json"
    path.write_text(json.dumps({"calibDataSource": "take", "cameras": entries}))
    return path


def write_voxelpose(folder: Path, cameras: list[TrueCamera]) -> Path:
    entries = {}
    for camera in cameras:
        (k1, k2, p1, p2, k3), K = camera.dist.tolist(), camera.K
        entries[camera.name] = {
            "R": camera.R.tolist(), "T": (camera.centre * 1000)[:, None].tolist(), "fx": K[0, 0], "fy": K[1, 1],
            "cx": K[0, 2], "cy": K[1, 2], "k": [[k1], [k2], [k3]], "p": [[p1], [p2]],
        }  # fmt: skip
    path = folder / "calibration_shelf.json"
    path.write_text(json.dumps(entries))
    return path


def write_vicon(folder: Path, cameras: list[TrueCamera], radial: tuple[float, float] = (0.0, 0.0)) -> Path:
    """Without OpenCV's distortion, which Vicon cannot say; `radial` is its own, in pixels."""
    entries = ""
    for camera in cameras:
        quaternion = " ".join(map(str, Rotation.from_matrix(camera.R).as_quat()))
        centre = " ".join(map(str, camera.centre * 1000))
        aspect, K = camera.K[0, 0] / camera.K[1, 1], camera.K
        entries += f'<Camera DEVICEID="{camera.name}" USERID="{int(camera.name)}" SENSOR_SIZE="{WIDTH} {HEIGHT}" '
        entries += f'PIXEL_ASPECT_RATIO="{aspect}" SKEW="0"><KeyFrames><KeyFrame FRAME="0" '
        entries += f'FOCAL_LENGTH="{K[0, 0]}" PRINCIPAL_POINT="{K[0, 2]} {K[1, 2]}" ORIENTATION="{quaternion}" '
        entries += f'POSITION="{centre}" WORLD_ERROR="0.3" '
        lens = f"ViconRadial2 {K[0, 2]} {K[1, 2]} {radial[0]} {radial[1]} 0"
        entries += f'VICON_RADIAL2="{lens}"/></KeyFrames></Camera>\n'
    path = folder / "take.xcp"
    path.write_text(f"<Cameras>\n{entries}</Cameras>\n")
    return path


WRITERS: dict[str, tuple[str, Callable[[Path, list[TrueCamera]], Path]]] = {
    "easymocap": ("opencv", write_easymocap),
    "opencv_each": ("opencv", write_opencv_each),
    "qualisys": ("qualisys", write_qualisys),
    "pose2sim": ("toml", write_toml),
    "caliscope": ("toml", write_caliscope),
    "colmap_text": ("colmap", write_colmap_text),
    "colmap_binary": ("colmap", write_colmap_binary),
    "hi4d": ("hi4d", write_hi4d),
    "panoptic": ("panoptic", write_panoptic),
    "voxelpose": ("voxelpose", write_voxelpose),
    "vicon": ("vicon", write_vicon),
}
"""By layout: the format's name, and its writer."""
