"""Fix-ups: read with errors that say what is wrong, applied to joints and bodies, honoured by the stages."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from avatarpose.body import load_body
from avatarpose.cli import main
from avatarpose.edits import Edits, Swap, Untrusted, applied_edits
from avatarpose.errors import InputError
from avatarpose.results import Bodies, Joints3D
from avatarpose.sequence import Sequence
from optimize.config import CPU_STAGES, RefineConfig
from optimize.pools import draw_pools
from optimize.refine import build_problem, refine

CAPTURE = Path(str(files("assets"))) / "embrace"
PEOPLE, FRAMES = ["p0", "p1", "p2"], np.arange(10, 16)


def joints() -> Joints3D:
    """Person p at x = p in every frame, at y = frame number."""
    keypoints = np.zeros((3, 6, 17, 3), np.float32)
    keypoints[..., 0] = np.arange(3)[:, None, None]
    keypoints[..., 1] = FRAMES[None, :, None]
    return Joints3D(PEOPLE, FRAMES, keypoints, np.ones((3, 6, 17), np.float32), np.ones((3, 6), bool))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded capture with joints and bodies of five frames."""
    folder = shutil.copytree(CAPTURE, tmp_path_factory.mktemp("edits") / "embrace")
    main(["register", str(folder), "--frames", "0:5", "--device", "cpu", "--method", "triangulation"])
    return folder


@pytest.fixture()
def folder(registered: Path, tmp_path: Path) -> Path:
    return shutil.copytree(registered, tmp_path / "embrace")


# ---- files ----


def test_what_is_saved_is_read_again(tmp_path: Path) -> None:
    edits = Edits().with_swap("p0", "p1", 12).with_untrusted(7).with_untrusted(9, ["p1"])
    path = edits.save(tmp_path)
    assert json.loads(path.read_text()) == {
        "swaps": [{"people": ["p0", "p1"], "from": 12}],
        "untrusted": [{"frame": 7, "people": None}, {"frame": 9, "people": ["p1"]}],
    }
    assert Edits.load(tmp_path) == edits
    assert not Edits.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "malformed JSON"),
        ("[]", "not a JSON object"),
        ('{"swap": []}', "not a list of edits"),
        ('{"swaps": {}}', "swaps is not a list"),
        ('{"swaps": [{"people": ["p0"], "from": 1}]}', "not a swap"),
        ('{"swaps": [{"people": ["p0", "p0"], "from": 1}]}', "not a swap"),
        ('{"swaps": [{"people": ["p0", "p1"], "from": 1.5}]}', "not a swap"),
        ('{"swaps": [{"people": ["p0", "p1"], "from": -1}]}', "not a swap"),
        ('{"untrusted": [3]}', "not an untrusted frame"),
        ('{"untrusted": [{"frame": true}]}', "not an untrusted frame"),
        ('{"untrusted": [{"frame": 3, "people": []}]}', "not an untrusted frame"),
        ('{"untrusted": [{"frame": 3, "people": "p0"}]}', "not an untrusted frame"),
    ],
)
def test_wrong_files_are_refused(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "edits.json").write_text(text)
    with pytest.raises(InputError, match=words) as error:
        Edits.load(tmp_path)
    assert "edits.json" in str(error.value)


def test_unknown_people_are_refused() -> None:
    with pytest.raises(InputError, match=r"p7.*"):
        Edits(untrusted=(Untrusted(3, ("p7",)),)).check(PEOPLE, "somewhere")
    with pytest.raises(InputError, match="p9"):
        Edits(swaps=(Swap(("p0", "p9"), 3),)).check(PEOPLE, "somewhere")


# ---- meaning ----


def test_a_swap_exchanges_from_its_frame_on() -> None:
    swapped = Edits().with_swap("p0", "p2", 13).apply_swaps(joints())
    x = swapped.keypoints[:, :, 0, 0]
    assert x[0].tolist() == [0, 0, 0, 2, 2, 2] and x[2].tolist() == [2, 2, 2, 0, 0, 0] and (x[1] == 1).all()
    assert (swapped.keypoints[..., 1] == FRAMES[None, :, None]).all()  # nobody moves in time


