"""Input and output for users: names to objects, argument checks, and progress."""

import inspect
import math
import numbers
import os
import sys
import unicodedata
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, TypeGuard, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")
Rule = Callable[[Any, str], object]  # of the value and the name of a parameter; it may raise
_ON_THE_WAY = {"sklearn_cbir", "sklearn"}  # packages whose lines a warning does not name


def shortened(value: object, length: int = 80) -> str:
    """Return a repr for a message: on one line, and never a whole file, array or object."""
    if isinstance(value, (str, bytes, bytearray)) and len(value) > length:
        half = length // 2
        start, end = (
            part if isinstance(part, str) else bytes(part) for part in (value[:half], value[-half:])
        )
        text = repr(start)[:-1] + "..." + repr(end).removeprefix("b")[1:]
        return f"{text} ({type(value).__name__}, {len(value):,} long)"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # whatever a repr of the user's raises
        text = object.__repr__(value)
    return text if len(text) <= length else f"{text[: length - 3]}..."


def resolve(
    value: str | T, table: Mapping[str, T], parameter: str, own: str = "your own object"
) -> T:
    """Return ``table[value]`` for a name; anything that is not a name is the user's own object."""
    if not isinstance(value, str):
        return value
    if value in table:
        return table[value]
    close = get_close_matches(value, list(table), n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"{parameter}={shortened(value)} is not known.{hint} Use one of {sorted(table)}, or pass "
        f"{own}."
    )


def printable(text: object) -> str:
    """Return text that is safe to print and to draw on one line.

    Control characters, bytes that are not characters (surrogates) and marks that change the
    direction of writing are escaped as by ``repr``; letters of all scripts, emoji and blanks stay.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character):
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    if character in "\u200c\u200d":  # joiners inside of words and emoji
        return character
    return character.encode("unicode_escape").decode("ascii")


def warn_user(message: str) -> None:
    """Warn at the line that called into this package, whatever scikit-learn has in between."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _ON_THE_WAY:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def as_numpy(X: Any, name: str = "X") -> Any:
    """Return an array of another library, on any device, as one of numpy; all else as it is.

    scikit-learn does so by itself unless its ``array_api_dispatch`` is on. Arrays with masked
    entries, whose masks it drops, are refused, and complex ones, which it prints.
    """
    if hasattr(X, "detach"):  # tensors of torch
        X = X.detach().cpu()
        return (X.float() if str(X.dtype) == "torch.bfloat16" else X).numpy()
    if hasattr(X, "__array_namespace__") and not isinstance(X, np.ndarray):
        X = np.asarray(X.get() if hasattr(X, "get") else X)  # CuPy copies when it is told to
    if isinstance(X, np.ndarray) and X.dtype.kind == "c":
        raise ValueError(
            f"Complex data not supported: {name} has dtype {X.dtype}. Pass real numbers, such as "
            f"{name}.real or abs({name})."
        )
    check_not_masked(X, name)
    return X


def check_not_masked(values: object, name: str, what: str = "a number") -> None:
    """Raise for an array with masked entries, because numpy drops masks silently."""
    if not isinstance(values, np.ma.MaskedArray) or not np.ma.is_masked(values):
        return
    masked = np.ma.getmaskarray(values)
    place = ", ".join(map(str, np.argwhere(masked)[0]))
    where = f"{name}[{place}]" if place else name
    raise ValueError(
        f"{where} is masked, the first of {np.count_nonzero(masked)} such entries: a masked "
        f"value is not {what}. Leave it out, or fill it with {name}.filled(...)."
    )


def check_choice(value: object, parameter: str, options: Iterable[T]) -> T:
    """Return `value` if it is one of `options` (compared with type), else raise."""
    for option in options:
        if value is option or (isinstance(value, str) and value == option):
            return cast(T, value)
    shown = ", ".join(repr(option) for option in options)
    raise ValueError(f"{parameter}={shortened(value)} is not known. Use one of {shown}.")


def check_parameters(estimator: object, rules: Mapping[str, Rule]) -> None:
    """Check parameters of an estimator, each by its rule."""
    for name, check in rules.items():
        check(getattr(estimator, name), name)


