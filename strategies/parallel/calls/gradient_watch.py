"""Gradients that a script changes by itself, between two micro-batches or before the update.

Until a step's update a gradient is the sum over this rank's micro-batches so far. What is clipped,
dropped or added there gives another curve on another number of ranks. Whoever does it does it in
every micro-batch: the first ones of a start are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves

from ...errors import ConfigError
from ...modifiers.ema import local_part
from .copies import is_ours
from .gradient_stand_in import GradientStandIn, refuse_gradient
from .unused_parameters import Mark

WATCHED = 8
"""Micro-batches of each start."""
_WHY_NOT = (
    "It is a sum over this rank's micro-batches so far, so the curve would depend on the number of "
    "ranks. step.backward(loss, count) computes gradients, and the run drops them after each step. "
    "To clip them pass run.prepare(max_grad_norm=...). Other changes of gradients belong in "
    "the step of the optimizer, which gets the mean over all ranks."
)


class GradientWatch:
    """Compares gradients with how they were left.

    Where there is none any more, a stand-in is in its place, which refuses to be used. It is taken
    away before the engine or a forward meets it.
    """

    def __init__(
        self,
        named: Sequence[tuple[str, torch.Tensor]],
        strategy: str,
        is_here: Callable[[torch.Tensor], bool] = lambda _: True,
    ) -> None:
        """Watch the gradients of named parameters.

        Args:
            named: all that are trained.
            strategy: its name.
            is_here: whether this rank has all of a parameter, between two calls of the model too.
        """
        self._named, self._is_here = named, is_here
        self._names = {id(parameter): name for name, parameter in named}
        self._taken = f"strategy={strategy} has taken out of .grad"
        self._lost = self._taken
        self._left: list[Mark] | None = None
        self._stand_ins: list[tuple[torch.Tensor, GradientStandIn]] | None = None
        self._num_left = WATCHED

    def begin(self) -> None:
        """Begin a micro-batch: the script's code comes next."""
        self.withdraw()
        self._num_left -= 1
        if self._is_watching:
            _watch_hooks(self._named)
        self._left = _marks(self._named) if self._is_watching else None

    def leave(self) -> None:
        """Take the gradients as the engine's backward has left them. No collective."""
        self._stand_in(self._taken)
        self._left = _marks(self._named) if self._is_watching else None

    def updated(self) -> None:
        """Stand in for the gradients that a step's update has dropped. No collective."""
        self._stand_in("the update of the step has dropped")

    def withdraw(self) -> None:
        """Take the stand-ins away; nothing is compared until the next `begin` or `leave`."""
        if self._stand_ins:
            self._left = None
        for parameter, one in self._stand_ins or ():
            if parameter.grad is one:
                parameter.grad = None
        self._stand_ins = None

    def require_as_left(self, where: str) -> None:
        """Look whether they are as they were left. No collective.

        Args:
            where: begins the sentence.

        Raises:
            ConfigError: they are not.
        """
        changed = self._changed()
        self.withdraw()
        if changed is not None:
            raise ConfigError(
                f"{where}: the script has changed the gradient of {changed} (by loss.backward(), "
                f"zero_grad(), clip_grad_norm_() or a write to .grad). {_WHY_NOT}"
            )

    def gradient_of(self, parameter: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
        """Return what the loop finds in `.grad` of a parameter of which this rank has a share.

        Args:
            parameter: one of the model's.
            shape: of the whole.
        """
        name = self._names.get(id(parameter))
        is_standing_in = self._stand_ins is not None and name is not None
        return self._made(str(name), parameter, shape) if is_standing_in else None

    @property
    def _is_watching(self) -> bool:
        return self._num_left >= 0

    def _stand_in(self, lost: str) -> None:
        self.withdraw()
        if not self._is_watching:
            return
        self._lost = lost
        self._stand_ins = [
            (parameter, self._made(name, parameter, parameter.shape))
            for name, parameter in self._named
            if parameter.grad is None and self._is_here(parameter)
        ]
        for parameter, one in self._stand_ins:
            parameter.grad = one

    def _made(self, name: str, parameter: torch.Tensor, shape: torch.Size) -> GradientStandIn:
        refuse = partial(refuse_gradient, name, self._lost)
        made: GradientStandIn = GradientStandIn(parameter, shape, refuse)
        return made

    def _changed(self) -> str | None:
        if self._left is None:
            return None
        pairs = zip(self._named, self._left, _marks(self._named), strict=True)
        return next((name for (name, _), a, b in pairs if a != b), None)


class ArrivalWatch(GradientWatch):
    """The same where an engine takes gradients out of `.grad`: it sees those that come."""

    def __init__(
        self,
        named: Sequence[tuple[str, torch.Tensor]],
        strategy: str,
        is_here: Callable[[torch.Tensor], bool] = lambda _: True,
    ) -> None:
        """Watch for gradients of named parameters; see `GradientWatch`."""
        super().__init__(named, strategy, is_here)
        self._come: str | None = None
        self._hooks = [
            parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                partial(self._note, name)
            )
            for name, parameter in named
        ]

    def begin(self) -> None:
        """Begin a micro-batch, or end the watch."""
        super().begin()
        self._come = None
        if not self._is_watching:
            for hook in self._hooks:
                hook.remove()
            self._hooks.clear()

    def leave(self) -> None:
        """Forget those that the engine's backward has brought. No collective."""
        super().leave()
        self._come = None

    def _note(self, name: str, _: torch.Tensor) -> None:
        self._come = name

    def _changed(self) -> str | None:
        return super()._changed() if self._come is None else self._come


