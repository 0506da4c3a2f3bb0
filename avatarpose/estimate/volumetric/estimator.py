"""The volumetric estimator: a capture's 2D evidence to everybody's 3D joints (Zhou et al., CloseMoCap)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from avatarpose.errors import InputError
from avatarpose.estimate.volumetric.config import VolumetricConfig
from avatarpose.estimate.volumetric.evidence import Evidence, Gaussians
from avatarpose.estimate.volumetric.network import VolumetricNetwork, load_network
from avatarpose.estimate.volumetric.people import Centres, find_people
from avatarpose.estimate.volumetric.polish import polish
from avatarpose.estimate.volumetric.volume import (
    PITCH,
    RESOLUTION,
    Frames,
    Views,
    anchor_volume,
    convert_gaussians,
    feature_volume,
    others_volume,
)
from avatarpose.results import Joints3D
from avatarpose.skeletons import convert, convert_scores

if TYPE_CHECKING:
    from avatarpose.cameras import Cameras
    from avatarpose.sequence import Sequence

Progress = Callable[[int, int], None]

PACKAGED = "volumetric_light.safetensors"


def packaged_weights() -> Path:
    """The weights that come with the package."""
    return Path(str(files("assets") / PACKAGED))


def estimate_volumetric(
    sequence: Sequence, config: VolumetricConfig, progress: Progress | None = None
) -> Joints3D:
    """People by their pelvises and necks, joints by the network; see `avatarpose.estimate.estimate`."""
    if len(sequence.cameras) < 2:
        raise InputError("one camera cannot place joints", file=sequence.folder, expected="2 cameras or more", found=1)
    network = load_network(config.weights or packaged_weights(), config.device)
    numbers = np.asarray(sequence.frames)
    times = numbers / float(sequence.fps)
    evidence = Evidence(sequence, config.sigma, config.min_score)
    total = 3 * len(numbers)  # find_people passes twice

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    centres = find_people(evidence, sequence.cameras, times, config.centres, report)
    if not centres.valid.any():
        raise InputError(
            "no person found", file=sequence.folder / ("heatmaps2d" if evidence.from_heatmaps else "keypoints2d"),
            expected="a person whose pelvis and neck two or more cameras agree on", found="nobody",
            hint="Check the calibration and that the cameras are synchronised",
        )  # fmt: skip
    estimator = FrameEstimator(network, sequence.cameras, torch.from_numpy(sequence.up_vector), config, sequence.fps)
    shape = (*centres.valid.shape, 17)
    keypoints, scores = np.full((*shape, 3), np.nan, np.float32), np.zeros(shape, np.float32)
    for f in range(len(numbers)):
        present = np.flatnonzero(centres.valid[:, f])
        if len(present):
            anchors, rows = _anchors(centres, present, f), centres.rows[present, f]
            found, score = estimator(evidence[f], anchors, present, times[f], rows)
            keypoints[present, f], scores[present, f] = found, score
        if progress is not None:
            progress(2 * len(numbers) + f + 1, total)
    names = [f"p{i}" for i in range(len(keypoints))]
    return Joints3D(people=names, frames=numbers, keypoints=keypoints, scores=scores, valid=centres.valid)


def _anchors(centres: Centres, people: np.ndarray, f: int) -> Float[Tensor, "people 2 3"]:
    """Pelvises and necks of these people in a frame."""
    both = np.stack((centres.pelvis[people, f], centres.neck[people, f]), axis=1)
    return torch.from_numpy(both.astype(np.float32))


def _dimmed(
    gaussians: Gaussians, rows: Int[np.ndarray, "people views"], person: int, factor: float
) -> Gaussians:
    """The Gaussians with the heights of other people's detections times `factor`."""
    weight = torch.ones_like(gaussians.heights[..., 0])
    for p in sorted(range(len(rows)), key=lambda p: p == person):  # his own last
        view = np.flatnonzero(rows[p] >= 0)
        weight[view, rows[p, view]] = 1.0 if p == person else factor
    return replace(gaussians, heights=gaussians.heights * weight[..., None])


