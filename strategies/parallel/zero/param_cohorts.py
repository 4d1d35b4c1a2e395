"""Parameters that begin to be trained later, in groups of the optimizer of their own.

For engines that step a group as one flat buffer: its counter, moments and weight decay are those of
all its parameters, so what is held still needs a buffer that is not stepped at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch

from ...errors import ConfigError
from ...modifiers.unfreezing import Unfreezing


class Cohorts:
    """Splits the groups of an optimizer by when their parameters begin to be trained."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        group_names: Sequence[Sequence[str]],
        unfreezing: Unfreezing,
    ) -> None:
        """Split in place, before an engine takes the optimizer over.

        Args:
            optimizer: the user's, just made.
            group_names: names of the parameters of each of its groups.
            unfreezing: since when each is trained.
        """
        self.groups: list[dict[str, Any]] = list(optimizer.param_groups)
        """The user's groups; live, and the ones whose hyper-parameters count."""
        self._followers: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._members: list[tuple[dict[str, Any], frozenset[str]]] = []
        self._held: list[dict[str, Any]] = []
        self._taken: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        for lead, names in zip(self.groups, group_names, strict=True):
            self._split(lead, names, unfreezing)
        optimizer.param_groups[:] = [group for group, _ in self._members]
        optimizer.register_step_pre_hook(self._take_gradients)
        optimizer.register_step_post_hook(self._put_back)

    def _split(self, lead: dict[str, Any], names: Sequence[str], unfreezing: Unfreezing) -> None:
        cohorts: dict[int, list[tuple[str, torch.Tensor]]] = {}
        for name, parameter in zip(names, lead["params"], strict=True):
            cohorts.setdefault(unfreezing.since(name), []).append((name, parameter))
        for number, step in enumerate(sorted(cohorts)):
            group = {key: _own(value) for key, value in lead.items()} if number else lead
            group["params"] = [parameter for _, parameter in cohorts[step]]
            self._members.append((group, frozenset(name for name, _ in cohorts[step])))
            if number:
                self._followers.append((lead, group))

    def follow(self) -> None:
        """Give every part of a user's group the group's hyper-parameters; before each step."""
        for lead, follower in self._followers:
            follower.update({key: _own(value) for key, value in lead.items() if key != "params"})

    def hold(self, names: frozenset[str]) -> None:
        """Have the steps from now on leave these parameters and their state alone.

        Raises:
            ConfigError: some, but not all, of the parameters that are stepped together.
        """
        for _, members in self._members:
            held = members & names
            if held and held != members:
                raise ConfigError(
                    f"{', '.join(sorted(held)[:3])} cannot be frozen while "
                    f"{', '.join(sorted(members - names)[:3])} of the same group is trained, "
                    "because both are stepped together. Use unfreeze= of run.prepare, or "
                    "give them groups of their own."
                )
        self._held = [group for group, members in self._members if members & names]

    def _take_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # Without a gradient torch's optimizers leave a parameter and its state alone.
        for group in optimizer.param_groups:
            if any(group is held for held in self._held):
                self._taken += [(buffer, buffer.grad) for buffer in group["params"]]
        for buffer, _gradient in self._taken:
            buffer.grad = None

    def _put_back(self, *_: Any) -> None:
        # Offloaded gradients arrive in the same memory at every step.
        for buffer, gradient in self._taken:
            buffer.grad = gradient
        self._taken = []


def _own(value: Any) -> Any:
    """Return a value of a group for another group, whose steps may write into it too."""
    return value.clone() if isinstance(value, torch.Tensor) else copy(value)
