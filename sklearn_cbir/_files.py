"""Files that are replaced as a whole or not at all."""

import os
import threading
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacement(path):
    """Open a file beside `path`; flush it to the disk and put it in place if the block succeeds."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        with open(part, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.filename in (None, str(part)):  # a full disk does not say whose
            error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)


def replace_file(path, content):
    """Write `content` to `path`; a failure leaves the previous file as it was."""
    with replacement(path) as file:
        file.write(content)
