"""Pelvis and neck of everybody: in one frame, over time, hidden, swapped, with bad cameras, and in the captures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from test_estimate import FPS, STANDING, ring, scene, three_people, walker

from avatarpose.estimate.affinity import MIRRORED
from avatarpose.estimate.volumetric.centres import (
    NECK,
    PELVIS,
    SIDES,
    cast,
    find_candidates,
    pair_torsos,
    place_centres,
    triangulate_greedily,
)
from avatarpose.estimate.volumetric.config import CentreConfig
from avatarpose.estimate.volumetric.evidence import Evidence, Gaussians, gaussians_from_keypoints
from avatarpose.estimate.volumetric.people import Centres, find_people
from avatarpose.estimate.volumetric.tracks import smooth
from avatarpose.sequence import Sequence

CONFIG = CentreConfig()


def centres_of(joints: np.ndarray) -> np.ndarray:
    """Pelvis and neck (..., 2, 3) of COCO joints (..., 17, 3)."""
    return joints[..., SIDES, :].mean(axis=-2)


def evidence_of(keypoints: np.ndarray) -> list[Gaussians]:
    """Gaussians of every frame of detections (C, F, D, 17, 3)."""
    return [gaussians_from_keypoints(keypoints[:, f]) for f in range(keypoints.shape[1])]


def separate(gaussians: Gaussians, seed: int = 0) -> Gaussians:
    """The same peaks, each joint's shuffled by itself: as from heatmaps."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(gaussians.heights.shape, generator=generator).argsort(dim=1)
    pick = lambda x: x.gather(1, order[..., None].expand(*order.shape, x.shape[-1]))  # noqa: E731
    heights = gaussians.heights.gather(1, order)
    return Gaussians(pick(gaussians.means), pick(gaussians.precisions), heights, rows_are_people=False)


