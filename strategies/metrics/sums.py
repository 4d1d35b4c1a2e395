"""Named sums over samples: exact for any padding, batch size and number of ranks.

Every metric is a vector of sums and a function of their totals. Sums can be added in any cut; means
of means, and areas under curves, cannot, and are not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import torch
import torch.distributed as dist

from checkpointing import JSON

from ..collectives.equality import all_equal, summands
from ..collectives.host_channel import MOST_NUMBERS
from ..collectives.order_free import in_parts, joined_parts
from ..collectives.process_group import Ranks
from ..errors import ConfigError, DesyncError

Table: TypeAlias = "list[list[float]]"
"""Rows of a metric that is a matrix."""
Metrics: TypeAlias = dict[str, Any]
"""By name: each a float, or a `Table`."""
Finish: TypeAlias = "Callable[[Sequence[float]], float | Table | Mapping[str, float]]"
"""(totals over all samples and ranks) -> the metric, or several by name."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Sums over the samples of one batch, and a function of their totals."""

    kind: str
    """Name of the metric with its arguments; the same in every batch and on every rank."""
    sums: torch.Tensor
    """Shape (k,), any real dtype."""
    finish: Finish


Measurement: TypeAlias = "torch.Tensor | tuple[torch.Tensor | float, torch.Tensor | float] | Tally"
"""One value per sample, of shape (n,) or more, any real dtype; or a pair (numerator, denominator),
each summed separately; or a `Tally`, such as `metrics.f1(...)` returns."""


class MetricSums:
    """The running sums of named metrics in float64, on the device that measured them.

    They are read once, by `vector`: a number that is read in each batch would make the host wait
    for the device there.
    """

    def __init__(self, *, exact: bool = False) -> None:
        """Begin with nothing; `exact`: the order of batches and ranks must not matter."""
        self._is_exact = exact
        self._tallies: dict[str, tuple[str, torch.Tensor, Finish]] = {}

    def add(self, measured: Mapping[str, Measurement], *, weight: float) -> None:
        """Add one micro-batch.

        Args:
            measured: one entry a metric.
            weight: 0 for padding, else 1. Padding still fixes the names, which must be the same
                on every rank.

        Raises:
            ConfigError: no mapping, a tensor without a sample dimension, whose count cannot be
                known, or a metric that is another one than in the batch before.
        """
        if not isinstance(measured, Mapping):
            raise ConfigError(
                f"measure returned a {type(measured).__name__}; it must return a dict of metrics "
                'by name, such as {"loss": F.cross_entropy(out, y, reduction="none")}.'
            )
        for name, value in measured.items():
            tally = _tally_of(name, value)
            new = tally.sums.detach().double().reshape(-1)
            if self._is_exact:
                new = in_parts(new).reshape(-1)
            kind, sums, _ = self._tallies.get(name, (tally.kind, torch.zeros_like(new), None))
            if (kind, len(sums)) != (tally.kind, len(new)):
                raise ConfigError(
                    f'metric "{name}" is {tally.kind} of {len(new)} sums, and was {kind} of '
                    f"{len(sums)} in an earlier batch. Give each metric a name of its own."
                )
            if weight:
                sums = sums.to(new.device, non_blocking=True) + new
            self._tallies[name] = (kind, sums, tally.finish)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics' names in a canonical order."""
        return tuple(sorted(self._tallies))

    @property
    def layout(self) -> list[JSON]:
        """[name, kind, number of sums] of each metric: what must be the same on every rank."""
        return [[n, self._tallies[n][0], len(self._tallies[n][1])] for n in self.names]

    def vector(self) -> list[float]:
        """Return all sums, in the order of `names`."""
        found: dict[str, list[float]] = {}
        held = {name: self._tallies[name][1] for name in self.names}
        for device in {sums.device for sums in held.values()}:
            names = [name for name, sums in held.items() if sums.device == device]
            numbers = iter(torch.cat([held[name] for name in names]).tolist())
            found |= {name: [next(numbers) for _ in range(len(held[name]))] for name in names}
        return [number for name in self.names for number in found[name]]

    def finish(self, totals: Sequence[float]) -> Metrics:
        """Return the metrics from the reduced vector; without samples they are nan."""
        found: Metrics = {}
        begin = 0
        for name in self.names:
            _, sums, finish = self._tallies[name]
            value = finish(self._whole(totals[begin : begin + len(sums)]))
            begin += len(sums)
            if isinstance(value, Mapping):
                found.update({f"{name}/{key}": float(one) for key, one in value.items()})
            elif isinstance(value, list):
                found[name] = value
            else:
                found[name] = float(value)
        return found

    def _whole(self, totals: Sequence[float]) -> Sequence[float]:
        if not self._is_exact:
            return totals
        found: list[float] = joined_parts(
            torch.tensor(totals, dtype=torch.float64).reshape(2, -1)
        ).tolist()
        return found


