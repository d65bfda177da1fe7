"""Few-shot splits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dwp.data import Dataset, few_shot
from dwp.data.splits import halved_test_set
from dwp.errors import InputError


@st.composite
def problems(draw):
    """Labels in any order and proportion, an n for which no class is too small, and a seed."""
    counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=10))
    labels = draw(st.permutations([label for label, count in enumerate(counts) for _ in range(count)]))
    n = draw(st.integers(1, len(counts) * min(counts)))
    return torch.tensor(labels), n, draw(st.integers(0, 2**32))


@settings(max_examples=100, deadline=None)
@given(problems())
def test_splits_are_balanced_sorted_and_repeatable(problem):
    labels, n, seed = problem
    chosen = few_shot(labels, n, seed)
    assert chosen.dtype == torch.int64
    assert chosen.shape == (n,)
    assert bool((chosen[1:] > chosen[:-1]).all())
    counts = labels[chosen].bincount(minlength=int(labels.max()) + 1)
    assert counts.max() - counts.min() <= 1
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    assert torch.equal(chosen, few_shot(labels, n, seed))
    torch.set_rng_state(state)


def test_seeds_give_different_examples_and_different_surplus_classes():
    labels = torch.arange(1000) % 10
    assert not torch.equal(few_shot(labels, 50, 0), few_shot(labels, 50, 1))
    surplus = {tuple(labels[few_shot(labels, 13, seed)].bincount().tolist()) for seed in range(20)}
    assert len(surplus) > 5


def test_splits_of_one_seed_are_nested():
    labels = torch.arange(1000) % 10
    smaller, larger = (set(few_shot(labels, n, 3).tolist()) for n in (50, 200))
    assert smaller < larger


@pytest.mark.parametrize(
    ("n", "seed", "chosen"),
    [
        (10, 0, [4, 17, 87, 93, 96, 117, 124, 141, 177, 189]),
        (13, 1, [2, 39, 47, 51, 52, 58, 59, 70, 100, 108, 142, 172, 192]),
        (16, 5, [33, 37, 46, 52, 54, 65, 73, 74, 83, 86, 93, 113, 152, 158, 181, 183]),
    ],
)
def test_splits_are_those_of_earlier_versions(n, seed, chosen):
    labels = torch.arange(200) * 7919 % 11 % 10
    assert few_shot(labels, n, seed).tolist() == chosen


def test_whether_a_split_is_possible_does_not_depend_on_the_seed():
    labels = torch.tensor([0] * 5 + [1] + [2] * 7 + [3] * 3)
    for seed in range(30):
        for n in range(1, 8):
            counts = labels[few_shot(labels, n, seed)].bincount(minlength=4)
            assert counts.sum() == n
            assert counts.max() - counts.min() <= 1
        # Three classes have a second example, no more.
        with pytest.raises(InputError, match="n = 8 needs 2 examples of class 1, which has 1"):
            few_shot(labels, 8, seed)


def test_fewer_examples_than_classes_are_of_different_classes():
    labels = torch.arange(100) % 10
    chosen = {tuple(labels[few_shot(labels, 3, seed)].sort().values.tolist()) for seed in range(30)}
    assert all(len(set(classes)) == 3 for classes in chosen)
    assert len(chosen) > 10


@pytest.mark.parametrize(
    ("n", "seed", "message"),
    [
        (0, 0, "n is 0; allowed are at least 1"),
        (5, -1, "seed is -1"),
        (10, 0, "n = 10 needs 5 examples of class 4, which has 3"),
    ],
)
def test_impossible_splits_are_refused(n, seed, message):
    with pytest.raises(InputError, match=message):
        few_shot(torch.tensor([1] * 20 + [4] * 3), n, seed)


def test_no_labels_are_refused():
    with pytest.raises(InputError, match="no labels"):
        few_shot(torch.tensor([], dtype=torch.int64), 1, 0)


# Halves of the test images


def labelled(labels):
    """Return a data set whose test images have these labels, and their number as the only pixel."""
    images = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1)
    return Dataset("toy", images + 100, torch.tensor([0, 1, 2] * len(images))[: len(images)], images, labels)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=6, max_size=60).map(torch.tensor))
def test_halves_divide_every_class_of_the_test_images(labels):
    halves = halved_test_set(labelled(labels))
    train, test = (images.flatten().tolist() for images in (halves.train_images, halves.test_images))
    assert sorted(train + test) == list(range(len(labels)))
    assert labels[train].tolist() == halves.train_labels.tolist()
    assert labels[test].tolist() == halves.test_labels.tolist()
    counts = [one.bincount(minlength=3) for one in (halves.train_labels, halves.test_labels)]
    assert set((counts[0] - counts[1]).tolist()) <= {0, 1}


def test_test_images_of_which_no_class_has_two_cannot_be_halved():
    with pytest.raises(InputError, match="test images of toy: test_images are empty"):
        halved_test_set(labelled(torch.tensor([2, 0, 1])))
