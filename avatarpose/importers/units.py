"""How long a unit of a calibration is, and which way is up: by the source's definition, and by what is plausible."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import pdist

from avatarpose.cameras import Cameras
from avatarpose.errors import InputError
from avatarpose.importers.agreement import BodyEvidence
from avatarpose.importers.calibration import Calibration

UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
"""Metres per unit, by the names that `--unit` takes."""


RIG = (0.15, 80.0)
"""Metres between the farthest two cameras of a rig around people."""
HEIGHTS = (0.8, 2.4)
"""Metres of a person's height, children included."""
_USUAL_RIG = 6.0  # metres; the hint prefers what comes near
_LEAST_BODIES = 5
_CLEAR = 0.7  # cosine between a mean direction and its axis


def parse_unit(text: str) -> float | None:
    """Metres per unit of `--unit`: auto (None), m, cm, mm, or a number.

    Raises:
        InputError: none of these.
    """
    if text == "auto":
        return None
    if text in UNITS:
        return UNITS[text]
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (np.isfinite(value) and value > 0):
        raise InputError("no such unit", expected="auto, m, cm, mm, or metres per unit", found=repr(text))
    return value


def rig_extent(centres: np.ndarray) -> float:
    """Distance between the farthest two of (C, 3) camera centres; 0 for one."""
    return float(pdist(centres).max()) if len(centres) > 1 else 0.0


def metres_per_unit(
    calibration: Calibration, unit: str, bodies: BodyEvidence | None, say: Callable[[str], None]
) -> float:
    """How many metres a unit of the calibration is.

    Args:
        unit: what the user says: auto, m, cm, mm or a number. Auto takes the source's own definition, and metres where
            it has none.
        bodies: people triangulated in the unit of the file, if any.
        say: gets a warning where the user's unit is implausible.

    Raises:
        InputError: with auto, the rig or its people would have an impossible size.
    """
    asked = parse_unit(unit)
    metres = asked if asked is not None else calibration.metres if calibration.metres is not None else 1.0
    extent = rig_extent(np.stack([camera.centre for camera in calibration.cameras]))
    height = float(np.median(bodies.heights)) if bodies is not None and len(bodies.heights) >= _LEAST_BODIES else None
    if _plausible(extent * metres, RIG) and (height is None or _plausible(height * metres, HEIGHTS)):
        return metres
    found = f"cameras up to {extent * metres:.4g} m apart"
    if height is not None:
        found += f", people {height * metres:.3g} m tall"
    likely = sorted(UNITS, key=lambda name: abs(np.log(max(extent * UNITS[name], 1e-9) / _USUAL_RIG)))
    fitting = [
        name for name, factor in ((name, UNITS[name]) for name in likely)
        if factor != metres and _plausible(extent * factor, RIG)
        and (height is None or _plausible(height * factor, HEIGHTS))
    ]  # fmt: skip
    hint = f"The file's lengths may be in {' or '.join(fitting)}: --unit {fitting[0]}" if fitting else ""
    if not hint and height is not None:
        hint = f"If the scale is arbitrary, --unit {1.7 / height:.4g} makes these people 1.7 m tall"
    if asked is not None:
        say(f"with --unit {unit}: {found}, which is unlikely. {hint}".rstrip())
        return metres
    expected = "cameras {} to {} m apart, people {} to {} m tall".format(*RIG, *HEIGHTS)
    raise InputError(
        "impossible unit of length", file=calibration.path, expected=expected, found=found,
        hint=hint or "Say what a unit of the file is, in metres: --unit METRES",
    )  # fmt: skip


def _plausible(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def up_axis(
    calibration: Calibration, cameras: Cameras, asked: str, bodies: BodyEvidence | None, say: Callable[[str], None]
) -> str:
    """Which axis of the world points up.

    What the user says; else the source's definition, compared with the people and the cameras; else the axis nearest to
    where the people's heads are, or to the upper edges of the cameras' images.

    Raises:
        InputError: nothing says, and neither people nor cameras are clear.
    """
    if asked != "auto":
        return asked
    guesses = []
    if bodies is not None and len(bodies.ups) >= _LEAST_BODIES:
        guesses.append((*_nearest(bodies.ups), "people stand"))
    guesses.append((*_nearest(-cameras.R[:, 1].numpy()), "cameras stand"))
    axis, clear, why = max(guesses, key=lambda guess: guess[1])
    if calibration.up is not None:
        if clear > _CLEAR and axis != calibration.up:
            say(f"{calibration.format} calibrations have {calibration.up} up, but {why} along {axis}: "
                f"if the pictures agree, import with --up={axis}")  # fmt: skip
        return calibration.up
    if clear <= _CLEAR:
        found = ", ".join(f"{why} along {axis} ({clear:.2f})" for axis, clear, why in guesses)
        raise InputError(
            "which way is up is not clear", file=calibration.path, expected="most upright along one axis",
            found=found, hint="Say which axis of the world points up: --up z",
        )  # fmt: skip
    say(f"up is {axis}: {why} along it (cosine {clear:.2f})")
    return axis


def _nearest(vectors: np.ndarray) -> tuple[str, float]:
    """The signed axis nearest to the mean of unit vectors, and the mean's component along it (1: all agree)."""
    mean = vectors.mean(0)
    k = int(np.abs(mean).argmax())
    return ("-" if mean[k] < 0 else "") + "xyz"[k], float(abs(mean[k]))
