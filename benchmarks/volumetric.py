"""The volumetric network on people, poses and rigs it has not seen: `python -m benchmarks.volumetric`.

Two people in contact, in poses of clips left out of the training, before random rigs of exactly 8 and exactly 4
cameras; imitated detections and exact heatmaps of everything in sight; anchors with the errors of training. For each
joint group, as mean and standard error over the scenes (both people of a scene are one draw):

    MPJPE    mean error, mm, no alignment; every joint counts, one without a place as 500 mm
    PCK@50   share of the joints within 50 mm, percent
    strays   share of the joints that lie nearer to the other person's joint of that name than to their own, percent

`network` is what comes out of the voxels, `polished` the same drawn to the rays (estimate/volumetric/polish.py); both
are told whose detections are whose, with the errors of training. `unclaimed` is polished, but not told, as with
heatmap files. `known identities` is plain triangulation of the same detections, told whose each joint is and which are
misplaced (taken, exchanged, merged, wild).

Several weights, `--weights full=a.safetensors no_anchors=b.safetensors`, are run on the same samples and compared with
the first; `--rig SEQUENCE` puts everybody before that capture's cameras instead of random ones. `--tune-polish`
compares settings of the polish instead, on new scenes of the clips that were trained on.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from avatarpose.body import load_body
from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.estimate.volumetric.config import PolishConfig, VolumetricConfig
from avatarpose.estimate.volumetric.estimator import FrameEstimator, _dimmed, packaged_weights
from avatarpose.estimate.volumetric.evidence import Gaussians
from avatarpose.estimate.volumetric.network import VolumetricNetwork, load_network
from avatarpose.estimate.volumetric.polish import polish
from avatarpose.sequence import Sequence
from avatarpose.train.motion import load_motion
from avatarpose.train.noise import Detections, NoiseConfig, detect, draw_scene, gaussians
from avatarpose.train.noise_config import HIDDEN, OWN
from avatarpose.train.people import PeopleConfig, make_people
from avatarpose.train.rigs import RigConfig, Stage, rig_from, stage_of
from avatarpose.train.samples import SampleConfig, SampleMaker
from benchmarks.detector_noise import DATA, GROUPS
from benchmarks.known_identity import triangulate

MOTION = tuple(DATA / "motion" / f"cmu_{name}_15joints_30fps.npz" for name in ("solo", "pairs"))
HELD_OUT = "bvh_49_*"
NOT_TRAINED = (HELD_OUT, "salsa_02", "salsa_04")
IN_CONTACT = PeopleConfig(number=(0.0, 1.0), touching_share=1.0, apart_share=0.0)
VIEWS = (8, 4)
EVIDENCE = {"imitated detections": NoiseConfig(), "exact heatmaps": NoiseConfig.none()}
METHODS = ("network", "polished", "unclaimed")
TRIANGULATION = "known identities"
PARTS = {"all": slice(0, 17), **GROUPS}
MISSING = 0.5  # metres, as in avatarpose.evaluate
NEAR = 0.05  # metres, of PCK@50
UP = torch.tensor([0.0, 0.0, 1.0])
RATIOS = (0.5, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # of the two spreads
RADII = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3)  # metres
FEW_VIEWS = 5


@dataclass(frozen=True)
class Scene:
    """People, who sees them, and what of them is given.

    Attributes:
        truth: (P, 17, 3) metres, world.
        anchors: (P, 2, 3) pelvises and necks as found.
        missed: (P, P) whom the volume of whom is not told of.
        rows: (P, V) detection of each person in each view as claimed, -1 for none.
    """

    cameras: Cameras
    truth: Float[np.ndarray, "people 17 3"]
    anchors: Float[Tensor, "people 2 3"]
    missed: Bool[np.ndarray, "people people"]
    rows: Int[np.ndarray, "people views"]
    detections: Detections
    evidence: Gaussians


def make_scenes(maker: SampleMaker, count: int) -> Iterator[Scene]:
    """Scenes as the maker's config says; people and anchors are the same whatever the rig and the noise."""
    config = maker.config
    for k in range(count):
        rng, more = np.random.default_rng([maker.seed, k]), np.random.default_rng([maker.seed, k, 1])
        people = make_people(maker.pool, maker.body, rng, config.people, count=1)[0]
        people = people[torch.isfinite(people).all(dim=-1).all(dim=-1)]
        anchors = maker._anchors(people, rng)
        missed = rng.random((len(people), len(people))) < config.other_missing
        cameras = maker.rig(more)
        quality = draw_scene(len(people), cameras, more, config.noise)
        found = detect(people, cameras, more, config.noise, quality)
        evidence = gaussians(found, more, config.noise, quality.width)
        rows = _longest_rows(maker._claims(found.person, len(people), more), found, len(people))
        yield Scene(cameras, people.double().numpy(), anchors, missed, rows, found, evidence)


