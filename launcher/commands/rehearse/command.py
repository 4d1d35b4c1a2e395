"""`relaunch rehearse`: its options, the undisturbed run, one fault after the other, the page."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ...command_line.parser import parse_command_line
from ...command_line.subcommand_parser import CommandParser
from ...errors import UsageError
from ...plan.launch_plan import make_plan
from ...plan.machine import Machine
from ...run_folder.plain_files import replace_text
from ...run_folder.tables import render
from ...terminal.console import say
from ..trials.run_trial import start_trial
from ..trials.warm_launchers import warm_starts
from .choosing import chosen_kinds, without_network
from .draw import Fault, draw
from .evidence import Evidence, distance_of
from .judge import Verdict, judge
from .kinds import KINDS, FaultKind
from .network import NoNetworkError, network_of
from .one_fault import (
    MISSED,
    MISSED_AGAIN,
    OWN_STRATEGY,
    SCRATCH,
    SHARED,
    Rehearsal,
    carry_out,
    run_undisturbed,
)
from .page import PICTURE, Heading, document, line, on_text, page, summary, table, unchecked_text
from .processes import MARK
from .timeline import timeline

PAGE = "rehearsal.md"
_USUAL = "ddp"
_OWN = ("--run-dir", "--checkpoints", "--nproc-per-node", "--strategy", "--nnodes", "--log-dir")
"""Options that the rehearsal gives itself."""
_COPIES = 3
"""How often the undisturbed run's folder must fit beside it."""
_SLOWER = 4
"""How much longer each step waits, and without `Run` how much earlier the fault comes, once a run
was over before it."""
_EPILOG = """\
  relaunch rehearse train.py --lr 1e-3
  relaunch rehearse --faults 25 --steps 60 --nproc-per-node 3 --strategy fsdp train.py
  relaunch rehearse --only kill-launcher --only flip-bit train.py
  relaunch rehearse --nnodes 2 train.py
  relaunch rehearse --seed 7 -- --precision bf16 train.py

Exit codes: 0 the run survived every fault, 1 something was wrong, 2 wrong usage.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of everything after `relaunch rehearse`."""
    parser = CommandParser(
        prog="relaunch rehearse",
        usage="relaunch rehearse [options] script.py [its arguments]\n"
        "       relaunch rehearse [options] -- [relaunch's options] script.py [its arguments]",
        description="Inject faults into short runs of a script, and compare each run with an "
        "undisturbed one.",
        epilog=_EPILOG,
    )
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="script.py ...")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="only faults of this kind; may be repeated",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document; the progress goes to stderr"
    )
    parser.add_argument("--list", action="store_true", help="print the kinds of faults")
    for name, default, what in (
        ("--faults", 10, "number of faults (default 10)"),
        ("--seed", 0, "the same seed gives the same faults (default 0)"),
        ("--steps", 40, "optimizer steps of each run (default 40)"),
        ("--save-every", None, "steps between checkpoints (default: steps / 5)"),
        ("--nnodes", 1, "nodes to simulate on this machine (default 1)"),
        ("--nproc-per-node", None, "ranks on each node (default 2; with --nnodes 1)"),
    ):
        parser.add_argument(name, type=int, default=default, metavar="N", help=what)
    parser.add_argument("--strategy", metavar="S", help="strategy of every run (default ddp)")
    for name, seconds, what in (
        ("--timeout", 120.0, "seconds for each command (default 120)"),
        ("--pace", 0.05, "lengthen each step until the fault by S seconds (default 0.05)"),
    ):
        parser.add_argument(name, type=float, default=seconds, metavar="S", help=what)
    parser.add_argument(
        "--rehearsal-dir",
        type=Path,
        default=Path("runs/rehearsal"),
        metavar="DIR",
        help="folder for the runs and rehearsal.md (default runs/rehearsal)",
    )
    return parser


def run(argv: Sequence[str]) -> int:
    """Run `relaunch rehearse` and return the exit code.

    Raises:
        UsageError: the words are wrong, or the script cannot be rehearsed.
        SystemExit: 0, after `--help` was printed; 143 after SIGTERM.
    """
    given = build_parser().parse_args(argv)
    if given.list:
        print(render(("fault", "what happens"), [(k.name, k.sentence) for k in KINDS.values()]))
        return 0
    kinds = chosen_kinds(given.only, nodes=given.nnodes)
    try:
        return _run(_rehearsal(given), given, kinds)
    except OSError as error:
        raise UsageError(
            f"the runs cannot be kept in {given.rehearsal_dir}: {error}. Choose another "
            "--rehearsal-dir with more room, or fewer --steps."
        ) from error


