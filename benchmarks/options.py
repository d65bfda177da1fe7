"""Options of the benchmarks: data, sizes, schedules and how long to measure."""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
import yaml

from dwp.errors import InputError
from dwp.pipeline import typed
from dwp.training.devices import choose_device
from dwp.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of all benchmarks; networks and VAEs are the paper's, with few steps."""

    data_root: str | None = None  # folder with notmnist/ and mnist/; null: embedded glyphs
    device: str = "auto"
    precision: str = "auto"  # of the library; the recipe is in float32
    threads: int = torch.get_num_threads()
    workers: int = 0  # processes of the recipe's DataLoaders
    without: str = ""  # an optimisation of the library to disable, of optimisations.py
    # Measurements
    only: tuple[str, ...] = ()  # workloads; none: all
    turns: int = 5
    seconds: float = 1.0  # of a turn, at least
    seeds: int = 5
    target: float = 0.85  # test accuracy of a source network
    dwp: tuple[str, ...] = ()  # options, NAME=VALUE, of the library alone where both sides train to a target
    product: int = 4096  # side of the matrices whose product counts as the machine's peak
    # Workloads
    seed: int = 0
    source_images: int = 10_000  # at most
    source_net: tuple[int, int] = (256, 512)  # channels
    source_batch: int = 256
    source_steps: int = 2
    source_lr: float = 0.001
    l2: float = 0.001
    kernels: tuple[int, int] = (1769, 2560)  # 7×7 and 5×5, to train the VAEs
    hidden: tuple[int, int] = (32, 64)
    latent: tuple[int, int] = (2, 4)
    vae_batch: int = 128
    vae_steps: int = 14
    priors: tuple[str, ...] = ()  # files of fitted VAEs over 7×7 and 5×5; none: untrained ones
    target_net: tuple[int, int] = (32, 128)
    examples: int = 50
    steps: int = 3  # of the few-shot network
    batch: int | None = None  # of the few-shot network; null: all examples
    lr: float = 0.001  # of the few-shot network and the VAEs
    subset: int = 256  # kernels of a layer in the library's estimate of the KL, in the workload `subset`
    members: int = 10  # of the ensemble that predicts
    test_images: int = 10_000  # at most

    @property
    def where(self) -> torch.device:
        """The device."""
        return choose_device(self.device)

    @property
    def source_schedule(self) -> Schedule:
        """The schedule of a source network."""
        return self._schedule(self.source_lr, self.source_steps, self.source_batch)

    @property
    def vae_schedule(self) -> Schedule:
        """The schedule of a VAE."""
        return self._schedule(self.lr, self.vae_steps, self.vae_batch)

    @property
    def few_shot_schedule(self) -> Schedule:
        """The schedule of the few-shot network."""
        return self._schedule(self.lr, self.steps, self.batch)

    def _schedule(self, lr: float, steps: int, batch: int | None) -> Schedule:
        return Schedule(lr=lr, steps=steps, batch=batch, precision=self.precision)

    def changed(self, words: Iterable[str]) -> "Options":
        """Return the options with some changes, NAME=VALUE with values in YAML.

        Raises:
            InputError: an option is unknown, or its value is not allowed.
        """
        pairs = (word.partition("=") for word in words)
        given = {name: yaml.safe_load(value) for name, _, value in pairs}
        return typed.parse(Options, {**asdict(self), **given}, "options")


TINY = yaml.safe_load(
    "{device: cpu, threads: 1, turns: 1, seconds: 0, seeds: 2, product: 64, source_images: 100, members: 3, "
    "source_net: [4, 8], source_batch: 16, kernels: [256, 256], hidden: [4, 4], latent: [2, 2], "
    "target_net: [4, 8], examples: 20, test_images: 60, source_steps: 2, vae_steps: 14, steps: 3, dwp: []}"
)


def read(description: str | None, words: list[str] | None = None, **defaults: object) -> Options:
    """Return the options of a command line; stop with one line if one is refused.

    Args:
        description: of the command.
        words: the command line, words NAME=VALUE with values in YAML; None: that of this process.
        defaults: of the command, where they differ from those of `Options`.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog="options and defaults:\n" + yaml.dump({**asdict(Options()), **defaults}, sort_keys=False),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("options", nargs="*", metavar="NAME=VALUE")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, which show that it works")
    arguments = parser.parse_args(words)
    try:
        options = typed.parse(Options, {**defaults, **(TINY if arguments.tiny else {})})
        return options.changed(arguments.options)
    except (InputError, yaml.YAMLError) as error:
        sys.exit(f"error: {error}")
