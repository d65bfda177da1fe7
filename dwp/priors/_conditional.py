"""Draws and densities of some weights of a kernel given the others."""

import torch
from torch import Tensor

from dwp.priors.base import Prior
from dwp.priors.distributions import as_kernels, as_mask


class ConditionalPrior(Prior):
    """A prior whose weights have a distribution given any of the others.

    Subclasses define `_completed` and `_conditional_log_prob`, of flattened kernels x [n, k²] and a mask
    [1, k²] or [n, k²]. Unobserved weights of x may have any values, also NaN, in `_completed`.
    """

    @torch.no_grad()
    def complete(self, w: Tensor, observed: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw the unobserved weights of kernels given their observed weights.

        Args:
            w: kernels [n, 1, k, k], or weights [o, i, k, k]; unobserved weights are ignored, and may be NaN.
            observed: mask of the observed weights, boolean, [k, k] or of the shape of w.
            generator: random generator on the CPU; None uses PyTorch's default.

        Returns:
            A copy of w with new unobserved weights.

        Raises:
            InputError: the mask is not boolean, or a shape is another.
        """
        mask = as_mask(observed, w)
        x = as_kernels(w, self.kernel_size).flatten(1)
        return torch.where(observed.to(w.device), w, self._completed(x, mask, generator).to(w).view(w.shape))

    def conditional_log_prob(self, w: Tensor, observed: Tensor, samples: int = 1) -> Tensor:
        """Return the log density of the unobserved weights given the observed, in nats (see `exact`).

        Args:
            w: kernels [n, 1, k, k], for a result of shape [n]; or weights [o, i, k, k], for [o, i].
            observed: mask of the observed weights, boolean, [k, k] or of the shape of w.
            samples: K of the importance-weighted bound; ignored if the density is exact.

        Raises:
            InputError: the mask is not boolean, or a shape is another.
        """
        mask, kernels = as_mask(observed, w), as_kernels(w, self.kernel_size)
        found = self._conditional_log_prob(kernels.flatten(1), mask, samples)
        return found if kernels is w else found.view(w.shape[:2])

    def _completed(self, x: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
        raise NotImplementedError

    def _conditional_log_prob(self, x: Tensor, mask: Tensor, samples: int) -> Tensor:
        raise NotImplementedError
