"""A capture of any length and size, made as the embedded one: clothed bodies, cast rays, spoilt masks and detections.

    python -m benchmarks.made_capture made --motion ../shared/data/motion/cmu_pairs_15joints_30fps.npz
    python -m benchmarks.made_capture made_small --frames 2 --views 3 --size 118x160

With two-person clips (`avatarpose.train.motion_files`) the people dance: the default body is fitted to some seconds of
a clip, its poses are given to the two people of the embedded capture, whose limbs have other lengths, and then
changed as little as keeps the two out of each other. Without clips they embrace, as slowly as the frames allow.

The frames are filmed by all cores. What was stopped, or did not end within `--limit`, goes on with the same call; the
capture is whole when it has a `sequence.json`. The packaged estimator has not seen the clip (trial 4 of the salsa).
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, RotationSpline
from torch import Tensor

from assets import make_capture
from assets.embrace_motion import Spheres, embrace, fill_with_spheres
from assets.embrace_people import LOOKS, Person, make_person
from avatarpose.body import load_body
from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.io import read_json, read_npz, write_image, write_json, write_npz
from avatarpose.skeletons import PANOPTIC15
from avatarpose.train.motion_files import JointClip, read_clips
from avatarpose.train.motion_fit import FitSettings, fit_tracks
from avatarpose.train.rigs import look_at

CLIP = "salsa_04"
FPS = {"dance": 30.0, "embrace": 20.0}
DISTANCE, FOCAL = 4.0, 1.1
"""Metres from the cameras to the middle; focal length in heights of the image."""
GAP, PARTING = 0.02, 120
"""Metres between the two dancers, for cloth to fit in, and the iterations that part them."""
KEYS = 24
"""Moments of the embrace that are solved for; splines between."""
KEPT = ("poses", "trans")


@dataclass
class Settings:
    out: Annotated[Path, tyro.conf.Positional]
    """Folder to write."""
    motion: Path | None = None
    """File of two-person clips; without it the people embrace."""
    frames: int = 140
    views: int = 8
    size: str = "470x640"
    """Width and height of the images, pixels."""
    samples: int = 2
    """Rays along a pixel's side."""
    processes: int = 0
    """0: one a core."""
    limit: float = 450.0
    """Seconds after which it stops."""


def cameras_around(views: int, width: int, height: int) -> Cameras:
    """A ring that is not quite even, 1.1 to 2.1 m up, with slightly different lenses."""
    rng, focal = np.random.default_rng(7), FOCAL * height * np.ones(views)
    angle = 2 * np.pi * (np.arange(views) + rng.uniform(-0.15, 0.15, views)) / views + 0.2
    place = DISTANCE * rng.uniform(0.95, 1.05, views)
    up, focal = rng.uniform(1.1, 2.1, views), focal * rng.uniform(0.97, 1.03, views)
    centres = np.stack([place * np.cos(angle), place * np.sin(angle), up], axis=1)
    R, t = zip(*(look_at(centre, np.array([0.0, 0.0, 0.9])) for centre in centres), strict=True)
    K = np.tile(np.eye(3), (views, 1, 1))
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, :2, 2] = np.array([width, height]) / 2 + rng.uniform(-0.01, 0.01, (views, 2)) * height
    dist = np.zeros((views, 5))
    dist[:, 0], dist[:, 1] = rng.uniform(-0.08, 0.03, views), rng.uniform(0.0, 0.03, views)
    return Cameras(
        names=tuple(f"cam{c:02d}" for c in range(views)), K=torch.tensor(K), R=torch.tensor(np.array(R)),
        t=torch.tensor(np.array(t)), dist=torch.tensor(dist), width=torch.full((views,), width),
        height=torch.full((views,), height),
    )  # fmt: skip


def nearest_window(clip: JointClip, frames: int) -> slice:
    """The frames in which the people stay closest together and to one place."""
    hips = clip.joints[:, :, PANOPTIC15.index("mid_hip"), :2]
    if len(hips) < frames:
        raise InputError(f"the clip {clip.name} is too short", expected=f"{frames} frames", found=len(hips))

    def spread(start: int) -> float:
        part = hips[start : start + frames]
        middle = (part.max(axis=(0, 1)) + part.min(axis=(0, 1))) / 2
        apart = np.linalg.norm(part[:, 0] - part[:, 1], axis=-1).mean()
        return float(np.linalg.norm(part - middle, axis=-1).max() + apart)

    start = min(range(len(hips) - frames + 1), key=spread)
    return slice(start, start + frames)


