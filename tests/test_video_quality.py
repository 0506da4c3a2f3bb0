"""The figures of the free-viewpoint benchmark against their definitions."""

import numpy as np
import pytest

from avatarpose.errors import InputError
from benchmarks.free_viewpoint import compared, psnr, ssim


def test_psnr_of_a_known_error() -> None:
    a = np.full((20, 30, 3), 0.5)
    assert psnr(a, a + 0.1) == pytest.approx(20.0)
    half = a.copy()
    half[:10] += 0.1  # half of the pixels: twice less squared error, 3.01 dB more
    assert psnr(a, half) == pytest.approx(20.0 + 10 * np.log10(2))


def test_ssim_is_the_formula_of_the_paper() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.uniform(size=(2, 11, 11, 1))
    offsets = np.arange(-5, 6)
    window = np.exp(-0.5 * (offsets[:, None] ** 2 + offsets**2) / 1.5**2)
    window = (window / window.sum())[..., None]

    # The middle pixel by hand: its window is the whole picture.
    def mean(x):
        return float((window * x).sum())

    ma, mb = mean(a), mean(b)
    va, vb, vab = mean((a - ma) ** 2), mean((b - mb) ** 2), mean((a - ma) * (b - mb))
    expected = (2 * ma * mb + 1e-4) * (2 * vab + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4))
    large = [np.pad(x, ((60, 60), (60, 60), (0, 0)), mode="wrap") for x in (a, b)]
    assert ssim(a, a) == pytest.approx(1.0)
    # Over a periodic picture the mean is that over all shifts of the window; check it shift by shift.
    every = []
    for shift in np.ndindex(11, 11):
        a_, b_ = (np.roll(x, shift, axis=(0, 1)) for x in (a, b))
        ma, mb = mean(a_), mean(b_)
        va, vb, vab = mean((a_ - ma) ** 2), mean((b_ - mb) ** 2), mean((a_ - ma) * (b_ - mb))
        every.append((2 * ma * mb + 1e-4) * (2 * vab + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    assert expected == pytest.approx(every[0])
    assert ssim(*large) == pytest.approx(np.mean(every), abs=0.01)


def test_pictures_are_compared_inside_the_masks_box() -> None:
    mask = np.zeros((100, 80), np.uint8)
    mask[20:70, 30:50] = 255
    mask[20:70, 50:52] = 128
    truth, rendered = np.full((100, 80, 3), 0.3, np.float32), np.full((100, 80, 3), 0.6, np.float32)
    ours, theirs = compared(rendered, truth, mask)
    # 10 % of 50 rows and of 20 columns on every side.
    assert ours.shape == theirs.shape == (60, 24, 3)
    assert (ours == np.float32(0.6)).all()
    np.testing.assert_allclose(theirs[5:55, 2:22], 0.3)  # the person
    np.testing.assert_allclose(theirs[5:55, 22:24], 0.6)  # unknown: as rendered, no error
    np.testing.assert_allclose(theirs[:5], 1.0)  # background: white
    with pytest.raises(InputError, match="nobody in the mask"):
        compared(rendered, truth, np.zeros_like(mask))
