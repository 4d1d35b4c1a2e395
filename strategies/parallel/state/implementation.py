"""Whose optimizer it is: several libraries have an AdamW, and each keeps other state."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_INSTALLED = ("site-packages", "dist-packages")


def library_of(kind: type[torch.optim.Optimizer]) -> str | None:
    """Return the installed package that an optimizer's class comes from; None: the script's own."""
    module = kind.__module__
    if module.startswith("torch."):
        return "torch"  # wherever it was built
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not set(Path(file).parts) & set(_INSTALLED):
        return None
    return module.partition(".")[0]


def refusal_of_other(
    written: Mapping[str, Any], name: str, library: str | None, where: str
) -> str | None:
    """Return why an optimizer cannot resume another one's state; None: it is the same. Pure.

    Variants within a library, such as torch's fused and foreach, keep the same state.

    Args:
        written: what a checkpoint has of its optimizer. An imported one has no name, and one of an
            earlier release no library: their tensors must fit.
        name: of the class that the script builds.
        library: that it comes from.
        where: begins the sentence.
    """
    if written["name"] is None:
        return None
    there, here = written["name"], name
    if there == here and written.get("library", library) != library:
        there, here = _of(there, written["library"]), _of(name, library)
    if there == here:
        return None
    return (
        f"{where} was made with the optimizer {there}, and the script builds {here}. Use the same, "
        "or another --run-dir."
    )


def _of(name: str, library: str | None) -> str:
    return f"{name} of {library or 'a script'}"
