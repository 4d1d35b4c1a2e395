"""Messages about the start of a Trainer; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEPT = ("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
"""Arguments that an optimizer's state brings back from a checkpoint."""
_OF_ORDER = ("seed", "data_seed", "train_sampling_strategy", "dataloader_drop_last")
_OF_SCHEDULE = (
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps", "num_train_epochs"),
    *("optim", "max_grad_norm", "label_smoothing_factor", "bf16", "fp16"),
)
_ON_ANY_RANKS = (
    *("SeedableRandomSampler", "SequentialSampler", "BatchRebalanceSampler", "RepeatSampler"),
    *("_InfiniteConstantSampler", ""),
)
"""Samplers whose order does not depend on the number of ranks; the last are of streams."""
AMID_GENERATED = (
    "the checkpoint lies between steps that use the same generated samples, which no checkpoint "
    "of trl holds: they are generated anew, so the curve changes. Let save_steps be a multiple of "
    "num_iterations x steps_per_generation / gradient_accumulation_steps."
)
DATA_ANEW = (
    "ignore_data_skip=True: the data of this epoch begins anew, so samples come twice and others "
    "not at all. Leave it out to resume at the sample."
)


def unfit_text(args: Any, strategy: str) -> str | None:
    """Return why a run with these arguments could not resume; None: it can.

    Args:
        args: of the Trainer.
        strategy: as `strategy_of` returns it.
    """
    if getattr(args, "sync_ref_model", False) and strategy in ("fsdp", "deepspeed"):
        return (
            f"sync_ref_model=True under {strategy}: the reference model, which changes on the way, "
            "is in shards that no checkpoint holds. Use DDP, or sync_ref_model=False."
        )
    if getattr(args, "save_only_model", False):
        return (
            "save_only_model=True leaves optimizer, schedule and random numbers out of every "
            "checkpoint: after a preemption the run would train on with a new optimizer. Leave it "
            "out; save_total_limit bounds the disk, and the weights are in files of their own."
        )
    return None


def asked_of(args: Any) -> dict[str, Any]:
    """Return the arguments that shape a training, as JSON."""
    found = {name: getattr(args, name, None) for name in (*_KEPT, *_OF_ORDER, *_OF_SCHEDULE)}
    plain = {name: getattr(value, "value", value) for name, value in found.items()}
    return {n: v if isinstance(v, int | float | None) else str(v) for n, v in plain.items()}


def changed_asked(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each argument that is another one than in the checkpoint; pure."""
    found = []
    for name, value in now.items():
        if name not in before or before[name] == value:
            continue
        if name in _KEPT:
            what = f"no effect, the optimizer goes on with {before[name]} of the checkpoint"
        elif name in _OF_ORDER:
            what = "another order of the data, so some samples come twice and some not at all"
        else:
            what = "counts from this step on"
        found.append(f"changed: {name}: {before[name]} -> {value}: {what}.")
    return found


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
    if ranks == now["world_size"]:
        return None
    number = f"the checkpoint is of {ranks} ranks, and {now['world_size']} resume: "
    if (sampler := now.get("sampler", "")) not in _ON_ANY_RANKS:
        return (
            f"{number}which samples an epoch has had is up to {sampler}, so some may come twice "
            "and some not at all, and random numbers (dropout, augmentation) are others."
        )
    samples = now.get("samples", {}).get("length")
    is_filled = isinstance(samples, int) and samples % now["batch"] > 0
    return (
        f"{number}the samples of each step are the same, "
        + ("except for the last step of an epoch, which is filled up; " if is_filled else "")
        + "their random numbers (dropout, augmentation) are not."
    )
