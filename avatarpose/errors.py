"""The one error a user of the application is meant to read."""

from __future__ import annotations

from pathlib import Path


class InputError(Exception):
    """Something given to the application cannot be used as it is.

    The message names the file (and the camera and frame where there is one), what was expected and what was found. The
    command line prints the message alone, without a traceback, and ends with exit code 2.

    Args:
        problem: what is wrong, in one sentence without the final full stop.
        file: the file or folder concerned.
        camera: name of the camera concerned.
        frame: number of the frame concerned.
        expected: what would have been accepted.
        found: what was there instead.
        hint: what the user can do about it.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: Path | str | None = None,
        camera: str | None = None,
        frame: int | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        self.problem, self.file, self.camera, self.frame = problem, file, camera, frame
        self.expected, self.found, self.hint = expected, found, hint
        place = [str(file)] if file is not None else []
        place += [f"camera {camera}"] if camera is not None else []
        place += [f"frame {frame}"] if frame is not None else []
        message = (", ".join(place) + ": " if place else "") + problem
        details = [f"expected {expected}"] if expected is not None else []
        details += [f"found {found}"] if found is not None else []
        if details:
            message += " (" + ", ".join(details) + ")"
        if hint is not None:
            message += f". {hint}"
        super().__init__(message)
