"""Notices at any moment of a run's life, to the launcher, to one rank and to every process.

Each trial starts a small run with two ranks, sends it signals in one phase of its life, and starts
the same command again. It must have left with 75 (or 0, where it had ended) within its grace, with
no process left and no finished step lost, and end as a run that nobody disturbed. What is tried is
a function of the seed and the trial's number: `--trial N` does one again. The parts are in
`notice_soak/`.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from bench_table import load_average, machine
from notice_soak.one_trial import Verdict, run_trial
from notice_soak.processes import kill_all
from notice_soak.table import result_table
from notice_soak.trials import PHASES, Trial, trial, trials
from notice_soak.undisturbed import Undisturbed


def soak(chosen: list[Trial], folder: Path, jobs: int) -> Iterator[Verdict]:
    """Carry the trials out, so many at a time; yield what came of each as it ends."""
    undisturbed = Undisturbed(folder)
    with ThreadPoolExecutor(jobs) as pool:
        running = [
            pool.submit(run_trial, one, folder / f"trial-{one.number}", undisturbed)
            for one in chosen
        ]
        try:
            for done in as_completed(running):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            kill_all()
            raise


def tell(verdict: Verdict, folder: Path) -> None:
    """Say what came of a trial; keep the folder of one that went wrong."""
    left = verdict.left
    print(f"{verdict.trial.describe()}: {left.code} after {left.seconds:.1f} s", flush=True)
    for sentence in verdict.wrong:
        print(f"    WRONG: {sentence}", flush=True)
    if not verdict.wrong:
        shutil.rmtree(folder / f"trial-{verdict.trial.number}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first trial")
    parser.add_argument("--phases", default=",".join(PHASES), help="of them, with commas")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--trial", type=int, help="only the one of this number")
    arguments = parser.parse_args()
    phases = tuple(arguments.phases.split(","))
    if unknown := set(phases) - set(PHASES):
        parser.error(f"unknown phases {sorted(unknown)}; choose from {', '.join(PHASES)}.")
    chosen = trials(arguments.seed, arguments.trials, phases, arguments.first)
    if arguments.trial is not None:
        chosen = [trial(arguments.seed, arguments.trial)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="notice-"))
    verdicts: list[Verdict] = []
    try:
        for verdict in soak(chosen, folder, arguments.jobs):
            verdicts.append(verdict)
            tell(verdict, folder)
    finally:  # also of trials that are broken off
        verdicts.sort(key=lambda verdict: verdict.trial.number)
        print(f"\nseed {arguments.seed}. {machine('torch')} {load_average()}\n")
        print(result_table(verdicts))
    if wrong := [str(v.trial.number) for v in verdicts if v.wrong]:
        print(f"\nwrong: trials {', '.join(wrong)}; what they left is in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
