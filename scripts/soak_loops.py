"""Interrupt a script's own loop at seeded moments, resume it, and compare with the undisturbed.

    scripts/soak_loops --ranks 2 --instants 20 train.py ARGUMENTS

The script runs as it is, without a launcher: each rank is forked from this process, which has
imported torch once, so that an attempt costs a second and not the import. A notice is SIGTERM to
one rank; the others learn of it from that one. Each run is interrupted four times, at moments drawn
from the seed: after so many steps, and a part of a second later. Its metrics.jsonl must then be
the undisturbed run's, bit for bit. Exit 1 where one is not.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib
import json
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch  # before the ranks are forked

from launcher.contract.environment import START_DIR
from launcher.contract.exit_codes import CONTINUE

IMPORTED_ONCE = (
    "torch._dynamo",  # by a rank's first optimizer otherwise
    "torch.distributed.fsdp",
    "launcher.training.own_loop.resumable",
)
NOTICES_A_RUN = 4
LONGEST_DELAY_S = 0.2
LIMIT_S = 900.0
FOLLOW_S = 20.0
"""How long the others of a rank that has failed may take to notice it."""


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What is run."""

    script: Path
    arguments: tuple[str, ...]
    ranks: int


@dataclass(frozen=True, kw_only=True)
class Instant:
    """When a notice comes, and to whom."""

    after_step: int
    delay_s: float
    rank: int


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def be_rank(loop: Loop, rank: int, port: int, folder: Path) -> None:
    """Become a rank of the script; never returns."""
    code = 1
    try:
        os.chdir(folder)
        output = os.open(f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": loop.ranks, "OMP_NUM_THREADS": 1}
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ[START_DIR] = str(folder)  # this process was begun elsewhere
        several = {"RANK": rank, "WORLD_SIZE": loop.ranks, **local, **meet}
        if loop.ranks > 1:
            os.environ.update({name: str(value) for name, value in several.items()})
        torch.set_num_threads(1)
        sys.argv = [str(loop.script), *loop.arguments]
        sys.path.insert(0, str(loop.script.parent))
        runpy.run_path(str(loop.script), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def steps_in(folder: Path) -> int:
    """Return the newest step that a run has recorded."""
    records = list(losses(folder))
    return max(records, default=0)


def losses(folder: Path) -> dict[int, str]:
    """Return the losses of a run by step, in all digits."""
    found: dict[int, str] = {}
    for path in folder.rglob("metrics.jsonl"):
        for line in path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a line that is being written
                record = json.loads(line)
                if "loss" in record:
                    found[int(record["step"])] = repr(record["loss"])
    return found


def attempt(loop: Loop, folder: Path, instant: Instant | None) -> tuple[list[int], bool]:
    """Run the script once; return the exit codes, and whether the notice was given."""
    port = free_port()
    ranks = [start_rank(loop, rank, port, folder) for rank in range(loop.ranks)]
    codes: dict[int, int] = {}
    end_s, given = time.monotonic() + LIMIT_S, instant is None
    # Not before the attempt has made a step: until the script handles signals, SIGTERM ends it.
    target = max(steps_in(folder) + 1, instant.after_step if instant else 0)
    while len(codes) < len(ranks):
        for pid in set(ranks) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended == pid:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid] not in (0, CONTINUE):
                    end_s = min(end_s, time.monotonic() + FOLLOW_S)
        living = set(ranks) - set(codes)
        if instant and not given and steps_in(folder) >= target:
            time.sleep(instant.delay_s)
            if ranks[instant.rank] in living:
                os.kill(ranks[instant.rank], signal.SIGTERM)
            given = True
        if time.monotonic() > end_s:
            for pid in living:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return [codes[pid] for pid in ranks], given and instant is not None


def start_rank(loop: Loop, rank: int, port: int, folder: Path) -> int:
    """Fork a rank; return its process."""
    pid = os.fork()
    if pid == 0:
        be_rank(loop, rank, port, folder)
    return pid


def instants(seed: int, last: int, ranks: int) -> Iterator[Instant]:
    """Yield the moments of one run, in order."""
    draws = random.Random(seed)
    for step in sorted(draws.sample(range(1, last - 1), NOTICES_A_RUN)):
        delay_s = draws.uniform(0, LONGEST_DELAY_S)
        yield Instant(after_step=step, delay_s=delay_s, rank=draws.randrange(ranks))


def interrupted(loop: Loop, folder: Path, moments: list[Instant]) -> list[str]:
    """Interrupt a run at these moments, and resume it each time; return what came of each."""
    seen = []
    for moment in moments:
        codes, _ = attempt(loop, folder, moment)
        where = f"after step {moment.after_step} + {moment.delay_s:.3f} s, rank {moment.rank}"
        seen.append(f"{where}: codes {codes}, {steps_in(folder)} steps recorded")
        if set(codes) != {CONTINUE}:
            return seen  # 0: it was done before
    codes, _ = attempt(loop, folder, None)
    seen.append(f"to the end: codes {codes}")
    return seen


def main() -> int:
    """Run the trials and print a line for each; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--instants", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--import", dest="modules", action="append", default=[])
    parser.add_argument("script", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    for module in (*IMPORTED_ONCE, *given.modules):
        importlib.import_module(module)
    loop = Loop(script=given.script.resolve(), arguments=tuple(given.arguments), ranks=given.ranks)
    root = Path(tempfile.mkdtemp(prefix="relaunch-loops-"))
    whole = root / "whole"
    whole.mkdir()
    codes, _ = attempt(loop, whole, None)
    undisturbed = losses(whole)
    print(f"undisturbed: codes {codes}, {len(undisturbed)} steps, in {root}", flush=True)
    if set(codes) != {0} or len(undisturbed) <= NOTICES_A_RUN:
        return 1
    handled = different = trial = 0
    while handled < given.instants:
        folder = root / f"trial-{trial}"
        folder.mkdir()
        moments = list(instants(given.seed + trial, max(undisturbed), loop.ranks))
        seen = interrupted(loop, folder, moments[: given.instants - handled])
        left = sum(f"codes [{CONTINUE}" in line for line in seen)
        handled, trial = handled + left, trial + 1
        is_same = losses(folder) == undisturbed
        different += not is_same
        verdict = "equal" if is_same else "DIFFERENT"
        print(f"trial {trial}: {left} notices, {verdict}", *seen, sep="\n    ", flush=True)
        if not is_same or left == 0:
            break
        shutil.rmtree(folder)
    print(f"{handled} of {given.instants} notices, {different} of {trial} runs different")
    return int(different > 0 or handled < given.instants)


if __name__ == "__main__":
    sys.exit(main())
