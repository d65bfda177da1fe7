"""The log-uniform prior p(|w|) ∝ 1/|w|, improper, with two approximations of its KL."""

import torch
from torch import Tensor

from dwp.priors.base import KLEstimator, Prior, register
from dwp.priors.distributions import GaussianPosterior
from dwp.priors.settings import LogUniformSettings

KINGMA = (1.16145124, -1.50204118, 0.58629921)
MOLCHANOV = (0.63576, 1.87320, 1.48695)


@register
class LogUniform(Prior):
    """The log-uniform prior of variational dropout; its KL is known up to a constant.

    Args:
        kernel_size: k.
        approximation: 'kingma' (Kingma et al. 2015, eq. 14; valid for α <= 1, so it
            is used with the truncated-alpha posterior) or 'molchanov' (Molchanov et
            al. 2017, eq. 14; any α).
    """

    settings_class = LogUniformSettings

    def __init__(self, kernel_size: int, approximation: str = LogUniformSettings.approximation) -> None:
        super().__init__(kernel_size, approximation=approximation)
        self.approximation = approximation

    def kl(self, q: GaussianPosterior, estimator: KLEstimator = KLEstimator()) -> Tensor:
        """Return the KL in nats up to a constant, summed over weights; `estimator` is ignored.

        Molchanov's form is zero for α → ∞; Kingma's omits its constant.
        """
        log_alpha = q.log_alpha()
        if self.approximation == "kingma":
            # The polynomial diverges for α > 1, so α is clamped to 1.
            log_alpha = log_alpha.clamp_max(0)
            alpha = log_alpha.exp()
            c1, c2, c3 = KINGMA
            return -(0.5 * log_alpha + c1 * alpha + c2 * alpha**2 + c3 * alpha**3).sum()
        k1, k2, k3 = MOLCHANOV
        # k1·(1 - sigmoid(x)) as k1·sigmoid(-x), which does not round to zero for a large α.
        above = k1 * torch.sigmoid(-(k2 + k3 * log_alpha))
        return (above + 0.5 * torch.nn.functional.softplus(-log_alpha)).sum()
