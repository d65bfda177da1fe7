"""Jobs that a dry run of the smoke configuration would run, and edits of code that trigger them."""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from forks import forked_snakemake

# Jobs by their output, and their number: few_shot has two settings of `examples`, random_features two widths.
# Two methods of few_shot are tuned.
TUNED_DWP = {"trials/dwp": 2, "tuning/few_shot-dwp": 1}
TUNED_L2 = {"trials/l2_xavier": 2, "tuning/few_shot-l2_xavier": 1}
TUNED = TUNED_DWP | TUNED_L2
TUNINGS = {"tuning/few_shot-dwp": 1, "tuning/few_shot-l2_xavier": 1}
TUNED_TARGETS = {"few_shot/dwp": 2, "few_shot/l2_xavier": 2}
DWP = TUNED_DWP | {
    "few_shot/dwp": 2,
    "few_shot/dwp_hmc": 2,
    "few_shot/l2_dwp": 2,
    "convergence/dwp": 1,
    "random_features/dwp": 2,
    "image_vae/dwp": 1,
    "kl_importance/dwp": 1,
    "kl_importance/dwp_samples": 1,
    "kl_subset/dwp": 1,
    "kl_profile/dwp": 1,
}
# KL experiments are around learned filters; all settings of a method are one job.
KL_FILTERS = {
    "kl_importance/standard_normal": 1,
    "kl_subset/standard_normal": 1,
    **{f"kl_profile/{name}": 1 for name in ("log_uniform", "molchanov", "standard_normal", "gaussian")},
}
FILTERS = {"convergence/filters": 1, "random_features/filters": 2, "image_vae/filters": 1} | KL_FILTERS
FEW_SHOT = {
    f"few_shot/{name}": 2
    for name in ("dwp", "dwp_hmc", "log_uniform", "standard_normal", "l2_dwp", "l2_xavier")
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
PRIORS = VAES | {f"priors/{name}-{size}": 1 for name in ("empirical", "gaussian") for size in ("7x7", "5x5")}
SCORES = {"scores/7x7": 1, "scores/5x5": 1}
KERNELS_5X5 = {"kernels/5x5": 1, "scores/5x5": 1} | {name: 1 for name in PRIORS if name.endswith("5x5")}
REPORT = {"report": 1}
LEARNED = PRIORS | SCORES | DWP | FILTERS | REPORT
NOTHING = {}


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
        "a default of the VAE",
        "dwp/priors/settings.py",
        'standard_normal", 50, ge=1)',
        'standard_normal", 60, ge=1)',
        VAES | SCORES | DWP | REPORT,
    ),
    ("a default of a prior that is not used", "dwp/priors/settings.py", "6, ge=2)", "7, ge=2)", NOTHING),
    (
        "a line of the log-uniform prior",
        "dwp/priors/log_uniform.py",
        "import torch\n",
        "import torch\n\nEXTRA = 1\n",
        {"few_shot/log_uniform": 2, "kl_profile/log_uniform": 1, "kl_profile/molchanov": 1} | REPORT,
    ),
    (
        "a line of few_shot",
        "dwp/experiments/_few_shot.py",
        "for count in (10, 20)",
        "for count in (20, 30)",
        FEW_SHOT | TUNED | REPORT,
    ),
    (
        "scales of Bayesian layers, which no other network has",
        "dwp/bayes/scales.py",
        "INITIAL_LOG_VARIANCE = -9.0",
        "INITIAL_LOG_VARIANCE = -8.0",
        FEW_SHOT | TUNED | REPORT,
    ),
    (
        "the description of a setting",
        "dwp/experiments/few_shot.py",
        "numbers of training examples",
        "how many examples",
        NOTHING,
    ),
    (
        "the title of few_shot",
        "dwp/experiments/few_shot.py",
        'title="Few-shot classification"',
        'title="Few shots"',
        REPORT,
    ),
    (
        "the label of a metric that experiments share",
        "dwp/experiments/base.py",
        '"test accuracy"',
        '"accuracy on the test set"',
        REPORT,
    ),
    (
        "a line of what experiments on initialisations share",
        "dwp/experiments/_initialised.py",
        "test_images, test_labels = ",
        "EXTRA = 1\n    test_images, test_labels = ",
        CONVERGENCE | RANDOM_FEATURES | REPORT,
    ),
    (
        "a line of the VAE over images",
        "dwp/nn/image_vae.py",
        "VARIANCE_FLOOR = 1e-6",
        "VARIANCE_FLOOR = 1e-5",
        IMAGE_VAE | REPORT,
    ),
    ("a line of the figures", "dwp/report/figures/priors.py", "BOUND = ", "EXTRA = 1\nBOUND = ", REPORT),
    ("a line of the scores", "dwp/priors/scores.py", "CODES = ", "CODES = 1 + ", SCORES | REPORT),
    (
        "a line of what the experiments on the KL share",
        "dwp/experiments/_kl.py",
        "model, chosen = ",
        "EXTRA = 1\n    model, chosen = ",
        KL | REPORT,
    ),
    (
        "a comment in a stage",
        "dwp/pipeline/stages/experiment.py",
        "import pandas",
        "# A comment.\nimport pandas",
        NOTHING,
    ),
    (
        "a line of a stage",
        "dwp/pipeline/stages/experiment.py",
        "def main",
        "EXTRA = 1\n\n\ndef main",
        EXPERIMENTS | TUNED | REPORT,
    ),
    (
        "a line of the choice among trials",
        "dwp/experiments/_tuning.py",
        "sign = -1",
        "sign = -2",
        TUNINGS | TUNED_TARGETS | REPORT,
    ),
]


@contextlib.contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    """Replace a text in a file while the block runs; the file's times do not change."""
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
    """Return the arguments of `parametrize` for a table whose first column has the names of its rows."""
    return {"argvalues": table, "ids": [row[0] for row in table]}


def dry_run(
    checkout: Path, run: Path, overlay: Path | None = None, words: Sequence[str] = ()
) -> dict[str, int]:
    """Return the jobs that a dry run would run, by their output."""
    overlays = [str(overlay)] if overlay else []
    done = forked_snakemake(run, *overlays, "--dry-run", *words, snakefile=checkout / "Snakefile")
    text = done.stdout
    assert done.returncode == 0, text[-3000:]
    assert ("Nothing to be done" in text) != ("Job stats:" in text), text[-3000:]
    return jobs(text)


def jobs(text: str) -> dict[str, int]:
    """Return the jobs that a dry run printed, by their output."""
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
    "trial": "trials/{method}",
    "tuning": "tuning/{experiment}-{method}",
    "report": "report",
}
