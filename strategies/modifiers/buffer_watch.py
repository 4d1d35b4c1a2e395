"""Buffers that a model's forward moves, each rank in its own way: found in the first steps.

What no rule here computes in a defined order follows who computes which micro-batch, and so the
number of ranks. It is found by its bytes: before the first step of a start, after its first
micro-batch and after its last, and once more after the second step where the first cannot tell.

Tensors that a module has had as plain attributes from the start are looked at likewise: what a
forward moves there is in no checkpoint either.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from checkpointing import JSON

from ..collectives.process_group import HostCommunicator, Ranks
from ..collectives.replicas import digests_of
from ..errors import some_of

_SHOWN = 5

Owner: TypeAlias = tuple[nn.Module, str]
"""A module and its own name for a buffer."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A buffer on one rank, in one step."""

    digest: int
    """Of its bytes after the step."""
    moved_first: bool
    """By the first micro-batch."""
    moved_later: bool
    """By another, or in the second step."""
    is_ordered: bool
    """It is computed in the defined order of the micro-batches."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a step has shown."""

    moved: Collection[tuple[int, str]] = ()
    """Buffers of this rank that have moved, by id() of the module and name."""
    follow: Sequence[str] = ()
    """Names of those that follow the number of ranks; the same on every rank."""
    plain: Sequence[str] = ()
    """The same, of plain attributes."""


def judge(everyone: Sequence[Mapping[str, Seen]]) -> tuple[list[str], list[str]]:
    """Return (buffers that follow the number of ranks, buffers to be looked at once more). Pure.

    What the first forward alone has moved, to the same value on every rank, may be a flag that is
    set once, or a counter of forwards.

    Args:
        everyone: of each rank, the buffers by name; the same names.
    """
    follow, open_ = [], []
    for name in everyone[0]:
        seen = [one[name] for one in everyone]
        if all(s.is_ordered for s in seen):
            continue
        if any(s.moved_later for s in seen) or len({s.digest for s in seen}) > 1:
            follow.append(name)
        elif any(s.moved_first for s in seen):
            open_.append(name)
    return follow, open_


def sentence(names: Sequence[str]) -> str:
    """Return the warning about buffers that follow the number of ranks."""
    return (
        f"the model's forward updates {some_of(names, _SHOWN)}, on each rank from its own "
        "micro-batches: their values, and the curve if it depends on them, depend on the number of "
        "ranks. Rank 0's are saved. To keep one curve, update them in your loop after the step's "
        "micro-batches, from the same numbers on every rank"
    )


def sentence_of_plain(names: Sequence[str]) -> str:
    """Return the warning about plain attributes that a forward updates."""
    return (
        f"the model's forward updates {some_of(names, _SHOWN)}, kept as a plain attribute and "
        "not as a buffer: no checkpoint holds it, so it is reset at every start, and each rank "
        "updates it from its own micro-batches. If the curve depends on it, it depends on both. "
        "Register it with register_buffer, and update it in your loop after the step's "
        "micro-batches, from the same numbers on every rank"
    )


class BufferWatch:
    """Looks at the persistent buffers of a model in the first steps of a start."""

    def __init__(
        self,
        model: nn.Module,
        ranks: Ranks,
        names: Collection[str],
        *,
        is_ordered: Callable[[nn.Module, str], bool],
    ) -> None:
        """Take what is looked at.

        Args:
            model: the same on every rank; wrappers may stand around the user's.
            ranks: that compare what they have.
            names: of the persistent buffers, in the user's model.
            is_ordered: whether a module's buffer is computed in a defined order.
        """
        self._ranks = ranks
        self._is_ordered = is_ordered
        self._open: dict[str, Owner] = {
            known: (module, name)
            for prefix, module in model.named_modules()
            if not isinstance(module, _NormBase)
            for name in module._buffers
            if (known := _known(f"{prefix}.{name}", names)) is not None
        }
        self._plain = {
            f"{prefix}.{key}".lstrip("."): (module, key)
            for prefix, module in model.named_modules()
            for key, value in vars(module).items()
            if _is_plain(value)
        }
        self._open |= self._plain
        self.ordered = frozenset(name for name, one in self._open.items() if is_ordered(*one))
        """Those that are computed in a defined order when it begins."""
        self._steps = 0
        self._before: dict[str, int] = {}
        self._first: dict[str, int] = {}

    def begin_step(self) -> None:
        """Remember where the buffers are."""
        if self._open:
            self._before, self._first = self._digests(), {}

    def end_micro_batch(self) -> None:
        """Look at what the first has moved."""
        if self._open and not self._first:
            self._first = self._digests()

    def end_step(self) -> Found:
        """Compare over the ranks. Called on every rank, with the same buffers."""
        if not self._open:
            return Found()
        self._steps += 1
        before, first, after = self._before, self._first, self._digests()
        since = first if self._steps == 1 else before
        mine = {
            name: Seen(
                digest=after[name],
                moved_first=first[name] != before[name],
                moved_later=after[name] != since[name],
                is_ordered=self._is_ordered(*owner),
            )
            for name, owner in self._open.items()
        }
        moved = [
            owner
            for name, owner in self._open.items()
            if name not in self._plain and after[name] != before[name]
        ]
        follow, open_ = judge(self._of_everyone(mine))
        self._open = {name: self._open[name] for name in open_} if self._steps == 1 else {}
        return Found(
            moved=[(id(module), name) for module, name in moved],
            follow=[name for name in follow if name not in self._plain],
            plain=[name for name in follow if name in self._plain],
        )

    def _of_everyone(self, mine: Mapping[str, Seen]) -> list[dict[str, Seen]]:
        if self._ranks.world_size == 1:
            return [dict(mine)]
        sent: JSON = {name: asdict(seen) for name, seen in mine.items()}
        gathered: list[Any] = HostCommunicator(self._ranks).all_gather(sent)
        return [{name: Seen(**seen) for name, seen in one.items()} for one in gathered]

    def _digests(self) -> dict[str, int]:
        held = {
            key: tensor
            for key, owner in self._open.items()
            if (tensor := self._tensor(key, *owner)) is not None
        }
        return dict.fromkeys(self._open, 0) | dict(
            zip(held, digests_of(held.values()), strict=True)
        )

    def _tensor(self, key: str, module: nn.Module, name: str) -> torch.Tensor | None:
        if key not in self._plain:
            return module._buffers.get(name)
        value = vars(module).get(name)
        return value if _is_plain(value) else None


def _is_plain(value: object) -> bool:
    """Whether it is a tensor with bytes of its own, and no result that a loss may hang on."""
    return (
        isinstance(value, torch.Tensor)
        and type(value) is torch.Tensor
        and value.layout == torch.strided
        and not (value.requires_grad or value.is_meta or value.is_quantized)
    )


def _known(name: str, names: Collection[str]) -> str | None:
    """Return a name without those of wrappers; None where it is none of the user's model."""
    while name not in names:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name
