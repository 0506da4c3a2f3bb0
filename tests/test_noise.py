"""Imitated detections: exact without noise, wrong where and as often as configured, the same for the same seed."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from avatarpose.body import load_body
from avatarpose.cameras import Cameras
from avatarpose.skeletons import COCO17
from avatarpose.train.capsules import line_of_sight
from avatarpose.train.noise import Detections, NoiseConfig, detect, draw_scene, imitate
from avatarpose.train.noise_config import ABSENT, EXCHANGED, FALSE, HIDDEN, MERGED, OWN, TAKEN, WILD
from avatarpose.train.rigs import look_at

FLIP = np.array(COCO17.flip)
EXACT = NoiseConfig.none()
CALM = replace(NoiseConfig().positions_only(), deviation=(1e-6, 1e-6), shuffle=False, border=0.0)
"""Nothing happens but what a test asks for."""


@cache
def person() -> np.ndarray:
    """A standing body with lowered arms at the origin, facing -y; (17, 3)."""
    pose = torch.zeros(72)
    pose[0] = np.pi / 2
    pose[3 * 16 + 2], pose[3 * 17 + 2] = -1.0, 1.0
    joints = load_body().keypoints(torch.zeros(10), pose, torch.tensor([0.0, 0, 0.95])).double().numpy()
    return joints - np.array([*joints[11:13, :2].mean(axis=0), 0.0])


def people(*places: tuple[float, float]) -> np.ndarray:
    return np.stack([person() + np.array([x, y, 0.0]) for x, y in places])


def ring(count: int = 8, radius: float = 4.0, size: int = 900, focal: float = 700.0, k1: float = 0.0) -> Cameras:
    """Cameras around the origin, the first at -y, which people face."""
    angles = np.arange(count) * 2 * np.pi / count - np.pi / 2
    poses = [look_at(np.array([radius * np.cos(a), radius * np.sin(a), 1.4]), np.array([0, 0, 0.9])) for a in angles]
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)
    dist = torch.zeros(count, 5, dtype=torch.float64)
    dist[:, 0] = k1
    return Cameras(
        tuple(f"c{i}" for i in range(count)), K.repeat(count, 1, 1),
        torch.from_numpy(np.stack([R for R, _ in poses])), torch.from_numpy(np.stack([t for _, t in poses])),
        dist, torch.full((count,), size), torch.full((count,), size),
    )  # fmt: skip


def once(keypoints: np.ndarray, cameras: Cameras, config: NoiseConfig, seed: int = 0) -> Detections:
    rng = np.random.default_rng(seed)
    return detect(keypoints, cameras, rng, config, draw_scene(len(keypoints), cameras, rng, config))


def many(keypoints: np.ndarray, cameras: Cameras, config: NoiseConfig, count: int = 40) -> list[Detections]:
    return [once(keypoints, cameras, config, seed) for seed in range(count)]


def share(found: list[Detections], kind: int, where: np.ndarray | None = None) -> float:
    """Share of one kind among the rows of the people, which are in order and all there."""
    kinds = np.stack([each.kind for each in found])
    kinds = kinds if where is None else kinds[:, where]
    return float((kinds == kind).mean())


# ---- no noise ----


@pytest.mark.parametrize("k1", [0.0, -0.1])
def test_strength_zero_is_the_projection(k1: float) -> None:
    """Every joint of everybody, hidden or not, where the camera has it, score 1, and round peaks 0.07 m wide."""
    keypoints, cameras = people((0, 0), (0, 0.4), (0.3, 0.1)), ring(k1=k1)
    found = imitate(torch.from_numpy(keypoints).float(), cameras, np.random.default_rng(0), EXACT)
    pixels, depth = cameras.project(torch.from_numpy(keypoints))
    assert found.means.shape == (8, 3, 17, 2) and found.means.dtype == torch.float32
    assert (found.heights == 1).all()
    for view in range(8):  # rows are shuffled
        order = [int((pixels[view, :, 0] - row).norm(dim=-1).argmin()) for row in found.means[view, :, 0].double()]
        assert sorted(order) == [0, 1, 2]
        torch.testing.assert_close(found.means[view].double(), pixels[view, order], atol=1e-3, rtol=1e-6)
        scale = 700 / depth[view][order][:, [5, 6, 11, 12]].mean(dim=1)
        expected = (1 / (0.07 * scale) ** 2)[:, None].expand(3, 17)
        torch.testing.assert_close(found.precisions[view, ..., 0].double(), expected, rtol=1e-4, atol=0)
        torch.testing.assert_close(found.precisions[view, ..., 2].double(), expected, rtol=1e-4, atol=0)
        assert found.precisions[view, ..., 1].abs().max() < 1e-9


def test_strength_zero_leaves_out_what_is_outside_the_image() -> None:
    cameras = ring(radius=1.5, focal=1000.0)
    found = once(people((0, 0)), cameras, EXACT)
    inside = cameras.sees(torch.from_numpy(people((0, 0)))).numpy()
    assert 0.3 < inside.mean() < 0.97
    np.testing.assert_array_equal(found.kind == OWN, inside)
    np.testing.assert_array_equal(np.isnan(found.rows[..., 0]), ~inside)


def test_people_who_are_not_there() -> None:
    absent = np.full((17, 3), np.nan)
    keypoints = np.stack([absent, person(), absent])
    found = once(keypoints, ring(), EXACT)
    assert found.rows.shape == (8, 1, 17, 3) and (found.person == 1).all()
    assert np.isfinite(found.rows).all()
    for config in (EXACT, NoiseConfig()):
        assert (imitate(np.stack([absent]), ring(), np.random.default_rng(0), config).heights == 0).all()


# ---- reproducible, well-formed ----


def test_the_same_seed_makes_the_same_detections() -> None:
    keypoints, cameras, config = people((0, 0), (0.1, 0.4)), ring(), NoiseConfig()
    first, second, other = (imitate(keypoints, cameras, np.random.default_rng(k), config) for k in (1, 1, 2))
    for key in ("means", "precisions", "heights"):
        assert torch.equal(getattr(first, key), getattr(second, key))
    assert first.means.shape != other.means.shape or not torch.equal(first.means, other.means)


def test_what_is_absent_has_no_height_and_what_is_there_is_in_the_image() -> None:
    keypoints, cameras = people((0, 0), (0.1, 0.4), (0.5, -0.2)), ring(radius=2.5)
    for seed in range(30):
        found = imitate(keypoints, cameras, np.random.default_rng(seed), NoiseConfig())
        there = found.heights > 0
        assert ((found.means >= 0) & (found.means <= 900)).all()
        assert (found.heights[there] >= 0.05).all() and (found.heights <= 1).all()
        assert (found.means[~there] == 0).all()
        assert (found.precisions[~there] == torch.tensor([1.0, 0, 1])).all()
        xx, xy, yy = found.precisions[there].unbind(-1)
        assert ((xx > 0) & (xx * yy > xy**2)).all()  # positive definite


def test_rows_are_shuffled_in_each_view() -> None:
    keypoints, cameras = people((-0.5, 0), (0.5, 0)), ring(12)
    assert len({tuple(row) for row in once(keypoints, cameras, EXACT).person}) == 2
    assert (once(keypoints, cameras, replace(EXACT, shuffle=False)).person == [0, 1]).all()


# ---- places ----


def test_deviation_in_metres_at_the_person() -> None:
    """Independent between views, and larger by the profile."""
    config = replace(CALM, deviation=(0.02, 0.02), tail=(0.0, 1.0), common=0.0, wild=0.0)
    keypoints, cameras = people((0, 0)), ring()
    pixels = cameras.project(torch.from_numpy(keypoints))[0].numpy()
    sight = line_of_sight(keypoints, cameras.R.numpy(), cameras.t.numpy())
    found = many(keypoints, cameras, config, 200)
    offset = np.stack([(each.rows[..., :2] - pixels) / each.size[..., None, None] for each in found])
    clear = ~sight.by_self
    assert np.isclose(offset[..., 5, :][:, clear[..., 5]].std(), 0.02, rtol=0.06)  # a shoulder: profile 1
    assert 1.1 < offset[..., 11, :].std() / 0.02 < 1.45  # a hip: between 1 and 1.45
    first, second = offset[:, 0, 0, 5], offset[:, 1, 0, 5]
    assert abs(np.mean(first * second)) < 0.1 * 0.02**2
    hidden = offset[..., :5, :][:, ~clear[..., :5]]
    assert hidden.std() > 1.3 * offset[..., :5, :][:, clear[..., :5]].std()


def test_strength_scales_the_deviation() -> None:
    config = replace(CALM, deviation=(0.02, 0.02), strength=0.5)
    keypoints, cameras = people((0, 0)), ring()
    pixels = cameras.project(torch.from_numpy(keypoints))[0].numpy()

    def spread(config: NoiseConfig) -> float:
        return float(np.std([(each.rows[..., :2] - pixels)[..., 5, :] for each in many(keypoints, cameras, config)]))

    assert np.isclose(spread(config) / spread(replace(config, strength=1.0)), 0.5, rtol=0.02)


def test_lasting_part_of_the_noise() -> None:
    """Frames of one take are wrong in the same way, to the share asked for; other takes in another."""
    keypoints, cameras = people((0, 0)), ring()
    config = replace(CALM, deviation=(0.02, 0.02), lasting=(0.7, 0.7), common=0.0)
    pixels = cameras.project(torch.from_numpy(keypoints))[0].numpy()
    products, squares = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scene = draw_scene(1, cameras, rng, config)
        first, second = (detect(keypoints, cameras, rng, config, scene).rows[..., :2] - pixels for _ in range(2))
        products.append((first * second).mean()), squares.append((first**2).mean())
    assert np.isclose(np.mean(products) / np.mean(squares), 0.7, atol=0.06)


def test_joints_outside_are_found_at_the_border_or_not_at_all() -> None:
    cameras, keypoints = ring(radius=1.5, focal=1500.0), people((0, 0))
    pixels = cameras.project(torch.from_numpy(keypoints))[0].numpy()
    outside = ~cameras.sees(torch.from_numpy(keypoints)).numpy()
    found = many(keypoints, cameras, replace(CALM, border=0.5))
    kinds, rows = np.stack([each.kind for each in found]), np.stack([each.rows for each in found])
    scale = 1500 / 1.5
    gap = np.maximum(np.maximum(-pixels, pixels - 900), 0).max(axis=-1)
    near, far = outside & (gap < 0.1 * scale), outside & (gap > 0.3 * scale)
    assert near.any() and far.any()
    assert (kinds[:, far] == ABSENT).all()
    assert np.isclose((kinds[:, near] != ABSENT).mean(), 0.5, atol=0.1)
    at = rows[:, near][kinds[:, near] != ABSENT][:, :2]
    assert (np.minimum(at, 900 - at).min(axis=1) < 30).all()


# ---- what is hidden ----


def test_line_of_sight() -> None:
    """Two people behind each other, seen from the front and from the side."""
    keypoints, cameras = people((0, 0), (0, 0.5)), ring(4)
    sight = line_of_sight(keypoints, cameras.R.numpy(), cameras.t.numpy())
    front, side, back = 0, 1, 2
    body = slice(5, 17)
    assert sight.by_other[front, 1, body].mean() > 0.8 and not sight.by_other[front, 0].any()
    assert (sight.hider[front, 1][sight.by_other[front, 1]] == 0).all()
    assert sight.by_other[back, 0, body].mean() > 0.8 and not sight.by_other[back, 1].any()
    assert not sight.by_other[side].any() and (sight.hider[side] == -1).all()
    assert sight.from_behind[:, 0].tolist()[0] is False and sight.from_behind[back].all()
    assert not sight.by_self[front, :, :3].any() and sight.by_self[back, :, :3].all()  # eyes and nose
    # A wrist behind the back.
    turned = person().copy()
    turned[9] = turned[[5, 6, 11, 12]].mean(axis=0) + np.array([0, 0.25, 0])
    sight = line_of_sight(turned[None], cameras.R.numpy(), cameras.t.numpy())
    assert sight.by_self[front, 0, 9] and not sight.by_self[back, 0, 9] and not sight.by_self[side, 0, 9]


def test_hidden_joints_are_missed_taken_or_wild_as_often_as_configured() -> None:
    config = replace(CALM, hidden_missed=0.4, hidden_taken=0.25, hidden_wild=0.1)
    keypoints, cameras = people((0, 0), (0.05, 0.6)), ring()
    sight = line_of_sight(keypoints, cameras.R.numpy(), cameras.t.numpy())
    assert 0.03 < sight.by_other.mean() < 0.4
    found = many(keypoints, cameras, config, 80)
    hidden = sight.by_other
    assert np.isclose(share(found, ABSENT, hidden), 0.4, atol=0.03)
    assert np.isclose(share(found, TAKEN, hidden), 0.25, atol=0.03)
    assert np.isclose(share(found, WILD, hidden), 0.1, atol=0.02)
    # In sight nothing of the kind happens.
    clear = ~hidden & ~sight.by_self
    assert share(found, OWN, clear) == 1.0
    # A taken joint lies on the hiding person's joint of that kind, on either side.
    pixels = cameras.project(torch.from_numpy(keypoints))[0].numpy()
    for each in found[:20]:
        for view, p, joint in np.argwhere(each.kind == TAKEN):
            other = pixels[view, sight.hider[view, p, joint]][[joint, FLIP[joint]]]
            assert np.linalg.norm(other - each.rows[view, p, joint, :2], axis=1).min() < 0.01


def test_scores_of_what_is_wrong_are_lower() -> None:
    config = replace(CALM, hidden_missed=0.3, hidden_taken=0.2, hidden_wild=0.2, constant_scores=0.0)
    found = many(people((0, 0), (0.05, 0.6)), ring(), config)
    scores = {
        kind: np.concatenate([each.rows[..., 2][each.kind == kind] for each in found])
        for kind in (OWN, HIDDEN, TAKEN, WILD)
    }
    assert 0.7 < np.median(scores[OWN]) < 0.92
    assert np.median(scores[OWN]) > np.median(scores[TAKEN]) > np.median(scores[WILD])
    assert np.median(scores[OWN]) > np.median(scores[HIDDEN])


def test_constant_scores() -> None:
    keypoints, cameras = people((0, 0), (0.05, 0.6)), ring()
    constant = [
        all(np.nanmin(each.rows[..., 2]) == 1.0 for each in [found])
        for found in many(keypoints, cameras, replace(NoiseConfig(), constant_scores=0.3), 100)
    ]
    assert 0.18 < np.mean(constant) < 0.42


# ---- missed, exchanged, merged, lost, false ----


def test_misses_in_sight() -> None:
    missed = (0.0,) * 9 + (0.2, 0.2) + (0.05,) * 6
    config = replace(CALM, missed=missed, missed_factor=(1.0, 1.0))
    keypoints, cameras = people((0, 0)), ring()
    sight = line_of_sight(keypoints, cameras.R.numpy(), cameras.t.numpy())
    found = many(keypoints, cameras, config, 150)
    clear = ~sight.by_self
    for joints, expected in ((slice(0, 9), 0.0), (slice(9, 11), 0.2), (slice(11, 17), 0.05)):
        where = np.zeros_like(clear)
        where[..., joints] = clear[..., joints]
        assert np.isclose(share(found, ABSENT, where), expected, atol=0.02)


def test_sides_are_exchanged_more_often_from_behind() -> None:
    config = replace(CALM, exchanged_all=0.1)
    keypoints, cameras = people((0, 0)), ring(4)
    pixels = cameras.project(torch.from_numpy(keypoints))[0].numpy()
    found = many(keypoints, cameras, config, 300)
    front = np.mean([(each.kind[0, 0] == EXCHANGED).any() for each in found])
    back = np.mean([(each.kind[2, 0] == EXCHANGED).any() for each in found])
    assert np.isclose(front, 0.1, atol=0.05) and np.isclose(back, 0.3, atol=0.07)
    each = next(each for each in found if (each.kind[0, 0] == EXCHANGED).any())
    np.testing.assert_allclose(each.rows[0, 0, 1:, :2], pixels[0, 0, FLIP[1:]], atol=0.01)
    legs = many(keypoints, cameras, replace(CALM, exchanged_legs=0.5), 10)
    kinds = np.stack([each.kind for each in legs])
    assert (kinds[..., 13:] == EXCHANGED).any() and not (kinds[..., :11] == EXCHANGED).any()


def test_merged_rows_hold_joints_of_two_people_who_are_close() -> None:
    config = replace(CALM, merged=1.0)
    keypoints, cameras = people((0, 0), (0.3, 0.1)), ring()
    pixels = cameras.project(torch.from_numpy(keypoints))[0].numpy()
    merged = 0
    for each in many(keypoints, cameras, config):
        for view, row in np.argwhere((each.kind == MERGED).any(axis=-1)):
            p = each.person[view, row]
            mixed = each.kind[view, row] == MERGED
            from_other = np.linalg.norm(each.rows[view, row, :, :2] - pixels[view, 1 - p], axis=-1)
            assert (from_other[mixed] < 0.01).all()
            merged += 1
    assert merged > 100
    apart = many(people((-1.5, 0), (1.5, 0)), ring(2), config)
    assert share(apart, MERGED) == 0.0


def test_lost_people_and_views() -> None:
    keypoints = people((-0.5, 0), (0.5, 0))
    found = many(keypoints, ring(), replace(CALM, lost=0.2), 100)
    rows = np.array([(each.person >= 0).sum() for each in found])
    assert np.isclose(rows.mean() / 16, 0.8, atol=0.04)
    found = many(keypoints, ring(), replace(CALM, view_lost=0.9, half_lost=0.5), 100)
    views = np.array([(each.person >= 0).any(axis=1).sum() for each in found])
    assert views.min() == 2 and views.mean() < 4  # two are always kept


def test_duplicates_and_people_who_are_not_there() -> None:
    found = many(people((0, 0)), ring(), replace(CALM, duplicate=0.3), 100)
    extra = np.array([(each.person >= 0).sum(axis=1) - 1 for each in found])
    assert np.isclose(extra.mean(), 0.3, atol=0.05)
    found = many(people((0, 0)), ring(), replace(CALM, false_person=0.2), 100)
    false = np.array([((each.kind == FALSE).any(axis=-1)).any(axis=1) for each in found])
    assert 0.12 < false.mean() < 0.25  # a few lie outside the image
    assert all((each.person[(each.kind == FALSE).any(axis=-1)] == -1).all() for each in found)


def test_one_camera_is_off_its_calibration() -> None:
    config = replace(CALM, miscalibrated=1.0)
    keypoints, cameras = people((0, 0)), ring()
    pixels = cameras.project(torch.from_numpy(keypoints))[0].numpy()
    moved = []
    for each in many(keypoints, cameras, config, 30):
        offset = np.linalg.norm(np.nanmean(each.rows[..., :2] - pixels, axis=(1, 2)), axis=-1)
        assert (offset > 0.5).sum() <= 1
        moved.append(offset.max())
    assert np.mean(moved) > 5 and max(moved) < 1.3 * 700 * np.radians(2)


def test_widths_vary_within_bounds() -> None:
    config = replace(NoiseConfig().positions_only(), deviation=(1e-6, 1e-6))
    keypoints, cameras = people((0, 0)), ring()
    factors, ratios = [], []
    for seed in range(40):
        found = imitate(keypoints, cameras, np.random.default_rng(seed), config)
        xx, xy, yy = found.precisions.double()[found.heights > 0].unbind(-1)
        inverse = torch.linalg.eigvalsh(torch.stack((torch.stack((xx, xy), -1), torch.stack((xy, yy), -1)), -2))
        factors.append(1 / (inverse[:, 0] * inverse[:, 1]) ** 0.25 / (0.07 * 700 / 4))
        ratios.append((inverse[:, 1] / inverse[:, 0]).sqrt())
    factors, ratios = torch.cat(factors), torch.cat(ratios)
    assert factors.min() > 0.6 and factors.max() < 1.6 and factors.std() > 0.1
    assert 1.05 < ratios.median() < 1.2
