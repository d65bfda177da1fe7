"""What a change reruns: every row of the table is a promise of the README."""

import contextlib
import multiprocessing
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from conftest import ROOT, copy_checkout, snakemake

# Jobs by what they make, and how many: few_shot has two settings of `examples`, random_features two widths.
DWP = {
    "few_shot/dwp": 2,
    "few_shot/l2_dwp": 2,
    "convergence/dwp": 1,
    "random_features/dwp": 2,
    "image_vae/dwp": 1,
    "kl_importance/dwp": 1,
    "kl_importance/dwp_samples": 1,
    "kl_subset/dwp": 1,
    "kl_profile/dwp": 1,
}
# Those on the KL are around learned filters; all settings of a method are one job.
KL_FILTERS = {
    "kl_importance/standard_normal": 1,
    "kl_subset/standard_normal": 1,
    **{f"kl_profile/{name}": 1 for name in ("log_uniform", "molchanov", "standard_normal", "gaussian")},
}
FILTERS = {"convergence/filters": 1, "random_features/filters": 2, "image_vae/filters": 1} | KL_FILTERS
FEW_SHOT = {
    f"few_shot/{name}": 2 for name in ("dwp", "log_uniform", "standard_normal", "l2_dwp", "l2_xavier")
}
CONVERGENCE = {f"convergence/{name}": 1 for name in ("xavier", "filters", "dwp")}
RANDOM_FEATURES = {f"random_features/{name}": 2 for name in ("xavier", "filters", "dwp")}
IMAGE_VAE = {f"image_vae/{name}": 1 for name in ("xavier", "filters", "dwp")}
KL_IMPORTANCE = {f"kl_importance/{name}": 1 for name in ("dwp", "dwp_samples", "standard_normal")}
KL_SUBSET = {f"kl_subset/{name}": 1 for name in ("dwp", "standard_normal")}
KL_PROFILE = {
    f"kl_profile/{name}": 1 for name in ("dwp", "log_uniform", "molchanov", "standard_normal", "gaussian")
}
KL = KL_IMPORTANCE | KL_SUBSET | KL_PROFILE
EXPERIMENTS = FEW_SHOT | CONVERGENCE | RANDOM_FEATURES | IMAGE_VAE | KL
KERNELS = {"kernels/7x7": 1, "kernels/5x5": 1}
VAES = {"priors/vae-7x7": 1, "priors/vae-5x5": 1}
PRIORS = VAES | {f"priors/{name}-{size}": 1 for name in ("filters", "gaussian") for size in ("7x7", "5x5")}
SCORES = {"scores/7x7": 1, "scores/5x5": 1}
KERNELS_5X5 = {"kernels/5x5": 1, "scores/5x5": 1} | {name: 1 for name in PRIORS if name.endswith("5x5")}
REPORT = {"report": 1}
LEARNED = PRIORS | SCORES | DWP | FILTERS | REPORT
NOTHING = {}


def one_more(parts: dict[str, int], by: int = 1) -> dict[str, int]:
    """Return the parts with `by` jobs each."""
    return dict.fromkeys(parts, by)


