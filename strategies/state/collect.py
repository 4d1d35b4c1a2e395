"""What a checkpoint has of a strategy's state, collected from all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from checkpointing import (
    JSON,
    Fragment,
    FrozenTensors,
    OwnShard,
    Snapshot,
    TensorSpec,
)

from ..collectives.process_group import HostCommunicator
from ..collectives.replicas import require_equal
from ..errors import ConfigError
from ..parallel.catalogue import FROZEN, WEIGHT_KEYS
from ..parallel.state.hyperparameters import current_hyperparameters, to_json
from ..parallel.state.small_tensors import copied_together
from ..parallel.state.trained_state import TrainedState
from .stateful import EncodedObjects, Objects, encode_objects

BUCKETS = "bucket_orders"
"""Under which name a checkpoint has what `BucketOrder` keeps, wrapper by wrapper."""


def collect_state(
    strategy: TrainedState,
    communicator: HostCommunicator,
    *,
    step: int,
    state: Mapping[str, JSON],
    created_by: Mapping[str, JSON],
    requested: list[dict[str, JSON]],
    objects: Objects | None = None,
    weights_only: bool = False,
    stored: FrozenTensors | None = None,
    own_shard: OwnShard | None = None,
) -> Snapshot:
    """Return what is to be saved; nothing is copied. Called on every rank.

    Args:
        strategy: whose state.
        communicator: the host's group.
        step: optimizer steps completed.
        state: what the run keeps besides tensors.
        created_by: who wrote it, for people.
        requested: the optimizer's hyper-parameters as the script gave them.
        objects: the user's own, by name; the coordinator's states count.
        weights_only: leave the optimizer's state and the objects out.
        stored: what the store has of the frozen tensors, which it then keeps in objects; None:
            they are written with the rest.
        own_shard: what this rank has in the store's newest checkpoint, which is named again where
            nothing of it has changed; None: it is written every time.

    Raises:
        ConfigError: on every rank, when the state of an object cannot be saved.
        StrategyError: on every rank, when some hold other weights than the rest.
    """
    with copied_together(strategy.optimizers):
        frozen, fragments = _frozen_apart(strategy.fragments(weights_only=weights_only), stored)
        # The coordinator's objects count; all learn what is wrong with them before any raises.
        counts = communicator.rank == 0 and not weights_only
        encoded, problem = _encode_own(objects or {} if counts else {})
        fragments += encoded.fragments
        shared = _shared_of(strategy, fragments, weights_only=weights_only)
        shared |= {"problem": problem, "frozen": None if stored is None else stored.look(frozen)}
        everyone = _gathered(shared, strategy, communicator, step=step)
        own = _kept_of(strategy, requested, everyone, weights_only=weights_only)
    part = None
    if stored is not None and strategy.catalogue.frozen:
        part = stored.divide(frozen, [one["frozen"] for one in everyone])
        fragments += part.changing
    return Snapshot(
        step=step,
        specs=_specs_of(strategy, everyone),
        fragments=fragments,
        state={**state, **own, "objects": encoded.state},
        created_by=created_by,
        frozen=part,
        own_shard=own_shard,
    )


def _shared_of(
    strategy: TrainedState, fragments: list[Fragment], *, weights_only: bool
) -> dict[str, JSON]:
    """Return what the other ranks need to know of this one's share.

    A rank sees the optimizer state of its own share only; the proof of coverage needs it all.
    """
    return {
        "specs": [_spec_to_json(f.spec) for f in fragments if f.spec.key not in WEIGHT_KEYS],
        "values": {} if weights_only else {k: dict(v) for k, v in strategy.scalars().items()},
    }


def _gathered(
    shared: dict[str, JSON], strategy: TrainedState, communicator: HostCommunicator, *, step: int
) -> list[Any]:
    """Return what each rank shares, by rank, if it can be saved. Called on every rank.

    Raises:
        ConfigError: on every rank, when the coordinator has a "problem".
        StrategyError: on every rank, when some hold other weights than the rest.
    """
    replicas = strategy.replicas()
    everyone: list[Any] = communicator.all_gather({**shared, "replicas": replicas.summary()})
    if everyone[0]["problem"] is not None:
        raise ConfigError(everyone[0]["problem"])
    require_equal(replicas, [one["replicas"] for one in everyone], communicator, step=step)
    return everyone


def frozen_fragments(strategy: TrainedState) -> list[Fragment]:
    """Return this rank's share of the parameters that are not trained. No collective."""
    return [f for f in strategy.fragments(weights_only=True) if f.spec.key == FROZEN]


def _frozen_apart(
    fragments: list[Fragment], stored: FrozenTensors | None
) -> tuple[list[Fragment], list[Fragment]]:
    """Return those that are kept in objects, and the rest."""
    if stored is None:
        return [], fragments
    frozen = [f for f in fragments if f.spec.key == FROZEN]
    return frozen, [f for f in fragments if f.spec.key != FROZEN]


def _specs_of(strategy: TrainedState, everyone: list[Any]) -> list[TensorSpec]:
    """Return every tensor of the model once, with what some rank holds of the rest."""
    specs = {s.name: s for s in strategy.weight_specs()}
    specs |= {s.name: s for one in everyone for s in map(_spec_from_json, one["specs"])}
    return list(specs.values())


def _kept_of(
    strategy: TrainedState,
    requested: list[dict[str, JSON]],
    everyone: list[Any],
    *,
    weights_only: bool,
) -> dict[str, JSON]:
    """Return what is kept of the strategy besides tensors."""
    current = current_hyperparameters(strategy.param_groups)
    optimizer: dict[str, JSON] = {
        "name": strategy.optimizer_name,
        "library": strategy.optimizer_library,
        "groups": to_json(strategy.group_names, requested, current),
        "values": {name: value for one in everyone for name, value in one["values"].items()},
        "extras": {} if weights_only else strategy.extras(),
    }
    kept: dict[str, JSON] = {"optimizer": optimizer, "aliases": dict(strategy.catalogue.aliases)}
    if strategy.bucket_orders and not weights_only:
        kept[BUCKETS] = [list(one.names) for one in strategy.bucket_orders]
    return kept


def _encode_own(objects: Objects) -> tuple[EncodedObjects, str | None]:
    """Return the objects' states, or none and why they cannot be saved."""
    try:
        return encode_objects(objects), None
    except ConfigError as error:
        return EncodedObjects(state={}, fragments=[]), str(error)


def _spec_to_json(spec: TensorSpec) -> JSON:
    return {"fqn": spec.fqn, "key": spec.key, "shape": list(spec.shape), "dtype": spec.dtype}


def _spec_from_json(value: Any) -> TensorSpec:
    return TensorSpec(
        fqn=value["fqn"], key=value["key"], shape=tuple(value["shape"]), dtype=value["dtype"]
    )
