"""Calls to a Milvus server: connected when needed, bounded in time, one clear error."""

import atexit
import logging
import os
import time
import warnings
import weakref
from collections import deque
from urllib.parse import urlsplit

from sklearn_cbir._locks import ProcessLock, in_forked_children

# Environment variables: a token, which is never stored, and the one address that it is sent to.
TOKEN, TOKEN_FOR = "MILVUS_TOKEN", "MILVUS_URI"
SECONDS_PER_CALL = 120  # after which a server counts as gone
SECONDS_OF_RETRIES = 10  # for a server that does not answer
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
SCHEMES = ("http", "https", "tcp")

LOCK = ProcessLock()
_clients = {}  # address: (process that opened it, client)
_inherited = []  # clients of a parent process, kept so that nothing closes them here
_unwanted = deque()  # work that a garbage collector has left
_finalizers = set()
_files = set()
_logged = deque(maxlen=1)  # the last error that a library has logged
_noisy = (
    "pymilvus.decorators",
    "pymilvus.client.connection_manager",
    "pymilvus.client.grpc_handler",
    "milvus_lite.server_manager",
    "grpc._server",
)


def check_address(uri):
    """Return the address of a server, or the absolute path of a local file."""
    ways = (
        "Pass uri='gallery.db', a local file whose name ends in .db, or the address of a server "
        "such as uri='http://127.0.0.1:19530'."
    )
    if not isinstance(uri, (str, os.PathLike)) or not os.fspath(uri):
        raise ValueError(f"algorithm='milvus' needs the place of the gallery. {ways}")
    uri = os.fspath(uri)
    if uri.endswith(".db") and "://" not in uri:
        return os.path.abspath(uri)
    if "@" in uri:  # no message shows it
        raise ValueError(
            "The uri contains a password, which would be stored with the estimator. Set the "
            f"environment variables {TOKEN}='user:password' and {TOKEN_FOR}, the address, "
            "instead."
        )
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ValueError(f"uri={uri!r} is neither a local file nor a server. {ways}")
    return uri


def is_local(address):
    """Say whether an address is a file that is opened in this process."""
    return "://" not in address


