"""A network sees the pixels that the source of its weights would show it, whatever the shape."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from clip_cases import CLIP, VISION, write_model
from PIL import ExifTags, Image, ImageOps
from torch.nn import functional
from torchvision import models

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher
from sklearn_cbir._network import MultiScale
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.images import Resizing, check_images, resolve_augmentation
from sklearn_cbir.persistence import load, save

PHOTOS = sorted((Path(__file__).parent / "data" / "clothing").glob("*/*"))
MODES = ["cover", "shortest", "squash", "longest"]
FILTERS = ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
SHAPES = {"wide": (8, 5), "tall": (4, 9)}  # photos side by side, and one above the other


def contact_sheet(n_across, n_down):
    """Shipped photos side by side: far more detail than one, of 128 x 171 pixels, has."""
    sheet = Image.new("RGB", (n_across * 128 - 3, n_down * 171 + 2))
    for i in range(n_across * n_down):
        with Image.open(PHOTOS[i % len(PHOTOS)]) as photo:
            sheet.paste(photo, (i % n_across * 128, i // n_across * 171))
    return sheet


@pytest.fixture(scope="module", params=SHAPES)
def photo(request, tmp_path_factory):
    """Path of a PNG, wide or tall, of sides that no size divides."""
    path = tmp_path_factory.mktemp("photos") / f"{request.param}.png"
    contact_sheet(*SHAPES[request.param]).save(path)
    return str(path)


def seen_by(trunk, path):
    """Return what the network behind a trunk is given of a photo, normalized, (3, H, W)."""
    images = check_images([path])
    pixels = images.read([0], trunk.image_size, trunk.resize_size, **vars(trunk.resizing))
    return ((torch.from_numpy(pixels).permute(0, 3, 1, 2) - trunk.mean) / trunk.std)[0]


def levels(trunk, path, transform):
    """Return by how many grey levels each value differs from the source's own transform."""
    with Image.open(path) as image:
        wanted = transform(image.convert("RGB"))
    found = seen_by(trunk, path)
    assert found.shape == wanted.shape
    return (found - wanted).abs() * trunk.std, wanted * trunk.std


def check_equal(trunk, path, transform):
    """Check that 99 of 100 values are within 3 grey levels, and that a shift would show."""
    off, wanted = levels(trunk, path, transform)
    assert (off <= 3.01).double().mean() >= 0.99
    for axis in (1, 2):
        shifted = (wanted.roll(1, axis) - wanted).abs()
        assert (shifted <= 3.01).double().mean() < 0.9


# Sources: timm ----------------------------------------------------------------------------------


def timm_transform(config, **changes):
    data = pytest.importorskip("timm.data")
    reading = data.resolve_data_config(pretrained_cfg=config)
    return data.create_transform(**(reading | changes))


def timm_trunk(changes=None, **options):
    """A tiny network of timm, under a configuration in which some values are changed."""
    pytest.importorskip("timm")
    source = copy.deepcopy(build_backbone("timm/test_vit").spec["source"])
    source["config"] |= changes or {}
    return build_backbone("timm/test_vit", source=source, **options), source["config"]


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "hamming"])
def test_pixels_are_those_of_timms_transform_that_crops_nothing(photo, crop_mode, interpolation):
    trunk, config = timm_trunk({"crop_mode": crop_mode, "interpolation": interpolation})
    check_equal(trunk, photo, timm_transform(config, crop_pct=1.0))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_with_its_own_resize_size_they_are_those_of_timms_whole_transform(photo, crop_mode):
    trunk, config = timm_trunk({"crop_mode": crop_mode, "crop_pct": 0.9}, resize_size="source")
    assert trunk.resize_size == 177  # 160 / 0.9
    check_equal(trunk, photo, timm_transform(config))


def test_a_network_that_timm_squashes_says_so(photo):
    timm = pytest.importorskip("timm")
    name = "tf_efficientnetv2_b3.in21k_ft_in1k"  # the smallest one, squashed to 266, cut to 240
    trunk = build_backbone(f"timm/{name}", image_size=240, resize_size="source")
    assert (trunk.resize_size, trunk.resizing.resize_mode) == (266, "squash")
    check_equal(trunk, photo, timm_transform(timm.get_pretrained_cfg(name).to_dict()))


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_jpeg_that_is_decoded_smaller_is_nearly_as_timm_shows_it(crop_mode, shape, tmp_path):
    path = str(tmp_path / "photo.jpg")
    contact_sheet(*SHAPES[shape]).save(path, quality=90)
    trunk, config = timm_trunk({"crop_mode": crop_mode}, image_size=96)
    off, _ = levels(trunk, path, timm_transform(config, input_size=(3, 96, 96), crop_pct=1.0))
    assert 0 < off.mean() <= 1  # 0 would tell that the file was decoded whole


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_a_jpeg_that_is_decoded_smaller_does_not_move_however_it_is_turned(
    orientation, resize_mode, tmp_path
):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = str(tmp_path / "photo.jpg")
    contact_sheet(8, 5).save(path, quality=95, exif=exif)  # 1021 x 857, decoded as 256 x 215
    with Image.open(path) as image:
        whole = ImageOps.exif_transpose(image)
    how = {"resize_mode": resize_mode, "interpolation": "bicubic"}
    found, wanted = (
        check_images([form]).read([0], 96, 100, **how).astype(int) for form in (path, whole)
    )
    assert 0 < abs(found - wanted).mean() <= 1


