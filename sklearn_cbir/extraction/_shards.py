"""The files of a folder: manifest, descriptions and rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sklearn_cbir._files import is_there, replace_file
from sklearn_cbir.images import ImageReadError

if TYPE_CHECKING:
    from sklearn_cbir.extraction._source import Source

FORMAT = 1
MANIFEST = "manifest.json"
N_LISTED = 100  # paths in a message
# What must be the same for a folder to be continued, and what to call it.
WANTED = {
    "estimator": "another estimator or other parameters",
    "input": "other images",
    "n_samples": "other images",
    "shard_size": "another shard_size",
}


@dataclass
class Look:
    """A shard as it is found: which of its images have changed, were skipped, can be retried."""

    shard: Shard
    is_there: bool = False
    changed: list[str] = field(default_factory=list)  # paths of other size or time of change
    gone: list[str] = field(default_factory=list)  # paths that cannot be found now, but have a row
    skipped: dict[int, str] = field(default_factory=dict)  # position in X -> why
    retry: bool = False  # whether an image that was skipped can be read now

    @property
    def is_finished(self) -> bool:
        return self.is_there and not self.changed and not self.retry


class Shard:
    """The two files of one shard."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number: int = number
        self.rows: Path = folder / f"shard-{number:05d}.npy"
        self.about: Path = folder / f"shard-{number:05d}.json"

    def look(self, source: Source) -> Look:
        """Return the shards that are there, compared with the images as they are now."""
        if not is_there(self.rows):
            return Look(self)
        about = self.read_about()
        skipped = {int(position): why for position, why in about["skipped"].items()}
        if len(open_rows(self.rows)) != source.size(self.number) - len(skipped):
            raise ValueError(strange(self.rows))
        now = source.files(self.number) or []
        look = Look(self, is_there=True, skipped=skipped)
        # Written before temporary faults were told apart: any of them may be one.
        retry = set(about.get("temporary", skipped))
        for position, (before, after) in enumerate(zip(about["files"] or [], now), about["first"]):
            if before == after:
                continue
            if position in skipped:
                retry.add(position)
            elif after[1] is None:
                look.gone.append(after[0])
            else:
                look.changed.append(after[0])
        look.retry = source.any_readable(sorted(retry))
        return look

    def read_about(self) -> dict[str, Any]:
        """Return the position of the first row, the files, and the skipped images."""
        return read_json(self.about)


def check_folder(folder: Path, manifest: dict[str, Any]) -> bool:
    """Say whether the folder is new; raise unless it is, or was begun by the same call."""
    if not is_there(folder / MANIFEST):
        if any(folder.glob("shard-*")):
            raise ValueError(
                f"{str(folder)!r} holds shards but no {MANIFEST}. Use another folder, or delete "
                "them."
            )
        if is_there(folder) and not folder.is_dir():
            raise NotADirectoryError(f"folder={str(folder)!r} is a file. Pass a folder.")
        folder.mkdir(parents=True, exist_ok=True)
        return True
    found = read_manifest(folder)
    _check_comparable(folder, found, manifest)
    for name, meaning in WANTED.items():
        if found[name] != manifest[name]:
            images = name in ("input", "n_samples")
            more = " New images can be extracted alone, into another folder." if images else ""
            if name == "estimator":
                more = _what_differs(found, manifest)
            raise ValueError(
                f"{str(folder)!r} holds shards of {meaning}. Use another folder, or delete this "
                f"one to start again.{more}"
            )
    return False


def _check_comparable(folder: Path, found: dict[str, Any], manifest: dict[str, Any]) -> None:
    """Raise if it cannot be known whether two estimators are the same."""
    if found.get("key_version", 1) < manifest["key_version"]:
        reason = (
            "was written by an earlier version, which did not store the code of estimators, so "
            "this one cannot be compared with it"
        )
    elif unknown := manifest.get("unknown", found.get("unknown")):
        reason = f"holds shards of an estimator that cannot be compared with this one: {unknown}"
    else:
        return
    raise ValueError(
        f"{str(folder)!r} {reason}. Use another folder, or delete this one to start again; "
        "load_features opens it if it is complete."
    )


