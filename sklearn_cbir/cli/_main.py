"""`main`: from the words of a shell to an exit code."""

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sklearn_cbir.cli._parser import build_parser
from sklearn_cbir.cli._printing import ClosedPipe, flush, said_of, tell

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
ERROR = 2
INTERRUPTED, PIPE_CLOSED = 130, 141  # what shells say of programs that SIGINT and SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command ``cbir``.

    Parameters
    ----------
    argv : sequence of str, default=None
        The arguments after ``cbir``; None takes those of the process.

    Returns
    -------
    int
        The exit code: 0 if something was found or done, 1 if nothing was found or `check`
        has found damage, 2 after an error, 130 after Ctrl-C, 141 if the reader of the
        output has closed it.

    Examples
    --------
    >>> from sklearn_cbir.cli import main
    >>> main(["--version"])
    cbir 0.1.0.dev0
    0
    """
    parser = build_parser()
    words = sys.argv[1:] if argv is None else argv
    if not words:
        parser.print_help(sys.stderr)
        return ERROR
    try:
        options = parser.parse_args(words)
    except SystemExit as end:  # of argparse, which has said what there is to say
        return _flushed(int(end.code or 0))
    is_debugging = options.debug or os.environ.get("CBIR_DEBUG", "0") not in ("", "0")
    return _flushed(_run(options, is_debugging))


def _run(options: Any, is_debugging: bool) -> int:
    """Run one command; a known error becomes one line."""
    with warnings.catch_warnings(), _threads(getattr(options, "threads", None)):
        if not is_debugging:
            warnings.showwarning = _show_warning
        try:
            from sklearn_cbir.cli._commands import COMMANDS

            code = COMMANDS[options.command](options)
            flush()
            return code
        except ClosedPipe:
            return PIPE_CLOSED
        except KeyboardInterrupt as interruption:
            tell("cbir: " + (str(interruption) or "Stopped."))
            return INTERRUPTED
        except (ValueError, OSError, ImportError) as error:
            if is_debugging:
                traceback.print_exc()
            else:
                tell(f"cbir: {said_of(error)}")
            return ERROR


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """Let libraries that are loaded from here on compute with so many threads."""
    if n is None:
        yield
        return
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(n)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    tell(f"cbir: warning: {message}")


def _flushed(code: int) -> int:
    """Write out what is left; afterwards nothing is, even if nobody reads it."""
    stdout = sys.stdout
    if stdout is None:
        return code
    try:
        stdout.flush()
    except OSError:
        pass
    else:
        if code != PIPE_CLOSED:
            return code
    with suppress(OSError, ValueError):  # or Python would try again at its end, and complain
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)
    return code or PIPE_CLOSED
