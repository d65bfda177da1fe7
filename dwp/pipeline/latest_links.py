"""The links under `results/latest/`, by which people find what the last configuration made."""

import os
from collections.abc import Iterable
from pathlib import Path

from dwp.pipeline import paths
from dwp.pipeline.provenance import Artifact


def link_latest(artifacts: Iterable[Artifact]) -> None:
    """Make `results/latest/<stage>[/<name>]` lead to these artifacts, and to no others."""
    # Where a run made a part only, links to the rest would lead nowhere.
    there = [artifact for artifact in artifacts if Path(artifact.folder).exists()]
    links = {paths.LATEST / artifact.stage / artifact.name: artifact.folder for artifact in there}
    for old in paths.LATEST.rglob("*"):
        # Names with a dot are the temporary links of another run.
        if old.is_symlink() and old not in links and not old.name.startswith("."):
            old.unlink(missing_ok=True)
    for link, folder in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        # Made beside and moved, so that there is a link at every moment.
        temporary = link.with_name(f".{link.name}-{os.getpid()}")
        temporary.symlink_to(os.path.relpath(folder, link.parent))
        temporary.replace(link)
