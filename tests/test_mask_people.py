"""Whose mask is whose, where masks and bodies were named by different hands."""

from __future__ import annotations

from importlib.resources import as_file, files
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avatarpose.cameras import Cameras
from optimize.mask_people import owners_of_masks

PEOPLE = ["p0", "p1"]


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    with as_file(files("assets") / "embrace") as folder:
        return Cameras.load(folder / "cameras.json")


@pytest.fixture(scope="module")
def keypoints() -> np.ndarray:
    """Two people upright, half a metre apart, in five frames: (2, 5, 17, 3)."""
    rng = np.random.default_rng(3)
    one = np.stack([*(rng.normal(0, 0.08, (2, 17))), np.linspace(0.1, 1.7, 17)], axis=-1)
    both = one + np.array([[[-0.25, 0, 0]], [[0.25, 0, 0]]])
    return np.repeat(both[:, None], 5, axis=1)


def images_with(cameras: Cameras, keypoints: np.ndarray, of: dict[str, int | None]) -> SimpleNamespace:
    """Masks that cover a person's joints, by name; None: a bystander's, a corner of the image."""

    def person_masks(c: int, f: int) -> dict[str, np.ndarray]:
        found = {}
        for name, person in of.items():
            mask = np.zeros((int(cameras.height[c]), int(cameras.width[c])), np.uint8)
            if person is None:
                mask[:20, :20] = 255
            else:
                pixels, _ = cameras.project(torch.as_tensor(keypoints[person, f]).to(cameras.K.dtype))
                for column, row in np.floor(pixels[c].numpy()).astype(int):
                    mask[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = 255
            found[name] = mask
        return found

    return SimpleNamespace(cameras=cameras, sequence=SimpleNamespace(person_masks=person_masks))


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ({"p0": 0, "p1": 1}, {"p0": 0, "p1": 1}),
        ({"p0": 1, "p1": 0}, {"p0": 1, "p1": 0}),
        ({"anna": 1, "bob": 0}, {"anna": 1, "bob": 0}),
        ({"bystander": None, "anna": 1}, {"anna": 1}),
        ({"p1": 0}, {"p1": 0}),
        ({}, {}),
    ],
)
def test_masks_belong_to_the_people_inside(cameras, keypoints, of, expected):
    valid = np.ones((2, 5), bool)
    assert owners_of_masks(images_with(cameras, keypoints, of), PEOPLE, keypoints, valid) == expected


def test_names_decide_between_people_in_one_place(cameras, keypoints):
    together = np.repeat(keypoints[:1], 2, axis=0)
    images = images_with(cameras, together, {"p0": 0, "p1": 1})
    assert owners_of_masks(images, PEOPLE, together, np.ones((2, 5), bool)) == {"p0": 0, "p1": 1}


def test_who_is_absent_counts_for_nothing(cameras, keypoints):
    """A person without a place in a frame has NaN there; the mask of that frame may be anybody's."""
    missing, valid = keypoints.copy(), np.ones((2, 5), bool)
    missing[0, 1:], valid[0, 1:] = np.nan, False
    images = images_with(cameras, keypoints, {"x": 1, "y": 0})
    assert owners_of_masks(images, PEOPLE, missing, valid) == {"x": 1, "y": 0}
