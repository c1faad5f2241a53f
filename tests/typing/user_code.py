"""What users write, with every public name. Nothing of it runs: pyright must have nothing to say.

What scikit-learn's own functions take and return is unknown, because it has no types.
"""
# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false

from pathlib import Path
from typing import Self, assert_type

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

import sklearn_cbir
from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever
from sklearn_cbir.backbones import (
    BACKBONES,
    ENHANCEMENTS,
    RowTrunk,
    Trunk,
    build_backbone,
    build_mlp,
    freeze_batch_norm,
    read_weights,
    row_statistics,
)
from sklearn_cbir.cli import main
from sklearn_cbir.codes import (
    HammingDistances,
    hamming_distances,
    hamming_radius,
    hamming_top_k,
    pack_codes,
    unpack_codes,
)
from sklearn_cbir.collection import Hit, PhotoCollection, SyncReport
from sklearn_cbir.datasets import (
    IGNORED_NAMES,
    crop_images,
    load_cars,
    load_cifar10,
    load_cub,
    load_drawings,
    load_fashion_multilabel,
    load_grocery,
    load_holidays,
    load_image_folder,
    load_mirflickr,
    load_nuswide,
    load_oxford5k,
    load_paris6k,
    load_shopee,
    load_sop,
    load_svhn,
    make_shapes,
)
from sklearn_cbir.descriptors import GISTDescriptor, PerceptualHash
from sklearn_cbir.display import (
    DuplicatesDisplay,
    GalleryMapDisplay,
    PrecisionRecallDisplay,
    RetrievalDisplay,
    TrainingCurveDisplay,
)
from sklearn_cbir.duplicates import NearDuplicates
from sklearn_cbir.embedding import THRESHOLD_ROWS
from sklearn_cbir.export import to_onnx
from sklearn_cbir.extraction import FeatureShards, extract, load_features
from sklearn_cbir.hashing import (
    BREHasher,
    CCAITQHasher,
    HasherMixin,
    ITQHasher,
    KSHHasher,
    LSHHasher,
    MLHHasher,
    SpectralHasher,
)
from sklearn_cbir.images import (
    ImageReadError,
    Images,
    Resizing,
    Text,
    check_images,
    images_of,
    is_feature_rows,
    readable_extensions,
    readable_images,
    resolve_augmentation,
)
from sklearn_cbir.index import ENGINES, choose_algorithm
from sklearn_cbir.losses import (
    CPF_CONSTANTS,
    LOSSES,
    CNNHLoss,
    ContrastiveLoss,
    CPFLoss,
    CSQLoss,
    DCHLoss,
    DFEHLoss,
    DLBHCLoss,
    DNNHLoss,
    DPSHLoss,
    DSHLoss,
    GreedyHashLoss,
    HashNetLoss,
    LRMLLoss,
    MultilevelLoss,
    OrthoHashLoss,
    SoftmaxLoss,
    SquaredHingeLoss,
    TripletLoss,
    balance_loss,
    contrastive_loss,
    cpf_loss,
    hash_centers,
    hash_layer_of,
    output_of,
    pair_mean,
    quantization_loss,
    ranked_list_loss,
    sampling_of,
    squared_distances,
    squared_hinge_loss,
    staircase_loss,
    takes_sample_weight,
    takes_soft_targets,
    triplet_loss,
)
from sklearn_cbir.metrics import (
    METRICS,
    acg_at_k,
    best_f1_radius,
    cluster_agreement,
    evaluate,
    hamming_mean_average_precision,
    map_at_r,
    map_c,
    mean_average_precision,
    mean_average_precision_in_radius,
    mean_over_queries,
    mean_per_class,
    ndcg_at_k,
    pair_f1,
    parse_metric,
    per_class_thresholds,
    precision_at_k,
    precision_in_radius,
    precision_recall_curve,
    radius_precision_recall_curve,
    recall_at_k,
    recall_in_radius,
    set_recall_at_k,
    success_in_radius,
    threshold_f1,
    threshold_f1_curve,
    trapezoid_mean_average_precision,
    weighted_mean_average_precision,
    worst_queries,
)
from sklearn_cbir.model_selection import (
    PROTOCOLS,
    ClassDisjointKFold,
    retrieval_scorer,
    split_group_folds,
    split_multilabel,
    split_protocol,
    split_unseen_products,
)
from sklearn_cbir.onnx_extractor import OnnxExtractor
from sklearn_cbir.persistence import load, save
from sklearn_cbir.pooling import (
    POOLINGS,
    SMALLEST_P,
    AveragePooling,
    GeMPooling,
    MaxPooling,
)
from sklearn_cbir.reranking import (
    RERANKERS,
    AlphaQueryExpansion,
    AverageQueryExpansion,
    DiffusionReranker,
    KReciprocalReranker,
)
from sklearn_cbir.sampling import (
    PAIRS_AT_ONCE,
    balanced_batches,
    class_random_batches,
    mined_batches,
    uniform_batches,
)
from sklearn_cbir.serve import create_app, run
from sklearn_cbir.testing import check_image_estimator
from sklearn_cbir.whitening import LearnedWhitening

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


