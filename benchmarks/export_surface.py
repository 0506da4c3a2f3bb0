"""How exported surfaces compare with the footage: outlines with the masks, vertex colours with the images.

    python benchmarks/export_surface.py my_sequence

Each surface (body, avatar, volume) is exported as PLY, read back, ray-cast from every camera in a few frames, and
compared where the masks know: intersection over union of the outline of all people together, and PSNR of the colours
inside both.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import trimesh
from rich.console import Console
from rich.table import Table

from avatarpose.sequence import BACKGROUND, FOREGROUND, Sequence
from viewer.export.exporter import ExportSettings, export_people


def cast(sequence: Sequence, c: int, meshes: list[trimesh.Trimesh]) -> tuple[np.ndarray, np.ndarray]:
    """What camera c sees of meshes in the world: (H, W) whether anything, (H, W, 3) its vertex colours, 0 to 255."""
    camera = sequence.cameras.select([sequence.cameras.names[c]])
    height, width = int(camera.height[0]), int(camera.width[0])
    rows, columns = np.mgrid[:height, :width]
    pixels = torch.from_numpy(np.stack([columns, rows], axis=-1).reshape(1, -1, 2) + 0.5)
    origins, directions = (x[0].numpy() for x in camera.rays(pixels))
    whole = trimesh.util.concatenate(meshes)
    origins = np.broadcast_to(origins, directions.shape)
    face, ray, places = whole.ray.intersects_id(origins, directions, multiple_hits=False, return_locations=True)
    share = trimesh.triangles.points_to_barycentric(whole.triangles[face], places)
    colours = whole.visual.vertex_colors[whole.faces[face], :3].astype(float)
    seen, picture = np.zeros(height * width, bool), np.zeros((height * width, 3))
    seen[ray], picture[ray] = True, (share[..., None] * colours).sum(axis=1)
    return seen.reshape(height, width), picture.reshape(height, width, 3)


def compare(sequence: Sequence, surface: str, frames: list[int]) -> tuple[float, float]:
    """Mean intersection over union, and PSNR in dB, over all cameras and the frames of these indices."""
    union, common, squares = 0, 0, []
    for f in frames:
        number = int(sequence.frames[f])
        with tempfile.TemporaryDirectory() as folder:
            settings = ExportSettings(
                "ply", Path(folder), surface=surface, frames=str(number), up=sequence.up, unit="m"
            )  # fmt: skip
            files = export_people(sequence.folder, settings).files
            meshes = [trimesh.load(path, process=False) for path in files]
        for c in range(len(sequence.cameras)):
            seen, picture = cast(sequence, c, meshes)
            mask = sequence.mask(c, f)
            known, there = np.isin(mask, (BACKGROUND, FOREGROUND)), mask == FOREGROUND
            union += int(((seen | there) & known).sum())
            common += int((seen & there & known).sum())
            inside = seen & there & known
            squares.append(((picture - sequence.image(c, f))[inside] ** 2).reshape(-1))
    return common / union, float(10 * np.log10(255**2 / np.concatenate(squares).mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequence", type=Path)
    parser.add_argument("--count", type=int, default=3, help="frames, evenly spread")
    options = parser.parse_args()
    sequence = Sequence.open(options.sequence)
    frames = sorted({int(f) for f in np.linspace(0, len(sequence.frames) - 1, options.count + 2).round()[1:-1]})
    table = Table("surface", "outline, IoU", "colours, PSNR dB")
    for surface in ("body", "avatar", "volume"):
        overlap, psnr = compare(sequence, surface, frames)
        table.add_row(surface, f"{overlap:.4f}", f"{psnr:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
