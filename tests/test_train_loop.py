"""Training of the volumetric estimator: losses by hand, samples and resumption reproduced, learning seen."""

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from test_volume import ring

from avatarpose.body import load_body
from avatarpose.cameras import Cameras
from avatarpose.cli import main
from avatarpose.errors import InputError
from avatarpose.estimate.volumetric.estimator import packaged_weights
from avatarpose.estimate.volumetric.network import NetworkConfig, load_network, make_network, save_network
from avatarpose.estimate.volumetric.volume import voxels
from avatarpose.skeletons import convert
from avatarpose.train import driver
from avatarpose.train.driver import CURVE, WEIGHTS, TrainJob, _run, free_port
from avatarpose.train.loop import TrainConfig, Training, focal_loss, losses, mean_error, rate
from avatarpose.train.motion import MotionPool
from avatarpose.train.noise import NoiseConfig
from avatarpose.train.people import PeopleConfig
from avatarpose.train.rigs import RigConfig
from avatarpose.train.samples import SampleConfig, SampleMaker

LONG_NAMES = (
    *("neck", "nose", "mid-hip"),
    *(f"{side}-{joint}" for side in "lr" for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")),
)


@pytest.fixture(scope="module")
def pool() -> MotionPool:
    """Forty people standing with their limbs anyhow."""
    rng = np.random.default_rng(5)
    poses = rng.normal(scale=0.25, size=(40, 72)).astype(np.float32)
    poses[:, :3] = (np.pi / 2, 0.0, 0.0)  # y up to z up
    return MotionPool(
        poses, np.zeros((40, 3), np.float32), np.zeros(40, int), ("made",), np.zeros((0, 2), int)
    )


def make_maker(pool: MotionPool, **changes: object) -> SampleMaker:
    rigs = RigConfig(cameras=(4, 4))
    return SampleMaker(pool, load_body(), SampleConfig(rigs=rigs, **changes), seed=3)


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([[[0.0, np.log(3.0), -100.0]]])  # p = 1/2, 3/4, 0
    target = torch.tensor([[[1.0, 0.75, 0.0]]])
    # (1 - 1/2)^2 (-log 1/2) + 0 + 0, over the sum of the targets
    assert focal_loss(logits, target) == pytest.approx(0.25 * np.log(2) / 1.75, rel=1e-5)


def test_untrained_network_finds_the_joints_of_one_person(pool: MotionPool) -> None:
    """The logarithmic terms alone are the heatmaps' sharpened product, whose centre of mass is the joint."""
    config = SampleConfig(noise=NoiseConfig.none(), people=PeopleConfig(number=(1.0,)))
    batch = SampleMaker(pool, load_body(), config, seed=3, rig=lambda rng: ring(8, 4.5)).batch(0, 4)
    network = make_network(NetworkConfig()).eval()
    with torch.no_grad():
        _, joints = losses(network, batch, batch.features(network.grid), TrainConfig())
    assert mean_error(joints, batch) < 25.0


def test_batches_are_functions_of_seed_and_index(pool: MotionPool) -> None:
    first, second = make_maker(pool), make_maker(pool)
    second.batch(0, 4)
    a, b = first.batch(7, 4), second.batch(7, 4)
    torch.testing.assert_close(a.joints, b.joints, atol=0, rtol=0)
    torch.testing.assert_close(a.views.quadratics, b.views.quadratics, atol=0, rtol=0)
    assert not torch.equal(first.batch(8, 4).joints, a.joints)


def test_sample_holds_its_person(pool: MotionPool) -> None:
    batch = make_maker(pool, anchor_error=0.0).batch(1, 8)
    assert batch.joints.shape == (8, 17, 3)
    hips, shoulders = batch.joints[:, 11:13].mean(dim=1), batch.joints[:, 5:7].mean(dim=1)
    torch.testing.assert_close(hips, torch.zeros(8, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(shoulders[:, :2], torch.zeros(8, 2), atol=1e-5, rtol=0)
    assert (shoulders[:, 2] > 0.3).all()
    torch.testing.assert_close(batch.own, torch.stack((hips, shoulders), dim=1), atol=1e-5, rtol=0)
    mine = (batch.everyone - batch.joints[:, None]).abs().amax(dim=(2, 3))
    assert (torch.nan_to_num(mine, nan=9.0).amin(dim=1) < 1e-6).all()


def test_learning_rate_rises_and_falls() -> None:
    config = TrainConfig(warm_up=0.1)
    assert [rate(x, config) for x in (0.0, 0.05, 0.1, 0.55, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-9)


@pytest.mark.slow
def test_stopped_and_continued_is_as_if_never_stopped(pool: MotionPool, tmp_path: Path) -> None:
    config = TrainConfig(total=8, batch=2)
    quiet = Console(quiet=True)

    def run(folder: Path, total: int) -> dict[str, torch.Tensor]:
        job = TrainJob(motion=(), out=folder, config=config)
        folder.mkdir(exist_ok=True)
        training = Training(make_maker(pool), config, folder, torch.device("cpu"))
        if total < config.total:
            training.step(training.maker.batch(0, 2))
            torch.save(training.checkpoint(), folder / "checkpoint.pt")
        else:
            _run(training, job, 0, quiet)
        return {k: v.clone() for k, v in training.network.state_dict().items()}

    whole = run(tmp_path / "whole", 8)
    run(tmp_path / "parts", 2)
    parts = run(tmp_path / "parts", 8)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-5, msg=name)
    lines = [json.loads(line) for line in (tmp_path / "whole" / CURVE).read_text().splitlines()]
    assert lines[-1]["seen"] == 8
    assert {"l1", "focal", "mm", "seconds"} <= set(lines[-1])
    assert load_network(tmp_path / "whole" / WEIGHTS).config == config.network
    with pytest.raises(InputError, match="other settings"):
        Training(make_maker(pool), dataclasses.replace(config, seed=1), tmp_path / "whole", torch.device("cpu"))


@pytest.mark.slow
def test_learns_a_batch(pool: MotionPool, tmp_path: Path) -> None:
    """Two people side by side, whose joints are mixed up at first; the same few samples again and again."""
    people = PeopleConfig(number=(0.0, 1.0), apart_share=1.0, pairs=0.0)
    maker = make_maker(pool, noise=NoiseConfig.none(), people=people)
    config = TrainConfig(total=400, batch=2, learning_rate=4e-3, warm_up=0.01)
    training = Training(maker, config, tmp_path, torch.device("cpu"))
    batch = maker.batch(0, 2)
    errors = [training.step(batch)["mm"] for _ in range(25)]
    assert np.mean(errors[-3:]) < 0.5 * errors[0]


def test_weights_go_out_and_come_back(tmp_path: Path) -> None:
    network = make_network(NetworkConfig())
    path = tmp_path / "weights.safetensors"
    save_network(path, network, samples="12")
    assert path.stat().st_size < 3e6
    back = load_network(path)
    assert not back.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], value, atol=1e-3, rtol=1e-3, msg=name)
    torch.testing.assert_close(back.grid, voxels())


def test_other_files_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no weights"):
        load_network(tmp_path / "absent.safetensors")
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"not a safetensors file, nor anything else")
    with pytest.raises(InputError, match="not weights"):
        load_network(wrong)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(3)}, wrong, metadata={"config": json.dumps({"width": "light"})})
    with pytest.raises(InputError, match="not weights"):
        load_network(wrong)


