"""Plots of the check's page as SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Float

COLOURS = ("#e08a00", "#0095c8", "#d23a80", "#4a9e2a", "#8a5ad6", "#a09000", "#c0392b", "#16a085")
_AXIS, _TEXT, _FAINT = "#888", "#333", "#ccc"


def svg(width: int, height: int, parts: Sequence[str]) -> str:
    """A drawing of that size in pixels."""
    style = 'font-family="sans-serif" font-size="11"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" {style}>{"".join(parts)}</svg>'


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = _TEXT) -> str:
    """Words at a place, escaped."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def line(x0: float, y0: float, x1: float, y1: float, colour: str = _AXIS, width: float = 1, more: str = "") -> str:
    """A straight line."""
    ends = f'x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}" {more}/>'


def polyline(
    points: Float[np.ndarray, "n 2"], colour: str, width: float = 1.5, fill: str = "none", more: str = ""
) -> str:
    """A line through points; those that are not finite break it."""
    parts, run = [], []
    for x, y in [*points, (np.nan, np.nan)]:
        if np.isfinite(x) and np.isfinite(y):
            run.append(f"{x:.1f},{y:.1f}")
        elif run:
            parts.append(
                f'<polyline points="{" ".join(run)}" fill="{fill}" stroke="{colour}" stroke-width="{width}" {more}/>'
            )
            run = []
    return "".join(parts)


def curve_plot(
    title: str, shifts: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], best: float, note: str, sure: bool
) -> str:
    """Disagreement against the shift in time, with its lowest point marked where it is sure."""
    width, height, left, right, top, bottom = 250, 130, 14, 10, 34, 24
    parts = [text(left, 14, title), text(left, 28, note, colour="#666")]
    known = np.isfinite(values)
    if known.sum() < 2:
        return svg(width, height, [*parts, text(width / 2, height / 2 + 10, "nothing to compare", "middle", _AXIS)])
    low, high = float(values[known].min()), float(values[known].max())
    span = max(high - low, 1e-6)

    def x(s: float) -> float:
        return left + (s - shifts[0]) / (shifts[-1] - shifts[0]) * (width - left - right)

    def y(v: np.ndarray) -> np.ndarray:
        return height - bottom - (v - low) / span * (height - top - bottom)

    parts.append(line(left, height - bottom, width - right, height - bottom))
    parts.append(line(x(0), top, x(0), height - bottom, _FAINT))
    for s in (shifts[0], 0, shifts[-1]):
        parts.append(text(x(s), height - 8, f"{s:+.0f}" if s else "0", "middle"))
    parts.append(polyline(np.stack((x(shifts), y(values)), -1), COLOURS[1]))
    if sure and np.isfinite(best):
        mark = float(np.interp(best, shifts[known], y(values[known])))
        parts.append(line(x(best), top, x(best), height - bottom, COLOURS[0], 1, 'stroke-dasharray="3 3"'))
        parts.append(f'<circle cx="{x(best):.1f}" cy="{mark:.1f}" r="3.5" fill="{COLOURS[0]}"/>')
    return svg(width, height, parts)


def residual_plot(
    title: str,
    note: str,
    at: Float[np.ndarray, "n 2"],
    error: Float[np.ndarray, "n 2"],
    size: tuple[int, int],
    gain: float,
) -> str:
    """Where in the image detections are off and where to, enlarged `gain` times; thick from the middle: the mean."""
    scale = 170 / max(size)
    width, height = size[0] * scale, size[1] * scale
    parts = [text(4, 12, title), text(4, 25, note, colour="#666"), '<g transform="translate(4,32)">']
    parts.append(f'<rect width="{width:.1f}" height="{height:.1f}" fill="#f7f7f7" stroke="{_FAINT}"/>')
    chosen = np.random.default_rng(0).permutation(len(at))[:160]
    for (x, y), (dx, dy) in zip(at[chosen] * scale, error[chosen] * scale * gain, strict=True):
        parts.append(line(x, y, x + dx, y + dy, COLOURS[1], 0.6, 'stroke-opacity="0.6"'))
    if len(at):
        mean = np.median(error, axis=0) * scale * gain
        parts.append(line(width / 2, height / 2, width / 2 + mean[0], height / 2 + mean[1], COLOURS[6], 2.5))
        parts.append(f'<circle cx="{width / 2:.1f}" cy="{height / 2:.1f}" r="2.5" fill="{COLOURS[6]}"/>')
    parts.append("</g>")
    return svg(max(190, round(width) + 10), round(height) + 38, parts)


def floor_plan(
    names: Sequence[str],
    centres: Float[np.ndarray, "cameras 2"],
    looks: Float[np.ndarray, "cameras 2"],
    angles: Float[np.ndarray, " cameras"],
    paths: Sequence[Float[np.ndarray, "frames 2"]],
    bad: Sequence[int],
) -> str:
    """Cameras with their fields of view and people's ways, seen from above; metres.

    Args:
        looks: horizontal part of where each camera looks, at most 1 long.
        angles: half of the horizontal field of view, radians.
    """
    size, margin = 380, 34
    every = np.concatenate([centres, *[p[np.isfinite(p).all(-1)] for p in paths]])
    low, high = every.min(0), every.max(0)
    scale = (size - 2 * margin) / max(float((high - low).max()), 1e-3)
    middle = (low + high) / 2

    def place(points: np.ndarray) -> np.ndarray:
        moved = (np.asarray(points) - middle) * scale
        return np.stack((size / 2 + moved[..., 0], size / 2 - moved[..., 1]), -1)

    parts = [f'<rect width="{size}" height="{size}" fill="#fafafa" stroke="{_FAINT}"/>']
    reach = 0.35 * float((high - low).max())
    for c, centre in enumerate(centres):
        direction = np.arctan2(looks[c, 1], looks[c, 0])
        fan = direction + np.linspace(-angles[c], angles[c], 9)
        edge = centre + reach * np.stack((np.cos(fan), np.sin(fan)), -1)
        colour = COLOURS[6] if c in bad else COLOURS[1]
        points = place(np.vstack([centre, edge, centre]))
        parts.append(polyline(points, colour, 0.5, colour, 'fill-opacity="0.06"'))
    for p, path in enumerate(paths):
        parts.append(polyline(place(path), COLOURS[(p * 2) % len(COLOURS)], 2))
        known = path[np.isfinite(path).all(-1)]
        if len(known):
            parts.append(text(*(place(known[-1]) + np.array((4, -4))), f"p{p}", colour=COLOURS[(p * 2) % len(COLOURS)]))
    for c, at in enumerate(place(centres)):
        colour = COLOURS[6] if c in bad else _TEXT
        parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4" fill="{colour}"/>')
        parts.append(text(at[0], at[1] - 7, names[c], "middle", colour))
    metre = scale * (1 if (high - low).max() < 12 else 5)
    parts.append(line(10, size - 12, 10 + metre, size - 12, _TEXT, 2))
    parts.append(text(14 + metre, size - 8, f"{metre / scale:.0f} m"))
    return svg(size, size, parts)
