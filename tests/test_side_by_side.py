"""Two concurrent runs in one folder: they share common files, and each is made once."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from forks import forked_snakemake
from safetensors.torch import save_file

from dwp.pipeline import run_locks
from dwp.pipeline.cli import main

LOCK = (
    "import sys; from dwp.pipeline.run_locks import lock; "
    "lock(sys.argv[1:]); print('locked', flush=True); input()"
)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
PIPE = subprocess.PIPE


class Run:
    """A process that locks the versions of some files and holds them until told to end."""

    def __init__(self, *files: str, stale: bool = False) -> None:
        lock = LOCK.replace("sys.argv[1:]", "sys.argv[1:], lambda files: True") if stale else LOCK
        command = [sys.executable, "-c", lock, *files]
        self.process = subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, env=ENVIRONMENT
        )

    def locked(self) -> "Run":
        assert self.process.stdout.readline() == "locked\n"
        return self

    def waits(self, version: str) -> bool:
        line = self.process.stderr.readline()
        return line == f"Waiting for another run here, which makes or reads {version}\n"

    def end(self) -> str:
        return self.process.communicate("\n")[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with one finished version."""
    monkeypatch.chdir(tmp_path)
    Path("results/data/00000000").mkdir(parents=True)
    Path("results/data/00000000/digits").touch()
    return tmp_path


DATA, NETS, OTHER = (
    "results/data/00000000/digits",
    "results/source/11111111/nets",
    "results/source/22222222/nets",
)


def test_what_is_finished_is_shared(folder):
    runs = [Run(DATA, NETS).locked(), Run(DATA, OTHER).locked()]
    assert [run.end() for run in runs] == ["", ""]


def test_what_is_to_be_made_belongs_to_one_run_until_it_ends(folder):
    first = Run(NETS, DATA).locked()
    second, third = Run(DATA, NETS), Run(DATA, NETS)
    assert second.waits("source/11111111")
    assert third.waits("source/11111111")
    Path(NETS).parent.mkdir(parents=True)
    Path(NETS).touch()
    assert first.end() == ""
    # Both have the file, and neither makes it.
    second.locked()
    third.locked()
    assert (second.end(), third.end()) == ("", "")


def test_what_is_there_and_stale_belongs_to_one_run(folder):
    first = Run(DATA, stale=True).locked()
    second = Run(DATA)
    assert second.waits("data/00000000")
    assert first.end() == ""
    assert second.locked().end() == ""


def test_a_killed_run_locks_nothing(folder):
    first = Run(NETS).locked()
    first.process.kill()
    first.end()
    assert Run(NETS).locked().end() == ""


def test_where_no_locks_are_kept_nobody_waits(folder, monkeypatch, caplog):
    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    monkeypatch.setattr(run_locks, "_descriptors", {})
    run_locks.lock([DATA, NETS])
    assert "this file system keeps no locks" in caplog.text
    assert not run_locks.any_held()


COMMON = """
kernels: {files: [kernels.safetensors], threshold: 0.0}
priors: {vae: null, gaussian: null, standard_normal: null, log_uniform: null, molchanov: null}
experiments:
  convergence: {seeds: 1, shard: 1, schedule: {steps: 2}, network: {layers: [{conv: 2, kernel: 5, pool: 4}]}}
"""
FIRST = "experiments: {convergence: {methods: {dwp: null, filters: null}}}"
SECOND = "experiments: {convergence: {methods: {dwp: null}}}"


def test_two_configurations_at_the_same_time_end_well(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    save_file({"conv.weight": torch.randn(8, 4, 5, 5, generator=generator)}, tmp_path / "kernels.safetensors")
    smoke, common = str(ROOT / "config" / "smoke.yaml"), tmp_path / "common.yaml"
    others = yaml.safe_load((ROOT / "config.yaml").read_text())["experiments"].keys() - {"convergence"}
    common.write_text(COMMON + "".join(f"  {name}: null\n" for name in others))
    overlays = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    for file, text in zip(overlays, (FIRST, SECOND), strict=True):
        file.write_text(text + "\n")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "1"]
    command += ["--directory", str(tmp_path), "--configfile", smoke, str(common)]
    streams = {"stdout": PIPE, "stderr": subprocess.STDOUT, "text": True}
    runs = [subprocess.Popen([*command, str(file)], env=ENVIRONMENT, **streams) for file in overlays]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(outputs)[-8000:]
    waited = [bool(re.search(r"^Waiting for another run here", output, re.MULTILINE)) for output in outputs]
    assert sorted(waited) == [False, True]

    made = [re.findall(r"^(?:local)?rule (?!all)(\w+):", output, re.MULTILINE) for output in outputs]
    assert sorted(made[0] + made[1]) == ["data", *["experiment"] * 2, "kernels", "prior", *["report"] * 2]
    assert main(["verify", "--directory", str(tmp_path)]) == 0
    assert "0 missing or damaged" in capsys.readouterr().out
    for file in overlays:
        again = forked_snakemake(tmp_path, str(common), str(file), "--dry-run")
        assert "Nothing to be done" in again.stdout, again.stdout[-3000:]

    # The links point only to the files of the run that ended last.
    latest = tmp_path / "results" / "latest"
    links = {str(link.relative_to(latest)) for link in latest.rglob("*") if link.is_symlink()}
    methods = {"convergence/xavier"} | ({"convergence/filters"} if waited[1] else set())
    assert links == {"data/digits", "kernels/5x5", "priors/filters-5x5", "report"} | methods
    assert all(link.exists() for link in latest.rglob("*"))
