"""The flow: its density against a dense Jacobian and an integral, its samples, its fits."""

import math

import pytest
import scipy.stats
import torch
from prior_helpers import ERRORS, curved_kernels, gaussian_kernels, posterior, seeded
from torch.distributions import Normal, StudentT

from dwp.errors import InputError
from dwp.priors.flow import SCALE_FLOOR, Flow
from dwp.priors.gaussian import Gaussian

COUPLINGS = ["affine", "spline"]


def known(coupling, k=2, transforms=3):
    """Return a flow in double precision, far from the identity, over non-standardised kernels."""
    torch.manual_seed(0)
    prior = Flow(k, transforms=transforms, hidden=8, coupling=coupling).double().requires_grad_(False)
    for parameter in prior.flow.parameters():
        parameter.mul_(1.5)
    prior.mean.copy_(torch.linspace(-1, 1, k * k))
    prior.scale.copy_(torch.linspace(0.3, 0.8, k * k))
    return prior


def code(prior, x):
    """Map one flattened kernel to its standard normal noise."""
    return prior.flow().transform((x - prior.mean) / prior.scale)


@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("k", [2, 3])
def test_density_is_that_of_the_change_of_variables(coupling, k):
    prior = known(coupling, k)
    w = prior.sample(5, seeded())
    changes = []
    for kernel in w:
        x = kernel.flatten()
        jacobian = torch.autograd.functional.jacobian(lambda x: code(prior, x), x)
        expected = Normal(0.0, 1.0).log_prob(code(prior, x)).sum() + torch.linalg.slogdet(jacobian)[1]
        assert prior.log_prob(kernel[None]).item() == pytest.approx(expected.item(), abs=1e-9)
        changes.append(torch.linalg.slogdet(jacobian)[1].item() + prior.scale.log().sum().item())
    assert max(map(abs, changes)) > 0.1, "the flow does something"


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_density_integrates_to_one(coupling):
    prior, n = known(coupling), 100_000
    # A proposal with heavier tails, of 1.5 times the samples' spread.
    draws = prior.sample(5000, seeded(1)).flatten(1)
    proposal = StudentT(5.0, draws.mean(0), 1.5 * draws.std(0))
    torch.manual_seed(0)
    x = proposal.sample((n,))
    ratio = (prior.log_prob(x.view(n, 1, 2, 2)) - proposal.log_prob(x).sum(1)).exp()
    error = ratio.std().item() / math.sqrt(n)
    assert error < 0.03
    assert abs(ratio.mean().item() - 1) < ERRORS * error


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_samples_are_noise_mapped_back(coupling):
    prior = known(coupling, k=3)
    w = prior.sample(2000, seeded())
    noise = torch.stack([code(prior, kernel.flatten()) for kernel in w[:50]])
    expected = torch.randn(2000, 9, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(noise, expected[:50], atol=1e-8, rtol=0)
    standard = ((w.flatten(1) - prior.mean) / prior.scale).flatten().numpy()
    assert scipy.stats.kstest(standard, "norm").pvalue < 1e-3, "the flow does something"
    assert torch.equal(w, prior.sample(2000, seeded(), mean=True))


def test_every_weight_is_moved():
    prior = known("affine", k=3, transforms=2)
    noise = torch.randn(9, generator=seeded(), dtype=torch.float64)
    moved = prior.flow().transform(noise)
    assert bool((moved != noise).all())


def test_autocast_does_not_touch_the_density():
    prior, w = known("affine", k=3).float(), posterior(dtype=torch.float32).mean
    expected = prior.log_prob(w)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prior.log_prob(w), expected)
    assert prior.log_prob(w.bfloat16()).dtype == torch.float32


SCHEDULE = {"lr": 0.01, "epochs": 10, "batch": 128, "precision": "float32"}
FIT = {"hidden": 32, "transforms": 4, "schedule": SCHEDULE}


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_fit_approaches_the_negative_entropy(coupling):
    train, entropy = gaussian_kernels(4000, 0)
    test, _ = gaussian_kernels(2000, 7)
    prior, rows = Flow.fit(train, test, FIT | {"coupling": coupling}, seed=0)
    steps = sorted({row["step"] for row in rows})
    assert steps == list(range(0, 10 * 32 + 1, 32))
    assert {row["metric"] for row in rows} == {"log_prob", "train_log_prob"}
    held_out = [row["value"] for row in rows if row["metric"] == "log_prob"]
    error = prior.log_prob(test).std().item() / math.sqrt(len(test))
    assert -entropy - 0.5 < held_out[-1] < -entropy + ERRORS * error
    # Standardised weights alone would be some five nats below.
    assert held_out[0] < held_out[-1] - 3
    draws = prior.sample(4000, seeded())
    assert torch.corrcoef(draws.flatten(1).T)[0, 8] < -0.9


def test_a_fit_sees_what_a_gaussian_cannot():
    train, test = curved_kernels(3000, 0), curved_kernels(1000, 9)
    _, rows = Flow.fit(train, test, FIT, seed=0)
    _, (gaussian,) = Gaussian.fit(train, test, {})
    assert rows[-1]["metric"] == "log_prob"
    assert rows[-1]["value"] > gaussian["value"] + 1


def test_weights_that_never_vary_do_not_fail():
    train = torch.randn(50, 1, 3, 3, generator=seeded())
    train[:, 0, 1, 1] = 0.25
    prior, rows = Flow.fit(train, train, FIT | {"schedule": SCHEDULE | {"epochs": 2}}, seed=0)
    assert prior.scale.min().item() == pytest.approx(SCALE_FLOOR)
    assert all(math.isfinite(row["value"]) for row in rows)


def test_refusals():
    with pytest.raises(InputError, match="kernel size 1 cannot be built; it takes sizes from 2"):
        Flow(1)
    with pytest.raises(InputError, match="transforms is 1; expected a whole number from 2"):
        Flow(3, transforms=1)
    with pytest.raises(InputError, match="coupling: 'cubic' is not known; use one of affine, spline"):
        Flow(3, coupling="cubic")
