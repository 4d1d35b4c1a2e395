"""Runs that nobody disturbs: what the others are compared with, and what a step and a save take."""

import threading
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from launcher.commands.rehearse.processes import wait_until

from .processes import Started, started
from .seen import Seen
from .trials import Setting

BOUND_S = 600.0
"""How long a run may take, on a machine with much else to do."""
LEAST_GRACE_S = 2.0
SHARE_OF_WORK = 1.5
HALF_WAY = 5
COMPILE = "NOTICE_SOAK_COMPILE"
"""The variable that has the blocks compiled."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A run that nobody has disturbed."""

    run: Seen
    step_s: float
    """The longest step after the first one, with its evaluation."""
    save_s: float
    """The longest save."""

    def grace_s(self, more_s: float) -> float:
        """Return what `--grace` is when each step takes so much longer."""
        return max(LEAST_GRACE_S, SHARE_OF_WORK * (self.step_s + more_s + self.save_s))


class Undisturbed:
    """Makes each such run when it is first asked for.

    Args:
        folder: where their folders are made.
        alone: the one setting of which there is a run, for all others too: the numbers are the same
            under each. None: a run for each setting.
    """

    def __init__(self, folder: Path, alone: Setting | None = None) -> None:
        self._folder = folder
        self._alone = alone
        self._measured: dict[tuple[Setting, bool], Measured] = {}
        self._half: dict[str, Path] = {}
        self._lock = threading.Lock()

    def of(self, setting: Setting, *, compiles: bool = False) -> Measured:
        """Return the whole run under a setting.

        Args:
            setting: of the run.
            compiles: its blocks are compiled; then dropout has other random numbers.
        """
        setting = self._alone or setting
        with self._lock:
            if (setting, compiles) not in self._measured:
                folder = self._folder / f"whole-{len(self._measured)}"
                run = Seen(path=folder / "run")
                environ = {COMPILE: str(int(compiles))}
                with started(setting, folder, run.path, environ=environ) as launched:
                    _require(launched, 0)
                self._measured[setting, compiles] = _measured(run)
            return self._measured[setting, compiles]

    def half(self, strategy: str) -> Path:
        """Return the folder of a run that has left in the middle."""
        with self._lock:
            if strategy not in self._half:
                folder = self._folder / f"half-{strategy}"
                place = {"phase": "leave", "at": HALF_WAY}
                setting = Setting(strategy=strategy)
                with started(setting, folder, folder / "run", place=place) as launched:
                    _require(launched, 75)
                self._half[strategy] = folder / "run"
            return self._half[strategy]


def _require(launched: Started, code: int) -> None:
    wait_until(launched.has_ended, BOUND_S)
    if launched.process.poll() != code:
        raise RuntimeError(f"a run without a notice ended otherwise:\n{launched.told()}")


def _measured(run: Seen) -> Measured:
    times = [record["time"] for record in run.records("metrics.jsonl")]
    steps = [after - before for before, after in pairwise(times)]
    return Measured(
        run=run, step_s=max(steps), save_s=max(event["seconds"] for event in run.events("saved"))
    )
