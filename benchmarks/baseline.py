"""The published recipe, plainly implemented: the baseline of `benchmarks.published`.

Written anew from the paper and from what is known of its code, without regard to speed: a
DataLoader passes each image from PIL through a transform, everything is float32 and contiguous,
activations come before pooling, every kernel passes through the VAE in every step, and at test
every image has its own noise in every layer. It computes the same quantities as the library;
`tests/test_baseline.py` checks this.

Nothing is slowed down on purpose: it uses PyTorch's own modules, threads and optimiser defaults.
"""

import itertools
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from dwp.torchvision_import import torchvision_datasets

TEST_BATCH = 500
VARIANCE_FLOOR = 1e-6  # as in the library, so that both compute the same numbers


# Data


class Images(TorchDataset):
    """Grey images as bytes, as torchvision stores MNIST; each becomes an image object, then a tensor."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        torchvision_datasets()  # makes `transforms` importable with a CPU-only PyTorch
        from torchvision.transforms import Compose, ToTensor

        self.images: np.ndarray = images[:, 0].cpu().numpy()  # uint8 [n, h, w]
        self.labels = labels.tolist()
        self.transform = Compose([ToTensor()])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index], mode="L")), self.labels[index]


def image_loader(
    images: Tensor, labels: Tensor, batch: int, *, shuffle: bool, workers: int = 0
) -> DataLoader:
    """Return batches of (images float32 [b, 1, h, w], labels [b]) of uint8 images [n, 1, h, w]."""
    return DataLoader(Images(images, labels), batch_size=batch, shuffle=shuffle, num_workers=workers)


def kernel_loader(kernels: Tensor, batch: int = 128, workers: int = 0) -> DataLoader:
    """Return shuffled batches of kernels [n, 1, k, k]."""
    return DataLoader(TensorDataset(kernels.cpu()), batch_size=batch, shuffle=True, num_workers=workers)


# Ordinary and Bayesian networks


class BayesianConv2d(nn.Module):
    """A convolution with Gaussian weights; its outputs are sampled (local reparameterisation)."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.empty(outputs, inputs, size, size))
        self.log_variance = nn.Parameter(torch.full_like(self.mean, -10.0))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.mean)
        self.noisy = True

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.conv2d(x, self.mean, self.bias)
        if not self.noisy:
            return mean
        variance = functional.conv2d(x**2, torch.exp(self.log_variance))
        return mean + torch.sqrt(variance + 1e-12) * torch.randn_like(mean)

    def kl(self, prior: "KernelVAE") -> Tensor:
        """Return the bound on KL(q(W) || p(W)) in nats, summed, with every kernel through the VAE (eq. 9)."""
        size = self.mean.shape[-1]
        mean, log_variance = self.mean.view(-1, 1, size, size), self.log_variance.view(-1, 1, size, size)
        w = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        entropy = 0.5 * (log_variance + math.log(2 * math.pi * math.e)).sum()
        return -prior.elbo(w).sum() - entropy


