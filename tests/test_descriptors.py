"""GIST: waves land in their filter and their cell; images of any kind give the same rows."""

import warnings

import numpy as np
import pytest

from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.descriptors._gist import (
    cell_averages,
    even_contrast,
    gabor_gains,
    gist,
    low_pass_gains,
    stretched,
)
from sklearn_cbir.metrics import mean_average_precision
from sklearn_cbir.testing import check_image_estimator

CHECKS = check_image_estimator(GISTDescriptor(), generate_only=True)
SIZE = 64


def _wave(frequency, angle, size=SIZE):
    """Gray waves of `frequency` cycles per px that run in the direction `angle`."""
    x, y = np.meshgrid(np.arange(size), np.arange(size))
    phase = 2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle))
    return (127 + 60 * np.sin(phase)).astype(np.float32)


def _by_filter(gray):
    """Features of one gray image, (scale, orientation, row, column)."""
    return gist(gray[None]).reshape(4, 8, 4, 4)


@pytest.mark.parametrize("check", [check for _, check in CHECKS], ids=[name for name, _ in CHECKS])
def test_image_check(check):
    check()


def test_at_least_13_image_checks_run():
    assert len(CHECKS) >= 13


@pytest.mark.parametrize("scale", range(4))
@pytest.mark.parametrize("orientation", [0, 3, 4, 6])
def test_strongest_filter_is_the_one_of_the_wave(scale, orientation):
    features = _by_filter(_wave(0.3 / 1.85**scale, np.pi * orientation / 8))
    strongest = np.unravel_index(features.mean(axis=(2, 3)).argmax(), (4, 8))
    assert strongest == (scale, orientation)


def test_edges_count_where_they_are():
    gray = np.full((SIZE, SIZE), 127, dtype=np.float32)
    gray[:16, 48:] = _wave(0.3, 0)[:16, 48:]  # the cell of row 0 and column 3
    by_cell = _by_filter(gray)[0, 0]
    assert np.unravel_index(by_cell.argmax(), (4, 4)) == (0, 3)
    assert by_cell[3, 0] < by_cell[0, 3] / 10


def test_features_equal_direct_convolution(rng):
    size = 16
    gray = rng.uniform(0, 255, (size, size)).astype(np.float32)
    margin = size // 4
    padded = even_contrast(np.pad(gray, margin, mode="symmetric")[None])[0].astype(np.float64)
    side = len(padded)
    features = gist(gray[None]).reshape(32, 4, 4)
    for index in (0, 13, 31):
        kernel = np.fft.ifft2(gabor_gains(side)[index])
        expected = np.zeros((4, 4))
        for row in range(size):
            for column in range(size):
                total = 0
                for i in range(side):  # circular: the kernel turned around this pixel
                    shifts = (column + margin - np.arange(side)) % side
                    total += padded[i] @ kernel[(row + margin - i) % side, shifts]
                expected[row // 4, column // 4] += abs(total) / 16
        np.testing.assert_allclose(features[index], expected, rtol=1e-3, atol=1e-5)


def test_low_pass_passes_half_at_four_cycles_per_image():
    assert low_pass_gains(32)[0, 4] == pytest.approx(0.5)
    assert low_pass_gains(32)[0, 0] == 1


def test_cells_of_any_size_share_all_pixels():
    for size in (16, 30, 33):
        averages = cell_averages(size)
        np.testing.assert_allclose(averages.sum(axis=1), 1, rtol=1e-6)
        assert ((averages > 0).sum(axis=0) == 1).all()


def test_a_uniform_image_has_no_edges():
    features = GISTDescriptor().transform(np.full((2, 40, 40), 200, dtype=np.uint8))
    assert features.shape == (2, 512)
    np.testing.assert_allclose(features, 0, atol=1e-4)


def test_features_barely_change_with_contrast():
    gray = _wave(0.15, 0.4)
    dim = 60 + gray / 4
    one, other = gist(np.stack([gray, dim]))
    assert np.corrcoef(one, other)[0, 1] > 0.98


def test_stretched_gray_values_are_means_of_colors_from_0_to_255():
    pixels = np.array([[[[10, 20, 60], [60, 60, 60]], [[40, 45, 50], [30, 30, 30]]]], np.uint8)
    # Means 30, 60, 45 and 30.
    np.testing.assert_allclose(stretched(pixels), [[[0, 255], [127.5, 0]]])
    assert (stretched(np.full((1, 2, 2, 3), 9, np.uint8)) == 0).all()
    images, _ = make_shapes(6, random_state=0)
    size = images.shape[1]
    expected = []
    for image in images.astype(np.float64):
        gray = image.mean(axis=2)
        expected.append(255 * (gray - gray.min()) / (gray.max() - gray.min()))
    expected = gist(np.array(expected, dtype=np.float32))
    found = GISTDescriptor(size, stretch=True).transform(images)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - GISTDescriptor(size).transform(images)).max() > 0.01
    with pytest.raises(ValueError, match="stretch='yes' must be True or False"):
        GISTDescriptor(stretch="yes").fit(images)


def test_features_tell_shapes_apart():
    images, y = make_shapes(120, random_state=0)
    X = GISTDescriptor().fit_transform(images)
    distances = np.linalg.norm(X[:40, None] - X[None, 40:], axis=2)
    shuffled = np.random.default_rng(0).permutation(y[40:])
    chance = mean_average_precision(y[:40], shuffled, distances)
    assert mean_average_precision(y[:40], y[40:], distances) > chance + 0.05


def test_transform_needs_no_fit_and_names_its_columns():
    images, _ = make_shapes(3, random_state=0)
    descriptor = GISTDescriptor(image_size=24)
    assert descriptor.transform(images).shape == (3, 512)
    assert len(descriptor.get_feature_names_out()) == 512


@pytest.mark.parametrize("image_size", [8, 32.0, None])
def test_a_bad_size_is_named(image_size):
    images, _ = make_shapes(3, random_state=0)
    with pytest.raises(ValueError, match="image_size="):
        GISTDescriptor(image_size).fit(images)


def test_feature_rows_are_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="Images are arrays"):
            GISTDescriptor().fit(np.zeros((4, 7)))
