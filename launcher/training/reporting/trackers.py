"""Where else a run's records go: TensorBoard, and the trackers of Accelerate.

All of it is a copy: metrics.jsonl is the record. A failure here is reported once and ends
nothing. Each start of a run resumes the same run there, under one run id.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...run_folder.metric_text import WEIGHTS_DIGEST, is_table
from ..recipe.tracker_names import TENSORBOARD
from .tracker_resume import WAYS, flattened, remember, same_run

FOLDER = "tensorboard"
_NOT_LOGGED = frozenset({"step", "time", "attempt", "samples", WEIGHTS_DIGEST})


class Tracker(Protocol):
    """Accelerate's `GeneralTracker`, as far as it is used here."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Take what the run is made of."""

    def log(self, values: dict[str, Any], step: int | None) -> None:
        """Take what was measured."""

    def finish(self) -> None:
        """Close."""


class TensorBoard:
    """TensorBoard's files in the run folder, without Accelerate."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        # What an earlier start wrote of steps that are done again is not shown any more.
        purge = first_step + 1 if first_step else None
        module: Any = importlib.import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(folder / FOLDER), purge_step=purge)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Keep what the run is made of, as a text."""
        text = "\n".join(f"    {key}: {value}" for key, value in values.items())
        self._writer.add_text("run", text)

    def log(self, values: dict[str, Any], step: int | None) -> None:
        """Write scalars."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()


class Trackers:
    """Every tracker of a run. Made on the coordinator only."""

    def __init__(
        self,
        track: Sequence[Any] | None,
        folder: Path,
        *,
        first_step: int,
        description: Mapping[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        """Open them.

        Args:
            track: names or objects; None: TensorBoard where it is installed.
            folder: the run folder.
            first_step: optimizer steps completed at this start.
            description: what the run is made of.
            warn: called with what does not work.
        """
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        if track is None:
            track = [TENSORBOARD] if importlib.util.find_spec("tensorboard") else []
        for one in track:
            name = one if isinstance(one, str) else str(getattr(one, "name", type(one).__name__))

            def begin(one: Any = one, name: str = name) -> None:
                self._open[name] = _begin(one, folder, first_step, description)

            self._try(name, begin)
        atexit.register(self.finish)

    def log(self, record: Mapping[str, Any]) -> None:
        """Tell a record of metrics.jsonl."""
        values = {
            name if "/" in name else f"train/{name}": value
            for name, value in record.items()
            if name not in _NOT_LOGGED and not is_table(value)
        }
        step = int(record["step"])
        for name, tracker in tuple(self._open.items()):
            self._try(name, lambda tracker=tracker: tracker.log(values, step=step))  # type: ignore[misc]

    def finish(self) -> None:
        """Close them; a second time does nothing."""
        for name, tracker in tuple(self._open.items()):
            self._try(name, tracker.finish)
        self._open.clear()

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._open.pop(name, None)
            self._warn(
                f"{name} is no longer used: {type(error).__name__}: {error}. The run continues; "
                "metrics.jsonl has everything."
            )


def _begin(one: Any, folder: Path, first_step: int, description: Mapping[str, Any]) -> Tracker:
    """Start a tracker and tell it what the run is made of."""
    if one == TENSORBOARD:
        board = TensorBoard(folder, first_step=first_step)
        board.store_init_configuration(dict(description))
        return board
    made = _named(one, folder) if isinstance(one, str) else one
    # Accelerate opens nothing before this; an object that only looks like its trackers may do
    # without.
    if callable(start := getattr(made, "start", None)):
        start()
    is_known = isinstance(one, str) and remember(one, made, folder)
    if not (is_known and WAYS[one].keeps_configuration):
        made.store_init_configuration(flattened(description))
    found: Tracker = made
    return found


def _named(name: str, folder: Path) -> Any:
    from accelerate import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    # Its trackers ask this which rank they are on, and raise where it was never made. The process
    # groups are there already, so nothing is communicated.
    PartialState()
    by_name = {str(getattr(k, "value", k)): v for k, v in LOGGER_TYPE_TO_CLASS.items()}
    return by_name[name](folder.resolve().name, **same_run(name, folder))
