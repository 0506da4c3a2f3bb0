"""Comparison of the results with the truth: what stands in `results/metrics.json`.

Two readers open `ground_truth.npz`, this module and the viewer; nothing that finds people does.

How the figures are made, unless a function says otherwise:

* World frame, no alignment unless the name says so. The 12 limb joints, shoulders to ankles.
* The person-frames that count are those with truth, in the frames chosen in the sequence that any result file has;
  every row is measured on the same ones. Frames are matched by number.
* Predicted people are matched with true ones once for the whole sequence, each with at most one, so that the sum of
  mean errors is least (Kuhn-Munkres); a pair that is nowhere nearer than a missing person costs is no pair.
* Every joint that has truth counts; one that was not predicted counts as 500 mm, in no limb and within no distance.
* The score that ranks detections for AP is what the estimator believed: the mean of its 12 joint scores for that person
  and frame in joints3d.npz (0 where it had none), for registered and refined bodies too. Without joints3d.npz all
  scores are equal. The error itself, which AvatarPose's script sorts by, is never used: it is not known without truth.
* A detection is right for AP and recall only for the true person it is matched with over the sequence, which is
  stricter than the nearest one in each frame (`metrics.nearest_truth`): exchanged identities cost.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from rich.console import Console
from rich.table import Table
from scipy.optimize import linear_sum_assignment

from avatarpose import metrics
from avatarpose.errors import InputError
from avatarpose.io import read_npz, write_json
from avatarpose.results import Bodies, Joints3D
from avatarpose.sequence import Sequence
from avatarpose.skeletons import COCO17, LIMB_JOINTS, LIMBS, SHELF15, SHELF_LIMBS, convert, shelf_head

MISSING = 0.5
"""Metres that a joint counts which has truth and was not predicted."""

RESULT_FILES = {"estimate": "joints3d.npz", "initial": "initial.npz", "refined": "refined.npz"}

_LIMB_COCO = COCO17.indices(LIMB_JOINTS)
_LIMB_ENDS = [(LIMB_JOINTS.index(a), LIMB_JOINTS.index(b)) for limbs in LIMBS.values() for a, b in limbs]
_METRES_TO_MM = 1000.0


@dataclass(frozen=True)
class Truth:
    """The truth of a sequence.

    Attributes:
        frames: (F,) frame numbers.
        keypoints: (P, F, 17, 3) COCO-17 joints, metres, world; NaN where there is no truth.
        joints: (P, F, 24, 3) SMPL joints, or None.
        shelf15: (P, F, 15, 3) joints as annotated in the Shelf data set, or None.
        complete: whether everybody in the scene has truth; where not, a detection of nobody is no error and precision
            has no meaning.
    """

    frames: Int[np.ndarray, " frames"]
    keypoints: Float[np.ndarray, "people frames 17 3"]
    joints: Float[np.ndarray, "people frames 24 3"] | None
    shelf15: Float[np.ndarray, "people frames 15 3"] | None
    complete: bool


def load_truth(folder: Path | str) -> Truth:
    """Read `ground_truth.npz` of a sequence folder.

    Either `keypoints` (P, F, 17, 3), with or without `joints` (P, F, 24, 3), or `shelf15` (F, P, 15, 3) with
    `joint_names`: annotations as of the Shelf data set, which leave other people in the scene out. Row f is frame
    number f, unless an array `frames` gives the numbers.

    Raises:
        InputError: no such file, or the arrays are not as described.
    """
    path = Path(folder) / "ground_truth.npz"
    data = read_npz(path)
    joints = shelf15 = None
    if "shelf15" in data:
        names = tuple(str(name) for name in data.get("joint_names", SHELF15.joints))
        if sorted(names) != sorted(SHELF15.joints):
            raise InputError("joint_names are not the Shelf joints", file=path, expected=SHELF15.joints, found=names)
        _check_shape(path, "shelf15", data["shelf15"], 15)
        shelf15 = (
            data["shelf15"].astype(np.float64).transpose(1, 0, 2, 3)[:, :, [names.index(j) for j in SHELF15.joints]]
        )
        keypoints = convert(shelf15, "shelf15", "coco17")
    elif "keypoints" in data:
        _check_shape(path, "keypoints", data["keypoints"], 17)
        keypoints = data["keypoints"].astype(np.float64)
        if "joints" in data:
            _check_shape(path, "joints", data["joints"], 24)
            joints = data["joints"].astype(np.float64)
    else:
        raise InputError("no truth in it", file=path, expected="keypoints or shelf15", found=", ".join(data))
    frames = data.get("frames", np.arange(keypoints.shape[1]))
    if frames.shape != keypoints.shape[1:2]:
        raise InputError("frames do not fit", file=path, expected=keypoints.shape[1:2], found=frames.shape)
    return Truth(frames.astype(np.int64), keypoints, joints, shelf15, complete=shelf15 is None)


def _check_shape(path: Path, name: str, array: np.ndarray, joints: int) -> None:
    if array.ndim != 4 or array.shape[2:] != (joints, 3):
        raise InputError(
            f"array {name} has the wrong shape", file=path, expected=f"(., ., {joints}, 3)", found=array.shape
        )


@dataclass(frozen=True)
class Result:
    """What one result file says, in the frames that count.

    Attributes:
        people: names of the Q people.
        keypoints: (Q, F, 17, 3) metres, world; NaN where unknown or the person is not there.
        scores: (Q, F) what the estimator believed, see the head of this module.
    """

    people: list[str]
    keypoints: Float[np.ndarray, "people frames 17 3"]
    scores: Float[np.ndarray, "people frames"]


@dataclass(frozen=True)
class Comparison:
    """One result beside the truth: P true people in F frames, 12 limb joints, metres, world.

    Attributes:
        frames: (F,) frame numbers.
        matches: (P,) index of the predicted person matched with each true one, -1 for none.
        truth, predicted: (P, F, 12, 3); NaN where there is no truth, or the joint was not predicted.
        detection_scores, detection_errors, detection_truths: one entry per predicted person-frame, as
            `metrics.average_precision` takes them.
        complete: as in `Truth`.
    """

    frames: Int[np.ndarray, " frames"]
    matches: Int[np.ndarray, " people"]
    truth: Float[np.ndarray, "people frames 12 3"]
    predicted: Float[np.ndarray, "people frames 12 3"]
    detection_scores: Float[np.ndarray, " detections"]
    detection_errors: Float[np.ndarray, " detections"]
    detection_truths: Int[np.ndarray, " detections"]
    complete: bool


def load_results(
    sequence: Sequence, truth: Truth, rows: Iterable[str], results: Path | None = None
) -> tuple[Int[np.ndarray, " frames"], dict[str, Result]]:
    """Read those of the result files named in `rows` that exist, in the frames that count.

    Args:
        rows: keys of `RESULT_FILES`.
        results: folder of the result files, by default the sequence's.

    Returns:
        Frame numbers (F,) and the results by row.

    Raises:
        InputError: none of them exists, one is damaged, or they share no frame with the truth and the sequence.
    """
    folder = sequence.results if results is None else Path(results)
    found: dict[str, Joints3D | Bodies] = {}
    for row, file in RESULT_FILES.items():
        if (folder / file).exists():
            found[row] = (Joints3D if row == "estimate" else Bodies).load(folder / file)
    wanted = [row for row in rows if row in found]
    if not wanted:
        expected = " or ".join(RESULT_FILES[row] for row in rows)
        raise InputError(
            "nothing to evaluate",
            file=folder,
            expected=expected,
            found="no such file",
            hint="Run `avatarpose run` first",
        )
    # A frame that one stage lost must still count against it, so the frames are those of all files together.
    frames = np.unique(np.concatenate([result.frames for result in found.values()]))
    frames = np.intersect1d(np.intersect1d(frames, sequence.frames), truth.frames)
    if not len(frames):
        raise InputError("no frame has both truth and results", file=folder)
    estimate = found.get("estimate")
    return frames, {row: _in_frames(found[row], frames, estimate) for row in wanted}


def _in_frames(result: Joints3D | Bodies, frames: np.ndarray, estimate: Joints3D | None) -> Result:
    """The result in the given frames, absent ones NaN, with the estimator's scores."""
    shown = np.where(result.valid[..., None, None], result.keypoints, np.nan).astype(np.float64)
    keypoints = np.full((len(result.people), len(frames), 17, 3), np.nan)
    here, there = _common(frames, result.frames)
    keypoints[:, here] = shown[:, there]
    if estimate is None:
        return Result(result.people, keypoints, np.ones(keypoints.shape[:2]))
    scores = np.zeros(keypoints.shape[:2])
    believed = np.nan_to_num(estimate.scores[..., _LIMB_COCO]).mean(axis=-1)
    here, there = _common(frames, estimate.frames)
    for q, person in enumerate(result.people):
        if person in estimate.people:
            scores[q, here] = believed[estimate.people.index(person), there]
    return Result(result.people, keypoints, scores)


