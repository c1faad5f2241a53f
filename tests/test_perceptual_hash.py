"""Perceptual hash: bits by the formula of the DCT; copies are near, turned ones by their forms."""

import io
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import PerceptualHash
from sklearn_cbir.images import ImageReadError
from sklearn_cbir.testing import check_image_estimator

CHECKS = [
    (f"{name}-{'color' * color or 'gray'}", check)
    for color in (False, True)
    for name, check in check_image_estimator(PerceptualHash(color), generate_only=True)
]
PHOTOS = sorted(Path(__file__).parent.glob("data/clothing/*/*.jpg"))
N_BITS = 152
RADIUS = PerceptualHash().near_duplicates[1]


def _bits_by_the_formula(gray, highest=16):
    """Bits of one image (32, 32), term by term."""
    mean = sum(map(sum, gray)) / 32**2
    hann = [math.sin(math.pi * (x + 0.5) / 32) ** 2 for x in range(32)]
    bits = []
    for u, v in itertools.product(range(highest + 1), repeat=2):
        if not 0 < u + v <= highest:
            continue
        total = 0
        for i, j in itertools.product(range(32), repeat=2):
            down = math.cos(math.pi * u * (2 * i + 1) / 64) * hann[i]
            across = math.cos(math.pi * v * (2 * j + 1) / 64) * hann[j]
            total += (gray[i][j] - mean) * down * across
        scale = math.sqrt((1 if u == 0 else 2) / 32) * math.sqrt((1 if v == 0 else 2) / 32)
        bits.append(int(total * scale > 0.5))
    return bits


def _distances(codes, others):
    return (codes[:, None] != others[None]).sum(axis=2)


def _code(image):
    return PerceptualHash().transform([image])[0]


@pytest.fixture(scope="module")
def photos():
    return [Image.open(path).convert("RGB") for path in PHOTOS[::4]]


@pytest.mark.parametrize("check", [check for _, check in CHECKS], ids=[name for name, _ in CHECKS])
def test_image_check(check):
    check()


def test_bits_are_those_of_the_formula(rng, photos):
    noise = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    small = np.asarray(photos[0].convert("L").resize((32, 32)))
    codes = PerceptualHash().transform(np.stack([noise, small]))
    assert codes.dtype == np.uint8
    for code, gray in zip(codes, (noise, small)):
        assert code.tolist() == _bits_by_the_formula(gray.tolist())


def test_bits_of_color_are_those_of_blue_and_red_less_gray(photos):
    small = np.asarray(photos[1].resize((32, 32)))
    red, _, blue = np.moveaxis(small.astype(float), 2, 0)
    gray = small @ np.array([0.299, 0.587, 0.114])
    expected = _bits_by_the_formula(gray.tolist())
    for difference in (blue - gray, red - gray):
        expected += _bits_by_the_formula(difference.tolist(), highest=8)
    code = PerceptualHash(color=True).transform([small])[0]
    assert len(code) == 240
    # The weights of gray are rounded to 32 bits, which may move what is nearly 0.5.
    assert (code != expected).sum() <= 1
    assert np.array_equal(code[:N_BITS], _code(small))


def test_one_picture_in_two_colors_is_the_same_only_without_color(photos):
    pixels = np.asarray(photos[2]).astype(float)
    gray = pixels @ np.array([0.299, 0.587, 0.114])
    swapped = gray[..., None] + (pixels - gray[..., None])[..., [2, 1, 0]]
    gray_of_swapped = swapped @ np.array([0.299, 0.587, 0.114])
    swapped += (gray - gray_of_swapped)[..., None]
    pair = np.stack([pixels, np.rint(np.clip(swapped, 0, 255))]).astype(np.uint8)
    for color, is_same in ((False, True), (True, False)):
        descriptor = PerceptualHash(color=color)
        one, other = descriptor.transform(pair)
        assert ((one != other).sum() <= descriptor.near_duplicates[1]) == is_same


