"""CNNFeatureExtractor: what it gives for every kind of network and loss."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import pairwise_distances

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.persistence import load, save

# The four networks of the squared-hinge paper with the widths it names, and two later families.
WIDTHS = {
    "resnet18": (512, 64),
    "mobilenet_v2": (1280, 64),
    "vgg19": (4096, 64),
    "inception_v3": (2048, 96),
    "vit_b_16": (768, 32),
    "convnext_tiny": (768, 64),
}


@pytest.mark.filterwarnings("ignore:8 of 8 training images get the same vector")
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18"])
def test_networks_of_torchvision_train_and_transform(name):
    check_trains(name)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:8 of 8 training images get the same vector")
@pytest.mark.parametrize("name", sorted(set(WIDTHS) - {"mobilenet_v2", "resnet18"}))
def test_large_networks_of_torchvision_train_and_transform(name):
    check_trains(name)


def check_trains(name):
    width, size = WIDTHS[name]
    images, y = make_shapes(8, n_classes=2, random_state=0)
    extractor = CNNFeatureExtractor(
        name, weights=None, image_size=size, max_epochs=1, batch_size=4, random_state=0
    ).fit(images, y)
    features = extractor.transform(images)
    assert features.shape == (8, width)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)


def test_a_state_dict_gives_the_features_of_its_network(tmp_path):
    torch.manual_seed(0)
    trunk = build_backbone("mobilenet_v2", image_size=64).eval()
    torch.save(trunk.features.state_dict(), tmp_path / "weights.pt")
    images, _ = make_shapes(6, image_size=64, random_state=0)
    extractor = CNNFeatureExtractor(
        "mobilenet_v2",
        weights=tmp_path / "weights.pt",
        loss=None,
        image_size=64,
        normalize=False,
    ).fit(images)
    with torch.inference_mode():
        expected = trunk(extractor_input(extractor, images)).numpy()
    assert np.allclose(extractor.transform(images), expected, atol=1e-4)


def extractor_input(extractor, images):
    """The pixels that reach the network."""
    from sklearn_cbir.images import check_images

    reading = extractor._network_state["reading"]
    batch = check_images(images).read(
        np.arange(len(images)), reading["size"], resize=reading["resize"]
    )
    return torch.from_numpy(batch).permute(0, 3, 1, 2)


def test_without_a_loss_rows_pass_with_unit_length(rng):
    X = rng.normal(size=(10, 4))
    rows = CNNFeatureExtractor(loss=None).fit_transform(X)
    assert np.allclose(rows, X / np.linalg.norm(X, axis=1, keepdims=True), atol=1e-6)


def test_random_features_are_announced():
    images, _ = make_shapes(4, random_state=0)
    with pytest.warns(UserWarning, match="the network is random"):
        CNNFeatureExtractor("small", weights=None, loss=None).fit(images)


def test_components_without_a_loss_are_refused():
    images, _ = make_shapes(4, random_state=0)
    with pytest.raises(ValueError, match="n_components=8 with loss=None"):
        CNNFeatureExtractor("small", weights=None, loss=None, n_components=8).fit(images)


@pytest.mark.parametrize("loss", ["softmax", "squared_hinge"])
def test_training_brings_images_of_a_class_together(loss):
    images, y = make_shapes(160, n_classes=4, random_state=0)
    parameters = {"weights": None, "loss": loss, "batch_size": 16, "random_state": 0}
    extractor = CNNFeatureExtractor("small", max_epochs=8, lr=3e-3, **parameters)
    rows = extractor.fit(images[:120], y[:120]).transform(images)
    search = NeighborsRetriever().fit(rows[:120], y[:120])
    pixels = images.reshape(len(images), -1).astype(np.float32)
    by_pixels = NeighborsRetriever().fit(pixels[:120], y[:120])
    assert search.score(rows[120:], y[120:]) > by_pixels.score(pixels[120:], y[120:]) + 0.2
    assert pairwise_distances(rows).max() <= 2 + 1e-5


@pytest.mark.parametrize(
    ("params", "culprit"),
    [
        ({"max_epochs": 0}, "max_epochs=0"),
        ({"batch_size": 1}, "batch_size=1"),
        ({"lr": 0}, "lr=0"),
        ({"lr": "fast"}, "lr='fast'"),
        ({"schedule": "step"}, "schedule='step'"),
        ({"optimizer": "adamx"}, "optimizer='adamx'.*Did you mean 'adam"),
        ({"backbone": "resnet81"}, "backbone='resnet81'.*nearest names are 'resnet"),
        ({"pooling": "mean"}, "pooling='mean'"),
        ({"augment": "strong"}, "augment='strong'"),
        ({"device": "tpu9"}, "device='tpu9'"),
        ({"sampling": "random"}, "sampling='random'"),
        ({"n_per_class": 1, "sampling": "balanced"}, "n_per_class=1"),
        ({"validation_fraction": 2.0}, "validation_fraction=2.0"),
        ({"image_size": 0}, "image_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
    ],
)
def test_a_bad_parameter_is_named(params, culprit):
    images, y = make_shapes(12, n_classes=2, random_state=0)
    extractor = CNNFeatureExtractor("small", weights=None, max_epochs=1).set_params(**params)
    with pytest.raises(ValueError, match=culprit):
        extractor.fit(images, y)


# Several scales.


@pytest.fixture(scope="module")
def photos():
    return make_shapes(40, random_state=0)


def small(**params):
    return CNNFeatureExtractor(
        "small", **{"weights": None, "max_epochs": 1, "random_state": 0} | params
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_vectors_of_resized_images_are_averaged(photos, normalize):
    extractor = small(normalize=normalize, scales=(1, 0.5, 1.5)).fit(*photos)
    expected = []
    for image in photos[0][:6]:
        vectors = []
        for side in (32, 16, 48):
            resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None]
            with torch.inference_mode():
                vector = extractor._network.vectors(pixels)[0].numpy()
            vectors.append(vector / np.linalg.norm(vector) if normalize else vector)
        mean = np.mean(vectors, axis=0)
        expected.append(mean / np.linalg.norm(mean) if normalize else mean)
    # PIL rounds the resized pixels.
    assert np.allclose(extractor.transform(photos[0][:6]), expected, rtol=0.02, atol=0.005)


def test_scales_change_the_transform_and_not_the_training(photos, tmp_path):
    images, y = photos
    one = small().fit(images, y)
    three = small(scales=(1, 2**-0.5, 0.5)).fit(images, y)
    vectors = three.transform(images)
    assert vectors.shape == (40, 256)
    assert vectors.dtype == np.float32
    assert not np.allclose(vectors, one.transform(images), atol=1e-3)
    assert np.array_equal(three.set_params(scales=[1]).transform(images), one.transform(images))
    three.set_params(scales=(1, 2**-0.5, 0.5))
    assert np.array_equal(pickle.loads(pickle.dumps(three)).transform(images), vectors)
    save(three, tmp_path / "three.cbir")
    assert np.array_equal(load(tmp_path / "three.cbir").transform(images), vectors)


def test_scales_are_refused_for_rows_and_for_networks_of_one_size(rng):
    X = rng.normal(size=(12, 4))
    for loss in (None, "softmax"):
        extractor = CNNFeatureExtractor(loss=loss, scales=(1, 0.5), max_epochs=1)
        with pytest.raises(ValueError, match="resizes images, and X holds 2-D feature rows"):
            extractor.fit(X, np.arange(12) % 3)
    images, y = make_shapes(8, n_classes=2, image_size=32, random_state=0)
    trunk = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 8))
    extractor = CNNFeatureExtractor(trunk, image_size=32, max_epochs=1, batch_size=4)
    extractor.fit(images, y)
    with pytest.raises(ValueError, match="cannot take images of 32 x 32 pixels at scale 0.5"):
        extractor.set_params(scales=(1, 0.5)).transform(images)
    with pytest.raises(ValueError, match="cannot take images of 32 x 32 pixels at scale 0.5"):
        extractor.fit(images, y)


def test_other_scales_go_on_from_the_same_checkpoint(photos, tmp_path):
    one = small(checkpoint_dir=tmp_path).fit(*photos)
    two = small(checkpoint_dir=tmp_path, scales=(1, 0.5)).fit(*photos)
    assert len(list(tmp_path.iterdir())) == 1
    assert np.array_equal(
        two.set_params(scales=(1,)).transform(photos[0]), one.transform(photos[0])
    )


@pytest.mark.slow
def test_scales_are_refused_by_a_vision_transformer():
    images, y = make_shapes(8, n_classes=2, image_size=32, random_state=0)
    extractor = CNNFeatureExtractor("vit_b_16", weights=None, image_size=32, scales=(1, 0.5))
    with pytest.raises(ValueError, match="at scale 0.5 .*Use scales"):
        extractor.fit(images, y)


@pytest.mark.parametrize("scales", [(), (0,), (1, "a"), 0.5, (1, float("nan")), None], ids=str)
def test_bad_scales_are_named(photos, scales):
    with pytest.raises(ValueError, match="scales=.* must be a sequence of numbers above 0"):
        small(scales=scales).fit(*photos)
