"""Manifests determine what is stale, with or without Snakemake's own metadata, whatever the times are."""

import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, snakemake
from dry_runs import CODE, DWP, NOTHING, REPORT, SCORES, TUNED_DWP, VAE, VAES, dry_run, edited, named

from dwp.files import sha256


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
        for pattern in ("results/scores/*/scores-7x7.csv", "results/priors/*/empirical-7x7.safetensors")
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


# Times


def copied_as_by_cp(run: Path, to: Path, names: list[str]) -> Path:
    """Copy folders of a run as `cp -r` does, with new times, in any order."""
    files = [
        path for name in names for path in (run / name).rglob("*") if path.is_file() and not path.is_symlink()
    ]
    random.Random(0).shuffle(files)
    for number, file in enumerate(files):
        new = to / file.relative_to(run)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, new)
        os.utime(new, (1e9 + number, 1e9 + number))  # long before the scripts of the workflow were written
    return to


@pytest.mark.parametrize("names", [["results"], ["results", ".snakemake"]], ids=["without records", "with"])
def test_a_copy_with_other_times_runs_nothing(smoke_run, tmp_path, names):
    run = copied_as_by_cp(smoke_run, tmp_path, names)
    assert dry_run(ROOT, run, words=["--rerun-triggers", "mtime", "code"]) != NOTHING
    assert dry_run(ROOT, run) == NOTHING


@pytest.fixture(scope="module")
def touched(copied, tmp_path_factory):
    return shutil.copytree(copied, tmp_path_factory.mktemp("touched") / "run", symlinks=True)


@pytest.mark.parametrize("pattern", ["data/*/glyphs.safetensors", "source/*/*", "priors/*/vae-7x7.*"])
def test_a_touch_runs_nothing(touched, pattern):
    for path in (touched / "results").glob(pattern):
        path.touch()
    assert dry_run(ROOT, touched) == NOTHING


def test_other_bytes_run_what_was_made_from_them_whatever_the_times_say(touched):
    """Bytes made anew, by the same code, with a manifest, and times that are older."""
    (prior,) = (touched / "results").glob("priors/*/vae-7x7.safetensors")
    manifest = prior.with_name("vae-7x7.manifest.json")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (prior, manifest)}
    try:
        prior.write_bytes(before[prior][0] + b" ")
        content = json.loads(before[manifest][0])
        content["files"][prior.name] = sha256(prior)
        manifest.write_text(json.dumps(content))
        for path, (_, time) in before.items():
            os.utime(path, ns=(time, time))
        assert dry_run(ROOT, touched) == {"scores/7x7": 1} | DWP | REPORT
    finally:
        for path, (old, time) in before.items():
            path.write_bytes(old)
            os.utime(path, ns=(time, time))
    assert dry_run(ROOT, touched) == NOTHING


def test_new_scripts_of_a_fresh_checkout_run_nothing(touched, checkout):
    for script in (checkout / "workflow" / "scripts").glob("*.py"):
        script.touch()
    assert dry_run(checkout, touched) == NOTHING
