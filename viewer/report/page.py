"""The page: one file of HTML with its pictures and plots inside, which opens without a network."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from avatarpose.body import BodyModel
from avatarpose.body.silhouette import depth_map
from avatarpose.errors import InputError
from avatarpose.evaluate import HEADINGS
from avatarpose.io import read_json, write_bytes
from avatarpose.markup import jpeg_source, table
from avatarpose.sequence import Sequence as Capture
from viewer.data import ViewerData
from viewer.overview import COLOURS, draw_skeletons
from viewer.report.quality import Quality, measure

FILE = "report.html"
PICTURE_SIZE = 640
WORST_VIEWS, EVEN_VIEWS = 2, 2
TITLES = {"initial": "before", "refined": "after"}
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1080px;padding:1rem 1.5rem;color:#1c1f24}
h1{margin:.2rem 0}h2{margin:2rem 0 .6rem;border-bottom:1px solid #d5d9e0;padding-bottom:.2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2rem .8rem;text-align:right}
th{border-bottom:1px solid #888}td:first-child,th:first-child,.left td,.left th{text-align:left}
tr:nth-child(even){background:#f4f6f9}
.views{display:grid;grid-template-columns:repeat(auto-fill,minmax(440px,1fr));gap:1rem}
.view{position:relative;line-height:0}.view img{width:100%}
.view .after{position:absolute;inset:0;clip-path:inset(0 0 0 50%)}
.view input{position:absolute;left:0;right:0;bottom:6px;width:96%;margin:0 2%}
.view p{line-height:1.4;margin:.3rem 0;font-size:13px}.plots svg{max-width:100%;height:auto}
pre{background:#f4f6f9;padding:.8rem;overflow:auto;font-size:12px}.note{color:#555}
"""
SCRIPT = """
for(const slider of document.querySelectorAll('.view input')){
const show=()=>{slider.parentNode.querySelector('.after').style.clipPath=`inset(0 0 0 ${slider.value}%)`};
slider.addEventListener('input',show);show()}
"""


def write_report(sequence: Capture, body: BodyModel) -> Path:
    """Writes results/report.html of a sequence with registered bodies, and of refined ones where they are there.

    Raises:
        InputError: there are no bodies, or a file is damaged.
    """
    data = ViewerData(sequence, body)
    kinds = [kind for kind in TITLES if kind in data.bodies]
    if not kinds:
        raise InputError("nothing to report on", file=sequence.results, expected="initial.npz or refined.npz")
    found = {kind: measure(data, kind) for kind in kinds}
    path = sequence.results / FILE
    write_bytes(path, page(data, found).encode())
    return path


def page(data: ViewerData, found: dict[str, Quality]) -> str:
    """The page's text."""
    last = found[list(found)[-1]]
    name, results = html.escape(data.sequence.name), data.sequence.results
    log = _optional(results / "run.json")
    parts = [
        f"<h1>{name}</h1>",
        f"<p class=note>{len(data.people)} people, {len(data.frames)} frames ({data.frames[0]} to {data.frames[-1]}), "
        f"{len(data.sequence.cameras)} cameras: {html.escape(', '.join(data.sequence.cameras.names))}</p>",
        "<h2>Summary</h2>", _summary(data, found),
        "<h2>Frames not to be trusted</h2>", _untrusted(data, last),
    ]  # fmt: skip
    if data.sequence.has_images:
        title, how = ("Before and after", "; drag the slider") if len(found) > 1 else ("Bodies", "")
        parts += [f"<h2>{title}</h2><p class=note>Outlines and skeletons of the bodies{how}.</p>"]
        parts += [f"<div class=views>{''.join(_views(data, list(found), last))}</div>"]
    if plots := _plots(data, found):
        parts += ["<h2>Over time</h2>", f"<div class=plots>{plots}</div>"]
    metrics = _optional(results / "metrics.json")
    if metrics:
        parts += ["<h2>Against the truth</h2>", _metrics(metrics)]
    parts += ["<h2>The run</h2>", _stages(log.get("stages", {}))]
    said = {key: log.get(key) for key in ("settings", "versions", "device") if key in log}
    parts += [f"<pre>{html.escape(_lines(said))}</pre>"]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}<script>{SCRIPT}</script></body></html>\n"
    )


