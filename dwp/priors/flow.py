"""A normalising flow over kernels, with an exact density."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from dwp.errors import InputError, extra, unknown
from dwp.nn.precision import at_least_float32
from dwp.priors._training import trained
from dwp.priors.base import Prior, register

# Lower bound on the standard deviations: below it the flow would fit rounding.
SCALE_FLOOR = 1e-3
BINS = 8


@register("flow")
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

    options: ClassVar = {
        "transforms": {"type": "integer", "minimum": 2, "description": "a whole number from 2"},
        "hidden": {"$ref": "#/$defs/count"},
        "coupling": {"enum": ["affine", "spline"], "description": "affine or spline"},
    }
    fitted = True
    trained = True

    mean: Tensor
    scale: Tensor

    def __init__(
        self, kernel_size: int, transforms: int = 6, hidden: int = 128, coupling: str = "affine"
    ) -> None:
        super().__init__(kernel_size, transforms=transforms, hidden=hidden, coupling=coupling)
        self.check_size(kernel_size)
        if transforms < 2:
            raise InputError(f"flow: transforms is {transforms}; expected a whole number from 2")
        if coupling not in ("affine", "spline"):
            raise unknown("flow: coupling", coupling, ("affine", "spline"))
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
    def check_size(cls, kernel_size: int) -> None:
        """Raise InputError for 1×1: a single weight has no others to condition on."""
        if kernel_size < 2:
            raise InputError(f"flow: kernel size {kernel_size} cannot be built; it takes sizes from 2")

    @classmethod
    def fit(cls, train: Tensor, test: Tensor, settings: dict, **training: Any) -> tuple["Flow", list[dict]]:
        """Maximise the likelihood of training kernels; record that of held-out ones each epoch.

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
        # In bfloat16 `inv` would not be the inverse, and this not the density of the samples.
        with torch.autocast(w.device.type, enabled=False):
            x = (at_least_float32(w).flatten(1) - self.mean) / self.scale
            return self.flow().log_prob(x) - self.scale.log().sum()

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; `mean` is ignored."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        x = self.flow().transform.inv(noise.to(self.mean.device))
        return (self.mean + self.scale * x).view(n, 1, self.kernel_size, self.kernel_size).cpu()
