"""Models of images and text by open_clip: equal to open_clip's own, by name, file and folder."""

import importlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from clip_cases import (
    CLIP,
    CONFIGS,
    TEXT,
    TEXTS,
    VISION,
    write_config,
    write_model,
    write_tokenizer,
)
from PIL import Image

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, Text, persistence
from sklearn_cbir.backbones import _open_clip, build_backbone
from sklearn_cbir.backbones._open_clip import _default_tag
from sklearn_cbir.datasets import make_shapes

open_clip = pytest.importorskip("open_clip")

VIT = "open_clip/tiny-vit"


@pytest.fixture(scope="module", autouse=True)
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        open_clip.add_model_config(write_config(folder, name, config))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Models of open_clip with new weights and the files of these, by name."""
    folder, models = tmp_path_factory.mktemp("models"), {}

    def model_and_file(name):
        if name not in models:
            torch.manual_seed(0)
            models[name] = model = open_clip.create_model(name).eval()
            torch.save(model.state_dict(), folder / f"{name}.pt")
        return models[name], folder / f"{name}.pt"

    return model_and_file


def pixels(size, n=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def rows(trunk, images):
    with torch.no_grad():
        return trunk.eval()(images)


def rows_of(model, images):
    """What open_clip makes of uint8 images."""
    mean, std = (
        torch.tensor(model.visual.preprocess_cfg[key]).reshape(3, 1, 1) for key in ("mean", "std")
    )
    with torch.no_grad():
        return model.encode_image((images / 255 - mean) / std, normalize=False)


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


# Vectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_images_and_texts_become_what_open_clip_makes_of_them(made, name):
    model, file = made(name)
    trunk = build_backbone(f"open_clip/{name}", weights=file, words=True)
    images = pixels(trunk.image_size)
    assert trunk.image_size == CONFIGS[name]["vision_cfg"]["image_size"]
    assert trunk.width == 24
    assert_close(rows(trunk, images), rows_of(model, images))
    texts = TEXTS[:4]
    theirs = model.encode_text(open_clip.get_tokenizer(name)(texts), normalize=False).detach()
    ours = trunk.words.encode(texts)
    assert ours.dtype == torch.float32
    assert_close(ours, theirs)


def test_many_texts_come_in_their_order():
    words = build_backbone(VIT, words=True).words
    texts = [f"{n} dresses" for n in range(70)]
    assert_close(words.encode(texts)[[3, 69]], words.encode([texts[3], texts[69]]))
    assert words.encode([]).shape == (0, 24)


def test_a_long_text_counts_by_its_beginning_with_one_warning_for_all():
    words = build_backbone(VIT, words=True).words
    long = ["red " * 14 + "circle", "blue", "red " * 99]
    with pytest.warns(UserWarning, match="longer than the 16 tokens that the model reads") as told:
        vectors = words.encode(long)
    assert len(told) == 1
    assert_close(vectors[[0, 2]], words.encode(["red " * 14]).expand(2, 24))


def test_half_precision_files_give_single_precision(made):
    model, file = made("tiny-vit")
    half = file.with_name("half.pt")
    torch.save({key: value.half() for key, value in model.state_dict().items()}, half)
    trunk = build_backbone(VIT, weights=half, words=True)
    assert {tensor.dtype for tensor in trunk.state_dict().values()} == {torch.float32}
    np.testing.assert_allclose(
        rows(trunk, pixels(32)), rows_of(model, pixels(32)), atol=0.02 * trunk.width**0.5
    )


def test_text_towers_of_both_layouts_are_read(made):
    """That of tiny-vit lies bare in the model's file, in a module of the other model."""
    model, file = made("tiny-vit")
    folder = file.parent / "custom"
    custom = write_model(folder, CLIP | {"custom_text": True}, model.state_dict())
    bare = build_backbone(VIT, weights=file, words=True)
    ours = build_backbone(f"open_clip/local-dir:{custom}", weights="pretrained", words=True)
    assert torch.equal(ours.words.encode(TEXTS[:2]), bare.words.encode(TEXTS[:2]))


