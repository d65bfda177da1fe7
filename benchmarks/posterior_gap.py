"""Variational inference against Hamiltonian Monte Carlo, in a small network under the same prior.

    python -m benchmarks.posterior_gap --priors {gaussian,vae}-7x7.safetensors {gaussian,vae}-5x5.safetensors

A network of some 1,000 weights without biases learns from a few labelled images of 22×22. Its kernels have
a fitted prior, or a normal of the same mean square (`standard_normal`); its classifier has a normal.
Approximations of the posterior are compared by test accuracy and NLL on the same splits. Pyro samples from
the posterior (`pip install pyro-ppl`). With `--rows`, an interrupted run continues.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from scipy import stats

from benchmarks.posteriors import HMC, SIZES, Problem, mean_square
from benchmarks.published import row
from dwp.errors import InputError
from dwp.priors.base import Prior, load_prior
from dwp.priors.standard_normal import StandardNormal

NORMAL = "standard_normal"
CELL = ("split", "prior", "method")


def main(words: list[str] | None = None) -> None:
    """Measure every cell and print the tables."""
    arguments = parser().parse_args(words)
    torch.set_num_threads(arguments.threads)
    rows = []
    if arguments.rows and arguments.rows.exists():
        rows = [json.loads(line) for line in arguments.rows.read_text().splitlines()]
    try:
        priors = load(arguments.priors)
        for split in arguments.splits:
            for name in arguments.only or priors:
                measured = {one["method"] for one in rows if (one["split"], one["prior"]) == (split, name)}
                for found in Problem(arguments, split, priors[name]).results(measured):
                    rows.append({"split": split, "prior": name, **found})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                    if arguments.rows:
                        with arguments.rows.open("a") as file:
                            print(json.dumps(rows[-1]), file=file)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(table(rows), differences(rows), sep="\n\n")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    found.add_argument("--priors", nargs="+", required=True, help="files <name>-<k>x<k>.safetensors")
    found.add_argument("--only", nargs="+", help="names of priors (default: all of them)")
    found.add_argument("--methods", nargs="+", help="names as in the table (default: all of them)")
    found.add_argument("--rows", type=Path, help="file of JSON lines to which results are added")
    found.add_argument("--splits", type=int, nargs="+", default=range(5), help="default: 0 1 2 3 4")
    found.add_argument("--examples", type=int, default=50)
    found.add_argument("--test-images", type=int, default=1000)
    found.add_argument("--channels", type=int, nargs=2, default=(4, 6))
    found.add_argument("--classifier-scale", type=float, default=1.0, help="standard deviation of its prior")
    found.add_argument("--steps", type=int, default=300, help="of variational inference and MAP")
    found.add_argument("--members", type=int, default=5, help="networks in the ensemble")
    found.add_argument("--chains", type=int, default=4, help="half of them start from the mean field")
    found.add_argument("--warmup", type=int, default=30, help="iterations per chain to adapt the step")
    found.add_argument("--samples", type=int, default=40, help="iterations per chain after these")
    found.add_argument("--threads", type=int, default=1)
    return found


def load(files: list[str]) -> dict[str, dict[int, Prior]]:
    """Return priors by name and kernel size, with a normal that has the mean square of the first ones."""
    priors: dict[str, dict[int, Prior]] = {}
    for file in files:
        prior = load_prior(file)
        priors.setdefault(Path(file).name.rpartition("-")[0], {})[prior.kernel_size] = prior
    for name, found in priors.items():
        if set(found) != set(SIZES.values()):
            raise InputError(f"--priors: {name} has kernel sizes {sorted(found)}; give 5 and 7 of each prior")
    first = next(iter(priors.values()))
    priors[NORMAL] = {size: StandardNormal(size, mean_square(prior) ** 0.5) for size, prior in first.items()}
    return priors


def table(rows: list[dict]) -> str:
    """Return a table of the means over the splits, by prior and method."""
    keys = [key for key in dict.fromkeys(k for one in rows for k in one) if key not in CELL]
    lines = [row(["prior", "method", "splits", *keys]), row(["---"] * (3 + len(keys)))]
    for prior, method in dict.fromkeys((one["prior"], one["method"]) for one in rows):
        found = [one for one in rows if (one["prior"], one["method"]) == (prior, method)]
        means = (
            f"{sum(one[key] for one in found) / len(found):.3f}" if key in found[0] else "" for key in keys
        )
        lines.append(row([prior, method, str(len(found)), *means]))
    return "\n".join(lines)


def differences(rows: list[dict]) -> str:
    """Return a table of paired differences: methods minus HMC, and priors minus the normal."""
    by = {(one["prior"], one["method"], one["split"]): one for one in rows}
    cells = list(dict.fromkeys((prior, method) for prior, method, _ in by))
    pairs = [((prior, method), (prior, HMC)) for prior, method in cells if method != HMC]
    pairs += [((prior, method), (NORMAL, method)) for prior, method in cells if prior != NORMAL]
    lines = [row(["A", "B", "splits", "accuracy, A - B", "NLL, A - B"]), row(["---"] * 5)]
    for a, b in pairs:
        splits = [split for prior, method, split in by if (prior, method) == a and (*b, split) in by]
        if len(splits) > 1:
            found = [
                interval([by[(*a, split)][key] - by[(*b, split)][key] for split in splits])
                for key in ("accuracy", "nll")
            ]
            lines.append(row([", ".join(a), ", ".join(b), str(len(splits)), *found]))
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    """Return mean and 95 % confidence interval by Student's t."""
    tensor = torch.tensor(values, dtype=torch.float64)
    half = stats.t.ppf(0.975, len(values) - 1) * tensor.std().item() / len(values) ** 0.5
    mean = tensor.mean().item()
    return f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"


if __name__ == "__main__":
    main()
