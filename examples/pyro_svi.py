"""Variational inference in Pyro with a fitted prior over the kernels of a convolution.

python examples/pyro_svi.py results/latest/priors/vae-5x5/vae-5x5.safetensors
"""

import sys

import pyro
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor
from torch.nn import functional

import dwp

prior = dwp.load_prior(sys.argv[1])
k = prior.kernel_size

# Images of horizontal or vertical stripes, in noise.
pyro.set_rng_seed(0)
stripes = torch.arange(16).remainder(4).ge(2).float().expand(1, 16, 16)
y = torch.randint(2, (200,))
x = torch.where(y.bool()[:, None, None, None], stripes, stripes.mT) + 0.5 * torch.randn(200, 1, 16, 16)


def model(x: Tensor, y: Tensor) -> None:
    # A flat density, multiplied by that of the prior.
    w = pyro.sample("w", dist.ImproperUniform(dist.constraints.real, (), (8, 1, k, k)))
    pyro.factor("prior", prior.log_prob(w).sum())
    features = functional.conv2d(x, w).relu().mean((2, 3))
    head = pyro.sample("head", dist.Normal(0.0, 1.0).expand([8, 2]).to_event(2))
    with pyro.plate("images", len(x)):
        pyro.sample("y", dist.Categorical(logits=features @ head), obs=y)


start = {"w": prior.sample(8), "head": 0.1 * torch.randn(8, 2)}
guide = AutoNormal(model, init_loc_fn=init_to_value(values=start), init_scale=0.01)
inference = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
losses = [inference.step(x, y) / len(x) for _ in range(200)]
print(f"negative ELBO: {losses[0]:.2f} before, {losses[-1]:.2f} nats per example after 200 steps")