def test_full_network_is_the_papers_size() -> None:
    network = make_network(NetworkConfig(width="full"))
    size = sum(p.numel() for p in network.everyone.parameters())
    assert size == pytest.approx(3.3e6, rel=0.03)
    assert 2 * sum(p.numel() for p in network.parameters()) < 14e6


@pytest.mark.slow
def test_command_trains_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Motion of 15 joints in, weights out; the same command finds nothing left to do; wrong input ends with 2."""
    monkeypatch.setenv("HOME", str(tmp_path))
    body, rng = load_body(), np.random.default_rng(1)
    poses = torch.tensor(rng.normal(scale=0.2, size=(6, 72)), dtype=torch.float32).repeat_interleave(3, dim=0)
    poses[:, :3] = 0.0  # y up, as in such files
    joints = convert(body.keypoints(torch.zeros(10), poses, torch.zeros(3)), "coco17", "panoptic15").numpy()
    motion = tmp_path / "motion.npz"
    np.savez(motion, joint_names=np.array(LONG_NAMES), made=joints.astype(np.float32))
    out = tmp_path / "out"
    command = ["train", "volumetric", "--motion", str(motion), "--out", str(out), "--samples", "4", "--batch", "2"]
    main([*command, "--workers", "1"])
    network = load_network(out / WEIGHTS)
    assert network.config == NetworkConfig()
    first = (out / WEIGHTS).read_bytes()
    main(command)
    assert (out / WEIGHTS).read_bytes() == first
    assert len((out / CURVE).read_text().splitlines()) == 1

    tuned, rig = tmp_path / "tuned", Path(str(files("assets") / "embrace"))
    main([*command, "--out", str(tuned), "--finetune-rig", str(rig)])
    before, after = (load_network(path).state_dict() for path in (packaged_weights(), tuned / WEIGHTS))
    for name, value in after.items():
        if value.is_floating_point() and "running" not in name:  # a few small steps from the packaged weights
            assert (value - before[name]).abs().max() < 2e-3, name
    assert any((after[name] != before[name]).any() for name in after)
    job = TrainJob(motion=(motion,), out=tuned, rig=rig)
    cameras, own = driver.make_maker(job).rig(np.random.default_rng(0)), Cameras.load(rig / "cameras.json")
    torch.testing.assert_close(cameras.K, own.K, check_dtype=False)
    with pytest.raises(SystemExit) as end:
        main(["train", "volumetric", "--motion", str(tmp_path / "absent.npz"), "--out", str(out)])
    assert end.value.code == 2


@pytest.mark.slow
def test_processes_share_a_batch(pool: MotionPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes of two samples step as one would with the mean of their gradients, and agree with each other."""
    out = [tmp_path / "0", tmp_path / "1"]
    context = torch.multiprocessing.get_context("spawn")
    port = free_port()
    workers = [context.Process(target=_one_step, args=(rank, port, pool, out[rank])) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    states = [torch.load(path, weights_only=True) for path in out]
    for name, value in states[0].items():
        if "running" not in name and "num_batches" not in name:  # each normalises by its own batches
            torch.testing.assert_close(states[1][name], value, atol=0, rtol=0, msg=name)


def _one_step(rank: int, port: int, pool: MotionPool, out: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    training = Training(make_maker(pool), TrainConfig(total=8, batch=4), out, torch.device("cpu"))
    training.step(training.maker.batch(rank, 2))
    torch.save(training.network.state_dict(), out)
    torch.distributed.destroy_process_group()
