"""The plain baseline of the benchmarks gives the results of the library."""

import pytest
import torch

from benchmarks import baseline, timing, workloads
from benchmarks.material import TINY, Material, Options, Sizes, network
from dwp.bayes import layers, objectives
from dwp.initialisation import build_initialised
from dwp.pipeline.typed import dump
from dwp.priors.vae import VAE
from dwp.training.loop import fit
from dwp.training.schedule import Schedule

EMBEDDED = Options(device="cpu", precision="float32", threads=1, tiny=True)


@pytest.fixture(scope="module")
def material():
    return Material(EMBEDDED)


@pytest.fixture(params=[7, 5])
def vaes(request):
    """Return the library's VAE, and the baseline's with the same weights."""
    torch.manual_seed(0)
    ours = VAE(request.param, hidden=6, latent=3)
    theirs = baseline.KernelVAE(request.param, 6, 3)
    workloads.copy_vae(ours, theirs)
    return ours, theirs


def images_and_labels(material, n=12):
    return material.target.images("train")[:n], material.target.labels("train")[:n]


def test_the_loader_yields_the_library_s_images(material):
    loader = baseline.image_loader(
        material.target.train_images[:5], material.target.train_labels[:5], 5, shuffle=False
    )
    images, labels = next(iter(loader))
    expected, expected_labels = images_and_labels(material, 5)
    torch.testing.assert_close(images, expected)
    assert torch.equal(labels, expected_labels)


def test_source_step(material):
    ours = build_initialised(network(*TINY.source), (1, 28, 28), 10, seed=0)
    theirs = baseline.ConvNet(*TINY.source)
    workloads.copy_network(ours, theirs)
    images, labels = images_and_labels(material)
    mine = objectives.cross_entropy(ours, 1e-3)(images, labels)[0]
    loss = baseline.source_loss(theirs, images, labels, 1e-3)
    torch.testing.assert_close(mine, loss)
    mine.backward()
    loss.backward()
    found = [parameter.grad for parameter in ours.parameters()]
    for mine, other in zip(found, theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other.grad, rtol=1e-4, atol=1e-6)


def test_source_training(material):
    """Three steps on one full batch, so that the order of examples does not matter."""
    ours = build_initialised(network(*TINY.source), (1, 28, 28), 10, seed=0)
    theirs = baseline.ConvNet(*TINY.source)
    workloads.copy_network(ours, theirs)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    images, labels = images_and_labels(material)
    fit(
        ours,
        objectives.cross_entropy(ours, 1e-3),
        (images, labels),
        Schedule(lr=1e-3, steps=3, decay="constant", precision="float32"),
        seed=0,
    )
    loader = baseline.image_loader(
        material.target.train_images[:12], material.target.train_labels[:12], 12, shuffle=True
    )
    for _ in range(3):  # an epoch of one step: the rate has not begun to fall
        baseline.train_source(theirs, optimizer, loader, 1e-3, torch.device("cpu"))
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
    layer = baseline.BayesianConv2d(3, 5, size)
    layer.log_variance.data.normal_().sub_(3)
    library = layers.BayesConv2d(torch.nn.Conv2d(3, 5, size), ours)
    with torch.no_grad():
        library.posterior.mean.copy_(layer.mean)
        library.posterior.log_variance.copy_(layer.log_variance)
    torch.manual_seed(1)
    mine = library.kl()
    torch.manual_seed(1)
    torch.testing.assert_close(layer.kl(theirs), mine, rtol=1e-4, atol=1e-3)


def test_few_shot_loss_in_expectation(material):
    ours = material.bayesian()
    theirs, priors = workloads.baseline_bayesian(material)
    images, labels = images_and_labels(material)
    with torch.no_grad():
        mine = torch.stack([objectives.elbo(ours, 12)(images, labels)[0] for _ in range(60)])
        other = torch.stack([baseline.few_shot_loss(theirs, priors, images, labels, 12) for _ in range(60)])
    error = (mine.var() / 60 + other.var() / 60).sqrt()
    assert (mine.mean() - other.mean()).abs() < 4 * error


def test_only_posterior_and_reverse_model_are_trained(material):
    _, priors = workloads.baseline_bayesian(material)
    ours = material.bayesian()
    reverse_models = layers.reverse_models(ours)
    for size, prior in priors.items():
        trained = sum(parameter.numel() for parameter in baseline.reverse_model(prior))
        assert trained == sum(
            parameter.numel()
            for held in layers.priors(ours)
            if held.kernel_size == size
            for parameter in held.parameters()
            if parameter.requires_grad
        )
    trained = sum(parameter.numel() for reverse in reverse_models for parameter in reverse.parameters())
    assert trained == sum(sum(p.numel() for p in baseline.reverse_model(prior)) for prior in priors.values())


def test_predictions_agree(material):
    ours = material.bayesian()
    theirs, _ = workloads.baseline_bayesian(material)
    for layer in layers.bayesian_layers(ours):
        layer.posterior.log_variance.data.fill_(-4)  # enough noise to be seen
    workloads.copy_network(ours, theirs)
    bytes_, labels = material.target.test_images[:20], material.target.test_labels[:20]
    loader = baseline.image_loader(bytes_, labels, 20, shuffle=False)
    device, images = torch.device("cpu"), material.target.images("test")[:20]
    mean, found = baseline.predict(theirs, loader, device, noisy=False)
    assert torch.equal(found, labels)
    torch.testing.assert_close(mean, layers.predict(ours, images, samples=0)[0].float(), rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        theirs_noisy = torch.stack([baseline.predict(theirs, loader, device)[0] for _ in range(200)])
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
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    baseline.linear_decay(optimizer, 3, 10)
    assert optimizer.param_groups[0]["lr"] == Schedule(lr=1e-3, steps=10).rate(3, 10)


def test_sizes_are_the_paper_s():
    import yaml

    config = yaml.safe_load((timing.ROOT / "config" / "paper-mnist.yaml").read_text())
    sizes, source, shot = Sizes(), config["source"], config["experiments"]["few_shot"]
    assert dump(network(*sizes.source))["layers"] == source["network"]["layers"]
    assert dump(network(*sizes.target))["layers"] == shot["network"]["layers"]
    assert (sizes.source_batch, workloads.SOURCE_L2) == (source["schedule"]["batch"], source["l2"])
    vae = config["priors"]["vae"]
    assert vae["schedule"]["batch"] == workloads.VAE_BATCH
    for size, settings in sizes.vaes.items():
        assert settings.items() <= vae["sizes"][f"{size}x{size}"].items()
    assert sizes.examples == shot["examples"][0]
    assert sizes.run_steps == shot["schedule"]["steps"]
