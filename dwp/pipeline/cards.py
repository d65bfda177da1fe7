"""Cards of the priors in the collection, as Markdown."""

from collections.abc import Mapping
from typing import Any

from dwp.nn.spec import size_label


def card(name: str, facts: Mapping[str, Any]) -> str:
    """Return the card of a prior as Markdown.

    Args:
        name: name in the collection.
        facts: its entry in the index.
    """
    size, held_out = size_label(facts["kernel_size"]), facts["held_out"]
    settings = ", ".join(f"{key} {value}" for key, value in facts["settings"].items())
    bound = f", importance-weighted bound, K = {held_out['samples']}" if held_out["samples"] > 1 else ""
    versions = "".join(
        f"| {stage} | `{version}` | `{(facts['commits'][stage] or 'unknown')[:12]}` |\n"
        for stage, version in facts["versions"].items()
    )
    libraries = ", ".join(f"{library} {version}" for library, version in facts["libraries"].items())
    commands = "\n".join(facts["commands"])
    return f"""\
# {name}

A prior over {size} convolution kernels, for `dwp.load_prior("{name}")`. Kind: {facts["kind"]} ({settings}).
Licence: MIT, as the library. SHA-256: `{facts["sha256"]}`

## Held-out log density

{held_out["log_prob"]:.2f} ± {held_out["standard_error"]:.2f} nats per kernel (mean and standard error over \
{held_out["kernels"]} kernels{bound}){_gaussian_text(facts["gaussian"])}.

## Source

{_source_text(facts)}
{_few_shot_text(facts["few_shot"])}
## How it was made

| stage | version | commit |
|---|---|---|
{versions}
{libraries}

```console
{commands}
```
"""


def _gaussian_text(held_out: Mapping[str, Any] | None) -> str:
    if held_out is None:
        return ""
    return (
        f"; {held_out['log_prob']:.2f} ± {held_out['standard_error']:.2f} nats per kernel for a Gaussian "
        "with full covariance"
    )


def _source_text(facts: Mapping[str, Any]) -> str:
    data, nets, kernels = (facts[key] for key in ("data", "networks", "kernels"))
    if "licence" in nets:  # published networks
        images, owner, files = "", "networks", nets["files"]
        networks = f"{nets['number']}, {nets['name']}. Origin and licence: {nets['licence']}"
    else:
        images, owner, files = f", {data['images']['train']} training images", "data", data["files"]
        layers = "; ".join(
            ", ".join(f"{key} {value}" for key, value in layer.items()) for layer in nets["network"]["layers"]
        )
        schedule = ", ".join(f"{key} {value}" for key, value in nets["schedule"].items())
        networks = f"{nets['number']} ({layers}), L2 weight {nets['l2']}, {schedule}"
    pruning = ", none pruned"
    if kernels["kept"] < kernels["before_pruning"]:
        least = f"{kernels['threshold']:.4g} or more ({kernels['rule']})"
        pruning = f" of {kernels['before_pruning']} kept, of norm {least}"
    checksums = "".join(f"- `{file}`: {digest}\n" for file, digest in files.items())
    return f"""\
- Data: {data["name"]}{images}. Origin and licence: {data["licence"]}.
- Networks: {networks}.
- Kernels: {kernels["kept"]}{pruning}; {kernels["train"]} to fit the prior, {kernels["held_out"]} held out.

Files of the {owner}:

{checksums}"""


def _few_shot_text(few_shot: Mapping[str, Any] | None) -> str:
    if few_shot is None:
        return ""
    rows = "".join(
        f"| {row['method']} | {row['kernels']} | {row['examples']} "
        f"| {row['accuracy']:.3f} ± {row['standard_error']:.3f} |\n"
        for row in few_shot["rows"]
    )
    sizes = " and ".join(map(size_label, few_shot["kernel_sizes"]))
    seeds = few_shot["rows"][0]["seeds"]
    return f"""\
## Few-shot classification

Test accuracy on {few_shot["data"]} ({few_shot["images"]["test"]} test images) with few labelled images:
mean and standard error over {seeds} seeds. The initial kernels of {sizes} come from the priors of this run,
or from Xavier's distribution; the control `noise` keeps their norms and removes their structure.

| method | initial kernels | labelled images | accuracy |
|---|---|---|---|
{rows}"""
