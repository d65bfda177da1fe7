"""Data, priors and networks of the workloads, and copies of the library's weights for the recipe."""

import functools
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import recipe
from benchmarks.options import Options
from dwp import data, load_prior
from dwp.bayes import layers
from dwp.data.dataset import Dataset
from dwp.errors import InputError
from dwp.initialisation import build_initialised
from dwp.nn import convnet
from dwp.nn.seeding import seeded
from dwp.nn.spec import Conv, Network
from dwp.priors.base import save_prior
from dwp.priors.vae import VAE

HELD_OUT = 1000  # kernels

build = convnet.build  # replaced where an optimisation is disabled


@functools.cache
def dataset(name: str, root: str | None, train: int, test: int) -> Dataset:
    """Return a data set with at most so many images."""
    if root is not None and not Path(root, name).is_dir():
        raise InputError(f"data_root: {root} has no folder {name}; give both notmnist and mnist")
    options = {"train": train, "test": max(10, test)} if root is None else None
    found = data.build(name, data_root=root, downloads="results/downloads", options=options)
    return Dataset(
        name,
        *(tensor[:train] for tensor in (found.train_images, found.train_labels)),
        *(tensor[:test] for tensor in (found.test_images, found.test_labels)),
    )


def source(options: Options) -> Dataset:
    """Return the source data set: notMNIST, or glyphs."""
    name = "notmnist" if options.data_root else "glyphs"
    return dataset(name, options.data_root, options.source_images, min(1000, options.test_images))


def target(options: Options) -> Dataset:
    """Return the target data set: MNIST, or other glyphs, from which the examples are drawn."""
    name, train = ("mnist", 60_000) if options.data_root else ("glyphs-k-t", 2 * options.examples + 100)
    return dataset(name, options.data_root, train, options.test_images)


def examples(options: Options) -> Tensor:
    """Return the indices of the few training examples."""
    return data.few_shot(target(options).train_labels, options.examples, options.seed)


def kernels(options: Options, size: int) -> tuple[Tensor, Tensor]:
    """Return training and held-out kernels [n, 1, k, k], drawn from a prior of the collection."""
    n = options.kernels[size == 5]
    generator = torch.Generator().manual_seed(options.seed)
    prior = load_prior(f"{'notmnist' if options.data_root else 'glyphs'}-{size}x{size}")
    drawn = prior.sample(n + HELD_OUT, generator).to(options.where)
    return drawn[:n], drawn[n:]


def vae(options: Options, size: int) -> VAE:
    """Return a VAE before training."""
    with seeded(options.seed):
        return VAE(size, hidden=options.hidden[size == 5], latent=options.latent[size == 5])


def priors(options: Options) -> dict[int, VAE]:
    """Return the VAEs of the few-shot network by kernel size: fitted ones from files, or untrained ones."""
    if not options.priors:
        return {size: vae(options, size).requires_grad_(False) for size in (7, 5)}
    found = {prior.kernel_size: prior for prior in map(load_prior, options.priors)}
    if set(found) != {5, 7} or not all(isinstance(prior, VAE) for prior in found.values()):
        raise InputError("priors: give two VAEs, one over 7×7 and one over 5×5 kernels")
    return found


def fitted_priors(options: Options, folder: str) -> tuple[str, ...]:
    """Fit both VAEs by the library; return their files in a folder."""
    files = []
    for size in (7, 5):
        files.append(str(Path(folder, f"vae-{size}x{size}.safetensors")))
        schedule = {"lr": options.lr, "steps": options.vae_steps, "batch": options.vae_batch}
        settings = {
            "hidden": options.hidden[size == 5],
            "latent": options.latent[size == 5],
            "schedule": schedule,
        }
        save_prior(VAE.fit(*kernels(options, size), settings, seed=options.seed)[0], files[-1])
    return tuple(files)


# Networks


def network(channels: tuple[int, ...]) -> Network:
    """Return the paper's network for grey images of 28×28."""
    sizes = zip(channels, (7, 5), strict=True)
    return Network(layers=tuple(Conv(conv=n, kernel=k, pool=2) for n, k in sizes), batch_norm=False)


def source_network(options: Options) -> nn.Module:
    """Return a source network before training."""
    return build_initialised(network(options.source_net), (1, 28, 28), 10, options.seed, build=build).to(
        options.where
    )


def few_shot_network(options: Options) -> nn.Module:
    """Return the Bayesian network before training, its kernels decoder means of the priors."""
    found, described = priors(options), network(options.target_net)
    origins = {layer: found[size] for layer, size in described.layer_sizes().items()}
    plain = build_initialised(
        described, (1, 28, 28), 10, options.seed, origins=origins, mean=True, build=build
    )
    return layers.make_bayesian(plain, found, "additive").to(options.where)


@torch.no_grad()
def copy_network(ours: nn.Module, theirs: recipe.ConvNet) -> None:
    """Copy the weights of the library's network, ordinary or Bayesian, into the recipe's."""
    convolutions = layers.bayesian_layers(ours) or [layer for _, layer in convnet.convolutions(ours)]
    for mine, layer in zip(convolutions, (theirs.conv1, theirs.conv2), strict=True):
        layer.bias.copy_(mine.bias)
        if isinstance(layer, recipe.BayesianConv2d):
            layer.mean.copy_(mine.posterior.mean)
            layer.log_variance.copy_(mine.posterior.log_variance)
        else:
            layer.weight.copy_(mine.weight)
    theirs.classifier.load_state_dict(ours.classifier.state_dict())


def copied_vae(ours: VAE) -> recipe.KernelVAE:
    """Return the recipe's VAE, which has two heads for mean and variance, with the library's weights."""
    theirs = recipe.KernelVAE(ours.kernel_size, ours.settings["hidden"], ours.latent)

    def weighted(*modules: nn.Module) -> list[nn.Module]:
        return [one for module in modules for one in module.modules() if hasattr(one, "weight")]

    *encoder, code = weighted(ours.encoder)
    *decoder, kernel = weighted(ours.decoder)
    copies = [*zip(encoder + decoder, weighted(theirs.encoder, theirs.decoder), strict=True)]
    copies += [
        (code, theirs.code_mean, theirs.code_variance),
        (kernel, theirs.kernel_mean, theirs.kernel_variance),
    ]
    for mine, *heads in copies:
        for name, tensor in mine.state_dict().items():
            for head, part in zip(heads, tensor.chunk(len(heads)), strict=True):
                head.state_dict()[name].copy_(part)
    return theirs


def recipe_source_network(options: Options) -> recipe.ConvNet:
    """Return the recipe's source network, with the library's initial weights."""
    model = recipe.ConvNet(*options.source_net)
    copy_network(source_network(options), model)
    return model.to(options.where)


def recipe_few_shot_network(options: Options) -> tuple[recipe.ConvNet, dict[int, recipe.KernelVAE]]:
    """Return the recipe's Bayesian network and priors, with the library's initial weights."""
    model, found = recipe.ConvNet(*options.target_net, recipe.BayesianConv2d), priors(options)
    copy_network(few_shot_network(options), model)
    return model.to(options.where), {
        size: copied_vae(prior).to(options.where) for size, prior in found.items()
    }
