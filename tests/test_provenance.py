"""Versions and code digests of artifacts."""

import json
import os
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwp.pipeline import provenance, stages
from dwp.pipeline.provenance import Artifact, code_digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(inner) for key, inner in reversed(value.items())}
    return [reversed_keys(inner) for inner in value] if isinstance(value, list) else value


# Versions


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_the_order_of_keys_does_not_count(params):
    one, other = Artifact("stage", params), Artifact("stage", reversed_keys(params))
    assert one.version == other.version
    assert len(one.version) == 8
    assert int(one.version, 16) >= 0


def test_everything_that_can_change_the_bytes_counts():
    data, more = Artifact("data", {"n": 1}), Artifact("data", {"n": 2})
    versions = [
        artifact.version
        for artifact in (
            Artifact("source", {"a": 1, "b": [1, 2]}),
            Artifact("kernels", {"a": 1, "b": [1, 2]}),
            Artifact("source", {"a": 1, "b": [2, 1]}),
            Artifact("source", {"a": 1, "b": [1, 2], "c": None}),
            Artifact("source", {"a": 1.5, "b": [1, 2]}),
            Artifact("source", {"a": 1, "b": [1, 2]}, {"dataset": data}),
            Artifact("source", {"a": 1, "b": [1, 2]}, {"dataset": more}),
            Artifact("source", {"a": 1, "b": [1, 2]}, {"other": data}),
            Artifact("source", {"a": 1, "b": [1, 2]}, {"dataset": Artifact("x", {}, {"dataset": data})}),
        )
    ]
    assert len(set(versions)) == len(versions)


def test_names_and_code_do_not_count():
    plain = Artifact("source", {"a": 1})
    other = Artifact("source", {"a": 1}, modules=("dwp.errors",), name="people's")
    assert plain.version == other.version
    assert plain.spec["code"] != other.spec["code"]
    assert other.path("nets.csv") == f"results/source/{other.version}/nets.csv"


def test_versions_are_stable_between_processes_and_releases():
    # A change here invalidates all users' results, so it must be intentional.
    assert Artifact("source", {"l2": 0.01}, {"dataset": Artifact("data", {})}).version == "5efc6522"


def test_the_spec_is_plain_json():
    artifact = Artifact("source", {"l2": 0.01}, {"dataset": Artifact("data", {"n": 1})})
    spec = json.loads(json.dumps(artifact.spec))
    assert spec == artifact.spec
    assert spec["inputs"] == {"dataset": f"data/{Artifact('data', {'n': 1}).digest}"}
    assert (spec["stage"], spec["version"], spec["params"]) == ("source", artifact.digest, {"l2": 0.01})


# Code digests

SCRIPT = '''"""A script."""
from dwp import alpha
from dwp.beta import value
import torch


def main():
    """Return a number."""
    return alpha.CONSTANT + value + 1
'''


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small package in place of this checkout; a function digests its script."""
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    files = {
        "dwp/pipeline/job.py": SCRIPT,
        "dwp/__init__.py": "NAME = 'dwp'\n",
        "dwp/alpha.py": "CONSTANT = 1\n",
        "dwp/beta.py": "def lazily():\n    from dwp.gamma import G\n    return G\n\n\nvalue = 2\n",
        "dwp/gamma.py": "import dwp.alpha\n\nG = 3\n",
        "dwp/unused.py": "U = 4\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def digest(name=None, old="", new=""):
        """Digest the script, with a text in one file replaced temporarily."""
        monkeypatch.setattr(provenance, "_cache", {})
        if name is None:
            return code_digest(["dwp.pipeline.job"])
        path = tmp_path / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        try:
            return digest()
        finally:
            path.write_text(text)

    return digest


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("dwp/pipeline/job.py", "import torch", "import torch  # a comment"),
        ("dwp/pipeline/job.py", '"""Return a number."""', '"""Return another number,\n    in nats."""'),
        ("dwp/pipeline/job.py", '"""A script."""\n', ""),
        (
            "dwp/pipeline/job.py",
            "alpha.CONSTANT + value + 1",
            "(\n        alpha.CONSTANT + value + 1\n    )",
        ),
        ("dwp/alpha.py", "CONSTANT = 1", "\n\nCONSTANT   =   1 ;"),
        ("dwp/beta.py", "value = 2", '"a comment by another name"\nvalue = 2'),
        ("dwp/unused.py", "4", "5"),
        ("dwp/gamma.py", "3", "4"),  # imported by a function that the script does not call
        ("dwp/alpha.py", "CONSTANT = 1", "from dwp import unused\nCONSTANT = 1"),
        ("dwp/__init__.py", "'dwp'", "'other'"),
    ],
)
def test_what_the_code_digest_does_not_see(tree, name, old, new):
    assert tree(name, old, new) == tree()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("dwp/pipeline/job.py", "value + 1", "value + 2"),
        ("dwp/pipeline/job.py", "def main()", "def main(x=None)"),
        ("dwp/alpha.py", "1", "2"),
        ("dwp/alpha.py", "CONSTANT = 1", "CONSTANT = '1'"),
        ("dwp/beta.py", "value = 2", "value = 3"),
        ("dwp/alpha.py", "CONSTANT = 1", "from dwp import unused\nCONSTANT = unused.U"),
        ("dwp/beta.py", "value = 2", "value = lazily()"),
        ("dwp/pipeline/job.py", "from dwp import alpha", "from dwp import alpha, NAME"),
    ],
)
def test_what_the_code_digest_sees(tree, name, old, new):
    assert tree(name, old, new) != tree()


def test_an_edit_is_seen_within_one_process(tree, tmp_path):
    module = tmp_path / "dwp/alpha.py"
    before = code_digest(["dwp.pipeline.job"])
    module.write_text("CONSTANT = 7\n")
    os.utime(module, ns=(1, 1))
    assert code_digest(["dwp.pipeline.job"]) != before


def test_roots_may_come_in_any_order(tree, tmp_path):
    roots = [f"dwp.{name}" for name in ("beta", "alpha", "unused")]
    assert code_digest(roots) == code_digest(reversed(roots)) == code_digest(roots * 2)
    assert code_digest(roots) != code_digest(roots[:2])


def test_every_stage_has_a_digest_of_its_own():
    names = [module.name for module in pkgutil.iter_modules(stages.__path__)]
    digests = {name: code_digest([f"dwp.pipeline.stages.{name}"]) for name in names}
    assert len(set(digests.values())) == len(names) == 8


# Of an experiment, the code that computes it, not the code that shows it

EXPERIMENT = """
from dwp import beta
from dwp.alpha import CONSTANT, OTHER
from dwp.settings import setting

