"""Names of the posteriors and their requirements on priors; imports no PyTorch."""

from typing import NamedTuple

from dwp.errors import InputError, unknown
from dwp.priors.settings import PriorSettings


class Form(NamedTuple):
    """Requirement of a form of posterior.

    Attributes:
        fact: the property of `PriorSettings` that its prior must have.
        refusal: end of the error message for a prior without it.
        gaussian: whether each kernel has a Gaussian posterior, so that KL(q || prior) has an entropy.
    """

    fact: str
    refusal: str
    gaussian: bool = False

    def check(self, prior: type[PriorSettings]) -> None:
        """Raise InputError for a kind of prior that the form cannot be used with."""
        if not getattr(prior, self.fact):
            raise InputError(f"{prior.kind} {self.refusal}")


_DENSITY = "has no density; use another"

FORMS = {
    "additive": Form("has_kl", _DENSITY, gaussian=True),
    "truncated_alpha": Form("has_kl", _DENSITY, gaussian=True),
    "point": Form("has_density", _DENSITY),
    "latent": Form("has_codes", "has no latent code; use a vae or a pairwise_augmented_gan"),
}


SAMPLED = "hmc"
POSTERIORS = {**FORMS, SAMPLED: Form("has_density", _DENSITY)}
"""Forms of the posterior of each kernel, and samples of the posterior of all weights."""


def find(form: str) -> Form:
    """Return the requirement of a form.

    Raises:
        InputError: there is no such form.
    """
    if form not in FORMS:
        raise unknown("posterior", form, FORMS)
    return FORMS[form]
