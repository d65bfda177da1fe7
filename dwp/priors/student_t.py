"""A Student's t distribution over whole kernels: correlated weights with heavy tails."""

import math

import torch
from torch import Tensor

from dwp.priors.base import Prior, register
from dwp.priors.gaussian import rows, shrinkage, shrunk, squared_distance

# Degrees of freedom between which the likelihood is maximised: from Cauchy to as good as Gaussian.
LOWEST, HIGHEST = 1.0, 1000.0

# Mean log-likelihood, in nats per kernel, by which the last iteration of a fit may raise it.
TOLERANCE = 1e-7
ITERATIONS = 1000


@register("student_t")
class StudentT(Prior):
    """The multivariate t_ν(μ, Σ) over the k² weights of a kernel; all three are fitted.

    Weights of trained networks are heavier tailed than Gaussian, and correlated in
    convolutions (Fortuin et al. 2022). The fit is by the ECME algorithm of Liu & Rubin
    (1995), with Σ shrunk at each iteration as the covariance of `gaussian` is.

    Args:
        kernel_size: k.
    """

    fitted = True

    def __init__(self, kernel_size: int) -> None:
        super().__init__(kernel_size)
        self.register_buffer("mean", torch.zeros(kernel_size**2))
        self.register_buffer("factor", torch.eye(kernel_size**2))
        """Lower Cholesky factor of the scale matrix Σ, [k², k²]; the covariance is Σ·ν/(ν - 2)."""
        self.register_buffer("freedom", torch.tensor(HIGHEST))
        """Degrees of freedom ν."""

    @classmethod
    def fit(
        cls, train: Tensor, test: Tensor, settings: dict, **training: object
    ) -> tuple["StudentT", list[dict]]:
        """Maximise the likelihood of training kernels; record that of held-out ones. See `Prior.fit`."""
        prior = cls(train.shape[-1], **settings).double()
        # On the CPU, since not every device has double precision.
        w = train.cpu().double()
        x = w.flatten(1)
        intensity, dimensions = shrinkage(x), x.shape[1]
        weight = torch.ones_like(x[:, 0])
        before = -math.inf
        for _ in range(ITERATIONS):
            mean = (weight[:, None] * x).sum(0) / weight.sum()
            centred = x - mean
            scale = (weight[:, None] * centred).T @ centred / len(x)
            prior.mean.copy_(mean)
            prior.factor.copy_(torch.linalg.cholesky(shrunk(scale, intensity)))
            distance = squared_distance(w, prior.mean, prior.factor)
            prior.freedom.fill_(_freedom(distance, dimensions))
            weight = (prior.freedom + dimensions) / (prior.freedom + distance)
            after = prior.log_prob(w).mean().item()
            if after - before < TOLERANCE:
                break
            before = after
        prior = prior.to(train)
        return prior, rows(prior.evaluate(test))

    def log_prob(self, w: Tensor, samples: int = 1) -> Tensor:
        """Return the exact log density, [n], in nats."""
        dimensions, freedom = len(self.mean), self.freedom
        distance = squared_distance(w, self.mean, self.factor)
        constant = (
            torch.lgamma((freedom + dimensions) / 2)
            - torch.lgamma(freedom / 2)
            - 0.5 * dimensions * (freedom * math.pi).log()
            - self.factor.diagonal().log().sum()
        )
        return constant - 0.5 * (freedom + dimensions) * torch.log1p(distance / freedom)

    def sample(self, n: int, generator: torch.Generator | None = None, *, mean: bool = False) -> Tensor:
        """Draw kernels [n, 1, k, k]; there is no noise for `mean` to leave out."""
        location, factor, freedom = self.mean.cpu(), self.factor.cpu(), self.freedom.cpu()
        noise = torch.randn(n, len(location), generator=generator, dtype=location.dtype)
        # Alone among PyTorch's ways to draw a gamma variable it takes a generator.
        chi_squared = 2 * torch._standard_gamma((freedom / 2).expand(n), generator=generator)
        noise = noise * (freedom / chi_squared).sqrt()[:, None]
        return (location + noise @ factor.T).view(n, 1, self.kernel_size, self.kernel_size)


def _freedom(distance: Tensor, dimensions: int) -> float:
    """Return the degrees of freedom of the greatest likelihood, given squared distances [n]."""

    def slope(freedom: float) -> float:
        # Twice the derivative of the mean log-likelihood.
        halves = torch.tensor([freedom + dimensions, freedom], dtype=torch.float64) / 2
        digamma = torch.digamma(halves)
        tails = (freedom + dimensions) / (freedom + distance) * (distance / freedom)
        terms = tails - torch.log1p(distance / freedom)
        return float(digamma[0] - digamma[1] - dimensions / freedom + terms.mean())

    if slope(HIGHEST) >= 0:
        return HIGHEST
    if slope(LOWEST) <= 0:
        return LOWEST
    low, high = math.log(LOWEST), math.log(HIGHEST)
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp(low)
