"""What is run: every sequence by every method with every seed, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from avatarpose.errors import InputError
from avatarpose.io import read_json, write_json
from avatarpose.sequence import Sequence

DONE = "done.json"


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        command: stage that is run (`estimate`, `register` or `refine`) and its options.
        row: which result counts: `estimate`, `initial` or `refined`.
        means: the row in words.
    """

    command: tuple[str, ...]
    row: str
    means: str


METHODS = {
    "triangulation": Method(("estimate", "--method", "triangulation"), "estimate", "joints by triangulation"),
    "volumetric": Method(("estimate", "--method", "volumetric"), "estimate", "joints by the volumetric estimator"),
    "registered": Method(("register",), "initial", "bodies registered to the joints"),
    "refined": Method(("refine",), "refined", "avatars and poses"),
    "in_turn": Method(("refine", "--preset", "in_turn"), "refined", "avatars and poses never at once"),
    "no_rgb": Method(("refine", "--ablate", "rgb"), "refined", "without colours"),
    "no_mask": Method(("refine", "--ablate", "mask"), "refined", "without masks"),
    "no_collision": Method(("refine", "--ablate", "collision"), "refined", "without the collision loss"),
    "joint": Method(("refine", "--ablate", "joint"), "refined", "avatars and poses at once from the first iteration"),
    "smpl_only": Method(("refine", "--ablate", "smpl_only"), "refined", "no avatar: the body on 2D keypoints"),
}


@dataclass(frozen=True)
class Job:
    """One run."""

    sequence: Path
    method: str
    seed: int
    folder: Path
    """A sequence folder that links the capture's files and has results of its own."""
    arguments: tuple[str, ...]
    """Of the command line, without the program's name."""

    @property
    def name(self) -> str:
        return f"{self.sequence.name} {self.method} seed {self.seed}"


def plan(
    sequences: Iterable[Path],
    methods: Iterable[str],
    seeds: Iterable[int],
    out: Path,
    options: Iterable[str] = (),
    refine_options: Iterable[str] = (),
) -> list[Job]:
    """The runs, in the order of the table. Methods that only estimate or register are run with the first seed alone.

    Args:
        options: further options of every run, such as --frames 0:10.
        refine_options: further options of the refinements, such as --effort 0.1.

    Raises:
        InputError: no such method, no sequence, no truth, or two sequences of the same name.
    """
    sequences, methods, seeds = [Path(s) for s in sequences], list(methods), list(seeds)
    for method in methods:
        if method not in METHODS:
            raise InputError("no such method", expected=", ".join(METHODS), found=method)
    names = [s.resolve().name for s in sequences]
    if len(set(names)) < len(names):
        raise InputError("sequences of the same name", expected="a name each", found=", ".join(names))
    for sequence in sequences:
        Sequence.open(sequence).close()
        if not (sequence / "ground_truth.npz").is_file():
            raise InputError("nothing to compare with", file=sequence / "ground_truth.npz", found="no such file")
    jobs = []
    for sequence, method in product(sequences, methods):
        refines = METHODS[method].command[0] == "refine"
        for seed in seeds if refines else seeds[:1]:
            folder = out / "runs" / sequence.resolve().name / method / f"seed{seed}"
            command, *own = METHODS[method].command
            arguments = (command, str(folder), "--seed", str(seed), *options)
            arguments += (*(refine_options if refines else ()), *own)  # the last of two counts
            jobs.append(Job(sequence.resolve(), method, seed, folder, arguments))
    return jobs


def prepare(job: Job) -> None:
    """Makes the folder of a run: links to all of the capture but its results.

    Raises:
        InputError: the folder holds a run with other options.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    said = {"sequence": str(job.sequence), "arguments": list(job.arguments)}
    note = job.folder / "job.json"
    if note.is_file() and (held := read_json(note)) != said:
        raise InputError(
            "a run with other options is there", file=job.folder, expected=said, found=held,
            hint="Choose another --out, or delete the folder",
        )  # fmt: skip
    for source in sorted(job.sequence.iterdir()):
        link = job.folder / source.name
        if source.name != "results" and not link.is_symlink() and not link.exists():
            link.symlink_to(source)
    write_json(note, said)
