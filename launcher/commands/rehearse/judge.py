"""Whether a run came through a fault as it must, and where it parts from the undisturbed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .evidence import Distance, Evidence
from .kinds import FaultKind
from .one_fault import Outcome

TOLERANCE = 1e-6
"""The largest difference that another order of sums makes in float32."""
_HUNG = "did not end within --timeout; if it is only slow, pass a longer one, or fewer --steps"
_EXACT = ("epoch", "samples")
_NUMBERS = ("lr", "loss")


class Cause(Enum):
    """Why two runs usually part where they do."""

    DATA = (
        "the same step holds other samples: the data set has another order or content at each "
        "start (a set, files in another order, a seed from the clock), or it draws random numbers "
        "of its own. relaunch verify looks for it"
    )
    SCRIPT = (
        "the runs differ before the fault: the script does not repeat itself even undisturbed "
        "(random "
        "numbers of its own, nondeterministic kernels). relaunch verify looks for it"
    )
    STATE = (
        "the runs differ from the first step after the resume, with the same samples: something "
        "that the script keeps is not in the checkpoint (pass it as objects=), or is made again at "
        "each start"
    )
    LATER = (
        "the runs differ some steps after the resume, with the same samples: a counter or a rule "
        "of the script is reset at each start (patience, an average, a schedule of its own)"
    )
    END = "all losses are the same: what follows the last step differs"


@dataclass(frozen=True, kw_only=True)
class Parting:
    """The first step at which two runs differ."""

    step: int
    """Steps done, as in metrics.jsonl."""
    what: str
    """"samples", or the name in the records."""
    cause: Cause


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What came of a fault."""

    outcome: Outcome
    wrong: tuple[str, ...] = ()
    """A sentence for each thing that must not be."""
    parting: Parting | None = None
    distance: Distance | None = None

    @property
    def is_left_out(self) -> bool:
        """Whether the fault could show nothing."""
        return self.outcome.absent is not None


def judge(
    outcome: Outcome, undisturbed: Evidence, distance: Distance | None, *, uses_run: bool
) -> Verdict:
    """Judge one fault. Pure.

    Args:
        outcome: what was seen.
        undisturbed: the run with which it is compared.
        distance: of the final parameters; None: the run folder has no checkpoint.
        uses_run: whether there is more to judge than exit codes and processes.
    """
    kind = outcome.fault.kind
    if outcome.absent is not None:
        return Verdict(outcome=outcome, wrong=(*_orphans(outcome),))
    wrong = [*_codes(outcome, uses_run=uses_run), *_orphans(outcome)]
    parting = None
    if not uses_run and outcome.codes[-1:] == [0] and distance is not None:
        wrong += _distances(kind, distance)
    if uses_run and outcome.codes[-1:] == [0] and outcome.evidence is not None:
        wrong += _steps(outcome)
        parting = parting_of(outcome.evidence, undisturbed, outcome)
        wrong += _differences(kind, outcome.evidence, undisturbed, distance, parting)
    return Verdict(outcome=outcome, wrong=tuple(wrong), parting=parting, distance=distance)


def _codes(outcome: Outcome, *, uses_run: bool) -> list[str]:
    kind = outcome.fault.kind
    first, last = outcome.codes[0], outcome.codes[-1]
    allowed = kind.codes if uses_run else (*kind.codes, *_WITHOUT_RUN)
    expected = " or ".join(map(str, kind.codes))
    wrong = []
    if first is None:
        wrong.append(f"the command {_HUNG}")
    elif first not in allowed:
        wrong.append(f"exit code {first}, and {expected} was expected")
    for node, code in outcome.other_codes.items():
        if code is None:
            wrong.append(f"the command of node {node} {_HUNG}")
        elif code not in allowed:
            wrong.append(f"node {node} ended with {code}, and {expected} was expected")
    if len(outcome.codes) > 1 and last != 0:
        what = _HUNG if last is None else f"ended with {last}"
        wrong.append(f"given again, the command {what}")
    return wrong


_WITHOUT_RUN = (0, 1, *(128 + number for number in (1, 2, 9, 10, 12, 15)))
"""How a script without `Run` may end: at the first signal, and then relaunch with its number."""


def _orphans(outcome: Outcome) -> list[str]:
    return [f"{outcome.orphans} processes left behind"] if outcome.orphans else []


