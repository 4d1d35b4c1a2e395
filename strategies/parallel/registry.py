"""The one table from a strategy's name to its class.

The classes are named, not imported: the command line validates `--strategy` with this module and
must not pay for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import INSTALL_TESTED, ConfigError, first_line

if TYPE_CHECKING:
    from .strategy import Strategy

STRATEGY_CLASSES: dict[str, tuple[str, str]] = {
    "single": ("native.single", "Single"),
    "ddp": ("native.ddp", "DDP"),
    "fsdp": ("native.fsdp", "FSDP"),
    "zero1": ("zero.zero", "Zero1"),
    "zero2": ("zero.zero", "Zero2"),
    "zero3": ("zero.zero", "Zero3"),
    "accelerate": ("native.accelerate", "Accelerate"),
}

STRATEGY_NAMES: tuple[str, ...] = tuple(STRATEGY_CLASSES)
STRATEGY_CHOICES = ("auto", *STRATEGY_NAMES)
"""What may be asked for; auto is settled when the model is known."""


def strategy_class(name: str) -> type[Strategy]:
    """Return the class of the strategy called `name`, importing its engine now.

    Raises:
        ConfigError: an unknown name, or this torch lacks what the engine is built on.
    """
    if name not in STRATEGY_CLASSES:
        raise ConfigError(
            f'unknown strategy "{name}"; choose from {", ".join(sorted(STRATEGY_NAMES))}.'
        )
    module, cls = STRATEGY_CLASSES[name]
    try:
        found: type[Strategy] = getattr(import_module(f".{module}", __package__), cls)
    except (ImportError, AttributeError, KeyError) as error:  # a private name that has gone
        import torch

        raise ConfigError(
            f"strategy={name} cannot be loaded with torch {torch.__version__}: "
            f"{first_line(error)}. {INSTALL_TESTED}."
        ) from error
    return found
