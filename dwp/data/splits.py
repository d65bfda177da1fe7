"""Stratified splits: small training sets, and halves of the test images for the choice of settings."""

import numpy as np
import torch

from dwp.data.dataset import Dataset
from dwp.errors import InputError


def few_shot(labels: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Choose n examples, the same number of each class.

    The counts of classes differ by at most one, also if n is smaller than the number of classes. The
    result depends only on the arguments. With the same seed, the examples for a multiple of the number
    of classes include those for every smaller n.

    Args:
        labels: int64 [total].
        n: number of examples, from 1.
        seed: from 0.

    Returns:
        Indices, int64 [n], ascending, without repeats.

    Raises:
        InputError: n or the seed is out of range, or a class has too few examples for any seed.
    """
    if n < 1:
        raise InputError(f"few-shot split: n is {n}; allowed are at least 1")
    if seed < 0:
        raise InputError(f"few-shot split: seed is {seed}; allowed are integers from 0")
    array = labels.cpu().numpy()
    classes, there = np.unique(array, return_counts=True)
    if not len(classes):
        raise InputError(f"few-shot split: n is {n}, but there are no labels to choose from")
    # The draws do not depend on n, so splits with the same seed are nested.
    generator = np.random.default_rng(seed)
    each, more = divmod(n, len(classes))
    quota = np.full(len(classes), each)
    # Classes without another example come last.
    order = generator.permutation(len(classes))
    quota[order[np.argsort(there[order] <= each, kind="stable")][:more]] += 1
    chosen = []
    for label, count in zip(classes, quota, strict=True):
        members = generator.permutation(np.flatnonzero(array == label))
        if count > len(members):
            raise InputError(
                f"few-shot split: n = {n} needs {count} examples of class {label}, which has {len(members)}"
            )
        chosen.append(members[:count])
    return torch.from_numpy(np.sort(np.concatenate(chosen)).astype(np.int64))


def halved_test_set(dataset: Dataset) -> Dataset:
    """Return the test images of a data set as a data set: half of each class to train, half to test.

    Of the images of a class, in their order, the first, third, … are the training images.

    Raises:
        InputError: no class has two images.
    """
    images, labels = dataset.test_images, dataset.test_labels
    place = torch.zeros_like(labels)
    for label in labels.unique():
        members = labels == label
        place[members] = torch.arange(int(members.sum()))
    train, test = place % 2 == 0, place % 2 == 1
    return Dataset(f"test images of {dataset.name}", images[train], labels[train], images[test], labels[test])
