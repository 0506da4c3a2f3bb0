"""Silhouettes of bodies, and masks checked against them."""

import time
from importlib.resources import files
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from avatarpose.body import load_body
from avatarpose.body.silhouette import depth_map, depth_maps, nearest_person
from avatarpose.cameras import Cameras
from avatarpose.results import Bodies
from avatarpose.segment import BodyMaskConfig, SegmentConfig, segment_sequence
from avatarpose.segment.people import People
from avatarpose.segment.record import MaskRecord
from avatarpose.segment.refine_masks import View, label_people, refine_union
from avatarpose.sequence import Sequence


def one_camera(dist: tuple[float, ...] = (0, 0, 0, 0, 0), size: int = 200) -> Cameras:
    K = torch.tensor([[[200.0, 0, size / 2], [0, 200.0, size / 2], [0, 0, 1]]], dtype=torch.float64)
    return Cameras(
        ("a",), K, torch.eye(3, dtype=torch.float64)[None], torch.zeros(1, 3, dtype=torch.float64),
        torch.tensor([dist], dtype=torch.float64), torch.tensor([size]), torch.tensor([size]),
    )  # fmt: skip


def ball(centre: tuple[float, float, float], radius: float) -> tuple[np.ndarray, np.ndarray]:
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return mesh.vertices + np.array(centre), np.asarray(mesh.faces)


def test_a_ball_is_a_disc_of_the_right_size_and_depth() -> None:
    vertices, faces = ball((0.0, 0.0, 4.0), 0.8)
    depth = depth_map(vertices, faces, one_camera())
    inside = np.isfinite(depth)
    # The cone that touches the ball: tan = r / sqrt(z^2 - r^2) = 0.2041, a disc of radius 40.8 pixels.
    # Pixels that are only touched count, half a pixel at most.
    assert 40.7 < np.sqrt(inside.sum() / np.pi) < 41.5
    rows, columns = np.nonzero(inside)
    assert rows.mean() + 0.5 == pytest.approx(100, abs=0.3) and columns.mean() + 0.5 == pytest.approx(100, abs=0.3)
    assert depth[100, 100] == pytest.approx(3.2, abs=0.02)
    assert depth[100, 138] > 3.5


def test_lens_distortion_moves_the_outline() -> None:
    vertices, faces = ball((1.2, 0.0, 4.0), 0.3)
    camera = one_camera((-0.2, 0.02, 0, 0, 0))
    inside = np.isfinite(depth_map(vertices, faces, camera))
    bent, straight = (np.nonzero(np.isfinite(depth_map(vertices, faces, c)))[1].mean() for c in (camera, one_camera()))
    expected = camera.project(torch.tensor([[1.2, 0.0, 4.0]], dtype=torch.float64))[0][0, 0, 0]
    assert straight - bent > 0.8 and np.nonzero(inside)[1].mean() + 0.5 == pytest.approx(float(expected), abs=0.7)


def test_who_is_in_front_is_drawn_in_front() -> None:
    (near, faces), (far, _) = ball((0.1, 0, 3.0), 0.3), ball((0.0, 0, 4.0), 0.6)
    depths = depth_maps([far, near], faces, one_camera())
    front = nearest_person(depths)
    assert front[100, 106] == 1 and front[100, 75] == 0 and front[5, 5] == -1
    assert np.isfinite(depths[0][100, 106])  # hidden, but known to be there
    assert nearest_person(depth_maps([], faces, one_camera())).max() == -1
    behind, _ = ball((0, 0, -4.0), 0.6)
    assert not np.isfinite(depth_map(behind, faces, one_camera())).any()
    around, _ = ball((0, 0, 0.0), 0.6)  # the camera is inside
    assert not np.isfinite(depth_map(around, faces, one_camera())).any()


