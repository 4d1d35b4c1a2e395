"""A start of the command inside a Slurm job."""

import os
import secrets
import shlex
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...agent.cluster import ClusterEnvironment, NoAdvice, PreemptionCause, by_hand_word, is_by_hand
from ...agent.hand_over import HandOver
from ...agent.master_address import find_address, free_port
from ...agent.requeue_budget import Budget
from ...contract.environment import Limits
from ...contract.exit_codes import CONTINUE, DO_NOT_RETRY
from ...contract.interrupted import Interrupted
from ...contract.launcher_signals import SignalInbox
from ...contract.masking import mask_arguments, secrets_of
from ...errors import UsageError
from ...plan.given_options import Words
from ...plan.launch_plan import LaunchPlan
from ...plan.python_command import own_command
from ...plan.secret import with_secret
from .allocation import Allocation, Role, is_in_step, read_allocation
from .batch_step import AgentStep, srun_command
from .default_options import check, is_last_word, with_job
from .hostlist import expand_nodes
from .job_info import JobFacts, SiteFacts
from .preemption_cause import SlurmAdvice
from .requeue import Requeue, by_hand
from .requeue_policy import Ended
from .scontrol import Scontrol

_UNKNOWN_JOB = "Invalid job id"
"""In Slurm's words about a job that it does not know, or not any more."""


def find(
    environ: Mapping[str, str], argv: Sequence[str], say: Callable[[str], None]
) -> ClusterEnvironment:
    """Return this process's place in its Slurm job; raises UsageError on foreign variables."""
    scontrol = Scontrol()

    def expand(text: str) -> tuple[str, ...]:
        try:
            return expand_nodes(text)
        except UsageError:
            # Slurm may have learnt to write lists in a way that is not known here.
            if names := scontrol.hostnames(text):
                return names
            raise

    allocation = read_allocation(
        environ,
        host=socket.gethostname(),
        is_in_step=is_in_step(os.getpid()),
        pid=os.getpid(),
        expand=expand,
    )
    return SlurmEnvironment(allocation, environ, argv, say, scontrol)


