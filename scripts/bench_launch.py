"""What a launcher costs: relaunch beside torchrun and accelerate launch, in interleaved rounds.

Every round takes each measure once from each launcher, so that whatever else the machine does hits
all of them; the table has the medians. Times end at the last rank's line: a run has begun when all
of its ranks have.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_table import machine, markdown_table

TIMEOUT_S = 120.0
BIN = Path(sys.executable).parent

STARTS = """
import os, time
import torch
attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
name = f"first-{os.environ['RANK']}-{attempt}"
open(name + ".part", "w").write(f"{time.time()} {os.getpid()}")
os.rename(name + ".part", name)
"""
# The ranks meet first: what fails before that would fail again, and is not restarted.
FAILS_ONCE = """
import signal
if attempt == "0":
    torch.distributed.init_process_group("gloo")
    if os.environ["RANK"] == "0":
        time.sleep(60)
    while not os.path.exists("first-0-0"):
        time.sleep(0.01)
    open("died", "w").write(str(time.time()))
    os.kill(os.getpid(), signal.SIGKILL)
"""
STAYS = "time.sleep(60)\n"


@dataclass(frozen=True, kw_only=True)
class Launcher:
    name: str
    command: tuple[str, ...]
    """With {n} where the number of ranks is to stand."""
    restarts: str
    """The option that allows one restart."""

    def start(self, num_ranks: int, *options: str) -> list[str]:
        return [word.format(n=num_ranks) for word in self.command] + list(options)


LAUNCHERS = (
    Launcher(
        name="relaunch",
        command=(str(BIN / "relaunch"), "--nproc-per-node={n}"),
        restarts="--max-restarts=1",
    ),
    Launcher(
        name="relaunch --cold",
        command=(str(BIN / "relaunch"), "--cold", "--nproc-per-node={n}"),
        restarts="--max-restarts=1",
    ),
    Launcher(
        name="torchrun",
        command=(str(BIN / "torchrun"), "--nproc-per-node={n}"),
        restarts="--max-restarts=1",
    ),
    Launcher(
        name="accelerate launch",
        command=(
            *(str(BIN / "accelerate"), "launch", "--multi_gpu", "--num_processes={n}"),
            *("--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"),
        ),
        restarts="--max_restarts=1",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Measure:
    title: str
    take: Callable[[Launcher, Path], float]
    unit: str
    target: float
    """The largest share of torchrun's value; for seconds of --help the largest value."""
    absolute: bool = False


def start_s(num_ranks: int) -> Callable[[Launcher, Path], float]:
    def take(launcher: Launcher, folder: Path) -> float:
        script = write_script(folder, STARTS)
        began = time.time()
        run(launcher.start(num_ranks, script), folder)
        return last_first_line(folder, num_ranks, attempt=0) - began

    return take


def restart_s(launcher: Launcher, folder: Path) -> float:
    script = write_script(folder, STARTS + FAILS_ONCE)
    run(launcher.start(2, launcher.restarts, script), folder)
    return last_first_line(folder, 2, attempt=1) - float((folder / "died").read_text())


def memory_mib(whole_tree: bool) -> Callable[[Launcher, Path], float]:
    def take(launcher: Launcher, folder: Path) -> float:
        script = write_script(folder, STARTS + STAYS)
        process = subprocess.Popen(
            launcher.start(8, script),
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for([folder / f"first-{rank}-0" for rank in range(8)])
            time.sleep(0.5)
            ranks = [int(first_line(folder, rank, 0)[1]) for rank in range(8)]
            pids = tree(process.pid) if whole_tree else ranks
            return sum(pss_kib(pid) for pid in pids) / 1024
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=TIMEOUT_S)

    return take


def help_s(launcher: Launcher, folder: Path) -> float:
    command = [word for word in launcher.command if not word.startswith("--")]
    began = time.time()
    run([*command, "--help"], folder)
    return time.time() - began


MEASURES = (
    Measure(title="command to first line, 2 ranks", take=start_s(2), unit="s", target=0.5),
    Measure(title="command to first line, 8 ranks", take=start_s(8), unit="s", target=0.25),
    Measure(title="death of a rank to first line, 2 ranks", take=restart_s, unit="s", target=0.1),
    Measure(title="memory of 8 idle ranks", take=memory_mib(False), unit="MiB", target=0.5),
    Measure(title="the same with the launcher", take=memory_mib(True), unit="MiB", target=0.5),
    Measure(title="--help", take=help_s, unit="s", target=0.3, absolute=True),
)


def write_script(folder: Path, source: str) -> str:
    (folder / "train.py").write_text(textwrap.dedent(source))
    return "train.py"


def run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


def first_line(folder: Path, rank: int, attempt: int) -> list[str]:
    return (folder / f"first-{rank}-{attempt}").read_text().split()


def last_first_line(folder: Path, num_ranks: int, attempt: int) -> float:
    return max(float(first_line(folder, rank, attempt)[0]) for rank in range(num_ranks))


def wait_for(paths: Sequence[Path]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not all(path.exists() for path in paths):
        if time.monotonic() > end:
            raise SystemExit(f"waited {TIMEOUT_S:g} s for {', '.join(map(str, paths))}")
        time.sleep(0.05)


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(p for child in children for p in tree(int(child)))]


def pss_kib(pid: int) -> int:
    """Return a process's memory, each shared page divided by the number of those that share it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


Taken = Mapping[tuple[str, str], Sequence[float]]
"""Measure and launcher to the values of all rounds."""


def table(taken: Taken, rounds: int) -> str:
    """Return the medians as one markdown table, under a line that names the machine."""
    names = [launcher.name for launcher in LAUNCHERS]
    head = ["", *names, "relaunch / torchrun", "target"]
    rows = []
    for measure in MEASURES:
        medians = {name: statistics.median(taken[measure.title, name]) for name in names}
        ratio = medians["relaunch"] / medians["torchrun"]
        reached = (medians["relaunch"] if measure.absolute else ratio) <= measure.target
        target = f"< {measure.target:g} s" if measure.absolute else f"{measure.target:g}"
        shown = (f"{medians[name]:{'.0f' if measure.unit == 'MiB' else '.2f'}}" for name in names)
        rows.append(
            [
                f"{measure.title} ({measure.unit})",
                *shown,
                f"{ratio:.2f}",
                f"{target} {'reached' if reached else 'missed'}",
            ]
        )
    taken_on = f"{machine('torch', 'accelerate')} Medians of {rounds} interleaved rounds."
    return f"{taken_on}\n\n{markdown_table(head, rows)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    # An installed package is compiled once; without bytecode each start would compile it anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    taken: dict[tuple[str, str], list[float]] = {}
    for number in range(given.rounds):
        for measure in MEASURES:
            for launcher in LAUNCHERS:
                with tempfile.TemporaryDirectory(prefix="bench-launch-") as folder:
                    value = measure.take(launcher, Path(folder))
                taken.setdefault((measure.title, launcher.name), []).append(value)
                print(
                    f"round {number + 1}: {measure.title}, {launcher.name}: {value:.2f} "
                    f"{measure.unit}",
                    file=sys.stderr,
                )
    result = table(taken, given.rounds)
    print(result)
    if given.save is not None:
        given.save.write_text(result)


if __name__ == "__main__":
    main()
