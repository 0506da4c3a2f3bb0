"""People to train with: bodies near each other, in many ways, that do not run through each other."""

import numpy as np
import pytest
import torch

from avatarpose.body import load_body
from avatarpose.skeletons import COCO17
from avatarpose.train.capsules import overlap, segment_distance
from avatarpose.train.motion import MotionPool
from avatarpose.train.people import PeopleConfig, make_people

HIPS = COCO17.indices(["left_hip", "right_hip"])
LIMBS = [(5, 7), (7, 9), (6, 8), (8, 10), (11, 13), (13, 15), (12, 14), (14, 16)]


@pytest.fixture(scope="module")
def body():
    return load_body()


def _pool(size: int = 200) -> MotionPool:
    """Standing people with bent limbs; rows 2i and 2i + 1 are pairs half a metre apart, facing each other."""
    rng = np.random.default_rng(0)
    poses = rng.normal(scale=0.15, size=(size, 72)).astype(np.float32)
    poses[:, 3 * 16 + 2] -= 1.1  # arms down
    poses[:, 3 * 17 + 2] += 1.1
    poses[:, :3] = np.pi / 2 * np.array([1.0, 0, 0])  # y up to z up, facing -y
    # Half a turn about z after that, facing +y: together half a turn about the diagonal of y and z.
    poses[1::2, :3] = np.pi / np.sqrt(2) * np.array([0.0, 1, 1])
    trans = np.zeros((size, 3), np.float32)
    trans[:, 2] = 0.95
    trans[::2, 1] = 0.25
    trans[1::2, 1] = -0.25
    pairs = np.arange(size).reshape(-1, 2)
    return MotionPool(poses, trans, np.zeros(size, np.int64), ("made",), pairs)


def _pelvis(people: torch.Tensor) -> torch.Tensor:
    return people[..., HIPS, :].mean(dim=-2)


def _forward(people: torch.Tensor) -> torch.Tensor:
    across = people[..., HIPS[0], :] - people[..., HIPS[1], :]
    forward = torch.linalg.cross(across, torch.tensor([0.0, 0, 1]).expand_as(across))
    return torch.nn.functional.normalize(forward, dim=-1)


def test_segment_distance() -> None:
    cross = np.array([[-1.0, 0, 0], [1, 0, 0]]), np.array([[0.0, -1, 0.5], [0, 1, 0.5]])
    assert np.isclose(segment_distance(cross[0][0], cross[0][1], cross[1][0], cross[1][1]), 0.5)
    parallel = np.array([2.0, 0.3, 0]), np.array([3.0, 0.3, 0])  # beside the end of the first
    assert np.isclose(segment_distance(cross[0][0], cross[0][1], *parallel), np.hypot(1.0, 0.3))
    point = np.array([0.5, 0.7, 0])
    assert np.isclose(segment_distance(cross[0][0], cross[0][1], point, point), 0.7)
    rng = np.random.default_rng(0)
    a, b, c, d = rng.normal(size=(4, 50, 3))
    s = np.linspace(0, 1, 201)[:, None, None]
    on_first, on_second = a + s * (b - a), c + s * (d - c)
    brute = np.linalg.norm(on_first[:, None] - on_second[None], axis=-1).min(axis=(0, 1))
    np.testing.assert_allclose(segment_distance(a, b, c, d), brute, atol=0.02)
    assert (segment_distance(a, b, c, d) <= brute + 1e-9).all()


def test_numbers_places_and_floor(body) -> None:
    people = make_people(_pool(), body, np.random.default_rng(0), None, 400)
    assert people.shape == (400, 4, 17, 3) and people.dtype == torch.float32
    there = torch.isfinite(people).all(dim=-1).all(dim=-1)
    assert (torch.isfinite(people).any(dim=-1).any(dim=-1) == there).all()
    assert (there[:, :-1] >= there[:, 1:]).all()  # nobody last
    share = torch.bincount(there.sum(dim=1), minlength=5)[1:] / 400
    torch.testing.assert_close(share, torch.tensor([0.1, 0.7, 0.15, 0.05]), atol=0.07, rtol=0)
    lowest, highest = people[there][..., 2].amin(dim=1), people[there][..., 2].amax(dim=1)
    assert lowest.min() > 0.07 and lowest.max() < 0.6 and (lowest < 0.1).double().mean() > 0.8
    assert highest.min() > 1.1 and highest.max() < 2.6
    middle = torch.nanmean(_pelvis(people)[..., :2], dim=1)
    assert middle.mean(dim=0).norm() < 0.1 and 0.2 < middle.std() < 0.4