# open_clip --------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_open_clips_transform(photo, resize_mode, interpolation):
    open_clip = pytest.importorskip("open_clip")
    transform = open_clip.image_transform(
        160, is_train=False, resize_mode=resize_mode, interpolation=interpolation, fill_color=90
    )
    trunk = build_backbone(
        "small",
        image_size=160,
        resize_mode=resize_mode,
        interpolation=interpolation,
        fill=(90, 90, 90),
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
    )
    check_equal(trunk, photo, transform)


def open_clip_transform(cfg):
    """The transform that open_clip makes of what it says of weights."""
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    return image_transform_v2(PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(), cfg)), False)


@pytest.fixture(scope="module")
def siglip():
    """A published model of 95 M weights, new ones."""
    pytest.importorskip("open_clip")
    return build_backbone("open_clip/ViT-B-32-SigLIP2-256", resize_size="source")


@pytest.mark.slow  # seconds to build it
def test_siglip_is_shown_squashed_photos_as_open_clip_shows_them(siglip, photo):
    open_clip = pytest.importorskip("open_clip")
    assert siglip.resizing == Resizing("squash", "bicubic")
    assert (siglip.image_size, siglip.resize_size) == (256, 256)
    described = open_clip.get_pretrained_cfg("ViT-B-32-SigLIP2-256", "webli")
    check_equal(siglip, photo, open_clip_transform(described | {"size": 256}))


@pytest.mark.parametrize("resize_mode", ["shortest", "squash", "longest"])
def test_a_model_in_a_folder_says_how_its_photos_are_fitted(photo, resize_mode, tmp_path):
    pytest.importorskip("open_clip")
    vision = VISION | {"image_size": 160, "patch_size": 32}
    said = {"resize_mode": resize_mode, "interpolation": "bilinear", "fill_color": 77}
    folder = write_model(tmp_path / "model", CLIP | {"vision_cfg": vision}, **said, size=160)
    trunk = build_backbone(f"open_clip/local-dir:{folder}", resize_size="source")
    assert trunk.resizing == Resizing(resize_mode, "bilinear", (77, 77, 77))
    check_equal(trunk, photo, open_clip_transform(said | {"size": 160}))


# torchvision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "swin_t"])
def test_the_sources_resize_size_gives_torchvisions_own_transform(photo, name):
    recipe = models.get_model_weights(name).DEFAULT.transforms()
    trunk = build_backbone(name, image_size=224, resize_size="source")
    assert trunk.resize_size == recipe.resize_size[0]
    assert trunk.resizing == Resizing("shortest", recipe.interpolation.value)
    check_equal(trunk, photo, recipe)


def test_torchvisions_resize_size_grows_with_the_images():
    assert build_backbone("resnet18", image_size=448, resize_size="source").resize_size == 512


@pytest.mark.parametrize("options", [{}, {"resize_size": 256}])
def test_without_it_torchvisions_weights_see_what_they_always_saw(options):
    trunk = build_backbone("efficientnet_b0", image_size=224, **options)
    assert trunk.resizing == Resizing() == Resizing("cover", "bilinear", (0, 0, 0))


# Images -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("interpolation", FILTERS)
def test_the_same_photo_gives_the_same_pixels_as_path_image_and_array(photo, mode, interpolation):
    with Image.open(photo) as image:
        forms = [photo], [image.copy()], np.asarray(image)[None]
    how = {"resize_mode": mode, "interpolation": interpolation, "fill": (1, 2, 3)}
    first, *others = (check_images(form).read([0], 48, 52, **how) for form in forms)
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_the_padding_of_the_longest_side_has_its_color_and_the_smaller_half_first():
    wide = np.full((1, 4, 9, 1), 200, dtype=np.uint8)  # gray, one row and one column to go around
    pixels = check_images(wide).read([0], 9, resize_mode="longest", fill=(10, 20, 30))[0]
    assert (pixels[[0, 1, 6, 7, 8]] == (10, 20, 30)).all()
    assert (pixels[2:6] == 200).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (1, 1), (30, 30)])