def test_swaps_act_one_after_another() -> None:
    # p0<->p1 from 12, then the one now called p1 (raw p0) with p2 from 14.
    swapped = Edits().with_swap("p0", "p1", 12).with_swap("p1", "p2", 14).apply_swaps(joints())
    x = swapped.keypoints[:, :, 0, 0]
    assert x[0].tolist() == [0, 0, 1, 1, 1, 1]
    assert x[1].tolist() == [1, 1, 0, 0, 2, 2]
    assert x[2].tolist() == [2, 2, 2, 2, 0, 0]


def test_the_same_edit_again_takes_it_back() -> None:
    assert not Edits().with_swap("p0", "p1", 12).with_swap("p1", "p0", 12)
    assert not Edits().with_untrusted(12).with_untrusted(12)
    assert len(Edits().with_untrusted(12).with_untrusted(12, ["p0"]).untrusted) == 2


def test_untrusted_joints_do_not_count() -> None:
    edited = Edits().with_untrusted(11, ["p1"]).with_untrusted(14).edit_joints(joints())
    assert edited.valid.sum() == 18 - 1 - 3
    assert not edited.valid[1, 1] and np.isnan(edited.keypoints[1, 1]).all() and (edited.scores[1, 1] == 0).all()
    assert edited.valid[0, 1] and not edited.valid[:, 4].any()


def test_what_is_pending() -> None:
    done = Edits().with_swap("p0", "p1", 12)
    wanted = done.with_swap("p0", "p2", 13).with_untrusted(4)
    assert done.pending(wanted) == Edits((Swap(("p0", "p2"), 13),), (Untrusted(4),))
    assert Edits().pending(wanted) == wanted
    assert not done.pending(Edits()).swaps  # cannot be undone in what was made: it has to be made anew


def test_bridged_bodies_go_between_their_neighbours(registered: Path) -> None:
    body = load_body()
    bodies = Bodies.load(registered / "results" / "initial.npz")
    spoilt = bodies.poses.copy()
    spoilt[0, 2] += 1.0
    bodies.poses[0, 2] = spoilt[0, 2]
    bridged = Edits().with_untrusted(2, ["p0"]).bridge(bodies, body)
    # Half way in angle: each joint's rotation to both neighbours is the same.
    turn = torch.as_tensor(bridged.poses[0, 1:4].reshape(3, 24, 3), dtype=torch.float64)
    import roma

    angles = [
        roma.rotmat_geodesic_distance(roma.rotvec_to_rotmat(turn[1]), roma.rotvec_to_rotmat(turn[i])) for i in (0, 2)
    ]
    torch.testing.assert_close(angles[0], angles[1], atol=2e-3, rtol=0)
    np.testing.assert_allclose(bridged.trans[0, 2], bodies.trans[0, [1, 3]].mean(axis=0), atol=1e-6)
    between = bodies.joints[0, [1, 3]].mean(axis=0)
    assert np.linalg.norm(bridged.joints[0, 2] - between, axis=-1).max() < 0.02
    np.testing.assert_array_equal(bridged.poses[1], bodies.poses[1])
    np.testing.assert_array_equal(bridged.joints[:, [0, 1, 3, 4]], bodies.joints[:, [0, 1, 3, 4]])
    # At the end there is nothing to go to: the last trusted pose is held.
    held = Edits().with_untrusted(4).bridge(bodies, body)
    np.testing.assert_allclose(held.trans[:, 4], bodies.trans[:, 3], atol=1e-6)


# ---- the stages ----


