"""The tables of the papers, each computed as its own script computes it: `avatarpose evaluate --protocol NAME`.

| name | joints | how people are matched | figures |
|---|---|---|---|
| avatarpose | skel19 | each prediction with the nearest truth of its frame | MPJPE, PCP, AP, recall, precision |
| closemocap | panoptic15 | as above; of several the one of the highest score | 3DPCK, MPJPE, by action |
| voxelpose | panoptic15 | as above, by falling score | AP 25 to 150, MPJPE and recall at 500 mm |
| shelf, campus | shelf14 and mid-hip | each truth takes the nearest prediction | PCP3D by limb and actor |

These are not the figures of metrics.json: identities do not matter here, MPJPE leaves out who was not found, and people
beyond 500 mm of everybody are no detection to AvatarPose's script. All lengths are of the world frame, unaligned. A
joint that has truth and was not predicted counts 500 mm: the papers' methods predict all, so their scripts do not say.

Two kinds of AP stand side by side. `ap50` ranks detections by the score that the estimator gave them. `ap50_oracle`
ranks them by their own error against the truth, as AvatarPose's script does: no method knows that order, every wrong
detection comes last in it, and it is the optimistic one. The paper's AP is the latter.

Of COCO keypoints, which results have, skel19 lacks the two toes, and with truth made of SMPL's joints also nose and
ears; neck and mid-hip are the middles of shoulders and hips, on both sides. `joints` says how many counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from rich.table import Table

from avatarpose import metrics
from avatarpose.datasets.splits import find_split
from avatarpose.errors import InputError
from avatarpose.evaluate import MISSING, RESULT_FILES, Result, Truth, load_results, load_truth, shelf_pcp
from avatarpose.io import read_npz, write_json
from avatarpose.metrics import MATCH_DISTANCE
from avatarpose.sequence import Sequence as Capture
from avatarpose.skeletons import SKEL19, convert

Figures = dict[str, float | str | None]

_MM = 1000.0
_VISIBLE = 0.1
"""VoxelPose leaves out Panoptic's joints up to this confidence."""
_ACTORS = (0, 1, 2)
"""The actors that Shelf's and Campus's averages are over."""


@dataclass(frozen=True)
class Scene:
    """One result beside the truth in one sequence, in one skeleton: Q predicted and P true people, metres, world.

    Attributes:
        name: the sequence's.
        frames: (F,) frame numbers.
        predicted: (Q, F, J, 3); NaN where unknown.
        scores: (Q, F) what the estimator believed.
        truth: (P, F, J, 3); NaN where there is none.
        complete: whether everybody in the scene has truth.
    """

    name: str
    frames: Int[np.ndarray, " frames"]
    predicted: Float[np.ndarray, "guesses frames joints 3"]
    scores: Float[np.ndarray, "guesses frames"]
    truth: Float[np.ndarray, "people frames joints 3"]
    complete: bool = True


@dataclass(frozen=True)
class Detections:
    """Every predicted person-frame of some scenes, each with the nearest truth of its frame.

    Attributes:
        scores, errors, truths: (D,) as `metrics.average_precision` takes them; metres.
        number_of_truths: true person-frames.
    """

    scores: Float[np.ndarray, " detections"]
    errors: Float[np.ndarray, " detections"]
    truths: Int[np.ndarray, " detections"]
    number_of_truths: int

    def matched(self) -> Detections:
        """Only those within 500 mm of somebody: AvatarPose's script lists no others."""
        near = self.errors < MATCH_DISTANCE
        return Detections(self.scores[near], self.errors[near], self.truths[near], self.number_of_truths)

    def ap(self, threshold_mm: float, oracle: bool = False) -> float:
        """AP in percent; ranked by score, or by the error itself."""
        ranks = -self.errors if oracle else self.scores
        rest = (self.errors, self.truths, self.number_of_truths, threshold_mm / _MM)
        return 100 * metrics.average_precision(ranks, *rest)

    def recall(self) -> float:
        """Percent of the true person-frames that a detection is within 500 mm of."""
        return 100 * metrics.recall(self.errors, self.truths, self.number_of_truths)

    def first_errors(self, by_error: bool) -> Float[np.ndarray, " found"]:
        """Errors within 500 mm of the first detection of each true person-frame, by rising error or falling score."""
        order = np.argsort(self.errors if by_error else -self.scores, kind="stable")
        order = order[self.errors[order] < MATCH_DISTANCE]
        return self.errors[order[np.unique(self.truths[order], return_index=True)[1]]]


