"""Camera paths: where the film's camera stands, where it looks and how wide, for every frame of the film.

A path is a `Cameras` with one camera for each frame of the film, without lens distortion.

Keyframes. The interactive viewer writes a path recorded by hand as JSON, and `render` films along it:

    {"keyframes": [{"time": 0.0, "position": [x, y, z], "target": [x, y, z], "up": [x, y, z], "fov_deg": 45.0}, ...]}

`time` is in seconds of the film, ascending, and the film lasts from the first keyframe to the last; `position` of the
optical centre, `target` (the point in the middle of the picture) and `up` (any direction that is not the line of sight)
are in the capture's world frame, metres; `fov_deg` is the vertical field of view. A keyframe may also have
`"moment": s`, the time of the capture, in seconds from its first frame, that is shown there; keyframes with a moment
set the people's clock (straight lines between), and without any the capture runs from its start at the film's speed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import roma
import torch
from jaxtyping import Float
from torch import Tensor

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.io import read_json, write_json
from viewer.video.splines import catmull_rom, mix_rotations

MARGIN = 0.2
"""Metres around the joints that the picture is to hold: flesh, hands, hair."""


@dataclass(frozen=True)
class Keyframe:
    """One pose of a camera recorded by hand; see the head of this file."""

    time: float
    position: tuple[float, float, float]
    target: tuple[float, float, float]
    up: tuple[float, float, float]
    fov_deg: float
    moment: float | None = None


def save_keyframes(path: Path | str, keyframes: Iterable[Keyframe]) -> None:
    """Writes keyframes as JSON atomically."""
    rows = [{key: value for key, value in asdict(one).items() if value is not None} for one in keyframes]
    write_json(path, {"keyframes": rows})


def load_keyframes(path: Path | str) -> list[Keyframe]:
    """Reads keyframes.

    Raises:
        InputError: the file is absent or no such JSON, has no keyframe, or one is incomplete, not finite, not after the
            one before, looks at its own position or along its up direction, or has an impossible field of view.
    """
    path = Path(path)
    rows = read_json(path, ("keyframes",))["keyframes"]
    if not isinstance(rows, list) or not rows:
        raise InputError("no keyframes", file=path, expected='{"keyframes": [{...}, ...]}', found=str(rows)[:60])
    keyframes: list[Keyframe] = []
    for index, row in enumerate(rows):
        one = _read_keyframe(path, index, row)
        if keyframes and not one.time > keyframes[-1].time:
            raise InputError(
                f"keyframe {index} is not after the one before", file=path,
                expected=f"a time above {keyframes[-1].time} s", found=one.time,
            )  # fmt: skip
        keyframes.append(one)
    return keyframes


def _read_keyframe(path: Path, index: int, row: object) -> Keyframe:
    def numbers(key: str, count: int) -> tuple[float, ...]:
        if not isinstance(row, dict) or key not in row:
            raise InputError(
                f"keyframe {index} lacks {key}", file=path, expected="time, position, target, up, fov_deg", found=row
            )
        value = row[key] if count > 1 else [row[key]]
        good = isinstance(value, list) and len(value) == count
        good = good and all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in value)
        if not good:
            expected = f"{count} numbers" if count > 1 else "a number"
            raise InputError(f"{key} of keyframe {index}", file=path, expected=expected, found=row[key])
        return tuple(float(v) for v in value)

    position, target, up = (numbers(key, 3) for key in ("position", "target", "up"))
    (time,), (fov,) = numbers("time", 1), numbers("fov_deg", 1)
    moment = numbers("moment", 1)[0] if isinstance(row, dict) and row.get("moment") is not None else None
    sight = np.subtract(target, position)
    if np.linalg.norm(np.cross(sight, up)) < 1e-6:
        raise InputError(
            f"keyframe {index} has no upright picture", file=path,
            expected="a target away from the position, and up away from the line of sight", found=row,
        )  # fmt: skip
    if not 1 <= fov <= 170:
        raise InputError(f"fov_deg of keyframe {index}", file=path, expected="1 to 170 degrees", found=fov)
    return Keyframe(time, position, target, up, fov, moment)


# ---- the pieces of a path ----


@dataclass(frozen=True)
class Framing:
    """What every path takes into account: what is to be seen, and the picture's shape.

    Attributes:
        centre: (3,) middle of everything that is to be seen, metres, world.
        points: (n, K, 3) what is to be seen in each frame of the film, or (1, K, 3) in all of them; NaN: nothing.
        up: (3,) unit vector.
        width, height: pixels.
        fov_deg: vertical field of view.
        distance: factor on the distance at which everything fits.
    """

    centre: Float[np.ndarray, " 3"]
    points: Float[np.ndarray, "frames points 3"]
    up: Float[np.ndarray, " 3"]
    width: int
    height: int
    fov_deg: float = 40.0
    distance: float = 1.0

    def range(self, R_cam_world: Float[np.ndarray, "n 3 3"], centre: Float[np.ndarray, "n 3"]) -> float:
        """Metres from the centres at which the points and `MARGIN` around fit into all n pictures, times `distance`.

        A point at (x, y, z) in the axes of a camera that looks at the centre from the distance D is in the picture
        where |x| <= (D + z) tan(half the horizontal field of view), and |y| likewise.
        """
        points = self.points if len(self.points) == len(centre) else self.points.reshape(1, -1, 3)
        seen = np.einsum("nij,nkj->nki", R_cam_world, points - centre[:, None])
        vertical = math.tan(math.radians(self.fov_deg) / 2)
        tangents = np.array([vertical * self.width / self.height, vertical])
        needed = (np.abs(seen[..., :2]) + MARGIN) / tangents - seen[..., 2:]
        return self.distance * max(float(np.nanmax(needed)), MARGIN)

    def direction(self, azimuth: np.ndarray, elevation: np.ndarray) -> Float[np.ndarray, "n 3"]:
        """Unit vectors at angles in radians around `up`, counter-clockwise from the first horizontal axis."""
        first, second = horizontal_axes(self.up)
        level = np.cos(azimuth)[:, None] * first + np.sin(azimuth)[:, None] * second
        return np.cos(elevation)[:, None] * level + np.sin(elevation)[:, None] * self.up

    def azimuth_of(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
        """The angle, radians, under which points are seen from the centre."""
        first, second = horizontal_axes(self.up)
        away = np.asarray(points) - self.centre
        return np.arctan2(away @ second, away @ first)


def frame_joints(
    joints: Float[np.ndarray, "people frames joints 3"], up: np.ndarray, width: int, height: int, **also
) -> Framing:
    """The framing of people (metres, world; NaN: not there), around the middle of their box over all frames."""
    points = np.asarray(joints, float).transpose(1, 0, 2, 3).reshape(joints.shape[1], -1, 3)
    low, high = np.nanmin(points, axis=(0, 1)), np.nanmax(points, axis=(0, 1))
    return Framing((low + high) / 2, points, np.asarray(up, float), width, height, **also)


def horizontal_axes(up: Float[np.ndarray, " 3"]) -> tuple[Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """Two unit vectors that with `up` make a right-handed frame; world x and y where z is up."""
    first = np.eye(3)[(int(np.abs(up).argmax()) + 1) % 3]
    first = first - (first @ up) * up
    first = first / np.linalg.norm(first)
    return first, np.cross(up, first)


def look_at(
    position: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], up: Float[Tensor, "n 3"]
) -> Float[Tensor, "n 3 3"]:
    """Rotations world to camera (x right, y down, z forward) that bring the targets to the middle, upright."""
    forward = torch.nn.functional.normalize(target - position, dim=-1)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up.expand_as(forward), dim=-1), dim=-1)
    return torch.stack([right, torch.linalg.cross(forward, right, dim=-1), forward], dim=-2)


def pinholes(
    position: Float[Tensor, "n 3"], R_cam_world: Float[Tensor, "n 3 3"], fov_deg: Float[Tensor, " n"],
    width: int, height: int,
) -> Cameras:  # fmt: skip
    """Ideal cameras with the principal point in the middle; `fov_deg` is the vertical field of view."""
    n = len(position)
    K = torch.zeros(n, 3, 3, dtype=torch.float64)
    K[:, 0, 0] = K[:, 1, 1] = height / 2 / torch.tan(torch.deg2rad(fov_deg.double()) / 2)
    K[:, 0, 2], K[:, 1, 2], K[:, 2, 2] = width / 2, height / 2, 1.0
    R = R_cam_world.double()
    return Cameras(
        names=tuple(f"{i:06d}" for i in range(n)),
        K=K,
        R=R,
        t=-(R @ position.double()[..., None])[..., 0],
        dist=torch.zeros(n, 5, dtype=torch.float64),
        width=torch.full((n,), width, dtype=torch.int64),
        height=torch.full((n,), height, dtype=torch.int64),
    )


# ---- the paths ----


def around(
    framing: Framing,
    azimuth: Float[np.ndarray, " n"],
    elevation: Float[np.ndarray, " n"],
    closeness: Float[np.ndarray, " n"] | None = None,
    centre: Float[np.ndarray, "n 3"] | None = None,
) -> Cameras:
    """Cameras that look at the centre from given angles (radians), at the framing's range divided by `closeness`."""
    direction = framing.direction(azimuth, elevation)
    centre = np.broadcast_to(framing.centre if centre is None else centre, (len(azimuth), 3)).copy()
    target, up = torch.from_numpy(centre), torch.from_numpy(framing.up.copy())
    R = look_at(target + torch.from_numpy(direction), target, up)
    away = framing.range(R.numpy(), centre) / (np.ones(len(azimuth)) if closeness is None else closeness)
    fov = torch.full((len(azimuth),), framing.fov_deg, dtype=torch.float64)
    position = torch.from_numpy(centre + away[:, None] * direction)
    return pinholes(position, R, fov, framing.width, framing.height)


