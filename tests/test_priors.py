"""Priors: densities, divergences and samples against closed forms and integrals; files; the registry."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributions import Independent, Laplace, Normal, kl_divergence

from dwp import init_, make_bayesian
from dwp.bayes import kl as bayesian_kl
from dwp.distributions import GaussianPosterior
from dwp.errors import InputError
from dwp.priors import Prior, base, find, load_prior, register, save_prior
from dwp.priors.base import collection
from dwp.priors.empirical import Empirical
from dwp.priors.log_uniform import LogUniform
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE

ERRORS = 4  # standard errors by which a Monte Carlo estimate may miss


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def posterior(n=20, k=3, seed=0, dtype=torch.float64):
    generator = seeded(seed)
    mean = torch.randn(n, 1, k, k, dtype=dtype, generator=generator)
    return GaussianPosterior(mean, torch.randn(n, 1, k, k, dtype=dtype, generator=generator) - 2)


def assert_mean(draws, expected, other_error=0.0):
    """The mean of draws is the expected number within the stated standard errors."""
    draws = torch.as_tensor(draws, dtype=torch.float64)
    error = math.hypot(draws.std().item() / math.sqrt(len(draws)), other_error)
    assert abs(draws.mean().item() - float(expected)) < ERRORS * error


# Posterior


def test_entropy_and_alpha():
    q = posterior()
    scale = (q.log_variance / 2).exp()
    assert q.entropy().item() == pytest.approx(Normal(q.mean, scale).entropy().sum().item(), rel=1e-12)
    torch.testing.assert_close(q.log_alpha().exp(), scale**2 / q.mean**2, rtol=1e-9, atol=0)
    assert len(q) == 20
    assert torch.equal(q[torch.tensor([3, 1])].mean, q.mean[[3, 1]])


def test_samples_of_the_posterior():
    torch.manual_seed(0)
    q = GaussianPosterior(torch.full((20_000, 1, 1, 1), 0.3), torch.full((20_000, 1, 1, 1), math.log(4.0)))
    assert scipy.stats.kstest(q.rsample().flatten().numpy(), "norm", (0.3, 2)).pvalue > 1e-3


# Standard normal


@pytest.mark.parametrize("scale", [1.0, 0.05, 7.0])
def test_standard_normal_density_and_samples(scale):
    prior = StandardNormal(3, scale=scale)
    w = posterior().mean
    expected = scipy.stats.norm(scale=scale).logpdf(w.numpy()).sum((1, 2, 3))
    np.testing.assert_allclose(prior.log_prob(w).numpy(), expected, rtol=1e-12)
    draws = prior.sample(1000, seeded())
    assert draws.shape == (1000, 1, 3, 3)
    assert scipy.stats.kstest(draws.flatten().numpy(), "norm", (0, scale)).pvalue > 1e-3
    assert torch.equal(draws, prior.sample(1000, seeded()))


@pytest.mark.parametrize("scale", [1.0, 0.2, 3.0])
def test_standard_normal_kl(scale):
    prior, q = StandardNormal(3, scale=scale), posterior()
    exact = kl_divergence(
        Normal(q.mean, (q.log_variance / 2).exp()), Normal(0.0, torch.tensor(scale, dtype=torch.float64))
    )
    assert prior.kl(q).item() == pytest.approx(exact.sum().item(), rel=1e-10)
    torch.manual_seed(0)
    for subset in (None, 7, 1, 20, 99):
        assert_mean([Prior.kl(prior, q, subset) for _ in range(2000)], exact.sum())


# Log-uniform


def exact_log_uniform_kl(alpha):
    """Integrate KL(N(1, alpha) || log-uniform), with the constant that makes it vanish for alpha → ∞."""
    root = math.sqrt(alpha)
    zero = -1 / root

    def integrand(z):
        return scipy.stats.norm.pdf(z) * math.log(max(abs(1 + root * z), 1e-300))

    ends = [-12.0, zero, 12.0] if zero > -12 else [-12.0, 12.0]
    pieces = [scipy.integrate.quad(integrand, *piece, limit=500)[0] for piece in pairwise(ends)]
    return (np.euler_gamma + math.log(2)) / 2 - 0.5 * math.log(alpha) + sum(pieces)


def log_uniform_kl(approximation, alpha, mean=1.0, dtype=torch.float64):
    alpha, mean = (torch.tensor(value, dtype=dtype).view(1, 1, 1, 1) for value in (alpha, mean))
    return LogUniform(1, approximation=approximation).kl(
        GaussianPosterior(mean, alpha.log() + 2 * mean.abs().log())
    )


@pytest.mark.parametrize("alpha", np.logspace(-5, 5, 11))
def test_molchanov_against_the_integral(alpha):
    # Off by less than 0.01 nats over the whole range.
    assert log_uniform_kl("molchanov", alpha).item() == pytest.approx(exact_log_uniform_kl(alpha), abs=0.01)


@pytest.mark.parametrize("alpha", [1e-5, 1e-3, 0.01, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0])
def test_kingma_against_the_integral(alpha):
    # Without the constant; off by at most 0.041 nats (its worst at alpha = 1) for alpha <= 1.
    constant = (np.euler_gamma + math.log(2)) / 2
    expected = exact_log_uniform_kl(alpha) - constant
    assert log_uniform_kl("kingma", alpha).item() == pytest.approx(expected, abs=0.041)


@pytest.mark.parametrize("approximation", ["kingma", "molchanov"])
def test_log_uniform_depends_on_alpha_alone_and_sums(approximation):
    values = [log_uniform_kl(approximation, 0.3, mean).item() for mean in (1.0, -0.01, 25.0)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-8)
    prior, q = LogUniform(3, approximation=approximation), posterior()
    one_by_one = [prior.kl(q[torch.tensor([index])]).item() for index in range(len(q))]
    assert prior.kl(q).item() == pytest.approx(sum(one_by_one), rel=1e-10)
    assert prior.kl(q, subset=3).item() == prior.kl(q).item()


@pytest.mark.parametrize("approximation", ["kingma", "molchanov"])
@pytest.mark.parametrize("log_variance", [-80.0, -10.0, 0.0, 20.0, 80.0])
@pytest.mark.parametrize("mean", [0.0, 1e-20, 1e-4, 1.0, 1e3])
def test_log_uniform_gradient_at_extremes(approximation, log_variance, mean):
    mean = torch.full((1, 1, 1, 1), mean, requires_grad=True)
    log_variance = torch.full((1, 1, 1, 1), log_variance, requires_grad=True)
    value = LogUniform(1, approximation=approximation).kl(GaussianPosterior(mean, log_variance))
    value.backward()
    assert all(math.isfinite(number.item()) for number in (value, mean.grad, log_variance.grad))


def test_log_uniform_refusals():
    with pytest.raises(InputError, match="'exact' is not known; use kingma or molchanov"):
        LogUniform(3, approximation="exact")
    with pytest.raises(InputError, match="log_uniform cannot be sampled from"):
        LogUniform(3).sample(2)
    with pytest.raises(InputError, match="log_uniform has no density"):
        LogUniform(3).log_prob(torch.zeros(1, 1, 3, 3))
    with pytest.raises(InputError, match="log_uniform has nothing to fit"):
        LogUniform.fit(torch.zeros(1), torch.zeros(1), {})


# VAE


def vae(k=3, hidden=6, latent=1, seed=0, **settings):
    """A VAE at random, its decoder strong enough for the latent code to matter."""
    torch.manual_seed(seed)
    prior = VAE(k, hidden=hidden, latent=latent, **settings)
    with torch.no_grad():
        for parameter in prior.decoder.parameters():
            parameter *= 2
    return prior.requires_grad_(False)


@pytest.fixture(scope="module")
def kernels():
    return torch.randn(12, 1, 3, 3, generator=seeded(5))


def log_marginal(prior, w):
    """Integrate p(w|z) p(z) over a grid of one-dimensional z; exact to rounding."""
    z = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    mean, variance = prior.decode(z.float()[:, None])
    density = Independent(Normal(mean.double(), variance.double().sqrt()), 3)
    log_joint = torch.stack([density.log_prob(kernel.double()) for kernel in w]) + Normal(0.0, 1.0).log_prob(
        z
    )
    return torch.logsumexp(log_joint, 1) + math.log(18 / 1000)


@pytest.mark.parametrize("k", [3, 5, 7, 9, 11])
def test_vae_shapes(k):
    prior = VAE(k, hidden=4, latent=3)
    mean, variance = prior.encode(torch.randn(6, 1, k, k))
    assert mean.shape == variance.shape == (6, 3)
    location, spread = prior.decode(mean)
    assert location.shape == spread.shape == (6, 1, k, k)
    assert bool((variance > 0).all() and (spread > 0).all())
    assert prior.log_prob(torch.randn(6, 1, k, k)).shape == (6,)
    assert prior.sample(5).shape == prior.sample(5, mean=True).shape == (5, 1, k, k)


def test_vae_architecture_is_the_papers():
    layers = [
        (m.in_channels, m.out_channels, m.kernel_size[0])
        for m in VAE(7, 32, 2).encoder
        if hasattr(m, "weight")
    ]
    assert layers == [(1, 32, 3), (32, 64, 3), (64, 64, 3), (64, 4, 1)]
    layers = [
        (m.in_channels, m.out_channels, m.padding[0]) for m in VAE(5, 64, 4).encoder if hasattr(m, "weight")
    ]
    assert layers == [(1, 64, 1), (64, 64, 1), (64, 128, 0), (128, 128, 0), (128, 8, 0)]


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_vae_refuses_sizes_that_it_cannot_build(k):
    with pytest.raises(InputError, match=f"kernel size {k} cannot be built; it takes odd sizes from 3"):
        VAE(k, hidden=4, latent=2)


def test_vae_elbo_terms(kernels):
    prior = vae(latent=4)
    torch.manual_seed(0)
    log_likelihood, kl = prior.elbo_terms(kernels, seeded(1))
    mean, variance = prior.encode(kernels)
    reverse = Normal(mean, variance.sqrt())
    torch.testing.assert_close(kl, kl_divergence(reverse, Normal(0.0, 1.0)).sum(1))
    z = mean + variance.sqrt() * torch.randn(mean.shape, generator=seeded(1))
    location, spread = prior.decode(z)
    torch.testing.assert_close(
        log_likelihood, Independent(Normal(location, spread.sqrt()), 3).log_prob(kernels)
    )


def test_vae_bounds_grow_with_their_samples_and_stay_below_the_density(kernels):
    exact = log_marginal(vae(), kernels)
    torch.manual_seed(0)
    means, errors = [], []
    for samples in (1, 10, 1000):
        prior = vae(importance_samples=samples)
        torch.manual_seed(0)
        draws = torch.stack([prior.log_prob(kernels).double() for _ in range(2000 // samples + 30)])
        means.append(draws.mean(0))
        errors.append(draws.std(0) / math.sqrt(len(draws)))
    for mean, error in zip(means, errors, strict=True):
        assert bool((mean <= exact + ERRORS * error).all())
    for low, high in ((0, 1), (1, 2)):
        error = (errors[low] ** 2 + errors[high] ** 2).sum().sqrt()
        assert (means[high] - means[low]).sum() > ERRORS * error
    # A thousand samples close nearly all of the gap.
    assert (exact - means[2]).sum() < 0.1 * (exact - means[0]).sum()


def test_vae_samples_are_decoded_codes_with_the_decoders_noise():
    prior = vae(latent=2)
    w, mean = prior.sample(500, seeded()), prior.sample(500, seeded(), mean=True)
    location, variance = prior.decode(torch.randn(500, 2, generator=seeded()))
    assert torch.equal(mean, location)
    noise = ((w - mean) / variance.sqrt()).flatten().numpy()
    assert scipy.stats.kstest(noise, "norm").pvalue > 1e-3
    assert location.std(0).min() > 0.01, "the code matters"


@pytest.mark.parametrize("samples", [1, 5])
def test_vae_kl_from_a_subset_is_unbiased(samples):
    prior, q = vae(latent=2, importance_samples=samples), posterior(n=16, dtype=torch.float32)
    torch.manual_seed(0)
    full = torch.tensor([prior.kl(q) for _ in range(600)])
    error = full.std().item() / math.sqrt(len(full))
    for subset in (3, 15):
        assert_mean([prior.kl(q, subset) for _ in range(600)], full.mean(), error)
    assert_mean([prior.kl(q, 16) for _ in range(600)], full.mean(), error)


def test_vae_kl_is_an_upper_bound(kernels):
    # Of a posterior so narrow that the cross-entropy is the density at its mean.
    prior = vae()
    q = GaussianPosterior(kernels, torch.full_like(kernels, -30.0))
    exact = -log_marginal(prior, kernels).sum() - q.entropy()
    torch.manual_seed(0)
    draws = torch.tensor([prior.kl(q) for _ in range(500)])
    assert draws.mean() > exact


def gaussian_kernels(n, seed, spread=0.1):
    """Kernels that vary by 1 along one direction and by `spread` in all; and their entropy."""
    direction = torch.tensor([[1.0, 0.5, 0.0], [0.5, 0.0, -0.5], [0.0, -0.5, -1.0]])
    code = torch.randn(n, 1, 1, 1, generator=seeded(seed))
    w = code * direction + spread * torch.randn(n, 1, 3, 3, generator=seeded(seed + 1))
    covariance = direction.flatten()[:, None] * direction.flatten() + spread**2 * torch.eye(9)
    return w, 0.5 * torch.logdet(2 * math.pi * math.e * covariance.double()).item()


FIT = {"hidden": 8, "latent": 1, "schedule": {"lr": 0.01, "epochs": 25, "batch": 128, "precision": "float32"}}


@pytest.fixture(scope="module")
def fitted():
    train, entropy = gaussian_kernels(4000, 0)
    test, _ = gaussian_kernels(2000, 7)
    prior, rows = VAE.fit(train, test, FIT, seed=0)
    return prior, rows, test, entropy


def test_a_fitted_vae_approaches_the_negative_entropy_from_below(fitted):
    prior, rows, test, entropy = fitted
    elbo = [row["value"] for row in rows if row["metric"] == "elbo"]
    error = prior.log_prob(test).std().item() / math.sqrt(len(test))
    assert -entropy - 0.5 < elbo[-1] < -entropy + ERRORS * error
    # The code is worth more than two nats: without it, each weight would be Gaussian by itself.
    alone = -sum(0.5 * math.log(2 * math.pi * math.e * v) for v in test.var(0).flatten().tolist())
    assert alone < -entropy - 4
    assert elbo[-1] > alone + 2
    assert elbo[0] < elbo[-1] - 1


def test_a_fitted_vae_draws_such_kernels(fitted):
    prior, _, test, _ = fitted
    draws = prior.sample(4000, seeded())
    assert draws.mean().item() == pytest.approx(test.mean().item(), abs=0.05)
    correlation = np.corrcoef(draws[:, 0, 0, 0].numpy(), draws[:, 0, 2, 2].numpy())[0, 1]
    assert correlation < -0.9
    assert draws[:, 0, 0, 0].std().item() == pytest.approx(1, abs=0.15)


def test_the_history_of_a_fit(fitted):
    _, rows, _, _ = fitted
    steps = sorted({row["step"] for row in rows})
    assert steps == list(range(0, 25 * 32 + 1, 32))
    assert {row["metric"] for row in rows} == {"elbo", "log_likelihood", "kl", "train_elbo"}
    last = {row["metric"]: row["value"] for row in rows if row["step"] == steps[-1]}
    assert last["elbo"] == pytest.approx(last["log_likelihood"] - last["kl"], rel=1e-6)
    assert last["kl"] > 0.5


def test_fits_repeat_and_leave_the_global_generator_alone():
    train, _ = gaussian_kernels(200, 0)
    short = FIT | {"schedule": FIT["schedule"] | {"epochs": 2}}
    state = torch.get_rng_state()
    first, other, again = (VAE.fit(train, train, short, seed=seed) for seed in (3, 4, 3))
    assert torch.equal(state, torch.get_rng_state())
    assert first[1] == again[1] != other[1]
    assert all(map(torch.equal, first[0].state_dict().values(), again[0].state_dict().values()))
    assert short["schedule"]["epochs"] == 2, "settings are the caller's"


def test_evaluation_is_repeatable_whatever_the_chunk(kernels):
    prior = vae()
    found = prior.evaluate(kernels)
    torch.rand(5)
    assert prior.evaluate(kernels) == found
    assert prior.evaluate(kernels, chunk=5) == pytest.approx(found, rel=1e-5)


# Empirical


def test_empirical_draws_are_kernels_equally_often(kernels):
    prior, rows = Empirical.fit(kernels, kernels[:2], {}, seed=0)
    assert rows == []
    draws = prior.sample(6000, seeded())
    counts = np.array([(draws == kernel).flatten(1).all(1).sum().item() for kernel in kernels])
    assert counts.sum() == 6000
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    with pytest.raises(InputError, match="empirical has no density"):
        prior.kl(posterior())


# Files

KINDS = {
    "standard_normal": lambda: StandardNormal(5, scale=0.3),
    "log_uniform": lambda: LogUniform(7, approximation="molchanov"),
    "vae": lambda: vae(5, latent=2, importance_samples=3),
    "empirical": lambda: Empirical.fit(torch.randn(9, 1, 3, 3), torch.zeros(1, 1, 3, 3), {})[0],
}


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(tmp_path, kind):
    prior, path = KINDS[kind](), tmp_path / "prior.safetensors"
    save_prior(prior, path)
    again = load_prior(path)
    assert type(again) is type(prior)
    assert (again.kernel_size, again.settings) == (prior.kernel_size, prior.settings)
    state, loaded = prior.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[name], loaded[name]) for name in state)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    if kind != "log_uniform":
        assert torch.equal(prior.sample(4, seeded()), again.sample(4, seeded()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_prior_gives_the_same_bytes(tmp_path, kind):
    prior = KINDS[kind]()
    for number in range(10):
        save_prior(prior, tmp_path / f"{number}.safetensors")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_files_that_are_no_priors_are_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    with pytest.raises(InputError, match=r"there is no file .*prior\.safetensors"):
        load_prior(path)
    save_prior(vae(5), path)
    content = path.read_bytes()
    for damage in (b"", content[:20], content[: len(content) // 2], b"not a prior" * 50):
        path.write_bytes(damage)
        with pytest.raises(InputError, match=r"prior\.safetensors cannot be read as safetensors"):
            load_prior(path)
    save_file({"conv.weight": torch.zeros(2)}, path)
    with pytest.raises(
        InputError, match=r"prior\.safetensors is not a prior of this library \(format None\)"
    ):
        load_prior(path)


def test_priors_with_other_tensors_are_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    save_prior(vae(5), path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = sorted(tensors)[0]
    for wrong in (
        {key: value for key, value in tensors.items() if key != name},
        tensors | {name: torch.zeros(1)},
        tensors | {"more": torch.zeros(1)},
    ):
        save_file(wrong, path, metadata)
        with pytest.raises(InputError, match=r"prior\.safetensors does not hold a vae"):
            load_prior(path)


def test_collection(tmp_path):
    network = {"layers": [{"conv": 2, "kernel": 5}, {"conv": 2, "kernel": 3}, {"linear": 4}]}
    files = [tmp_path / f"my-vae-{k}x{k}.safetensors" for k in (5, 3)]
    for k, file in zip((5, 3), files, strict=True):
        save_prior(vae(k), file)
    priors = collection(files, {"wide": {"kind": "standard_normal", "scale": 3.0}}, network)
    assert {name: sorted(sizes) for name, sizes in priors.items()} == {"my-vae": [3, 5], "wide": [3, 5]}
    assert all(size == prior.kernel_size for sizes in priors.values() for size, prior in sizes.items())
    assert priors["wide"][5].scale == 3.0


# The registry


def test_unknown_kinds_name_the_known_ones():
    for kind in ("gauss", "base", "empirical2"):
        with pytest.raises(
            InputError, match=f"kind '{kind}' is not known; use one of .*standard_normal, vae"
        ):
            find(kind)
    assert find("vae") is VAE


def test_a_new_kind_needs_no_other_change(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_kinds", dict(base._kinds))

    @register("laplace")
    class LaplacePrior(Prior):
        def __init__(self, kernel_size, scale):
            super().__init__(kernel_size, scale=scale)
            self.register_buffer("scale", torch.tensor(scale))

        def log_prob(self, w):
            return Laplace(0.0, self.scale).log_prob(w).flatten(1).sum(1)

        def sample(self, n, generator=None, *, mean=False):
            uniform = torch.rand(n, 1, self.kernel_size, self.kernel_size, generator=generator) - 0.5
            return -self.scale * uniform.sign() * torch.log1p(-2 * uniform.abs())

    save_prior(LaplacePrior(3, scale=0.5), tmp_path / "p.safetensors")
    prior = load_prior(tmp_path / "p.safetensors")
    assert isinstance(prior, find("laplace"))
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 40, 3), torch.nn.ReLU(), torch.nn.Conv2d(40, 8, 3))
    assert init_(model, [prior], generator=seeded()) == ["0", "2"]
    weights = torch.cat([model[0].weight.flatten(), model[2].weight.flatten()]).detach().numpy()
    assert scipy.stats.kstest(weights, "laplace", (0, 0.5)).pvalue > 1e-3
    make_bayesian(model, {3: prior})
    # E|w| under a posterior this narrow is |mean|: the cross-entropy is known.
    cross_entropy = (np.abs(weights) / 0.5 + math.log(2 * 0.5)).sum()
    entropy = sum(layer.kernels().entropy().item() for layer in (model[0], model[2]))
    torch.manual_seed(0)
    assert_mean([bayesian_kl(model).item() for _ in range(200)], cross_entropy - entropy, 0.02)
