"""Save and load fitted estimators without pickle: one file of arrays and JSON, checked in full.

The file is a zip archive, not compressed, of ``estimator.json`` and one ``.npy`` file per array.
Its comment ends in the SHA-256 of everything before, so that no bit can change unnoticed.
"""

import datetime
import decimal
import fractions
import hashlib
import importlib
import inspect
import json
import math
import os
import re
import struct
import sys
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
from sklearn.base import BaseEstimator

from sklearn_cbir._files import replacement
from sklearn_cbir._kinds import FORMER, KINDS, PACKAGE, class_of, kind_of
from sklearn_cbir._typing import PathLike
from sklearn_cbir._validation import shortened

if TYPE_CHECKING:  # torch is imported where there are modules
    from sklearn_cbir._saved_modules import Builder, Modules

__all__ = ["load", "save"]

FORMAT = 2
WITH_MODULES = 3  # which is only written where it is needed
# What each format that is read calls the kinds; nothing else of what they share has ever differed.
FORMATS = {1: FORMER, 2: {kind: kind for kind in KINDS}, 3: {kind: kind for kind in KINDS}}
DOCUMENT = "estimator.json"
TAIL = re.compile(rb"sklearn_cbir format (\d+), sha256 ([0-9a-f]{64})$")
DIGEST_LENGTH = 64
ARRAY_KINDS = "biufcSUmM"
NAME_LENGTH = 26  # place in the header of a member, whose last 4 bytes are lengths

# What a file may name, beside kinds. Of this package: estimators and re-rankers, and losses. Of
# scikit-learn: steps whose state is plain.
FAMILIES = (
    "sklearn_cbir.descriptors",
    "sklearn_cbir.features",
    "sklearn_cbir.embedding",
    "sklearn_cbir.hashing",
    "sklearn_cbir.onnx_extractor",
    "sklearn_cbir.whitening",
    "sklearn_cbir.reranking",
    "sklearn_cbir.neighbors",
    "sklearn_cbir.duplicates",
)
LOSSES = "sklearn_cbir.losses"
SCIKIT_LEARN = {
    "sklearn.pipeline": ["Pipeline", "FeatureUnion"],
    "sklearn.frozen": ["FrozenEstimator"],
    "sklearn.decomposition": ["PCA", "TruncatedSVD"],
    "sklearn.preprocessing": [
        "Binarizer",
        "FunctionTransformer",
        "MinMaxScaler",
        "Normalizer",
        "StandardScaler",
    ],
    "sklearn.feature_selection": ["VarianceThreshold"],
    "sklearn.random_projection": ["GaussianRandomProjection"],
}
# Values that plain JSON stands for: ids, above all. Types, what they are called, written and read.
PLAIN: dict[type, tuple[str, Callable[..., Any], Callable[[Any], object]]] = {
    bytes: ("bytes", bytes.hex, bytes.fromhex),
    uuid.UUID: ("uuid", str, uuid.UUID),
    datetime.datetime: ("datetime", datetime.datetime.isoformat, datetime.datetime.fromisoformat),
    datetime.date: ("date", datetime.date.isoformat, datetime.date.fromisoformat),
    datetime.time: ("time", datetime.time.isoformat, datetime.time.fromisoformat),
    decimal.Decimal: ("decimal", str, decimal.Decimal),
    fractions.Fraction: ("fraction", str, fractions.Fraction),
    datetime.timedelta: (
        "timedelta",
        lambda value: f"{value.days} {value.seconds} {value.microseconds}",
        lambda text: datetime.timedelta(*map(int, text.split())),
    ),
    complex: ("complex", repr, complex),
    range: ("range", lambda value: [value.start, value.stop, value.step], lambda v: range(*v)),
    # Of one system; other paths are those of the system that loads them.
    PurePosixPath: ("pure_posix_path", str, PurePosixPath),
    PureWindowsPath: ("pure_windows_path", str, PureWindowsPath),
}
# Callbacks watch a fit and are no part of its result; memory is a folder of pickles.
NOT_SAVED = {"_skl_callbacks", "memory"}