def compare(found: Centres, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of each true person (T, F, 2, 3) among those found, and errors (T, F, 2), metres, NaN where not found."""
    places = np.stack((found.pelvis, found.neck), axis=2)
    error = np.linalg.norm(truth[:, None] - places[None], axis=-1)
    cost = np.where(np.isfinite(truth[:, None, :, :, 0]), np.nan_to_num(error, nan=0.5).clip(max=0.5), 0.0)
    true, person = linear_sum_assignment(cost.sum(axis=(2, 3)))
    assert len(true) == len(truth), "somebody was not found at all"
    return person, error[true, person]


def no_swap(found: Centres, truth: np.ndarray) -> bool:
    """Whether everybody is nearer to his own truth than to anybody else's, in every frame."""
    person, _ = compare(found, truth)
    places = np.stack((found.pelvis, found.neck), axis=2)[person]
    every = np.linalg.norm(truth[:, None] - places[None], axis=-1).mean(axis=-1)  # (true, found, F)
    mine = np.diagonal(every).T[None]
    return not (every < mine - 1e-9).any()


# ---- one frame ----


def one_frame(people: np.ndarray, cameras, rows_are_people: bool = True):
    detections = scene(people[:, None], cameras, missed=0.0, noise=0.0).detections[:, 0]
    gaussians = gaussians_from_keypoints(detections)
    return cast(gaussians if rows_are_people else separate(gaussians), cameras, CONFIG)


@pytest.mark.parametrize("rows_are_people", [True, False])
def test_greedy_triangulation_finds_each_centre_once(rows_are_people):
    people = STANDING + np.array([[0, 0, 0], [0.5, 0.2, 0.05], [-1.0, 0.8, -0.1]])[:, None]
    cameras = ring(5)
    frame = one_frame(people, cameras, rows_are_people)
    free = frame.rays.scores > 0
    for centre in (PELVIS, NECK):
        candidates = find_candidates(frame, centre, free, CONFIG)
        places, chosen, support = triangulate_greedily(frame, candidates, cameras, CONFIG)
        assert len(places) == 3
        distance = np.linalg.norm(centres_of(people)[:, None, centre] - places, axis=-1)
        assert distance.min(axis=1).max() < 0.02 and len(set(distance.argmin(axis=1))) == 3
        assert (chosen >= 0).all() and (np.diff(support) <= 1e-9).all()


def test_ghosts_of_two_views_are_no_centres():
    """Each of two people is seen by two of five cameras, so any centre there has but two views."""
    people = STANDING + np.array([[0, 0, 0], [0.6, 0.0, 0.0]])[:, None]
    cameras = ring(5)
    frame = one_frame(people, cameras)
    free = frame.rays.scores > 0
    free[2:] = False
    candidates = find_candidates(frame, PELVIS, free, CONFIG)
    assert len(triangulate_greedily(frame, candidates, cameras, CONFIG)[0]) == 0
    blind = replace(frame, live=np.array([True, True, False, False, False]))
    assert len(triangulate_greedily(blind, candidates, cameras, CONFIG)[0]) == 2


def test_torsos_are_paired_by_length_and_detections():
    pelvises = np.array([[0.0, 0, 0.9], [0.3, 0, 0.9]])
    necks = np.array([[0.3, 0, 1.4], [0.0, 0, 1.4]])
    nothing = np.full((2, 2), np.nan)
    assert pair_torsos(pelvises, necks, nothing, CONFIG) == [(0, 1), (1, 0)]  # upright: 0.50 against 0.58 m
    assert pair_torsos(pelvises, necks, np.eye(2), CONFIG) == [(0, 0), (1, 1)]  # detections say they lean
    assert pair_torsos(pelvises, necks + 2.0, nothing, CONFIG) == []


def test_a_side_that_is_missing_is_replaced_by_its_3d_joint():
    cameras = ring(4)
    frame = one_frame(STANDING[None], cameras)
    directions = np.moveaxis(frame.rays.directions[:, 0], 0, 1)[None].copy()
    scores = np.moveaxis(frame.rays.scores[:, 0], 0, 1)[None].copy()
    scores[0, 12, :3] = 0  # three of four cameras miss the right hip
    truth = centres_of(STANDING)[None]
    place = lambda joints: place_centres(  # noqa: E731
        frame.rays.origins, directions, scores, joints, np.full((1, 2, 3), np.nan), frame.radius, CONFIG
    )
    placed, deviation, views = place(STANDING[None])
    np.testing.assert_allclose(placed, truth, atol=5e-3)
    assert (views == 4).all() and deviation[0, PELVIS] > deviation[0, NECK]
    unaided, _, _ = place(np.full((1, 17, 3), np.nan))
    assert np.linalg.norm(unaided - truth, axis=-1)[0, PELVIS] > 0.02


# ---- over time ----


def test_people_enter_leave_and_keep_their_names(tmp_path):
    joints = three_people()
    sequence, _ = scene(joints, ring(5)).write(tmp_path)
    done = []
    found = find_people(
        Evidence(sequence), sequence.cameras, sequence.frames / FPS, progress=lambda d, t: done.append((d, t))
    )
    truth = centres_of(joints)
    person, error = compare(found, truth)
    assert person.tolist() == [1, 0, 2] and len(found.pelvis) == 3  # by first frame, then x
    np.testing.assert_array_equal(found.valid[person], np.isfinite(truth[..., 0, 0]))
    assert np.nanmean(error) < 0.02 and np.nanmax(error) < 0.08
    assert np.isnan(found.pelvis[~found.valid]).all() and np.isfinite(found.neck[found.valid]).all()
    assert np.isinf(found.spread[~found.valid]).all() and found.spread[found.valid].max() < 0.08
    assert done[-1] == (120, 120) and done == sorted(done)


def test_separate_peaks_give_the_same_people():
    joints = three_people()[:, :30]
    cameras = ring(5)
    evidence = [separate(g, seed) for seed, g in enumerate(evidence_of(scene(joints, cameras).detections))]
    found = find_people(evidence, cameras, np.arange(30) / FPS)
    truth = centres_of(joints)
    _, error = compare(found, truth)
    assert len(found.pelvis) == 3 and no_swap(found, truth)
    assert np.nanmean(error) < 0.025
    assert np.isfinite(error).sum() > 0.97 * np.isfinite(truth[..., 0]).sum()


def embrace(frames: int = 40) -> np.ndarray:
    """Two people walk up to each other, stand chest to chest for a second, and part."""
    apart = np.interp(np.arange(frames), [0, 10, 30, 39], [1.0, 0.3, 0.3, 1.0])
    path = lambda side: np.stack([side * apart / 2, 0.02 * np.sin(np.arange(frames) / 2)], axis=-1)  # noqa: E731
    people = [walker(path(side), phase, height) for side, phase, height in ((-1, 0.0, 1.8), (1, 2.0, 1.6))]
    return np.stack(people)


def test_identities_hold_in_an_embrace_with_views_lost_and_sides_mirrored():
    joints = embrace()
    cameras = ring(6)
    detections = scene(joints, cameras, missed=0.15, noise=3.0).detections
    rng = np.random.default_rng(1)
    mirrored = rng.random(detections.shape[:3]) < 0.15
    detections[mirrored] = detections[mirrored][:, MIRRORED]
    detections[::2, 15:25] = np.nan  # half of the cameras for half a second
    detections[:, 27:29] = np.nan  # all cameras for two frames
    found = find_people(evidence_of(detections), cameras, np.arange(joints.shape[1]) / FPS)
    truth = centres_of(joints)
    assert len(found.pelvis) == 2 and found.valid.all() and no_swap(found, truth)
    assert compare(found, truth)[1].mean() < 0.04


def test_somebody_lost_for_a_second_comes_back_as_himself():
    joints = three_people(40)[:1]
    detections = scene(joints, ring(5)).detections
    detections[:, 12:32] = np.nan
    found = find_people(evidence_of(detections), ring(5), np.arange(40) / FPS)
    assert len(found.pelvis) == 1
    assert found.valid[0, :12].all() and found.valid[0, 32:].all() and not found.valid[0, 14:30].all()


def test_who_is_seen_by_one_camera_is_left_out():
    joints = three_people(20)[:2]
    detections = scene(joints, ring(5)).detections
    detections[1:, :, 1] = np.nan
    found = find_people(evidence_of(detections), ring(5), np.arange(20) / FPS)
    assert len(found.pelvis) == 1
    assert np.linalg.norm(found.pelvis[0] - centres_of(joints[0])[:, PELVIS], axis=-1).max() < 0.08


def test_nobody_and_one_frame():
    cameras = ring(3)
    nobody = find_people(evidence_of(np.full((3, 4, 2, 17, 3), np.nan)), cameras, np.arange(4) / FPS)
    assert nobody.pelvis.shape == (0, 4, 3) and nobody.spread.shape == (0, 4)
    joints = three_people(2)[:1, :1]
    found = find_people(evidence_of(scene(joints, cameras, missed=0.0).detections), cameras, np.zeros(1))
    assert found.valid.tolist() == [[True]]
    assert compare(found, centres_of(joints))[1].max() < 0.05


def test_smoothing_passes_outliers_by_and_bridges_short_gaps():
    times = np.arange(60) / 30.0
    truth = np.stack([np.sin(2 * times), 0.5 * times, 0.9 + 0.02 * np.cos(5 * times)], axis=-1)
    rng = np.random.default_rng(0)
    places = truth + rng.normal(0, 0.015, truth.shape)
    places[20] += 0.3
    places[30:36] = np.nan  # a fifth of a second
    places[45:58] = np.nan  # longer than may be bridged
    deviations = np.where(np.isnan(places[:, 0]), np.inf, 0.015)
    path, spread = smooth(places, deviations, times, acceleration=5.0, longest_gap=0.25)
    assert np.isnan(path[45:58]).all() and np.isinf(spread[45:58]).all()
    kept = np.isfinite(path[:, 0])
    assert kept.sum() == 60 - 13
    error = np.linalg.norm(path - truth, axis=-1)
    assert error[20] < 0.05 and error[30:36].max() < 0.06
    measured = np.isfinite(places[:, 0]) & (np.arange(60) != 20)
    before = np.linalg.norm(places - truth, axis=-1)[measured]
    assert error[measured].mean() < 0.75 * before.mean()
    assert spread[33] > spread[10] and spread[20] > spread[10]


# ---- captures ----


def capture(data_folder, name):
    folder = data_folder / name
    if not folder.is_dir():
        pytest.skip(f"absent data: {folder}")
    sequence = Sequence.open(folder)
    return sequence, centres_of(np.load(folder / "ground_truth.npz")["keypoints"][:, sequence.frames])


@pytest.mark.parametrize("name", ["duo_a", "duo_b"])
def test_duo(data_folder, name):
    sequence, truth = capture(data_folder, name)
    found = find_people(Evidence(sequence), sequence.cameras, sequence.frames / sequence.fps)
    assert len(found.pelvis) == 2 and found.valid.all() and no_swap(found, truth)
    assert compare(found, truth)[1].mean(axis=(0, 1)).max() < 0.030


@pytest.mark.parametrize("fault", ["camera turned", "camera late", "half the views lost"])
def test_duo_with_faults(data_folder, fault):
    sequence, truth = capture(data_folder, "duo_a")
    keypoints, cameras = sequence.keypoints2d.copy(), sequence.cameras
    if fault == "camera turned":
        angle = np.radians(5.0)
        turn = torch.tensor([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        R = cameras.R.clone()
        R[1] = turn @ R[1]
        cameras = replace(cameras, R=R, t=-(R @ cameras.centres[..., None])[..., 0])
    elif fault == "camera late":
        keypoints[2, 3:] = sequence.keypoints2d[2, :-3]
    else:
        keypoints[::2, 5:15] = np.nan
    found = find_people(evidence_of(keypoints), cameras, sequence.frames / sequence.fps)
    assert len(found.pelvis) == 2 and found.valid.all() and no_swap(found, truth)
    assert compare(found, truth)[1].mean() < 0.035


def test_shelf(data_folder):
    """Two of the people are annotated, by hand; the hips of detectors lie elsewhere than the annotators'."""
    folder = data_folder / "shelf_dev"
    if not folder.is_dir():
        pytest.skip(f"absent data: {folder}")
    sequence = Sequence.open(folder, frames=slice(0, 40))
    data = np.load(folder / "ground_truth.npz")
    names = list(data["joint_names"])
    sides = [[names.index(f"{side}_{part}") for side in ("left", "right")] for part in ("hip", "shoulder")]
    truth = data["shelf15"].transpose(1, 0, 2, 3)[:, sequence.frames][:, :, sides].mean(axis=3)
    found = find_people(Evidence(sequence), sequence.cameras, sequence.frames / sequence.fps)
    _, error = compare(found, truth)
    assert np.isfinite(error[np.isfinite(truth[..., 0])]).all() and no_swap(found, truth)
    assert np.nanmean(error[..., NECK]) < 0.05 and np.nanmean(error[..., PELVIS]) < 0.085
