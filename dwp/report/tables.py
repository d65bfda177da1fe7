"""Tables of the report, each a function of the results (see `dwp.report.results`)."""

import numpy as np
import pandas as pd

from dwp.kernels import store
from dwp.report import aggregation, comparison
from dwp.report.fitted import draw, kept_step, median_norm
from dwp.report.published import COMPRESSION
from dwp.report.results import ExperimentResults, Results

SAMPLES = 4096
"""Kernels drawn from a prior to measure the norms of its samples."""


# Tables of one experiment


def summary(results: ExperimentResults) -> pd.DataFrame:
    """Return mean, std and n over seeds at the end of training; see `aggregation.summarise`."""
    return results.summary


def curves(results: ExperimentResults) -> pd.DataFrame:
    """Return mean, std and n over seeds by step; see `aggregation.curves`."""
    return results.curves


def paired(results: ExperimentResults) -> pd.DataFrame:
    """Return differences from the first method, paired by seed, where a direction is better.

    See `aggregation.paired`; metrics without a better direction are left out.
    """
    compared = [metric.name for metric in results.experiment.metrics if metric.better]
    return aggregation.paired(results.averaged, compared)


def reliability(results: ExperimentResults) -> pd.DataFrame:
    """Return the reliability diagram of each method and setting; see `aggregation.reliability`."""
    return aggregation.reliability(results.rows)


def tuning(results: ExperimentResults) -> pd.DataFrame:
    """Return the chosen settings of each tuned method and the runner-up; see `aggregation.tuned`."""
    return results.tuned


def compression(results: ExperimentResults) -> pd.DataFrame:
    """Return error and compression of each method, and published ones of the same network.

    Columns method, published, setting (NaN for published results), error, compression and
    low_precision_compression (means over seeds), n.
    """
    own = results.summary[results.summary["part"] == ""]
    means = own.pivot_table(index=["method", "setting"], columns="metric", values="mean", sort=False)
    metrics = ["error", "compression", "low_precision_compression"]
    table = means.reindex(columns=metrics).reset_index().assign(published=False)
    table["n"] = own.loc[own["metric"] == "error", "n"].max()
    others = COMPRESSION[COMPRESSION["weights"].isin(own.loc[own["metric"] == "weights", "mean"])]
    table["method"] = table["method"].map(results.method_name)
    both = [table, others.assign(published=True)] if len(others) else [table]
    return pd.concat(both, ignore_index=True)[["method", "published", "setting", *metrics, "n"]]


# Tables of the whole run


def source_nets(results: Results) -> pd.DataFrame:
    """Return rows {metric, mean, std, min, max, n} over the source networks."""
    assert results.nets is not None
    table = results.nets[["accuracy", "nll"]].agg(["mean", "std", "min", "max", "count"]).T
    return table.rename(columns={"count": "n"}).astype({"n": int}).rename_axis("metric").reset_index()


def scores(results: Results) -> pd.DataFrame:
    """Return the log densities of held-out kernels under each prior, `dwp.priors.scores.COLUMNS`."""
    assert results.scores is not None
    return results.scores


def samples(results: Results) -> pd.DataFrame:
    """Return the samples of each prior beside held-out kernels, `dwp.priors.scores.SAMPLES`."""
    assert results.samples is not None
    return results.samples


def prior_comparison(results: Results) -> pd.DataFrame:
    """Return densities, samples and uses of each prior side by side; see `comparison.table`."""
    return comparison.table(results)


def kernels(results: Results) -> pd.DataFrame:
    """Return one row for each kernel size: modes of the norms, numbers of pruned and kept kernels."""
    rows = []
    for size, path in results.stores.items():
        pruned, norms = store.pruning(path), store.kept_norms(path)
        kept = np.concatenate(list(norms.values()))
        names = ("threshold", "rule", "modes", "before", "after", "duplicates")
        rows.append(
            {"size": size}
            | {name: getattr(pruned, name) for name in names}
            | {split: len(values) for split, values in norms.items()}
            | {"median_norm": float(np.median(kept)), "smallest_kept_norm": float(kept.min())}
        )
    return pd.DataFrame(rows)


def priors(results: Results) -> pd.DataFrame:
    """Return one row for each fitted prior and size.

    Held-out metrics are those of the step that was kept, in nats per kernel (NaN if a kind does not have
    the metric): log_prob, the log density of kinds with an exact one; elbo, and its terms log_likelihood,
    E_r log p(w|z), and kl, of kinds with a lower bound. The median norms of samples and of samples
    without the last layer of noise stand beside that of the test kernels: a prior whose
    samples are much smaller has not learned its kernels.
    """
    rows = []
    for name, sizes in results.priors.items():
        for size, prior in sizes.items():
            history = results.histories[name][size]
            history = history[history["step"] <= kept_step(history)]
            kept = history.sort_values("step", kind="stable").groupby("metric")["value"].last()
            row = {"name": name, "kind": prior.kind, "size": size}
            # Other metrics of new kinds follow the usual ones.
            wanted = dict.fromkeys(["log_prob", "elbo", "log_likelihood", "kl", *kept.index])
            row |= {metric: kept.get(metric, float("nan")) for metric in wanted if "train_" not in metric}
            row["test_norm"] = median_norm(results.learned(size))
            row["sample_norm"] = median_norm(draw(prior, SAMPLES))
            row["mean_sample_norm"] = median_norm(draw(prior, SAMPLES, mean=True))
            rows.append(row)
    return pd.DataFrame(rows)