@pytest.mark.parametrize("name", ["tiny-vit", "tiny-timm"])
def test_another_image_size_is_that_of_open_clip(made, name):
    _, file = made(name)
    size = CONFIGS[name]["vision_cfg"]["image_size"] * 3 // 2
    trunk = build_backbone(f"open_clip/{name}", weights=file, image_size=size)
    model = open_clip.create_model(name, str(file), force_image_size=size).eval()
    assert_close(rows(trunk, pixels(size)), rows_of(model, pixels(size)))
    again = build_backbone(**json.loads(json.dumps(trunk.spec)))
    again.load_state_dict(trunk.state_dict())
    assert torch.equal(rows(again, pixels(size)), rows(trunk, pixels(size)))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tiny-vit", (64, 4, 4)),
        ("tiny-coca", (64, 4, 4)),
        ("tiny-resnet", (256, 2, 2)),
        ("tiny-timm", (64, 10, 10)),
        ("tiny-convnext", (64, 5, 5)),
    ],
)
def test_own_pooling_takes_the_patches_before_the_projection(made, name, shape):
    _, file = made(name)
    trunk = build_backbone(f"open_clip/{name}", weights=file, pooling="max", words=True)
    images = pixels(trunk.image_size)
    with torch.no_grad():
        maps = trunk.eval().unpooled(images)
    assert maps.shape[1:] == shape
    assert torch.equal(rows(trunk, images), maps.amax(dim=(2, 3)))
    assert trunk.words is None


def test_patches_are_the_tokens_of_the_last_layer(made):
    model, file = made("tiny-vit")
    images = pixels(32)
    trunk = build_backbone(VIT, weights=file, pooling="avg")
    model.visual.output_tokens = True
    mean, std = trunk.mean, trunk.std
    with torch.no_grad():
        _, tokens = model.visual((images - mean) / std)
    model.visual.output_tokens = False
    assert_close(rows(trunk, images), tokens.mean(dim=1))


# Names, tags and files ---------------------------------------------------------------------------


def test_images_are_read_as_the_weights_of_a_tag_want_them():
    spec = build_backbone("open_clip/PE-Core-T-16-384", weights=None).spec
    assert (spec["mean"], spec["std"]) == ((0.5,) * 3, (0.5,) * 3)
    assert (spec["resize_mode"], spec["interpolation"]) == ("squash", "bilinear")
    assert (spec["image_size"], spec["resize_size"], spec["fill"]) == (384, 384, (0, 0, 0))


@pytest.mark.parametrize(
    ("model", "tag"),
    [
        ("ViT-B-32", "datacomp_xl_s13b_b90k"),
        ("ViT-B-32-quickgelu", "openai"),
        ("ViT-H-14", "laion2b_s32b_b79k"),
        ("ViT-H-14-CLIPA-336", "datacomp1b"),
        ("convnext_xxlarge", "laion2b_s34b_b82k_augreg_soup"),
        ("ViT-B-16-SigLIP2", "webli"),
        ("MobileCLIP-B", "datacompdr_lt"),
    ],
)
def test_pretrained_is_the_best_open_tag(model, tag):
    assert _default_tag(open_clip.list_pretrained_tags_by_model(model)) == tag


@pytest.fixture
def published(made, monkeypatch):
    """Publish weights of tiny-vit; returns what was asked for to get them."""
    asked = []

    def find(*place_and_names, **_):
        asked.append(place_and_names)
        return made("tiny-quickgelu")[1]

    for name in ("file_of", "weights_of", "file_at"):
        monkeypatch.setattr(_open_clip, name, find)
    common = {"mean": (0.5,) * 3, "resize_mode": "squash", "quick_gelu": True}
    tags = {
        "openai": {"hf_hub": "org/name/"},
        "laion2b_e16": {"hf_hub": "org/name/w.bin"},
        "laion2b_old": {"hf_hub": "", "url": "https://files.example/w.pt"},
    }
    tags = {tag: common | described for tag, described in tags.items()}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-vit", tags)
    return asked


