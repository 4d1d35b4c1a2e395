"""One run in three pieces, on other ranks each time, compared with one that nobody disturbed."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from checkpointing import CheckpointReader, CheckpointStore

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "train_digits.py"
RUN = ROOT / "runs" / "demo"
REFERENCE = ROOT / "runs" / "demo-undisturbed"
LARGEST_DIFFERENCE = 1e-6
ATTEMPT_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One start of the same command."""

    strategy: str
    ranks: int
    interrupt_at: int | None = None
    """Send SIGTERM to the launcher once this step is logged; None: let it end."""
    options: tuple[str, ...] = ()


ATTEMPTS = (
    Attempt(strategy="ddp", ranks=2, interrupt_at=80),
    Attempt(strategy="fsdp", ranks=3, interrupt_at=130),
    Attempt(strategy="zero2", ranks=1),
)
ALONE = Attempt(strategy="single", ranks=1)


def main() -> int:
    """Run the demo and return its exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--exact", action="store_true", help="relaunch --exact: no difference")
    exact, began = parser.parse_args().exact, time.monotonic()
    for folder in (RUN, REFERENCE):
        shutil.rmtree(folder, ignore_errors=True)
    attempts: tuple[Attempt, ...] = (*ATTEMPTS, ALONE)
    if exact:
        attempts = tuple(replace(one, options=("--exact",)) for one in attempts)
    *interrupted, last, undisturbed = attempts
    for attempt in interrupted:
        expect(run(attempt), 75)
    # The last attempt and the undisturbed run need one core each.
    reference = start(undisturbed, REFERENCE, quiet=True)
    expect(run(last), 0)
    expect(reference.wait(timeout=ATTEMPT_TIMEOUT_S), 0)
    print_attempts()
    return print_verdict(time.monotonic() - began, at_most=0.0 if exact else LARGEST_DIFFERENCE)


def start(attempt: Attempt, folder: Path, *, quiet: bool = False) -> subprocess.Popen[bytes]:
    """Start the command for one attempt."""
    command = [str(Path(sys.executable).with_name("relaunch"))]
    command += ["--nproc-per-node", str(attempt.ranks), "--strategy", attempt.strategy]
    command += [*attempt.options, "--run-dir", str(folder), str(SCRIPT)]
    if not quiet:
        print(f"\n$ {' '.join(command)}", flush=True)
    # Two starts share the machine at the end; the network is far too small for more threads.
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else None, env=environ)


def run(attempt: Attempt) -> int:
    """Run one attempt, interrupt it where that is asked for, and return its exit code."""
    process = start(attempt, RUN)
    if attempt.interrupt_at is not None:
        wait_for_step(attempt.interrupt_at, process)
        print(f"$ kill -TERM {process.pid}", flush=True)
        process.send_signal(signal.SIGTERM)
    return process.wait(timeout=ATTEMPT_TIMEOUT_S)


def wait_for_step(step: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the run has logged `step`."""
    deadline = time.monotonic() + ATTEMPT_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if any(record["step"] >= step for record in records(RUN / "metrics.jsonl")):
            return
        time.sleep(0.05)
    raise SystemExit(f"demo: no sign of step {step} within {ATTEMPT_TIMEOUT_S} s")


def expect(code: int, wanted: int) -> None:
    """Stop the demo when a command left with another exit code."""
    if code != wanted:
        raise SystemExit(f"demo: the command left with {code}, and {wanted} was expected")


def print_attempts() -> None:
    """Print what happened, from the run folder's own record."""
    events = list(records(RUN / "events.jsonl"))
    starts = [e for e in events if e["event"] == "start"]
    ends = {e["attempt"]: e for e in events if e["event"] == "end"}
    print(f"\n{'attempt':>7}  {'strategy':<8}  {'ranks':>5}  {'steps':>9}  why it ended")
    for event in starts:
        end = ends[event["attempt"]]
        steps = f"{event['step']}-{end['step']}"
        why = f"{end['ending']}: {end['reason']}"
        print(
            f"{event['attempt']:>7}  {event['strategy']:<8}  {event['world_size']:>5}  "
            f"{steps:>9}  {why}"
        )


def print_verdict(seconds: float, *, at_most: float) -> int:
    """Compare with the undisturbed run; return 0 when the promise was kept."""
    with newest(RUN) as ours, newest(REFERENCE) as theirs:
        if ours.manifest.step != theirs.manifest.step:
            print(f"\nended at step {ours.manifest.step}, undisturbed at {theirs.manifest.step}")
            return 1
        difference = largest_difference(ours, theirs)
    test = next(e for e in records(RUN / "events.jsonl") if e["event"] == "test")
    kept = difference <= at_most
    shown = f"{difference:.2e}" if difference else "0"
    print(f"\nlargest difference of any final parameter to the undisturbed run: {shown}")
    print(f"test accuracy: {test['test/accuracy']:.2%}")
    print(f"model: {(RUN / 'export' / 'model.safetensors').relative_to(ROOT)}")
    print(f"run folder: {RUN.relative_to(ROOT)}   ({seconds:.0f} s)")
    if not kept:
        print(f"demo: more than {at_most:g}: the promise was not kept")
    return 0 if kept else 1


def newest(folder: Path) -> CheckpointReader:
    """Open the newest checkpoint of a run."""
    store = CheckpointStore(folder / "checkpoints")
    return store.open(store.steps()[0])


def largest_difference(ours: CheckpointReader, theirs: CheckpointReader) -> float:
    """Return the largest absolute difference of any trained parameter."""
    differences = []
    for spec in ours.manifest.specs():
        if spec.key == "fp32":
            a, b = (r.read(spec.fqn, spec.key, 0, spec.numel).double() for r in (ours, theirs))
            differences.append(float((a - b).abs().max()))
    return max(differences)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the complete lines of a JSONL file."""
    if path.exists():
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


if __name__ == "__main__":
    sys.exit(main())
