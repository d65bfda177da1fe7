"""Priors with weights and distributions of other libraries: shapes, closed forms, function transforms."""

import math
import runpy
import sys

import pytest
import torch
from conftest import ROOT
from prior_helpers import ERRORS, posterior, seeded, vae
from prior_kinds import KINDS, PAID, SAMPLES_ONLY, make
from torch.distributions import Independent, Laplace, MultivariateNormal, Normal, kl_divergence

from dwp.errors import InputError
from dwp.priors.base import KLEstimator, save_prior
from dwp.priors.distributions import GaussianPosterior, PointMass
from dwp.priors.gaussian import Gaussian
from dwp.priors.standard_normal import StandardNormal

WITHOUT_DENSITY = ("log_uniform", "ard", "hierarchical_ard", *SAMPLES_ONLY)
WITH_DENSITY = [kind for kind in KINDS if kind not in WITHOUT_DENSITY]


def weights(o=4, i=3, k=5, dtype=torch.float32):
    return torch.randn(o, i, k, k, generator=seeded(3), dtype=dtype)


def normal(shape=(4, 3, 5, 5), dtype=torch.float32):
    generator = seeded(4)
    mean = torch.randn(shape, generator=generator, dtype=dtype)
    return Normal(mean, 0.1 + torch.rand(shape, generator=generator, dtype=dtype))


def estimate(function, *arguments):
    torch.manual_seed(0)
    return function(*arguments)


# Shapes


@pytest.mark.parametrize("kind", WITH_DENSITY)
def test_log_prob_of_a_weight_is_that_of_its_kernels(kind):
    prior, w = make(kind), weights()
    by_kernel = estimate(prior.log_prob, w.view(12, 1, 5, 5))
    by_weight = estimate(prior.log_prob, w)
    assert by_kernel.shape == (12,)
    assert by_weight.shape == (4, 3)
    assert torch.equal(by_weight, by_kernel.view(4, 3))
    assert prior.log_prob(w[:, :1]).shape == (4,)


@pytest.mark.parametrize("kind", WITH_DENSITY)
def test_other_shapes_are_refused(kind):
    prior = make(kind)
    for shape in [(4, 3, 3, 3), (4, 5, 5), (25,), (4, 3, 5, 1), (4, 3, 5, 5, 5)]:
        with pytest.raises(InputError, match=r"have shape .*; expected \[out, in, 5, 5\], or kernels"):
            prior.log_prob(torch.zeros(shape))


@pytest.mark.parametrize("kind", PAID)
@pytest.mark.parametrize("wrap", [lambda q: q, lambda q: Independent(q, 4), lambda q: Independent(q, 1)])
def test_kl_takes_normals(kind, wrap):
    prior, q = make(kind), normal()
    expected = GaussianPosterior(q.loc.view(12, 1, 5, 5), 2 * q.scale.view(12, 1, 5, 5).log())
    found = estimate(prior.kl, wrap(q))
    assert found.shape == ()
    assert torch.equal(found, estimate(prior.kl, expected))
    kernels = Normal(q.loc.view(12, 1, 5, 5), q.scale.view(12, 1, 5, 5))
    assert torch.equal(found, estimate(prior.kl, wrap(kernels)))


def test_a_scalar_scale_and_low_precision():
    q = Normal(weights(k=3).bfloat16(), torch.tensor(0.5, dtype=torch.bfloat16))
    found = StandardNormal(3).kl(q)
    assert found.dtype == torch.float32
    expected = kl_divergence(Normal(q.loc.double(), 0.5), Normal(0.0, 1.0)).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    "q",
    [
        Laplace(torch.zeros(2, 3, 5, 5), 1.0),
        MultivariateNormal(torch.zeros(2, 25), torch.eye(25)),
        Independent(Laplace(torch.zeros(2, 3, 5, 5), 1.0), 4),
        Normal(torch.zeros(2, 3, 3, 3), 1.0),
        Normal(0.0, 1.0),
    ],
    ids=["Laplace", "MultivariateNormal", "Independent", "size", "scalar"],
)
@pytest.mark.parametrize("kind", ["standard_normal", "gaussian", "vae"])
def test_other_distributions_are_refused(kind, q):
    with pytest.raises(InputError, match=r"^prior: the (posterior|weights)") as refused:
        make(kind).kl(q)
    assert "\n" not in str(refused.value)


