"""Train a shard of source networks, taking over those that other shards have completed."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
from torch import Tensor

from dwp.data.dataset import load
from dwp.experiments import source_nets
from dwp.files import atomic_write, save_tensors
from dwp.pipeline.job import Job
from dwp.pipeline.shards import Completed, numbers

Net = tuple[dict[str, Tensor], dict[str, float]]
"""Weights, and a row {seed, accuracy, nll, seconds}."""


def main(job: Job) -> None:
    """Make the weights of the networks of a shard, and their tables."""
    dataset, checkpoint = load(job.input.dataset), job.checkpoint()
    there = dict(completed_nets(job.completed_elsewhere()))
    nets = {}
    for net in numbers(job.wildcards.shard):
        if net in there:
            nets[net] = there[net]
        else:
            nets[net] = source_nets.train_net(net, dataset, job.params, job.device, checkpoint)
    save(nets, job.output.nets, job.output.table, job.output.seconds)


def save(nets: dict[int, Net], weights: str | Path, table: str | Path, seconds: str | Path) -> None:
    """Write the weights of nets, named `<net>/<layer>.weight`, and their rows.

    The seconds that each took are a table of their own, as they are never twice the same.
    """
    save_tensors(
        {f"{net}/{name}": tensor for net, (state, _) in nets.items() for name, tensor in state.items()},
        weights,
    )
    rows = pd.DataFrame([{"net": net, **row} for net, (_, row) in nets.items()])
    with atomic_write(table) as temporary:
        rows.drop(columns="seconds").to_csv(temporary, index=False)
    with atomic_write(seconds) as temporary:
        rows[["net", "seconds"]].to_csv(temporary, index=False, sep="\t")


def completed_nets(shards: Iterable[Completed]) -> Iterator[tuple[int, Net]]:
    """Yield the nets that other shards have completed, by number."""
    for shard in shards:
        # Pandas' quick parser may be wrong in the last digit.
        tables = [
            pd.read_csv(shard.files[suffix], sep=sep, float_precision="round_trip", index_col="net")
            for suffix, sep in (("csv", ","), ("seconds.tsv", "\t"))
        ]
        rows = pd.concat(tables, axis=1).astype({"seed": object}).to_dict("index")
        weights = source_nets.load_nets([shard.files["safetensors"]], shard.numbers)
        yield from ((net, (state, rows[net])) for net, state in weights.items())
