"""Curvature of the refinement's cost against other derivatives; standard deviations, and what makes them grow."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import as_file, files

import numpy as np
import pytest
import roma
import torch
from test_refine import bodies_of

from avatarpose.body import load_body
from avatarpose.errors import InputError
from avatarpose.results import Bodies
from avatarpose.sequence import Sequence
from optimize.avatars import body_motion
from optimize.config import preset
from optimize.curvature import (
    LARGEST_DEVIATION,
    body_steps,
    evidence_information,
    keypoint_information,
    look,
    pose_directions,
    prior_information,
    ray_information,
    ray_jacobian,
    rendered_values,
)
from optimize.refine import build_problem
from optimize.uncertainty import Uncertainty, UncertaintyConfig, joint_uncertainty

CONFIG = UncertaintyConfig(rays=40)


@pytest.fixture(scope="module")
def body():
    return load_body()


def problem_of(body, cameras=None, smpl_only=False, frames=1, untrusted=None):
    """The embedded capture's first frames, with bodies at rest where its people stand."""
    with as_file(files("assets") / "embrace") as folder:
        sequence = Sequence.open(folder, cameras=cameras, frames=slice(0, frames))
        with np.load(folder / "ground_truth.npz") as truth:
            roots = truth["joints"][:, :frames, 0]
        poses = np.zeros((2, frames, 72))
        poses[..., 0] = np.pi / 2  # upright where z is up
        rest = body.rest_joints(torch.zeros(10))[0].numpy()
        bodies: Bodies = bodies_of(body, np.zeros((2, 10)), poses, roots - rest, sequence.frames)
        config = preset("cpu")
        config = replace(config, ablation=replace(config.ablation, smpl_only=smpl_only))
        return build_problem(sequence, bodies, body, config, torch.device("cpu"), 2**28, untrusted)


def moving(body, problem):
    return body_motion(body, problem.avatars, problem.poses(), shape_moves=True)


def test_keypoint_information_is_that_of_the_derivatives(body):
    problem = problem_of(body, smpl_only=True)
    parameters = problem.poses()
    found = keypoint_information(problem, body_steps(body, parameters, 0, 0, CONFIG), 0, 0)

    def project(theta):
        pose = parameters.poses[0, 0]
        turned = torch.cat([roma.rotvec_composition((theta[:3], pose[:3])), pose[3:] + theta[3:72]])
        keypoints = body.keypoints(parameters.betas[0], turned, parameters.trans[0, 0] + theta[72:])
        return problem.cameras.project(keypoints)[0]  # (C, 17, 2)

    theta = torch.full((75,), 1e-6)  # a turn by nothing has no derivative
    J = torch.autograd.functional.jacobian(project, theta)  # (C, 17, 2, 75)
    miss = (project(theta) - problem.evidence.pixels[:, 0, 0]).square().mean(-1)
    weight = problem.evidence.score[:, 0, 0] / (1 + miss / problem.keypoint_unit**2)
    assert weight.sum() > 10  # detections were found for this person
    variance = (weight * miss).sum() / weight.sum()
    expected = torch.einsum("cjka,cjkb,cj->ab", J, J, weight) / variance.clamp(min=1)
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_derivatives_of_the_rays_are_those_of_differences(body):
    problem = problem_of(body)
    torch.manual_seed(2)
    with torch.no_grad():
        for field in problem.avatars.fields:
            field.beta.fill_(0.01)
            field.colour_out.bias.copy_(torch.randn(3))
        parameters = problem.poses()
        motion = body_motion(body, problem.avatars, parameters, shape_moves=True)
        view = look(problem, motion, 0, 40, seed=3)
        steps = body_steps(body, parameters, 1, 0, CONFIG)
        found = ray_jacobian(view, 1, steps)
        by = 4e-4
        ahead, back = (replace(CONFIG, angle_step=step, length_step=step) for step in (by, -by))
        sides = [body_steps(body, parameters, 1, 0, config) for config in (ahead, back)]
        for k in (0, 1, 2, 9, 72, 73, 74):
            values = []
            for side in sides:
                T = side.transforms[k + 1][None]
                posed = replace(view.people[1].posed, T_world_canonical=T, T_world_root=T[:, 0])
                moved = [view.people[0], replace(view.people[1], posed=posed)]
                values.append(rendered_values(view, moved, None)[0])
            difference = (values[0] - values[1]) / (2 * by)
            strong = difference.norm(dim=1) > 0.3 * difference.norm(dim=1).quantile(0.9)
            error = (found[..., k] - difference).norm(dim=1) / difference.norm(dim=1)
            # Some rays jump: a sample too faint for a colour gets one.
            assert error[strong].median() < 0.015
            assert error[strong].quantile(0.75) < 0.05


def test_unit_steps_along_the_directions_matter_alike(body):
    problem = problem_of(body)
    with torch.no_grad():
        parameters = problem.poses()
        motion = body_motion(body, problem.avatars, parameters, shape_moves=True)
        S = pose_directions(problem, parameters, motion, seed=3, config=CONFIG)[0, 0].double()
        A = next(evidence_information(problem, parameters, motion, CONFIG, seed=3))[2].double()
    A = A + torch.diag(prior_information(A.device)) + torch.eye(75) / LARGEST_DEVIATION**2
    torch.testing.assert_close(S.T @ A @ S, torch.eye(75).double(), atol=1e-3, rtol=0)


def test_rays_of_neighbouring_frames_tell_as_well(body):
    problem = problem_of(body, frames=3)
    parameters = problem.poses()
    with torch.no_grad():
        motion = moving(body, problem)
        found = {(p, f): A for p, f, A, _ in evidence_information(problem, parameters, motion, CONFIG, seed=3)}
        rays, keypoints = [], []
        for f in range(3):
            steps = body_steps(body, parameters, 1, f, CONFIG)
            rays.append(ray_information(look(problem, motion, f, CONFIG.rays, seed=3 + f), 1, steps))
            keypoints.append(keypoint_information(problem, steps, 1, f))
    assert sorted(found) == [(p, f) for p in range(2) for f in range(3)]
    for f, near in enumerate(([0, 1], [0, 1, 2], [1, 2])):
        expected = keypoints[f] + sum(rays[g] for g in near) / len(near)
        torch.testing.assert_close(found[1, f], expected, rtol=1e-4, atol=1e-2)


def test_neighbours_do_not_speak_for_a_frame_that_is_not_trusted(body):
    untrusted = np.zeros((2, 3), bool)
    untrusted[0, 1] = True
    problem = problem_of(body, frames=3, untrusted=untrusted)
    with torch.no_grad():
        motion = moving(body, problem)
        told = evidence_information(problem, problem.poses(), motion, CONFIG, seed=3)
        strength = {(p, f): float(torch.trace(A)) for p, f, A, _ in told}
        _, deviations = joint_uncertainty(problem, problem.poses(), CONFIG)
    assert strength[0, 1] == 0 < strength[1, 1] < 0.5 * min(strength[1, 0], strength[1, 2])
    assert (deviations[0, 1] > 2 * deviations[0, [0, 2]].amax(dim=0)).float().mean() > 0.8


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


def test_what_no_picture_tells_is_added(body):
    problem = problem_of(body, smpl_only=True)
    _, with_it = joint_uncertainty(problem, problem.poses(), CONFIG)
    _, without = joint_uncertainty(problem, problem.poses(), replace(CONFIG, misfit=0.0))
    torch.testing.assert_close(with_it.square() - without.square(), torch.full_like(with_it, CONFIG.misfit**2))
    assert with_it.min() > CONFIG.misfit > 0


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
