"""Whether a window can be opened here. Open3D ends the process where it cannot, so another process tries first."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

from avatarpose.errors import InputError

INSTALL = "pip install open3d"
LIBRARIES = "apt-get install libusb-1.0-0 libgl1 libegl1 libx11-6 libudev1 libidn2-0 libvulkan1 mesa-vulkan-drivers"
WITHOUT = "Use --web for a browser or --headless --out FILE for a picture"
_PROBE = """
import open3d.visualization.gui as gui, open3d.visualization.rendering as rendering
gui.Application.instance.initialize()
window = gui.Application.instance.create_window("probe", 64, 64)
scene = rendering.Open3DScene(window.renderer)
print("a window opened")
"""
_SECONDS = 60


def require_window() -> None:
    """Checks that Open3D is installed and opens a window here.

    Raises:
        InputError: it does not; says why and what else there is.
    """
    if importlib.util.find_spec("open3d") is None:
        raise InputError("the window needs Open3D", found="not installed", expected=INSTALL, hint=WITHOUT)
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise InputError("no display to open a window on", found="DISPLAY is not set", hint=WITHOUT)
    try:
        done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise InputError("no window opened", found=f"nothing for {_SECONDS} s", hint=WITHOUT) from None
    # Where there is no display, Open3D may go on without one: a window that nobody sees.
    unseen = next(
        (line for line in done.stdout.splitlines() + done.stderr.splitlines() if "Falling back" in line), None
    )
    if unseen is not None:
        raise InputError("no display to open a window on", found=f"DISPLAY={os.environ.get('DISPLAY')}", hint=WITHOUT)
    if "a window opened" not in done.stdout:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        found = lines[-1].strip()[:160] if lines else f"exit code {done.returncode}"
        raise InputError("no window opened", found=found, expected=LIBRARIES, hint=WITHOUT)
