"""Keeps the attempts of one start: decides about a restart, and writes them down."""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from ...contract.exit_codes import USAGE
from ...contract.launcher_signals import SignalInbox
from ...contract.masking import ARGUMENTS, mask_description, secrets_in, secrets_of
from ...plan.assumed_folder import assumed_folder
from ...plan.launch_plan import LaunchPlan
from ...rendezvous.messages import NodeEnd, first_to_fail
from ...run_folder.attempt_number import number_in
from ...run_folder.jsonl import EVENTS, FOLDER, LAUNCHED, append_event
from .restart_policy import FailedAttempt, RestartDecision, verdict


class AttemptHistory:
    """Keeps the attempts so far, decides about a restart, and writes events.jsonl."""

    def __init__(self, plan: LaunchPlan, inbox: SignalInbox, say: Callable[[str], None]) -> None:
        self.say = say
        self._plan = plan
        self._inbox = inbox
        self._history: list[FailedAttempt] = []
        self._folder = assumed_folder(plan)
        self._is_known = plan.run.run_dir is not None
        """Whether the folder is more than assumed."""

    def began(self, *, attempt: int | None, ranks: int) -> None:
        """Record that an attempt has begun, where the script will not: it does not use `Run`.

        Called on one node. The run folder is made, if it is not there yet.

        Args:
            attempt: its number in the run folder; None: none was drawn.
            ranks: of all nodes.
        """
        if self._plan.uses_run or self._folder is None or attempt is None:
            return
        with suppress(OSError):  # the record is for later; the run is what counts
            self._folder.mkdir(parents=True, exist_ok=True)
            append_event(self._folder, LAUNCHED, attempt=attempt, ranks=ranks)

    def folder(self, ends: Mapping[int, NodeEnd]) -> Path | None:
        """Return where the run is kept, as far as its ranks have said; None: not known.

        Without --run-dir the batch step can only assume where that is: if it has begun its record
        there, the record learns where the run is.
        """
        found = next((end.run_dir for _, end in sorted(ends.items()) if end.run_dir), None)
        if self._plan.run.run_dir is None and found is not None:
            before, self._folder, self._is_known = self._folder, Path(found), True
            with suppress(OSError):
                elsewhere = before is not None and before.resolve() != self._folder
                if before is not None and elsewhere and (before / EVENTS).exists():
                    append_event(before, FOLDER, path=found)
        return self._folder

    def decide(self, ends: Mapping[int, NodeEnd], code: int) -> RestartDecision:
        """Return the verdict on an attempt from its ends on all nodes."""
        record = merged(ends, code)
        self._history.append(record)
        # What had failed before is started again, by the same command: the agent waits no longer.
        before = any(end.failed_before_notice for end in ends.values())
        warned = self._inbox.warned_by is not None and not before
        judged = verdict(self._history, max_restarts=self._plan.max_restarts, warned=warned)
        self.record(ends, code, judged, judged.reason)
        return judged

    def record(
        self, ends: Mapping[int, NodeEnd], code: int, judged: RestartDecision, reason: str
    ) -> None:
        """Write an attempt into events.jsonl."""
        record = merged(ends, code)
        folder = self.folder(ends)
        if folder is None or (record.code == USAGE and _is_of_another(folder)):
            return
        with suppress(OSError):  # the record is for later; the run is what counts
            # Where the folder is only assumed, none is made for a run that may be kept elsewhere.
            if self._is_known or (folder / EVENTS).exists():
                drawn = next((end.number for _, end in sorted(ends.items())), None)
                details = {
                    "attempt": number_in(folder) if drawn is None else drawn,
                    "ranks": sum(end.num_ranks for end in ends.values()),
                    "code": record.code,
                    "seconds": round(record.lived_s, 3),
                    "step": record.step,
                    "error": record.error,
                    "restart": judged.restart,
                    "reason": reason or None,
                }
                append_event(folder, "attempt", **mask_description(details, self._secrets()))

    def _secrets(self) -> tuple[str, ...]:
        """Return what must not be shown: an exception may quote a password in its text."""
        words = {ARGUMENTS: self._plan.program.args}
        return secrets_in(words, secrets_of(os.environ))


def _is_of_another(folder: Path) -> bool:
    """Return whether a run is at work in a folder, in which this start then has nothing to tell."""
    from ...run_folder.lock import is_held  # not for every start

    return is_held(folder)


def merged(ends: Mapping[int, NodeEnd], code: int) -> FailedAttempt:
    """Return the record of an attempt from its ends on all nodes; pure."""
    steps = [end.step for end in ends.values() if end.step is not None]
    errors = [end.error for end in ends.values() if end.error is not None]
    first = first_to_fail(ends)
    return FailedAttempt(
        code=code,
        lived_s=max(end.lived_s for end in ends.values()),
        gives_signs=any(end.gives_signs for end in ends.values()),
        step=max(steps, default=None),
        joined=any(end.joined for end in ends.values()),
        error=next(iter(errors), None) if first is None else ends[first].error,
    )
