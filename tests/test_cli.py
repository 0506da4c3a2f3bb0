"""The command line: help with working examples, exit codes, stages that are skipped, what a run leaves behind."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from avatarpose import cli
from avatarpose.cli import main
from avatarpose.results import Bodies

CAPTURE = Path(str(files("assets"))) / "embrace"
COMMANDS = (
    "demo", "run", "import", "check", "detect", "segment", "estimate", "register", "refine", "evaluate", "report",
    "view", "render", "export", "benchmark", "train", "doctor",
)  # fmt: skip


@pytest.fixture()
def capture(tmp_path: Path) -> Path:
    """A copy of the embedded capture, under the name that the examples use."""
    return shutil.copytree(CAPTURE, tmp_path / "my_sequence")


def exit_code(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_waiting_threads_sleep() -> None:
    code = "import avatarpose.cli, os; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "PASSIVE"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_parses(command: str, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    assert exit_code(command, "--help") == 0
    shown = capsys.readouterr().out
    example = re.search(r"Example: avatarpose (.+?)\n *\n", shown, re.DOTALL)
    assert example, shown
    words = shlex.split(example[1])
    assert words[0] == command
    seen = []
    for name in COMMANDS:
        monkeypatch.setattr(getattr(cli, name.capitalize()), "execute", lambda self: seen.append(self))
    assert exit_code(*words) == 0 and len(seen) == 1


def test_initial_stages_and_evaluate(capture: Path, capsys: pytest.CaptureFixture) -> None:
    assert exit_code("register", str(capture), "--frames", "0:4", "--device", "cpu") == 0
    results = capture / "results"
    first = Bodies.load(results / "initial.npz")
    assert first.frames.tolist() == [0, 1, 2, 3] and first.people == ["p0", "p1"]
    log = json.loads((results / "run.json").read_text())
    assert set(log["stages"]) == {"estimate", "register"}
    assert all(stage["seconds"] > 0 and stage["peak_memory_mb"] > 50 for stage in log["stages"].values())
    assert log["settings"]["frames"] == "0:4" and log["versions"]["torch"] and log["device"]["device"] == "cpu"
    metrics = json.loads((results / "metrics.json").read_text())
    assert set(metrics) == {"initial"} and 0 < metrics["initial"]["mpjpe_mm"] < 80

    # A second call keeps what is there, to the byte.
    before = {name: (results / name).stat().st_mtime_ns for name in ("joints3d.npz", "initial.npz")}
    assert exit_code("register", str(capture), "--frames", "0:4") == 0
    assert before == {name: (results / name).stat().st_mtime_ns for name in before}
    assert "is there, kept" in capsys.readouterr().err

    # --redo does the stage again and not the one before it; the same seed gives the same numbers.
    assert exit_code("register", str(capture), "--frames", "0:4", "--redo") == 0
    assert before["joints3d.npz"] == (results / "joints3d.npz").stat().st_mtime_ns
    assert before["initial.npz"] != (results / "initial.npz").stat().st_mtime_ns
    np.testing.assert_array_equal(Bodies.load(results / "initial.npz").poses, first.poses)

    # Other frames than the results are of: refused, nothing lost.
    assert exit_code("register", str(capture), "--frames", "0:6") == 2
    message = capsys.readouterr().err
    assert "joints3d.npz" in message and "6 frames" in message and "4 frames" in message
    assert Bodies.load(results / "initial.npz").frames.tolist() == [0, 1, 2, 3]

    assert exit_code("evaluate", str(capture)) == 0
    assert "MPJPE" in capsys.readouterr().out


def test_stages_do_not_open_the_truth(capture: Path) -> None:
    assert exit_code("register", str(capture), "--frames", "0:4") == 0
    with_truth = Bodies.load(capture / "results" / "initial.npz")
    shutil.rmtree(capture / "results")
    (capture / "ground_truth.npz").unlink()
    assert exit_code("register", str(capture), "--frames", "0:4") == 0
    without = Bodies.load(capture / "results" / "initial.npz")
    for name in ("betas", "poses", "trans", "joints", "keypoints", "valid"):
        np.testing.assert_array_equal(getattr(with_truth, name), getattr(without, name))
    assert not (capture / "results" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "nowhere"), ("nowhere", "no such sequence folder")),
        (("run", "{capture}", "--cameras", "cam00"), ("too few cameras", "cam00")),
        (("run", "{capture}", "--cameras", "cam00,cam77"), ("cam77", "cam04")),
        (("estimate", "{capture}", "--frames", "a:b"), ("a:b:s", "a:b")),
        (("estimate", "{capture}", "--device", "abacus"), ("abacus",)),
        (("estimate", "{capture}", "--device", "cuda:99"), ("cuda:99",)),
        (("register", "{capture}", "--body", "{capture}/none.npz"), ("none.npz",)),
    ],
)  # fmt: skip
def test_wrong_input_ends_with_2_and_says_what(arguments, words, capture: Path, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(*(a.format(capture=capture) for a in arguments)) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message
    assert "Traceback" not in message


def test_evaluate_without_truth_says_so(capture: Path, capsys) -> None:
    (capture / "ground_truth.npz").unlink()
    assert exit_code("evaluate", str(capture)) == 2
    assert "ground_truth.npz" in capsys.readouterr().err


def test_demo_refuses_a_folder_of_other_things(tmp_path: Path, capsys) -> None:
    (tmp_path / "letters.txt").write_text("mine")
    assert exit_code("demo", "--out", str(tmp_path)) == 2
    assert [f.name for f in tmp_path.iterdir()] == ["letters.txt"]


def test_doctor_names_the_device_and_the_body(capsys) -> None:
    assert exit_code("doctor") == 0
    shown = capsys.readouterr().out
    assert "torch" in shown and "body:" in shown and "vertices" in shown


@pytest.mark.slow
def test_run_makes_the_masks_that_are_missing(capture: Path) -> None:
    shutil.rmtree(capture / "masks")
    options = ("--frames", "0:3", "--effort", "0.001", "--device", "cpu", "--method", "triangulation")
    assert exit_code("run", str(capture), *options) == 0
    made = sorted((capture / "masks" / "cam00").glob("*.png"))
    assert [path.name for path in made if "_" not in path.name] == [f"{f:06d}.png" for f in range(3)]
    log = json.loads((capture / "results" / "run.json").read_text())
    assert list(log["stages"]) == ["estimate", "register", "segment", "refine"]
    assert log["stages"]["segment"]["method"] == "background"
    for name in ("refined.npz", "uncertainty.npz", "report.html", "overview.png", "metrics.json"):
        assert (capture / "results" / name).is_file()
