"""Paths under `results/`: filled-in values are parsed back, and names are parsed in one place."""

from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from dwp.pipeline import paths

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]*", fullmatch=True)
FIELDS = {
    "version": st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    "shard": st.tuples(st.integers(0, 9999), st.integers(0, 9999)).map(
        lambda ends: f"{ends[0]:03d}-{ends[1]:03d}"
    ),
    "size": st.integers(1, 99).map(str),
    "setting": st.floats(0, 1e9).map(repr) | st.integers(0, 10**9).map(str) | st.just("all"),
    "axis": NAMES.map(str.lower),
    "name": NAMES,
    "method": NAMES,
    "experiment": NAMES,
}
PATTERNS = {name: getattr(paths, name) for name in ("DATA", "NETS", "KERNELS", "PRIOR", "SCORES", "CELL")}
SUFFIXES = st.sampled_from(
    ["csv", "h5", "safetensors", "samples.csv", "seconds.tsv", paths.MANIFEST, "log", "benchmark.tsv"]
)


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@given(data=st.data(), suffix=SUFFIXES)
def test_what_is_filled_in_comes_back(pattern, data, suffix):
    fields = {name: data.draw(values) for name, values in FIELDS.items() if f"{{{name}}}" in pattern}
    path = pattern.file(suffix, **fields)
    known = {"axis": fields["axis"]} if "axis" in fields else {}
    for where in (path, Path("/tmp/89abcdef") / path):
        assert pattern.parse(where, **known) == {**fields, "suffix": suffix}
        assert (paths.version(where), paths.suffix(where)) == (fields["version"], suffix)
        assert paths.label(where) == "/".join(path.split("/")[1:3])
    assert paths.manifest(path) == Path(pattern.file(paths.MANIFEST, **fields))
    assert [other for other in PATTERNS.values() if other.parse(path)] == [pattern]


def test_a_method_with_underscores_keeps_its_name():
    cell = "results/kl_importance/0123abcd/dwp_samples_settings-all_seeds-000-009.csv"
    assert paths.CELL.parse(cell)["method"] == paths.name(cell) == "dwp_samples"
    # The name of the axis may contain underscores too; then it is given explicitly.
    cell = "results/noise/0123abcd/dwp_noise_level-0.1_seeds-000-009.csv"
    assert paths.CELL.parse(cell, axis="noise_level")["method"] == "dwp"


@pytest.mark.parametrize(
    "path",
    [
        "results/priors/0123abc/vae-7x7.csv",
        "results/priors/0123abcd/vae-7x5.csv",
        "results/priors/0123abcd/vae.csv",
        "results/priors/0123abcd/more/vae-7x7.csv",
        "results/latest/priors/vae-7x7/vae-7x7.csv",
    ],
)
def test_what_is_no_prior_is_none(path):
    assert paths.PRIOR.parse(path) is None


def test_the_report_has_one_manifest_for_all_its_files():
    manifest = Path("results/report/0123abcd/manifest.json")
    assert paths.stem(manifest) == ""
    assert paths.logs(manifest) == [manifest.with_name(f"report{suffix}") for suffix in paths.LOGS]
    assert paths.label("results/report/0123abcd/figures/norms.png") == "report/0123abcd"


def test_what_belongs_to_no_version_has_none():
    with pytest.raises(ValueError, match=r"results/latest/report belongs to no version"):
        paths.version("results/latest/report")


def test_no_other_file_names_a_path_of_results():
    files = [
        *(ROOT / "dwp").rglob("*.py"),
        *(ROOT / "workflow").rglob("*.smk"),
        ROOT / "workflow" / "Snakefile",
    ]
    naming = [
        str(file.relative_to(ROOT))
        for file in files
        if any(
            f"{quote}results/{mark}" in file.read_text()
            for quote in "\"'"
            for mark in ("{", "data/", "source/")
        )
    ]
    assert naming == ["dwp/pipeline/paths.py"]
