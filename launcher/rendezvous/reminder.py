"""Reports regularly what is waited for; a silent wait looks like a hang."""

import time
from collections.abc import Callable

REMIND_S = 30.0
"""How often it is repeated."""
PATIENCE_S = 3.0
"""Before the first one: nodes are never started at the same moment."""


class Reminder:
    """The clock of one wait, which begins when this is made."""

    def __init__(
        self,
        say: Callable[[str], None],
        first_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._clock = clock
        self._began = clock()
        self._next_s = first_s

    @property
    def waited_s(self) -> float:
        """How long the wait has lasted."""
        return self._clock() - self._began

    def remind(self, sentence: str) -> None:
        """Report it if it is due."""
        waited_s = self.waited_s
        if waited_s >= self._next_s:
            self._next_s = waited_s + REMIND_S
            self._say(sentence)
