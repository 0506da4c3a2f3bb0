"""Standard deviations of joints: the curvature against automatic differentiation, and what must make them grow."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files

import numpy as np
import pytest
import torch
from test_refine import bodies_of

from avatarpose.body import load_body
from avatarpose.errors import InputError
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from optimize.config import preset
from optimize.refine import build_problem
from optimize.uncertainty import Uncertainty, UncertaintyConfig, _keypoint_information, _steps, joint_uncertainty

CONFIG = UncertaintyConfig(rays=40)


@pytest.fixture(scope="module")
def body():
    return load_body()


def problem_of(body, cameras=None, smpl_only=False):
    """The embedded capture's first frame, with bodies at rest where its people stand."""
    with as_file(files("assets") / "embrace") as folder:
        sequence = Sequence.open(folder, cameras=cameras, frames=slice(0, 1))
        with np.load(folder / "ground_truth.npz") as truth:
            roots = truth["joints"][:, :1, 0]
        poses = np.zeros((2, 1, 72))
        poses[..., 0] = np.pi / 2  # upright where z is up
        rest = body.rest_joints(torch.zeros(10))[0].numpy()
        bodies: Bodies = bodies_of(body, np.zeros((2, 10)), poses, roots - rest, sequence.frames)
        config = preset("cpu")
        config = replace(config, ablation=replace(config.ablation, smpl_only=smpl_only))
        return build_problem(sequence, bodies, body, config, torch.device("cpu"), 2**28)


def test_keypoint_information_is_that_of_the_derivatives(body):
    problem = problem_of(body, smpl_only=True)
    parameters = problem.poses()
    found = _keypoint_information(problem, _steps(body, parameters, 0, 0, CONFIG), 0, 0)

    def project(theta):
        keypoints = body.keypoints(parameters.betas[0], theta[:72], theta[72:])
        return problem.cameras.project(keypoints)[0]  # (C, 17, 2)

    theta = torch.cat([parameters.poses[0, 0], parameters.trans[0, 0]]).detach()
    J = torch.autograd.functional.jacobian(project, theta)  # (C, 17, 2, 75)
    miss = (project(theta) - problem.evidence.pixels[:, 0, 0]).square().mean(-1)
    weight = problem.evidence.score[:, 0, 0] / (1 + miss / problem.keypoint_unit**2)
    assert weight.sum() > 10  # detections were found for this person
    variance = (weight * miss).sum() / weight.sum()
    expected = torch.einsum("cjka,cjkb,cj->ab", J, J, weight) / variance.clamp(min=1)
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_pixels_tell_more_than_keypoints_and_cameras_more_than_one(body):
    with torch.no_grad():
        keypoints_only = problem_of(body, smpl_only=True)
        _, loose = joint_uncertainty(keypoints_only, keypoints_only.poses(), CONFIG)
        every = problem_of(body)
        _, tight = joint_uncertainty(every, every.poses(), CONFIG)
        few = problem_of(body, cameras=["cam00", "cam01"])
        _, fewer = joint_uncertainty(few, few.poses(), CONFIG)
    assert tight.shape == (2, 1, 17, 3)
    assert torch.isfinite(tight).all() and (tight > 0).all()
    assert (tight[:, :, 5:] < loose[:, :, 5:]).float().mean() > 0.9
    assert (tight[:, :, 5:] < fewer[:, :, 5:]).float().mean() > 0.9
    # Two cameras at 68 degrees: the ends of limbs are known worse than the trunk.
    assert fewer[:, :, [9, 10]].mean() > 1.3 * fewer[:, :, [11, 12]].mean()


def test_same_numbers_twice_and_none_for_who_is_absent(body):
    problem = problem_of(body)
    problem.poses.valid[1, 0] = False
    first, _ = joint_uncertainty(problem, problem.poses(), CONFIG)
    again, _ = joint_uncertainty(problem, problem.poses(), CONFIG)
    assert torch.equal(first[0], again[0])
    assert torch.isnan(first[1]).all()


def test_file(tmp_path):
    made = Uncertainty(["p0"], np.arange(3), np.full((1, 3, 24, 3), 0.01), np.full((1, 3, 17, 3), 0.02))
    made.save(tmp_path / "uncertainty.npz")
    found = Uncertainty.load(tmp_path / "uncertainty.npz")
    assert found.people == ["p0"] and found.keypoints.shape == (1, 3, 17, 3)
    assert found.joints == pytest.approx(0.01)
    Uncertainty(["p0"], np.arange(3), np.zeros((1, 2, 24, 3)), np.zeros((1, 3, 17, 3))).save(tmp_path / "short.npz")
    with pytest.raises(InputError, match=r"short.npz.*joints.*\(1, 3, 24, 3\).*\(1, 2, 24, 3\)"):
        Uncertainty.load(tmp_path / "short.npz")
