"""A trained network as one ONNX file: images in, vectors or codes out, without torch."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.fixes import parse_version
from sklearn.utils.validation import check_is_fitted
from torch import nn

from sklearn_cbir._base import NetworkTransformer
from sklearn_cbir._devices import first_line, shielded
from sklearn_cbir._files import replacement
from sklearn_cbir._network import MultiScale, Network, rebuilt_network
from sklearn_cbir._onnx_file import INPUT, OUTPUTS, Description, sealed
from sklearn_cbir._typing import PathLike
from sklearn_cbir._unwrapped import unwrapped
from sklearn_cbir._validation import shortened
from sklearn_cbir.backbones import Trunk
from sklearn_cbir.images import Resizing

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["to_onnx"]

# onnx 1.19 with onnxscript 0.5 gave a file of several scales whose vectors were others.
OLDEST = {"onnx": "1.23", "onnxscript": "0.7.2"}
OPSET = 18  # the first that resizes with antialiasing, as several scales need
LARGEST_FILE = 2**31 - 2**24  # bytes: what one message holds, but for the graph and the metadata
TOLD = ("library", "version", "tag", "licence")  # of where a backbone comes from
WORDS = "trunk.words"  # where a network keeps what encodes text
WORD = 64  # bits, to which packed codes are filled up
BYTE = 8


def to_onnx(estimator: BaseEstimator, path: PathLike) -> None:
    """Write a fitted network, or the networks of a pipeline, as one ONNX file.

    The file holds every step from pixels to the result of `transform`: normalization of
    colors, network, pooling, last layer, several scales, unit length and signs.
    `OnnxExtractor` runs it without torch, and so does any program that runs ONNX
    opset 18, also on phones and in browsers.

    Parameters
    ----------
    estimator : CNNFeatureExtractor, DeepHasher, CPFEmbedder or Pipeline
        Fitted on images, or a search over parameters, such as `GridSearchCV`, that has
        fitted one of these as its ``best_estimator_``. Of a pipeline, all steps are
        exported, but not a retriever at its end. The steps after the first must be
        networks for rows, such as ``CNNFeatureExtractor(backbone=None)``.

    path : str or path
        File to write. Any name; nothing is appended. An existing file is
        replaced only when the new one is complete.

    Raises
    ------
    ValueError
        If the estimator or a step is not one of these, if it was fitted on feature rows
        and no step before it makes them, if torch cannot export your own module, or if
        the file would be larger than 2 GB, the limit of ONNX.

    ImportError
        If onnx or onnxscript is not installed or too old; they are in the extra
        ``[export]``.

    OSError
        If the file cannot be written. The previous file is unchanged.

    See Also
    --------
    sklearn_cbir.onnx_extractor.OnnxExtractor : Runs the file.

    Notes
    -----
    The only input is ``images``, uint8 of shape (n, height, width, 3), RGB, for
    any n, as `sklearn_cbir.images` reads them. Height and width are those of the
    fit. The output is ``vectors``, float32 of shape (n, width). A hasher has three
    outputs instead: ``codes``, uint8 of 0 and 1 (n, n_bits); ``packed``, the same
    bits, 8 per byte, lowest bit first, padded to whole 64-bit words as
    `pack_codes` does; and ``projections``, float32, whose signs are the bits.

    The metadata of the file hold a description under ``sklearn_cbir``, in JSON.
    It says how to make pixels of photos (size, resize_mode, interpolation), and
    holds name, tag and license of the backbone's weights.

    Results of onnxruntime and torch differ by rounding: less than 1e-5 of a vector's
    length; bits may differ if their projections are that close to 0.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from sklearn_cbir import CNNFeatureExtractor, OnnxExtractor, to_onnx
    >>> from sklearn_cbir.datasets import make_shapes
    >>> images, y = make_shapes(20, random_state=0)
    >>> extractor = CNNFeatureExtractor("small", weights=None, max_epochs=1).fit(images, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "shapes.onnx")
    ...     to_onnx(extractor, path)
    ...     vectors = OnnxExtractor(path).transform(images)
    >>> np.allclose(vectors, extractor.transform(images), atol=1e-5)
    True
    """
    steps = _network_steps(estimator)
    _import_onnx()
    with shielded():
        # Networks of their own: tracing leaves nothing in those of the estimators.
        networks = [rebuilt_network(step.__getstate__()["_network_state"]) for step in steps]
        _check_bytes(networks)
        description = _describe(steps, networks)
        model = _traced(steps, networks, description)
    content = sealed(_without_traces(model).SerializeToString(), description)
    with replacement(path) as file:
        file.write(content)


def _network_steps(estimator: object) -> list[NetworkTransformer]:
    """Return network estimators: the first takes images, the others take rows."""
    estimator = unwrapped(estimator)
    steps = _steps_of(estimator)
    if len(steps) > 1 and hasattr(steps[-1], "kneighbors"):
        steps = steps[:-1]
    for number, step in enumerate(steps):
        if not isinstance(step, NetworkTransformer):
            raise ValueError(_no_network(estimator, number, step))
        check_is_fitted(step)
    first, *later = cast("list[NetworkTransformer]", steps)
    if hasattr(first, "n_features_in_"):
        raise ValueError(
            f"{type(first).__name__} was fitted on 2-D feature rows, and to_onnx exports "
            "only networks for images. Fit it on images, or pass the pipeline whose first step "
            "makes these rows of images."
        )
    if later and first._gives == "code":
        raise ValueError(
            f"{type(first).__name__} gives codes, and a network after it cannot be exported. "
            "Export it alone."
        )
    return [first, *later]


def _steps_of(estimator: Any) -> list[Any]:
    """Return the steps of a pipeline, and of pipelines in it; of other estimators, themselves."""
    if not isinstance(estimator, Pipeline):
        return [estimator]
    parts = [part for _, part in estimator.steps if part not in (None, "passthrough")]
    return [step for part in parts for step in _steps_of(unwrapped(part))]


def _no_network(estimator: object, number: int, step: object) -> str:
    """Say that a step, or the estimator, cannot be exported."""
    known = "CNNFeatureExtractor, DeepHasher and CPFEmbedder, the only ones that can be exported"
    if step is estimator:
        return f"estimator={shortened(estimator)} is not one of {known}."
    way = f" Export the first {number} steps, pipeline[:{number}], and put the others after "
    return (
        f"Step {number} of the pipeline, {shortened(step)}, is not one of {known}."
        f"{f'{way}OnnxExtractor.' if number else ''}"
    )


def _import_onnx() -> None:
    """Raise unless the packages that torch exports with are installed."""
    for package, oldest in OLDEST.items():
        try:
            found = importlib.import_module(package).__version__
        except ImportError as error:
            raise ImportError(
                f"to_onnx needs {package}. Install it with: pip install 'sklearn-cbir[export]'."
            ) from error
        if parse_version(found) < parse_version(oldest):
            raise ImportError(
                f"to_onnx needs {package} {oldest} or later, and this is {found}, which writes "
                "different networks. Install it with: pip install --upgrade "
                "'sklearn-cbir[export]'."
            )


def _check_bytes(networks: Sequence[Network]) -> None:
    """Raise if the weights do not fit into one file; those for words stay out of it."""
    of_words = f"{WORDS}."
    tensors = [
        named
        for network in networks
        for named in (*network.named_parameters(), *network.named_buffers())
    ]
    n_bytes = sum(tensor.nbytes for name, tensor in tensors if not name.startswith(of_words))
    if n_bytes > LARGEST_FILE:
        raise ValueError(
            f"The network has {n_bytes / 2**30:.1f} GB of weights, and an ONNX file holds at "
            "most 2 GB. Export a smaller backbone, or save the estimator with "
            "sklearn_cbir.persistence.save."
        )


# What the file says ----------------------------------------------------------------------------


def _describe(steps: Sequence[NetworkTransformer], networks: Sequence[Network]) -> Description:
    """Return how the first step reads images, and the output of the last step."""
    first, last, network = steps[0], steps[-1], networks[-1]
    reading = first._network_state["reading"]
    size = reading["size"] or cast("tuple[int, ...]", first.image_shape_)[:2]
    height, width = size if isinstance(size, tuple) else (size, size)
    resizing = Resizing.of(reading)
    version = importlib.import_module("sklearn_cbir").__version__
    return Description(
        gives=last._gives,
        width=network.width,
        size=(height, width),
        resize=reading["resize"],
        resize_mode=resizing.resize_mode,
        interpolation=resizing.interpolation,
        fill=resizing.fill,
        scales=_scales(first),
        unit_length=network.unit_length,
        outputs=OUTPUTS[last._gives],
        feature_names=tuple(map(str, last.get_feature_names_out())),
        estimator=type(last).__name__,
        package=f"sklearn_cbir {version}",
        backbone=_origin(cast(Trunk, networks[0].trunk)),
    )


def _origin(trunk: Trunk) -> dict[str, str | None]:
    """Return the name of a backbone, and its origin from its spec."""
    backbone = trunk.spec["backbone"]
    source = cast("dict[str, Any]", trunk.spec.get("source") or {})
    name = backbone if isinstance(backbone, str) else type(backbone).__name__
    return {"name": name} | {key: source.get(key) for key in TOLD}


def _scales(estimator: NetworkTransformer) -> tuple[float, ...]:
    return tuple(map(float, getattr(estimator, "scales", (1.0,))))


# The model -------------------------------------------------------------------------------------


class _Vectors(nn.Module):
    """The computation of `transform` for the pixels of a batch."""

    def __init__(self, network: Network | MultiScale, later: Sequence[Network]) -> None:
        super().__init__()
        self.network = network
        self.later = nn.ModuleList(later)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return vectors (n, width) of uint8 images (n, height, width, 3)."""
        vectors = self.network.embed(images.permute(0, 3, 1, 2))
        for network in self.later:
            vectors = cast(Network, network).embed(vectors)
        return (vectors,)