def test_the_posteriors_of_this_library_are_taken_as_before():
    q, prior = posterior(6, 3), vae(3).double()
    assert estimate(prior.kl, q) == estimate(lambda: prior.cross_entropy(q) - q.entropy())
    assert prior.cross_entropy(PointMass(q.mean)).isfinite()
    assert torch.equal(
        estimate(prior.cross_entropy, Normal(q.mean, (0.5 * q.log_variance).exp())),
        estimate(prior.cross_entropy, q),
    )


# Closed forms


def test_the_kl_from_a_normal_in_closed_form():
    q = normal((4, 3, 3, 3), torch.float64)
    found = StandardNormal(3, scale=0.7).double().kl(q)
    torch.testing.assert_close(found, kl_divergence(q, Normal(0.0, 0.7)).sum())
    prior = Gaussian(3).double()
    factor = torch.randn(9, 9, generator=seeded(1), dtype=torch.float64).tril(-1) + torch.eye(9)
    prior.factor.copy_(factor)
    dense = MultivariateNormal(q.loc.view(12, 9), torch.diag_embed(q.scale.view(12, 9).square()))
    reference = MultivariateNormal(prior.mean, scale_tril=factor)
    torch.testing.assert_close(prior.kl(q), kl_divergence(dense, reference).sum())


def test_the_kl_is_differentiable_in_location_and_scale():
    loc, scale = normal((2, 3, 3, 3), torch.float64).loc, torch.full((2, 3, 3, 3), 0.3, dtype=torch.float64)
    loc.requires_grad_(), scale.requires_grad_()
    StandardNormal(3).kl(Normal(loc, scale)).backward()
    torch.testing.assert_close(loc.grad, loc.detach())
    torch.testing.assert_close(scale.grad, scale.detach() - 1 / scale.detach())


def test_a_subset_of_a_weight_is_unbiased():
    prior, q = Gaussian(3).double(), normal((4, 3, 3, 3), torch.float64)
    exact = prior.kl(q)
    torch.manual_seed(0)
    estimator = KLEstimator(subset=5)
    draws = torch.stack([super(Gaussian, prior).kl(q, estimator) for _ in range(2000)])
    assert abs(draws.mean() - exact) < ERRORS * draws.std() / math.sqrt(2000)


# Function transforms, with which other libraries differentiate


@pytest.mark.parametrize("kind", WITH_DENSITY)
def test_log_prob_under_function_transforms(kind):
    prior = make(kind).requires_grad_(False)
    w = weights().requires_grad_()

    def total(w):
        torch.manual_seed(0)
        return prior.log_prob(w).sum()

    (expected,) = torch.autograd.grad(total(w), w)
    with torch.no_grad():
        found = torch.func.grad(total)(w.detach())
    torch.testing.assert_close(found, expected)
    several = torch.stack([w.detach(), w.detach() + 1])
    assert torch.func.vmap(prior.log_prob, randomness="different")(several).shape == (2, 4, 3)


# Examples in other libraries


@pytest.mark.parametrize(("example", "package"), [("pyro_svi", "pyro"), ("posteriors_vi", "posteriors")])
def test_the_examples_learn(example, package, tmp_path, monkeypatch, capsys):
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    save_prior(vae(5, latent=2), "vae-5x5.safetensors")
    monkeypatch.setattr(sys, "argv", [example, "vae-5x5.safetensors"])
    names = runpy.run_path(str(ROOT / "examples" / f"{example}.py"), run_name="__main__")
    losses = names["losses"]
    assert all(map(math.isfinite, losses))
    assert sum(losses[-20:]) < sum(losses[:20])
    assert "nats per example" in capsys.readouterr().out
