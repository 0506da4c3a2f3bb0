"""MediaPipe's selfie segmentation on rendered people."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from avatarpose.segment import SegmentConfig, available_segmenters, segment_sequence
from avatarpose.sequence import Sequence

pytest.importorskip("mediapipe")


def test_the_rendered_couple_is_found(data_folder: Path, tmp_path: Path) -> None:
    source = data_folder / "duo_a"
    folder = tmp_path / "couple"
    for name in ("images", "keypoints2d"):
        copytree(source / name, folder / name)
    for name in ("cameras.json", "sequence.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    assert available_segmenters()["mediapipe"].startswith("ready")
    chosen = {"cameras": ["cam00", "cam05"], "frames": slice(0, 20, 8)}
    report = segment_sequence(Sequence.open(folder, **chosen), SegmentConfig("mediapipe"))
    assert report.method == "mediapipe" and all(camera.made == 3 for camera in report.cameras.values())
    sequence, given = Sequence.open(folder, **chosen), Sequence.open(source, **chosen)
    overlaps = []
    for c in range(2):
        for f in range(3):
            mask, reference = sequence.mask(c, f), given.mask(c, f)
            assert set(np.unique(mask)) <= {0, 128, 255} and (mask == 128).any()
            known = (mask != 128) & (reference != 128)
            both, either = (mask == 255) & (reference == 255), (mask == 255) | (reference == 255)
            overlaps.append(both[known].sum() / either[known].sum())
    assert np.mean(overlaps) > 0.88, overlaps


def test_only_what_is_near_joints_counts_and_images_without_people_are_empty(data_folder: Path, tmp_path: Path) -> None:
    source, folder = data_folder / "duo_a", tmp_path / "couple"
    copytree(source / "images" / "cam00", folder / "images" / "cam00")
    for name in ("cameras.json", "sequence.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    from avatarpose.io import write_npz

    with np.load(source / "keypoints2d" / "cam00.npz") as file:
        rows = file["keypoints"].copy()
    rows[1] = np.nan
    write_npz(folder / "keypoints2d" / "cam00.npz", keypoints=rows)
    sequence = Sequence.open(folder, ["cam00"], frames=slice(0, 2), least_cameras=1)
    report = segment_sequence(sequence, SegmentConfig("mediapipe"))
    assert report.cameras["cam00"].empty == 1 and not sequence.mask(0, 1).any()
    points = rows[0, ..., :2].reshape(-1, 2)
    points = points[np.isfinite(points).all(-1)]
    y, x = np.nonzero(sequence.mask(0, 0))
    away = np.linalg.norm(np.stack([x, y], -1)[:, None] - points[None], axis=-1).min(1)
    assert away.max() < 70
