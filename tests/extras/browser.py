"""A headless Chromium, spoken to over its DevTools protocol: opens a page, clicks, takes screenshots."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. Pictures are (H, W, 3) RGB."""

    def __init__(self, socket) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    def call(self, method: str, **parameters) -> dict:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE))
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def screenshot(self) -> np.ndarray:
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    def run(self, script: str):
        """The value of a JavaScript expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["text"])
        return found["result"].get("value")

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click_text(self, text: str, tag: str = "button") -> None:
        """Clicks the middle of the first element of a kind that has this text."""
        script = f"""(() => {{ const found = [...document.querySelectorAll({tag!r})]
            .find(e => e.textContent.trim() === {text!r});
            if (!found) return null; const r = found.getBoundingClientRect();
            return [r.x + r.width / 2, r.y + r.height / 2]; }})()"""
        place = self.run(script)
        assert place is not None, f"no {tag} says {text!r}"
        self.click(*place)


@contextmanager
def browser(address: str, profile: Path, width: int = 1280, height: int = 800) -> Iterator[Browser]:
    """A tab at an address; `profile` is an empty folder for Chromium's own files."""
    from websockets.sync.client import connect

    arguments = [
        find_browser(), "--headless=new", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
        "--hide-scrollbars", "--no-first-run", "--remote-debugging-port=0", f"--window-size={width},{height}",
        f"--user-data-dir={profile}", address,
    ]  # fmt: skip
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = _wait(lambda: (profile / "DevToolsActivePort").read_text().split()[0])
        listing = f"http://127.0.0.1:{port}/json"
        page = _wait(lambda: next(t for t in json.load(urllib.request.urlopen(listing)) if t["type"] == "page"))
        with connect(page["webSocketDebuggerUrl"], max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait(ask):
    """The answer, as soon as there is one."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return ask()
        except (OSError, StopIteration, IndexError, ValueError):
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
