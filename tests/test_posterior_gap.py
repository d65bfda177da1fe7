"""Variational inference against Hamiltonian Monte Carlo: coordinates, density, chains and tables."""

import json
import math

import pytest
import torch
from torch.nn import functional

from benchmarks import coordinates, posterior_gap
from benchmarks.posteriors import Problem
from dwp.errors import InputError
from dwp.priors.base import save_prior
from dwp.priors.gaussian import Gaussian
from dwp.priors.log_uniform import LogUniform
from dwp.priors.mixture import Mixture
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE

TINY = ["--splits", "0", "1", "--examples", "10", "--test-images", "20", "--channels", "2", "2"]
TINY += ["--steps", "3", "--members", "2", "--chains", "2", "--warmup", "2", "--samples", "8"]


def gaussian(size):
    torch.manual_seed(0)
    prior = Gaussian(size).double()
    prior.mean.copy_(0.1 * torch.randn(size**2))
    prior.factor.copy_(0.1 * torch.eye(size**2) + 0.02 * torch.randn(size**2, size**2).tril())
    return prior


def mixture():
    torch.manual_seed(0)
    prior = Mixture(2, components=2, norms=3).double()
    prior.whitening.add_(0.3 * torch.randn(2, 4, 4).tril(-1))
    prior.shift.copy_(torch.randn(2, 4))
    prior.log_weights.copy_(torch.randn(2, 3).flatten().log_softmax(0).view(2, 3))
    prior.log_norm.copy_(torch.tensor([-1.0, 0.0, 0.5]))
    prior.log_norm_std.copy_(torch.tensor([0.3, 0.5, 0.2]))
    return prior


def vae():
    torch.manual_seed(0)
    return VAE(3, hidden=4, latent=2).double().requires_grad_(False)


PRIORS = {
    "gaussian": gaussian(3),
    "standard_normal": StandardNormal(3, 0.2),
    "mixture": mixture(),
    "vae": vae(),
}


@pytest.mark.parametrize("name", PRIORS)
def test_coordinates_lead_back_to_the_kernels(name):
    prior = PRIORS[name]
    found = coordinates.of_prior(prior)
    w = prior.sample(6, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.kernels(found.at(w)), w)


@pytest.mark.parametrize("name", ["gaussian", "standard_normal"])
def test_affine_coordinates_have_the_density_of_the_prior_up_to_a_constant(name):
    prior = PRIORS[name]
    found = coordinates.of_prior(prior)
    place = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    place = place.to(prior.sample(1).dtype)
    difference = torch.stack(
        [found.log_prob(one[None]) - prior.log_prob(found.kernels(one[None]))[0] for one in place]
    )
    torch.testing.assert_close(difference, difference[:1].expand(5))


def test_the_length_of_a_mixtures_direction_integrates_out():
    prior = PRIORS["mixture"]
    found = coordinates.of_prior(prior)
    w = prior.sample(5, torch.Generator().manual_seed(1))
    lengths = torch.linspace(1e-3, 15, 4001, dtype=torch.float64)
    differences = []
    for place, log_norm in zip(found.at(w), w.flatten(1).norm(dim=1).log(), strict=True):
        unit = place[1:] / (found.factor @ place[1:]).norm()
        density = [
            found.log_prob(torch.cat([place[:1], length * unit])[None]) + 3 * length.log()
            for length in lengths
        ]
        integral = torch.logsumexp(torch.stack(density), 0)
        differences.append(integral - 4 * log_norm)
    difference = torch.stack(differences) - prior.log_prob(w)
    torch.testing.assert_close(difference, difference[:1].expand(5), rtol=0, atol=1e-3)


def test_codes_have_the_joint_density_of_kernel_and_code():
    prior = PRIORS["vae"]
    found = coordinates.of_prior(prior)
    place = torch.randn(1, 2 + 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    mean, variance = prior.decode(place[:, :2])
    joint = torch.distributions.Normal(mean, variance.sqrt()).log_prob(found.kernels(place)).sum()
    joint += torch.distributions.Normal(0.0, 1.0).log_prob(place[:, :2]).sum()
    # The change of variables: the weights are wider than x by the deviations.
    expected = joint + 0.5 * variance.log().sum() + 0.5 * 9 * math.log(2 * math.pi)
    torch.testing.assert_close(found.log_prob(place), expected)


def test_a_prior_without_coordinates_is_refused():
    with pytest.raises(InputError, match="no coordinates for a log_uniform; give one of gaussian"):
        coordinates.of_prior(LogUniform(5))


@pytest.fixture
def files(tmp_path):
    paths = []
    for size in (7, 5):
        paths.append(str(tmp_path / f"gaussian-{size}x{size}.safetensors"))
        save_prior(gaussian(size).float(), paths[-1])
    return paths


def test_the_potential_is_the_joint_density(files):
    arguments = posterior_gap.parser().parse_args(["--priors", *files, *TINY])
    problem = Problem(arguments, 0, posterior_gap.load(files)["gaussian"])
    potentials, expected = [], []
    for stream in range(2):
        model = problem.draw(stream)
        potentials.append(problem.potential(problem.place(model)))
        density = -functional.cross_entropy(model(problem.images), problem.labels, reduction="sum")
        for layer, prior in problem.priors.items():
            density += prior.log_prob(
                model.get_submodule(layer).weight.reshape(-1, 1, *[prior.kernel_size] * 2)
            ).sum()
        expected.append(-density)
    torch.testing.assert_close(potentials[0] - potentials[1], expected[0] - expected[1], rtol=1e-4, atol=1e-2)


def test_without_information_hmc_samples_from_the_prior(files):
    pytest.importorskip("pyro")
    words = ["--priors", *files, *TINY[:-4], "--warmup", "20", "--samples", "20"]
    arguments = posterior_gap.parser().parse_args(words)
    problem = Problem(arguments, 0, posterior_gap.load(files)["gaussian"])
    problem.images = torch.zeros_like(problem.images)
    samples, acceptance = problem.chain(problem.draw(0), seed=0)
    place = torch.cat([samples[layer].flatten(1) for layer in problem.priors], 1)[10:]
    assert acceptance > 0.5
    assert place.square().mean() == pytest.approx(1, abs=0.1)


def test_every_method_is_measured_once(files, capsys, tmp_path):
    pytest.importorskip("pyro")
    words = ["--priors", *files, *TINY, "--rows", str(tmp_path / "rows.jsonl")]
    posterior_gap.main(words)
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * 2 * 7
    for one in rows:
        assert 0 <= one["accuracy"] <= 1
        assert f"| {one['prior']} | {one['method']} | 2 |" in printed
    assert "| gaussian, mean field | gaussian, HMC | 2 |" in printed
    assert "| gaussian, HMC | standard_normal, HMC | 2 |" in printed
    posterior_gap.main(words)
    assert capsys.readouterr().out == printed
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == len(rows)


def test_the_interval_is_student_s():
    # t of 2 degrees of freedom is 4.303, and the standard deviation of the mean 1/√3.
    assert posterior_gap.interval([1.0, 2.0, 3.0]) == "+2.000 [-0.484, +4.484]"


def test_a_prior_of_one_size_is_refused(files):
    with pytest.raises(SystemExit, match=r"gaussian has kernel sizes \[7\]; give 5 and 7"):
        posterior_gap.main(["--priors", files[0]])
