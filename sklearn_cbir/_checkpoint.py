"""The state of a training on disk, replaced after every epoch."""

import hashlib
import io
from pathlib import Path

import torch

from sklearn_cbir._files import is_of_content, is_there, replace_file

CHECKPOINT_FORMAT = 1


class Checkpoint:
    """The state after the last finished epoch, in one file that is replaced atomically."""

    def __init__(self, folder, name, key):
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.path = Path(folder) / f"{name}-{digest}.pt"

    def load(self):
        """Return the saved state, or None without a file."""
        if not is_there(self.path):
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            if not is_of_content(error):
                raise
            raise ValueError(
                f"The checkpoint {str(self.path)!r} is truncated or corrupt. Delete it to train "
                "from the start."
            ) from error
        if state["format"] != CHECKPOINT_FORMAT:
            raise ValueError(
                f"The checkpoint {str(self.path)!r} has format {state['format']}, this version "
                f"reads {CHECKPOINT_FORMAT}. Delete it to train from the start."
            )
        return state

    def save(self, **state):
        """Write the state; a failure leaves the previous file as it was."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save({"format": CHECKPOINT_FORMAT, **state}, buffer)
        replace_file(self.path, buffer.getbuffer())