def save(estimator: BaseEstimator, path: PathLike, modules: "Modules" = None) -> None:
    """Write an estimator or a pipeline to one file, without pickle.

    You can load it without trusting the person who wrote it. An existing file is
    replaced only when the new one is complete. The ``memory`` of a pipeline and
    callbacks are left out.

    Parameters
    ----------
    estimator : estimator
        An estimator of this package, fitted or not, or a `Pipeline` of such and
        of simple scikit-learn steps (`PCA`, `StandardScaler`, `Normalizer`,
        `FrozenEstimator` and the like).

    path : str or path
        File to write. Any name; nothing is appended.

    modules : list of classes or dict of str to callable, default=None
        Classes of your own torch modules in `estimator`; each is called
        without arguments to build a module. Or a dict of names, and functions
        without arguments that build one. The file holds the name and the
        tensors of the state dict. `load` needs the same `modules`.

    Raises
    ------
    ValueError
        If a parameter or an attribute is not a plain value, an array or one of
        the objects above, for example a torch module that is not in `modules`;
        the message names it.

    OSError
        If the file cannot be written. The previous file is unchanged.

    See Also
    --------
    load : Read the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_cbir import NeighborsRetriever
    >>> retriever = NeighborsRetriever(1).fit([[0.0, 1.0], [1.0, 0.0]], ids=["p", "q"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "gallery.cbir")
    ...     save(retriever, path)
    ...     load(path).predict([[1.0, 0.1]])
    array([['q']], dtype='<U1')
    """
    if not isinstance(estimator, BaseEstimator):
        raise ValueError(
            f"estimator={shortened(estimator)} is not an estimator. Pass a fitted estimator or "
            "Pipeline."
        )
    encoder = _Encoder(modules)
    document = {
        "package": f"{PACKAGE} {importlib.import_module(PACKAGE).__version__}",
        "estimator": encoder.encode(estimator, type(estimator).__name__),
    }
    with replacement(path) as file:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(zipfile.ZipInfo(DOCUMENT), json.dumps(document, allow_nan=False))
            for number, array in enumerate(encoder.arrays):
                info = zipfile.ZipInfo(_array_name(number))
                with archive.open(info, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)
            number = WITH_MODULES if encoder.has_modules else FORMAT
            tail = f"sklearn_cbir format {number}, sha256 {'0' * DIGEST_LENGTH}"
            archive.comment = tail.encode()
        size = file.seek(0, 2)
        digest = _digest(file, size)
        file.seek(size - DIGEST_LENGTH)
        file.write(digest)


def load(path: PathLike, modules: "Modules" = None) -> Any:
    """Read a file of `save`, without pickle.

    No code in the file is executed. The file can only name estimators of this package,
    a few of scikit-learn's, and `modules`. A file of any other kind is refused,
    whatever its name.

    Parameters
    ----------
    path : str or path
        File that `save` wrote.

    modules : list of classes or dict of str to callable, default=None
        As for `save`. A file can use no other modules.

    Returns
    -------
    estimator
        The saved estimator, which gives the same answers, bit by bit.

    Raises
    ------
    ValueError
        If `save` did not write the file, if it is truncated, has changed since, has
        a newer format, or holds a module that `modules` does not build; the
        message names the path.

    ImportError
        If the estimator needs a package that is not installed, such as torch.

    See Also
    --------
    save : Write the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_cbir.whitening import LearnedWhitening
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "whitening.cbir")
    ...     save(LearnedWhitening(8), path)
    ...     load(path)
    LearnedWhitening(n_components=8)
    """
    builders = _builders(modules)
    with open(path, "rb") as file:
        kinds = FORMATS[_check(file, path)]
        try:
            with zipfile.ZipFile(file) as archive:
                folder = Path(os.fsdecode(path)).parent
                return _Decoder(archive, file, folder, kinds, builders).estimator()
        except _Unsupported as error:
            raise ValueError(f"{str(path)!r} {error}") from error
        except (MemoryError, OSError):  # a file that a gallery is in may be gone
            raise
        except ModuleNotFoundError as error:
            raise ImportError(
                f"{str(path)!r} needs {error.name}, which is not installed. Install it. To search "
                "without torch, export the network with sklearn_cbir.to_onnx where torch is, and "
                "save a pipeline of an OnnxExtractor."
            ) from error
        except Exception as error:
            raise ValueError(
                f"{str(path)!r} does not describe an estimator of this version "
                f"({type(error).__name__}: {error}). Save it again with the version that loads it."
            ) from error