def test_register_honours_swaps_and_notices_changes(folder: Path, capsys: pytest.CaptureFixture) -> None:
    results = folder / "results"
    raw = (results / "joints3d.npz").read_bytes()
    before = Bodies.load(results / "initial.npz")
    Edits().with_swap("p0", "p1", 0).save(folder)
    main(["register", str(folder), "--frames", "0:5"])
    assert "edits.json has changed" in capsys.readouterr().err
    after = Bodies.load(results / "initial.npz")
    np.testing.assert_allclose(after.joints[0], before.joints[1], atol=0.03)
    assert np.linalg.norm(after.joints[0] - before.joints[0], axis=-1).mean() > 0.1
    assert applied_edits(results, "register") == Edits.load(folder)
    assert (results / "joints3d.npz").read_bytes() == raw  # what was estimated stays as it was

    main(["register", str(folder), "--frames", "0:5"])  # nothing changed: kept
    assert "initial.npz is there, kept" in capsys.readouterr().err

    (folder / "edits.json").unlink()  # taken back: as before
    main(["register", str(folder), "--frames", "0:5"])
    np.testing.assert_allclose(Bodies.load(results / "initial.npz").joints, before.joints, atol=1e-5)


def test_edits_of_strangers_end_with_2(folder: Path, capsys: pytest.CaptureFixture) -> None:
    Edits().with_untrusted(1, ["p5"]).save(folder)
    with pytest.raises(SystemExit) as stop:
        main(["register", str(folder), "--frames", "0:5"])
    assert stop.value.code == 2
    assert "p5" in capsys.readouterr().err


def problem_of(folder: Path, untrusted: np.ndarray | None, bodies: Bodies | None = None):
    sequence = Sequence.open(folder, frames=slice(0, 5))
    bodies = bodies or Bodies.load(folder / "results" / "initial.npz")
    config = RefineConfig(stages=CPU_STAGES, rays=64, pool_pixels=200)
    return build_problem(sequence, bodies, load_body(), config, torch.device("cpu"), 2**28, untrusted)


def test_refine_sees_nothing_of_an_untrusted_frame(registered: Path) -> None:
    untrusted = np.zeros((2, 5), bool)
    untrusted[0, 2] = True
    problem, plain = problem_of(registered, untrusted), problem_of(registered, None)
    joints = Bodies.load(registered / "results" / "initial.npz").joints
    pools = draw_pools(problem, CPU_STAGES[0], joints, seed=1)
    assert sorted(pools) == [0, 1, 2, 3, 4]
    for f, pool in pools.items():
        assert bool((pool.label == 2).all()) == (f == 2)
        assert bool(pool.coloured.any()) == (f != 2)
    score, free = problem.evidence.score, plain.evidence.score
    assert (score[:, 2, 0] == 0).all() and (free[:, 2, 0] > 0).any()
    torch.testing.assert_close(score[:, 2, 1], free[:, 2, 1])  # the other one keeps the keypoints
    torch.testing.assert_close(score[:, [0, 1, 3, 4]], free[:, [0, 1, 3, 4]])


def test_a_spoilt_frame_changes_nothing_when_it_is_not_trusted(folder: Path) -> None:
    """The refinement comes out the same whatever the images and keypoints of an untrusted frame show."""
    from dataclasses import replace

    stages = tuple(replace(s, iterations=3) for s in CPU_STAGES[:2])
    config = RefineConfig(stages=stages, rays=64, pool_pixels=200, frames_per_step=5)
    bodies = Bodies.load(folder / "results" / "initial.npz")
    untrusted = np.zeros((2, 5), bool)
    untrusted[:, 2] = True
    body = load_body()
    made = []
    for spoil in (False, True):
        if spoil:
            for camera in (folder / "images").iterdir():
                shutil.copyfile(camera / "000011.jpg", camera / "000002.jpg")
            for path in (folder / "keypoints2d").iterdir():
                keypoints = np.load(path)["keypoints"]
                keypoints[2, :, :, :2] += 40
                np.savez(path, keypoints=keypoints)
        shutil.rmtree(folder / "results" / "checkpoint", ignore_errors=True)
        sequence = Sequence.open(folder, frames=slice(0, 5))
        made.append(refine(sequence, bodies, body, config, untrusted=untrusted, uncertainty=None).poses)
    np.testing.assert_allclose(made[0], made[1], atol=1e-6)
