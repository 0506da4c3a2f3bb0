"""Which masks the segmentation wrote itself, so that masks from elsewhere stay as they are: results/segment.json."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from avatarpose.io import read_json, sha256, write_bytes, write_json

FLUSH_EVERY = 24  # masks


class MaskRecord:
    """The record, and the only way masks are written.

    A mask's SHA-256 is recorded before the mask is written: a process killed in between leaves a record of a file that
    is not there, which does no harm, and never a file of its own that it does not know. A mask that was changed since
    by other hands is no longer its own.

    Args:
        folder: the sequence's folder.
        results: its results.

    Raises:
        InputError: results/segment.json is damaged.
    """

    def __init__(self, folder: Path, results: Path) -> None:
        self.folder, self.path = folder, results / "segment.json"
        self.data: dict[str, Any] = read_json(self.path) if self.path.is_file() else {}
        # The last hash, and while a mask is being rewritten the one before.
        self.files: dict[str, list[str]] = {name: list(kept) for name, kept in self.data.get("files", {}).items()}
        self.refined: dict[str, str] = dict(self.data.get("refined", {}))
        self._pending: dict[Path, bytes] = {}

    def is_own(self, path: Path) -> bool:
        """Whether the file is there and is as this record wrote it."""
        known = self.files.get(self._name(path))
        return known is not None and path.is_file() and sha256(path) in known

    def may_write(self, path: Path, redo: bool) -> bool:
        """Whether the mask is missing, or is to be made anew and is one of this record's."""
        if path in self._pending:
            return False
        return not path.exists() or (redo and self.is_own(path))

    def write(self, path: Path, mask: UInt8[np.ndarray, "height width"], bodies: str | None = None) -> None:
        """Notes the mask, to be written by the next `flush`; `bodies` names the bodies it was refined with."""
        done, data = cv2.imencode(".png", mask)
        if not done:
            raise ValueError(f"{path}: OpenCV could not encode the mask")
        name = self._name(path)
        self._pending[path] = data.tobytes()
        fresh = hashlib.sha256(self._pending[path]).hexdigest()
        self.files[name] = [fresh] + ([sha256(path)] if self.is_own(path) else [])
        self.refined.pop(name, None)
        if bodies is not None:
            self.refined[name] = bodies
        if len(self._pending) >= FLUSH_EVERY:
            self.flush()

    def remove(self, path: Path) -> None:
        """Deletes one of this record's own masks."""
        if self.is_own(path):
            path.unlink()
        self.files.pop(self._name(path), None)

    def flush(self, **also: Any) -> None:
        """Writes the record, then the masks; `also` are further entries of the record."""
        self.data |= {**also, "files": self.files, "refined": self.refined}
        write_json(self.path, self.data)
        for path, data in self._pending.items():
            write_bytes(path, data)
        self._pending.clear()

    def refined_with(self, path: Path) -> str | None:
        """The bodies this mask was refined with, if any."""
        return self.refined.get(self._name(path))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
