"""`avatarpose benchmark`: runs, what is kept, and the table."""

from __future__ import annotations

import csv
import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest

from avatarpose.benchmark.plan import METHODS, plan, prepare
from avatarpose.benchmark.tables import Row, comma_separated, latex, markdown
from avatarpose.cli import main
from avatarpose.errors import InputError
from avatarpose.io import read_json


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    with as_file(files("assets") / "embrace") as source:
        shutil.copytree(source, tmp_path / "embrace")
    return tmp_path / "embrace"


@pytest.mark.slow
def test_runs_once_and_keeps_what_is_done(capture, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["benchmark", str(capture), "--out", str(out), "--methods", "triangulation", "smpl_only",
               "--effort", "0.002", "--frames", "0:4", "--devices", "cpu", "--threads", "1"]  # fmt: skip
    main(command)
    printed = capsys.readouterr().out
    assert not (capture / "results").exists(), "the sequence itself is left alone"
    folder = out / "runs" / "embrace" / "smpl_only" / "seed42"
    refined = read_json(folder / "results" / "metrics.json")["refined"]
    with (out / "table.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert float(rows["smpl_only"]["mpjpe_mm"]) == pytest.approx(refined["mpjpe_mm"], abs=1e-3)
    assert f"{refined['mpjpe_mm']:.1f}" in printed and printed == (out / "table.md").read_text()
    assert 20 < float(rows["triangulation"]["mpjpe_mm"]) < 80
    for plot in ("pck", "joints", "time", "iterations", "seconds"):
        assert b"</svg>" in (out / f"embrace_{plot}.svg").read_bytes()
    before = (folder / "log.txt").stat().st_mtime_ns
    main(command)
    assert (folder / "log.txt").stat().st_mtime_ns == before, "nothing is run twice"
    assert capsys.readouterr().out == printed


def test_failed_runs_are_named_and_the_others_stand(capture, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(capture, broken)
    (broken / "keypoints2d" / "cam01.npz").write_bytes(b"nothing")
    command = ["benchmark", str(broken), "--out", str(tmp_path / "out"), "--methods", "triangulation"]
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert "failed: broken triangulation" in printed.err
    assert "triangulation (1 failed)" in printed.out


def test_plan(capture, tmp_path):
    jobs = plan([capture], ["registered", "refined"], [1, 2], tmp_path, ["--frames", "0:4"], ["--effort", "0.1"])
    assert [(job.method, job.seed) for job in jobs] == [("registered", 1), ("refined", 1), ("refined", 2)]
    assert "--effort" not in jobs[0].arguments and "--frames" in jobs[0].arguments
    assert jobs[2].arguments[-2:] == ("--effort", "0.1")
    prepare(jobs[0])
    assert (jobs[0].folder / "cameras.json").samefile(capture / "cameras.json")
    other = plan([capture], ["registered"], [1], tmp_path, ["--frames", "0:5"])
    with pytest.raises(InputError, match="other options"):
        prepare(other[0])


def test_wrong_plans_are_refused(capture, tmp_path):
    with pytest.raises(InputError, match=r"no such method.*found best"):
        plan([capture], ["best"], [1], tmp_path)
    with pytest.raises(InputError, match="same name"):
        plan([capture, capture], ["refined"], [1], tmp_path)
    (capture / "ground_truth.npz").unlink()
    with pytest.raises(InputError, match=r"ground_truth\.npz"):
        plan([capture], ["refined"], [1], tmp_path)


def test_every_method_is_an_option_of_its_stage(capture, tmp_path):
    import tyro

    from avatarpose.cli import Command  # parsing alone is tested, nothing is executed

    for job in plan([capture], METHODS, [1], tmp_path, [], ["--preset", "auto"]):
        command = tyro.cli(Command, args=list(job.arguments), config=(tyro.conf.OmitArgPrefixes,))
        assert command.sequence == job.folder
        if job.method == "in_turn":
            assert command.preset == "in_turn", "what makes a method is not overridden by the options of all"


def test_tables():
    rows = [
        Row("duo_a", "no_rgb", 2, {"mpjpe_mm": [10.0, 12.0], "pck50": [99.0, 100.0]}),
        Row("duo_a", "joint", 1, {"mpjpe_mm": [20.04]}, failed=1),
    ]
    # The standard deviation of (10, 12) is sqrt(2), of (99, 100) sqrt(1/2).
    assert markdown(rows).splitlines()[2:] == [
        "| duo_a | no_rgb | 2 | 11.0 ± 1.4 | 99.5 ± 0.7 |",
        "| duo_a | joint (1 failed) | 1 | 20.0 | - |",
    ]
    table = list(csv.DictReader(comma_separated(rows).splitlines()))
    assert float(table[0]["mpjpe_mm_std"]) == pytest.approx(np.sqrt(2), abs=1e-4)
    assert table[1]["mpjpe_mm_std"] == ""
    assert r"no\_rgb & 11.0 $\pm$ 1.4" in latex(rows) and r"PCK50 \%" in latex(rows)
    assert json.dumps(table)
