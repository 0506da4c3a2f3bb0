"""`report.html` in a headless Chromium that has no network: that it stands alone, and that its slider uncovers.

apt-get install chromium
pip install websockets
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from browser import Browser, browser, find_browser
from jaxtyping import Bool, Float, UInt8
from seen_capture import make_capture

from avatarpose.cli import main
from avatarpose.io import write_image

pytest.importorskip("websockets", reason="pip install websockets")
if find_browser() is None:
    pytest.skip("no browser (Debian: apt-get install chromium)", allow_module_level=True)
STRIP = 40
"""Rows at the lower edge of a picture which the slider covers, CSS pixels."""
SLACK = 6
"""Columns on either side of the edge between the pictures that can show either."""
THUMB = 8
"""CSS pixels from the end of a slider to the middle of its handle when it is pushed there."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_capture(tmp_path_factory.mktemp("report") / "embrace")
    main(["evaluate", str(folder), "--frames", "0:4", "--redo"])
    return written(folder)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser("about:blank", tmp_path_factory.mktemp("profile")) as tab:
        tab.call("Network.enable")
        away = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        tab.call("Network.emulateNetworkConditions", offline=True, **away)
        yield tab


def written(folder: Path) -> Path:
    """The report of a capture of `make_capture`."""
    main(["report", str(folder), "--frames", "0:4"])
    return folder / "results" / "report.html"


