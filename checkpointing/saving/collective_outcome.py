"""Carry an exception to the next collective, so that no rank waits for one that failed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import CheckpointError
from ..format.strict_json import JSON


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an action returned, or the exception that it raised."""

    value: JSON = None
    error: BaseException | None = None
    note: str | None = None
    """What a person should hear of it all the same."""

    def message(self) -> JSON:
        """Return what the other ranks need to know of it."""
        if self.error is None:
            return {"value": self.value, **({"note": self.note} if self.note else {})}
        return {"error": _describe(self.error)}

    def raise_unexpected(self) -> None:
        """Raise the exception if it is not one that a disk causes: a defect, or an interrupt."""
        if self.error is not None and not isinstance(self.error, OSError | CheckpointError):
            raise self.error


def run_guarded(action: Callable[[], JSON]) -> Outcome:
    """Run an action and catch everything, an interrupt too: the caller owes a collective."""
    try:
        return Outcome(value=action())
    except BaseException as error:
        return Outcome(error=error)


def error_in(message: JSON) -> str | None:
    """Return the error in a message, None if it reports success."""
    assert isinstance(message, Mapping)
    error = message.get("error")
    return None if error is None else str(error)


def notes_in(messages: Sequence[JSON]) -> tuple[str, ...]:
    """Return the notes in messages, each once."""
    found = (message.get("note") for message in messages if isinstance(message, Mapping))
    return tuple(dict.fromkeys(str(note) for note in found if note is not None))


def value_in(message: JSON) -> JSON:
    """Return the value in a message that reports success."""
    assert isinstance(message, Mapping)
    return message["value"]


def _describe(error: BaseException) -> str:
    if isinstance(error, OSError | CheckpointError):
        return str(error)
    return f"{type(error).__name__}: {error}"
