"""What a start took over from a checkpoint, what it worked out anew, what is different. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from checkpointing import JSON


@dataclass(frozen=True, kw_only=True)
class ResumeReport:
    """Three lists of short phrases."""

    restored: tuple[str, ...]
    derived: tuple[str, ...]
    changed: tuple[str, ...]

    def lines(self) -> list[str]:
        """Return a line for each list that is not empty."""
        named = {"restored": self.restored, "derived": self.derived, "changed": self.changed}
        return [f"{name}: {'; '.join(phrases)}" for name, phrases in named.items() if phrases]


def report_resume(
    state: Mapping[str, Any],
    created_by: Mapping[str, Any],
    *,
    now: Mapping[str, JSON],
    objects: Collection[str],
    changes: Collection[str],
) -> ResumeReport:
    """Compare a checkpoint with the start that goes on from it.

    Args:
        state: what the checkpoint keeps besides tensors.
        created_by: who wrote it.
        now: strategy, world_size and precision of this start.
        objects: names of the objects that the script gives.
        changes: what the script asks for otherwise than before.
    """
    optimizer = state["optimizer"]["name"]
    held = state.get("objects", {})
    return ResumeReport(
        restored=(
            "fp32 weights and buffers",
            f"{optimizer}: its state, steps and hyper-parameters",
            f"position in the data (epoch {state['data']['epoch']})",
            "schedule, early stopping and loss scale",
            *(f"object {name}" for name in objects if name in held),
        ),
        derived=(
            f"random numbers, from seed {state['random']['seed']} and the step",
            "order of the samples, from seed and epoch",
            "compute weights, from the fp32 weights",
        ),
        changed=(
            *(
                f"{name}: {created_by[name]} -> {value}"
                for name, value in now.items()
                if name in created_by and created_by[name] != value
            ),
            *changes,
            *(
                f"object {name}: new, as the script built it"
                for name in objects
                if name not in held
            ),
            *(f"object {name}: saved, but no longer given" for name in held if name not in objects),
        ),
    )
