"""Batches as torch makes them, and a sentence where it cannot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

_WHAT_TO_DO = (
    "Pass collate= (to run.prepare, or to step.evaluate and job.test), a function that makes a "
    "batch of a list of samples: one that pads, such as torch.nn.utils.rnn.pad_sequence or "
    "transformers' DataCollatorWithPadding(tokenizer). Or make them alike in the data set."
)


@dataclass(frozen=True, kw_only=True)
class Unstackable:
    """Stands for a batch that could not be made: what a worker raises would come as a traceback."""

    sentence: str


def stack(samples: list[Any], indices: Sequence[int]) -> Any:
    """Return the batch of some samples, as torch's default_collate makes it, or `Unstackable`.

    Args:
        samples: in order.
        indices: their numbers in the data set, for the sentence.
    """
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError, KeyError, IndexError) as error:
        return Unstackable(sentence=why_not(samples, indices, error))


def why_not(samples: Sequence[Any], indices: Sequence[int], error: Exception) -> str:
    """Return which samples differ in what, and what to do about it. Pure."""
    for index, sample in zip(indices[1:], samples[1:], strict=False):
        if (found := _difference(samples[0], sample)) is not None:
            where, first, other = found
            part = f" {where}" if where else ""
            return (
                f"the samples {indices[0]} and {index} cannot be stacked into one batch:{part} is "
                f"{first} in the one and {other} in the other. {_WHAT_TO_DO}"
            )
    words = str(error).splitlines()[0] if str(error) else ""
    return (
        f"the samples {indices[0]} to {indices[-1]} cannot be stacked into one batch: "
        f"{type(error).__name__}: {words}. {_WHAT_TO_DO}"
    )


def _difference(one: Any, other: Any, where: str = "") -> tuple[str, str, str] | None:
    """Return the first place at which two samples differ in kind or shape, and what each is."""
    mine, theirs = _kind(one), _kind(other)
    if mine != theirs:
        return where, mine, theirs
    for key in _keys(one):
        path = f"{where}[{key!r}]"
        if (found := _difference(one[key], other[key], path)) is not None:
            return found
    return None


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with {', '.join(map(repr, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int | float | np.number):
        return "a number"  # torch takes the first one's kind
    return f"a {type(value).__name__}"


def _keys(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        return list(value)
    return list(range(len(value))) if isinstance(value, list | tuple) else []
