"""The commands: each opens an index, does one thing with it, and returns an exit code."""

import math
import os
import shlex
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

from sklearn.exceptions import UndefinedMetricWarning

from sklearn_cbir.cli._extractors import make_extractor
from sklearn_cbir.cli._place import HIDDEN, found_index, is_index, new_index
from sklearn_cbir.cli._printing import Results, counted, is_terminal, tell
from sklearn_cbir.cli._query import as_query, as_where
from sklearn_cbir.cli._sheet import check_sheet, draw_groups, draw_hits
from sklearn_cbir.collection import Hit, PhotoCollection, SyncReport
from sklearn_cbir.datasets import IGNORED_NAMES
from sklearn_cbir.images import Text

FOUND, NOTHING = 0, 1
KNOWING = "open_clip/ViT-B-32 or open_clip/ViT-B-16-SigLIP2"
OF_A_NEW_INDEX = (
    *("backbone", "weights", "features", "extractor", "device"),
    *("labels", "label_column", "exclude", "dtype", "uri"),
)


# Making and keeping ------------------------------------------------------------------------------


def index(options: Namespace) -> int:
    """Make an index of folders, and take their photos in."""
    place = new_index(options)
    if is_index(place):
        return _index_again(options, place)
    labels = _labels(options)
    for folder in options.folders:
        if not os.path.isdir(os.path.expanduser(folder)):
            raise FileNotFoundError(f"There is no folder {folder!r}.")
    extractor = make_extractor(options)
    exclude = options.exclude and [*IGNORED_NAMES, *options.exclude]
    try:
        collection = PhotoCollection.create(
            place,
            options.folders,
            extractor,
            dtype=options.dtype or "float16",
            labels=labels,
            exclude=exclude,
            follow_links=options.follow_links,
            uri=options.uri,
        )
    except PermissionError as error:
        raise PermissionError(
            f"The index cannot be written to {place!r} ({error.strerror or error}). Choose another "
            "place with --index DIR."
        ) from error
    with collection:
        _sync(collection, options)
        n_photos = len(collection)
        if not n_photos:
            tell(f"There are no photos in {' or '.join(collection.roots)}.")
            return NOTHING
        about = collection.about()
    _say_made(options, about)
    return FOUND


def _say_made(options: Namespace, about: dict[str, Any]) -> None:
    """Say what describes the photos, where the index is, and how to search it."""
    place = about["path"]
    kind = "hidden folder" if os.path.basename(place) == HIDDEN else "folder"
    size = f"{_size(place) / 1e6:,.1f} MB"
    _say(options, f"{counted(about['n_ready'])}, described by {about['extractor']}.")
    _say(options, f"The index is the {kind} {place} ({size}).")
    given = shlex.quote(os.path.dirname(place) if kind == "hidden folder" else place)
    _say(options, f"Search it with: cbir search PHOTO --index {given}, or: cbir serve {given}")


def _size(place: str) -> int:
    """Return how many bytes an index has."""
    return sum(entry.stat().st_size for entry in os.scandir(place))


def _labels(options: Namespace) -> Any:
    """Return the source of labels, as a collection takes it."""
    if options.label_column is None:
        return options.labels
    if options.labels in (None, "folder"):
        raise ValueError("--label-column needs a CSV file: --labels FILE.")
    return options.labels, options.label_column


def _index_again(options: Namespace, place: str) -> int:
    """Add photos to an existing index, unless the options need another one."""
    asked = [name for name in OF_A_NEW_INDEX if getattr(options, name) is not None]
    asked = ["--" + name.replace("_", "-") for name in asked]
    asked += ["--follow-links"] * options.follow_links
    if asked:
        raise FileExistsError(
            f"There is already an index in {place!r}, made with its own options. `cbir sync` "
            f"adds what is new. For another one with {', '.join(asked)}, delete that folder "
            "first, or choose another place with --index DIR: photos are not touched."
        )
    with PhotoCollection.open(place) as collection:
        places = [os.path.realpath(os.path.expanduser(folder)) for folder in options.folders]
        if sorted(places) != sorted(map(os.path.realpath, collection.roots)):
            raise FileExistsError(
                f"The index in {place!r} belongs to {', '.join(collection.roots)}. Choose another "
                "place with --index DIR."
            )
        _say(options, f"There is already an index in {place}; adding what is new.")
        _sync(collection, options)
    return FOUND


