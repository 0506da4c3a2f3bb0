"""Pieces of pages that open without a network: tables, and pictures inside the text."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape

import cv2
import numpy as np
from jaxtyping import UInt8


def table(header: Iterable[object], rows: Iterable[Iterable[object]], kind: str = "") -> str:
    """A table of texts, which are escaped, of a CSS class where one is given; the first column names the rows."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    named = f' class="{escape(kind)}"' if kind else ""
    return f"<table{named}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def jpeg_source(image: UInt8[np.ndarray, "height width 3"]) -> str:
    """An RGB image as JPEG in a data address, for the `src` of an <img>."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    if not done:
        raise ValueError("OpenCV could not encode the picture")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def picture(image: UInt8[np.ndarray, "height width 3"], title: str) -> str:
    """An RGB image inside the page, as JPEG, with its title below."""
    name = escape(title)
    return f'<figure><img src="{jpeg_source(image)}" alt="{name}"><figcaption>{name}</figcaption></figure>'
