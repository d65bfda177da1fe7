"""Links under `results/latest/` to the results of the last configuration that ran."""

import os
from collections.abc import Iterable
from pathlib import Path

from dwp.files import move
from dwp.pipeline import paths
from dwp.pipeline.provenance import Artifact


def link_latest(artifacts: Iterable[Artifact]) -> None:
    """Link `results/latest/<stage>[/<name>]` to these artifacts, and remove all other links."""
    # After a partial run, links to the missing artifacts would dangle.
    there = [artifact for artifact in artifacts if Path(artifact.folder).exists()]
    links = {paths.LATEST / artifact.stage / artifact.name: artifact.folder for artifact in there}
    for old in paths.LATEST.rglob("*"):
        # Names that start with a dot are temporary links of another run.
        if old.is_symlink() and old not in links and not old.name.startswith("."):
            old.unlink(missing_ok=True)
    for link, folder in links.items():
        link.parent.mkdir(parents=True, exist_ok=True)
        # Created under another name and renamed, so that a link exists at all times.
        temporary = link.with_name(f".{link.name}-{os.getpid()}")
        temporary.symlink_to(os.path.relpath(folder, link.parent))
        move(temporary, link)
