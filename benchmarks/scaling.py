"""Share of the machine's peak that the library reaches, and growth of its time and memory.

    python -m benchmarks.scaling --data-root ~/data

Peak: the highest rate of a square matrix product in float32 and in bfloat16, on the threads in use.
Operations are those of the matrix products and convolutions in the network's description
(torch.utils.flop_counter, forward and backward), even if the library needs fewer.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import timing
from benchmarks.material import LR, Material, Options
from benchmarks.published import parser_of, prepare, row
from benchmarks.timing import MiB, Spread, seconds
from benchmarks.workloads import SOURCE_L2, SUBSET, VAE_BATCH, WORKLOADS
from dwp.bayes import layers
from dwp.bayes.objectives import elbo
from dwp.errors import InputError
from dwp.experiments import few_shot, source_nets
from dwp.nn.precision import choose_precision
from dwp.pipeline.environment import MEMORY
from dwp.priors.base import KLEstimator
from dwp.priors.vae import VAE
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

TITLES = (
    "## Share of the peak",
    "## Kernels in one estimate of the KL",
    "## Kernels of a VAE",
    "## Source nets, one after another",
    "## Seeds of the few-shot experiment, one after another",
    "## Threads and processes",
)


def main(words: list[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--side", type=int, default=4096, help="of the peak's matrices (default: 4096)")
    parser.add_argument(
        "--seconds", type=float, default=20, help="of each run with several processes (default: 20)"
    )
    arguments = parser.parse_args(words)
    try:
        material, header = prepare(arguments)
        print("\n".join(header))
        shares(material, arguments.repeats, arguments.side)
        kernels_of_kl(material, arguments.repeats)
        kernels_of_vae(material, arguments.repeats)
        nets(material, arguments.repeats)
        seeds(material, arguments.repeats)
        processes(material.options, arguments.seconds)
    except InputError as error:
        sys.exit(f"error: {error}")


def table(title: str, *header: str) -> None:
    """Print the title and header of a table."""
    print(f"\n{title}\n", row(header), row(["---"] * len(header)), sep="\n", flush=True)


def growth(label: int, call: Callable[[], object], units: int, repeats: int, device: torch.device) -> None:
    """Print a row: label, milliseconds per unit and in total, and peak memory of this process."""
    timing.forget_peak(device)
    took = 1e3 * median(call, repeats, device)
    peak = timing.peak(device) / MiB
    print(row([str(label), f"{took / units:.3g}", f"{took:.4g}", f"{peak:.0f}"]), flush=True)


def median(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Return the median time of a call in seconds, after one untimed call."""
    call()
    return Spread.of([seconds(call, device) for _ in range(repeats)]).median


