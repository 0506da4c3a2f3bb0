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
KEYS = {"Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowRight": 39}


def find_browser() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One tab. Pictures are (H, W, 3) RGB.

    Attributes:
        events: what the protocol told since the last `open`, in order: {"method": name, "params": values}.
    """

    def __init__(self, socket) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.events: list[dict] = []

    def call(self, method: str, **parameters) -> dict:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := self._receive()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self) -> dict:
        message = json.loads(self._socket.recv(timeout=PATIENCE))
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, address: str) -> None:
        """Goes to an address, waits until the page is loaded, and keeps in `events` what it asks for and says."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.events.clear()
        self.call("Page.navigate", url=address)
        while all(event["method"] != "Page.loadEventFired" for event in self.events):
            self._receive()

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

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 4) -> None:
        """Presses the mouse at one place, moves it and lets go at another."""
        places = np.linspace(start, end, steps + 1).tolist()
        kinds = ["mousePressed", *["mouseMoved"] * steps, "mouseReleased"]
        for kind, (x, y) in zip(kinds, [*places, places[-1]], strict=True):
            buttons = 0 if kind == "mouseReleased" else 1
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

    def press(self, key: str) -> None:
        """Presses one of the keys in KEYS."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

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
