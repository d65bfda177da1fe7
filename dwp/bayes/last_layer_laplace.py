"""A last-layer Laplace approximation of a trained classifier, by laplace-torch (Daxberger et al. 2021)."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters
from torch.utils.data import DataLoader, TensorDataset

from dwp.errors import extra
from dwp.nn.seeding import seeded
from dwp.torchvision_import import torchvision_datasets


def predict(
    model: nn.Module, images: Tensor, labels: Tensor, test_images: Tensor, samples: int, seed: int = 0
) -> Tensor:
    """Return class probabilities under samples from the posterior of the last layer; see `layers.predict`.

    The posterior is a Gaussian around the trained weights, its covariance a Kronecker-factored
    generalised Gauss-Newton approximation; the prior precision maximises the marginal likelihood.

    Args:
        model: maps images [n, c, h, w] to logits, with a linear last layer; it is not changed.
        images: training images [m, c, h, w].
        labels: training labels [m].
        test_images: images to predict, [n, c, h, w].
        samples: members of the ensemble.
        seed: seed of the samples.

    Returns:
        Probabilities [samples, n, classes], in double precision on the CPU.

    Raises:
        InputError: laplace-torch is not installed.
    """
    with extra("laplace", "last-layer Laplace"):
        # A dependency of laplace-torch imports torchvision, which may need `torchvision_import`.
        torchvision_datasets()
        from laplace import Laplace

    # Laplace flattens parameters by views, which needs them to be contiguous.
    copy = deepcopy(model).eval()
    for parameter in copy.parameters():
        parameter.data = parameter.data.contiguous()
    with seeded(seed, images.device), torch.enable_grad():
        # Any, since its annotations do not match its defaults.
        posterior: Any = Laplace(
            copy, "classification", subset_of_weights="last_layer", hessian_structure="kron"
        )
        posterior.fit(DataLoader(TensorDataset(images, labels), batch_size=256))
        posterior.optimize_prior_precision(method="marglik")
        # Laplace's own `predictive_samples` rounds small probabilities to zero in single precision.
        layer, features = posterior.model.last_layer, posterior.model.forward_with_features(test_images)[1]
        logits = []
        for sample in posterior.sample(samples):
            vector_to_parameters(sample, layer.parameters())
            logits.append(layer(features).detach())
    return torch.stack(logits).cpu().double().softmax(2)
