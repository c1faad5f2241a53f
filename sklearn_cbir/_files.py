"""Files: replaced as a whole or not at all, there or not, damaged or only out of reach."""

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from pathlib import Path


def is_there(path):
    """Say whether there is something at `path`; out of reach is an error, and not "not there"."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a null character
        return False
    return True


def is_of_content(error):
    """Return whether an error of reading a file is due to its content.

    Other errors may pass: of access (no permission, a share that hangs) and of memory. Then the
    file is fine, and a message must not advise to delete it or to get it again.
    """
    if isinstance(error, MemoryError):
        return False
    return not isinstance(error, OSError) or error.errno is None


@contextmanager
def replacement(path):
    """Open a file next to `path`; flush it to the disk and put it in place if the block succeeds.

    The effect is as if `path` had been written: a link stays, and its target is replaced; mode and
    owner stay; a file that may not be written is an error. Other hard links to the previous file
    keep its content.
    """
    path = os.fsdecode(path)  # of names in bytes too
    target = Path(os.path.realpath(path))  # a link stays
    before = _status(target, path)
    # The beginning of a name tells whose it is; a whole one may be as long as names can be.
    part = target.with_name(f".{target.name[:24]}.{secrets.token_hex(6)}.part")
    try:
        with open(part, "x+b", opener=_opener(before)) as file:
            yield file
            file.flush()
            if before is not None:
                _copy_rights(before, part)
            os.fsync(file.fileno())
        _put_in_place(part, target)
    except OSError as error:
        if error.filename in (None, str(part), str(target)):  # a full disk does not say whose
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def replace_file(path, content):
    """Write `content` to `path`; a failure leaves the previous file as it was."""
    with replacement(path) as file:
        file.write(content)


def _status(target, path):
    """Return the status of the file `target`, None if there is none; raise for other kinds."""
    try:
        status = os.stat(target)
    except FileNotFoundError:
        if target.parent.is_dir() and not os.access(target.parent, os.W_OK | os.X_OK):
            message = f"Permission denied to write into the folder of {target.name!r}"
            raise _denied(message, path) from None
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "A folder is there, not a file", str(path))
    if not stat.S_ISREG(status.st_mode):  # a device, a pipe
        raise OSError(
            errno.EINVAL,
            "This is not a regular file, and only regular files are replaced",
            str(path),
        )
    if not os.access(target, os.W_OK):
        raise _denied("Permission denied: you may not write to the existing file", path)
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise _denied(
            "Permission denied: the new file is written next to the old one before it replaces "
            "it, and you may not write to their folder",
            path,
        )
    return status


def _opener(before):
    """Return an `opener` for `open`; a file that replaces another is private at first."""
    mode = 0o666 if before is None else 0o600
    return lambda path, flags: os.open(path, flags, mode)


def _copy_rights(status, path):
    """Give a file the owner, as far as this user may, and the mode of another."""
    if hasattr(os, "chown"):
        for owner, group in ((status.st_uid, -1), (-1, status.st_gid)):
            with suppress(OSError):
                os.chown(path, owner, group)
    os.chmod(path, stat.S_IMODE(status.st_mode))


def _put_in_place(part, target):
    """Rename a file that is complete, and have the disk know it."""
    try:
        os.replace(part, target)
    except PermissionError as error:
        raise _denied(
            "Permission denied to replace the existing file. In a folder with the sticky bit "
            "only the owner of the file may: write to another name. Windows does not replace a "
            "file that is open or mapped into memory: close it first, or write to another name",
            target,
        ) from error
    except OSError as error:  # of two names one is nobody's business
        raise OSError(error.errno, error.strerror, str(target)) from error
    with suppress(OSError):  # not every system opens folders
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _denied(message, path):
    return PermissionError(errno.EACCES, message, str(path))