def test_the_body_covers_its_joints_quickly() -> None:
    body = load_body()
    pose = torch.zeros(72)
    pose[0] = np.pi  # y up in the body, down in the image
    with torch.no_grad():
        vertices = body.vertices(torch.zeros(10), pose, torch.tensor([0.0, 0.0, 4.0])).numpy()
        keypoints = body.keypoints(torch.zeros(10), pose, torch.tensor([0.0, 0.0, 4.0]))
    start = time.perf_counter()
    inside = np.isfinite(depth_map(vertices, body.faces.numpy(), one_camera()))
    assert time.perf_counter() - start < 2
    pixels = one_camera().project(keypoints.double())[0][0].numpy()
    assert all(inside[int(v), int(u)] for u, v in pixels)
    assert 0.02 < inside.mean() < 0.2


# ---- masks against bodies ----


def made_view() -> View:
    """One body 1.6 m tall, 100 pixels a metre, that lacks the hand its mask shows; the wrist is at (140, 100)."""
    depth = np.full((240, 320), np.inf, np.float32)
    depth[60:220, 90:130] = 3.0
    depth[95:106, 130:141] = 3.0  # the forearm
    wrists = np.array([[[140.0, 100.0], [90.0, 150.0]]])
    return View(["p0"], depth[None], wrists, np.array([100.0]))


def test_hands_that_the_body_misses_stay() -> None:
    view, config = made_view(), BodyMaskConfig()
    mask = np.where(np.isfinite(view.depths[0]), 255, 0).astype(np.uint8)
    mask[96:104, 140:166] = 255  # hand and fingers, to 26 cm from the wrist and from every other part of the body
    hand = mask.copy()
    mask[96:104, 200:230] = 255  # something else, 60 cm away
    mask[20:35, 130:160] = 255  # a lamp, 30 cm from the head
    mask[180:190, 160:250] = 255  # joined to the leg, away from any hand
    mask[180:190, 130:160] = 255
    result = refine_union(mask, view, 2, config)
    assert (result[96:104, 140:166] == 255).all()
    np.testing.assert_array_equal(result[90:110], hand[90:110])
    assert not result[20:35, 130:160].any() and not result[96:104, 200:230].any()
    assert not result[180:190, 150:250].any() and (result[183, 131:140] == 255).all()
    # A hand in reach that hangs together with nobody goes.
    loose = hand.copy()
    loose[90:110, 146:150] = 0
    loose[70:80, 155:165] = 255
    assert not refine_union(loose, view, 2, config)[70:80, 156:165].any()
    # The hand is there even where the network was not sure of it.
    unsure = hand.copy()
    unsure[96:104, 140:166] = 128
    assert (refine_union(unsure, view, 2, config)[96:104, 140:166] == 128).all()


def test_the_core_of_a_body_fills_holes_and_doubts_what_is_missing() -> None:
    view, config = made_view(), BodyMaskConfig()
    mask = np.where(np.isfinite(view.depths[0]), 255, 0).astype(np.uint8)
    mask[100:120, 100:120] = 0  # a hole
    mask[140:150, 100:120] = 128
    mask[190:220, 85:135] = 0  # the feet
    result = refine_union(mask, view, 2, config)
    assert (result[100:120, 100:120] == 255).all() and (result[140:150, 100:120] == 255).all()
    assert (result[195:215, 95:125] == 128).all() and not result[190:215, 85:89].any()
    # Nobody in the picture: nothing is known better.
    empty = View(["p0"], np.full((1, 240, 320), np.inf, np.float32), np.full((1, 2, 2), np.nan), np.array([np.nan]))
    np.testing.assert_array_equal(refine_union(mask, empty, 2, config), mask)
    assert label_people(mask, empty, config) == {}


def test_pixels_go_to_who_is_in_front_and_the_border_is_unknown() -> None:
    depths = np.full((2, 200, 200), np.inf, np.float32)
    depths[0, 50:150, 40:110], depths[1, 50:150, 90:160] = 3.0, 2.0
    wrists = np.full((2, 2, 2), np.nan)
    view = View(["anna", "ben"], depths, wrists, np.array([100.0, 150.0]))
    union = np.where(np.isfinite(depths).any(0), 255, 0).astype(np.uint8)
    union[90:100, 20:40] = 255  # anna's hand, beside her silhouette
    union[40:50, 45:60] = 128
    masks = label_people(union, view, BodyMaskConfig())
    assert masks["ben"][100, 100] == 255 and masks["anna"][100, 100] == 0
    assert masks["anna"][100, 60] == 255 and masks["anna"][95, 25] == 255 and masks["ben"][95, 25] == 0
    assert masks["anna"][45, 50] == 128
    for u in (89, 90):  # along the border between them
        assert masks["anna"][100, u] == 128 and masks["ben"][100, u] == 128
    together = (masks["anna"] == 255) | (masks["ben"] == 255)
    assert not ((masks["anna"] == 255) & (masks["ben"] == 255)).any()
    assert together[union == 255].mean() > 0.9 and not together[union == 0].any()


