"""The configuration schema and reference are current, and the configurations match the schema."""

import copy

import jsonschema
import pytest
import yaml
from configurations import BASE, FEW_SHOT
from conftest import ROOT

from dwp.experiments import base as experiments
from dwp.pipeline.config import reference
from dwp.priors import settings as priors

CONFIGURATIONS = [ROOT / "config.yaml", *sorted((ROOT / "config").glob("*.yaml"))]
VALIDATOR = jsonschema.Draft202012Validator(reference.schema())


def put(path, value):
    """Return config.yaml with a value at a path such as 'source.nets'."""
    config = copy.deepcopy(BASE)
    *parents, last = path.split(".")
    inner = config
    for key in parents:
        inner = inner[key]
    inner[last] = value
    return config


@pytest.mark.parametrize("file", reference.files(), ids=lambda file: file.name)
def test_generated_files_are_current(file):
    assert file.read_text(encoding="utf-8") == reference.files()[file], (
        "run python -m dwp.pipeline.config.reference"
    )


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=lambda file: file.stem)
def test_the_schema_accepts_every_configuration_file(file):
    VALIDATOR.validate(yaml.safe_load(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("divice", "cpu"),
        ("device", "tpu"),
        ("source.nets", 0),
        ("source.nets", True),
        ("source.schedule.lr", "1e-3"),
        ("source.network.layers", [{"conv": 4, "konv": 7}]),
        ("priors.vae.hiden", 3),
        ("priors.vae.sizes.7x5", {}),
        ("data.options.mine", {}),
        (f"{FEW_SHOT}.width", [1]),
        (f"{FEW_SHOT}.examples", [50, 50]),
        (f"{FEW_SHOT}.methods.dwp.posterior", "gauss"),
        ("experiments.few_shots", {}),
    ],
)
def test_the_schema_refuses_what_a_run_refuses(path, value):
    assert not VALIDATOR.is_valid(put(path, value))


@pytest.mark.parametrize("path", ["priors.vae", "experiments.few_shot", f"{FEW_SHOT}.methods.dwp"])
def test_the_schema_lets_null_remove_entries(path):
    assert VALIDATOR.is_valid(put(path, None))


def test_the_reference_has_every_kind_of_prior_and_every_experiment():
    page = reference.reference()
    for title in (*(f"### `kind: {kind}`" for kind in priors.known()), "## `kernels`", "### Schedule"):
        assert title in page
    for name in experiments.known():
        assert f"### `experiments.{name}`" in page
        assert f"| `{experiments.find(name).axis}` |" in page