def detections(scenes: Sequence[Scene]) -> Detections:
    """All detections of all scenes together."""
    scores, errors, truths, count = [], [], [], 0
    for scene in scenes:
        there = np.isfinite(scene.predicted).all(axis=-1).any(axis=-1)
        true = np.isfinite(scene.truth).all(axis=-1).any(axis=-1)
        for f in range(len(scene.frames)):
            q, p = np.flatnonzero(there[:, f]), np.flatnonzero(true[:, f])
            nearest, distance = metrics.nearest_truth(scene.predicted[q, f], scene.truth[p, f], MISSING)
            scores.append(scene.scores[q, f])
            errors.append(distance)
            truths.append(np.where(nearest < 0, -1, count + nearest))
            count += len(p)
    return Detections(
        np.concatenate([*scores, []]), np.concatenate([*errors, []]),
        np.concatenate([*truths, []]).astype(np.int64), count,
    )  # fmt: skip


# ---- AvatarPose ----


def avatarpose_figures(scenes: Sequence[Scene]) -> Figures:
    """The columns of AvatarPose's tables on Hi4D and CHI3D (Lu et al., ECCV 2024, tables 1 and 2; its script).

    mpjpe_mm: mean of the errors of the best detection of each true person-frame, those beyond 500 mm left out. pcp: of
    each true person-frame the nearest prediction within 500 mm (a prediction may serve two), share of right limbs;
    mean per person, then over the people; who was not found does not count. recall, precision, f1: at 500 mm.
    person_pck50: share of detections with a mean error below 50 mm.
    """
    found = detections(scenes).matched()
    complete = all(scene.complete for scene in scenes)
    errors = found.first_errors(by_error=True)
    recall = found.recall()
    precision = 100 * len(errors) / len(found.errors) if len(found.errors) else 0.0
    figures: Figures = {
        "mpjpe_mm": _MM * float(errors.mean()) if len(errors) else None,
        "pcp": nearest_pcp(scenes),
        **{f"ap{t}_oracle": found.ap(t, oracle=True) if complete else None for t in (25, 50, 100, 150)},
        **{f"ap{t}": detections(scenes).ap(t) if complete else None for t in (25, 50, 100, 150)},
        "recall": recall,
        "precision": precision if complete else None,
        "f1": 2 * precision * recall / max(precision + recall, 1e-9) if complete else None,
        "person_pck50": 100 * float((found.errors < 0.05).mean()) if len(found.errors) else 0.0,
        "joints": float(_joints(scenes)),
    }
    return figures


def nearest_pcp(scenes: Sequence[Scene], limbs: Sequence[tuple[int, int]] = SKEL19.edges) -> float | None:
    """PCP in percent as `avatarpose_figures` says; people with the same place in every scene are one person.

    None where nobody was found.
    """
    shares: dict[int, list[float]] = {}
    for scene in scenes:
        for p in range(len(scene.truth)):
            if not len(scene.predicted):
                continue
            errors = metrics.joint_errors(scene.predicted, scene.truth[p][None], MISSING)
            counts = np.isfinite(errors).sum(axis=-1)
            mean = np.where(counts > 0, np.nansum(errors, axis=-1) / np.maximum(counts, 1), np.inf)
            best = mean.argmin(axis=0)
            frames = np.flatnonzero(mean[best, np.arange(len(best))] < MATCH_DISTANCE)
            taken = scene.predicted[best[frames], frames]
            right = metrics.correct_limbs(taken, scene.truth[p, frames], limbs)
            shares.setdefault(p, []).extend(right[np.isfinite(right)].tolist())
    people = [float(np.mean(found)) for found in shares.values() if found]
    return 100 * float(np.mean(people)) if people else None


