"""The optimizers of some libraries, each as a factory, found in the libraries themselves."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

Factory = Callable[[Any], torch.optim.Optimizer]
RATE = 1e-3

LIBRARIES = {
    "torch": ("torch.optim", "torch"),
    "pytorch_optimizer": ("pytorch_optimizer", "pytorch-optimizer"),
    "lion_pytorch": ("lion_pytorch", "lion-pytorch"),
    "prodigyopt": ("prodigyopt", "prodigyopt"),
    "schedulefree": ("schedulefree", "schedulefree"),
    "bitsandbytes": ("bitsandbytes.optim", "bitsandbytes"),
    "torchao": ("torchao.optim", "torchao"),
}
"""By name: the module whose classes are taken, and the package."""

_BASES = ("Optimizer", "Optimizer8bit", "Optimizer1State", "Optimizer2State", "BaseOptimizer")


def names_in(library: str) -> list[str]:
    """Return the optimizers of a library, as "library.Class".

    Raises:
        ImportError: It is not installed, or does not load here.
    """
    module = importlib.import_module(LIBRARIES[library][0])
    found = [
        name
        for name in dir(module)
        if inspect.isclass(kind := getattr(module, name))
        and issubclass(kind, torch.optim.Optimizer)
        and name not in _BASES
    ]
    return [f"{library}.{name}" for name in sorted(found)]


def factory_of(name: str) -> Factory:
    """Return what makes an optimizer from parameters, with the library's own defaults."""
    library, _, cls = name.partition(".")
    kind: Any = getattr(importlib.import_module(LIBRARIES[library][0]), cls)
    made = _AROUND_ANOTHER.get(cls, lambda kind, p: kind(p, **_rate(kind)))

    def factory(parameters: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = made(kind, parameters)
        train = getattr(optimizer, "train", None)
        if callable(train):
            train()  # schedule-free optimizers are to be told
        return optimizer

    return factory


def _rate(kind: Any) -> dict[str, float]:
    named: Mapping[str, inspect.Parameter] = inspect.signature(kind).parameters
    # Those that find their rate themselves are given the 1 that they document.
    own = any(word in kind.__name__ for word in ("Prodigy", "DAdapt"))
    given = {"lr": 1.0 if own else RATE} if "lr" in named else {}
    if "momentum" in named and named["momentum"].default == 0:
        given["momentum"] = 0.9  # some refuse to go without
    return given


def _around_adamw(kind: Any, parameters: Any) -> Any:
    return kind(torch.optim.AdamW(parameters, lr=RATE))


def _with_adamw_class(kind: Any, parameters: Any) -> Any:
    return kind(parameters, base_optimizer=torch.optim.AdamW, lr=RATE)


_AROUND_ANOTHER: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(
        ("Lookahead", "OrthoGrad", "PCGrad", "TRAC", "ScheduleFreeWrapper"), _around_adamw
    ),
    **dict.fromkeys(("SAM", "WSAM", "GSAM", "LookSAM", "FriendlySAM"), _with_adamw_class),
    "CPUOffloadOptimizer": lambda kind, p: kind(p, torch.optim.AdamW, lr=RATE),
}
