"""Small stratified training sets."""

import numpy as np
import torch

from dwp.errors import InputError


def few_shot(labels: torch.Tensor, n: int, seed: int) -> torch.Tensor:
    """Choose `n` examples, the same number of each class.

    labels: int64 [total].  Returns int64 indices [n], ascending, without
    repeats.  Class counts differ by one at most, also where n is smaller than
    the number of classes; which classes get one more, of those that have it,
    and which examples are taken, depends on the labels, `n` and `seed` alone.
    For one seed, a multiple of the number of classes includes every smaller n.

    Raises InputError when n < 1, the seed is negative, or a class has too few
    examples; whether it has does not depend on the seed.
    """
    if n < 1:
        raise InputError(f"few-shot split: n is {n}; allowed are at least 1")
    if seed < 0:
        raise InputError(f"few-shot split: seed is {seed}; allowed are integers from 0")
    labels = labels.cpu().numpy()
    classes, there = np.unique(labels, return_counts=True)
    if not len(classes):
        raise InputError(f"few-shot split: n is {n}, but there are no labels to choose from")
    # The draws do not depend on n: splits of one seed are nested.
    generator = np.random.default_rng(seed)
    each, more = divmod(n, len(classes))
    quota = np.full(len(classes), each)
    # Those that have no example left come last.
    order = generator.permutation(len(classes))
    quota[order[np.argsort(there[order] <= each, kind="stable")][:more]] += 1
    chosen = []
    for label, count in zip(classes, quota, strict=True):
        members = generator.permutation(np.flatnonzero(labels == label))
        if count > len(members):
            raise InputError(
                f"few-shot split: n = {n} needs {count} examples of class {label}, which has {len(members)}"
            )
        chosen.append(members[:count])
    return torch.from_numpy(np.sort(np.concatenate(chosen)).astype(np.int64))