class OwnBackwards:
    """Sees gradients that the script computes by itself, through what job.model has returned.

    Adversarial samples and penalties on gradients need those of the inputs. DeepSpeed takes each
    backward for the step's, and fully_shard frees the weights that a second one would go through.
    """

    def __init__(self, strategy: str, *, may_be_first: bool) -> None:
        """Watch for them.

        Args:
            strategy: its name.
            may_be_first: whether gradients are right as long as none is taken of them.
        """
        self._strategy, self._may_be_first = strategy, may_be_first
        self._is_engines = False

    def watch(self, result: Any) -> None:
        """Look at backwards through what a call of the model has returned."""
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None:
                leaf.register_hook(self._look)  # type: ignore[no-untyped-call]

    @contextmanager
    def engines(self) -> Iterator[None]:
        """Tell that the backward within is the engine's."""
        self._is_engines = True
        try:
            yield
        finally:
            self._is_engines = False

    def _look(self, _: torch.Tensor) -> None:
        # With create_graph=True a backward records what it computes.
        if self._is_engines or (self._may_be_first and not torch.is_grad_enabled()):
            return
        what = "with create_graph=True " if self._may_be_first else ""
        why = (
            "the weights are in shards again before the second backward"
            if self._may_be_first
            else "DeepSpeed takes each backward for the step's own"
        )
        raise ConfigError(
            f"the script has computed gradients through job.model {what}by torch.autograd.grad or "
            f"loss.backward(), and under strategy={self._strategy} {why}. step.backward(loss, "
            "count) computes those of the parameters. For gradients of inputs (adversarial "
            "samples, a penalty on gradients) use --strategy ddp (single on one rank)."
        )


class _WatchedHook:
    """A hook of the script's on a gradient that has been added up: it may look at it."""

    def __init__(self, name: str, hook: Callable[[torch.Tensor], None]) -> None:
        self._name, self._hook = name, hook

    def __call__(self, parameter: torch.Tensor) -> None:
        named = [(self._name, parameter)]
        before = _marks(named)
        self._hook(parameter)
        if _marks(named) != before:
            raise ConfigError(
                f"a hook (register_post_accumulate_grad_hook) has changed the gradient of "
                f"{self._name}. {_WHY_NOT}"
            )


def _watch_hooks(named: Sequence[tuple[str, torch.Tensor]]) -> None:
    """Put what looks at gradients around the hooks of the script's that may change them."""
    for name, parameter in named:
        hooks = parameter._post_accumulate_grad_hooks
        for number, hook in (hooks or {}).items():
            if not is_ours(hook):
                hooks[number] = _WatchedHook(name, hook)


def _marks(named: Sequence[tuple[str, torch.Tensor]]) -> list[Mark]:
    """Return what every change of a gradient changes.

    A plain one counts its changes. One in shards does not, nor does this rank's share of it: there
    the bits of the share's norm tell.
    """
    grads = [tensor.grad for _, tensor in named]
    norms = iter(_norm_bits([local_part(g) for g in grads if isinstance(g, DTensor)]))
    return [
        None
        if grad is None
        else (id(grad), next(norms) if isinstance(grad, DTensor) else grad._version)
        for grad in grads
    ]


def _norm_bits(shares: list[torch.Tensor]) -> list[int]:
    if not shares:
        return []
    real = [torch.view_as_real(share) if share.is_complex() else share for share in shares]
    norms = torch.stack(torch._foreach_norm(real, 2, dtype=torch.float64))
    bits: list[int] = norms.view(torch.int64).tolist()
    return bits