def _longest_rows(
    claimed: Int[np.ndarray, "views rows"], found: Detections, people: int
) -> Int[np.ndarray, "people views"]:
    """Of the rows claimed for a person in a view the one with most joints; -1 for none."""
    joints = np.isfinite(found.rows[..., 0]).sum(axis=-1)
    joints = np.where(claimed == np.arange(people)[:, None, None], joints, 0)  # (P, V, D)
    return np.where(joints.max(axis=-1) > 0, joints.argmax(axis=-1), -1)


def locate(scene: Scene, network: VolumetricNetwork, claimed: bool = True) -> Float[np.ndarray, "people 17 3"]:
    """Joints by the network, not polished; metres, world. `claimed`: whether it is told whose detections are whose."""
    estimator = FrameEstimator(network, scene.cameras, UP, VolumetricConfig(polish=None))
    everybody, rows = np.arange(len(scene.truth)), scene.rows if claimed else np.full_like(scene.rows, -1)
    joints, _ = estimator(scene.evidence, scene.anchors, everybody, 0.0, rows)
    for p in everybody:
        known = np.array([p, *(q for q in everybody if q != p and not scene.missed[p, q])])
        if len(known) < len(everybody):
            joints[p] = estimator(scene.evidence, scene.anchors[known], known, 0.0, rows[known])[0][0]
    return joints


def polish_own(
    joints: Float[np.ndarray, "people 17 3"], scene: Scene, settings: PolishConfig, claimed: bool = True
) -> Float[np.ndarray, "people 17 3"]:
    """Joints of `locate` drawn to the rays, as `FrameEstimator` does it."""
    drawn = []
    for p in range(len(joints)):
        own = _dimmed(scene.evidence, scene.rows, p, VolumetricConfig.foreign) if claimed else scene.evidence
        drawn.append(polish(joints[p : p + 1], own, scene.cameras, settings)[0])
    return np.concatenate(drawn)


def triangulate_known(scene: Scene) -> Float[np.ndarray, "people 17 3"]:
    """Plain triangulation of each person's own joints; NaN where fewer than two views have it."""
    found = scene.detections
    taken = np.full((len(found.rows), *scene.truth.shape), np.nan)
    for v, d in np.argwhere(found.person >= 0):
        best = taken[v, found.person[v, d]]
        # The surer one where somebody was detected twice.
        own = np.isin(found.kind[v, d], (OWN, HIDDEN)) & ~(best[:, 2] >= found.rows[v, d, :, 2])
        best[own] = found.rows[v, d, own]
    with np.errstate(divide="ignore", invalid="ignore"):  # joints nobody sees
        return triangulate(taken[..., :2], taken[..., 2], scene.cameras)


@dataclass(frozen=True)
class Errors:
    """Of S scenes: distances from the truth, metres, and whether the other person's joint is nearer; (S, P, 17)."""

    distance: Float[np.ndarray, "scenes people 17"]
    strayed: Bool[np.ndarray, "scenes people 17"]

    @classmethod
    def of(cls, found: list[np.ndarray], scenes: list[Scene]) -> Errors:
        truth = np.stack([scene.truth for scene in scenes])
        away = np.linalg.norm(np.stack(found)[:, :, None] - truth[:, None], axis=-1)  # (S, P, P, 17)
        away = np.where(np.isnan(away), MISSING, away)
        own = np.eye(truth.shape[1], dtype=bool)[..., None]
        distance = np.where(own, away, 0.0).sum(axis=2)
        return cls(distance, np.where(own, np.inf, away).min(axis=2) < distance)

    def figures(self) -> dict[str, Float[np.ndarray, " scenes"]]:
        """Each scene's figures."""
        parts = {f"MPJPE {name}": 1000 * self.distance[..., part] for name, part in PARTS.items()}
        parts |= {f"PCK@50 {name}": 100.0 * (self.distance[..., part] < NEAR) for name, part in PARTS.items()}
        parts["strays all"] = 100.0 * self.strayed
        return {name: values.mean(axis=(1, 2)) for name, values in parts.items()}