# (what is changed, the overlay, the jobs)
CONFIGURATIONS = [
    ("nothing", "{}", NOTHING),
    ("where and how it runs", "{device: cpu, threads: 2, checkpoint_seconds: 5}", NOTHING),
    (
        "the order in which keys are written",
        "{priors: {vae: {hidden: 4, sizes: {5x5: {latent: 2, hidden: 4}}}}}",
        NOTHING,
    ),
    (
        "the VAE's latent size",
        "{priors: {vae: {sizes: {7x7: {latent: 3}, 5x5: {latent: 3}}}}}",
        VAES | SCORES | DWP | REPORT,
    ),
    (
        "the VAE's latent size for 7x7 only",
        "{priors: {vae: {sizes: {7x7: {latent: 3}}}}}",
        {"priors/vae-7x7": 1, "scores/7x7": 1} | DWP | REPORT,
    ),
    (
        "the pruning threshold of 5x5 only",
        "{kernels: {threshold: {5x5: 0.01}}}",
        KERNELS_5X5 | DWP | FILTERS | REPORT,
    ),
    (
        "the pruning thresholds of both sizes",
        "{kernels: {threshold: valley}}",
        KERNELS | LEARNED,
    ),
    ("the source nets' learning rate", "{source: {schedule: {lr: 0.02}}}", {"source": 2} | KERNELS | LEARNED),
    ("8 -> 10 source nets", "{source: {nets: 10}}", {"source": 1} | KERNELS | LEARNED),
    ("8 -> 4 source nets", "{source: {nets: 4}}", KERNELS | LEARNED),
    ("the shard size of the source nets", "{source: {shard: 8}}", {"source": 1} | KERNELS | LEARNED),
    ("another source data set", "{data: {source: digits}}", {"source": 2} | KERNELS | LEARNED | FEW_SHOT),
    (
        "another target data set",
        "{data: {target: glyphs}}",
        EXPERIMENTS | REPORT,
    ),
    (
        "an option of the target data set",
        "{data: {options: {digits: {test: 300}}}}",
        {"data/digits": 1} | EXPERIMENTS | REPORT,
    ),
    ("one more seed of few_shot", "{experiments: {few_shot: {seeds: 3}}}", FEW_SHOT | REPORT),
    (
        "one more n of few_shot",
        "{experiments: {few_shot: {examples: [20, 50, 100]}}}",
        one_more(FEW_SHOT) | REPORT,
    ),
    (
        "the shard size of few_shot",
        "{experiments: {few_shot: {shard: 1}}}",
        one_more(FEW_SHOT, 4) | REPORT,
    ),
    ("one n less of few_shot", "{experiments: {few_shot: {examples: [50]}}}", REPORT),
    (
        "a new prior, in a new method",
        "{priors: {wide: {kind: standard_normal, scale: 2.0}},"
        " experiments: {few_shot: {methods:"
        " {wide: {posterior: additive, prior: wide, init: {from: xavier}}}}}}",
        {"few_shot/wide": 2} | SCORES | REPORT,
    ),
    (
        "a new fitted prior that no method uses",
        "{priors: {gauss: {kind: gaussian}}}",
        {"priors/gauss-7x7": 1, "priors/gauss-5x5": 1} | SCORES | REPORT,
    ),
    (
        "a new fitted prior of one size",
        "{priors: {gauss: {kind: gaussian, sizes: {5x5: {}}}}}",
        {"priors/gauss-5x5": 1, "scores/5x5": 1} | REPORT,
    ),
    (
        "a prior that no method uses",
        "{priors: {wide: {kind: standard_normal, scale: 2.0}}}",
        SCORES | REPORT,
    ),
    ("a prior without a density that no method uses", "{priors: {ard: {kind: ard}}}", NOTHING),
    ("how many kernels are scored", "{scores: {kernels: 50}}", SCORES | REPORT),
    (
        "the scale of the standard normal",
        "{priors: {standard_normal: {scale: 0.5}}}",
        {"few_shot/standard_normal": 2}
        | {f"{name}/standard_normal": 1 for name in ("kl_importance", "kl_subset", "kl_profile")}
        | SCORES
        | REPORT,
    ),
    ("one more seed of kl_subset", "{experiments: {kl_subset: {seeds: 3}}}", KL_SUBSET | REPORT),
    ("the scales of kl_profile", "{experiments: {kl_profile: {scale: [0, 1]}}}", KL_PROFILE | REPORT),
    ("a method without", "{experiments: {few_shot: {methods: {log_uniform: null}}}}", REPORT),
    (
        "one method's weight decay",
        "{experiments: {few_shot: {methods: {l2_xavier: {l2: 0.01}}}}}",
        {"few_shot/l2_xavier": 2} | REPORT,
    ),
    (
        "the learning rate of few_shot",
        "{experiments: {few_shot: {schedule: {lr: 0.002}}}}",
        FEW_SHOT | REPORT,
    ),
    ("an experiment without", "{experiments: {random_features: null}}", REPORT),
    ("the style of the figures", "{report: {dpi: 100}}", REPORT),
]

