"""Sizes, data, networks and priors of the workloads, the same for the library and the recipe."""

import functools
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dwp import data
from dwp.bayes import layers
from dwp.data.dataset import Dataset
from dwp.errors import InputError
from dwp.experiments import few_shot
from dwp.experiments.base import Init
from dwp.experiments.source_nets import SourceSettings
from dwp.experiments.task import Task
from dwp.nn import convnet
from dwp.nn.spec import Conv, Network
from dwp.priors.base import Prior, load_prior
from dwp.priors.vae import VAE
from dwp.training.devices import choose_device
from dwp.training.schedule import Schedule

LR = 1e-3


@dataclass(frozen=True)
class Sizes:
    """Sizes of the workloads; the defaults are the paper's."""

    source: tuple[int, int] = (256, 512)
    source_batch: int = 256
    source_steps: int = 2
    source_test_images: int = 1  # not needed for speed
    vaes: dict[int, dict] = field(
        default_factory=lambda: {7: {"hidden": 32, "latent": 2}, 5: {"hidden": 64, "latent": 4}}
    )
    kernels: dict[int, int] = field(default_factory=lambda: {7: 1769, 5: 2560})
    target: tuple[int, int] = (32, 128)
    examples: int = 50
    steps: int = 3
    subset_steps: int = 20
    test_images: int = 10_000
    members: int = 10
    run_steps: int = 10_000
    run_every: int = 100


TINY = Sizes(
    source=(4, 8),
    source_batch=16,
    vaes={7: {"hidden": 4, "latent": 2}, 5: {"hidden": 4, "latent": 2}},
    kernels={7: 256, 5: 256},
    target=(4, 8),
    examples=20,
    subset_steps=3,
    test_images=60,
    members=3,
    run_steps=6,
    run_every=3,
)


@dataclass(frozen=True)
class Options:
    """Options of the command line: data, device, threads and sizes."""

    data_root: str | None = None
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    workers: int = 0
    priors: tuple[str, ...] = ()
    tiny: bool = False
    seed: int = 0
    keep_memory: bool = True

    @classmethod
    def from_json(cls, fields: dict) -> "Options":
        """Return options from the JSON of `dataclasses.asdict`; set the number of threads."""
        options = cls(**{**fields, "priors": tuple(fields["priors"])})
        if options.threads:
            torch.set_num_threads(options.threads)
        return options


class Material:
    """Data, networks and priors for the workloads, made at first access."""

    build = staticmethod(convnet.build)

    def __init__(self, options: Options) -> None:
        self.options = options
        self.sizes = TINY if options.tiny else Sizes()
        self.device = choose_device(options.device)
        self.precision = options.precision
        self.seed = options.seed
        self.embedded = options.data_root is None

    @functools.cached_property
    def source(self) -> Dataset:
        """The source data set: notMNIST, or glyphs."""
        return self._build("glyphs" if self.embedded else "notmnist", test=self.sizes.source_test_images)

    @functools.cached_property
    def target(self) -> Dataset:
        """The target data set: MNIST, or digits, with as many test images as are evaluated."""
        return self._build("digits" if self.embedded else "mnist", test=self.sizes.test_images)

    def _build(self, name: str, test: int) -> Dataset:
        root, options = self.options.data_root, None
        if root is not None and not Path(root, name).is_dir():
            raise InputError(f"--data-root: {root} has no folder {name}; give both notmnist and mnist")
        train = self.sizes.source_batch * self.sizes.source_steps
        if name == "glyphs":
            options = {"train": 1_000, "test": max(10, test)}
        # Images are repeated if there are fewer than the sizes require.
        built = data.build(name, data_root=root, downloads="results/downloads", options=options)
        rows = {
            "train": torch.arange(max(train, len(built.train_labels))) % len(built.train_labels),
            "test": torch.arange(test) % len(built.test_labels),
        }
        return Dataset(
            built.name,
            *(tensor[rows["train"]] for tensor in (built.train_images, built.train_labels)),
            *(tensor[rows["test"]] for tensor in (built.test_images, built.test_labels)),
        )

    def kernels(self, size: int, n: int) -> Tensor:
        """Return smooth random kernels of norm about one, [n, 1, k, k]; no timing depends on their values."""
        generator = torch.Generator().manual_seed(self.seed)
        coarse = torch.randn(n, 1, 3, 3, generator=generator)
        return nn.functional.interpolate(coarse, size, mode="bicubic").div_(size).to(self.device)

    @functools.cached_property
    def priors(self) -> dict[int, Prior]:
        """The VAEs of the few-shot network, frozen: fitted ones from files, or untrained ones."""
        if self.options.priors:
            found = {prior.kernel_size: prior for prior in map(load_prior, self.options.priors)}
            if set(found) != {5, 7} or not all(isinstance(prior, VAE) for prior in found.values()):
                raise InputError("--priors: give two VAEs, one over 7×7 and one over 5×5 kernels")
            return found
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return {
                size: VAE(size, **settings).requires_grad_(False)
                for size, settings in self.sizes.vaes.items()
            }

    def load(self) -> None:
        """Load data and priors now."""
        _ = self.source, self.target, self.priors

    def source_settings(self, l2: float, precision: str) -> SourceSettings:
        """Return the settings with which the workflow would train a source network."""
        steps, batch = self.sizes.source_steps, self.sizes.source_batch
        schedule = Schedule(lr=LR, steps=steps, batch=batch, precision=precision)
        return SourceSettings(nets=1, shard=1, network=network(*self.sizes.source), l2=l2, schedule=schedule)

    def few_shot(self, subset: int | None) -> Task:
        """Return the few-shot experiment as the workflow would run it."""
        sizes = self.sizes
        method = few_shot.Method(posterior="additive", prior="vae", init=Init(origin="vae", draw="mean"))
        settings = few_shot.Settings(
            seeds=1,
            shard=1,
            methods={"dwp": method},
            network=network(*sizes.target),
            schedule=Schedule(lr=LR, steps=sizes.run_steps, precision=self.precision),
            every=sizes.run_every,
            examples=(sizes.examples,),
            ensemble=sizes.members,
            kernel_subset=subset,
            posterior_samples=1,
            importance_samples=1,
            train_reverse_model=True,
            outliers=False,
        )
        return Task(
            setting=sizes.examples,
            seed=self.seed,
            settings=settings,
            method=method,
            dataset=self.target,
            priors={"vae": self.priors},
            device=self.device,
            label="few_shot",
        )

    def bayesian(self) -> nn.Module:
        """Return the few-shot network with its own copies of the priors, as `few_shot.run` makes it."""
        return layers.make_bayesian(
            self.few_shot(None).build_initialised(build=self.build), self.priors, "additive"
        )

    def examples(self) -> Tensor:
        """Return the indices of the few training examples."""
        return data.few_shot(self.target.train_labels, self.sizes.examples, self.seed)


def network(first: int, second: int) -> Network:
    """Return the paper's network for grey images of 28×28."""
    layers = Conv(conv=first, kernel=7, pool=2), Conv(conv=second, kernel=5, pool=2)
    return Network(layers=layers, batch_norm=False)
