"""Manifests determine what is stale, with or without Snakemake's own metadata."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, snakemake
from dry_runs import CODE, DWP, NOTHING, REPORT, SCORES, TUNED_DWP, VAE, VAES, dry_run, edited, named


@pytest.fixture(scope="module")
def copied(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the results of the finished run, times included, without Snakemake's metadata."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(smoke_run / "results", folder / "results", symlinks=True)
    return folder


BY_MANIFEST = [
    row for row in CODE if row[0] in ("a comment in the VAE", "a constant of the VAE", "a line of a stage")
]
CONSTANT = "VARIANCE_FLOOR = 1e-6", "VARIANCE_FLOOR = 1e-5"


@pytest.mark.parametrize(("change", "file", "old", "new", "expected"), **named(BY_MANIFEST))
def test_changed_code_runs_where_results_came_without_records(
    copied, checkout, change, file, old, new, expected
):
    assert dry_run(checkout, copied) == NOTHING
    with edited(checkout / file, old, new):
        assert dry_run(checkout, copied) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--until", "prior"], VAES),
        (["--until", "scores"], VAES | SCORES),
        (["--omit-from", "experiment"], VAES | SCORES | TUNED_DWP),
        (["report"], VAES | SCORES | DWP | REPORT),
        (["--rerun-triggers", "mtime"], NOTHING),
        (["--rerun-triggers", "input", "params"], VAES | SCORES | DWP | REPORT),
    ],
    ids=" ".join,
)
def test_what_is_stale_runs_only_where_it_is_asked_for(copied, checkout, words, expected):
    with edited(checkout / VAE, *CONSTANT):
        assert dry_run(checkout, copied, words=words) == expected


def test_a_file_that_is_asked_for_by_name_is_made_again_with_what_it_needs(copied, checkout):
    ((scores,), (filters,)) = (
        [str(path.relative_to(copied)) for path in copied.glob(pattern)]
        for pattern in ("results/scores/*/scores-7x7.csv", "results/priors/*/filters-7x7.safetensors")
    )
    with edited(checkout / VAE, *CONSTANT):
        assert dry_run(checkout, copied, words=[scores]) == {"priors/vae-7x7": 1, "scores/7x7": 1}
        assert dry_run(checkout, copied, words=[filters]) == NOTHING


DAMAGE = {
    "half of it": lambda text: text[: len(text) // 2],
    "other code": lambda text: re.sub(r'"code": "\w+"', '"code": "01234567"', text),
    "other parameters": lambda text: text.replace('"latent": 2', '"latent": 3'),
    "no time": lambda text: re.sub(r'"finished": ".*"', '"finished": "yesterday"', text),
    "none at all": None,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("records", [True, False], ids=["with records", "without"])
def test_what_has_lost_its_manifest_runs(finished, copied, tmp_path, records, damage):
    run = finished if records else copied
    (manifest,) = (run / "results").glob("priors/*/vae-7x7.manifest.json")
    aside = Path(shutil.copy2(manifest, tmp_path))
    text = manifest.read_text()
    manifest.unlink()
    if damage:
        manifest.write_text(damage(text))
        assert manifest.read_text() != text
        shutil.copystat(aside, manifest)
    try:
        assert dry_run(ROOT, run) == {"priors/vae-7x7": 1, "scores/7x7": 1} | DWP | REPORT
    finally:
        shutil.copy2(aside, manifest)
    assert dry_run(ROOT, run) == NOTHING


def test_what_runs_again_is_finished_then_for_this_code_only(copied, checkout, tmp_path):
    run = shutil.copytree(copied, tmp_path / "run", symlinks=True)
    with edited(checkout / VAE, *CONSTANT):
        done = snakemake(run, "--until", "prior", snakefile=checkout / "Snakefile")
        assert done.returncode == 0, done.stdout[-5000:]
        made = set(re.findall(r"^(?:local)?rule (\w+):", done.stdout, re.MULTILINE)) - {"all"}
        assert made == {"prior"}
        assert re.search(r"^Stale, .*: (\w+/[0-9a-f]{8}, ){5}\S+ and \d+ more$", done.stdout, re.MULTILINE)
        # Files made from the priors are older than these, and so are files made by other code.
        assert dry_run(checkout, run) == SCORES | DWP | REPORT
        assert dry_run(checkout, run, words=["--until", "prior"]) == NOTHING
    assert dry_run(checkout, run) == VAES | SCORES | DWP | REPORT
    # With the old files back, the manifests agree, and Snakemake's record of the other code does not count.
    shutil.copytree(copied / "results" / "priors", run / "results" / "priors", dirs_exist_ok=True)
    assert dry_run(checkout, run) == NOTHING
