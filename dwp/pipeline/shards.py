"""Shards: runs of nets or seeds that are one job's work, and what of them other shards have completed.

What a net or a seed yields does not depend on its shard. So a job takes over those that
are there, in shards cut otherwise, and computes the rest: counts and shard sizes only add.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dwp.errors import InputError
from dwp.files import sha256
from dwp.pipeline import paths
from dwp.pipeline.manifest import read_manifest


def shards(count: int, size: int) -> Iterator[str]:
    """Yield 'first-last' of runs of at most `size` numbers from 0; the runs before the last never move."""
    for first in range(0, count, size):
        yield f"{first:03d}-{min(first + size, count) - 1:03d}"


def numbers(shard: str) -> range:
    """Return the numbers of a shard, named 'first-last'."""
    first, last = map(int, shard.split("-"))
    return range(first, last + 1)


@dataclass(frozen=True)
class Completed:
    """What another shard has completed of the numbers asked for.

    Attributes:
        numbers: those nets or seeds.
        manifest: its manifest.
        files: its files by suffix, such as 'csv'.
    """

    numbers: tuple[int, ...]
    manifest: Path
    files: Mapping[str, Path]


def completed(manifest: str | Path, spec: Mapping, read: Mapping[str, str]) -> list[Completed]:
    """Return what other shards of the same version have completed of a shard, each number once.

    Used are those that the same code made from the same bytes, and whose files are
    still as their manifests say; a version alone does not tell, as code is no part of it.

    Args:
        manifest: where the shard's own manifest will be.
        spec: of the shard, see `Artifact.spec`.
        read: the SHA-256 of each file that its job reads.
    """
    pattern, own = next((p, fields) for p in (paths.NETS, paths.CELL) if (fields := p.parse(manifest)))
    missing = set(numbers(own["shard"]))
    made_by = json.loads(json.dumps({**spec, "read": read}))
    found: list[Completed] = []
    for other in sorted(Path(manifest).parent.glob(f"*.{paths.MANIFEST}")):
        fields = pattern.parse(other)
        if not fields or fields == own or {**fields, "shard": own["shard"]} != own:
            continue
        taken = sorted(missing.intersection(numbers(fields["shard"])))
        if taken and (files := _sound_files(other, made_by)):
            found.append(Completed(tuple(taken), other, files))
            missing.difference_update(taken)
    return found


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
    return {paths.suffix(file): file for file in files} if sound else {}
