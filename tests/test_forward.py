"""Images are read beside the network, and what comes out is as if they were not."""

import gc
import platform
import threading
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, _base, _forward
from sklearn_cbir._batches import ImageSource
from sklearn_cbir._forward import forward
from sklearn_cbir._threads import in_order, n_cores
from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.extraction import extract
from sklearn_cbir.images import ImageReadError, check_images

IMAGES, Y = make_shapes(40, n_classes=3, image_size=16, random_state=0)
CPU = torch.device("cpu")
ESTIMATORS = [
    CNNFeatureExtractor("small", weights=None, loss=None),
    CNNFeatureExtractor("small", weights=None, loss=None, scales=(0.5, 1.0)),
    DeepHasher(8, backbone="small", weights=None, max_epochs=1),
    CPFEmbedder(8, backbone="small", weights=None, max_epochs=1, threshold_fraction=0),
]


def fitted(estimator, **params):
    """Return a fitted estimator of small batches."""
    params = {"batch_size": 8, "random_state": 0} | params
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="loss=None and weights=None")
        return with_one_thread(estimator.set_params(**params).fit, IMAGES, Y)


@pytest.fixture
def two_threads(monkeypatch):
    """Two cores, and as many threads of torch; forward passes of three images."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(_forward, "PIXELS_AT_ONCE", 3 * 16**2 + 5)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path):
    """Paths of 40 photos."""
    paths = [str(tmp_path / f"{number:02}.png") for number in range(len(IMAGES))]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    return paths


def damage(path):
    """Change pixels of a PNG file, which is seen when it is decoded, and not before."""
    content = bytearray(Path(path).read_bytes())
    at = content.index(b"IDAT") + 4
    content[at : at + 20] = bytes(20)
    Path(path).write_bytes(content)


def with_one_thread(function, *args, **kwargs):
    """Return what a function returns, or raises, with all of it in this thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(*args, **kwargs)
    finally:
        torch.set_num_threads(before)


class Watched:
    """A source of images, which says what is asked of it."""

    n_pixels = 16**2

    def __init__(self, n, fails=(), seconds=0.0):
        self.n, self.fails, self.seconds = n, fails, seconds
        self.lock = threading.Lock()
        self.threads, self.n_alive, self.most_alive = set(), 0, 0

    def __len__(self):
        return self.n

    def read(self, indices):
        self.threads.add(threading.current_thread())
        with self.lock:
            self.n_alive += len(indices)
            self.most_alive = max(self.most_alive, self.n_alive)
        time.sleep(self.seconds)
        for index in self.fails:
            if index in indices:
                raise OSError(index)
        images = torch.zeros(len(indices), 3, 2, 2, dtype=torch.uint8)
        images += torch.from_numpy(indices).to(torch.uint8)[:, None, None, None]
        return images

    def embed(self, images):
        """Return the numbers of the images, which are no longer needed then."""
        time.sleep(self.seconds)
        vectors = images[:, :1, 0, 0].float()
        with self.lock:
            self.n_alive -= len(images)
        return vectors

    def rows(self, batch_size=8, device=CPU, **options):
        options = {"is_shareable": True} | options
        return forward(self.embed, self, batch_size, device, **options)


# The same rows ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_rows_are_the_same_bit_for_bit_with_and_without_threads(estimator, folder):
    fitted(estimator)
    photos = [Image.fromarray(image) for image in IMAGES[:21]]
    for X in (IMAGES, folder, photos):
        assert np.array_equal(estimator.transform(X), with_one_thread(estimator.transform, X))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("n", [1, 3, 4, 8, 9, 40])
def test_any_number_of_images_comes_back_in_order(n):
    rows = np.concatenate(list(Watched(n).rows()))
    assert np.array_equal(rows, np.arange(n)[:, None])