class _Codes(_Vectors):
    """The same for codes."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return codes (n, n_bits), packed codes and projections."""
        (projections,) = super().forward(images)
        codes = (projections >= 0).to(torch.uint8)
        n_bits = projections.shape[1]
        filled = nn.functional.pad(codes.to(torch.int32), (0, -n_bits % WORD))
        places = 2 ** torch.arange(BYTE, dtype=torch.int32)
        packed = (filled.unflatten(1, (-1, BYTE)) * places).sum(dim=2, dtype=torch.int32)
        return codes, packed.to(torch.uint8), projections


def _traced(
    steps: Sequence[NetworkTransformer], networks: Sequence[Network], description: Description
) -> ModelProto:
    """Return the ONNX model of networks, one behind the other, for any number of images."""
    estimator, (network, *later) = steps[0], networks
    seen = network if description.scales == (1.0,) else MultiScale(network, description.scales)
    whole = (_Codes if description.gives == "code" else _Vectors)(seen, later).eval()
    images = torch.zeros(2, *description.size, 3, dtype=torch.uint8)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                whole,
                (images,),
                dynamo=True,
                input_names=[INPUT],
                output_names=list(description.outputs),
                dynamic_shapes=({0: torch.export.Dim("n")},),
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        model = cast("ModelProto", cast(Any, program).model_proto)
    except Exception as error:
        raise ValueError(
            f"{type(estimator).__name__} cannot be exported: torch.onnx.export fails "
            f"({type(error).__name__}: {first_line(error)}). Your own backbone or pooling must "
            "use operators that torch can export, for any number of images."
        ) from error
    _check_any_number(model, estimator)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the messages of torch and onnxscript about each other and about unchanged parts."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_any_number(model: ModelProto, estimator: NetworkTransformer) -> None:
    """Raise if the model was made for the number of images that it was traced with."""
    (images,) = model.graph.input
    if images.type.tensor_type.shape.dim[0].HasField("dim_value"):
        raise ValueError(
            f"{type(estimator).__name__} cannot be exported: its network works only for the "
            "number of images with which it was traced. In your own backbone, write x.shape[0] "
            "for len(x), and x.flatten(1) for views that name the number of images."
        )


def _without_traces(model: ModelProto) -> ModelProto:
    """Return a model without traces of its making, such as paths of this machine."""
    parts: list[Any] = [model]
    graphs = [model.graph]
    while graphs:
        graph = graphs.pop()
        graph.ClearField("value_info")
        parts += [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            parts += [attribute, attribute.t] if attribute.HasField("t") else [attribute]
            graphs += [attribute.g] if attribute.HasField("g") else attribute.graphs
    for part in parts:
        for name in {"metadata_props", "doc_string"} & {*part.DESCRIPTOR.fields_by_name}:
            part.ClearField(name)
    return model
