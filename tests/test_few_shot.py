"""Few-shot classification: trained parameters, examples, initialisation and cost."""

import pytest
import torch
from experiment_samples import (
    METHODS,
    METRICS,
    SCHEDULE,
    changed,
    dataset,
    fitted,
    make_priors,
    pretrained,
    run,
)

from dwp.bayes import layers
from dwp.bayes.layers import bayesian_layers
from dwp.bayes.sampling import Samples
from dwp.data import few_shot
from dwp.errors import InputError
from dwp.experiments import _few_shot
from dwp.priors.pairwise_augmented_gan import PairwiseAugmentedGAN
from dwp.priors.standard_normal import StandardNormal
from dwp.priors.vae import VAE
from dwp.training.checkpoints import Checkpoint

__all__ = ["dataset", "fitted", "pretrained", "run"]


@pytest.mark.parametrize("train_reverse_model", [False, True])
def test_which_parts_of_the_vae_are_trained(run, fitted, train_reverse_model):
    run("few_shot", "dwp", [0], train_reverse_model=train_reverse_model)
    ((models, before, _),) = fitted
    moved = {name.removeprefix("0.") for name in changed(models, before)}
    # Training and checkpoints include the reverse models of 7×7 and 5×5 kernels.
    assert any(name.startswith("1.") for name in moved) == train_reverse_model
    assert any(name.startswith("2.") for name in moved) == train_reverse_model
    for held, given in zip(layers.priors(models[0]), make_priors()["vae"].values(), strict=True):
        parts = {name.partition(".")[0] for name in changed(held, given.state_dict())}
        assert parts == ({"encoder"} if train_reverse_model else set())
    for layer in ("conv1", "conv2"):
        assert {f"{layer}.posterior.mean", f"{layer}.posterior.log_variance", f"{layer}.bias"} <= moved


def test_a_seed_that_trains_the_reverse_model_does_not_change_it_for_the_next(run):
    rows = run("few_shot", "dwp", [0, 1], train_reverse_model=True)
    assert run("few_shot", "dwp", [1], train_reverse_model=True) == [row for row in rows if row["seed"] == 1]


def test_methods_of_one_seed_see_the_same_examples_and_start_from_the_same_classifier(run, fitted, dataset):
    for method in METHODS["few_shot"]:
        run("few_shot", method, [4])
    images = dataset.images("train")[few_shot(dataset.labels("train"), 9, 4)]
    for models, before, (_, data, _) in fitted:
        assert torch.equal(data[0], images)
        assert torch.equal(before["0.classifier.weight"], fitted[0][1]["0.classifier.weight"])
        assert len(bayesian_layers(models)) in (0, 2)


def test_members_of_an_ensemble_start_apart_and_train_as_if_alone(run, fitted):
    run("few_shot", "ensemble", [4])
    run("few_shot", "l2_xavier", [4])
    (three, before, _), (one, _, _) = fitted
    assert len(three) == 3
    for layer in ("conv1", "classifier"):
        starts = [before[f"{member}.{layer}.weight"] for member in range(3)]
        assert not torch.equal(starts[0], starts[1])
        assert not torch.equal(starts[1], starts[2])
    torch.testing.assert_close(three[0].state_dict(), one[0].state_dict(), rtol=1e-4, atol=1e-5)


def test_a_pretrained_start_is_the_source_network_of_that_seed(run, fitted, pretrained):
    run("few_shot", "pretrained", [0, 3])
    for seed, (_, before, _) in zip((0, 3), fitted, strict=True):
        assert torch.equal(before["0.conv2.weight"], pretrained[seed]["conv2.weight"])


def test_layers_have_the_priors_chosen_for_them(run, fitted):
    run("few_shot", "mixed", [0])
    first, second = bayesian_layers(fitted[0][0])
    assert isinstance(first.posterior.prior, VAE)
    assert isinstance(second.posterior.prior, StandardNormal)


