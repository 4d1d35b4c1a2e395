"""Activation checkpointing: a second forward, in the backward, must not move a module's buffers.

torch.utils.checkpoint computes activations again during the backward, in any caller's model: this
package, or the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

MOVED_IN_ORDER = "_relaunch_moved_in_order"
"""Where a module says which of its buffers a recomputation leaves alone anyway."""

Owner: TypeAlias = tuple[nn.Module, str]
Copies: TypeAlias = Mapping[Owner, torch.Tensor]


def hold_buffers_in_recomputation(module: nn.Module) -> None:
    """Keep the module's own buffers from moving in a forward that runs inside a backward."""
    if not module._buffers:
        return
    buffers = _Buffers([module])
    kept: list[tuple[Copies, Copies]] = []

    def remember(_module: nn.Module, _args: Any) -> None:
        if not torch.compiler.is_compiling() and inside_backward():
            copies = buffers.copies()
            kept.append((_replace(copies), copies))

    def put_back(_module: nn.Module, _args: Any, _output: Any) -> None:
        if kept:
            live, copies = kept.pop()
            buffers.learn(copies, live)
            _replace(live)

    module.register_forward_pre_hook(remember)
    # Also when the forward is cut short: checkpoint stops at the last tensor that it needs.
    module.register_forward_hook(put_back, always_call=True)


def recomputed(block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a block's forward that keeps no activations, and computes them again in the backward.

    Again from the buffers as they were, which stay as the first forward has left them.
    """
    buffers = _Buffers(list(block.modules()))

    def run(*args: Any, **kwargs: Any) -> Any:
        # Random numbers are drawn again as they were: dropout masks agree.
        if torch.compiler.is_compiling():
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        before = buffers.copies()

        def once_more(*args: Any, **kwargs: Any) -> Any:
            if not inside_backward():
                return forward(*args, **kwargs)
            live = _replace({key: copy.clone() for key, copy in before.items()})
            try:
                return forward(*args, **kwargs)
            finally:
                _replace(live)

        result = checkpoint(once_more, *args, use_reentrant=False, **kwargs)
        buffers.learn(before, buffers.live(before))
        return result

    return run


def inside_backward() -> bool:
    """Return whether a backward is under way: a forward within it computes activations again."""
    # What torch.utils.checkpoint itself asks.
    return torch._C._current_graph_task_id() != -1


class _Buffers:
    """Copies the buffers of some modules: at first all, then those that a forward has moved."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self._modules = modules
        self._moving: set[Owner] | None = None

    def copies(self) -> Copies:
        """Return copies, one for each tensor."""
        made: dict[int, torch.Tensor] = {}
        live = self.live(self._owners())
        return {
            key: made.setdefault(id(buffer), buffer.detach().clone())
            for key, buffer in live.items()
        }

    def learn(self, one: Copies, other: Copies) -> None:
        """Compare them, the first time: what is equal does not move."""
        if self._moving is None:
            self._moving = {
                key for key, buffer in one.items() if not _is_equal(buffer, other.get(key))
            }

    @staticmethod
    def live(owners: Iterable[Owner]) -> Copies:
        """Return the buffers themselves."""
        found = {(module, name): module._buffers.get(name) for module, name in owners}
        return {key: buffer for key, buffer in found.items() if buffer is not None}

    def _owners(self) -> Iterable[Owner]:
        if self._moving is not None:
            return self._moving
        return [
            (module, name)
            for module in self._modules
            for name in module._buffers
            if name not in vars(module).get(MOVED_IN_ORDER, ())
        ]


def _replace(buffers: Copies) -> Copies:
    """Put these tensors in the place of the buffers; return what was there.

    Not values into the same memory: a graph may have saved it.
    """
    before = _Buffers.live(buffers)
    for (module, name), buffer in buffers.items():
        module._buffers[name] = buffer
    return before


def _is_equal(one: torch.Tensor, other: torch.Tensor | None) -> bool:
    return other is not None and one.dtype == other.dtype and torch.equal(one, other)