# Estimators of images ---------------------------------------------------------------------------


def train_features(images: NDArray[np.uint8], paths: list[Path], y: Ints, weights: Floats) -> None:
    extractor = CNNFeatureExtractor("small", loss="softmax", max_epochs=2, random_state=0)
    assert_type(extractor.fit(images, y), CNNFeatureExtractor)
    assert_type(extractor.fit(images, y, sample_weight=weights), CNNFeatureExtractor)
    assert_type(extractor.fit(paths, ["a", "b"]), CNNFeatureExtractor)
    assert_type(extractor.transform(paths), NDArray[np.float32])
    assert_type(extractor.fit_transform(images, y), NDArray[np.float32])
    CNNFeatureExtractor(torch.nn.Conv2d(3, 8, 3), loss=TripletLoss(margin=0.2), pooling="gem")


def search_by_words(paths: list[str], photo: Image.Image, pixels: NDArray[np.uint8]) -> None:
    extractor = CNNFeatureExtractor("open_clip/ViT-B-32", loss=None, words=True).fit(paths)
    assert_type(extractor.encode_text(["a red dress", "shoes"]), NDArray[np.float32])
    query = "harbor.jpg" + Text("at night") - Text("people") - Path("ship.jpg")
    assert_type(query, Text)
    assert_type(Text("at night") + photo - pixels, Text)
    assert_type(extractor.transform([query, sum([query, query]), *paths]), NDArray[np.float32])


def train_codes(images: NDArray[np.uint8], y: Ints) -> None:
    hasher = DeepHasher(n_bits=16, loss="dsh", enhance="se", hash_layer="linear", hash_std=0.01)
    assert_type(hasher.fit(images, y), DeepHasher)
    assert_type(hasher.transform(images), NDArray[np.uint8])
    assert_type(hasher.project(images), NDArray[np.float32])
    assert_type(hasher.n_bits, int)


def train_embeddings(images: NDArray[np.uint8], y: Ints) -> None:
    embedder = CPFEmbedder(64, backbone="small", max_epochs=3)
    assert_type(embedder.fit(images, y), CPFEmbedder)
    assert_type(embedder.transform(images), NDArray[np.float32])
    assert_type(THRESHOLD_ROWS + len(y), int)


def describe_without_training(images: list[Image.Image]) -> None:
    assert_type(
        GISTDescriptor(image_size=32, stretch=True).fit_transform(images), NDArray[np.float32]
    )
    assert_type(PerceptualHash().fit(images), PerceptualHash)
    assert_type(PerceptualHash().near_duplicates, tuple[str, float])
    assert_type(PerceptualHash().fit_transform(images), NDArray[np.uint8])
    assert_type(PerceptualHash(True, turned=True).transform_forms(images), NDArray[np.uint8])
    check_image_estimator(DeepHasher(8))
    for name, check in check_image_estimator(GISTDescriptor(), generate_only=True):
        assert_type(name, str)
        check()