@pytest.fixture()
def embrace(tmp_path: Path) -> Path:
    """Two cameras' worth of the embedded capture, with bodies from its truth and without masks."""
    folder = copytree(Path(str(files("assets"))) / "embrace", tmp_path / "embrace")
    for path in (folder / "masks").rglob("*.png"):
        path.unlink()
    return folder


def test_bodies_seed_name_and_check_the_masks(embrace: Path, data_free_bodies: Bodies) -> None:
    data_free_bodies.save(embrace / "results" / "initial.npz")
    given = Sequence.open(Path(str(files("assets"))) / "embrace", frames=slice(0, 3))
    sequence = Sequence.open(embrace, ["cam00", "cam02"], frames=slice(0, 3))
    report = segment_sequence(sequence, SegmentConfig(refine=True))
    assert report.people == ["p0", "p1"] and report.source == "initial.npz"
    assert all(camera.made == camera.refined == 3 and camera.people == 6 for camera in report.cameras.values())
    record = MaskRecord(embrace, embrace / "results")
    assert record.refined_with(sequence.mask_path(0, 0))
    people = People(sequence)
    for c, name in enumerate(sequence.cameras.names):
        for f in range(3):
            mask, truth = sequence.mask(c, f), given.mask(given.cameras.names.index(name), f)
            front = nearest_person(people.depths(c, f))
            for p, person in enumerate(("p0", "p1")):
                own = sequence.mask(c, f, person)
                assert ((own == 255) & (front == 1 - p)).sum() < 0.02 * (front == 1 - p).sum() + 5
                assert (own[(front == p) & (mask == 255)] > 0).mean() > 0.98
            known = (mask != 128) & (truth != 128)
            both, either = (mask == 255) & (truth == 255), (mask == 255) | (truth == 255)
            assert both[known].sum() / either[known].sum() > 0.75
    # The bodies have not changed, so nothing is done again.
    before = {path: path.stat().st_mtime_ns for path in (embrace / "masks").rglob("*.png")}
    again = segment_sequence(sequence, SegmentConfig(refine=True))
    assert all(camera.refined == camera.made == camera.people == 0 for camera in again.cameras.values())
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_given_masks_are_not_refined_in_place(data_free_bodies: Bodies, tmp_path: Path) -> None:
    folder = copytree(Path(str(files("assets"))) / "embrace", tmp_path / "embrace")
    data_free_bodies.save(folder / "results" / "initial.npz")
    before = {path: path.read_bytes() for path in (folder / "masks").rglob("*.png")}
    assert before and not any("_" in path.name for path in before)
    sequence = Sequence.open(folder, ["cam00"], frames=slice(0, 2), least_cameras=1)
    report = segment_sequence(sequence, SegmentConfig(refine=True, redo=True))
    assert report.cameras["cam00"].given == 2 and report.cameras["cam00"].people == 4
    assert all(path.read_bytes() == data for path, data in before.items())
    assert set(sequence.person_masks(0, 0)) == {"p0", "p1"}


@pytest.fixture(scope="module")
def data_free_bodies(tmp_path_factory: pytest.TempPathFactory) -> Bodies:
    """Bodies registered to the first frames of the embedded capture."""
    from avatarpose.cli import main

    folder = copytree(Path(str(files("assets"))) / "embrace", tmp_path_factory.mktemp("bodies") / "embrace")
    main(["register", str(folder), "--frames", "0:3", "--device", "cpu", "--method", "triangulation"])
    return Bodies.load(folder / "results" / "initial.npz")
