"""The table at the start of a run: what runs where, how, and what was restored; pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

from strategies import IMPORTED, BatchPlan

from ...run_folder.tables import plural, size_text
from ..context import RankPlacement

if TYPE_CHECKING:
    from checkpointing import StoredBefore, TensorSpec
    from strategies import Restored

    from ..recipe.recipe import Recipe


def start_table(rows: Iterable[tuple[str, str]]) -> str:
    """Return one line per row, its label in front; rows without text are skipped."""
    shown = [(label, text) for label, text in rows if text]
    width = max((len(label) for label, _ in shown), default=0)
    return "\n".join(f"  {label:<{width}}  {text}" for label, text in shown)


def places_text(places: Sequence[RankPlacement]) -> str:
    """Return which rank runs where, in runs of ranks: "0-1 on alpha (cpu)"."""
    parts = []
    for host, group in groupby(enumerate(places), key=lambda pair: pair[1].host):
        members = list(group)
        devices = list(dict.fromkeys(place.device for _, place in members))
        parts.append(f"{_span([rank for rank, _ in members])} on {host} ({', '.join(devices)})")
    count = f"{len(places)} ranks: " if len(places) > 1 else "rank "
    return count + "; ".join(parts)


def model_text(trainable: Iterable[TensorSpec], frozen: Iterable[TensorSpec]) -> str:
    """Return the number of trainable and of frozen parameters."""
    num_trained, num_frozen = (sum(prod(s.shape) for s in specs) for specs in (trainable, frozen))
    rest = f", {num_frozen:,} frozen" if num_frozen else ""
    return f"{num_trained:,} trainable parameters{rest}"


def named_text(named: StoredBefore, frozen: Iterable[TensorSpec]) -> list[str]:
    """Return what the checkpoints of frozen="name" do not hold, and what they copy. Pure."""
    there = [tensor.spec for tensor in named.tensors]
    others = [spec for spec in frozen if spec.name not in named.names]
    paths = list(dict.fromkeys(one.path for one in named.named))
    lines = []
    if there:
        more = f" and {plural(len(paths) - 1, 'other file')}" if paths[1:] else ""
        lines.append(
            f"checkpoints name {_tensors(there)} in {paths[0]}{more} and hold no copy: keep "
            f"{'these files' if paths[1:] else 'this file'} unaltered, and with each copy of a "
            "checkpoint"
        )
    if others:
        lines.append(
            f"{_tensors(others)} {'is' if len(others) == 1 else 'are'} copied: not in the files "
            f"of weights= with the same dtype and values (such as {others[0].fqn})"
        )
    return lines or ['frozen="name" has no effect: the model has no frozen parameters']


def _tensors(specs: Sequence[TensorSpec]) -> str:
    size = size_text(sum(spec.size_bytes for spec in specs))
    return f"{plural(len(specs), 'frozen tensor')} ({size})"


def data_text(plan: BatchPlan) -> str:
    """Return the number of samples, epochs and steps."""
    if plan.in_order:
        return f"a stream, {_count(plan.total_steps, 'step')} in total"
    return (
        f"{plan.num_samples} samples: {_count(plan.steps_per_epoch, 'step')} per epoch, "
        f"{_count(plan.epochs, 'epoch')}, {_count(plan.total_steps, 'step')} in total"
    )


def batch_text(plan: BatchPlan, world_size: int) -> str:
    """Return how a step is split into micro-batches and distributed over the ranks."""
    num_micro = -(-plan.global_batch // plan.micro_batch)
    rounds = -(-num_micro // world_size)
    text = (
        f"{plan.global_batch} samples per step = {_count(num_micro, 'micro-batch')} of "
        f"{plan.micro_batch}; {_count(rounds, 'turn')} per rank"
    )
    padding = rounds * world_size - num_micro
    if padding:
        text += f" ({padding} of {rounds * world_size} turns are padding with weight 0)"
    return text


def intervals_text(recipe: Recipe) -> str:
    """Return when the run is evaluated, stopped and saved."""
    stop = recipe.stop
    rule = f", stop on {stop.monitor} (patience {stop.patience})" if stop is not None else ""
    return (
        f"evaluate every {interval_text(recipe.evaluate_every)}{rule}; save every "
        f"{interval_text(recipe.save_every)}, keep {recipe.keep}"
    )


def restored_text(restored: Restored | None, plan: BatchPlan) -> str:
    """Return what a resume restored; empty at a new start."""
    if restored is None:
        return ""
    if IMPORTED in restored.state:
        return f"weights of {restored.created_by['strategy']}, imported"
    by = restored.created_by
    ranks = _count(int(by["world_size"]), "rank")
    text = (
        f"step {restored.step} (epoch {plan.position(restored.step) / plan.num_samples:.2f}), saved"
        f" under {by['strategy']} on {ranks}, {by['precision']}"
    )
    stopping = restored.state.get("early_stopping") or {}
    if stopping.get("best") is not None:
        text += f"; best so far {stopping['best']:.6g} at step {stopping['best_step']}"
    return text


def interval_text(text: str) -> str:
    """Return what follows "every": "epoch" for "1 epoch", else the text itself."""
    return text.removesuffix("s")[2:] if text.startswith("1 ") else text


def _count(number: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith("ch") and noun != "epoch" else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def _span(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
