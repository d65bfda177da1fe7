"""Snakemake forked from a process that has imported it: most of the time of a plan goes into imports."""

import multiprocessing
import os
import subprocess
from pathlib import Path

from conftest import snakemake_arguments

FORKS = multiprocessing.get_context("forkserver")
# All that a dry run imports but dwp, which a test may have changed.
FORKS.set_forkserver_preload(
    [
        "snakemake.cli",
        "snakemake.report",
        "smart_open",
        "nbformat",
        "pydantic",
        "pandas",
        "pytest",
        "hypothesis",
        "filelock",
        "jinja2",
    ]
)


def forked_snakemake(folder: Path, *words: str, **others: object) -> subprocess.CompletedProcess:
    """Do what `conftest.snakemake` does, for runs without jobs; the output is also in `snakemake.log`."""
    arguments = snakemake_arguments(folder, *words, **others)
    output = folder / "snakemake.log"
    process = FORKS.Process(target=_main, args=(arguments, output))
    process.start()
    process.join()
    return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(encoding="utf-8"))


def _main(arguments: list[str], output: Path) -> None:
    from snakemake.cli import main

    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main(arguments)
