"""A small set of parameters like a model's, and an optimizer made for it."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ...data.seeding import seed_streams
from ..model.factory_checks import made_optimizer
from ..state.optimizer_state import names_by_group
from ..strategy import Parameters
from .whole_kinds import Kind

Factory = Callable[[Parameters], torch.optim.Optimizer]
_MOST_ELEMENTS = 8192
"""Of one parameter; bitsandbytes keeps states of fewer than 4096 elements in another way."""
_SEED = 271828
_LEAST_RATE = 0.1
"""Gradients do not follow the weights here, so that nothing diverges."""


class TrialNotMade(Exception):
    """The factory cannot make its optimizer for small parameters; says why."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """Small parameters under the names of a model's, and those of them that get gradients."""

    shapes: Mapping[str, tuple[int, ...]]
    chosen: Sequence[str]
    """Names of two of each kind: of a parameter group, and of as many dimensions."""
    groups: Sequence[Sequence[str]]
    """Names of the parameters of each group of the optimizer."""
    device: torch.device
    _known: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)

    def values(self) -> dict[str, torch.Tensor]:
        """Return the values of the chosen parameters at the beginning, always the same."""
        return self._drawn(0, 0.1)

    def gradients(self, step: int) -> dict[str, torch.Tensor]:
        """Return the gradients of the chosen parameters in a step, always the same."""
        return self._drawn(step + 1, 1.0)

    def kinds(self) -> dict[str, Kind]:
        """Return the kind of each parameter, in the order of the groups."""
        return {
            name: (number, len(self.shapes[name]))
            for number, names in enumerate(self.groups)
            for name in names
        }

    def _drawn(self, number: int, scale: float) -> dict[str, torch.Tensor]:
        if number not in self._known:
            generator = torch.Generator().manual_seed(_SEED + number)
            self._known[number] = {
                name: (scale * 3.0 ** (place % 3) * _uneven(self.shapes[name], generator)).to(
                    self.device
                )
                for place, name in enumerate(self.chosen)
            }
        return self._known[number]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return all parameters; those that are not chosen have no values."""
        values = self.values()
        return {
            name: nn.Parameter(
                values[name].clone() if name in values else torch.empty(shape, device=self.device)
            )
            for name, shape in self.shapes.items()
        }


def likeness_of(
    factory: Factory, named: Sequence[tuple[str, nn.Parameter]], device: torch.device
) -> Likeness:
    """Return a small set of parameters like a model's, grouped as the factory groups it.

    Raises:
        TrialNotMade: the factory refuses them, or does not make its optimizer from them.
    """
    shapes = {name: _small(tuple(parameter.shape)) for name, parameter in named}
    groups = groups_of(factory, shapes, device)
    return Likeness(shapes=shapes, chosen=_chosen(shapes, groups), groups=groups, device=device)


def groups_of(
    factory: Factory, shapes: Mapping[str, tuple[int, ...]], device: torch.device
) -> list[list[str]]:
    """Return the names of each group of the optimizer that is made for such parameters.

    Raises:
        TrialNotMade: the factory refuses them, or does not make its optimizer from them.
    """
    empty = {name: nn.Parameter(torch.empty(s, device=device)) for name, s in shapes.items()}
    optimizer = made_quietly(factory, empty)
    try:
        return names_by_group(optimizer, list(empty.items()))
    except Exception as error:
        raise TrialNotMade(str(error)) from error


def made_quietly(factory: Factory, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Call the factory; what it prints and warns of comes when it is called for the model.

    Raises:
        TrialNotMade: it raises.
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            optimizer = made_optimizer(factory, Parameters(list(parameters.items())))
        except Exception as error:
            raise TrialNotMade(f"{type(error).__name__}: {error}") from error
    for group in optimizer.param_groups:
        if type(group.get("lr")) in (int, float):
            # A schedule sets it; what moves little is lost in rounding, and is not seen.
            group["lr"] = max(group["lr"], _LEAST_RATE)
    return optimizer


@contextlib.contextmanager
def apart(device: torch.device) -> Iterator[None]:
    """Leave the random numbers of torch, numpy and Python, and warnings, as they were."""
    devices = [device] if device.type not in ("cpu", "meta") else []
    python, numpy = random.getstate(), np.random.get_state()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.random.fork_rng(devices, device_type=device.type))
        if "torch._dynamo" in sys.modules:  # nothing is compiled for a few steps
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def seed_step(step: int, device: torch.device) -> bytes:
    """Begin a step of a trial with the same random numbers, whatever came before; return them."""
    seed_streams(_SEED + step)
    return random_state(device)


def random_state(device: torch.device) -> bytes:
    """Return where the random numbers are: torch's on host and device, numpy's and Python's."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state(device))
    drawn: Any = np.random.get_state(legacy=False)["state"]
    others = [
        drawn["key"].tobytes(),
        str(drawn["pos"]).encode(),
        str(hash(random.getstate())).encode(),
    ]
    return b"".join([*(state.numpy().tobytes() for state in states), *others])


def _uneven(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Return numbers that grow from the first to the last: parts have other sums than the whole."""
    numel = torch.Size(shape).numel()
    return (torch.randn(numel, generator=generator) * torch.linspace(0.1, 1.0, numel)).view(shape)


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape of as many dimensions and not too many elements; itself where it is small."""
    sizes = list(shape)
    while torch.Size(sizes).numel() > _MOST_ELEMENTS:
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        sizes[largest] = (sizes[largest] + 1) // 2
    return tuple(sizes)


def _chosen(shapes: Mapping[str, tuple[int, ...]], groups: Sequence[Sequence[str]]) -> list[str]:
    """Return the largest and the smallest of each kind."""
    kinds: dict[tuple[int, int], list[str]] = {}
    for number, names in enumerate(groups):
        for name in names:
            kinds.setdefault((number, len(shapes[name])), []).append(name)

    def numel(name: str) -> int:
        return torch.Size(shapes[name]).numel()

    found = {
        name for names in kinds.values() for name in (max(names, key=numel), min(names, key=numel))
    }
    return [name for name in shapes if name in found]
