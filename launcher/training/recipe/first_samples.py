"""The training data must be the same on every rank, and at every start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from operator import eq
from typing import Any

from checkpointing import JSON
from strategies import ConfigError
from strategies.data.reading.first_samples import first_samples, is_same

from ..context import RunContext
from .recipe import Recipe

_REMEDY = (
    "Make and split the data in main(run), which every start seeds alike, by run.split, or with "
    "seeds of its own; not with random numbers while the script is imported. Sort what a folder "
    "lists or a set holds."
)
_VARIES = (
    "a sample of the training data was another one when it was read again, with torch, numpy and "
    "random seeded alike. The data set draws from a generator that is not found (docs/data.md), or "
    "keeps a state such as a counter: the curve depends on the ranks and on interruptions."
)
_KEEPS = (
    "the training data draws random numbers only when a sample is first read, and keeps what came "
    "of it. In a later epoch another rank, loader worker or start draws it anew: the curve depends "
    "on them. Keep what comes before the draw, or draw everything in main(run)."
)


def agreed_samples(run: RunContext, recipe: Recipe, train: Any) -> Mapping[str, JSON]:
    """Return digests of the training data for the checkpoints. Called on every rank.

    Raises:
        ConfigError: the ranks have other samples.
    """
    if train is not recipe.train:
        return {}  # a stream
    found = first_samples(train, run.seed, may_read=recipe.workers == 0)
    mine: Any = asdict(found)
    gathered: Any = run.communicator.gather(mine)
    verdict: Any = run.communicator.broadcast(_verdict(gathered) if gathered else None)
    if (differing := verdict["differing"]) is not None:
        rank, what = differing
        raise ConfigError(
            f"the training data of rank {rank} is not that of rank 0: {what}. Each rank would "
            f"train on data of its own, under the same indices. {_REMEDY}"
        )
    for is_so, sentence in ((verdict["varies"], _VARIES), (verdict["keeps"], _KEEPS)):
        if is_so:
            run.warn(sentence)
    return {"chosen": found.chosen, "content": verdict["content"]}


def _verdict(gathered: list[dict[str, Any]]) -> dict[str, JSON]:
    """Return what follows from what the ranks have found. Pure."""
    first, differing = gathered[0], None
    varies = any(one["varies"] for one in gathered)
    is_known = all(one["content"] is not None for one in gathered)
    for rank, one in enumerate(gathered):
        if one["length"] != first["length"]:
            continue  # this is told with the batch, the seed and the other numbers of a plan
        if one["chosen"] != first["chosen"]:
            differing = rank, "its subset takes other indices"
        elif is_known and not is_same(one["content"], first["content"]):
            differing = rank, "its first samples are others"
        if differing:
            break
    return {
        "differing": None if differing is None else list(differing),
        "varies": varies,
        "keeps": any(one["keeps_draws"] for one in gathered),
        "content": first["content"] if is_known else None,
    }


def changed_samples(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return what is to be said of data that is not what the run began with; None: it is. Pure."""
    for name, what, agree in (
        ("chosen", "a subset takes other indices", eq),
        ("content", "samples differ", is_same),
    ):
        then, found = before.get(name), now.get(name)
        if then is not None and found is not None and not agree(then, found):
            return (
                f"the training data is not what the run had so far: {what}. If the script is as it "
                f"was, each start makes other data; samples are repeated and left out. {_REMEDY}"
            )
    return None
