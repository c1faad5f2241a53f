"""OnnxExtractor: images to vectors or codes with a file of `to_onnx`, without torch."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from sklearn_cbir._locks import ProcessLock, renew_in_forked_children
from sklearn_cbir._onnx_file import INPUT, Description, describe
from sklearn_cbir._threads import n_cores
from sklearn_cbir._typing import ImagesLike, PathLike
from sklearn_cbir._validation import (
    check_integer,
    check_verbose,
    shortened,
    state_of_version,
    with_progress,
)
from sklearn_cbir.images import Images, Resizing, check_images
from sklearn_cbir.images._readable import telling_all_faults

__all__ = ["OnnxExtractor"]

STATE_FORMAT = 1
ERRORS_ONLY = 3  # of onnxruntime's log
DEFAULT_PROVIDERS = ("CPUExecutionProvider",)
LOADING = ProcessLock()  # one session is enough for all threads


class OnnxExtractor(TransformerMixin, BaseEstimator):
    """Vectors or codes of images, from a network that was exported to a file.

    It gives the results of the estimator that `to_onnx` has exported, and needs
    onnxruntime (the extra ``[onnx]``) instead of torch. It learns nothing, so
    you can call `transform` without `fit`.

    Parameters
    ----------
    path : str or path
        File of `sklearn_cbir.export.to_onnx`. It is read once, at first use.
        Copies, clones, pickles and files of `persistence` contain its bytes, and
        no longer need it.

    batch_size : int, default=32
        How many images are read and computed at a time.

    n_threads : int, default=None
        How many threads compute; None means one per core that this process has.

    providers : sequence of str, default=None
        Execution providers of onnxruntime, in order of preference, such as
        ``["CUDAExecutionProvider", "CPUExecutionProvider"]``; None means the
        processor.

    verbose : int, default=0
        Above 0, a progress bar appears on standard error.

    See Also
    --------
    sklearn_cbir.export.to_onnx : Writes the file.

    Notes
    -----
    The file is checked before it runs. It must be complete, unchanged since it
    was written, and use only the standard operators of ONNX: it cannot name code,
    libraries or other files. But its author still decides what it computes, and
    how much time and memory that takes; onnxruntime must cope with any network.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn_cbir import DeepHasher, NeighborsRetriever, OnnxExtractor, to_onnx
    >>> from sklearn_cbir.datasets import make_shapes
    >>> images, y = make_shapes(20, random_state=0)
    >>> hasher = DeepHasher(12, backbone="small", max_epochs=1, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "hasher.onnx")
    ...     to_onnx(hasher.fit(images, y), path)
    ...     search = make_pipeline(OnnxExtractor(path), NeighborsRetriever(3, metric="hamming"))
    ...     search.fit(images, y).predict(images).shape
    (20, 3)
    """

    _loaded: tuple[str, "_Model"]  # the path, and what was there

    if TYPE_CHECKING:

        def fit_transform(
            self, X: ImagesLike, y: object = None, **fit_params: object
        ) -> NDArray[np.float32] | NDArray[np.uint8]:
            """Check, and transform the same images."""
            ...

    def __init__(
        self,
        path: PathLike,
        *,
        batch_size: int = 32,
        n_threads: int | None = None,
        providers: Sequence[str] | None = None,
        verbose: int | bool = 0,
    ) -> None:
        self.path = path
        self.batch_size = batch_size
        self.n_threads = n_threads
        self.providers = providers
        self.verbose = verbose

    def fit(self, X: ImagesLike, y: object = None) -> Self:
        """Check parameters, file and images; nothing is learned.

        Parameters
        ----------
        X : images
            Arrays (n, H, W) or (n, H, W, C) with C in 1, 3, 4, uint8 or float
            in [0, 1]; a sequence of paths, encoded photos, PIL images or
            arrays.

        y : None
            Not used.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            For bad parameters, unreadable images, and a file that is damaged or
            that `to_onnx` did not write.

        ImportError
            If onnxruntime is not installed.
        """
        self._check_batch_size()
        self._session()
        self._check_images(X)
        return self

    def transform(self, X: ImagesLike) -> NDArray[np.float32] | NDArray[np.uint8]:
        """Return one vector or code per image.

        Parameters
        ----------
        X : images
            As for `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_features_out)
            Vectors, float32, or codes, uint8 of 0 and 1; in the order of `X`.
        """
        batch_size = self._check_batch_size()
        session, description = self._session(), self._model().description
        images = self._check_images(X)
        # What is returned, and what a network that is no longer sane makes NaN.
        wanted = list(dict.fromkeys(description.outputs[i] for i in (0, -1)))
        starts = range(0, len(images), batch_size)
        ticks = with_progress(
            starts,
            total=len(starts),
            description=f"{type(self).__name__}: transform",
            enabled=self.verbose > 0,
        )
        rows = []
        with telling_all_faults(images, self.verbose > 0):
            for start in ticks:
                pixels = _read(images, slice(start, start + batch_size), description)
                found = session.run(wanted, {INPUT: pixels})
                _check_finite(found[-1], start)
                rows.append(found[0])
        return np.concatenate(rows)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the names of the columns, as the exported estimator had them.

        Parameters
        ----------
        input_features : None
            Not used.

        Returns
        -------
        ndarray of shape (n_features_out,), dtype object
            Such as "deephasher0".
        """
        return np.array(self._model().description.feature_names, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> Self:
        clone = super().__sklearn_clone__()
        if "_loaded" in vars(self):
            clone._loaded = self._loaded
        return clone

    def __getstate__(self) -> dict[str, Any]:
        content = np.frombuffer(self._model().content, dtype=np.uint8)
        state = {k: v for k, v in super().__getstate__().items() if k != "_loaded"}
        return state | {"_content": content, "_state_format": STATE_FORMAT}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = state_of_version(type(self), state, STATE_FORMAT)
        content = state.pop("_content")
        super().__setstate__(state)
        path = _as_text(self.path)
        self._loaded = path, _Model(np.asarray(content).tobytes(), repr(path))

    # The file -------------------------------------------------------------------------------

    def _model(self) -> "_Model":
        """Return the file of `path`, which is read at first use."""
        loaded = vars(self).get("_loaded")
        if loaded is None or loaded[0] != _as_text(self.path):
            path = _as_text(self.path)
            with open(path, "rb") as file:
                content = file.read()
            loaded = self._loaded = path, _Model(content, repr(path))
        return loaded[1]

    def _session(self) -> Any:
        """Return the session that runs the file, by the parameters as they are now."""
        n_threads, providers = self.n_threads, self.providers
        if n_threads is not None:
            n_threads = check_integer(n_threads, "n_threads", minimum=1)
        chosen = DEFAULT_PROVIDERS if providers is None else _check_providers(providers)
        return self._model().session(n_threads or n_cores(), chosen)

    def _check_batch_size(self) -> int:
        return check_integer(self.batch_size, "batch_size", minimum=1)

    def _check_images(self, X: ImagesLike) -> Images:
        verbose = check_verbose(self.verbose)
        images = check_images(X)
        images.check_readable(progress=verbose > 0)
        return images


class _Model:
    """A file in memory, and the session that runs it."""

    def __init__(self, content: bytes, name: str) -> None:
        self.content = content
        self.name = name
        self.description: Description = describe(content, name)
        self._made: tuple[Any, Any] | None = None  # what was asked for, and the session
        renew_in_forked_children(self)

    def renew(self) -> None:
        """Forget the session; its threads are in the parent of this forked process."""
        self._made = None

    def session(self, n_threads: int, providers: tuple[str, ...]) -> Any:
        """Return a session with so many threads."""
        with LOADING:
            asked = n_threads, providers
            if self._made is None or self._made[0] != asked:
                self._made = asked, self._new_session(n_threads, providers)
            return self._made[1]

    def _new_session(self, n_threads: int, providers: tuple[str, ...]) -> Any:
        onnxruntime = _import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = n_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = ERRORS_ONLY
        # Else bytes could ask for its other format, which was not looked at.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            session = onnxruntime.InferenceSession(self.content, options, providers=[*providers])
        except Exception as error:
            raise ValueError(
                f"{self.name} cannot be run by onnxruntime {onnxruntime.__version__} "
                f"({type(error).__name__}: {shortened(str(error), 200)}). Install a newer "
                "onnxruntime, or export it again."
            ) from error
        self._check_interface(session)
        return session

    def _check_interface(self, session: Any) -> None:
        """Raise unless inputs and outputs of a network are those of the file's description."""
        inputs = [(part.name, part.type, part.shape[1:]) for part in session.get_inputs()]
        outputs = tuple(part.name for part in session.get_outputs())
        expected = [(INPUT, "tensor(uint8)", [*self.description.size, 3])]
        if inputs != expected or outputs != self.description.outputs:
            raise ValueError(
                f"{self.name} has a wrong description: inputs {inputs}, not {expected}, or "
                f"outputs {outputs}, not {self.description.outputs}. Export it again."
            )


def _as_text(path: Any) -> str:
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise ValueError(f"path={shortened(path)} must be the path of a file of to_onnx.")
    return os.fsdecode(path)


def _check_providers(providers: Sequence[str]) -> tuple[str, ...]:
    """Return the names of execution providers; raise if one is not available."""
    available = _import_onnxruntime().get_available_providers()
    is_list = isinstance(providers, (list, tuple)) and len(providers) > 0
    if not is_list or any(name not in available for name in providers):
        raise ValueError(
            f"providers={shortened(providers)} must be a list of some of {available}, the "
            "providers of the installed onnxruntime, or None."
        )
    return tuple(providers)


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "OnnxExtractor needs onnxruntime. Install it with: pip install onnxruntime."
        ) from error
    return onnxruntime


def _read(images: Images, rows: slice, description: Description) -> NDArray[np.uint8]:
    """Return pixels (n, height, width, 3) as the network takes them."""
    resizing = Resizing.of(asdict(description))
    size, resize = description.size, description.resize
    return images.read(rows, size if resize is None else size[0], resize, **asdict(resizing))


def _check_finite(rows: NDArray[np.float32], start: int) -> None:
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(f"X[{start + bad[0]}]: the network gave NaN or infinity.")
