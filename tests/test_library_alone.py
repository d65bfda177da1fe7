"""The library needs only its dependencies, no checkout and no particular folder."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable

from conftest import ROOT

import dwp

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Python's finder of installed packages, except some.
WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else super().find_spec(name, path, target)

script, absent = sys.argv[1], sys.argv[3:]
sys.meta_path[:] = [Without if finder is PathFinder else finder for finder in sys.meta_path]
sys.argv[:] = sys.argv[1:3]
runpy.run_path(script, run_name="__main__")
"""


def requirements(names: Iterable[str]) -> set[str]:
    """Return these distributions and all that they require, as lower-case names."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = re.match(r"[\w.-]+", todo.pop()).group().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            try:
                needed = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:  # for another platform
                continue
            todo += [one for one in needed if "extra ==" not in one]
    return found


def test_the_readme_runs_with_the_dependencies_alone_in_any_folder(tmp_path):
    # PyTorch imports optree if there is metadata of it, which hiding its modules does not remove.
    there = requirements(PROJECT["dependencies"]) | {"dwp", "optree"}
    absent = [
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if not there & {name.lower().replace("_", "-") for name in distributions}
    ]
    assert {"scipy", "zuko", "h5py", "tqdm", "pandas", "snakemake", "torchvision"} <= {*absent}
    words = [ROOT / "tests" / "library_alone.py", ROOT / "README.md", *absent]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *map(str, words)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the library alone: 2 blocks" in done.stdout


def test_the_dependencies_are_few():
    names = [re.match(r"\w+", requirement).group() for requirement in PROJECT["dependencies"]]
    assert names == ["torch", "numpy", "safetensors"]


def test_type_checkers_see_the_names_of_the_package():
    stub = ast.parse((ROOT / "dwp" / "__init__.pyi").read_text())
    imported = {
        name.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    (listed,) = (ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert imported == dwp._HOMES
    assert listed == dwp.__all__
    for name in dwp.__all__:
        assert getattr(dwp, name).__module__ == imported[name]
