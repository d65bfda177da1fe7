"""What every job does around its work: log, threads, device, seconds, manifest.

What can change a result reaches a script as `params.spec`. Where and how it runs
(data_root, device, threads, checkpoint_seconds) comes from the configuration,
so that a change of it reruns nothing.
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
    """Do the work of a rule, from its script.

    Args:
        main: of the rule's stage.
        snakemake: the object that Snakemake gives to a script.
    """
    with Job(snakemake) as job:
        main(job)


class Job:
    """Context of one job; on success it leaves a manifest beside the outputs.

    Attributes:
        params: the parameters of the artifact's version.
        input, output, wildcards, config: Snakemake's own.
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
        logging.raiseExceptions = False  # a log on a full disk is no reason to print tracebacks
        logging.basicConfig(
            filename=self._snakemake.log[0],
            filemode="w",
            level=logging.INFO,
            format="%(asctime)s %(levelname)s %(message)s",
            force=True,
        )
        logging.captureWarnings(True)
        # A workflow in a checkout goes with the library there; an installed one is found first.
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
        logger.info("%s/%s, %d threads", stage, version, torch.get_num_threads())
        signals.on_sigterm()  # not before: there was nothing to lose yet
        return self

    @cached_property
    def device(self) -> torch.device:
        """Return the device to work on, chosen when it is first asked for: some jobs need none.

        Raises:
            InputError: the device that the configuration insists on does not answer.
        """
        device = choose_device(self.config["device"])
        precision = str(choose_precision(self.config["precision"], device)).removeprefix("torch.")
        self._facts |= {"device": str(device), "precision": precision}
        logger.info("on %s in %s", device, precision)
        return device

    def checkpoint(self) -> Checkpoint:
        """Return a checkpoint that outlives the job until its outputs are written."""
        # The bytes that it reads count too: after an edit of code upstream they are others.
        made_of = [self.spec[key] for key in ("stage", "version", "code")] + sorted(self._read.items())
        self._checkpoint = Checkpoint(
            paths.checkpoint(self.output[0]),
            hashlib.sha256(repr(made_of).encode()).hexdigest(),
            self.config["checkpoint_seconds"],
        )
        return self._checkpoint

    def completed_elsewhere(self) -> list[Completed]:
        """Return which of its nets or seeds other shards of this version have completed; log them."""
        found = completed(self.output.manifest, self.spec, self._read)
        taken_over = {paths.stem(shard.manifest): shard.numbers for shard in found}
        self._facts["taken_over"] = taken_over
        for name, taken in taken_over.items():
            logger.info("%s taken over from %s", ", ".join(map(str, taken)), name)
        return found

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left to do is short
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
        self._facts |= {"read": self._read, "seconds": round(seconds, 3)}
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
