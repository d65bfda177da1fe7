"""Printed forms of what the commands for versions find: JSON, tables, differences."""

import datetime
import json
from collections.abc import Iterable, Sequence

from humanfriendly import format_timespan
from tabulate import tabulate

from dwp.results.version_diff import ABSENT


def print_json(value: dict | Iterable) -> None:
    """Print a mapping, or any other iterable as a list, as JSON."""
    print(json.dumps(value if isinstance(value, dict) else list(value), indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]) -> None:
    """Print rows in columns under a header; those named `right` are aligned to the right."""
    align = ["right" if name in right else "left" for name in header]
    print(tabulate(rows, header, "plain", disable_numparse=True, colalign=align, headersalign=align))


def print_difference(difference: dict, indent: str = "", seen: set | None = None) -> None:
    """Print a difference of two versions, see `dwp.results.version_diff.diff`, and of their inputs."""
    seen = set() if seen is None else seen
    pair = difference["a"], difference["b"]
    print(f"{indent}{' → '.join(pair)}" + (", as above" if pair in seen else ""))
    if pair in seen:
        return
    seen.add(pair)
    explained = {f"inputs.{role}" for role in difference["inputs"]}
    changes = [change for change in difference["changes"] if change["path"] not in explained]
    width = max((len(change["path"]) for change in changes), default=0)
    for change in changes:
        a, b = change.get("a", ABSENT), change.get("b", ABSENT)
        if isinstance(a, list) and isinstance(b, list) and set(a) != set(b):
            a, b = [x for x in a if x not in b], [x for x in b if x not in a]
        print(f"{indent}  {change['path']:{width}}  {a} → {b}")
    for role, inner in difference["inputs"].items():
        print(f"{indent}  inputs.{role}")
        print_difference(inner, indent + "    ", seen)


def some(names: Iterable[str], most: int = 2) -> str:
    """Return the first names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = [f"and {len(names) - most} more"] if len(names) > most + 1 else names[most:]
    return ", ".join(names[:most] + more) or "-"


def age(finished: datetime.datetime | None) -> str:
    """Return the time since a moment in words."""
    if finished is None:
        return "-"
    seconds = (datetime.datetime.now(datetime.UTC) - finished).total_seconds()
    return format_timespan(int(max(seconds, 0)), max_units=1)
