"""Add priors to the collection that `dwp.load_prior` loads by name, from the results of a finished run.

    python -m dwp.pipeline.collection --configfile config/collection/glyphs.yaml

Every number of a card is read from the run: its manifests, kernel stores, scores and few-shot results.
"""

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from dwp import loading
from dwp.errors import InputError
from dwp.experiments import few_shot, methods
from dwp.files import atomic_write, sha256
from dwp.kernels import store
from dwp.nn.spec import size_label
from dwp.pipeline import origins, paths
from dwp.pipeline.cards import card
from dwp.pipeline.config.files import read_config
from dwp.pipeline.manifest import checked_sha256, read_manifest
from dwp.pipeline.plan import Plan
from dwp.priors.base import load_prior, save_prior
from dwp.report import aggregation

DEFAULT = "mixture"
"""Prior whose name in the collection has no suffix: the best density of those with a small file."""

FEW_SHOT = "few_shot"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status, 2 for an error."""
    parser = argparse.ArgumentParser("python -m dwp.pipeline.collection", description=__doc__)
    parser.add_argument("--directory", metavar="DIR", default=".", help="where results/ is (default: .)")
    configfile = "the configuration of the run, as with snakemake"
    parser.add_argument("--configfile", metavar="FILE", nargs="+", default=[], help=configfile)
    config = "values laid over it, as with snakemake: data_root=/my/data"
    parser.add_argument("--config", metavar="KEY=VALUE", nargs="+", default=[], help=config)
    parser.add_argument("--prior", default=DEFAULT, help=f"name in the configuration (default: {DEFAULT})")
    options = parser.parse_args(arguments)
    try:
        files = [Path(file).resolve() for file in options.configfile]
        with contextlib.chdir(options.directory):
            made = add(Plan(read_config(files, options.config)), options.prior, _shown(files))
    except (InputError, OSError) as error:
        print(f"dwp: {error}", file=sys.stderr)
        return 2
    for name in made:
        print(f"{loading.COLLECTION / name}.safetensors")
    return 0


def _shown(files: Sequence[Path]) -> list[str]:
    """Return configurations relative to the checkout; names only of those outside it."""
    return [
        str(file.relative_to(paths.ROOT)) if file.is_relative_to(paths.ROOT) else file.name for file in files
    ]


def add(plan: Plan, prior: str, configuration: Sequence[str] = ()) -> list[str]:
    """Add or replace the priors of a run, one for each kernel size; return their names in the collection.

    Args:
        plan: plan of the configuration that has run in the current folder.
        prior: name of a fitted prior with a density in the configuration.
        configuration: names of the overlays of `config.yaml`, for the card.

    Raises:
        InputError: the configuration has no such prior, a result is missing or damaged, or the licence of
            the source data or the origin of the networks in `kernels.files` is not known.
    """
    prefix = _prefix(plan)
    if prior not in plan.priors or not plan.config.priors[prior].facts.has_density:
        raise InputError(f"collection: priors.{prior} is not a fitted prior with a density")
    folder = loading.COLLECTION
    index_file = folder / loading.INDEX
    index = json.loads(index_file.read_text(encoding="utf-8")) if index_file.exists() else {}
    suffix = "" if prior == DEFAULT else f"-{prior}"
    names = []
    for size in plan.priors[prior]:
        name = f"{prefix}-{size_label(size)}{suffix}"
        facts = _facts(plan, prior, size, configuration)
        fitted = load_prior(plan.prior_file(prior, size))
        fitted.held_out = dict(facts["held_out"])
        file = folder / f"{name}.safetensors"
        save_prior(fitted, file)
        index[name] = {"sha256": sha256(file), **facts}
        _write(folder / f"{name}.md", card(name, index[name]))
        names.append(name)
    _write(index_file, json.dumps(dict(sorted(index.items())), indent=1, ensure_ascii=False) + "\n")
    return names


def _prefix(plan: Plan) -> str:
    """Return the first part of the names of a run's priors."""
    if not plan.config.trains_source:
        return _published(plan).prefix
    source = plan.config.data.source
    if source not in origins.LICENCES:
        raise InputError(f"collection: the licence of {source} is not known; add it to LICENCES")
    return source


def _published(plan: Plan) -> origins.Networks:
    """Return the published networks in `kernels.files`."""
    return origins.published(next(iter(plan.kernels.values())).params["files"])


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _manifest(file: str) -> dict[str, Any]:
    """Return the manifest of a result after checking the result against it."""
    found = read_manifest(paths.manifest(file))
    if not Path(file).is_file():
        raise InputError(f"collection: there is no file {file}; run the workflow with this configuration")
    checked_sha256(file)
    return found