def troubles(tab: Browser, path: Path) -> list[str]:
    """What the page asked for besides itself, and what stands in the console."""
    tab.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")  # what is under way comes first
    found = []
    for event in tab.events:
        values = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent":
                address = values["request"]["url"]
                found += [f"asked for {address}"] if address != path.as_uri() and address[:5] != "data:" else []
            case "Network.webSocketCreated":
                found.append(f"asked for {values['url']}")
            case "Runtime.exceptionThrown":
                found.append(values["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled":
                found.append(f"console.{values['type']}")
            case "Log.entryAdded":
                found.append(values["entry"]["text"])
    return found


class Shown(NamedTuple):
    """One picture of the page as it is seen, without the rows of the slider, and the two that it is made of."""

    seen: UInt8[np.ndarray, "height width 3"]
    before: UInt8[np.ndarray, "height width 3"]
    after: UInt8[np.ndarray, "height width 3"]

    @property
    def telling(self) -> Bool[np.ndarray, "height width"]:
        """Where the two clearly differ."""
        return np.abs(self.before.astype(int) - self.after).max(axis=2) > 50

    @property
    def is_before(self) -> Bool[np.ndarray, "height width"]:
        """Where what is seen is nearer to the one than to the other."""
        away = [np.abs(one.astype(int) - self.seen).sum(axis=2) for one in (self.before, self.after)]
        return away[0] < away[1]

    def share_before(self, columns: slice = slice(None)) -> Float[np.ndarray, ""]:
        """How much of what tells the two apart is the one before."""
        telling = self.telling[:, columns]
        assert telling.sum() > 100, "before and after hardly differ here"
        return self.is_before[:, columns][telling].mean()


def slider_box(tab: Browser, index: int) -> tuple[float, float, float, float]:
    """Left, top, width and height of a slider, its picture scrolled into view."""
    return tab.run(f"""(() => {{ const slider = document.querySelectorAll('.view input')[{index}];
        slider.parentNode.scrollIntoView({{block: 'center', behavior: 'instant'}});
        const box = slider.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]; }})()""")


def drag_slider(tab: Browser, index: int, share: float) -> int:
    """Takes the handle where it is with the mouse and moves it; returns the value it then has."""
    left, top, width, height = slider_box(tab, index)
    now = value(tab, index) / 100
    start, end = ((left + THUMB + at * (width - 2 * THUMB), top + height / 2) for at in (now, share))
    tab.drag(start, end)
    return value(tab, index)


def value(tab: Browser, index: int) -> int:
    return int(tab.run(f"document.querySelectorAll('.view input')[{index}].value"))


def look(tab: Browser, index: int) -> Shown:
    slider_box(tab, index)
    left, top, width, height, *sources = tab.run(f"""(() => {{
        const view = document.querySelectorAll('.view')[{index}], box = view.getBoundingClientRect();
        return [box.x, box.y, box.width, box.height, ...[...view.querySelectorAll('img')].map(e => e.src)]; }})()""")
    rows = slice(round(top), round(top + height) - STRIP)
    columns = slice(round(left), round(left + width))
    seen = tab.screenshot()[rows, columns]
    size = columns.stop - columns.start, rows.stop - rows.start + STRIP
    before, after = (cv2.resize(_picture(source), size, interpolation=cv2.INTER_AREA)[:-STRIP] for source in sources)
    return Shown(seen, before, after)


def _picture(source: str) -> UInt8[np.ndarray, "height width 3"]:
    data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_it_asks_for_nothing_and_complains_of_nothing(tab: Browser, report: Path) -> None:
    tab.open(report.as_uri())
    assert tab.run("[...document.images].every(e => e.complete && e.naturalWidth == 640)")
    drag_slider(tab, 0, 0.2)
    assert troubles(tab, report) == []


def test_what_a_page_asks_for_and_says_is_noticed(tab: Browser, report: Path, tmp_path: Path) -> None:
    """A page that does all this is caught: the test above can fail."""
    path = tmp_path / "worse.html"
    more = "<img src='http://127.0.0.1:9/a.png'><script>console.error('no');setTimeout(() => nothing())</script></body>"
    path.write_text(report.read_text(encoding="utf-8").replace("</body>", more), encoding="utf-8")
    tab.open(path.as_uri())
    found = troubles(tab, path)
    assert "asked for http://127.0.0.1:9/a.png" in found and "console.error" in found
    assert any("Uncaught" in text for text in found)


@pytest.mark.parametrize("index", [0, 1])
def test_the_slider_uncovers(index: int, tab: Browser, report: Path, tmp_path: Path) -> None:
    """Before stands left of the edge and after right of it, wherever the mouse drags it."""
    tab.open(report.as_uri())
    pictures = {value(tab, index): look(tab, index)}
    for share in (0.0, 0.42, 1.0):
        at = drag_slider(tab, index, share)
        pictures[at] = look(tab, index)
    for at, shown in pictures.items():
        write_image(tmp_path / f"{at}.png", np.ascontiguousarray(shown.seen))
    first, other, half, last = sorted(pictures)
    assert (first, half, last) == (0, 50, 100) and other == pytest.approx(42, abs=1)

    assert pictures[first].share_before() < 0.02
    assert pictures[last].share_before() > 0.98
    for at in (other, half):
        shown = pictures[at]
        edge = round(shown.seen.shape[1] * at / 100)
        assert shown.share_before(slice(0, edge - SLACK)) > 0.98
        assert shown.share_before(slice(edge + SLACK, None)) < 0.02

    changed = np.abs(pictures[first].seen.astype(int) - pictures[half].seen).max(axis=2)
    edge = changed.shape[1] // 2
    assert (changed[:, : edge - SLACK] > 50).sum() > 300
    assert changed[:, edge + SLACK :].max() <= 2, "what was uncovered already stays as it was"


def test_one_slider_leaves_the_others(tab: Browser, report: Path) -> None:
    tab.open(report.as_uri())
    beside = look(tab, 1).seen
    assert drag_slider(tab, 0, 1.0) == 100 and value(tab, 1) == 50
    assert np.array_equal(look(tab, 1).seen, beside)


def test_keys_move_the_slider(tab: Browser, report: Path) -> None:
    """Tab reaches it; the arrows, Home and End move it and what is seen."""
    tab.open(report.as_uri())
    tab.press("Tab")
    assert tab.run("document.activeElement == document.querySelector('.view input')")
    assert "before and after" in tab.run("document.activeElement.ariaLabel")
    tab.press("ArrowRight")
    tab.press("ArrowRight")
    tab.press("ArrowLeft")
    assert value(tab, 0) == 51
    tab.press("Home")
    assert value(tab, 0) == 0 and look(tab, 0).share_before() < 0.02
    tab.press("End")
    assert value(tab, 0) == 100 and look(tab, 0).share_before() > 0.98


def outline(tab: Browser) -> dict[str, str]:
    """What can be read under each heading; hidden text is not."""
    titles = tab.run("[...document.querySelectorAll('h2')].map(e => e.innerText)")
    said = tab.run("document.body.innerText")
    starts = [said.index(title) for title in titles]
    return {title: said[a:b] for title, a, b in zip(titles, starts, [*starts[1:], len(said)], strict=True)}


def tables(tab: Browser) -> list[list[list[str]]]:
    """The cells of the tables that take up room on the page."""
    return tab.run("""[...document.querySelectorAll('table')].filter(e => e.offsetWidth && e.offsetHeight)
        .map(e => [...e.rows].map(row => [...row.cells].map(cell => cell.innerText)))""")


def test_tables_plots_and_settings_are_seen(tab: Browser, report: Path) -> None:
    tab.open(report.as_uri())
    summary, untrusted, truth, stages = tables(tab)
    assert [row[0] for row in summary] == ["", "p0, before", "p0, after", "p1, before", "p1, after"]
    assert all("mm" in row[1] for row in summary[1:])
    assert untrusted[0] == ["frame", "person", "why"] and len(untrusted) > 1
    assert [row[0] for row in truth] == ["", "before", "after"]
    assert [row[0] for row in stages] == ["stage", "estimate", "register"]
    said = outline(tab)
    assert list(said) == [
        "Summary", "Frames not to be trusted", "Before and after", "Over time", "Against the truth", "The run",
    ]  # fmt: skip
    assert all(line in said["The run"] for line in ("settings", "seed: 42", "method: triangulation", "avatarpose: "))
    assert tab.run("document.documentElement.scrollWidth <= innerWidth"), "it does not fit the window's width"
    width, height = tab.run("(e => [e.width, e.height])(document.querySelector('.plots svg').getBoundingClientRect())")
    assert 600 < width <= 1080 and height > 600


def test_without_truth(tab: Browser, report: Path, tmp_path: Path) -> None:
    """Errors are distances from the 2D keypoints then, and the rest stands."""
    path = report_without(tmp_path, report, "ground_truth.npz", "metrics.json")
    tab.open(path.as_uri())
    summary, *others = tables(tab)
    assert summary[0][1] == "distance from 2D keypoints, median" and all("px" in row[1] for row in summary[1:])
    assert len(others) == 2 and "Against the truth" not in outline(tab)
    drag_slider(tab, 0, 1.0)
    assert look(tab, 0).share_before() > 0.98
    assert troubles(tab, path) == []


def test_without_refined_bodies(tab: Browser, report: Path, tmp_path: Path) -> None:
    """There is nothing to compare: pictures without a slider."""
    path = report_without(tmp_path, report, "refined.npz")
    tab.open(path.as_uri())
    assert tab.run("document.images.length") == 4 and tab.run("document.querySelectorAll('input').length") == 0
    said = outline(tab)
    assert "slider" not in said["Bodies"] and "cam00, frame 1" in said["Bodies"] and "Before and after" not in said
    assert troubles(tab, path) == []


def report_without(folder: Path, report: Path, *names: str) -> Path:
    """The report of a copy of the capture that lacks some files."""
    copytree(report.parents[1], folder / "embrace", ignore=ignore_patterns(*names))
    return written(folder / "embrace")
