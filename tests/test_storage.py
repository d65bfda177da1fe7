"""Full or read-only disks and exhausted memory give a clear error and lose nothing."""

import shutil
import subprocess
import sys

import chaos
import numpy as np
import pytest
import torch
from conftest import ROOT

from dwp.errors import StorageError
from dwp.files import atomic_write, remove_stale
from dwp.training.devices import out_of_memory

# In a separate mount namespace, whose file systems are unmounted when it ends.
NAMESPACE = ["unshare", "--mount", "--map-root-user", "bash", "-euc"]
MOUNT = "mount -t tmpfs -o size={size} none {folder}"


def in_namespace(script: str) -> subprocess.CompletedProcess:
    return subprocess.run([*NAMESPACE, script], capture_output=True, text=True, check=False)


@pytest.fixture(autouse=True, scope="module")
def namespaces(tmp_path_factory):
    """Skip if tests are not allowed to mount."""
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare, to mount a small file system with")
    folder = tmp_path_factory.mktemp("mount")
    tried = in_namespace(MOUNT.format(size="1m", folder=folder))
    if tried.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {tried.stderr.strip()}")


# One for each library that writes: some 8 MB, for a disk of 1 MB.
WRITERS = {
    "prior": "priors.save_prior(priors.find('vae')(7, hidden=256, latent=2), file)",
    "checkpoint": "Checkpoint(file, 'net').save({'step': 1, 'model': {'w': torch.zeros(2_000_000)}})",
    "table": "exec('with write(file) as f: pd.DataFrame(np.random.rand(100_000, 5)).to_csv(f)')",
    "kernels": "store.collect([arrays], 5, file, threshold=0.0, test_fraction=0.2)",
    "dataset": "save(Dataset('noise', *images(), *images()), file)",
    "figure": "exec('with write(file) as f: plt.imsave(f, np.random.rand(1000, 1000, 3), format=\"png\")')",
}
SCRIPT = """
import sys
from pathlib import Path
import numpy as np, pandas as pd, torch, matplotlib.pyplot as plt
from dwp.priors import base as priors
from dwp.kernels import store
from dwp.training.checkpoints import Checkpoint
from dwp.data.dataset import Dataset, save
from dwp.errors import StorageError
from dwp.files import atomic_write as write
file, arrays = Path(sys.argv[1]), sys.argv[2]
images = lambda: (torch.zeros(5000, 1, 28, 28, dtype=torch.uint8), torch.arange(5000) % 9)
try:
    {write}
except StorageError as error:
    print(error)
"""


@pytest.mark.parametrize("state", ["full", "read-only"])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_takes_no_more_is_one_line_and_what_was_there_stays(tmp_path, writer, state):
    folder, arrays = tmp_path / "results", tmp_path / "kernels.npy"
    folder.mkdir()
    np.save(arrays, np.random.default_rng(0).normal(size=(100_000, 5, 5)).astype(np.float32))
    (tmp_path / "write.py").write_text(SCRIPT.format(write=WRITERS[writer]))
    script = f"""
        {MOUNT.format(size="1m", folder=folder)}
        echo before > {folder}/file
        {f"mount -o remount,ro {folder}" if state == "read-only" else ""}
        cd {ROOT} && {sys.executable} {tmp_path}/write.py {folder}/file {arrays}
        cat {folder}/file
        ls -A {folder}
    """
    done = in_namespace(script)
    assert done.returncode == 0, done.stderr
    message, *rest = done.stdout.splitlines()
    reason = {"full": "No space left on device; free some space", "read-only": "Read-only file system"}[state]
    assert f"{folder}/file cannot be written: {reason}" in message
    assert rest == ["before", "file"]


def test_a_run_on_a_full_disk_says_so_and_goes_on_when_there_is_room(smoke_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(smoke_run, run, symlinks=True)
    (log,) = run.glob("results/few_shot/*/l2_xavier_examples-20_*.log")
    snakemake = f"{sys.executable} -m snakemake --snakefile {ROOT}/Snakefile --cores 2 --directory {run}"
    snakemake += f" --configfile {ROOT}/config/smoke.yaml --until experiment"
    script = f"""
        mv {run}/results {run}/kept && mkdir {run}/results
        {MOUNT.format(size="64m", folder=f"{run}/results")}
        cp -a {run}/kept/. {run}/results && rm {str(log).removesuffix("log")}*
        dd if=/dev/zero of={run}/results/filler bs=4k status=none || true
        cd {ROOT}
        {snakemake} && exit 1
        rm {run}/results/filler
        {snakemake}
        rm -r {run}/kept && cp -a {run}/results {run}/kept
    """
    done = in_namespace(script)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    assert " cannot be written: No space left on device; free some space and run again" in output
    (run / "results").rmdir()
    (run / "kept").rename(run / "results")
    assert chaos.artifacts(run) == chaos.artifacts(smoke_run)


def test_the_disk_is_only_blamed_for_what_it_did(tmp_path):
    with pytest.raises(ValueError, match=r"^mine$"), atomic_write(tmp_path / "file"):
        raise ValueError("mine")
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(StorageError, match=r"folder/file cannot be written: .*; mend that and run again"):
        atomic_write(tmp_path / "folder" / "file").__enter__()


def test_what_a_killed_writer_left_is_removed(tmp_path):
    kill = "import os, sys; from dwp.files import atomic_write as write\n"
    kill += "with write(sys.argv[1]): os.kill(os.getpid(), 9)"
    for name in ("nets-000-009.csv", "nets-000.csv"):
        subprocess.run([sys.executable, "-c", kill, tmp_path / name], cwd=ROOT, check=False)
    assert len(list(tmp_path.iterdir())) == 2
    remove_stale(tmp_path / "nets-000-009.csv")
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".nets-000-")
    remove_stale(tmp_path / "nets-000.csv")
    assert list(tmp_path.iterdir()) == []


def test_memory_that_runs_out_is_recognised():
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(1 << 50)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 55)
    assert out_of_memory(torchs.value)
    assert out_of_memory(numpys.value)
    assert not out_of_memory(RuntimeError("expected scalar type Float"))
