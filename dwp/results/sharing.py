"""Commands of `dwp` that share results: push, pull and export."""

import argparse
from collections.abc import Callable
from pathlib import Path

from dwp.errors import InputError
from dwp.pipeline import paths
from dwp.pipeline.claims import claim, release
from dwp.pipeline.config.files import WITHOUT_DEFAULTS, defaults, read_config
from dwp.pipeline.plan import Plan
from dwp.pipeline.provenance import Artifact
from dwp.results import artifact_store, crate, transfers
from dwp.results.artifact_store import Version
from dwp.results.printing import print_json
from dwp.results.shared_store import Store, name_of


def push(options: argparse.Namespace, found: list[Version], overlays: list[list[Path]]) -> int:
    """Copy finished results to a shared store.

    They are those of config.yaml, or of the configurations or versions given instead. Nothing in the store is
    overwritten; what is there already is not copied.
    """
    store = Store(options.store)
    store.refuse_absent()
    unfinished: list[Path] = []
    if options.version:
        named = [artifact_store.find(found, name) for name in options.version]
        finished = [manifest for version in named for manifest in version.manifests]
    else:
        wanted = _wanted(options, overlays)
        finished = [manifest for manifest, made in wanted.items() if made.made(manifest)]
        unfinished = [manifest for manifest in wanted if manifest not in finished]
    transfer = transfers.to_push(store, finished)
    _copy(options, store, "pushed", transfer, transfers.push)
    if not options.json:
        there, without = len(transfer.there), len(unfinished)
        print(f"{len(transfer.todo)} pushed, {there} there already, {without} not finished here")
    return 0


def pull(options: argparse.Namespace, found: list[Version], overlays: list[list[Path]]) -> int:
    """Copy results from a shared store, so that a run makes only what is missing.

    They are those of config.yaml, or of the configurations or versions given instead. Every file is checked
    against its SHA-256; nothing here is overwritten.
    """
    store = Store(options.store)
    wanted = None if options.version else _wanted(options, overlays)
    if wanted is None:
        manifests = [manifest for name in options.version for manifest in store.find(name)]
    else:
        manifests = list(wanted)

    def is_wanted(manifest: Path, content: dict) -> bool:
        return wanted is None or wanted[manifest].matches(content)

    claim(map(str, manifests))
    try:
        transfer = transfers.to_pull(store, manifests, is_wanted)
        if len(transfer.missing) == len(manifests):
            raise InputError(f"{store.address}: nothing of this configuration is there")
        _copy(options, store, "pulled", transfer, transfers.pull)
    finally:
        release()
    if not options.json:
        here, missing, other = (len(getattr(transfer, name)) for name in ("there", "missing", "other"))
        print(
            f"{len(transfer.todo)} pulled, {here} here already, {missing} not in the store, "
            f"{other} there by other code or settings"
        )
    return 0


def export(options: argparse.Namespace, found: list[Version], overlays: list[list[Path]]) -> int:
    """Write a version with its provenance into a new folder, as a Process Run Crate (RO-Crate).

    The crate has its files, and for each job that led to them: software, parameters, files read and made, and
    times. Files of earlier jobs are named by their SHA-256, not copied.
    """
    version, folder = artifact_store.find(found, options.version), Path(options.crate)
    jobs = crate.export(version, found, folder, author=options.author, licence=options.licence)
    if options.json:
        print_json({"version": version.label, "crate": str(folder), "jobs": jobs})
    else:
        print(f"{folder}: {version.label}, with the {jobs} jobs that led to it")
    return 0


def _wanted(options: argparse.Namespace, overlays: list[list[Path]]) -> dict[Path, Artifact]:
    """Return the artifact of every manifest that the configurations would make."""
    if not overlays and not defaults():
        raise InputError(WITHOUT_DEFAULTS)
    plans = [Plan(read_config(files, options.config)) for files in overlays or [[]]]
    return {
        Path(file): plan.artifacts[paths.version(file)]
        for plan in plans
        for file in plan.files()
        if file.endswith(paths.MANIFEST)
    }


def _copy(
    options: argparse.Namespace,
    store: Store,
    done: str,
    transfer: transfers.Transfer,
    copy: Callable[[Store, transfers.Cell], None],
) -> None:
    for cell in transfer.todo:
        copy(store, cell)
        if not options.json:
            print(f"{done} {name_of(cell.manifest)}", flush=True)
    if options.json:
        groups = {done: [cell.manifest for cell in transfer.todo], "there": transfer.there}
        groups |= {"missing": transfer.missing, "other": transfer.other}
        print_json({group: list(map(str, manifests)) for group, manifests in groups.items()})
