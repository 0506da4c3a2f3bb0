"""Fix-ups made by hand or in the viewer: `edits.json` in the sequence folder.

    {"swaps": [{"people": ["p0", "p1"], "from": 12}],
     "untrusted": [{"frame": 7, "people": ["p1"]}, {"frame": 9, "people": null}]}

A swap exchanges two people from a frame on; swaps act one after another in the order of the list, on the names as the
earlier ones left them. In an untrusted frame the named people (null: everybody) are not believed: their joints do not
count for `register`, their pose starts between those of the trusted frames around, and `refine` looks at no pixel of
that frame and at none of their keypoints there, so that the priors on motion carry them across. (Pixels of people in
contact are shared, so a frame where one person is not trusted gives nobody's pixels; the others keep their keypoints.)

Which edits a result contains stands in run.json beside the stage that made it; a result made with others is made anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import roma
import torch
from jaxtyping import Bool, Int

from avatarpose.body import BodyModel
from avatarpose.errors import InputError
from avatarpose.io import read_json, write_json
from avatarpose.results import Bodies, Joints3D

FILE = "edits.json"

Result = TypeVar("Result", Joints3D, Bodies)


@dataclass(frozen=True)
class Swap:
    """Two people exchanged from frame number `start` on."""

    people: tuple[str, str]
    start: int


@dataclass(frozen=True)
class Untrusted:
    """A frame (number) in which some people, or everybody (None), are not believed."""

    frame: int
    people: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Edits:
    """All fix-ups of a sequence; empty where there are none."""

    swaps: tuple[Swap, ...] = ()
    untrusted: tuple[Untrusted, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.swaps or self.untrusted)

    # ---- files ----

    @classmethod
    def load(cls, folder: Path | str) -> Edits:
        """Reads edits.json of a sequence folder; no edits where there is none.

        Raises:
            InputError: the file is damaged or says something else than the head of this module.
        """
        path = Path(folder) / FILE
        return cls.parse(read_json(path), path) if path.exists() else cls()

    def save(self, folder: Path | str) -> Path:
        """Writes edits.json of a sequence folder atomically; returns its path."""
        path = Path(folder) / FILE
        write_json(path, self.as_json())
        return path

    def as_json(self) -> dict[str, Any]:
        """The edits as they stand in the file."""
        return {
            "swaps": [{"people": list(swap.people), "from": swap.start} for swap in self.swaps],
            "untrusted": [
                {"frame": mark.frame, "people": None if mark.people is None else list(mark.people)}
                for mark in self.untrusted
            ],
        }

    @classmethod
    def parse(cls, value: Any, path: Path) -> Edits:
        """Edits from JSON; `path` is named in errors.

        Raises:
            InputError: the value is not as described at the head of this module.
        """
        if not isinstance(value, dict) or set(value) - {"swaps", "untrusted"}:
            raise InputError(
                "not a list of edits", file=path, expected='"swaps" and "untrusted"', found=str(value)[:80]
            )
        swaps = [_swap(entry, path) for entry in _list(value, "swaps", path)]
        return cls(tuple(swaps), tuple(_untrusted(entry, path) for entry in _list(value, "untrusted", path)))

    def check(self, people: Sequence[str], folder: Path | str) -> Edits:
        """Itself, when it speaks of these people only.

        Raises:
            InputError: a person is not among them.
        """
        named = [name for swap in self.swaps for name in swap.people]
        named += [name for mark in self.untrusted for name in mark.people or ()]
        for name in named:
            if name not in people:
                raise InputError(
                    "edits of a person who is not there", file=Path(folder) / FILE,
                    expected=", ".join(people), found=name,
                )  # fmt: skip
        return self

    # ---- changing ----

    def with_swap(self, first: str, second: str, start: int) -> Edits:
        """With one more swap; the same swap again as the last takes it away."""
        swap = Swap((first, second), int(start))
        if self.swaps and self.swaps[-1].start == swap.start and set(self.swaps[-1].people) == set(swap.people):
            return replace(self, swaps=self.swaps[:-1])
        return replace(self, swaps=(*self.swaps, swap))

    def with_untrusted(self, frame: int, people: Sequence[str] | None = None) -> Edits:
        """With a frame marked; marked already, the mark is taken away."""
        mark = Untrusted(int(frame), None if people is None else tuple(people))
        if mark in self.untrusted:
            return replace(self, untrusted=tuple(other for other in self.untrusted if other != mark))
        return replace(self, untrusted=(*self.untrusted, mark))

    # ---- meaning ----

    def pending(self, wanted: Edits) -> Edits:
        """What has to be done to a result that has these edits so that it has the `wanted` ones.

        Swaps are those that follow; none where these are not the beginning of the wanted ones, for then the result has
        to be made anew.
        """
        count = len(self.swaps)
        swaps = wanted.swaps[count:] if wanted.swaps[:count] == self.swaps else ()
        return Edits(swaps, tuple(mark for mark in wanted.untrusted if mark not in self.untrusted))

    def apply_swaps(self, result: Result) -> Result:
        """The joints or bodies with the swaps done; shapes (betas) stay with the name."""
        if not self.swaps:
            return result
        order = np.repeat(np.arange(len(result.people))[:, None], len(result.frames), axis=1)
        for swap in self.swaps:
            if not set(swap.people) <= set(result.people):
                continue
            first, second = (result.people.index(name) for name in swap.people)
            later = np.asarray(result.frames) >= swap.start
            order[first, later], order[second, later] = order[second, later], order[first, later]
        columns = np.arange(len(result.frames))[None]
        fields = ("keypoints", "scores", "valid")
        if isinstance(result, Bodies):
            fields = ("poses", "trans", "joints", "keypoints", "valid")
        return replace(result, **{name: getattr(result, name)[order, columns] for name in fields})

    def untrusted_mask(
        self, people: Sequence[str], frames: Int[np.ndarray, " frames"]
    ) -> Bool[np.ndarray, "people frames"]:
        """(P, F) who is not believed in which frame."""
        mask = np.zeros((len(people), len(frames)), bool)
        for mark in self.untrusted:
            rows = [mark.people is None or name in mark.people for name in people]
            mask[np.ix_(rows, np.asarray(frames) == mark.frame)] = True
        return mask

    def edit_joints(self, joints: Joints3D) -> Joints3D:
        """Estimated joints with the swaps done and without what is not trusted."""
        joints = self.apply_swaps(joints)
        trusted = ~self.untrusted_mask(joints.people, joints.frames)
        return replace(
            joints,
            keypoints=np.where(trusted[..., None, None], joints.keypoints, np.float32(np.nan)),
            scores=np.where(trusted[..., None], joints.scores, np.float32(0)),
            valid=joints.valid & trusted,
        )

    def bridge(self, bodies: Bodies, body: BodyModel) -> Bodies:
        """Bodies that in untrusted frames go from the trusted frame before to the one after.

        Rotations turn at a constant rate about one axis (slerp), the translation goes straight; beyond the first or
        last trusted frame the pose is held.
        """
        bad = self.untrusted_mask(bodies.people, bodies.frames) & bodies.valid
        if not bad.any():
            return bodies
        poses, trans = bodies.poses.copy(), bodies.trans.copy()
        numbers = np.asarray(bodies.frames)
        for p, f in zip(*np.nonzero(bad), strict=True):
            good = np.flatnonzero(bodies.valid[p] & ~bad[p])
            if not len(good):
                continue
            before, after = good[good < f], good[good > f]
            a = before[-1] if len(before) else after[0]
            b = after[0] if len(after) else a
            share = (numbers[f] - numbers[a]) / (numbers[b] - numbers[a]) if a != b else 0.0
            ends = [torch.as_tensor(bodies.poses[p, i].reshape(24, 3), dtype=torch.float64) for i in (a, b)]
            between = roma.rotvec_slerp(*ends, torch.tensor([share], dtype=torch.float64))[0]
            poses[p, f] = between.reshape(72).numpy()
            trans[p, f] = (1 - share) * bodies.trans[p, a] + share * bodies.trans[p, b]
        arrays = [
            torch.as_tensor(a, dtype=body.dtype, device=body.device) for a in (bodies.betas[:, None], poses, trans)
        ]
        with torch.no_grad():
            joints, keypoints = (f(*arrays).cpu().numpy().astype(np.float32) for f in (body.joints, body.keypoints))
        joints = np.where(bad[..., None, None], joints, bodies.joints)
        keypoints = np.where(bad[..., None, None], keypoints, bodies.keypoints)
        return replace(bodies, poses=poses, trans=trans, joints=joints, keypoints=keypoints)


def applied_edits(results: Path, stage: str) -> Edits:
    """The edits that the output of a stage contains, as run.json says; none where it says nothing."""
    path = Path(results) / "run.json"
    if not path.is_file():
        return Edits()
    try:
        stages = read_json(path).get("stages", {})
        return Edits.parse(stages[stage]["edits"], path)
    except (InputError, KeyError, TypeError, AttributeError):
        return Edits()  # only a log: an old or damaged one knows nothing


def _list(value: dict, key: str, path: Path) -> list:
    entries = value.get(key, [])
    if not isinstance(entries, list):
        raise InputError(f"{key} is not a list", file=path, expected="[...]", found=str(entries)[:80])
    return entries


def _swap(entry: Any, path: Path) -> Swap:
    people = entry.get("people") if isinstance(entry, dict) else None
    good = isinstance(people, list) and len(people) == 2 and all(isinstance(name, str) for name in people)
    if not good or people[0] == people[1] or not _is_frame(entry.get("from")):
        raise InputError(
            "not a swap", file=path, expected='{"people": ["p0", "p1"], "from": 12}', found=str(entry)[:80]
        )
    return Swap((people[0], people[1]), entry["from"])


def _untrusted(entry: Any, path: Path) -> Untrusted:
    people = entry.get("people") if isinstance(entry, dict) else None
    named = people is None or (isinstance(people, list) and people and all(isinstance(name, str) for name in people))
    if not isinstance(entry, dict) or not named or not _is_frame(entry.get("frame")):
        raise InputError(
            "not an untrusted frame", file=path, expected='{"frame": 7, "people": ["p0"]} or "people": null',
            found=str(entry)[:80],
        )  # fmt: skip
    return Untrusted(entry["frame"], None if people is None else tuple(people))


def _is_frame(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