def _check(file: IO[bytes], path: PathLike) -> int:
    """Return the format of a file that is complete, unchanged and of a format that is known."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 200))
    tail = TAIL.search(file.read())
    if tail is None:
        raise ValueError(
            f"{str(path)!r} is not a file of sklearn_cbir.persistence.save, or it is truncated. "
            "Save it again, or read it with the program that wrote it."
        )
    if _digest(file, size) != tail.group(2):
        raise ValueError(
            f"{str(path)!r} is corrupt: its bytes have changed since it was saved. Use another "
            "copy."
        )
    found = int(tail.group(1))
    if found not in FORMATS:
        raise ValueError(
            f"{str(path)!r} was saved in format {found}; this version of sklearn_cbir reads up to "
            f"{max(FORMATS)}. Install a newer version."
        )
    return found


def saved_digest(path: PathLike) -> str:
    """Return the SHA-256 at the end of a file of `save`, which identifies it; not verified."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - DIGEST_LENGTH))
        return file.read().decode("ascii", "replace")


def saved_description(path: PathLike) -> str:
    """Return a short description of the estimator in a file of `save`, without loading it."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            return _described(json.loads(archive.read(DOCUMENT))["estimator"])
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is damaged, or was not written by save.") from error


def _described(saved: dict[str, Any]) -> str:
    """Return a description of a saved object: its class, its network, its steps."""
    name, state = saved["class"].rpartition(".")[2], saved["state"]
    if "steps" in state:
        steps = [
            step.get("value", step) if isinstance(step, dict) else step for step in state["steps"]
        ]
        return " -> ".join(_described(step[1]) for step in steps if isinstance(step[1], dict))
    network = state.get("backbone")
    return f"{name}({network!r})" if isinstance(network, str) else name


def _digest(file: IO[bytes], size: int) -> bytes:
    """Return the SHA-256, in hexadecimal, of a file without the place of the digest."""
    digest, left = hashlib.sha256(), size - DIGEST_LENGTH
    file.seek(0)
    while left > 0:
        block = file.read(min(left, 2**20))
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()


def _array_name(number: int) -> str:
    return f"arrays/{number}.npy"


def _builders(modules: "Modules") -> "dict[str, Builder]":
    """Return the functions that build the user's own modules, by name; only these need torch."""
    if modules is None:
        return {}
    from sklearn_cbir._saved_modules import builders_of

    return builders_of(modules)


class _Unsupported(ValueError):
    """A complete file with content that `load` does not support."""


# Names of classes ----------------------------------------------------------------------------


def _name_of(cls: type) -> str | None:
    """Return the name of a class in files, its kind or its public path, or None."""
    kind = kind_of(cls)
    if kind is not None:
        return kind
    module = ".".join(part for part in cls.__module__.split(".") if not part.startswith("_"))
    is_listed = cls.__name__ in SCIKIT_LEARN.get(module, ())
    is_ours = module == LOSSES or (module in FAMILIES and issubclass(cls, BaseEstimator))
    if cls.__qualname__ != cls.__name__ or not (is_listed or is_ours):
        return None
    return f"{module}.{cls.__name__}"


def _class_of(name: str, kinds: dict[str, str]) -> type:
    """Return the class of a name; raise unless a file of its format may have it."""
    found = class_of(kinds[name]) if name in kinds else _public_class(name)
    if found is None:
        raise _Unsupported(f"names {name!r}, which is not loaded from files.")
    return found


