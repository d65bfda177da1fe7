"""Twenty steps of training of initialised and of Bayesian networks in the ways that PyTorch's users train."""

import copy
import os
import sys

import pytest
import torch
from prior_helpers import seeded, vae
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import dwp
from dwp import init_, make_bayesian, predict
from dwp.torchvision_import import torchvision_datasets

STEPS = 20


def network(bayesian):
    """A tiny network with 3×3, 1×1 and linear layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, 6, (3, 1), groups=3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 2),
    )
    init_(model, vae(3), default="standard_normal", generator=seeded())
    return make_bayesian(model, vae(3), default="standard_normal") if bayesian else model


def data(dtype=torch.float32, device="cpu"):
    """Two classes of images: rows and columns, with noise."""
    generator = seeded(1)
    rows = torch.arange(8.0).mul(2).sin().view(8, 1).expand(8, 8)
    labels = torch.arange(32) % 2
    images = torch.stack([rows.T if label else rows for label in labels])[:, None]
    images = images + 0.1 * torch.randn(images.shape, generator=generator)
    return images.to(device, dtype), labels.to(device)


def cost(model, x, y, compute=None):
    """The negative ELBO per example, as if there were many examples, or the cross-entropy."""
    loss = cross_entropy((compute or model)(x).float(), y)
    return loss + dwp.kl(model) / 50_000 if dwp.bayes.layers.bayesian_layers(model) else loss


def train(model, compute=None, dtype=torch.float32, device="cpu", lr=0.02):
    """Train for twenty steps; return the losses."""
    x, y = data(dtype, device)
    # Half precision cannot represent Adam's default epsilon.
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, eps=1e-4)
    losses = []
    for _ in range(STEPS):
        loss = cost(model, x, y, compute)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu())
    return torch.stack(losses)


def check(losses):
    """Assert that the loss is finite and goes down."""
    assert losses.isfinite().all()
    assert losses[-4:].mean() < 0.9 * losses[:2].mean()


KINDS = pytest.mark.parametrize("bayesian", [False, True], ids=["initialised", "Bayesian"])


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision(bayesian, dtype):
    model = network(bayesian).to(dtype)
    check(train(model, dtype=dtype))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@KINDS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_priors_are_given_to_a_model_of_any_precision(bayesian, dtype):
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 2)).to(dtype)
    report = init_(model, vae(3), default="standard_normal", generator=seeded())
    assert all(row.after > 0 for row in report)
    check(train(make_bayesian(model, vae(3), default="standard_normal") if bayesian else model, dtype=dtype))


@KINDS
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu(bayesian):
    check(train(network(bayesian).cuda(), device="cuda"))


@KINDS
def test_autocast(bayesian):
    model = network(bayesian)

    def compute(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    check(train(model, compute))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static shapes", "dynamic shapes"])
@KINDS
def test_torch_compile(bayesian, dynamic):
    model = network(bayesian)
    torch.compiler.reset()  # what other tests have compiled counts towards the limit
    check(train(model, torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=dynamic)))


@KINDS
def test_functional_call(bayesian):
    model = network(bayesian)
    x, y = data()

    def loss(parameters):
        return cross_entropy(functional_call(model, parameters, (x,)), y)

    parameters, losses = dict(model.named_parameters()), []
    for _ in range(STEPS):
        value = loss(parameters)
        gradients = torch.autograd.grad(value, list(parameters.values()))
        parameters = {
            name: (tensor - 0.3 * gradient).detach().requires_grad_()
            for (name, tensor), gradient in zip(parameters.items(), gradients, strict=True)
        }
        losses.append(value.detach())
    check(torch.stack(losses))


@KINDS
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: reloaded(model)], ids=["deepcopy", "state dict"]
)
def test_copies_train_and_predict_alike(bayesian, copied):
    model = network(bayesian)
    x, _ = data()
    check(train(model))
    twin = copied(model)
    assert torch.equal(predict(model, x, 2), predict(twin, x, 2))
    torch.manual_seed(1)
    again = train(model)
    torch.manual_seed(1)
    assert torch.equal(again, train(twin))


def reloaded(model):
    fresh = network(bool(dwp.bayes.layers.bayesian_layers(model)))
    fresh.load_state_dict(model.state_dict())
    return fresh


def _worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    for bayesian in (False, True):
        model = network(bayesian)
        wrapped = nn.parallel.DistributedDataParallel(model)
        torch.manual_seed(rank)  # other noise in each process
        losses = train(model, wrapped)
        torch.save((losses, model.state_dict()), f"{folder}/{bayesian}-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel(tmp_path, monkeypatch):
    # The processes import this module.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), *sys.path]))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(_worker, (str(tmp_path),), nprocs=2)
    for bayesian in (False, True):
        (first, state), (second, other) = (
            torch.load(tmp_path / f"{bayesian}-{rank}.pt") for rank in range(2)
        )
        check(first)
        check(second)
        assert torch.equal(first, second) is not bayesian
        assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())


@KINDS
@pytest.mark.filterwarnings("ignore")
def test_lightning(bayesian, tmp_path):
    torchvision_datasets()
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.losses = network(bayesian), []

        def training_step(self, batch, index):
            loss = cost(self.model, *batch)
            self.losses.append(loss.detach())
            return loss

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=0.02)

    module = Module()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=32)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=STEPS,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    check(torch.stack(module.losses))
