"""Parameters that get no gradient: found on the rank where it is so, while others may wait for it.

Engines sum gradients in the backward, as soon as they are there. Where a rank has none for some
parameter, the others wait for it, or add unlike things. torch and DeepSpeed notice too late. The
graph tells before the backward; where that waits for nobody, a glance at the gradients after it
does, at a tenth of the time.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from ...errors import ConfigError, some_of

_OPAQUE = "CheckpointFunctionBackward"
"""Reentrant activation checkpointing hides what is inside until the backward."""
_LEAF: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
"""Where the backward ends: it adds to the gradient of its `variable`."""
_SHOWN = 5


Mark: TypeAlias = tuple[int, int] | None
"""Which object a tensor's gradient is, and how often that was changed.

torch keeps the object for as long as the gradient stays.
"""


def marks(named: Iterable[tuple[str, torch.Tensor]]) -> list[Mark]:
    """Return, for (name, tensor) pairs, what a backward changes wherever it reaches."""
    return [
        None if (grad := tensor.grad) is None else (id(grad), grad._version) for _, tensor in named
    ]


def may_be_untouched(before: Sequence[Mark], after: Sequence[Mark]) -> bool:
    """Return whether a backward between the two may have left some tensor out.

    Only the graph tells for certain, and which: another gradient may have come to stand where the
    former was.
    """
    return any(map(operator.eq, before, after))


def untouched(loss: torch.Tensor, names: Mapping[int, str]) -> list[str]:
    """Return the names of the tensors that the backward of `loss` does not reach.

    Before it or after it: a graph loses what it has saved, and stays.

    Args:
        loss: 0-dim.
        names: by id(), the leaves that are expected.
    """
    missing = set(names)
    # Not its grad_fn: a loss that is a parameter itself has none.
    waiting: list[Any] = [torch.autograd.graph.get_gradient_edge(loss).node]
    seen: set[Any] = set(waiting)
    while waiting and missing:
        node = waiting.pop()
        if isinstance(node, _LEAF):
            missing.discard(id(node.variable))
            continue
        if type(node).__name__ == _OPAQUE:
            return []
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return [name for leaf, name in names.items() if leaf in missing]


def num_reached(loss: torch.Tensor, counts: Callable[[Any], bool]) -> int:
    """Return how many nodes of the graph of a loss count. No collective.

    Args:
        loss: 0-dim.
        counts: whether a node does.
    """
    waiting: list[Any] = [torch.autograd.graph.get_gradient_edge(loss).node]
    seen: set[Any] = set(waiting)
    while waiting:
        for following, _ in waiting.pop().next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return sum(map(counts, seen))


def refuse_untouched(loss: torch.Tensor, names: Mapping[int, str], *, where: str) -> None:
    """Refuse a loss that leaves a trainable parameter without a gradient.

    Raises:
        ConfigError: naming the parameters, on the ranks where it is so.
    """
    found = untouched(loss, names)
    if not found:
        return
    raise ConfigError(
        f"{where}: the loss does not depend on {some_of(found, _SHOWN)}, and with several "
        "ranks the others would wait for its gradient. Use every trainable parameter in every "
        "micro-batch: compute a layer that is left out too, and multiply its output by 0. Or set "
        "requires_grad=False on it in the model."
    )
