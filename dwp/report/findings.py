"""Findings of a run in words: the best method with a learned prior against the best one without."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dwp.report import aggregation
from dwp.report.results import ExperimentResults

NOTE = (
    "The intervals are not corrected for the choice of the best of several methods, which favours the larger "
    "group."
)


@dataclass(frozen=True)
class Comparison:
    """The best method with a learned prior and the best one without, at one setting.

    Attributes:
        setting: value of the experiment's axis.
        learned, other: the two methods.
        of_learned, of_other: numbers of methods of which they are the best.
        difference: mean over the seeds that both have, of `learned` minus `other`.
        half_width: of its 95 % interval; NaN with fewer than two such seeds.
        n: number of these seeds.
        verdict: 'leads', 'is behind', 'does not differ', or 'unknown' without an interval.
    """

    setting: float
    learned: str
    other: str
    of_learned: int
    of_other: int
    difference: float
    half_width: float
    n: int
    verdict: str


def means(results: ExperimentResults, setting: float) -> pd.DataFrame:
    """Return the finite means of the first metric at a setting, the best first; index method.

    Columns are those of `aggregation.summarise`, and `learned`, whether the method has a learned prior.
    """
    metric, summary = results.experiment.metrics[0], results.summary
    rows = summary[(summary["metric"] == metric.name) & (summary["setting"] == setting)]
    rows = rows[np.isfinite(rows["mean"])].set_index("method")
    rows = rows.assign(learned=rows.index.isin(list(results.learned)))
    return rows.sort_values("mean", ascending=metric.better == "lower", kind="stable")


def differences(results: ExperimentResults, setting: float, reference: str) -> pd.DataFrame:
    """Return the differences of the first metric from a method, `aggregation.paired`; index method."""
    rows, metric = results.rows, results.experiment.metrics[0].name
    rows = rows[(rows["metric"] == metric) & (rows["setting"] == setting)]
    return aggregation.paired(rows, [metric], reference).set_index("method")


def settings(results: ExperimentResults) -> list[float]:
    """Return the settings with values of the first metric, ascending."""
    rows = results.rows
    return sorted(rows.loc[rows["metric"] == results.experiment.metrics[0].name, "setting"].unique())


def compare(results: ExperimentResults, setting: float) -> Comparison | None:
    """Return the comparison at a setting; None if all methods with a finite mean are of one group."""
    table = means(results, setting)
    with_prior, without = table.index[table["learned"]], table.index[~table["learned"]]
    if not len(with_prior) or not len(without):
        return None
    learned, other = with_prior[0], without[0]
    pairs = differences(results, setting, other)
    if learned in pairs.index:
        difference, half_width, n = pairs.loc[learned, ["difference", "half_width", "n"]]
    else:
        difference, half_width, n = table["mean"][learned] - table["mean"][other], math.nan, 0
    gain = difference if results.experiment.metrics[0].better == "higher" else -difference
    if math.isnan(half_width):
        verdict = "unknown"
    elif abs(gain) <= half_width:
        verdict = "does not differ"
    else:
        verdict = "leads" if gain > 0 else "is behind"
    return Comparison(
        setting,
        learned,
        other,
        len(with_prior),
        len(without),
        float(difference),
        float(half_width),
        int(n),
        verdict,
    )


def headline(results: ExperimentResults | None) -> str:
    """Return the main finding, at the smallest setting, as a heading."""
    if results is None or not settings(results):
        return "This run compares no trained networks"
    setting = settings(results)[0]
    at, metric = _at(results, setting), results.experiment.metrics[0].label
    if (found := compare(results, setting)) is None:
        ranked = means(results, setting)
        return f"{at}, {results.method_name(ranked.index[0])} is best" if len(ranked) else "No finite result"
    size = f"by {number(abs(found.difference))} in {metric}"
    return {
        "leads": f"{at}, a learned prior leads {size}",
        "is behind": f"{at}, a learned prior is behind {size}",
        "does not differ": f"{at}, a learned prior makes no significant difference",
        "unknown": f"{at}, one seed cannot tell whether a learned prior helps",
    }[found.verdict]


def sentences(results: ExperimentResults | None) -> list[str]:
    """Return what the run found, in at most three sentences.

    They name the best method with a learned prior at the smallest setting, compare it with the best one
    without, and repeat the comparison at the largest setting.
    """
    if results is None or not settings(results):
        return ["Add an experiment that trains networks, such as few_shot, to learn whether a prior helps."]
    smallest, largest = settings(results)[0], settings(results)[-1]
    first = compare(results, smallest)
    if first is None:
        return _single_group(results, smallest)
    at, metric = _at(results, smallest), results.experiment.metrics[0].label
    table, learned = means(results, smallest), _quoted(results, first.learned)
    among = (
        f"is the best of {first.of_learned} methods" if first.of_learned > 1 else "is the only method"
    ) + " with a learned prior"
    found = [f"{at}, {learned} {among}: {metric} {spread(table.loc[first.learned])}."]
    best = f"the best of {first.of_other} methods" if first.of_other > 1 else "the only method"
    found.append(f"It {_compared(results, first, f'{best} without one')}.")
    axis = results.axis_label
    if smallest == largest:
        return [*found, f"The run has no other value of {axis} to compare at."]
    last = compare(results, largest)
    if last is None:
        return [*found, f"{_at(results, largest)}, one of the two groups has no finite result."]
    leader = _quoted(results, last.learned)
    at, value = _at(results, largest), spread(means(results, largest).loc[last.learned])
    rest = _compared(results, last, "the best without one")
    return [*found, f"{at}, {leader} is the best with a learned prior ({value}); it {rest}."]


def _single_group(results: ExperimentResults, setting: float) -> list[str]:
    table = means(results, setting)
    if not len(table):
        return ["No method has a finite result."]
    best, every = _quoted(results, table.index[0]), "Every" if table["learned"].all() else "No"
    return [
        f"{_at(results, setting)}, {best} is the best of {len(table)} "
        f"method{'s' * (len(table) != 1)}: {results.experiment.metrics[0].label} {spread(table.iloc[0])}.",
        f"{every} method with a finite result uses a learned prior, so there is nothing to compare it with.",
    ]


def _compared(results: ExperimentResults, found: Comparison, described: str) -> str:
    """Return the predicate that compares the two methods, with the interval."""
    other = means(results, found.setting).loc[found.other]
    name = f"{_quoted(results, found.other)}, {described} ({spread(other)})"
    signed = number(found.difference, sign=True)
    if found.verdict == "unknown":
        seeds = "with a single seed" if found.n == 1 else "without a seed in common"
        return (
            f"cannot be told apart from {name}: {seeds}, their difference of {signed} has no interval and "
            "may be chance"
        )
    low, high = (number(found.difference + side * found.half_width, sign=True) for side in (-1, 1))
    interval = f"paired 95 % interval {low} to {high}, {found.n} seeds"
    if found.verdict == "does not differ":
        return f"does not differ significantly from {name}: difference {signed}, {interval}"
    return f"{found.verdict} {name}: difference {signed}, {interval}"


def _quoted(results: ExperimentResults, method: str) -> str:
    return f"“{results.method_name(method)}”"


def _at(results: ExperimentResults, setting: float) -> str:
    """Return a setting as the beginning of a sentence: 'With 50 training examples', 'At width factor 1'."""
    if results.experiment.axis == "examples":
        return f"With {setting:,.0f} {results.axis_label}"
    return f"At {results.axis_label} {setting:g}"


def spread(row: pd.Series) -> str:
    """Return the mean and standard deviation over seeds of a row of `aggregation.summarise`."""
    return number(row["mean"]) + ("" if np.isnan(row["std"]) else f" ± {number(row['std'])}")


def number(value: float, *, sign: bool = False) -> str:
    """Return a value with three decimals, or in powers of ten from a million; minus signs are true ones."""
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    if abs(value) >= 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        text = f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return text.replace("-", "−")


_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
