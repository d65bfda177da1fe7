"""A last-layer Laplace approximation of a trained classifier, by laplace-torch (Daxberger et al. 2021)."""

from copy import deepcopy

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
    """Return class probabilities of samples from the posterior of the last layer, as `bayes.predict` does.

    The posterior is Gaussian around the trained weights, its covariance a Kronecker-factored
    generalised Gauss-Newton; the precision of the prior maximises the marginal likelihood.

    Args:
        model: from images [n, c, h, w] to logits, its last layer linear; left as it was.
        images: those it was trained on, with their labels.
        test_images: to predict, [n, c, h, w].
        samples: members of the ensemble.
        seed: of the samples.

    Returns:
        Probabilities [samples, n, classes], in double precision on the CPU.
    """
    with extra("laplace", "last-layer Laplace"):
        # Imported by one of laplace-torch's dependencies, and it does not load everywhere by itself.
        torchvision_datasets()
        from laplace import Laplace

    # Laplace flattens parameters by views, which need them in the order of their shape.
    copy = deepcopy(model).eval()
    for parameter in copy.parameters():
        parameter.data = parameter.data.contiguous()
    with seeded(seed, images.device), torch.enable_grad():
        posterior = Laplace(copy, "classification", subset_of_weights="last_layer", hessian_structure="kron")
        posterior.fit(DataLoader(TensorDataset(images, labels), batch_size=256))
        posterior.optimize_prior_precision(method="marglik")
        # Laplace's own `predictive_samples` rounds small probabilities to zero, in single precision.
        layer, features = posterior.model.last_layer, posterior.model.forward_with_features(test_images)[1]
        logits = []
        for sample in posterior.sample(samples):
            vector_to_parameters(sample, layer.parameters())
            logits.append(layer(features).detach())
    return torch.stack(logits).cpu().double().softmax(2)
