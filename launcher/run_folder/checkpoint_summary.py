"""What a checkpoint's manifest says of the run that wrote it.

A user's own loop may store another state: what is not there is None, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpointing import JSON


def best_step(state: Mapping[str, Any]) -> int | None:
    """Return the step of the best evaluation known when the state was saved."""
    found = _number(_within(state, "early_stopping", "best_step"))
    return None if found is None else int(found)


def score(state: Mapping[str, Any]) -> float | None:
    """Return how good the newest evaluation before a save was; lower is better."""
    value = _number(_within(state, "evaluation", "value"))
    if value is None:
        return None
    return -value if _within(state, "evaluation", "mode") == "max" else value


def summary(state: Mapping[str, Any], created_by: Mapping[str, Any]) -> dict[str, JSON]:
    """Return, in one flat object, who wrote a checkpoint and how the run stood."""
    return {
        **{name: created_by.get(name) for name in ("strategy", "world_size", "precision")},
        "epoch": _within(state, "data", "epoch"),
        "best": _number(_within(state, "early_stopping", "best")),
        "best_step": best_step(state),
        "ending": state.get("ending"),
    }


def export_metadata(step: int, state: Mapping[str, Any]) -> dict[str, str]:
    """Return what goes into the header of an exported file: the step, and the tied names."""
    aliases = state.get("aliases")
    tied = aliases if isinstance(aliases, Mapping) else {}
    return {"step": str(step)} | {f"tied:{name}": str(kept) for name, kept in tied.items()}


def _within(state: Mapping[str, Any], *names: str) -> Any:
    value: Any = state
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
