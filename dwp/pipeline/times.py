"""Times of results, made to agree with their manifests.

Snakemake runs a job if an input, or its script, is newer than an output. Copied results, a fresh checkout
and `touch` change times and nothing else. So an output that is older than what it was made from gets the
time of the newest input, if the manifests and checksums say that it was made from these very bytes.
"""

import contextlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from dwp.files import sha256
from dwp.pipeline import paths
from dwp.pipeline.manifest import read_manifest

SCRIPTS = paths.ROOT / "workflow" / "scripts"


def settle(manifests: Iterable[str], is_current: Callable[[str], bool]) -> list[str]:
    """Make the times of current results agree with their manifests.

    Args:
        manifests: the manifests of a configuration.
        is_current: whether a manifest can be read and has the parameters, inputs and code of the plan.

    Returns:
        the manifests of results that were made from other bytes than their inputs have now.
    """
    times = _Times(is_current)
    for manifest in manifests:
        times.settle(manifest)
    return times.made_from_others


class _Times:
    def __init__(self, is_current: Callable[[str], bool]) -> None:
        self.is_current = is_current
        self.made_from_others: list[str] = []
        self.files: dict[str, dict[str, str] | None] = {}
        self.scripts = max((script.stat().st_mtime_ns for script in SCRIPTS.glob("*.py")), default=0)

    def settle(self, manifest: str) -> dict[str, str] | None:
        """Return the files of a manifest with their SHA-256; None if its job, or one before it, must run."""
        if manifest not in self.files:
            self.files[manifest] = self._settle(manifest)
        return self.files[manifest]

    def _settle(self, manifest: str) -> dict[str, str] | None:
        if not os.path.exists(manifest) or not self.is_current(manifest):
            return None
        folder, content = Path(manifest).parent, read_manifest(manifest)
        files = {str(folder / name): digest for name, digest in content["files"].items()}
        read = content.get("read", {})
        if not all(map(os.path.exists, [*files, *read])):
            return None
        _, benchmark = paths.logs(Path(manifest))  # an output to Snakemake
        made_here = (*files, manifest, *([str(benchmark)] if os.path.exists(benchmark) else []))
        outputs = {file: os.stat(file).st_mtime_ns for file in made_here}
        inputs = {file: os.stat(file).st_mtime_ns for file in read}
        for file, digest in read.items():
            made = self._made(file)
            if made is None:
                return None
            newer = inputs[file] > min(outputs.values())
            if made.get(file, digest) != digest or (newer and sha256(file) != digest):
                self.made_from_others.append(manifest)
                return None
            inputs[file] = os.stat(file).st_mtime_ns  # its own job may have been settled
        newest = max([self.scripts, *inputs.values()])
        for file, time in outputs.items():
            if time < newest:
                with contextlib.suppress(PermissionError):
                    os.utime(file, ns=(newest, newest))
        return files

    def _made(self, file: str) -> dict[str, str] | None:
        """Return the files of the job that made a file; {} for a file that no job makes."""
        try:
            paths.label(file)
        except ValueError:
            return {}
        return self.settle(str(paths.manifest(file)))
