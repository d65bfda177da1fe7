"""Shards: ranges of networks or seeds that one job computes, and reuse between jobs of one version.

The result of a network or a seed does not depend on its shard, nor on the name of the method. A job
therefore reuses what others have completed, and computes only the rest.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dwp.errors import InputError
from dwp.pipeline import paths
from dwp.pipeline.manifest import is_sound, read_manifest


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
    pattern = paths.NETS if paths.NETS.parse(manifest) else paths.CELL
    missing = set(numbers(pattern.fields(manifest)["shard"]))
    found: list[Completed] = []
    for other, fields in siblings(manifest, pattern, ("shard", "method")):
        taken = sorted(missing.intersection(numbers(fields["shard"])))
        if taken and (files := _sound_files(other, spec, read)):
            found.append(Completed(tuple(taken), other, files))
            missing.difference_update(taken)
    return found


def siblings(
    manifest: str | Path, pattern: paths.Pattern, differing: Sequence[str]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the manifests of a folder that differ from one only in some fields, with their fields."""
    own = pattern.fields(manifest)
    for other in sorted(Path(manifest).parent.glob(f"*.{paths.MANIFEST}")):
        fields = pattern.parse(other)
        if fields and fields != own and all(fields[key] == own[key] for key in own if key not in differing):
            yield other, fields


def _sound_files(manifest: Path, spec: Mapping, read: Mapping[str, str]) -> dict[str, Path]:
    """Return the files of a manifest by suffix; none if the job differs or a checksum does not match."""
    try:
        content = read_manifest(manifest)
        same = all(content.get(key) == value for key, value in json.loads(json.dumps(dict(spec))).items())
        # Without the paths of the files, in which there are names too.
        if not same or sorted(content.get("read", {}).values()) != sorted(read.values()):
            return {}
        if not is_sound(manifest, content):
            return {}
    except (OSError, InputError):
        return {}
    return {paths.suffix(name): manifest.parent / name for name in content["files"]}
