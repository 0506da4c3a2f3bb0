"""Registration: each part against hand-worked or independent numbers, then the whole on synthetic and real captures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from avatarpose.body import BodyModel, load_body
from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.io import write_npz
from avatarpose.register import RegisterSettings, register
from avatarpose.register.curvature import N_POSE, N_SHAPE, build_factors
from avatarpose.register.evidence import Evidence
from avatarpose.register.initial_root import initial_root, present_frames, rigid_fit
from avatarpose.register.priors import HINGES, acceleration_cost, angular_acceleration_cost, hinge_cost
from avatarpose.register.shape import LIMBS, fit_shape
from avatarpose.results import Joints3D
from avatarpose.sequence import Sequence

FPS = 20.0
UP = np.array([0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def body() -> BodyModel:
    return load_body(dtype=torch.float64)


@pytest.fixture(scope="module")
def truth(body: BodyModel) -> dict[str, torch.Tensor]:
    """One person who turns through pi, bends and swings arms and legs; z up."""
    frames = 12
    t = torch.arange(frames, dtype=torch.float64) / FPS
    poses = torch.zeros(1, frames, 24, 3, dtype=torch.float64)
    upright = roma.rotvec_to_rotmat(torch.tensor([torch.pi / 2, 0, 0], dtype=torch.float64))
    turning = torch.stack([torch.zeros_like(t), torch.zeros_like(t), 2.6 + 2.0 * t], dim=-1)
    poses[0, :, 0] = roma.rotmat_to_rotvec(roma.rotvec_to_rotmat(turning) @ upright)
    swing = torch.sin(2 * torch.pi * t)
    poses[0, :, 1, 0], poses[0, :, 2, 0] = -0.3 - 0.3 * swing, -0.3 + 0.3 * swing
    poses[0, :, 4, 0], poses[0, :, 5, 0] = 0.6 + 0.2 * swing, 0.5 - 0.2 * swing
    poses[0, :, 16, 2], poses[0, :, 17, 2] = -0.9 + 0.2 * swing, 0.8 + 0.2 * swing
    poses[0, :, 18, 1], poses[0, :, 19, 1] = -0.9 - 0.3 * swing, 0.7 - 0.3 * swing
    poses[0, :, 3, 0] = 0.1
    trans = torch.stack([0.3 * t, 0.1 * t, 1.0 + 0.0 * t], dim=-1)[None]
    betas = torch.tensor([[1.0, -0.8, 0.5, 0, 0, 0.6, 0, 0, 0, 0]], dtype=torch.float64)
    keypoints = body.keypoints(betas[:, None], poses.flatten(-2), trans)
    return {"betas": betas, "poses": poses.flatten(-2), "trans": trans, "keypoints": keypoints}


def joints_of(keypoints: np.ndarray, valid: np.ndarray | None = None) -> Joints3D:
    people, frames = keypoints.shape[:2]
    valid = np.ones((people, frames), bool) if valid is None else valid
    keypoints = np.where(valid[..., None, None], keypoints, np.nan)
    scores = np.isfinite(keypoints).all(axis=-1).astype(np.float32)
    names = [f"p{i}" for i in range(people)]
    return Joints3D(names, np.arange(frames), keypoints.astype(np.float32), scores, valid)


def write_capture(folder: Path, keypoints: torch.Tensor, noise: float, wrong: float, seed: int = 0) -> Sequence:
    """A sequence folder seen by four cameras, with `noise` pixels of error and a share `wrong` of joints elsewhere."""
    rng = np.random.default_rng(seed)
    angles = np.array([0.3, 1.8, 3.5, 5.0])
    centres = np.stack([4 * np.cos(angles), 4 * np.sin(angles), np.full(4, 1.6)], axis=-1)
    entries = {}
    for c, centre in enumerate(centres):
        forward = np.array([0, 0, 1.0]) - centre
        forward /= np.linalg.norm(forward)
        right = np.cross(forward, UP)
        right /= np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        entries[f"cam{c}"] = {
            "K": [[600.0, 0, 320], [0, 600, 240], [0, 0, 1]], "R": R.tolist(), "t": (-R @ centre).tolist(),
            "dist": [0.0] * 5, "width": 640, "height": 480,
        }  # fmt: skip
    frames = keypoints.shape[1]
    folder.mkdir(parents=True)
    (folder / "cameras.json").write_text(json.dumps(entries))
    header = {"fps": FPS, "frames": frames, "unit": "m", "up": "z", "people": len(keypoints)}
    (folder / "sequence.json").write_text(json.dumps(header))
    pixels, _ = Cameras.load(folder / "cameras.json").project(keypoints)
    pixels = pixels.numpy() + rng.normal(0, noise, pixels.shape)  # (C, P, F, 17, 2)
    astray = rng.random(pixels.shape[:-1]) < wrong
    pixels[astray] += rng.uniform(40, 120, (int(astray.sum()), 2)) * rng.choice([-1, 1], (int(astray.sum()), 2))
    for c, name in enumerate(entries):
        rows = np.concatenate([pixels[c], np.full((*pixels[c].shape[:-1], 1), 0.9)], axis=-1).transpose(1, 0, 2, 3)
        write_npz(folder / "keypoints2d" / f"{name}.npz", keypoints=rows.astype(np.float32))
    return Sequence.open(folder)


# --- the parts


def test_rigid_fit_recovers_a_known_motion_and_refuses_a_line() -> None:
    points = np.array([[0.2, 0.5, 0], [-0.2, 0.5, 0], [0.1, 0, 0.02], [-0.1, 0, 0]])
    R = roma.rotvec_to_rotmat(torch.tensor([0.4, -2.0, 1.1], dtype=torch.float64)).numpy()
    t = np.array([1.0, -2.0, 0.5])
    rotation, translation = rigid_fit(points, points @ R.T + t, np.array([1.0, 0.5, 0.2, 1.0]))
    np.testing.assert_allclose(rotation, R, atol=1e-12)
    np.testing.assert_allclose(translation, t, atol=1e-12)
    line = np.outer(np.linspace(0, 1, 4), [1.0, 2.0, 3.0])
    assert rigid_fit(points, line, np.ones(4)) is None


def test_present_frames_lie_between_first_and_last() -> None:
    valid = np.array([[0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 1]], bool)
    expected = np.array([[0, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(present_frames(valid), expected)


def test_root_starts_at_the_true_rotation_and_interpolates_over_a_gap(body: BodyModel, truth: dict) -> None:
    stiff = truth["poses"].clone()
    stiff[..., 3:] = 0
    keypoints = body.keypoints(truth["betas"][:, None], stiff, truth["trans"]).numpy()
    valid = np.ones((1, 12), bool)
    valid[0, 5:7] = False
    root, trans = initial_root(body, joints_of(keypoints, valid), truth["betas"], UP)
    angle = roma.rotmat_geodesic_distance(root, roma.rotvec_to_rotmat(stiff[..., :3]))
    # The turn is at constant speed, so that interpolation too is exact; float32 joints.
    assert float(angle.max()) < 1e-4
    assert float((trans - truth["trans"]).norm(dim=-1).max()) < 1e-3


def test_unseen_torso_stands_upright(body: BodyModel, truth: dict) -> None:
    keypoints = truth["keypoints"].numpy().copy()
    keypoints[:, :, 5:13] = np.nan
    root, _ = initial_root(body, joints_of(keypoints), truth["betas"], UP)
    np.testing.assert_allclose(root[0, 0, :, 1].numpy(), UP, atol=1e-9)


def test_shape_meets_the_limb_lengths_and_ignores_bad_frames(body: BodyModel, truth: dict) -> None:
    rng = np.random.default_rng(1)
    keypoints = truth["keypoints"].numpy() + rng.normal(0, 0.005, truth["keypoints"].shape)
    keypoints[0, ::4] += rng.normal(0, 0.3, keypoints[0, ::4].shape)
    zeros = torch.zeros(1, 72, dtype=torch.float64)

    def lengths(betas: torch.Tensor) -> torch.Tensor:
        rest = body.keypoints(betas, zeros, zeros[:, :3])[0]
        return torch.stack([(rest[a] - rest[b]).norm() for a, b in LIMBS[4:]])

    betas = fit_shape(body, joints_of(keypoints), limb_spread=0.015)
    off = (lengths(betas) - lengths(truth["betas"])).abs()
    plain = (lengths(torch.zeros(1, 10, dtype=torch.float64)) - lengths(truth["betas"])).abs()
    assert float(off.mean()) < 0.007 < 0.5 * float(plain.max())
    nothing = fit_shape(body, joints_of(np.full_like(keypoints, np.nan)), limb_spread=0.015)
    assert float(nothing.abs().max()) < 1e-12


def test_hinges_are_the_body_s_own(body: BodyModel) -> None:
    """Turned by its sign, a forearm goes behind the body and a shin before it: where they cannot go."""
    betas, trans = torch.zeros(10, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    rest = body.joints(betas, torch.zeros(72, dtype=torch.float64), trans)
    for joint, axis, sign in HINGES:
        pose = torch.zeros(24, 3, dtype=torch.float64)
        pose[joint, axis] = 0.5 * sign
        end = joint + 3 if joint < 12 else joint + 2  # ankle or wrist
        moved = body.joints(betas, pose.flatten(), trans)[end] - rest[end]
        forward = float(moved[2])
        assert forward < -0.05 if joint in (18, 19) else forward > 0.05
        assert float(hinge_cost(pose[1:])) > 10
        assert float(hinge_cost(-pose[1:])) == 0


def test_accelerations_are_in_physical_units() -> None:
    t = torch.arange(3, dtype=torch.float64) / FPS
    points = torch.zeros(1, 3, 1, 3, dtype=torch.float64)
    points[0, :, 0, 0] = 0.5 * 30.0 * t**2  # 30 m/s^2
    triple = torch.ones(1, 1, dtype=torch.bool)
    expected = (1 + (30.0 / 25.0) ** 2) ** 0.5 - 1
    assert float(acceleration_cost(points, triple, FPS, 25.0)) == pytest.approx(expected, rel=1e-9)
    spin = torch.zeros(1, 3, 1, 3, dtype=torch.float64)
    spin[0, :, 0, 1] = 3.1 + 0.5 * 20.0 * t**2  # 20 rad/s^2, through pi
    cost = angular_acceleration_cost(roma.rotvec_to_rotmat(spin), triple, FPS, 10.0)
    assert float(cost) == pytest.approx((1 + 2.0**2) ** 0.5 - 1, rel=2e-3)
    assert float(acceleration_cost(points, ~triple, FPS, 25.0)) == 0


def test_factor_is_the_cholesky_factor_of_the_curvature() -> None:
    """Against the Hessian, by automatic differentiation, of the quadratic that the curvature stands for."""
    generator = torch.Generator().manual_seed(3)
    frames = 4

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    slopes = draw(1, frames, 17, 3, N_POSE + N_SHAPE) - 0.5
    root = draw(1, frames, 17, 3, 3)
    measured = root @ root.transpose(-1, -2)
    linear, angular, prior = draw(1, frames - 2, 17), draw(1, frames - 2, 24), draw(1, frames, N_POSE) + 0.1

    def quadratic(x: torch.Tensor) -> torch.Tensor:
        pose, shape = x[:-N_SHAPE].reshape(frames, N_POSE), x[-N_SHAPE:]
        points = torch.einsum("fkxa,fa->fkx", slopes[0], torch.cat((pose, shape.expand(frames, -1)), dim=-1))
        value = torch.einsum("fkx,fkxy,fky->", points, measured[0], points)
        second = points[:-2] - 2 * points[1:-1] + points[2:]
        value = value + (linear[0, ..., None] * second**2).sum() + (prior[0] * pose**2).sum()
        angles = pose[:, :72].reshape(frames, 24, 3)
        value = value + (angular[0, ..., None] * (angles[:-2] - 2 * angles[1:-1] + angles[2:]) ** 2).sum()
        return 0.5 * value + 0.5 * 0.7 * (shape**2).sum()

    size = frames * N_POSE + N_SHAPE
    hessian = torch.autograd.functional.hessian(quadratic, torch.zeros(size, dtype=torch.float64)).numpy()
    present = torch.ones(1, frames, dtype=torch.bool)
    (factor,) = build_factors(slopes, measured, linear, angular, prior, 0.7, present)
    lower = np.linalg.cholesky(hessian)
    z = np.random.default_rng(0).normal(size=size)
    step = np.concatenate(factor.step(z[:-N_SHAPE], z[-N_SHAPE:]))
    gradient = np.concatenate(factor.gradient(z[:-N_SHAPE], z[-N_SHAPE:]))
    np.testing.assert_allclose(step, np.linalg.solve(lower.T, z), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(gradient, np.linalg.solve(lower, z), rtol=1e-7, atol=1e-9)


def test_evidence_takes_each_person_s_own_row() -> None:
    keypoints = np.zeros((1, 2, 3, 17, 3), np.float32)
    keypoints[..., 0] = np.arange(3)[None, None, :, None]
    keypoints[..., 2] = 0.5
    keypoints[0, 0, 2, 4] = np.nan
    evidence = Evidence.gather(keypoints, np.array([[[2, 0], [-1, 1]]]))  # (camera, frame, person)
    assert evidence.pixels.shape == (1, 2, 2, 17, 2)
    assert evidence.pixels[0, 0, 0, 3, 0] == 2 and evidence.pixels[0, 1, 1, 3, 0] == 1
    assert evidence.weights[0, 0, 0, 3] == 0.5
    assert evidence.weights[0, 0, 0, 4] == 0 and (evidence.weights[0, 0, 1] == 0).all()
    assert torch.isfinite(evidence.pixels).all()


# --- the whole


def test_clean_joints_give_the_motion_back(tmp_path: Path, body: BodyModel, truth: dict) -> None:
    keypoints = truth["keypoints"].numpy()
    sequence = write_capture(tmp_path / "clean", truth["keypoints"], noise=0.0, wrong=0.0)
    calls: list[tuple[int, int]] = []
    settings = replace(RegisterSettings(), detection_bias=0.0)
    bodies = register(sequence, joints_of(keypoints), body, settings, lambda done, total: calls.append((done, total)))
    error = np.linalg.norm(bodies.keypoints - keypoints, axis=-1)
    assert error.mean() < 0.004
    inner = body.joints(*(torch.as_tensor(x, dtype=torch.float64) for x in
                          (bodies.betas[:, None], bodies.poses, bodies.trans)))  # fmt: skip
    np.testing.assert_allclose(inner.numpy(), bodies.joints, atol=1e-5)
    real = body.joints(truth["betas"][:, None], truth["poses"], truth["trans"]).numpy()
    assert np.linalg.norm(bodies.joints - real, axis=-1)[..., :22].mean() < 0.025
    assert bodies.valid.all() and bodies.body_sha256 == body.sha256 and bodies.fps == FPS
    assert calls == sorted(calls) and calls[-1][0] == calls[-1][1]


def test_gaps_and_wild_joints_are_bridged(tmp_path: Path, body: BodyModel, truth: dict) -> None:
    rng = np.random.default_rng(2)
    keypoints = truth["keypoints"].numpy()
    noisy = keypoints + rng.normal(0, 0.01, keypoints.shape)
    noisy[0, 3, 9] += 0.6  # a wrist of someone else
    noisy[0, :, 15] = np.where(np.arange(12)[:, None] < 4, np.nan, noisy[0, :, 15])  # an ankle unknown for a while
    valid = np.ones((1, 12), bool)
    valid[0, [0, 6, 11]] = False
    sequence = write_capture(tmp_path / "gaps", truth["keypoints"], noise=0.0, wrong=0.0)
    settings = replace(RegisterSettings(), detections_iterations=0)
    bodies = register(sequence, joints_of(noisy, valid), body, settings)
    assert bodies.valid.tolist() == [[False] + [True] * 10 + [False]]
    error = np.linalg.norm(bodies.keypoints - keypoints, axis=-1)[0]
    assert error[6].mean() < 0.04 and error[3, 9] < 0.1 and error[1:4, 15].max() < 0.2
    assert np.isfinite(bodies.poses).all() and np.isfinite(bodies.trans).all()
    np.testing.assert_array_equal(bodies.poses[0, 11], bodies.poses[0, 10])


def test_detections_mend_bad_joints_and_same_input_same_output(tmp_path: Path, body: BodyModel, truth: dict) -> None:
    rng = np.random.default_rng(4)
    keypoints = truth["keypoints"].numpy()
    rough = joints_of(keypoints + rng.normal(0, 0.03, keypoints.shape))
    sequence = write_capture(tmp_path / "noisy", truth["keypoints"], noise=2.0, wrong=0.1)
    first = register(sequence, rough, body)
    error = np.linalg.norm(first.keypoints - keypoints, axis=-1)[..., 5:]
    assert error.mean() < 0.015  # 2 pixels are 13 mm here, and a tenth of the joints are far off
    again = register(sequence, rough, body)
    np.testing.assert_array_equal(first.poses, again.poses)


def test_no_person_and_foreign_frames_are_reported(tmp_path: Path, body: BodyModel, truth: dict) -> None:
    sequence = write_capture(tmp_path / "errors", truth["keypoints"], noise=0.0, wrong=0.0)
    joints = joints_of(truth["keypoints"].numpy())
    with pytest.raises(InputError, match=r"joints3d\.npz.*no person"):
        register(sequence, replace(joints, valid=np.zeros((1, 12), bool)), body)
    with pytest.raises(InputError, match="frames that the sequence lacks"):
        register(sequence, replace(joints, frames=np.arange(5, 17)), body)


@pytest.mark.slow
def test_better_than_triangulation_on_real_motion(data_folder: Path, body: BodyModel) -> None:
    from avatarpose.estimate import TriangulationConfig, estimate

    sequence = Sequence.open(data_folder / "duo_b", frames=slice(0, 10))
    with np.load(data_folder / "duo_b" / "ground_truth.npz", allow_pickle=False) as file:
        real = file["keypoints"][:, :10].astype(np.float64)
    joints = estimate(sequence, TriangulationConfig())
    bodies = register(sequence, joints, body)

    def errors(found: np.ndarray) -> np.ndarray:
        away = np.linalg.norm(found[:, None] - real[None], axis=-1)[..., 5:]  # (found, true, F, 12)
        order = np.nanmean(away, axis=(2, 3)).argmin(axis=0)
        return away[order, np.arange(len(real))]

    before, after = np.nan_to_num(errors(joints.keypoints), nan=0.5), errors(bodies.keypoints)
    assert after.mean() < 0.85 * before.mean()
    assert after.mean() < 0.028
