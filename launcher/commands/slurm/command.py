"""`relaunch slurm [sbatch options] train.py ...`: make a batch script and submit it."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...command_line.argv import read_words
from ...command_line.parser import parse_options
from ...errors import StartError, UsageError
from ...plan.assumed_folder import usual_folder
from ...plan.given_options import Words
from ...plan.options import LaunchOptions
from ...plan.program import Program
from ...plan.program_source import read_source
from ...schedulers.slurm.job_info import parse_job
from ...schedulers.slurm.scontrol import Answer, Call, call
from ...terminal.console import say
from .batch_script import BatchScript
from .sbatch_options import SbatchOptions, check_options, split_words, submission_environment

_HELP = """\
usage: relaunch slurm [sbatch options] [relaunch options] script.py [script args]

Write a batch script, submit it and print how to follow the job. Short options are sbatch's.

  --dry-run    print the script and submit nothing

The script requests one task per node, a requeue after a preemption or the time limit, and a signal
two minutes before the time limit, unless the options differ. docs/slurm.md describes the details.
"""
_LOCAL_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
_SUBMIT_S = 60.0
_NEVER = ("BadConstraints", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit")
"""Why a job waits that would wait for ever."""


def run(argv: Sequence[str]) -> int:
    """Run `relaunch slurm` and return the exit code.

    Raises:
        LauncherError: Something in them is wrong, or Slurm does not take the job.
    """
    if not argv or argv[0] in ("--help", "-h"):
        print(_HELP, end="")
        return 0
    sbatch, own = split_words(argv)
    words = read_words(own, {})
    if not words.rest:
        raise UsageError(
            "no script is given: relaunch slurm [sbatch options] script.py [script args]."
        )
    check_options(sbatch, words.given.get("--nnodes"))
    is_dry_run = words.flag("--dry-run")
    left_out = ("--nnodes", "--dry-run")
    words = replace(words, given={k: v for k, v in words.given.items() if k not in left_out})
    options = parse_options(words)
    program = Program(kind=options.kind, name=options.script, args=options.script_args)
    read_source(program).uses_run()  # refuses what would stand in place of ours
    script = make_script(sbatch, words, options)
    if is_dry_run:
        print(script.text(), end="")
        return 0
    environ = submission_environment(os.environ, sbatch)
    check_readable(sbatch, options, call)
    return submit(script, run_folder_of(options), environ)


def make_script(
    sbatch: SbatchOptions, words: Words, options: LaunchOptions, program: str | None = None
) -> BatchScript:
    """Return the batch script.

    Args:
        sbatch: sbatch's options.
        words: relaunch's.
        options: What they mean.
        program: The command's file; None: the one that runs now.
    """
    given = {name: option.text for name, option in words.given.items()}
    if sbatch.has("array"):
        # Two elements in one run folder would be two runs in it.
        folder = given.get("--run-dir") or str(run_folder_of(options))
        if "$SLURM_ARRAY_TASK_ID" not in folder:
            given["--run-dir"] = f"{folder}/$SLURM_ARRAY_TASK_ID"
        place = given.get("--checkpoints")
        if place is not None and "$SLURM_ARRAY_TASK_ID" not in place:
            given["--checkpoints"] = f"{place}/$SLURM_ARRAY_TASK_ID"
    own: list[str] = []
    for name, text in given.items():
        own += [name] if _is_flag(name) else [name, text]
    return BatchScript(
        name=Path(options.script).stem,
        options=sbatch,
        command=own_program(program or sys.argv[0]),
        words=(*own, *words.rest),
    )


def own_program(program: str) -> list[str]:
    """Return the words that start this very command on another machine."""
    if Path(program).name == program:
        return [program]
    return [os.path.abspath(program)]


def run_folder_of(options: LaunchOptions) -> Path:
    """Return the run folder, as `Run` chooses it."""
    program = Program(kind=options.kind, name=options.script, args=options.script_args)
    return options.run.run_dir or usual_folder(program) or Path("runs") / Path(options.script).stem


def check_readable(sbatch: SbatchOptions, options: LaunchOptions, ask: Call) -> None:
    """See whether the compute nodes can read the training script.

    Raises:
        UsageError: It is in a folder that every machine has for itself.
    """
    script = Path(options.script).resolve()
    local = next((f for f in _LOCAL_FOLDERS if script.is_relative_to(f)), None)
    if local is None:
        return
    partition = sbatch.get("partition")
    words = ["sinfo", "-h", "-o", "%n", *(("-p", partition) if partition else ())]
    hosts = set(ask(words, _SUBMIT_S).text.split())
    others = hosts - {socket.gethostname(), socket.gethostname().partition(".")[0]}
    if others:
        raise UsageError(
            f"{script} is in {local}, which every machine has for itself: "
            f"{sorted(others)[0]} cannot read it. Put it into a folder that the nodes share."
        )


def submit(script: BatchScript, folder: Path, environ: Mapping[str, str], ask: Call = call) -> int:
    """Write the script into the run folder, submit it and print how to follow the job.

    Raises:
        UsageError: The folder cannot be written, or sbatch refuses.
        StartError: There is no sbatch.
    """
    path = folder / "job.sh"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(script.text(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from None
    answer = sbatch_file(path, environ)
    if answer.problem:
        raise UsageError(answer.problem)
    job, _, cluster = answer.text.strip().partition(";")
    there = ("-M", cluster) if cluster else ()
    shown = parse_job(ask(("scontrol", *there, "show", "job", job), _SUBMIT_S).text)
    key = shlex.join((*there, job))
    say(f"submitted job {job}: {path}")
    if shown is not None and shown.output is not None:
        say(f"follow it:  tail -F {shlex.quote(shown.output)}")
    of_job = shlex.join((*there, "-j", job))
    say(f"its state:  squeue {of_job}     end it, with a save:  scancel {key}")
    if shown is not None and shown.reason in _NEVER:
        say(
            f"warning: Slurm does not start it as it is (Reason={shown.reason}): the partition "
            f"cannot give what the script asks for. Take it back with scancel {key}."
        )
    return 0


def sbatch_file(path: Path, environ: Mapping[str, str]) -> Answer:
    """Submit a script; Slurm's objections are in the answer, each once."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SUBMIT_S,
            env=environ,
            check=False,
        )
    except FileNotFoundError:
        raise StartError(
            "relaunch slurm needs sbatch, which is not installed here. Log in to a machine of the "
            f"cluster and write: sbatch {shlex.quote(str(path))}"
        ) from None
    except subprocess.TimeoutExpired:
        raise StartError(f"sbatch did not answer within {_SUBMIT_S:g} s; try again.") from None
    if done.returncode == 0:
        return Answer(text=done.stdout)
    return Answer(text="", problem=refusal_text(done.stderr, done.returncode))


def refusal_text(stderr: str, returncode: int) -> str:
    """Return sbatch's objections to a script, each once; pure."""
    lines = (line.strip().removeprefix("sbatch: error: ") for line in stderr.splitlines())
    said = "; ".join(dict.fromkeys(line.rstrip(".") for line in lines if line))
    return f"sbatch refuses: {said or f'it left with {returncode}'}."


def _is_flag(name: str) -> bool:
    from ...command_line.argv import resolve

    return resolve(name).value is None