def _run(rehearsal: Rehearsal, given: argparse.Namespace, kinds: list[FaultKind]) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    for signum in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_IGN:
            # Under nohup or in the background: these commands must hear them all the same, and
            # inherit from a handler that there is none, and from SIG_IGN that it is ignored.
            signal.signal(signum, lambda *_: None)
    try:
        with ExitStack() as until:
            if rehearsal.nodes > 1:
                rehearsal, kinds = _with_network(rehearsal, kinds, until)
            start = warm_starts(
                rehearsal.trial("imports"),
                uses_run=rehearsal.uses_run,
                own=(MARK, SCRATCH),
                num_servers=2,
            )
            start_warm = until.enter_context(start)
            return _rehearse(replace(rehearsal, start=start_warm), given, kinds)
    except KeyboardInterrupt:
        say("left; what was started has been ended.")
        return 128 + signal.SIGINT


def _with_network(
    rehearsal: Rehearsal, kinds: list[FaultKind], until: ExitStack
) -> tuple[Rehearsal, list[FaultKind]]:
    """Make the hosts that the nodes are; where that cannot be, leave out what needs them.

    Raises:
        UsageError: nothing is left.
    """
    try:
        network = until.enter_context(network_of(rehearsal.nodes))
    except NoNetworkError as error:
        kinds, text = without_network(kinds, str(error))
        if text is not None:
            say(text)
        return rehearsal, kinds
    return replace(rehearsal, network=network), kinds