def _public_class(name: str) -> type | None:
    """Return the public class of a name, or None if no file may have it."""
    module, _, attribute = name.rpartition(".")
    if module not in (*SCIKIT_LEARN, *FAMILIES, LOSSES):
        return None
    found = getattr(importlib.import_module(module), attribute, None)
    return found if inspect.isclass(found) and _name_of(found) == name else None


# Objects to JSON and arrays ------------------------------------------------------------------


class _Encoder:
    """Turn an estimator into JSON; arrays go into a list and are named by number."""

    def __init__(self, modules: "Modules" = None) -> None:
        self.arrays, self.builders, self.has_modules = [], _builders(modules), False

    def encode(self, value: Any, where: str) -> Any:
        """Return `value` as JSON, arrays apart; errors call it `where`."""
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) in self._writers:
            return self._writers[type(value)](self, value, where)
        if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
            return self._array(np.asarray(value), where)  # mapped into memory, say
        if isinstance(value, np.generic) and value.dtype.kind in "biufUmM":
            return {"is": "scalar", "dtype": value.dtype.str, "value": self._item(value, where)}
        if type(value) in PLAIN:
            name, write, _ = PLAIN[type(value)]
            return {"is": name, "value": write(value)}
        if isinstance(value, PurePath):
            return {"is": "path", "value": str(value)}
        if _is_timestamp(value):
            return {"is": "timestamp", "value": cast(Any, value).isoformat()}
        name = _name_of(type(value))
        if name is None and _is_module(value):
            return self._module(value, where)
        if name is None:
            raise ValueError(_cannot(value, where))
        if name.startswith(f"{LOSSES}."):
            return self._loss(value, name, where)
        return {"is": "object", "class": name, "state": self._state(value)}

    def _item(self, value: Any, where: str) -> Any:
        if value.dtype.itemsize > 8 and value.dtype.kind != "U":
            raise ValueError(_cannot(value, where))
        if value.dtype.kind in "mM":  # of some units, Python has no times
            return int(value.astype(np.int64))
        return self.encode(value.item(), where)

    def _float(self, value: Any, where: str) -> Any:
        return value if math.isfinite(value) else {"is": "float", "value": repr(value)}

    def _list(self, value: Any, where: str) -> Any:
        return [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]

    def _tuple(self, value: Any, where: str) -> Any:
        return {"is": "tuple", "value": self._list(value, where)}

    def _frozenset(self, value: Any, where: str) -> Any:
        items = self._list(list(value), where)  # in an order that no process changes
        return {"is": "frozenset", "value": sorted(items, key=json.dumps)}

    def _dict(self, value: Any, where: str) -> Any:
        keys = self._list(list(value), f"a key of {where}")
        values = [self.encode(item, f"{where}[{key!r}]") for key, item in value.items()]
        if all(type(key) is str for key in value):
            return {"is": "dict", "value": dict(zip(keys, values))}
        return {"is": "dict", "value": list(zip(keys, values))}

    def _array(self, value: Any, where: str) -> Any:
        if value.dtype.kind == "O":
            items = self._list(value.ravel().tolist(), where)
            return {"is": "objects", "shape": value.shape, "value": items}
        if value.dtype.kind not in ARRAY_KINDS:
            raise ValueError(_cannot(value, where))
        self.arrays.append(value)
        return {"is": "array", "number": len(self.arrays) - 1}

    def _random_state(self, value: Any, where: str) -> Any:
        state = value.get_state()
        if not isinstance(state, tuple):  # a bit generator of another kind
            raise ValueError(_cannot(value, where))
        return {"is": "random_state", "value": self._list(state, where)}

    def _state(self, value: Any) -> dict[str, Any]:
        """Return the attributes of an object, each under its name."""
        state = value.__getstate__() or {}
        state = {key: item for key, item in state.items() if key not in NOT_SAVED}
        cls = type(value).__name__
        return {key: self.encode(item, f"{cls}.{key}") for key, item in state.items()}

    def _loss(self, value: Any, name: str, where: str) -> dict[str, Any]:
        """Return the arguments of a loss; the user's object never holds learned values."""
        parameters = inspect.signature(type(value)).parameters.values()
        names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if not all(hasattr(value, name) for name in names):
            raise ValueError(_cannot(value, where))
        arguments = {name: getattr(value, name) for name in names}
        encoded = {key: self.encode(item, f"{where}.{key}") for key, item in arguments.items()}
        return {"is": "loss", "class": name, "arguments": encoded}

    def _module(self, value: Any, where: str) -> dict[str, Any]:
        """Return the name of the function that builds a user's own module, and its tensors."""
        from sklearn_cbir._saved_modules import frozen_of, name_of, tensors_of

        name = name_of(value, self.builders, where)
        if name is None:
            raise ValueError(_cannot(value, where))
        self.has_modules = True
        tensors = {
            key: [dtype, None if values is None else self._array(values.numpy(), where)]
            for key, dtype, values in tensors_of(value)
        }
        return {"is": "module", "name": name, "tensors": tensors, "frozen": frozen_of(value)}

    _writers = {
        float: _float,
        list: _list,
        tuple: _tuple,
        frozenset: _frozenset,
        dict: _dict,
        np.ndarray: _array,
        np.random.RandomState: _random_state,
    }