def sync(options: Namespace) -> int:
    """Take in what is new, changed, moved and gone."""
    with PhotoCollection.open(found_index(options)) as collection:
        report = _sync(collection, options)
    if options.json:
        record = {name: getattr(report, name) for name in report.__dataclass_fields__}
        Results("json").put((), record)
    return FOUND


def _sync(collection: PhotoCollection, options: Namespace) -> SyncReport:
    """Sync, and say what was done; an interruption says what is kept."""
    verbose = int(not options.quiet and is_terminal(sys.stderr))
    try:
        report = collection.sync(options.retry, verbose=verbose)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Stopped. {counted(len(collection))} are in the index, and are kept; the next "
            "`cbir sync` continues."
        ) from None
    done = [
        f"{n:,} {name}"
        for name in ("added", "changed", "moved", "removed")
        if (n := getattr(report, name))
    ]
    _say(options, f"Photos: {', '.join([*done, f'{report.unchanged:,} as before'])}.")
    if report.unreadable:
        _say(
            options,
            f"{counted(report.unreadable)} cannot be read: `cbir info --unreadable` says why.",
        )
    if report.ignored:
        kinds = sorted(report.ignored.items(), key=lambda kind: -kind[1])
        listed = ", ".join(f"{n:,} x {ending or 'no ending'}" for ending, n in kinds[:8])
        _say(options, f"Left out, because they cannot be read as photos here: {listed}.")
        if {".heic", ".heif"} & set(report.ignored):
            _say(options, "To read .heic: pip install 'sklearn-cbir[heif]', then `cbir sync`.")
    return report


def compact(options: Namespace) -> int:
    """Take away the rows of photos that are gone."""
    with PhotoCollection.open(found_index(options)) as collection:
        n_rows = collection.compact()
    _say(options, f"{counted(n_rows, 'row')} of deleted or changed photos removed.")
    return FOUND


def relocate(options: Namespace) -> int:
    """Say where the photos are now, or the server that has the rows."""
    if options.place is None and options.uri is None:
        raise ValueError("Say what was moved: FOLDER, or --uri ADDRESS.")
    with PhotoCollection.open(found_index(options), uri=options.uri) as collection:
        if options.place is not None:
            collection.relocate(options.place, of=options.of)
        _say(
            options, f"The photos are in {', '.join(collection.roots)}. Continue with `cbir sync`."
        )
    return FOUND


def check(options: Namespace) -> int:
    """Look at all that is stored, byte by byte."""
    place = found_index(options)
    try:
        with PhotoCollection.open(place, read_only=True) as collection:
            collection.check()
            _say(options, f"The index of {counted(len(collection))} is not damaged.")
    except ValueError as error:
        tell(f"cbir: {error}")
        return NOTHING
    return FOUND


# Asking ------------------------------------------------------------------------------------------


def search(options: Namespace) -> int:
    """Find photos that are like a photo, or that words describe."""
    check_sheet(options.sheet)
    query = as_query(options)
    with _opened(options, None if isinstance(query, Text) else query) as collection:
        where = as_where(options.where, collection.roots)
        try:
            hits = collection.search([query], options.k, where)[0]
        except ValueError as error:
            if isinstance(query, Text) and not _knows(collection, query):
                raise ValueError(
                    "You cannot search with words: this index was made with "
                    f"{collection.about()['extractor']}, which does not understand them. Search "
                    "with a photo, or make another index, in another place (--index DIR), with "
                    f"a network that understands words: --backbone {KNOWING}. If {str(query)!r} "
                    "is a photo, use --photo."
                ) from error
            raise
        return _show(options, collection, hits, query)


def _knows(collection: PhotoCollection, words: Text) -> bool:
    """Return whether the network of a collection understands words."""
    extractor = collection.extractor
    first = extractor[0] if hasattr(extractor, "steps") else extractor
    try:
        first.encode_text([str(words)])
    except (AttributeError, ValueError):
        return False
    return True


def like(options: Namespace) -> int:
    """Find photos that are like some of the index, and unlike others."""
    check_sheet(options.sheet)
    with _opened(options) as collection:
        where = as_where(options.where, collection.roots)
        try:
            hits = collection.like(options.numbers, options.unlike, k=options.k, where=where)
        except ValueError as error:
            known = set(collection.items()["number"].tolist())
            for number in (*options.numbers, *options.unlike):
                if number not in known:
                    raise ValueError(
                        f"There is no photo {number} in this index. Numbers are the second column "
                        "of what `cbir search` prints."
                    ) from error
            raise
        return _show(options, collection, hits, _judged(options, collection))


