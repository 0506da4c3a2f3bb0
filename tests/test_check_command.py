"""`avatarpose check` on whole captures: what it names, what it writes, how it ends."""

import json
import re
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from stick_people import FPS, detections, ring, turned

from avatarpose.check import Level, Settings, check
from avatarpose.check.driver import duration
from avatarpose.check.resources import Machine, needs
from avatarpose.cli import main
from avatarpose.io import read_npz, write_image, write_json, write_npz
from avatarpose.sequence import Sequence

CAPTURE = Path(str(files("assets"))) / "embrace"


def exit_code(*arguments: object) -> int:
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def quick(folder: Path, **options: object):
    return check(Settings(folder, timing=False, **options))


def said(folder: Path, topic: str = "") -> list[tuple[str, str, str]]:
    """(level, sentence, advice) of the findings in check.json."""
    found = json.loads((folder / "results" / "check.json").read_text())["findings"]
    return [(f["level"], f["sentence"], f["advice"]) for f in found if topic in ("", f["topic"])]


def change(path: Path, edit) -> None:
    path.write_text(edit(path.read_text()))


def words(shown: str) -> str:
    """The text of a table's third and fourth columns, without its lines and breaks."""
    rows = [line.split("│") for line in shown.splitlines() if line.startswith("│")]
    return " ".join(row[k].strip() for k in (3, 4) for row in rows)


@pytest.fixture()
def capture(tmp_path: Path) -> Path:
    """A copy of the embedded capture."""
    return shutil.copytree(CAPTURE, tmp_path / "hug")


@pytest.fixture()
def sticks(tmp_path: Path):
    """Makes a sequence folder of stick figures: keypoints only."""

    def make(cameras=None, rows=None, **header: object) -> Path:
        cameras = ring(5) if cameras is None else cameras
        rows = detections(cameras, 30) if rows is None else rows
        folder = tmp_path / "sticks"
        for name, keypoints in zip(cameras.names, rows, strict=True):
            write_npz(folder / "keypoints2d" / f"{name}.npz", keypoints=keypoints)
        cameras.save(folder / "cameras.json")
        usual = {"fps": FPS, "frames": rows.shape[1], "unit": "m", "up": "z", "people": 2}
        write_json(folder / "sequence.json", {**usual, **header})
        return folder

    return make


