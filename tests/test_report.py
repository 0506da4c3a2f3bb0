"""The report: figures against values worked out by hand, and the page."""

from __future__ import annotations

import base64
import html.parser
import re
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_refine import bodies_of

from avatarpose.body import load_body
from avatarpose.cli import main
from avatarpose.sequence import Sequence
from avatarpose.skeletons import LIMBS
from optimize.uncertainty import FILE as UNCERTAINTY_FILE
from optimize.uncertainty import Uncertainty
from viewer.data import ViewerData
from viewer.report.page import page, table
from viewer.report.quality import jitter, limb_spread, measure


@pytest.fixture(scope="module")
def body():
    return load_body()


@pytest.fixture
def capture(tmp_path: Path, body) -> Path:
    """Three frames of the embedded capture's people as upright bodies at rest; in the last, one has come too near."""
    folder = tmp_path / "embrace"
    with as_file(files("assets") / "embrace") as source:
        shutil.copytree(source, folder)
    with np.load(folder / "ground_truth.npz") as truth:
        roots = truth["joints"][:, :3, 0].copy()
    roots[:] = roots[:, :1]
    roots[1, :2] = roots[0, :2] + [0, 2.5, 0]
    roots[1, 2] = roots[0, 2] + [0.05, 0.0, 0]
    poses = np.zeros((2, 3, 72))
    poses[..., 0] = np.pi / 2  # upright where z is up
    trans = roots - body.rest_joints(torch.zeros(10))[0].numpy()
    bodies = bodies_of(body, np.zeros((2, 10)), poses, trans, np.arange(3))
    bodies.save(folder / "results" / "initial.npz")
    bodies.save(folder / "results" / "refined.npz")
    deviations = np.full((2, 3, 17, 3), 0.01)
    deviations[0, 1] = 0.05
    joints = np.full((2, 3, 24, 3), 0.01)
    Uncertainty(["p0", "p1"], np.arange(3), joints, deviations).save(folder / "results" / UNCERTAINTY_FILE)
    return folder


def test_figures(capture, body):
    quality = measure(ViewerData(Sequence.open(capture, frames=slice(0, 3)), body), "refined")
    assert quality.depth[:, :2] == pytest.approx(0)
    assert (quality.depth[:, 2] > 50).all() and (quality.volume[:, 2] > 10).all(), "one stands in the other"
    assert quality.deviation[0] == pytest.approx([10, 50, 10])
    assert quality.limb_spread == pytest.approx(0, abs=1e-3)
    # 2.45 m in a twentieth of a second, from rest: 2.45 / 0.05^2 m/s^2.
    assert quality.jitter[1, 1] == pytest.approx(np.hypot(2.5, 0.05) * 400, rel=1e-4)
    assert quality.iou.shape == (5, 3) and (quality.iou >= 0).all() and (quality.iou <= 1).all()
    why = {key: "; ".join(text) for key, text in quality.reasons.items()}
    assert "inside another body" in why[2, 0] and "inside another body" in why[2, 1]
    assert "50 mm only" in why[1, 0] and "mm from the truth" in why[1, 1]


def test_limb_spread_and_jitter():
    joints = np.zeros((1, 3, 17, 3))
    joints[0, :, 13] = [0.4, 0, 0]  # left knee: the thigh is 0.4 m long, then 0.43 m
    joints[0, 2, 13, 0] = 0.43
    limbs = sum(len(pairs) for pairs in LIMBS.values())
    # Thigh and shin change by 30 mm, all others by nothing.
    assert limb_spread(joints)[0] == pytest.approx([0, 0, 60 / limbs])
    moving = np.zeros((1, 4, 1, 3))
    moving[0, :, 0, 1] = [0, 0.01, 0.04, 0.09]  # 2 a t^2 / 2 with a step of 0.02
    assert jitter(moving, 10.0)[0, 1:3] == pytest.approx([2.0, 2.0])
    assert np.isnan(jitter(moving, 10.0)[0, [0, 3]]).all()


class _Outline(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.sliders = 0
        self.links: list[str] = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.images += [given["src"]] if tag == "img" else []
        self.sliders += tag == "input" and given.get("type") == "range"
        self.links += [given[key] for key in ("href", "src") if key in given and tag not in ("img", "use", "a")]


def test_page_stands_alone(capture, body, capsys):
    main(["report", str(capture), "--frames", "0:3"])
    path = Path(capsys.readouterr().out.strip())
    assert path == capture / "results" / "report.html"
    text = path.read_text(encoding="utf-8")
    outline = _Outline()
    outline.feed(text)
    assert len(outline.images) == 2 * outline.sliders >= 4
    for picture in outline.images:
        assert picture.startswith("data:image/jpeg;base64,")
        drawn = cv2.imdecode(np.frombuffer(base64.b64decode(picture.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
        assert max(drawn.shape) == 640
    assert not outline.links
    assert not re.findall(r"(?:src|url|import)\s*[=(]?\s*[\"'(]https?:", text)
    for said in ("Frames not to be trusted", "inside another body", "<svg", "standard deviation"):
        assert said in text


def test_text_is_escaped(capture, body):
    data = ViewerData(Sequence.open(capture, frames=slice(0, 3)), body)
    data.sequence.name = "<script>alert(1)</script>"
    assert "<script>alert" not in page(data, {"refined": measure(data, "refined")})
    assert "&lt;b&gt;" in table(["<b>"], [["<b>"]])


def test_nothing_to_report_on(tmp_path, capsys):
    with as_file(files("assets") / "embrace") as source:
        shutil.copytree(source, tmp_path / "embrace")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path / "embrace")])
    assert ended.value.code == 2
    assert "initial.npz or refined.npz" in capsys.readouterr().err