def _judged(options: Namespace, collection: PhotoCollection) -> str | Text:
    """Return what a sheet shows for photos that are liked: the only one, or all in words."""
    if options.sheet is not None and len(options.numbers) == 1 and not options.unlike:
        items = collection.items()
        return str(items["path"][items["number"] == options.numbers[0]][0])
    unlike = ", unlike " * bool(options.unlike) + ", ".join(map(str, options.unlike))
    return Text("like " + ", ".join(map(str, options.numbers)) + unlike)


def _show(
    options: Namespace, collection: PhotoCollection, hits: Sequence[Hit], query: str | Text
) -> int:
    """Print, and draw, what was found."""
    results, is_hamming = Results(options.form), collection.metric == "hamming"
    for hit in hits:
        columns = _distance(hit, is_hamming), str(hit.number), hit.path
        results.put(columns, _record(hit), hit.path)
    if not hits:
        empty = " The index has no photos: add them with `cbir sync`." * (not len(collection))
        _say(options, f"Nothing was found.{empty}")
        return NOTHING
    if options.sheet is not None:
        draw_hits(options.sheet, query, hits, _unit(collection))
        _say(options, f"Drew {options.sheet}")
    return FOUND


def duplicates(options: Namespace) -> int:
    """Group photos that are there twice."""
    check_sheet(options.sheet)
    results = Results(options.form)
    with _opened(options) as collection:
        where = as_where(options.where, collection.roots)
        extractor = options.radius is None and collection.extractor
        if options.radius is None and not hasattr(extractor, "near_duplicates"):
            raise ValueError(_without_radius(collection, extractor))
        groups = collection.duplicates(options.radius, where)
        is_hamming = collection.metric == "hamming"
        for number, group in enumerate(groups, 1):
            for hit in group[1:] if options.others else group:
                columns = str(number), _distance(hit, is_hamming), str(hit.number), hit.path
                results.put(columns, {"group": number, **_record(hit)}, hit.path)
        if not groups:
            _say(options, "No duplicates were found.")
            return NOTHING
        n_photos = sum(map(len, groups))
        n_copies = n_photos - len(groups)
        copies = "a likely copy" if n_copies == 1 else "likely copies"
        _say(
            options,
            f"{counted(len(groups), 'group')} of likely duplicates: {counted(n_photos)}, "
            f"{n_copies:,} of them {copies}. Nothing is deleted.",
        )
        if options.sheet is not None:
            draw_groups(options.sheet, groups, _unit(collection))
            _say(options, f"Drew {options.sheet}")
    return FOUND


def _without_radius(collection: PhotoCollection, extractor: Any) -> str:
    """Return why an index has no duplicates by itself, and the commands that find them."""
    place = shlex.quote(f"{collection.path}-phash")
    folders = shlex.join(collection.roots)
    return (
        f"This index was made with {type(extractor).__name__}, for which a copy is hardly nearer "
        "than another photo of the same thing. Make a second index, of perceptual hashes: `cbir "
        f"index {folders} --features phash --index {place}`, and then `cbir duplicates {place}`. "
        "Or add --radius here: the largest distance between two duplicates, as in the first "
        "column of `cbir search`."
    )


def score(options: Namespace) -> int:
    """Say how well photos find others of their label."""
    with _opened(options) as collection:
        if collection.about()["labels"] is None:
            raise ValueError(
                "The photos of this index have no labels. Make an index with --labels folder "
                "(the top folders are labels), or with --labels FILE, a CSV file."
            )
        where = as_where(options.where, collection.roots)
        with warnings.catch_warnings(category=UndefinedMetricWarning, action="ignore"):
            found = collection.evaluate(options.metric, where)
    if n_alone := len(found.per_query) - len(found.worst):
        _say(options, f"{counted(n_alone)} left out: no other photo has their label.")
    results = Results("json" if options.json else "text")
    metric = "mean average precision" if options.metric == "map" else options.metric
    over = f"over {counted(len(found.worst))} that search for others with their label"
    if not options.per_class:
        _say(options, f"{metric}, {over}:")
        results.put((f"{found.score:.4f}",), {"metric": options.metric, "score": found.score})
        return FOUND
    _say(options, f"{metric} {found.score:.4f}, {over}. Classes, the lowest first:")
    for row in found.per_class.argsort(kind="stable"):  # NaN last
        label, value = str(found.classes[row]), float(found.per_class[row])
        is_known = not math.isnan(value)
        columns = f"{value:.4f}" if is_known else "-", label
        record = {"metric": options.metric, "label": label, "score": value if is_known else None}
        results.put(columns, record)
    return FOUND


