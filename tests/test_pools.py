"""Pools of pixels: what they hold is what the images show, drawing ahead changes nothing, and what is held out is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import torch

from avatarpose.body import load_body
from avatarpose.errors import InputError
from avatarpose.io import read_npz
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from optimize.config import RefineConfig, Stage
from optimize.held_out import HeldOut, stands_still
from optimize.pixels import BYTES_PER_PIXEL, FOREGROUND, UNKNOWN, note_disagreement
from optimize.pools import PoolsAhead, draw_pools
from optimize.refine import build_problem, run_stages
from optimize.stages import Problem

SHARP, SOFT = Stage("avatar", 10), Stage("joint", 10, blur=2.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with as_file(files("assets") / "embrace") as source:
        shutil.copytree(source, tmp_path / "embrace")
    return tmp_path / "embrace"


@pytest.fixture
def problem(folder: Path) -> Problem:
    """Bodies in the rest pose at the true pelvises: enough to say where people are."""
    sequence, body = Sequence.open(folder, frames=slice(0, 3)), load_body()
    joints = read_npz(folder / "ground_truth.npz", ["joints"])["joints"][:, :3].astype(np.float32)
    people, frames = joints.shape[:2]
    bodies = Bodies(
        people=[f"p{i}" for i in range(people)], frames=np.asarray(sequence.frames), fps=sequence.fps,
        betas=np.zeros((people, 10), np.float32), poses=np.zeros((people, frames, 72), np.float32),
        trans=joints[:, :, 0], joints=joints, keypoints=np.zeros((people, frames, 17, 3), np.float32),
        valid=np.ones((people, frames), bool), body_name=body.name, body_sha256=body.sha256,
    )  # fmt: skip
    config = RefineConfig(stages=(SHARP, SOFT), pool_pixels=300)
    return build_problem(sequence, bodies, body, config, torch.device("cpu"), 2**28)


def around(problem: Problem) -> np.ndarray:
    return problem.poses.last_joints.numpy()


def test_pixels_first_lie_around_the_registered_bodies(problem: Problem, folder: Path) -> None:
    joints = read_npz(folder / "ground_truth.npz", ["joints"])["joints"][:, :3]
    np.testing.assert_allclose(around(problem), joints, atol=1e-6)


def test_a_pool_holds_what_the_images_show(problem: Problem) -> None:
    pool = draw_pools(problem, SHARP, around(problem), seed=1)[1]
    images, cameras = problem.source.images, problem.cameras
    points = problem.source.centres[pool.camera.long()] + 3.0 * pool.direction
    assert pool.camera.unique().tolist() == list(range(len(cameras)))
    for c in range(len(cameras)):
        mine = pool.camera[:, 0] == c
        pixels, _ = cameras.project(points[mine, 0])
        column, row = pixels[c].floor().long().unbind(dim=-1)
        assert ((pixels[c] - pixels[c].floor() - 0.5).abs() < 0.01).all()
        image, mask = (torch.from_numpy(np.array(read(c, 1))) for read in (images.image, images.mask))
        torch.testing.assert_close(pool.colour[mine, 0], image[row, column])
        seen = mask[row, column]
        torch.testing.assert_close(pool.label[mine, 0] == 1, seen == FOREGROUND)
        torch.testing.assert_close(pool.label[mine, 0] == 2, seen == UNKNOWN)
        assert 0.5 < float((seen == FOREGROUND).float().mean()) < 0.9


def test_a_pool_takes_little_memory_on_the_device(problem: Problem) -> None:
    pool = draw_pools(problem, SOFT, around(problem), seed=1)[0]
    held = [values for values in vars(pool).values() if isinstance(values, torch.Tensor)]
    assert sum(values.nbytes for values in held) == BYTES_PER_PIXEL * len(pool.weight)


def test_a_batch_is_in_the_units_of_the_losses(problem: Problem) -> None:
    pool = draw_pools(problem, SHARP, around(problem), seed=1)[0]
    batch = problem.source.batch([pool], 64, torch.Generator().manual_seed(0))
    torch.testing.assert_close(batch.colour, pool.colour[batch.group, 0] / 255.0)
    assert batch.label.dtype == batch.camera.dtype == batch.person.dtype == torch.int64
    torch.testing.assert_close(batch.origin, problem.source.centres[pool.camera[batch.group, 0].long()])


def test_drawn_ahead_or_not_the_pools_are_the_same(problem: Problem) -> None:
    now = draw_pools(problem, SOFT, around(problem), seed=5)
    with PoolsAhead(problem) as ahead:
        ahead.begin(SOFT, around(problem), seed=5)
        early = ahead.take(SOFT, around(problem), seed=5)
        ahead.begin(SHARP, around(problem), seed=6)
        other = ahead.take(SOFT, around(problem), seed=5)
    for pools in (early, other):
        assert list(pools) == list(now)
        for f, pool in pools.items():
            torch.testing.assert_close(vars(pool), vars(now[f]), rtol=0, atol=0)


def test_an_image_that_cannot_be_read_is_named_by_whoever_takes_the_pools(problem: Problem, folder: Path) -> None:
    image = min((folder / "images" / problem.cameras.names[2]).iterdir())
    image.write_bytes(b"no image")
    with PoolsAhead(problem) as ahead:
        ahead.begin(SHARP, around(problem), seed=1)
        with pytest.raises(InputError, match=image.name):
            ahead.take(SHARP, around(problem), seed=1)


def test_what_is_held_out_is_never_drawn(problem: Problem) -> None:
    pools = draw_pools(problem, SHARP, around(problem), seed=1)
    held = HeldOut.take(pools, seed=2)
    assert held.frames == [0, 1, 2]
    assert all(0 < len(index) <= 0.1 * len(pools[f].weight) for f, index in zip(held.frames, held.groups, strict=True))
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        batch = problem.source.batch(list(pools.values()), 3000, generator)
        for drawn, index in zip(batch.group.split(batch.counts), held.groups, strict=True):
            assert not torch.isin(drawn, index).any()
        note_disagreement(list(pools.values()), batch, torch.rand(len(batch.frame)))
    assert all((pools[f].weight[index] == 0).all() for f, index in zip(held.frames, held.groups, strict=True))


def test_the_error_of_held_out_pixels_is_one_number_and_grows_with_the_poses_error(problem: Problem) -> None:
    problem.surfaces = problem.avatars.surfaces()
    held = HeldOut.take(draw_pools(problem, SOFT, around(problem), seed=1), seed=2)
    first, again = held.error(problem, SOFT), held.error(problem, SOFT)
    assert first.shape == (3,) and torch.equal(first, again) and (first > 0).all()
    with torch.no_grad():
        problem.poses.start_trans += torch.tensor([0.6, 0.0, 0.0])
    assert held.error(problem, SOFT).mean() > 1.02 * first.mean()


def test_one_frame_that_gains_keeps_a_stage_going() -> None:
    before = torch.tensor([1.0, 2.0, 3.0])
    assert stands_still(before, torch.tensor([0.999, 2.2, 3.0]), 0.005)
    assert not stands_still(before, torch.tensor([1.1, 2.2, 2.98]), 0.005)


@pytest.mark.parametrize(("rate", "gain", "skipped"), [(0.0, 0.005, {10}), (1.0, 0.005, {0, 2, 6}), (0.0, 0.0, {0})])
def test_a_stage_is_cut_short_when_held_out_pixels_gain_nothing(
    problem: Problem, rate: float, gain: float, skipped: set[int]
) -> None:
    """Of 20 iterations the last 6 are always made."""
    stages = (Stage("avatar", 20, learning_rate_scale=rate), Stage("avatar", 4))
    config = replace(problem.config, stages=stages, rays=256, segment=4, least_gain=gain)
    problem.config = config
    done, clocks = [], []
    run_stages(problem, config, lambda n, *_: done.append(n), save=lambda clock, _: clocks.append(clock))
    missing = sorted(set(range(1, 25)) - set(done))
    assert len(missing) in skipped and len(done) == 24 - len(missing)
    assert done[-10:] == list(range(15, 25))
    assert clocks[-1].stage == 2