@pytest.mark.usefixtures("two_threads")
def test_a_slow_photo_holds_back_those_behind_it(folder, monkeypatch):
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None))
    expected = estimator.transform(folder)
    read = ImageSource.read

    def slowly(self, indices, rng=None):
        time.sleep(0.3 if 0 in indices else 0)
        return read(self, indices, rng)

    monkeypatch.setattr(ImageSource, "read", slowly)
    assert np.array_equal(estimator.transform(folder), expected)


@pytest.mark.usefixtures("two_threads")
def test_shards_are_those_of_one_thread(folder, tmp_path):
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None))
    shards = extract(estimator, folder, tmp_path / "shards", shard_size=16)
    assert np.array_equal(shards.load(), with_one_thread(estimator.transform, folder))


@pytest.mark.usefixtures("two_threads")
def test_a_collection_has_the_rows_of_one_thread(folder, tmp_path):
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None))
    place = str(tmp_path)

    def rows_of_collection(name):
        with PhotoCollection.create(tmp_path / name, place, estimator) as collection:
            assert collection.sync().added == 40
            queries = [Image.fromarray(image) for image in IMAGES[:5]]
            found = collection.search(queries, k=40)
            return [[(hit.path, hit.distance) for hit in hits] for hits in found]

    there, here = rows_of_collection(".a"), with_one_thread(rows_of_collection, ".b")
    assert there == here


@pytest.mark.usefixtures("two_threads")
def test_openvino_gives_the_same_bits_with_and_without_threads(folder):
    pytest.importorskip("openvino")
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None))
    by_torch = estimator.transform(folder)
    estimator.set_params(runtime="openvino")
    found = estimator.transform(folder)
    assert np.array_equal(found, with_one_thread(estimator.transform, folder))
    assert 0 < np.abs(found - by_torch).max() < 1e-5


@pytest.mark.usefixtures("two_threads")
def test_two_threads_ask_openvino_at_a_time(folder, monkeypatch):
    openvino = pytest.importorskip("openvino")
    compiled = []
    compile_model = openvino.Core.compile_model

    def noted(self, model, device, options):
        compiled.append((options["INFERENCE_NUM_THREADS"], options["NUM_STREAMS"]))
        return compile_model(self, model, device, options)

    monkeypatch.setattr(openvino.Core, "compile_model", noted)
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None, runtime="openvino"))
    estimator.transform(folder)  # by two threads of one each
    estimator.transform(folder[:3])  # by one request that has both
    assert compiled == [(2, 2), (2, 1)]


# Beside each other -----------------------------------------------------------------------------


@pytest.mark.usefixtures("two_threads")
def test_two_threads_read_and_compute_at_a_time():
    meeting = threading.Barrier(2)

    def embed(images):
        meeting.wait(20)  # or it is broken, which raises
        assert torch.get_num_threads() == 1
        return images[:, :1, 0, 0].float()

    source = Watched(11)  # in four parts
    source.embed = embed
    assert len(np.concatenate(list(source.rows()))) == 11
    assert len(source.threads) == 2
    assert threading.current_thread() not in source.threads


@pytest.mark.usefixtures("two_threads")
def test_one_thread_of_torch_keeps_all_in_the_callers():
    source = Watched(20)
    with_one_thread(list, source.rows())
    assert source.threads == {threading.current_thread()}


@pytest.mark.usefixtures("two_threads")
def test_few_images_are_computed_with_all_threads_of_torch():
    source = Watched(3)
    source.embed = lambda images: torch.full((len(images), 1), torch.get_num_threads())
    assert np.concatenate(list(source.rows())).tolist() == [[2.0]] * 3
    assert source.threads == {threading.current_thread()}


@pytest.mark.usefixtures("two_threads")
def test_threads_of_other_threads_stay_as_they_are(folder):
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None))
    estimator.transform(folder)
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *found] == [2, 2]


