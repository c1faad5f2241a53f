"""The files of a folder: manifest, descriptions and rows."""

import json

import numpy as np

from sklearn_cbir._files import replace_file
from sklearn_cbir.images import ImageReadError

FORMAT = 1
MANIFEST = "manifest.json"
# What must be the same for a folder to be continued, and what to call it.
WANTED = {
    "estimator": "another estimator or other parameters",
    "input": "other images",
    "n_samples": "other images",
    "shard_size": "another shard_size",
}


class Shard:
    """The two files of one shard."""

    def __init__(self, folder, number):
        self.number = number
        self.rows = folder / f"shard-{number:05d}.npy"
        self.about = folder / f"shard-{number:05d}.json"

    def is_finished(self, source, on_error):
        """Say whether the rows are there, and raise if they are not those of the images now."""
        if not self.rows.exists():
            return False
        about = self.read_about()
        if len(open_rows(self.rows)) != source.size(self.number) - len(about["skipped"]):
            raise ValueError(strange(self.rows))
        now = source.files(self.number) or []
        for before, after in zip(about["files"] or [], now):
            if before != after:
                raise ValueError(
                    f"{after[0]!r} has changed since {str(self.rows)!r} was written. Delete that "
                    "file to extract its images again, or use another folder."
                )
        if about["skipped"] and on_error == "raise":
            message = next(iter(about["skipped"].values()))
            raise ImageReadError(
                f"{message} An earlier call has skipped it: pass on_error='skip' again, or delete "
                f"{str(self.rows)!r} to try again.",
                int(next(iter(about["skipped"]))),
            )
        return True

    def read_about(self):
        """Return what the rows are: position of the first, files, and skipped images."""
        return read_json(self.about)


def check_folder(folder, manifest):
    """Raise unless the folder is new, or was begun by the same call."""
    if not (folder / MANIFEST).exists():
        if any(folder.glob("shard-*")):
            raise ValueError(
                f"{str(folder)!r} holds shards but no {MANIFEST}. Use another folder, or delete "
                "them."
            )
        folder.mkdir(parents=True, exist_ok=True)
        return
    found = read_manifest(folder)
    for name, meaning in WANTED.items():
        if found[name] != manifest[name]:
            raise ValueError(
                f"{str(folder)!r} holds shards of {meaning}. Use another folder, or delete this "
                "one to start anew."
            )


def read_manifest(folder):
    """Return the manifest of a folder if this version can read it."""
    path = folder / MANIFEST
    if not path.exists():
        raise ValueError(
            f"{str(folder)!r} holds no {MANIFEST}. Pass a folder that extract has written."
        )
    manifest = read_json(path)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    is_newer = isinstance(found, int) and found > FORMAT  # may hold anything
    if not isinstance(found, int) or not (is_newer or WANTED.keys() <= manifest.keys()):
        raise ValueError(f"{str(path)!r} was not written by extract. Use another folder.")
    if is_newer:
        raise ValueError(
            f"{str(folder)!r} was written in format {found}; this version of sklearn_cbir reads "
            f"up to {FORMAT}. Install a newer version."
        )
    return manifest


def summary(shards):
    """Return what is known of the rows when all shards are there."""
    kinds, n_rows, skipped = {}, 0, {}
    for shard in shards:
        rows = open_rows(shard.rows)
        skipped |= shard.read_about()["skipped"]
        n_rows += len(rows)
        if len(rows):
            kinds.setdefault((rows.dtype.str, rows.shape[1]), shard.rows)
    if not kinds:
        first = next(iter(skipped))
        raise ImageReadError(f"None of {len(skipped)} images can be read. {skipped[first]}")
    if len(kinds) > 1:
        one, other = list(kinds.items())[:2]
        raise ValueError(
            f"Rows differ: {one[0][0]} of width {one[0][1]} in {str(one[1])!r}, {other[0][0]} of "
            f"width {other[0][1]} in {str(other[1])!r}. Pass an estimator that gives all images "
            "rows of one kind."
        )
    ((dtype, n_features),) = kinds
    return {"dtype": dtype, "n_features": n_features, "n_rows": n_rows, "skipped": skipped}


def open_rows(path):
    """Return the rows of a shard, mapped into memory."""
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(strange(path)) from error


def strange(path):
    return (
        f"{str(path)!r} is not as it was written: truncated, or replaced. Delete the shard and "
        "call extract again."
    )


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(strange(path)) from error


def write_json(path, content):
    replace_file(path, json.dumps(content, indent=1).encode())
