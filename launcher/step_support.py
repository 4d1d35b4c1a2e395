"""What the steps of a run need: their data, the other ranks' notices, and a way to leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from strategies import (
    Boundary,
    Look,
    MapDataset,
    Notice,
    NoticeRounds,
    Ranks,
    RunningStatistics,
    Strategy,
)
from strategies.boundary import Carried
from strategies.errors import DataNotReady

from .evaluation import Measure
from .notices import DataPatience
from .saver import Saver
from .step import Step

if TYPE_CHECKING:
    from .run import Run

Evaluate = Callable[[Step, MapDataset, Measure, str], dict[str, float]]


class StepSupport:
    """Serves one step after the other; see `StepOwner`."""

    def __init__(
        self,
        run: Run,
        strategy: Strategy,
        statistics: RunningStatistics,
        boundary: Boundary,
        saver: Saver,
        *,
        evaluate: Evaluate,
        give_up: Callable[[Step], NoReturn],
    ) -> None:
        self.strategy = strategy
        self.ranks: Ranks = run.ranks
        self.statistics = statistics
        self.is_leaving = False
        """The ranks have agreed to leave: a loop that is closed now was not left by the script."""
        self._run = run
        self._boundary = boundary
        self._saver = saver
        self._evaluate = evaluate
        self._give_up = give_up
        self._rounds = NoticeRounds(run.ranks, self.look)
        self._batches: Iterator[Any] | None = None
        self._former: Any = None
        self._lacks_data = False
        self.patience = DataPatience(run.preemption, save_s=lambda: saver.clock.save_s or 0.0)
        """Decides how long this rank waits for data after a notice."""

    def read_from(self, batches: Iterator[Any]) -> None:
        """Take the micro-batches of the steps to come."""
        self._batches = batches

    def look(self) -> Look:
        """Return what this rank knows of a notice; the coordinator also of the time."""
        look = Look(asked=self._run.preemption.requested)
        if self.ranks.is_coordinator:
            look = self._saver.clock.look()
        return replace(look, lacks_data=self._lacks_data)

    def next_batch(self) -> tuple[Any, bool]:
        """See StepOwner."""
        assert self._batches is not None
        self.patience.begin()
        while True:
            try:
                self._former = next(self._batches)
            except DataNotReady:
                # Without any batch so far this rank has finished no step, and would have left.
                if self._former is None:
                    continue
                self._lacks_data = True
                return self._former, False
            return self._former, True

    def begin_round(self) -> None:
        """See StepOwner."""
        self._rounds.begin()

    def end_round(self) -> Notice | None:
        """See StepOwner."""
        return self._rounds.end()

    def carry(self, count: float) -> Callable[[], Carried]:
        """See StepOwner."""
        # Whoever has given its count lets the others finish the step, and must finish it too.
        self._run.before_first_step.end()
        return self._boundary.carry(count, self.look())

    def before_update(self) -> None:
        """See StepOwner."""
        self._saver.release_tensors()

    def evaluate(
        self, step: Step, dataset: MapDataset, measure: Measure, name: str
    ) -> dict[str, float]:
        """See StepOwner."""
        return self._evaluate(step, dataset, measure, name)

    def give_up(self, step: Step) -> NoReturn:
        """See StepOwner."""
        self.statistics.give_up()
        self._give_up(step)

    def left(self, what: str) -> str | None:
        """See StepOwner."""
        return None if self.is_leaving else self._run.itinerary.leave(what)

    def warn(self, sentence: str) -> None:
        """See StepOwner."""
        self._run.warn(sentence)
