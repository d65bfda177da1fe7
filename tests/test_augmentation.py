"""Augmented copies of training images, and the likelihood that they share with their image."""

import pytest
import torch
from prior_helpers import seeded

from dwp.bayes import last_layer
from dwp.bayes.sampling import NetworkPosterior
from dwp.errors import InputError
from dwp.experiments._augmentation import Augmentation, augmented
from dwp.priors.standard_normal import StandardNormal

ALL = Augmentation(copies=3, shift=3, rotation=20, scale=0.2, shear=10)


def squares(n):
    images = torch.zeros(n, 1, 28, 28)
    images[:, :, 10:18, 10:18] = torch.rand(n, 1, 1, 1, generator=seeded(0)) / 2 + 0.5
    return images, torch.arange(n) % 2


def test_copies_follow_the_images_in_their_order():
    images, labels = squares(4)
    found = augmented(images, labels, ALL, seed=1)
    assert (found.originals, found.versions) == (4, 4)
    assert found.images.shape == (16, 1, 28, 28)
    assert torch.equal(found.images[:4], images)
    assert torch.equal(found.labels, labels.repeat(4))
    # The brightness tells which image a copy was made from.
    bright = found.images.flatten(1).amax(1).view(4, 4)
    torch.testing.assert_close(bright, bright[:1].expand(4, 4), atol=0.05, rtol=0)
    assert not torch.equal(found.images[4:8], found.images[8:12])
    assert found.images.min() >= 0
    assert found.images.max() <= 1


def test_the_same_seed_gives_the_same_copies_and_leaves_the_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (augmented(*squares(3), ALL, seed=seed).images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_shifts_stay_within_their_limit():
    images, labels = squares(2)
    found = augmented(images, labels, Augmentation(copies=200, shift=3), seed=0).images
    weight = found / found.sum((2, 3), keepdim=True)
    places = torch.arange(28.0)
    for axis in (2, 3):
        centre = (weight.sum(5 - axis)[:, 0] * places).sum(1) - 13.5
        assert centre.abs().max() <= 3 + 1e-4
        assert centre.abs().max() > 2
    alone = augmented(images, labels, None, seed=0)
    assert alone.versions == 1
    assert torch.equal(alone.images, images)


def test_copies_that_equal_their_image_change_no_classifier():
    features = torch.randn(30, 5, generator=seeded(0), dtype=torch.double)
    labels = torch.arange(30) % 3
    alone = last_layer.fit(features, labels, 3)
    copied = last_layer.fit(features.repeat(4, 1), labels.repeat(4), 3, versions=4)
    assert copied.scale == alone.scale
    torch.testing.assert_close(copied.weight, alone.weight, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(copied.precision, alone.precision)


def test_cross_validation_leaves_out_every_copy():
    # Features without information: a copy of a left-out example among the others would give its label away.
    features = torch.randn(60, 30, generator=seeded(0), dtype=torch.double)
    labels = torch.arange(60) % 3
    copies = features.repeat(6, 1) + 0.01 * torch.randn(360, 30, generator=seeded(1), dtype=torch.double)
    assert last_layer.fit(copies, labels.repeat(6), 3, versions=6).scale <= 1
    assert last_layer.fit(copies, labels.repeat(6), 3).scale > 3


def test_the_posterior_counts_each_image_once():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 2)).double()
    images, labels = squares(4)
    found = augmented(images.double(), labels, ALL, seed=0)
    priors = {"1": StandardNormal(1, 0.1)}
    alone = NetworkPosterior(model, priors, images.double(), labels)
    each = [
        NetworkPosterior(model, priors, found.images[rows], labels).potential(alone.start())
        for rows in torch.arange(16).view(4, 4)
    ]
    together = NetworkPosterior(model, priors, found.images, found.labels, examples=4)
    torch.testing.assert_close(together.potential(alone.start()), sum(each) / 4)


@pytest.mark.parametrize("settings", [{"copies": 0}, {"shift": -1}, {"scale": 1}, {"rotation": 200}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InputError, match=f"augment.*{next(iter(settings))}"):
        _parse(settings)


def _parse(settings):
    from dwp.experiments import few_shot
    from dwp.pipeline.typed import parse

    method = {"init": {"from": "xavier"}, "augment": settings}
    return parse(few_shot.Method, method)
