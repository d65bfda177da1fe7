"""Fixtures: a finished smoke run and copies of the checkout, shared by several tests."""

import atexit
import os

# Before PyTorch is imported: its threads wait for each other by spinning, which on a busy
# machine takes a test of tiny tensors from seconds to minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Snakemake's plugin for Slurm asks the controller for its configuration whenever it is imported. If the
# machine's configuration names a controller that does not answer, that takes nine seconds.
os.environ["SLURM_CONF"] = os.devnull

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

# What is measured while tests keep the machine busy does not reach real runs. All workers share it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["DWP_CACHE"] = tempfile.mkdtemp(prefix="dwp-tests-")
    atexit.register(shutil.rmtree, os.environ["DWP_CACHE"], ignore_errors=True)

# Examples of each property; pytest --hypothesis-profile long selects the other number.
settings.register_profile("long", max_examples=2000, deadline=None)
settings.register_profile("short", max_examples=40, deadline=None)
settings.load_profile("short")


def copy_checkout(folder: Path) -> Path:
    """Copy the workflow and the library into a folder, times included, for tests that change them."""
    folder.mkdir(exist_ok=True)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy2(ROOT / name, folder)
    for name in ("config", "workflow", "profiles", "envs", "dwp"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def snakemake_arguments(
    folder: Path, *words: str, snakefile: Path = ROOT / "Snakefile", config: str | Path | None = "smoke"
) -> list[str]:
    """Return the arguments of Snakemake for a run of the workflow in a folder.

    Args:
        folder: the working directory.
        words: further arguments, first of all further configurations.
        snakefile: of the workflow.
        config: a configuration beside it in `config/`, or its file; None for none.
    """
    file = _beside(snakefile) / "config" / f"{config}.yaml" if isinstance(config, str) else config
    arguments = ["--snakefile", str(snakefile), "--directory", str(folder), "--cores", "2"]
    return [*arguments, *(["--configfile", str(file)] if file else []), *words]


def _beside(snakefile: Path) -> Path:
    return snakefile.parent.parent if snakefile.parent.name == "workflow" else snakefile.parent


def snakemake(
    folder: Path, *words: str, snakefile: Path = ROOT / "Snakefile", config: str | Path | None = "smoke"
) -> subprocess.CompletedProcess:
    """Run the workflow in a folder, with the `dwp` beside its Snakefile; return its output and exit status.

    The arguments are those of `snakemake_arguments`.
    """
    arguments = snakemake_arguments(folder, *words, snakefile=snakefile, config=config)
    beside = _beside(snakefile)
    environment = os.environ | {"PYTHONPATH": str(beside if (beside / "dwp").is_dir() else ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


# The files that take longest, most of which run workflows.
LONG = (
    "test_pipeline.py",
    "test_paper_cifar.py",
    "test_benchmarks.py",
    "test_chaos.py",
    "test_ecosystem.py",
    "test_invalidation.py",
    "test_side_by_side.py",
    "test_storage.py",
    "test_report.py",
    "test_shards.py",
    "test_own_data.py",
    "test_staleness.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first where several processes share the files, so that these end together."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {name: place for place, name in enumerate(LONG)}
        items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how often malformed inputs of each kind were refused and read; some are used more than once."""
    counts = getattr(sys.modules.get("malformed_inputs"), "COUNTS", {})
    if "DWP_INPUTS" in os.environ and counts:
        kinds = sorted({kind for kind, _ in counts})
        rows = [(kind, counts[kind, "refused"], counts[kind, "read"]) for kind in kinds]
        rows.append(("in all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
        terminalreporter.section("uses of malformed inputs: refused, read")
        for kind, *numbers in rows:
            terminalreporter.line(f"{kind:55}" + "".join(f"{number:9}" for number in numbers))


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the smoke configuration has run to its end; tests must not change it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Next to the folders of the workers, which share one run.
        shared = shared.parent
    folder = shared / "smoke"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            done = snakemake(folder)
            assert done.returncode == 0, done.stdout[-5000:]
            assert "Tables and figures: results/latest/report" in done.stdout
    return folder


@pytest.fixture(scope="module")
def finished(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the finished run, times included; tests that change it must restore it."""
    return shutil.copytree(smoke_run, tmp_path_factory.mktemp("finished") / "run", symlinks=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the code, times included; tests that change it must restore it."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"))