def _steps(outcome: Outcome) -> list[str]:
    """Return what is wrong with where the run was resumed."""
    if outcome.fault.kind.loses_nothing and outcome.lost:
        return [f"{outcome.lost} finished steps lost"]
    intact, at = outcome.intact, outcome.resumed_at
    if intact is not None and at is not None and at < intact:
        return [f"resumed at step {at}, and the checkpoint of step {intact} is intact"]
    return []


def _differences(
    kind: FaultKind,
    found: Evidence,
    undisturbed: Evidence,
    distance: Distance | None,
    parting: Parting | None,
) -> list[str]:
    wrong = []
    if found.steps != undisturbed.steps and not (
        kind.loses_record and is_one_less(found.steps, undisturbed.steps)
    ):
        wrong.append(records_text(found.steps, undisturbed.steps))
    if missing := undisturbed.batches.keys() - found.batches.keys():
        wrong.append(f"the samples of step {min(missing)[0]} were never seen")
    if extra := found.batches.keys() - undisturbed.batches.keys():
        wrong.append(f"step {min(extra)[0]} saw samples that it does not have undisturbed")
    if distance is not None:
        wrong += _distances(kind, distance)
    if parting is not None and parting.cause is not Cause.END:
        wrong.append(f"{parting.what} of step {parting.step} differs: {parting.cause.value}")
    return wrong


def _distances(kind: FaultKind, distance: Distance) -> list[str]:
    """Return what is wrong with the final checkpoint."""
    if distance.trouble is not None:
        return [distance.trouble]
    counts = counted(kind, distance)
    if counts.largest <= (0.0 if kind.is_exact else TOLERANCE):
        return []
    return [f"the final {counts.tensor} differs by {counts.largest:.3g} from the undisturbed run"]


def counted(kind: FaultKind, distance: Distance) -> Distance:
    """Return the distance that is judged: on other ranks without rounding noise. Pure."""
    return distance if kind.is_exact else distance.beyond_noise or distance


def is_one_less(found: Sequence[int], expected: Sequence[int]) -> bool:
    """Return whether one step is missing and no other thing is different. Pure."""
    missing = {*expected} - {*found}
    return len(missing) == 1 and list(found) == [step for step in expected if step not in missing]


def records_text(found: Sequence[int], expected: Sequence[int]) -> str:
    """Return in what the steps of metrics.jsonl differ. Pure."""
    twice = sorted({step for step in found if found.count(step) > 1})
    missing = sorted({*expected} - {*found})
    extra = sorted({*found} - {*expected})
    parts = [
        f"{what} {', '.join(map(str, steps[:5]))}{', ...' if len(steps) > 5 else ''}"
        for what, steps in (("twice", twice), ("without", missing), ("besides", extra))
        if steps
    ]
    return f"metrics.jsonl has steps {'; '.join(parts)}" if parts else "metrics.jsonl is unsorted"


def parting_of(found: Evidence, undisturbed: Evidence, outcome: Outcome) -> Parting | None:
    """Return the first step at which two runs differ, and why they may. Pure."""
    other = [
        place
        for place, digests in found.batches.items()
        if place in undisturbed.batches and digests != undisturbed.batches[place]
    ]
    sample_step = min(other)[0] + 1 if other else None
    mine = {record["step"]: record for record in found.records}
    theirs = {record["step"]: record for record in undisturbed.records}
    tolerance = 0.0 if outcome.fault.kind.is_exact else TOLERANCE
    for step in sorted(mine.keys() & theirs.keys()):
        name = _unlike(mine[step], theirs[step], tolerance)
        if sample_step is not None and sample_step <= step:
            return Parting(step=sample_step, what="the data", cause=Cause.DATA)
        if name is not None:
            return Parting(step=step, what=name, cause=_cause(step, outcome))
    return None


def _unlike(mine: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: float) -> str | None:
    for name in _EXACT:
        if mine.get(name) != theirs.get(name):
            return name
    evaluated = [name for name in theirs if "/" in name]
    for name in (*_NUMBERS, *evaluated):
        here, there = mine.get(name), theirs.get(name)
        if here == there:
            continue
        if not isinstance(here, int | float) or not isinstance(there, int | float):
            return name
        if not abs(here - there) <= tolerance * max(1.0, abs(there)):
            return name
    return None


def _cause(step: int, outcome: Outcome) -> Cause:
    resumed_at = outcome.resumed_at if outcome.resumed_at is not None else outcome.at_step
    if resumed_at is None or step <= resumed_at:
        return Cause.SCRIPT
    return Cause.STATE if step <= resumed_at + 1 else Cause.LATER
