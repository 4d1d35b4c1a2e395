"""What a long history in the run folder costs: CPU time and memory, each in a process of its own.

Every row is the difference to the same with a folder that has no records; the least of some rounds.
Another source tree, such as an earlier release, is measured beside this one.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from bench_table import load_average, machine, markdown_table

HERE = Path(__file__).resolve().parents[1]
LOST_STEPS = 10
LOOKS = 5
BEGAN_S = 1_800_000_000.0


def write_folder(folder: Path, num_records: int, num_attempts: int) -> None:
    """Write a run of so many attempts, each of which has lost its last steps."""
    folder.mkdir()
    (folder / "run.json").write_text("{}\n")
    each = num_records // num_attempts
    with (folder / "metrics.jsonl").open("w") as metrics:
        for step in range(1, num_records + 1):
            metrics.write(json.dumps(record(step, 1 + (step - 1) // max(1, each))) + "\n")
    with (folder / "events.jsonl").open("w") as events:
        for attempt in range(1, num_attempts + 1 if num_records else 1):
            for event in events_of_attempt(attempt, attempt * each):
                events.write(json.dumps(event) + "\n")


def record(step: int, attempt: int) -> dict[str, Any]:
    """Return a record as a run writes it."""
    return {
        "step": step,
        "epoch": step // 1000,
        "samples": step * 256,
        "attempt": attempt,
        "time": BEGAN_S + step,
        "lr": 0.00030000000000000003,
        "grad_norm": 1.2345678901234567,
        "samples_per_s": 1234.5678901234567,
        "loss": 2.3456789012345678,
    }


def events_of_attempt(attempt: int, step: int) -> list[dict[str, Any]]:
    """Return the events of one attempt."""
    at = {"time": "2030-01-01T00:00:00.000+00:00"}
    start = {"attempt": attempt, "step": step, "strategy": "fsdp", "world_size": 8}
    saved = {"size_bytes": 1 << 30, "seconds": 2.0, "stall_s": 0.1, "next_in_s": 60.0}
    where = {"precision": "bf16", "device": "cuda", "resumed": True, "lost_steps": 10}
    return [
        {**at, "event": "start", **start, **where, "start_s": 3.0, "lost_s": 4.0},
        *({**at, "event": "saved", "step": step + n, **saved} for n in range(5)),
        {**at, "event": "attempt", "attempt": attempt, "ranks": 8, "code": 75, "seconds": 60.0},
    ]


def begin(folder: Path) -> None:
    """Do with the records what the launcher and rank 0 do at a resume."""
    numbers = import_module("launcher.run_folder.attempt_number")
    run_folder = import_module("launcher.run_folder.folder").RunFolder(folder)
    with (folder / "metrics.jsonl").open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 4096))
        lines = file.read().splitlines()
        steps = json.loads(lines[-1])["step"] if lines else 0
    resumed_from = max(0, steps - LOST_STEPS)
    numbers.next_number(folder)
    if hasattr(run_folder, "recent_events"):
        run_folder.recent_events()
        numbers.next_number(folder)
        run_folder.forget_metrics_after(resumed_from)
        return
    for _ in range(3):
        run_folder.events()
    lost = import_module("launcher.run_folder.lost_work").lost_work
    lost(run_folder.metrics_records(), resumed_from)
    run_folder.forget_metrics_after(resumed_from)


def report(folder: Path) -> None:
    """Read a folder as `relaunch report` does."""
    if (folder / "events.jsonl").stat().st_size:
        import_module("launcher.run_folder.history").read_run(folder)


def look(folder: Path) -> None:
    """Look at a running trial five times, as `relaunch sweep` does in a second."""
    path = folder / "metrics.jsonl"
    try:
        follow = import_module("launcher.run_folder.lines.follow")
        fields = import_module("launcher.run_folder.lines.fields")
    except ModuleNotFoundError:
        records = import_module("launcher.run_folder.jsonl").records
        for _ in range(LOOKS):
            [r for r in records(path) if "val/loss" in r]
        return
    having = (b'"val/loss"',)
    follower = follow.Follower(path, fields.is_metric, follow.is_newer_metric, having=having)
    for _ in range(LOOKS):
        [r for r in follower.news() if "val/loss" in r]


def watch(folder: Path) -> None:
    """Take the first look of `relaunch watch`, and the next ten."""
    command = import_module("launcher.commands.watch.command")

    class Enough(Exception):
        pass

    looks = iter(range(10))

    def sleep(seconds: float) -> None:
        if next(looks, None) is None:
            raise Enough

    command.time.sleep = sleep
    try:
        command.watch(folder, every_s=1.0, show=lambda line: None)
    except Enough:
        return


ACTIONS: dict[str, Callable[[Path], None]] = {
    "start": begin,
    "watch, 11 looks": watch,
    "sweep, 5 looks": look,
    "report": report,
    "second report": report,
}
BEFORE: dict[str, str] = {"second report": "report"}
"""What is done first in the same folder, in another process that is not measured."""


def act(name: str, folder: Path) -> None:
    """Do one thing; print its CPU seconds and this process's peak memory in KiB."""
    for module in ("folder", "attempt_number", "history"):
        import_module(f"launcher.run_folder.{module}")
    import_module("launcher.commands.watch.command")
    began_s = time.process_time()
    ACTIONS[name](folder)
    seconds = time.process_time() - began_s
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


def measure(tree: Path, name: str, folder: Path, rounds: int) -> tuple[float, float]:
    """Return the least CPU seconds and MiB of some processes, each with a folder of its own."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            copy = Path(scratch) / "run"
            shutil.copytree(folder, copy)
            if name in BEFORE:
                in_process(tree, BEFORE[name], copy)
            found.append(in_process(tree, name, copy))
    return min(s for s, _ in found), min(kib for _, kib in found) / 1024


def in_process(tree: Path, name: str, folder: Path) -> tuple[float, float]:
    """Return the CPU seconds and KiB of one action in a new process."""
    done = subprocess.run(
        [sys.executable, __file__, "--act", name, str(folder)],
        env={"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=1200,
    )
    seconds, kib = json.loads(done.stdout)
    return seconds, kib


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--records", type=int, default=1_000_000, help="of metrics.jsonl")
    parser.add_argument("--attempts", type=int, default=1000, help="that the run has had")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=tuple(ACTIONS), default=tuple(ACTIONS))
    parser.add_argument("--against", type=Path, help="another source tree")
    parser.add_argument("--act", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.act is not None:
        act(given.act[0], Path(given.act[1]))
        return
    trees = {"this": HERE} | ({"other": given.against.resolve()} if given.against else {})
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folders = {"none": Path(scratch) / "none", "many": Path(scratch) / "many"}
        write_folder(folders["none"], 0, 1)
        write_folder(folders["many"], given.records, given.attempts)
        for name in given.only:
            row = [name]
            for tree in trees.values():
                none = measure(tree, name, folders["none"], given.rounds)
                many = measure(tree, name, folders["many"], given.rounds)
                row += [f"{many[0] - none[0]:.3f}", f"{many[1] - none[1]:.1f}"]
            rows.append(row)
            print(f"{name}: measured", file=sys.stderr, flush=True)
    head = [f"{unit} ({tree})" for tree in trees for unit in ("CPU s", "MiB")]
    print(f"{given.records} records, {given.attempts} attempts, least of {given.rounds} rounds.")
    print(f"{machine('torch')} {load_average()}\n")
    print(markdown_table([f"more than with none, by {given.records} records", *head], rows))


if __name__ == "__main__":
    main()