def test_images_of_any_shape_come_out_in_the_size_asked_for(mode, shape):
    image = np.full((1, *shape, 3), 77, dtype=np.uint8)
    for size, resize in ((30, None), (30, 41), ((20, 30), None)):
        pixels = check_images(image).read([0], size, resize, resize_mode=mode, fill=[77] * 3)
        assert (pixels == 77).all()
        assert pixels.shape[1:3] == (size if isinstance(size, tuple) else (size, size))


@pytest.mark.parametrize("mode", MODES)
def test_a_rectangle_is_covered_squashed_or_filled(mode):
    marked = np.zeros((1, 40, 60, 3), dtype=np.uint8)
    marked[:, :, :10] = 255  # the left sixth
    pixels = check_images(marked).read([0], (20, 20), resize_mode=mode, fill=(9, 9, 9))[0]
    share = {"cover": 0, "shortest": 0, "squash": 3, "longest": 3}[mode]
    assert (pixels[10, :, 0] > 200).sum() == share
    assert (pixels[0, 0] == 9).all() == (mode == "longest")


@pytest.mark.parametrize("mode", MODES)
def test_what_is_cached_is_what_is_read(photo, mode):
    how = {"resize_mode": mode, "interpolation": "bicubic", "fill": (255, 0, 0)}
    images = check_images([photo, *map(str, PHOTOS[:2])])
    cached = images.cached(40, 45, **how)
    assert cached.image_shape == (40, 40, 3)
    np.testing.assert_array_equal(cached.read(slice(None)), images.read(slice(None), 40, 45, **how))


@pytest.mark.parametrize("mode", MODES)
def test_images_of_the_right_size_are_left_as_they_are(mode, rng):
    pixels = rng.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    listed = list(pixels)  # each is looked at by itself
    for images in (pixels, listed):
        read = check_images(images).read([0, 1], 24, resize_mode=mode, interpolation="lanczos")
        np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"resize_mode": "crop"}, "resize_mode='crop' is not known. Use one of 'cover', 'shortest"),
        (
            {"interpolation": "cubic"},
            "interpolation='cubic' is not known. Use one of 'nearest'",
        ),
        ({"interpolation": 3}, "interpolation=3 is not known"),
        ({"fill": 0}, "fill=0 must be three integers from 0 to 255: red, green and blue"),
        ({"fill": (0, 0, 256)}, r"fill=\(0, 0, 256\) must be three integers"),
        ({"fill": (0.5, 0, 0)}, "must be three integers"),
        ({"fill": "red"}, "must be three integers"),
    ],
)
def test_ways_that_make_no_sense_are_refused(how, message):
    images = check_images(np.zeros((1, 8, 8), dtype=np.uint8))
    for call in (images.read, lambda _, **how: build_backbone("small", **how)):
        with pytest.raises(ValueError, match=message):
            call([0], **how)


# What depends on it -----------------------------------------------------------------------------


def test_zooming_into_training_images_uses_the_filter_of_the_weights(rng):
    batch = rng.integers(0, 256, (2, 80, 80, 3), dtype=np.uint8)

    def changed(*options):
        return resolve_augmentation("auto", 80, *options)(batch, np.random.default_rng(0))

    np.testing.assert_array_equal(changed(), changed("bilinear"))
    assert (changed("bicubic") != changed("bilinear")).mean() > 0.5
    with pytest.raises(
        ValueError, match="interpolation='cubic' is not known. Use one of 'nearest'"
    ):
        changed("cubic")


def test_several_scales_are_resized_by_the_filter_of_the_weights(rng):
    pixels = torch.from_numpy(rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8))

    class Seen(torch.nn.Module):
        placement = unit_length = memory_format = None
        is_shareable = True

        def embed(self, x):
            return x

    network = Seen()
    for filter_, mode in (("bicubic", "bicubic"), ("bilinear", "bilinear"), ("box", "bilinear")):
        network.trunk = build_backbone("small", interpolation=filter_)
        wanted = functional.interpolate(pixels.float(), [16, 16], mode=mode, antialias=True)
        found = MultiScale(network, (0.5,)).embed(pixels)
        assert torch.equal(found, wanted.clamp(0, 255))


# Estimators -------------------------------------------------------------------------------------


