"""What commands import before they have anything to do: seconds of a user's time at every call."""

import os
import subprocess
import sys

import pytest

SLOW = {"torch", "warp", "scipy", "matplotlib", "roma", "trimesh", "av", "open3d", "viser", "onnxruntime", "mediapipe"}
"""A tenth of a second and more."""
IMAGES = {"numpy", "cv2"}


def imported(code: str, **environment: str) -> set[str]:
    """Packages that are imported when some code has run, its output apart."""
    code = (
        "import contextlib, io, sys\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    {code}\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["--help"], set()),
        (["run", "--help"], set()),
        (["import", "--help"], set()),
        (["view", "--help"], set()),
        (["train", "volumetric", "--help"], set()),
        (["doctor", "--help"], set()),
        (["doctor"], IMAGES),  # it reads the body's file
    ],
)
def test_only_what_is_needed_is_imported(arguments: list[str], more: set[str]) -> None:
    found = imported(f"from avatarpose.cli import main; main({arguments!r})")
    assert "tyro" in found and "avatarpose" in found
    assert found & (SLOW | IMAGES) <= more
    assert not found & {"renderer", "optimize"}


def test_wrong_arguments_are_said_without_torch() -> None:
    assert not imported("from avatarpose.cli import main; main(['run', '--nonsense'])") & SLOW


def test_the_hash_grid_alone_does_without_warp() -> None:
    found = imported("import renderer.hash_grid, renderer.compositing")
    assert "torch" in found and not found & {"warp", "scipy", "tinycudann", "nerfacc", "pytorch3d"}


@pytest.mark.parametrize(("also", "started"), [("pass", False), ("start_warp()", True)])
def test_kernels_are_neither_built_nor_warp_started_at_import(also: str, started: bool, tmp_path) -> None:
    kernels = "import renderer.body_shell, renderer.hash_grid_warp; from renderer.warp_launch import start_warp; "
    assert "warp" in imported(kernels + also, WARP_CACHE_PATH=str(tmp_path / "cache"))
    assert (tmp_path / "cache").exists() is started
