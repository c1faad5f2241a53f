"""A file of drawn characters."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._bunch import Bunch

__all__ = ["load_drawings"]


class Drawings(Bunch):
    """Result of `load_drawings`."""

    data: NDArray[np.uint8]
    target: NDArray[np.str_]
    alphabet: NDArray[np.str_]
    drawer: NDArray[np.int8]
    target_names: list[str]
    DESCR: str


def load_drawings(path: str | os.PathLike[str]) -> Drawings:
    """Load small drawings of characters, by alphabet and drawer (Omniglot [1]_).

    Parameters
    ----------
    path : str or path-like
        An ``.npz`` file like ``tests/data/omniglot_small1.npz`` of the project:
        2,720 drawings of 136 characters from five alphabets.

    Returns
    -------
    Bunch
        With ``data``, uint8 of shape (n, height, width), ink 255 on 0;
        ``target``, the names of the characters, shape (n,); ``alphabet``, the
        names of the alphabets, shape (n,); ``drawer``, the numbers of the
        people, shape (n,); ``target_names``; ``DESCR``. Hold out whole
        alphabets to test on unseen characters.

    Raises
    ------
    ValueError
        If the file holds something else.

    References
    ----------
    .. [1] B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum. "Human-level concept
       learning through probabilistic program induction". Science 350, 2015.

    Examples
    --------
    >>> drawings = load_drawings("tests/data/omniglot_small1.npz")
    >>> drawings.data.shape
    (2720, 35, 35)
    >>> drawings.target[0], drawings.alphabet[0], drawings.drawer[0]
    (np.str_('Balinese/character01'), np.str_('Balinese'), np.int8(1))
    """
    with np.load(path, allow_pickle=False) as file:
        wanted = {"x", "y", "character_names", "alphabet", "alphabet_names", "drawer"}
        missing = sorted(wanted - set(file))
        if missing:
            raise ValueError(f"{os.fspath(path)!r} is not a file of drawings: it lacks {missing}.")
        return Drawings(
            data=file["x"],
            target=file["character_names"][file["y"]],
            target_names=file["character_names"].tolist(),
            alphabet=file["alphabet_names"][file["alphabet"]],
            drawer=file["drawer"],
            DESCR=f"Omniglot drawings, {Path(path).name}; MIT licence.",
        )