def _is_module(value: Any) -> bool:
    """Say whether a value is a module of torch, which is not imported to tell."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _is_timestamp(value: Any) -> bool:
    """Say whether a value is a moment of pandas, which need not be installed."""
    cls = type(value)
    return cls.__name__ == "Timestamp" and cls.__module__.partition(".")[0] == "pandas"


def _cannot(value: Any, where: str) -> str:
    """Say that a value cannot be saved, and what to do."""
    cls = type(value)
    if hasattr(value, "best_estimator_"):
        way = "Save its best_estimator_."
    elif where.startswith("GalleryIds."):
        way = (
            "Fit with ids that are text, numbers, bytes, dates, UUIDs, paths or tuples of "
            "these, or use joblib.dump for a file that only people who trust you load."
        )
    elif _is_module(value):
        way = (
            f"Pass modules=[{cls.__name__}], or modules={{'net': a function that builds it}}, "
            "to save and to load; to_onnx writes a file that needs no torch, and joblib.dump "
            "one that only people who trust you load."
        )
    else:
        way = (
            "Use names, numbers and arrays (set_params changes a parameter that you no longer "
            "need), or joblib.dump for a file that only people who trust you load."
        )
    kind = f"{cls.__module__}.{cls.__qualname__}"
    return f"{where} is a {kind}, which is not saved without pickle. {way}"


# JSON and arrays to objects ------------------------------------------------------------------


def _random_state(state: tuple[Any, ...]) -> np.random.RandomState:
    generator = np.random.RandomState()
    generator.set_state(state)
    return generator


# What is made of the value of a node, by what the node is.
FROM_VALUE: dict[str, Callable[[Any], object]] = {
    **{name: read for name, _, read in PLAIN.values()},
    "float": float,
    "path": Path,
    "timestamp": lambda text: importlib.import_module("pandas").Timestamp(text),
    "tuple": tuple,
    "frozenset": frozenset,
    "random_state": _random_state,
}


class _Decoder:
    """Build the estimator of an archive, whose bytes are those of `file`.

    `kinds` are the kinds by their names in this format, `builders` build modules by name.
    """

    def __init__(
        self,
        archive: zipfile.ZipFile,
        file: IO[bytes],
        folder: Path,
        kinds: dict[str, str],
        builders: "dict[str, Builder]",
    ) -> None:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise _Unsupported("holds compressed members, which save does not write.")
        self.archive, self.file, self.folder = archive, file, folder
        self.kinds, self.builders = kinds, builders

    def estimator(self) -> Any:
        """Return the estimator that the archive describes."""
        estimator = self.decode(json.loads(self.archive.read(DOCUMENT))["estimator"])
        if not isinstance(estimator, BaseEstimator):
            raise _Unsupported("holds no estimator.")
        return estimator

    def decode(self, node: Any) -> Any:
        """Return the value that `encode` wrote as this node of the JSON."""
        if isinstance(node, list):
            return [self.decode(item) for item in node]
        if not isinstance(node, dict):
            return node
        if node["is"] in FROM_VALUE:
            return FROM_VALUE[node["is"]](self.decode(node["value"]))
        return self._readers[node["is"]](self, node)

    def _scalar(self, node: Any) -> Any:
        dtype, value = np.dtype(node["dtype"]), self.decode(node["value"])
        return np.int64(value).view(dtype) if dtype.kind in "mM" else dtype.type(value)

    def _dict(self, node: Any) -> Any:
        pairs = node["value"]
        pairs = pairs.items() if isinstance(pairs, dict) else pairs
        return {self.decode(key): self.decode(item) for key, item in pairs}

    def _objects(self, node: Any) -> Any:
        items = self.decode(node["value"])
        return np.fromiter(items, dtype=object, count=len(items)).reshape(node["shape"])

    def _array(self, node: Any) -> Any:
        """Read an array; its header must fit the length of the member."""
        info = self.archive.getinfo(_array_name(int(node["number"])))
        member, start = self.file, self._find(info)
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, in_columns, dtype = read(member)
        size = math.prod(shape) * dtype.itemsize
        if dtype.kind not in ARRAY_KINDS or size != info.file_size - (member.tell() - start):
            raise _Unsupported(f"holds an array {info.filename!r} that is not complete.")
        array = np.empty(shape[::-1] if in_columns else shape, dtype)
        if size:
            view, n_read = memoryview(array.reshape(-1).view(np.uint8).data), 0
            while n_read < size:
                n_read += cast(Any, member).readinto(view[n_read:]) or _raise_end()
        return array.T if in_columns else array

    def _find(self, info: zipfile.ZipInfo) -> int:
        """Go to the first byte of a member, and return the position.

        zipfile would check the bytes once more, which takes longer.
        """
        self.file.seek(info.header_offset + NAME_LENGTH)
        lengths = struct.unpack("<2H", self.file.read(4))  # of the name, and of what follows it
        return self.file.seek(sum(lengths), os.SEEK_CUR)

    def _object(self, node: Any) -> Any:
        cls = _class_of(node["class"], self.kinds)
        nodes = {key: item for key, item in node["state"].items() if key not in NOT_SAVED}
        state = {key: self.decode(item) for key, item in nodes.items()}
        if node["class"] == "sklearn.pipeline.Pipeline":
            state["memory"] = None
        value: Any = object.__new__(cls)
        if hasattr(value, "__setstate__"):
            value.__setstate__(state)
        else:
            vars(value).update(state)
        if hasattr(value, "look_in"):  # a gallery whose file was moved together with this one
            value.look_in(self.folder)
        return value

    def _loss(self, node: Any) -> Any:
        cls = _class_of(node["class"], self.kinds)
        return cls(**{key: self.decode(item) for key, item in node["arguments"].items()})

    def _module(self, node: Any) -> Any:
        """Build a user's own module with a function passed to `load`, and fill its tensors."""
        name = node["name"]
        if name not in self.builders:
            raise _Unsupported(
                f"holds a module {name!r}. Pass modules=[{name}], its class, or "
                f"modules={{{name!r}: a function that builds it}}, as for save."
            )
        import torch

        from sklearn_cbir._saved_modules import rebuilt

        tensors = {
            key: (dtype, None if array is None else torch.from_numpy(self.decode(array)))
            for key, (dtype, array) in node["tensors"].items()
        }
        try:
            return rebuilt(name, self.builders[name], tensors, node["frozen"])
        except ValueError as error:
            raise _Unsupported(f"is not loaded: {error}") from error

    _readers = {
        "scalar": _scalar,
        "dict": _dict,
        "objects": _objects,
        "array": _array,
        "object": _object,
        "loss": _loss,
        "module": _module,
    }


def _raise_end() -> NoReturn:
    raise _Unsupported("ends within an array.")
