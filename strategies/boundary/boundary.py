"""The boundary: one small float64 sum over the ranks after every optimizer step.

Said at boundary k and read at boundary k+1, so that a step never waits for it; on the way it goes
along with the sum that the step needs anyway. It carries the requests of the ranks, the training
loss, and the numbers by which ranks notice that they no longer do the same thing.
"""

# Note: said at k, read at k+1
#
# Ranks have to agree after every step: was one asked to leave, has one found that a save is due,
# are all still at the same step. Agreeing costs a collective, and a collective that is waited for
# at once costs the step its latency: the fastest rank waits for the slowest, twice.
#
# So the vector of boundary k is not waited for at k. It is held, goes along with the small sum that
# step k+1 needs anyway (how many samples counted), and is read at boundary k+1, when it has long
# arrived. What follows from it is one step late, on every rank alike: a run that is asked to stop
# after step 10 stops after step 11.
#
# From this come three rules.
#
# 1. Nothing may be decided from a rank's own wish. A rank that sees its own flag at k and acts on
#    it enters a collective that no other rank is in. It reports the flag, and acts on the sum.
# 2. A caller that needs silence on the channel (a save, an evaluation of unknown length) calls
#    `drain` first: it sends what is held and waits. Sums are answered in the order in which they
#    were sent, so a rank that drains while another does not would read the other's numbers.
# 3. All numbers are float64 sums. Agreement on an integer x needs no gather of W values: W ranks
#    hold the same x exactly if W * sum(x*x) == sum(x)**2 (Cauchy-Schwarz). Both sums go around, and
#    digests have 20 bits so that they stay exact up to 8192 ranks.
#
# A preemption notice cannot wait for the next boundary where steps last minutes. For it the sums of
# single micro-batches carry a few numbers more; see notice_rounds.py.

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import SupportsFloat

from checkpointing import JSON

from ..collectives.equality import all_equal, summands
from ..collectives.host_channel import PendingSum
from ..collectives.process_group import Ranks
from ..errors import DesyncError
from ..metrics.sums import Metrics, MetricSums, reduce_sums
from .notice_rounds import NUM_NUMBERS, AgreedNotice, Look

_DIGEST_BITS = 20
"""Small enough that W * digest**2 is exact in float64 up to 8192 ranks."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one rank says at a boundary."""

    step: int
    """Optimizer steps completed."""
    preempt: bool = False
    stop: bool = False
    save: bool = False
    """The coordinator's clock says that a save is due."""
    skipped: bool = False
    """The step's gradients were not finite and it was not applied."""
    settled: bool = False
    """This rank's part of the save in flight is written, or has failed."""
    loss_sum: SupportsFloat = 0.0
    """Read when it is sent, such as a `LateNumber`."""
    loss_count: SupportsFloat = 0.0
    replicas: int = 0
    """Of the weights that other ranks should hold too; see `replicas`."""


_COMPARED = ("replicas",)
_SAID = tuple(field.name for field in fields(Report) if field.name not in _COMPARED)
"""What goes around of a report, in this order."""
_IN_ORDER = attrgetter(*_SAID)


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """The sum of all reports: the same numbers on every rank."""

    step: int
    preempt: int
    """Number of ranks that were asked to leave."""
    stop: int
    save: int
    skipped: int
    settled: int
    loss: float
    """Exact mean training loss of the step over all samples; nan without samples."""
    replicas_differ: bool = False
    """Some rank holds other weights than the rest, of those that were compared."""


@dataclass(frozen=True, kw_only=True)
class Carried:
    """What came out of the sum that an optimizer step needs anyway."""

    total: float
    """Of the numbers."""
    notice: AgreedNotice


def digest(value: JSON) -> int:
    """Return a 20-bit digest of a JSON value."""
    text = json.dumps(value, sort_keys=True).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") % (
        1 << _DIGEST_BITS
    )


