"""Make pictures of the guide: `python docs/pictures.py [NAME ...]` writes docs/_static/NAME.webp.

One function makes one picture, from photos that ship with the examples, a network that the extra
`demo` brings, or a table of the guide. What is random has a seed.
"""

import io
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from picture_parts import (
    BLUE,
    GRAY,
    GREEN,
    INK,
    ORANGE,
    PALE,
    RED,
    SIX,
    WIDTH,
    arrow,
    box,
    canvas,
    drawn,
    heat,
    mark,
    put,
    save,
    sheet_of,
    spotlight,
    write,
)
from PIL import Image, ImageEnhance
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import HalvingGridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MultiLabelBinarizer, Normalizer

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever, cli
from sklearn_cbir.backbones import build_backbone
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.datasets import load_drawings, load_image_folder, make_shapes
from sklearn_cbir.descriptors import GISTDescriptor, PerceptualHash
from sklearn_cbir.display import RetrievalDisplay
from sklearn_cbir.display._cells import distance_text
from sklearn_cbir.images import check_images
from sklearn_cbir.images._augmentation import resolve_augmentation
from sklearn_cbir.metrics import acg_at_k, ndcg_at_k
from sklearn_cbir.model_selection import ClassDisjointKFold
from sklearn_cbir.whitening import LearnedWhitening

DOCS = Path(__file__).parent
PHOTOS = DOCS.parent / "examples" / "photos"
DATA = DOCS.parent / "tests" / "data"
NETWORK = "timm/tf_efficientnet_lite0"

PICTURES: dict[str, Callable] = {}


def picture(function: Callable) -> Callable:
    """List a function that returns a figure under its name."""
    PICTURES[function.__name__] = function
    return function


# The way of a photo -------------------------------------------------------------------------------


@picture
def photos():
    """What four photos find with a network as it comes."""
    found, rows = rows_of("clothing")
    search = NeighborsRetriever().fit(rows, found.target, ids=found.data)
    print(f"precision@5 of all photos: {search.evaluate(scoring='precision@5').score:.2f}")
    queries = [photo_at(found, name) for name in ("shoes/0", "hat/5", "pants/6", "t-shirt/5")]
    with mpl.rc_context({"axes.spines.top": True, "axes.spines.right": True}):
        shown = RetrievalDisplay.from_estimator(search, None, queries=queries, captions=["label"])
    return shown.figure_


