"""Options of a data set: named numbers with a default and a range."""

from collections.abc import Mapping
from typing import NamedTuple

from dwp.errors import InputError


class Option(NamedTuple):
    """A number in [low, high]; one with an integer default takes integers only."""

    default: int | float
    low: int | float
    high: int | float

    def check(self, where: str, value) -> int | float:
        """Return `value` with the type of the default, or raise InputError."""
        integer = isinstance(self.default, int)
        accepted = int if integer else (int, float)
        if isinstance(value, bool) or not isinstance(value, accepted) or not self.low <= value <= self.high:
            kind = "an integer" if integer else "a number"
            raise InputError(f"{where} is {value!r}; allowed is {kind} from {self.low} to {self.high}")
        return type(self.default)(value)


def resolve(name: str, allowed: Mapping[str, Option], given: Mapping | None) -> dict[str, int | float]:
    """Return every option of data set `name` with its value, given or default.

    Raises InputError for an unknown option or a value out of its range.
    """
    given = given or {}
    unknown = [key for key in given if key not in allowed]
    if unknown:
        choice = ", ".join(allowed) or "none"
        raise InputError(f"data set {name}: unknown option {unknown[0]!r}; its options: {choice}")
    return {
        key: option.check(f"data set {name}: option {key}", given.get(key, option.default))
        for key, option in allowed.items()
    }
