"""What a checkpoint of a script's own loop keeps besides tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from checkpointing import JSON
from strategies import IMPORTED, ConfigError, EarlyStoppingState, Ending, Objects

from ..reporting.resume_report import ResumeReport, changed_conditions, set_again
from ..run_state import OWN_LOOP, RunState
from .data.known_samples import other_data_text
from .data.position import DataPosition, Place
from .kept_objects import schedule_text


def state_to_json(
    state: RunState, place: Place, data: DataPosition | None, world_size: int, ending: Ending | None
) -> dict[str, JSON]:
    """Return what a checkpoint keeps; the same names as of a run where they mean the same."""
    return {
        OWN_LOOP: {
            "world_size": world_size,
            "loader": None if data is None else data.name,
            "batch_size": None if data is None else data.batch_size,
            "samples": {} if data is None else data.samples,
        },
        "step": state.step,
        "data": {"epoch": place.epoch, "batches": place.batches, "samples": place.samples},
        "early_stopping": state.stopper.to_json(),
        "evaluation": state.evaluation,
        "stopped_because": state.stopped_because,
        **({"set_by_loop": dict(state.set_by_loop)} if state.set_by_loop else {}),
        **({"asked": dict(state.asked)} if state.asked else {}),
        "ending": ending.value if ending is not None and ending.is_final else None,
    }


def restored_state(saved: Mapping[str, Any], *, where: object) -> tuple[RunState, Place]:
    """Return where a run is that has such a checkpoint.

    Raises:
        ConfigError: it was made by `Run`, whose steps mean other samples.
    """
    if IMPORTED in saved:
        return RunState(), Place()
    if OWN_LOOP not in saved:
        raise ConfigError(
            f"the run in {where} was trained with run.prepare or run.fit, and this script has a "
            "loop of its own: its steps would mean other samples. Use another --run-dir; to begin "
            "with its weights, load its exported model."
        )
    stopper = EarlyStoppingState.from_json(saved["early_stopping"])
    state = RunState(
        step=saved["step"],
        stopper=stopper,
        evaluation=saved["evaluation"],
        stopped_because=saved["stopped_because"],
        set_by_loop=saved.get("set_by_loop", {}),
        asked=saved.get("asked", {}),
    )
    return state, Place(**saved["data"])


def moved_place(
    saved: Mapping[str, Any],
    place: Place,
    data: DataPosition | None,
    world_size: int,
    objects: Objects,
) -> tuple[Place, list[str], list[str], list[str]]:
    """Return the place as this start's ranks have it, and phrases.

    Those are what the script has changed, where the data resumes, and what is not promised.

    Raises:
        ConfigError: the loader cannot be put there.
    """
    own = saved.get(OWN_LOOP)
    if own is None:
        return place, [], [], []
    before: int = own["world_size"]
    schedule = schedule_text(objects, before, world_size)
    changed = [] if schedule is None else [schedule]
    if data is None:
        return place, changed, [], []
    if own["loader"] not in (None, data.name):
        changed.append(f"loader: {own['loader']} -> {data.name}")
    if (other := other_data_text(own.get("samples", {}), data.samples)) is not None:
        changed.append(other)
    then, now = _global_batch(own["batch_size"], before), _global_batch(data.batch_size, world_size)
    if then != now:
        changed.append(f"samples in a batch over all ranks: {then} -> {now}, so another curve")
    if before == world_size and own["batch_size"] in (None, data.batch_size):
        return place, changed, [], data.not_promised
    place, sentence = data.moved(place, before, world_size)
    random = "random numbers as they were (each rank's own are saved, for another number of ranks)"
    lost = [random] if before != world_size else []
    return place, changed, [f"data: {sentence}"], [*lost, *data.not_promised]


def _global_batch(batch_size: int | None, world_size: int) -> int | None:
    return None if batch_size is None else batch_size * world_size


def resume_report(
    saved: Mapping[str, Any],
    created_by: Mapping[str, Any],
    *,
    now: Mapping[str, JSON],
    objects: Sequence[str],
    changes: Sequence[str],
    not_promised: Sequence[str],
    same_ranks: bool,
) -> ResumeReport:
    """Compare a checkpoint with the start that resumes from it; pure.

    Args:
        saved: what the checkpoint keeps besides tensors.
        created_by: who wrote it.
        now: strategy and world_size of this start.
        objects: names of what the script gives besides model and optimizer.
        changes: what is different, as phrases.
        not_promised: what a resume cannot give here.
        same_ranks: on as many ranks as before.
    """
    held = saved.get("objects", {})
    data = saved["data"]
    return ResumeReport(
        restored=(
            "weights and buffers",
            f"{saved['optimizer']['name']}: its state, steps and hyper-parameters",
            f"position in the data (epoch {data['epoch']}, batch {data['batches']})",
            *(("random numbers of each rank",) if same_ranks else ()),
            *(name for name in objects if name in held),
            *set_again(saved),
        ),
        derived=(),
        changed=(
            *changed_conditions(created_by, now),
            *changes,
            *(f"{name}: new, as the script built it" for name in objects if name not in held),
        ),
        not_promised=tuple(not_promised),
    )
