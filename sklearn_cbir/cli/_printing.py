"""Output: results on standard output, one per line, and all else on standard error."""

import errno
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

CLOSED = (errno.EPIPE, errno.EINVAL, errno.ESHUTDOWN)  # EINVAL: what Windows says of a closed pipe


class ClosedPipe(Exception):
    """Nobody reads the output any more."""


class Results:
    """Standard output, in the form that is asked for.

    Parameters
    ----------
    form : {"text", "json", "null"}
        Columns between tabs, one object of JSON a line, or paths alone, each ended by NUL.
    """

    def __init__(self, form: str) -> None:
        self.form = form

    def put(self, columns: tuple[str, ...], record: Mapping[str, Any], path: str = "") -> None:
        """Write one result, as columns, as a record, or as its path."""
        if self.form == "null":
            _write_bytes(os.fsencode(path) + b"\0")
        elif self.form == "json":
            put_text(json.dumps(record) + "\n")
        else:
            from sklearn_cbir._validation import printable

            put_text("\t".join(map(printable, columns)) + "\n")


def put_text(text: str) -> None:
    """Write text on standard output, escaped where its encoding has no such characters."""
    try:
        sys.stdout.write(_encodable(text, sys.stdout))
    except OSError as error:
        raise _closed(error) from error


def _write_bytes(content: bytes) -> None:
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise _closed(error) from error


def flush() -> None:
    """Let nothing be kept back, while an error can be told."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        raise _closed(error) from error


def _closed(error: OSError) -> Exception:
    """Return the meaning of an error in writing results."""
    if error.errno in CLOSED:
        return ClosedPipe()
    return OSError(error.errno, f"The results cannot be written ({error.strerror})")


def tell(text: object) -> None:
    """Write one line on standard error, if there is one."""
    from sklearn_cbir._validation import printable

    line = printable(" ".join(str(text).split()))
    with suppress(OSError, AttributeError):  # closed, or None
        sys.stderr.write(_encodable(line, sys.stderr) + "\n")
        sys.stderr.flush()


def _encodable(text: str, stream: Any) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def is_terminal(stream: Any) -> bool:
    """Say whether somebody looks at a stream."""
    return stream is not None and stream.isatty()


def said_of(error: BaseException) -> str:
    """Return the message of an error for users who do not write Python."""
    from sklearn_cbir.images import ImageReadError

    if isinstance(error, ImageReadError) and error.path is not None:
        return f"The photo {error.path!r} cannot be read: {error.reason}."
    if isinstance(error, OSError) and error.strerror is not None:
        name = "" if error.filename is None else f": {os.fsdecode(error.filename)!r}"
        return f"{error.strerror}{name}."
    return str(error) or type(error).__name__


def counted(n: int, noun: str = "photo") -> str:
    """Return a number with its noun."""
    return f"{n:,} {noun}" + "s" * (n != 1)
