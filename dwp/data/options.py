"""Options of a data set: named numbers with a default and a range."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dwp.errors import InputError


class Option(NamedTuple):
    """A number in [low, high]; an integer if the default is one."""

    default: int | float
    low: int | float
    high: int | float

    def check(self, where: str, value: Any) -> int | float:
        """Return `value` with the type of the default.

        Args:
            where: name of the option in error messages.
            value: the given value.

        Raises:
            InputError: the value is of a wrong type or out of range.
        """
        integer = isinstance(self.default, int)
        accepted = int if integer else (int, float)
        if isinstance(value, bool) or not isinstance(value, accepted) or not self.low <= value <= self.high:
            kind = "an integer" if integer else "a number"
            raise InputError(f"{where} is {value!r}; allowed is {kind} from {self.low} to {self.high}")
        return type(self.default)(value)


def resolve(name: str, allowed: Mapping[str, Option], given: Mapping | None) -> dict[str, int | float]:
    """Return the value of every option of data set `name`, given or default.

    Raises:
        InputError: an option is unknown or its value is out of range.
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
