"""`relaunch watch`: prints what is new in a run folder until the run ends."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...command_line.subcommand_parser import CommandParser
from ...errors import UsageError
from ...run_folder.attempt_number import last_number
from ...run_folder.history import Record, seconds_of
from ...run_folder.jsonl import ATTEMPT, ENDS, EVENTS, LAUNCHED, METRICS
from ...run_folder.lines.fields import is_metric, is_whole_event, skipped_text
from ...run_folder.lines.follow import Follower, is_newer_metric
from ...run_folder.metric_text import measured_in
from ...run_folder.progress_line import duration_text
from ...terminal.console import say
from .output import NewestLine
from .sentences import event_sentence, record_sentence

REFRESH_S = 1.0
QUIET_S = 60.0
"""After this long without a heartbeat or record, one line reports it."""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch watch`."""
    parser = CommandParser(
        prog="relaunch watch",
        description="Follow a run: its starts, saves, evaluations and its end. Ctrl-C does not "
        "affect the run.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument(
        "--every", type=float, default=REFRESH_S, metavar="S", help="update every S seconds"
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch watch` and return the exit code.

    Raises:
        UsageError: the words are wrong, or the folder is no run's.
        SystemExit: 0, after `--help` was printed.
    """
    given = build_parser().parse_args(argv)
    if not given.every >= 0.1:
        raise UsageError(f"--every {given.every:g} is too often; pass 0.1 or more seconds.")
    if not given.run.is_dir():
        raise UsageError(f"{given.run} is not a folder; pass a run folder, such as runs/train.")
    try:
        watch(given.run, every_s=given.every, show=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        say("left; the run continues.")
    except OSError as error:  # at the first look; later ones wait for the disk
        if error.filename is None:  # of the terminal, such as a reader that has gone
            raise
        say(f"error: {error.filename} cannot be read: {error.strerror}.")
        return 1
    return 0


def watch(folder: Path, *, every_s: float, show: Callable[[str], None]) -> None:
    """Show what is new until the run ends.

    It begins with what the newest attempt has done.

    Args:
        folder: the run folder, in which nothing need have happened yet.
        every_s: how often to look; so many lines of progress at most are shown.
        show: takes a line.
    """
    events = Follower(folder / EVENTS, is_whole_event)
    records = Follower(folder / METRICS, is_metric, is_newer_metric)
    past = events.latest(lambda event: event["event"] == "start")
    is_begun = bool(past) and past[0]["event"] == "start"
    output = NewestLine(folder)
    if is_begun:
        new_events = past
    else:
        new_events = from_newest_launch(past) if not is_launched_again(folder, past) else []
    attempt = past[0]["attempt"] if is_begun else None
    new_records = records.latest(
        lambda record: record.get("attempt") != attempt, lambda record: bool(measured_in(record))
    )
    new_records = [r for r in new_records if r.get("attempt") == attempt]
    quiet_s, num_told, has_told = 0.0, 0, is_begun
    while True:
        quiet_s = 0.0 if new_events or new_records else quiet_s + every_s
        for line in lines(new_events, new_records):
            show(line)
        has_told = has_told or any(event["event"] == "start" for event in new_events)
        if not has_told and (text := output.news()) is not None:
            quiet_s = 0.0
            show(text)
        if (num_skipped := events.skipped + records.skipped) > num_told:
            show(f"{skipped_text(str(folder), num_skipped)}.")
            num_told = num_skipped
        if any(is_end(event) for event in new_events):
            return
        if QUIET_S <= quiet_s < QUIET_S + every_s:
            show(f"no sign of the run for {duration_text(QUIET_S)}; still looking.")
        time.sleep(every_s)
        new_events, new_records = _news(events), _news(records)


def _news(follower: Follower) -> list[dict[str, Any]]:
    """Return what is new; nothing while the disk does not answer, which may pass."""
    try:
        return follower.news()
    except OSError:
        return []


def is_end(event: Record) -> bool:
    """Return whether nothing follows: a rank has said so, or the launcher, which starts no other.

    A script without `Run` says nothing itself.
    """
    return event["event"] in ENDS or (event["event"] == ATTEMPT and not event.get("restart"))


def from_newest_launch(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events since the newest start that the launcher recorded; all, without one."""
    begins = [number for number, event in enumerate(events) if event["event"] == LAUNCHED]
    return list(events[begins[-1] :] if begins else events)


def is_launched_again(folder: Path, events: Sequence[Record]) -> bool:
    """Return whether an attempt is under way of which only the logs are there yet."""
    begun = [path.name.removeprefix("attempt-") for path in folder.glob("logs/attempt-*")]
    newest = max((int(number) for number in begun if number.isdigit()), default=0)
    return newest > last_number(events, ("start", ATTEMPT, LAUNCHED))


def lines(events: Sequence[Record], records: Sequence[Record]) -> list[str]:
    """Return what is new as lines, in the order in which it happened; pure.

    What was measured is always printed; of the other records the newest will do.
    """
    timed: list[tuple[float, str | None]] = []
    for number, record in enumerate(records):
        sentence = record_sentence(record)
        if sentence.is_evaluation or number == len(records) - 1:
            timed.append((record.get("time", 0.0), sentence.text))
    timed += [(seconds_of(event), event_sentence(event)) for event in events]
    timed.sort(key=lambda pair: pair[0])
    return [text for _, text in timed if text is not None]