def check_named(
    value: object, _parameter: str, *, names: Container[str], otherwise: Callable[[Any], object]
) -> None:
    """Let a known name pass; anything else is for ``otherwise(value)`` to refuse or not."""
    if not isinstance(value, str) or value not in names:
        otherwise(value)


def check_path(value: object, parameter: str, what: str) -> None:
    """Raise unless a value is a path or None."""
    if not isinstance(value, (str, os.PathLike, type(None))):
        raise ValueError(f"{parameter}={shortened(value)} must be {what}, or None.")


def check_folder(value: object, parameter: str) -> None:
    """Raise unless a value is None or the path of a folder, which need not exist."""
    check_path(value, parameter, "the path of a folder")
    path = cast("str | os.PathLike[str] | None", value)
    if path is not None and os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"{parameter}={str(path)!r} is a file. Pass a folder, or None.")


def check_scales(scales: Any, parameter: str) -> tuple[float, ...]:
    """Return scales of images as floats."""
    try:
        is_text = isinstance(scales, (str, bytes, bytearray))
        given = () if is_text else scales
        found = tuple(check_real(scale, parameter, minimum=1e-3) for scale in given)
    except (TypeError, ValueError):
        found = ()
    if not found:
        raise ValueError(
            f"{parameter}={shortened(scales)} must be a sequence of numbers above 0, such as "
            "(1.0, 0.7, 0.5)."
        )
    return found


def optional(check: Rule) -> Rule:
    """Return a rule that lets None pass too."""

    def check_if_given(value: object, parameter: str) -> None:
        if value is not None:
            check(value, parameter)

    return check_if_given


def state_of_version(cls: type, state: dict[str, Any], newest: int) -> dict[str, Any]:
    """Return the pickled state of an estimator without its format, which may be `newest` at most.

    A parameter that did not exist when the file was saved gets its default.
    """
    found = state.pop("_state_format", newest)
    if found > newest:
        raise ValueError(
            f"This {cls.__name__} was saved in format {found}; this version of sklearn_cbir reads "
            f"up to {newest}. Install a newer version."
        )
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.default is not parameter.empty:
            state.setdefault(name, parameter.default)
    return state


def check_boolean(value: object, parameter: str) -> bool:
    """Return `value` as a bool if it is True or False; numbers and text are neither."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{parameter}={shortened(value)} must be True or False.")
    return bool(value)


def check_verbose(value: object, parameter: str = "verbose") -> int:
    """Return `verbose`, a number of at least 0, where True is 1."""
    return int(value) if isinstance(value, bool) else check_integer(value, parameter, minimum=0)


def check_integer(
    value: object, parameter: str, *, minimum: int | None = None, maximum: int | None = None
) -> int:
    """Return `value` as an int within the bounds; bool and 2.0 are not integers."""
    if not isinstance(value, numbers.Integral) or isinstance(value, (bool, np.bool_)):
        raise ValueError(
            f"{parameter}={shortened(value)} must be an integer{_bounds(minimum, maximum)}."
        )
    _check_bounds(value, parameter, "an integer", minimum, maximum)
    return int(value)


def check_real(
    value: object, parameter: str, *, minimum: float | None = None, maximum: float | None = None
) -> float:
    """Return `value` as a finite float within the bounds."""
    if not _is_number(value) or not _is_finite(value):
        raise ValueError(
            f"{parameter}={shortened(value)} must be a finite number{_bounds(minimum, maximum)}."
        )
    _check_bounds(value, parameter, "a number", minimum, maximum)
    return float(value)


def _is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a real number; bool is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def _is_finite(value: float) -> bool:
    """Whether a number is finite as a float; integers and fractions may be too large for one."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_rate(value: object, parameter: str) -> float:
    """Return a learning rate as a positive float.

    An infinite rate is let through: training stops at once and names it.
    """
    rate = math.nan
    if _is_number(value):
        try:
            rate = float(value)
        except OverflowError:
            rate = math.inf if value > 0 else math.nan
    if not rate > 0:
        raise ValueError(f"{parameter}={shortened(value)} must be a positive number.")
    return rate


