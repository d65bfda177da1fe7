"""Common parts of every job: log, threads, device, timing and manifest.

Parameters that can change a result reach a script as `params.spec`. Those that cannot
(data_root, device, threads, checkpoint_seconds) come from the configuration,
so that changing them reruns nothing.
"""

import hashlib
import logging
import signal
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from dwp.errors import InputError, StorageError
from dwp.files import remove_stale
from dwp.nn.precision import choose_precision
from dwp.pipeline import paths
from dwp.pipeline.gpu_slots import choose_device
from dwp.pipeline.manifest import checked_sha256, write_manifest
from dwp.pipeline.paths import ROOT
from dwp.pipeline.shards import Completed, completed
from dwp.training import signals
from dwp.training.checkpoints import Checkpoint
from dwp.training.devices import out_of_memory

logger = logging.getLogger("dwp")


def run(main: "Callable[[Job], None]", snakemake: Any) -> None:
    """Run a stage from the script of its rule.

    Args:
        main: main function of the stage.
        snakemake: the object that Snakemake provides to a script.
    """
    with Job(snakemake) as job:
        main(job)


class Job:
    """Context of one job; on success it writes a manifest beside the outputs.

    Attributes:
        params: parameters of the artifact.
        input, output, wildcards, config: those of Snakemake.
    """

    def __init__(self, snakemake: Any) -> None:
        self._snakemake = snakemake
        self.spec = dict(snakemake.params.spec)
        self.params = self.spec["params"]
        self.input, self.output = snakemake.input, snakemake.output
        self.wildcards, self.config = snakemake.wildcards, snakemake.config
        self._facts: dict[str, object] = {}
        self._checkpoint: Checkpoint | None = None

    def __enter__(self) -> "Job":
        self._began = time.perf_counter()
        logging.raiseExceptions = False  # no tracebacks if the disk of the log is full
        logging.basicConfig(
            filename=self._snakemake.log[0],
            filemode="w",
            level=logging.INFO,
            format="%(asctime)s %(levelname)s %(message)s",
            force=True,
        )
        logging.captureWarnings(True)
        # A workflow in a checkout needs the library of that checkout, but an installed one is found first.
        checkout = Path(self._snakemake.scriptdir).resolve().parents[1]
        if checkout != ROOT and (checkout / "dwp").is_dir():
            self._refuse(
                InputError(f"dwp was imported from {ROOT}, not from {checkout}; pip install -e {checkout}")
            )
        for file in self.output:
            remove_stale(file)
        torch.set_num_threads(self._snakemake.threads)
        try:
            self._read = {str(file): checked_sha256(file) for file in self.input}
        except InputError as error:
            self._refuse(error)
        stage, version = self.spec["stage"], self.spec["version"]
        logger.info("%s, %d threads", paths.short(f"{stage}/{version}"), torch.get_num_threads())
        signals.on_sigterm()  # not earlier: until here there is no progress to save
        return self

    @cached_property
    def device(self) -> torch.device:
        """Return the device to work on, chosen at the first access because some jobs need none.

        Raises:
            InputError: the configured device is not available.
        """
        device = choose_device(self.config["device"])
        precision = str(choose_precision(self.config["precision"], device)).removeprefix("torch.")
        self._facts |= {"device": str(device), "precision": precision}
        logger.info("on %s in %s", device, precision)
        return device

    def checkpoint(self) -> Checkpoint:
        """Return a checkpoint that is kept until the outputs are written."""
        # Includes the input bytes, which change if code upstream changes.
        made_of = [self.spec[key] for key in ("stage", "version", "code")] + sorted(self._read.items())
        self._checkpoint = Checkpoint(
            paths.checkpoint(self.output[0]),
            hashlib.sha256(repr(made_of).encode()).hexdigest(),
            self.config["checkpoint_seconds"],
        )
        return self._checkpoint

    def record(self, **facts: object) -> None:
        """Add facts of the run to the manifest."""
        self._facts |= facts

    @property
    def _description(self) -> dict:
        """Return what `challenge` needs, beside the spec, to run the job again: its named files and so on."""
        folder = Path(self.output.manifest).parent
        return {
            "input": {name: _plain(files) for name, files in self.input.items()},
            "output": {name: str(Path(file).relative_to(folder)) for name, file in self.output.items()},
            "wildcards": dict(self.wildcards.items()),
            "threads": self._snakemake.threads,
        }

    def completed_elsewhere(self) -> list[Completed]:
        """Return the networks or seeds of this job that other shards have completed; log them."""
        found = completed(self.output.manifest, self.spec, self._read)
        taken_over = {paths.stem(shard.manifest): shard.numbers for shard in found}
        self._facts["taken_over"] = taken_over
        for name, taken in taken_over.items():
            logger.info("%s taken over from %s", ", ".join(map(str, taken)), name)
        return found

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the rest takes little time
        if isinstance(error, InputError | StorageError | FloatingPointError):
            self._refuse(error)
        if error is not None and out_of_memory(error):
            advice = "take a smaller batch, or a machine with more; finished work is kept"
            place = self._facts.get("device", "cpu")
            self._refuse(MemoryError(f"out of memory on {place}: {advice} ({error})"))
        if isinstance(error, signals.Stopped):
            logger.warning("%s; started again, it goes on from there", error)
            sys.exit(128 + signal.SIGTERM)
        if error is not None:
            logger.error("failed", exc_info=error)
            return
        seconds = time.perf_counter() - self._began
        files = [file for file in self.output if file != self.output.manifest]
        self._facts |= {"read": self._read, "seconds": round(seconds, 3), "job": self._description}
        try:
            write_manifest(self.output.manifest, self.spec, files, **self._facts)
        except StorageError as full:
            self._refuse(full)
        if self._checkpoint:
            self._checkpoint.remove()
        logger.info("done in %.1f s", seconds)

    def _refuse(self, error: Exception) -> None:
        # One line for the user; the log has it too.
        logger.error("%s", error)
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def _plain(files: "str | list[str]") -> "str | list[str]":
    return str(files) if isinstance(files, str) else list(map(str, files))
