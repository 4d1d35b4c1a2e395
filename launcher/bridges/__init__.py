"""Bridges to training frameworks: what `Run` promises, in a loop that a framework owns.

Each bridge is a file of its own and imports its framework; nothing is imported before it is used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .versions import LIGHTNING, TRANSFORMERS

if TYPE_CHECKING:
    from .huggingface import RelaunchCallback as RelaunchCallback
    from .lightning import RelaunchLightning as RelaunchLightning

_MODULE_OF = {
    "RelaunchCallback": (".huggingface", TRANSFORMERS),
    "RelaunchLightning": (".lightning", LIGHTNING),
}

__all__ = ["RelaunchCallback", "RelaunchLightning"]


def __getattr__(name: str) -> Any:
    """Return a bridge.

    Raises:
        ImportError: its framework is not installed, or too old.
    """
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, framework = _MODULE_OF[name]
    try:
        installed = version(framework.name)
    except PackageNotFoundError:
        raise ImportError(framework.missing_text(name)) from None
    if (why := framework.refusal(name, installed)) is not None:
        raise ImportError(why)
    return getattr(import_module(module, __name__), name)
