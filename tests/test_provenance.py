"""Versions, code digests, manifests and atomic writes."""

import hashlib
import json
import os
import pkgutil
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwp.errors import InputError
from dwp.files import atomic_write, sha256
from dwp.pipeline import provenance, stages
from dwp.pipeline.provenance import Artifact, checked_sha256, code_digest, write_manifest

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
    assert Artifact("source", {"l2": 0.01}, {"dataset": Artifact("data", {})}).version == "e6612b51"


def test_the_spec_is_plain_json():
    artifact = Artifact("source", {"l2": 0.01}, {"dataset": Artifact("data", {"n": 1})})
    spec = json.loads(json.dumps(artifact.spec))
    assert spec == artifact.spec
    assert spec["inputs"] == {"dataset": f"data/{Artifact('data', {'n': 1}).version}"}
    assert (spec["stage"], spec["version"], spec["params"]) == ("source", artifact.version, {"l2": 0.01})


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
        ("dwp/gamma.py", "3", "4"),  # imported inside a function of an imported module
        ("dwp/alpha.py", "CONSTANT = 1", "from dwp import unused\nCONSTANT = 1"),
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
    assert len(set(digests.values())) == len(names) == 7


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


# Manifests


def test_a_manifest_says_what_made_the_files(tmp_path):
    contents = {"nets.csv": b"net,accuracy\n", "nets.safetensors": bytes(range(256))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    spec = Artifact("source", {"l2": 0.01}, {"dataset": Artifact("data", {})}).spec
    write_manifest(
        tmp_path / "m.json", spec, [tmp_path / name for name in contents], device="cpu", seconds=1.5
    )
    manifest = json.loads((tmp_path / "m.json").read_text())
    assert {key: manifest[key] for key in spec} == spec
    assert (manifest["device"], manifest["seconds"]) == ("cpu", 1.5)
    assert manifest["files"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    import torch

    assert manifest["libraries"]["torch"] == torch.__version__
    assert manifest["python"] == sys.version.split()[0]
    assert set(manifest["git"]) == {"commit", "clean"}
    assert manifest["finished"].endswith("+00:00")


def test_a_manifest_does_not_need_git(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    write_manifest(tmp_path / "m.json", {}, [])
    assert json.loads((tmp_path / "m.json").read_text())["git"] == {"commit": None, "clean": None}
    monkeypatch.setenv("PATH", str(tmp_path))
    write_manifest(tmp_path / "m.json", {}, [])
    assert json.loads((tmp_path / "m.json").read_text())["git"] == {"commit": None, "clean": None}


def test_a_file_is_held_against_its_manifest(tmp_path):
    file = tmp_path / "nets-000-009.csv"
    file.write_text("net,accuracy\n")
    assert checked_sha256(file) == sha256(file)
    write_manifest(tmp_path / "nets-000-009.manifest.json", Artifact("source", {}).spec, [file])
    assert checked_sha256(file) == sha256(file)
    file.write_text("net,accuracY\n")
    with pytest.raises(InputError, match=r"nets-000-009\.csv is not as it was written .* delete it"):
        checked_sha256(file)
    # An unreadable manifest gives no information about the file.
    (tmp_path / "nets-000-009.manifest.json").write_text("{")
    assert checked_sha256(file) == sha256(file)


# Files


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    assert sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_whole_writes_the_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "a" / "b" / "f.csv"
    with atomic_write(path) as temporary:
        assert not path.exists()
        assert (temporary.parent, temporary.suffix) == (path.parent, ".csv")
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failing_block_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "f"
    path.write_text("old")

    def fail():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")
    code = (
        "import os, sys\nfrom dwp.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n    temporary.write_text('half')\n    os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=provenance.ROOT)
    assert done.returncode == 9
    assert path.read_text() == "old"


def test_the_umask_decides_about_permissions(tmp_path):
    for umask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            with atomic_write(tmp_path / "f") as temporary:
                temporary.write_text("")
        finally:
            os.umask(before)
        assert (tmp_path / "f").stat().st_mode & 0o777 == mode


def test_readers_see_the_old_or_the_new_file(tmp_path):
    path, sizes = tmp_path / "f", (200_000, 300_000)
    path.write_bytes(b"0" * sizes[0])
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            content = path.read_bytes()
            seen.add((len(content), len(set(content))))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(60):
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            for _ in range(10):
                file.write(b"%d" % (number % 2) * (sizes[number % 2] // 10))
                file.flush()
        time.sleep(0.001)
    stop.set()
    reader.join()
    assert seen <= {(size, 1) for size in sizes}
    assert seen