@pytest.mark.usefixtures("two_threads")
def test_work_is_not_cut_into_pieces_inside_a_piece():
    assert list(in_order(lambda _: n_cores(), range(4), 2, 2)) == [1] * 4
    assert n_cores() == 2


@pytest.mark.usefixtures("two_threads")
def test_two_extractors_transform_at_once(folder):
    estimators = [
        fitted(CNNFeatureExtractor("small", weights=None, loss=None, random_state=seed))
        for seed in (0, 1)
    ]
    expected = [estimator.transform(folder) for estimator in estimators]
    found = {}

    def work(number):
        found[number] = estimators[number % 2].transform(folder)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], expected[number % 2]) for number in range(4))


class Keeping(nn.Module):
    """A backbone that keeps something of a call until the end of it, as with a hook."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)
        self.sizes = []

    def forward(self, x):
        self.kept = x
        self.sizes.append(len(x))
        time.sleep(0.01)
        assert self.kept is x
        return self.layer(self.kept)


@pytest.mark.usefixtures("two_threads")
def test_a_module_of_ones_own_is_asked_by_one_thread_at_a_time_for_whole_batches():
    backbone = Keeping()
    estimator = fitted(CNNFeatureExtractor(backbone, loss=None))
    backbone = estimator._fitted_network().trunk.features
    backbone.sizes.clear()
    assert len(estimator.transform(IMAGES[:20])) == 20
    assert backbone.sizes == [8, 8, 4]


# Memory ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("seconds", [0.0, 0.002])
def test_no_more_than_four_batches_are_read_ahead(batch_size, seconds):
    source = Watched(60, seconds=seconds)
    for _ in source.rows(batch_size):
        time.sleep(0.001)
    assert source.most_alive <= 5 * batch_size
    assert source.n_alive == 0


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_a_layer_frees_is_kept_for_the_next():
    import resource

    with_one_thread(list, Watched(1).rows())
    faults = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        layers = [torch.ones(2**21) for _ in range(3)]  # 8 MB each
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        del layers
    # Of 6,144 pages. Something else may take a piece of what was freed now and then.
    assert min(faults[1:]) < 100


# What fails ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("most_scanned", [0, 20_000])
def test_unreadable_photos_are_named_as_with_one_thread(folder, monkeypatch, most_scanned):
    monkeypatch.setattr("sklearn_cbir.images._readable.MAX_SCANNED", most_scanned)
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None))
    for number in (10, 15, 30):
        damage(folder[number])
    told = []
    for call in (estimator.transform, lambda X: with_one_thread(estimator.transform, X)):
        with pytest.raises(ImageReadError, match="X\\[10\\]") as caught:
            call(folder)
        told.append((str(caught.value), [fault.index for fault in caught.value.faults]))
    assert told[0] == told[1]
    assert told[0][1] == ([10, 15] if most_scanned == 0 else [10, 15, 30])


@pytest.mark.usefixtures("two_threads")
def test_the_first_failure_in_order_raises_after_the_rows_before_it():
    before = threading.active_count()
    rows = Watched(40, fails=(20, 13)).rows()
    assert next(rows).tolist() == [[0], [1], [2]]
    with pytest.raises(OSError, match="^13$"):
        list(rows)
    assert threading.active_count() == before


@pytest.mark.usefixtures("two_threads")
def test_a_row_that_is_not_finite_is_named(folder):
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None))
    network = estimator._fitted_network()
    embed = network.embed

    def broken(images):
        vectors = embed(images).clone()
        is_last = (images == torch.from_numpy(IMAGES[21]).permute(2, 0, 1)).flatten(1).all(dim=1)
        vectors[is_last] = torch.nan
        return vectors

    network.embed = broken
    before = threading.active_count()
    with pytest.raises(ValueError, match="X\\[21\\]: the network gave NaN"):
        estimator.transform(folder)
    assert threading.active_count() == before


@pytest.mark.usefixtures("two_threads")
def test_an_interrupted_transform_leaves_no_thread(folder, monkeypatch):
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None))

    def interrupted(iterable, **_):
        for number, tick in enumerate(iterable):
            if number == 2:
                raise KeyboardInterrupt
            yield tick

    monkeypatch.setattr(_base, "with_progress", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        estimator.transform(folder)
    assert threading.active_count() == before
    monkeypatch.undo()
    assert len(estimator.transform(folder)) == 40


@pytest.mark.usefixtures("two_threads")
def test_an_abandoned_iterator_leaves_no_thread():
    before = threading.active_count()
    source = Watched(40, seconds=0.002)
    rows = source.rows()
    next(rows)
    assert threading.active_count() == before + 2
    del rows
    gc.collect()
    assert threading.active_count() == before
    assert source.most_alive < 40


# On a GPU --------------------------------------------------------------------------------------


class FakeEvent:
    def record(self, stream):
        assert stream == "its stream"
        log.append("fetch")

    def synchronize(self):
        log.append("wait")


log = []  # of what is asked of a GPU


@pytest.fixture
def fake_cuda(monkeypatch):
    """What is asked of torch for a GPU, done on the processor and noted."""
    log.clear()
    empty, to = torch.empty, torch.Tensor.to

    def fake_empty(*args, pin_memory=False, **kwargs):
        tensor = empty(*args, **kwargs)
        tensor.is_pinned_here = pin_memory
        return tensor

    def fake_to(self, *args, **kwargs):
        if not args or getattr(args[0], "type", None) != "cuda":
            return to(self, *args, **kwargs)
        assert self.is_pinned_here
        assert kwargs == {"non_blocking": True}
        log.append("send")
        return self.clone()

    monkeypatch.setattr(torch, "empty", fake_empty)
    monkeypatch.setattr(torch.Tensor, "to", fake_to)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "its stream")


@pytest.mark.usefixtures("two_threads", "fake_cuda")
def test_a_gpu_has_its_next_batch_before_the_vectors_of_the_last_are_waited_for():
    source = Watched(20)
    embed = source.embed
    source.embed = lambda images: log.append(f"embed {len(images)}") or embed(images)
    rows = list(source.rows(device=torch.device("cuda")))
    assert [len(batch) for batch in rows] == [8, 8, 4]
    assert np.array_equal(np.concatenate(rows), np.arange(20)[:, None])
    begun = ["send", "embed 8", "fetch"]
    assert log == [*begun, *begun, "wait", "send", "embed 4", "fetch", "wait", "wait"]
    assert threading.current_thread() not in source.threads


@pytest.mark.usefixtures("two_threads", "fake_cuda")
@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_gpu_that_is_slow_lets_no_more_than_four_batches_be_read_ahead(batch_size):
    source = Watched(60)
    for _ in source.rows(batch_size, device=torch.device("cuda")):
        time.sleep(0.002)
    assert source.most_alive <= 5 * batch_size


@pytest.mark.usefixtures("two_threads", "fake_cuda")
def test_an_unreadable_photo_raises_in_order_on_a_gpu_too(folder):
    damage(folder[20])
    source = ImageSource(check_images(folder), 16, None)

    def embed(images):
        return images.flatten(1).float()

    rows = forward(embed, source, 8, torch.device("cuda"))
    assert np.array_equal(next(rows), IMAGES[:8].transpose(0, 3, 1, 2).reshape(8, -1))
    with pytest.raises(ImageReadError, match="X\\[20\\]"):
        list(rows)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_rows_of_whole_batches(folder):
    estimator = fitted(CNNFeatureExtractor("small", weights=None, loss=None), device="cuda")
    network = estimator._fitted_network()
    network.to("cuda")
    with torch.inference_mode():
        batches = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).split(8)
        expected = torch.cat([network.embed(batch.to("cuda")) for batch in batches])
    assert np.array_equal(estimator.transform(folder), expected.cpu().numpy())
