"""Schedulers and other things with state_dict(), as objects of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from strategies import ConfigError, Objects, Stateful
from strategies.data.streams.state_text import from_text, to_text


class ByStateDict:
    """Something with state_dict() and load_state_dict(), as a `Stateful`."""

    def __init__(self, one: Any, where: str) -> None:
        self._one = one
        self._where = where

    @property
    def is_stepped_by_ranks(self) -> bool:
        """Whether it is a schedule that accelerate steps once for each rank in a step."""
        one: Any = self._one
        is_theirs = type(one).__name__ == "AcceleratedScheduler"
        return is_theirs and one.step_with_optimizer and not one.split_batches

    def state(self) -> Any:
        """Return its state as JSON."""
        return to_text(self._one.state_dict(), f"{self._where}.state_dict()")

    def restore(self, state: Any) -> None:
        """Put back what `state` returned."""
        self._one.load_state_dict(from_text(state))


def kept_objects(schedulers: Sequence[Any], objects: Mapping[str, Any]) -> Objects:
    """Return what is saved beside the model and the optimizer, by name.

    Args:
        schedulers: with state_dict() and load_state_dict().
        objects: the script's own, with these or with state() and restore().

    Raises:
        ConfigError: one has no state, or one that no checkpoint can hold.
    """
    found: dict[str, Stateful] = {}
    for number, one in enumerate(schedulers):
        name = f"scheduler {number}"
        found[name] = _kept(one, f"schedulers[{number}], a {type(one).__name__},")
    for name, one in objects.items():
        is_ours = isinstance(one, Stateful)
        found[name] = one if is_ours else _kept(one, f'objects["{name}"]')
    for one in found.values():
        if isinstance(one, ByStateDict):
            one.state()
    return found


def schedule_text(objects: Objects, before: int, now: int) -> str | None:
    """Return what another number of ranks makes of the schedules; None: nothing. Pure."""
    held = (getattr(one, "is_stepped_by_ranks", False) for one in objects.values())
    if before == now or not any(held):
        return None
    return (
        f"accelerate steps a schedule once for each rank: {before} times in a step before, {now} "
        "now, so the learning rate follows another curve. Do not pass the scheduler to "
        "accelerator.prepare, and step it only if accelerator.sync_gradients."
    )


def _kept(one: Any, where: str) -> ByStateDict:
    methods = ("state_dict", "load_state_dict")
    missing = [name for name in methods if not callable(getattr(one, name, None))]
    if missing:
        raise ConfigError(
            f"{where} has no {' and no '.join(f'{name}()' for name in missing)}, so a run could "
            "not resume with it where it was. Give it both methods, or pass a scheduler of "
            "torch.optim.lr_scheduler."
        )
    return ByStateDict(one, where.rstrip(","))
