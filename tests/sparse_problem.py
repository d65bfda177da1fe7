"""A regression on eight inputs, of which the first two matter, for tests of sparse priors."""

import torch
from torch import Tensor, nn

import dwp
from dwp.bayes.layers import make_bayesian


def trained(**options: object) -> tuple[nn.Module, Tensor]:
    """Return a Bayesian linear model after training, and the inputs [200, 8]; options of `make_bayesian`."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator)
    y = 2 * x[:, :1] - 1.5 * x[:, 1:2] + 0.3 * torch.randn(200, 1, generator=generator)
    torch.manual_seed(0)
    model = make_bayesian(nn.Sequential(nn.Linear(8, 1)), {}, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(1000):
        loss = 0.5 * ((model(x) - y) / 0.3).square().sum() / 200 + dwp.kl(model) / 200
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, x
