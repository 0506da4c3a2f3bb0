"""The page of `view --web` in a headless Chromium: what it shows, and that its widgets do what they say.

apt-get install chromium
pip install viser
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import Browser, browser, find_browser
from seen_capture import make_capture

from avatarpose.errors import InputError
from avatarpose.io import write_image
from viewer.main import open_session
from viewer.options import ViewOptions
from viewer.view import View
from viewer.web import Page

pytest.importorskip("viser", reason="pip install viser")
if find_browser() is None:
    pytest.skip("no browser (Debian: apt-get install chromium)", allow_module_level=True)
PATIENCE = 60.0
SCENE = (slice(120, 800), slice(0, 860))  # the screenshot's part without panel and notices


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_capture(tmp_path_factory.mktemp("web") / "embrace")


@pytest.fixture(scope="module")
def page(capture: Path) -> Iterator[Page]:
    session = open_session(capture, ViewOptions(show="refined", device="cpu"))
    made = Page(session, "127.0.0.1", 0)
    clock = threading.Thread(target=made.run, daemon=True)
    clock.start()
    yield made
    made.stop()
    clock.join(timeout=5)


@pytest.fixture(scope="module")
def tab(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(f"http://127.0.0.1:{page.port}", tmp_path_factory.mktemp("profile")) as tab:
        assert until(lambda: len(page.server.get_clients()) == 1)
        yield tab


def until(what: Callable[[], bool], patience: float = PATIENCE) -> bool:
    end = time.monotonic() + patience
    while not what() and time.monotonic() < end:
        time.sleep(0.2)
    return what()


def seen(tab: Browser, good: Callable[[np.ndarray], bool], keep: Path) -> np.ndarray:
    """The scene's part of the screenshot as soon as it is `good`; kept in a file where it never is."""
    end = time.monotonic() + PATIENCE
    while True:
        picture = tab.screenshot()
        if good(picture[SCENE].astype(int)):
            return picture[SCENE]
        if time.monotonic() > end:
            write_image(keep / "page.png", np.ascontiguousarray(picture))
            pytest.fail(f"not what it should be: see {keep / 'page.png'}")
        time.sleep(0.5)


def orange(picture: np.ndarray) -> float:
    return float(((picture[..., 0] > 150) & (picture[..., 2] < 0.55 * picture[..., 0])).mean())


def blue(picture: np.ndarray) -> float:
    return float(((picture[..., 2] > 150) & (picture[..., 0] < 0.62 * picture[..., 2])).mean())


def test_both_people_stand_in_the_scene(tab: Browser, tmp_path: Path) -> None:
    seen(tab, lambda picture: orange(picture) > 0.005 and blue(picture) > 0.005, tmp_path)


def test_play_is_pressed(tab: Browser, page: Page) -> None:
    tab.click_text("Play")
    frames: set[int] = set()
    assert until(lambda: frames.add(page.session.timeline.frame) or len(frames) == 4)
    assert until(lambda: tab.run("[...document.querySelectorAll('button')].some(b => b.textContent.trim() == 'Stop')"))
    for _ in range(4):  # a page that draws in software on a busy machine can lose a click
        tab.click_text("Stop")
        if until(lambda: not page.session.timeline.playing, PATIENCE / 4):
            return
    pytest.fail("Stop was pressed and it plays on")


def test_a_person_is_hidden_and_shown(tab: Browser, page: Page, tmp_path: Path) -> None:
    page.session.state.show_person("p1", False, page.session.data.people)
    page.refresh()
    seen(tab, lambda picture: orange(picture) > 0.005 and blue(picture) < 0.001, tmp_path)
    page.session.state.show_person("p1", True, page.session.data.people)
    page.refresh()
    seen(tab, lambda picture: blue(picture) > 0.005, tmp_path)


def test_a_camera_is_looked_through(tab: Browser, page: Page, tmp_path: Path) -> None:
    """The image behind lies where the camera saw it: the image is found in the screenshot, undistorted and upright."""
    state = page.session.state
    state.through, state.opacity = "cam01", 0.0
    page.refresh()
    image = page.session.data.image(1, page.session.timeline.frame)

    view = View.through(page.session.data.sequence.cameras, 1)
    camera = next(iter(page.server.get_clients().values())).camera

    def alike(picture: np.ndarray) -> bool:
        """The page shows the image about its principal point, as large as the angle of view makes it."""
        whole = tab.screenshot()
        height, width = whole.shape[:2]
        scale = 0.5 * height / np.tan(camera.fov / 2) / view.K[0, 0]
        left, top = width / 2 - scale * view.K[0, 2], height / 2 - scale * view.K[1, 2]
        shift = np.array([[scale, 0, left], [0, scale, top]])
        expected = cv2.warpAffine(image, shift, (width, height))
        part = (slice(160, height - 20), slice(round(left) + 20, 860))
        blurred = [cv2.GaussianBlur(one, (0, 0), 3)[part].astype(float) for one in (whole, expected)]
        return float(np.corrcoef(*(one.ravel() for one in blurred))[0, 1]) > 0.97

    seen(tab, alike, tmp_path)
    state.through, state.opacity = None, 1.0
    page.refresh()
    seen(tab, lambda picture: blue(picture) > 0.005, tmp_path)


def test_avatars_come_in_colours_and_rendered(tab: Browser, page: Page, tmp_path: Path) -> None:
    state = page.session.state
    state.surface = "avatar"
    page.refresh()
    seen(tab, lambda picture: blue(picture) < 0.001 and np.ptp(picture) > 60, tmp_path)
    page.set_rendered(True)
    assert until(lambda: page._asked is not None)
    view = page.current_view()
    expected = page.session.avatar_picture(view)
    box = SCENE

    def alike(picture: np.ndarray) -> bool:
        found = cv2.resize(expected, (1280, round(1280 * expected.shape[0] / expected.shape[1])))
        found = found[: tab.screenshot().shape[0]][box][: picture.shape[0]]
        away = np.abs(cv2.GaussianBlur(found, (0, 0), 3).astype(int) - picture[: len(found)])
        return float((away.max(axis=2) > 40).mean()) < 0.04

    seen(tab, alike, tmp_path)
    page.set_rendered(False)
    state.surface = "person"
    page.refresh()


def test_a_taken_port_is_refused(page: Page) -> None:
    with pytest.raises(InputError, match=str(page.port)):
        Page(page.session, "127.0.0.1", page.port)


def test_the_command_prints_its_address(capture: Path) -> None:
    command = [sys.executable, "-m", "avatarpose.cli", "view", str(capture), "--web", "--port", "18439"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert any("http://127.0.0.1:18439" in line for line in process.stdout)
    finally:
        process.terminate()
        process.wait(timeout=20)
