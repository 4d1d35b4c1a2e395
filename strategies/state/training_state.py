"""Saving and restoring a strategy's state through the neutral format."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from checkpointing import (
    JSON,
    CheckpointError,
    CheckpointStore,
    DamagedCheckpointError,
    Fragment,
    FrozenTensors,
    Manifest,
    ModelMismatchError,
    NoCheckpointError,
    OwnShard,
    Snapshot,
    StoredBefore,
    StoredFile,
    TensorSpec,
)
from checkpointing.errors import NamedFileError

from ..collectives.process_group import HostCommunicator
from ..collectives.replicas import require_equal
from ..errors import ConfigError, StrategyError
from ..parallel.catalogue import FROZEN, OBJECT, WEIGHT_KEYS
from ..parallel.state.hyperparameters import current_hyperparameters, merge, put_back, to_json
from ..parallel.state.implementation import refusal_of_other
from ..parallel.state.saved_state import SavedState
from ..parallel.state.trained_state import TrainedState
from .node_reader import NodeSource
from .stateful import EncodedObjects, Objects, decode_objects, encode_objects
from .views import IMPORTED, AveragedWeights, ImportedWeights, require_same_model

_BUCKETS = "bucket_orders"
"""Under which name a checkpoint has what `BucketOrder` keeps, wrapper by wrapper."""


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What a restore found."""

    step: int
    state: Mapping[str, Any]
    """What was given to `collect_state`."""
    created_by: Mapping[str, Any]
    damaged: dict[int, str]
    """For each newer step whose checkpoint could not be used, a sentence that says why."""
    objects: Mapping[str, Any]
    """The states of the user's objects, by name."""
    token: str = ""
    """Of the attempt that saved it."""
    stored: StoredBefore = field(default_factory=StoredBefore)
    """What it has in objects."""
    files: Sequence[StoredFile] = ()
    """All its files."""
    changes: Sequence[str] = ()
    """A sentence for each hyper-parameter that the script asks for otherwise than before."""


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
    frozen, fragments = _frozen_apart(strategy.fragments(weights_only=weights_only), stored)
    # The coordinator's objects count; all ranks learn what is wrong with them before any raises.
    counts = communicator.rank == 0 and not weights_only
    encoded, problem = _encode_own(objects or {} if counts else {})
    fragments += encoded.fragments
    # A rank sees the optimizer state of its own share only; the proof of coverage needs it all.
    shared: dict[str, JSON] = {
        "specs": [_spec_to_json(f.spec) for f in fragments if f.spec.key not in WEIGHT_KEYS],
        "values": {} if weights_only else {k: dict(v) for k, v in strategy.scalars().items()},
        "problem": problem,
        "frozen": None if stored is None else stored.look(frozen),
    }
    everyone = _gathered(shared, strategy, communicator, step=step)
    own: dict[str, JSON] = {
        "optimizer": _optimizer_of(strategy, requested, everyone, weights_only=weights_only),
        "aliases": dict(strategy.catalogue.aliases),
        "objects": encoded.state,
    }
    if strategy.bucket_orders and not weights_only:
        own[_BUCKETS] = [list(one.names) for one in strategy.bucket_orders]
    part = None
    if stored is not None and strategy.catalogue.frozen:
        part = stored.divide(frozen, [one["frozen"] for one in everyone])
        fragments += part.changing
    return Snapshot(
        step=step,
        specs=_specs_of(strategy, everyone),
        fragments=fragments,
        state={**state, **own},
        created_by=created_by,
        frozen=part,
        own_shard=own_shard,
    )


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


def _optimizer_of(
    strategy: TrainedState,
    requested: list[dict[str, JSON]],
    everyone: list[Any],
    *,
    weights_only: bool,
) -> dict[str, JSON]:
    """Return what is kept of the optimizer besides tensors."""
    current = current_hyperparameters(strategy.param_groups)
    return {
        "name": strategy.optimizer_name,
        "library": strategy.optimizer_library,
        "groups": to_json(strategy.group_names, requested, current),
        "values": {name: value for one in everyone for name, value in one["values"].items()},
        "extras": {} if weights_only else strategy.extras(),
    }