def reduce_sums(ranks: Ranks, sums: MetricSums, layout_digest: int) -> Metrics:
    """Return the exact metrics over all ranks. Called on every rank.

    Args:
        ranks: who takes part; the sum runs on the host.
        sums: this rank's.
        layout_digest: of `sums.layout`, small enough that its square is exact in float64.

    Raises:
        DesyncError: the ranks measured different metrics, or not all of them measure.
    """
    # First whether all have the same layout: else the vectors would differ in length. And whether
    # all are here: a rank that is in the next step sums something else, and the channel tells.
    total, squares = ranks.channel.start(summands(layout_digest)).wait()
    if not all_equal(total, squares, ranks.world_size):
        raise DesyncError(
            f"rank {ranks.rank} measured {list(sums.names)}; another rank measured other metrics, "
            "or the same with other arguments. Every rank must measure the same."
        )
    own = sums.vector()
    if len(own) <= MOST_NUMBERS:
        return sums.finish(ranks.channel.start(own).wait())
    vector = torch.tensor(own, dtype=torch.float64)
    dist.all_reduce(vector, group=ranks.host_group)
    return sums.finish(vector.tolist())


def quotient(totals: Sequence[float]) -> float:
    """Return the first total divided by the second; nan where that is 0."""
    return totals[0] / totals[1] if totals[1] else float("nan")


def _tally_of(name: str, value: Measurement) -> Tally:
    if isinstance(value, Tally):
        return value
    if isinstance(value, tuple):
        if len(value) != 2:
            raise ConfigError(
                f'metric "{name}" is a tuple of {len(value)}; a pair is (sum, count), two numbers.'
            )
        numerator, denominator = value
        return Tally(kind="mean", sums=_pair(numerator, denominator), finish=quotient)
    if not isinstance(value, torch.Tensor | Real):
        raise ConfigError(
            f'metric "{name}" is a {type(value).__name__}. Return a tensor with one value a sample '
            '(reduction="none"), a pair (sum, count), or what a function of strategies.metrics '
            "returns; leave out what is no number."
        )
    if not isinstance(value, torch.Tensor) or value.ndim == 0:
        raise ConfigError(
            f'metric "{name}" is a single number, perhaps a mean, without the number of '
            'samples. Return one value a sample (reduction="none") or a pair (sum, count).'
        )
    pair = _pair(value.detach().double().sum(), value.numel())
    return Tally(kind="mean", sums=pair, finish=quotient)


def _pair(numerator: torch.Tensor | float, denominator: torch.Tensor | float) -> torch.Tensor:
    """Return both in float64, on the device of one that has one; nothing waits for it."""
    given = (numerator, denominator)
    devices = [one.device for one in given if isinstance(one, torch.Tensor)]
    device = next((d for d in devices if d.type != "cpu"), torch.device("cpu"))
    return torch.stack(
        [
            one.detach().to(device, torch.float64).reshape(())
            if isinstance(one, torch.Tensor)
            else torch.full((), float(one), dtype=torch.float64, device=device)
            for one in given
        ]
    )
