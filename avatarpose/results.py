"""What the stages hand to each other: 3D joints and body parameters, people-first, with their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

from avatarpose.errors import InputError
from avatarpose.io import read_npz, write_npz


def _check(path: Path, arrays: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> None:
    """Raises InputError unless each named array has its shape."""
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise InputError(f"array {name} has the wrong shape", file=path, expected=shape, found=arrays[name].shape)


def _counts(path: Path, arrays: dict[str, np.ndarray]) -> tuple[int, int]:
    """Number of people and of frames, from two vectors."""
    for name in ("people", "frames"):
        if arrays[name].ndim != 1:
            raise InputError(f"array {name} is not a vector", file=path, expected="1 axis", found=arrays[name].shape)
    if arrays["people"].dtype.kind != "U" and arrays["people"].size:
        raise InputError("people are not named by text", file=path, expected="strings", found=arrays["people"].dtype)
    return len(arrays["people"]), len(arrays["frames"])


@dataclass
class Joints3D:
    """3D joints of every person in every frame, with identities: `results/joints3d.npz`.

    Attributes:
        people: names of the P people.
        frames: (F,) frame numbers of the common clock.
        keypoints: (P, F, 17, 3) COCO-17 joints, metres, world; NaN where unknown.
        scores: (P, F, 17) confidence, 0 to 1; 0 where unknown.
        valid: (P, F) whether the person is there in that frame.
    """

    people: list[str]
    frames: Int[np.ndarray, " frames"]
    keypoints: Float[np.ndarray, "people frames 17 3"]
    scores: Float[np.ndarray, "people frames 17"]
    valid: Bool[np.ndarray, "people frames"]

    def save(self, path: Path | str) -> None:
        """Writes the .npz atomically."""
        write_npz(
            path,
            people=np.array(self.people, dtype=str),
            frames=np.asarray(self.frames, np.int64),
            keypoints=np.asarray(self.keypoints, np.float32),
            scores=np.asarray(self.scores, np.float32),
            valid=np.asarray(self.valid, bool),
        )

    @classmethod
    def load(cls, path: Path | str) -> Joints3D:
        """Reads the .npz.

        Raises:
            InputError: the file is absent or damaged, lacks an array, or an array has the wrong shape.
        """
        path = Path(path)
        data = read_npz(path, ("people", "frames", "keypoints", "scores", "valid"))
        p, f = _counts(path, data)
        _check(path, data, {"keypoints": (p, f, 17, 3), "scores": (p, f, 17), "valid": (p, f)})
        return cls(
            people=[str(name) for name in data["people"]],
            frames=data["frames"].astype(np.int64),
            keypoints=data["keypoints"].astype(np.float32),
            scores=data["scores"].astype(np.float32),
            valid=data["valid"].astype(bool),
        )


@dataclass
class Bodies:
    """Body parameters of every person in every frame: `results/initial.npz` and `results/refined.npz`.

    Attributes:
        people: names of the P people.
        frames: (F,) frame numbers of the common clock.
        fps: frames of the common clock per second.
        betas: (P, 10) shape coefficients, one set per person.
        poses: (P, F, 72) axis-angle of the 24 joints, the root's first, radians.
        trans: (P, F, 3) translation, metres, world.
        joints: (P, F, 24, 3) the body's joints, metres, world.
        keypoints: (P, F, 17, 3) COCO-17 joints by the body's own regressor, metres, world.
        valid: (P, F) whether the person is there in that frame.
        body_name: name of the body model.
        body_sha256: SHA-256 of the body model's file.
    """

    people: list[str]
    frames: Int[np.ndarray, " frames"]
    fps: float
    betas: Float[np.ndarray, "people 10"]
    poses: Float[np.ndarray, "people frames 72"]
    trans: Float[np.ndarray, "people frames 3"]
    joints: Float[np.ndarray, "people frames 24 3"]
    keypoints: Float[np.ndarray, "people frames 17 3"]
    valid: Bool[np.ndarray, "people frames"]
    body_name: str
    body_sha256: str

    def save(self, path: Path | str) -> None:
        """Writes the .npz atomically."""
        write_npz(
            path,
            people=np.array(self.people, dtype=str),
            frames=np.asarray(self.frames, np.int64),
            fps=np.float64(self.fps),
            betas=np.asarray(self.betas, np.float32),
            poses=np.asarray(self.poses, np.float32),
            trans=np.asarray(self.trans, np.float32),
            joints=np.asarray(self.joints, np.float32),
            keypoints=np.asarray(self.keypoints, np.float32),
            valid=np.asarray(self.valid, bool),
            body=np.array([self.body_name, self.body_sha256], dtype=str),
        )

    @classmethod
    def load(cls, path: Path | str) -> Bodies:
        """Reads the .npz.

        Raises:
            InputError: the file is absent or damaged, lacks an array, or an array has the wrong shape.
        """
        path = Path(path)
        names = ("people", "frames", "fps", "betas", "poses", "trans", "joints", "keypoints", "valid", "body")
        data = read_npz(path, names)
        p, f = _counts(path, data)
        shapes = {"fps": (), "betas": (p, 10), "poses": (p, f, 72), "trans": (p, f, 3), "body": (2,)}
        _check(path, data, {**shapes, "joints": (p, f, 24, 3), "keypoints": (p, f, 17, 3), "valid": (p, f)})
        floats = {name: data[name].astype(np.float32) for name in ("betas", "poses", "trans", "joints", "keypoints")}
        return cls(
            people=[str(name) for name in data["people"]],
            frames=data["frames"].astype(np.int64),
            fps=float(data["fps"]),
            valid=data["valid"].astype(bool),
            body_name=str(data["body"][0]),
            body_sha256=str(data["body"][1]),
            **floats,
        )
