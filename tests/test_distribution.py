"""What is uploaded: the wheel is the package, the sdist all that is needed to test and build it."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import sklearn_cbir
from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever, to_onnx
from sklearn_cbir.datasets import load_image_folder

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UNTRACKED = {"__pycache__", "_build", "generated"}
# README's example with photos that ship, and a network that needs no download.
STAND_INS = {
    '"catalogue/"': "catalogue",
    '"test/"': "catalogue",
    '"timm/tf_efficientnet_lite0", weights="packaged"': '"small", weights=None, image_size=16',
    "DeepHasher(48)": "DeepHasher(48, max_epochs=1)",
    "StratifiedKFold(5": "StratifiedKFold(2",
}
EVERY_MODULE = """
import importlib, pkgutil, sklearn_cbir
for info in pkgutil.iter_modules(sklearn_cbir.__path__):
    importlib.import_module(f"sklearn_cbir.{info.name}")
"""
EXAMPLE = """
import warnings
warnings.simplefilter("ignore")  # so small a network learns next to nothing
catalogue = {catalogue!r}
import sklearn_cbir
if __name__ == "__main__":
    {code}
    print(sklearn_cbir.__file__)
"""
SEARCH_WITHOUT_TORCH = """
import sys
from sklearn.pipeline import make_pipeline
from sklearn_cbir import NeighborsRetriever, OnnxExtractor
from sklearn_cbir.datasets import load_image_folder
from sklearn_cbir.persistence import load, save

network, folder = sys.argv[1:]
photos = load_image_folder(folder).data
search = make_pipeline(OnnxExtractor(network), NeighborsRetriever(3))
save(search.fit(photos, neighborsretriever__ids=photos), "search.cbir")
print(*load("search.cbir").predict(photos).ravel(), sep="\\n")
"""


def build(folder, out, *targets):
    """Build a wheel or an sdist as an installer does, without fetching what builds it."""
    targets = [part for target in targets for part in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out), *targets]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The paths of the wheel and of the sdist."""
    out = tmp_path_factory.mktemp("dist")
    build(ROOT, out, "wheel", "sdist")
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def contents(wheel):
    """Return name -> bytes of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def files_below(folder):
    """Return the files of a folder of the project, as names from its root."""
    paths = (path.relative_to(ROOT) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not UNTRACKED & set(path.parts)}


def test_the_wheel_holds_the_package_with_its_types_and_nothing_else(built):
    names = {name for name in contents(built[0]) if ".dist-info/" not in name}
    assert names == files_below(ROOT / "sklearn_cbir")
    assert "sklearn_cbir/py.typed" in names


def test_the_wheel_says_what_it_is_and_what_it_needs(built):
    files = contents(built[0])
    (info,) = (name for name in files if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(files[info])
    assert metadata["Version"] == sklearn_cbir.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert files[info.replace("METADATA", "licenses/LICENSE")] == (ROOT / "LICENSE").read_bytes()
    assert metadata.get_payload().startswith("# sklearn_cbir")
    needed = {Requirement(text) for text in metadata.get_all("Requires-Dist")}
    assert {r for r in needed if not r.marker} == set(map(Requirement, PROJECT["dependencies"]))
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


def test_the_sdist_holds_what_tests_and_pages_need(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    folders = ("sklearn_cbir", "tests", "docs", "examples", "benchmarks", ".ci")
    wanted = set().union(*(files_below(ROOT / folder) for folder in folders))
    wanted |= {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff"}
    assert wanted - names == set()


def test_the_sdist_builds_the_same_wheel(built, tmp_path):
    wheel, sdist = built
    with tarfile.open(sdist) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
        archive.extractall(tmp_path)
    (folder,) = tmp_path.iterdir()
    build(folder, tmp_path / "out", "wheel")
    (again,) = (tmp_path / "out").iterdir()
    assert again.name == wheel.name
    assert contents(again) == contents(wheel)


def test_what_is_listed_as_needed_without_torch_is_what_is_needed_but_for_torch():
    lines = (ROOT / "docs" / "without_torch.txt").read_text().splitlines()
    listed = {Requirement(line) for line in lines if not line.startswith("#")}
    needed = set(map(Requirement, PROJECT["dependencies"]))
    needed |= set(map(Requirement, PROJECT["optional-dependencies"]["onnx"]))
    assert listed == {
        each for each in needed if each.name not in {"torch", "torchvision", "skorch"}
    }


def environment_in(folder):
    """Make an environment of its own, and return what runs its Python in another folder."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    away = folder / "away"
    away.mkdir()
    ours = {"PYTHONPATH", "PYTHONHOME"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}

    def run(*arguments):
        command = [str(python), *map(str, arguments)]
        return subprocess.run(command, cwd=away, env=environment, check=True, stdout=-1, text=True)

    return run


@pytest.mark.nightly
def test_the_wheel_searches_with_an_exported_network_where_there_is_no_torch(built, tmp_path):
    """An environment without torch, by the two commands of the page on handing over."""
    run = environment_in(tmp_path)
    run("-m", "pip", "install", "-q", "-r", ROOT / "docs" / "without_torch.txt")
    run("-m", "pip", "install", "-q", "--no-deps", built[0])
    assert "torch" not in run("-m", "pip", "list").stdout
    folder, network = ROOT / "tests" / "data" / "clothing", tmp_path / "network.onnx"
    photos = load_image_folder(folder)
    extractor = CNNFeatureExtractor("small", weights=None, image_size=24, max_epochs=1)
    rows = extractor.fit(photos.data, photos.target).transform(photos.data)
    to_onnx(extractor, network)
    nearest = NeighborsRetriever(3).fit(rows, ids=photos.data).predict(rows)
    script = tmp_path / "search.py"
    script.write_text(SEARCH_WITHOUT_TORCH)
    assert run(script, network, folder).stdout.splitlines() == nearest.ravel().tolist()


@pytest.mark.nightly
def test_the_wheel_works_where_nothing_else_is_installed(built, tmp_path):
    """An environment of its own, with what the wheel asks for and no extra, in another folder."""
    run = environment_in(tmp_path)
    run("-m", "pip", "install", "-q", built[0])
    run("-c", EVERY_MODULE)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S))
    for name, stand_in in STAND_INS.items():
        assert name in code
        code = code.replace(name, stand_in)
    catalogue = str(ROOT / "tests" / "data" / "clothing")
    script = tmp_path / "readme.py"
    indented = code.replace("\n", "\n    ")
    script.write_text(EXAMPLE.format(catalogue=catalogue, code=indented))
    assert str(tmp_path / "venv") in run(script).stdout
    assert (tmp_path / "away" / "codes.joblib").stat().st_size > 0
