"""Shards: runs of nets or seeds that are one job's work, and what of them other shards have finished.

What a net or a seed yields does not depend on its shard. So a job takes over those that
are there, in shards cut otherwise, and computes the rest: counts and shard sizes only add.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dwp.errors import InputError
from dwp.files import sha256
from dwp.pipeline.provenance import read_manifest

MANIFEST = ".manifest.json"


def shards(count: int, size: int) -> Iterator[str]:
    """Yield 'first-last' of runs of at most `size` numbers from 0; the runs before the last never move."""
    for first in range(0, count, size):
        yield f"{first:03d}-{min(first + size, count) - 1:03d}"


def numbers(shard: str) -> range:
    """Return the numbers of a shard, named 'first-last'."""
    first, last = map(int, shard.split("-"))
    return range(first, last + 1)


@dataclass(frozen=True)
class Finished:
    """What another shard has finished of the numbers asked for: `numbers`, in its `files` by suffix."""

    numbers: tuple[int, ...]
    files: Mapping[str, Path]


def finished(manifest: str | Path, spec: Mapping, read: Mapping[str, str]) -> list[Finished]:
    """Return what other shards of the same version have finished of a shard, each number once.

    Used are those that the same code made from the same bytes, and whose files are
    still as their manifests say; a version alone does not tell, as code is no part of it.

    Args:
        manifest: where the shard's own manifest will be, '<name>-<first>-<last>.manifest.json'.
        spec: of the shard, see `Artifact.spec`.
        read: the SHA-256 of each file that its job reads.
    """
    manifest = Path(manifest)
    name, shard = _split(manifest)
    missing = set(numbers(shard))
    made_by = json.loads(json.dumps({**spec, "read": read}))
    found = []
    for other in sorted(manifest.parent.glob(f"{name}-*{MANIFEST}")):
        if other == manifest or _split(other)[0] != name:
            continue
        taken = sorted(missing.intersection(numbers(_split(other)[1])))
        if taken and (files := _sound_files(other, made_by)):
            found.append(Finished(tuple(taken), files))
            missing.difference_update(taken)
    return found


def _split(manifest: Path) -> tuple[str, str]:
    # "nets-000-003.manifest.json" -> "nets", "000-003"
    match = re.fullmatch(r"(.+)-(\d+-\d+)", manifest.name.removesuffix(MANIFEST))
    return match.groups() if match else ("", "")


def _sound_files(manifest: Path, made_by: dict) -> dict[str, Path]:
    """Return the files of a manifest by suffix; none if something else made them or one is not as written."""
    try:
        content = read_manifest(manifest)
        if any(content.get(key) != value for key, value in made_by.items()):
            return {}
        files = {manifest.parent / name: digest for name, digest in content["files"].items()}
        sound = all(sha256(file) == digest for file, digest in files.items())
    except (OSError, InputError):
        return {}
    return {file.suffix: file for file in files} if sound else {}
