"""A variational autoencoder over images."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from dwp.errors import InputError
from dwp.nn.conv import MaxPool2d
from dwp.nn.convnet import build
from dwp.nn.noise import evaluating
from dwp.nn.precision import at_least_float32
from dwp.nn.spec import Network

# Keeps the logarithm of a variance finite where softplus rounds to zero.
VARIANCE_FLOOR = 1e-6


class ImageVAE(nn.Module):
    """p(x) = ∫ p(x|z) N(z; 0, I) dz over images, with convolutional encoder and decoder.

    The encoder is the described network; its last layer gives mean and variance (by softplus) of
    the code. The decoder mirrors it, module by module in reverse order: linear layers swap their
    sizes, k×k convolutions become transposed k×k convolutions, max-pooling becomes nearest-neighbour
    upsampling to the size before the pooling; activations and batch norm stay. Each module has the name
    of the module that it mirrors. The outputs are the logits of the pixels.

    Pixels are intensities in [0, 1]. Their likelihood is Bernoulli, x log p + (1 - x) log(1 - p)
    in nats, summed over the pixels and channels of an image: exact for binary pixels, and the
    usual score for intensities in between.

    Args:
        network: description of the encoder, see `convnet.build`.
        image_shape: (channels, height, width) of one image.
        latent: dimensions of the code z.
        width: factor on the channels of every convolution.
    """

    def __init__(
        self, network: Network, image_shape: tuple[int, int, int], latent: int, width: float = 1.0
    ) -> None:
        super().__init__()
        if network.is_padded:
            raise InputError(
                "image_vae: network.layers have padding, which the decoder does not mirror; use 0"
            )
        self.latent = latent
        self.encoder = build(network, image_shape, 2 * latent, width, crop=False)
        self.decoder = _mirror(self.encoder, image_shape, latent)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of q(z|x) for images [n, c, h, w], each [n, latent]."""
        mean, raw = at_least_float32(self.encoder(images)).chunk(2, 1)
        return mean, functional.softplus(raw) + VARIANCE_FLOOR

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits of p(x|z) for codes z [n, latent], [n, c, h, w]."""
        return at_least_float32(self.decoder(z))

    def bound(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two terms of the evidence lower bound of each image, in nats.

        Args:
            images: [n, c, h, w], in [0, 1].
            noise: standard normal, [n, latent], for one sample of each code.

        Returns:
            log p(x|z), [n], and KL(q(z|x) || p(z)), [n]; the bound is the first minus the second.
        """
        mean, variance = self.encode(images)
        logits = self.decode(mean + variance.sqrt() * noise)
        losses = functional.binary_cross_entropy_with_logits(logits, images, reduction="none")
        code_kl = 0.5 * (variance + mean.square() - 1 - variance.log())
        return -losses.flatten(1).sum(1), code_kl.sum(1)

    @torch.no_grad()
    def evaluate(self, images: Tensor, chunk: int = 500) -> dict[str, float]:
        """Return lower_bound and its parts, reconstruction and code_kl: means over images, in nats.

        The noise is the same in every call. The training mode of every module is restored.
        """
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(len(images), self.latent, generator=generator).to(images)
        with evaluating(self):
            parts = [self.bound(*pair) for pair in zip(images.split(chunk), noise.split(chunk), strict=True)]
        reconstruction, code_kl = (
            torch.cat(part).cpu().double().mean().item() for part in zip(*parts, strict=True)
        )
        return {
            "lower_bound": reconstruction - code_kl,
            "reconstruction": reconstruction,
            "code_kl": code_kl,
        }


def _mirror(encoder: nn.Sequential, image_shape: tuple[int, int, int], latent: int) -> nn.Sequential:
    channels, size, _ = image_shape
    *body, (last, classifier) = encoder.named_children()
    mirror: list[tuple[str, nn.Module]] = []
    mirrored: nn.Module
    for name, module in body:
        match module:
            case nn.Conv2d(in_channels=inputs, out_channels=outputs, kernel_size=kernel):
                mirrored = nn.ConvTranspose2d(outputs, inputs, kernel[0])
                channels, size = outputs, size - kernel[0] + 1
            case MaxPool2d(kernel_size=pool):
                mirrored = nn.Upsample(size)
                size //= pool
            case nn.Flatten():
                mirrored = nn.Unflatten(1, (channels, size, size))
            case nn.Linear(in_features=inputs, out_features=outputs):
                mirrored = nn.Linear(outputs, inputs)
            case nn.BatchNorm2d(num_features=features):
                mirrored = nn.BatchNorm2d(features)
            case nn.LeakyReLU():
                mirrored = nn.LeakyReLU()
            case _:
                raise InputError(f"image VAE: a layer {type(module).__name__} has no mirror image")
        mirror.append((name, mirrored))
    assert isinstance(classifier, nn.Linear)
    mirror.append((last, nn.Linear(latent, classifier.in_features)))
    decoder = nn.Sequential(OrderedDict(reversed(mirror)))
    # PyTorch documents the argument for modules, too, but does not annotate it.
    return decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
