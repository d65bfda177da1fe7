"""Coordinates of priors for samplers: inverses, densities, and a chain under heavy tails."""

import math

import pytest
import torch
from prior_helpers import seeded
from torch.distributions import Normal

from dwp.bayes.coordinates import of_prior
from dwp.bayes.hmc import HMC, Chain
from dwp.errors import InputError
from dwp.priors.empirical import Empirical
from dwp.priors.gaussian import Gaussian
from dwp.priors.log_uniform import LogUniform
from dwp.priors.mixture import Mixture
from dwp.priors.pairwise_augmented_gan import PairwiseAugmentedGAN
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.student_t import StudentT
from dwp.priors.vae import VAE
from dwp.priors.whitened_vae import WhitenedVAE


def gaussian(size):
    torch.manual_seed(0)
    prior = Gaussian(size).double()
    prior.mean.copy_(0.1 * torch.randn(size**2))
    prior.factor.copy_(0.1 * torch.eye(size**2) + 0.02 * torch.randn(size**2, size**2).tril())
    return prior


def student_t(freedom=1.5):
    prior, like = StudentT(3).double(), gaussian(3)
    prior.mean.copy_(like.mean)
    prior.factor.copy_(like.factor)
    prior.freedom.fill_(freedom)
    return prior


def mixture():
    torch.manual_seed(0)
    prior = Mixture(2, components=2, norms=3).double()
    prior.whitening.add_(0.3 * torch.randn(2, 4, 4).tril(-1))
    prior.shift.copy_(torch.randn(2, 4))
    prior.log_norm.copy_(torch.tensor([-1.0, 0.0, 0.5]))
    prior.log_norm_std.copy_(torch.tensor([0.3, 0.5, 0.2]))
    return prior


def vae(**settings):
    torch.manual_seed(0)
    return VAE(3, hidden=4, latent=2, **settings).double().requires_grad_(False)


def whitened():
    prior = WhitenedVAE(3, hidden=4, latent=2).double().requires_grad_(False)
    prior.vae = vae()
    prior.mean.copy_(torch.linspace(-0.2, 0.3, 9))
    draws = 0.2 * torch.randn(9, 9, generator=seeded(5), dtype=torch.double)
    prior.root.copy_(draws @ draws.T + 0.1 * torch.eye(9))
    return prior


PRIORS = {
    "gaussian": gaussian(3),
    "standard_normal": StandardNormal(3, 0.2),
    "student_t": student_t(),
    "mixture": mixture(),
    "vae": vae(),
    "vamp": vae(code_prior="vamp", pseudo_inputs=3),
    "whitened_vae": whitened(),
}


@pytest.mark.parametrize("name", PRIORS)
def test_coordinates_lead_back_to_the_kernels(name):
    prior = PRIORS[name]
    found = of_prior(prior, prior.sample(1))
    w = prior.sample(6, seeded(1))
    torch.testing.assert_close(found.kernels(found.at(w)), w)


@pytest.mark.parametrize("name", ["gaussian", "standard_normal", "mixture"])
def test_linear_coordinates_have_the_density_of_the_prior_up_to_a_constant(name):
    prior = PRIORS[name]
    found = of_prior(prior, prior.sample(1))
    x = torch.randn(5, prior.kernel_size**2, dtype=prior.sample(1).dtype, generator=seeded(2))
    ratio = torch.stack([found.log_ratio(one[None]) for one in x]) if not found.exact else 0
    difference = prior.log_prob(found.kernels(x)) + 0.5 * x.square().sum(1) - ratio
    torch.testing.assert_close(difference, difference[:1].expand(5))


def test_scale_mixtures_have_the_density_of_a_student_t():
    prior = PRIORS["student_t"]
    found = of_prior(prior, prior.sample(1))
    w = prior.sample(3, seeded(1))
    centred = torch.linalg.solve_triangular(prior.factor, (w.flatten(1) - prior.mean).T, upper=False).T
    # The integral over η of the joint density of w and η; e is a multiple of the whitened kernel.
    eta = torch.linspace(-12, 8, 20_001, dtype=torch.double)[:, None]
    joint = []
    for one, kernel in zip(centred, w, strict=True):
        precision = (found.mean + found.deviation * eta).exp()
        x = torch.cat([one * precision.sqrt(), eta], 1)
        torch.testing.assert_close(found.kernels(x[:3]), kernel.expand(3, 1, 3, 3))
        ratio = torch.stack([found.log_ratio(point[None]) for point in x])
        change = 0.5 * 9 * precision.log()[:, 0]
        joint.append(torch.logsumexp(Normal(0.0, 1.0).log_prob(x).sum(1) + ratio + change, 0))
    difference = torch.stack(joint) - prior.log_prob(w)
    torch.testing.assert_close(difference, difference[:1].expand(3), rtol=0, atol=1e-6)


def test_a_chain_moves_under_heavy_tails():
    torch.manual_seed(0)
    found = of_prior(student_t(1.5), torch.zeros(1, dtype=torch.double))
    start = {"w": found.at(student_t(1.5).sample(200, seeded(1)))}
    chain = Chain(lambda point: -found.log_ratio(point["w"]), start, HMC(trajectory=1.5))
    for _ in range(30):
        chain.advance(adapt=True)
    draws = []
    accepted = 0.0
    for _ in range(100):
        accepted += chain.advance(adapt=False)
        draws.append((found.mean + found.deviation * chain.point["w"][:, -1]).exp())
    assert accepted > 50
    # λ ~ Gamma(0.75, rate 0.75): 20,000 correlated draws.
    below = (torch.stack(draws) < 1).double().mean().item()
    assert below == pytest.approx(
        torch.special.gammainc(torch.tensor(0.75), torch.tensor(0.75)).item(), abs=0.03
    )


@pytest.mark.parametrize("name", ["vae", "vamp"])
def test_codes_have_the_joint_density_of_kernel_and_code(name):
    prior = PRIORS[name]
    found = of_prior(prior, prior.sample(1))
    x = torch.randn(1, 2 + 9, dtype=torch.float64, generator=seeded(2))
    mean, variance = prior.decode(x[:, :2])
    joint = Normal(mean, variance.sqrt()).log_prob(found.kernels(x)).sum() + prior.code_log_prob(x[:, :2])
    # The change of variables: the weights are wider than the noise by the deviations.
    joint = joint + 0.5 * variance.log().sum()
    density = Normal(0.0, 1.0).log_prob(x).sum() + (0 if found.exact else found.log_ratio(x))
    constant = 0.0 if found.exact else math.log(2 * math.pi)
    torch.testing.assert_close(joint[0], density + constant)


def test_whitened_codes_are_the_codes_of_the_whitened_kernel():
    prior = PRIORS["whitened_vae"]
    found, inner = of_prior(prior, prior.sample(1)), of_prior(prior.vae, prior.sample(1))
    x = torch.randn(4, 2 + 9, dtype=torch.float64, generator=seeded(2))
    torch.testing.assert_close(prior.whiten(found.kernels(x)), inner.kernels(x))
    assert found.exact
    assert found.prior is prior


def test_a_prior_without_a_density_or_samples_has_no_coordinates():
    kernels = torch.randn(8, 1, 3, 3, generator=seeded(0))
    with pytest.raises(InputError, match="log_uniform"):
        of_prior(LogUniform(3), kernels)
    with pytest.raises(InputError, match="no density"):
        of_prior(Empirical.fit(kernels, kernels, {}, seed=0)[0], kernels)
    with pytest.raises(InputError, match="no density"):
        of_prior(PairwiseAugmentedGAN(3, hidden=4), kernels)
