"""Pieces of the check's page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from jaxtyping import UInt8


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts; the first column names the rows."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def picture(image: UInt8[np.ndarray, "height width 3"], title: str) -> str:
    """An RGB image inside the page, as JPEG, with its title below."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    if not done:
        raise ValueError("OpenCV could not encode the picture")
    source = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
    return f'<figure><img src="{source}" alt="{escape(title)}"><figcaption>{escape(title)}</figcaption></figure>'