def mean_and_error(values: Float[np.ndarray, " scenes"]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def show(values: np.ndarray, signed: bool = False) -> str:
    mean, error = mean_and_error(values)
    return f"{mean:{'+' if signed else ''}.1f} ± {error:.1f}"


def figures_table(rows: dict[str, Errors], title: str) -> Table:
    """Joint groups across, estimators down, MPJPE before PCK."""
    table = Table("", title=title)
    for heading in (*PARTS, "strays"):
        table.add_column(heading, justify="right")
    figures = {name: errors.figures() for name, errors in rows.items()}
    for figure in ("MPJPE", "PCK@50"):
        table.add_row(f"[bold]{figure}, {'mm' if figure == 'MPJPE' else '%'}")
        for name, values in figures.items():
            strays = show(values["strays all"]) if figure == "PCK@50" else ""
            table.add_row(name, *(show(values[f"{figure} {part}"]) for part in PARTS), strays)
        table.add_section()
    return table


def differences_table(results: dict[int, dict[str, Errors]], names: list[str], method: str, title: str) -> Table:
    """Each of the other weights less the first, on the same scenes."""
    table = Table("", title=title)
    columns = []
    for views, rows in results.items():
        first = rows[f"{names[0]}, {method}"].figures()
        for name in names[1:]:
            table.add_column(f"{name}\n{views} views", justify="right")
            other = rows[f"{name}, {method}"].figures()
            columns.append({figure: other[figure] - first[figure] for figure in first})
    wanted = [*(f"MPJPE {part}" for part in PARTS), "PCK@50 all", "strays all"]
    for figure in wanted:
        cells = []
        for column in columns:
            mean, error = mean_and_error(column[figure])
            cells.append(show(column[figure], signed=True) + (" undecided" if abs(mean) <= 2 * error else ""))
        table.add_row(figure, *cells)
    return table


def compare(
    networks: dict[str, VolumetricNetwork], maker: SampleMaker, count: int, console: Console, rig: Stage | None = None
) -> None:
    """Prints the figures of all networks, before random rigs or the given one, and their differences if there are
    several."""
    progress = Console(stderr=True)
    for evidence, noise in EVIDENCE.items():
        results: dict[int, dict[str, Errors]] = {}
        for views in VIEWS if rig is None else (len(rig.cameras),):
            config = replace(maker.config, noise=noise, rigs=RigConfig(cameras=(views, views)))
            given = None if rig is None else partial(rig_from, rig)
            these = SampleMaker(maker.pool, maker.body, config, maker.seed, given)
            scenes, found = [], {}
            for scene in track(make_scenes(these, count), f"{views} views, {evidence}", count, console=progress):
                scenes.append(scene)
                for name, network in networks.items():
                    joints, unclaimed = locate(scene, network), locate(scene, network, claimed=False)
                    polished = polish_own(joints, scene, PolishConfig())
                    unclaimed = polish_own(unclaimed, scene, PolishConfig(), claimed=False)
                    for method, placed in zip(METHODS, (joints, polished, unclaimed), strict=True):
                        found.setdefault(f"{name}, {method}", []).append(placed)
                found.setdefault(TRIANGULATION, []).append(triangulate_known(scene))
            results[views] = {row: Errors.of(joints, scenes) for row, joints in found.items()}
            lost = np.mean([np.isnan(joints[..., 0]).mean() for joints in found[TRIANGULATION]])
            title = f"{views} views, {evidence}, {count} scenes of two people in contact"
            console.print(figures_table(results[views], title))
            console.print(f"{100 * lost:.2f} % of the joints cannot be triangulated: fewer than two views have them\n")
        if len(networks) > 1:
            for method in METHODS:
                title = f"{method}, {evidence}: less {next(iter(networks))}, same {count} scenes"
                console.print(differences_table(results, list(networks), method, title))


def tune(name: str, network: VolumetricNetwork, maker: SampleMaker, count: int, console: Console) -> None:
    """Prints the error of settings of the polish, in scenes and rigs as trained on.

    Only the ratio of the two spreads matters to where joints come to lie, so only the network's is changed.
    """
    settings = {
        (ratio, radius): replace(PolishConfig(), radius=radius, network_spread=ratio * PolishConfig.ray_spread)
        for ratio in RATIOS
        for radius in RADII
    }
    views, found = [], {key: [] for key in (*settings, "default", "network")}
    for scene in track(make_scenes(maker, count), "scenes", count, console=Console(stderr=True)):
        joints = locate(scene, network)
        placed = {key: polish_own(joints, scene, value) for key, value in settings.items()}
        placed |= {"default": polish_own(joints, scene, PolishConfig()), "network": joints}
        views.append(len(scene.cameras))
        for key, value in placed.items():
            distance = np.linalg.norm(value - scene.truth, axis=-1)
            found[key].append((1000 * distance.mean(), 100 * (distance < NEAR).mean()))
    every = {key: np.array(values) for key, values in found.items()}  # (scenes, 2)
    few = np.array(views) <= FEW_VIEWS
    console.print(f"{name}: ray_spread {PolishConfig.ray_spread} m everywhere, only the ratio of the spreads matters")
    chosen_views = {"all": few | ~few, f"{FEW_VIEWS} views or fewer": few, f"more than {FEW_VIEWS} views": ~few}
    for label, chosen in chosen_views.items():
        if chosen.sum() > 1:
            _print_tuning({key: values[chosen] for key, values in every.items()}, f"{label}, {chosen.sum()}", console)


def _print_tuning(found: dict, label: str, console: Console) -> None:
    grid = [key for key in found if isinstance(key, tuple)]
    best = min(grid, key=lambda key: found[key][:, 0].mean())
    title = f"{label} scenes: MPJPE mm; * best, ~ not distinguishable from it (two standard errors, paired)"
    table = Table("network_spread, m", *(f"radius {radius}" for radius in RADII), title=title)
    for ratio in RATIOS:
        cells = []
        for radius in RADII:
            values = found[ratio, radius][:, 0]
            more, error = mean_and_error(values - found[best][:, 0])
            mark = "*" if (ratio, radius) == best else "~" if more <= 2 * error else " "
            cells.append(f"{values.mean():.2f} {mark}")
        table.add_row(f"{ratio * PolishConfig.ray_spread:.4f}", *cells)
    console.print(table)
    for key in (best, "default", "network"):
        what = f"best: network_spread {key[0] * PolishConfig.ray_spread:.4f}, radius {key[1]}" if key == best else key
        mm, near = found[key].T
        console.print(f"{what}: MPJPE {show(mm)} mm, PCK@50 {show(near)} %")
    console.print()


def read_networks(weights: list[str]) -> dict[str, VolumetricNetwork]:
    """Networks by name, from `name=path` or a path alone.

    Raises:
        InputError: no such weights, a name given twice, or joints other than COCO's.
    """
    networks: dict[str, VolumetricNetwork] = {}
    for entry in weights:
        name, _, path = entry.rpartition("=")
        name = name or Path(path).stem
        if name in networks:
            raise InputError("two weights of one name", expected="name=path with names of their own", found=name)
        networks[name] = load_network(Path(path))
        if networks[name].config.skeleton != "coco17":
            found = networks[name].config.skeleton
            raise InputError("only networks of COCO joints can be compared", file=path, expected="coco17", found=found)
    return networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=[f"packaged={packaged_weights()}"], metavar="NAME=PATH")
    parser.add_argument("--samples", type=int, default=300, help="people for each number of views, two to a scene")
    parser.add_argument("--motion", type=Path, nargs="+", default=list(MOTION), help="files of motion clips")
    parser.add_argument("--seed", type=int, default=49)
    parser.add_argument("--rig", type=Path, help="sequence whose cameras are taken, as `--finetune-rig` takes them")
    parser.add_argument("--tune-polish", action="store_true", help="compare settings of the polish, first weights only")
    arguments = parser.parse_args()
    networks, body = read_networks(arguments.weights), load_body()
    pool = load_motion(arguments.motion, body, cache=Path.home() / ".cache" / "avatarpose")
    console, count = Console(width=max(120, int(os.environ.get("COLUMNS", 150)))), max(2, arguments.samples // 2)
    if arguments.tune_polish:
        trained = pool.select(lambda clip: not any(fnmatchcase(clip, kept_out) for kept_out in NOT_TRAINED))
        name, network = next(iter(networks.items()))
        samples = SampleConfig(people=PeopleConfig(number=(0.0, 1.0)), unknown_rows=0.0)
        # Trainings draw with [seed, batch]; this seed is no training's.
        tune(name, network, SampleMaker(trained, body, samples, 10**6), count, console)
        return
    held_out = pool.select(lambda clip: fnmatchcase(clip, HELD_OUT))
    if len(held_out) == 0:
        raise InputError("no held-out motion", file=arguments.motion[0], expected=f"clips called {HELD_OUT}")
    console.print(f"{len(held_out.clip_names)} held-out clips, {len(held_out)} poses; seed {arguments.seed}")
    samples = SampleConfig(people=IN_CONTACT, unknown_rows=0.0)
    rig = stage_of(Sequence.open(arguments.rig)) if arguments.rig else None
    compare(networks, SampleMaker(held_out, body, samples, arguments.seed), count, console, rig)


if __name__ == "__main__":
    main()
