"""Errors of 2D detections, real and imitated: `python -m benchmarks.detector_noise [SEQ ...]`.

For each capture (default: shelf_dev, duo_a and duo_b of the data folder) prints what its detections get wrong, beside
what `avatarpose.train.noise` makes of the same people before the same cameras: the median over scenes, and the tenth
and ninetieth percentile, since a detector's quality is drawn per scene. shelf_dev has detections of OpenPose on real
images and its people are not annotated joint by joint as detectors are trained: residuals are to joints triangulated
with known identities, for imitated detections too. Detections of duo_a and duo_b are imitated by another program,
residuals are to the exact joints.

Lengths are at the person: pixels over the pixels that a metre has there. A joint is hidden if a capsule of another
person (`avatarpose.train.capsules`) is in front of it, "behind self" if the own torso (arms) or head (face) is.
"""

from __future__ import annotations

import argparse
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr

from avatarpose.cameras import Cameras
from avatarpose.evaluate import load_truth
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17
from avatarpose.train.capsules import line_of_sight
from avatarpose.train.noise import NoiseConfig, detect, draw_scene
from benchmarks.known_identity import known_identity_triangulation, triangulate, truth_in_frames

DATA = Path(os.environ.get("AVATARPOSE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
GROUPS = {
    "face": slice(0, 5),
    "shoulders": slice(5, 7),
    "elbows": slice(7, 9),
    "wrists": slice(9, 11),
    "hips": slice(11, 13),
    "knees": slice(13, 15),
    "ankles": slice(15, 17),
}
FLIP = np.array(COCO17.flip)
SAME_PERSON = 0.25  # metres: largest median distance of a row to a person whose it is
STRAY = 0.15  # metres: a joint farther off than this is another one


@dataclass
class Take:
    """People before cameras, and what was detected.

    Attributes:
        cameras: V cameras.
        joints: (P, F, 17, 3) metres, NaN where unknown.
        rows: (V, F, D, 17, 3) x, y, score; NaN where absent.
    """

    cameras: Cameras
    joints: Float[np.ndarray, "people frames 17 3"]
    rows: Float[np.ndarray, "views frames rows 17 3"]

    def __post_init__(self) -> None:
        known = np.isfinite(self.joints).all(axis=-1)
        pixels, depth = self.cameras.project(torch.from_numpy(np.nan_to_num(self.joints)))
        self.pixels = np.where(known[..., None], pixels.numpy(), np.nan)
        depth = np.where(known, depth.numpy(), np.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            self.scale = self.cameras.K[:, 0, 0].numpy()[:, None, None] / np.nanmedian(depth, axis=-1)
        size = torch.stack((self.cameras.width, self.cameras.height), dim=-1).numpy()[:, None, None, None]
        self.inside = ((self.pixels >= 0) & (self.pixels <= size)).all(axis=-1)
        self._assign()
        shape = self.inside.shape
        self.by_other, self.by_self = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        for f in range(shape[2]):
            there = np.flatnonzero(known[:, f].all(axis=-1))
            sight = line_of_sight(self.joints[there, f], self.cameras.R.numpy(), self.cameras.t.numpy())
            self.by_other[:, there, f], self.by_self[:, there, f] = sight.by_other, sight.by_self

    def _assign(self) -> None:
        """Gives the rows of each view to the people, one to one: `taken` (V, P, F, 17, 3), NaN where there is none."""
        views, people, frames = self.scale.shape
        self.taken = np.full((views, people, frames, 17, 3), np.nan)
        self.given = np.zeros(self.rows.shape[:3], dtype=bool)
        for c in range(views):
            for f in range(frames):
                offset = self.rows[c, f, None, :, :, :2] - self.pixels[c, :, f, None]
                far = np.linalg.norm(offset, axis=-1) / self.scale[c, :, f, None, None]
                enough = np.isfinite(far).sum(axis=-1) >= 3
                middle = np.where(enough, np.nanmedian(np.where(enough[..., None], far, 9.0), axis=-1), 9.0)
                for p, d in zip(*linear_sum_assignment(np.minimum(middle, SAME_PERSON)), strict=True):
                    if middle[p, d] < SAME_PERSON:
                        self.taken[c, p, f], self.given[c, f, d] = self.rows[c, f, d], True


def measure(take: Take) -> dict[str, float]:
    """Statistics of the detections; the keys are the rows of the table."""
    taken, scale = take.taken, take.scale[..., None]
    offset = (taken[..., :2] - take.pixels) / scale[..., None]
    far = np.linalg.norm(offset, axis=-1)
    score = taken[..., 2]
    known = np.isfinite(take.pixels[..., 0])
    row = np.isfinite(taken[..., 0]).any(axis=-1, keepdims=True) & known
    seen = np.isfinite(far)
    clear = row & take.inside & ~take.by_other & ~take.by_self
    hidden, behind = row & take.inside & take.by_other, row & take.inside & take.by_self & ~take.by_other
    own = clear & (far < STRAY)
    exchanged = _others(take, same_person=True) & (far > STRAY)
    strayed = _others(take, same_person=False) & (far > STRAY) & ~exchanged
    stray = far > STRAY
    of_nobody = np.isfinite(take.rows[..., 0]).any(axis=-1) & ~take.given
    out_of_sight = (take.by_other | ~take.inside).mean(axis=-1)
    with_rows = np.isfinite(take.rows[..., 0]).any(axis=(-1, -2))[:, None]
    there = known.any(axis=-1) & with_rows
    no_row = ~np.isfinite(taken[..., 0]).any(axis=-1) & there
    body = np.where(own[..., None], offset, np.nan)[..., 5:, :]
    rank = spearmanr(score[own], far[own])[0] if np.ptp(score[own]) > 0 else np.nan
    return {
        "residual in sight, median, px": _median((far * scale)[own]),
        "residual in sight, median, mm": 1000 * _median(far[own]),
        **{f"  {name}": 1000 * _median(far[..., part][own[..., part]]) for name, part in GROUPS.items()},
        "  90 % quantile over median": np.percentile(far[own], 90) / _median(far[own]),
        "  common to a row, of the deviation": _common(body),
        "  correlation after 5 frames": _correlation(body, 5),
        "residual behind self over in sight": _median(far[behind & seen]) / _median(far[own]),
        "missed in sight, %": _percent(~seen, clear),
        **{f"  {name}, %": _percent(~seen[..., part], clear[..., part]) for name, part in GROUPS.items()},
        "missed behind self, face, %": _percent(~seen[..., :5], behind[..., :5]),
        "missed behind self, arms, %": _percent(~seen[..., 7:11], behind[..., 7:11]),
        "hidden by another, % of joints": _percent(take.by_other & take.inside, row),
        "  missed, %": _percent(~seen, hidden),
        "  the other's joint, %": _percent(strayed, hidden),
        "  elsewhere (> 0.15 m), %": _percent(stray & ~strayed, hidden),
        "strays among joints in sight, %": _percent(stray, clear),
        "sides exchanged, % of joints": _percent(exchanged, clear & seen),
        "no row where others have, in sight, %": _percent(no_row, there & (out_of_sight < 0.5)),
        "no row where others have, hidden, %": _percent(no_row, there & (out_of_sight >= 0.5)),
        "rows of nobody, per view": of_nobody.mean(axis=(0, 1)).sum(),
        "score in sight, median": _median(score[own]),
        "  hips' score": _median(score[..., 11:13][own[..., 11:13]]),
        "score behind self": _median(score[behind & seen]),
        "score hidden, own joint": _median(score[hidden & (far <= STRAY)]),
        "score of strays": _median(score[stray & row]),
        "rank correlation, score and residual": float(rank),
    }


def _others(take: Take, same_person: bool) -> Bool[np.ndarray, "views people frames 17"]:
    """Whether a detected joint is within 0.1 m, in the image, of the person's joint of the other side, or of a joint of
    that kind of another person."""
    near = np.zeros(take.inside.shape, dtype=bool)
    people = len(take.joints)
    for p in range(people):
        for q in [p] if same_person else [q for q in range(people) if q != p]:
            for order in (FLIP,) if same_person else (np.arange(17), FLIP):
                away = np.linalg.norm(take.taken[:, p, ..., :2] - take.pixels[:, q][..., order, :], axis=-1)
                near[:, p] |= away < 0.1 * take.scale[:, p, :, None]
    if same_person:
        near[..., 0] = False  # the nose has no other side
    return near


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else np.nan


def _percent(what: np.ndarray, of: np.ndarray) -> float:
    of = np.broadcast_to(of, what.shape)
    return 100 * float(what[of].mean()) if of.any() else np.nan


def _common(offset: Float[np.ndarray, "views people frames joints 2"]) -> float:
    """Standard deviation of the offset that the joints of a row have in common over that of the rest.

    The mean of n joints has variance common + rest / n.
    """
    count = np.isfinite(offset[..., 0]).sum(axis=-1)
    full = offset[count >= 8]
    mean, n = np.nanmean(full, axis=1), count[count >= 8]
    rest = np.nanmean((full - mean[:, None]) ** 2) / np.mean(1 - 1 / n)
    common = np.mean(mean**2) - rest * np.mean(1 / n)
    return float(np.sqrt(max(common, 0.0) / rest))


def _correlation(offset: Float[np.ndarray, "views people frames joints 2"], lag: int) -> float:
    return float(np.nanmean(offset[:, :, lag:] * offset[:, :, :-lag]) / np.nanmean(offset**2))


def imitated(take: Take, rng: np.random.Generator, config: NoiseConfig) -> Take:
    """The same people as `detect` sees them, all frames in one scene."""
    scene = draw_scene(len(take.joints), take.cameras, rng, config)
    frames = [detect(take.joints[:, f], take.cameras, rng, config, scene).rows for f in range(take.joints.shape[1])]
    most = max(rows.shape[1] for rows in frames)
    padded = [
        np.pad(rows, ((0, 0), (0, most - rows.shape[1]), (0, 0), (0, 0)), constant_values=np.nan) for rows in frames
    ]
    return Take(take.cameras, take.joints, np.stack(padded, axis=1))


def triangulated(take: Take) -> Take:
    """The same detections, with the joints that they triangulate to, strays left out (the given ones where two views
    do not have the joint)."""
    far = np.linalg.norm(take.taken[..., :2] - take.pixels, axis=-1) / take.scale[..., None]
    kept = np.where((far < STRAY)[..., None], take.taken, np.nan)
    joints = triangulate(kept[..., :2], kept[..., 2], take.cameras)
    return Take(take.cameras, np.where(np.isnan(joints), take.joints, joints), take.rows)


def report(folder: Path, scenes: int, seed: int, console: Console) -> None:
    sequence = Sequence.open(folder)
    truth = load_truth(folder)
    exact = truth.shelf15 is None
    joints = (
        truth_in_frames(truth.keypoints, truth, sequence) if exact else known_identity_triangulation(sequence, truth)
    )
    real = Take(sequence.cameras, joints.astype(np.float64), sequence.keypoints2d.astype(np.float64))
    if not exact:
        real = triangulated(real)
    config = NoiseConfig()
    measured = []
    for k in range(scenes):
        take = imitated(real, np.random.default_rng([seed, k]), config)
        measured.append(measure(take if exact else triangulated(take)))
    table = Table("", title=f"{sequence.name}: {scenes} imitated scenes, seed {seed}")
    for heading in ("detections", "imitated", "10 %", "90 %"):
        table.add_column(heading, justify="right")
    for key, value in measure(real).items():
        across = np.array([figures[key] for figures in measured])
        spread = np.nanpercentile(across, [50, 10, 90]) if np.isfinite(across).any() else np.full(3, np.nan)
        digits = 2 if abs(value) < 5 and "%" not in key else 1
        table.add_row(key, *("-" if np.isnan(x) else f"{x:.{digits}f}" for x in (value, *spread)))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("captures", nargs="*", default=["shelf_dev", "duo_a", "duo_b"])
    parser.add_argument("--folder", type=Path, default=DATA, help="folder of the captures")
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", RuntimeWarning)  # means of joints nobody detected
    for name in arguments.captures:
        report(arguments.folder / name, arguments.scenes, arguments.seed, Console(width=120))


if __name__ == "__main__":
    main()
