"""An embrace tighter than the rendered captures: `python -m benchmarks.tight_embrace [--out FOLDER]`.

The two people of the embedded capture, chest to chest, arms around each other, for 20 frames at 20 fps; 8 and 4 cameras
of 512x384 around them at the distance of the duo captures. No images: detections are imitated by the noise model of the
training (avatarpose/train/noise.py), one take a seed, so that joints behind the other person are missed, misplaced or
taken from that person. The volumetric network was trained on detections spoilt by the same model, though on other
people, motion and cameras: the comparison favours it.

Prints how far apart the bodies are, and for the volumetric estimator and triangulation, over the seeds, the columns of
`benchmarks.estimators`.

The undressed trunks are less than 9 mm apart in 19 of the 20 frames (3 mm at least); in the embedded capture it is
20 mm at least, with cloth between, and in duo_a and duo_b 0.2 m. Hands and forearms, placed by spheres that fill the
bodies, sink up to about 2 cm into the other's back.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from scipy.spatial import cKDTree

from assets.embrace_motion import embrace, fill_with_spheres
from assets.embrace_people import LOOKS, make_person
from avatarpose.body import load_body
from avatarpose.cameras import Cameras
from avatarpose.estimate import TriangulationConfig, VolumetricConfig
from avatarpose.estimate.volumetric.estimator import packaged_weights
from avatarpose.io import read_npz, write_json, write_npz
from avatarpose.sequence import Sequence
from avatarpose.train.noise import NoiseConfig, detect, draw_scene
from avatarpose.train.rigs import look_at
from benchmarks.estimators import compare

FRAMES, APPROACH, FPS = 20, 20, 20.0  # frames kept, and frames before them in which the people close in
APART, NEARER, GAP, ITERATIONS = 0.22, 0.08, 0.012, 400  # metres; see `embrace`
VIEWS = (8, 4)
DISTANCE, FOCAL, WIDTH, HEIGHT = 3.45, 525.0, 512, 384
TRUNK = (0, 3, 6, 9, 13, 14)
TRUTH = ("joints", "keypoints", "trunks", "skins")


def make_truth(path: Path) -> None:
    """Writes joints (2, F, 24, 3), keypoints (2, F, 17, 3); least distance (F,) of the trunks and of the skins, m."""
    model = load_body(dtype=torch.float64)
    people = [make_person(model, look) for look in LOOKS]
    spheres = [fill_with_spheres(p.rest, model.faces.numpy(), model.weights.numpy()) for p in people]
    poses, trans = embrace(
        [p.body for p in people], spheres, APPROACH + FRAMES, FPS, ITERATIONS, APART, NEARER, GAP
    )  # fmt: skip
    poses, trans = poses[:, APPROACH:], trans[:, APPROACH:]
    zero = torch.zeros(FRAMES, 10, dtype=torch.float64)
    made = [(p.body, poses[i], trans[i]) for i, p in enumerate(people)]
    joints, keypoints, vertices = (
        np.stack([getattr(body, what)(zero, pose, move).numpy() for body, pose, move in made])
        for what in ("joints", "keypoints", "vertices")
    )
    trunk = np.isin(model.weights.numpy().argmax(axis=1), TRUNK)
    write_npz(
        path, joints=joints.astype(np.float32), keypoints=keypoints.astype(np.float32),
        trunks=nearest(vertices[:, :, trunk]), skins=nearest(vertices),
    )  # fmt: skip


def nearest(vertices: Float[np.ndarray, "2 frames vertices 3"]) -> Float[np.ndarray, " frames"]:
    """Least distance of vertices of the two, metres; vertices are about 10 mm apart."""
    return np.array([cKDTree(a).query(b)[0].min() for a, b in zip(*vertices, strict=True)])


def ring(count: int) -> Cameras:
    """Cameras evenly around the people, 1.2 to 1.8 m up."""
    R, t = [], []
    for c in range(count):
        angle = 2 * np.pi * c / count + 0.14
        centre = np.array([DISTANCE * np.cos(angle), DISTANCE * np.sin(angle), 1.2 + 0.3 * (c % 3)])
        rotation, translation = look_at(centre, np.array([0.0, 0.0, 0.9]))
        R.append(rotation)
        t.append(translation)
    K = torch.tensor([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]], dtype=torch.float64)
    return Cameras(
        names=tuple(f"cam{c:02d}" for c in range(count)),
        K=K.repeat(count, 1, 1), R=torch.tensor(np.array(R)), t=torch.tensor(np.array(t)),
        dist=torch.zeros(count, 5, dtype=torch.float64),
        width=torch.full((count,), WIDTH), height=torch.full((count,), HEIGHT),
    )  # fmt: skip


def write_sequence(folder: Path, truth: dict[str, np.ndarray], cameras: Cameras, seed: int) -> Sequence:
    """A sequence folder with the detections of one take."""
    rng, noise = np.random.default_rng(seed), NoiseConfig()
    take = draw_scene(len(truth["keypoints"]), cameras, rng, noise)
    frames = [detect(truth["keypoints"][:, f], cameras, rng, noise, take).rows for f in range(FRAMES)]
    rows = np.full((len(cameras), FRAMES, max(found.shape[1] for found in frames), 17, 3), np.nan, np.float32)
    for f, found in enumerate(frames):
        rows[:, f, : found.shape[1]] = found
    cameras.save(folder / "cameras.json")
    write_json(folder / "sequence.json", {"fps": FPS, "frames": FRAMES, "unit": "m", "up": "z", "people": 2})
    write_npz(folder / "ground_truth.npz", joints=truth["joints"], keypoints=truth["keypoints"])
    for name, found in zip(cameras.names, rows, strict=True):
        write_npz(folder / "keypoints2d" / f"{name}.npz", keypoints=found)
    return Sequence.open(folder)


def run(out: Path, seeds: int, weights: Path, console: Console) -> None:
    if not (out / "truth.npz").is_file():
        make_truth(out / "truth.npz")
    truth = read_npz(out / "truth.npz", TRUTH)
    for what, gap in (("trunks", truth["trunks"]), ("skins", truth["skins"])):
        console.print(f"least distance of the {what}: {1000 * gap.min():.0f} to {1000 * gap.max():.0f} mm")
    methods = {"volumetric": VolumetricConfig(weights=weights), "triangulation": TriangulationConfig()}
    sequences = {
        f"{count} cameras": [
            write_sequence(out / f"{count}_cameras_{seed}", truth, ring(count), seed) for seed in range(seeds)
        ]
        for count in VIEWS
    }
    cases = {name: [lambda made=made: made for made in takes] for name, takes in sequences.items()}
    console.print(compare(sequences["8 cameras"][0], methods, cases, f"tight embrace: {seeds} seeds"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for the sequences, kept (default: a temporary one)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", type=Path, default=packaged_weights(), help="of the volumetric estimator")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # means of joints nobody found
    console = Console(width=150)
    if arguments.out is not None:
        run(arguments.out, arguments.seeds, arguments.weights, console)
        return
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.seeds, arguments.weights, console)


if __name__ == "__main__":
    main()