def hand_over(images: NDArray[np.uint8], y: Ints, path: Path) -> None:
    to_onnx(DeepHasher(8).fit(images, y), path)
    extractor = OnnxExtractor(path, batch_size=8, n_threads=2, providers=["CPUExecutionProvider"])
    assert_type(extractor.fit(images), OnnxExtractor)
    assert_type(extractor.transform(images), NDArray[np.float32] | NDArray[np.uint8])
    assert_type(extractor.fit_transform(images), NDArray[np.float32] | NDArray[np.uint8])
    assert_type(extractor.get_feature_names_out(), NDArray[np.object_])


# Hashers, whitening -----------------------------------------------------------------------------


def hash_rows(X: Floats, y: Ints) -> None:
    for hasher in (LSHHasher(8, orthogonal=True), ITQHasher(8), SpectralHasher(8, range="minmax")):
        assert_type(hasher.fit_transform(X), NDArray[np.uint8])
    assert_type(CCAITQHasher(8).fit(X, y), CCAITQHasher)
    assert_type(BREHasher(8, kernel="rbf", supervised=True).fit(X, y).losses_, Floats)
    assert_type(KSHHasher(8, kernel_rows="all").fit(X, y).project(X), Floats)
    assert_type(MLHHasher(8, rho=3).fit(X, y).components_, Floats)


class MyHasher(HasherMixin, BaseEstimator):
    def fit(self, X: Floats, y: ArrayLike | None = None) -> Self:
        self.n_features_in_ = X.shape[1]
        return self

    def project(self, X: Floats) -> Floats:
        return X


def use_my_hasher(X: Floats) -> None:
    assert_type(MyHasher().fit(X).transform(X), NDArray[np.uint8])


def whiten(X: Floats, y: Ints) -> None:
    whitening = LearnedWhitening(32, shrinkage=0.3).fit(X, y)
    assert_type(whitening, LearnedWhitening)
    assert_type(whitening.transform(X), NDArray[np.floating])


# Search -----------------------------------------------------------------------------------------


def search(X: Floats, y: Ints, queries: list[list[float]]) -> None:
    retriever = NeighborsRetriever(5, metric="euclidean", algorithm="exact", rerank="diffusion")
    assert_type(retriever.fit(X, y, ids=[Path("a"), Path("b")]), NeighborsRetriever)
    assert_type(retriever.partial_fit(X, y, ids=["c", "d"]), NeighborsRetriever)
    assert_type(retriever.remove({"c"}), NeighborsRetriever)
    assert_type(retriever.predict(queries), NDArray[np.generic])
    distances, positions = retriever.kneighbors(queries, 3)
    assert_type(distances, NDArray[np.number])
    assert_type(positions, Ints)
    assert_type(retriever.kneighbors(return_distance=False), Ints)
    assert_type(retriever.like([Path("a")], {Path("b")}), tuple[NDArray[np.number], Ints])
    assert_type(retriever.like(X=queries, unlike_X=X, unlike_weight=0, where={"a"})[1], Ints)
    assert_type(retriever.radius_neighbors(X, 0.5, return_distance=False), NDArray[np.object_])
    is_train = y > 0
    assert_type(retriever.predict(queries, where=is_train), NDArray[np.generic])
    assert_type(retriever.kneighbors(ids=["c"], where={"c", "d"})[1], Ints)
    assert_type(retriever.radius_neighbors(X, 0.5, where=["c"])[0], NDArray[np.object_])
    assert_type(retriever.evaluate(X, y, where=is_train).score, float)
    assert_type(retriever.score(X, y, where=is_train), float)
    assert_type(retriever.score(X, y), float)
    assert_type(retriever.evaluate(X, y).score, float)
    for metric, result in retriever.evaluate(X, y, scoring=["map", "recall@1"]).items():
        assert_type(metric, str)
        assert_type(result.per_query, Floats)
    retriever.kneighbors_graph(X, mode="distance")
    assert_type(retriever.ids_, NDArray[np.generic])
    assert_type(retriever.recall_, float)
    assert_type(choose_algorithm("cosine", 10_000, 512), str)
    assert_type("exact" in ENGINES, bool)