def dance(people: list[Person], spheres: list[Spheres], path: Path, frames: int) -> tuple[Tensor, Tensor]:
    """Poses (2, F, 72) and translations (2, F, 3) from some frames of the clip, around the origin, the floor at 0."""
    clip = next((c for c in read_clips(path, path.stem) if isinstance(c, JointClip) and c.name == CLIP), None)
    if clip is None:
        raise InputError("no such clip", file=path, expected=CLIP)
    joints = clip.joints[nearest_window(clip, frames)]
    fitted = fit_tracks(load_body(), [joints[:, 0], joints[:, 1]], FitSettings())
    poses = torch.as_tensor(np.stack([one.poses for one in fitted])).double()
    pelvis = np.stack([one.pelvis for one in fitted]).astype(float)
    pelvis[..., :2] -= (pelvis[..., :2].max(axis=(0, 1)) + pelvis[..., :2].min(axis=(0, 1))) / 2
    zero = torch.zeros(frames, 10, dtype=torch.float64)
    at_rest = torch.stack([person.body.rest_joints(zero[0])[0] for person in people])
    trans = torch.as_tensor(pelvis) - at_rest[:, None]
    for i, person in enumerate(people):
        trans[i, :, 2] -= person.body.vertices(zero, poses[i], trans[i])[..., 2].min()
    return parted(people, spheres, poses, trans)


def parted(people: list[Person], spheres: list[Spheres], poses: Tensor, trans: Tensor) -> tuple[Tensor, Tensor]:
    """The motion with as little changed as keeps the bodies, filled with spheres, out of each other, and smoother."""
    frames = poses.shape[1]
    zero, radii = torch.zeros(frames, 10, dtype=torch.float64), spheres[0].radii[:, None] + spheres[1].radii
    moved = [poses.clone().requires_grad_(), trans.clone().requires_grad_()]
    optimiser = torch.optim.Adam(moved, lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, PARTING, 5e-4)

    def joints(poses: Tensor, trans: Tensor) -> Tensor:
        return torch.stack([p.body.joints(zero, poses[i], trans[i]) for i, p in enumerate(people)])

    given = joints(poses, trans)
    for iteration in range(PARTING):
        firm = min(1.0, 0.01 + (iteration / (0.6 * PARTING)) ** 2)  # smooth first, apart later
        filled = [spheres[i].posed(p.body.transforms(zero, moved[0][i], moved[1][i])) for i, p in enumerate(people)]
        gap, now = torch.cdist(*filled) - radii, joints(*moved)
        cost = 10 * (now - given).square().sum(-1).mean() + 0.02 * (moved[0] - poses).square().sum(-1).mean()
        cost = cost + 2000 * firm * (GAP - gap).relu().square().sum((1, 2)).mean()
        if frames > 2:
            acceleration = (now[:, 2:] - 2 * now[:, 1:-1] + now[:, :-2]) * FPS["dance"] ** 2
            cost = cost + 3e-5 * acceleration.square().sum(-1).mean()
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
        schedule.step()
    far, near = 100 * (now - given).norm(dim=-1).mean().item(), 1000 * gap.min().item()
    print(f"joints moved by {far:.1f} cm in the mean; the bodies come as near as {near:.0f} mm", flush=True)
    return moved[0].detach(), moved[1].detach()


def slow_embrace(people: list[Person], spheres: list[Spheres], frames: int) -> tuple[Tensor, Tensor]:
    """Poses (2, F, 72) and translations (2, F, 3) of the embedded capture's motion, stretched."""
    keys = min(KEYS, max(6, frames))
    poses, trans = embrace([p.body for p in people], spheres, keys, FPS["embrace"] * keys / frames)
    known, asked = np.linspace(0, 1, keys), np.linspace(0, 1, frames)
    turns = poses.reshape(2, keys, 24, 3).numpy()
    smooth = [
        [RotationSpline(known, Rotation.from_rotvec(turns[p, :, j]))(asked).as_rotvec() for j in range(24)]
        for p in range(2)
    ]
    moved = CubicSpline(known, trans.numpy(), axis=1)(asked)
    return torch.as_tensor(np.array(smooth)).transpose(1, 2).reshape(2, frames, 72), torch.as_tensor(moved)