def call(address, method, *arguments, doing, patience=None, **options):
    """Call a method of the client; try again for a while if the server does not answer.

    Every call must be one that may be repeated: its answer, not its request, may be lost.

    Raises
    ------
    ConnectionError
        If the server stays away.
    RuntimeError
        If it answers that it will not do it.
    """
    import_pymilvus()
    from grpc import RpcError
    from pymilvus.exceptions import MilvusException

    patience = SECONDS_OF_RETRIES if patience is None else patience
    deadline, pause = time.monotonic() + patience, FIRST_PAUSE
    while True:
        try:
            with _Quiet():
                client = _connect(address, max(0.5, deadline - time.monotonic()))
                options.setdefault("timeout", SECONDS_PER_CALL)
                return getattr(client, method)(*arguments, **options)
        except (RpcError, MilvusException) as error:
            if not _is_away(error):
                text = getattr(error, "message", None) or str(error)
                raise RuntimeError(f"Milvus at {address} failed at {doing}: {text}") from error
            forget(address)
            if time.monotonic() + pause > deadline:
                raise ConnectionError(
                    f"Milvus at {address} does not answer ({doing}). The gallery is kept there: "
                    "start the server again, or check the address, and repeat the call."
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def forget(address):
    """Close the connection, so that the next call makes a new one."""
    with LOCK:
        process, client = _clients.pop(address, (None, None))
        if client is None:
            return
        if process != os.getpid():
            _inherited.append(client)
            return
        with _Quiet():
            client.close()


def give_back(path):
    """Close a local file, so that another process can open it; the next call opens it again."""
    forget(path)
    if path in _files:
        from milvus_lite import server_manager_instance

        server_manager_instance.release_server(path)


def when_unused(thing, work):
    """Have ``work(at_end)`` done when nothing refers to `thing` any more.

    That is before the next change of a gallery, or at the end of the process: a garbage
    collector may run in the middle of a call, and must not make another.
    """
    finalizer = weakref.finalize(thing, _unwanted.append, work)
    finalizer.atexit = False  # too late for a local file, which is closed before
    _finalizers.add(finalizer)


def clean_up(at_end=False):
    """Do what was put off; several threads may, as their galleries change at the same time."""
    for finalizer in list(_finalizers):
        if not finalizer.alive:
            _finalizers.discard(finalizer)
    while True:
        try:
            work = _unwanted.popleft()
        except IndexError:  # another thread may have taken the last
            return
        work(at_end)


def _finish():
    for finalizer in list(_finalizers):
        finalizer()
    clean_up(at_end=True)


def erase(address, name, rows=None, *, at_end=False):
    """Drop a collection, or only the rows whose keys are in a range; give up if that fails."""
    try:
        if at_end and is_local(address):
            if rows is None:
                _drop_from_file(address, name)
            return
        method, options = "drop_collection", {"doing": "cleaning up", "patience": 0, "timeout": 5}
        if rows is not None:
            method = "delete"
            options["filter"] = f"key >= {rows.start} and key < {rows.stop}"
        call(address, method, name, **options)
    except (ImportError, OSError, RuntimeError):
        pass  # what is left does no harm but take room


def _drop_from_file(path, name):
    """Drop a collection when threads can no longer be started, as calls to a file would."""
    from milvus_lite import MilvusLite, server_manager_instance

    server_manager_instance.release_server(path)
    with MilvusLite(path) as database:
        if database.has_collection(name):
            database.drop_collection(name)


def import_pymilvus():
    """Return the package, which takes half a second to import."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pymilvus
    except ImportError as error:
        raise ImportError(_missing("pymilvus")) from error
    return pymilvus


def _missing(package):
    return (
        f"algorithm='milvus' needs {package}. Install it with: pip install \"sklearn-cbir[milvus]\""
    )


def _connect(address, seconds):
    """Return the client of this process."""
    process, client = _clients.get(address, (None, None))
    if process == os.getpid():
        return client
    with LOCK:
        process, client = _clients.get(address, (None, None))  # another thread may have been faster
        if process == os.getpid():
            return client
        if client is not None:
            _check_fork(address)
            forget(address)
        if is_local(address):
            client = _open_file(address)
        else:
            client = import_pymilvus().MilvusClient(
                address, token=_token(address), dedicated=True, timeout=seconds
            )
        # Registered after the package's own function, it runs before the file is closed.
        atexit.unregister(_finish)
        atexit.register(_finish)
        _clients[address] = os.getpid(), client
        return client


def _token(address):
    """Return the token if it is for this address, which may come from a file of somebody else."""
    token, known = os.environ.get(TOKEN, ""), os.environ.get(TOKEN_FOR, "")
    if token and not known:
        raise PermissionError(
            f"{TOKEN} is set, but not the server that it is for, and the address of this gallery, "
            f"{address}, may come from another's file. If the token is for it, set {TOKEN_FOR} "
            f"to {address!r}; if not, set it to the right server, or remove {TOKEN}."
        )
    return token if known.rstrip("/") == address.rstrip("/") else ""


def _open_file(path):
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder} for uri={path!r}. Make it first.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from milvus_lite import server_manager_instance
    except ImportError as error:
        raise ImportError(_missing("milvus-lite, for a local file,")) from error
    from pymilvus.exceptions import MilvusException

    if not _files:
        # A forked process that closed the file at its end would write what it does not own.
        release = server_manager_instance.release_all
        in_forked_children(lambda: atexit.unregister(release))
    _files.add(path)
    _logged.clear()
    try:
        return import_pymilvus().MilvusClient(path, dedicated=True)
    except MilvusException as error:
        # The package logs the reason instead of raising it.
        cause = _logged[-1] if _logged else error
        if type(cause).__name__ == "DataDirLockedError":
            raise ConnectionError(_one_process(path, "is open in another process")) from error
        raise RuntimeError(f"milvus-lite cannot open {path}: {cause}") from error


def _check_fork(address):
    if is_local(address):
        reason = "is open in the parent process"
        raise ConnectionError(_one_process(address, reason))


def _one_process(path, reason):
    return (
        f"{path} {reason}, and a local file serves one process at a time. End the other "
        f"process, or serve the file to all of them: milvus-lite server --data-dir {path} "
        "--host 127.0.0.1 --port 19530, and uri='http://127.0.0.1:19530'."
    )


def _is_away(error):
    """Say whether an error means that the server was not reached or did not answer."""
    from grpc import RpcError, StatusCode
    from pymilvus.exceptions import MilvusException

    gone = (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED)
    code = error.code() if isinstance(error, RpcError) else error.code
    if isinstance(error, MilvusException) and isinstance(error.__cause__, RpcError):
        code = error.__cause__.code()
    texts = ("Fail connecting to server", "Retry timeout", "closed channel")
    return code in gone or any(text in str(error) for text in texts)


class _Quiet(logging.Filter):
    """Keep what the libraries log about errors off the screen: they are raised anyway."""

    def filter(self, record):
        if record.exc_info:
            _logged.append(record.exc_info[1])
        return record.levelno < logging.WARNING

    def __enter__(self):
        for name in _noisy:
            logging.getLogger(name).addFilter(self)
        return self

    def __exit__(self, *error):
        for name in _noisy:
            logging.getLogger(name).removeFilter(self)