def info(options: Namespace) -> int:
    """Say what the index is, or which photos cannot be read."""
    with _opened(options) as collection:
        if options.unreadable:
            return _show_unreadable(options, collection)
        about = collection.about()
    about["bytes"] = _size(about["path"])
    if options.form == "json":
        Results("json").put((), about)
        return FOUND
    for name, value in _lines(about):
        Results("text").put((f"{name + ':':<14}{value}",), {})
    return FOUND


def _lines(about: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what holds for an index, for people."""
    away = f", {about['n_away']:,} could not be reached" * bool(about["n_away"])
    photos = f"{about['n_ready']:,} can be searched, {about['n_unreadable']:,} cannot be read{away}"
    if about["kind"] is None:
        rows = "none yet"
    elif about["kind"] == "codes":
        rows = f"codes of {about['n_features']:,} bits"
    else:
        rows = f"{about['n_features']:,} numbers each, {about['kind']}"
    exclude = about["exclude"] or []
    own = [pattern for pattern in exclude if pattern not in IGNORED_NAMES]
    usual = "what is hidden or kept by programs" * (not exclude or len(own) < len(exclude))
    labels = {"folder": "the top folders", "table": "a table", None: "none"}[about["labels"]]
    return [
        ("index", about["path"]),
        *(("photos in", root) for root in about["roots"]),
        ("photos", photos),
        ("described by", about["extractor"]),
        ("rows", rows),
        *[("rows are at", about["uri"])] * (about["uri"] is not None),
        ("labels", labels),
        ("left out", ", ".join(filter(None, [usual, *own])) or "nothing"),
        ("links", "followed" if about["follow_links"] else "not followed"),
        ("size", f"{about['bytes'] / 1e6:,.1f} MB"),
    ]


def _show_unreadable(options: Namespace, collection: PhotoCollection) -> int:
    """Print the photos that cannot be read, and why."""
    items, results = collection.items(), Results(options.form)
    wanted = zip(items["number"], items["path"], items["state"], items["reason"])
    found = NOTHING
    for number, path, state, reason in wanted:
        if state == "ready":
            continue
        found = FOUND
        record = {"number": int(number), "path": path, "state": state, "reason": reason}
        results.put((str(number), path, reason), record, path)
    return found


def serve(options: Namespace) -> int:
    """Open a page to search by clicking, until Ctrl-C."""
    try:
        from sklearn_cbir.serve import run
    except ImportError as error:
        raise ImportError(
            f"The page needs {error.name}. Run: pip install 'sklearn-cbir[serve]'"
        ) from error
    with PhotoCollection.open(found_index(options)) as collection:
        run(
            collection,
            host=options.host,
            port=options.port,
            token=options.token,
            browser=options.browser,
            names=options.name,
        )
    return FOUND


def export(options: Namespace) -> int:
    """Write what the index knows to a file."""
    from sklearn_cbir.cli._export import check_out, write_out

    check_out(options.out, options.force)
    with _opened(options) as collection:
        n_photos = write_out(collection, options.out)
    if options.out != "-":
        _say(options, f"Wrote {counted(n_photos)} to {options.out}")
    return FOUND


# Inside ------------------------------------------------------------------------------------------


@contextmanager
def _opened(options: Namespace, photo: str | None = None) -> Any:
    """Open an index that is only read."""
    with PhotoCollection.open(found_index(options, photo), read_only=True) as collection:
        yield collection


def _record(hit: Hit) -> dict[str, Any]:
    return {
        "distance": hit.distance,
        "number": hit.number,
        "path": hit.path,
        "label": hit.label,
    }


def _distance(hit: Hit, is_hamming: bool) -> str:
    """Return a distance as text: counts of bits have no decimals."""
    return f"{hit.distance:.{0 if is_hamming else 4}f}"


def _unit(collection: PhotoCollection) -> str | None:
    return "bits" if collection.metric == "hamming" else None


def _say(options: Namespace, text: str) -> None:
    """Tell what is no result, unless nobody wants to know."""
    if not options.quiet:
        tell(text)


COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "index": index,
    "sync": sync,
    "search": search,
    "like": like,
    "duplicates": duplicates,
    "score": score,
    "info": info,
    "check": check,
    "compact": compact,
    "relocate": relocate,
    "export": export,
    "serve": serve,
}