class Boundary:
    """The channel on which ranks agree. Every method that communicates is called on every rank."""

    def __init__(self, ranks: Ranks, config: JSON) -> None:
        """Take the configuration that must be the same on every rank."""
        self._ranks = ranks
        self._digest_summands = summands(digest(config))
        self._held: Report | None = None
        self._sent: tuple[Report, PendingSum, int] | None = None
        """A report, the sum that it went along with, and where in that it begins."""
        self._read: Agreed | None = None

    def send(self, report: Report) -> None:
        """Start the reduction of this boundary's reports. Called on every rank."""
        self.hold(report)
        self._send()

    def hold(self, report: Report) -> None:
        """Keep this boundary's report until `carry` or `drain` takes it along; no collective."""
        assert self._held is None, "the former boundary must be received first"
        self._held = report

    def carry(self, number: float, look: Look | None = None) -> Callable[[], Carried]:
        """Start to sum a number over the ranks, and with it the reports held. On every rank.

        Args:
            number: any.
            look: what this rank knows of a preemption notice and of the time.

        Returns:
            Waits for the sum and returns it; called on every rank, or on none.
        """
        under_way = self._send([number, *(look or Look()).numbers()])

        def wait() -> Carried:
            total, *sums = under_way.wait()[: 1 + NUM_NUMBERS]
            return Carried(total=total, notice=AgreedNotice.of(sums))

        return wait

    def _send(self, numbers: Sequence[float] = ()) -> PendingSum:
        assert self._sent is None, "the former boundary must be received first"
        report, self._held = self._held, None
        values = [] if report is None else self._vector(report)
        under_way = self._ranks.channel.start([*numbers, *values])
        if report is not None:
            self._sent = (report, under_way, len(numbers))
        return under_way

    def _vector(self, report: Report) -> list[float]:
        return [
            *map(float, _IN_ORDER(report)),
            *summands(report.replicas),
            *summands(report.step),
            *self._digest_summands,
        ]

    def receive(self) -> Agreed | None:
        """Return the former boundary's agreement, once; None at the first. Called on every rank.

        Raises:
            DesyncError: the ranks are at different steps or were given different configurations.
        """
        self.drain()
        agreed, self._read = self._read, None
        return agreed

    def peek(self) -> Agreed | None:
        """Return what `drain` has read and `receive` will return; None where nothing was sent."""
        return self._read

    def drain(self) -> None:
        """Send what is held, wait for it and keep it for `receive`, so that nothing is under way.

        Called on every rank, before other collectives of unknown length such as a save.
        """
        if self._held is not None:
            self._send()
        if self._sent is None:
            return
        report, under_way, begin = self._sent
        reduced = under_way.wait()[begin:]
        self._sent = None
        self._read = self._checked(report, reduced)

    def require_same(self, what: str, value: JSON) -> None:
        """Come together before something long that all ranks do. Called on every rank.

        Without it a rank that is alone in it would wait in some collective of the model's.

        Args:
            what: it is, such as "step.evaluate".
            value: the arguments that must be the same on every rank.

        Raises:
            DesyncError: they are not, or another rank does something else.
        """
        own = digest([what, value])
        total, squares = self._ranks.channel.start(summands(own)).wait()
        if not all_equal(total, squares, self._ranks.world_size):
            raise DesyncError(
                f"rank {self._ranks.rank} is in {what} with {value}, and another rank with other "
                "arguments. Every rank must pass the same."
            )

    def reduce_metrics(self, sums: MetricSums) -> Metrics:
        """Return the exact metrics over all ranks. Called on every rank.

        Raises:
            DesyncError: the ranks measured different metrics.
        """
        return reduce_sums(self._ranks, sums, digest(sums.layout))

    def _checked(self, report: Report, reduced: list[float]) -> Agreed:
        world_size = self._ranks.world_size
        _, preempt, stop, save, skipped, settled, loss_sum, count = reduced[: len(_SAID)]
        held_sum, held_squares, step_sum, step_squares, digest_sum, digest_squares = reduced[-6:]
        if not all_equal(step_sum, step_squares, world_size):
            raise DesyncError(
                f"the ranks disagree on the step: rank {self._ranks.rank} has completed "
                f"{report.step}, the mean over {world_size} ranks is {step_sum / world_size:g}. "
                "A rank left the loop or skipped a step; use job.stop() to end a run."
            )
        if not all_equal(digest_sum, digest_squares, world_size):
            raise DesyncError(
                f"rank {self._ranks.rank} was given another configuration than other ranks "
                f"(seen at step {report.step}). Start every rank with the same arguments and code."
            )
        return Agreed(
            step=report.step,
            preempt=round(preempt),
            stop=round(stop),
            save=round(save),
            skipped=round(skipped),
            settled=round(settled),
            loss=loss_sum / count if count else float("nan"),
            replicas_differ=not all_equal(held_sum, held_squares, world_size),
        )
