"""MediaPipe on rendered people, whose joints are known, and what it says when it cannot be used."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from avatarpose.detect import DetectConfig, Detector, create_detector, detect_sequence
from avatarpose.detect.mediapipe import MediaPipeDetector, _without_limbs
from avatarpose.errors import InputError
from avatarpose.evaluate import load_truth
from avatarpose.sequence import Sequence
from tests.test_detect import person


@pytest.fixture(scope="module")
def detector() -> MediaPipeDetector:
    pytest.importorskip("mediapipe")
    return create_detector(DetectConfig(detector="mediapipe", threads=2))


def truth_of(sequence: Sequence, c: int, f: int) -> np.ndarray:
    truth = load_truth(sequence.folder)
    points = torch.as_tensor(truth.keypoints[:, f], dtype=sequence.cameras.K.dtype)
    return sequence.cameras[[c]].project(points)[0][0].numpy()


def errors(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Median distance of limb joints, pixels, of each person to the nearest detection."""
    far = np.linalg.norm(truth[:, None, 5:] - found[None, :, 5:, :2], axis=-1)
    return np.nanmedian(far, axis=-1).min(-1)


def test_two_dancers_apart_and_in_contact(detector: MediaPipeDetector, data_folder: Path) -> None:
    assert isinstance(detector, Detector)
    sequence = Sequence.open(data_folder / "duo_a")
    for c, f in ((2, 6), (3, 9), (6, 17)):
        mask = sequence.mask(c, f) > 0
        rows, columns = np.nonzero(mask)
        region = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], float)
        found = detector.detect([sequence.image(c, f)], [region])[0]
        assert len(found) == 2
        assert (errors(found, truth_of(sequence, c, f)) < 15).all()


def test_batches_and_regions_do_not_mix(detector: MediaPipeDetector, data_folder: Path) -> None:
    sequence = Sequence.open(data_folder / "duo_a")
    images = [sequence.image(2, f) for f in (0, 6, 12)] + [np.full((100, 80, 3), 90, np.uint8)]
    together = detector.detect(images)
    alone = [detector.detect([image])[0] for image in images]
    assert len(together[-1]) == 0 and all(len(people) for people in together[:-1])
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a, b)
    # One person's region holds that person alone.
    truth = truth_of(sequence, 2, 6)[0]
    left, top = truth.min(0) - 5
    right, bottom = truth.max(0) + 5
    found = detector.detect([images[1]], [np.array([[left, top, right, bottom]])])[0]
    assert errors(found, truth[None])[0] < 15


def test_small_people_are_found_in_their_regions(detector: MediaPipeDetector, data_folder: Path) -> None:
    """Two dancers, 120 pixels high, in the corner of a large picture."""
    sequence = Sequence.open(data_folder / "duo_a")
    picture = np.full((1100, 1900, 3), 120, np.uint8)
    picture[40:424, 60:572] = sequence.image(2, 6)
    truth = truth_of(sequence, 2, 6) + np.array([60, 40])
    region = np.array([[*truth.min((0, 1)), *truth.max((0, 1))]])
    assert (errors(detector.detect([picture], [region])[0], truth) < 15).all()


def test_stage_drops_shadows_that_no_mask_knows(data_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    folder = tmp_path / "duo"
    left_out = shutil.ignore_patterns("keypoints2d", "results")
    shutil.copytree(data_folder / "duo_a", folder, ignore=left_out, copy_function=shutil.copyfile)
    sequence = Sequence.open(folder, cameras=["cam00", "cam03"], frames=slice(0, 20, 10))
    report = detect_sequence(sequence, DetectConfig())
    assert report.detector.startswith("mediapipe 0.") and report.images == {"cam00": 2, "cam03": 2}
    for c, f in np.ndindex(2, 2):
        rows = sequence.keypoints2d[c, f]
        truth = truth_of(sequence, c, 10 * f)
        there = rows[np.isfinite(rows).all(-1).any(-1)]
        assert 1 <= len(there) <= 2
        for row in there:
            assert errors(row[None], truth).min() < 20


def test_a_limb_is_no_person() -> None:
    whole, limb, child = person(200, 100, 3.0), person(220, 200, 0.8), person(500, 200, 0.8)
    kept = _without_limbs([whole, limb, child])
    assert len(kept) == 2 and kept[0] is whole and kept[1] is child
    assert _without_limbs([]) == []


def test_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(InputError, match=r"cannot be imported.*pip install --no-deps mediapipe==0\.10\.21"):
        create_detector(DetectConfig())


def test_says_that_later_versions_carry_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later:
        __version__ = "0.10.99"

    monkeypatch.setitem(sys.modules, "mediapipe", Later())
    with pytest.raises(InputError, match=r"no pose model.*0\.10\.21.*0\.10\.99"):
        create_detector(DetectConfig())