class Mean(torch.nn.Module):
    """The mean color of nine parts of an image: shows what it was given, and trains."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.scale * functional.adaptive_avg_pool2d(images, 3).flatten(1)


def estimators(**options):
    common = {"weights": None, "max_epochs": 1, "random_state": 0, "augment": None, **options}
    return [
        CNNFeatureExtractor("small", loss="softmax", **common),
        DeepHasher(8, backbone="small", loss="dsh", **common),
        CPFEmbedder(16, backbone="small", threshold_fraction=0, **common),
    ]


PATHS = [str(path) for path in PHOTOS[:12]]
Y = np.arange(12) % 3


@pytest.mark.parametrize("number", range(3))
def test_resize_size_shows_an_estimator_the_middle_of_a_larger_image(number):
    estimator = estimators(image_size=32, resize_size=40)[number].fit(PATHS, Y)
    middle = check_images(PATHS).read(slice(None), 32, 40)
    same = estimators(image_size=32)[number].fit(middle, Y)
    np.testing.assert_array_equal(estimator.transform(PATHS), same.transform(middle))
    assert estimator._network_state["reading"] == {
        "size": 32,
        "resize": 40,
        "resize_mode": "cover",
        "interpolation": "bilinear",
        "fill": (0, 0, 0),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize_size": 30, "image_size": 32}, "resize_size=30 is smaller than image_size=32"),
        ({"resize_size": 72}, "resize_size=72 without image_size: backbone='small' takes any size"),
        ({"resize_size": "source", "image_size": 32}, "='source' takes the size from the"),
        ({"resize_size": "sauce"}, "resize_size='sauce' must be a number of pixels, or 'source'"),
        ({"resize_size": 0}, "resize_size=0 must be an integer of at least 1"),
        ({"resize_size": 40.0}, "resize_size=40.0 must be an integer"),
    ],
)
@pytest.mark.parametrize("number", range(3))
def test_sizes_that_cannot_be_cut_out_are_refused_before_anything_is_read(number, options, message):
    with pytest.raises(ValueError, match=message):
        estimators(**options)[number].fit(PATHS, Y)


def test_a_module_of_ones_own_has_no_source():
    with pytest.raises(ValueError, match="backbone=Mean has none"):
        build_backbone(Mean(), image_size=8, resize_size="source")


@pytest.fixture(scope="module")
def squashed():
    """An extractor whose network is shown squashed images, bicubic, and photos."""
    pytest.importorskip("timm")
    options = {"weights": None, "max_epochs": 1, "augment": None, "random_state": 0}
    return CNNFeatureExtractor(
        "timm/test_efficientnet", image_size=96, resize_size="source", **options
    ).fit(PATHS, Y)


def test_the_way_of_resizing_is_saved(squashed, tmp_path):
    save(squashed, tmp_path / "extractor.cbir")
    again = load(tmp_path / "extractor.cbir")
    assert again._network_state["reading"] == squashed._network_state["reading"]
    assert again._network_state["reading"]["interpolation"] == "bicubic"
    np.testing.assert_array_equal(again.transform(PATHS), squashed.transform(PATHS))


def test_files_of_earlier_versions_cover_bilinearly():
    extractor = estimators(image_size=32)[0].fit(PATHS, Y)
    wanted = extractor.transform(PATHS)
    old = copy.deepcopy(extractor)
    old._network = None
    for part in (old._network_state["reading"], old._network_state["spec"]["trunk"]):
        for name in ("resize_mode", "interpolation", "fill"):
            del part[name]
    np.testing.assert_array_equal(old.transform(PATHS), wanted)
    old.set_params(warm_start=True).fit(PATHS, Y)
    extractor.set_params(warm_start=True).fit(PATHS, Y)
    np.testing.assert_array_equal(old.transform(PATHS), extractor.transform(PATHS))


def test_a_training_that_goes_on_must_read_images_in_the_same_way(squashed):
    goes_on = copy.deepcopy(squashed).set_params(warm_start=True)
    goes_on.fit(PATHS, Y)
    with pytest.raises(ValueError, match="resize_size differs: 101 then, 96 now"):
        goes_on.set_params(resize_size=None).fit(PATHS, Y)
    goes_on.set_params(resize_size="source")
    goes_on._network_state["reading"]["interpolation"] = "lanczos"
    with pytest.raises(ValueError, match="interpolation of the backbone differs: lanczos then, b"):
        goes_on.fit(PATHS, Y)


def test_another_resize_size_goes_on_from_no_checkpoint_of_the_first(tmp_path):
    options = {"image_size": 32, "checkpoint_dir": tmp_path}
    for resize_size in (None, 40):
        estimators(resize_size=resize_size, **options)[0].fit(PATHS, Y)
    assert len(list(tmp_path.iterdir())) == 2