def _encode_own(objects: Objects) -> tuple[EncodedObjects, str | None]:
    """Return the objects' states, or none and why they cannot be saved."""
    try:
        return encode_objects(objects), None
    except ConfigError as error:
        return EncodedObjects(state={}, fragments=[]), str(error)


def restore_newest(
    strategy: TrainedState,
    store: CheckpointStore,
    communicator: HostCommunicator,
    *,
    requested: list[dict[str, JSON]] | None = None,
    weights_only: bool = False,
    step: int | None = None,
    newest: int | None = None,
    averaged: bool = False,
) -> Restored | None:
    """Load the newest checkpoint that is whole, agreed by all ranks. Called on every rank.

    Args:
        strategy: whose state is overwritten.
        store: where checkpoints are looked for.
        communicator: the host's group.
        requested: the optimizer's hyper-parameters as the script gave them; None: what the
            checkpoint keeps in the parameter groups is not put back.
        weights_only: leave the optimizer's state as it is.
        step: only the checkpoint of this step.
        newest: none of a later step than this.
        averaged: take the moving averages for the weights, with `weights_only`.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        ConfigError: the checkpoint belongs to another model or optimizer, or every one is damaged.
        StrategyError: a rank could not read, for a reason that says nothing about the checkpoint.
    """
    steps: Any = communicator.broadcast(store.steps() if communicator.rank == 0 else None)
    damaged: dict[int, str] = {}
    if newest is not None:
        steps = [one for one in steps if one <= newest]
    for candidate in steps if step is None else [step]:
        found, reports = _load_step(
            strategy,
            store,
            communicator,
            step=candidate,
            weights_only=weights_only,
            averaged=averaged,
        )
        if found is not None:
            strategy.refresh()
            if not weights_only:
                for one, names in zip(
                    strategy.bucket_orders, found.state.get(_BUCKETS, ()), strict=False
                ):
                    one.lay(names)
            changes = [] if requested is None else _put_back_groups(strategy, requested, found)
            return replace(found, damaged=damaged, changes=changes)
        damaged[candidate] = f"step-{candidate:08d} is not usable: {reports[0]}"
    if damaged:
        raise ConfigError(
            f"no checkpoint in {store.folder} is whole. {' '.join(damaged.values())} "
            "Restore one from a backup, or start over in another --run-dir."
        )
    return None


def _put_back_groups(
    strategy: TrainedState, requested: list[dict[str, JSON]], found: Restored
) -> list[str]:
    values, changes = merge(strategy.group_names, requested, found.state["optimizer"]["groups"])
    put_back(strategy.param_groups, values)
    return changes


def _load_step(
    strategy: TrainedState,
    store: CheckpointStore,
    communicator: HostCommunicator,
    *,
    step: int,
    weights_only: bool,
    averaged: bool,
) -> tuple[Restored | None, list[str]]:
    """Load one checkpoint, or say what is damaged of it. Called on every rank.

    The ranks agree twice: that all see the same sound manifest, so that they can read together,
    and that all bytes were as they were written.

    Raises:
        ConfigError: the checkpoint belongs to another model or optimizer.
        StrategyError: a rank could not read, for a reason that says nothing about the checkpoint.
    """
    node = communicator.node()
    with ExitStack() as stack:
        opened: NodeSource | None = None

        def open_it() -> None:
            nonlocal opened
            opened = NodeSource(stack.enter_context(store.open(step)), node)
            _require_suitable(strategy, opened, weights_only)

        verdict = _verdict(open_it)
        token = opened.manifest.token if opened is not None else None
        reports = _agree(communicator, {**verdict, "token": token})
        if reports or opened is None:
            return None, reports
        source, found = opened, None

        def fill() -> None:
            nonlocal found
            found = _fill(strategy, source, weights_only=weights_only, averaged=averaged)

        reports = _agree(communicator, {**_verdict(fill), "token": token})
        return (None if reports else found), reports