def _rehearsal(given: argparse.Namespace) -> Rehearsal:
    """Return what is asked for.

    Raises:
        UsageError: it cannot be.
    """
    words = tuple(given.words[1:] if given.words[:1] == ["--"] else given.words)
    if not words:
        raise UsageError("no script is given: relaunch rehearse [options] script.py.")
    ranks = given.nproc_per_node
    if ranks is None:
        ranks = 2 if given.nnodes == 1 else 1
    for name, least in (("faults", 1), ("steps", 4), ("nproc_per_node", 1), ("nnodes", 1)):
        if (value := getattr(given, name)) is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"{option} {value}: it must be at least {least}.")
    save_every = given.save_every or max(1, given.steps // 5)
    if not 0 < save_every < given.steps:
        raise UsageError(
            f"--save-every {save_every} must be from 1 to {given.steps - 1}, below --steps."
        )
    own = next(
        (w for w in words if w.partition("=")[0] in _OWN and _is_before_script(w, words)), ""
    )
    if own:
        raise UsageError(f"{own} is for relaunch rehearse itself: give it before the script.")
    options = parse_command_line(
        ["--nproc-per-node", str(ranks), "--strategy", given.strategy or _USUAL, *words],
        dict(os.environ),
    )
    if isinstance(options, str):
        raise UsageError("no script is given: relaunch rehearse [options] script.py.")
    plan = make_plan(options, Machine.here(dict(os.environ)))
    is_own = given.strategy is None and plan.source.decides_strategy()
    return Rehearsal(
        words=words,
        ranks=ranks,
        nodes=given.nnodes,
        strategy=OWN_STRATEGY if is_own else given.strategy or _USUAL,
        steps=given.steps,
        save_every=save_every,
        pace_s=given.pace,
        timeout_s=given.timeout,
        folder=_new_folder(given.rehearsal_dir),
        uses_run=plan.uses_run,
    )


def _is_before_script(word: str, words: Sequence[str]) -> bool:
    script = next((n for n, one in enumerate(words) if one.endswith(".py")), len(words))
    return words.index(word) < script


def _new_folder(path: Path) -> Path:
    """Return an empty folder of this rehearsal; an earlier rehearsal's is cleared.

    Raises:
        UsageError: it holds something else.
    """
    path = path.resolve()
    if path.is_dir() and any(path.iterdir()):
        others = [p.name for p in path.iterdir() if not _is_ours(p.name)]
        if others:
            raise UsageError(
                f"{path} holds {others[0]}, which is no rehearsal's. Choose another "
                "--rehearsal-dir."
            )
        shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _is_ours(name: str) -> bool:
    return name in (PAGE, PICTURE, "undisturbed") or name.startswith("fault-")


def _rehearse(rehearsal: Rehearsal, given: argparse.Namespace, kinds: list[FaultKind]) -> int:
    began_s = time.monotonic()
    where = on_text(rehearsal.ranks, rehearsal.nodes)
    say(f"the undisturbed run: {rehearsal.steps} steps on {where}")
    rehearsal, undisturbed = _undisturbed(rehearsal)
    if not rehearsal.uses_run:
        kinds = [kind for kind in kinds if not kind.needs_run]
        # When a fault comes is a share of the undisturbed run's time, so that all start alike.
        rehearsal = replace(rehearsal, start=start_trial)
        say(unchecked_text(has_checkpoints=undisturbed.is_saved))
        if not kinds:
            raise UsageError("the faults of --only are about what Run keeps; choose others.")
    num_ranks = rehearsal.ranks * rehearsal.nodes
    faults = draw(given.seed, given.faults, kinds, steps=rehearsal.steps, ranks=num_ranks)
    verdicts = []
    for fault in faults:
        verdicts.append(verdict := _one(rehearsal, fault, undisturbed))
        print(line(verdict), flush=True, file=sys.stderr if given.json else sys.stdout)
    heading = Heading(
        words=rehearsal.words,
        ranks=num_ranks,
        nodes=rehearsal.nodes,
        strategy=rehearsal.strategy,
        steps=rehearsal.steps,
        save_every=rehearsal.save_every,
        seed=given.seed,
        uses_run=rehearsal.uses_run,
        has_checkpoints=undisturbed.is_saved,
        undisturbed_s=rehearsal.duration_s,
        seconds=time.monotonic() - began_s,
    )
    replace_text(rehearsal.folder / PAGE, page(heading, verdicts))
    replace_text(rehearsal.folder / PICTURE, timeline(verdicts))
    if given.json:
        print(json.dumps(document(heading, verdicts)))
    else:
        print(f"\n{table(verdicts)}\n\n{summary(verdicts)} See {rehearsal.folder / PAGE}.")
    return 1 if any(verdict.wrong for verdict in verdicts) else 0


def _undisturbed(rehearsal: Rehearsal) -> tuple[Rehearsal, Evidence]:
    """Make the run with which the others are compared.

    Raises:
        UsageError: it does not come to its end, or there is no room for the others.
    """
    code, seconds, evidence, output = run_undisturbed(rehearsal)
    # A loop of the script's own records its start, too; it has no trace.
    uses_run = bool(evidence.batches)
    if code is None:
        shorter = (
            f"pass fewer --steps than {rehearsal.steps}, or a longer --timeout"
            if uses_run
            else "no step of a loop of Run was seen, and --steps does not shorten anything else: "
            "give the script an argument that does, or pass a longer --timeout"
        )
        raise UsageError(f"the script did not end within {rehearsal.timeout_s:g} s: {shorter}.")
    if code != 0:
        tail = "\n".join(output.splitlines()[-15:])
        raise UsageError(
            f"the undisturbed run ended with code {code}, and must end with 0:\n{tail}"
        )
    if evidence.resumed_elsewhere and not uses_run:
        raise UsageError(f"{SHARED[:1].upper()}{SHARED[1:]}.")
    _require_room(rehearsal.folder)
    steps = evidence.final_step or rehearsal.steps
    found = replace(
        rehearsal,
        uses_run=uses_run,
        duration_s=seconds,
        steps=steps,
        recorded_steps=0 if uses_run else max(evidence.steps, default=0),
    )
    return found, evidence


def _require_room(folder: Path) -> None:
    needed = _COPIES * sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"{folder} has {free / 1e6:.0f} MB of room, and the runs of a rehearsal need "
            f"{needed / 1e6:.0f} MB. Choose another --rehearsal-dir."
        )


def _one(rehearsal: Rehearsal, fault: Fault, undisturbed: Evidence) -> Verdict:
    """Let one fault happen, and judge it; the folder of a run that went right is removed."""
    outcome = carry_out(rehearsal, fault)
    if outcome.absent == MISSED:
        _remove(rehearsal, fault)
        slower = replace(
            rehearsal,
            pace_s=_SLOWER * rehearsal.pace_s,
            duration_s=rehearsal.duration_s / _SLOWER,
            recorded_steps=0,  # it may record a step long after it
        )
        outcome = carry_out(slower, fault)
        if outcome.absent == MISSED and not rehearsal.uses_run:
            outcome.absent = MISSED_AGAIN
    distance = None
    if (
        (rehearsal.uses_run or undisturbed.is_saved)
        and outcome.absent is None
        and outcome.evidence is not None
    ):
        distance = distance_of(outcome.evidence, undisturbed, uses_run=rehearsal.uses_run)
    verdict = judge(outcome, undisturbed, distance, uses_run=rehearsal.uses_run)
    if not verdict.wrong:
        _remove(rehearsal, fault)
    return verdict


def _remove(rehearsal: Rehearsal, fault: Fault) -> None:
    for path in rehearsal.folder.glob(f"fault-{fault.number:03d}-*"):
        shutil.rmtree(path)
