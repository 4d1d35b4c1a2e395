"""Parameters that get no gradient: found in the graph before a backward could wait for them.

Engines sum gradients in the backward, as soon as they are there. Where a rank has none for some
parameter, the others wait for it, or add unlike things. torch and DeepSpeed notice too late.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import ConfigError

_OPAQUE = "CheckpointFunctionBackward"
"""Reentrant activation checkpointing hides what is inside until the backward."""
_LEAF: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
"""Where the backward ends: it adds to the gradient of its `variable`."""
_SHOWN = 5


def untouched(loss: torch.Tensor, names: Mapping[int, str]) -> list[str]:
    """Return the names of the tensors that the backward of `loss` will not reach.

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


def refuse_untouched(loss: torch.Tensor, names: Mapping[int, str], *, where: str) -> None:
    """Refuse a loss that leaves a trainable parameter without a gradient.

    Raises:
        ConfigError: naming the parameters, on the ranks where it is so.
    """
    found = untouched(loss, names)
    if not found:
        return
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ConfigError(
        f"{where}: the loss does not depend on {', '.join(found[:_SHOWN])}{more}, and with several "
        "ranks the others would wait for its gradient. Use every trainable parameter in every "
        "micro-batch (0 * p.sum() counts), or set requires_grad=False on it in the model."
    )
