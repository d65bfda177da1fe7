"""Read a configuration: refuse what cannot be meant, in one line, before anything runs."""

import difflib
import inspect
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import yaml

from dwp import data
from dwp.errors import InputError
from dwp.experiments import base as experiments
from dwp.experiments import methods
from dwp.nn.spec import Network, size_label
from dwp.pipeline.typed import parse
from dwp.priors import base as priors_module

MOST_JOBS = 200_000  # Snakemake plans some 200 in a second
SQUARE = r"^([0-9]+)x\1$"


def validate(config: dict, schema_file: str | Path) -> None:
    """Hold a configuration against the schema, to which priors, experiments and data sets add their own.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    schema = yaml.safe_load(Path(schema_file).read_text(encoding="utf-8"))
    schema["properties"]["data"]["properties"]["options"]["propertyNames"] = {
        "enum": [*data.NAMES],
        "description": f"one of {', '.join(data.NAMES)}; a set of your own has no options",
    }
    schema["properties"]["experiments"]["additionalProperties"] = {"type": ["object", "null"]}
    for section, extension in (("priors", _prior_schema),):
        entries = config.get(section)
        for name, settings in (entries if isinstance(entries, dict) else {}).items():
            if isinstance(settings, dict):
                try:
                    schema["properties"][section]["properties"][name] = extension(name, settings)
                except InputError as error:
                    raise InputError(f"config: {section}.{name}: {error}") from None
    validator = jsonschema.Draft202012Validator(schema)
    _refuse_infinite(config, "")
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        raise InputError(_one_line(errors[0]))


def _refuse_infinite(value: object, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"config: {where}: {value} is not allowed; expected a finite number")
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _refuse_infinite(inner, f"{where}.{key}".removeprefix("."))


def _prior_schema(name: str, settings: dict) -> dict:
    if not isinstance(settings.get("kind"), str):
        return {"type": "object", "required": ["kind"], "properties": {"kind": {"type": "string"}}}
    cls = priors_module.find(settings["kind"])
    own = dict(cls.options)
    if cls.trained:
        own["schedule"] = {"$ref": "#/$defs/schedule"}
        own["validation_fraction"] = {"$ref": "#/$defs/fraction"}
    each = {**own, "schedule": {"$ref": "#/$defs/part_of_schedule"}} if cls.trained else own
    sizes = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "patternProperties": {SQUARE: {"type": "object", "additionalProperties": False, "properties": each}},
    }
    properties = {"kind": {}, **own}
    if cls.fitted:
        properties["sizes"] = sizes
    required = ["schedule"] if cls.trained else []
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def _image_shapes(config: dict) -> dict[str, tuple[int, int, int]]:
    """Return the shapes of the images of source and target; refuse what is no data set."""
    shapes = {}
    for which in ("source", "target"):
        try:
            shapes[which] = data.image_shape(config["data"][which], data_root=config["data_root"])
        except InputError as error:
            raise InputError(f"config: data.{which}: {error}") from None
    return shapes


def _check_outliers(where: str, experiment: dict, chosen: dict, shapes: dict) -> None:
    if experiment.get("outliers") and shapes["source"] != shapes["target"]:
        raise InputError(
            f"config: {where}.outliers: true needs images of one shape; {chosen['source']} has "
            f"{shapes['source']}, {chosen['target']} {shapes['target']}"
        )


def without_removed(config: dict) -> dict:
    """Return the configuration without the entries of mappings that an overlay set to null to remove them."""
    kept = dict(config)
    kept["priors"] = {name: prior for name, prior in config["priors"].items() if prior is not None}
    kept["experiments"] = {}
    for name, experiment in config["experiments"].items():
        if experiment is not None:
            methods = {method: value for method, value in experiment["methods"].items() if value is not None}
            kept["experiments"][name] = {**experiment, "methods": methods}
    return kept


def check(config: dict) -> None:
    """Refuse what fits the schema but not together.

    Raises:
        InputError: names the key's path, the value, and what is allowed.
    """
    # Nearest folder that exists: before the first run `results` does not.
    folder = Path("results") if Path("results").exists() else Path()
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(
            f"results: {folder.resolve()} is not a folder that can be written to; free it or use --directory"
        )
    root = config["data_root"]
    if root is not None and not Path(root).is_dir():
        raise InputError(f"config: data_root: there is no folder {root}; give one, or null")
    shapes = _image_shapes(config)
    for file in config["kernels"]["files"] or []:
        if not Path(file).is_file():
            raise InputError(f"config: kernels.files: there is no file {file}")
    if not config["kernels"]["files"]:
        _check_network("source", config["source"]["network"], config["data"]["source"], shapes["source"])
    if not config["experiments"]:
        raise InputError("config: experiments: none is left; expected at least one that is not null")
    typed = {
        name: parse(experiments.find(name).settings, settings, f"config: experiments.{name}")
        for name, settings in config["experiments"].items()
    }
    sizes = {size for settings in typed.values() for size in settings.network.kernel_sizes()}
    for name, settings in config["priors"].items():
        _check_prior(f"config: priors.{name}", settings, sizes)
    for name, experiment in config["experiments"].items():
        where = f"experiments.{name}"
        if not experiment["methods"]:
            raise InputError(f"config: {where}.methods: none is left; expected at least one that is not null")
        _check_network(where, experiment["network"], config["data"]["target"], shapes["target"])
        _check_sizes(where, experiment["network"], config)
        _check_outliers(where, experiment, config["data"], shapes)
        for method, choices in experiment["methods"].items():
            kinds = {key: SimpleNamespace(**value) for key, value in config["priors"].items()}
            methods.check(
                f"config: {where}.methods.{method}", typed[name].methods[method], typed[name], kinds
            )
    _check_examples(config)
    _check_jobs(config)


def _check_prior(where: str, settings: dict, sizes: set[int]) -> None:
    cls = priors_module.find(settings["kind"])
    parameters = inspect.signature(cls).parameters
    needed = [option for option in cls.options if parameters[option].default is inspect.Parameter.empty]
    special = settings.get("sizes", {})
    for size in (size for size in sizes if not special or size_label(size) in special):
        own = special.get(size_label(size), {})
        place = f"{where}.sizes.{size_label(size)}" if special else where
        for option in needed:
            if option not in settings and option not in own:
                raise InputError(f"{place}.{option}: missing; give it a value")
        if cls.trained:
            schedule = settings["schedule"] | own.get("schedule", {})
            if (schedule["steps"] is None) == (schedule["epochs"] is None):
                raise InputError(
                    f"{place}.schedule: has steps {schedule['steps']} and epochs {schedule['epochs']}; "
                    "expected one of them, the other null"
                )
        try:
            cls.check_size(size)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def _check_network(where: str, network: dict, dataset: str, image_shape: tuple[int, int, int]) -> None:
    try:
        parse(Network, network).check(image_shape)
    except InputError as error:
        raise InputError(f"config: {where}.{error} (images of {dataset})") from None


def _check_sizes(where: str, network: dict, config: dict) -> None:
    available, threshold = (
        parse(Network, config["source"]["network"]).kernel_sizes(),
        config["kernels"]["threshold"],
    )
    for size in parse(Network, network).kernel_sizes():
        found = f"config: {where}.network has {size_label(size)} kernels"
        if not config["kernels"]["files"] and size not in available:
            have = ", ".join(map(size_label, available))
            raise InputError(f"{found}, but source.network only {have}; no prior can be fitted to that size")
        if isinstance(threshold, dict) and size_label(size) not in threshold:
            raise InputError(f"{found}, but kernels.threshold names only {', '.join(threshold)}")


def _check_jobs(config: dict) -> None:
    """Refuse more jobs than Snakemake could ever plan."""
    source = config["source"]
    jobs = {"source": -(-source["nets"] // source["shard"])}
    for name, experiment in config["experiments"].items():
        declared = experiments.find(name)
        settings = experiment[declared.axis] if declared.trains else [None]
        shards = -(-experiment["seeds"] // experiment["shard"])
        jobs[f"experiments.{name}"] = shards * len(settings) * len(experiment["methods"])
    for where, count in jobs.items():
        if count > MOST_JOBS:
            raise InputError(
                f"config: {where}: makes {count} jobs, expected at most {MOST_JOBS}; raise {where}.shard"
            )


def _check_examples(config: dict) -> None:
    asked = {name: experiment.get("examples") for name, experiment in config["experiments"].items()}
    most = {name: max(value) if isinstance(value, list) else value for name, value in asked.items() if value}
    if not most:
        return
    target = config["data"]["target"]
    options = config["data"]["options"].get(target)
    # Reads local files, so once for all.
    available = data.train_size(target, data_root=config["data_root"], options=options)
    for name, count in most.items():
        if available and count > available:
            raise InputError(
                f"config: experiments.{name}.examples: {count} is more than the {available} "
                f"training images of {target}"
            )


def _one_line(error: jsonschema.ValidationError) -> str:
    # Of alternatives, the one that got furthest is what was meant.
    expected = error.schema.get("description")
    while error.context:
        inner = max(error.context, key=lambda inner: (len(inner.absolute_path), inner.validator != "type"))
        if expected and len(inner.absolute_path) == len(error.absolute_path):
            break
        error = inner
        expected = error.schema.get("description", expected)
    where = ".".join(map(str, error.absolute_path)) or "config"
    if error.validator == "additionalProperties":
        known = [*error.schema.get("properties", {})]
        patterns = error.schema.get("patternProperties", {})
        unknown = next(key for key in error.instance if key not in known and not _matches(key, patterns))
        close = difflib.get_close_matches(str(unknown), known, 1)
        meant = f", did you mean {close[0]!r}?" if close else ";"
        allowed = known or [f"keys like {pattern}" for pattern in patterns]
        return f"config: {_join(where, unknown)}: unknown key{meant} allowed here: {', '.join(allowed)}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"config: {_join(where, missing)}: missing; give it a value"
    return f"config: {where}: {error.instance!r} is not allowed; expected {expected or error.message}"


def _join(where: str, key: object) -> str:
    return str(key) if where == "config" else f"{where}.{key}"


def _matches(key: object, patterns: Iterable[str]) -> bool:
    return any(re.search(pattern, str(key)) for pattern in patterns)
