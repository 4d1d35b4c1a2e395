"""When a digest of the weights goes into metrics.jsonl."""

from __future__ import annotations

from strategies import Strategy
from strategies.state.weights_digest import weights_digest

from ..context import RunContext
from ..reporting.step_log import StepLog


class WeightDigests:
    """Adds digests to the newest step's record. Every method is called on every rank."""

    def __init__(
        self, run: RunContext, strategy: Strategy, records: StepLog, every: int | None
    ) -> None:
        """Take `every` of the recipe; without it, digests are for exact runs alone."""
        self._run = run
        self._strategy = strategy
        self._records = records
        self._every = every
        self._is_on = every is not None or strategy.options.exact
        self._added: int | None = None
        """The step whose record has one."""

    def after_step(self, step: int, *, is_evaluated: bool) -> None:
        """Add one where it is due after a step whose record is there."""
        self._added = None  # the run may have gone back to this step
        if is_evaluated or (self._every is not None and step % self._every == 0):
            self.add(step)

    def add(self, step: int) -> None:
        """Add one to the newest record, that of `step`, unless it has one or none is wanted."""
        if not self._is_on or self._added == step:
            return
        self._added = step
        self._records.add_digest(weights_digest(self._strategy, self._run.communicator))
