"""Opens the real window on the display of its environment, uses it by mouse and keyboard, and reports what it saw.

    python window_driver.py SEQUENCE OUT

Run by test_viewer_window.py, in a process of its own: Open3D ends the process where something is amiss. Writes pictures
of the screen's scene part to the folder OUT, with what the painter makes of the same view, and report.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ImageGrab

from avatarpose.io import write_image
from viewer.main import open_session
from viewer.options import ViewOptions
from viewer.window import ViewerWindow

PATIENCE = 60.0


class Driver:
    """A window and a hand on its mouse."""

    def __init__(self, sequence: Path, out: Path) -> None:
        self.out = out
        self.session = open_session(sequence, ViewOptions(show="refined", device="cpu"))
        self.window = ViewerWindow(self.session, 1000, 760)
        self.report: dict = {}

    def run(self, seconds: float, ticks: int = 5) -> None:
        """For some time, and some pictures where drawing one takes longer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or ticks > 0:
            self.window.app.run_one_tick()
            ticks -= 1

    def until(self, what: Callable[[], bool]) -> bool:
        """Runs the window until something holds; whether it came to hold."""
        end = time.monotonic() + PATIENCE
        while not what() and time.monotonic() < end:
            self.window.app.run_one_tick()
        return what()

    def screen(self) -> np.ndarray:
        """The scene's part of the window as it stands on the screen, RGB."""
        corner, frame = self.window.window.os_frame, self.window.canvas.frame
        left, top = corner.x + frame.x, corner.y + frame.y
        box = (left, top, left + frame.width, top + frame.height)
        return np.asarray(ImageGrab.grab(bbox=box, xdisplay=""))[..., :3].copy()

    def settle(self) -> np.ndarray:
        """The screen once it no longer changes, however often it is drawn anew."""
        same, before = 0, self.screen()
        end = time.monotonic() + PATIENCE
        while same < 4 and time.monotonic() < end:
            self.window.canvas.force_redraw()
            self.window.window.post_redraw()
            self.run(0.8)
            now = self.screen()
            same = same + 1 if np.ptp(now) > 30 and np.array_equal(now, before) else 0
            before = now
        return before

    def compare(self, name: str) -> None:
        """Keeps the screen, and the painter's picture of the same scene and view."""
        write_image(self.out / f"{name}_window.png", self.settle())
        write_image(self.out / f"{name}_painted.png", self.session.take_picture(self.window.current_view()))

    def hand(self, *words: object) -> None:
        subprocess.run(["xdotool", *(str(word) for word in words)], check=True)

    def point(self, widget) -> None:
        corner, frame = self.window.window.os_frame, widget.frame
        x = corner.x + frame.x + min(frame.width // 2, 12)
        self.hand("mousemove", x, corner.y + frame.y + frame.height // 2)
        self.run(0.3)

    def click(self, widget) -> None:
        self.point(widget)
        self.hand("mousedown", 1)
        self.run(0.8)  # both have to be seen, in pictures of their own
        self.hand("mouseup", 1)
        self.run(0.8)

    def drag(self, dx: int, dy: int) -> None:
        """Turns the scene with the left button."""
        corner, frame = self.window.window.os_frame, self.window.canvas.frame
        self.hand("mousemove", corner.x + frame.width // 2, corner.y + frame.height // 2)
        self.run(0.2)
        self.hand("mousedown", 1)
        for _ in range(4):
            self.hand("mousemove_relative", "--", dx // 4, dy // 4)
            self.run(0.2)
        self.hand("mouseup", 1)
        self.run(0.3)

    def key(self, name: str) -> None:
        self.hand("key", name)
        self.run(0.5)


def drive(sequence: Path, out: Path) -> None:
    driver = Driver(sequence, out)
    session, window, report = driver.session, driver.window, driver.report
    driver.compare("first")

    # Kinds stand two a row at the top of the panel: estimate, initial; refined, truth.
    rows = window.panel.widget.get_children()[0].get_children()
    truth = rows[1].get_children()[1]
    driver.click(truth)
    report["kinds after a click on truth"] = sorted(session.state.kinds)
    driver.compare("truth")

    driver.click(window.bar.play)
    seen: set[int] = set()
    report["plays through all frames"] = driver.until(lambda: seen.add(session.timeline.frame) or len(seen) == 4)
    driver.click(window.bar.play)
    report["stops"] = not session.timeline.playing
    session.timeline.go(0)
    window.refresh()
    driver.point(window.canvas)
    driver.key("Right")
    driver.key("Right")
    report["frame after two steps"] = session.timeline.frame
    driver.key("Left")
    report["frame after one back"] = session.timeline.frame
    driver.key("space")
    report["space plays"] = session.timeline.playing
    driver.key("space")
    session.timeline.go(2)

    before = window.current_view()
    driver.drag(90, 30)
    report["turned by the mouse"] = float(np.linalg.norm(window.current_view().position - before.position))
    window.refresh()
    driver.compare("turned")

    session.state.kinds = {"initial", "refined"}
    session.state.surface, session.state.side_by_side = "difference", True
    window.refresh()
    driver.compare("difference")

    session.state.surface, session.state.side_by_side, session.state.kinds = "person", False, {"refined"}
    session.state.through, session.state.skeletons = "cam01", True
    window.refresh()
    driver.compare("through")
    session.state.opacity = 0.0
    window.refresh()
    driver.compare("image")

    session.state.opacity, session.state.skeletons = 1.0, False
    window.set_rendered(True)
    window.refresh()
    report["avatars came"] = driver.until(lambda: session.message == "avatars rendered")
    driver.run(6)  # finer and finer
    write_image(out / "avatars_window.png", driver.settle())
    write_image(out / "avatars_painted.png", session.avatar_picture(window.current_view()))
    window.set_rendered(False)

    window.screenshot()
    report["screenshot"] = driver.until(lambda: (sequence / "results" / "view_000.png").is_file())
    window.finish()
    (out / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]))
    # Open3D may crash while Python takes it down; the report is written.
    sys.stdout.flush()
    import os

    os._exit(0)
