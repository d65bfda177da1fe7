"""The plain recipe of the benchmarks gives the results of the library."""

import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks import recipe, speed, startup, workloads
from benchmarks.options import Options, read
from dwp.bayes import layers, objectives
from dwp.pipeline.typed import dump
from dwp.priors.vae import VAE
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

TINY = read(None, ["--tiny", "precision=float32"])


@pytest.fixture(params=[7, 5])
def vaes(request):
    """Return the library's VAE, and the recipe's with the same weights."""
    torch.manual_seed(0)
    ours = VAE(request.param, hidden=6, latent=3)
    return ours, workloads.recipe_vae_of(ours)


@pytest.fixture
def source_networks():
    """Return the library's source network, and the recipe's with the same weights."""
    ours, theirs = workloads.source_network(TINY), recipe.ConvNet(*TINY.source_net)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def images_and_labels(n=12):
    target = workloads.target(TINY)
    return target.images("train")[:n], target.labels("train")[:n]


def loader(n=12, batch=None):
    target = workloads.target(TINY)
    return workloads.loader(TINY, target.train_images[:n], target.train_labels[:n], batch)


def test_the_loader_yields_the_library_s_images():
    images, labels = next(iter(loader(5)))
    expected, expected_labels = images_and_labels(5)
    torch.testing.assert_close(images, expected)
    assert torch.equal(labels, expected_labels)


def test_source_step(source_networks):
    ours, theirs = source_networks
    images, labels = images_and_labels()
    mine = objectives.cross_entropy(ours, 1e-3)(images, labels)[0]
    loss = recipe.source_loss(theirs, 1e-3, images, labels)
    torch.testing.assert_close(mine, loss)
    mine.backward()
    loss.backward()
    found = [parameter.grad for parameter in ours.parameters()]
    for mine, other in zip(found, theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other.grad, rtol=1e-4, atol=1e-6)


def test_source_training(source_networks):
    """Three steps on one full batch, so that the order of examples does not matter."""
    ours, theirs = source_networks
    schedule = Schedule(lr=1e-3, steps=3, precision="float32")
    fit(ours, objectives.cross_entropy(ours, 1e-3), images_and_labels(), schedule, seed=0)
    done = []
    recipe.train(
        lambda *batch: recipe.source_loss(theirs, 1e-3, *batch),
        [*theirs.parameters()],
        loader(12, batch=12),
        steps=3,
        lr=1e-3,
        after=done.append,
    )
    assert done == [1, 2, 3]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_elbo_given_the_same_noise(vaes):
    ours, theirs = vaes
    w = torch.randn(20, 1, ours.kernel_size, ours.kernel_size)
    torch.manual_seed(1)
    log_likelihood, kl = ours.elbo_terms(w)
    torch.manual_seed(1)
    torch.testing.assert_close(theirs.elbo(w), log_likelihood - kl, rtol=1e-4, atol=1e-4)


def test_kl_of_all_kernels_given_the_same_noise(vaes):
    ours, theirs = vaes
    size = ours.kernel_size
    layer = recipe.BayesianConv2d(3, 5, size)
    layer.posterior["log_variance"].data.normal_().sub_(3)
    library = layers.BayesConv2d(torch.nn.Conv2d(3, 5, size), ours)
    library.load_state_dict(layer.state_dict())
    torch.manual_seed(1)
    mine = library.kl()
    torch.manual_seed(1)
    torch.testing.assert_close(layer.kl(theirs), mine, rtol=1e-4, atol=1e-3)


def test_few_shot_loss_in_expectation():
    ours, theirs = workloads.few_shot_network(TINY), workloads.recipe_few_shot_network(TINY)
    priors = {size: workloads.recipe_vae_of(prior) for size, prior in workloads.priors(TINY).items()}
    images, labels = images_and_labels()
    with torch.no_grad():
        mine = torch.stack([objectives.elbo(ours, 12)(images, labels)[0] for _ in range(60)])
        other = torch.stack([recipe.few_shot_loss(theirs, priors, 12, images, labels) for _ in range(60)])
    error = (mine.var() / 60 + other.var() / 60).sqrt()
    assert (mine.mean() - other.mean()).abs() < 4 * error


