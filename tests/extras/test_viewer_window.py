"""The real window, under a virtual X server: drawn as the painter draws it, and obedient to mouse and keyboard.

apt-get install xvfb xdotool libusb-1.0-0 libgl1 libegl1 libx11-6 libudev1 libidn2-0 libvulkan1 mesa-vulkan-drivers
pip install open3d
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from seen_capture import make_capture

from avatarpose.io import read_image, write_image

pytest.importorskip("open3d", reason="pip install open3d")
PROGRAMS = ("Xvfb", "xdotool")
for program in PROGRAMS:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed (Debian: apt-get install xvfb xdotool)", allow_module_level=True)
DRIVER = Path(__file__).with_name("window_driver.py")
PATIENCE = 500  # seconds: a software driver on busy cores


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A display of its own, of 1280 x 900 pixels."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x900x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait(timeout=20)


@pytest.fixture(scope="module")
def driven(display: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the driver saw."""
    folder = tmp_path_factory.mktemp("window")
    sequence = make_capture(folder / "embrace")
    out = folder / "seen"
    out.mkdir()
    environment = {**os.environ, "DISPLAY": display, "XDG_SESSION_TYPE": "x11"}
    command = [sys.executable, str(DRIVER), str(sequence), str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (out / "report.json").is_file(), f"exit code {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return out


@pytest.mark.parametrize(
    ("name", "share"),
    [("first", 0.03), ("truth", 0.03), ("turned", 0.03), ("difference", 0.03), ("through", 0.04), ("image", 0.02),
     ("avatars", 0.03)],
)  # fmt: skip
def test_the_window_shows_what_the_painter_paints(name: str, share: float, driven: Path) -> None:
    """Tolerant of edges, text and light: the share of pixels that differ clearly once both are blurred."""
    window, painted = (read_image(driven / f"{name}_{which}.png") for which in ("window", "painted"))
    assert window.shape == painted.shape
    blurred = [cv2.GaussianBlur(image.astype(np.float32), (0, 0), 2.0) for image in (window, painted)]
    away = np.abs(blurred[0] - blurred[1]).max(axis=2)
    differs = float((away > 40).mean())
    if differs > share or window.std() < 8:
        picture = np.clip(3 * away, 0, 255).astype(np.uint8)
        write_image(driven / f"{name}_difference.png", picture)
        pytest.fail(
            f"{100 * differs:.1f} % of the pixels differ: see {driven}/{name}_{{window,painted,difference}}.png"
        )


def test_pictures_of_different_states_differ(driven: Path) -> None:
    names = ("first", "truth", "turned", "difference", "through", "image", "avatars")
    pictures = {name: read_image(driven / f"{name}_window.png").astype(int) for name in names}
    for a, b in itertools.pairwise(names):
        assert np.abs(pictures[a] - pictures[b]).mean() > 0.3, (a, b)


def test_mouse_and_keyboard(driven: Path) -> None:
    report = json.loads((driven / "report.json").read_text())
    assert report["kinds after a click on truth"] == ["refined", "truth"]
    assert report["plays through all frames"] and report["stops"] and report["space plays"]
    assert report["frame after two steps"] == 2 and report["frame after one back"] == 1
    assert report["turned by the mouse"] > 0.3
    assert report["avatars came"] and report["screenshot"]


def test_without_a_display_the_command_says_so(driven: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    command = [sys.executable, "-m", "avatarpose.cli", "view", str(driven.parent / "embrace")]
    for display in ({}, {"DISPLAY": ":9999"}):  # none, and one that is not there
        done = subprocess.run(command, env={**environment, **display}, capture_output=True, text=True, timeout=200)
        assert done.returncode == 2
        lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert len(lines) == 1 and "--web" in lines[0] and "Traceback" not in done.stderr
