"""The workflow on a real Slurm on this machine: cancelled jobs are retried, artifacts are the same.

make test-slurm
"""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import chaos
import pytest
import slurm_cluster
from conftest import ROOT

PROFILE = ["--workflow-profile", str(ROOT / "workflow" / "profiles" / "slurm")]
# The resources of this node, in place of the profile's two lines; and less waiting.
PROFILE += ["--slurm-no-account", "--default-resources", "slurm_partition=gpu"]
PROFILE += ["--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "20"]
# How long a run may print nothing: on a busy machine, everything takes several times as long.
SILENCE = 900


def reason() -> str | None:
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "Snakemake's plugin for Slurm is not installed"
    return slurm_cluster.missing()


pytestmark = [pytest.mark.slurm, pytest.mark.skipif(reason() is not None, reason=str(reason()))]


def accounting(folder: Path, failures: int = 0) -> dict[str, str]:
    """Write an `sacct` that fails so many times, then reports the controller's jobs; return a PATH with it.

    Even if set to use `squeue`, the plugin calls `sacct` if `scontrol show config` fails once.
    """
    program = folder / "bin" / "sacct"
    program.parent.mkdir()
    program.write_text(f"""#!/bin/sh
echo >> {folder}/calls
[ $(wc -l < {folder}/calls) -gt {failures} ] || exit 1
case "$*" in *--name*) exec squeue --noheader --states=all --format='%i|%T';; esac
exit 1
""")
    program.chmod(0o755)
    return {"PATH": f"{program.parent}:{os.environ['PATH']}"}


class Workflow:
    """The smoke configuration, run through the profile for Slurm, with checkpoints all the time."""

    def __init__(self, folder: Path, cluster: slurm_cluster.Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(folder), "--configfile", str(ROOT / "config" / "smoke.yaml")]
        self.log = folder / "run.log"
        self.process = subprocess.Popen(
            # There is no accounting database here.
            [*command, "--config", "checkpoint_seconds=0.1", *PROFILE, "--slurm-status-command", "squeue"],
            env=os.environ | accounting(folder) | {"PYTHONPATH": str(ROOT)},
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> "Workflow":
        return self

    def __exit__(self, *exception) -> None:
        self.process.kill()
        self.process.wait()

    def told(self) -> str:
        """Return the ends of all logs, and the state of Slurm."""
        logs = [self.log, *sorted(self.folder.glob(".snakemake/slurm_logs/**/*.log"))]
        ends = [f"{log.relative_to(self.folder)}:\n{log.read_text()[-3000:]}" for log in logs]
        return "\n".join([*ends, self.cluster.state()])

    def until(self, what, *arguments):
        """Wait until a function returns a result; return it, or fail if the run ends or stalls."""
        while not (found := what(*arguments)):
            assert self.process.poll() is None, self.told()
            self.must_not_stall()
        return found

    def end(self) -> None:
        """Wait for the run to end; fail if it stalls or fails."""
        while self.process.poll() is None:
            self.must_not_stall()
        assert self.process.returncode == 0, self.told()

    def must_not_stall(self) -> None:
        assert time.time() - self.log.stat().st_mtime < SILENCE, self.told()
        time.sleep(0.2)

    def training(self) -> tuple[str, Path] | None:
        """Return the Slurm job, suspended, and the log of a shard of source nets that has a checkpoint.

        Suspended, since a shard of this configuration takes seconds, and might end before its turn;
        Slurm ends only what it has resumed.
        """
        for checkpoint in self.folder.glob("results/source/*/checkpoints/*.pt"):
            stem = "-".join(checkpoint.stem.split("-")[:3])
            shard = stem.removeprefix("nets-")
            for line in self.cluster.call(
                "squeue", "--noheader", "--states=R", "--format=%i %k"
            ).splitlines():
                job, _, comment = line.partition(" ")
                if "source" in comment and shard in comment:
                    self.cluster.call("scontrol", "suspend", job)
                    if checkpoint.exists():
                        return job, checkpoint.parent.parent / f"{stem}.log"
                    self.cluster.call("scontrol", "resume", job)
        return None


def test_a_run_on_slurm_survives_and_makes_what_a_local_one_makes(smoke_run, tmp_path):
    with slurm_cluster.cluster() as cluster, Workflow(tmp_path, cluster) as run:
        job, log = run.until(run.training)
        preempted, other_log = run.until(run.training)
        cluster.call("scontrol", "resume", job)
        cluster.call("scancel", job)
        # As by an administrator or a job of higher priority.
        cluster.call("scontrol", "resume", preempted)
        cluster.call("scontrol", "requeue", preempted)
        run.until(lambda: "Trying to restart job" in run.log.read_text())
        # The node's daemon crashes with jobs on it, Slurm gives the node up, and it comes back.
        run.until(cluster.hold_jobs)
        cluster.kill_node()
        time.sleep(30)
        cluster.await_node(*slurm_cluster.DOWN)
        cluster.start_node()
        run.end()
    assert "resumed at step" in log.read_text()
    assert "resumed at step" in other_log.read_text()
    assert chaos.artifacts(tmp_path) == chaos.artifacts(smoke_run)
    # Training jobs got fake GPUs, on which CUDA is not available, and the jobs log this.
    assert "on cpu" in log.read_text()


def test_a_run_outlives_accounting_that_does_not_answer(tmp_path):
    """By default, Snakemake forgets its jobs after five failed queries and waits forever."""
    (tmp_path / "Snakefile").write_text(
        'rule all:\n    output: "made"\n    resources: mem_mb=10, runtime=1\n    shell: "touch {output}"\n'
    )
    command = [sys.executable, "-m", "snakemake", "--snakefile", "Snakefile", *PROFILE]
    environment = os.environ | accounting(tmp_path, failures=7)
    with slurm_cluster.cluster():
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    assert (tmp_path / "made").exists()


def test_a_node_that_does_not_come_back_is_an_error():
    with slurm_cluster.cluster() as cluster, socket.socket() as other:
        cluster.kill_node()
        cluster.await_node(*slurm_cluster.DOWN)
        # As the daemon itself does: connections that it closed may still hold the port.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("", 6818))
        other.listen()
        with pytest.raises(RuntimeError, match="Address already in use"):
            cluster.start_node()


def test_only_what_trains_asks_for_gpus():
    import yaml

    profile = yaml.safe_load((ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text())
    rules = {path.stem for path in (ROOT / "workflow" / "rules").glob("*.smk")}
    assert {name for name, own in profile["set-resources"].items() if "gpu" in own} == {
        "source",
        "prior",
        "experiment",
        "trial",
    }
    assert rules >= {"data", "kernels", "report"}
