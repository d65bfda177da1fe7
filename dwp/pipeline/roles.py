"""Roles of priors: what versions and files call a prior, whatever its name in the configuration.

A role is the kind of the prior, with a number if a job uses others of that kind. So a prior that is only
renamed makes nothing stale.
"""

from collections.abc import Mapping


def assign_roles(priors: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return the role of each prior, by name; priors of the same content share one.

    Args:
        priors: kind and content of each prior of a job, by name.
    """
    found = {}
    for name, (kind, content) in priors.items():
        same_kind = sorted({other for other_kind, other in priors.values() if other_kind == kind})
        number = same_kind.index(content) + 1
        found[name] = kind if number == 1 else f"{kind}-{number}"
    return found
