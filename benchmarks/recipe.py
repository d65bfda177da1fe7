"""The published recipe, plainly implemented, which the library is compared with.

Written anew from the paper and from what is known of its code, without regard to speed: a DataLoader passes
each image from PIL through a transform, everything is float32 and contiguous, activations come before
pooling, every kernel passes through the VAE in every step, and at test every image has its own noise in every
layer. It computes the same quantities as the library, whose state dicts it loads (`tests/test_recipe.py`).

Nothing is slowed down on purpose: it uses PyTorch's own modules, threads and optimiser defaults.
"""

import itertools
import math
from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from dwp.torchvision_import import torchvision_datasets

VARIANCE_FLOOR = 1e-6  # as in the library, so that both compute the same numbers


class Images:
    """Images uint8 [n, 1, h, w] as torchvision stores MNIST; each becomes an image object, then a tensor."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        torchvision_datasets()  # makes `transforms` importable with a CPU-only PyTorch
        from torchvision.transforms import ToTensor

        self.images, self.labels, self.transform = images[:, 0].cpu().numpy(), labels.tolist(), ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index], mode="L")), self.labels[index]


class BayesianConv2d(nn.Module):
    """A convolution with Gaussian weights; its outputs are sampled (local reparameterisation)."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        mean = nn.Conv2d(inputs, outputs, size).weight.detach()
        self.posterior = nn.ParameterDict({"mean": mean, "log_variance": torch.full_like(mean, -10.0)})
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noisy = True

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.conv2d(x, self.posterior["mean"], self.bias)
        if not self.noisy:
            return mean
        variance = functional.conv2d(x**2, torch.exp(self.posterior["log_variance"]))
        return mean + torch.sqrt(variance + 1e-12) * torch.randn_like(mean)

    def kl(self, prior: "KernelVAE") -> Tensor:
        """Return the bound on KL(q(W) || p(W)) in nats, summed, with every kernel through the VAE (eq. 9)."""
        mean, log_variance = (
            self.posterior[name].flatten(0, 1)[:, None] for name in ("mean", "log_variance")
        )
        w = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        entropy = 0.5 * (log_variance + math.log(2 * math.pi * math.e)).sum()
        return -prior.elbo(w).sum() - entropy


class ConvNet(nn.Sequential):
    """The paper's network for grey images of 28×28, ordinary or Bayesian."""

    def __init__(self, first: int, second: int, layer: Callable[..., nn.Module] = nn.Conv2d) -> None:
        super().__init__()
        self.conv1, self.activation1, self.pool1 = layer(1, first, 7), nn.LeakyReLU(), nn.MaxPool2d(2)
        self.conv2, self.activation2, self.pool2 = layer(first, second, 5), nn.LeakyReLU(), nn.MaxPool2d(2)
        self.flatten, self.classifier = nn.Flatten(), nn.Linear(second * 3 * 3, 10)


class KernelVAE(nn.Module):
    """The paper's VAE over k×k kernels, k = 5 or 7."""

    def __init__(self, size: int, hidden: int, latent: int) -> None:
        super().__init__()
        h = hidden
        encoder = {
            7: [(1, h, 0), (h, 2 * h, 0), (2 * h, 2 * h, 0)],
            5: [(1, h, 1), (h, h, 1), (h, 2 * h, 0), (2 * h, 2 * h, 0)],
        }[size]
        decoder = {7: [(2 * h, 2 * h), (2 * h, h), (h, h)], 5: [(2 * h, 2 * h), (2 * h, h)]}[size]
        self.encoder = nn.Sequential()
        for inputs, outputs, padding in encoder:
            self.encoder.extend([nn.Conv2d(inputs, outputs, 3, padding=padding), nn.ELU()])
        self.encoder.append(nn.Conv2d(2 * h, 2 * latent, 1))
        self.decoder = nn.Sequential(nn.Conv2d(latent, 2 * h, 1), nn.ELU())
        for inputs, outputs in decoder:
            self.decoder.extend([nn.ConvTranspose2d(inputs, outputs, 3), nn.ELU()])
        self.decoder.append(nn.Conv2d(h, 2, 1))

    def elbo(self, w: Tensor) -> Tensor:
        """Return log p(w|z) - KL(r(z|w) || p(z)) of kernels [n, 1, k, k] for one code each, [n], in nats."""
        mean, raw = self.encoder(w).flatten(1).chunk(2, 1)
        variance = functional.softplus(raw) + VARIANCE_FLOOR
        z = mean + torch.sqrt(variance) * torch.randn_like(mean)
        kl = 0.5 * (variance + mean**2 - 1 - torch.log(variance)).sum(1)
        location, raw = self.decoder(z[:, :, None, None]).chunk(2, 1)
        scale = functional.softplus(raw) + VARIANCE_FLOOR
        log_density = -0.5 * ((w - location) ** 2 / scale + torch.log(scale) + math.log(2 * math.pi))
        return log_density.flatten(1).sum(1) - kl


def source_loss(model: ConvNet, l2: float, images: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy + l2·Σ‖w‖² over the convolutions."""
    penalty = model.conv1.weight.pow(2).sum() + model.conv2.weight.pow(2).sum()
    return functional.cross_entropy(model(images), labels) + l2 * penalty


def vae_loss(vae: KernelVAE, w: Tensor) -> Tensor:
    """Return the negative ELBO, the mean over kernels, in nats."""
    return -vae.elbo(w).mean()


def few_shot_loss(
    model: ConvNet, priors: dict[int, KernelVAE], examples: int, images: Tensor, labels: Tensor
) -> Tensor:
    """Return the negative bound per example: mean NLL + KL / examples, in nats."""
    kl = model.conv1.kl(priors[7]) + model.conv2.kl(priors[5])
    return functional.cross_entropy(model(images), labels) + kl / examples


def train(
    loss: Callable[..., Tensor],
    parameters: list[nn.Parameter],
    loader: DataLoader,
    steps: int,
    lr: float,
    after: Callable[[int], None] = lambda step: None,
) -> None:
    """Minimise a loss of batches by Adam, with a learning rate that falls linearly to zero.

    `after` is called after each step with the number of steps done.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for step, batch in enumerate(itertools.islice(batches, steps)):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / steps)
        value = loss(*(tensor.to(parameters[0].device) for tensor in batch))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        after(step + 1)


@torch.no_grad()
def predict(model: ConvNet, loader: DataLoader, members: int) -> Tensor:
    """Return class probabilities [members, n, classes] of noisy passes; members 0: of one with the means."""
    model.conv1.noisy = model.conv2.noisy = members > 0
    device = model.classifier.weight.device
    passes = [
        torch.cat([functional.softmax(model(images.to(device)), 1).cpu() for images, _ in loader])
        for _ in range(max(members, 1))
    ]
    model.conv1.noisy = model.conv2.noisy = True
    return torch.stack(passes)