def test_people_are_in_contact_but_not_in_each_other(body) -> None:
    config = PeopleConfig(number=(0.0, 0.8, 0.2), pairs=0.0)
    people = make_people(_pool(), body, np.random.default_rng(1), config, 300)
    first, second = people[:, 0], people[:, 1]
    distance = (_pelvis(first) - _pelvis(second))[:, :2].norm(dim=1)
    assert distance.median() < 0.65 and 0.1 < (distance > 0.95).double().mean() < 0.35
    for a, b in ((0, 1), (0, 2), (1, 2)):
        some = torch.isfinite(people[:, b, 0, 0])
        depth = overlap(people[some, a].double().numpy(), people[some, b].double().numpy())
        assert depth.max() <= config.deepest_overlap + 1e-4
        gap = (people[some, a][:, :, None] - people[some, b][:, None]).norm(dim=-1)
        assert gap.min() >= config.least_gap - 1e-4
    depth = overlap(first.double().numpy(), second.double().numpy())
    assert np.mean(depth > -0.05) > 0.4  # skin to skin, or nearly
    towards = torch.nn.functional.normalize((_pelvis(first) - _pelvis(second)) * torch.tensor([1.0, 1, 0]), dim=-1)
    facing = (_forward(second) * towards).sum(dim=-1)
    assert (facing > 0.7).double().mean() > 0.4
    assert (facing < 0).double().mean() > 0.15


def test_true_pairs_keep_their_places(body) -> None:
    config = PeopleConfig(number=(0.0, 1.0), pairs=1.0, pair_jitter=0.0, betas=0.0, scale=(1.0, 1.0))
    people = make_people(_pool(), body, np.random.default_rng(2), config, 50)
    distance = (_pelvis(people[:, 0]) - _pelvis(people[:, 1]))[:, :2].norm(dim=1)
    assert (distance - 0.5).abs().quantile(0.8) < 0.05  # some are pushed apart
    facing = (_forward(people[:, 0]) * _forward(people[:, 1])).sum(dim=-1)
    assert facing.max() < -0.5


def test_limbs_are_the_body_s_own(body) -> None:
    """Mirrored, turned and scaled people are congruent with the pool's: lengths of limbs up to one factor."""
    pool = _pool(2)
    config = PeopleConfig(number=(1.0,), betas=0.0, raised=0.0)
    people = make_people(pool, body, np.random.default_rng(3), config, 64)[:, 0]
    original = body.keypoints(torch.zeros(2, 10), torch.from_numpy(pool.poses), torch.from_numpy(pool.trans))

    def lengths(points: torch.Tensor) -> torch.Tensor:
        return torch.stack([(points[..., a, :] - points[..., b, :]).norm(dim=-1) for a, b in LIMBS], dim=-1)

    flip = list(COCO17.flip)
    candidates = torch.cat((lengths(original), lengths(original[:, flip])))  # (4, 8)
    found = lengths(people)
    ratio = found[:, None] / candidates
    spread = (ratio.amax(dim=-1) - ratio.amin(dim=-1)).amin(dim=1)
    assert spread.max() < 1e-3
    factor = ratio.mean(dim=-1).gather(1, (ratio.amax(dim=-1) - ratio.amin(dim=-1)).argmin(dim=1, keepdim=True))
    assert factor.min() > 0.849 and factor.max() < 1.101 and factor.std() > 0.04
    # Handedness: the left hip is to the left of where the nose points, mirrored or not.
    nose = people[:, 0] - people[:, 3:5].mean(dim=1)
    assert ((nose * _forward(people)).sum(dim=-1) > 0).all()
    mirrored = ratio.sub(ratio.mean(dim=-1, keepdim=True)).abs().sum(dim=-1).argmin(dim=1) >= 2
    assert 0.25 < mirrored.double().mean() < 0.75


def test_the_same_seed_makes_the_same_people(body) -> None:
    first, second, other = (make_people(_pool(), body, np.random.default_rng(k), None, 20) for k in (5, 5, 6))
    torch.testing.assert_close(first, second, equal_nan=True, rtol=0, atol=0)
    assert not torch.equal(torch.nan_to_num(first), torch.nan_to_num(other))


def test_pool_without_pairs(body) -> None:
    pool = _pool(20)
    alone = MotionPool(pool.poses, pool.trans, pool.clip, pool.clip_names, np.zeros((0, 2), np.int64))
    people = make_people(alone, body, np.random.default_rng(0), PeopleConfig(number=(0.0, 1.0), pairs=1.0), 8)
    assert torch.isfinite(people).all()
