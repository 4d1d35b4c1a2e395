"""How several nodes meet, lose one and take one in: relaunch beside torchrun's c10d rendezvous.

Two tables. In the first, three hosts (network namespaces) run the same ranks under each launcher,
and something happens to one of them. In the second, up to sixteen agents meet in one process,
without ranks. Needs root and the `ip` command for the first. The parts are in `nodes_bench/`.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from bench_table import load_average, machine, markdown_table
from nodes_bench.hosts import hosts
from nodes_bench.meeting import (
    our_meeting,
    requests_per_second,
    seconds_until_known,
    their_meeting,
)
from nodes_bench.scenarios import (
    LAST_CALL_S,
    LOOK_S,
    OURS,
    SCENARIOS,
    THEIRS,
    WATCH_S,
    Result,
    carry_out,
)

ROOT = Path(__file__).parents[1]
NUMBERS = (2, 4, 8, 16)
MEETING_TARGET, LOSS_TARGET_S = 0.5, 15.0
HOSTS, MEETING = "hosts", "meeting"


def outcome(results: list[Result]) -> str:
    """Return what a launcher made of it, as a cell."""
    times = [one.seconds for one in results if one.seconds is not None]
    repeated = statistics.median(one.repeated for one in results)
    if len(times) == len(results):
        return f"{statistics.median(times):.1f} s, {repeated:.0f} steps repeated"
    text = f"not within {WATCH_S:.0f} s in {len(results) - len(times)} of {len(results)}"
    ended = max(one.ended for one in results)
    return f"{text} ({ended} launchers had ended)" if ended else text


def measure_hosts(rounds: int, scratch: Path) -> str:
    """Return the table of what happens to hosts."""
    found: dict[tuple[str, str], list[Result]] = {}
    for number in range(rounds):
        for scenario in SCENARIOS:
            for launcher in (OURS, THEIRS):
                folder = scratch / f"{number}-{scenario.name.replace(' ', '-')}-{launcher}"
                with hosts() as three:
                    result = carry_out(scenario, launcher, three, folder, ROOT)
                found.setdefault((scenario.name, launcher), []).append(result)
                print(f"{scenario.name}, {launcher}: {result}", file=sys.stderr, flush=True)
    rows = [
        [f"{s.name} ({len(s.first)} nodes, then {s.then})"]
        + [outcome(found[s.name, launcher]) for launcher in (OURS, THEIRS)]
        for s in SCENARIOS
    ]
    return markdown_table(["what happens", OURS, THEIRS], rows)


def measure_meeting(rounds: int, scratch: Path) -> str:
    """Return the table of agents that meet, and whether the targets are reached."""
    rows, ratio, known, requests = [], 0.0, 0.0, {}
    for number in NUMBERS:
        ours, theirs, losses = [], [], []
        for _ in range(rounds):
            with our_meeting(number, scratch) as (meeting, seconds):
                ours.append(seconds)
                requests[number] = requests_per_second(meeting)
                losses.append(seconds_until_known(meeting))
            theirs.append(their_meeting(number))
        mine, other = statistics.median(ours), statistics.median(theirs)
        ratio, known = mine / other, max(losses)
        rows.append(
            [
                *(str(number), f"{mine:.2f}", f"{other:.2f}", f"{ratio:.2f}", f"{known:.1f}"),
                *(f"{requests[number]:.0f}", f"{requests[number] / number:.1f}"),
            ]
        )
    head = ["agents", "meet (s)", "c10d meets (s)", "ratio", "a loss is known to all (s)"]
    head += ["requests per second", "of one agent"]
    growth = requests[NUMBERS[-1]] / requests[NUMBERS[0]]
    most = NUMBERS[-1] / NUMBERS[0]
    targets = [
        [
            "meeting of 16, ratio",
            f"{MEETING_TARGET}",
            f"{ratio:.2f}",
            _word(ratio <= MEETING_TARGET),
        ],
        [
            "a loss among 16 (s)",
            f"{LOSS_TARGET_S:g}",
            f"{known:.1f}",
            _word(known <= LOSS_TARGET_S),
        ],
        ["requests, 16 against 2", f"{most:g} x", f"{growth:.1f} x", _word(growth <= most)],
    ]
    return "\n\n".join(
        (markdown_table(head, rows), markdown_table(["target", "at most", "found", ""], targets))
    )


def _word(reached: bool) -> str:
    return "reached" if reached else "missed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=(HOSTS, MEETING), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="keep the logs of the hosts")
    given = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="bench-nodes-"))
    print(f"{machine('torch')} {load_average()} Medians of {given.rounds} rounds.\n", flush=True)
    if HOSTS in (given.only or (HOSTS,)):
        print(measure_hosts(given.rounds, scratch))
        print(
            f"\nFrom what happened to the first step with the new number of nodes. Both with "
            f"`last_call_timeout={LAST_CALL_S}`, relaunch with `--rejoin-every {LOOK_S}`.\n"
        )
    if MEETING in (given.only or (MEETING,)):
        print(measure_meeting(given.rounds, scratch))
    print(f"\nAt the end: {load_average()}")
    if given.keep:
        print(f"The logs are in {scratch}.")
    else:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
