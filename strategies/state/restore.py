"""Restoring a strategy's state from the newest checkpoint that all ranks can read."""

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
    Manifest,
    ModelMismatchError,
    NoCheckpointError,
    StoredBefore,
    StoredFile,
    TensorSpec,
)
from checkpointing.errors import NamedFileError, UnreadFormatError

from ..collectives.process_group import HostCommunicator
from ..errors import ConfigError, StrategyError
from ..parallel.catalogue import OBJECT, WEIGHT_KEYS
from ..parallel.state.hyperparameters import merge, put_back
from ..parallel.state.implementation import refusal_of_other
from ..parallel.state.saved_state import SavedState
from ..parallel.state.trained_state import TrainedState
from .collect import BUCKETS
from .node_reader import NodeSource
from .stateful import decode_objects
from .views import IMPORTED, AveragedWeights, ImportedWeights, require_same_model


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
    damaged: dict[int, str] = {}
    for candidate in _candidates(store, communicator, step=step, newest=newest):
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
                _lay_buckets(strategy, found)
            changes = [] if requested is None else _put_back_groups(strategy, requested, found)
            return replace(found, damaged=damaged, changes=changes)
        damaged[candidate] = f"step-{candidate:08d} is not usable: {reports[0].rstrip('.')}."
    _require_none(damaged, store)
    return None


def _require_none(damaged: Mapping[int, str], store: CheckpointStore) -> None:
    """Refuse to begin anew where checkpoints are damaged."""
    if damaged:
        raise ConfigError(
            f"no checkpoint in {store.folder} is whole. {' '.join(damaged.values())} "
            "Restore one from a backup, or start over in another --run-dir."
        )


def _candidates(
    store: CheckpointStore, communicator: HostCommunicator, *, step: int | None, newest: int | None
) -> list[int]:
    """Return the steps whose checkpoints are tried, in this order. Called on every rank."""
    steps: Any = communicator.broadcast(store.steps() if communicator.rank == 0 else None)
    if step is not None:
        return [step]
    return [one for one in steps if newest is None or one <= newest]


def _lay_buckets(strategy: TrainedState, found: Restored) -> None:
    """Give each wrapper the order of its gradients' buckets."""
    for one, names in zip(strategy.bucket_orders, found.state.get(BUCKETS, ()), strict=False):
        one.lay(names)


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
    """Load one checkpoint, or report its damage. Called on every rank.

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
    """Carry out an action and return its result. No collective itself."""
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
    except UnreadFormatError as error:
        # It is sound, too, and older ones do not hold its steps.
        text = f"{error}, or move the folder away to continue from an older checkpoint."
        return {"kind": "refused", "text": text}
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
