"""Messages about the start of a Trainer; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def strategy_of(trainer: Any, world_size: int) -> str:
    """Return how a Trainer spreads its model, in a word."""
    if getattr(trainer, "is_deepspeed_enabled", False):
        return "deepspeed"
    if getattr(trainer, "is_fsdp_enabled", False):
        return "fsdp"
    return "single" if world_size == 1 else "ddp"


def over_text(sealed: Mapping[str, Any], step: int, max_steps: int) -> str | None:
    """Return that a training had ended before this start; None: it had not.

    Args:
        sealed: what the seal of the checkpoint says; empty: there is none.
        step: of the checkpoint.
        max_steps: of this start.
    """
    if step >= max_steps:
        return f"the training had ended already: {step} of {max_steps} steps were done."
    if not sealed.get("has_ended"):
        return None
    return (
        f"the training had ended already: it stopped early at step {step}. To train on, set "
        f'"has_ended" to false in checkpoint-{step}/relaunch.json.'
    )


def changed_ranks_text(before: Mapping[str, Any], now: Mapping[str, Any], step: int) -> str | None:
    """Return what a resume does not promise; None: the curve is the same.

    Args:
        before: what the checkpoint's seal says.
        now: of this start.
        step: optimizer steps that are done.
    """
    if not before:
        return (
            "the checkpoint was written without RelaunchCallback: on how many ranks, and whether "
            "an evaluation is owed, is not known. On the same ranks it resumes at the next sample."
        )
    ranks, batch = before.get("world_size"), before.get("batch")
    if batch != now["batch"] and isinstance(batch, int):
        return (
            f"a step had {batch} samples (on {ranks} ranks) and has {now['batch']} now (on "
            f"{now['world_size']}): model, optimizer and schedule resume at step {step}, and the "
            f"data at sample {step * now['batch']} instead of {step * batch}. The curve changes. "
            "Keep ranks x per_device_train_batch_size x gradient_accumulation_steps."
        )
    if ranks != now["world_size"]:
        return (
            f"the checkpoint is of {ranks} ranks, and {now['world_size']} resume: the samples of "
            "each step are the same, their random numbers (dropout, augmentation) are not."
        )
    return None
