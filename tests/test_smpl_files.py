"""Body files: official pickles without chumpy, malicious pickles, dense and sparse .npz, and what users get wrong."""

from __future__ import annotations

import builtins
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from avatarpose.body import load_body
from avatarpose.body.smpl_files import read_body_file
from avatarpose.errors import InputError
from avatarpose.io import sha256

PARENTS = np.array([2**32 - 1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21])


def smpl_arrays(vertices: int = 6890, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays named and shaped as in the official files, at SMPL's own size unless told otherwise."""
    rng = np.random.default_rng(seed)
    J_regressor = np.zeros((24, vertices))
    for joint in range(24):
        J_regressor[joint, rng.choice(vertices, 5, replace=False)] = 0.2
    weights = rng.random((vertices, 24))
    posedirs = np.zeros((vertices, 3, 207))
    posedirs[:20] = rng.normal(0, 0.001, (20, 3, 207))  # a few only, so that it packs fast
    return {
        "v_template": rng.normal(size=(vertices, 3)),
        "shapedirs": rng.normal(0, 0.03, (vertices, 3, 10)),
        "posedirs": posedirs,
        "J_regressor": J_regressor,
        "weights": weights / weights.sum(axis=1, keepdims=True),
        "kintree_table": np.stack([PARENTS, np.arange(24)]).astype(np.uint32),
        "f": rng.integers(0, vertices, (20, 3)).astype(np.uint32),
    }


@pytest.fixture
def chumpy_array(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class that pickles as chumpy's array does; chumpy itself is never there when the file is read."""
    module = types.ModuleType("chumpy.ch")

    class Ch:
        def __init__(self, x: np.ndarray) -> None:
            self.x = x
            self._dirty_vars, self._itr, self.parent = set(), None, {"child": self}

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    module.Ch = Ch
    monkeypatch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    monkeypatch.setitem(sys.modules, "chumpy.ch", module)
    return Ch


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_official_pickle_needs_no_chumpy_and_is_converted_once(
    tmp_path: Path, chumpy_array: type, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    arrays = smpl_arrays()
    content = {
        **arrays,
        "v_template": chumpy_array(arrays["v_template"]),
        "shapedirs": chumpy_array(arrays["shapedirs"]),
        "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"]),
        "J": chumpy_array(np.zeros((24, 3))),
        "bs_type": "lrotmin",
        "bs_style": "lbs",
    }
    path = tmp_path / "basicmodel_m.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    for name in ("chumpy", "chumpy.ch"):
        monkeypatch.delitem(sys.modules, name)

    body = load_body(path, dtype=torch.float64)
    for key in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights"):
        np.testing.assert_array_equal(getattr(body, key), arrays[key])
    np.testing.assert_array_equal(body.faces, arrays["f"])
    assert body.parents == (-1, *PARENTS[1:].tolist())
    assert body.name == "basicmodel_m" and body.sha256 == sha256(path)

    converted = tmp_path / "basicmodel_m.arrays.npz"
    assert converted.is_file() and len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr("avatarpose.body.smpl_files._ArrayUnpickler", None)  # the pickle is not opened again
    written = converted.stat().st_mtime_ns
    again = load_body(path, dtype=torch.float64)
    assert torch.equal(again.v_template, body.v_template) and again.sha256 == body.sha256
    assert converted.stat().st_mtime_ns == written


def test_converted_file_is_renewed_when_the_pickle_changes(tmp_path: Path) -> None:
    path = tmp_path / "body.pkl"
    for seed in (0, 1):
        arrays = smpl_arrays(seed=seed)
        path.write_bytes(pickle.dumps(arrays, protocol=2))
        np.testing.assert_array_equal(read_body_file(path)["v_template"], arrays["v_template"])


def test_converted_file_goes_to_the_cache_where_the_folder_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "body.pkl"
    path.write_bytes(pickle.dumps(smpl_arrays(), protocol=2))
    path.with_suffix(".arrays.npz").mkdir()  # stands for a place that cannot be written, whoever runs the test
    read_body_file(path)
    kept = list((tmp_path / "cache" / "avatarpose").iterdir())
    assert len(kept) == 1 and kept[0].name == f"body-{sha256(path)[:16]}.arrays.npz"


def test_coco_keypoints_of_official_smpl(tmp_path: Path) -> None:
    """The face from the vertices of smplx's own table; the limbs from the joints."""
    arrays = smpl_arrays()
    path = tmp_path / "smpl.npz"
    np.savez(path, **arrays)
    body = load_body(path, dtype=torch.float64)
    zero = torch.zeros(72, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    betas = torch.ones(10, dtype=torch.float64)
    vertices, keypoints = body.vertices(betas, *zero), body.keypoints(betas, *zero)
    joints = body.joints(betas, *zero)
    torch.testing.assert_close(keypoints[:5], vertices[[332, 2800, 6260, 583, 4071]])
    torch.testing.assert_close(keypoints[5:], joints[[16, 17, 18, 19, 20, 21, 1, 2, 4, 5, 7, 8]])


class Evil:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


def evil_objects(target: Path) -> dict[str, object]:
    command = f"touch {target}"
    held = np.empty(1, dtype=object)
    held[0] = Evil(os.system, command)
    return {
        "os.system": Evil(os.system, command),
        "subprocess": Evil(subprocess.check_call, ["touch", str(target)]),
        "eval": Evil(builtins.eval, f"open({str(target)!r}, 'w')"),
        "getattr": Evil(builtins.getattr, Evil(builtins.__import__, "os"), "system"),
        "open": Evil(builtins.open, str(target), "w"),
        "inside an array": held,
        "numpy's own loader": Evil(np.memmap, str(target), "uint8", "w+", 0, (4,)),
    }


@pytest.mark.parametrize("kind", list(evil_objects(Path("nowhere"))))
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_evil_pickles_do_nothing_and_are_reported(tmp_path: Path, kind: str, protocol: int) -> None:
    target = tmp_path / "done"
    path = tmp_path / "evil.pkl"
    content = {**smpl_arrays(vertices=30), "bs_type": evil_objects(target)[kind]}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(InputError, match=r"evil\.pkl.*not a pickle of arrays: it asks for"):
        load_body(path)
    assert not target.exists()
    assert list(tmp_path.iterdir()) == [path]  # and nothing was kept of it


@pytest.mark.parametrize(
    "stream",
    [
        b"cos\nsystem\n(S'touch done'\ntR.",
        b"\x80\x04\x8c\x05numpy\x8c\x10core.os.systemXXX\x93.",  # a dotted name
        b"cchumpy.ch\nCh\n(S'touch done'\ntR.",  # a stand-in, called: harmless, but no body
        b"",
        b"\x80\x02}q\x00U",
    ],
)
def test_damaged_and_handwritten_pickles(tmp_path: Path, stream: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "body.pkl"
    path.write_bytes(stream)
    with pytest.raises(InputError, match="not a pickle of arrays"):
        load_body(path)
    assert list(tmp_path.iterdir()) == [path]


def test_object_arrays_are_no_bodies(tmp_path: Path) -> None:
    path = tmp_path / "body.pkl"
    path.write_bytes(pickle.dumps({**smpl_arrays(30), "weights": np.array([None, 1.0], dtype=object)}, protocol=2))
    with pytest.raises(InputError, match="weights is no array of numbers"):
        load_body(path)


def test_missing_file_and_missing_keys_say_where_to_get_smpl(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such body file.*smpl\.is\.tue\.mpg\.de"):
        load_body(tmp_path / "SMPL_NEUTRAL.pkl")
    path = tmp_path / "poses.npz"
    np.savez(path, poses=np.zeros((4, 72)))
    with pytest.raises(InputError, match=r"not a body in SMPL's format.*v_template.*smpl\.is\.tue\.mpg\.de"):
        load_body(path)
    (tmp_path / "body.obj").write_text("v 0 0 0")
    with pytest.raises(InputError, match=r"expected \.npz or \.pkl, found \.obj"):
        load_body(tmp_path / "body.obj")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.ones((29, 24))}, "weights has the wrong shape"),
        ({"J_regressor": np.ones((25, 30))}, "J_regressor has the wrong shape"),
        ({"v_template": np.full((30, 3), np.nan)}, "v_template holds something else than finite numbers"),
        ({"shapedirs": np.ones((30, 3, 4))}, "too few shape directions"),
        ({"kintree_table": np.zeros((2, 24)) + 23}, "no tree"),
        ({"f": np.array([[0, 1, 30]])}, "vertices that do not exist"),
        ({"coco_regressor": None}, "must bring coco_regressor"),
    ],
)
def test_wrong_arrays_are_named(tmp_path: Path, change: dict, message: str) -> None:
    arrays = {**smpl_arrays(30), "coco_regressor": np.full((17, 30), 1 / 30), **change}
    path = tmp_path / "body.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(InputError, match=message):
        load_body(path)


