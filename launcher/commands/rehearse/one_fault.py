"""One fault carried out: the run, the fault, the command again; and what was seen of it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from ...contract.own_command import unused_port
from ...contract.trial import TrialSettings
from ...run_folder.jsonl import newest_start
from ..trials.run_trial import RUN_DIR_WORD, TRACE, LauncherProcess, Trial, start_trial
from .disturb import Absent, Scene
from .draw import Fault
from .evidence import Evidence, evidence_of, last_recorded, newest_intact
from .kinds import Resume
from .network import Network
from .nodes import LOOPBACK, code_of, on_nodes
from .processes import SCAN_S, Running, send, started, wait_until

MISSED = "the run had ended before"
"""On a busy machine, where a run of short steps is over before it is looked at."""
SHARED = (
    "the script resumed from a checkpoint of another run, outside of its run folder: give the "
    f"folder of its own checkpoints as {RUN_DIR_WORD}, which is another one in each run, such as "
    f"--output_dir {RUN_DIR_WORD}/trainer"
)
"""Of a script that keeps its own checkpoints in one place."""
MISSED_AGAIN = (
    f"{MISSED}; if it resumed from a checkpoint of another run, give the folder of its checkpoints "
    f"as {RUN_DIR_WORD}"
)
"""Of a script without `Run`, whose own checkpoints are not known."""
OWN_STRATEGY = "the script's own"
"""In place of a strategy's name: the script decides, and would refuse the option."""
SCRATCH = "TMPDIR"
"""The commands of a fault have one of their own."""
GONE_S = 2.0
"""How long processes of a run may outlive its launcher."""
Nodes = tuple[Running, ...]
"""One command as it runs on each node, the leader's first."""
_OTHER = {"ddp": "fsdp", "fsdp": "ddp", "zero1": "ddp", "zero2": "ddp", "zero3": "ddp"}


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What is rehearsed."""

    words: tuple[str, ...]
    """The script and its arguments, and options of relaunch before it."""
    ranks: int
    """Of each node."""
    strategy: str
    steps: int
    save_every: int
    pace_s: float
    """How much longer than else a step takes, where a fault is to meet it."""
    timeout_s: float
    """For each command."""
    folder: Path
    uses_run: bool = True
    duration_s: float = 0.0
    """Of the undisturbed run."""
    recorded_steps: int = 0
    """Without `Run`: the last step in the undisturbed run's metrics.jsonl; 0: it has none."""
    start: Callable[[Trial], LauncherProcess] = start_trial
    """Starts a command of a disturbed run; the undisturbed one has a Python of its own."""
    nodes: int = 1
    network: Network | None = None
    """The hosts that the nodes are; None: all nodes are launchers of this host."""

    def trial(self, name: str) -> Trial:
        """Return a command in a folder of its own."""
        folder = self.folder / name
        return Trial(
            name=name,
            words=self.words,
            ranks=self.ranks,
            strategy=self.strategy,
            names_strategy=self.strategy != OWN_STRATEGY,
            folder=folder,
            settings=TrialSettings(
                steps=self.steps,
                save_every_steps=self.save_every,
                trace=str(folder / TRACE),
            ),
            timeout_s=self.timeout_s,
        )


