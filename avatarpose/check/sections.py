"""What the detections say, put into findings: synchronisation, calibration, units and coverage."""

from __future__ import annotations

import numpy as np

from avatarpose.check import plots
from avatarpose.check.analysis import Analysis
from avatarpose.check.calibration import LEAST_HARM, Odd, diagonal
from avatarpose.check.epipolar import Views
from avatarpose.check.findings import Level, Section
from avatarpose.check.synchronisation import sure
from avatarpose.markup import table
from avatarpose.sequence import Sequence

_OFF, _FAR_OFF = 0.25, 0.6  # frames
_CLEARLY = 2.5  # standard errors
_FAR_TURNED = 0.012  # of the image's diagonal
_AGREE = 0.035, 0.07  # median distance from epipolar lines, share of the person's size: fair, and useless beyond
_THIN = 0.1, 0.4  # share of the joints that fewer than two cameras see
_RARE = 0.1  # share of the frames in which a camera sees somebody
_REPEATED = 0.05


def joined(names: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# ---- time ----


def synchronisation(sequence: Sequence, found: Analysis) -> Section:
    """Offsets, and the lines of cameras.json that put them right."""
    names = sequence.cameras.names
    section = Section("Synchronisation")
    known = sure(found.offsets, found.errors)
    declared = sequence.cameras.offset.numpy()
    rate = np.nan_to_num(sequence.cameras.fps.numpy(), nan=sequence.fps) / sequence.fps
    rows, suggested = [], {}
    for c, name in enumerate(names):
        value = found.offsets[c]
        if known[c] and abs(value) > max(_OFF, _CLEARLY * found.errors[c]):
            suggested[name] = round(float(declared[c] + value * rate[c]), 2)
        said = f"{value:+.2f} ± {found.errors[c]:.2f}" if known[c] else "cannot tell"
        if np.isfinite(declared[c]) and declared[c]:
            said += f" beyond the offset {declared[c]:g} of cameras.json"
        rows.append([name, said, f"{1000 * value / sequence.fps + 0.0:+.0f} ms" if known[c] else ""])
    section.data = {
        "frames_off": {n: float(v) if k else None for n, v, k in zip(names, found.offsets, known, strict=True)},
        "standard_error": {n: float(v) for n, v in zip(names, found.errors, strict=True) if np.isfinite(v)},
        "suggested_offset": suggested,
        "pairs": [
            {"cameras": [names[a], names[b]], "frames_off": float(s), "standard_error": float(e)}
            for (a, b), s, e in zip(found.pairs.pairs, found.pairs.pair_shifts, found.pairs.pair_errors, strict=True)
            if np.isfinite(s) and np.isfinite(e)
        ],
    }
    _say_offsets(section, names, found, known, suggested)
    section.blocks.append(table(["camera", "frames off", "time off"], rows))
    if found.curves:
        pictures = []
        for c, curve in enumerate(found.curves):
            note = f"{found.offsets[c]:+.2f} frames" if known[c] else "cannot tell"
            pictures.append(plots.curve_plot(names[c], *_centred(found, c, curve), note, bool(known[c])))
        section.blocks.append(
            '<p class="note">Disagreement of each camera with the others against a shift of it in time, frames; the '
            "people are where the other cameras, put right in time, see them.</p>"
        )
        section.blocks.append("".join(pictures))
    else:
        pictures = []
        for (a, b), curve, s, e in zip(
            found.pairs.pairs, found.pairs.curves, found.pairs.pair_shifts, found.pairs.pair_errors, strict=True
        ):
            told = bool(sure(s, e))
            note = f"{s:+.2f} frames" if told else "cannot tell"
            title = f"{names[b]} against {names[a]}"
            pictures.append(plots.curve_plot(title, curve.shifts, curve.values(), s, note, told))
        section.blocks.append("".join(pictures))
    return section


def _centred(found: Analysis, c: int, curve) -> tuple[np.ndarray, np.ndarray, float]:
    """A camera's curve on the axis of its whole offset: what was corrected on the way is added to the shifts."""
    values = curve.values()
    if not np.isfinite(values).any() or not np.isfinite(found.offsets[c]):
        return curve.shifts, values, float("nan")
    lowest = float(curve.shifts[int(np.nanargmin(values))])
    return curve.shifts + round(float(found.offsets[c]) - lowest), values, float(found.offsets[c])


def _say_offsets(section: Section, names: tuple[str, ...], found: Analysis, known: np.ndarray, suggested: dict) -> None:
    topic = "synchronisation"
    if not known.any():
        section.add(
            topic, Level.WARNING, "whether the cameras are synchronous cannot be told: people hardly move, or too few "
            "cameras see the same people",
            "Film somebody walking or clapping at the start, or look at a fast movement in all views yourself",
        )  # fmt: skip
        return
    for c, name in enumerate(names):
        if name not in suggested:
            continue
        value = abs(found.offsets[c])
        level = Level.NO_GO if value > _FAR_OFF else Level.WARNING
        when = "ahead of" if found.offsets[c] > 0 else "behind"
        section.add(
            topic, level,
            f"{name} is {value:.2f} frames off (± {found.errors[c]:.2f}): its frame numbers run {when} the others', "
            f"its frame {found.offsets[c]:+.2f} shows what they show at frame 0",
            f'Put "offset": {suggested[name]:g} into the entry of {name} in cameras.json',
        )  # fmt: skip
    unknown = [name for name, k in zip(names, known, strict=True) if not k]
    if unknown:
        section.add(
            topic, Level.WARNING, f"the time of {joined(unknown)} cannot be told: too little is seen to move there",
            "Look at a fast movement in these views and the others, or record one more with motion",
        )  # fmt: skip
    if not suggested:
        section.add(topic, Level.GO, f"{int(known.sum())} of {len(names)} cameras run together within {_OFF} frames")


# ---- calibration ----


def calibration(sequence: Sequence, found: Analysis) -> Section:
    """Errors, and cameras that do not fit."""
    names, result = sequence.cameras.names, found.calibration
    views = Views.of(found.people.cameras, found.keypoints)
    section = Section("Calibration")
    shares = [e.share for e in result.pairs if np.isfinite(e.share)]
    typical = float(np.median(shares)) if shares else float("nan")
    odd = {o.camera: o for o in result.odd}
    _say_calibration(section, sequence, found, views, typical, odd)
    rows, figures = [], {}
    for c, name in enumerate(names):
        own = [
            e.pixels[0 if e.a == c else 1] for e in result.pairs
            if c in (e.a, e.b) and np.isfinite(e.share) and not ({e.a, e.b} - {c}) & set(odd)
        ]  # fmt: skip
        epipolar = float(np.median(own)) if own else float("nan")
        residuals, turn = result.left_out[c], result.turns[c]
        rows.append([
            name, _number(epipolar, "px"), _number(residuals.median, "px"),
            _number(100 * residuals.median_metres, "cm"),
            "" if turn is None else f"{turn.pixels:.1f} px, {turn.degrees:.2f}°", "odd" if c in odd else "",
        ])  # fmt: skip
        figures[name] = {
            "epipolar_px": epipolar,
            "left_out_px": residuals.median,
            "left_out_m": residuals.median_metres,
            "joints": len(residuals.error),
            "shift_px": result.shifts[c].pixels.tolist(),
            "best_turn_px": None if turn is None else turn.pixels,
            "best_turn_degrees": None if turn is None else turn.degrees,
            "odd": c in odd,
        }
    section.data = {
        "cameras": figures,
        "odd": [names[o.camera] for o in result.odd],
        "leave_out": leave_out(sequence, found),
        "typical_epipolar_share_of_person": typical,
    }
    header = ["camera", "off epipolar lines", "off the others' joints", "at the person", "turn that fits best", ""]
    section.blocks.append(table(header, rows))
    section.blocks.append(
        '<p class="note">Medians over the joints, against the cameras that are not odd. "Off the others\' joints" '
        "leaves the camera out, triangulates from the others and projects. A turn about the optical axis is hardly "
        "seen and not to be relied on.</p>"
    )
    section.blocks.append(_pair_table(names, result.pairs))
    section.blocks.append("".join(_residual_plots(sequence, found)))
    return section


def leave_out(sequence: Sequence, found: Analysis) -> list[str]:
    """Names of the cameras that had better be left out; none of three, which are too few to be sure which it is."""
    if len(sequence.cameras) <= 3:
        return []
    return [sequence.cameras.names[o.camera] for o in found.calibration.odd if o.harm > _FAR_TURNED]


def _say_calibration(
    section: Section, sequence: Sequence, found: Analysis, views: Views, typical: float, odd: dict[int, Odd]
) -> None:
    names, topic = sequence.cameras.names, "calibration"
    kept = [e for e in found.calibration.pairs if not {e.a, e.b} & set(odd) and np.isfinite(e.share)]
    if not np.isfinite(typical):
        section.add(
            topic, Level.NO_GO, "no two cameras see the same people where the calibration says they should",
            "Check that names of cameras and of files belong together, and the conventions of the calibration "
            "(x_cam = R x_world + t, y down, z forward)",
        )  # fmt: skip
        return
    for c, o in odd.items():
        few = len(names) == 3
        level = Level.NO_GO if o.harm > (2 if few else 1) * _FAR_TURNED else Level.WARNING
        if o.turn is None:
            sentence = f"{names[c]} shares nobody with the other cameras, although it sees people"
        elif o.cause == "calibration":
            sentence = (
                f"{names[c]} is the odd camera: it fits the others best when turned by {o.turn.degrees:.1f}° "
                f"({o.turn.pixels:.0f} px in its image; the others need {o.usual:.0f}); so its calibration is wrong, "
                "or it was moved"
            )
        else:
            sentence = (
                f"{names[c]} is the odd camera: {o.harm * diagonal(views, c):.0f} px off; no turn of it explains that"
            )
        if few:
            sentence += "; of three cameras that is not sure"
        good = sure(found.offsets[c], found.errors[c])
        if good and abs(found.offsets[c]) <= _OFF:
            sentence += "; its time is right"
        elif not good:
            sentence += "; whether its time is right cannot be told"
        section.add(
            topic, level, sentence,
            f"Calibrate it anew, or leave it out: --leave-out {names[c]}" + ("" if few else " (or check --drop-bad)"),
        )  # fmt: skip
    rest = float(np.median([e.share for e in kept])) if kept else typical
    level = Level.GO if rest < _AGREE[0] else Level.WARNING if rest < _AGREE[1] else Level.NO_GO
    who = "the other cameras" if odd else "the cameras"
    advice = "" if level is Level.GO else "Check the calibration, its unit, and the detections in the overlays"
    section.add(topic, level, f"{who} agree within {100 * rest:.1f} % of a person's size (median over joints)", advice)
    others = [c for c in range(len(names)) if c not in odd and found.calibration.turns[c] is not None]
    if odd and len(others) == 3:  # too few to look for a second one in the same way
        harms = {c: found.calibration.turns[c].pixels / diagonal(views, c) for c in others}
        worst = max(harms, key=harms.get)
        if harms[worst] > LEAST_HARM and harms[worst] > 2 * np.median(list(harms.values())):
            section.add(
                topic, Level.WARNING,
                f"{names[worst]} may be off as well: {found.calibration.turns[worst].pixels:.0f} px; "
                "three cameras are too few to be sure", "Look at its epipolar lines in the overlays",
            )  # fmt: skip
    if len(names) == 2:
        section.add(topic, Level.GO, "with two cameras, neither could be told from the other if they did not agree")


def _pair_table(names: tuple[str, ...], pairs: list) -> str:
    shares = {(e.a, e.b): e for e in pairs}
    head = ["px off epipolar lines", *names]
    rows = []
    for a, name in enumerate(names):
        row = [name]
        for b in range(len(names)):
            e = shares.get((min(a, b), max(a, b)))
            if e is None or a == b or not np.isfinite(e.share):
                row.append("")
            else:
                row.append(f"{e.pixels[0 if e.a == a else 1]:.1f}")
        rows.append(row)
    return table(head, rows) if len(names) <= 14 else ""


def _residual_plots(sequence: Sequence, found: Analysis) -> list[str]:
    cameras = sequence.cameras
    medians = np.array([r.median for r in found.calibration.left_out])
    if not np.isfinite(medians).any():
        return []
    usual = np.nanmedian(medians)
    parts = ['<p class="note">What was detected against where the others put it, by place in the image, enlarged; '
             "the thick one is the middle error.</p>"]  # fmt: skip
    for c, name in enumerate(cameras.names):
        r, shift = found.calibration.left_out[c], found.calibration.shifts[c]
        size = int(cameras.width[c]), int(cameras.height[c])
        gain = 0.05 * max(size) / max(float(usual), 1e-6)
        note = (
            f"{r.median:.1f} px, middle ({shift.pixels[0]:+.1f}, {shift.pixels[1]:+.1f})" if len(r.error) else "nobody"
        )
        parts.append(plots.residual_plot(name, note, r.at, r.error, size, gain))
    return parts


def _number(value: float, unit: str) -> str:
    return f"{value:.1f} {unit}" if np.isfinite(value) else ""


# ---- units, people, coverage ----


def coverage(sequence: Sequence, found: Analysis) -> Section:
    """Units and axes, who is seen by whom, and the floor plan."""
    names, seen, people = sequence.cameras.names, found.seen, found.people
    section = Section("Coverage and units")
    _say_scale(section, sequence, found)
    count = len(people.joints)
    if not count:
        section.add(
            "coverage", Level.NO_GO, "nobody was found whom two cameras agree on",
            "Check synchronisation and calibration first, then the detections in the overlays",
        )  # fmt: skip
    hint = sequence.people_hint
    if hint is not None and count and count != hint:
        section.add(
            "coverage", Level.WARNING, f"{count} people found where sequence.json says {hint}",
            "Bystanders and people seen by one camera only are the usual reasons: see the overlays",
        )  # fmt: skip
    for c, name in enumerate(names):
        if seen.detections[c] < _RARE:
            section.add(
                "coverage", Level.WARNING, f"{name} sees somebody in {100 * seen.detections[c]:.0f} % of the frames",
                f"Detect again there, or leave it out: --leave-out {name}",
            )  # fmt: skip
        elif count and seen.people[c].max() < _RARE and c not in {o.camera for o in found.calibration.odd}:
            section.add("coverage", Level.WARNING, f"{name} sees none of the people that the others see")
        if seen.repeated[c] > _REPEATED:
            section.add(
                "coverage", Level.WARNING,
                f"{100 * seen.repeated[c]:.0f} % of the frames of {name} have the very detections of the frame before",
                "Frames were repeated when the video was made, or the detector was not run on every frame",
            )  # fmt: skip
    for p in range(count):
        share = float(seen.thin[p])
        if share > _THIN[0]:
            level = Level.WARNING if share < _THIN[1] else Level.NO_GO
            section.add(
                "coverage", level, f"{100 * share:.0f} % of the joints of p{p} are seen by fewer than two cameras",
                "They will be guesses; more cameras, or better detections, would help",
            )  # fmt: skip
    if count and (seen.thin <= _THIN[0]).all():
        who = "person is" if count == 1 else "people are"
        section.add("coverage", Level.GO, f"{count} {who} seen well: {seen.views.mean():.1f} cameras for each joint")
    valid = people.valid
    header = ["camera", "frames with somebody", *[f"p{p}" for p in range(count)], "most detections"]
    rows = [
        [name, f"{100 * seen.detections[c]:.0f} %", *[f"{100 * v:.0f} %" for v in seen.people[c]], str(seen.crowd[c])]
        for c, name in enumerate(names)
    ]
    rows.append(["joints with < 2 cameras", "", *[f"{100 * v:.0f} %" for v in seen.thin], ""])
    rows.append(["there in frames", "", *[f"{100 * v:.0f} %" for v in valid.mean(1)], ""])
    section.blocks.append(table(header, rows))
    volume = [[f"{k + 1} or more", f"{v:.1f} m³"] for k, v in enumerate(seen.volume)]
    plan = _plan(sequence, found)
    section.blocks.append(
        f'<div class="side">{plan}{table(["cameras", "see this much around the people"], volume)}</div>'
    )
    section.data = {
        "people": count,
        "unit": found.scale.unit,
        "person_height": found.scale.height,
        "camera_extent": found.scale.extent,
        "up": found.scale.up,
        "frames_with_somebody": dict(zip(names, seen.detections.tolist(), strict=True)),
        "person_seen": {f"p{p}": dict(zip(names, seen.people[:, p].tolist(), strict=True)) for p in range(count)},
        "joints_seen_by_fewer_than_two": {f"p{p}": float(seen.thin[p]) for p in range(count)},
        "volume_m3_seen_by_at_least": seen.volume.tolist(),
    }
    return section


def _say_scale(section: Section, sequence: Sequence, found: Analysis) -> None:
    scale = found.scale
    tall = f"people {scale.height:.4g} tall, " if np.isfinite(scale.height) else ""
    what = f"{tall}cameras up to {scale.extent:.4g} apart in the unit of cameras.json"
    if scale.unit is None:
        advice = f"Multiply every t by {scale.metres:.4g}: that makes these people 1.7 m tall"
        if not np.isfinite(scale.height):
            advice = "Say how long a unit is, and multiply every t to metres"
        section.add("units", Level.NO_GO, f"the calibration has an arbitrary scale: {what}", advice)
    elif scale.unit != "m":
        section.add(
            "units", Level.NO_GO, f"the calibration seems to be in {scale.unit}, not metres: {what}",
            f"Multiply every t in cameras.json by {scale.metres:g}, or import again with --unit {scale.unit}",
        )  # fmt: skip
    elif np.isfinite(scale.height):
        section.add("units", Level.GO, f"metres are plausible: {what}")
    else:
        section.add("units", Level.GO, f"metres are possible, but nobody could be measured: {what}")
    if scale.up is not None and scale.up != sequence.up:
        section.add(
            "units", Level.WARNING, f"people stand along {scale.up}, but sequence.json says that {sequence.up} is up",
            f'Put "up": "{scale.up}" into sequence.json, unless they lie or hang upside down',
        )  # fmt: skip


def _plan(sequence: Sequence, found: Analysis) -> str:
    cameras, up = found.people.cameras, sequence.up_vector
    first = np.roll(np.abs(up), 1)
    second = np.cross(up, first)
    basis = np.stack((first, second))
    paths = []
    for joints in found.people.joints:
        hips = joints[:, 11:13].mean(1)
        paths.append(hips @ basis.T)
    angles = np.arctan(cameras.width.double().numpy() / 2 / cameras.K[:, 0, 0].double().numpy())
    return plots.floor_plan(
        cameras.names, cameras.centres.double().numpy() @ basis.T, cameras.R[:, 2].double().numpy() @ basis.T, angles,
        paths, [o.camera for o in found.calibration.odd],
    )  # fmt: skip
