"""`ImageReadError`: which image cannot be read, why, and whether it may be readable later."""

import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from sklearn_cbir._validation import shortened

# Faults of the process, not of one image: every other image would have them too.
_OF_THE_PROCESS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
_N_LISTED = 5
LONGEST_PATH = 4096  # characters; what is longer is no path: an image as text, say
_LEAVE_OUT = "leave it out, as sklearn_cbir.images.readable_images does"


class ImageReadError(ValueError):
    """An image that cannot be read; the message names its row and path.

    Parameters
    ----------
    message : str
        The whole message.

    index : int, default=None
        Row of the image in `X`.

    path : str, default=None
        Its path, if it has one.

    reason : str, default=None
        Why it cannot be read, without row and path.

    errno : int, default=None
        Number of the operating system's error, if the file could not be opened
        or fetched; None if the content of the image is at fault.

    faults : sequence of ImageReadError, default=()
        One error for every image that cannot be read, in order; empty if it is
        only this one.

    Attributes
    ----------
    index, path, reason, errno
        The parameters, as given.

    Examples
    --------
    >>> from sklearn_cbir.images import check_images
    >>> try:
    ...     check_images(["missing.jpg", "lost.jpg"]).check_readable()
    ... except ImageReadError as error:
    ...     [(fault.index, fault.reason, fault.is_temporary) for fault in error.faults]
    [(0, 'the file does not exist', True), (1, 'the file does not exist', True)]
    """

    def __init__(
        self,
        message: str,
        index: int | None = None,
        path: str | None = None,
        reason: str | None = None,
        errno: int | None = None,
        faults: Sequence["ImageReadError"] = (),
    ) -> None:
        super().__init__(message)
        self.index: int | None = index
        self.path: str | None = path
        self.reason: str | None = reason
        self.errno: int | None = errno
        self._faults = tuple(faults)

    @property
    def faults(self) -> tuple["ImageReadError", ...]:
        """One ImageReadError for every unreadable image that was found, in order."""
        return self._faults or (self,)

    @property
    def is_temporary(self) -> bool:
        """Whether only access to the file failed, such as a missing share, not the image itself."""
        return self.errno is not None

    def __reduce__(self) -> tuple[type["ImageReadError"], tuple[object, ...]]:
        known = self.index, self.path, self.reason, self.errno, self._faults
        return type(self), (self.args[0], *known)


class Refusal(Exception):
    """A reason to refuse an image that is ours, not Pillow's, and the way out of it."""

    def __init__(self, reason: str, way: str = "Repair it") -> None:
        super().__init__(reason)
        self.way = way


def fault_of(
    index: int,
    path: str | None,
    reason: str,
    way: str = "Repair it",
    errno: int | None = None,
    about: str | None = None,
) -> ImageReadError:
    """Return the error for one image.

    `reason` is a sentence without its full stop, `way` what to do; `about` says what an image
    without a path is.
    """
    where = f"X[{index}]"
    if path is not None:
        where += f" {path!r}" if len(path) <= LONGEST_PATH else f" {shortened(path)}"
    if about is not None:
        where += f" ({about})"
    return ImageReadError(f"{where}: {reason}. {way}, or {_LEAVE_OUT}.", index, path, reason, errno)


def row_of(fault: ImageReadError) -> int:
    """Return the row of one image at fault, which every fault of one image has."""
    assert fault.index is not None
    return fault.index


def moved(fault: ImageReadError, index: int) -> ImageReadError:
    """Return a copy of a fault, of another row."""
    message = str(fault).replace(f"X[{fault.index}]", f"X[{index}]", 1)
    return ImageReadError(message, index, fault.path, fault.reason, fault.errno)


def noted(fault: ImageReadError, note: str) -> ImageReadError:
    """Return a copy of a fault, its message ending in one more sentence."""
    error = ImageReadError(
        f"{fault} {note}", fault.index, fault.path, fault.reason, fault.errno, fault._faults
    )
    error.__cause__ = fault.__cause__
    return error


def with_others(faults: Sequence[ImageReadError]) -> ImageReadError:
    """Return the first fault; its message counts the others, and its `faults` are all."""
    first = faults[0]
    if len(faults) == 1:
        return first
    listed = ", ".join(f"X[{fault.index}]" for fault in faults[1 : 1 + _N_LISTED])
    more = ", ..." if len(faults) > 1 + _N_LISTED else ""
    causes = count_causes(fault.reason or str(fault) for fault in faults)
    message = (
        f"{first} {len(faults) - 1} more cannot be read: {listed}{more}. In all, by cause: "
        f"{causes}. This error lists them as its `faults`."
    )
    error = ImageReadError(message, first.index, first.path, first.reason, first.errno, faults)
    error.__cause__ = first.__cause__
    return error


@contextmanager
def called(name: str) -> Iterator[None]:
    """Let errors of images, which name them X, use the name of the argument."""
    try:
        yield
    except ValueError as error:
        if name == "X":
            raise
        if isinstance(error, ImageReadError):
            raise _renamed(error, name) from error.__cause__
        text = _with_name(str(error), name)
        raise ValueError(text if name in text else f"{name}: {text}") from error.__cause__


def _renamed(fault: ImageReadError, name: str) -> ImageReadError:
    faults = [_renamed(one, name) for one in fault._faults]
    known = fault.index, fault.path, fault.reason, fault.errno, faults
    return ImageReadError(_with_name(str(fault), name), *known)


def _with_name(text: str, name: str) -> str:
    """Return text that says `name` in the place of X; what is quoted, such as a path, stays."""
    return re.sub(
        r"'[^']*'|\"[^\"]*\"|\bX\b", lambda found: name if found[0] == "X" else found[0], text
    )


def count_causes(reasons: Iterable[str]) -> str:
    """Count reasons by cause, most frequent first, as one line of text."""
    groups: dict[str, list[str]] = {}
    for reason in reasons:
        cause = reason.split(" (")[0]
        # Sizes and other numbers differ from image to image, and are no other cause.
        groups.setdefault(re.sub(r"\d[\d,]*", "0", cause), []).append(cause)
    ordered = sorted(groups.values(), key=len, reverse=True)
    return "; ".join(f"{len(causes)} x {causes[0]}" for causes in ordered)


def check_process(error: BaseException) -> None:
    """Raise an error of the operating system that is no fault of one image, in clear words."""
    if not isinstance(error, OSError) or error.errno not in _OF_THE_PROCESS:
        return
    if error.errno == errno.ENOMEM:
        raise MemoryError(f"No memory is left to open {shortened(error.filename, 300)}.") from error
    raise OSError(
        error.errno,
        "Too many files are open, so no image can be opened. Close some, or raise the limit "
        "(ulimit -n)",
    ) from error
