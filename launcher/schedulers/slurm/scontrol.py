"""Asking Slurm's controller: every call has a bound, and no answer is an answer.

Variables of the user's or the site's profile change what Slurm's commands print, and of which
cluster. What is read here is asked for in one fixed form.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .job_info import JobFacts, SiteFacts, parse_job, parse_node_addr, parse_site
from .side_by_side import LEFT_MIN, Step, parse_steps

ANSWER_S = 12.0
"""How long one call may take; scontrol itself gives up on a silent controller after 10 s."""


_STEERING = ("SLURM_", "SACCT_", "SBATCH_", "SCANCEL_", "SCONTROL_", "SINFO_", "SQUEUE_")
REACHING = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_SACK_SOCKET"})
"""Where the controller is and who asks; all others of Slurm's steer what is asked and printed."""
_FORM = {"SLURM_TIME_FORMAT": "standard", "TZ": "UTC0", "LC_ALL": "C"}
"""In UTC: an hour of local time that the end of summer time repeats would be two times."""


SHIELDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a call came to."""

    text: str
    """On standard output."""
    problem: str = ""
    """Why there is no answer, in Slurm's words where it said some; empty: there is one."""


Call = Callable[[Sequence[str], float], Answer]


def fixed_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which Slurm's commands answer in the form that is read; pure."""
    kept = {
        name: value
        for name, value in environ.items()
        if name in REACHING or not name.startswith(_STEERING)
    }
    return {**kept, **_FORM}


def start(words: Sequence[str]) -> "subprocess.Popen[str]":
    """Start one of Slurm's commands, out of reach of the signals of a step that ends.

    Slurm sends those to every process of the step. What is blocked stays so in a new program.

    Raises:
        OSError: It cannot be run.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
    try:
        return subprocess.Popen(
            words,
            env=fixed_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def call(words: Sequence[str], bound_s: float = ANSWER_S) -> Answer:
    """Run one of Slurm's commands to its end."""
    try:
        process = start(words)
    except FileNotFoundError:
        return Answer(text="", problem=f"there is no {words[0]} here")
    except OSError as error:
        return Answer(text="", problem=f"{words[0]} cannot be run: {error.strerror}")
    with process:
        try:
            text, errors = process.communicate(timeout=bound_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return Answer(text="", problem=f"{words[0]} did not answer within {bound_s:g} s")
    if process.returncode != 0:
        lines = [line for line in errors.splitlines() if line.strip()]
        problem = lines[-1].strip() if lines else f"{words[0]} left with {process.returncode}"
        return Answer(text=text, problem=problem)
    return Answer(text=text)


class Scontrol:
    """The questions and orders of this package."""

    def __init__(self, ask: Call = call) -> None:
        self._ask = ask
        self.problem = ""
        """Why the last call had no answer."""

    def job(self, key: str, bound_s: float = ANSWER_S) -> JobFacts | None:
        """Return what is known about a job; None where there is no answer."""
        answer = self._run(("show", "job", key), bound_s)
        return None if self.problem else parse_job(answer.text)

    def site(self, partition: str | None, bound_s: float = ANSWER_S) -> SiteFacts:
        """Return how long the site waits; its fields are None where there is no answer."""
        shown = (
            self._run(("show", "partition", partition), bound_s) if partition else Answer(text="")
        )
        return parse_site(shown.text, self._run(("show", "config"), bound_s).text)

    def hostnames(self, node_list: str) -> tuple[str, ...]:
        """Return the names in a node list; empty where there is no answer."""
        return tuple(self._run(("show", "hostnames", node_list), ANSWER_S).text.split())

    def node_addr(self, name: str) -> str | None:
        """Return the address under which Slurm reaches a node; None where there is no answer."""
        return parse_node_addr(self._run(("show", "node", name), ANSWER_S).text)

    def steps(self, job_id: int, bound_s: float = ANSWER_S) -> tuple[Step, ...]:
        """Return the job's running steps that srun started; empty where there is no answer."""
        return parse_steps(self._run(("show", "step", str(job_id)), bound_s).text)

    def mark_left(self, job_id: int, step: int) -> bool:
        """Write into the step's record that its ranks have left; return whether Slurm took it."""
        words = ("update", f"StepId={job_id}.{step}", f"TimeLimit={LEFT_MIN}")
        self._run(words, ANSWER_S)
        return not self.problem

    def requeue(self, key: str) -> bool:
        """Put the job back into the queue; return whether Slurm took it."""
        self._run(("requeue", key), ANSWER_S)
        return not self.problem

    def start_after(self, key: str, seconds: int) -> bool:
        """Let the queued job start from some seconds on; return whether Slurm took it."""
        self._run(("update", f"JobId={key}", f"StartTime=now+{seconds}"), ANSWER_S)
        return not self.problem

    def _run(self, words: Sequence[str], bound_s: float) -> Answer:
        answer = self._ask(("scontrol", *words), bound_s)
        self.problem = answer.problem
        return answer
