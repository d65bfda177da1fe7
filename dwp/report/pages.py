"""Pages of the report: HTML tables, each a function of the results."""

from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from dwp.report.results import ExperimentResults, Results

_TEMPLATE = jinja2.Environment(
    autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
).from_string(
    """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ title }}</title>
<style>
body { font: 15px sans-serif; margin: 2em }
h1 { font-size: 1.3em }
h2 { font-size: 1.05em }
small { font-weight: normal; color: #555 }
table { border-collapse: collapse }
th, td { padding: .3em .9em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child { text-align: left }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for section in sections %}
{% if section.heading %}
<h2>{{ section.heading }} <small>{{ section.note }}</small></h2>
{% endif %}
<table>
<thead>
<tr><th></th>{% for column in section.table.columns %}<th>{{ column }}</th>{% endfor %}</tr>
</thead>
<tbody>
{% for row in section.table.itertuples() %}
<tr><th>{{ row[0] }}</th>{% for cell in row[1:] %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
{% endfor %}
<p>{{ footnote }}</p>
</body>
</html>
"""
)
NONE = "–"


def experiment(results: ExperimentResults) -> str:
    """Return a page with a table for each metric at the end of training, methods by settings.

    In brackets: the means that the paper published for the same data sets.
    """
    summary, published = results.summary, results.published
    final = published[published["step"].isna()]
    paper = {(row.metric, row.method, row.setting): row.value for row in final.itertuples()}
    sections = []
    tables = dict(iter(summary.groupby(["metric", "part"], sort=False)))
    for name, part in sorted(tables, key=lambda key: results.metric_names.index(key[0])):
        metric, values = results.experiment.metric(name), tables[name, part]
        values = values.assign(text=[_mean(row, paper) for row in values.itertuples()])
        table = values.pivot(index="method", columns="setting", values="text")
        table = table.reindex(values["method"].unique()).fillna(NONE)
        table.columns = [f"{setting:g}" for setting in table.columns]
        better = f"{metric.better} is better" if metric.better else ""
        note = ", ".join(filter(None, (name, part, better)))
        sections.append({"heading": metric.title(part), "note": f"({note})", "table": table})
    if len(results.trials):
        sections.append(_tuned(results))
    seeds = sorted(set(summary["n"]))
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}" if seeds else "0"
    footnote = f"Columns: {results.axis_label}. Mean ± standard deviation over {count} seeds"
    footnote += "; in brackets the paper's mean." if paper else "."
    return _TEMPLATE.render(title=results.title, sections=sections, footnote=footnote)


def _tuned(results: ExperimentResults) -> dict[str, Any]:
    """Return the section with the chosen settings of each method, and the runner-up."""
    rows = results.tuned
    metric = results.experiment.metric(rows["metric"].iloc[0])
    columns = {
        "trials": [
            f"{row.trials}" + (f" of {row.combinations}" if row.combinations > row.trials else "")
            for row in rows.itertuples()
        ],
        "settings": rows["settings"],
        metric.name: [_with_error(row.mean, row.standard_error) for row in rows.itertuples()],
        "runner-up": rows["runner_up"].replace("", NONE),
        f"its {metric.name}": [
            _with_error(row.runner_up_mean, row.runner_up_standard_error) for row in rows.itertuples()
        ],
    }
    table = pd.DataFrame(columns).set_index(rows["method"])
    others = [method for method in results.rows["method"].unique() if method not in set(rows["method"])]
    note = "chosen on tasks made from the source data, mean ± standard error over tasks"
    note += f"; as configured: {', '.join(others)}" if others else ""
    return {"heading": "Tuned settings", "note": f"({note})", "table": table}


def _with_error(mean: float, error: float) -> str:
    if np.isnan(mean):
        return NONE
    return _number(mean) + ("" if np.isnan(error) else f" ± {_number(error)}")


def scores(results: Results) -> str:
    """Return a page with the mean log density of held-out kernels: priors and K by kernel size."""
    rows = results.scores
    assert rows is not None
    text = [
        f"{'' if row.exact else '≥ '}{row.mean:.2f}"
        + ("" if np.isnan(row.standard_error) else f" ± {row.standard_error:.2f}")
        for row in rows.itertuples()
    ]
    label = [f"{row.prior}" + ("" if row.exact else f", K = {row.samples:,}") for row in rows.itertuples()]
    cells = rows.assign(text=text, label=label)
    table = cells.pivot(index="label", columns="size", values="text").fillna(NONE)
    table = table.reindex(index=cells["label"].unique(), columns=cells["size"].unique())
    table.columns = [f"{size}×{size}" for size in table.columns]
    kernels = ", ".join(
        f"{n:,} of {size}×{size}" for size, n in rows.groupby("size")["kernels"].first().items()
    )
    footnote = (
        f"log p(w) in nats per kernel, mean ± standard error over the same held-out kernels ({kernels}). "
        "≥ marks lower bounds, importance-weighted with K samples, which grow with K towards log p(w)."
    )
    title = "Held-out kernels under each prior"
    return _TEMPLATE.render(title=title, sections=[{"table": table}], footnote=footnote)


def _mean(row: Any, paper: Mapping[tuple[str, str, float], float]) -> str:
    spread = "" if np.isnan(row.std) else f" ± {_number(row.std)}"
    value = paper.get((row.metric, row.method, row.setting))
    return f"{_number(row.mean)}{spread}" + ("" if value is None else f" ({value:.3f})")


def _number(value: float) -> str:
    # Operations are counted in billions.
    return f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3e}"
