"""A contact sheet of the viewer: `python -m benchmarks.viewer_sheet SEQUENCE --out docs/viewer.jpg`.

Pictures as `avatarpose view SEQUENCE --headless` draws them, two a row; prints the seconds that each took.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from avatarpose.io import write_image
from viewer.main import headless_picture, open_session
from viewer.options import ViewOptions

WIDTH, HEIGHT, QUALITY = 720, 460, 82
VIEWS: dict[str, dict] = {
    "bodies, truth, trails": {"show": "refined,truth", "trails": True},
    "through a camera": {"camera": "cam03", "opacity": 0.6, "skeletons": True},
    "initial, refined, truth: distance from the truth": {
        "show": "initial,refined,truth", "side_by_side": True, "colour": "difference",
    },
    "the avatars' colours on the bodies": {"colour": "avatar"},
    "the avatars rendered": {"rendered": True},
    "the avatars rendered in an image": {"rendered": True, "camera": "cam01"},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequence", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/viewer.jpg"))
    arguments = parser.parse_args()
    pictures = []
    for title, options in VIEWS.items():
        chosen = ViewOptions(headless=True, device="cpu", **options)
        session = open_session(arguments.sequence, chosen)
        start = time.perf_counter()
        pictures.append(headless_picture(session, WIDTH, HEIGHT, chosen.rendered))
        print(f"{title}: {time.perf_counter() - start:.2f} s")
    rows = [np.hstack(pictures[i : i + 2]) for i in range(0, len(pictures), 2)]
    write_image(arguments.out, np.vstack(rows), quality=QUALITY)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