def test_embedded_capture_is_fit(capture: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(p.relative_to(capture) for p in capture.rglob("*"))
    assert exit_code("check", capture) == 0
    shown = capsys.readouterr().out
    assert "5 cameras, 12 frames" in shown and "check.html" in shown and "no-go" not in shown
    data = json.loads((capture / "results" / "check.json").read_text())
    assert data["verdict"] in ("go", "warning") and data["leave_out"] == [] and data["dropped"] == {}
    assert data["command"] == f"avatarpose run {capture}"
    assert data["coverage_and_units"]["people"] == 2 and data["coverage_and_units"]["unit"] == "m"
    assert data["synchronisation"]["suggested_offset"] == {}
    presets = data["time_memory_and_disk"]["presets"]
    assert 0 < presets["cpu"]["seconds"] < presets["paper"]["seconds"]
    # Nothing else is written.
    after = sorted(p.relative_to(capture) for p in capture.rglob("*") if "results" not in p.relative_to(capture).parts)
    assert after == [p for p in before if "results" not in p.parts]

    page = (capture / "results" / "check.html").read_text()
    outside = re.findall(r"(?:src|href)=\"(?!data:)[^\"]*|url\(|@import|<script", page)
    assert outside == [] and page.count("data:image/jpeg;base64,") == 10 and page.count("<svg") >= 11
    assert "cam04, frame" in page


def test_the_truth_is_not_opened(capture: Path) -> None:
    quick(capture, frames="0:6")
    with_truth = json.loads((capture / "results" / "check.json").read_text())
    shutil.rmtree(capture / "results")
    (capture / "ground_truth.npz").write_bytes(b"not to be read")
    quick(capture, frames="0:6")
    assert json.loads((capture / "results" / "check.json").read_text()) == with_truth


def test_shifted_camera_of_a_capture_is_found_and_the_advice_cures_it(data_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "duo_a"
    for name in ("sequence.json", "cameras.json"):
        folder.mkdir(exist_ok=True)
        shutil.copy(data_folder / "duo_a" / name, folder / name)
    shutil.copytree(data_folder / "duo_a" / "keypoints2d", folder / "keypoints2d")
    assert quick(folder).level < Level.NO_GO
    off = json.loads((folder / "results" / "check.json").read_text())["synchronisation"]["frames_off"]
    assert len(off) == 8 and max(map(abs, off.values())) < 0.1

    # The camera's recording began three frames later than the others': its frame 0 shows their frame 3.
    path = folder / "keypoints2d" / "cam05.npz"
    rows = read_npz(path)["keypoints"]
    write_npz(path, keypoints=np.concatenate((rows[3:], np.full_like(rows[:3], np.nan))))
    assert quick(folder).level is Level.NO_GO
    data = json.loads((folder / "results" / "check.json").read_text())["synchronisation"]
    assert data["frames_off"]["cam05"] == pytest.approx(-3, abs=0.1)
    assert list(data["suggested_offset"]) == ["cam05"]
    (finding,) = [f for f in said(folder, "synchronisation") if f[0] == "no-go"]
    assert "cam05" in finding[1] and '"offset": -3' in finding[2]

    cameras = json.loads((folder / "cameras.json").read_text())
    cameras["cam05"]["offset"] = data["suggested_offset"]["cam05"]
    write_json(folder / "cameras.json", cameras)
    assert quick(folder, frames="3:20").level < Level.NO_GO
    data = json.loads((folder / "results" / "check.json").read_text())["synchronisation"]
    assert max(abs(v) for v in data["frames_off"].values()) < 0.1 and data["suggested_offset"] == {}


def test_time_and_calibration_wrong_in_one_camera(sticks) -> None:
    rows = detections(ring(5), 40, offsets={1: 4.0})
    folder = sticks(turned(ring(5), 1, 2.0, axis=0), rows)
    assert quick(folder).level is Level.NO_GO
    data = json.loads((folder / "results" / "check.json").read_text())
    assert data["synchronisation"]["frames_off"]["cam1"] == pytest.approx(4, abs=0.2)
    assert data["calibration"]["odd"] == ["cam1"]
    assert data["calibration"]["cameras"]["cam1"]["best_turn_degrees"] == pytest.approx(2, rel=0.3)


def test_drop_bad_leaves_the_odd_camera_out(sticks, capsys: pytest.CaptureFixture) -> None:
    folder = sticks(turned(ring(5), 3, 5.0), detections(ring(5), 30))
    assert exit_code("check", folder, "--no-timing") == 1
    shown = words(capsys.readouterr().out)
    assert "cam3 is the odd camera" in shown and "--leave-out cam3" in shown
    assert exit_code("check", folder, "--no-timing", "--drop-bad", "--frames", "0:30") == 0
    data = json.loads((folder / "results" / "check.json").read_text())
    assert list(data["dropped"]) == ["cam3"] and "odd" in data["dropped"]["cam3"]
    assert data["cameras"] == ["cam0", "cam1", "cam2", "cam4"]
    assert data["command"].endswith("--leave-out cam3 --frames 0:30")


def test_still_people_are_a_warning(sticks) -> None:
    folder = sticks(rows=detections(ring(5), 30, moving=False))
    assert quick(folder).level is Level.WARNING
    assert any(level == "warning" and "cannot be told" in s for level, s, _ in said(folder, "synchronisation"))


def test_two_cameras_blame_nobody(sticks) -> None:
    cameras = ring(5)[[0, 1]]
    folder = sticks(cameras, detections(cameras, 30, offsets={1: 2.0}))
    quick(folder)
    data = json.loads((folder / "results" / "check.json").read_text())
    assert data["calibration"]["odd"] == []
    assert data["synchronisation"]["frames_off"]["cam1"] - data["synchronisation"]["frames_off"][
        "cam0"
    ] == pytest.approx(2, abs=0.3)


def test_of_three_cameras_the_odd_one_is_said_with_doubt(sticks) -> None:
    folder = sticks(turned(ring(3), 1, 3.0), detections(ring(3), 30))
    assert quick(folder, drop_bad=True).level is Level.NO_GO
    data = json.loads((folder / "results" / "check.json").read_text())
    assert data["calibration"]["odd"] == ["cam1"] and data["leave_out"] == [] and data["dropped"] == {}
    assert any("cam1" in s and "of three cameras that is not sure" in s for _, s, _ in said(folder, "calibration"))


def test_millimetres_and_a_wrong_up_are_said(sticks) -> None:
    cameras = ring(5)
    rows = detections(cameras, 30)
    millimetres = type(cameras)(**{**cameras.__dict__, "t": cameras.t * 1000})
    folder = sticks(millimetres, rows, up="y")
    assert quick(folder).level is Level.NO_GO
    units = said(folder, "units")
    assert any(level == "no-go" and "mm, not metres" in s and "0.001" in advice for level, s, advice in units)
    assert any("stand along z" in s and '"up": "z"' in advice for _, s, advice in units)
    # All else is as in metres.
    assert not any(level == "no-go" for level, _, _ in said(folder, "calibration") + said(folder, "synchronisation"))


def test_without_keypoints_detect_comes_first(capture: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.rmtree(capture / "keypoints2d")
    assert exit_code("check", capture, "--no-timing") == 1
    assert "there are no 2D keypoints" in words(capsys.readouterr().out)
    assert any(advice == f"avatarpose detect {capture}" for _, _, advice in said(capture, "files"))
    assert (capture / "results" / "check.html").stat().st_size > 50_000  # the pictures are there all the same


def test_nobody_detected_is_a_no_go(sticks) -> None:
    folder = sticks(rows=np.full((5, 20, 2, 17, 3), np.nan, np.float32))
    assert quick(folder).level is Level.NO_GO
    assert any("nobody was found" in s for _, s, _ in said(folder, "coverage"))


def test_masks_of_another_camera_are_noticed(capture: Path) -> None:
    quick(capture, frames="0:6")
    assert [level for level, _, _ in said(capture, "masks")] == ["go"]
    for mask in (capture / "masks" / "cam01").glob("*.png"):
        write_image(mask, np.zeros((240, 256), np.uint8))
    (capture / "masks" / "cam02" / "000003.png").unlink()
    quick(capture, frames="0:6")
    assert any(level == "warning" and "cam01" in s for level, s, _ in said(capture, "masks"))
    assert any("1 of cam02" in s for _, s, _ in said(capture, "files"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "keypoints2d/cam2.npz").write_bytes(b"PK\x03\x04 cut off"), ("cam2.npz", "damaged")),
        (lambda f: write_npz(f / "keypoints2d/cam2.npz", keypoints=np.zeros((7, 1, 17, 3))), ("cam2", "30 frames")),
        (lambda f: write_npz(f / "keypoints2d/cam2.npz", keypoints=np.zeros((30, 17, 3))), ("cam2", "17, 3")),
        (lambda f: change(f / "cameras.json", lambda text: text[:400]), ("cameras.json", "JSON")),
        (lambda f: change(f / "cameras.json", lambda text: text.replace("600.0", "NaN", 1)), ("cam0", "not finite")),
        (lambda f: (f / "sequence.json").unlink(), ("sequence.json",)),
    ],
)  # fmt: skip
def test_broken_files_end_with_2(spoil, words: tuple[str, ...], sticks, capsys: pytest.CaptureFixture) -> None:
    folder = sticks()
    spoil(folder)
    assert exit_code("check", folder, "--no-timing") == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words) and "Traceback" not in message, message


def test_wrong_options_end_with_2(sticks, capsys: pytest.CaptureFixture) -> None:
    folder = sticks()
    assert exit_code("check", folder, "--max-offset", "-1") == 2 and "max-offset" in capsys.readouterr().err
    assert exit_code("check", folder, "--leave-out", "cam9") == 2 and "cam9" in capsys.readouterr().err


def test_needs_grow_with_people_frames_and_slowness(capture: Path) -> None:
    sequence = Sequence.open(capture)
    fast = Machine("cpu", 0.05, 8e9, 1e12)
    cpu, gpu, paper = needs(sequence, 2, fast)
    assert cpu.seconds < gpu.seconds < paper.seconds and cpu.memory < gpu.memory
    assert needs(sequence, 4, fast)[0].seconds > 1.5 * cpu.seconds
    assert needs(sequence, 2, Machine("cpu", 0.1, 8e9, 1e12))[0].seconds == pytest.approx(2 * cpu.seconds, rel=0.05)
    assert duration(45) == "45 s" and duration(1200) == "20 min" and duration(7200) == "2.0 h"
    assert duration(3 * 86400) == "3.0 days"
