"""Events and records as lines for a person; pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ...run_folder.metric_text import measured_in, metric_text, metrics_text
from ...run_folder.tables import plural, size_text
from ...terminal.printable import printable_values

Event = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RecordSentence:
    """A record of metrics.jsonl as a line."""

    text: str
    is_evaluation: bool


def record_sentence(record: Event) -> RecordSentence:
    """Return a record as a line."""
    record = printable_values(record)
    measured = measured_in(record)
    at = f"{_clock(record['time'])}  " if "time" in record else ""
    parts = [f"{at}step {record['step']}"]
    parts += [f"epoch {record['epoch']}"] if "epoch" in record else []
    formats = {"loss": "loss {:.4g}", "lr": "lr {:.3g}", "grad_norm": "grad {:.3g}"}
    formats["samples_per_s"] = "{:.4g} samples/s"
    parts += [text.format(record[name]) for name, text in formats.items() if name in record]
    parts += [metric_text(name, value) for name, value in measured.items()]
    return RecordSentence(text="  ".join(parts), is_evaluation=bool(measured))


def event_sentence(event: Event) -> str | None:
    """Return an event as a line; None for one that is not shown."""
    event = printable_values(event)
    write = _SENTENCES.get(event["event"])
    return None if write is None else f"{event['time'][11:19]}  {write(event)}"


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def _start(event: Event) -> str:
    verb = "resumes from" if event["resumed"] else "starts at"
    return (
        f"attempt {event['attempt']} {verb} step {event['step']}: {event['strategy']} on "
        f"{plural(event['world_size'], 'rank')} ({event['device']}), {event['precision']}"
    )


def _end(event: Event) -> str:
    if event["ending"] == "preempted":
        return f"preempted at step {event['step']}; the same command resumes the run"
    return f"finished at step {event['step']}: {event['ending']}, {event['reason']}"


def _test(event: Event) -> str:
    return metrics_text(measured_in(event))


def _attempt(event: Event) -> str:
    again = "; starting again" if event.get("restart") else ""
    error = event.get("error") or "no rank reported a reason"
    return f"the ranks ended with code {event['code']}: {error}{again}"


def _launched(event: Event) -> str:
    ranks = plural(event["ranks"], "rank")
    return f"attempt {event['attempt']}: {ranks} started; the script reports no steps"


_SENTENCES: Mapping[str, Callable[[Event], str]] = {
    "start": _start,
    "launched": _launched,
    "end": _end,
    "left": lambda e: f"preempted in {e['where']}; the same command repeats it",
    "already over": lambda e: f"had finished already: {e['ending']}, {e['reason']}",
    "test": _test,
    "attempt": lambda e: "the ranks have ended" if e["code"] == 0 else _attempt(e),
    "saved": lambda e: f"saved step {e['step']} ({size_text(e['size_bytes'])})",
    "best": lambda e: f"best so far: {e['monitor']} {e['value']:.5g} at step {e['step']}",
    "save failed": lambda e: f"the save at step {e['step']} failed: {e['reason']}",
    "checkpoint refused": lambda e: e["reason"],
    "not deleted": lambda e: e["reason"],
    "saved in the foreground": lambda e: e["reason"],
    "memory not locked": lambda e: e["reason"],
    "saves keep failing": lambda e: f"THE LAST {e['in_a_row']} SAVES HAVE ALL FAILED",
    "rate cut": lambda e: f"step {e['step']}: {e['reason']}",
    "rolled back": lambda e: (
        f"rolled back from step {e['from_step']} to step {e['step']} and skipped the data of "
        f"{plural(e['jumped_steps'], 'step')}: {e.get('reason', 'steps could not be applied')}"
    ),
    "empty step": lambda e: f"step {e['step']}: nothing counted on any rank, nothing was changed",
    "note": lambda e: e["sentence"],
    "weights": lambda e: f"the run begins with the weights in {e['path']}",
    "named weights": lambda e: (
        f"checkpoints name {plural(e['tensors'], 'frozen parameter')} in {', '.join(e['paths'])}"
    ),
    "strategy": lambda e: f"--strategy auto chose {e['chosen']}: {e['reason']}",
    "changed": lambda e: f"changed by the script: {e['what']}",
}