@pytest.mark.parametrize(
    ("weights", "tag", "files"),
    [
        ("openai", "openai", ("hf-hub:org/name", VIT)),
        ("LAION2B-e16", "laion2b_e16", ("hf-hub:org/name", "w.safetensors", "w.bin")),
        ("pretrained", "laion2b_old", ("https://files.example/w.pt", VIT)),
        ("imagenet", "laion2b_old", ("https://files.example/w.pt", VIT)),
    ],
)
def test_weights_of_a_tag_come_with_their_preprocessing(made, published, weights, tag, files):
    trunk = build_backbone(VIT, weights=weights)
    assert published == [files]
    assert (trunk.spec["source"]["tag"], trunk.spec["resize_mode"]) == (tag, "squash")
    assert (trunk.spec["mean"], trunk.spec["weights"]) == ((0.5,) * 3, None)
    assert trunk.spec["source"]["config"]["quick_gelu"]  # as the tag says, against the name
    model, images = made("tiny-quickgelu")[0], pixels(32)
    with torch.no_grad():
        theirs = model.encode_image((images - trunk.mean) / trunk.std)
    assert_close(rows(trunk, images), theirs)


def test_the_tokenizer_of_a_registered_model_comes_from_the_hub(tmp_path, monkeypatch):
    folder, asked = write_tokenizer(tmp_path / "tokenizer"), []

    def look_for(place, name, backbone):
        asked.append((place, backbone))
        return folder / name if (folder / name).exists() else None

    monkeypatch.setattr(_open_clip, "look_for", look_for)
    config = CLIP | {"text_cfg": TEXT | {"hf_tokenizer_name": "org/words"}}
    open_clip.add_model_config(write_config(tmp_path, "tiny-hub", config))
    words = build_backbone("open_clip/tiny-hub", words=True).words
    assert set(asked) == {("hf-hub:org/words", "open_clip/tiny-hub")}
    assert words.tokenizer(["a red circle"])[0].tolist() == [[3, 4, 6, 1] + [0] * 12]


def test_a_tag_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="'laion5b' is not a tag of .*'open_clip/RN50'.*'openai'"):
        build_backbone("open_clip/RN50", weights="laion5b")
    with pytest.raises(ValueError, match="'open_clip/tiny-vit'. None are published for it"):
        build_backbone(VIT, weights="pretrained")
    with pytest.raises(FileNotFoundError, match="gone.pt"):
        build_backbone(VIT, weights="gone.pt")


def test_weights_of_another_network_are_counted(made):
    _, file = made("tiny-resnet")
    with pytest.raises(ValueError, match="do not fit backbone='open_clip/tiny-vit': of its .* mi"):
        build_backbone(VIT, weights=file)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'open_clip/tiny-vitt' is not known. .*tiny-vit'"):
        build_backbone("open_clip/tiny-vitt")


def test_a_slash_in_a_name_is_a_dash():
    assert build_backbone("open_clip/tiny/vit").width == 24


def test_images_that_are_not_square_are_refused():
    config = CLIP | {"vision_cfg": VISION | {"image_size": [32, 64]}}
    with pytest.raises(ValueError, match="takes images of 32 x 64 pixels, but only square"):
        build_backbone("open_clip/x", source={"config": config, "preprocessing": {}})


