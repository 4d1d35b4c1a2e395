"""What preemptions waste: relaunch beside Hugging Face's Trainer and Lightning, interleaved.

In the units of a benchmark that Ray Train has published for its just-in-time checkpoint: 1,600
optimizer steps, a checkpoint every 400, 4 preemptions. Every library trains the same small network
on two ranks, and is preempted when it first gets to the same steps, which a seed chooses. Attempts
are interleaved: all trainings make their first start, then all their second, and so on. The parts
are in `preemption_bench/`.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench_table import load_average, machine
from preemption_bench.peers import binary_of, versions_of
from preemption_bench.processes import BenchError
from preemption_bench.results import Found, Taken, found_in, table, targets
from preemption_bench.task import EPOCHS
from preemption_bench.variants import Training, Variant, variants

FAMILIES = {
    "relaunch": ("torch",),
    "Trainer": ("transformers", "accelerate"),
    "Lightning": ("lightning",),
}
"""With the packages whose versions are told."""


def one_round(
    chosen: Sequence[Variant], binaries: dict[str, Path], folder: Path, given: argparse.Namespace
) -> tuple[dict[Variant, Found], dict[Variant, str]]:
    """Train every variant once, a start of each in turn; return what was found, what failed."""
    folder.mkdir()
    trainings = {
        variant: Training(
            variant=variant,
            binary=binaries[variant.family],
            folder=folder / str(number),
            steps=given.steps,
            width=given.width,
            preempt_at=given.preempt_at,
        )
        for number, variant in enumerate(chosen)
    }
    failed: dict[Variant, str] = {}
    going = {variant: training.go_on() for variant, training in trainings.items()}
    while going:
        for variant, attempts in list(going.items()):
            try:
                attempt = next(attempts)
                print(f"{variant.name}: {attempt}", file=sys.stderr)
            except StopIteration:
                del going[variant]
            except BenchError as error:
                print(f"{variant.name}: {error}", file=sys.stderr)
                failed[variant] = str(error).partition("\n")[0]
                del going[variant]
    undisturbed = {v.family: trainings[v] for v in chosen if v.how is None and v not in failed}
    ended = {variant: t for variant, t in trainings.items() if variant not in failed}
    return {
        variant: found_in(training, undisturbed.get(variant.family) if variant.how else None)
        for variant, training in ended.items()
    }, failed


def measure(given: argparse.Namespace, scratch: Path) -> tuple[str, bool]:
    """Return what is to be printed, and whether everything of relaunch came to its end."""
    binaries: dict[str, Path] = {}
    notes = []
    for family in given.only:
        try:
            binaries[family] = binary_of(family, scratch)
        except BenchError as error:
            notes.append(f"{family} was not measured: {error}")
    chosen = [
        v
        for v in variants(given.every)
        if v.family in binaries and not (given.no_kills and v.how == "kill")
    ]
    taken: Taken = {variant: [] for variant in chosen}
    failed: dict[Variant, str] = {}
    before = load_average()
    for number in range(given.rounds):
        found, without_end = one_round(chosen, binaries, scratch / f"round-{number}", given)
        failed.update(without_end)
        for variant, one in found.items():
            taken[variant].append(one)
    taken = {variant: rounds for variant, rounds in taken.items() if rounds}
    libraries = "; ".join(versions_of(path, *FAMILIES[name]) for name, path in binaries.items())
    steps = ", ".join(map(str, given.preempt_at))
    floor = sum(step % given.every for step in given.preempt_at)
    again = f" Medians of {given.rounds} rounds." if given.rounds > 1 else ""
    head = (
        f"{machine()} {libraries}. {before} At the end: {load_average()} 2 ranks of one thread, "
        f"{given.steps} steps{_step_length(taken, given.steps)}, preempted at steps {steps} "
        f"(seed {given.seed}): starting again from the last {given.every}th step wastes "
        f"{floor}.{again}"
    )
    asked = targets(taken, steps=given.steps, preemptions=len(given.preempt_at))
    parts = [head, table(taken, failed), asked, *notes]
    ours_failed = any(variant.family == "relaunch" for variant in failed)
    return "\n\n".join(part for part in parts if part) + "\n", not ours_failed


def _step_length(taken: Taken, steps: int) -> str:
    """Say how long an undisturbed step of relaunch takes; nothing where that was not measured."""
    found = [
        one.training_s
        for variant, rounds in taken.items()
        for one in rounds
        if variant.family == "relaunch" and variant.how is None
    ]
    return f" of {1000 * statistics.median(found) / steps:.0f} ms" if found else ""


def options() -> argparse.Namespace:
    """Read the command line, and draw the steps."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument(
        "--every", type=int, default=400, help="steps from checkpoint to checkpoint"
    )
    parser.add_argument("--preemptions", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0, help="of the steps of the preemptions")
    parser.add_argument(
        "--width", type=int, default=256, help="of the network's inputs: a wider step is longer"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--no-kills", action="store_true", help="leave out what is killed")
    parser.add_argument("--quick", action="store_true", help="160 steps, 2 preemptions")
    parser.add_argument("--save", type=Path, help="also write the table to this file")
    given = parser.parse_args()
    if given.quick:
        given.steps, given.every, given.preemptions = 160, 40, 2
    if given.steps % EPOCHS or not 0 < given.preemptions < given.steps:
        parser.error(f"--steps is to be a multiple of {EPOCHS}, above --preemptions")
    draw = random.Random(given.seed)
    given.preempt_at = sorted(draw.sample(range(1, given.steps), given.preemptions))
    return given


def main() -> int:
    given = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what runs is ended
    # An installed package is compiled once; without bytecode each start would compile it anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="bench-preemption-") as scratch:
        result, ours_ended = measure(given, Path(scratch))
    print(result)
    if given.save is not None:
        given.save.write_text(result)
    return 0 if ours_ended else 1


if __name__ == "__main__":
    sys.exit(main())