class SlurmEnvironment(ClusterEnvironment):
    """What Slurm adds to a start; asks the controller only when that is needed, and once."""

    def __init__(
        self,
        allocation: Allocation,
        environ: Mapping[str, str],
        argv: Sequence[str],
        say: Callable[[str], None],
        scontrol: Scontrol,
    ) -> None:
        self._allocation = allocation
        self._environ = environ
        self._argv = argv
        self._say = say
        self._scontrol = scontrol
        self._told = HandOver.from_environ(environ, allocation.run_id)
        self._facts: JobFacts | None = None
        self._site: SiteFacts | None = None
        self._addr, self._port = "", 0
        self._by_hand = ""
        """The word that says how the nodes meet; empty: Slurm does."""
        self._has_last_word = True
        self._container: tuple[str, ...] = ()

    def _enter_from_outside(self) -> None:
        """Make sure that a shell which is on none of the job's nodes holds the job: salloc's.

        Raises:
            UsageError: It does not; the variables are left over.
        """
        allocation = self._allocation
        facts = self._scontrol.job(allocation.key)
        if facts is None or facts.state != "RUNNING" or facts.is_batch:
            raise self._left_over(facts, f", and {socket.gethostname()} is none of its nodes")
        self._facts = facts
        self._allocation = replace(allocation, role=Role.BATCH)

    def _confirm(self) -> None:
        """Make sure that the job still runs where only this machine's name speaks for it.

        Raises:
            UsageError: It does not. Where Slurm does not answer, as in a container, it may.
        """
        facts = self._scontrol.job(self._allocation.key)
        unknown = facts is None and _UNKNOWN_JOB in self._scontrol.problem
        if unknown or (facts is not None and facts.state != "RUNNING"):
            raise self._left_over(facts, "")
        self._facts = facts

    def _left_over(self, facts: JobFacts | None, where: str) -> UsageError:
        job = self._allocation.job_id
        state = f"Slurm says: {self._scontrol.problem or 'no such job'}"
        if facts is not None:
            state = f"the job is {facts.state}"
        return UsageError(
            f"SLURM_JOB_ID={job} is left over in this shell: {state}{where}. To start outside of "
            f"the job write: env -u SLURM_JOB_ID relaunch {self._shown(self._argv)}"
        )

    @property
    def _starts_agents(self) -> bool:
        """Whether this is the batch step's process, which outlives the agents."""
        return self._allocation.role is Role.BATCH and not self._by_hand

    def supply(self, words: Words) -> Words:
        """See ClusterEnvironment."""
        if is_by_hand(words):
            self._by_hand = by_hand_word(words)
            self._has_last_word = is_last_word(words, self._allocation)
            return words
        if self._allocation.role is Role.OUTSIDE:
            self._enter_from_outside()
        elif self._allocation.role is Role.BATCH and not self._allocation.in_step:
            self._confirm()
        allocation = self._allocation
        check(words, allocation)
        self._container = tuple(shlex.split(words.text("--container") or ""))
        if len(allocation.nodes) > 1:
            self._find_meeting_point(words)
        return with_job(words, allocation, addr=self._addr, port=self._port)

    def _find_meeting_point(self, words: Words) -> None:
        allocation = self._allocation
        if self._told is not None:
            self._addr, self._port = self._told.master_addr, self._told.master_port
            return
        if allocation.role is Role.TASK and allocation.hostfile and not words.text("--master-addr"):
            raise UsageError(hostfile_text(allocation.hostfile))
        self._addr = words.text("--master-addr") or find_address(
            allocation.nodes,
            is_first=allocation.is_on_first,
            node_addr=self._scontrol.node_addr,
        )
        self._port = allocation.port
        if self._starts_agents:
            self._port = free_port(self._addr, self._port)

    def adjust(self, plan: LaunchPlan) -> LaunchPlan:
        """See ClusterEnvironment."""
        used = 0 if self._told is None else self._told.restarts_used
        left = max(0, plan.max_restarts - used)
        limits = self._limits()
        if self._settles_alone:
            self._budget(plan).begin()  # exit code 93 reports a refusal at the end
        elif self._leaves_it_to_others:
            self._say(others_text(self._allocation.key, self._by_hand))
        if left != plan.max_restarts and self._allocation.node_rank == 0:
            self._say(f"--max-restarts {plan.max_restarts}: {used} were used before the requeue.")
        return replace(plan, limits=limits, max_restarts=left)

    def _limits(self) -> Limits:
        if self._told is not None:
            handed_over = self._told
            return Limits(
                end_time_s=handed_over.end_time_s,
                grace_s=handed_over.grace_s,
                kill_wait_s=handed_over.kill_wait_s,
            )
        if self._allocation.node_rank != 0:
            # One question for all nodes; where nobody hands the answer in, this may be known.
            return Limits(end_time_s=self._allocation.end_time_s)
        if self._facts is None:
            self._facts = self._scontrol.job(self._allocation.key)
        site = self._site_facts()
        end_time_s = self._allocation.end_time_s
        if self._facts is not None and self._facts.end_time_s is not None:
            end_time_s = self._facts.end_time_s
        return Limits(
            end_time_s=end_time_s,
            grace_s=site.grace_s,
            kill_wait_s=site.kill_wait_s,
        )

    def advice(self) -> PreemptionCause:
        """See ClusterEnvironment."""
        if self._allocation.node_rank != 0:
            return NoAdvice()
        return SlurmAdvice(
            self._allocation.key,
            own_restarts=self._allocation.restart_count,
            kill_wait_s=(limits := self._limits()).kill_wait_s,
            end_time_s=limits.end_time_s,
        )

    @property
    def starts_agents(self) -> bool:
        """See ClusterEnvironment."""
        return self._starts_agents

    @property
    def in_container(self) -> bool:
        """See ClusterEnvironment."""
        return bool(self._container)

    def describe(self) -> tuple[str, ...]:
        """See ClusterEnvironment."""
        allocation = self._allocation
        lines = [f"Slurm job {allocation.key}, restart {allocation.restart_count}"]
        lines.append(f"its nodes: {','.join(allocation.nodes)}")
        if self._starts_agents:
            lines.append(f"starts: {self._shown(self._command())}")
        return tuple(lines)

    def run_agents(self, plan: LaunchPlan, inbox: SignalInbox) -> int | None:
        """See ClusterEnvironment."""
        if not self._starts_agents:
            return None
        limits = self._limits()
        budget = self._budget(plan)
        if (why := budget.begin()) is not None:
            self._say(why)
            return DO_NOT_RETRY
        hand_over = HandOver(
            run_id=self._allocation.run_id,
            master_addr=self._addr,
            master_port=self._port,
            end_time_s=limits.end_time_s,
            grace_s=limits.grace_s,
            kill_wait_s=limits.kill_wait_s,
            restarts_used=budget.restarts_used(),
        )
        # A stranger who reaches the agents' port must not be able to speak for one of them.
        made = secrets.token_hex(16)
        environ = {**with_secret(self._environ, made), **hand_over.to_environ()}
        if inbox.warned_by is not None:
            asked = Interrupted(inbox.warned_by)
            self._say(str(asked))
            return self._settle(asked.exit_code, plan, inbox)
        inbox.ranks_start()
        step = AgentStep(self._command(), environ)
        return self._settle(step.wait(inbox), plan, inbox)

    def conclude(self, code: int, plan: LaunchPlan, inbox: SignalInbox) -> int:
        """See ClusterEnvironment.

        Under `srun relaunch` nobody outlives the agents, so the first one asks.
        """
        if self._settles_alone:
            return self._settle(code, plan, inbox)
        if code == CONTINUE and self._leaves_it_to_others:
            key, how = self._allocation.key, by_hand(self._allocation, self._facts)
            self._say(f"unless Slurm puts job {key} back into the queue, continue by hand: {how}")
        return code

    @property
    def _settles_alone(self) -> bool:
        """Whether this is the first agent of `srun relaunch`, which nothing outlives."""
        is_first = self._told is None and self._allocation.node_rank == 0
        return is_first and self._has_last_word

    @property
    def _leaves_it_to_others(self) -> bool:
        """Whether this is a batch job's process that does not requeue it, and has to say so."""
        is_first = self._allocation.node_rank == self._allocation.task == 0
        is_batch = self._facts is not None and self._facts.is_batch
        return bool(self._by_hand) and is_first and is_batch and not self._has_last_word

    def _settle(self, code: int, plan: LaunchPlan, inbox: SignalInbox) -> int:
        limits = self._limits()
        settlement = Requeue(
            self._allocation,
            scontrol=self._scontrol,
            inbox=inbox,
            say=self._say,
            end_time_s=limits.end_time_s,
            grace_s=limits.grace_s,
            kill_wait_s=limits.kill_wait_s,
            known=self._facts,
            record=lambda verdict: self._budget(plan).refuse(verdict.cause),
        )
        return settlement.settle(
            Ended(
                code=code,
                own_restarts=self._allocation.restart_count,
                warned_by=inbox.warned_by,
            )
        )

    def _budget(self, plan: LaunchPlan) -> Budget:
        job = self._allocation
        return Budget.of(plan, job=job.job_id, restart_count=job.restart_count)

    def _shown(self, command: Sequence[str]) -> str:
        return shlex.join(mask_arguments(command, secrets_of(self._environ)))

    def _command(self) -> list[str]:
        own = own_command(sys.executable, os.path.abspath(sys.argv[0]))
        if self._container:
            own = [*self._container, "relaunch"]
        return srun_command(
            [*own, *self._argv],
            len(self._allocation.nodes),
            binds_cpus=self._site_facts().binds_cpus,
        )

    def _site_facts(self) -> SiteFacts:
        if self._site is None:
            self._site = self._scontrol.site(self._allocation.partition)
        return self._site


def hostfile_text(path: str) -> str:
    """Return why a task of a step with another order of nodes cannot tell where they meet; pure."""
    return (
        f"the order of the nodes is that of SLURM_HOSTFILE={path}, which cannot be read here or "
        "does not name all of them. Put it where every node reads it, or pass --master-addr with "
        "an address of the first node."
    )


def others_text(key: str, word: str) -> str:
    """Return what to say at the start where this process must not requeue the job; pure."""
    return (
        f"{word} inside Slurm job {key}: after a preemption or the time limit relaunch does not "
        "put the job back into the queue. Leave the word out, and write `exec relaunch` as the "
        "last line of the batch script."
    )
