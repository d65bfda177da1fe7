"""Train a shard of source networks; reuse networks that other shards have completed."""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import pandas as pd
from safetensors import safe_open
from torch import Tensor

from dwp.data.dataset import load
from dwp.experiments import source_nets
from dwp.files import atomic_write, save_tensors
from dwp.pipeline.job import Job
from dwp.pipeline.shards import Completed, numbers
from dwp.pipeline.typed import parse

Net = tuple[dict[str, Tensor], dict[str, float]]
"""Weights, and a row {seed, accuracy, nll, seconds}."""


def main(job: Job) -> None:
    """Write the weights of a shard of networks, and their tables."""
    dataset, checkpoint = load(job.input.dataset), job.checkpoint()
    there = dict(completed_nets(job.completed_elsewhere()))
    shard = numbers(job.wildcards.shard)
    settings = parse(source_nets.SourceSettings, job.params | {"nets": len(shard), "shard": len(shard)})
    nets = {}
    for net in shard:
        if net in there:
            nets[net] = there[net]
        else:
            nets[net] = source_nets.train_net(net, dataset, settings, job.device, checkpoint)
    save(nets, job.output.nets, job.output.table, job.output.seconds)


def save(nets: dict[int, Net], weights: str | Path, table: str | Path, seconds: str | Path) -> None:
    """Write the weights of networks, named `<net>/<layer>.weight`, and their rows.

    The training times have a separate table, because they differ between runs.
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


def load_nets(paths: Iterable[str | Path], wanted: Collection[int]) -> dict[int, dict[str, Tensor]]:
    """Return the state dicts of the wanted networks in some shards, by number."""
    nets: dict[int, dict[str, Tensor]] = {}
    for path in paths:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                net, _, name = key.partition("/")
                if int(net) in wanted:
                    nets.setdefault(int(net), {})[name] = file.get_tensor(key)
    return nets


def completed_nets(shards: Iterable[Completed]) -> Iterator[tuple[int, Net]]:
    """Yield each network that other shards have completed, with its number."""
    for shard in shards:
        # Pandas' default parser can be wrong in the last digit.
        tables = [
            pd.read_csv(shard.files[suffix], sep=sep, float_precision="round_trip", index_col="net")
            for suffix, sep in (("csv", ","), ("seconds.tsv", "\t"))
        ]
        rows = pd.concat(tables, axis=1).astype({"seed": object}).to_dict("index")
        weights = load_nets([shard.files["safetensors"]], shard.numbers)
        yield from ((net, (state, rows[net])) for net, state in weights.items())