def test_a_folder_is_read_whole(made, tmp_path):
    model, _ = made("tiny-vit")
    folder = write_model(
        tmp_path / "model",
        CLIP | {"text_cfg": TEXT | {"hf_tokenizer_name": "elsewhere/on-the-hub"}},
        model.state_dict(),
        mean=[0.5, 0.4, 0.3],
        interpolation="bilinear",
        resize_mode="longest",
        fill_color=7,
    )
    write_tokenizer(folder)
    trunk = build_backbone(f"open_clip/local-dir:{folder}", weights="pretrained", words=True)
    spec = trunk.spec
    assert (spec["mean"], spec["interpolation"]) == ((0.5, 0.4, 0.3), "bilinear")
    assert (spec["resize_mode"], spec["fill"]) == ("longest", (7, 7, 7))
    ids = torch.tensor([[3, 4, 6, 1] + [0] * 12])  # of tokenizer_of_words
    assert_close(trunk.words.encode(["a red circle"]), model.encode_text(ids).detach())


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_photos_of_any_shape_become_what_open_clip_makes_of_them(made, tmp_path, mode):
    model, _ = made("tiny-vit")
    config = {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.3], "fill_color": 40}
    folder = write_model(tmp_path / "model", CLIP, model.state_dict(), resize_mode=mode, **config)
    name = f"local-dir:{folder}"
    theirs, transform = open_clip.create_model_from_pretrained(name)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels).resize((91, 57), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.png")
    extractor = CNNFeatureExtractor(f"open_clip/{name}", weights="pretrained", loss=None)
    ours = extractor.fit([tmp_path / "photo.png"]).transform([tmp_path / "photo.png"])
    with torch.no_grad():
        row = theirs.eval().encode_image(transform(photo)[None], normalize=True)
    assert float((torch.from_numpy(ours) * row).sum()) > 0.9999


# Without words -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text_config", "why"),
    [
        ({"hf_model_name": "roberta-base"}, "text tower .* is 'roberta-base' of .* transformers"),
        ({"hf_tokenizer_name": "a/b"}, "'a/b' has no tokenizer.json"),
        ({"tokenizer_kwargs": {"language": "en"}}, "unknown options, \\['language'\\]"),
    ],
    ids=["a tower of transformers", "no tokenizer", "options"],
)
def test_images_work_where_words_cannot(made, tmp_path, text_config, why):
    model, _ = made("tiny-vit")
    folder = write_model(tmp_path, CLIP | {"text_cfg": TEXT | text_config}, model.state_dict())
    backbone = f"open_clip/local-dir:{folder}"
    trunk = build_backbone(backbone, weights="pretrained", words=True)
    assert trunk.words is None
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(trunk.wordless)
    assert_close(rows(trunk, pixels(32)), rows_of(model, pixels(32)))


def test_words_are_left_out_unless_they_are_asked_for():
    trunk = build_backbone(VIT)
    assert trunk.words is None
    assert trunk.wordless is None
    assert not any(key.startswith("words") for key in trunk.state_dict())


# What is kept ------------------------------------------------------------------------------------


def test_what_is_saved_needs_no_registry_hub_or_folder(made, tmp_path):
    """Nor does it in another process, which has no configs, no folder and no cache."""
    X, y = make_shapes(6, n_classes=2)
    model, _ = made("tiny-vit")
    folder = write_model(
        tmp_path / "model",
        CLIP | {"text_cfg": TEXT | {"hf_tokenizer_name": "elsewhere/on-the-hub"}},
        model.state_dict(),
    )
    write_tokenizer(folder)
    names = {"registered": "tiny-custom", "folder": f"local-dir:{folder}"}
    weights = {"registered": made("tiny-custom")[1], "folder": "pretrained"}
    fitted = {
        key: CNNFeatureExtractor(f"open_clip/{name}", weights=weights[key], loss=None).fit(X)
        for key, name in names.items()
    }
    for name in ("tiny-vit", "tiny-resnet"):
        extractor = CNNFeatureExtractor(
            f"open_clip/{name}", weights=made(name)[1], max_epochs=1, head_epochs=0, batch_size=6
        )
        fitted[name] = extractor.fit(X, y)
    for key, extractor in fitted.items():
        persistence.save(extractor, tmp_path / f"{key}.cbir")
        joblib.dump(extractor, tmp_path / f"{key}.joblib")
    folder.rename(tmp_path / "gone")
    program = """
import os
import joblib, numpy as np
from sklearn_cbir import persistence
from sklearn_cbir.datasets import make_shapes

X, _ = make_shapes(6, n_classes=2)
for name in ("registered", "folder", "tiny-vit", "tiny-resnet"):
    for kind, load in (("cbir", persistence.load), ("joblib", joblib.load)):
        extractor = load(f"{name}.{kind}")
        np.save(f"{name}.{kind}.npy", extractor.transform(X))
        if extractor.loss is None:
            texts = extractor.encode_text(["a red circle", "a dress"])
            np.save(f"{name}.{kind}.texts.npy", texts)
assert "TOKENIZERS_PARALLELISM" not in os.environ
"""
    environment = os.environ | {"HF_HOME": str(tmp_path / "empty"), "HF_HUB_OFFLINE": "1"}
    environment.pop("TOKENIZERS_PARALLELISM", None)
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    for key, kind in itertools.product(fitted, ("cbir", "joblib")):
        again, extractor = np.load(tmp_path / f"{key}.{kind}.npy"), fitted[key]
        np.testing.assert_array_equal(again, extractor.transform(X))
        if key in names:
            texts = extractor.encode_text(["a red circle", "a dress"])
            np.testing.assert_array_equal(np.load(tmp_path / f"{key}.{kind}.texts.npy"), texts)