@dataclass(kw_only=True)
class Outcome:
    """What was seen of a fault, as it went."""

    fault: Fault
    codes: list[int | None] = field(default_factory=list)
    """Of each command, in order; None: it did not end in time."""
    other_codes: dict[int, int | None] = field(default_factory=dict)
    """Of the first command on the other nodes that the fault leaves alive, by node."""
    absent: str | None = None
    """Why the fault could not be made to happen."""
    at_step: int | None = None
    """Steps done when it came."""
    lost: int = 0
    """Finished steps that were done again."""
    intact: int | None = None
    """The newest intact checkpoint when the command was given again."""
    resumed_at: int | None = None
    resume_s: float | None = None
    """From the command to its first step."""
    orphans: int = 0
    """Processes that were there two seconds after their launcher."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """From when to when each command ran, in seconds since the first."""
    fault_s: float | None = None
    evidence: Evidence | None = None
    output: str = ""
    """The end of what was printed."""


def carry_out(rehearsal: Rehearsal, fault: Fault) -> Outcome:
    """Inject a fault into a run, and bring the run to its end.

    Raises:
        OSError: the folder cannot be written.
    """
    outcome = Outcome(fault=fault)
    with _variables() as variables:
        _Course(rehearsal, fault, outcome, variables).run()
    return outcome


@contextmanager
def _variables() -> Iterator[dict[str, str]]:
    """Give the commands a folder of their own for what a killed one leaves behind.

    Nowhere deep: the name of a Unix socket in it must stay below 108 bytes.
    """
    scratch = tempfile.mkdtemp(prefix="rehearse-")
    try:
        yield {SCRATCH: scratch}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run_undisturbed(rehearsal: Rehearsal) -> tuple[int | None, float, Evidence, str]:
    """Run the script without a fault: its exit code, seconds, evidence, and what it printed."""
    trial = rehearsal.trial("undisturbed")
    parts = on_nodes(trial, rehearsal.nodes, network=rehearsal.network, port=unused_port(LOOPBACK))
    with _variables() as variables, ExitStack() as until:
        commands = [until.enter_context(started(one, start_trial, variables)) for one in parts]
        wait_until(lambda: all(one.has_ended() for one in commands), rehearsal.timeout_s)
        code = code_of([one.process.poll() for one in commands])
        seconds = time.monotonic() - commands[0].began_s
    evidence = evidence_of(trial.run_dir, trial.folder / TRACE)
    return code, seconds, evidence, _printed(trial)


class _Course:
    """The commands of one fault, one after the other."""

    def __init__(
        self, rehearsal: Rehearsal, fault: Fault, outcome: Outcome, variables: Mapping[str, str]
    ) -> None:
        self._rehearsal = rehearsal
        self._fault = fault
        self._outcome = outcome
        self._variables = variables
        self._trial = rehearsal.trial(f"fault-{fault.number:03d}-{fault.kind.name}")
        self._began_s = time.monotonic()
        self._done = 0
        """Steps that the first command had finished."""
        self._early: Nodes | None = None
        """The command as it was given again before the first had ended."""

    def run(self) -> None:
        """Do all of it."""
        kind, outcome = self._fault.kind, self._outcome
        with ExitStack() as early:
            code = self._first(early)
            if outcome.absent is None and code != 0 and code is not None:
                try:
                    self._between()
                    self._again(kind.resume)
                except Absent as absent:
                    outcome.absent = str(absent)
        outcome.evidence = evidence_of(self._trial.run_dir, self._trial.folder / TRACE)
        is_elsewhere = outcome.evidence.resumed_elsewhere and not self._rehearsal.uses_run
        if is_elsewhere and outcome.absent in (None, MISSED):  # it had little left to do
            outcome.absent = SHARED
        outcome.output = _printed(self._trial)

    def _first(self, early: ExitStack) -> int | None:
        """Start the run, let the fault happen, and wait for its end; return its code."""
        kind, outcome = self._fault.kind, self._outcome
        commands = self._start_first(early)
        first = commands[0]
        scene = Scene(
            commands=commands,
            run_dir=self._trial.run_dir,
            rank=0 if kind.nodes > 1 else self._fault.rank,
            network=self._rehearsal.network,
            bound_s=self._rehearsal.timeout_s,
        )
        self._reach(first)
        outcome.at_step = first.trace.newest() or 0
        outcome.fault_s = time.monotonic() - self._began_s
        try:
            if first.has_ended():
                raise Absent(MISSED)
            kind.during(scene)
        except Absent as absent:
            outcome.absent = str(absent)
            return None
        if kind.resume.is_early:
            self._early = self._start_again(self._trial, kind.resume, early)
        codes = self._end(commands)
        left = {node: code for node, code in enumerate(codes) if node != kind.kills_node}
        code = left.pop(min(left))
        outcome.codes[-1], outcome.other_codes = code, left
        self._count_orphans(commands)
        steps = first.trace.steps
        outcome.lost += lost_steps(steps)
        self._done = steps[-1] if steps else 0
        return code

    def _start_first(self, early: ExitStack) -> Nodes:
        """Start the first command, on as many nodes as the fault is about."""
        kind, trial = self._fault.kind, self._trial
        pace = replace(trial.settings, pace_s=self._rehearsal.pace_s)
        ranks = 1 if kind.nodes > self._rehearsal.nodes else trial.ranks
        paced = replace(trial, ranks=ranks, settings=pace, words=(*kind.options, *trial.words))
        return self._start(paced, early, nodes=kind.nodes)

    def _start(
        self,
        trial: Trial,
        until: ExitStack,
        *,
        nodes: int,
        variables: Mapping[str, str] | None = None,
    ) -> Nodes:
        given = {**self._variables, **(variables or {})}
        rehearsal = self._rehearsal
        parts = on_nodes(trial, nodes, network=rehearsal.network, port=unused_port(LOOPBACK))
        return tuple(until.enter_context(started(one, rehearsal.start, given)) for one in parts)

    def _reach(self, command: Running) -> None:
        """Wait for the moment of the fault."""
        fault, rehearsal = self._fault, self._rehearsal
        bound_s = rehearsal.timeout_s
        if fault.kind.at_start:
            wait_until(
                lambda: command.rank(fault.rank) or command.has_ended(), bound_s, poll_s=SCAN_S
            )
        elif rehearsal.uses_run:
            wait_until(
                lambda: (command.trace.newest() or 0) >= fault.at_step or command.has_ended(),
                bound_s,
            )
        elif rehearsal.recorded_steps:
            at = fault.share * rehearsal.recorded_steps
            wait_until(
                lambda: last_recorded(self._trial.run_dir) >= at or command.has_ended(),
                bound_s,
                poll_s=SCAN_S,
            )
        else:
            end = command.began_s + fault.share * rehearsal.duration_s
            wait_until(lambda: time.monotonic() >= end or command.has_ended(), bound_s)

    def _end(self, commands: Nodes) -> list[int | None]:
        """Wait for a command's end on all nodes; return its codes."""
        wait_until(lambda: all(one.has_ended() for one in commands), self._rehearsal.timeout_s)
        codes = [one.process.poll() for one in commands]
        commands[0].trace.newest()
        self._outcome.codes.append(code_of(codes))
        self._outcome.spans.append(
            (commands[0].began_s - self._began_s, time.monotonic() - self._began_s)
        )
        return codes

    def _count_orphans(self, commands: Nodes) -> None:
        wait_until(lambda: not any(one.processes() for one in commands), GONE_S, poll_s=SCAN_S)
        self._outcome.orphans += sum(len(one.processes()) for one in commands if one.has_ended())
        for one in commands:
            one.kill()

    def _between(self) -> None:
        """Inject the faults of a folder while no process uses it.

        Raises:
            Absent: there is nothing there that it could happen to.
        """
        kind = self._fault.kind
        if kind.after is not None:
            kind.after(self._trial.run_dir)
        if kind.resume.moves_folder:
            moved = replace(self._trial, folder=Path(f"{self._trial.folder}-moved"))
            os.rename(self._trial.folder, moved.folder)
            self._trial = replace(
                moved, settings=replace(moved.settings, trace=str(moved.folder / TRACE))
            )
        if self._rehearsal.uses_run and not kind.resume.is_early:
            self._outcome.intact = newest_intact(self._trial.run_dir)

    def _again(self, how: Resume) -> None:
        """Give the command again, and let it come to its end."""
        trial = self._resumed(how)
        with ExitStack() as until:
            if how.killed_first:
                self._kill_while_it_restores(trial, until)
            self._see_to_end(self._early or self._start_again(trial, how, until))

    def _start_again(self, trial: Trial, how: Resume, until: ExitStack) -> Nodes:
        return self._start(trial, until, nodes=self._rehearsal.nodes, variables=how.variables)

    def _see_to_end(self, commands: Nodes) -> None:
        command = commands[0]

        def began() -> bool:
            return command.trace.newest() is not None

        outcome = self._outcome
        if commands is self._early:  # the steps of both are in one file
            code = code_of(self._end(commands))
            start = newest_start(self._trial.run_dir)
            outcome.resumed_at = None if start is None else start["step"]
        else:
            wait_until(lambda: began() or command.has_ended(), self._rehearsal.timeout_s)
            if began():
                outcome.resume_s = time.monotonic() - command.began_s
                outcome.resumed_at = command.trace.steps[0]
            code = code_of(self._end(commands))
        if outcome.resumed_at is None and code == 0 and self._rehearsal.uses_run:
            outcome.resumed_at = self._rehearsal.steps  # only what follows the training was left
        if outcome.resumed_at is not None:
            outcome.lost += max(0, self._done - outcome.resumed_at)
        self._count_orphans(commands)

    def _resumed(self, how: Resume) -> Trial:
        """Return the command as it is given again."""
        trial, ranks = self._trial, self._rehearsal.ranks
        other = ranks + how.more_ranks
        if other < 1:
            other = ranks + 1
        return replace(
            trial,
            words=(*how.options, *trial.words),
            ranks=other,
            strategy=other_strategy(trial.strategy) if how.other_strategy else trial.strategy,
            names_strategy=trial.names_strategy or how.other_strategy,
        )

    def _kill_while_it_restores(self, trial: Trial, until: ExitStack) -> None:
        commands = self._start(trial, until, nodes=self._rehearsal.nodes)
        wait_until(
            lambda: commands[0].rank(0) or commands[0].has_ended(),
            self._rehearsal.timeout_s,
            poll_s=SCAN_S,
        )
        for one in commands:
            send(one.processes(), 9)
        self._end(commands)
        self._outcome.codes.pop()  # of what is done to it, not of what it does
        self._count_orphans(commands)


def lost_steps(begun: Sequence[int]) -> int:
    """Return how many finished steps a command did again, from the steps that it began. Pure."""
    return sum(max(0, before - after) for before, after in pairwise(begun))


def other_strategy(strategy: str) -> str:
    """Return another strategy than this one. Pure."""
    return _OTHER.get(strategy, "fsdp")


def _printed(trial: Trial) -> str:
    with_all = trial.output.read_text(encoding="utf-8", errors="replace")
    return with_all[-4000:]
