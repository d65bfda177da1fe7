"""Commands of `dwp` for the versions under `results/`: list, compare, verify, make again, share, prune."""

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from humanfriendly import format_size

from dwp.errors import InputError, extra
from dwp.pipeline import claims
from dwp.pipeline.config.files import WITHOUT_DEFAULTS, defaults, users
from dwp.results import artifact_store, sharing
from dwp.results.artifact_store import Version
from dwp.results.printing import age, print_difference, print_json, print_table, some
from dwp.results.version_diff import diff

CONFIGFILE = "a configuration: config.yaml with these laid over it, as with snakemake; repeat for another"
CONFIG = "values laid over each configuration, as with snakemake: data_root=/my/data"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status: 0, 1 if a check finds faults, 2 for an InputError."""
    options = _parser().parse_args(arguments)
    try:
        # Relative to the current directory, as with snakemake.
        overlays = [[Path(file).resolve() for file in files] for files in getattr(options, "configfile", [])]
        if not Path(options.directory).is_dir():
            raise InputError(f"--directory: there is no folder {options.directory}")
        if "://" not in getattr(options, "store", "://"):
            options.store = str(Path(options.store).resolve())
        if hasattr(options, "crate"):
            options.crate = Path(options.crate).resolve()
        with contextlib.chdir(options.directory):
            return options.run(options, artifact_store.read() if options.reads else [], overlays)
    except InputError as error:
        print(f"dwp: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed the pipe.
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--directory", metavar="DIR", default=".", help="where results/ is (default: .)")
    where.add_argument("--json", action="store_true", help="print JSON")
    which = argparse.ArgumentParser(add_help=False)
    which.add_argument(
        "--configfile", metavar="FILE", help=CONFIGFILE, nargs="+", action="append", default=[]
    )
    which.add_argument("--config", metavar="KEY=VALUE", help=CONFIG, nargs="+", action="extend", default=[])

    parser = argparse.ArgumentParser("dwp")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable, *parents: argparse.ArgumentParser, reads: bool = True
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, description=run.__doc__, parents=[where, *parents])
        added.set_defaults(run=run, reads=reads)
        return added

    command("versions", _versions, which)
    added = command("diff", _diff)
    meant = "a version, its unique beginning, stage/version, a folder, or a name in results/latest"
    for name in "AB":
        added.add_argument(name, help=meant)
    added = command("verify", _verify)
    added.add_argument("version", nargs="*", help=f"look at these only (default: all); {meant}")
    added = command("challenge", _challenge)
    added.add_argument("version", help=meant)
    added.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    added.add_argument("--threads", type=int, help="number of threads (default: as recorded)")
    added.add_argument("--data-root", metavar="DIR", help="folder of local data, as in the configuration")
    for added in (command("push", sharing.push, which), command("pull", sharing.pull, which, reads=False)):
        added.add_argument("store", help="a folder, or an address such as s3://bucket/folder, see fsspec")
        added.add_argument("version", nargs="*", help="copy these versions instead of a configuration's")
    added = command("export", sharing.export)
    added.add_argument("version", help=meant)
    added.add_argument("--crate", metavar="FOLDER", required=True, help="the new folder of the crate")
    added.add_argument("--author", metavar="NAME", help="who ran the jobs")
    added.add_argument("--licence", metavar="TEXT", help="licence of the files, a name or a URL")
    added = command("prune", _prune, which)
    added.add_argument("--yes", action="store_true", help="delete what is shown")
    return parser


# Commands


def _versions(options: argparse.Namespace, found: list[Version], overlays: list[list[Path]]) -> int:
    """List every version: stage, version, names, cells (finished jobs), inputs, size, age and users.

    USED BY names config.yaml, or the configurations given instead.
    """
    configurations = overlays or ([[]] if defaults() else [])
    used = users((files, options.config) for files in configurations)
    if not configurations:
        print(f"dwp: USED BY is unknown: {WITHOUT_DEFAULTS}", file=sys.stderr)
    if options.json:
        print_json(
            {
                "stage": version.stage,
                "version": version.folder.name,
                "names": version.names,
                "cells": len(version.manifests),
                "inputs": version.spec.get("inputs", {}),
                "size": version.size,
                "finished": version.finished and version.finished.isoformat(),
                "used_by": used.get(version.label, []),
                "files": [str(file) for file, _ in version.recorded_files],
            }
            for version in found
        )
        return 0
    print_table(
        ("STAGE", "VERSION", "NAME", "CELLS", "FROM", "SIZE", "AGE", "USED BY"),
        [
            (
                version.stage,
                version.folder.name,
                some(version.names),
                str(len(version.manifests)),
                some(version.spec.get("inputs", {}).values()),
                format_size(version.size),
                age(version.finished),
                ", ".join(used.get(version.label, ["-"])),
            )
            for version in found
        ],
        right=("CELLS", "SIZE", "AGE"),
    )
    return 0


def _diff(options: argparse.Namespace, found: list[Version], overlays: list[list[Path]]) -> int:
    """Show the parameters, inputs and code in which two versions differ, also for their inputs."""
    difference = diff(artifact_store.find(found, options.A), artifact_store.find(found, options.B), found)
    if options.json:
        print_json(difference)
    elif difference["changes"]:
        print_difference(difference)
    else:
        print(f"{difference['a']} and {difference['b']} are the same version")
    return 0


def _verify(options: argparse.Namespace, found: list[Version], overlays: list[list[Path]]) -> int:
    """Recompute the SHA-256 of every file that a manifest records.

    Missing and damaged files, and results that no manifest records, are listed; the exit status is then
    1. Files of running or killed jobs (logs, checkpoints, temporary files) are listed as unfinished.
    """
    chosen = [artifact_store.find(found, name) for name in options.version] or found
    faults, sound = artifact_store.verify(chosen, running=bool(claims.others()) or _locked())
    count = Counter(fault["fault"] for fault in faults)
    broken, without = count["missing"] + count["damaged"], count["no manifest"]
    if options.json:
        print_json({"sound": sound, "faults": faults})
    else:
        for fault in faults:
            print(f"{fault['fault']}: {fault['file']}")
        more = f", {without} without a manifest" if without else ""
        print(f"{sound} files as written, {broken} missing or damaged{more}")
        if broken or without:
            print("Delete what is damaged; snakemake makes what is missing again, and what depends on it")
    return 1 if broken or without else 0


def _challenge(options: argparse.Namespace, found: list[Version], overlays: list[list[Path]]) -> int:
    """Make a version again in a temporary folder, from its manifests, and compare every file.

    A file is equal to the bit, within the tolerance that its stage states, or different; the exit status is
    then 1. Its inputs must be there, and as they were.
    """
    version = artifact_store.find(found, options.version)
    with extra("workflow", "dwp challenge"):
        from dwp.results.challenge import challenge
    settings = {"device": options.device, "data_root": options.data_root, "threads": options.threads}
    results = [{**row, "verdict": _verdict(row)} for row in challenge(version, **settings)]
    different = sum(row["verdict"] == "different" for row in results)
    if options.json:
        print_json({"version": version.label, "files": results})
    else:
        for row in results:
            size = (
                f" by {row['difference']:.1e} (tolerance {row['tolerance']:g})" if row["difference"] else ""
            )
            print(f"{row['verdict']}{size}: {row['file']}")
        print(f"{len(results)} files made again, {different} different")
    return 1 if different else 0


def _verdict(row: dict) -> str:
    if not row["difference"]:
        return "equal"
    return "within tolerance" if row["difference"] <= row["tolerance"] else "different"


def _prune(options: argparse.Namespace, found: list[Version], overlays: list[list[Path]]) -> int:
    """Show the versions that no configuration refers to; with --yes delete them.

    config.yaml always counts; name every other configuration whose results you want to keep. Versions
    that a job may be writing are kept. While a workflow runs, nothing is deleted.
    """
    if not overlays and not defaults():
        raise InputError(WITHOUT_DEFAULTS)
    # With --config, config.yaml counts both with and without those values.
    own: list[tuple[Sequence[Path], Sequence[str]]] = [([], [])] if defaults() else []
    used = users([*own, *((files, options.config) for files in overlays or [[]])])
    unused, kept = artifact_store.unreferenced(found, used)
    sizes = {version.label: version.size for version in (*unused, *kept)}
    if options.yes:
        _remove(unused)
    if options.json:
        groups = {"unused": unused, "in_progress": kept}
        report = {name: {v.label: sizes[v.label] for v in group} for name, group in groups.items()}
        print_json(report | {"deleted": options.yes})
        return 0
    rows = [
        (version.label, some(version.names), format_size(sizes[version.label]), age(version.finished), note)
        for group, note in ((unused, ""), (kept, "kept: a job may be writing it"))
        for version in group
    ]
    if rows:
        print_table(("VERSION", "NAME", "SIZE", "AGE", ""), rows, right=("SIZE", "AGE"))
    total = f"{format_size(sum(sizes[version.label] for version in unused))} in {len(unused)} version(s)"
    configurations = ", ".join(dict.fromkeys(name for names in used.values() for name in names))
    if not unused:
        print(f"Nothing to delete: the rest is used by {configurations}")
    elif options.yes:
        print(f"Deleted {total}")
    else:
        print(f"{total} used by none of {configurations}; --yes deletes what is not kept")
    return 0


def _remove(versions: list[Version]) -> None:
    """Delete versions unless a workflow runs here; one that starts meanwhile waits."""
    # Snakemake's locks survive a killed run and are removed by the first run that ends; claims do neither.
    if not claims.try_claim(version.label for version in versions):
        raise InputError("a workflow is running here; wait for its end, then prune")
    try:
        if _locked():
            raise InputError(
                "Snakemake has locked this folder: wait until the workflow that runs here has ended, "
                "or, if none does, run `snakemake --unlock`; then prune"
            )
        artifact_store.remove(versions)
    finally:
        claims.release()


def _locked() -> bool:
    return any(Path(".snakemake/locks").glob("*.lock"))
