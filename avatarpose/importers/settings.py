"""What an import depends on, and how its options are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avatarpose.errors import InputError


@dataclass(frozen=True)
class ImportSettings:
    """Where everything is and what is known beforehand; `avatarpose import --help` says what each is."""

    source: Path
    sequence: Path
    calibration: Path | None = None
    calibration_format: str = "auto"
    footage: Path | None = None
    media: str = "link"
    map: tuple[str, ...] = ()
    cameras: str = ""
    size: str = ""
    fps: float | None = None
    frames: str = ""
    offset: tuple[str, ...] = ()
    rate: tuple[str, ...] = ()
    crop: tuple[str, ...] = ()
    unit: str = "auto"
    up: str = "auto"
    people: int | None = None
    keypoints: Path | None = None
    keypoints_format: str = "auto"
    masks: Path | None = None
    fits: Path | None = None
    fits_format: str = "auto"
    body: Path | None = None
    add: bool = False
    format: str = "auto"
    split: str = ""


def pairs(words: Sequence[str], option: str, example: str) -> dict[str, str]:
    """`a=b c=d`, also with commas between where the values have none, as a dictionary.

    Raises:
        InputError: not of this form, or a name twice.
    """
    found: dict[str, str] = {}
    for word in words:
        parts = re.split(r",(?=[^=,]+=)", word)
        for part in parts:
            name, sign, value = part.partition("=")
            if not (name and sign and value):
                raise InputError(f"cannot read {option}", expected=example, found=repr(word))
            if name in found:
                raise InputError(f"{option} names {name} twice", expected=example, found=repr(word))
            found[name] = value
    return found


def number_pairs(words: Sequence[str], option: str, example: str, above: float = -np.inf) -> dict[str, float]:
    """As `pairs`, with finite numbers for values, greater than `above`. Raises InputError otherwise."""
    found = {}
    for name, text in pairs(words, option, example).items():
        try:
            value = float(text)
        except ValueError:
            value = np.nan
        if not (np.isfinite(value) and value > above):
            raise InputError(f"cannot read {option}", camera=name, expected=example, found=repr(text))
        found[name] = value
    return found


def corner_pairs(words: Sequence[str], option: str = "--crop") -> dict[str, tuple[int, int]]:
    """`cam01=8,0` as {"cam01": (8, 0)}. Raises InputError otherwise."""
    found = {}
    for name, text in pairs(words, option, "cam01=left,top").items():
        if not re.fullmatch(r"\d+,\d+", text):
            raise InputError(f"cannot read {option}", camera=name, expected="cam01=left,top", found=repr(text))
        left, top = text.split(",")
        found[name] = (int(left), int(top))
    return found


def parse_size(text: str) -> tuple[int, int] | None:
    """`1920x1080` as (1920, 1080); None for nothing. Raises InputError otherwise."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or "0" in match.groups():
        raise InputError("cannot read --size", expected="1920x1080", found=repr(text))
    return int(match[1]), int(match[2])


def check_cameras(known: Sequence[str], **options: dict[str, object]) -> None:
    """Raises InputError where an option names a camera that is not there."""
    for option, values in options.items():
        for name in values:
            if name not in known:
                raise InputError(f"--{option} of an unknown camera", camera=name, expected=", ".join(known))