def test_words_stand_beside_images_unless_they_are_left_out(made):
    X, _ = make_shapes(6, image_size=32)
    _, file = made("tiny-vit")
    extractor = CNNFeatureExtractor(VIT, weights=file, loss=None).fit(X)
    mixed = extractor.transform([X[0], Text("a red circle"), X[1]])
    np.testing.assert_allclose(mixed[[0, 2]], extractor.transform(X[:2]), atol=1e-6)
    np.testing.assert_allclose(mixed[[1]], extractor.encode_text(["a red circle"]), atol=1e-6)
    without = CNNFeatureExtractor(VIT, weights=file, loss=None, words=False).fit(X)
    kept, left = (
        [key for key in e._network_state["weights"] if ".words." in key]
        for e in (extractor, without)
    )
    assert len(kept) > 0
    assert left == []
    np.testing.assert_array_equal(without.transform(X), extractor.transform(X))
    with pytest.raises(ValueError, match="words=False has left out"):
        without.encode_text(["a red circle"])


def test_why_there_are_no_words_is_told_when_they_are_asked_for(made, tmp_path):
    X, _ = make_shapes(6, image_size=32)
    model, _ = made("tiny-vit")
    config = CLIP | {"text_cfg": TEXT | {"hf_model_name": "roberta-base"}}
    name = f"open_clip/local-dir:{write_model(tmp_path, config, model.state_dict())}"
    extractor = CNNFeatureExtractor(name, weights="pretrained", loss=None).fit(X)
    with pytest.raises(
        ValueError, match="cannot encode words: The text tower .* package transformers"
    ):
        extractor.encode_text(["a red circle"])


def test_source_says_what_it_is():
    source = build_backbone(VIT).spec["source"]
    assert (source["library"], source["version"]) == ("open_clip", open_clip.__version__)
    assert (source["name"], source["tag"], source["tokenizer"]) == ("tiny-vit", None, None)
    assert source["config"]["embed_dim"] == 24


@pytest.mark.slow  # trains half a minute
def test_sentences_find_what_they_describe(monkeypatch, tmp_path):
    """Colors alone would reach a mean average precision of .5, chance .13."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    words = importlib.import_module("words")
    words.train(tmp_path / "clip")
    assert words.found_by_words(tmp_path / "clip") >= 0.6


def test_a_training_goes_on_from_its_checkpoint_and_without_the_folder_of_its_model(made, tmp_path):
    X, y = make_shapes(6, n_classes=2)
    folder = write_model(tmp_path / "model", CLIP, made("tiny-vit")[0].state_dict())
    parameters = {"weights": "pretrained", "max_epochs": 1, "head_epochs": 0, "batch_size": 6}
    parameters |= {"checkpoint_dir": tmp_path / "checkpoints", "random_state": 0}
    first, second = (
        CNNFeatureExtractor(f"open_clip/local-dir:{folder}", **parameters).fit(X, y)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.transform(X), second.transform(X))
    folder.rename(tmp_path / "gone")
    went_on = first.set_params(warm_start=True, checkpoint_dir=None).fit(X, y)
    assert not np.array_equal(went_on.transform(X), second.transform(X))


@pytest.mark.parametrize("cls", [CNNFeatureExtractor, CPFEmbedder, DeepHasher])
def test_every_network_estimator_trains_them(made, cls):
    X, y = make_shapes(24, n_classes=6)
    _, file = made("tiny-vit")
    short = {"max_epochs": 1, "head_epochs": 0, "batch_size": 6, "random_state": 0}
    estimator = cls(backbone=VIT, weights=file, **short)
    assert len(estimator.fit(X, y).transform(X)) == 24
    assert not any(".words." in key for key in estimator._network_state["weights"])
