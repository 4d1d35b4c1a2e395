"""Typed access to the fields of parsed JSON, for text that may have been damaged or forged."""

from collections.abc import Mapping
from typing import Any, TypeVar

from .strict_json import JSON

_T = TypeVar("_T")


class Fields:
    """One JSON object with exactly the expected names.

    Every method raises ValueError naming the object and the field.
    """

    def __init__(self, value: JSON, where: str, names: frozenset[str]) -> None:
        self._where = where
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} is not an object")
        if missing := names - value.keys():
            raise ValueError(f"{where} lacks {', '.join(sorted(missing))}")
        if unknown := value.keys() - names:
            raise ValueError(f"{where} has the unknown {', '.join(sorted(unknown))}")
        self._value: Mapping[str, JSON] = value

    def text(self, name: str) -> str:
        """Return a string."""
        return self._typed(name, self._value[name], str)

    def integer(self, name: str, minimum: int = 0) -> int:
        """Return an integer that is at least `minimum`."""
        return self._at_least(name, self._value[name], minimum)

    def integers(self, name: str) -> tuple[int, ...]:
        """Return an array of integers that are at least 0."""
        items: list[Any] = list(self.array(name))
        # There may be hundreds of thousands, and the built-ins are quick; true is not a number.
        if set(map(type, items)) <= {int} and min(items, default=0) >= 0:
            return tuple(items)
        return tuple(self._at_least(name, item, 0) for item in items)

    def array(self, name: str) -> list[JSON]:
        """Return an array of anything."""
        return self._typed(name, self._value[name], list)

    def mapping(self, name: str) -> dict[str, JSON]:
        """Return an object of anything."""
        return self._typed(name, self._value[name], dict)

    def all_but(self, name: str) -> dict[str, JSON]:
        """Return all fields except one."""
        return {key: value for key, value in self._value.items() if key != name}

    def _typed(self, name: str, value: JSON, kind: type[_T]) -> _T:
        # bool is a subclass of int, yet true is not a number here.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{self._where}: {name} is not of type {kind.__name__}")
        return value

    def _at_least(self, name: str, value: JSON, minimum: int) -> int:
        number = self._typed(name, value, int)
        if number < minimum:
            raise ValueError(f"{self._where}: {name} is {number}, below {minimum}")
        return number
