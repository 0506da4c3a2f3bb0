"""What the doctor says; what is missing comes with the line that gets it."""

import hashlib
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from avatarpose import doctor
from avatarpose.body import load_body
from avatarpose.cli import main
from avatarpose.doctor import OPTIONAL, Gpu, Optional, look_at, report, there, torch_cuda
from avatarpose.errors import InputError


def said(**options: object) -> str:
    shown = StringIO()
    report(Console(file=shown), **options)
    return shown.getvalue()


def test_versions_device_body() -> None:
    shown = said()
    assert "torch 2" in shown and "python 3" in shown and "OMP_WAIT_POLICY" in shown
    body = load_body()
    assert f"{len(body.v_template)} vertices, sha256 {body.sha256[:12]}" in shown


def test_what_is_missing_comes_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = (
        Optional("no_such_module", "no-such-package", "a test", "pip install no-such-package"),
        Optional("no_such_gpu_module", "no-such-gpu-package", "a test", "pip install no-such-gpu-package", cuda=True),
        Optional("rich", "rich", "this table", "pip install rich"),
    )
    monkeypatch.setattr(doctor, "OPTIONAL", mine)
    monkeypatch.setattr(doctor, "cuda_devices", lambda: ([], "no NVIDIA driver is installed"))
    shown = said()
    assert "to get no-such-package: pip install no-such-package" in shown
    assert "to get rich" not in shown and "to get no-such-gpu-package" not in shown
    assert "runs will use the CPU and the preset cpu: no NVIDIA driver is installed" in shown
    monkeypatch.setattr(doctor, "cuda_devices", lambda: ([Gpu("H200", 139.0)], ""))
    monkeypatch.setattr(doctor, "torch_cuda", lambda: "12.6")
    shown = said()
    assert "to get no-such-gpu-package" in shown and "CUDA device 0: H200, 139 GB" in shown and "preset gpu" in shown
    monkeypatch.setattr(doctor, "torch_cuda", lambda: None)
    assert "built without CUDA. Get one with: pip install torch --index-url" in said()


def test_every_optional_package_says_what_it_is_for() -> None:
    assert len({p.module for p in OPTIONAL}) == len(OPTIONAL)
    assert all(p.use and (p.get.startswith("pip install") or p.use.startswith("nothing")) for p in OPTIONAL)
    assert there("numpy") and not there("no_such_module") and not there("no_such_module.part")


@pytest.mark.parametrize(
    ("line", "expected"),
    [("cuda: Optional[str] = '12.6'", "12.6"), ("cuda = '11.8'", "11.8"), ("cuda: Optional[str] = None", None)],
)
def test_cuda_of_torch_is_read_not_imported(line: str, expected: str | None, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '2.9.0'\ndebug = False\n{line}\nhip = None\n")

    class Spec:
        origin = str(tmp_path / "torch" / "__init__.py")

    monkeypatch.setattr(doctor, "find_spec", lambda name: Spec)
    assert torch_cuda() == expected


def test_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform.startswith("linux"):
        assert "--headless" in said()
    monkeypatch.setenv("DISPLAY", ":7")
    assert "display: :7" in said() and "apt-get install" in said()


def test_files_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    content = b"PK\x03\x04" + bytes(range(256)) * 20
    digest = hashlib.sha256(content).hexdigest()
    good = tmp_path / f"sam_vit_b_{digest[:6]}.pth"
    good.write_bytes(content)
    assert look_at(good) == "weights, 0 MB, complete"
    cut = tmp_path / f"sam_vit_l_{digest[:6]}.pth"
    cut.write_bytes(content[:-9])
    with pytest.raises(InputError, match=r"not the file that its name promises.*Download it again"):
        look_at(cut)
    page = tmp_path / "model.onnx"
    page.write_bytes(b"<!doctype html>" * 200)
    with pytest.raises(InputError, match="not what its suffix says"):
        look_at(page)
    with pytest.raises(InputError, match="no such file"):
        look_at(tmp_path / "none.pth")
    with pytest.raises(InputError, match="neither a body model nor weights"):
        (tmp_path / "notes.txt").write_text("mine")
        look_at(tmp_path / "notes.txt")
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--paths", str(cut)])
    assert stop.value.code == 2 and "Download it again" in capsys.readouterr().err


def test_thorough_look_tries_kernels_and_names_the_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    import viewer.display

    monkeypatch.setattr(viewer.display, "require_window", lambda: None)
    shown = said(thorough=True)
    assert "will be used" in shown and "hash grid" in shown and "window: one opened" in shown
    assert "segment --method background: ready" in shown and "detect --detector mediapipe" in shown
