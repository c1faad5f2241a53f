"""Print what pip has to install for the lower bounds of pyproject.toml, extras included.

The first line names the oldest Python: ``# python3.11``.
"""

import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lower_bound(requirement):
    """Return the version that a requirement starts from, ``>=``, or is pinned to, ``==``."""
    bounds = [c.version for c in requirement.specifier if c.operator in (">=", "==")]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} of {PROJECT.name} has {len(bounds)} lower bounds, not 1.")
    return bounds[0]


def oldest(texts):
    """Return the requirements at their lower bounds, once each.

    One that stands in several extras has the same bound in all of them.
    """
    bounds = {}
    for requirement in map(Requirement, texts):
        name = requirement.name + "".join(f"[{extra}]" for extra in sorted(requirement.extras))
        bound = bounds.setdefault(name, lower_bound(requirement))
        if bound != lower_bound(requirement):
            raise ValueError(f"{name} has two lower bounds: {bound} and {requirement}.")
    return [f"{name}=={bound}" for name, bound in sorted(bounds.items())]


if __name__ == "__main__":
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    print("# python" + lower_bound(Requirement("python" + project["requires-python"])))
    print(*oldest([*project["dependencies"], *extras]), sep="\n")
