"""Libraries of named networks: imported when a name needs them; and their names.

A name without a prefix is built in or torchvision's; all others have the prefix of their library.
"""

import importlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import ModuleType

import torch

from sklearn_cbir._validation import shortened
from sklearn_cbir.backbones._built_in import BACKBONES
from sklearn_cbir.backbones._hub import is_place

N_NEAREST = 3
SET_ON_IMPORT = "TOKENIZERS_PARALLELISM"  # by open_clip; nothing of the environment is set here

# What transformers and torch.hub call networks that these libraries have, as `_plain` writes it.
ELSEWHERE = {
    "clip": "open_clip/ViT-B-32",
    "clipvitbasepatch32": "open_clip/ViT-B-32",
    "clipvitbasepatch16": "open_clip/ViT-B-16",
    "clipvitlargepatch14": "open_clip/ViT-L-14",
    "clipvitlargepatch14336": "open_clip/ViT-L-14-336",
    "siglipbasepatch16224": "open_clip/ViT-B-16-SigLIP",
    "siglipso400mpatch14384": "open_clip/ViT-SO400M-14-SigLIP-384",
    "siglip2basepatch16224": "open_clip/ViT-B-16-SigLIP2",
    **{
        f"{family}{theirs}": f"timm/vit_{size}_patch14_{ours}"
        for size in ("small", "base", "large", "giant")
        for family, theirs, ours in (
            ("dinov2", size, "dinov2"),
            ("dinov2", f"vit{size[0]}14", "dinov2"),
            ("dinov2withregisters", size, "reg4_dinov2"),
            ("dinov2", f"vit{size[0]}14reg", "reg4_dinov2"),
        )
    },
    **{
        f"dinov3vit{size[0]}16{pretrained}": f"timm/vit_{size}_patch16_dinov3"
        for size in ("small", "base", "large")
        for pretrained in ("", "pretrainlvd1689m")
    },
}


@dataclass(frozen=True)
class Library:
    """A package of networks, whose names begin with the name of the package."""

    oldest: tuple[int, ...]  # version
    extra: str  # that installs it
    names: Callable[[ModuleType], list[str]]


# By the prefix of their names.
LIBRARIES = {
    "timm": Library((1, 0, 31), "timm", lambda timm: timm.list_models()),
    "open_clip": Library((3, 3), "clip", lambda open_clip: open_clip.list_models()),
}


def import_library(package: str) -> ModuleType:
    """Return a package in `LIBRARIES`, or say what to install."""
    library = LIBRARIES[package]
    variable = os.environ.get(SET_ON_IMPORT)
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"Backbones whose names begin with '{package}/' need {package} ({error}). Install it "
            f"with pip install 'sklearn-cbir[{library.extra}]'."
        ) from error
    finally:
        if variable is None:
            os.environ.pop(SET_ON_IMPORT, None)
        else:
            os.environ[SET_ON_IMPORT] = variable
    parts = module.__version__.split(".")[: len(library.oldest)]
    if tuple(int(part) for part in parts if part.isdigit()) < library.oldest:
        raise ImportError(
            f"Backbones whose names begin with '{package}/' need {package} "
            f"{'.'.join(map(str, library.oldest))} or later, and this is {module.__version__}. "
            f"Install it with pip install --upgrade 'sklearn-cbir[{library.extra}]'."
        )
    return module


def import_torchvision() -> ModuleType:
    """Return torchvision, or say how to get one that works."""
    try:
        import torchvision
    except Exception as error:
        raise ImportError(
            f"torchvision does not work with torch {torch.__version__} ({error}). Install the two "
            "together, from the same index and in one command: pip install --upgrade torch "
            "torchvision. The built-in backbones "
            f"{sorted(BACKBONES)} need no torchvision."
        ) from error
    return torchvision


# What names may be meant -------------------------------------------------------------------------


def unknown_backbone(backbone: str) -> ValueError:
    """Return the error for a name that its library does not know.

    It lists the names of that network in other libraries, or its name here if transformers and
    torch.hub use the given one; else the nearest names; for a name with a prefix, the nearest names
    of its library.
    """
    if is_place(backbone):
        ways = _listed([f"{package}/{backbone}" for package in LIBRARIES])
        return ValueError(
            f"backbone={backbone!r} does not say which library builds it. Use {ways}."
        )
    known, missing = _known_names()
    asked = {_plain(backbone), _plain(backbone.replace("/", "-"))}  # as in "ViT-B/32"
    same = [_with_tag(name, backbone) for name in known if _plain(name) in asked]
    same = same or [ELSEWHERE[name] for name in sorted(asked) if name in ELSEWHERE]
    if same:
        hint = f"Did you mean {_listed(same)}?"
    else:
        package, slash, _ = backbone.partition("/")
        of_library = [name for name in known if name.startswith(package + slash) and slash]
        hint = f"The nearest names are {_listed(_nearest(backbone, of_library or known))}."
    absent = f"Names of {_listed(missing)} were not looked up: not installed. " if missing else ""
    return ValueError(
        f"backbone={shortened(backbone)} is not known. {hint} {absent}Use one of "
        f"{sorted(BACKBONES)}, a classification network of torchvision, 'timm/NAME', "
        "'open_clip/NAME', or pass your own torch module."
    )


def unknown_tag(backbone: str, tag: str, tags: Iterable[str]) -> ValueError:
    """Return the error for a tag of weights that a network does not have."""
    tags = sorted(tags)
    return ValueError(
        f"{tag!r} is not a tag of the weights of backbone={backbone!r}. "
        + (f"Use one of {tags}." if tags else "None are published for it: use weights=None.")
    )


def _known_names() -> tuple[list[str], list[str]]:
    """Return all names that are known, and the libraries that are not installed."""
    models = import_torchvision().models
    known, missing = [*BACKBONES, *models.list_models(module=models)], []
    for package, library in LIBRARIES.items():
        try:
            module = import_library(package)
        except ImportError:
            missing.append(package)
        else:
            known += [f"{package}/{name}" for name in library.names(module)]
    return known, missing


def _plain(name: str) -> str:
    """Return a name without prefix, tag, case and separators."""
    name = name.rpartition("/")[2].partition(".")[0]
    return name.lower().replace("-", "").replace("_", "")


def _with_tag(name: str, asked: str) -> str:
    """Return a name with the tag of the requested name, if it may have one."""
    _, dot, tag = asked.rpartition("/")[2].partition(".")
    return f"{name}{dot}{tag}" if name.startswith("timm/") else name


def _nearest(asked: str, known: list[str]) -> list[str]:
    """Return the most similar names: first those that contain it, the shortest first."""
    asked = _plain(asked)
    matcher = SequenceMatcher(b=asked)  # it remembers b, and not a

    def unlikeness(name: str) -> tuple[bool, float, str]:
        plain = _plain(name)
        matcher.set_seq1(plain)
        return asked not in plain, -matcher.ratio(), name

    return sorted(known, key=unlikeness)[:N_NEAREST]


def _listed(names: list[str]) -> str:
    *first, last = map(repr, names)
    return f"{', '.join(first)} or {last}" if first else last