def find_duplicates(paths: list[Path], X: Floats) -> None:
    found = NearDuplicates(radius=0.05, metric="cosine", n_jobs=2, verbose=1)
    assert_type(found.fit(X, files=paths), NearDuplicates)
    assert_type(NearDuplicates(GISTDescriptor()).fit_predict(paths), Ints)
    assert_type(found.labels_, Ints)
    assert_type(found.groups_, list[Ints])
    assert_type(found.partition_, Ints)
    assert_type(found.keep_, NDArray[np.bool_])
    assert_type(found.leaks(["train", "test"]), Ints)


def keep_photos(folder: Path) -> None:
    with PhotoCollection.create(folder / ".cbir", folder, GISTDescriptor()) as made:
        assert_type(made.sync(verbose=1), SyncReport)
        assert_type(made.sync().relabeled, int)
    PhotoCollection.create("c", folder, GISTDescriptor(), labels="folder")
    PhotoCollection.create("d", folder, GISTDescriptor(), labels=folder / "labels.csv")
    PhotoCollection.create("e", folder, GISTDescriptor(), labels=("labels.csv", "species"))
    PhotoCollection.create("f", folder, GISTDescriptor(), uri="http://127.0.0.1:19530").close()
    PhotoCollection.open("f", uri=folder / "rows.db").close()
    photos = PhotoCollection.open(folder / ".cbir", read_only=True)
    assert_type(
        photos.search([folder / "1.jpg"], k=3, where={"width": (100, None)}), list[list[Hit]]
    )
    assert_type(photos.like([1, 2], unlike=[3]), list[Hit])
    assert_type(photos.duplicates(radius=0.1), list[list[Hit]])
    assert_type(photos.score("map"), float)
    assert_type(photos.retriever(ids="path"), NeighborsRetriever)
    assert_type(photos.evaluate("precision@10").score, float)
    assert_type(photos.roots, list[str])
    assert_type(len(photos), int)
    print(photos.about()["n_photos"], photos.extractor, photos.metric)
    assert_type(main(["info", str(folder)]), int)
    assert_type(photos.version, int)
    distances, found = photos.like_each([1, 2], k=3, where={"folder": "sea"})
    assert_type(distances, list[NDArray[np.float64]])
    assert_type(found, list[NDArray[np.int64]])
    photos.close()


def serve_photos(photos: PhotoCollection) -> None:
    assert_type(photos.sync(progress=print), SyncReport)
    app = create_app(photos, token="a secret", hosts=["photos.home"])
    print(callable(app))
    run(photos, host="127.0.0.1", port=0, token=False, browser=False)


def rerank(X: Floats) -> None:
    for reranker in (
        AverageQueryExpansion(5),
        AlphaQueryExpansion(10, alpha=2.0),
        KReciprocalReranker(20, n_averaged=3, form="code"),
        DiffusionReranker(10, n_sources=3),
    ):
        NeighborsRetriever(rerank=reranker).fit(X)
    assert_type(sorted(RERANKERS), list[str])


def keep_the_order(
    queries: Floats, distances: Floats, positions: Ints, engine: object
) -> NDArray[np.float64]:
    return distances


def rank_by_my_own(y: Ints, z: Ints, distances: Floats) -> Floats:
    return (y == z[distances.argmin(axis=1)]).astype(np.float64)


def search_my_way(X: Floats) -> None:
    NeighborsRetriever(rerank=keep_the_order, scoring=rank_by_my_own).fit(X)
    assert_type(retrieval_scorer(rank_by_my_own)(NeighborsRetriever(), X, X), float)
    scorer = retrieval_scorer("map", gallery="queries").set_score_request(where=True)
    assert_type(scorer(NeighborsRetriever(), X, X, where=X[:, 0] > 0), float)


