"""The links under `results/latest/`, by which people find what the last configuration made."""

import os
from collections.abc import Iterable
from pathlib import Path

from dwp.pipeline.provenance import Artifact


def link_latest(artifacts: Iterable[Artifact]) -> None:
    """Make `results/latest/<stage>[/<name>]` lead to these artifacts, and to no others."""
    latest = Path("results/latest")
    # Where a run made a part only, links to the rest would lead nowhere.
    there = [artifact for artifact in artifacts if Path(artifact.path("")).exists()]
    wanted = {latest / artifact.stage / artifact.name: artifact for artifact in there}
    for old in latest.rglob("*"):
        # Names with a dot are the fresh links of another run.
        if old.is_symlink() and old not in wanted and not old.name.startswith("."):
            old.unlink(missing_ok=True)
    for link, artifact in wanted.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        target = Path("results", artifact.stage, artifact.version)
        # Made beside and moved, so that there is a link at every moment.
        fresh = link.with_name(f".{link.name}-{os.getpid()}")
        fresh.symlink_to(os.path.relpath(target, link.parent))
        fresh.replace(link)
