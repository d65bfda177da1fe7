"""Shards: ranges of networks or seeds that one job computes, and reuse between them.

The result of a network or a seed does not depend on its shard. A job therefore reuses those that
shards of any size have completed, and computes only the rest.
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
    """Yield ranges 'first-last' of at most `size` numbers from 0; a larger total changes only the last."""
    for first in range(0, count, size):
        yield f"{first:03d}-{min(first + size, count) - 1:03d}"


def numbers(shard: str) -> range:
    """Return the numbers of a shard named 'first-last'."""
    first, last = map(int, shard.split("-"))
    return range(first, last + 1)


@dataclass(frozen=True)
class Completed:
    """Networks or seeds that another shard has completed.

    Attributes:
        numbers: the networks or seeds.
        manifest: manifest of that shard.
        files: its files by suffix, such as 'csv'.
    """

    numbers: tuple[int, ...]
    manifest: Path
    files: Mapping[str, Path]


def completed(manifest: str | Path, spec: Mapping, read: Mapping[str, str]) -> list[Completed]:
    """Return the networks or seeds of a shard that others of the same version have completed, each once.

    Another shard is used only if the same code made it from the same bytes and its files match its
    manifest. The version alone is not enough, since code is not part of it.

    Args:
        manifest: path of the shard's own manifest.
        spec: spec of the shard, see `Artifact.spec`.
        read: SHA-256 of each file that the job reads.
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
    """Return the files of a manifest by suffix; none if `made_by` differs or a checksum does not match."""
    try:
        content = read_manifest(manifest)
        if any(content.get(key) != value for key, value in made_by.items()):
            return {}
        files = {manifest.parent / name: digest for name, digest in content["files"].items()}
        sound = all(sha256(file) == digest for file, digest in files.items())
    except (OSError, InputError):
        return {}
    return {paths.suffix(file): file for file in files} if sound else {}
