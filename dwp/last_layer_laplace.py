"""A last-layer Laplace approximation of a trained classifier, by laplace-torch (Daxberger et al. 2021)."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dwp.data.torchvision_import import torchvision_datasets


def predict(
    model: nn.Module, images: Tensor, labels: Tensor, test_images: Tensor, samples: int, seed: int = 0
) -> Tensor:
    """Return class probabilities of samples from the posterior of the last layer, [samples, n, classes].

    The posterior is Gaussian around the trained weights, its covariance a Kronecker-factored
    generalised Gauss-Newton; the precision of the prior maximises the marginal likelihood.

    Args:
        model: from images [n, c, h, w] to logits, its last layer linear; left as it was.
        images: those it was trained on, with their labels.
        test_images: to predict, [n, c, h, w].
        samples: members of the ensemble.
        seed: of the samples.
    """
    # Imported by one of laplace-torch's dependencies, and it does not load everywhere by itself.
    torchvision_datasets()
    from laplace import Laplace

    # Laplace flattens parameters by views, which need them in the order of their shape.
    copy = deepcopy(model).eval()
    for parameter in copy.parameters():
        parameter.data = parameter.data.contiguous()
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad():
        torch.manual_seed(seed)
        posterior = Laplace(copy, "classification", subset_of_weights="last_layer", hessian_structure="kron")
        posterior.fit(DataLoader(TensorDataset(images, labels), batch_size=256))
        posterior.optimize_prior_precision(method="marglik")
        parts = [
            posterior.predictive_samples(part, pred_type="nn", n_samples=samples)
            for part in test_images.split(len(test_images))
        ]
    return torch.cat(parts, 1).float()