def _joints(scenes: Sequence[Scene]) -> int:
    """How many of the skeleton's joints have truth anywhere."""
    return int(np.any([np.isfinite(scene.truth).all(axis=-1).any(axis=(0, 1)) for scene in scenes], axis=0).sum())


# ---- CloseMoCap ----


def closemocap_figures(scenes: Sequence[Scene]) -> Figures:
    """3DPCK at 50, 100 and 150 mm and MPJPE over the joints, as CloseMoCap's tables have them.

    Of the predictions whose nearest truth is the same person-frame within 500 mm, the one of the highest score counts
    ("by the highest proposal score", as the paper puts it). It does not say what a person who was not found costs:
    here all joints are wrong in PCK and left out of MPJPE, beside which `recall` stands.
    """
    chosen, everyone = [], []
    for scene in scenes:
        for f in range(len(scene.frames)):
            true = np.flatnonzero(np.isfinite(scene.truth[:, f]).all(axis=-1).any(axis=-1))
            guessed = np.flatnonzero(np.isfinite(scene.predicted[:, f]).all(axis=-1).any(axis=-1))
            nearest, distance = metrics.nearest_truth(scene.predicted[guessed, f], scene.truth[true, f], MISSING)
            for i, p in enumerate(true):
                mine = guessed[(nearest == i) & (distance < MATCH_DISTANCE)]
                everyone.append(scene.truth[p, f])
                best = mine[scene.scores[mine, f].argmax()] if len(mine) else None
                chosen.append(np.full_like(everyone[-1], np.nan) if best is None else scene.predicted[best, f])
    if not everyone:
        raise InputError("no person has truth in the chosen frames")
    predicted, truth = np.stack(chosen), np.stack(everyone)
    found = np.isfinite(predicted).all(axis=-1).any(axis=-1)
    return {
        **{f"pck{t}": 100 * metrics.pck3d(predicted, truth, t / _MM) for t in (50, 100, 150)},
        "mpjpe_mm": _MM * metrics.mpjpe(predicted[found], truth[found], MISSING) if found.any() else None,
        "recall": 100 * float(found.mean()),
        "joints": float(_joints(scenes)),
    }


def action_of(name: str) -> str:
    """The action in a sequence's name: `pair00_fight12` is fight, `Grab 1` is Grab."""
    found = re.search(r"([A-Za-z]+)[ _-]*\d*$", name)
    return found[1] if found else name


# ---- VoxelPose ----


def voxelpose_figures(scenes: Sequence[Scene]) -> Figures:
    """VoxelPose's Panoptic table (Tu et al., ECCV 2020): AP by score at 25 to 150 mm, their mean, recall and MPJPE at
    500 mm, where MPJPE is of the detection of the highest score of each true person-frame."""
    found = detections(scenes)
    errors = found.first_errors(by_error=False)
    thresholds = range(25, 151, 25)
    aps = [found.ap(t) if all(scene.complete for scene in scenes) else None for t in thresholds]
    return {
        **{f"ap{t}": ap for t, ap in zip(thresholds, aps, strict=True)},
        "map": float(np.mean(aps)) if None not in aps else None,
        "recall": found.recall(),
        "mpjpe_mm": _MM * float(errors.mean()) if len(errors) else None,
        "joints": float(_joints(scenes)),
    }


# ---- from files to figures ----

_SKELETONS: dict[str, str] = {"avatarpose": "skel19", "closemocap": "panoptic15", "voxelpose": "panoptic15"}
_FIGURES: dict[str, Callable[[Sequence[Scene]], Figures]] = {
    "avatarpose": avatarpose_figures,
    "closemocap": closemocap_figures,
    "voxelpose": voxelpose_figures,
}
PROTOCOLS = (*_FIGURES, "shelf", "campus")


