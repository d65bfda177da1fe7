"""Fits of the VAE over kernels: bounds, validation, reproducibility."""

import math

import numpy as np
import pytest
import torch
from prior_helpers import ERRORS, gaussian_kernels, seeded

from dwp.priors.vae import VAE

CODES = ["standard_normal", "vamp"]

EPOCHS = 15
FIT = {
    "hidden": 8,
    "latent": 1,
    "schedule": {"lr": 0.01, "epochs": EPOCHS, "batch": 128, "precision": "float32"},
}


@pytest.fixture(scope="module", params=CODES)
def fitted(request):
    train, entropy = gaussian_kernels(4000, 0)
    test, _ = gaussian_kernels(2000, 7)
    settings = FIT | {"code_prior": request.param, "pseudo_inputs": 60}
    prior, rows = VAE.fit(train, test, settings, seed=0)
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
    assert steps == list(range(0, EPOCHS * 32 + 1, 32))
    assert {row["metric"] for row in rows} == {"elbo", "log_likelihood", "kl", "train_elbo"}
    last = {row["metric"]: row["value"] for row in rows if row["step"] == steps[-1]}
    assert last["elbo"] == pytest.approx(last["log_likelihood"] - last["kl"], rel=1e-6)
    assert last["kl"] > 0.5


def test_validation_keeps_a_vae_from_learning_few_kernels_by_heart():
    few, _ = gaussian_kernels(20, 0)
    test, _ = gaussian_kernels(2000, 7)
    long = FIT | {"hidden": 32, "schedule": FIT["schedule"] | {"epochs": 400, "decay": "constant"}}
    last, _ = VAE.fit(few, test, long, seed=0)
    best, rows = VAE.fit(few, test, long | {"validation_fraction": 0.3}, seed=0)
    judged = {name: prior.evaluate(test)["elbo"] for name, prior in (("last", last), ("best", best))}
    assert judged["last"] < judged["best"] - 2
    validation = {row["step"]: row["value"] for row in rows if row["metric"] == "validation_elbo"}
    chosen = max(validation, key=validation.get)
    held_out = {row["step"]: row["value"] for row in rows if row["metric"] == "elbo"}
    assert 0 < chosen < max(validation)
    assert judged["best"] == pytest.approx(held_out[chosen], rel=1e-6)


def test_validation_takes_its_share_of_the_training_kernels_and_none_of_the_held_out():
    train, _ = gaussian_kernels(40, 0)
    settings = FIT | {"schedule": {"lr": 1e-12, "epochs": 1, "batch": None}}
    seen = []

    class Watched(VAE):
        def evaluate(self, w, chunk=8192):
            seen.append(w.clone())
            return super().evaluate(w, chunk)

        def elbo_terms(self, w, generator=None):
            if generator is None:
                seen.append(w.clone())
            return super().elbo_terms(w, generator)

    Watched.fit(train, train[:3] + 1, settings | {"validation_fraction": 0.25}, seed=0)
    test, validation, minibatch = seen[:3]
    assert torch.equal(test, train[:3] + 1)
    assert (len(validation), len(minibatch)) == (10, 30)
    both = torch.cat([validation, minibatch]).flatten(1)
    assert torch.equal(both.unique(dim=0), train.flatten(1).unique(dim=0))


def test_fits_repeat_and_leave_the_global_generator_alone():
    train, _ = gaussian_kernels(200, 0)
    short = FIT | {"schedule": FIT["schedule"] | {"epochs": 2}}
    state = torch.get_rng_state()
    first, other, again = (VAE.fit(train, train, short, seed=seed) for seed in (3, 4, 3))
    assert torch.equal(state, torch.get_rng_state())
    assert first[1] == again[1] != other[1]
    assert all(map(torch.equal, first[0].state_dict().values(), again[0].state_dict().values()))
    assert short["schedule"]["epochs"] == 2, "settings are the caller's"


def test_pseudo_kernels_start_as_training_kernels_and_are_learned():
    train, _ = gaussian_kernels(7, 0)
    still = FIT | {"code_prior": "vamp", "pseudo_inputs": 10}
    still["schedule"] = FIT["schedule"] | {"lr": 1e-12, "epochs": 1}
    pseudo = VAE.fit(train, train, still, seed=0)[0].pseudo
    distances = torch.cdist(pseudo.flatten(1), train.flatten(1))
    assert distances.min(1).values.max() < 1e-6
    assert set(distances.argmin(1).tolist()) == set(range(7)), "each of them, some twice"
    moving = still | {"schedule": FIT["schedule"] | {"epochs": 1}}
    assert not torch.allclose(VAE.fit(train, train, moving, seed=0)[0].pseudo, pseudo, atol=1e-3)
