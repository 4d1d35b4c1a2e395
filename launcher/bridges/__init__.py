"""Bridges to training frameworks: what `Run` promises, in a loop that a framework owns.

Each bridge is a file of its own and imports its framework; nothing is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from .versions import LIGHTNING, RAY, TRANSFORMERS, Framework

if TYPE_CHECKING:
    from .hugging_face.callback import RelaunchCallback as RelaunchCallback
    from .lightning.callback import RelaunchLightning as RelaunchLightning
    from .ray_train.loop import RelaunchTrainLoop as RelaunchTrainLoop
    from .resumable_loader import ResumableLoader as ResumableLoader

_MODULE_OF = {
    "RelaunchCallback": ".hugging_face.callback",
    "RelaunchLightning": ".lightning.callback",
    "RelaunchTrainLoop": ".ray_train.loop",
    "ResumableLoader": ".resumable_loader",
}
_NEEDED: Mapping[str, Framework] = {
    "RelaunchCallback": TRANSFORMERS,
    "RelaunchLightning": LIGHTNING,
    "RelaunchTrainLoop": RAY,
}

__all__ = ["RelaunchCallback", "RelaunchLightning", "RelaunchTrainLoop", "ResumableLoader"]


def __getattr__(name: str) -> Any:
    """Return a bridge.

    Raises:
        ImportError: its framework is not installed, or too old.
    """
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if (framework := _NEEDED.get(name)) is not None:
        _require(framework, name)
    return getattr(import_module(_MODULE_OF[name], __name__), name)


def _require(framework: Framework, bridge: str) -> None:
    try:
        installed = version(framework.name)
    except PackageNotFoundError:
        raise ImportError(framework.missing_text(bridge)) from None
    if (why := framework.refusal(bridge, installed)) is not None:
        raise ImportError(why)
