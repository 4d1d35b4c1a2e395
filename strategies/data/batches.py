"""The global batch in canonical micro-batches: what every rank does in one optimizer step.

Everything here is a pure function of the plan and the step. The numbering of the micro-batches
knows nothing of the world size; only `assignment` does, and it changes nobody's samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from .permutation import shuffled


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """One canonical micro-batch."""

    index: int
    """Its number inside the step, the same on any number of ranks."""
    start: int
    """First position in the epoch's order."""
    end: int
    """One past the last position; the last micro-batch of an epoch may be short."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One forward and backward of one rank."""

    micro_batch: MicroBatch
    is_padding: bool
    """A repeat with weight zero: every rank must take part in every collective."""


@dataclass(frozen=True, kw_only=True)
class Jump:
    """A window of data that is left out for good, because the steps on it could not be applied."""

    at: int
    """The optimizer step that continues behind the window."""
    length: int
    """How many steps' data it holds."""


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How the training data is cut into optimizer steps."""

    num_samples: int
    global_batch: int
    """Samples in one optimizer step, over all ranks."""
    micro_batch: int
    """Samples in one forward and backward of one rank."""
    seed: int
    epochs: int = 1
    steps: int | None = None
    """Optimizer steps of the whole run, instead of `epochs`."""
    in_order: bool = False
    """The data's own order: it is a stream."""
    jumps: tuple[Jump, ...] = ()
    """The steps remain as many: what was left out is made up for at the end."""

    def __post_init__(self) -> None:
        for name in ("num_samples", "global_batch", "micro_batch", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1.")
        if self.global_batch % self.micro_batch:
            lower = self.global_batch - self.global_batch % self.micro_batch
            near = [str(n) for n in (lower, lower + self.micro_batch) if n]
            raise ConfigError(
                f"global_batch={self.global_batch} cannot be cut into micro-batches of "
                f"micro_batch={self.micro_batch}. Use a global_batch that is a multiple of it "
                f"({' or '.join(near)}), or a micro_batch that divides {self.global_batch}."
            )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one epoch; the last one may hold fewer samples."""
        return -(-self.num_samples // self.global_batch)

    @property
    def total_steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.steps_per_epoch * self.epochs if self.steps is None else self.steps

    def data_step(self, step: int) -> int:
        """Return which step's data the 0-based optimizer step `step` has: later, behind jumps."""
        return step + sum(jump.length for jump in self.jumps if step >= jump.at)

    def epoch_of(self, step: int) -> int:
        """Return the epoch to which 0-based optimizer step `step` belongs."""
        return self.data_step(step) // self.steps_per_epoch

    def position(self, step: int) -> int:
        """Return the samples in all epochs before those of 0-based optimizer step `step`."""
        epoch, inside = divmod(self.data_step(step), self.steps_per_epoch)
        return epoch * self.num_samples + inside * self.global_batch

    def num_samples_in(self, step: int) -> int:
        """Return the samples of 0-based step `step`; the last one of an epoch may be short."""
        start, end = self._bounds(step)
        return end - start

    def _bounds(self, step: int) -> tuple[int, int]:
        start = (self.data_step(step) % self.steps_per_epoch) * self.global_batch
        return start, min(start + self.global_batch, self.num_samples)

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """Return the canonical micro-batches of 0-based optimizer step `step`."""
        start, end = self._bounds(step)
        cuts = range(start, end, self.micro_batch)
        return [
            MicroBatch(index=i, start=cut, end=min(cut + self.micro_batch, end))
            for i, cut in enumerate(cuts)
        ]

    def turns(self, step: int, rank: int, world_size: int) -> list[Turn]:
        """Return what `rank` computes in `step`: the same number of turns on every rank."""
        return assignment(self.micro_batches(step), rank, world_size)

    def stretches(self, first_step: int, *, at_most: int) -> Iterator[range]:
        """Yield the steps from `first_step` on, those of one epoch together.

        Args:
            first_step: 0-based.
            at_most: samples in one stretch, unless a single step has more.
        """
        step = first_step
        length = max(1, at_most // self.global_batch)
        while step < self.total_steps:
            left_in_epoch = self.steps_per_epoch - self.data_step(step) % self.steps_per_epoch
            following = [jump.at for jump in self.jumps if jump.at > step]
            end = min(step + length, step + left_in_epoch, self.total_steps, *following)
            yield range(step, end)
            step = end

    def samples(self, step: int, turns: Sequence[Turn]) -> list[NDArray[np.int64]]:
        """Return the data set indices of each turn's micro-batch, int64 of its length.

        Args:
            step: one of those that the turns belong to, which are all of one epoch.
            turns: of one step or several.
        """
        cuts = np.cumsum([t.micro_batch.end - t.micro_batch.start for t in turns])
        ranges = [np.arange(t.micro_batch.start, t.micro_batch.end) for t in turns]
        positions = np.concatenate(ranges)
        if self.in_order:
            return np.split(positions, cuts[:-1])
        # In one call: its cost is that of its numpy operations, hardly that of the samples.
        order = shuffled(positions, self.num_samples, seed=self.seed, epoch=self.epoch_of(step))
        return np.split(order, cuts[:-1])


def assignment(micro_batches: list[MicroBatch], rank: int, world_size: int) -> list[Turn]:
    """Deal micro-batches to ranks in turn; a rank that comes short repeats one with weight zero."""
    rounds = -(-len(micro_batches) // world_size)
    turns = []
    for i in range(rounds):
        number = i * world_size + rank
        is_padding = number >= len(micro_batches)
        micro_batch = micro_batches[number % len(micro_batches) if is_padding else number]
        turns.append(Turn(micro_batch=micro_batch, is_padding=is_padding))
    return turns


def consecutive(num_samples: int, micro_batch: int) -> list[MicroBatch]:
    """Cut an evaluation set into micro-batches in its own order, each sample exactly once."""
    return [
        MicroBatch(index=i, start=start, end=min(start + micro_batch, num_samples))
        for i, start in enumerate(range(0, num_samples, micro_batch))
    ]