@picture
def pipeline():
    """Photos, a network, rows of numbers, and a search among them."""
    photos, rows = rows_of("clothing")
    names = ["hat/2", "hat/7", "shoes/0", "pants/3", "dress/6", "t-shirt/2"]
    shown = [photo_at(photos, name) for name in names]
    asked = photo_at(photos, "hat/5")
    others = np.setdiff1d(np.arange(len(rows)), asked)
    nearest = others[np.argsort(-rows[others] @ rows[asked])[:3]]
    columns = np.argsort(-rows[[*shown, asked]].var(axis=0))[:12]

    figure, ax = canvas(WIDTH, 3.15)
    for number, row in enumerate(shown):
        put(ax, photos.data[row], 0.05 + 0.42 * (number % 3), 2.45 - 0.42 * (number // 3), 0.38)
    put(ax, photos.data[asked], 0.34, 0.55, 0.66)
    write(ax, 0.67, 2.98, "your photos", weight="bold")
    write(ax, 0.67, 0.3, "a query", weight="bold")
    box(ax, 1.62, 0.62, 0.92, 2.22, "network")
    heat(ax, rows[shown][:, columns], 2.88, 1.95, 0.98, 0.86)
    heat(ax, rows[[asked]][:, columns], 2.88, 0.81, 0.98, 0.15)
    write(ax, 3.37, 2.98, "rows of numbers", weight="bold")
    write(ax, 3.37, 0.55, "one row")
    box(ax, 4.2, 2.02, 0.92, 0.74, "gallery")
    for number, row in enumerate(nearest):
        put(ax, photos.data[row], 4.13 + 0.36 * number, 0.72, 0.33)
    write(ax, 4.66, 0.3, "results", weight="bold")
    for start, end in [
        ((1.34, 2.4), (1.6, 2.4)),
        ((2.56, 2.4), (2.84, 2.4)),
        ((3.9, 2.4), (4.18, 2.4)),
        ((1.1, 0.88), (1.6, 0.88)),
        ((2.56, 0.88), (2.84, 0.88)),
        ((3.9, 0.88), (4.1, 0.88)),
        ((4.66, 2.0), (4.66, 1.12)),
    ]:
        arrow(ax, start, end)
    write(ax, 4.58, 1.56, "search", ha="right", color=GRAY)
    write(ax, 2.08, 2.98, "fit", color=GRAY)
    write(ax, 2.08, 0.3, "predict", color=GRAY)
    return figure


@picture
def resize_modes():
    """What each way of resizing leaves of a photo."""
    path = str(PHOTOS / "clothing" / "t-shirt" / "4.jpg")
    images = check_images([path])
    whole = np.asarray(Image.open(path))
    modes = ("cover", "squash", "longest")
    resized = [(images.read([0], 112, resize_mode=mode)[0], f'"{mode}"') for mode in modes]
    return sheet_of([[(whole, "the photo"), *resized]], height=1.45)


@picture
def augmentations():
    """Random changes of one photo."""
    path = str(PHOTOS / "grocery" / "carton_yoghurt_arla-natural-yoghurt" / "2.jpg")
    pixels = check_images([path]).read([0], size=112)
    rows = []
    for name in ("auto", "crop"):
        change = resolve_augmentation(name)
        rng = np.random.default_rng(3)
        changed = [change(pixels, rng)[0] for _ in range(4)]
        rows.append([(pixels[0], f'"{name}" of this')] + [(one, "") for one in changed])
    return sheet_of(rows, height=1.2)


@picture
def poolings():
    """Which places of a photo make the vector, under each pooling."""
    path = str(PHOTOS / "clothing" / "hat" / "4.jpg")
    trunk = build_backbone(NETWORK, weights="packaged", pooling="avg").eval()
    pixels = check_images([path]).read([0], size=224)
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        maps = trunk.unpooled(batch)[0].clamp(min=1e-6)  # (n_channels, 7, 7)
    flat = maps.flatten(1).double()  # (n_channels, n_places)
    first = torch.nn.functional.one_hot(flat.argmax(dim=1), flat.shape[1]) * flat
    photo = Image.fromarray(pixels[0])
    tiles = [(pixels[0], "the photo")]
    for name, parts, pooled in [
        ("avg", flat, flat.mean(dim=1)),
        ("gem", flat**3, (flat**3).mean(dim=1) ** (1 / 3)),
        ("max", first, flat.amax(dim=1)),
    ]:
        weights = pooled**2 / (pooled**2).sum()  # shares of the channels in the vector's length
        share = weights @ (parts / parts.sum(dim=1, keepdim=True))
        tiles.append((spotlight(photo, share.reshape(maps.shape[1:]).numpy()), f'"{name}"'))
    return sheet_of([tiles], height=1.45)


@picture
def scales():
    """One photo in three sizes, and what their mean is worth."""
    photos, _ = rows_of("grocery")
    path = str(PHOTOS / "grocery" / "carton_juice_tropicana-golden-grapefruit" / "2.jpg")
    scores = {}
    for name, sizes in {"one": (1.0,), "three": (1, 2**-0.5, 0.5)}.items():
        network = CNNFeatureExtractor(NETWORK, weights="packaged", loss=None, scales=sizes)
        gallery = NeighborsRetriever().fit(network.fit_transform(photos.data), photos.target)
        scores[name] = gallery.score()
    figure, ax = canvas(WIDTH, 1.75)
    left = 0.15
    for scale in (1, 2**-0.5, 0.5):
        side = 1.25 * scale
        put(ax, path, left, 0.3, side)
        write(ax, left + side / 2, 0.14, f"{round(224 * scale)} px")
        left += side + 0.15
    arrow(ax, (left - 0.08, 0.75), (left + 0.22, 0.75))
    text = "mean of 3 vectors\n\n"
    text += f"mAP, one size: {scores['one']:.3f}\nthree sizes: {scores['three']:.3f}"
    write(ax, left + 1.05, 0.75, text, size=9.5)
    return figure


# Training -----------------------------------------------------------------------------------------


@picture
def before_and_after_training():
    """One query, with the rows of a network as it comes and with trained ones."""
    photos, rows = rows_of("clothing")
    train, test = train_test_split(
        np.arange(len(rows)), test_size=0.3, stratify=photos.target, random_state=0
    )
    learner = CNNFeatureExtractor(
        None, loss="contrastive", n_components=64, max_epochs=20, random_state=0
    )
    learner.fit(rows[train], photos.target[train])
    found = {}
    for name, vectors in {"untrained": rows, "trained": learner.transform(rows)}.items():
        gallery = NeighborsRetriever(n_neighbors=5).fit(vectors[train], photos.target[train])
        found[name] = gallery.evaluate(vectors[test], photos.target[test])
        found[name]["positions"] = train[gallery.kneighbors(vectors[test])[1]]
    most = (found["trained"].per_query - found["untrained"].per_query).argsort()[::-1][1]
    figure, ax = canvas(WIDTH, 2.55)
    for line, (name, result) in enumerate(found.items()):
        y = 1.42 - 1.25 * line
        put(ax, photos.data[test[most]], 0.05, y, 0.75, text=photos.target[test[most]])
        write(ax, 0.05, y + 0.9, f"{name}: mAP {result.score:.2f} of all queries", ha="left")
        for rank, row in enumerate(result["positions"][most]):
            right = photos.target[row] == photos.target[test[most]]
            put(ax, photos.data[row], 1.1 + 0.82 * rank, y, 0.75, GREEN if right else RED,
                text=mark(right) + photos.target[row])  # fmt: skip
    return figure


@picture
def code_bits():
    """Codes of photos that were not trained on, bit by bit."""
    photos, rows = rows_of("clothing")
    train, test = train_test_split(
        np.arange(len(rows)), test_size=0.3, stratify=photos.target, random_state=0
    )
    hasher = DeepHasher(48, backbone=None, loss="dfeh", max_epochs=30, random_state=0)
    codes = hasher.fit(rows[train], photos.target[train]).transform(rows[test])
    kinds = ["hat", "shoes", "pants", "t-shirt"]
    chosen = np.concatenate([np.flatnonzero(photos.target[test] == kind) for kind in kinds])
    labels, bits = photos.target[test][chosen], codes[chosen]
    differ = (bits[:, None] != bits).sum(axis=2)
    same = labels[:, None] == labels
    itself = np.eye(len(labels), dtype=bool)
    figure, ax = canvas(WIDTH, 4.4)
    height = 0.29
    for line, row in enumerate(test[chosen]):
        y = 4.08 - height * (line + 1) - 0.06 * (line // 3)
        put(ax, photos.data[row], 0.72, y, 0.27)
        heat(ax, bits[[line]], 1.06, y + 0.03, 4.05, 0.22, cmap="Blues", vmax=1.4)
        if line % 3 == 1:
            write(ax, 0.66, y + 0.13, labels[line], ha="right")
    write(ax, 3.08, 4.22, "48 bits, dark = 1")
    within, across = differ[same & ~itself].mean(), differ[~same].mean()
    text = f"bits that differ: {within:.0f} on average within a class, {across:.0f} to others"
    write(ax, 2.6, 0.16, text, size=9)
    return figure


@picture
def threshold_pairs():
    """Pairs of new products by their distance, and the threshold between them."""
    similarity, same, (first, second), photos, embedder = pairs_of_new_products()
    distance, limit = 1 - similarity, 1 - embedder.threshold_
    order = np.argsort(distance)
    at = np.searchsorted(distance[order], [0.05, 0.2, 0.28, limit + 0.03, 0.7, 1.0])
    chosen = order[np.minimum(at, len(order) - 1)]
    figure, ax = canvas(WIDTH, 2.5)
    for column, pair in enumerate(chosen):
        x = 0.05 + 0.86 * column
        color = GREEN if same[pair] else RED
        put(ax, photos[first[pair]], x, 1.35, 0.75, color)
        put(ax, photos[second[pair]], x, 0.52, 0.75, color, text=f"{distance[pair]:.2f}")
    line = 0.05 + 0.86 * (distance[chosen] <= limit).sum() - 0.055
    ax.plot([line, line], [0.1, 2.2], "--", color=INK, lw=1.5)
    write(ax, line, 2.33, f"threshold, {limit:.2f}", weight="bold")
    write(ax, line - 0.1, 0.1, "taken for one product", ha="right", size=9)
    write(ax, line + 0.1, 0.1, "for two", ha="left", size=9)
    return figure


@picture
def threshold_curve():
    """Precision and recall of "the same product", at any threshold."""
    similarity, same, _, _, embedder = pairs_of_new_products()
    limits = np.linspace(0.01, 1.2, 200)
    taken = (1 - similarity)[:, None] <= limits
    right = (taken & same[:, None]).sum(axis=0)
    some = taken.any(axis=0)
    figure, ax = plt.subplots(figsize=(WIDTH, 2.7), layout="constrained")
    ax.plot(limits[some], right[some] / taken.sum(axis=0)[some], color=BLUE, label="precision")
    ax.plot(limits, right / same.sum(), color=ORANGE, linestyle="--", label="recall")
    ax.axvline(1 - embedder.threshold_, color=INK, lw=1, label="threshold_ of other products")
    ax.set(xlabel="cosine distance up to which two photos are one product", ylim=(0, 1.03))
    ax.legend(loc="center right", fontsize=9)
    return figure


@picture
def class_folds():
    """Which photos a fold searches, by rows and by classes."""
    y = np.repeat(np.arange(6), 6)
    cutters = {
        "StratifiedKFold: every class in both parts": StratifiedKFold(
            3, shuffle=True, random_state=0
        ),
        "ClassDisjointKFold: whole classes are held out": ClassDisjointKFold(3),
    }
    figure, ax = canvas(WIDTH, 3.3)
    for number, (name, folds) in enumerate(cutters.items()):
        top = 3.0 - 1.6 * number
        write(ax, 0.62, top + 0.12, name, ha="left", weight="bold")
        for line, (_, test) in enumerate(folds.split(np.zeros((len(y), 1)), y)):
            bottom = top - 0.36 * (line + 1)
            write(ax, 0.55, bottom + 0.13, f"fold {line + 1}", ha="right", size=9)
            for row, kind in enumerate(y):
                x = 0.62 + 0.122 * row + 0.03 * kind
                filled = row in test
                ax.add_patch(plt.Rectangle((x, bottom), 0.1, 0.26, lw=1.2, edgecolor=SIX[kind],
                                           facecolor=SIX[kind] if filled else "white"))  # fmt: skip
    write(ax, 2.6, 0.07, "a color is a class; filled: test photos, empty: training", size=9)
    return figure


@picture
def halving():
    """Scores of candidates that get more epochs from step to step, if they are good."""
    photos, rows = rows_of("grocery")
    search = Pipeline(
        [("learn", CNNFeatureExtractor(None, random_state=0)), ("find", NeighborsRetriever())]
    )
    tuned = HalvingGridSearchCV(
        search,
        {"learn__loss": ["softmax", "triplet"], "learn__lr": [1e-4, 3e-4, 1e-3, 3e-3]},
        resource="learn__max_epochs",
        min_resources=2,
        max_resources=8,
        factor=2,
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
        return_train_score=False,
        refit=False,
    ).fit(rows, photos.target)
    scores: dict[tuple, list] = {}
    for params, step, score in zip(
        *(tuned.cv_results_[key] for key in ("params", "iter", "mean_test_score"))
    ):
        name = params["learn__loss"], params["learn__lr"]
        scores.setdefault(name, []).append((tuned.n_resources_[step], score))
    figure, ax = plt.subplots(figsize=(WIDTH, 2.9), layout="constrained")
    best = max(scores, key=lambda name: (len(scores[name]), scores[name][-1]))
    for (loss, lr), line in scores.items():
        looks = {
            "color": BLUE if loss == "softmax" else ORANGE,
            "lw": 3 if (loss, lr) == best else 1,
        }
        ax.plot(*zip(*line), "o-" if loss == "softmax" else "s--", **looks)
        if len(line) == 3:
            place = {"textcoords": "offset points", "xytext": (8, 6 if (loss, lr) == best else -8)}
            ax.annotate(f"{loss}, lr={lr:g}", line[-1], va="center", **place)
    ax.set(xlabel="epochs that a candidate gets", ylabel="mean average precision")
    ax.set(xscale="log", xlim=(1.85, 16))
    ax.set_xticks(tuned.n_resources_, map(str, tuned.n_resources_))
    ax.minorticks_off()
    return figure


# Searching ----------------------------------------------------------------------------------------


@picture
def metrics_of_search():
    """The nearest rows of one query under the two distances of floats."""
    rng = np.random.default_rng(1)
    X = rng.uniform(0.05, 1.0, (45, 2)) * [1.5, 1.0]
    query = np.array([[0.62, 0.38]])
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.35), layout="constrained")
    for ax, metric in zip(axes, ("cosine", "euclidean")):
        retriever = NeighborsRetriever(8, metric=metric).fit(X)
        distances, found = retriever.kneighbors(query)
        if metric == "cosine":
            turn = np.arccos(1 - distances.max())
            angles = np.add(np.arctan2(query[0, 1], query[0, 0]), [-turn, turn])
            corners = np.vstack([[0, 0], 3 * np.column_stack([np.cos(angles), np.sin(angles)])])
            ax.add_patch(plt.Polygon(corners, color=PALE))
        else:
            ax.add_patch(plt.Circle(query[0], distances.max(), color=PALE))
        ax.scatter(*X.T, s=14, color="#BBBBBB")
        ax.scatter(*X[found[0]].T, s=24, color=GREEN)
        ax.scatter(*query.T, s=130, color=INK, marker="*", zorder=3)
        ax.set_title(f'"{metric}"', fontsize=10)
        ax.set(xticks=[], yticks=[], aspect="equal", xlim=(0, 1.55), ylim=(0, 1.05))
    return figure


@picture
def reranked():
    """What a re-ranker finds along a chain of near points."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2.7, 60)
    arc = np.column_stack([np.cos(angle), np.sin(angle)])
    X = np.concatenate([arc, [0.75, 0.45] - arc]) + 0.035 * rng.normal(size=(120, 2))
    y = np.repeat([0, 1], 60)
    retriever = NeighborsRetriever(45, metric="euclidean", rerank_depth=110).fit(X, y)
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.35), layout="constrained")
    for ax, rerank in zip(axes, (None, "diffusion")):
        found = retriever.set_params(rerank=rerank).kneighbors(X[:1])[1][0]
        ax.scatter(*X.T, s=9, color="#CCCCCC")
        for kind, color, sign in ((0, GREEN, "o"), (1, RED, "x")):
            ax.scatter(*X[found[y[found] == kind]].T, s=16, color=color, marker=sign)
        ax.scatter(*X[0], s=130, color=INK, marker="*", zorder=3)
        right = (y[found] == 0).sum()
        ax.set_title(
            f"{rerank or 'by distance alone'}:\n{right} of {len(found)} right", fontsize=10
        )
        ax.set(xticks=[], yticks=[], aspect="equal")
    return figure


@picture
def whitened():
    """Distances within and between classes, before and after whitening."""
    rng = np.random.default_rng(0)  # the data of whitening.md
    y = np.repeat(np.arange(40), 10)
    nuisance = rng.normal(size=(400, 3)) @ (6 * rng.normal(size=(3, 20)))
    X = rng.normal(size=(40, 20))[y] + nuisance + 0.3 * rng.normal(size=(400, 20))
    seen = y < 20
    white = LearnedWhitening(shrinkage=0.01).fit(X[seen], y[seen]).transform(X[~seen])
    rows = Normalizer().fit_transform(X[~seen])
    first, second = np.triu_indices(len(rows), 1)
    same = y[~seen][first] == y[~seen][second]
    figure, axes = plt.subplots(2, 1, figsize=(WIDTH, 3.4), layout="constrained")
    names = ["rows as they are", "rows after LearnedWhitening"]
    for ax, name, vectors in zip(axes, names, (rows, white)):
        distance = 1 - (vectors[first] * vectors[second]).sum(axis=1)
        bins = np.linspace(0, distance.max(), 50)
        ax.hist(distance[~same], bins, density=True, color=GRAY, label="two classes")
        ax.hist(distance[same], bins, density=True, histtype="step", lw=2, color=GREEN,
                label="one class")  # fmt: skip
        score = NeighborsRetriever().fit(vectors, y[~seen]).score()
        ax.set_title(f"{name}: mAP {score:.2f}", fontsize=10)
        ax.set(yticks=[])
    axes[0].legend(fontsize=9, loc="upper right")
    axes[1].set_xlabel("cosine distance")
    return figure


@picture
def likes_and_dislikes():
    """A photo asks, one result is liked, another is not, and it asks again."""
    photos, rows = rows_of("clothing")
    gallery = NeighborsRetriever(5).fit(rows, photos.target, ids=photos.data)
    asked = photo_at(photos, "hat/0")
    first = gallery.kneighbors(ids=photos.data[[asked]])[1][0]
    right = photos.target[first] == photos.target[asked]
    liked, unliked = first[right], first[~right]
    second = gallery.like(photos.data[[asked, *liked]], unlike=photos.data[unliked])[1][0]
    figure, ax = canvas(WIDTH, 2.55)
    for line, (name, found) in enumerate(
        {"first answer": first, "after likes ✓ and dislikes ✗": second}.items()
    ):
        y = 1.42 - 1.25 * line
        write(ax, 0.05, y + 0.9, name, ha="left")
        put(ax, photos.data[asked], 0.05, y, 0.75, text=photos.target[asked])
        for rank, row in enumerate(found):
            good = photos.target[row] == photos.target[asked]
            put(ax, photos.data[row], 1.1 + 0.82 * rank, y, 0.75, GREEN if good else RED,
                text=mark(good) + photos.target[row])  # fmt: skip
    return figure


@picture
def spread_out():
    """Ten photos from the beginning of a folder, and ten that show all of it."""
    photos, rows = rows_of("clothing")
    order = np.argsort(photos.data)
    chosen = [int(order[0])]
    distances = 1 - rows @ rows[chosen[0]]
    while len(chosen) < 10:
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, 1 - rows @ rows[chosen[-1]])
    figure, ax = canvas(WIDTH, 1.75)
    for line, (name, some) in enumerate(
        {"the first ten": order[:10], "ten spread out": chosen}.items()
    ):
        y = 0.98 - 0.85 * line
        n = len(set(photos.target[some]))
        write(ax, 0.05, y + 0.62, f"{name}: {n} of 10 kinds of clothes", ha="left")
        for number, row in enumerate(some):
            put(ax, photos.data[row], 0.05 + 0.515 * number, y, 0.49)
    return figure


@picture
def engines():
    """Recall and time of the engines, from the table of benchmarks.md."""
    text = (DOCS / "guide" / "benchmarks.md").read_text(encoding="utf-8")
    line = re.compile(
        r"^\| clusters 200,000 x 64 \| ([^|]+) \| ([\d.]+) \| ([\d.]+) \|", re.MULTILINE
    )
    found = [(name, float(recall), float(time)) for name, recall, time in line.findall(text)]
    figure, ax = plt.subplots(figsize=(WIDTH, 2.9), layout="constrained")
    for name, recall, time in found:
        own = name.startswith("ours") or name == "exact"
        ax.plot(time, recall, "o" if own else "s", ms=8, color=BLUE if own else GRAY)
        gap = 8 if name in ("faiss IVF", "hnswlib", "exact") else -16
        looks = {"textcoords": "offset points", "color": BLUE if own else INK, "ha": "center"}
        ax.annotate(name.replace("ours, ", ""), (time, recall), (0, gap), **looks)
    ax.set(xscale="log", xlim=(18, 900), ylim=(0.93, 1.012), ylabel="recall of 10 neighbors")
    ax.set(xlabel="microseconds per query, one thread")
    ax.set_xticks([20, 50, 100, 200, 500], ["20", "50", "100", "200", "500"])
    ax.minorticks_off()
    return figure


@picture
def memory():
    """Memory of 100 million rows, from the table of scale.md."""
    text = (DOCS / "guide" / "scale.md").read_text(encoding="utf-8")
    line = re.compile(r"^\| ([^|]+) \| (`[^|]+) \| ([\d.]+) \| \d \|", re.MULTILINE)
    found = [(f"{rows}, {engine}".replace("`", "").replace('"', ""), float(gib))
             for rows, engine, gib in line.findall(text) if "milvus" not in engine]  # fmt: skip
    found.sort(key=lambda one: one[1])
    figure, ax = plt.subplots(figsize=(WIDTH, 3.1), layout="constrained")
    names = [name.replace("exact, storage=", "") for name, _ in found]
    sizes = [gib for _, gib in found]
    ax.barh(names, sizes, color=[GREEN if "code" in name else BLUE for name in names])
    for place, size in enumerate(sizes):
        ax.text(size * 1.12, place, f"{size:g}", va="center")
    ax.set(xscale="log", xlim=(0.4, 1500), xlabel="GiB of memory for 100 million rows")
    ax.invert_yaxis()
    ax.tick_params(axis="y", labelsize=9)
    return figure


@picture
def shared_labels():
    """Gain and discount of results that share some labels with the query."""
    photos, _ = rows_of("grocery")
    labels = MultiLabelBinarizer().fit_transform([name.split("_") for name in photos.target])
    asked = photo_at(photos, "fruit_apple_granny-smith/3")
    wanted = [
        "fruit_apple_granny-smith/1",
        "fruit_apple_golden-delicious/3",
        "fruit_pear_conference/3",
        "fruit_apple_red-delicious/1",
        "vegetable_tomato_regular-tomato/1",
    ]
    found = [photo_at(photos, name) for name in wanted]
    shared = labels[found] @ labels[asked]
    distances = [np.arange(len(found), dtype=float)]
    options = {"y_queries": labels[[asked]], "y_gallery": labels[found], "distances": distances}
    ndcg, acg = ndcg_at_k(**options, k=5), acg_at_k(**options, k=5)
    figure, ax = canvas(WIDTH, 2.1)
    put(ax, photos.data[asked], 0.05, 1.2, 0.75)
    write(ax, 0.43, 1.06, "fruit,\napple,\nGranny\nSmith", va="top", size=9)
    lines = ["rank", "shared labels", "gain", "discount"]
    for line, name in enumerate(lines):
        write(ax, 1.75, 1.02 - 0.2 * line, name, ha="right", size=9)
    for rank, row in enumerate(found):
        x = 1.82 + 0.67 * rank
        put(ax, photos.data[row], x, 1.2, 0.6, [RED, ORANGE, BLUE, GREEN][shared[rank]])
        values = [rank + 1, shared[rank], 2 ** shared[rank] - 1, f"{1 / np.log2(rank + 2):.2f}"]
        for line, value in enumerate(values):
            write(ax, x + 0.3, 1.02 - 0.2 * line, str(value), size=9)
    write(ax, 2.6, 0.12, f"NDCG@5 = {ndcg:.2f}      ACG@5 = {acg:.1f} shared labels", weight="bold")
    return figure


@picture
def command_line_sheet():
    """The file that `cbir search --sheet` writes."""
    with tempfile.TemporaryDirectory() as temporary:
        place, sheet = str(Path(temporary, "index")), str(Path(temporary, "found.png"))
        query = str(PHOTOS / "grocery" / "carton_yoghurt_yoggi-strawberry-yoghurt" / "3.jpg")
        options = ["--backbone", NETWORK, "--weights", "packaged", "--index", place]
        for line in (
            ["index", str(PHOTOS / "grocery"), *options],
            ["search", query, "-k", "4", "--index", place, "--sheet", sheet],
        ):
            assert cli.main(line) == 0
        image = Image.open(sheet).convert("RGB")
        height = round(728 * image.height / image.width)
        return image.resize((728, height), Image.Resampling.LANCZOS)


# Folders ------------------------------------------------------------------------------------------


@picture
def copies():
    """One photo changed in seven ways, with the bits of its hash that differ."""
    photo = Image.open(PHOTOS / "clothing" / "hat" / "4.jpg").convert("RGB")
    w, h = photo.size
    squeezed = io.BytesIO()
    photo.save(squeezed, "JPEG", quality=25)
    changed = {
        "the photo": photo,
        "JPEG of quality 25": Image.open(squeezed),
        "a third of the size": photo.resize((w // 3, h // 3)),
        "brighter": ImageEnhance.Brightness(photo).enhance(1.3),
        "gray": photo.convert("L").convert("RGB"),
        "4 % cut off": photo.crop((w // 25, h // 25, w - w // 25, h - h // 25)),
        "mirrored": photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "another photo": Image.open(PHOTOS / "clothing" / "hat" / "2.jpg").convert("RGB"),
    }
    codes = PerceptualHash().transform(list(changed.values())).astype(int)
    bits = np.abs(codes - codes[0]).sum(axis=1)
    figure, ax = canvas(WIDTH, 3.35)
    for number, (name, image) in enumerate(changed.items()):
        x, y = 0.15 + 1.28 * (number % 4), 2.05 - 1.65 * (number // 4)
        color = None if not number else GREEN if bits[number] <= 30 else GRAY
        put(ax, image, x + 0.02, y, 1.08, color)
        write(ax, x + 0.56, y - 0.1, name, size=9)
        if number:
            write(
                ax,
                x + 0.56,
                y - 0.25,
                distance_text(bits[number], "bits"),
                size=9,
                color=color,
                weight="bold",
            )
    return figure


@picture
def folder_sync():
    """A folder before and after a day, and what a sync says of it."""
    names = ["hat/2.jpg", "shoes/0.jpg", "pants/3.jpg", "dress/6.jpg"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "photos")
        for name in [*names, "skirt/4.jpg", "shirt/1.jpg"]:
            (folder / name).parent.mkdir(parents=True)
            shutil.copy(PHOTOS / "clothing" / name, folder / name)
        for name in ("skirt", "shirt"):  # they come later
            shutil.move(folder / name, Path(temporary, name))
        place = folder / ".cbir"
        with PhotoCollection.create(place, folder, GISTDescriptor()) as collection:
            collection.sync()
            (folder / "shoes" / "0.jpg").rename(folder / "shoes" / "black.jpg")
            (folder / "dress" / "6.jpg").unlink()
            for name in ("skirt", "shirt"):
                shutil.move(Path(temporary, name), folder / name)
            report = collection.sync()
    figure, ax = canvas(WIDTH, 3.35)
    before = dict(zip(names, (2.55, 2.0, 1.45, 0.9)))
    for name, y in before.items():
        put(ax, PHOTOS / "clothing" / name, 0.2, y, 0.5)
        write(ax, 0.78, y + 0.25, name, ha="left", size=9)
    write(ax, 0.9, 3.2, "yesterday", weight="bold")
    write(ax, 3.75, 3.2, "today, and what sync does", weight="bold")
    after = [
        ("hat/2.jpg", "hat/2.jpg", "nothing", GRAY),
        ("shoes/0.jpg", "shoes/black.jpg", "new path", BLUE),
        ("pants/3.jpg", "pants/3.jpg", "nothing", GRAY),
        ("skirt/4.jpg", "skirt/4.jpg", "reads it", GREEN),
        ("shirt/1.jpg", "shirt/1.jpg", "reads it", GREEN),
    ]
    for number, (photo, name, what, color) in enumerate(after):
        y = before.get(photo, 1.45 - 0.55 * (number - 2))
        put(ax, PHOTOS / "clothing" / photo, 2.75, y, 0.5, color)
        write(ax, 3.33, y + 0.34, name, ha="left", size=9)
        write(ax, 3.33, y + 0.15, what, ha="left", size=9, color=color, weight="bold")
        if photo in before:
            arrow(ax, (1.75, y + 0.25), (2.65, y + 0.25), color)
    arrow(ax, (1.75, 1.15), (2.15, 1.15), RED)
    write(ax, 2.2, 1.15, "gone", ha="left", size=9, color=RED, weight="bold")
    counts = f"added={report.added}, removed={report.removed}, "
    counts += f"moved={report.moved}, unchanged={report.unchanged}"
    write(ax, 2.6, 0.14, counts, size=9, family="monospace")
    return figure


@picture
def data_sets():
    """What ships with the package and its examples."""
    shapes, _ = make_shapes(12, n_classes=12, random_state=0)
    drawings = load_drawings(DATA / "omniglot_small1.npz")
    rng = np.random.default_rng(0)
    rows = {
        "make_shapes": list(shapes[:8]),
        "load_drawings": [
            drawings.data[i] for i in rng.choice(len(drawings.data), 8, replace=False)
        ],
        "examples/photos/clothing": sorted((PHOTOS / "clothing").glob("*/2.jpg"))[:8],
        "examples/photos/grocery": sorted((PHOTOS / "grocery").glob("*/2.jpg"))[1::2][:8],
    }
    figure, ax = canvas(WIDTH, 3.5)
    for line, (name, images) in enumerate(rows.items()):
        y = 2.68 - 0.87 * line
        write(ax, 0.05, y + 0.7, name, ha="left", family="monospace")
        for number, image in enumerate(images):
            put(ax, image, 0.05 + 0.645 * number, y, 0.6)
    return figure


# Drawn --------------------------------------------------------------------------------------------


@picture
def choices():
    """The questions of choosing.md, from the top."""
    steps = [
        ("Do you want to search\nwith words?", "an open_clip encoder, loss=None"),
        ("No labels?", "an encoder as it is, loss=None"),
        ("Several labels\nper photo?", 'DeepHasher(loss="multilevel")'),
        ("New classes\nevery week?", "CPFEmbedder(...)"),
        ("One label per photo,\nfixed classes?", 'CNNFeatureExtractor(None,\nloss="contrastive")'),
        ("Millions of photos?", "add codes: DeepHasher\nor ITQHasher"),
    ]
    figure, ax = canvas(WIDTH, 4.22)
    for line, (question, answer) in enumerate(steps):
        y = 3.62 - 0.68 * line
        last = line == len(steps) - 1
        box(ax, 0.05, y, 1.95, 0.5, question, size=9.5)
        box(
            ax,
            2.75,
            y,
            2.4,
            0.5,
            answer,
            size=9.5,
            color="#FFF4DC",
            family="monospace" if "(" in answer else None,
        )
        arrow(ax, (2.03, y + 0.25), (2.72, y + 0.25))
        write(ax, 2.36, y + 0.36, "yes", size=9)
        if not last:
            arrow(ax, (1.0, y - 0.02), (1.0, y - 0.16))
            write(ax, 1.08, y - 0.09, "then" if line == 4 else "no", ha="left", size=9)
    return figure


@picture
def handing_over():
    """From a machine that trains to machines that only search."""
    figure, ax = canvas(WIDTH, 2.35)
    write(ax, 0.95, 2.2, "where you train", weight="bold")
    write(ax, 4.2, 2.2, "where it is used", weight="bold")
    box(ax, 0.1, 1.3, 1.7, 0.65, "fit,\nwith torch")
    box(ax, 0.1, 0.3, 1.7, 0.65, "photos.onnx", color="#FFF4DC", family="monospace")
    arrow(ax, (0.95, 1.27), (0.95, 0.99))
    write(ax, 1.05, 1.13, "to_onnx", ha="left", size=9, family="monospace")
    for y, text in [
        (1.42, "a server: OnnxExtractor\nand NeighborsRetriever"),
        (0.76, "a phone: onnxruntime"),
        (0.1, "a browser: onnxruntime-web"),
    ]:
        box(ax, 3.1, y, 2.05, 0.53, text, size=9)
        arrow(ax, (1.83, 0.62), (3.07, y + 0.26))
    write(ax, 2.45, 0.16, "no torch", size=9, color=GRAY)
    return figure


# What they are made of ----------------------------------------------------------------------------


@cache
def rows_of(name: str):
    """Return the photos of a folder of the examples, and their rows by an untrained network."""
    photos = load_image_folder(PHOTOS / name)
    network = CNNFeatureExtractor(NETWORK, weights="packaged", loss=None)
    return photos, network.fit_transform(photos.data)


@cache
def pairs_of_new_products():
    """Return cosines of pairs, whether they are of one product, their photos, and the embedder."""
    photos, rows = rows_of("grocery")
    new = np.isin(photos.target, np.unique(photos.target)[::3])
    embedder = CPFEmbedder(64, backbone=None, max_epochs=10, threshold_fraction=0.5, random_state=0)
    vectors = embedder.fit(rows[~new], photos.target[~new]).transform(rows[new])
    pairs = np.triu_indices(len(vectors), 1)
    labels = photos.target[new]
    cosines = (vectors[pairs[0]] * vectors[pairs[1]]).sum(axis=1)
    return cosines, labels[pairs[0]] == labels[pairs[1]], pairs, photos.data[new], embedder


def photo_at(photos, name: str) -> int:
    """Return the position of a photo by its folder and number."""
    return next(i for i, path in enumerate(photos.data) if Path(path).match(f"{name}.jpg"))


def main(names: Sequence[str]) -> None:
    """Write the pictures of some names, or all."""
    mpl.use("Agg")
    for name in names or PICTURES:
        path = DOCS / "_static" / f"{name}.webp"
        save(drawn(PICTURES[name]), path)
        print(path.relative_to(DOCS.parent), path.stat().st_size)


if __name__ == "__main__":
    main(sys.argv[1:])
