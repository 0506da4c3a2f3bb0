"""Training samples of the volumetric estimator, made on the fly: batch k of a seed is always the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from avatarpose.body import BodyModel
from avatarpose.cameras import Cameras
from avatarpose.estimate.volumetric.volume import SIDE, Frames, Views, convert_gaussians, feature_volume
from avatarpose.skeletons import convert
from avatarpose.train.motion import MotionPool
from avatarpose.train.noise import detect, draw_scene, gaussians
from avatarpose.train.noise_config import NoiseConfig
from avatarpose.train.people import PeopleConfig, make_people
from avatarpose.train.rigs import RigConfig, random_rig

_HIPS, _SHOULDERS = (11, 12), (5, 6)


@dataclass(frozen=True)
class SampleConfig:
    """What the samples are like."""

    people: PeopleConfig = field(default_factory=PeopleConfig)
    rigs: RigConfig = field(default_factory=RigConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    skeleton: str = "coco17"
    anchor_error: float = 0.025
    """Metres: spread per axis of the error of pelvises and necks (the paper measures 20 to 30 mm in all)."""
    anchor_far: float = 0.05
    """Share of the anchors whose error is three times as large."""
    other_missing: float = 0.05
    """Share of the other people nobody found."""
    foreign: float = 0.1
    """Factor of the heights of others' detections, as `VolumetricConfig.foreign`."""
    unknown_rows: float = 0.15
    """Share of the scenes in which nobody knows whose a detection is, as with heatmap files."""
    unclaimed: float = 0.05
    """Share of the detections, in the other scenes, of which nobody knows it."""
    misclaimed: float = 0.02
    """Share of the detections that are taken for the next person's."""


@dataclass(frozen=True)
class Batch:
    """B volumes, each about one person of a scene. NaN: nobody.

    Attributes:
        views, frames: what is seen and where the volumes stand.
        own, others: anchors (pelvis, neck) as the estimator would find them, metres, volume frame.
        joints: truth of the person, metres, volume frame.
        everyone: truth of all people of the scene.
    """

    views: Views
    frames: Frames
    own: Float[Tensor, "samples 2 3"]
    others: Float[Tensor, "samples others 2 3"]
    joints: Float[Tensor, "samples joints 3"]
    everyone: Float[Tensor, "samples people joints 3"]

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        frames = Frames(self.frames.origin.to(device), self.frames.R_world_volume.to(device))
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name not in ("views", "frames")}
        return Batch(views=self.views.to(device), frames=frames, **tensors)

    def features(self, grid: Float[Tensor, "voxels 3"]) -> Float[Tensor, "samples joints+1 voxels"]:
        """The keypoint feature volumes, see `feature_volume`."""
        return feature_volume(self.views, self.frames.to_world(grid[None]))


class SampleMaker:
    """Makes batches from poses."""

    def __init__(
        self,
        pool: MotionPool,
        body: BodyModel,
        config: SampleConfig,
        seed: int,
        rig: Callable[[np.random.Generator], Cameras] | None = None,
    ) -> None:
        """`rig` draws the cameras; by default at random as `config.rigs` says."""
        self.pool, self.body, self.config, self.seed = pool, body, config, seed
        self.rig = rig or (lambda rng: random_rig(rng, config.rigs))

    def batch(self, index: int, size: int) -> Batch:
        """`size` volumes; scenes are made until there are enough people, the last one's spare people are left out."""
        rng = np.random.default_rng([self.seed, index])
        drawn = make_people(self.pool, self.body, rng, self.config.people, count=size)
        samples, scenes = [], []
        for people in drawn:
            people = people[torch.isfinite(people).all(dim=-1).all(dim=-1)]
            if len(people) == 0:
                continue
            cameras = self.rig(rng)
            scene = draw_scene(len(people), cameras, rng, self.config.noise)
            found = detect(people, cameras, rng, self.config.noise, scene)
            evidence = gaussians(found, rng, self.config.noise, scene.width)
            if self.config.skeleton != "coco17":
                evidence = convert_gaussians(evidence, self.config.skeleton)
            scenes.append((people, self._anchors(people, rng)))
            claimed = self._claims(found.person, len(people), rng)
            for p in range(len(people)):
                weight = np.where((claimed >= 0) & (claimed != p), self.config.foreign, 1.0).astype(np.float32)
                own = replace(evidence, heights=evidence.heights * torch.from_numpy(weight)[..., None])
                samples.append((len(scenes) - 1, p, cameras, own))
            if len(samples) >= size:
                break
        samples = samples[:size]
        return self._collect(samples, scenes, rng)

    def _claims(self, person: np.ndarray, people: int, rng: np.random.Generator) -> np.ndarray:
        """Whose each detection (V, D) is taken to be; -1: nobody knows."""
        chance = rng.random(person.shape)
        wrong = (chance < self.config.misclaimed) & (person >= 0)
        claimed = np.where(wrong, (person + 1) % people, person)
        unknown = rng.random(person.shape) < self.config.unclaimed
        return np.where(unknown | (rng.random() < self.config.unknown_rows), -1, claimed)

    def _anchors(self, people: Tensor, rng: np.random.Generator) -> Tensor:
        """Pelvises and necks (P, 2, 3) as found: the truth with errors."""
        truth = torch.stack((people[:, _HIPS].mean(dim=1), people[:, _SHOULDERS].mean(dim=1)), dim=1)
        spread = np.where(rng.random((len(people), 2, 1)) < self.config.anchor_far, 3.0, 1.0) * self.config.anchor_error
        return truth + torch.from_numpy((rng.normal(size=truth.shape) * spread).astype(np.float32))

    def _collect(self, samples: list, scenes: list, rng: np.random.Generator) -> Batch:
        up = torch.tensor([0.0, 0.0, 1.0])
        anchors = torch.stack([scenes[s][1][p] for s, p, _, _ in samples])
        frames = Frames.at(anchors[:, 0], anchors[:, 1], up)
        room = max(len(scenes[s][0]) for s, *_ in samples)
        everyone = torch.full((len(samples), room, 17, 3), torch.nan)
        others = torch.full((len(samples), max(room - 1, 1), 2, 3), torch.nan)
        own = torch.empty(len(samples), 17, 3)
        for i, (s, p, _, _) in enumerate(samples):
            people, found = scenes[s]
            everyone[i, : len(people)], own[i] = people, people[p]
            rest = [q for q in range(len(people)) if q != p and rng.random() >= self.config.other_missing]
            others[i, : len(rest)] = found[rest]
        if self.config.skeleton != "coco17":
            everyone, own = (convert(x, "coco17", self.config.skeleton) for x in (everyone, own))

        def local(points: Tensor) -> Tensor:
            return frames.to_volume(points.flatten(1, -2)).reshape(points.shape)

        return Batch(
            views=Views.stack([(cameras, gaussians) for _, _, cameras, gaussians in samples]),
            frames=frames, own=local(anchors), others=local(others), joints=local(own), everyone=local(everyone),
        )  # fmt: skip


def inside(joints: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Whether joints of the volume frame are in the volume; those that are not cannot be asked of the network."""
    return (joints.abs() < SIDE / 2).all(dim=-1)