# (what is changed, the file, old text, new text, the jobs)
VAE = "dwp/priors/vae.py"
CODE = [
    ("a comment in the VAE", VAE, "import math\n", "# A comment.\nimport math\n", NOTHING),
    ("the VAE's docstring", VAE, 'class VAE(Prior):\n    """', 'class VAE(Prior):\n    """Of old: ', NOTHING),
    ("the VAE's formatting", VAE, "VARIANCE_FLOOR = 1e-6", "VARIANCE_FLOOR = (\n    1e-6\n)", NOTHING),
    (
        "a constant of the VAE",
        VAE,
        "VARIANCE_FLOOR = 1e-6",
        "VARIANCE_FLOOR = 1e-5",
        VAES | SCORES | DWP | REPORT,
    ),
    (
        "a line of the log-uniform prior",
        "dwp/priors/log_uniform.py",
        "import torch\n",
        "import torch\n\nEXTRA = 1\n",
        {"few_shot/log_uniform": 2, "kl_profile/log_uniform": 1, "kl_profile/molchanov": 1} | REPORT,
    ),
    (
        "a line of few_shot",
        "dwp/experiments/few_shot.py",
        'AXIS = "examples"\n',
        'AXIS = "examples"\nEXTRA = 1\n',
        FEW_SHOT | REPORT,
    ),
    (
        "a line of convergence, which random_features uses",
        "dwp/experiments/convergence.py",
        'AXIS = "width"\n',
        'AXIS = "width"\nEXTRA = 1\n',
        CONVERGENCE | RANDOM_FEATURES | REPORT,
    ),
    (
        "a line of the VAE over images",
        "dwp/image_vae.py",
        "VARIANCE_FLOOR = 1e-6",
        "VARIANCE_FLOOR = 1e-5",
        IMAGE_VAE | REPORT,
    ),
    ("a line of the figures", "dwp/figures/priors.py", "BOUND = ", "EXTRA = 1\nBOUND = ", REPORT),
    ("a line of the scores", "dwp/scores.py", "CODES = ", "EXTRA = 1\nCODES = ", SCORES | REPORT),
    (
        "a line of what the experiments on the KL share",
        "dwp/experiments/_kl.py",
        "OPTIONS = {",
        "EXTRA = 1\nOPTIONS = {",
        KL | REPORT,
    ),
    (
        "a comment in a script",
        "workflow/scripts/run_experiment.py",
        "import pandas",
        "# A comment.\nimport pandas",
        NOTHING,
    ),
    (
        "a line of a script",
        "workflow/scripts/run_experiment.py",
        "def main",
        "EXTRA = 1\n\n\ndef main",
        EXPERIMENTS | REPORT,
    ),
]

# (the file that is deleted, the jobs)
DELETED = [
    ("source/*/nets-004-007.csv", {"source": 1} | KERNELS | LEARNED),
    (
        "kernels/*/kernels-5x5.h5",
        KERNELS_5X5 | DWP | FILTERS | REPORT,
    ),
    ("priors/*/vae-7x7.safetensors", {"priors/vae-7x7": 1, "scores/7x7": 1} | DWP | REPORT),
    ("scores/*/scores-7x7.csv", {"scores/7x7": 1} | REPORT),
    ("few_shot/*/l2_dwp_examples-50_seeds-000-001.csv", {"few_shot/l2_dwp": 1} | REPORT),
    ("few_shot/*/l2_dwp_examples-50_seeds-000-001.manifest.json", {"few_shot/l2_dwp": 1} | REPORT),
    ("report/*/figures/few_shot.png", REPORT),
]


