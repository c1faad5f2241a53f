"""Files of `to_onnx`: what they say about themselves, and a look at them before anything runs.

An ONNX file is one message of protocol buffers. Two entries of its metadata are ours: a description
in JSON, and, at the very end, the SHA-256 of all bytes before it. They are read here without the
package onnx; what `to_onnx` does not write is refused, above all what could reach out of the file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from sklearn_cbir._validation import shortened

FORMAT = 1
INPUT = "images"
DESCRIPTION = "sklearn_cbir"  # key of the description among the metadata
SEAL = "sklearn_cbir_sha256"
ZIP = b"PK\x03\x04"  # with which a zip archive begins
DOMAINS = (b"", b"ai.onnx")  # where the operators of ONNX itself are
EXPECTED = (
    f"expected a file of sklearn_cbir.export.to_onnx, with one input {INPUT!r}, uint8 of shape "
    f"(n, height, width, 3), and a description under {DESCRIPTION!r} in its metadata"
)
Gives: TypeAlias = Literal["vector", "code"]
# What a file gives: first what `transform` returns, last what must be finite.
OUTPUTS: dict[Gives, tuple[str, ...]] = {
    "vector": ("vectors",),
    "code": ("codes", "packed", "projections"),
}


@dataclass(frozen=True)
class Description:
    """What whoever runs a file must know; the field names are the keys of its JSON."""

    gives: Gives
    width: int  # of a vector, or of a code in bits
    size: tuple[int, int]  # height and width of the images, in px
    resize: int | None
    resize_mode: str
    interpolation: str
    fill: tuple[int, int, int]
    outputs: tuple[str, ...]
    feature_names: tuple[str, ...]
    estimator: str
    package: str
    backbone: Mapping[str, str | None]  # its name, and where it comes from
    scales: tuple[float, ...] = (1.0,)
    unit_length: bool = False
    format: int = field(default=FORMAT)


def sealed(model: bytes, description: Description) -> bytes:
    """Return an ONNX model without metadata, described and sealed."""
    text = json.dumps(asdict(description), allow_nan=False)
    described = model + _entry(DESCRIPTION, text)
    return described + _entry(SEAL, _digest(described))


def describe(content: bytes, name: str) -> Description:
    """Return the description of a file that is whole and safe to run; errors call it `name`.

    Raises ValueError if it is not a file of `to_onnx`, or has changed since, or if it needs
    more than itself and the operators of ONNX.
    """
    if content.startswith(ZIP):
        raise ValueError(
            f"{name} is not an ONNX file but a zip archive, as persistence.save writes: {EXPECTED}."
        )
    try:
        metadata, inputs = _walk(memoryview(content))
    except _Broken as error:
        raise ValueError(
            f"{name} is not an ONNX file, or it is damaged ({error}): {EXPECTED}. Use another "
            "copy, or export it again."
        ) from error
    except _Foreign as error:
        raise ValueError(
            f"{name} holds {error}, which to_onnx never writes and OnnxExtractor does not run: "
            f"{EXPECTED}."
        ) from error
    if DESCRIPTION not in metadata:
        has = f"has the inputs {shortened(inputs)}" if inputs else "has no inputs"
        raise ValueError(f"{name} is an ONNX file of another program and {has}: {EXPECTED}.")
    seal = _entry(SEAL, metadata.get(SEAL, ""))
    if not content.endswith(seal) or metadata[SEAL] != _digest(content[: -len(seal)]):
        raise ValueError(
            f"{name} is damaged, or has been changed since to_onnx wrote it. Take another copy, or "
            "export it again."
        )
    return _description(metadata[DESCRIPTION], name)


def _description(text: str, name: str) -> Description:
    """Return what the JSON of a file says."""
    try:
        found = json.loads(text)
        if found["format"] <= FORMAT:
            lists = {key: tuple(value) for key, value in found.items() if isinstance(value, list)}
            return _checked(Description(**(found | lists)))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{name} has a description that cannot be read ({type(error).__name__}: {error}). "
            "Export it again."
        ) from error
    raise ValueError(
        f"{name} was written in format {found['format']}; this version of sklearn_cbir reads up to "
        f"{FORMAT}. Install a newer version."
    )


def _checked(description: Description) -> Description:
    """Return a description whose parts fit each other."""
    if OUTPUTS[description.gives] != description.outputs:
        raise ValueError(f"outputs are {description.outputs}")
    if len(description.feature_names) != description.width:
        raise ValueError(f"{description.width} columns have {len(description.feature_names)} names")
    height, width = description.size
    if not (type(height) is type(width) is int and min(height, width) > 0):
        raise ValueError(f"size is {description.size}")
    return description


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Protocol buffers ------------------------------------------------------------------------------


class _Broken(ValueError):
    """Bytes that are no message."""


class _Foreign(ValueError):
    """A part that is refused; the message says which."""


VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5  # how a field is written
# The fields that are known, by message: the message that a field holds, "domain", or "" for plain
# values. All others are refused.
PLAIN = ""
MESSAGES: dict[str, dict[int, str]] = {
    "model": {
        **dict.fromkeys((1, 2, 3, 4, 5, 6), PLAIN),
        7: "graph",
        8: "operator set",
        14: "entry",
    },
    "operator set": {1: "domain", 2: PLAIN},
    "entry": {1: PLAIN, 2: PLAIN},
    "graph": {1: "node", 5: "tensor", **dict.fromkeys((2, 10, 11, 12, 13), PLAIN)},
    "node": {**dict.fromkeys((1, 2, 3, 4, 6), PLAIN), 5: "attribute", 7: "domain"},
    "attribute": {
        **dict.fromkeys((1, 2, 3, 4, 7, 8, 9, 13, 20), PLAIN),
        **dict.fromkeys((5, 10), "tensor"),
        **dict.fromkeys((6, 11), "graph"),
    },
    "tensor": dict.fromkeys((1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12), PLAIN),
}
REFUSED = {
    ("model", 20): "a training",
    ("model", 25): "functions of its own",
    ("tensor", 13): "numbers that are in another file",
    ("tensor", 14): "numbers that may be in another file",
}
GRAPH, INPUTS, NAME = 7, 11, 1  # numbers of fields


def _walk(content: memoryview) -> tuple[dict[str, str], list[str]]:
    """Return the metadata of a model and the names of its inputs, if all of it is allowed."""
    metadata: dict[str, str] = {}
    inputs: list[str] = []
    left = [("model", content)]  # no recursion: graphs may hold graphs without end
    while left:
        kind, message = left.pop()
        for number, value in _fields(message):
            if number not in MESSAGES[kind]:
                what = f"field {number} of a message {kind!r}"
                raise _Foreign(REFUSED.get((kind, number), what))
            part = MESSAGES[kind][number]
            if part == "domain":
                if bytes(_content(value)) not in DOMAINS:
                    raise _Foreign(f"operators of {shortened(_text(value))}")
            elif part == "entry":
                entry = dict(_fields(_content(value)))
                metadata[_text(entry.get(1, b""))] = _text(entry.get(2, b""))
            elif part != PLAIN:
                left.append((part, _content(value)))
            elif (kind, number) == ("graph", INPUTS):
                inputs.append(_text(dict(_fields(_content(value))).get(NAME, b"")))
    return metadata, inputs


def _content(value: Any) -> memoryview:
    if isinstance(value, int):
        raise _Broken("a number stands where a message is expected")
    return memoryview(value)


def _text(value: Any) -> str:
    return bytes(_content(value)).decode(errors="replace")


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of every field of a message."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == BYTES:
            length, place = _varint(message, place)
        elif wire in (FIXED_64, FIXED_32):
            length = 8 if wire == FIXED_64 else 4
        else:
            raise _Broken(f"byte {place} begins nothing that is known")
        if number == 0 or length > end - place:
            raise _Broken("it ends within a field")
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return the integer that begins at a place, 7 bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise _Broken("it ends within a number")


def _entry(key: str, value: str) -> bytes:
    """Return an entry of the metadata as a field of a model."""
    pair = b"".join(_as_field(number, text.encode()) for number, text in ((1, key), (2, value)))
    return _as_field(14, pair)


def _as_field(number: int, content: bytes) -> bytes:
    return _as_varint(number << 3 | BYTES) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    parts = []
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