TITLE = "a title"
FACTOR = 2
TABLE = {}
TABLE["key"] = FACTOR
BOUNDS = [number for number in (1, 2)]


class Settings:
    width: int = setting("channels", 3)


def helper(x):
    from dwp.gamma import G
    return G * x


def draw(number):
    return beta.value + number


def run(task):
    number = TABLE["key"] + OTHER
    return helper(number)


EXPERIMENT = (TITLE, draw, run, Settings, CONSTANT)
"""


@pytest.fixture
def experiment(tree, tmp_path, monkeypatch):
    """An experiment in the small package; a function digests parts of it, with a text replaced."""
    files = {"experiments/one.py": EXPERIMENT, "settings.py": "def setting():\n    pass\n"}
    files["experiments/two.py"] = "from dwp.experiments.one import run\n"
    files["experiments/three.py"] = "from dwp.experiments import one\n\ndef run(task):\n    one.run(task)\n"
    files["experiments/four.py"] = "from dwp.experiments import one\n\ndef run(task):\n    vars(one)\n"
    for name, text in files.items():
        (tmp_path / "dwp" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "dwp" / name).write_text(text)
    (tmp_path / "dwp/alpha.py").write_text("CONSTANT = 1\nOTHER = 2\n")

    def digest(*roots, old="", new="", name="experiments/one.py"):
        monkeypatch.setattr(provenance, "_cache", {})
        path = tmp_path / "dwp" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        try:
            return code_digest(roots)
        finally:
            path.write_text(text)

    return digest


WHOLE = "dwp.experiments.one"
# Itself, and what imports it by name and as a module.
RUNS = ("dwp.experiments.one:run", "dwp.experiments.two", "dwp.experiments.three:run")


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("a title", "another title", "experiments/one.py"),
        ("def draw(number):", "def draw(number, more=1):", "experiments/one.py"),
        ("number for number in (1, 2)", "number for number in (1, 2, 3)", "experiments/one.py"),
        ('setting("channels", 3)', 'setting("channels", 4)', "experiments/one.py"),
        ("value = 2", "value = 3", "beta.py"),  # which only the figure uses
    ],
)
def test_how_an_experiment_is_shown_is_no_part_of_its_computation(experiment, old, new, name):
    for root in RUNS:
        assert experiment(root, old=old, new=new, name=name) == experiment(root)
    assert experiment(WHOLE, old=old, new=new, name=name) != experiment(WHOLE)


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("helper(number)", "helper(number + 1)", "experiments/one.py"),
        ("G * x", "G + x", "experiments/one.py"),
        ("FACTOR = 2", "FACTOR = 3", "experiments/one.py"),
        ('TABLE["key"] = FACTOR', 'TABLE["key"] = 7', "experiments/one.py"),
        ("BOUNDS = ", "print(1)\nBOUNDS = ", "experiments/one.py"),
        ("OTHER = 2", "OTHER = 3", "alpha.py"),
        ("G = 3", "G = 4", "gamma.py"),  # imported inside a function that `run` calls
    ],
)
def test_what_an_experiment_reaches_by_name_counts(experiment, old, new, name):
    for root in RUNS:
        assert experiment(root, old=old, new=new, name=name) != experiment(root)


def test_a_default_counts_and_its_description_does_not(experiment):
    settings = "dwp.experiments.one:Settings"
    assert experiment(settings, old="channels", new="number of channels") == experiment(settings)
    assert experiment(settings, old='channels", 3', new='channels", 4') != experiment(settings)


def test_of_a_name_that_nothing_binds_the_whole_module_counts(experiment):
    for root in ("dwp.experiments.one:made_by_getattr", "dwp.experiments.four"):
        assert experiment(root, old="a title", new="another title") != experiment(root)