class ConvNet(nn.Module):
    """Convolution 7×7, leaky ReLU, max-pool 2, convolution 5×5, leaky ReLU, max-pool 2, linear."""

    def __init__(
        self,
        first: int,
        second: int,
        *,
        layer: type[nn.Module] = nn.Conv2d,
        classes: int = 10,
        side: int = 28,
    ) -> None:
        super().__init__()
        self.conv1 = layer(1, first, 7)
        self.conv2 = layer(first, second, 5)
        self.activation = nn.LeakyReLU()
        self.pool = nn.MaxPool2d(2)
        left = ((side - 6) // 2 - 4) // 2
        self.classifier = nn.Linear(second * left * left, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.activation(self.conv1(x)))
        x = self.pool(self.activation(self.conv2(x)))
        return self.classifier(x.flatten(1))


def linear_decay(optimizer: torch.optim.Optimizer, step: int, total: int, rate: float = 1e-3) -> None:
    """Set the learning rate of a step, falling linearly to zero."""
    for group in optimizer.param_groups:
        group["lr"] = rate * (1 - step / total)


def source_loss(model: ConvNet, images: Tensor, labels: Tensor, l2: float) -> Tensor:
    """Return cross-entropy + l2·Σ‖w‖² over the convolutions."""
    penalty = model.conv1.weight.pow(2).sum() + model.conv2.weight.pow(2).sum()
    return functional.cross_entropy(model(images), labels) + l2 * penalty


def train_source(
    model: ConvNet, optimizer: torch.optim.Optimizer, loader: DataLoader, l2: float, device: torch.device
) -> None:
    """Train a source network for one epoch."""
    model.train()
    for step, (images, labels) in enumerate(loader):
        linear_decay(optimizer, step, len(loader))
        loss = source_loss(model, images.to(device), labels.to(device), l2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# The prior


class KernelVAE(nn.Module):
    """The paper's VAE over k×k kernels, k = 5 or 7, with separate heads for mean and variance."""

    def __init__(self, size: int, hidden: int, latent: int) -> None:
        super().__init__()
        h = hidden
        encoder = {7: [(1, h, 0), (h, 2 * h, 0), (2 * h, 2 * h, 0)]}
        encoder[5] = [(1, h, 1), (h, h, 1), (h, 2 * h, 0), (2 * h, 2 * h, 0)]
        decoder = {7: [(2 * h, 2 * h), (2 * h, h), (h, h)], 5: [(2 * h, 2 * h), (2 * h, h)]}
        self.encoder = nn.Sequential(
            *itertools.chain(*((nn.Conv2d(i, o, 3, padding=p), nn.ELU()) for i, o, p in encoder[size]))
        )
        self.code_mean = nn.Conv2d(2 * h, latent, 1)
        self.code_variance = nn.Conv2d(2 * h, latent, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent, 2 * h, 1),
            nn.ELU(),
            *itertools.chain(*((nn.ConvTranspose2d(i, o, 3), nn.ELU()) for i, o in decoder[size])),
        )
        self.kernel_mean = nn.Conv2d(h, 1, 1)
        self.kernel_variance = nn.Conv2d(h, 1, 1)

    def elbo(self, w: Tensor) -> Tensor:
        """Return log p(w|z) - KL(r(z|w) || p(z)) of kernels [n, 1, k, k] for one code each, [n], in nats."""
        hidden = self.encoder(w)
        mean = self.code_mean(hidden).flatten(1)
        variance = functional.softplus(self.code_variance(hidden).flatten(1)) + VARIANCE_FLOOR
        z = mean + torch.sqrt(variance) * torch.randn_like(mean)
        kl = 0.5 * (variance + mean**2 - 1 - torch.log(variance)).sum(1)
        hidden = self.decoder(z[:, :, None, None])
        location = self.kernel_mean(hidden)
        scale = functional.softplus(self.kernel_variance(hidden)) + VARIANCE_FLOOR
        log_density = -0.5 * ((w - location) ** 2 / scale + torch.log(scale) + math.log(2 * math.pi))
        return log_density.flatten(1).sum(1) - kl


def train_vae(
    vae: KernelVAE, optimizer: torch.optim.Optimizer, loader: DataLoader, device: torch.device
) -> None:
    """Train a VAE for one epoch."""
    for step, (w,) in enumerate(loader):
        linear_decay(optimizer, step, len(loader))
        loss = -vae.elbo(w.to(device)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# The Bayesian network on few examples


def reverse_model(vae: KernelVAE) -> list[nn.Parameter]:
    """Freeze a VAE except its encoder r(z|w), which the paper trains jointly; return its parameters."""
    vae.requires_grad_(False)
    trained = nn.ModuleList([vae.encoder, vae.code_mean, vae.code_variance]).requires_grad_(True)
    return list(trained.parameters())


def few_shot_loss(
    model: ConvNet, priors: dict[int, KernelVAE], images: Tensor, labels: Tensor, examples: int
) -> Tensor:
    """Return the negative bound per example: mean NLL + KL / examples, in nats."""
    kl = model.conv1.kl(priors[7]) + model.conv2.kl(priors[5])
    return functional.cross_entropy(model(images), labels) + kl / examples


def train_few_shot(
    model: ConvNet,
    priors: dict[int, KernelVAE],
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    epochs: int,
    device: torch.device,
) -> None:
    """Train for some epochs; the loader's one batch is the whole training set."""
    model.train()
    for epoch in range(epochs):
        linear_decay(optimizer, epoch, epochs)
        for images, labels in loader:
            loss = few_shot_loss(model, priors, images.to(device), labels.to(device), len(loader.dataset))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def predict(
    model: ConvNet, loader: DataLoader, device: torch.device, *, noisy: bool = True
) -> tuple[Tensor, Tensor]:
    """Return class probabilities [n, classes] and labels [n] in one pass over the loader."""
    model.eval()
    model.conv1.noisy = model.conv2.noisy = noisy
    parts = [(functional.softmax(model(images.to(device)), 1).cpu(), labels) for images, labels in loader]
    model.conv1.noisy = model.conv2.noisy = True
    probabilities, labels = zip(*parts, strict=True)
    return torch.cat(probabilities), torch.cat(labels)


def evaluate(model: ConvNet, loader: DataLoader, device: torch.device, members: int = 10) -> dict[str, float]:
    """Return the test accuracy of an ensemble of noisy passes, of one noisy pass, and of the mean."""
    passes = [predict(model, loader, device) for _ in range(members)]
    labels = passes[0][1]
    predictions = {
        "ensemble": torch.stack([probabilities for probabilities, _ in passes]).mean(0),
        "sample": predict(model, loader, device)[0],
        "mean": predict(model, loader, device, noisy=False)[0],
    }
    return {name: (p.argmax(1) == labels).double().mean().item() for name, p in predictions.items()}
