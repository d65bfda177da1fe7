"""The default configuration with changes, and its plan, for tests."""

import copy

import yaml
from conftest import ROOT

from dwp.pipeline.config.model import read
from dwp.pipeline.plan import Plan

FEW_SHOT = "experiments.few_shot"
DWP = f"{FEW_SHOT}.methods.dwp"


def merged(base, overlay):
    """Merge as Snakemake does: mappings key by key, everything else replaced."""
    result = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if both else value
    return result


DEFAULT = yaml.safe_load((ROOT / "config.yaml").read_text())
_methods = ("dwp", "log_uniform", "standard_normal", "l2_dwp", "l2_xavier")
# Another target, the paper's priors and methods, and nothing is tuned: most tests are about none of these.
BASE = merged(
    copy.deepcopy(DEFAULT),
    {
        "data": {"target": "digits"},
        "experiments": {"few_shot": {"tuning": None}},
    },
)
for _name in ("mixture", "noise"):
    del BASE["priors"][_name]
BASE["experiments"]["few_shot"]["methods"] = {
    name: {
        key: value
        for key, value in DEFAULT["experiments"]["few_shot"]["methods"][name].items()
        if key != "space"
    }
    for name in _methods
}


def plan(overlay=None, path=None):
    """Validate and plan the default configuration, with `overlay` put at a path like 'source.schedule'."""
    for key in reversed(path.split(".") if path else []):
        overlay = {key: overlay}
    config = merged(BASE, overlay or {})
    made = Plan(read(config))
    for version in made.artifacts:
        made.spec(version)
    return made


def network(*layers):
    return {"layers": list(layers), "batch_norm": False}


def conv(kernel, channels=4, **more):
    return {"conv": channels, "kernel": kernel, **more}
