"""Reads body files in SMPL's format: the project's own .npz, dense .npz files, and the official pickles.

The official SMPL files are Python 2 pickles holding chumpy objects. A pickle can run any code it likes, so it is read
here by an unpickler that knows arrays and nothing else, without chumpy, once: the arrays are then kept as .npz.
"""

from __future__ import annotations

import os
import pickle
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse

from avatarpose.errors import InputError
from avatarpose.io import read_npz, sha256, write_npz

WHERE_TO_GET_SMPL = (
    "SMPL is licensed: register at https://smpl.is.tue.mpg.de and download the Python version (basicmodel_*.pkl), "
    "or leave the body file out and use the open body that comes with the package"
)

# Key -> shape, where V is the number of vertices, T of triangles and a name may stand for any number.
_SHAPES: dict[str, tuple[int | str, ...]] = {
    "v_template": ("V", 3),
    "shapedirs": ("V", 3, "B"),
    "J_regressor": (24, "V"),
    "weights": ("V", 24),
    "kintree_table": (2, 24),
    "f": ("T", 3),
}
_OPTIONAL: dict[str, tuple[int | str, ...]] = {
    "posedirs": ("V", 3, 207),
    "coco_regressor": (17, "V"),
    "bind_rotations": (24, 3, 3),  # the project's own key: rotation of each bone from the file's pose to the zero pose
}

# COCO-17 on SMPL's own mesh of 6,890 vertices. The face (nose, left eye, right eye, left ear, right ear):
# `vertex_ids["smplh"]` of the smplx package, keyed by COCO index. The rest: the SMPL joint of the same name.
_SMPL_VERTICES = 6890
_COCO_FACE_VERTICES = {0: 332, 1: 2800, 2: 6260, 3: 583, 4: 4071}
_COCO_JOINTS = {5: 16, 6: 17, 7: 18, 8: 19, 9: 20, 10: 21, 11: 1, 12: 2, 13: 4, 14: 5, 15: 7, 16: 8}


def read_body_file(path: Path | None = None) -> dict[str, Any]:
    """Reads a body as dense arrays.

    Args:
        path: an .npz or an official SMPL .pkl; None for the open body that comes with the package.

    Returns:
        v_template (V, 3) metres, shapedirs (V, 3, 10), J_regressor (24, V), weights (V, 24), coco_regressor (17, V),
        f (T, 3), parents (24,) with -1 for the root, name and sha256 (of the given file), and where the file has them
        posedirs (V, 3, 207) and bind_rotations (24, 3, 3).

    Raises:
        InputError: no such file, not a body in SMPL's format, or a pickle that holds anything but arrays.
    """
    if path is None:
        with resources.as_file(resources.files("assets") / "body.npz") as packaged:
            return _read_npz_body(packaged, name="open")
    path = Path(path)
    if not path.is_file():
        raise InputError("there is no such body file", file=path, hint=WHERE_TO_GET_SMPL)
    if path.suffix == ".npz":
        return _read_npz_body(path, name=path.stem)
    if path.suffix == ".pkl":
        return _read_pickled_body(path)
    raise InputError("not a body file", file=path, expected=".npz or .pkl", found=path.suffix or "no suffix")


def _read_npz_body(path: Path, name: str) -> dict[str, Any]:
    body = _checked(_dense(read_npz(path), path), path)
    return {**body, "name": name, "sha256": sha256(path)}


