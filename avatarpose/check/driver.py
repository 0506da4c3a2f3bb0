"""`avatarpose check`: is it worth while to spend hours on this capture?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from avatarpose import __version__
from avatarpose.check import sections
from avatarpose.check.analysis import Analysis, analyse
from avatarpose.check.findings import Level, Section, verdict
from avatarpose.check.images import files, pictures
from avatarpose.check.page import write_page
from avatarpose.check.resources import Need, look_at_machine, needs
from avatarpose.errors import InputError
from avatarpose.io import write_json
from avatarpose.markup import table
from avatarpose.progress import progress_bar
from avatarpose.sequence import Sequence, parse_frames, parse_names

_COLOURS = {Level.GO: "green", Level.WARNING: "yellow", Level.NO_GO: "red"}


@dataclass(frozen=True)
class Settings:
    """What a check depends on besides the sequence's files."""

    sequence: Path
    cameras: str = ""
    leave_out: str = ""
    frames: str = ""
    drop_bad: bool = False
    max_offset: float = 1.0
    memory: float = 1.0
    timing: bool = True


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        sections: all that was looked at.
        level: the worst of it.
        dropped: cameras that `drop_bad` left out, with the sentence that says why.
        page, data: the files written.
    """

    sections: list[Section]
    level: Level
    dropped: dict[str, str]
    page: Path
    data: Path


def check(settings: Settings, console: Console | None = None) -> Report:
    """Looks at everything that can be looked at before a run, and writes results/check.json and results/check.html.

    Never opens ground_truth.npz.

    Raises:
        InputError: the sequence is not usable as it is: a file is malformed, a camera or frame is missing.
    """
    console = console or Console(stderr=True)
    if not settings.max_offset > 0:
        raise InputError("impossible --max-offset", expected="seconds above 0", found=settings.max_offset)
    sequence, found = _look(settings, [], console)
    dropped: dict[str, str] = {}
    bad = sections.leave_out(sequence, found) if settings.drop_bad and found is not None else []
    if bad:
        said = [f.sentence for f in sections.calibration(sequence, found).findings]
        dropped |= {name: next((s for s in said if s.startswith(name)), "odd") for name in bad}
        sequence.close()
        sequence, found = _look(settings, list(dropped), console)
    parts = [files(sequence)]
    if found is not None:
        parts += [sections.synchronisation(sequence, found), sections.calibration(sequence, found)]
        parts.append(sections.coverage(sequence, found))
    with progress_bar(console, "check") as progress:
        parts.append(pictures(sequence, found, progress))
    if settings.timing:
        parts.append(_resources(sequence, found, settings))
    for name, why in dropped.items():
        parts[0].add(
            "files", Level.WARNING, f"left out here: {why}", f"avatarpose run {sequence.folder} --leave-out {name}"
        )
    level = verdict(parts)
    page, data = sequence.results / "check.html", sequence.results / "check.json"
    command = f"avatarpose run {settings.sequence}" + _options(settings, dropped)
    write_json(data, _as_json(sequence, parts, level, dropped, command))
    write_page(page, sequence, parts, level, command)
    sequence.close()
    return Report(parts, level, dropped, page, data)


def _options(settings: Settings, dropped: dict[str, str]) -> str:
    left_out = [*parse_names(settings.leave_out), *dropped]
    options = f" --cameras {settings.cameras}" if settings.cameras else ""
    options += f" --leave-out {','.join(left_out)}" if left_out else ""
    return options + (f" --frames {settings.frames}" if settings.frames else "")


def _look(settings: Settings, dropped: list[str], console: Console) -> tuple[Sequence, Analysis | None]:
    sequence = Sequence.open(
        settings.sequence,
        cameras=parse_names(settings.cameras) or None,
        leave_out=[*parse_names(settings.leave_out), *dropped],
        frames=parse_frames(settings.frames) if settings.frames else None,
    )
    if not sequence.has_keypoints:
        return sequence, None
    with progress_bar(console, "check") as progress:
        return sequence, analyse(sequence, settings.max_offset, progress)


def _resources(sequence: Sequence, found: Analysis | None, settings: Settings) -> Section:
    section = Section("Time, memory and disk")
    people = len(found.people.joints) if found is not None and len(found.people.joints) else sequence.people_hint or 1
    machine = look_at_machine(settings.sequence)
    every = needs(sequence, people, machine, settings.memory * 1e9)
    usual = every[1 if machine.device == "cuda" else 0]
    section.add(
        "resources", Level.GO, f"a run with the preset {usual.preset} takes about {duration(usual.seconds)} here on "
        f"{'CUDA' if machine.device == 'cuda' else 'the CPU'} for {people} people, {usual.memory / 1e9:.1f} GB of "
        f"memory and {usual.disk / 1e6:.0f} MB on disk (estimates, for a machine that does nothing else)",
    )  # fmt: skip
    if machine.memory is not None and usual.memory > machine.memory:
        section.add(
            "resources", Level.WARNING,
            f"memory is short: {machine.memory / 1e9:.1f} GB free, {usual.memory / 1e9:.1f} needed",
            "Run with a smaller --memory, or fewer frames at a time (--frames)",
        )  # fmt: skip
    if usual.disk > machine.disk:
        section.add(
            "resources",
            Level.NO_GO,
            f"the disk is full: {machine.disk / 1e6:.0f} MB free, {usual.disk / 1e6:.0f} needed",
        )
    rows = [_need_row(need) for need in every]
    section.blocks.append(table(["preset", "time", "memory", "disk"], rows))
    section.blocks.append(
        '<p class="note">From one avatar\'s field evaluated and differentiated here '
        f"({1000 * machine.piece:.0f} ms; {machine.slowness:.1f} times the reference machine's), and the seconds "
        "that whole runs took there. Other work on the machine can triple it; nothing was measured on a GPU.</p>"
    )
    section.data = {
        "device": machine.device,
        "measured_ms": 1000 * machine.piece,
        "times_reference": machine.slowness,
        "free_memory_bytes": machine.memory,
        "free_disk_bytes": machine.disk,
        "presets": {n.preset: {"seconds": n.seconds, "memory_bytes": n.memory, "disk_bytes": n.disk} for n in every},
    }
    return section


def _need_row(need: Need) -> list[str]:
    return [need.preset, duration(need.seconds), f"{need.memory / 1e9:.1f} GB", f"{need.disk / 1e6:.0f} MB"]


def duration(seconds: float) -> str:
    """In words: minutes, hours or days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _as_json(sequence: Sequence, parts: list[Section], level: Level, dropped: dict[str, str], command: str) -> dict:
    findings = [
        {"topic": f.topic, "level": f.level.word, "sentence": f.sentence, "advice": f.advice}
        for part in parts for f in part.findings
    ]  # fmt: skip
    leave_out = next((p.data["leave_out"] for p in parts if "leave_out" in p.data), [])
    return _finite({
        "verdict": level.word,
        "version": __version__,
        "sequence": sequence.name,
        "cameras": list(sequence.cameras.names),
        "frames": {"count": len(sequence.frames), "first": int(sequence.frames[0]), "last": int(sequence.frames[-1])},
        "dropped": dropped,
        "leave_out": leave_out,
        "command": command,
        "findings": findings,
        **{part.title.lower().replace(" ", "_").replace(",", ""): part.data for part in parts},
    })  # fmt: skip


def _finite(value):
    """JSON has no NaN: null in its place."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def print_report(report: Report, console: Console | None = None) -> None:
    """The findings as a table, the worst first, and where the page is."""
    console = console or Console()
    console = console if console.is_terminal else Console(file=console.file, width=130)
    shown = Table("", "what", "found", "what to do", show_lines=True)
    every = [f for part in report.sections for f in part.findings]
    for f in sorted(every, key=lambda f: -f.level):
        colour = _COLOURS[f.level]
        shown.add_row(f"[{colour}]{f.level.word}[/]", f.topic, _plain(f.sentence), _plain(f.advice))
    console.print(shown)
    colour = _COLOURS[report.level]
    console.print(
        f"[{colour} bold]{report.level.word}[/]  page to look at: {report.page}", highlight=False, soft_wrap=True
    )


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
