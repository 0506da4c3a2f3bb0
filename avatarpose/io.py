"""Files: written whole or not at all, and read with errors that name the file.

Every writer writes to a hidden temporary file in the same folder and renames it over the target, so a process killed at
any moment leaves either the old file or the new one, never half of either. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from avatarpose.errors import InputError

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG", b"IEND"


def write_bytes(path: Path | str, data: bytes) -> None:
    """Writes `data` to `path` atomically, making the folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Opened by hand rather than through tempfile, which would leave the file readable by its owner only.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_npz(path: Path | str, **arrays: Any) -> None:
    """Writes named arrays to a compressed .npz atomically.

    Raises:
        ValueError: an array holds Python objects, which could only be pickled.
    """
    converted = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in converted.items():
        if array.dtype.hasobject:
            raise ValueError(f"{path}: array {name!r} holds Python objects; only plain arrays are written")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **converted)
    write_bytes(path, buffer.getvalue())


def read_npz(path: Path | str, keys: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Reads arrays of an .npz file (all of them, or those in `keys`).

    Raises:
        InputError: the file is absent, damaged, holds pickled objects, or lacks one of `keys`.
    """
    path = Path(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise InputError("not an archive of arrays", file=path, expected=".npz", found="a single array")
        with archive:
            wanted = list(archive.files if keys is None else keys)
            absent = [key for key in wanted if key not in archive.files]
            if absent:
                raise InputError(
                    f"lacks {', '.join(absent)}", file=path, expected=", ".join(wanted), found=", ".join(archive.files)
                )
            return {key: archive[key] for key in wanted}
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError("damaged, or not an .npz of plain arrays", file=path, found=error) from error


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as indented JSON atomically; NumPy scalars and arrays and paths are converted."""
    write_bytes(path, (json.dumps(value, indent=1, default=_plain) + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def read_json(path: Path | str, keys: Iterable[str] = ()) -> dict[str, Any]:
    """Reads a JSON object that has at least `keys`.

    Raises:
        InputError: the file is absent, is not JSON (with line and column), is not an object, or lacks a key.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"malformed JSON at {place}", file=path, found=error.msg) from error
    except UnicodeDecodeError as error:
        raise InputError("not text", file=path, expected="UTF-8", found=error.reason) from error
    except OSError as error:
        raise InputError("cannot be read", file=path, found=error.strerror) from error
    if not isinstance(value, Mapping):
        raise InputError("not a JSON object", file=path, expected="{...}", found=type(value).__name__)
    absent = [key for key in keys if key not in value]
    if absent:
        raise InputError(
            f"lacks {', '.join(absent)}", file=path, expected=", ".join(keys), found=", ".join(value) or "nothing"
        )
    return dict(value)


def write_image(path: Path | str, image: np.ndarray, quality: int = 95) -> None:
    """Writes an image atomically; the suffix of `path` says the format.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, uint8.
        quality: JPEG quality, 0 to 100.
    """
    path = Path(path)
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(f"{path}: expected uint8 (H, W) or (H, W, 3), found {image.dtype} {image.shape}")
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix.lower() in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(path.suffix, bgr, flags)
    if not done:
        raise ValueError(f"{path}: OpenCV could not encode the image as {path.suffix}")
    write_bytes(path, data.tobytes())


def read_image(path: Path | str, grey: bool = False) -> np.ndarray:
    """Reads a whole image: (H, W, 3) RGB, or (H, W) if `grey`, uint8.

    OpenCV fills the missing part of a truncated JPEG with grey and reports nothing, so the end marker is looked for.

    Raises:
        InputError: the file is absent, truncated, or not an image OpenCV can read.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such image", file=path) from None
    except OSError as error:
        raise InputError("cannot be read", file=path, found=error.strerror) from error
    if _is_truncated(data):
        raise InputError("truncated image", file=path, expected="the end marker", found=f"{len(data)} bytes without it")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise InputError("damaged, or not an image", file=path, expected="JPEG or PNG", found=f"{len(data)} bytes")
    return image if grey else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _is_truncated(data: bytes) -> bool:
    if data.startswith(_JPEG_START):
        # 0xFF inside a scan is always followed by 0x00 or a restart marker, so neither marker can occur by accident,
        # and an embedded thumbnail lies before the main image's scan.
        return data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN) or _JPEG_SCAN not in data
    if data.startswith(_PNG_START):
        return _PNG_END not in data[-16:]
    return not data


def sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