def test_the_codes_of_a_gan_have_a_posterior(run, fitted):
    torch.manual_seed(0)
    gan = {k: PairwiseAugmentedGAN(k, hidden=3, latent=2).requires_grad_(False) for k in (7, 5)}
    method = {"posterior": "latent", "prior": "gan", "init": {"from": "xavier"}}
    rows = run("few_shot", method, [0], priors={"gan": gan})
    ((models, before, _),) = fitted
    moved = set(changed(models, before))
    for name, layer in zip(("conv1", "conv2"), bayesian_layers(models), strict=True):
        assert f"0.{name}.posterior.mean" in moved
        assert layer.posterior.mean.shape == (layer.posterior.shape[:2].numel(), 2)
    assert all(row["value"] > 0 for row in rows if row["metric"] == "kl")


def test_uncertainty_does_not_tell_a_data_set_from_itself(run):
    for row in run("few_shot", "standard_normal", [0]):
        if row["metric"].startswith("auroc"):
            assert row["value"] == pytest.approx(0.5)


def test_costs_grow_as_the_work_does(run):
    def costs(method, **settings):
        rows = run("few_shot", method, [0], **settings)
        return [row["value"] for row in rows if row["metric"] in ("train_flops", "predict_flops")]

    one, three = costs("l2_xavier"), costs("ensemble")
    assert three == pytest.approx([3 * cost for cost in one])
    assert costs("l2_xavier", schedule=SCHEDULE | {"steps": 8})[0] == pytest.approx(2 * one[0])
    few, many = costs("dwp"), costs("dwp", ensemble=9)
    assert many[1] == pytest.approx(3 * few[1], rel=0.01)


def test_the_loss_counts_the_examples_and_not_the_batch(run, fitted, dataset):
    for batch in (None, 3):
        run("few_shot", "standard_normal", [0], schedule=SCHEDULE | {"batch": batch})
    for _, _, (loss, data, _) in fitted:
        value, terms = loss(*data)
        assert value.item() == pytest.approx(terms["train_nll"].item() + terms["kl"].item() / 9, rel=1e-5)


def test_too_few_examples_are_refused(run):
    with pytest.raises(InputError, match="n = 60 needs 20 examples of class 0, which has 10"):
        run("few_shot", "plain", [0], setting=60)


def test_members_of_an_ensemble_start_from_source_networks_of_their_own(run, fitted, pretrained):
    run("few_shot", METHODS["few_shot"]["pretrained"] | {"members": 2}, [1])
    ((_, before, _),) = fitted
    for member, net in enumerate((2, 3)):
        assert torch.equal(before[f"{member}.conv2.weight"], pretrained[net]["conv2.weight"])


FITTED = {"posterior": "none", "classifier": "fitted", "init": {"from": "vae", "draw": "mean"}}


def test_a_fitted_classifier_starts_at_its_optimum_and_keeps_its_prior(run, fitted):
    run("few_shot", FITTED, [0])
    ((models, before, (loss, (images, labels), _)),) = fitted
    models.load_state_dict(before)
    value, terms = loss(images, labels)
    classifier = models[0].classifier
    gradients = torch.autograd.grad(value, (classifier.weight, classifier.bias), retain_graph=True)
    # The prior balances the likelihood, whose own gradient is not zero.
    alone = torch.autograd.grad(terms["train_nll"], classifier.weight)[0]
    assert value > terms["train_nll"]
    assert gradients[0].norm() < 0.02 * alone.norm()
    assert gradients[1].abs().max() < 1e-3


def test_frozen_networks_keep_their_kernels_and_take_no_step(run, fitted):
    rows = run("few_shot", FITTED | {"frozen": True}, [0])
    assert fitted == []
    assert {row["step"] for row in rows} == {0}
    start = {row["metric"]: row["value"] for row in run("few_shot", FITTED, [0]) if row["step"] == 0}
    assert {row["metric"]: row["value"] for row in rows if row["metric"] in start} == start