def flops(call: Callable[[], object]) -> int:
    """Return the operations (two per multiply-add) of the matrix products and convolutions in a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def product_rate(dtype: torch.dtype, side: int, repeats: int, device: torch.device) -> float:
    """Return the operations per second of a square matrix product, the best of all turns."""
    a = torch.randn(side, side, device=device).to(dtype)
    a @ a
    return 2 * side**3 / min(seconds(lambda: a @ a, device) for _ in range(repeats))


def shares(m: Material, repeats: int, side: int) -> None:
    """Print the rates of products, and the share of them that training steps reach in their precision."""
    table(TITLES[0], "workload", "GFLOP of a unit", "GFLOP/s", "share of the product's rate")
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        rates[dtype] = product_rate(dtype, side, repeats, m.device)
        name = str(dtype).removeprefix("torch.")
        print(row([f"product of {side}×{side}, {name}", "-", f"{rates[dtype] / 1e9:.0f}", "1"]), flush=True)
    used = rates[choose_precision(m.precision, m.device)]
    for name in ("source", "vae7", "vae5", "step"):
        theirs, amount = WORKLOADS[name].baseline(m)
        each = flops(theirs) / amount
        ours, amount = WORKLOADS[name].ours(m)
        rate = each * amount / median(ours, repeats, m.device)
        unit = WORKLOADS[name].unit.removesuffix("s/s")  # images/s: one image
        title = f"{WORKLOADS[name].title}, one {unit}"
        print(row([title, f"{each / 1e9:.3g}", f"{rate / 1e9:.3g}", f"{rate / used:.2f}"]), flush=True)


GROWTH = ("ms of one", "ms of all", "peak of this process, MiB")


def kernels_of_kl(m: Material, repeats: int) -> None:
    """Print the cost of few-shot steps by the number of kernels that pass through the VAE."""
    table(TITLES[1], "kernels of each size at most", "ms a step", "ms of all steps", GROWTH[2])
    images, labels = m.target.images("train", m.device), m.target.labels("train", m.device)
    images, labels = (tensor[m.examples().to(m.device)] for tensor in (images, labels))
    total = m.sizes.target[0] * m.sizes.target[1]
    for subset in (total // 64 or 1, total // 16, total // 4, total):
        model = m.bayesian()
        trained = nn.ModuleList([model, *layers.reverse_models(model)])
        loss = elbo(model, len(labels), KLEstimator(subset))
        schedule = Schedule(lr=LR, steps=2, precision=m.precision)

        def call(trained=trained, loss=loss, schedule=schedule):
            fit(trained, loss, (images, labels), schedule, seed=m.seed)

        growth(subset, call, 2, repeats, m.device)


def kernels_of_vae(m: Material, repeats: int) -> None:
    """Print the cost of an epoch of the 5×5 VAE by the number of kernels."""
    table(TITLES[2], "kernels", "ms of one", "ms an epoch", GROWTH[2])
    schedule = {"lr": LR, "epochs": 1, "batch": VAE_BATCH, "precision": m.precision}
    for factor in (1, 2, 4):
        kernels = m.kernels(5, factor * m.sizes.kernels[5])
        settings = {**m.sizes.vaes[5], "schedule": schedule}

        def call(kernels=kernels, settings=settings):
            VAE.fit(kernels, kernels[:16], settings, seed=m.seed)

        growth(len(kernels), call, len(kernels), repeats, m.device)


def nets(m: Material, repeats: int) -> None:
    """Print the cost of a shard of source nets by their number."""
    table(TITLES[3], "nets", *GROWTH)
    settings = m.source_settings(SOURCE_L2, m.precision)
    for count in (1, 2, 4):

        def call(count=count):
            for net in range(count):
                source_nets.train_net(net, m.source, settings, m.device)

        growth(count, call, count, repeats, m.device)


def seeds(m: Material, repeats: int) -> None:
    """Print the cost of a shard of few-shot experiments (a few steps, two evaluations) by their number."""
    table(TITLES[4], "seeds", *GROWTH)
    task = m.few_shot(SUBSET)
    schedule = replace(task.settings.schedule, steps=m.sizes.subset_steps)
    task = replace(task, settings=replace(task.settings, schedule=schedule, every=m.sizes.subset_steps))
    for count in (1, 2, 4):

        def call(count=count):
            for seed in range(count):
                few_shot.run(replace(task, seed=seed))

        growth(count, call, count, repeats, m.device)


def processes(options: Options, duration: float) -> None:
    """Print the rate of workloads with more threads, and with more processes in parallel."""
    table(
        TITLES[5], "workload", "processes", "threads of each", "units/s together", "times one of one thread"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for name in ("source", "subset"):
        first = None
        for count, threads in dict.fromkeys([(1, 1), (1, min(2, cores)), (min(2, cores), 1)]):
            rate = throughput(name, count, replace(options, threads=threads), duration)
            first = first or rate
            cells = [WORKLOADS[name].title, str(count), str(threads), f"{rate:.3g}", f"{rate / first:.2f}"]
            print(row(cells), flush=True)


def throughput(name: str, count: int, options: Options, duration: float) -> float:
    """Return the units per second of several parallel processes that run a workload of the library."""
    command = [sys.executable, "-m", "benchmarks.scaling", "--process"]
    command.append(json.dumps([name, asdict(options), duration]))
    environment = os.environ | {"PYTHONPATH": str(timing.ROOT), **MEMORY}
    started = [
        subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    for process in started:  # all have warmed up before the first one starts
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"a process for {name} ended before it began")
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


def _process(name: str, options: dict, duration: float) -> None:
    call, amount = WORKLOADS[name].ours(Material(Options.from_json(options)))
    call()
    print("ready", flush=True)
    sys.stdin.readline()
    began, done = time.perf_counter(), 0.0
    while time.perf_counter() - began < duration or not done:
        call()
        done += amount
    print(done / (time.perf_counter() - began))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--process"]:
        _process(*json.loads(sys.argv[2]))
    else:
        timing.with_memory_kept(main)
