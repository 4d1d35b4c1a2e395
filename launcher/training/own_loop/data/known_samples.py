"""What the training data of a loop is that is not ours: the same at every start.

Data that is made or split with random numbers that nobody has seeded is other data at each start. A
run that resumes then repeats samples, leaves others out, and trains on what it was measured on.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import eq
from typing import Any

from checkpointing import JSON
from strategies.data.reading.first_samples import first_samples, is_same

_LOOKED_AT = (
    ("length", "it has another number of samples", eq),
    ("chosen", "a subset takes other indices", eq),
    ("content", "samples differ", is_same),
)


def known_samples(dataset: Any) -> dict[str, JSON]:
    """Return a digest of a map-style data set; empty for another. No collective.

    Its samples are read only where they lie in memory or in a table of Hugging Face's: to read one
    of the script's own may draw, count or keep something.
    """
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        return {}
    try:
        found = first_samples(dataset, 0, may_read=_is_table(dataset))
    except Exception:  # whatever a script's data set raises: it is a stream, or of its own kind
        return {}
    return {"length": found.length, "chosen": found.chosen, "content": found.content}


def other_data_text(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return what is to be said of data that is not what the run had so far; None: it is. Pure."""
    for name, what, agree in _LOOKED_AT:
        then, found = before.get(name), now.get(name)
        if then is None or found is None or agree(then, found):
            continue
        numbers = f" ({then} -> {found})" if name == "length" else ""
        return (
            f"the training data is not what the run had so far: {what}{numbers}. If the script is "
            "as it was, each start makes other data: samples are repeated and left out. Split with "
            "a seed, such as generator=torch.Generator().manual_seed(0), or seed=0 in "
            "train_test_split."
        )
    return None


def _is_table(dataset: Any) -> bool:
    """Whether it is a table of `datasets`, without a transform of the script's."""
    is_theirs = type(dataset).__module__.startswith("datasets.")
    return is_theirs and dataset.format.get("type") != "custom"
