"""Speed relative to the published recipe: one table, both sides measured in turns.

    python -m benchmarks.published --data-root ~/data --threads 2

The recipe (benchmarks/baseline.py) uses a DataLoader with a transform for each image, float32, every
kernel through the VAE in each step, and noise for each image at test. "Ours" is what the workflow runs.
Each side has its own process, with the same number of threads, and waits while the other works.
A ratio is the median over turns; the smallest and the largest are in brackets.
The whole run is computed from its parts, steps × step + evaluations × evaluation, unless --run is given.
"""

import argparse
import json
import logging
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.material import Material, Options
from benchmarks.timing import MiB, Side, Spread, in_turns, machine, seconds
from benchmarks.workloads import SUBSET, WORKLOADS, Workload, ours_run
from dwp.errors import InputError
from dwp.nn.precision import choose_precision

RUN_GOAL = 15
HEADER = ("workload", "recipe", "ours", "unit", "times", "aim", "peak memory, MiB: recipe, ours")


def main(words: list[str] | None = None) -> None:
    """Measure and print the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="turns of each workload (default: 5)")
    parser.add_argument(
        "--only", nargs="+", choices=WORKLOADS, metavar="NAME", help=f"of {', '.join(WORKLOADS)}"
    )
    parser.add_argument(
        "--run",
        choices=("all", "subset"),
        help=f"also run one whole few-shot experiment of ours, KL over all or {SUBSET} kernels",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers there")
    arguments = parser.parse_args(words)
    try:
        material, header = prepare(arguments)
        results = {"header": header, "workloads": {}}
        print("\n".join(header), "", row(HEADER), row(["---"] * len(HEADER)), sep="\n", flush=True)
        for name in arguments.only or WORKLOADS:
            result = results["workloads"][name] = measure(name, material.options, arguments.repeats)
            print(row(cells(WORKLOADS[name], result)), flush=True)
        for kernels, step in (("all", "step"), (str(SUBSET), "subset")):
            if {step, "evaluation"} <= set(results["workloads"]):
                result = results["workloads"][f"run_{step}"] = whole_run(results["workloads"], step, material)
                print(row(run_cells(kernels, result)), flush=True)
        if arguments.run:
            results["run"] = really_run(material, arguments.run)
            print(f"\n{results['run']['text']}")
    except InputError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def parser_of(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks of workloads."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-root", help="folder with mnist/ and notmnist/ in it (default: embedded digits and glyphs)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--precision", default="auto", help="of ours: auto, float32 or bfloat16 (default: auto)"
    )
    parser.add_argument("--threads", type=int, help="of PyTorch, for both sides (default: its own choice)")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes of the recipe's DataLoaders (default: 0, none)"
    )
    parser.add_argument(
        "--priors", nargs=2, default=(), metavar="FILE", help="fitted VAEs, 7×7 and 5×5 (default: untrained)"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny networks: shows that it works, in seconds")
    return parser


def prepare(arguments: argparse.Namespace) -> tuple[Material, list[str]]:
    """Return the material, and lines that describe the machine, the data and the sizes."""
    options = Options(
        data_root=arguments.data_root,
        device=arguments.device,
        precision=arguments.precision,
        threads=arguments.threads,
        workers=arguments.workers,
        priors=tuple(arguments.priors),
        tiny=arguments.tiny,
    )
    logging.getLogger("dwp").setLevel(logging.WARNING)
    if options.threads:
        torch.set_num_threads(options.threads)
    material = Material(options)
    material.load()  # so that errors appear here, not in a subprocess
    precision = choose_precision(options.precision, material.device)
    sizes = material.sizes
    images = "glyphs and digits, repeated as often as needed" if material.embedded else "notMNIST and MNIST"
    lines = [
        machine(material.device, torch.get_num_threads()),
        f"recipe in float32, {options.workers} workers; ours in {str(precision).removeprefix('torch.')}"
        f" ({options.precision})",
        f"data: {images}; kernels: random; VAEs: {'fitted' if options.priors else 'untrained'}",
        f"source net {sizes.source}, batch {sizes.source_batch}; few-shot net {sizes.target},"
        f" n = {sizes.examples}; {sizes.test_images} test images, ensemble of {sizes.members}",
    ]
    if sizes.source_batch < 256:
        lines.append("TINY SIZES: the numbers mean nothing")
    return material, lines


def measure(workload: str, options: Options, repeats: int) -> dict:
    """Time both sides of a workload in turns; return rates, seconds per unit, ratios and peak memory."""
    with Side(workload, "baseline", options) as baseline, Side(workload, "ours", options) as ours:
        times = in_turns((baseline.seconds, ours.seconds), repeats)
        memory = {"baseline": baseline.memory(), "ours": ours.memory()}
        amounts = baseline.amount, ours.amount
    each = [[value / amount for value in values] for values, amount in zip(times, amounts, strict=True)]
    return {
        "baseline": asdict(Spread.of([1 / value for value in each[0]])),
        "ours": asdict(Spread.of([1 / value for value in each[1]])),
        "ratio": asdict(Spread.of([theirs / mine for theirs, mine in zip(*each, strict=True)])),
        "seconds": {"baseline": statistics.median(each[0]), "ours": statistics.median(each[1])},
        "memory": memory,
    }


def whole_run(workloads: dict[str, dict], step: str, material: Material) -> dict:
    """Compute the time of a whole few-shot run, in seconds, from its parts."""
    steps, evaluations = material.sizes.run_steps, material.sizes.run_steps // material.sizes.run_every
    result = {"steps": steps, "evaluations": evaluations}
    for side in ("baseline", "ours"):
        result[side] = (
            steps * workloads[step]["seconds"][side] + evaluations * workloads["evaluation"]["seconds"][side]
        )
    parts = [workloads[step]["memory"], workloads["evaluation"]["memory"]]
    result["memory"] = {side: max(part[side] for part in parts) for side in ("baseline", "ours")}
    return {**result, "ratio": result["baseline"] / result["ours"]}


def really_run(material: Material, kernels: str) -> dict:
    """Run one whole few-shot experiment of the library; return seconds, last metrics and a text."""
    rows: list[dict] = []
    took = seconds(
        lambda: rows.extend(ours_run(material, None if kernels == "all" else SUBSET)), material.device
    )
    last = {entry["metric"]: entry["value"] for entry in rows}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
    text = f"really run, ours, KL over {kernels}: {took:.1f} s; at the end {shown}"
    if not material.options.priors:
        text += " (untrained VAEs: only the seconds mean something)"
    return {"kernels": kernels, "seconds": took, "metrics": last, "text": text}


def row(entries: list[str] | tuple[str, ...]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(entries)} |"


def spread(values: dict, digits: int = 3) -> str:
    """Return 'median (smallest - largest)'."""
    median, low, high = (f"{values[key]:.{digits}g}" for key in ("median", "low", "high"))
    return f"{median} ({low}-{high})"


def cells(workload: Workload, result: dict) -> list[str]:
    """Return the table cells of a workload."""
    return [
        workload.title,
        spread(result["baseline"]),
        spread(result["ours"]),
        workload.unit,
        spread(result["ratio"]),
        f"≥ {workload.goal}",
        memory_cell(result),
    ]


def run_cells(kernels: str, result: dict) -> list[str]:
    """Return the table cells of a whole run."""
    return [
        f"whole few-shot run, {result['steps']} steps, {result['evaluations']} evaluations,"
        f" KL over {kernels} kernels in ours (computed)",
        f"{result['baseline']:.4g}",
        f"{result['ours']:.4g}",
        "s",
        f"{result['ratio']:.3g}",
        f"≥ {RUN_GOAL}",
        memory_cell(result),
    ]


def memory_cell(result: dict) -> str:
    """Return peak memory, with the part above that after loading (libraries, data, priors) in brackets."""
    return ", ".join(
        f"{peak / MiB:.0f} ({(peak - start) / MiB:+.0f})"
        for peak, start in (result["memory"][side] for side in ("baseline", "ours"))
    )


if __name__ == "__main__":
    main()