def _facts(plan: Plan, prior: str, size: int, configuration: Sequence[str]) -> dict[str, Any]:
    """Return the entry of a prior in the index, but for its checksum."""
    files = {
        "kernels": plan.kernels_file(size),
        "prior": plan.prior_file(prior, size),
        "scores": plan.scores_file(size),
    }
    trained = plan.config.trains_source
    if trained:
        files = {
            "data": plan.dataset_file(plan.config.data.source),
            "source": plan.source_files()[0],
            **files,
        }
    manifests = {stage: _manifest(file) for stage, file in files.items()}
    params = manifests["prior"]["params"]
    norms, pruning = store.kept_norms(files["kernels"]), store.pruning(files["kernels"])
    command = " ".join(["--configfile", *configuration]) if configuration else ""
    return {
        "kernel_size": size,
        "kind": params["kind"],
        "settings": {**load_prior(files["prior"]).settings},
        **(_of_trained(files["data"], manifests) if trained else _of_published(_published(plan))),
        "kernels": {
            "before_pruning": pruning.before,
            "kept": pruning.after,
            "train": len(norms["train"]),
            "held_out": len(norms["test"]),
            "rule": pruning.rule,
            "threshold": pruning.threshold,
        },
        "held_out": _held_out(files["scores"], prior),
        "gaussian": _gaussian(plan, prior, files["scores"]),
        "few_shot": _few_shot(plan, prior),
        "versions": {
            stage: paths.short(f"{found['stage']}/{found['version']}") for stage, found in manifests.items()
        },
        "commits": {stage: found["git"]["commit"] for stage, found in manifests.items()},
        "libraries": {name: manifests["prior"]["libraries"][name] for name in ("torch", "numpy")},
        "commands": [
            *([] if trained else [_published(plan).command]),
            f"snakemake --cores 2 {command}".rstrip(),
            f"python -m dwp.pipeline.collection {command}".rstrip()
            + ("" if prior == DEFAULT else f" --prior {prior}"),
        ],
    }


def _of_trained(file: str, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return data and networks of a run that trains source networks on the data set in a file."""
    params = manifests["data"]["params"]
    return {
        "data": {
            "name": params["name"],
            "licence": origins.LICENCES[params["name"]],
            "images": _images(file),
            "files": params["files"],
            "options": params["options"],
        },
        "networks": {
            "number": manifests["kernels"]["params"]["nets"],
            **manifests["source"]["params"],
        },
    }


def _of_published(networks: origins.Networks) -> dict[str, Any]:
    """Return data and networks of a run on the kernels of published networks."""
    return {
        "data": {"name": networks.data, "licence": networks.data_licence},
        "networks": {
            "number": len(networks.files),
            "name": networks.name,
            "licence": networks.licence,
            "files": {name: f"sha256:{digest}" for name, digest in networks.files.items()},
        },
    }


def _images(file: str) -> dict[str, int]:
    """Return the numbers of training and test images of a data set."""
    with safe_open(file, framework="np") as tensors:
        return {part: tensors.get_slice(f"{part}_images").get_shape()[0] for part in ("train", "test")}


def _held_out(file: str, prior: str) -> dict[str, Any]:
    """Return the held-out log density of a prior, as in `Prior.held_out`, with the largest K."""
    rows = aggregation.read([file], ["prior", "samples", "mean", "standard_error", "kernels"])
    rows = rows[rows["prior"] == prior].sort_values("samples")
    if rows.empty:
        raise InputError(f"collection: {file} has no scores of {prior}")
    row = rows.iloc[-1]
    return {
        "log_prob": float(row["mean"]),
        "standard_error": float(row["standard_error"]),
        "kernels": int(row["kernels"]),
        "samples": int(row["samples"]),
    }


def _gaussian(plan: Plan, prior: str, file: str) -> dict[str, Any] | None:
    """Return the held-out log density of the run's Gaussian; None without one, or if this is the prior."""
    found = [name for name, choice in plan.config.priors.items() if choice.kind == "gaussian"]
    return _held_out(file, found[0]) if found and prior not in found else None


def _few_shot(plan: Plan, prior: str) -> dict[str, Any] | None:
    """Return accuracies of the few-shot methods that use this prior or none; None without such a method."""
    settings = plan.config.experiments.get(FEW_SHOT)
    if settings is None:
        return None
    needed = {
        name: methods.priors_needed(method, settings.network) for name, method in settings.methods.items()
    }
    chosen = [name for name, needs in needed.items() if {need for need, _ in needs} <= {prior}]
    sizes = list(dict.fromkeys(size for name in chosen for _, size in needed[name]))
    if not sizes:
        return None
    cells = [cell for cell in plan.cells(FEW_SHOT) if paths.CELL.fields(cell)["method"] in chosen]
    for cell in cells:
        _manifest(cell)
    table = aggregation.summarise(aggregation.read(cells))
    table = table[table["metric"] == "accuracy"]
    target = plan.config.data.target
    return {
        "data": target,
        "images": _images(plan.dataset_file(target)),
        "kernel_sizes": sizes,
        "rows": [
            {
                "method": row["method"],
                "kernels": _described(settings.methods[row["method"]]),
                "examples": int(row["setting"]),
                "accuracy": float(row["mean"]),
                "standard_error": float(row["std"]) / math.sqrt(row["n"]),
                "seeds": int(row["n"]),
            }
            for row in table.to_dict("records")
        ],
    }


def _described(method: few_shot.Method) -> str:
    """Return the origin of the initial kernels of a method."""
    control = "" if method.init.control == "none" else f", {method.init.control}"
    return f"{method.init.origin}{control}{', frozen' if method.frozen else ''}"


if __name__ == "__main__":
    sys.exit(main())