def evaluate_protocol(sequences: Sequence[Capture], name: str) -> dict[str, Figures]:
    """A paper's figures of every result of some sequences, all sequences together as its tables have them.

    Args:
        sequences: with ground_truth.npz and results.
        name: one of PROTOCOLS.

    Returns:
        By row: `estimate`, `initial`, `refined`, those that every sequence has; with several sequences `closemocap`
        adds rows for each action, as `refined, fight`.

    Raises:
        InputError: no such protocol, no truth or no results, or truth of another kind.
    """
    if name not in PROTOCOLS:
        raise InputError("no such protocol", expected=", ".join(PROTOCOLS), found=name)
    loaded = [_load(sequence, name) for sequence in sequences]
    rows = [row for row in RESULT_FILES if all(row in results for _, _, results in loaded)]
    if not rows:
        raise InputError("the sequences have no result in common", found=", ".join(s.name for s in sequences))
    table: dict[str, Figures] = {}
    for row in rows:
        every = [(sequence, *rest[:2], rest[2][row]) for sequence, rest in zip(sequences, loaded, strict=True)]
        if name in ("shelf", "campus"):
            table[row] = _shelf_row(every, name)
            continue
        scenes = [_scene(*one, name) for one in every]
        table[row] = _FIGURES[name](scenes)
        if name == "closemocap" and len(scenes) > 1:
            actions = sorted({action_of(scene.name) for scene in scenes})
            for action in actions:
                some = [scene for scene in scenes if action_of(scene.name) == action]
                table[f"{row}, {action}"] = closemocap_figures(some)
    return table


def _load(sequence: Capture, name: str) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, Result]]:
    """Frames that count, the truth in them, and the results in them."""
    truth = load_truth(sequence.folder)
    frames, results = load_results(sequence, truth, RESULT_FILES)
    file = read_npz(sequence.folder / "ground_truth.npz")
    kept = np.isin(truth.frames, frames)
    kept &= np.isin(truth.frames, truth.frames[_published_frames(file, truth, name)])
    if not kept.any():
        raise InputError("none of the frames is among the protocol's", file=sequence.folder, expected=name)
    inside = np.isin(frames, truth.frames[kept])
    arrays = {"keypoints": truth.keypoints[:, kept]}
    if truth.shelf15 is not None:
        arrays["shelf15"] = truth.shelf15[:, kept]
        arrays["ids"] = file.get("ids", np.arange(len(truth.shelf15)))
    if "panoptic15" in file and file["panoptic15"].shape[:2] == truth.keypoints.shape[:2]:
        hidden = file.get("panoptic15_scores", np.ones(file["panoptic15"].shape[:3])) <= _VISIBLE
        arrays["panoptic15"] = np.where(hidden[..., None], np.nan, file["panoptic15"])[:, kept].astype(np.float64)
    arrays["complete"] = np.array(truth.complete)
    chosen = {
        row: Result(result.people, result.keypoints[:, inside], result.scores[:, inside])
        for row, result in results.items()
    }
    return frames[inside], arrays, chosen


def _published_frames(file: Mapping[str, np.ndarray], truth: Truth, name: str) -> np.ndarray:
    """(F,) whether each frame of the truth is one of the paper's, where the truth says what they were called."""
    inside = np.ones(len(truth.frames), bool)
    if name in ("shelf", "campus") and "source_frames" in file:
        ranges = find_split(f"voxelpose-{name}").frames or ()
        inside = np.any([np.isin(file["source_frames"], list(numbers)) for numbers in ranges], axis=0)
    return inside


