"""A normalising flow over kernels, with an exact density."""

from typing import Any

import torch
from torch import Tensor

from dwp.errors import extra
from dwp.nn.precision import at_least_float32
from dwp.priors._training import trained
from dwp.priors.base import Prior, register
from dwp.priors.settings import FlowSettings

# Lower bound on the standard deviations: below it the flow would fit rounding errors.
SCALE_FLOOR = 1e-3
BINS = 8


@register
class Flow(Prior):
    """A coupling flow over the k² weights of a kernel, each standardised, to N(0, I).

    Each transformation keeps the weights on one colour of a checkerboard (for an even k: every
    other column) and transforms the others, with parameters that a network with two hidden layers
    computes from the kept ones. The colours alternate.

    Args:
        kernel_size: k, from 2.
        transforms: coupling transformations, from 2, so that every weight is transformed.
        hidden: units in each hidden layer.
        coupling: 'affine' (RealNVP, Dinh et al. 2017) or 'spline' (rational-quadratic with
            8 bins over five standard deviations on either side, Durkan et al. 2019).
    """

    settings_class = FlowSettings

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        kernel_size: int,
        transforms: int = FlowSettings.transforms,
        hidden: int = FlowSettings.hidden,
        coupling: str = FlowSettings.coupling,
    ) -> None:
        super().__init__(kernel_size, transforms=transforms, hidden=hidden, coupling=coupling)
        with extra("flow", "flow"):
            import zuko

        univariate = {}
        if coupling == "spline":
            shapes = [(BINS,), (BINS,), (BINS - 1,)]
            univariate = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": shapes}
        self.flow = zuko.flows.RealNVP(
            kernel_size**2, transforms=transforms, hidden_features=(hidden, hidden), **univariate
        )
        self.register_buffer("mean", torch.zeros(kernel_size**2))
        self.register_buffer("scale", torch.ones(kernel_size**2))

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: Any) -> tuple["Flow", list[dict]]:
        """Maximise the likelihood of training kernels; record the held-out likelihood each epoch.

        See `Prior.fit`. Matrix products are in the kernels' precision; that of the schedule is ignored.
        """

        def build(kernels: Tensor, settings: dict) -> Flow:
            prior = cls(kernels.shape[-1], **settings)
            prior.mean.copy_(kernels.flatten(1).mean(0))
            prior.scale.copy_(kernels.flatten(1).std(0, correction=0).clamp_min(SCALE_FLOOR))
            return prior

        def loss(prior: Flow, w: Tensor) -> tuple[Tensor, dict]:
            log_prob = prior.log_prob(w).mean()
            return -log_prob, {"train_log_prob": log_prob}

        return trained(build, loss, "log_prob", train, test, settings, **training)

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the exact log density, [n], in nats."""
        # In bfloat16 `inv` would not be the inverse, so this would not be the density of the samples.
        with torch.autocast(w.device.type, enabled=False):
            x = (at_least_float32(w).flatten(1) - self.mean) / self.scale
            return self.flow().log_prob(x) - self.scale.log().sum()

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        x = self.flow().transform.inv(noise.to(self.mean.device))
        return (self.mean + self.scale * x).view(n, 1, self.kernel_size, self.kernel_size).cpu()
