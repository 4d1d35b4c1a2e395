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
    made = _MADE_OTHERWISE.get(name) or _MADE_OTHERWISE.get(cls, _made_plainly)

    def factory(parameters: Any) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = made(kind, parameters)
        train = getattr(optimizer, "train", None)
        if callable(train):
            train()  # schedule-free optimizers are to be told
        return optimizer

    return factory


def _made_plainly(kind: Any, parameters: Any) -> Any:
    return kind(parameters, **_rate(kind))


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


def _matrices_apart(kind: Any, parameters: Any) -> Any:
    groups: dict[bool, list[Any]] = {True: [], False: []}
    for parameter in parameters:
        groups[parameter.ndim == 2].append(parameter)
    named = [{"params": some, "use_muon": is_matrix} for is_matrix, some in groups.items()]
    return kind([group for group in named if group["params"]], lr=RATE)


_MADE_OTHERWISE: dict[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(
        ("Lookahead", "OrthoGrad", "PCGrad", "TRAC", "ScheduleFreeWrapper", "SafeFP16Optimizer"),
        _around_adamw,
    ),
    **dict.fromkeys(("SAM", "GSAM", "LookSAM", "FriendlySAM"), _with_adamw_class),
    **dict.fromkeys(
        ("AdaGO", "AdaMuon", "DistributedMuon", "MuonClip", "NorMuon"), _matrices_apart
    ),
    "pytorch_optimizer.Muon": _matrices_apart,
    "BSAM": lambda kind, p: kind(p, num_data=64),
    "Ranger21": lambda kind, p: kind(p, num_iterations=100),
    "CPUOffloadOptimizer": lambda kind, p: kind(p, torch.optim.AdamW, lr=RATE),
}
