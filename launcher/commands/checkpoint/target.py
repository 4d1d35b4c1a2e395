"""From the FOLDER of the command line to the checkpoints that are meant."""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from checkpointing import (
    MANIFEST_NAME,
    CheckpointReader,
    CheckpointStore,
    Files,
    NoCheckpointError,
    Place,
    PlaceError,
    is_checkpoint_name,
    is_url,
    open_folder,
    place_at,
)
from checkpointing.format.hugging_face_files import weight_files

from ...errors import UsageError
from ...run_folder.folder import checkpoints_elsewhere

_STORE_NAMES = ("checkpoints", "best")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One checkpoint, or the stores of one run."""

    path: PurePath
    """As it was given."""

    files: Files
    """How it is reached."""

    stores: tuple[tuple[str, CheckpointStore], ...] = ()
    """With a name for people: checkpoints, best, or the folder's own. Empty: one checkpoint."""

    weight_files: Sequence[Path] = ()
    """Where tensors that checkpoints name in files of others are looked for first."""

    run: Path | None = None
    """The run folder, where it is known: what a URL belongs to is not."""

    @property
    def is_one(self) -> bool:
        """Whether the folder is one checkpoint."""
        return not self.stores

    def open_only(self) -> CheckpointReader:
        """Open the one checkpoint.

        Raises:
            DamagedCheckpointError: Naming the file.
        """
        return open_folder(self.path, self.files, self.weight_files)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One checkpoint that is meant."""

    name: str
    """For messages: "checkpoints/step-00000100"."""
    open: Callable[[], CheckpointReader]


def add_weights(parser: ArgumentParser) -> None:
    """Add the option for checkpoints of runs with frozen="name"."""
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="PATH",
        help="the file or folder in which tensors lie now that a checkpoint names and does not "
        "hold; default: where they were when it was saved",
    )


def find_target(given: str | Path, weights: Path | None = None) -> Target:
    """Tell what kind of folder, or of place at a URL, was given.

    Args:
        given: The folder or URL.
        weights: As --weights.

    Raises:
        OSError: A store does not answer.
        UsageError: It is none of the three kinds, or there are no weights.
    """
    target = _find(given)
    if weights is None:
        return target
    files = _files_of(weights)
    for _, store in target.stores:
        store.weight_files = files
    return replace(target, weight_files=files)


def _files_of(weights: Path) -> Sequence[Path]:
    if weights.is_file():
        return (weights.absolute(),)
    names = [one.name for one in weights.iterdir()] if weights.is_dir() else []
    try:
        found = weight_files(names, lambda name: (weights / name).read_bytes())
    except ValueError as error:
        raise UsageError(f"--weights {weights}: {error}") from error
    if not found:
        raise UsageError(f"--weights {weights} is no safetensors file, and no folder with one.")
    return tuple(weights.absolute() / name for name in found)


def _find(given: str | Path) -> Target:
    place = _place(str(given))
    names = _names(place)
    if MANIFEST_NAME in names:
        return Target(path=place.folder, files=place.files)
    run, root = _run_of(place), place
    if run is not None and (elsewhere := checkpoints_elsewhere(run)) is not None:
        root = _place(elsewhere)
        names = _names(root)
    stores = tuple(
        (name, CheckpointStore(root.folder / name, root.files))
        for name in _STORE_NAMES
        if name in names
    )
    if stores:
        return Target(path=place.folder, files=root.files, stores=stores, run=run)
    name = place.folder.name
    if name in _STORE_NAMES or any(is_checkpoint_name(one) for one in names):
        run = None if is_url(str(given)) else Path(place.folder).absolute().parent
        store = CheckpointStore(place.folder, place.files)
        return Target(path=place.folder, files=place.files, stores=((name, store),), run=run)
    if is_checkpoint_name(name):
        # Named as a checkpoint, but its manifest is gone: damage, and not a mistake of usage.
        return Target(path=place.folder, files=place.files)
    raise UsageError(
        f"{place.folder} is no run folder (it has no checkpoints/ and no best/), holds no step-... "
        f"folder, and is no checkpoint (it has no {MANIFEST_NAME})."
    )


def _place(text: str) -> Place:
    try:
        return place_at(text)
    except PlaceError as error:
        raise UsageError(str(error)) from error


def _run_of(place: Place) -> Path | None:
    return None if is_url(str(place.folder)) else Path(place.folder)


def _names(place: Place) -> list[str]:
    try:
        return place.files.listdir(place.folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(
            f"{place.folder} is not a folder. Pass a run folder, or one of checkpoints."
        ) from error


def choose(target: Target, step: int | None) -> Chosen:
    """Return the checkpoint of a step; where none is given, the newest of the first store.

    Raises:
        UsageError: There is no such checkpoint.
    """
    if target.is_one:
        return _only(target, step)
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


def _only(target: Target, step: int | None) -> Chosen:
    if step is not None:
        raise UsageError(f"{target.path} is one checkpoint already; leave the step {step} out.")
    return Chosen(name=target.path.name, open=target.open_only)


def _open(store: CheckpointStore, step: int, target: Target) -> CheckpointReader:
    try:
        return store.open(step)
    except NoCheckpointError as error:
        raise UsageError(f"{target.path}: {error}") from error