def search_codes(codes: NDArray[np.uint8]) -> None:
    packed = pack_codes(codes)
    assert_type(packed, NDArray[np.uint64])
    assert_type(unpack_codes(packed, 48), NDArray[np.uint8])
    assert_type(hamming_distances(packed, packed), NDArray[np.int32])
    assert_type(hamming_top_k(packed, packed, 5), tuple[NDArray[np.int32], Ints])
    assert_type(hamming_radius(packed, packed, 2)[1], list[Ints])
    assert_type(HammingDistances(packed, packed).shape, tuple[int, int])
    assert_type(HammingDistances(packed, packed)[:5], NDArray[np.int32])


# Scores -----------------------------------------------------------------------------------------


def score(y: Ints, z: list[str], distances: Floats, codes: NDArray[np.uint8]) -> None:
    assert_type(mean_average_precision(y, y, distances), float)
    assert_type(mean_average_precision(y, y, distances, k=10, per_query=True), Floats)
    assert_type(mean_average_precision(z, z, distances, denominator="hits", ties="stable"), float)
    assert_type(weighted_mean_average_precision(y, y, distances), float)
    assert_type(trapezoid_mean_average_precision(y, y, distances, exclude=[[0], [1]]), float)
    assert_type(map_at_r(y, y, distances), float)
    assert_type(map_c(y, y, distances, per_query=True), Floats)
    assert_type(precision_at_k(y, y, distances, k=5), float)
    assert_type(recall_at_k(y, y, distances, k=1), float)
    assert_type(set_recall_at_k(y, y, distances, k=5), float)
    assert_type(acg_at_k(y, y, distances, k=5), float)
    assert_type(ndcg_at_k(y, y, distances, k=100, sample_weight=[1, 2]), float)
    assert_type(hamming_mean_average_precision(y, y, codes, codes), float)
    assert_type(precision_in_radius(y, y, distances, radius=2), float)
    assert_type(recall_in_radius(y, y, distances, radius=2), float)
    assert_type(success_in_radius(y, y, distances, radius=2), float)
    assert_type(mean_average_precision_in_radius(y, y, distances, radius=2, no_hits="skip"), float)
    assert_type(precision_recall_curve(y, y, distances), tuple[Floats, Floats])
    radii = range(49)
    assert_type(
        radius_precision_recall_curve(y, y, distances, radii=radii, average="micro")[0], Floats
    )


def choose_a_threshold(y: Ints, distances: Floats) -> None:
    assert_type(threshold_f1(y, y, distances, radius=0.3), float)
    curve = threshold_f1_curve(y, y, distances, radii=[0.1, 0.3])
    assert_type(curve, Floats)
    assert_type(best_f1_radius([0.1, 0.3], curve), tuple[float, float])
    assert_type(per_class_thresholds(y, y, distances).spread, float)


def average(y: Ints, values: Floats, embeddings: Floats) -> None:
    assert_type(mean_over_queries(values), float)
    assert_type(mean_per_class(y, values)[1], Floats)
    assert_type(worst_queries(values, n=3), Ints)
    assert_type(pair_f1(y, y), float)
    assert_type(cluster_agreement(embeddings, y), tuple[float, float])


def score_by_name(y: Ints, distances: Floats) -> None:
    assert_type(evaluate("map@100", y, y, distances), float)
    assert_type(evaluate("recall@1", y, y, distances, per_query=True), Floats)
    function, k = parse_metric("ndcg@10")
    assert_type(k, int | None)
    function(y, y, distances)
    assert_type(sorted(METRICS), list[str])


def tune(X: Floats, y: Ints) -> None:
    search = make_pipeline(LearnedWhitening(), NeighborsRetriever())
    folds = ClassDisjointKFold(3, shuffle=True, random_state=0)
    assert_type([train for train, _ in folds.split(X, y)], list[Ints])
    cross_val_score(search, X, y, cv=folds, scoring=retrieval_scorer("map", gallery="queries"))
    GridSearchCV(search, {"learnedwhitening__n_components": [16, 32]}, cv=folds).fit(X, y)


