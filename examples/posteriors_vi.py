"""Variational inference with `posteriors` for a PyTorch model, with a fitted prior over its kernels.

python examples/posteriors_vi.py results/latest/priors/vae-5x5/vae-5x5.safetensors
"""

import sys

import posteriors
import torch
import torchopt
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional

import dwp

prior = dwp.load_prior(sys.argv[1])

# Images of horizontal or vertical stripes, in noise.
torch.manual_seed(0)
stripes = torch.arange(16).remainder(4).ge(2).float().expand(1, 16, 16)
y = torch.randint(2, (200,))
x = torch.where(y.bool()[:, None, None, None], stripes, stripes.mT) + 0.5 * torch.randn(200, 1, 16, 16)

model = nn.Sequential(
    nn.Conv2d(1, 4, prior.kernel_size, padding="same"),
    nn.ReLU(),
    nn.Conv2d(4, 8, prior.kernel_size, padding="same"),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(8, 2),
)
dwp.init_(model, prior)
function = posteriors.model_to_function(model)


def log_posterior(parameters: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return log p(parameters | data) up to a constant, divided by the number of examples; and the logits."""
    images, labels = batch
    logits = function(parameters, images)
    log_prior = sum(
        prior.log_prob(w).sum() if w.ndim == 4 else Normal(0.0, 1.0).log_prob(w).sum()
        for w in parameters.values()
    )
    return -functional.cross_entropy(logits, labels) + log_prior / len(x), logits


transform = posteriors.vi.diag.build(
    log_posterior, torchopt.adam(lr=0.01), temperature=1 / len(x), init_log_sds=-4.0
)
state = transform.init(dict(model.named_parameters()))
losses = []
for _ in range(200):
    state, _ = transform.update(state, (x, y))
    losses.append(state.nelbo.item())
print(f"negative ELBO: {losses[0]:.2f} before, {losses[-1]:.2f} nats per example after 200 steps")