def _common(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices into both of the frame numbers they share."""
    _, here, there = np.intersect1d(ours, theirs, return_indices=True)
    return here, there


def match_people(
    predicted: Float[np.ndarray, "guesses frames joints 3"], truth: Float[np.ndarray, "people frames joints 3"]
) -> Int[np.ndarray, " people"]:
    """Match people once for the whole sequence so that the sum of mean joint errors is least (Kuhn-Munkres).

    Here, and only here, an error counts `MISSING` at most, as a missing joint does: otherwise a few exchanged frames
    could outweigh all the others. A pair that is nowhere nearer than that is not matched.

    Returns:
        (P,) index of the predicted person for each true one, -1 for none.
    """
    matches = np.full(len(truth), -1)
    has_truth = ~np.isnan(truth).any(axis=-1)
    if not len(predicted) or not has_truth.any():
        return matches
    errors = np.minimum(metrics.joint_errors(predicted[None], truth[:, None], MISSING), MISSING)
    costs = np.full((len(truth), len(predicted)), MISSING)
    for p in np.flatnonzero(has_truth.any(axis=(1, 2))):
        costs[p] = errors[p][:, has_truth[p]].mean(axis=1)
    for p, q in zip(*linear_sum_assignment(costs), strict=True):
        if costs[p, q] < MISSING:
            matches[p] = q
    return matches


def compare(
    sequence: Sequence, rows: Iterable[str] = ("initial", "refined"), results: Path | None = None
) -> dict[str, Comparison]:
    """Set those of the named results that exist beside the truth, all on the same person-frames.

    Args, raises: as `load_results` and `load_truth`.
    """
    truth = load_truth(sequence.folder)
    frames, found = load_results(sequence, truth, tuple(rows), results)
    true_joints = truth.keypoints[:, _common(frames, truth.frames)[1]][:, :, _LIMB_COCO]
    return {
        row: compare_people(result.keypoints[:, :, _LIMB_COCO], result.scores, true_joints, frames, truth.complete)
        for row, result in found.items()
    }


def compare_people(
    guesses: Float[np.ndarray, "guesses frames 12 3"],
    scores: Float[np.ndarray, "guesses frames"],
    truth: Float[np.ndarray, "people frames 12 3"],
    frames: Int[np.ndarray, " frames"],
    complete: bool = True,
) -> Comparison:
    """Match predicted people with true ones and lay them side by side; limb joints, metres, world."""
    matches = match_people(guesses, truth)
    predicted = np.full_like(truth, np.nan)
    has_truth = ~np.isnan(truth).any(axis=(-1)).all(axis=-1)
    person_frame = np.arange(has_truth.size).reshape(has_truth.shape)
    there = ~np.isnan(guesses).any(axis=-1).all(axis=-1)
    errors, whom = np.full(there.shape, np.inf), np.full(there.shape, -1)
    for p, q in enumerate(matches):
        if q < 0:
            continue
        predicted[p] = guesses[q]
        errors[q] = _person_errors(guesses[q], truth[p])
        whom[q] = np.where(has_truth[p], person_frame[p], -1)
    return Comparison(frames, matches, truth, predicted, scores[there], errors[there], whom[there], complete)


def _person_errors(
    predicted: Float[np.ndarray, "*batch joints 3"], truth: Float[np.ndarray, "*batch joints 3"]
) -> Float[np.ndarray, "*batch"]:
    """Mean joint error of each person-frame, metres, missing joints as `MISSING`; inf where there is no truth."""
    errors = metrics.joint_errors(predicted, truth, MISSING)
    counted = ~np.isnan(errors)
    mean = np.where(counted, errors, 0.0).sum(axis=-1) / np.maximum(counted.sum(axis=-1), 1)
    return np.where(counted.any(axis=-1), mean, np.inf)


def summarise(comparison: Comparison) -> dict[str, float | None]:
    """The figures of one row of metrics.json: millimetres (`_mm`) and percent.

    `worst_tenth_mm` is the mean of the worst tenth (rounded up) of the person-frames' mean errors. AP is None where not
    everybody in the scene has truth.
    """
    predicted, truth = comparison.predicted, comparison.truth
    person_errors = _person_errors(predicted, truth)
    person_errors = np.sort(person_errors[np.isfinite(person_errors)])
    if not person_errors.size:
        raise InputError("no person has truth in the chosen frames", found=f"frames {comparison.frames.tolist()}")
    worst = person_errors[-max(1, -(-person_errors.size // 10)) :]
    detections = (comparison.detection_errors, comparison.detection_truths, person_errors.size)

    def precision(threshold: float) -> float | None:
        if not comparison.complete:
            return None
        return 100 * metrics.average_precision(comparison.detection_scores, *detections, threshold)

    return {
        "mpjpe_mm": _METRES_TO_MM * metrics.mpjpe(predicted, truth, MISSING),
        "pampjpe_mm": _METRES_TO_MM * metrics.pa_mpjpe(predicted, truth, MISSING),
        "worst_tenth_mm": _METRES_TO_MM * float(worst.mean()),
        "pcp": 100 * metrics.pcp3d(predicted, truth, _LIMB_ENDS),
        "pck50": 100 * metrics.pck3d(predicted, truth, 0.05),
        "pck100": 100 * metrics.pck3d(predicted, truth, 0.1),
        "ap50": precision(0.05),
        "ap100": precision(0.1),
        "recall": 100 * metrics.recall(*detections),
    }


def evaluate(sequence: Sequence, results: Path | None = None, raw: bool = False) -> dict[str, dict[str, float | None]]:
    """What stands in metrics.json: the rows `initial` and `refined`, those whose file exists.

    Args:
        sequence: with ground_truth.npz; only the frames chosen in it count.
        results: folder of the result files, by default the sequence's.
        raw: also a row `estimate`, the 3D joints before any body was fitted to them.

    Raises:
        InputError: no truth, no results, or nothing in common.
    """
    rows = ("estimate", "initial", "refined") if raw else ("initial", "refined")
    return {row: summarise(found) for row, found in compare(sequence, rows, results).items()}


def evaluate_sequence(sequence: Sequence) -> dict[str, dict[str, float | None]]:
    """`evaluate`, written to the results folder as metrics.json.

    Where only the estimate exists, its row is returned and nothing is written: metrics.json speaks of bodies.

    Raises:
        InputError: as `evaluate`.
    """
    if not any((sequence.results / RESULT_FILES[row]).exists() for row in ("initial", "refined")):
        return evaluate(sequence, raw=True)
    rows = evaluate(sequence)
    write_json(sequence.results / "metrics.json", rows)
    return rows


def body_axes(limb_joints: Float[np.ndarray, "*batch 12 3"]) -> Float[np.ndarray, "*batch 3 3"]:
    """Orientation of the trunk from shoulders and hips: columns point to the person's left, up the trunk, forward.

    Up is the line from the middle of the hips to the middle of the shoulders; left the mean of both right-to-left
    lines, made orthogonal to it.

    Returns:
        `R_world_body`; NaN where a shoulder or hip is unknown.
    """
    index = {joint: i for i, joint in enumerate(LIMB_JOINTS)}
    shoulder_l, shoulder_r, hip_l, hip_r = (
        limb_joints[..., index[joint], :] for joint in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")
    )
    up = _unit(shoulder_l + shoulder_r - hip_l - hip_r)
    left = shoulder_l - shoulder_r + hip_l - hip_r
    left = _unit(left - (left * up).sum(axis=-1, keepdims=True) * up)
    return np.stack([left, up, np.cross(left, up)], axis=-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def constant_part(comparison: Comparison) -> dict[str, float]:
    """Split the error into the part that is constant over the frames and the rest, in the world and in the body's axes.

    With e(p, f, j) = predicted - truth, in world axes or turned into the axes of the true trunk in each frame
    (`body_axes`), the constant part is the mean over frames c(p, j), the rest e - c. An offset of the body's own (a
    trunk too long, a surface taken for the skin) is constant in the body's axes; one of the room (calibration) in the
    world's. Root translation is not taken out. Joints that were not predicted, and frames where the true trunk's axes
    are unknown, have no error vector and stay out.

    Returns:
        For `world` and `body`: `constant_<axes>_mm` the mean of |c|, `rest_<axes>_mm` the mean of |e - c|, over all
        error vectors, and `constant_<axes>_share` the percentage of the squared error that is constant, which is
        the exact split: sum |e|^2 = sum |c|^2 + sum |e - c|^2.
    """
    error = comparison.predicted - comparison.truth
    axes = body_axes(comparison.truth)
    in_body = np.einsum("pfab,pfja->pfjb", axes, error)
    known = ~np.isnan(in_body).any(axis=-1)
    parts: dict[str, float] = {}
    for name, vectors in (("world", error), ("body", in_body)):
        kept = np.where(known[..., None], vectors, 0.0)
        mean = kept.sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1), 1)[:, None, :, None]
        constant = np.broadcast_to(mean, vectors.shape)[known]
        rest = vectors[known] - constant
        total = (vectors[known] ** 2).sum()
        for part, offsets in (("constant", constant), ("rest", rest)):
            lengths = np.linalg.norm(offsets, axis=-1)
            parts[f"{part}_{name}_mm"] = _METRES_TO_MM * float(lengths.mean()) if lengths.size else float("nan")
        parts[f"constant_{name}_share"] = 100 * float((constant**2).sum() / total) if total > 0 else float("nan")
    return parts


def decompose(sequence: Sequence, results: Path | None = None, raw: bool = False) -> dict[str, dict[str, float]]:
    """`constant_part` of each row; arguments and errors as `evaluate`."""
    rows = ("estimate", "initial", "refined") if raw else ("initial", "refined")
    return {row: constant_part(found) for row, found in compare(sequence, rows, results).items()}


def shelf_pcp(
    guesses: Float[np.ndarray, "guesses frames 17 3"],
    shelf15: Float[np.ndarray, "people frames 15 3"],
    up: Float[np.ndarray, "3"],
    blend_head: bool = True,
) -> dict[str, float]:
    """PCP as in the tables of Shelf and Campus (Belagiannis et al. 2014, in the form of VoxelPose's script), percent.

    In each frame every true person takes the nearest prediction by mean joint error, however far, and several may take
    the same one. Ten limbs, the head's ends from `shelf_head`. A limb with an unknown end is wrong.

    Args:
        guesses: (Q, F, 17, 3) COCO-17, metres, NaN where unknown.
        shelf15: (P, F, 15, 3) truth in the same frames.
        up: unit vector, the world's up.
        blend_head: take the head's ends from `shelf_head`, as for Shelf; else from the plain conversion, as for Campus.

    Returns:
        Per limb group and `average`, each the mean over the true people of their own mean over frames and limbs.
    """
    predicted = convert(guesses, "coco17", "shelf15")
    if blend_head:
        predicted[..., SHELF15.indices(["neck", "head_top"]), :] = shelf_head(guesses, up)
    people, frames = shelf15.shape[:2]
    taken = np.full_like(shelf15, np.nan)
    for p in range(people):
        errors = _person_errors(predicted, shelf15[p][None])
        if len(predicted):
            taken[p] = predicted[errors.argmin(axis=0), np.arange(frames)]
    groups: dict[str, Bool[np.ndarray, "people frames limbs"]] = {
        name: metrics.correct_limbs(taken, shelf15, [(SHELF15.index(a), SHELF15.index(b)) for a, b in limbs])
        for name, limbs in SHELF_LIMBS.items()
    }
    groups["average"] = np.concatenate(list(groups.values()), axis=-1)
    annotated = [p for p in range(people) if not np.isnan(groups["average"][p]).all()]
    return {name: 100 * float(np.mean([np.nanmean(right[p]) for p in annotated])) for name, right in groups.items()}


HEADINGS = {
    "mpjpe_mm": "MPJPE mm",
    "pampjpe_mm": "PA-MPJPE mm",
    "worst_tenth_mm": "worst tenth mm",
    "pcp": "PCP %",
    "pck50": "PCK50 %",
    "pck100": "PCK100 %",
    "ap50": "AP50 %",
    "ap100": "AP100 %",
    "recall": "recall %",
}


def metrics_table(
    rows: dict[str, dict[str, float | None]], parts: dict[str, dict[str, float]] | None = None, title: str = "Errors"
) -> Table:
    """A table of the rows of `evaluate`, with the constant part and the rest in the body's axes if `parts` is given.

    Figures that no row has, as AP where not everybody has truth, get no column.
    """
    table = Table("", title=title)
    shown = [key for key in HEADINGS if any(figures[key] is not None for figures in rows.values())]
    headings = [HEADINGS[key] for key in shown] + (["constant mm", "rest mm"] if parts is not None else [])
    for heading in headings:
        table.add_column(heading, justify="right")
    for row, figures in rows.items():
        values = [figures[key] for key in shown]
        if parts is not None:
            values += [parts[row]["constant_body_mm"], parts[row]["rest_body_mm"]]
        table.add_row(row, *("-" if value is None or np.isnan(value) else f"{value:.1f}" for value in values))
    return table


def print_metrics(
    rows: dict[str, dict[str, float | None]],
    parts: dict[str, dict[str, float]] | None = None,
    console: Console | None = None,
    title: str = "Errors",
) -> None:
    """Print `metrics_table` of what `evaluate` (and `decompose`) returned."""
    (console or Console()).print(metrics_table(rows, parts, title))