def split(y: Ints) -> None:
    parts = split_protocol("cifar10-59k", y, n_queries=10, n_train=50)
    assert_type(parts.query, Ints)
    assert_type(parts.exclude, Ints | None)
    assert_type(sorted(PROTOCOLS), list[str])
    assert_type([fold.validation.gallery for fold in split_group_folds(y)], list[Ints])
    assert_type(split_multilabel(y, n_train=100).validation.query, Ints)
    products = split_unseen_products(y, y // 4, train=y < 9, test=y >= 9, junk=True)
    assert_type(products.exclude, Ints | list[Ints] | None)


# Images, data sets, files -----------------------------------------------------------------------


def read_images(paths: list[str]) -> None:
    images = check_images(paths, max_pixels=10**8)
    assert_type(images, Images)
    assert_type(len(images), int)
    padded = images.read([0], 224, 256, resize_mode="longest", interpolation="box", fill=[0] * 3)
    assert_type(padded, NDArray[np.uint8])
    assert_type(is_feature_rows(paths), bool)
    assert_type(readable_extensions(), tuple[str, ...])
    readable = readable_images(paths, ["a", "b"], verify="header")
    CNNFeatureExtractor().transform(readable.data)
    try:
        images_of([(Image.new("RGB", (8, 8)), 0)])
    except ImageReadError as error:
        assert_type(error.faults, tuple[ImageReadError, ...])
    resolve_augmentation("crop", 32, "bicubic")


def load_data(folder: Path) -> None:
    photos = load_image_folder(folder, exclude=[*IGNORED_NAMES])
    assert_type(photos.target_names, list[str])
    assert_type(load_cifar10(folder).data, NDArray[np.uint8])
    assert_type(load_svhn(folder, extra=True).test, Ints)
    assert_type(load_drawings(folder).target, NDArray[np.str_])
    for products in (load_cub(folder), load_cars(folder), load_sop(folder)):
        assert_type(products.train, Ints)
    assert_type(load_shopee(folder).title, NDArray[np.str_])
    assert_type(load_holidays(folder, skip_missing=True).query, Ints)
    assert_type(load_grocery(folder).coarse_target, Ints)
    assert_type(load_fashion_multilabel(folder / "photos.npz").target_names, list[str])
    for buildings in (load_oxford5k(folder), load_paris6k(folder)):
        crops = crop_images(buildings.query_data, buildings.query_boxes)
        assert_type(crops, list[Image.Image])
    assert_type(load_nuswide(folder, n_labels=21).target, NDArray[np.uint8])
    assert_type(load_mirflickr(folder).target_names, list[str])
    assert_type(make_shapes(10, multilabel=True), tuple[NDArray[np.uint8], Ints])


def extract_features(paths: list[str], folder: Path) -> None:
    extractor = CNNFeatureExtractor(loss=None).fit(paths)
    shards = extract(extractor, paths, folder, shard_size=512, on_error="skip")
    assert_type(shards, FeatureShards)
    assert_type(load_features(folder), FeatureShards)


def keep_and_show(X: Floats, y: Ints, images: list[str], path: Path) -> None:
    retriever = NeighborsRetriever().fit(X, y)
    save(retriever, path)
    load(path).predict(X)
    display = RetrievalDisplay.from_estimator(retriever, X, y, images=images, where=["a"])
    assert_type(display, RetrievalDisplay)
    RetrievalDisplay.from_predictions(
        [[0]], images=images, gallery_images=images, draw=False
    ).plot()
    groups = DuplicatesDisplay.from_predictions(
        y, images=images, captions=["name", "size"], draw=False
    )
    assert_type(groups.groups, list[NDArray[np.int64]])
    curve = PrecisionRecallDisplay.from_predictions(y, y, X, name="mine")
    assert_type(curve, PrecisionRecallDisplay)
    plan = GalleryMapDisplay.from_estimator(retriever, reducer=PCA(2), gallery_images=images)
    assert_type(GalleryMapDisplay.from_predictions(plan.points, y=y), GalleryMapDisplay)
    assert_type(plan.shown_, Ints)
    trained = CNNFeatureExtractor().fit(images, y)
    losses = TrainingCurveDisplay.from_estimator(trained, scores={"map": [0.5]}, linewidth=2)
    assert_type(losses.plot(losses.ax_), TrainingCurveDisplay)
    assert_type(losses.score_ax_, Axes | None)


# Parts of networks ------------------------------------------------------------------------------


def build_networks(X: NDArray[np.float32], path: Path) -> None:
    trunk = build_backbone("small", pooling="gem", image_size=32)
    assert_type(trunk, Trunk)
    assert_type(trunk.resizing, Resizing)
    build_backbone("resnet18", image_size=224, resize_size="source")
    CNNFeatureExtractor(resize_size="source").set_params(resize_size=256)
    assert_type(trunk.unpooled(torch.zeros(2, 3, 32, 32)), torch.Tensor)
    freeze_batch_norm(trunk)
    assert_type(build_mlp(16, **row_statistics(X)), RowTrunk)
    assert_type(read_weights(path), dict[str, torch.Tensor])
    assert_type(sorted(BACKBONES) + sorted(ENHANCEMENTS) + sorted(POOLINGS), list[str])
    torch.nn.ModuleList([AveragePooling(), MaxPooling(), GeMPooling(p=3 + SMALLEST_P)])


def lose(outputs: torch.Tensor, y: torch.Tensor) -> None:
    for loss in (
        SoftmaxLoss(),
        SquaredHingeLoss(),
        ContrastiveLoss(),
        TripletLoss(),
        LRMLLoss(),
        CPFLoss(**CPF_CONSTANTS["cub"]),
        DSHLoss(),
        DFEHLoss(balance_reduction="mean"),
        MultilevelLoss(similar_weight="balanced"),
        CNNHLoss(),
        DLBHCLoss(),
        DNNHLoss(),
        DPSHLoss(),
        HashNetLoss(),
        GreedyHashLoss(),
        CSQLoss(quantization="log_cosh"),
        OrthoHashLoss(),
        DCHLoss(form="code"),
    ):
        assert_type(loss(outputs, y), torch.Tensor)
        CNNFeatureExtractor(loss=loss)
    CNNFeatureExtractor(loss=torch.nn.CrossEntropyLoss())
    CNNFeatureExtractor(loss=my_loss)
    assert_type(takes_soft_targets(my_loss), bool)
    assert_type(takes_sample_weight(my_loss), bool)
    assert_type([output_of(my_loss), sampling_of(my_loss), hash_layer_of(my_loss)][0] == "", bool)
    assert_type(sorted(LOSSES), list[str])


def my_loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    similar = y[:, None] == y
    distances = squared_distances(outputs)
    parts = [
        balance_loss(outputs, axis="bit", reduction="sum"),
        contrastive_loss(outputs, similar, 2.0),
        cpf_loss(outputs, similar, tau=0.4),
        pair_mean(distances, similar),
        quantization_loss(outputs, norm="l2"),
        ranked_list_loss(distances, distances),
        squared_hinge_loss(outputs, outputs),
        staircase_loss(distances, distances),
        triplet_loss(distances, similar, 0.2),
        hash_centers(4, 16).float().mean(),
    ]
    return torch.stack(parts).sum()


def draw_batches(y: Ints) -> None:
    rng = np.random.default_rng(0)
    decks = {}
    assert_type(uniform_batches(100, 16, rng), list[Ints])
    assert_type(balanced_batches(y, 16, 4, rng, decks), list[Ints])
    assert_type(class_random_batches(y, 16, 4, rng), list[Ints])
    assert_type(mined_batches(y, 16, 2, 100, rng, embed=lambda rows: np.zeros((1, 1))), list[Ints])
    assert_type(PAIRS_AT_ONCE + len(y), int)


def modules_are_attributes() -> None:
    assert_type(sklearn_cbir.metrics.pair_f1([0], [0]), float)
    assert_type(sklearn_cbir.__version__, str)