def _summary(data: ViewerData, found: dict[str, Quality]) -> str:
    rows = []
    for p, person in enumerate(data.people):
        for kind, quality in found.items():
            if not np.isfinite(data.joints[kind][p]).any():
                continue
            error, unit = (quality.errors.by_frame[p], quality.errors.unit) if quality.errors else (np.array([]), "")
            rows.append([
                f"{person}, {TITLES[kind]}",
                _number(error, np.median, f" {unit}"), _number(quality.iou, np.mean, "", 2),
                _number(quality.limb_spread[p], np.mean, " mm"), _number(quality.jitter[p], np.median, " m/s²"),
                _number(quality.depth[p], np.max, " mm"), _number(quality.volume[p], np.max, " l", 2),
                _number(quality.deviation[p], np.median, " mm"),
            ])  # fmt: skip
    unit = next((quality.errors.unit for quality in found.values() if quality.errors), "")
    error = {"mm": "error, median", "px": "distance from 2D keypoints, median", "": "error"}[unit]
    head = ["", error, "IoU with the masks", "limb length, deviation", "acceleration, median", "deepest in another",
            "shared volume, most", "standard deviation, median"]  # fmt: skip
    return table(head, rows)


def _number(values: np.ndarray, reduce, unit: str, digits: int = 1) -> str:
    known = values[np.isfinite(values)]
    return f"{reduce(known):.{digits}f}{unit}" if len(known) else "-"


def _untrusted(data: ViewerData, quality: Quality) -> str:
    if not quality.reasons:
        return "<p>None stands out.</p>"
    rows = [(data.frames[f], data.people[p], "; ".join(why)) for (f, p), why in quality.reasons.items()]
    return table(["frame", "person", "why"], rows, "left")


def _views(data: ViewerData, kinds: Sequence[str], last: Quality) -> Iterable[str]:
    count = len(data.frames)
    worst = sorted(last.reasons, key=lambda key: len(last.reasons[key]), reverse=True)
    frames = list(dict.fromkeys(f for f, _ in worst))[:WORST_VIEWS]
    even = np.linspace(0, count - 1, EVEN_VIEWS + 2).round().astype(int)[1:-1]
    frames = sorted(dict.fromkeys([*frames, *(int(f) for f in even)]))
    cameras = np.unique(np.linspace(0, len(data.sequence.cameras), 2, endpoint=False).astype(int))
    for f in frames:
        for c in cameras:
            pictures = [jpeg_source(overlay(data, kind, int(c), f)) for kind in kinds]
            label = html.escape(f"{data.sequence.cameras.names[c]}, frame {data.frames[f]}: ")
            if len(kinds) == 1:
                label += TITLES[kinds[0]]
                shown = f'<div class=view><img src="{pictures[0]}" alt="{label}"></div>'
                yield f"<div>{shown}<p class=note>{label}</p></div>"
                continue
            sides = f"{TITLES[kinds[0]]} left of the handle, {TITLES[kinds[-1]]} right of it"
            yield (
                f'<div><div class=view><img src="{pictures[0]}" alt="{label}{TITLES[kinds[0]]}">'
                f'<img class=after src="{pictures[1]}" alt="{label}{TITLES[kinds[-1]]}">'
                f'<input type=range min=0 max=100 value=50 aria-label="{label}before and after">'
                f"</div><p class=note>{label}{sides}</p></div>"
            )


