"""Names of the posteriors and their requirements on priors; imports no PyTorch."""

from typing import NamedTuple

from dwp.errors import InputError, unknown
from dwp.priors.settings import PriorSettings


class Form(NamedTuple):
    """What a form of posterior needs.

    Attributes:
        fact: the fact of `PriorSettings` that must hold of its prior.
        refusal: end of the error for a prior without that fact.
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
    "latent": Form("has_codes", "has no latent code; use a vae"),
}


def find(form: str) -> Form:
    """Return what a form needs.

    Raises:
        InputError: there is no such form.
    """
    if form not in FORMS:
        raise unknown("posterior", form, FORMS)
    return FORMS[form]