def _scene(
    sequence: Capture, frames: np.ndarray, truth: Mapping[str, np.ndarray], result: Result, name: str
) -> Scene:
    skeleton = _SKELETONS[name]
    if skeleton in truth:
        true = truth[skeleton]
    elif "shelf15" in truth:
        raise InputError(f"the truth is not of the kind that {name} is scored on", file=sequence.folder,
                         expected="keypoints", found="shelf15", hint="Use --protocol shelf or campus")  # fmt: skip
    else:
        true = convert(truth["keypoints"], "coco17", skeleton)
    guessed = convert(result.keypoints, "coco17", skeleton)
    return Scene(sequence.name, frames, guessed, result.scores, true, bool(truth["complete"]))


def _shelf_row(
    every: Sequence[tuple[Capture, np.ndarray, Mapping[str, np.ndarray], Result]], name: str
) -> Figures:
    """PCP3D of the first three actors, their average, and the average's parts by limb group."""
    if len(every) > 1:
        raise InputError(f"--protocol {name} is of one sequence", found=f"{len(every)} sequences")
    sequence, _, truth, result = every[0]
    if "shelf15" not in truth:
        raise InputError("no annotations as of Shelf or Campus", file=sequence.folder / "ground_truth.npz",
                         expected="shelf15", found="keypoints")  # fmt: skip
    figures: Figures = {}
    actors = [(int(i), a) for a, i in enumerate(truth["ids"]) if i in _ACTORS]
    annotated = [(i, a) for i, a in actors if np.isfinite(truth["shelf15"][a]).any()]
    if not annotated:
        raise InputError("none of the first three actors is annotated in these frames", file=sequence.folder)
    blend = name == "shelf"
    for i, a in annotated:
        figures[f"actor{i + 1}"] = shelf_pcp(
            result.keypoints, truth["shelf15"][[a]], sequence.up_vector, blend)["average"]  # fmt: skip
    together = truth["shelf15"][[a for _, a in annotated]]
    groups = shelf_pcp(result.keypoints, together, sequence.up_vector, blend)
    figures["average"] = groups.pop("average")
    return {**figures, **groups}


# ---- showing ----

_MOST_COLUMNS = 9
_HEADINGS = {"mpjpe_mm": "MPJPE mm", "pcp": "PCP", "map": "mAP", "person_pck50": "PCK50 of people", "f1": "F1"}


def protocol_table(rows: Mapping[str, Figures], name: str) -> Table:
    """The rows as a table, percent where no unit is given; figures that no row has are left out.

    Many figures go down and the rows across, few the other way round.
    """
    keys = [key for key in dict.fromkeys(k for figures in rows.values() for k in figures)
            if any(figures.get(key) is not None for figures in rows.values())]  # fmt: skip
    cells = [[_HEADINGS.get(key, _heading(key)) for key in keys],
             *([_cell(key, figures.get(key)) for key in keys] for figures in rows.values())]  # fmt: skip
    lines = [["", *rows]] if len(keys) > _MOST_COLUMNS else [["", *cells[0]]]
    if len(keys) > _MOST_COLUMNS:
        lines += [list(line) for line in zip(*cells, strict=True)]
    else:
        lines += [[row, *line] for row, line in zip(rows, cells[1:], strict=True)]
    table = Table(title=f"{name}'s protocol", caption="percent where no unit is given")
    for i, heading in enumerate(lines[0]):
        table.add_column(heading, justify="right" if i else "left")
    for line in lines[1:]:
        table.add_row(*line)
    return table


def _cell(key: str, value: float | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:.0f}" if key == "joints" else f"{value:.1f}"


def _heading(key: str) -> str:
    found = re.fullmatch(r"(ap|pck)(\d+)(_oracle)?", key)
    if found is None:
        return key.replace("_", " ")
    return f"{found[1].upper()}{found[2]}" + (" oracle" if found[3] else "")


def write_protocol(sequences: Sequence[Capture], name: str) -> tuple[Path, dict[str, Figures]]:
    """`evaluate_protocol`, written to the first sequence's results as protocol_<name>.json."""
    rows = evaluate_protocol(sequences, name)
    path = sequences[0].results / f"protocol_{name}.json"
    write_json(path, {"sequences": [sequence.name for sequence in sequences], "rows": rows})
    return path, rows