def _check_bounds(value, parameter, kind, minimum, maximum):
    too_small = minimum is not None and value < minimum
    if too_small or (maximum is not None and value > maximum):
        raise ValueError(
            f"{parameter}={shortened(value)} must be {kind}{_bounds(minimum, maximum)}."
        )


def _bounds(minimum, maximum):
    if minimum is not None and maximum is not None:
        return f" from {minimum} to {maximum}"
    if minimum is not None:
        return f" of at least {minimum}"
    return f" of at most {maximum}" if maximum is not None else ""


def check_sample_weight(sample_weight: ArrayLike, n: int) -> NDArray[np.float32]:
    """Return weights as float32 (n,): finite, at least 0 and not all 0; one number is for all."""
    weights = as_numpy(sample_weight, "sample_weight")
    try:
        if np.asarray(weights).dtype.kind in "Mm":
            raise TypeError("dates and durations are not numbers")
        with np.errstate(over="ignore"):  # infinite weights are refused below
            weights = np.asarray(weights, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight must hold one number per row: {error}.") from error
    weights = np.full(n, weights) if weights.ndim == 0 else weights
    if weights.shape != (n,):
        raise ValueError(
            f"sample_weight has shape {weights.shape}, but X has {n} rows. Pass one weight per row."
        )
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise ValueError(
            f"sample_weight[{bad[0]}] is {weights[bad[0]]}. Weights are finite numbers of at least "
            "0; 0 leaves a row out."
        )
    if not weights.any():
        raise ValueError("sample_weight is zero for all rows: there is nothing to train on.")
    return weights


def text_array(values: Iterable[str]) -> np.ndarray:
    """Return an array of strings, in memory of the order of the sum of their lengths.

    A fixed width makes all as long as the longest, so that one long string among many would take
    gigabytes, and drops the NUL characters at an end: such strings are an array of objects.

    Parameters
    ----------
    values : sequence of str
        Strings.

    Returns
    -------
    ndarray of shape (n,)
        Of fixed width, or of objects.

    Examples
    --------
    >>> text_array(["a", "bcd"])
    array(['a', 'bcd'], dtype='<U3')
    >>> text_array(["a"] * 99 + ["b" * 10_000]).dtype
    dtype('O')
    """
    listed = list(values)
    found = np.fromiter(listed, dtype=object, count=len(listed))
    width = max(map(len, listed), default=0)
    ends = any(value.endswith("\0") for value in listed)
    if ends or not is_fair_width(width, sum(map(len, listed)), len(listed)):
        return found
    return found.astype(f"<U{max(1, width)}")


def is_fair_width(width: int, total: int, n: int) -> bool:
    """Say whether `n` strings of `total` characters may each take the room of `width` characters.

    They may take twice the sum of their lengths, and 64 characters more each.
    """
    return n * width <= 2 * total + 64 * n


@contextmanager
def progress_bar(
    total: int, description: str, enabled: bool, unit: str | None = None
) -> Iterator[Callable[[int], None]]:
    """Give a function that advances a rich progress bar, full and closed at the end.

    With the name of a `unit` it shows how many are done, and how many there are a second.
    """
    if not enabled:
        yield lambda steps: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    counts = [] if unit is None else [MofNCompleteColumn(), TextColumn("{task.fields[speed]}")]
    columns = *Progress.get_default_columns(), *counts
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total, speed="")

        def advance(steps: int) -> None:
            bar.advance(task, steps)
            if per_second := bar.tasks[0].speed:
                bar.update(task, speed=f"{per_second:.1f} {unit}/s")

        yield advance
        bar.update(task, completed=total)


def with_progress(
    iterable: Iterable[T], *, total: int, description: str, enabled: bool
) -> Iterator[T]:
    """Yield from `iterable`, drawing a rich progress bar on standard error if `enabled`."""
    if not enabled:
        yield from iterable
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(iterable, total=total, description=description, console=Console(stderr=True))