def test_more_shape_directions_than_used_are_cut(tmp_path: Path) -> None:
    arrays = {**smpl_arrays(30), "coco_regressor": np.full((17, 30), 1 / 30)}
    arrays["shapedirs"] = np.random.default_rng(0).normal(size=(30, 3, 300))
    path = tmp_path / "body.npz"
    np.savez(path, **arrays)
    np.testing.assert_array_equal(load_body(path, dtype=torch.float64).shapedirs, arrays["shapedirs"][:, :, :10])


def test_sparse_arrays_come_back_dense(tmp_path: Path) -> None:
    arrays = {**smpl_arrays(30), "coco_regressor": np.full((17, 30), 1 / 30)}
    dense = arrays.pop("J_regressor")
    index = np.stack(np.nonzero(dense))
    arrays |= {"J_regressor_shape": dense.shape, "J_regressor_index": index, "J_regressor_value": dense[tuple(index)]}
    np.savez(tmp_path / "body.npz", **arrays)
    np.testing.assert_array_equal(read_body_file(tmp_path / "body.npz")["J_regressor"], dense)
    arrays["J_regressor_index"] = index + 30
    np.savez(tmp_path / "body.npz", **arrays)
    with pytest.raises(InputError, match="the sparse array J_regressor is damaged"):
        read_body_file(tmp_path / "body.npz")


def test_packaged_body_is_small_and_plain() -> None:
    body = load_body()
    assert body.name == "open" and body.posedirs is None and len(body.sha256) == 64
    packaged = Path(__file__).resolve().parents[1] / "assets" / "body.npz"
    assert packaged.stat().st_size < 5e6
    with np.load(packaged, allow_pickle=False) as archive:
        assert all(archive[key].dtype.kind in "fiu" for key in archive.files)
    torch.testing.assert_close(body.weights.sum(1), torch.ones(len(body.weights)))
    torch.testing.assert_close(body.J_regressor.double().sum(1), torch.ones(24).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(body.coco_regressor.sum(1), torch.ones(17), atol=1e-5, rtol=0)
