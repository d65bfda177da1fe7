"""Jobs that a change reruns: each row of the table is a promise of docs/workflow.md."""

import os
import re
from pathlib import Path

import pytest
from conftest import ROOT, snakemake
from dry_runs import (
    CODE,
    DWP,
    EXPERIMENTS,
    FEW_SHOT,
    FILTERS,
    KERNELS,
    KERNELS_5X5,
    KL_PROFILE,
    KL_SUBSET,
    LEARNED,
    NOTHING,
    REPORT,
    SCORES,
    TUNED,
    TUNED_L2,
    TUNED_TARGETS,
    TUNINGS,
    VAES,
    dry_run,
    edited,
    named,
)

from dwp.results.cli import main


def one_more(parts: dict[str, int], by: int = 1) -> dict[str, int]:
    """Return the parts with `by` jobs each."""
    return dict.fromkeys(parts, by)


def without_dwp(parts: dict[str, int]) -> dict[str, int]:
    """Return the parts without the deep weight prior, whose learning rate is tuned."""
    return {name: jobs for name, jobs in parts.items() if not name.endswith("/dwp")}


TRIALS = {name: jobs for name, jobs in TUNED.items() if name.startswith("trials/")}

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
        one_more(FEW_SHOT, 4) | one_more(TRIALS, 4) | TUNINGS | REPORT,
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
        "{priors: {heavy: {kind: student_t}}}",
        {"priors/student_t-7x7": 1, "priors/student_t-5x5": 1} | SCORES | REPORT,
    ),
    (
        "a new fitted prior of one size",
        "{priors: {heavy: {kind: student_t, sizes: {5x5: {}}}}}",
        {"priors/student_t-5x5": 1, "scores/5x5": 1} | REPORT,
    ),
    ("a second name of a fitted prior", "{priors: {gauss: {kind: gaussian}}}", REPORT),
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
        "{experiments: {few_shot: {methods: {l2_dwp: {l2: 0.01}}}}}",
        {"few_shot/l2_dwp": 2} | REPORT,
    ),
    (
        "the learning rate of few_shot",
        "{experiments: {few_shot: {schedule: {lr: 0.002}}}}",
        without_dwp(FEW_SHOT) | TUNED_L2 | REPORT,
    ),
    (
        "steps of few_shot, which one method overrides",
        "{experiments: {few_shot: {schedule: {steps: 21}}}}",
        {name: jobs for name, jobs in FEW_SHOT.items() if name != "few_shot/dwp_hmc"} | TUNED | REPORT,
    ),
    (
        "a tuned method's own value of a setting in its space",
        "{experiments: {few_shot: {methods: {l2_xavier: {l2: 0.1}}}}}",
        NOTHING,
    ),
    (
        "another setting of a tuned method",
        "{experiments: {few_shot: {methods: {l2_xavier: {init: {from: he}}}}}}",
        {"few_shot/l2_xavier": 2} | TUNED_L2 | REPORT,
    ),
    (
        "a value of a space",
        "{experiments: {few_shot: {methods: {dwp: {space: {lr: [0.0005, 0.002]}}}}}}",
        {"trials/dwp": 1, "tuning/few_shot-dwp": 1, "few_shot/dwp": 2} | REPORT,
    ),
    (
        "one more trial of each method whose space has it",
        "{experiments: {few_shot: {tuning: {trials: 3}}}}",
        {"trials/l2_xavier": 1, "tuning/few_shot-l2_xavier": 1, "few_shot/l2_xavier": 2} | REPORT,
    ),
    (
        "one more seed of the trials",
        "{experiments: {few_shot: {tuning: {seeds: 3}}}}",
        TUNED | TUNED_TARGETS | REPORT,
    ),
    (
        "the metric of the choice",
        "{experiments: {few_shot: {tuning: {metric: accuracy}}}}",
        TUNINGS | TUNED_TARGETS | REPORT,
    ),
    ("the data of the trials", "{data: {tuning: null}}", TUNED | TUNED_TARGETS | REPORT),
    (
        "no tuning",
        "{experiments: {few_shot: {tuning: null, methods: {dwp: {space: null}, l2_xavier: {space: null}}}}}",
        TUNED_TARGETS | REPORT,
    ),
    ("an experiment without", "{experiments: {random_features: null}}", REPORT),
    ("the style of the figures", "{report: {dpi: 100}}", REPORT),
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
    ("tuning/*/few_shot-l2_xavier.json", {"tuning/few_shot-l2_xavier": 1, "few_shot/l2_xavier": 2} | REPORT),
    ("report/*/figures/few_shot.png", REPORT),
]


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
    text = (finished / "snakemake.log").read_text()
    assert set(re.findall(r"method=\w+, axis=examples, setting=\d+, shard=(\S+)", text)) == {"002-002"}


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
    assert "params.priors.standard_normal.scale  (absent) → 0.5" in capsys.readouterr().out

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
    return main(words)


def write(folder: Path, overlay: str) -> Path:
    """Write an overlay and return its file."""
    file = folder / "overlay.yaml"
    file.write_text(overlay + "\n", encoding="utf-8")
    return file