def orbit(framing: Framing, n: int, turns: float, azimuth: float, elevation: float) -> Cameras:
    """Once or more around the people at one height; a whole number of turns can be played in a loop.

    Args:
        turns: how often around; negative the other way.
        azimuth, elevation: radians, of the first camera.
    """
    share = np.arange(n) / n
    return around(framing, azimuth + 2 * np.pi * turns * share, np.full(n, elevation))


def spiral(framing: Framing, n: int, turns: float, azimuth: float, elevation: float) -> Cameras:
    """Around, up and closer: from `elevation` to 50 degrees above it (at most 80) and from 4/3 of the range to it."""
    share = np.linspace(0, 1, n) if n > 1 else np.zeros(1)
    smooth = share * share * (3 - 2 * share)
    rise = min(math.radians(50), math.radians(80) - elevation)
    return around(framing, azimuth + 2 * np.pi * turns * share, elevation + rise * smooth, 0.75 + 0.25 * smooth)


def follow(
    framing: Framing, middle: Float[np.ndarray, "n 3"], facing: Float[np.ndarray, "n 3"], azimuth: float,
    elevation: float,
) -> Cameras:  # fmt: skip
    """Along with a person, at an angle to where the person faces: 0 in front, pi behind.

    Args:
        middle: metres, world: where the person is; smoothed.
        facing: directions; smoothed, need not be unit vectors.
    """
    ahead = framing.azimuth_of(framing.centre + facing)
    return around(framing, ahead + azimuth, np.full(len(middle), elevation), centre=middle)