class FrameEstimator:
    """The network applied to the people of one frame after another."""

    def __init__(
        self,
        network: VolumetricNetwork,
        cameras: Cameras,
        up: Float[Tensor, " 3"],
        config: VolumetricConfig,
        fps: float = 0.0,
    ) -> None:
        self.network, self.cameras, self.config = network, cameras.to(dtype=torch.float32, device="cpu"), config
        self.up, self.device = up.float(), torch.device(config.device)
        self.skeleton = network.config.skeleton
        self.filter = _TemporalFilter(config) if config.temporal_filter and fps >= config.filter_fps else None

    def __call__(
        self,
        gaussians: Gaussians,
        anchors: Float[Tensor, "people 2 3"],
        people: np.ndarray,
        time: float,
        rows: Int[np.ndarray, "people views"] | None = None,
    ) -> tuple[Float[np.ndarray, "people 17 3"], Float[np.ndarray, "people 17"]]:
        """COCO-17 joints (metres, world; NaN where the network's skeleton has none) and their scores.

        Args:
            anchors: pelvis and neck of each person, metres, world.
            people: who they are, for the temporal filter.
            time: seconds.
            rows: each person's detection in each view, -1 where there is none; None: whose is what is not known.
        """
        converted = gaussians if self.skeleton == "coco17" else convert_gaussians(gaussians, self.skeleton)
        own = [converted] * len(anchors)
        if rows is not None and self.config.foreign != 1:
            own = [_dimmed(converted, rows, p, self.config.foreign) for p in range(len(anchors))]
        step = self.config.batch
        parts = [
            self._network(own, anchors, slice(i, i + step), people[i : i + step], time)
            for i in range(0, len(anchors), step)
        ]
        joints, spread = (np.concatenate(part) for part in zip(*parts, strict=True))
        views = np.zeros(spread.shape)
        if self.config.polish is not None:
            drawn = [polish(joints[p : p + 1], own[p], self.cameras, self.config.polish) for p in range(len(joints))]
            joints, views = (np.concatenate(part) for part in zip(*drawn, strict=True))
        if self.filter is not None:
            self.filter.update(people, joints, time)
        scores = joint_scores(spread, views)
        if self.skeleton != "coco17":
            joints = convert(joints, self.skeleton, "coco17")
            scores = convert_scores(scores, self.skeleton, "coco17")
        return joints, scores

    def _network(
        self, own: list[Gaussians], anchors: Tensor, part: slice, people: np.ndarray, time: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Joints (B, J, 3), metres, world, and the spread of their probabilities along an axis (B, J), metres."""
        mine = anchors[part]
        frames = Frames.at(mine[:, 0], mine[:, 1], self.up)
        # Everybody else, as seen from each: (B, P, 2, 3), oneself left out.
        others = anchors[None].expand(len(mine), -1, -1, -1).clone()
        index = torch.arange(len(anchors))
        others[index[part, None] == index[None]] = torch.nan
        views = Views.stack([(self.cameras, gaussians) for gaussians in own[part]]).to(self.device)
        turns = np.arange(self.config.turns) * 2 * np.pi / self.config.turns
        found = [self._one_turn(frames.turned(turn), views, mine, others, people, time) for turn in turns]
        joints, variance = (np.mean(part, axis=0) for part in zip(*found, strict=True))
        return joints, np.sqrt(variance)

    @torch.inference_mode()
    def _one_turn(
        self, frames: Frames, views: Views, mine: Tensor, others: Tensor, people: np.ndarray, time: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Joints (B, J, 3), metres, world, and the variance of their probabilities along an axis (B, J)."""
        network, grid, sigma = self.network, self.network.grid, self.network.config.anchor_sigma
        own, others = (frames.to_volume(x.flatten(1, -2)).reshape(x.shape) for x in (mine, others))
        features = feature_volume(views, frames.to_world(grid.cpu()[None]).to(self.device))
        own, others = own.to(self.device), others.to(self.device)
        shape = (len(mine), -1, RESOLUTION, RESOLUTION, RESOLUTION)
        heat = network.heatmaps(features.reshape(shape)).sigmoid()
        if self.filter is not None:
            expected, radius = self.filter.expect(people, network.config.joints, time)
            expected = frames.to_volume(torch.from_numpy(expected).float()).to(self.device)
            # From the voxels' cells, not their middles: those may all be farther away than the radius.
            away = ((grid[None, None] - expected[:, :, None]).abs() - PITCH / 2).clamp_min(0).norm(dim=-1)
            far = away > torch.from_numpy(radius).float().to(self.device)[..., None]  # never where nothing is expected
            heat = heat.masked_fill(far.reshape(heat.shape), 0.0)
        anchored = [anchor_volume(own, sigma), others_volume(others, sigma)]
        joints, probability = network.joints(heat, *(x.reshape(shape) for x in anchored))
        variance = (probability @ grid.square() - joints.square()).clamp_min(0).mean(dim=-1)
        return frames.to_world(joints.cpu()).double().numpy(), variance.cpu().double().numpy()


def joint_scores(
    spread: Float[np.ndarray, "people joints"], views: Float[np.ndarray, "people joints"]
) -> Float[np.ndarray, "people joints"]:
    """Confidence in joints, 0 to 1: falls with the spread of the network's probabilities, rises with the views."""
    return 1.0 / (1.0 + (spread / 0.06) ** 2) * (0.3 + 0.7 * views / (views + 1.0))


class _TemporalFilter:
    """Where each joint is expected from the two frames before, and how far off such expectations usually are."""

    def __init__(self, config: VolumetricConfig) -> None:
        self.config = config
        self.last: dict[int, list[tuple[float, np.ndarray]]] = {}
        self.error: dict[int, np.ndarray] = {}

    def expect(self, people: np.ndarray, joints: int, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Places (P, J, 3), metres, world, and radii (P, J), infinite where nothing is expected."""
        places, radii = [], []
        for person in people:
            place = self._predict(person, time)
            places.append(np.zeros((joints, 3)) if place is None else place)
            usual = self.error.get(person)
            radius = np.full(joints, np.inf) if place is None or usual is None else 3 * usual
            radii.append(np.maximum(radius, self.config.filter_radius))
        return np.stack(places), np.stack(radii)

    def update(self, people: np.ndarray, joints: np.ndarray, time: float) -> None:
        """Takes in what was found."""
        for person, found in zip(people, joints, strict=True):
            place = self._predict(person, time)
            if place is not None:
                error = np.linalg.norm(found - place, axis=-1)
                self.error[person] = 0.8 * self.error.get(person, error) + 0.2 * error
            self.last[person] = [*self.last.get(person, [])[-1:], (time, found)]

    def _predict(self, person: int, time: float) -> np.ndarray | None:
        known = self.last.get(person, [])
        if len(known) < 2:
            return None
        (t0, x0), (t1, x1) = known
        if max(t1 - t0, time - t1) > 1.5 / self.config.filter_fps:  # he was away, or frames are left out
            return None
        return x1 + (x1 - x0) * (time - t1) / (t1 - t0)
