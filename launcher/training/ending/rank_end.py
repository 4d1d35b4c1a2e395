"""How a rank's process ends: well, with the others, before its first step, or with a sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from strategies.errors import first_line

from ...contract.environment import RankEnvironment
from ...contract.exit_codes import CONTINUE, USAGE
from ...contract.files.error_file import EXCEPTION, write_error
from ...contract.files.leaving import others_left, tell_leaving
from ...contract.peer_loss import is_peer_loss
from ...contract.preemption import PreemptionFlag, signal_name
from .before_first_step import BeforeFirstStep, leave_with_nothing_to_save, silence_threads
from .mistakes import code_of_mistake


def own_environment() -> RankEnvironment:
    """Return what this rank was given, or end it with a sentence where that cannot be read."""
    try:
        return RankEnvironment.from_environ(os.environ)
    except ValueError as error:
        leave(None, str(error), USAGE)


def end_well(
    environment: RankEnvironment, flag: PreemptionFlag, start: BeforeFirstStep, code: int
) -> None:
    """Note that all is saved: whatever ends the process from now on takes nothing away."""
    start.end()
    flag.ignore_from_now()
    silence_threads()
    tell_leaving(environment.leaving_file, code)


def end_alone(error_file: Path | None, sentence: str, has_trained: bool) -> None:
    """End a rank that has left its loop and runs on alone; called in a thread."""
    code = code_of_mistake(has_trained=has_trained)
    if not write_error(error_file, sentence, exit_code=code):
        print(f"relaunch: error: {sentence}", file=sys.stderr, flush=True)
    os._exit(code)


@contextmanager
def leaving_with_others(environment: RankEnvironment, start: BeforeFirstStep) -> Iterator[None]:
    """End a rank whose connection to another one broke, since that one has left.

    Before the first step it leaves with 75 if another rank of this node did so: that is no failure.
    Later the other rank has the cause, and the launcher reports it. One line stands for this rank:
    a traceback of each peer would bury the cause. Where nobody reports, the exception is raised.
    """
    try:
        yield
    except Exception as error:
        if not is_peer_loss(f"{type(error).__name__}: {error}"):
            raise
        if start.is_under_way and others_left(environment.leaving_file, CONTINUE):
            tell_leaving(environment.leaving_file, CONTINUE)
            sys.exit(CONTINUE)
        if environment.error_file is None or not environment.error_file.exists():
            raise
        print(f"rank {environment.rank} lost another rank: {first_line(error)}", file=sys.stderr)
        sys.exit(EXCEPTION)


def leave_unsaved(
    environment: RankEnvironment, flag: PreemptionFlag, signum: int | None
) -> NoReturn:
    """End this process at once, in any thread: a notice came before its first step.

    Args:
        environment: the rank's.
        flag: knows the cause once its handler has run, which this may be before.
        signum: the notice's, if it is known here.
    """

    def note() -> None:
        if environment.rank == 0 and environment.leaving_file is None:  # else the launcher says it
            cause = flag.cause or ("a signal" if signum is None else signal_name(signum))
            print(
                f"relaunch: preemption notice ({cause}) before the first step of this start: "
                "there was nothing to save. The same command resumes the run.",
                flush=True,
            )

    leave_with_nothing_to_save(environment.leaving_file, note)


def leave(
    error_file: Path | None, sentence: str, code: int, *, at_s: float | None = None
) -> NoReturn:
    """End the process with one sentence: printed by the launcher once, or here.

    Args:
        error_file: of this rank.
        sentence: what went wrong, and what to do.
        code: to exit with.
        at_s: when it went wrong, on the monotonic clock; None: now.
    """
    if not write_error(error_file, sentence, exit_code=code, at_s=at_s):
        print(f"relaunch: error: {sentence}", file=sys.stderr, flush=True)
    sys.exit(code)
