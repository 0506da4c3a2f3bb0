"""The poses as parameters: where they start, along what they move, and how frames move together."""

from __future__ import annotations

import io

import pytest
import torch

from optimize.poses import OWN_SHARE, PoseParameters, time_kernel


def test_pose_parameters_start_at_the_start():
    torch.manual_seed(1)
    start = torch.randn(2, 4, 72) * 0.3
    for param in ("mlp", "direct", "both"):
        valid = torch.ones(2, 4, dtype=torch.bool)
        poses = PoseParameters(torch.zeros(2, 10), start, torch.randn(2, 4, 3), valid, param)
        now = poses()
        assert torch.allclose(now.poses, start, atol=1e-3)
        assert torch.allclose(now.trans, poses.start_trans)
        now.poses.sum().backward()
        assert poses.steps.grad[..., :3].abs().max() > 0


def test_new_directions_keep_the_pose_and_turn_the_gradient():
    torch.manual_seed(1)
    valid = torch.ones(1, 2, dtype=torch.bool)
    poses = PoseParameters(torch.zeros(1, 10), 0.3 * torch.randn(1, 2, 72), torch.zeros(1, 2, 3), valid, "direct")
    with torch.no_grad():
        poses.steps.copy_(0.1 * torch.randn(1, 2, 75))
    before = poses()
    directions = torch.randn(1, 2, 75, 75)
    poses.set_directions(directions)
    after = poses()
    torch.testing.assert_close(after.poses, before.poses)
    torch.testing.assert_close(after.trans, before.trans)
    wanted = torch.randn(1, 2, 3)
    (after.trans * wanted).sum().backward()
    expected = (directions[..., 72:, :].transpose(-1, -2) @ wanted[..., None])[..., 0]
    torch.testing.assert_close(poses.steps.grad, expected)


def test_the_network_alone_turns_the_joints():
    valid = torch.ones(1, 2, dtype=torch.bool)
    poses = PoseParameters(torch.zeros(1, 10), torch.zeros(1, 2, 72), torch.zeros(1, 2, 3), valid, "mlp")
    poses.set_directions(torch.ones(1, 2, 75, 75))
    poses().poses[..., 3:].sum().backward()
    assert poses.steps.grad.abs().max() == 0


def test_chosen_frames_of_the_poses():
    torch.manual_seed(1)
    valid = torch.ones(2, 9, dtype=torch.bool)
    for param in ("mlp", "direct"):
        poses = PoseParameters(torch.zeros(2, 10), torch.randn(2, 9, 72), torch.randn(2, 9, 3), valid, param)
        with torch.no_grad():
            poses.steps.normal_()
        every, some = poses(), poses([4, 3, 4])
        torch.testing.assert_close(some.poses, every.poses[:, [4, 3, 4]])
        torch.testing.assert_close(some.trans, every.trans[:, [4, 3, 4]])


def test_frames_move_by_their_neighbours_as_the_kernel_says():
    present = torch.ones(2, 6, dtype=torch.bool)
    present[1, 3] = False
    times = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.5, 0.6])
    kernel = time_kernel(present, times, 0.1)
    assert kernel.shape == (2, 6, 7)
    torch.testing.assert_close(kernel.sum(dim=-1), torch.ones(2, 6))
    gauss = torch.exp(-0.5 * torch.tensor([4.0, 1.0, 0.0, 1.0, 9.0, 16.0]))
    expected = (1 - OWN_SHARE) * gauss / gauss.sum()
    expected[2] += OWN_SHARE
    torch.testing.assert_close(kernel[0, 2], torch.cat([torch.zeros(1), expected]))
    assert (kernel[1, [2, 4], [4, 2]] == 0).all()  # nobody moves by frames in which he is not
    assert time_kernel(present, times, 0.0).tolist() == [[[1.0]] * 6] * 2


@pytest.mark.parametrize("spread", [0.0, 2.0])
def test_all_frames_and_some_move_alike(spread):
    torch.manual_seed(3)
    valid = torch.ones(2, 9, dtype=torch.bool)
    poses = PoseParameters(torch.zeros(2, 10), 0.3 * torch.randn(2, 9, 72), torch.randn(2, 9, 3), valid, "direct")
    poses.set_directions(torch.randn(2, 9, 75, 75), spread)
    with torch.no_grad():
        poses.steps.normal_(std=0.01)
    every, some = poses(), poses([8, 0, 4])
    torch.testing.assert_close(some.poses, every.poses[:, [8, 0, 4]])
    some.trans[:, 2].sum().backward()  # of frame 4
    moved = poses.steps.grad.abs().sum(dim=(0, 2)) > 0
    assert moved.tolist() == ([f == 4 for f in range(9)] if spread == 0 else [True] * 9)


def test_stored_steps_mean_the_same_poses():
    torch.manual_seed(4)
    valid = torch.ones(1, 5, dtype=torch.bool)

    def made() -> PoseParameters:
        return PoseParameters(torch.zeros(1, 10), torch.zeros(1, 5, 72), torch.zeros(1, 5, 3), valid, "direct")

    poses, again = made(), made()
    poses.set_directions(torch.randn(1, 5, 75, 75), 1.5)
    with torch.no_grad():
        poses.steps.normal_(std=0.01)
    file = io.BytesIO()
    torch.save(poses.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(again().poses, poses().poses)
    before = poses()
    poses.set_directions(torch.randn(1, 5, 75, 75), 0.0)
    torch.testing.assert_close(poses().poses, before.poses)
    torch.testing.assert_close(poses().trans, before.trans)