def overlay(data: ViewerData, kind: str, c: int, f: int) -> UInt8[np.ndarray, "height width 3"]:
    """An image with the outlines and skeletons of the bodies."""
    place = data.place(f)
    image = data.sequence.image(c, place)
    camera = data.sequence.cameras[c]
    scale = PICTURE_SIZE / max(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    drawn = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for p, person in enumerate(data.people):
        surface = data.surface(kind, person, f)
        if surface is None:
            continue
        inside = np.isfinite(depth_map(surface.vertices, data.body.faces.numpy(), camera)).astype(np.uint8)
        inside = cv2.resize(255 * inside, size, interpolation=cv2.INTER_LINEAR) // 128
        outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(drawn, outlines, -1, COLOURS[p % len(COLOURS)], 1, cv2.LINE_AA)
    joints: Float[np.ndarray, "people 17 3"] = data.joints[kind][:, f]
    pixels, depth = camera.project(torch.as_tensor(np.nan_to_num(joints), dtype=camera.K.dtype))
    shown = np.where(np.isfinite(joints).all(-1)[..., None], pixels[0].numpy() * scale, np.nan)
    return draw_skeletons(drawn, shown, depth[0].numpy(), thickness=1)


def _plots(data: ViewerData, found: dict[str, Quality]) -> str:
    from matplotlib.figure import Figure

    series = []
    unit = next((quality.errors.unit for quality in found.values() if quality.errors), None)
    if unit is not None:
        series.append((f"error, {unit}", lambda q, p: q.errors.by_frame[p] if q.errors else None))
    series += [
        ("IoU with the masks", lambda q, p: _mean_over_cameras(q.iou) if p == 0 else None),
        ("acceleration, m/s²", lambda q, p: q.jitter[p]),
        ("deepest in another, mm", lambda q, p: q.depth[p] if len(data.people) > 1 else None),
        ("standard deviation, mm", lambda q, p: q.deviation[p]),
    ]
    drawn = [(title, curves) for title, values_of in series if (curves := _curves(data, found, title, values_of))]
    if not drawn:
        return ""
    figure = Figure(figsize=(10, 2.1 * len(drawn)), layout="constrained")
    axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, curves) in zip(axes, drawn, strict=True):
        for values, look in curves:
            known = np.isfinite(values)
            axis.plot(data.frames[known], values[known], linewidth=1.6, **look)
        axis.set_ylabel(title, fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    axes[-1].set_xlabel("frame")
    written = io.StringIO()
    figure.savefig(written, format="svg")
    return written.getvalue()[written.getvalue().index("<svg") :]


def _curves(
    data: ViewerData, found: dict[str, Quality], title: str, values_of: Callable[[Quality, int], np.ndarray | None]
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Values over the frames, and how their line looks, of every person and result that has any."""
    curves = []
    for kind, quality in found.items():
        for p, person in enumerate(data.people):
            values = values_of(quality, p)
            if values is None or not np.isfinite(values).any():
                continue
            look = {
                "color": [channel / 255 for channel in COLOURS[p % len(COLOURS)]],
                "linestyle": "-" if kind == "refined" or len(found) == 1 else ":",
                "label": TITLES[kind] if title.startswith("IoU") else f"{person}, {TITLES[kind]}",
            }
            curves.append((values, look))
    return curves


def _mean_over_cameras(values: Float[np.ndarray, "cameras frames"]) -> Float[np.ndarray, " frames"]:
    """Of the cameras that have a value; NaN in frames that have none."""
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axis=0) / np.where(known.any(axis=0), known.sum(axis=0), np.nan)


def _metrics(metrics: dict[str, dict[str, float | None]]) -> str:
    shown = [key for key in HEADINGS if any(row.get(key) is not None for row in metrics.values())]
    rows = [
        [TITLES.get(name, name), *("-" if row.get(key) is None else f"{row[key]:.1f}" for key in shown)]
        for name, row in metrics.items()
    ]
    return table(["", *(HEADINGS[key] for key in shown)], rows)


def _stages(stages: dict[str, dict[str, Any]]) -> str:
    if not stages:
        return "<p>No record of the stages: the results were brought from elsewhere.</p>"
    rows = [(name, f"{entry['seconds']:.1f}", entry.get("peak_memory_mb", "-")) for name, entry in stages.items()]
    return table(["stage", "seconds", "peak memory, MB"], rows)


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _lines(value: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict):
            lines += [f"{indent}{key}", _lines(entry, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {entry}")
    return "\n".join(lines)