def test_only_posterior_and_reverse_model_are_trained(monkeypatch):
    trained = {}

    def ours(model, *_, **__):
        trained["ours"] = sum(p.numel() for p in model.parameters() if p.requires_grad)

    def theirs(loss, parameters, *_):
        trained["recipe"] = sum(p.numel() for p in parameters)
        _, priors, _ = loss.args
        held = [p for prior in priors.values() for p in prior.parameters()]
        # The decoders are frozen.
        assert {p.requires_grad for p in held} == {True, False}
        assert all(not p.requires_grad for prior in priors.values() for p in prior.decoder.parameters())

    monkeypatch.setattr(workloads, "fit", ours)
    monkeypatch.setattr(recipe, "train", theirs)
    workloads.WORKLOADS["step"].ours(TINY).run()
    workloads.WORKLOADS["step"].recipe(TINY).run()
    assert trained["ours"] == trained["recipe"]


def test_predictions_agree():
    ours, theirs = workloads.few_shot_network(TINY), workloads.recipe_few_shot_network(TINY)
    for layer in layers.bayesian_layers(ours):
        layer.posterior.log_variance.data.fill_(-4)  # enough noise to be seen
    theirs.load_state_dict(ours.state_dict())
    images, _ = images_and_labels(20)
    mean = recipe.predict(theirs, loader(20), 0)[0]
    torch.testing.assert_close(mean, layers.predict(ours, images, samples=0)[0].float(), rtol=1e-4, atol=1e-6)
    theirs_noisy = recipe.predict(theirs, loader(20), 200)
    with torch.no_grad():
        layers.set_noise(ours, layers.Noise.OUTPUTS)
        ours_noisy = torch.stack([ours(images).softmax(1) for _ in range(200)])
    error = (theirs_noisy.var(0) / 200 + ours_noisy.var(0) / 200).sqrt()
    # The worst of two hundred probabilities: five standard errors.
    assert ((theirs_noisy.mean(0) - ours_noisy.mean(0)).abs() < 5 * error + 1e-6).all()
    assert theirs_noisy.std(0).max() > 1e-3
    # Weights sampled once give each output the same distribution, but positions of one map depend on
    # one another then, so that predictions agree closely, not exactly.
    ensemble = layers.predict(ours, images, 200).mean(0)
    assert (ensemble - theirs_noisy.mean(0)).abs().max() < 0.03


def test_learning_rate_falls_as_in_the_library():
    """Under a constant gradient, each step of Adam is as long as the learning rate."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.double))
    places = [0.0]
    batches = DataLoader(torch.zeros(1, 1))
    recipe.train(
        lambda *_: parameter.sum(), [parameter], batches, 10, 1e-3, lambda _: places.append(parameter.item())
    )
    steps = -torch.tensor(places, dtype=torch.double).diff()
    schedule = Schedule(lr=1e-3, steps=10)
    expected = torch.tensor([schedule.rate(step, 10) for step in range(10)], dtype=torch.double)
    torch.testing.assert_close(steps, expected, rtol=1e-6, atol=0)


def test_sizes_are_the_paper_s():
    import yaml

    config = yaml.safe_load((startup.ROOT / "config" / "paper-mnist.yaml").read_text())
    options, source, shot = Options(), config["source"], config["experiments"]["few_shot"]
    assert dump(workloads.network(options.source_net))["layers"] == source["network"]["layers"]
    assert dump(workloads.network(options.target_net))["layers"] == shot["network"]["layers"]
    assert (options.source_batch, options.source_l2) == (source["schedule"]["batch"], source["l2"])
    vae = config["priors"]["vae"]
    assert vae["schedule"]["batch"] == options.vae_batch
    sizes = zip((7, 5), options.vae_hidden, options.vae_latent, strict=True)
    for size, hidden, latent in sizes:
        assert {"hidden": hidden, "latent": latent}.items() <= vae["sizes"][f"{size}x{size}"].items()
    assert options.target_examples == shot["examples"][0]
    assert shot["schedule"]["steps"] == speed.STEPS
    assert {options.source_lr, options.vae_lr, options.target_lr} == {
        source["schedule"]["lr"],
        vae["schedule"]["lr"],
        shot["schedule"]["lr"],
    }
