"""Controls of an initialisation keep each kernel's scale and remove its structure."""

import torch

from dwp.experiments._controls import remove_structure_
from dwp.nn.convnet import build
from dwp.nn.spec import Conv, Network


def network(control, seed=0):
    """Return the kernels of a network of smooth kernels, before and after, [o·i, k²] for each layer."""
    spec = Network(layers=(Conv(conv=8, kernel=7), Conv(conv=16, kernel=5)), batch_norm=False)
    model = build(spec, (1, 28, 28), 10)
    for layer in (model.conv1, model.conv2):
        k = layer.kernel_size[0]
        ramp = torch.linspace(-1, 1, k)
        scale = torch.rand(*layer.weight.shape[:2], 1, 1) + 0.5
        layer.weight.data = scale * (ramp[:, None] + ramp).expand(*layer.weight.shape)
    before = [layer.weight.detach().clone().flatten(0, 1).flatten(1) for layer in (model.conv1, model.conv2)]
    biases = model.conv1.bias.clone()
    remove_structure_(model, control, seed)
    after = [layer.weight.detach().flatten(0, 1).flatten(1) for layer in (model.conv1, model.conv2)]
    assert torch.equal(model.conv1.bias, biases)
    return before, after


def test_norms_are_kept():
    for control in ("shuffled", "noise"):
        for before, after in zip(*network(control), strict=True):
            assert torch.allclose(before.norm(dim=1), after.norm(dim=1))


def test_shuffled_kernels_have_the_same_weights_in_another_order():
    for before, after in zip(*network("shuffled"), strict=True):
        assert torch.equal(before.sort(1)[0], after.sort(1)[0])
        assert not torch.equal(before, after)
        # Each kernel has its own permutation: kernels that were proportional are not any more.
        cosines = torch.nn.functional.normalize(after, dim=1) @ torch.nn.functional.normalize(after, dim=1).T
        assert cosines.fill_diagonal_(0).abs().mean() < 0.3


def test_noise_has_no_direction_in_common():
    _, (_, after) = network("noise")
    unit = torch.nn.functional.normalize(after, dim=1)
    # The mean of n independent directions has a norm of about 1/√n.
    assert unit.mean(0).norm() < 3 / len(unit) ** 0.5


def test_none_changes_nothing_and_a_seed_repeats():
    for before, after in zip(*network("none"), strict=True):
        assert torch.equal(before, after)
    first, second, other = (network("noise", seed)[1][0] for seed in (1, 1, 2))
    # The scales of the kernels are random; their directions are the seed's.
    directions = [torch.nn.functional.normalize(part, dim=1) for part in (first, second, other)]
    assert torch.allclose(directions[0], directions[1], atol=1e-6)
    assert not torch.allclose(directions[0], directions[2], atol=0.1)