def _read_pickled_body(path: Path) -> dict[str, Any]:
    """Converts an official pickle to .npz once, beside it or, where that cannot be written, in the user's cache."""
    digest = sha256(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avatarpose"
    places = [path.with_suffix(".arrays.npz"), cache / f"{path.stem}-{digest[:16]}.arrays.npz"]
    for place in places:
        if place.is_file():
            kept = read_npz(place)
            if str(kept.pop("source_sha256", "")) == digest:
                return {**_checked(kept, place), "name": path.stem, "sha256": digest}
    arrays = _arrays_of_pickle(path)
    body = _checked(arrays, path)
    for place in places:
        try:
            write_npz(place, source_sha256=np.array(digest), **arrays)
            break
        except OSError:
            continue  # a read-only place; without any, the pickle is simply read again next time
    return {**body, "name": path.stem, "sha256": digest}


def _dense(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Expands arrays kept as `X_shape`, `X_index` (ndim, n) and `X_value` (n,) into dense `X`."""
    dense = dict(arrays)
    for key in [key.removesuffix("_index") for key in arrays if key.endswith("_index")]:
        try:
            shape, index, value = (dense.pop(f"{key}_{part}") for part in ("shape", "index", "value"))
            full = np.zeros(tuple(int(size) for size in shape), dtype=value.dtype)
            full[tuple(index.astype(np.int64))] = value
        except (KeyError, IndexError, ValueError) as error:
            raise InputError(f"the sparse array {key} is damaged: {error}", file=path) from error
        dense[key] = full
    return dense


def _checked(arrays: dict[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The arrays of a body, after checking that each is there, has its shape and holds finite numbers."""
    missing = sorted(set(_SHAPES) - set(arrays))
    if missing:
        raise InputError(
            "not a body in SMPL's format",
            file=path,
            expected=", ".join(_SHAPES),
            found=f"no {', '.join(missing)}",
            hint=WHERE_TO_GET_SMPL,
        )
    sizes: dict[str, int] = {}
    body = {}
    for key, wanted in {**_SHAPES, **_OPTIONAL}.items():
        if key not in arrays:
            continue
        array = np.asarray(arrays[key])
        fits = array.ndim == len(wanted) and all(
            size == (sizes.setdefault(want, size) if isinstance(want, str) else want)
            for size, want in zip(array.shape, wanted, strict=True)
        )
        if not fits:
            raise InputError(f"{key} has the wrong shape", file=path, expected=wanted, found=array.shape)
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError(f"{key} holds something else than finite numbers", file=path, found=array.dtype)
        body[key] = array
    if sizes["B"] < 10:
        raise InputError("too few shape directions", file=path, expected="at least 10", found=sizes["B"])
    body["shapedirs"] = body["shapedirs"][:, :, :10]

    # The root's parent is written as 2**32 - 1 in the official files.
    parents = body.pop("kintree_table")[0].astype(np.int64)
    parents[0] = -1
    if not all(0 <= parent < joint for joint, parent in enumerate(parents[1:], start=1)):
        raise InputError("kintree_table is no tree with parents before children", file=path, found=parents.tolist())
    body["parents"] = parents
    if body["f"].min() < 0 or body["f"].max() >= sizes["V"]:
        raise InputError("f names vertices that do not exist", file=path, expected=f"0 to {sizes['V'] - 1}")
    if "coco_regressor" not in body:
        body["coco_regressor"] = _coco_regressor(body["J_regressor"], path)
    return body


def _coco_regressor(J_regressor: np.ndarray, path: Path) -> np.ndarray:
    """COCO-17 from SMPL's own mesh: vertices for the face, the joint regressor's rows for shoulders to ankles."""
    vertices = J_regressor.shape[1]
    if vertices != _SMPL_VERTICES:
        raise InputError(
            "a body with a mesh of its own must bring coco_regressor (17, V)",
            file=path,
            expected=f"coco_regressor, or SMPL's {_SMPL_VERTICES} vertices",
            found=f"{vertices} vertices",
        )
    regressor = np.zeros((17, vertices))
    for keypoint, vertex in _COCO_FACE_VERTICES.items():
        regressor[keypoint, vertex] = 1.0
    for keypoint, joint in _COCO_JOINTS.items():
        regressor[keypoint] = J_regressor[joint]
    return regressor


# --- pickles ---------------------------------------------------------------------------------------------------------


class _Inert:
    """Stands in for a chumpy or scipy object: keeps the state it was pickled with and does nothing."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        """Takes and forgets whatever the real class would have been called with."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _reconstruct_inert(cls: type, base: type, state: Any) -> _Inert:
    """Python 2's `copy_reg._reconstructor`, for stand-ins only."""
    if cls is not _Inert:
        raise pickle.UnpicklingError("an object that is no array")
    return _Inert()


def _encode_latin1(text: str, encoding: str) -> bytes:
    """`_codecs.encode` as Python 3 uses it to write bytes at protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


# NumPy's own helpers for building an array and a scalar; their module has moved between versions, so ask the objects.
_RECONSTRUCT, _SCALAR = np.zeros(0).__reduce__()[0], np.float64(0).__reduce__()[0]

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("copy_reg", "_reconstructor"): _reconstruct_inert,
    ("copyreg", "_reconstructor"): _reconstruct_inert,
    ("__builtin__", "object"): object,
    ("builtins", "object"): object,
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("_codecs", "encode"): _encode_latin1,
}
_INERT_MODULES = ("chumpy", "scipy.sparse")


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays, plain containers and inert stand-ins; any other global is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if any(module == known or module.startswith(known + ".") for known in _INERT_MODULES):
            return _Inert
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _arrays_of_pickle(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an official SMPL pickle that a body needs, dense, in float64 or as they are.

    Raises:
        InputError: the file is damaged, or holds anything but arrays.
    """
    try:
        with open(path, "rb") as file:
            content = _ArrayUnpickler(file, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can fail in any way at all, and each means the same to the user
        raise InputError(
            f"not a pickle of arrays: {error}", file=path, expected="an official SMPL file", hint=WHERE_TO_GET_SMPL
        ) from error
    if not isinstance(content, dict):
        raise InputError("not a pickle of arrays", file=path, expected="a dict", found=type(content).__name__)
    wanted = {**_SHAPES, **_OPTIONAL}
    return {key: _plain_array(value, key, path) for key, value in content.items() if key in wanted}


def _plain_array(value: Any, key: str, path: Path) -> np.ndarray:
    """An array out of what a pickle held: a plain array, a chumpy array (its `x`), or a compressed sparse matrix."""
    state = value.state if isinstance(value, _Inert) else None
    if isinstance(state, dict):
        if "x" in state:
            return _plain_array(state["x"], key, path)
        if {"data", "indices", "indptr"} <= set(state):
            shape = state.get("_shape", state.get("shape"))
            parts = (state["data"], state["indices"], state["indptr"])
            try:
                # Rows and columns of J_regressor differ, so the format follows from the length of indptr.
                matrix = scipy.sparse.csc_matrix if len(parts[2]) == shape[1] + 1 else scipy.sparse.csr_matrix
                return matrix(parts, shape=shape).toarray()
            except (TypeError, ValueError, IndexError) as error:
                raise InputError(f"{key} is a damaged sparse matrix: {error}", file=path) from error
    array = value if isinstance(value, np.ndarray) else None
    if array is None or array.dtype.kind not in "fiu":
        raise InputError(f"{key} is no array of numbers", file=path, found=type(value).__name__)
    return array
