"""The forms of approximate posteriors by name, and what each needs of a prior; read without PyTorch."""

from dwp.errors import InputError, unknown
from dwp.priors.settings import PriorSettings

FORMS = {
    "additive": ("has_kl", "has no density; use another"),
    "truncated_alpha": ("has_kl", "has no density; use another"),
    "point": ("has_density", "has no density; use another"),
    "latent": ("has_codes", "has no latent code; use a vae"),
}
"""By form, the fact of `PriorSettings` that its prior needs, and what is said of a prior without."""


def check(form: str, prior: type[PriorSettings]) -> None:
    """Raise InputError for an unknown form, or one that a kind of prior cannot be used with."""
    if form not in FORMS:
        raise unknown("posterior", form, FORMS)
    fact, refusal = FORMS[form]
    if not getattr(prior, fact):
        raise InputError(f"{prior.kind} {refusal}")
