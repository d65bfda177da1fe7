"""Paths under `results/`. Only this module builds or parses them.

results/<stage>/<version>/<stem>.<suffix>     a result; manifest, log and benchmark differ in the suffix
results/<stage>/<version>/checkpoints/        checkpoints of jobs
results/latest/<stage>/<name>                 links to the versions of the last configuration that ran
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Formatter

DIGITS = 8
"""Digits of a version in names of folders and on the command line; manifests have all of them."""

FIELDS = {
    "version": rf"[0-9a-f]{{{DIGITS}}}",
    "shard": r"\d+-\d+",
    "size": r"\d+",
    "setting": r"[\d.e+-]+|all",
    "name": r"[^/.]+",
    "method": r"\w+",
    "axis": r"\w+",
    "experiment": r"\w+",
    "stage": r"\w+",
}
"""Regular expressions of the fields, which also constrain Snakemake's wildcards of these names."""


class Pattern(str):
    """A path without a suffix, with fields in braces; the rules use it as a pattern of wildcards."""

    def file(self, suffix: str = "", **fields: object) -> str:
        """Return the path with all fields filled in, followed by a suffix such as 'csv'."""
        return self.format(**fields) + (f".{suffix}" if suffix else "")

    def parse(self, path: str | Path, **known: str) -> dict[str, str] | None:
        """Return the fields of a path and its `suffix`; None if the path does not match the pattern.

        Args:
            path: relative to the working directory, or with any prefix.
            known: values of fields, for names that could be parsed in two ways.
        """
        expression, seen = "", set()
        for text, field, *_ in Formatter().parse(self):
            expression += re.escape(text)
            if field in seen:
                expression += f"(?P={field})"
            elif field:
                allowed = re.escape(known[field]) if field in known else FIELDS[field]
                expression += f"(?P<{field}>{allowed})"
                seen.add(field)
        found = re.fullmatch(rf"(?:.*/)?{expression}(?:\.(?P<suffix>[^/]+))?", str(path))
        return found.groupdict(default="") if found else None

    def fields(self, path: str | Path) -> dict[str, str]:
        """Return the fields of a path that must match the pattern; see `parse`."""
        found = self.parse(path)
        assert found is not None, f"{path} is not of the pattern {self}"
        return found


ROOT = Path(__file__).resolve().parents[2]
"""The folder that contains the package: a checkout, or `site-packages`."""

CAPTIONS = ROOT / "workflow" / "report"
"""The folder of the captions; only a checkout has it."""

RESULTS = Path("results")
LABEL = Pattern("{stage}/{version}")
"""A version as it is written on the command line."""
VERSION = Pattern("results/{stage}/{version}")
DATA = Pattern("results/data/{version}/{name}")
NETS = Pattern("results/source/{version}/nets-{shard}")
KERNELS = Pattern("results/kernels/{version}/kernels-{size}x{size}")
PRIOR = Pattern("results/priors/{version}/{name}-{size}x{size}")
"""A prior, named by its kind: another name in the configuration makes nothing stale."""
SCORES = Pattern("results/scores/{version}/scores-{size}x{size}")
TUNING = Pattern("results/tuning/{version}/{experiment}-{method}")
CELL = Pattern("results/{experiment}/{version}/{method}_{axis}-{setting}_seeds-{shard}")
"""Rows of one method of an experiment, at one setting of its axis, for a shard of seeds."""
ALL_SETTINGS = {"axis": "settings", "setting": "all"}
"""Fields of a CELL with all settings."""

LATEST = RESULTS / "latest"
CLAIMS = RESULTS / ".claims"
CACHE = RESULTS / ".cache.json"
DOWNLOADS = RESULTS / "downloads"
CHECKPOINTS = "checkpoints"

MANIFEST = "manifest.json"
LOGS = (".log", ".benchmark.tsv")
SUFFIXES = (f".{MANIFEST}", *LOGS, ".seconds.tsv", ".safetensors", ".samples.csv", ".csv", ".json", ".h5")


def short(version: str) -> str:
    """Return a version, or `<stage>/<version>`, with as many digits as the names of folders have."""
    stage, slash, digest = version.rpartition("/")
    return f"{stage}{slash}{digest[:DIGITS]}"


def label(path: str | Path) -> str:
    """Return the LABEL of the version that a file or folder belongs to."""
    return LABEL.format(**_version(path))


def version(path: str | Path) -> str:
    """Return the version that a file or folder belongs to."""
    return _version(path)["version"]


def _version(path: str | Path) -> dict[str, str]:
    for folder in (Path(path), *Path(path).parents):
        if found := VERSION.parse(folder):
            return found
    raise ValueError(f"{path} belongs to no version")


def stem(path: str | Path) -> str:
    """Return the beginning that the names of all files of one job share; '' for the report's manifest."""
    name = Path(path).name
    if name == MANIFEST:
        return ""
    return name.removesuffix(next(filter(name.endswith, SUFFIXES), ""))


def suffix(path: str | Path) -> str:
    """Return the part of a file's name after the `stem`, without the dot: 'seconds.tsv'."""
    return Path(path).name.removeprefix(stem(path)).removeprefix(".")


def manifest(path: str | Path) -> Path:
    """Return the path of a file's manifest."""
    return Path(path).with_name(f"{stem(path)}.{MANIFEST}")


def logs(manifest: Path) -> list[Path]:
    """Return the paths of the log and the benchmark of the job that writes a manifest."""
    name = stem(manifest) or _version(manifest)["stage"]
    return [manifest.with_name(name + suffix) for suffix in LOGS]


def checkpoint(output: str | Path) -> Path:
    """Return the path of a job's checkpoint, which Snakemake does not delete before a rerun."""
    return Path(output).parent / CHECKPOINTS / f"{stem(output)}.pt"


def is_byproduct(file: Path) -> bool:
    """Return whether a file is not a result: a log, a benchmark, a checkpoint, or a temporary file."""
    return file.name.startswith(".") or file.name.endswith(LOGS) or file.parent.name == CHECKPOINTS


def name(path: str | Path) -> str:
    """Return the display name of a result file: its stem without setting and shard."""
    if cell := CELL.parse(path):
        return cell["method"]
    return "nets" if NETS.parse(path) else stem(path)


def priors_by_role(files: Iterable[str], inputs: Mapping[str, str]) -> dict[str, dict[int, str]]:
    """Return files of priors by role and kernel size.

    Args:
        files: the files.
        inputs: LABEL of each input of a job, by role; that of a prior is `<role>-<size>`.
    """
    of_version = {label(file): file for file in files}
    found: dict[str, dict[int, str]] = {}
    for name, version in inputs.items():
        if (file := of_version.get(short(version))) is not None:
            role, _, size = name.rpartition("-")
            found.setdefault(role, {})[int(size)] = file
    return found
