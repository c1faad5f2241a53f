"""Years of a collection: many syncs of a folder that changes at random, against a plain model."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from sklearn_cbir.collection import PhotoCollection, _segments, _sync
from sklearn_cbir.descriptors import PerceptualHash

LONG_AGO = 1_600_000_000 * 10**9  # ns
FOLDERS = ("", "a/", "b/", "b/c/")


class Folder:
    """A folder of photos that people change.

    Parameters
    ----------
    root : Path
        Where it lies.

    rng : Generator
        What decides how.
    """

    def __init__(self, root, rng):
        self.root, self.rng, self.n_written = root, rng, 0
        self.contents = {}  # path below the root -> seed of its image, negative if it is none
        for folder in FOLDERS:
            (root / folder).mkdir(parents=True, exist_ok=True)

    def change(self):
        """Do one thing to one photo."""
        known = sorted(self.contents)
        path = known[self.rng.integers(len(known))] if known else None
        doing = self.rng.choice(["add", "add", "copy", "remove", "move", "over", "write", "break"])
        if doing == "add" or path is None:
            self._write(self._new_path(), self.n_written)
        elif doing == "copy":
            copy = self._new_path()
            shutil.copy2(self.root / path, self.root / copy)
            self.contents[copy] = self.contents[path]
        elif doing == "remove":
            (self.root / path).unlink()
            del self.contents[path]
        elif doing in ("move", "over"):
            place = self._new_path() if doing == "move" else known[self.rng.integers(len(known))]
            os.replace(self.root / path, self.root / place)
            self.contents[place] = self.contents.pop(path)
        else:
            self._write(path, self.n_written if doing == "write" else -self.n_written)

    def pixels(self, path):
        """Return the image of a path."""
        return image_of(self.contents[path])

    def _new_path(self):
        self.n_written += 1
        name = "".join(self.rng.permutation(list("xyzXYZé")))
        return f"{FOLDERS[self.rng.integers(len(FOLDERS))]}{name}{self.n_written}.png"

    def _write(self, path, content):
        self.n_written += 1
        if content < 0:
            (self.root / path).write_bytes(b"broken %d" % content)
        else:
            Image.fromarray(image_of(content)).save(self.root / path)
        os.utime(self.root / path, ns=(LONG_AGO, LONG_AGO + self.n_written))
        self.contents[path] = content


def image_of(seed):
    return np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)


def numbers_of(collection, root):
    """The number of every photo, by its path below the root, and which can be read."""
    items = collection.items()
    paths = [os.path.relpath(path, root).replace(os.sep, "/") for path in items["path"]]
    assert len(set(paths)) == len(paths)
    ready = {path for path, state in zip(paths, items["state"]) if state == "ready"}
    return dict(zip(paths, items["number"].tolist())), ready


def check_numbers(before, numbers, contents_before, contents, last):
    """Compare numbers with the rules: kept, moved with the content, or new and never used."""
    gone, new = {}, {}
    for path, number in before.items():
        if path in numbers:
            assert numbers[path] == number
        else:
            gone.setdefault(contents_before[path], set()).add(number)
    for path, number in numbers.items():
        if path not in before:
            new.setdefault(contents[path], set()).add(number)
    n_moved = 0
    for content, found in new.items():
        left = gone.get(content, set())
        assert len(found & left) == min(len(found), len(left))
        n_moved += len(found & left)
        assert all(number > last for number in found - left)
    return n_moved, sum(map(len, new.values())) - n_moved, sum(map(len, gone.values())) - n_moved


def check_search(collection, folder, numbers, ready):
    """Compare what is found with distances from every photo that is there."""
    paths = sorted(ready, key=numbers.get)
    if not paths:
        assert collection.search([image_of(0)]) == [[]]
        return
    hasher = PerceptualHash()
    codes = hasher.transform([folder.pixels(path) for path in paths]).astype(int)
    queries = [folder.pixels(paths[0]), image_of(10**6)]
    of_number = {numbers[path]: row for row, path in enumerate(paths)}
    for query, hits in zip(
        hasher.transform(queries).astype(int), collection.search(queries, 10**6)
    ):
        distances = np.count_nonzero(codes != query, axis=1)
        assert [hit.distance for hit in hits] == sorted(distances)
        assert sorted(hit.number for hit in hits) == sorted(of_number)
        assert all(hit.distance == distances[of_number[hit.number]] for hit in hits)
        assert all(os.path.exists(hit.path) for hit in hits)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_collection_is_what_its_folder_is_for_years(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(_sync, "PHOTOS_AT_ONCE", 2)
    monkeypatch.setattr(_sync, "PHOTOS_PER_COMMIT", 3)
    monkeypatch.setattr(_segments, "ROWS_AT_LEAST", 8)
    rng = np.random.default_rng(seed)
    folder = Folder(tmp_path / "photos", rng)
    folder.change()
    index = folder.root / ".cbir"
    collection = PhotoCollection.create(index, folder.root, PerceptualHash())
    numbers, last, n_cut_off = {}, 0, 0
    transform = PerceptualHash.transform
    for _ in range(50):
        before, contents_before = numbers, dict(folder.contents)
        for _ in range(rng.integers(0, 12)):
            folder.change()
        if not folder.contents:
            folder._write("again.png", folder.n_written)
        if rng.random() < 0.3:  # it is cut off, and comes to its end another day
            left = int(rng.integers(0, 3))

            def cut_off(self, X):
                nonlocal left
                left -= 1
                if left < 0:
                    raise KeyboardInterrupt
                return transform(self, X)

            with monkeypatch.context() as patched:
                patched.setattr(PerceptualHash, "transform", cut_off)
                try:
                    collection.sync()
                except KeyboardInterrupt:
                    n_cut_off += 1
            collection.check()
            collection.sync()
            report = None
        else:
            report = collection.sync()
        numbers, ready = numbers_of(collection, folder.root)
        assert set(numbers) == set(folder.contents)
        assert ready == {path for path, content in folder.contents.items() if content >= 0}
        counts = check_numbers(before, numbers, contents_before, folder.contents, last)
        last = max(last, *numbers.values())
        if report is not None:
            assert (report.moved, report.added, report.removed) == counts
            assert report.unreadable == len(numbers) - len(ready)
        if rng.random() < 0.3:
            collection.compact()
        if rng.random() < 0.3:
            collection.close()
            collection = PhotoCollection.open(index)
        collection.check()
        check_search(collection, folder, numbers, ready)
        assert collection.sync().n_changes == 0
    assert n_cut_off > 3
    assert last > 50
    collection.close()
