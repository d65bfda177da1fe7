"""The workflow on a real Slurm, on this machine: what is cancelled is retried, the artifacts are the same.

make test-slurm
"""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import chaos
import pytest
import slurm_cluster
from conftest import ROOT

# What an accounting database would tell; and what this node has, in place of the profile's two lines.
WORDS = ["--slurm-no-account", "--slurm-status-command", "squeue"]
WORDS += ["--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "20"]
WORDS += ["--default-resources", "slurm_partition=gpu"]
SECONDS = 1200


def reason() -> str | None:
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "Snakemake's plugin for Slurm is not installed"
    return slurm_cluster.missing()


pytestmark = [pytest.mark.slurm, pytest.mark.skipif(reason() is not None, reason=str(reason()))]


class Workflow:
    """The smoke configuration, run through the profile for Slurm, with checkpoints all the time."""

    def __init__(self, folder: Path, cluster: slurm_cluster.Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--workflow-profile", str(ROOT / "workflow" / "profiles" / "slurm")]
        command += ["--directory", str(folder), "--configfile", str(ROOT / "config" / "smoke.yaml")]
        self.process = subprocess.Popen(
            [*command, "--config", "checkpoint_seconds=0.1", *WORDS],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=(folder / "run.log").open("w"),
            stderr=subprocess.STDOUT,
        )
        self.deadline = time.monotonic() + SECONDS

    def output(self) -> str:
        return (self.folder / "run.log").read_text()

    def until(self, what, *arguments):
        """Wait for what a function finds, which is returned; fail where the run has ended without."""
        while not (found := what(*arguments)):
            assert self.process.poll() is None, self.output()[-5000:]
            assert time.monotonic() < self.deadline, self.output()[-5000:]
            time.sleep(0.2)
        return found

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

    def end(self) -> int:
        try:
            return self.process.wait(max(1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def test_a_run_on_slurm_survives_and_makes_what_a_local_one_makes(smoke_run, tmp_path):
    with slurm_cluster.cluster() as cluster:
        run = Workflow(tmp_path, cluster)
        job, log = run.until(run.training)
        preempted, other_log = run.until(run.training)
        cluster.call("scontrol", "resume", job)
        cluster.call("scancel", job)
        # What an administrator does, or a job of higher priority.
        cluster.call("scontrol", "resume", preempted)
        cluster.call("scontrol", "requeue", preempted)
        run.until(lambda: "Trying to restart job" in run.output())
        # The node's daemon crashes with jobs on it, and comes back.
        cluster.kill_node()
        time.sleep(30)
        cluster.start_node()
        assert run.end() == 0, run.output()[-5000:]
    assert "resumed at step" in log.read_text()
    assert "resumed at step" in other_log.read_text()
    assert chaos.artifacts(tmp_path) == chaos.artifacts(smoke_run)
    # Stand-ins for GPUs were given to what trains, no CUDA answers there, and the jobs say so.
    assert "on cpu" in log.read_text()


def test_only_what_trains_asks_for_gpus():
    import yaml

    profile = yaml.safe_load((ROOT / "workflow" / "profiles" / "slurm" / "config.yaml").read_text())
    rules = {path.stem for path in (ROOT / "workflow" / "rules").glob("*.smk")}
    assert {name for name, own in profile["set-resources"].items() if "gpu" in own} == {
        "source",
        "prior",
        "experiment",
    }
    assert rules >= {"data", "kernels", "report"}