@pytest.fixture(scope="module")
def finished(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the finished run, times included, that tests may change if they change it back."""
    return shutil.copytree(smoke_run, tmp_path_factory.mktemp("finished") / "run", symlinks=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the code, times included, that tests may change if they change it back."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module")
def copied(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the results of the finished run, times included, and no record of Snakemake's."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(smoke_run / "results", folder / "results", symlinks=True)
    return folder


@contextlib.contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """Replace a text in a file for the time of a block; the file's times are as before."""
    text, times = path.read_text(encoding="utf-8"), path.stat()
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        yield
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def named(table: list[tuple]) -> dict:
    """Return the arguments that give each row of a table its first entry as its name."""
    return {"argvalues": table, "ids": [row[0] for row in table]}


@pytest.mark.parametrize(("change", "overlay", "expected"), **named(CONFIGURATIONS))
def test_a_changed_configuration_runs(finished, tmp_path, change, overlay, expected):
    assert dry_run(ROOT, finished, write(tmp_path, overlay)) == expected


@pytest.mark.parametrize(("change", "file", "old", "new", "expected"), **named(CODE))
def test_changed_code_runs(finished, checkout, change, file, old, new, expected):
    with edited(checkout / file, old, new):
        assert dry_run(checkout, finished) == expected
    if expected:
        assert dry_run(checkout, finished) == NOTHING


@pytest.mark.parametrize(("file", "expected"), **named(DELETED))
def test_a_deleted_file_runs(finished, tmp_path, file, expected):
    (path,) = (finished / "results").glob(file)
    aside = path.rename(tmp_path / path.name)
    try:
        assert dry_run(ROOT, finished) == expected
    finally:
        aside.rename(path)


def test_a_new_seed_is_a_new_job_and_leaves_full_shards_alone(finished, tmp_path):
    overlay = write(tmp_path, "{experiments: {few_shot: {seeds: 3}}}")
    assert dry_run(ROOT, finished, overlay) == FEW_SHOT | REPORT
    text = (finished / "dry-run.log").read_text()
    assert set(re.findall(r"method=\w+, axis=examples, setting=\d+, shard=(\S+)", text)) == {"002-002"}


# What is stale is told by the manifests, whether or not Snakemake has a record of how files were made.

BY_MANIFEST = [
    row for row in CODE if row[0] in ("a comment in the VAE", "a constant of the VAE", "a line of a script")
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
        (["--omit-from", "experiment"], VAES | SCORES),
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
        assert re.search(r"^Stale, .*: (\w+/[0-9a-f]{8}, ){5}\S+ and 7 more$", done.stdout, re.MULTILINE)
        # What uses the priors is older than they are, and so is what other code made.
        assert dry_run(checkout, run) == SCORES | DWP | REPORT
        assert dry_run(checkout, run, words=["--until", "prior"]) == NOTHING
    assert dry_run(checkout, run) == VAES | SCORES | DWP | REPORT
    # With the old files back, the manifests agree, and Snakemake's record of the other code does not count.
    shutil.copytree(copied / "results" / "priors", run / "results" / "priors", dirs_exist_ok=True)
    assert dry_run(checkout, run) == NOTHING


HALF = (
    "{priors: {standard_normal: {scale: 0.5}}, experiments: "
    "{few_shot: {examples: [20]}, kl_importance: null, kl_subset: null, kl_profile: null}}"
)


def test_after_a_change_and_its_reversal_nothing_runs(finished, tmp_path, capsys):
    smoke = str(ROOT / "config" / "smoke.yaml")
    overlay = write(tmp_path, HALF)
    done = snakemake(finished, "--until", "experiment", "--configfile", smoke, str(overlay))
    assert done.returncode == 0, done.stdout[-5000:]
    assert dry_run(ROOT, finished, overlay) == SCORES | REPORT
    assert dry_run(ROOT, finished) == NOTHING

    results = ("--directory", str(finished))
    versions = sorted((finished / "results" / "few_shot").glob("*/standard_normal_*20_*.manifest.json"))
    old, new = sorted(versions, key=lambda path: path.stat().st_mtime)
    assert dwp("diff", old.parent.name, new.parent.name, *results) == 0
    assert "params.priors.standard_normal.scale  1.0 → 0.5" in capsys.readouterr().out

    assert dwp("prune", "--configfile", smoke, "--configfile", smoke, str(overlay), *results) == 0
    assert "Nothing to delete" in capsys.readouterr().out
    assert dwp("prune", "--yes", "--configfile", smoke, *results) == 0
    assert re.search(r"Deleted .* in 1 version", capsys.readouterr().out)
    assert old.exists()
    assert not new.parent.exists()
    assert dry_run(ROOT, finished) == NOTHING
    assert dry_run(ROOT, finished, overlay) == {"few_shot/standard_normal": 1} | SCORES | REPORT


def test_a_corrupted_file_is_named(finished, capsys):
    (path,) = (finished / "results").glob("priors/*/vae-7x7.safetensors")
    content, status = path.read_bytes(), path.stat()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        assert dwp("verify", "--directory", str(finished)) == 1
        assert f"damaged: {path.relative_to(finished)}" in capsys.readouterr().out
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert dwp("verify", "--directory", str(finished)) == 0


def dwp(*words: str) -> int:
    """Run the console script; return its exit status."""
    # Not above: a dry run's process imports this file, and then `dwp` from the checkout it is about.
    from dwp.cli import main

    return main(words)


def write(folder: Path, overlay: str) -> Path:
    """Write an overlay and return its file."""
    file = folder / "overlay.yaml"
    file.write_text(overlay + "\n", encoding="utf-8")
    return file


def dry_run(
    checkout: Path, run: Path, overlay: Path | None = None, words: Sequence[str] = ()
) -> dict[str, int]:
    """Return the jobs that a dry run would run, by what they make."""
    command = [*words, "--snakefile", checkout / "Snakefile", "--directory", run, "--cores", "2", "--dry-run"]
    command += ["--configfile", checkout / "config" / "smoke.yaml", *([overlay] if overlay else [])]
    output = run / "dry-run.log"
    process = FORKS.Process(target=_snakemake, args=([str(word) for word in command], output))
    process.start()
    process.join()
    text = output.read_text(encoding="utf-8")
    assert process.exitcode == 0, text[-3000:]
    assert ("Nothing to be done" in text) != ("Job stats:" in text), text[-3000:]
    return jobs(text)


# Imports take most of a dry run's time, so each is forked from a process that has imported all but dwp.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        "snakemake.cli",
        "torch",
        "pandas",
        "h5py",
        "matplotlib.figure",
        "safetensors.torch",
        "sklearn",
        "pytest",
    ]
)


def _snakemake(command: list[str], output: Path) -> None:
    from snakemake.cli import main

    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main(command)


def jobs(text: str) -> dict[str, int]:
    """Return the jobs that a dry run printed, by what they make."""
    found = Counter()
    for block in re.split(r"\n(?=\[\w{3} \w{3}|(?:local)?rule )", text):
        rule = re.search(r"^(?:local)?rule (\w+):", block, re.MULTILINE)
        if not rule or rule[1] == "all":
            continue
        line = re.search(r"^    wildcards: (.*)$", block, re.MULTILINE)
        wildcards = dict(pair.split("=", 1) for pair in line[1].split(", ")) if line else {}
        found[LABELS[rule[1]].format(**wildcards)] += 1
    return dict(found)


LABELS = {
    "data": "data/{name}",
    "source": "source",
    "kernels": "kernels/{size}x{size}",
    "prior": "priors/{name}-{size}x{size}",
    "scores": "scores/{size}x{size}",
    "experiment": "{experiment}/{method}",
    "report": "report",
}
