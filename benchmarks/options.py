"""Options of the benchmarks: data, sizes, schedules and how long to measure."""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import yaml

from dwp.errors import InputError
from dwp.pipeline import typed
from dwp.training.devices import choose_device
from dwp.training.schedule import Schedule

Name = Literal["source", "vae7", "vae5", "step", "subset", "evaluation"]
ARCHITECTURES = ("vgg11", "squeezenet1_1", "resnet18", "densenet121", "mobilenet_v2", "regnet_y_400mf")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of all benchmarks; networks and VAEs are the paper's, with few steps."""

    data_root: str | None = None  # folder with notmnist/ and mnist/; null: embedded glyphs
    device: str = "auto"
    precision: str = "auto"  # of the library; the recipe is in float32
    threads: int = torch.get_num_threads()
    workers: int = 0  # processes of the recipe's DataLoaders
    without: str = "nothing"  # an optimisation of the library to disable, see optimisations.py
    # Measurements
    only: tuple[Name, ...] = ()  # workloads; none: all
    turns: int = 5
    seconds: float = 1.0  # of a turn, at least
    seeds: int = 5
    product: int = 4096  # side of the matrices whose product counts as the machine's peak
    # Single commands
    dwp: tuple[str, ...] = ()  # quality: options, NAME=VALUE, of the library alone
    cells: int = 2000  # startup: seeds of few_shot, times methods and settings
    shard: int = 1  # startup: seeds in one job
    collected: tuple[int, ...] = (1_000_000, 10_000_000, 100_000_000)  # memory: numbers of kernels
    architectures: tuple[str, ...] = ARCHITECTURES  # activation_variance: of torchvision
    draws: int = 3  # activation_variance: of the weights
    figure: str = "activation-variance.png"  # activation_variance
    # Workloads
    seed: int = 0
    source_net: tuple[int, int] = (256, 512)  # channels
    source_images: int = 10_000  # at most
    source_batch: int = 256
    source_steps: int = 2
    source_lr: float = 0.001
    source_l2: float = 0.001
    source_accuracy: float = 0.85  # quality: the target
    vae_hidden: tuple[int, int] = (32, 64)  # of 7×7 and 5×5
    vae_latent: tuple[int, int] = (2, 4)
    vae_kernels: tuple[int, int] = (1769, 2560)
    vae_batch: int = 128
    vae_steps: int = 14
    vae_lr: float = 0.001
    target_net: tuple[int, int] = (32, 128)
    target_examples: int = 50
    target_priors: tuple[str, ...] = ()  # files of VAEs over 7×7 and 5×5 kernels; none: untrained ones
    target_batch: int | None = None  # null: all examples
    target_steps: int = 3
    target_lr: float = 0.001
    target_subset: int = 256  # kernels of a layer in the library's estimate of the KL, in workload `subset`
    target_members: int = 10  # of the ensemble that predicts
    target_images: int = 10_000  # test images, at most

    @property
    def where(self) -> torch.device:
        """The device."""
        return choose_device(self.device)

    def schedule(self, what: str) -> Schedule:
        """Return the schedule of source, vae or target (the few-shot network)."""
        given = {name: getattr(self, f"{what}_{name}") for name in ("lr", "steps", "batch")}
        return Schedule(**given, precision=self.precision)

    def changed(self, words: Iterable[str]) -> "Options":
        """Return the options with changes, NAME=VALUE in YAML; InputError if one is not allowed."""
        given = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in words)}
        return typed.parse(Options, {**asdict(self), **given}, "options")


TINY = (
    "device=cpu threads=1 turns=1 seconds=0 seeds=2 product=64 source_net=[4,8] source_images=100 "
    "source_batch=16 source_steps=3 vae_hidden=[4,4] vae_latent=[2,2] vae_kernels=[256,256] "
    "vae_steps=14 target_net=[4,8] target_examples=20 target_steps=3 target_members=3 target_images=60 dwp=[]"
)


def read(description: str | None, words: list[str] | None, defaults: str = "") -> Options:
    """Return the options of a command line of words NAME=VALUE; stop with one line if one is refused."""
    options = Options().changed(defaults.split())
    defaults_as_text = "".join(f"  {name}={json.dumps(value)}\n" for name, value in asdict(options).items())
    parser = argparse.ArgumentParser(
        description=description,
        epilog="options, see benchmarks/options.py, and their defaults:\n" + defaults_as_text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("options", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, which show that it works")
    arguments = parser.parse_args(words)
    try:
        return options.changed([*(TINY.split() if arguments.tiny else ()), *arguments.options])
    except (InputError, yaml.YAMLError) as error:
        sys.exit(f"error: {error}")