class Studio:
    """The people, their motion and the cameras of a capture, as its folder has them."""

    def __init__(self, out: Path) -> None:
        torch.set_num_threads(1)
        self.out, self.cameras = out, Cameras.load(out / "cameras.json").to(dtype=torch.float64)
        poses, trans = (torch.as_tensor(value) for value in read_npz(out / "motion.npz", KEPT).values())
        model = load_body(dtype=torch.float64)
        self.people = [make_person(model, look) for look in LOOKS]
        zero = torch.zeros(poses.shape[1], 10, dtype=torch.float64)
        moved = [(p.body, poses[i], trans[i]) for i, p in enumerate(self.people)]
        self.transforms, self.joints, self.keypoints = (
            np.stack([getattr(body, what)(zero, pose, at).numpy() for body, pose, at in moved])
            for what in ("transforms", "joints", "keypoints")
        )
        # The maker of the embedded capture keeps its sizes as constants of its module.
        make_capture.WIDTH, make_capture.HEIGHT = int(self.cameras.width[0]), int(self.cameras.height[0])
        make_capture.NOISE_SCALE = float(self.cameras.K[0, 0, 0]) / DISTANCE / 119

    def __len__(self) -> int:
        return self.transforms.shape[1]

    def __iter__(self) -> Iterator[make_capture.Scene]:
        """The scenes, each made when it is asked for: all together they would not fit into memory."""
        return map(self.scene, range(len(self)))

    def scene(self, f: int) -> make_capture.Scene:
        return make_capture.Scene.pose(self.people, list(self.transforms[:, f]))

    def film(self, f: int, samples: int) -> None:
        """Images and masks of a frame, those that are not there yet."""
        names = [(c, name, f"{f:06d}") for c, name in enumerate(self.cameras.names)]
        missing = [one for one in names if not (self.out / "images" / one[1] / f"{one[2]}.jpg").is_file()]
        scene = self.scene(f) if missing else None
        for c, name, number in missing:
            rng = np.random.default_rng([1000 + c, f])
            image, shares = make_capture.film(scene, self.cameras, c, rng, samples)
            write_image(self.out / "masks" / name / f"{number}.png", make_capture.spoil_mask(shares.sum(0), rng))
            write_image(self.out / "images" / name / f"{number}.jpg", image, quality=90)

    def detect(self, c: int) -> None:
        """Keypoints of a view, unless they are there."""
        path = self.out / "keypoints2d" / f"{self.cameras.names[c]}.npz"
        if not path.is_file():
            rng = np.random.default_rng(2000 + c)
            write_npz(path, keypoints=make_capture.detect(self, self.keypoints, self.cameras, c, rng))


studio = cache(Studio)
"""One in each process."""


def do(out: Path, samples: int, task: tuple[str, int]) -> None:
    """One task of a process: to film a frame or to detect in a view."""
    kind, index = task
    if kind == "film":
        studio(out).film(index, samples)
    else:
        studio(out).detect(index)


def start(settings: Settings) -> None:
    """Motion and cameras, unless they are there; and what all of it was made with.

    Raises:
        InputError: the folder was begun with other settings, or rays cannot be cast here.
    """
    if importlib.util.find_spec("embreex") is None:
        raise InputError("no package to cast rays with", expected="embreex", hint="pip install embreex")
    asked = {"frames": settings.frames, "views": settings.views, "size": settings.size, "samples": settings.samples}
    asked["motion"] = "embrace" if settings.motion is None else "dance"
    made_with = settings.out / "made.json"
    if made_with.is_file():
        if (found := read_json(made_with)) != asked:
            raise InputError("begun with other settings", file=made_with, expected=asked, found=found)
        return
    model = load_body(dtype=torch.float64)
    people = [make_person(model, look) for look in LOOKS]
    spheres = [fill_with_spheres(p.rest, model.faces.numpy(), model.weights.numpy()) for p in people]
    if settings.motion is None:
        poses, trans = slow_embrace(people, spheres, settings.frames)
    else:
        poses, trans = dance(people, spheres, settings.motion, settings.frames)
    width, height = map(int, settings.size.split("x"))
    cameras_around(settings.views, width, height).save(settings.out / "cameras.json")
    write_npz(settings.out / "motion.npz", poses=poses.numpy(), trans=trans.numpy())
    write_json(made_with, asked)


def make(settings: Settings, say: Callable[[str], None] = print) -> bool:
    """Makes what is missing; whether the capture is whole."""
    out, ends = settings.out, time.monotonic() + settings.limit
    if (out / "sequence.json").is_file():
        return True
    start(settings)
    tasks = [("film", f) for f in range(settings.frames)] + [("detect", c) for c in range(settings.views)]
    say(f"{len(tasks)} tasks, {time.monotonic() - ends + settings.limit:.0f} s to prepare")
    processes = settings.processes or len(os.sched_getaffinity(0))
    with one_thread_each(partial(multiprocessing.get_context("spawn").Pool, processes)) as pool:
        done = pool.imap_unordered(partial(do, out, settings.samples), tasks)
        for count in range(len(tasks)):
            try:
                done.next(timeout=max(0.1, ends - time.monotonic()))
            except multiprocessing.TimeoutError:
                say(f"{count} of {len(tasks)} tasks in {settings.limit:.0f} s: the same call again goes on")
                return False
    made = Studio(out)
    write_npz(
        out / "ground_truth.npz", joints=made.joints.astype(np.float32), keypoints=made.keypoints.astype(np.float32)
    )
    fps = FPS["embrace" if settings.motion is None else "dance"]
    write_json(out / "sequence.json", {"fps": fps, "frames": settings.frames, "unit": "m", "up": "z", "people": 2})
    say(f"whole: {out}")
    return True


def one_thread_each(begin: Callable[[], multiprocessing.pool.Pool]) -> multiprocessing.pool.Pool:
    """Begins processes whose libraries take one thread each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        return begin()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def main() -> None:
    make(tyro.cli(Settings, description=__doc__))


if __name__ == "__main__":
    main()
