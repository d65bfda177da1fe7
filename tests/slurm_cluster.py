"""A Slurm cluster of one node on this machine, with fake GPUs, for tests of the workflow.

It needs root and Debian's slurm-wlm and munge. To try it by hand:

    python tests/slurm_cluster.py squeue      # or any other command, run with that cluster
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Where Slurm looks of itself: the plugin takes the variable that says otherwise from its jobs.
CONFIGURED = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
# States of the node; with a star, it does not respond.
UP = ("idle", "mixed", "allocated", "completing")
DOWN = ("down", "down*")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "runuser")

CONFIGURATION = """
ClusterName=loopback
# With Slurm's own ports: any of those that outgoing connections get may be taken while a daemon is away.
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A requeued job waits until its old credentials have expired.
AuthInfo=socket={folder}/munge/socket,cred_expire=15
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdTimeout=20
ReturnToService=2
KillWait=10
# Without accounting, a job is only known while the controller remembers it.
MinJobAge=300
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Return why such a cluster cannot run here, or None if it can."""
    if os.geteuid() != 0:
        return "Slurm's daemons want root"
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not found; Debian's slurm-wlm and munge have them"
    there = [str(CONFIGURED / name) for name in FILES if (CONFIGURED / name).exists()]
    return f"this machine is part of a cluster already: {', '.join(there)}" if there else None


class Cluster:
    """The daemons of one cluster; a machine can run only one at a time."""

    def __init__(self, folder: Path, gpus: int = 2) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen] = {}
        for name in ("state", "spool", "munge"):
            (folder / name).mkdir()
        host = socket.gethostname().split(".")[0]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        options = {"host": host, "memory": memory, "folder": folder, "cpus": os.cpu_count(), "gpus": gpus}
        (folder / "slurm.conf").write_text(CONFIGURATION.format(**options))
        # Devices that can be opened but are not GPUs.
        stand_ins = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random"][:gpus]
        (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in stand_ins))

    def start(self) -> None:
        """Start all daemons; raise RuntimeError if the node does not come up."""
        CONFIGURED.mkdir(exist_ok=True)
        for name in FILES:
            (CONFIGURED / name).unlink(missing_ok=True)  # of a run that was killed: it leads nowhere
            (CONFIGURED / name).symlink_to(self.folder / name)
        munge = self.folder / "munge"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        shutil.chown(munge, "munge", "munge")
        shutil.chown(munge / "key", "munge", "munge")
        # munged checks the permissions of all folders above its socket.
        munged = ["munged", "--foreground", "--force", f"--socket={munge}/socket", f"--key-file={munge}/key"]
        munged += [f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"]
        self._run("munged", "runuser", "-u", "munge", "--", *munged)
        self._run("slurmctld", "slurmctld", "-D")
        self.start_node()

    def start_node(self) -> None:
        """Start the daemon of the node, which is down, wait until it is up, and let jobs start."""
        self._run("slurmd", "slurmd", "-D")
        self.await_node(*UP)
        self._let_jobs_start(True)

    def kill_node(self) -> None:
        """Kill the node's daemon, as in a crash; jobs keep running."""
        daemon = self.processes.pop("slurmd")
        daemon.kill()
        daemon.wait()

    def hold_jobs(self) -> bool:
        """Let no job start; return whether all jobs on the node run. If none or not all do, let jobs start.

        If the daemon dies while it launches a job, Slurm 22.05 counts that job's GPU as taken forever.
        """
        self._let_jobs_start(False)
        jobs = set(self.call("squeue", "--noheader", "--states=R", "--format=%i").split())
        steps = self.call("squeue", "--noheader", "--steps", "--format=%i").split()
        if jobs and jobs <= {step.removesuffix(".0") for step in steps}:
            return True
        self._let_jobs_start(True)
        return False

    def await_node(self, *states: str) -> None:
        """Wait until the node is in one of these states; RuntimeError if a daemon ends or after 120 s."""
        deadline = time.monotonic() + 120
        while self.call("sinfo", "--noheader", "--format=%T").strip() not in states:
            ended = any(process.poll() is not None for process in self.processes.values())
            if ended or time.monotonic() > deadline:
                raise RuntimeError(f"the node is not {' or '.join(states)}:\n{self.state()}")
            time.sleep(0.5)

    def call(self, *command: str) -> str:
        """Run one of Slurm's commands; return what it printed."""
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def state(self) -> str:
        """Return the state of queue, jobs and node, and the ends of the daemons' logs."""
        commands = [["squeue", "--states=all", "--format=%i|%T|%r|%S|%k"], ["scontrol", "show", "node"]]
        jobs = self.call("squeue", "--noheader", "--format=%i").split()
        commands += [["scontrol", "show", "job", job] for job in jobs]
        parts = [f"$ {' '.join(command)}\n{self.call(*command)}" for command in commands]
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(parts + [f"{log.name}:\n{log.read_text()[-5000:]}" for log in logs])

    def stop(self) -> None:
        """End all jobs and daemons."""
        self.call("scancel", "--user", "root")
        time.sleep(1)
        for process in reversed(self.processes.values()):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
        for name in FILES:
            (CONFIGURED / name).unlink(missing_ok=True)

    def _let_jobs_start(self, start: bool) -> None:
        self.call("scontrol", "update", "PartitionName=gpu", f"State={'UP' if start else 'DOWN'}")

    def _run(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


@contextlib.contextmanager
def cluster(gpus: int = 2) -> Iterator[Cluster]:
    """Run a cluster while the block runs."""
    os.environ.pop("SLURM_CONF", None)  # set in conftest.py, so that no cluster is found
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        Path(name).chmod(0o755)  # munged is another user
        made = Cluster(Path(name), gpus)
        try:
            made.start()
            yield made
        finally:
            made.stop()


if __name__ == "__main__":
    if reason := missing():
        sys.exit(f"no cluster here: {reason}")
    with cluster():
        sys.exit(subprocess.run(sys.argv[1:], check=False).returncode)
