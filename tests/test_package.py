"""The wheel is complete: installed alone in another folder, it runs the demo."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("assets", "avatarpose", "optimize", "renderer", "viewer")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that no build folder appears among them; without the network."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY.md"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("avatarpose-*.whl")
    return built


def test_the_wheel_holds_packages_assets_and_licences(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for expected in ("assets/body.npz", "assets/embrace/cameras.json", "assets/embrace/images/cam00/000000.jpg"):
        assert expected in names
    assert all(any(name.startswith(f"{package}/") for name in names) for package in PACKAGES)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
    assert wheel.stat().st_size < 7e6


@pytest.mark.slow
def test_the_demo_runs_from_an_installed_wheel_in_another_folder(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    where = subprocess.run(
        [sys.executable, "-c", "import avatarpose; print(avatarpose.__file__)"],
        cwd=elsewhere, env=environment, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert where.startswith(str(site)), "the test would run the sources, not the wheel"
    command = [sys.executable, "-m", "avatarpose.cli", "demo", "--effort", "0.002", "--device", "cpu"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = elsewhere / "avatarpose_demo" / "results"
    metrics = json.loads((results / "metrics.json").read_text())
    assert set(metrics) == {"initial", "refined"}
    # A few iterations change little, and must not spoil what they start from.
    assert metrics["refined"]["mpjpe_mm"] < 1.3 * metrics["initial"]["mpjpe_mm"]
    assert set(json.loads((results / "run.json").read_text())["stages"]) == {"estimate", "register", "refine"}
    for name in ("joints3d.npz", "initial.npz", "refined.npz", "overview.png", "avatars/p0.safetensors"):
        assert (results / name).is_file(), name
    for word in ("MPJPE", "refined", "seconds", "register"):
        assert word in done.stdout, done.stdout


def test_embreex_is_needed_for_making_the_capture_only() -> None:
    """Nothing the demo imports may need the ray caster."""
    code = "import sys; sys.modules['embreex'] = None; import avatarpose.pipeline, viewer.overview, assets"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
