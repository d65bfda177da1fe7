"""Model cards of fitted priors, as Markdown with the metadata of the Hugging Face hub."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dwp.pipeline import paths
from dwp.pipeline.manifest import mapping


def model_card(manifest: Path, jobs: Iterable[tuple[Path, Mapping[str, Any]]], licence: str | None) -> str:
    """Return the card of a prior.

    Args:
        manifest: manifest of the prior.
        jobs: manifests of the jobs that led to it, its own included, with their content.
        licence: licence of its file.
    """
    made = dict(jobs)
    own = made[manifest]
    name, kind = paths.stem(manifest), str(own["params"].get("kind"))
    size = (paths.PRIOR.parse(manifest) or {"size": "k"})["size"]
    settings = {key: value for key, value in own["params"].items() if key != "kind"}
    head = {"library_name": "dwp", "license": licence or "unknown", "tags": ["convolution", "prior", kind]}
    steps = dict.fromkeys(
        (
            content["stage"],
            paths.short(content["version"]),
            content["code"][:8],
            str(mapping(content, "git").get("commit") or "unknown")[:12],
        )
        for content in made.values()
    )
    return f"""\
---
{yaml.safe_dump(head, sort_keys=False).strip()}
---

# {name}

A prior over {size}×{size} convolution kernels, of the kind `{kind}`:

```python
import dwp

prior = dwp.load_prior("{name}.safetensors")
dwp.init_(model, [prior])  # initialise all {size}×{size} convolutions of a model
```

## Settings

```yaml
{yaml.safe_dump(settings, allow_unicode=True).strip() if settings else "# the defaults"}
```

## Fit

{_history(manifest.with_name(f"{name}.csv"))}

## How it was made

| stage | version | code | commit |
|---|---|---|---|
{"".join(f"| {' | '.join(step)} |{chr(10)}" for step in steps)}
{", ".join(f"{library} {number}" for library, number in mapping(own, "libraries").items())}
"""


def _history(file: Path) -> str:
    """Return the last value of each metric of a prior's training history as a table."""
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            last = {row["metric"]: float(row["value"]) for row in csv.DictReader(opened)}
        rows = "".join(f"| {metric} | {value:.2f} |\n" for metric, value in last.items())
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # whatever a store had there
        rows = ""
    about = (
        "Last values of the history, in nats per kernel: on held-out kernels, but `train…` on those that it\n"
        "was fitted to, and `validation…` on those that chose the epoch."
    )
    return f"{about}\n\n| metric | value |\n|---|---|\n{rows}".strip() if rows else "No history."
