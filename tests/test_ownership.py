"""Ownership of priors by a Bayesian model: copies that are not trained, saved or listed."""

import copy
import io
import pickle

import pytest
import torch
from network_samples import described
from prior_helpers import vae
from safetensors.torch import load_file, save_file
from torch import nn

from dwp import Noise, kl, make_bayesian, predict, set_noise
from dwp.bayes import layers
from dwp.bayes.layers import bayesian_layers
from dwp.bayes.settings import FORMS
from dwp.nn.convnet import build
from dwp.priors.base import KLEstimator
from dwp.priors.standard_normal import StandardNormal

NETWORK = described(
    [{"conv": 3, "kernel": 5, "pool": 2}, {"conv": 4, "kernel": 3}, {"conv": 4, "kernel": 3}], batch_norm=True
)


def net(seed=0):
    torch.manual_seed(seed)
    return build(NETWORK, (1, 16, 16), 5)


def snapshot(prior):
    return [
        (name, tensor.requires_grad, tensor.dtype, tensor.device, tensor.tolist())
        for name, tensor in prior.state_dict(keep_vars=True).items()
    ]


def test_a_model_has_one_copy_of_each_prior():
    three, five, own = vae(3), vae(5), vae(3, seed=1)
    model = make_bayesian(net(), {3: three, 5: five, "conv3": own})
    held = [layer.posterior.prior for layer in bayesian_layers(model)]
    assert layers.priors(model) == held
    assert not {three, five, own} & set(held)
    assert [snapshot(prior) for prior in held] == [snapshot(prior) for prior in (five, three, own)]
    model = make_bayesian(net(), {3: three, 5: five})
    first, second, third = bayesian_layers(model)
    assert second.posterior.prior is third.posterior.prior is not first.posterior.prior
    assert len(layers.priors(model)) == 2
    assert layers.priors(net()) == []


def test_priors_are_frozen_and_outside_the_module_tree():
    trainable = [vae(3).requires_grad_(True), vae(5).requires_grad_(True)]
    model = make_bayesian(net(), trainable)
    everything = {
        id(tensor) for prior in layers.priors(model) for tensor in prior.state_dict(keep_vars=True).values()
    }
    assert not everything & {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    assert not everything & set(map(id, model.parameters()))
    assert not any("prior" in name for name, _ in model.named_modules())
    model.requires_grad_(True).train()
    for prior in layers.priors(model):
        assert not any(parameter.requires_grad for parameter in prior.parameters())
    assert all(parameter.requires_grad for prior in trainable for parameter in prior.parameters())
    kl(model).backward()
    assert all(parameter.grad is None for prior in trainable for parameter in prior.parameters())


@pytest.mark.parametrize("change", ["double", "half", "bfloat16"])
def test_casting_the_model_leaves_its_priors_and_the_caller_s_alone(change):
    given = [vae(3), vae(5)]
    before = [snapshot(prior) for prior in given]
    model = make_bayesian(net(), given)
    getattr(model, change)()
    assert [snapshot(prior) for prior in given] == before
    assert sorted(map(snapshot, layers.priors(model))) == sorted(before)
    assert {parameter.dtype for parameter in model.parameters()} == {
        getattr(torch, {"double": "float64"}.get(change, change))
    }


class Recorder(StandardNormal):
    """Records the devices that it is moved to."""

    def to(self, *arguments, **options):
        self.moves = [*getattr(self, "moves", []), *arguments]
        return super().to(*arguments, **options)


def test_priors_follow_the_model_to_a_device_and_not_to_meta():
    model = make_bayesian(nn.Sequential(nn.Conv2d(1, 2, 3)), Recorder(3))
    (prior,) = layers.priors(model)
    prior.moves = []
    model.to("meta")
    assert prior.moves == []
    model.to_empty(device="cpu")
    assert prior.moves == [torch.device("cpu")]
    model = make_bayesian(net(), [vae(3), vae(5)]).to("meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    tensors = [tensor for prior in layers.priors(model) for tensor in prior.parameters()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("form", ["additive", "point", "latent"])
def test_priors_follow_the_model_to_a_gpu(form):
    given = [vae(3), vae(5)]
    for model in (make_bayesian(net(), given, form).cuda(), make_bayesian(net().cuda(), given, form)):
        assert kl(model).device.type == "cuda"
        kl(model).backward()
        assert predict(model, torch.randn(3, 1, 16, 16, device="cuda"), 2).shape == (2, 3, 5)
        assert kl(model.cpu()).device.type == "cpu"
        assert {parameter.device.type for prior in given for parameter in prior.parameters()} == {"cpu"}


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("form", list(FORMS))
def test_copies_of_a_model_have_copies_of_its_priors(copied, form):
    model = make_bayesian(net(), [vae(3), vae(5)], form).eval()
    other = copied(model)
    assert len(layers.priors(other)) == 2
    assert not set(layers.priors(model)) & set(layers.priors(other))
    assert list(map(snapshot, layers.priors(model))) == list(map(snapshot, layers.priors(other)))
    for layer in bayesian_layers(other):
        layer.posterior.requires_grad_(True)
    x = torch.randn(3, 1, 16, 16)
    assert torch.equal(predict(model, x, 2), predict(other, x, 2))
    values = []
    for one in (model, other):
        torch.manual_seed(1)
        values.append(kl(one, KLEstimator()).item())
    assert values[0] == values[1]


@pytest.mark.parametrize("form", list(FORMS))
def test_a_state_dict_holds_what_is_trained_and_fills_a_fresh_model(form, tmp_path):
    given = [vae(3), vae(5)]
    model = make_bayesian(net(), given, form)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    trained = {name for name, _ in model.named_parameters()} | {name for name, _ in model.named_buffers()}
    assert set(model.state_dict()) == trained
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = make_bayesian(net(seed=1), given, form)
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    x = torch.randn(4, 1, 16, 16)
    assert torch.equal(predict(fresh, x, 3), predict(model, x, 3))


def test_reverse_models_are_trained_where_asked_for():
    model = make_bayesian(net(), [vae(3), vae(5)])
    assert layers.reverse_models(model) == [prior.encoder for prior in layers.priors(model)]
    for prior in layers.priors(model):
        trained = {name for name, parameter in prior.named_parameters() if parameter.requires_grad}
        assert trained == {name for name, _ in prior.named_parameters() if name.startswith("encoder.")}
    assert layers.reverse_models(make_bayesian(net(), [StandardNormal(3), StandardNormal(5)])) == []


def test_a_converted_model_keeps_its_predictions_under_autocast():
    model = make_bayesian(net().eval(), [vae(3), vae(5)])
    set_noise(model, Noise.NONE)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(2, 1, 16, 16)).isfinite().all()
        assert kl(model).dtype == torch.float32
