"""The mixture of Gaussians: density, samples, KL and fit, in double precision."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from prior_helpers import ERRORS, assert_mean, gaussian_kernels, posterior, seeded
from sklearn.mixture import GaussianMixture as Reference
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from dwp.errors import InputError
from dwp.priors import gaussian_mixture
from dwp.priors.base import load_prior, save_prior
from dwp.priors.gaussian import Gaussian
from dwp.priors.gaussian_mixture import TOLERANCE, GaussianMixture

WEIGHTS = [0.5, 0.2, 0.3]


def known(k=2):
    """Return a mixture of three components in double precision with given parameters."""
    prior, generator, d = GaussianMixture(k, components=3).double(), seeded(0), k * k
    prior.log_weights.copy_(torch.tensor(WEIGHTS).double().log())
    prior.mean.copy_(torch.randn(3, d, generator=generator))
    root = torch.randn(3, d, d, generator=generator).double()
    prior.factor.copy_(torch.linalg.cholesky(root @ root.mT / d + 0.2 * torch.eye(d)))
    return prior


def reference(prior):
    components = MultivariateNormal(prior.mean, scale_tril=prior.factor)
    return MixtureSameFamily(Categorical(logits=prior.log_weights), components)


def clusters(n, seed):
    """Return kernels around three centres with opposite correlations, and the component of each."""
    component = torch.multinomial(torch.tensor(WEIGHTS), n, replacement=True, generator=seeded(seed))
    x = torch.randn(n, 4, generator=seeded(seed + 1)).double()
    x[:, 1] = torch.where(component == 0, x[:, 0], -x[:, 0]) + 0.3 * x[:, 1]
    return (x + 2 * component[:, None]).view(n, 1, 2, 2), component


def test_density_is_that_of_torch():
    prior, w = known(3), posterior(k=3).mean
    torch.testing.assert_close(prior.log_prob(w), reference(prior).log_prob(w.flatten(1)))


def test_density_integrates_to_one_in_one_dimension():
    prior = GaussianMixture(1, components=2).double()
    prior.log_weights.copy_(torch.tensor([0.3, 0.7]).double().log())
    prior.mean.copy_(torch.tensor([[-1.0], [2.0]]))
    prior.factor.copy_(torch.tensor([[[0.5]], [[1.5]]]))
    x = torch.linspace(-15, 15, 20_001, dtype=torch.float64)
    total = torch.trapezoid(prior.log_prob(x.view(-1, 1, 1, 1)).exp(), x)
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_samples_follow_the_density():
    prior = known()
    draws = prior.sample(20_000, seeded()).flatten(1)
    for direction in torch.randn(4, 4, generator=seeded(1), dtype=torch.float64):
        scale = (prior.factor.mT @ direction).norm(dim=1).numpy()
        parts = [
            scipy.stats.norm(mean, std)
            for mean, std in zip((prior.mean @ direction).numpy(), scale, strict=True)
        ]

        def cumulative(x, parts=parts):
            return sum(weight * part.cdf(x) for weight, part in zip(WEIGHTS, parts, strict=True))

        assert scipy.stats.kstest((draws @ direction).numpy(), cumulative).pvalue > 1e-3
    assert torch.equal(draws, prior.sample(20_000, seeded(), mean=True).flatten(1))
    torch.manual_seed(0)
    entropy = -reference(prior).log_prob(reference(prior).sample((20_000,)))
    error = entropy.std().item() / math.sqrt(20_000)
    assert_mean(-prior.log_prob(draws.view(-1, 1, 2, 2)), entropy.mean(), error)


def test_kl_against_an_independent_estimate():
    prior, q = known(), posterior(n=3, k=2)
    torch.manual_seed(0)
    normal = Normal(q.mean, (0.5 * q.log_variance).exp())
    w = normal.sample((4000,))
    log_prior = reference(prior).log_prob(w.view(4000, 3, 4))
    terms = normal.log_prob(w).sum((1, 2, 3, 4)) - log_prior.sum(1)
    error = terms.std().item() / math.sqrt(len(terms))
    assert_mean([prior.kl(q) for _ in range(1000)], terms.mean(), error)


# Fit


def test_a_fit_finds_the_clusters_and_their_number():
    train, component = clusters(2000, 0)
    test, _ = clusters(1000, 7)
    prior, (row,) = GaussianMixture.fit(train, test, {})
    # Three clusters need at least four components, the next power of two; more may find them sooner.
    assert prior.settings["components"] == len(prior.mean) >= 4
    assert row["value"] == pytest.approx(prior.log_prob(test).mean().item())
    shares = [(component == c).double().mean().item() for c in range(3)]
    covariances = torch.stack([torch.cov(train[component == c].flatten(1).T) for c in range(3)])
    means = torch.stack([train[component == c].flatten(1).mean(0) for c in range(3)])
    truth = MixtureSameFamily(Categorical(torch.tensor(shares)), MultivariateNormal(means, covariances))
    best = truth.log_prob(test.flatten(1)).mean().item()
    assert best - 0.1 < row["value"] < best + 0.05
    _, (gaussian,) = Gaussian.fit(train, test, {})
    assert row["value"] > gaussian["value"] + 0.4


def test_one_component_suffices_for_gaussian_kernels(tmp_path):
    train, entropy = gaussian_kernels(1500, 0)
    test, _ = gaussian_kernels(1000, 5)
    prior, (row,) = GaussianMixture.fit(train, test, {"components": 4})
    assert prior.settings["components"] == 1
    error = prior.log_prob(test).std().item() / math.sqrt(len(test))
    assert abs(row["value"] + entropy) < ERRORS * error
    save_prior(prior, tmp_path / "p.safetensors")
    assert torch.equal(load_prior(tmp_path / "p.safetensors").log_prob(test), prior.log_prob(test))


def test_no_iteration_lowers_the_objective():
    w, _ = clusters(400, 3)
    prior = GaussianMixture(2, components=4).double()
    history = prior.maximise(w)
    assert len(history) > 3
    assert (np.diff(history) > -1e-12).all()
    assert history[-1] - history[-2] < TOLERANCE
    assert prior.log_weights.exp().sum().item() == pytest.approx(1)


def test_without_shrinkage_it_is_the_maximum_likelihood_of_scikit_learn(monkeypatch):
    monkeypatch.setattr(gaussian_mixture, "TOLERANCE", 1e-7)
    w, _ = clusters(2000, 0)
    prior = GaussianMixture(2, components=3, shrinkage=1e-6).double()
    prior.maximise(w)
    x = w.flatten(1).numpy()
    precisions = torch.cholesky_inverse(prior.factor).numpy()
    start = {"means_init": prior.mean.numpy(), "precisions_init": precisions}
    found = Reference(3, reg_covar=1e-12, tol=1e-9, max_iter=1000, **start).fit(x).score(x)
    assert prior.log_prob(w).mean().item() == pytest.approx(found, abs=2e-3)


@pytest.mark.parametrize("n", [1, 2, 6])
def test_few_kernels(n):
    w = torch.randn(n, 1, 3, 3, generator=seeded())
    prior, (row,) = GaussianMixture.fit(w, w, {})
    assert math.isfinite(row["value"])
    assert prior.sample(3, seeded()).isfinite().all()


def test_refusals():
    with pytest.raises(InputError, match="components is 0; expected a whole number from 1"):
        GaussianMixture(3, components=0)
    with pytest.raises(InputError, match="shrinkage is 0"):
        GaussianMixture(3, shrinkage=0)