def _what_differs(found: dict[str, Any], manifest: dict[str, Any]) -> str:
    """Return a sentence that names the parts of two estimators that are not the same."""
    before, now = found.get("parts", {}), manifest.get("parts", {})
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    names = ["what it has learned" if name.endswith("._network_state") else name for name in names]
    way = ""
    if any(name.endswith(".runtime") for name in names):
        way = " Only the same runtime can continue shards: set runtime to that one."
    return f" What differs: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}.{way}"


def check_found(looks: Iterable[Look], on_error: str, on_change: str) -> None:
    """Raise unless the shards that are there can stay, or may be made again."""
    changed = [(path, look.shard) for look in looks for path in look.changed]
    if changed and on_change == "raise":
        raise ValueError(_what_changed(changed))
    if on_error == "skip":
        return  # a row that was made stays while its file is away
    gone = [(path, look.shard) for look in looks for path in look.gone]
    if gone:
        (path, shard), *others = gone
        more = f", as {len(others)} more{_listed(others)}" if others else ""
        raise ValueError(
            f"{path!r} has changed since {str(shard.rows)!r} was written: it cannot be found "
            f"now{more}. Bring the files back, or pass on_error='skip' to keep their rows."
        )
    for look in looks:
        if look.is_finished and look.skipped:
            position = next(iter(look.skipped))
            raise ImageReadError(
                f"{look.skipped[position]} An earlier call has skipped it: pass on_error='skip' "
                f"again, or delete {str(look.shard.rows)!r} to try again.",
                position,
            )


def _what_changed(changed: Sequence[tuple[str, Shard]]) -> str:
    (path, shard), *others = changed
    more = f", and so have {len(others)} more of their shards{_listed(others)}" if others else ""
    return (
        f"{path!r} has changed since {str(shard.rows)!r} was written{more}. Pass "
        "on_change='extract' to make the shards of such files again, or use another folder."
    )


def _listed(found: Sequence[tuple[str, Shard]]) -> str:
    """Return the paths of `found` as the end of a sentence."""
    names = ", ".join(repr(path) for path, _ in found[:N_LISTED])
    return f": {names}" + (", ..." if len(found) > N_LISTED else "")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a folder if this version can read it."""
    path = folder / MANIFEST
    if not is_there(path):
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


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a folder unless an equal one is there."""
    path = folder / MANIFEST
    if read_json(path) != json.loads(json.dumps(manifest)):
        write_json(path, manifest)


def summary(shards: Iterable[Shard]) -> dict[str, Any]:
    """Return the part of a manifest that describes the rows of all shards together."""
    kinds: dict[tuple[str, int], Path] = {}
    n_rows, skipped, reasons, temporary = 0, {}, {}, []
    for shard in shards:
        rows = open_rows(shard.rows)
        about = shard.read_about()
        skipped |= about["skipped"]
        reasons |= about.get("reasons", about["skipped"])
        temporary += about.get("temporary", [])
        n_rows += len(rows)
        if len(rows):
            kinds.setdefault((rows.dtype.str, rows.shape[1]), shard.rows)
    if not kinds:
        first = next(iter(skipped))
        raise ImageReadError(f"None of {len(skipped)} images can be read. {skipped[first]}")
    if len(kinds) > 1:
        one, other = list(kinds.items())[:2]
        raise ValueError(
            f"Rows differ: {one[0][0]} of width {one[0][1]} in {str(one[1])!r}, {other[0][0]} "
            f"of width {other[0][1]} in {str(other[1])!r}. Pass an estimator that gives all "
            "images rows of one width and dtype."
        )
    ((dtype, n_features),) = kinds
    return {
        "dtype": dtype,
        "n_features": n_features,
        "n_rows": n_rows,
        "skipped": skipped,
        "reasons": reasons,
        "temporary": temporary,
    }


def open_rows(path: Path) -> np.ndarray:
    """Return the rows of a shard, mapped into memory."""
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(strange(path)) from error


def strange(path: Path) -> str:
    return (
        f"{str(path)!r} has changed since it was written: it was truncated or replaced. Delete "
        "the shard and call extract again."
    )


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(strange(path)) from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    replace_file(path, json.dumps(content, indent=1).encode())
