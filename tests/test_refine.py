"""Refinement on the embedded capture: recovery from known errors, resume, and the presets."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from avatarpose.body import load_body
from avatarpose.errors import InputError
from avatarpose.io import read_npz
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from optimize import refine as refinement
from optimize.config import AvatarWeights, PoseWeights, RefineConfig, Stage, ablation, preset
from optimize.refine import build_problem, refined_bodies, run_stages
from optimize.trace import Trace

LEFT_ELBOW = 18
refine = partial(refinement.refine, uncertainty=None)  # tests/test_uncertainty.py has that
AVATAR_STAGES = (
    Stage("avatar", 120, blur=1.0, detail=0.0, surface_width=0.005),
    Stage("avatar", 180, blur=0.5, detail=0.5, surface_width=0.005),
)
POSE_STAGES = (
    Stage("pose", 900, blur=1.0, detail=0.5, surface_width=0.005),
    Stage("pose", 300, blur=0.5, detail=0.5, surface_width=0.005, learning_rate_scale=0.5),
)


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    folder = tmp_path / "embrace"
    with as_file(files("assets") / "embrace") as source:
        shutil.copytree(source, folder)
    return folder


def bodies_of(body, betas, poses, trans, frames) -> Bodies:
    tensors = [torch.as_tensor(x, dtype=torch.float32) for x in (betas, poses, trans)]
    spread = tensors[0][:, None].expand(-1, poses.shape[1], -1)
    return Bodies(
        people=[f"p{i}" for i in range(len(poses))], frames=np.asarray(frames), fps=20.0,
        betas=np.float32(betas), poses=np.float32(poses), trans=np.float32(trans),
        joints=body.joints(spread, *tensors[1:]).numpy(), keypoints=body.keypoints(spread, *tensors[1:]).numpy(),
        valid=np.ones(poses.shape[:2], dtype=bool), body_name=body.name, body_sha256=body.sha256,
    )  # fmt: skip


@pytest.fixture(scope="module")
def truth(body) -> Bodies:
    """The body fitted to the true joints and keypoints of the embedded capture."""
    with as_file(files("assets") / "embrace") as source:
        return fit_to_truth(body, source)


def fit_to_truth(body, folder: Path) -> Bodies:
    """The body fitted to a capture's true joints and keypoints."""
    arrays = read_npz(folder / "ground_truth.npz", ["joints", "keypoints"])
    joints, keypoints = (torch.as_tensor(arrays[name], dtype=torch.float32) for name in ("joints", "keypoints"))
    people, frames = joints.shape[:2]
    rest = body.rest_joints(torch.zeros(10))
    torso = [0, 1, 2, 12, 16, 17]
    centred = joints[:, :, torso] - joints[:, :, torso].mean(dim=2, keepdim=True)
    R = roma.rigid_vectors_registration((rest[torso] - rest[torso].mean(dim=0)).expand_as(centred), centred)
    poses = torch.cat([roma.rotmat_to_rotvec(R), torch.zeros(people, frames, 69)], dim=-1).requires_grad_(True)
    trans = (joints[:, :, 0] - rest[0]).clone().requires_grad_(True)
    betas = torch.zeros(people, 1, 10, requires_grad=True)
    optimiser = torch.optim.Adam([{"params": [poses, betas], "lr": 0.03}, {"params": [trans], "lr": 0.01}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 400)
    for _ in range(400):
        given = (betas.expand(people, frames, 10), poses, trans)
        loss = (body.joints(*given) - joints).square().sum(-1).mean()
        loss = loss + (body.keypoints(*given) - keypoints)[:, :, 5:].square().sum(-1).mean()
        loss = loss + 1e-5 * betas.square().mean() + 1e-6 * poses[..., 3:].square().sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    error = (body.keypoints(*given) - keypoints)[:, :, 5:].norm(dim=-1).mean()
    assert error < 0.012, "the body does not reach the truth of the capture"
    arrays = (x.detach().numpy() for x in (betas[:, 0], poses, trans))
    return bodies_of(body, *arrays, np.arange(frames))


def perturbed(body, bodies: Bodies, rng: np.random.Generator) -> Bodies:
    """Every frame's root off by about 8 mm and every joint by about a degree and a half."""
    poses = bodies.poses + rng.normal(0, 0.025, bodies.poses.shape)
    return bodies_of(body, bodies.betas, poses, bodies.trans + rng.normal(0, 0.005, bodies.trans.shape), bodies.frames)


def quick(stages: tuple[Stage, ...], **changes) -> RefineConfig:
    return replace(preset("cpu"), stages=stages, rays=1024, frames_per_step=3, pool_pixels=2000, segment=150, **changes)


def run_from(sequence, body, start: Bodies, avatars_from: Bodies, pose_stages: tuple[Stage, ...]) -> Bodies:
    """Fit avatars at `avatars_from`, then poses from `start` with these avatars."""
    config = quick(AVATAR_STAGES)
    device = torch.device("cpu")
    learned = build_problem(sequence, avatars_from, body, config, device, 2**28)
    refinement.run_stages(learned, config)
    config = quick(pose_stages, pose=replace(preset("cpu").pose, keypoints=0.0))
    problem = build_problem(sequence, start, body, config, device, 2**28)
    problem.avatars.load_state_dict(learned.avatars.state_dict())
    refinement.run_stages(problem, config)
    return refined_bodies(problem, start)


@pytest.mark.slow
def test_displaced_root_and_turned_forearm_come_back(data_folder, tmp_path, body):
    """A root 2 cm off comes back within 5 mm, a forearm turned by 30 degrees within 8, though the avatar was fitted at
    poses that were themselves wrong."""
    folder = tmp_path / "duo_a"
    shutil.copytree(data_folder / "duo_a", folder, ignore=shutil.ignore_patterns("results"))
    sequence = Sequence.open(folder, frames=slice(0, 6))
    truth = fit_to_truth(body, folder)
    truth = bodies_of(body, truth.betas, truth.poses[:, :6], truth.trans[:, :6], sequence.frames)
    rng = np.random.default_rng(3)
    poses, trans = truth.poses.copy(), truth.trans.copy()
    moved, turned = slice(0, 3), slice(0, 3)
    shift = np.array([0.012, -0.012, 0.0106], dtype=np.float32)  # 2 cm
    trans[0, moved] += shift
    local = torch.as_tensor(poses[1, turned, 3 * LEFT_ELBOW : 3 * LEFT_ELBOW + 3])
    turn = torch.tensor([0.0, np.deg2rad(30.0), 0.0], dtype=torch.float32).expand_as(local)
    poses[1, turned, 3 * LEFT_ELBOW : 3 * LEFT_ELBOW + 3] = roma.rotvec_composition((local, turn)).numpy()
    start = bodies_of(body, truth.betas, poses, trans, truth.frames)
    refined = run_from(
        sequence,
        body,
        start,
        perturbed(body, truth, rng),
        POSE_STAGES,
    )
    root_error = np.linalg.norm(refined.joints[0, moved, 0] - truth.joints[0, moved, 0], axis=-1)
    assert np.median(root_error) < 0.005, f"root error {1000 * root_error} mm"

    def forearm(bodies: Bodies) -> np.ndarray:
        bone = bodies.joints[1, turned, LEFT_ELBOW + 2] - bodies.joints[1, turned, LEFT_ELBOW]
        return bone / np.linalg.norm(bone, axis=-1, keepdims=True)

    angle = np.rad2deg(np.arccos(np.clip((forearm(refined) * forearm(truth)).sum(-1), -1, 1)))
    before = np.rad2deg(np.arccos(np.clip((forearm(start) * forearm(truth)).sum(-1), -1, 1)))
    assert before.min() > 20
    assert np.median(angle) < 8, f"forearm off by {angle} degrees"


def test_resume_after_a_kill_gives_the_same_numbers(capture, body, truth, tmp_path):
    stages = (Stage("silhouette", 6, shape=True), Stage("avatar", 6), Stage("pose", 6, collision=True))
    config = replace(quick(stages), segment=3, rays=128, pool_pixels=200)
    other = tmp_path / "other"
    shutil.copytree(capture, other)
    sequence = Sequence.open(capture, frames=slice(0, 4))
    start = bodies_of(body, truth.betas, truth.poses[:, :4], truth.trans[:, :4], sequence.frames)
    whole = refine(sequence, start, body, config)

    class Killed(Exception):
        pass

    def killer(done: int, *_: object) -> None:
        if done == killer.at:
            raise Killed

    interrupted = Sequence.open(other, frames=slice(0, 4))
    for killer.at in (4, 8, 11, 17):
        with pytest.raises(Killed):
            refine(interrupted, start, body, config, killer)
    resumed = refine(interrupted, start, body, config)
    np.testing.assert_array_equal(resumed.poses, whole.poses)
    np.testing.assert_array_equal(resumed.trans, whole.trans)
    np.testing.assert_array_equal(resumed.betas, whole.betas)
    assert not np.allclose(whole.poses, start.poses, atol=1e-5)
    traces = [Trace.load(one.results / "trace.npz") for one in (sequence, interrupted)]
    np.testing.assert_array_equal(traces[0].iterations, [0, 3, 6, 9, 12, 15, 18])
    np.testing.assert_array_equal(traces[1].iterations, traces[0].iterations)
    np.testing.assert_array_equal(traces[1].keypoints, traces[0].keypoints)
    np.testing.assert_array_equal(traces[0].keypoints[-1], whole.keypoints)
    assert (np.diff(traces[1].seconds) > 0).all()


def test_other_settings_do_not_continue_a_checkpoint(capture, body, truth):
    config = replace(quick((Stage("pose", 2),)), rays=64, pool_pixels=100)
    sequence = Sequence.open(capture, frames=slice(0, 3))
    start = bodies_of(body, truth.betas, truth.poses[:, :3], truth.trans[:, :3], sequence.frames)
    seen: list[int] = []

    def note(done: int, total: int, stage: str, terms: dict[str, float]) -> None:
        if stage == "pose":
            seen.append(done)

    refine(sequence, start, body, config, note)
    refine(sequence, start, body, replace(config, seed=7), note)
    assert seen == [1, 2, 1, 2]
    refine(sequence, start, body, replace(config, seed=7), note)
    assert seen == [1, 2, 1, 2], "a finished run has nothing left to do"


def test_damaged_checkpoint_is_named(capture, body, truth):
    config = replace(quick((Stage("pose", 2),)), rays=64, pool_pixels=100)
    sequence = Sequence.open(capture, frames=slice(0, 3))
    start = bodies_of(body, truth.betas, truth.poses[:, :3], truth.trans[:, :3], sequence.frames)
    checkpoint = sequence.results / "checkpoint" / "refine.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"refine\.pt"):
        refine(sequence, start, body, config)
    assert checkpoint.read_bytes() == b"not a checkpoint"


def test_bodies_of_other_frames_are_refused(capture, body, truth):
    sequence = Sequence.open(capture, frames=slice(0, 3))
    with pytest.raises(InputError, match="other frames"):
        refine(sequence, truth, body, quick((Stage("pose", 1),)))


def test_paper_preset_holds_the_published_numbers():
    paper = preset("paper")
    # windows in iterations: 180 epochs, 1,120 iterations over 140 frames x 8 cameras, 160 over 20 frames
    epochs = [10, 20, 10, 10, 20, 20, 10, 20, 20, 10, 10, 20]
    full = [1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1]
    assert [s.iterations for s in paper.stages] == [e * (1120 if f else 160) for e, f in zip(epochs, full, strict=True)]
    assert "".join(s.kind[0] for s in paper.stages) == "aapaapaapaap"
    assert [s.shape for s in paper.stages] == [True, True] + [False] * 10
    assert [s.collision for s in paper.stages] == [False] * 11 + [True]
    field = paper.field
    assert (field.levels, field.features, field.log2_table, field.base_resolution) == (16, 2, 19, 16)
    assert field.finest_resolution == round(16 * 1.5**15)
    assert paper.sampling.shell == 0.05
    weights: AvatarWeights = paper.avatar
    assert (weights.rgb, weights.alpha, weights.lpips) == (1.0, 0.1, 0.01)
    assert (weights.hard_alpha, weights.hard_weight, weights.layer_entropy) == (0.1, 0.1, 0.001)
    poses: PoseWeights = paper.pose
    assert (poses.rgb, poses.alpha, poses.pose_prior, poses.angle_prior) == (10.0, 0.05, 1e-3, 1e-2)
    assert (poses.collision, poses.smooth_joints) == (5e-3, 1.0)
    assert (paper.rates.avatar, paper.rates.pose_mlp, paper.rates.betas) == (1e-3, 1e-3, 1e-5)
    # corrected: root orientation and translation get photometric gradients, so they get a rate that moves them
    assert paper.rates.pose > 0
    assert paper.adam_betas == (0.9, 0.99)
    assert paper.decay_power == 1.5
    assert paper.huber == 0.1
    assert paper.pose_param == "mlp"
    assert paper.rays == 2 * 8192
    assert paper.patch == 32
    assert paper.seed == 42


SWITCHES = (
    "rgb",
    "mask",
    "priors",
    "smoothness",
    "collision",
    "shading",
    "camera_colour",
    "offset",
    "joint",
    "smpl_only",
)


@pytest.mark.parametrize("name", SWITCHES)
def test_every_part_can_be_left_out(capture, body, truth, name):
    stages = (Stage("avatar", 2), Stage("silhouette", 2, shape=True), Stage("pose", 2, shape=True, collision=True))
    config = replace(quick(stages), rays=96, pool_pixels=100, segment=2, ablation=ablation(name))
    sequence = Sequence.open(capture, frames=slice(0, 3))
    start = bodies_of(body, truth.betas, truth.poses[:, :3], truth.trans[:, :3], sequence.frames)
    seen: list[tuple[str, set[str]]] = []
    refined = refine(sequence, start, body, config, lambda done, total, kind, terms: seen.append((kind, set(terms))))
    terms = set().union(*(names for _, names in seen))
    absent = {
        "rgb": {"rgb"},
        "mask": {"alpha"},
        "priors": {"prior", "hinge", "shape"},
        "smoothness": {"smooth", "turn"},
        "collision": {"collision"},
        "shading": {"shading"},
        "camera_colour": {"camera"},
        "offset": {"offset_range", "offset_smooth"},
        "smpl_only": {"rgb", "alpha", "hard", "collision"},
    }
    assert not terms & absent.get(name, set())
    others = {"rgb", "alpha", "collision", "prior", "smooth", "keypoints"} - absent.get(name, set())
    assert others <= terms or name == "smpl_only"
    if name == "joint":
        assert [kind for kind, _ in seen] == ["joint", "joint", "silhouette", "silhouette", "joint", "joint"]
    assert np.isfinite(refined.poses).all()
    assert np.isfinite(refined.betas).all()


def test_long_captures_get_more_iterations_and_the_published_schedule_none():
    assert preset("cpu").for_frames(12).iterations == preset("cpu").for_frames(30).iterations == 1700
    assert preset("cpu").for_frames(120).iterations == 3400
    assert preset("paper").for_frames(1000) == preset("paper")


def test_unknown_part_is_named():
    with pytest.raises(InputError, match="texture"):
        ablation("rgb,texture")


def test_light_stays_out_of_the_colours_when_poses_move_too(capture, body, truth):
    """The priors on light and cameras weigh against the colour loss in joint stages as in avatar stages."""
    config = replace(quick((Stage("avatar", 1),)), rays=96, pool_pixels=100)
    sequence = Sequence.open(capture, frames=slice(0, 3))
    start = bodies_of(body, truth.betas, truth.poses[:, :3], truth.trans[:, :3], sequence.frames)
    shares = []
    for kind in ("avatar", "joint"):
        problem = build_problem(sequence, start, body, config, torch.device("cpu"), 2**28)
        with torch.no_grad():
            for parameter in [*problem.avatars.shading.parameters(), *problem.avatars.camera_colour.parameters()]:
                parameter.fill_(0.1)
        seen: list[dict] = []
        run_stages(problem, replace(config, stages=(Stage(kind, 1),)), lambda *said, seen=seen: seen.append(said[3]))
        shares.append([float(seen[0][name] / seen[0]["rgb"]) for name in ("shading", "camera")])
    assert min(shares[0]) > 0
    # Other pixels are drawn, and half of the batch's colours are random: the same to a factor, not to a digit.
    assert shares[1] == pytest.approx(shares[0], rel=0.5)
