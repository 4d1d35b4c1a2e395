"""From the FOLDER of the command line to the checkpoints that are meant."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checkpointing import (
    MANIFEST_NAME,
    CheckpointReader,
    CheckpointStore,
    NoCheckpointError,
    is_checkpoint_name,
    open_folder,
)

from ..errors import UsageError
from ..run_folder import RunFolder

_STORE_NAMES = ("checkpoints", "best")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One checkpoint, or the stores of one run."""

    path: Path
    """As it was given."""

    stores: tuple[tuple[str, CheckpointStore], ...] = ()
    """With a name for people: checkpoints, best, or the folder's own. Empty: one checkpoint."""

    @property
    def is_one(self) -> bool:
        """Whether the folder is one checkpoint."""
        return not self.stores


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One checkpoint that is meant."""

    name: str
    """For messages: "checkpoints/step-00000100"."""
    open: Callable[[], CheckpointReader]


def find_target(path: Path) -> Target:
    """Tell what kind of folder was given.

    Raises:
        UsageError: It is none of the three kinds.
    """
    if not path.is_dir():
        raise UsageError(f"{path} is not a folder. Pass a run folder, or one of checkpoints.")
    if (path / MANIFEST_NAME).exists():
        return Target(path=path)
    run = RunFolder(path)
    stores = tuple(
        (store.folder.name, store) for store in (run.checkpoints, run.best) if store.folder.is_dir()
    )
    if stores:
        return Target(path=path, stores=stores)
    if path.name in _STORE_NAMES or any(is_checkpoint_name(p.name) for p in path.iterdir()):
        return Target(path=path, stores=((path.name, CheckpointStore(path)),))
    if is_checkpoint_name(path.name):
        # Named as a checkpoint, but its manifest is gone: damage, and not a mistake of usage.
        return Target(path=path)
    raise UsageError(
        f"{path} is no run folder (it has no checkpoints/ and no best/), holds no step-... "
        f"folder, and is no checkpoint (it has no {MANIFEST_NAME})."
    )


def choose(target: Target, step: int | None) -> Chosen:
    """Return the checkpoint of a step; where none is given, the newest of the first store.

    Raises:
        UsageError: There is no such checkpoint.
    """
    if target.is_one:
        return _only(target.path, step)
    holders = [(name, store) for name, store in target.stores if store.steps()]
    if not holders:
        raise UsageError(f"{target.path} holds no checkpoint yet.")
    if step is not None:
        holders = [pair for pair in holders if step in pair[1].steps()] or holders[:1]
    name, store = holders[0]
    wanted = store.steps()[0] if step is None else step
    return Chosen(
        name=f"{name}/{store.path(wanted).name}", open=lambda: _open(store, wanted, target)
    )


def _only(path: Path, step: int | None) -> Chosen:
    if step is not None:
        raise UsageError(f"{path} is one checkpoint already; leave the step {step} out.")
    return Chosen(name=path.name, open=lambda: open_folder(path))


def _open(store: CheckpointStore, step: int, target: Target) -> CheckpointReader:
    try:
        return store.open(step)
    except NoCheckpointError as error:
        raise UsageError(f"{target.path}: {error}") from error