def _agree(communicator: HostCommunicator, verdict: dict[str, JSON]) -> list[str]:
    """Return what any rank found damaged. Called on every rank.

    Raises:
        ConfigError: on every rank alike, what no older checkpoint would mend.
        StrategyError: the same.
    """
    verdicts: list[Any] = communicator.all_gather(verdict)
    for one in verdicts:
        if one["kind"] == "refused":
            raise ConfigError(one["text"])
    for rank, one in enumerate(verdicts):
        if one["kind"] == "unreadable":
            raise StrategyError(f"rank {rank} could not read its checkpoint: {one['text']}")
    reports = [one["text"] for one in verdicts if one["kind"] == "damaged"]
    if not reports and len({one["token"] for one in verdicts}) > 1:
        raise StrategyError(
            "the ranks see different checkpoints of the same step. Does another run write to the "
            "same folder, or is it not shared between the nodes?"
        )
    return reports


def _verdict(action: Callable[[], None]) -> dict[str, JSON]:
    """Carry out an action; say what came of it. No collective of its own."""
    try:
        action()
    except ModelMismatchError as error:
        return {
            "kind": "refused",
            "text": f"{error} To train another model, use another --run-dir.",
        }
    except ConfigError as error:
        return {"kind": "refused", "text": str(error)}
    except NamedFileError as error:
        # The checkpoint is sound, and an older one names the same file.
        return {"kind": "refused", "text": str(error)}
    except (DamagedCheckpointError, NoCheckpointError) as error:
        return {"kind": "damaged", "text": str(error)}
    except (CheckpointError, OSError) as error:
        return {"kind": "unreadable", "text": str(error)}
    return {"kind": "whole", "text": ""}


def _require_suitable(strategy: TrainedState, source: NodeSource, weights_only: bool) -> None:
    """Refuse a checkpoint of another model or optimizer, from its manifest. No collective."""
    manifest = source.manifest
    where = f"step-{manifest.step:08d}"
    require_same_model(strategy.weight_specs(), _seen(strategy, source), where)
    optimizer: Any = manifest.state["optimizer"]
    name, library = strategy.optimizer_name, strategy.optimizer_library
    other = refusal_of_other(optimizer, name, library, where)
    if not weights_only and other is not None:
        raise ConfigError(other)


def _seen(strategy: TrainedState, source: NodeSource) -> NodeSource | ImportedWeights:
    """Return the checkpoint as one of this model."""
    if IMPORTED in source.manifest.state:
        return ImportedWeights(source, strategy.catalogue.aliases)
    return source


def _fill(
    strategy: TrainedState, source: NodeSource, *, weights_only: bool, averaged: bool
) -> Restored:
    """Overwrite this rank's share. Called on every rank of a node, which read together.

    Raises:
        DamagedCheckpointError: this rank read what is not as it was written.
        OSError: the storage did not answer.
    """
    manifest = source.manifest
    optimizer: Any = manifest.state["optimizer"]
    saved_objects: Any = {} if weights_only else manifest.state.get("objects", {})
    # First, for the same reason as in `Zero.load`: the strategy may refuse on one rank alone.
    objects = decode_objects(saved_objects, source.read_whole)
    seen = AveragedWeights(source) if averaged else _seen(strategy, source)
    # A checkpoint without any, such as an imported one, leaves the state as it was built.
    saved = None if weights_only else _saved_state(manifest)
    strategy.load(seen, saved if saved is not None and saved.parameters else None)
    if not weights_only:
        strategy.put_back_extras(optimizer.get("extras", {}))
    source.raise_failure()
    return Restored(
        step=manifest.step,
        state=manifest.state,
        created_by=manifest.created_by,
        damaged={},
        objects=objects,
        token=manifest.token,
        stored=StoredBefore.of_manifest(manifest),
        files=manifest.files,
    )


def _saved_state(manifest: Manifest) -> SavedState:
    """Return what a checkpoint keeps of the optimizer's state."""
    optimizer: Any = manifest.state["optimizer"]
    tensors: dict[str, dict[str, TensorSpec]] = {}
    for spec in manifest.specs():
        if spec.key not in (*WEIGHT_KEYS, OBJECT):
            tensors.setdefault(spec.fqn, {})[spec.key] = spec
    return SavedState.of(tensors, optimizer)


def _spec_to_json(spec: TensorSpec) -> JSON:
    return {"fqn": spec.fqn, "key": spec.key, "shape": list(spec.shape), "dtype": spec.dtype}


def _spec_from_json(value: Any) -> TensorSpec:
    return TensorSpec(
        fqn=value["fqn"], key=value["key"], shape=tuple(value["shape"]), dtype=value["dtype"]
    )
