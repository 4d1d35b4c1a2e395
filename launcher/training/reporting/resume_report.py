"""What a start took over from a checkpoint, what it recomputed, what is different. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from checkpointing import JSON
from strategies.data.streams.own_position import OwnPosition


@dataclass(frozen=True, kw_only=True)
class ResumeReport:
    """Lists of short phrases."""

    restored: tuple[str, ...]
    derived: tuple[str, ...]
    changed: tuple[str, ...]
    not_promised: tuple[str, ...] = ()
    """What the run's data cannot give."""

    def lines(self) -> list[str]:
        """Return a line for each list that is not empty."""
        named = {"restored": self.restored, "derived": self.derived, "changed": self.changed}
        named["not promised"] = self.not_promised
        return [f"{name}: {'; '.join(phrases)}" for name, phrases in named.items() if phrases]


def report_resume(
    state: Mapping[str, Any],
    created_by: Mapping[str, Any],
    *,
    now: Mapping[str, JSON],
    objects: Collection[str],
    changes: Collection[str],
    own_stream: str | None = None,
    not_promised: Sequence[str] = (),
) -> ResumeReport:
    """Compare a checkpoint with the start that resumes from it.

    Args:
        state: what the checkpoint keeps besides tensors.
        created_by: who wrote it.
        now: strategy, world_size and precision of this start.
        objects: names of the objects that the script gives.
        changes: what the script asks for otherwise than before.
        own_stream: the class of the training data, where it keeps its position itself.
        not_promised: what such data cannot give.
    """
    optimizer = state["optimizer"]["name"]
    held = state.get("objects", {})
    return ResumeReport(
        restored=(
            "fp32 weights and buffers",
            f"{optimizer}: its state, steps and hyper-parameters",
            f"position in the data (epoch {state['data']['epoch']})"
            if own_stream is None
            else f"position in the data, as {own_stream} has saved it on each rank",
            "schedule, early stopping and loss scale",
            *(f"object {name}" for name in objects if name in held),
            *set_again(state),
        ),
        derived=(
            f"random numbers, from seed {state['random']['seed']} and the step",
            *(() if own_stream else ("order of the samples, from seed and epoch",)),
            "compute weights, from the fp32 weights",
        ),
        changed=(
            *changed_conditions(created_by, now),
            *changes,
            *_changed_objects(objects, held),
        ),
        not_promised=tuple(not_promised),
    )


def set_again(state: Mapping[str, Any]) -> list[str]:
    """Return a phrase for each mode and attribute that the loop had set on the model."""
    return [
        f"{name}.{key} = {value}, as the loop had set it".lstrip(".")
        for name, attributes in state.get("set_by_loop", {}).items()
        for key, value in attributes.items()
    ]


def changed_conditions(created_by: Mapping[str, Any], now: Mapping[str, JSON]) -> list[str]:
    """Return a phrase for each condition that is not as it was where both are known."""
    both = [(name, created_by[name], value) for name, value in now.items() if name in created_by]
    return [f"{name}: {before} -> {value}" for name, before, value in both if before != value]


def _changed_objects(given: Collection[str], held: Collection[str]) -> list[str]:
    new = [f"object {name}: new, as the script built it" for name in given if name not in held]
    lost = [name for name in held if name not in (*given, OwnPosition.NAME)]
    return new + [f"object {name}: saved, but no longer given" for name in lost]
