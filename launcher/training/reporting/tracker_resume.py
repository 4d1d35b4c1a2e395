"""How each tracker of Accelerate resumes the run that an earlier start began there."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...run_folder.lines.fields import parse
from ...run_folder.plain_files import replace_text

RUN_ID = "run_id"
"""A file of the run folder: the id that we choose, the same at every start."""
ASSIGNED = "tracker_ids.json"
"""Another: the ids that trackers have chosen themselves, by the tracker's name."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """What one tracker needs."""

    arguments: Callable[[str, str | None, Path], dict[str, Any]]
    """(our id, the id that it has chosen at an earlier start, run folder) -> what it is built
    with."""
    chosen_id: Callable[[Any], str] | None = None
    """Returns the id that a started tracker has chosen; None: it takes ours."""
    keeps_configuration: bool = False
    """It refuses a value that is another at a later start, such as the number of ranks."""


ANY = Way(arguments=lambda ours, theirs, folder: {})
WAYS: Mapping[str, Way] = {
    "wandb": Way(
        arguments=lambda ours, theirs, folder: {"id": ours, "resume": "allow", "dir": str(folder)}
    ),
    "swanlab": Way(
        arguments=lambda ours, theirs, folder: {
            "id": ours,
            "resume": "allow",
            "logdir": str(folder / "swanlab"),
        }
    ),
    "trackio": Way(arguments=lambda ours, theirs, folder: {"name": ours, "resume": "allow"}),
    # Its keys have 32 characters or more.
    "comet_ml": Way(arguments=lambda ours, theirs, folder: {"experiment_key": ours * 2}),
    "aim": Way(
        arguments=lambda ours, theirs, folder: {"run_hash": theirs, "logging_dir": str(folder)},
        chosen_id=lambda tracker: str(tracker.tracker.hash),
    ),
    "mlflow": Way(
        arguments=lambda ours, theirs, folder: {"run_name": ours, "run_id": theirs},
        chosen_id=lambda tracker: str(tracker.tracker.info.run_id),
        keeps_configuration=True,
    ),
    "clearml": Way(
        arguments=lambda ours, theirs, folder: {"continue_last_task": theirs or False},
        chosen_id=lambda tracker: str(tracker.tracker.id),
    ),
    "dvclive": Way(
        arguments=lambda ours, theirs, folder: {"dir": str(folder / "dvclive"), "resume": True}
    ),
}


def same_run(name: str, folder: Path) -> dict[str, Any]:
    """Return the arguments with which a tracker resumes this run's."""
    way = WAYS.get(name, ANY)
    return way.arguments(run_id(folder), _assigned(folder).get(name), folder)


def remember(name: str, tracker: Any, folder: Path) -> bool:
    """Keep the id that a started tracker has chosen; return whether it is an earlier start's."""
    chosen_id = WAYS.get(name, ANY).chosen_id
    if chosen_id is None:
        return False
    known = _assigned(folder)
    found = chosen_id(tracker)
    if known.get(name) == found:
        return True
    replace_text(folder / ASSIGNED, json.dumps({**known, name: found}) + "\n")
    return False


def run_id(folder: Path) -> str:
    """Return the id under which every start of this run is known; made at the first."""
    path = folder / RUN_ID
    if not path.exists():
        replace_text(path, uuid.uuid4().hex[:16])
    return path.read_text(encoding="utf-8").strip()


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a description as trackers want it: text, numbers and truth values by name; pure."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{key}/")
        elif isinstance(value, bool | int | float | str):
            flat[key] = value
        elif value is not None:
            flat[key] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _assigned(folder: Path) -> dict[str, str]:
    try:
        found = parse((folder / ASSIGNED).read_bytes())
    except FileNotFoundError:
        return {}
    return {} if found is None else found
