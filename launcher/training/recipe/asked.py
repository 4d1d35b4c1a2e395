"""What a script asks for that shapes the curve: kept in checkpoints, compared at a resume.

Of a loss in the script's own code nothing is known; so the script's files are compared too.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import nn

from checkpointing import JSON

from ..context import RunContext

SETTINGS = (
    *("max_grad_norm", "evaluate_every", "stop", "plateau", "ema", "penalty", "unfreeze"),
    *("max_skipped", "forward", "collate"),
)
"""Fields of a recipe that a resumed run may change, and that nothing else reports."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_MAX_FILES = 500
_MAX_NAMED = 6


def settings_of(recipe: object) -> dict[str, JSON]:
    """Return those fields that there are, as text."""
    return {name: _text(getattr(recipe, name)) for name in SETTINGS if hasattr(recipe, name)}


def agreed_asked(run: RunContext, recipe: object, layers: Mapping[str, JSON]) -> Mapping[str, JSON]:
    """Return what the script asks for, as rank 0 has it. Called on every rank.

    Args:
        run: the start.
        recipe: with the fields in `SETTINGS`; an own loop has `stop` alone.
        layers: of the model, as `layers_of`.
    """
    files = files_of_script() if run.ranks.is_coordinator else {}
    mine: dict[str, Any] = {
        "script": Path(sys.argv[0]).name,
        "settings": settings_of(recipe),
        "layers": dict(layers),
        "files": files,
    }
    found: Any = run.communicator.broadcast(mine)
    return found  # type: ignore[no-any-return]


def layers_of(*models: nn.Module) -> dict[str, JSON]:
    """Return how often models have each layer, as torch prints it: `Dropout(p=0.1)` -> 12."""
    layers = [one for model in models for one in model.modules() if not [*one.children()]]
    return dict(Counter(map(_described, layers)))


def files_of_script() -> dict[str, JSON]:
    """Return digests of the script and of what it has imported from beside it, by path."""
    script = Path(sys.argv[0]).resolve()
    beside = script.parent
    files = {script.name: script}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            path = Path(file)
            if path.is_relative_to(beside) and not _is_installed(path.relative_to(beside)):
                files[str(path.relative_to(beside))] = path
    found: dict[str, JSON] = {}
    for name in sorted(files)[:_MAX_FILES]:
        try:
            found[name] = hashlib.blake2b(files[name].read_bytes(), digest_size=8).hexdigest()
        except OSError:
            continue  # `python -c`, or a file that is gone: nothing to compare
    return found


def changes_of_asked(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each thing that is not as the run had it so far. Pure.

    Args:
        before: of the checkpoint; what it lacks is not compared.
        now: of this start.
    """
    then, settings = before.get("settings", {}), now.get("settings", {})
    phrases = [
        f"{name}: {then[name]} -> {value}"
        for name, value in settings.items()
        if name in then and then[name] != value
    ]
    if before.get("layers") and now.get("layers"):
        phrases += _changed_layers(before["layers"], now["layers"])
    then, files = before.get("files", {}), now.get("files", {})
    edited = [name for name, digest in files.items() if then.get(name, digest) != digest]
    if edited:
        phrases.append(f"files edited: {_listed(edited)}")
    if before.get("script", now.get("script")) != now.get("script"):
        phrases.append(f"script: {before['script']} -> {now['script']}")
    return phrases


def _changed_layers(before: Mapping[str, int], now: Mapping[str, int]) -> list[str]:
    gone = [f"{n} {layer}" for layer, n in before.items() if now.get(layer) != n]
    new = [f"{n} {layer}" for layer, n in now.items() if before.get(layer) != n]
    if not gone and not new:
        return []
    return [f"layers of the model: {_listed(gone)} -> {_listed(new)}"]


def _described(layer: nn.Module) -> str:
    kind = type(layer)
    if kind.__mro__[1].__name__ == "FSDPModule":
        kind = kind.__mro__[2]  # what fully_shard has made of it keeps its class there
    return f"{kind.__name__}({_ADDRESS.sub('', layer.extra_repr())})"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "") or "none"


def _text(value: Any) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        given = [
            f"{one.name}={getattr(value, one.name)!r}"
            for one in fields(value)
            if getattr(value, one.name) != one.default
        ]
        return f"{type(value).__name__}({', '.join(given)})"
    if isinstance(value, str):
        return value
    if isinstance(value, Callable) and not isinstance(value, type):  # type: ignore[arg-type]
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return _ADDRESS.sub("", repr(value))


def _is_installed(path: Path) -> bool:
    return any(part in ("site-packages", "dist-packages") for part in path.parts)