def test_the_width_multiplies_the_channels(run, fitted):
    for width in (1, 3):
        run("few_shot", METHODS["few_shot"]["l2"] | {"width": width}, [0])
    one, three = (models[0] for models, _, _ in fitted)
    assert three.conv1.out_channels == 3 * one.conv1.out_channels


def test_the_weight_of_the_kl_is_in_the_loss_and_not_in_its_terms(run, fitted):
    run("few_shot", METHODS["few_shot"]["standard_normal"] | {"kl_weight": 0.25}, [0])
    ((_, _, (loss, data, _)),) = fitted
    value, terms = loss(*data)
    assert value.item() == pytest.approx((terms["train_nll"] + 0.25 * terms["kl"] / 9).item(), rel=1e-5)


HMC = {"posterior": "hmc", "prior": "vae", "init": {"from": "vae", "draw": "sample"}}


@pytest.mark.parametrize("classifier", ["random", "fitted"])
def test_samples_are_evaluated_as_the_chain_proceeds(run, fitted, classifier):
    method = HMC | {"classifier": classifier}
    schedule = SCHEDULE | {"steps": 200}
    rows = run("few_shot", method, [0], schedule=schedule, every=100)
    assert fitted == []
    curves = {(row["step"], row["metric"]) for row in rows if row["metric"] in ("accuracy", "acceptance")}
    steps = sorted({step for step, _ in curves})
    assert len(curves) == 2 * len(steps)
    assert 100 <= steps[0] < steps[-1]
    assert steps[-1] >= 200
    assert {row["metric"] for row in rows if row["step"] == steps[-1]} >= METRICS["bins"] | METRICS["once"]


def test_chains_are_pooled_and_resume(run, tmp_path):
    schedule = SCHEDULE | {"steps": 30}
    method = HMC | {"classifier": "fitted", "members": 2}
    rows = run("few_shot", method, [1], schedule=schedule)
    alone = run("few_shot", method | {"members": 1}, [1], schedule=schedule)
    assert rows != alone
    checkpoint = Checkpoint(tmp_path / "few_shot.pt", "x", seconds=0)
    # The second run starts from the ends of both chains.
    for _ in range(2):
        assert run("few_shot", method, [1], schedule=schedule, checkpoint=checkpoint) == rows
    assert len(list(tmp_path.iterdir())) == 2


def test_a_fitted_classifier_is_the_mode_for_every_sample(run, dataset, monkeypatch):
    kept = []
    predict = Samples.predict
    monkeypatch.setattr(Samples, "predict", lambda self, images: kept.append(self) or predict(self, images))
    run("few_shot", HMC | {"classifier": "fitted"}, [0], schedule=SCHEDULE | {"steps": 200}, ensemble=100)
    chosen = few_shot(dataset.labels("train"), 9, 0)
    images, labels = dataset.images("train")[chosen], dataset.labels("train")[chosen]
    probabilities = kept[-1].predict(images)
    assert len(probabilities) > 2
    # The bias has no prior, so at the mode the expected number of each class is the observed one.
    counts = labels.bincount(minlength=probabilities.shape[2]).double()
    torch.testing.assert_close(probabilities.sum(1), counts.expand(len(probabilities), -1), rtol=0, atol=1e-3)


@pytest.mark.parametrize("prior", ["vae", "standard_normal"])
def test_scales_of_channels_go_with_any_prior_over_kernels(run, fitted, prior):
    method = METHODS["few_shot"]["dwp"] | {"prior": prior, "scales": "normal_jeffreys"}
    rows = run("few_shot", method, [0])
    ((models, _, _),) = fitted
    first, second = bayesian_layers(models[0])
    assert [type(layer.scales).__name__ for layer in (first, second)] == ["NormalJeffreys"] * 2
    channels = {row["part"]: row["value"] for row in rows if row["metric"] == "channels"}
    assert channels == {"conv1": 4, "conv2": 4}
    with torch.no_grad():
        first.scales.mean[0] = 1e-4
    assert _few_shot._channels(torch.nn.ModuleList([models[0]])) == {"conv1": 3, "conv2": 4}