def through_cameras(framing: Framing, cameras: Cameras, n: int) -> Cameras:
    """From capture camera to capture camera, in their order around the people, starting after the widest gap.

    Positions, orientations and fields of view lie on smooth curves through the cameras' own; the field of view is
    wide enough for the whole of each camera's picture.
    """
    positions = cameras.centres.double()
    angle = framing.azimuth_of(positions.numpy())
    order = np.argsort(angle)
    gaps = np.diff(angle[order], append=angle[order[0]] + 2 * np.pi)
    order = torch.from_numpy(np.roll(order, -(int(gaps.argmax()) + 1)).copy())
    tangents = torch.stack([cameras.height / cameras.K[:, 1, 1], cameras.width / cameras.K[:, 0, 0]]).double() / 2
    wide = torch.maximum(tangents[0], tangents[1] * framing.height / framing.width)
    fov = torch.rad2deg(2 * torch.atan(wide))
    knots = torch.arange(len(cameras), dtype=torch.float64)
    times = torch.linspace(0, len(cameras) - 1, n, dtype=torch.float64)
    return _along(knots, positions[order], cameras.R.double()[order], fov[order], times, framing.width, framing.height)


def along_keyframes(keyframes: list[Keyframe], times: Float[np.ndarray, " n"], width: int, height: int) -> Cameras:
    """Smoothly through keyframes, at times in seconds of the film."""
    columns = (torch.tensor([getattr(k, key) for k in keyframes], dtype=torch.float64)
               for key in ("time", "position", "target", "up", "fov_deg"))  # fmt: skip
    knots, position, target, up, fov = columns
    R = look_at(position, target, up)
    return _along(knots, position, R, fov, torch.as_tensor(times, dtype=torch.float64), width, height)


def keyframe_moments(keyframes: list[Keyframe], times: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"] | None:
    """The times of the capture, seconds, that the keyframes ask for; None where they leave that open."""
    fixed = [(k.time, k.moment) for k in keyframes if k.moment is not None]
    return np.interp(times, *zip(*fixed, strict=True)) if fixed else None


def _along(
    knots: Tensor, position: Tensor, R: Tensor, fov: Tensor, times: Tensor, width: int, height: int
) -> Cameras:
    turned = catmull_rom(knots, roma.rotmat_to_unitquat(R), times, mix_rotations)
    # The curve may swing beyond the recorded fields of view, but not to an impossible one.
    width_of_view = catmull_rom(knots, fov, times).clamp(1.0, 170.0)
    return pinholes(
        catmull_rom(knots, position, times), roma.unitquat_to_rotmat(turned), width_of_view, width, height
    )
