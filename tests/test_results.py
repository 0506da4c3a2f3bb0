"""The result files come back as they were, and bad ones are named."""

from pathlib import Path

import numpy as np
import pytest

from avatarpose.errors import InputError
from avatarpose.io import read_npz, write_npz
from avatarpose.results import Bodies, Joints3D


def make_joints(p: int = 2, f: int = 3) -> Joints3D:
    keypoints = np.random.default_rng(0).normal(size=(p, f, 17, 3)).astype(np.float32)
    keypoints[:1, 1, 4] = np.nan
    valid = np.ones((p, f), bool)
    valid[:, -1] = False
    scores = np.isfinite(keypoints[..., 0]).astype(np.float32)
    return Joints3D([f"p{i}" for i in range(p)], np.arange(10, 10 + f), keypoints, scores, valid)


def make_bodies(p: int = 2, f: int = 3) -> Bodies:
    rng = np.random.default_rng(1)
    shapes = {"betas": (p, 10), "poses": (p, f, 72), "trans": (p, f, 3), "joints": (p, f, 24, 3)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    keypoints = rng.normal(size=(p, f, 17, 3)).astype(np.float32)
    return Bodies(
        people=[f"p{i}" for i in range(p)], frames=np.arange(f), fps=29.97, keypoints=keypoints,
        valid=rng.random((p, f)) > 0.5, body_name="anny", body_sha256="ab" * 32, **arrays,
    )  # fmt: skip


@pytest.mark.parametrize("people", [0, 1, 2])
@pytest.mark.parametrize("make", [make_joints, make_bodies])
def test_round_trip(tmp_path: Path, make: type, people: int):
    before = make(people)
    before.save(tmp_path / "results" / "a.npz")
    after = type(before).load(tmp_path / "results" / "a.npz")
    for name, value in vars(before).items():
        np.testing.assert_array_equal(getattr(after, name), value, err_msg=name)
    assert all(type(name) is str for name in after.people)


def test_body_is_stored_as_name_and_hash(tmp_path: Path):
    make_bodies().save(tmp_path / "a.npz")
    assert read_npz(tmp_path / "a.npz")["body"].tolist() == ["anny", "ab" * 32]
    assert read_npz(tmp_path / "a.npz")["poses"].dtype == np.float32


@pytest.mark.parametrize("make", [make_joints, make_bodies])
def test_wrong_shapes_and_missing_arrays_are_named(tmp_path: Path, make: type):
    path = tmp_path / "a.npz"
    result = make()
    result.save(path)
    data = read_npz(path)
    for name in data:
        write_npz(path, **{key: value for key, value in data.items() if key != name})
        with pytest.raises(InputError, match=rf"a\.npz: lacks {name}"):
            type(result).load(path)
    for name in set(data) - {"people", "frames", "fps", "body"}:
        write_npz(path, **{**data, name: data[name][:, :-1]})
        with pytest.raises(InputError, match=rf"a\.npz: array {name} has the wrong shape"):
            type(result).load(path)
    write_npz(path, **{**data, "people": np.arange(2)})
    with pytest.raises(InputError, match="people are not named by text"):
        type(result).load(path)
    write_npz(path, **{**data, "frames": np.zeros((2, 2))})
    with pytest.raises(InputError, match="frames is not a vector"):
        type(result).load(path)