def test_a_wave_has_the_bit_of_its_frequency_and_those_that_the_window_makes():
    # Hann's window is (1 - cos(2 pi x)) / 2 and cos(2 pi x) is two half waves: a wave of v half
    # waves across has 1/2 of itself, and -1/4 at v - 2 and at v + 2; a constant 1/2 and -1/4 at 2.
    across = np.cos(np.pi * 5 * (np.arange(32) + 0.5) / 32)
    gray = np.rint(128 + 100 * across[None, :].repeat(32, axis=0)).astype(np.uint8)
    bits = dict(zip(_frequencies(), _code(gray)))
    positive, negative = [(0, 5), (2, 3), (2, 7)], [(0, 3), (0, 7), (2, 5)]
    # All others are nothing, and say the mean color.
    others = dict(zip(_frequencies(), _code(np.full((32, 32), 128, dtype=np.uint8))))
    assert bits == others | dict.fromkeys(positive, 1) | dict.fromkeys(negative, 0)


def _frequencies():
    return [(u, v) for u, v in itertools.product(range(17), repeat=2) if 0 < u + v <= 16]


def test_bits_are_named_in_order():
    names = PerceptualHash().get_feature_names_out()
    assert [names[0], names[-1], len(names)] == ["perceptualhash0", "perceptualhash151", N_BITS]


def _turned(pixels):
    """The eight forms of an image, turned to the left, and mirrored left to right before."""
    return [
        np.rot90(image, quarters).copy()
        for image in (pixels, pixels[:, ::-1])
        for quarters in range(4)
    ]


@pytest.mark.parametrize("color", [False, True], ids=["gray", "color"])
def test_forms_are_the_codes_of_the_turned_and_mirrored_images(rng, color):
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    descriptor = PerceptualHash(color, turned=True)
    forms = descriptor.transform_forms(images)
    assert forms.shape == (3, 8, 240 if color else N_BITS)
    assert forms.dtype == np.uint8
    for image, of_image in zip(images, forms):
        expected = descriptor.transform(_turned(image))
        # A coefficient that is all but 0 is 0, and has no sign that a negative could turn.
        has_sign = expected | descriptor.transform(_turned(255 - image)) > 0
        assert has_sign.mean() > 0.95
        assert np.array_equal(of_image[has_sign], expected[has_sign])
        assert len(np.unique(of_image, axis=0)) == 8


def test_photos_that_are_turned_and_mirrored_are_found_by_their_forms(photos):
    forms = PerceptualHash(turned=True).transform_forms(photos)
    for photo, of_photo in zip(photos, forms):
        codes = PerceptualHash().transform(_turned(np.asarray(photo)))
        assert (codes != of_photo).sum(axis=1).max() <= RADIUS / 3
        assert _distances(codes[1:], codes[:1]).min() > RADIUS


def test_it_does_not_matter_which_of_two_is_turned(photos):
    forms = PerceptualHash(turned=True).transform_forms(photos[:4])
    for a, b in itertools.combinations(forms, 2):
        assert sorted(_distances(a, b[:1])[:, 0]) == sorted(_distances(b, a[:1])[:, 0])


def test_without_the_option_a_photo_has_one_form(photos):
    forms = PerceptualHash().transform_forms(photos)
    assert forms.shape == (len(photos), 1, N_BITS)
    assert np.array_equal(forms[:, 0], PerceptualHash(turned=True).transform(photos))


def _encoded(photo, **how):
    file = io.BytesIO()
    photo.save(file, **how)
    return file.getvalue()


