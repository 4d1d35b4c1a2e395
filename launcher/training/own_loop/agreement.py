"""Where the ranks of the user's own loop, or of a framework's loop, agree.

`strategies.boundary` with nothing of a strategy in it, on a channel beside the loop's own
collectives: the ranks need not have finished their device's work. A loop that passes through in the
same steps on all ranks calls `passed`: what one rank says at step k all ranks read at step k+1, so
no step waits for another rank. A framework's callbacks, which must know now, call `sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from checkpointing import JSON
from strategies import (
    Agreed,
    AgreedNotice,
    Boundary,
    ConfigError,
    HostCommunicator,
    Look,
    Metrics,
    Ranks,
    Report,
)
from strategies.boundary.boundary import Carried


class Agreement:
    """Of one loop. Every method is called on every rank, in the same order."""

    def __init__(self, ranks: Ranks, config: JSON = None, look: Callable[[], Look] = Look) -> None:
        """Begin before the first step.

        Args:
            ranks: between which the sums go.
            config: must be the same on every rank that calls `passed`.
            look: returns what this rank knows of a notice; on the coordinator of the time, too.
        """
        self._ranks = ranks
        self._communicator = HostCommunicator(ranks)
        self._boundary = Boundary(ranks, config)
        self._look = look
        self._sends_later = ranks.device.type != "cpu"
        """A loss that a device still computes is read at the next step: it would be waited for."""
        self._has_passed = False
        self._wait: Callable[[], Carried] | None = None
        self._notice: AgreedNotice | None = None

    def passed(self, report: Report) -> tuple[Agreed | None, AgreedNotice | None]:
        """Send this rank's report after a step; return the reports of all after the previous one.

        Returns:
            None and None at the first step.

        Raises:
            DesyncError: the ranks are at different steps, or were configured differently.
        """
        if self._sends_later and self._has_passed:
            self._carry()
        self._has_passed = True
        self._read()
        agreed, notice = self._boundary.receive(), self._notice
        self._notice = None
        self._boundary.hold(report)
        if not self._sends_later:
            self._carry()
        return agreed, notice

    def drain(self) -> Agreed | None:
        """Let nothing be under way, before other collectives; return what `passed` will return."""
        self._read()
        self._boundary.drain()
        return self._boundary.peek()

    def sums(self, *numbers: float) -> list[float]:
        """Return the sum of each number over all ranks, now.

        Raises:
            RuntimeError: another rank is gone.
        """
        self.drain()
        return self._ranks.channel.start(list(map(float, numbers))).wait()

    def any(self, asked: bool) -> bool:
        """Return whether any rank says yes: the same on every rank."""
        return self.sums(asked)[0] > 0

    def of_coordinator(self, number: float) -> float:
        """Return the coordinator's number on every rank."""
        return self.sums(number if self._ranks.is_coordinator else 0.0)[0]

    def meet(self) -> None:
        """Return when every rank has come."""
        self.sums(0.0)

    def texts(self, ours: str | None) -> list[str | None]:
        """Return the report of each rank, in rank order."""
        self.drain()
        everyone: list[Any] = self._communicator.all_gather(ours)
        return everyone

    def metrics(self, ours: Mapping[str, float]) -> list[Metrics]:
        """Return what each rank has measured, nan and inf too, in rank order."""
        self.drain()
        texts: list[Any] = self._communicator.all_gather({n: repr(v) for n, v in ours.items()})
        return [{name: float(text) for name, text in one.items()} for one in texts]

    def gathered(self, ours: torch.Tensor) -> list[torch.Tensor]:
        """Return each rank's bytes (uint8, one dimension, of any length), in rank order."""
        everyone = self.texts(bytes(ours.tolist()).decode("latin-1"))
        found = [list((text or "").encode("latin-1")) for text in everyone]
        return [torch.tensor(one, dtype=torch.uint8) for one in found]

    def _carry(self) -> None:
        self._wait = self._boundary.carry(0.0, self._look())

    def _read(self) -> None:
        if self._wait is not None:
            self._notice = self._wait().notice
            self._wait = None


def agreed_metrics(everyone: list[dict[str, float]], *, average: bool) -> Metrics:
    """Return one value for each metric out of those of all ranks; pure.

    Raises:
        ConfigError: they differ, and are not to be averaged.
    """
    first = everyone[0]
    for rank, one in enumerate(everyone):
        if one.keys() != first.keys():
            raise ConfigError(
                f"run.evaluated was given {', '.join(sorted(first)) or 'nothing'} on rank 0, and "
                f"{', '.join(sorted(one)) or 'nothing'} on rank {rank}. Give it the same on all."
            )
        for name, value in one.items() if not average else ():
            if repr(value) != repr(first[name]):  # nan is like nan
                raise ConfigError(
                    f"run.evaluated was given {name}={first[name]:g} on rank 0 and {value:g} on "
                    f"rank {rank}: which of them counts is not known. Reduce it over the ranks "
                    "before, or pass average=True for the mean over the ranks."
                )
    count = len(everyone)
    return {name: sum(one[name] for one in everyone) / count for name in first}
