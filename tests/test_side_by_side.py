"""Two concurrent runs in one folder: they share common files, and each is made once."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from forks import forked_snakemake
from safetensors.torch import save_file

from dwp.pipeline import claims, paths
from dwp.results.cli import main

CLAIM = (
    "import sys; from dwp.pipeline.claims import claim; "
    "claim(sys.argv[1:]); print('claimed', flush=True); input()"
)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
PIPE = subprocess.PIPE


class Run:
    """A process that claims the versions of some files until told to end; `elsewhere` is put first."""

    def __init__(self, *files: str, stale: bool = False, elsewhere: Sequence[str] = ()) -> None:
        claim = CLAIM.replace("sys.argv[1:]", "sys.argv[1:], lambda files: True") if stale else CLAIM
        command = [*elsewhere, sys.executable, "-c", claim, *files]
        self.process = subprocess.Popen(
            command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, env=ENVIRONMENT
        )

    def claimed(self) -> "Run":
        assert self.process.stdout.readline() == "claimed\n"
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
    runs = [Run(DATA, NETS).claimed(), Run(DATA, OTHER).claimed()]
    assert [run.end() for run in runs] == ["", ""]


def test_what_is_to_be_made_belongs_to_one_run_until_it_ends(folder):
    first = Run(NETS, DATA).claimed()
    second, third = Run(DATA, NETS), Run(DATA, NETS)
    assert second.waits("source/11111111")
    assert third.waits("source/11111111")
    Path(NETS).parent.mkdir(parents=True)
    Path(NETS).touch()
    assert first.end() == ""
    # Both have the file, and neither makes it.
    second.claimed()
    third.claimed()
    assert (second.end(), third.end()) == ("", "")


def test_what_is_there_and_stale_belongs_to_one_run(folder):
    first = Run(DATA, stale=True).claimed()
    second = Run(DATA)
    assert second.waits("data/00000000")
    assert first.end() == ""
    assert second.claimed().end() == ""


def test_a_killed_run_claims_nothing(folder):
    first = Run(NETS).claimed()
    first.process.kill()
    first.end()
    assert len(list(paths.CLAIMS.glob("*"))) == 1
    assert Run(NETS).claimed().end() == ""
    assert list(paths.CLAIMS.glob("*")) == []


def test_a_claim_ends_with_its_run(folder):
    leave = CLAIM.replace("import sys", "import os, sys") + "; os.chdir('/')"  # as Snakemake does
    done = subprocess.run(
        [sys.executable, "-c", leave, NETS], input="\n", text=True, env=ENVIRONMENT, check=True, stdout=PIPE
    )
    assert done.stdout == "claimed\n"
    assert list(paths.CLAIMS.glob("*")) == []


def test_a_run_that_nobody_has_waited_for_has_ended(folder):
    first = Run(NETS).claimed()
    first.process.kill()
    os.waitid(os.P_PID, first.process.pid, os.WEXITED | os.WNOWAIT)
    assert Run(NETS).claimed().end() == ""
    first.end()


def test_a_suspended_run_on_this_machine_keeps_its_claim(folder):
    first = Run(NETS).claimed()
    first.process.send_signal(signal.SIGSTOP)
    grow_old(3600)
    second = Run(NETS)
    assert second.waits("source/11111111")
    first.process.send_signal(signal.SIGCONT)
    first.end()
    assert second.claimed().end() == ""


def test_runs_that_start_at_once_go_one_after_the_other(folder):
    """Each reads a counter, waits, and writes it back; none of the increments is lost."""
    Path("counter").write_text("0")
    work = (
        "import sys, time; from pathlib import Path; from dwp.pipeline import claims; claims.POLL = 0.01; "
        "print(flush=True); input(); claims.claim(sys.argv[1:]); file = Path('counter'); "
        "value = int(file.read_text()); time.sleep(0.02); file.write_text(str(value + 1))"
    )
    command = [sys.executable, "-c", work, NETS, DATA]
    runs = [
        subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True, env=ENVIRONMENT)
        for _ in range(8)
    ]
    assert [run.stdout.readline() for run in runs] == ["\n"] * 8
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    for run in runs:
        run.communicate()
    assert [run.returncode for run in runs] == [0] * 8
    assert Path("counter").read_text() == "8"


# Another machine: namespaces with another name of the host and other processes, so no kernel lock, no signal
# and no number of a process says anything there.
MACHINE = ["unshare", "--map-root-user", "--user", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c"]
MACHINE += ['hostname login2 && exec "$@"', "sh"]


def can_unshare() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*MACHINE, "true"], check=False).returncode == 0
    )


elsewhere = pytest.mark.skipif(not can_unshare(), reason="no namespaces here")


def grow_old(seconds: float) -> None:
    """Let all heartbeats be older."""
    for file in paths.CLAIMS.glob("*.json"):
        times = file.stat()
        os.utime(file, (times.st_atime - seconds, times.st_mtime - seconds))


@elsewhere
def test_a_run_on_another_machine_is_waited_for_until_its_heartbeat_stops(folder):
    first = Run(NETS, elsewhere=MACHINE).claimed()
    second = Run(NETS)
    assert second.waits("source/11111111")
    first.process.kill()
    first.end()
    time.sleep(2 * claims.POLL)
    assert second.process.poll() is None
    grow_old(claims.STALE)
    assert second.claimed().end() == ""


@elsewhere
def test_prune_on_another_machine_deletes_nothing_while_a_run_lives(folder):
    unused = Path("results/source/33333333")
    unused.mkdir(parents=True)
    os.utime(unused, (0, 0))  # otherwise a job might still be writing
    run = Run(DATA).claimed()
    prune = [*MACHINE, sys.executable, "-m", "dwp", "prune", "--yes"]
    done = subprocess.run(prune, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 2
    assert done.stderr == "dwp: a workflow is running here; wait for its end, then prune\n"
    assert unused.exists()
    run.end()
    done = subprocess.run(prune, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert not unused.exists()


def test_a_run_waits_for_what_prune_deletes(folder):
    assert claims.try_claim(["data/00000000"])
    run = Run(DATA)
    assert run.waits("data/00000000")
    claims.release()
    assert run.claimed().end() == ""


def test_a_run_that_claims_twice_does_not_wait_for_one_that_waits_for_it(folder):
    claims.claim([NETS])
    run = Run(NETS)
    assert run.waits("source/11111111")
    claims.claim([NETS])
    claims.release()
    assert run.claimed().end() == ""


def test_heartbeats_renew_the_time_of_the_claim(folder, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.01)
    claims.claim([DATA])
    try:
        grow_old(3600)
        (file,) = paths.CLAIMS.glob("*.json")
        old = file.stat().st_mtime
        for _ in range(500):
            if file.stat().st_mtime > old:
                break
            time.sleep(0.01)
        assert file.stat().st_mtime > old + 1800
    finally:
        claims.release()
    assert claims.others() == []


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