@pytest.mark.parametrize("color", [False, True], ids=["codes of gray", "of color"])
@pytest.mark.parametrize(
    "change",
    [
        lambda photo: _encoded(photo, format="JPEG", quality=25),
        lambda photo: photo.resize([side // 3 for side in photo.size]),
        lambda photo: photo.resize([side * 2 for side in photo.size]),
        lambda photo: ImageEnhance.Brightness(photo).enhance(1.3),
        lambda photo: photo.crop([round(side * 0.04) for side in (*photo.size, 0, 0)][:2]
                                 + [round(side * 0.96) for side in photo.size]),
    ],
    ids=["JPEG", "smaller", "larger", "brighter", "cropped"],
)  # fmt: skip
def test_copies_are_nearer_than_other_photos(photos, change, color):
    descriptor = PerceptualHash(color)
    radius = descriptor.near_duplicates[1]
    codes = descriptor.transform(photos)
    copies = descriptor.transform([change(photo) for photo in photos])
    distances = _distances(copies, codes)
    assert (distances.argmin(axis=1) == np.arange(len(photos))).all()
    assert distances.diagonal().max() <= radius
    assert distances[~np.eye(len(photos), dtype=bool)].min() > radius


def test_a_gray_copy_is_the_same_only_without_color(photos):
    gray = [photo.convert("L") for photo in photos]
    distances = (PerceptualHash().transform(photos) != PerceptualHash().transform(gray)).sum(axis=1)
    assert distances.max() <= 2
    in_color = PerceptualHash(color=True)
    distances = (in_color.transform(photos) != in_color.transform(gray)).sum(axis=1)
    assert (distances > in_color.near_duplicates[1]).mean() > 0.5


def test_a_photo_that_exif_turns_has_the_code_of_the_upright_one(photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photos[0].transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(_code(str(tmp_path / "turned.png")), _code(photos[0]))


def _flat(*colors):
    return np.array(colors, dtype=np.uint8)[:, None, None] * np.ones((1, 40, 60, 1), dtype=np.uint8)


def test_flat_photos_are_the_same_only_in_like_colors():
    colors = list(itertools.product((0, 128, 255), repeat=3))
    codes = PerceptualHash().transform(_flat(*colors))
    distances = _distances(codes, codes)
    assert distances[~np.eye(len(colors), dtype=bool)].min() > RADIUS
    near = np.clip(np.add(colors, [1, -1, 2]), 0, 255)
    assert _distances(PerceptualHash().transform(_flat(*near)), codes).diagonal().max() <= RADIUS


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("contrast", [1, 5, 20])
def test_nearly_flat_photos_are_the_same_only_in_like_colors(contrast, color):
    shade = np.linspace(-contrast, contrast, 90).round()
    colors = np.array([[200, 40, 40], [40, 40, 200], [30, 30, 30], [225, 225, 225]])
    skies = (colors[:, None, None] + shade[:, None, None] * [1, 1, 1]).astype(np.uint8)
    skies = np.broadcast_to(skies, (4, 90, 90, 3))
    codes = PerceptualHash(color=color).transform(skies)
    radius = PerceptualHash(color=color).near_duplicates[1]
    assert _distances(codes, codes)[np.triu_indices(4, 1)].min() > radius
    smaller = PerceptualHash(color=color).transform(skies[:, ::2, ::2])
    assert _distances(codes, smaller).diagonal().max() <= radius


def test_flat_photos_are_like_no_others(photos):
    flat = PerceptualHash().transform(_flat([255] * 3, [0] * 3, [119, 119, 119]))
    assert _distances(flat, PerceptualHash().transform(photos)).min() > RADIUS


def test_rounding_makes_no_bits(rng):
    # What is symmetric has no odd waves, nor have copies of it that are rounded otherwise.
    half = rng.integers(60, 190, (32, 16))
    gray = np.concatenate([half, half[:, ::-1]], axis=1)
    noisy = gray + rng.integers(0, 2, gray.shape)
    one, other = PerceptualHash().transform(np.stack([gray, noisy]).astype(np.uint8))
    odd = np.array([v % 2 == 1 for _, v in _frequencies()])
    assert not one[odd].any()
    assert not other[odd].any()
    assert (one != other).sum() <= 2


def test_a_code_does_not_depend_on_the_batch(rng):
    images = rng.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)  # three batches
    codes = PerceptualHash().transform(images)
    assert np.array_equal(PerceptualHash().transform(images[::-1])[::-1], codes)
    assert np.array_equal(PerceptualHash().transform(images[5:9]), codes[5:9])


def test_every_photo_that_cannot_be_read_is_named(photos, tmp_path):
    paths = [str(path) for path in PHOTOS[:5]]
    for row in (1, 3):
        paths[row] = str(tmp_path / f"{row}.jpg")
        Path(paths[row]).write_bytes(PHOTOS[row].read_bytes()[:900])
    for function in (PerceptualHash().transform, PerceptualHash(turned=True).transform_forms):
        with pytest.raises(ImageReadError, match=r"X\[1\].*1\.jpg") as raised:
            function(paths)
        assert [fault.index for fault in raised.value.faults] == [1, 3]


@pytest.mark.parametrize("value", [1, "yes", None])
@pytest.mark.parametrize("option", ["color", "turned"])
def test_a_bad_option_is_named(option, value):
    images, _ = make_shapes(3, random_state=0)
    for function in ("fit", "transform", "transform_forms"):
        with pytest.raises(ValueError, match=rf"{option}=.* must be True or False"):
            getattr(PerceptualHash(**{option: value}), function)(images)


def test_feature_rows_are_refused():
    with pytest.raises(ValueError, match="Images are arrays"):
        PerceptualHash().transform(np.zeros((4, 7)))
