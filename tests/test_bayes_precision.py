"""Bayesian models in every precision: casts before and after conversion, extreme variances."""

import copy

import pytest
import torch
from bayesian_samples import PRIORS, small_net
from prior_helpers import vae
from torch import nn
from torch.distributions import Normal, kl_divergence

import dwp
from dwp import make_bayesian, predict
from dwp.bayes import objectives
from dwp.bayes.settings import FORMS
from dwp.priors.standard_normal import StandardNormal

CASTS = [
    lambda net: make_bayesian(net, MIXED).half(),
    lambda net: make_bayesian(net.half(), MIXED),
    lambda net: make_bayesian(net, MIXED).bfloat16(),
    lambda net: make_bayesian(net.bfloat16(), MIXED),
    lambda net: make_bayesian(net, MIXED).double(),
    lambda net: make_bayesian(net.double(), MIXED),
]
MIXED = {3: vae(3), 5: StandardNormal(5)}


@pytest.mark.parametrize("cast", CASTS)
def test_models_of_every_precision(cast):
    model = cast(small_net())
    dtype = model.classifier.weight.dtype
    x = torch.randn(4, 1, 12, 12).to(dtype)
    value, terms = objectives.elbo(model, 10)(x, torch.arange(4))
    value.backward()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert terms["kl"].dtype == value.dtype == wide
    assert terms["kl"].shape == ()
    for parameter in model.parameters():
        assert parameter.dtype == parameter.grad.dtype == dtype
        assert parameter.grad.isfinite().all()
    members = predict(model, x, 2)
    assert members.dtype == torch.float64
    torch.testing.assert_close(members.sum(2), torch.ones(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("prior_dtype", [torch.float16, torch.float32, torch.float64])
def test_costs_are_computed_in_the_dtype_of_the_prior(form, dtype, prior_dtype):
    given = vae(3).to(prior_dtype)
    model = make_bayesian(nn.Sequential(nn.Conv2d(2, 3, 3)).to(dtype), given, form)
    found = dwp.kl(model)
    assert found.dtype == torch.promote_types(prior_dtype, torch.float32)
    found.backward()
    # The same parameters in that dtype throughout, without casts in between.
    exact = copy.deepcopy(model).to(found.dtype)
    torch.manual_seed(0)
    found = dwp.kl(model)
    torch.manual_seed(0)
    torch.testing.assert_close(found, dwp.kl(exact), rtol=1e-6, atol=0)
    assert given.encoder[0].weight.dtype == prior_dtype


@pytest.mark.parametrize("form", ["additive", "truncated_alpha"])
@pytest.mark.parametrize("after", [False, True])
def test_a_double_model_with_an_analytic_prior_is_exact(form, after):
    net = nn.Sequential(nn.Conv2d(2, 3, 3))
    model = (
        make_bayesian(net, PRIORS[3], form).double()
        if after
        else make_bayesian(net.double(), PRIORS[3], form)
    )
    mean, log_variance = model[0].posterior.moments()
    q = Normal(mean, (log_variance / 2).exp())
    expected = kl_divergence(q, Normal(torch.zeros((), dtype=torch.float64), 1.0)).sum()
    torch.testing.assert_close(dwp.kl(model), expected, rtol=1e-13, atol=0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3)).double()
    point = make_bayesian(net, PRIORS[3], "point")
    expected = -Normal(0.0, torch.ones((), dtype=torch.float64)).log_prob(point[0].posterior.value).sum()
    torch.testing.assert_close(dwp.kl(point), expected, rtol=1e-13, atol=0)
