"""A start of the command inside a job of Grid Engine."""

import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...agent.cluster import (
    ClusterEnvironment,
    NoAdvice,
    PreemptionCause,
    is_by_hand,
)
from ...agent.hand_over import HandOver
from ...agent.master_address import find_address, free_port
from ...agent.requeue_budget import Budget
from ...contract.environment import Limits
from ...contract.exit_codes import DO_NOT_RETRY
from ...contract.interrupted import Interrupted
from ...contract.launcher_signals import SignalInbox
from ...contract.masking import mask_arguments, secrets_of
from ...plan.given_options import Words
from ...plan.launch_plan import LaunchPlan
from ...plan.python_command import own_command
from ...plan.secret import with_secret
from ..given import check_nodes, node_options, with_options
from .agents import Agents, node_environment, qrsh_command
from .job import Job, read_job
from .verdict import RESCHEDULE, WITHOUT_NOTIFY, back_text, notice, wants_back

HOW_TO_ASK = "A parallel environment with `allocation_rule 1` gives N hosts for: qsub -pe NAME N"


def find(
    environ: Mapping[str, str], argv: Sequence[str], say: Callable[[str], None]
) -> ClusterEnvironment:
    """Return this process's place in its job; raises UsageError on foreign variables."""
    return GridEngineEnvironment(read_job(environ), environ, argv, say)


class NotifyAdvice(NoAdvice):
    """Knows by the signal and by the queue's `notify` what comes, and when."""

    def __init__(self, notify_s: int) -> None:
        self._notify_s = notify_s

    def ask(self, signum: int) -> None:
        """See PreemptionCause."""
        self._found = notice(signum, self._notify_s, time.time())


class GridEngineEnvironment(ClusterEnvironment):
    """What Grid Engine adds to a start."""

    def __init__(
        self,
        job: Job,
        environ: Mapping[str, str],
        argv: Sequence[str],
        say: Callable[[str], None],
    ) -> None:
        self._job = job
        self._environ = environ
        self._argv = argv
        self._say = say
        self._told = HandOver.from_environ(environ, job.key)
        """In an agent that a job script's process has started."""
        self._by_hand = False
        self._addr, self._port = "", 0

    @property
    def starts_agents(self) -> bool:
        """See ClusterEnvironment."""
        return len(self._job.hosts) > 1 and self._told is None and not self._by_hand

    @property
    def _decides(self) -> bool:
        """Whether this process's exit code is the job's."""
        return self._job.is_batch and self._told is None

    def supply(self, words: Words) -> Words:
        """See ClusterEnvironment."""
        self._by_hand = is_by_hand(words)
        if self._by_hand or self._told is not None:
            return words
        job = self._job
        source = f"Grid Engine job {job.key}"
        check_nodes(words, len(job.hosts), source, HOW_TO_ASK)
        more = {"--rdzv-id": f"{job.key}-{int(time.time())}"}
        if self.starts_agents:
            self._addr = words.text("--master-addr") or find_address(
                job.hosts, is_first=True, node_addr=lambda name: None
            )
            self._port = free_port(self._addr, job.port)
            more |= node_options(0, len(job.hosts), self._addr, self._port)
        return with_options(words, more, source)

    def describe(self) -> tuple[str, ...]:
        """See ClusterEnvironment."""
        job = self._job
        lines = [f"Grid Engine job {job.key}", f"its nodes: {','.join(job.hosts)}"]
        if self.starts_agents:
            command = mask_arguments(self._command(job.hosts[1]), secrets_of(self._environ))
            lines.append(f"starts: {shlex.join(command)}")
        return tuple(lines)

    def adjust(self, plan: LaunchPlan) -> LaunchPlan:
        """See ClusterEnvironment."""
        if self._told is not None:
            used, grace_s = self._told.restarts_used, self._told.grace_s
        else:
            used, grace_s = self._budget(plan).restarts_used(), self._grace_s
        left = max(0, plan.max_restarts - used)
        if left != plan.max_restarts and plan.nodes.node_rank in (0, None):
            self._say(f"--max-restarts {plan.max_restarts}: {used} were used before the requeue.")
        return replace(plan, limits=Limits(grace_s=grace_s), max_restarts=left)

    def advice(self) -> PreemptionCause:
        """See ClusterEnvironment."""
        return NotifyAdvice(self._job.notify_s) if self._job.is_batch else NoAdvice()

    def run_agents(self, plan: LaunchPlan, inbox: SignalInbox) -> int | None:
        """See ClusterEnvironment."""
        if not self._decides:
            return None
        budget = self._budget(plan)
        if (why := budget.begin()) is not None:
            self._say(why)
            return DO_NOT_RETRY
        if not self._job.notify_s:
            self._say(WITHOUT_NOTIFY)
        if not self.starts_agents:
            return None
        if inbox.warned_by is not None:
            asked = Interrupted(inbox.warned_by)
            self._say(str(asked))
            return self.conclude(asked.exit_code, plan, inbox)
        inbox.ranks_start()
        return self.conclude(self._start(plan, budget.restarts_used()).wait(inbox), plan, inbox)

    def conclude(self, code: int, plan: LaunchPlan, inbox: SignalInbox) -> int:
        """See ClusterEnvironment."""
        if not self._decides or not wants_back(code, inbox.warned_by):
            return code
        if (why := self._budget(plan).refuse("preemption notice")) is not None:
            self._say(why)
            return DO_NOT_RETRY
        self._say(back_text(self._job.key))
        return RESCHEDULE

    @property
    def _grace_s(self) -> float | None:
        return float(self._job.notify_s) if self._job.notify_s else None

    def _budget(self, plan: LaunchPlan) -> Budget:
        job = self._job
        return Budget.of(
            plan,
            job=job.number,
            task=job.task,
            restart_count=int(job.was_restarted),
            scheduler="grid engine",
        )

    def _start(self, plan: LaunchPlan, restarts_used: int) -> Agents:
        job = self._job
        handed_over = HandOver(
            run_id=job.key,
            master_addr=self._addr,
            master_port=self._port,
            grace_s=self._grace_s,
            restarts_used=restarts_used,
        )
        # A stranger who reaches the agents' port must not be able to speak for one of them.
        base = {**with_secret(self._environ, secrets.token_hex(16)), **handed_over.to_environ()}
        run_id = plan.nodes.run_id or job.key
        environs = [
            {**base, **node_environment(rank, len(job.hosts), self._addr, self._port, run_id)}
            for rank in range(len(job.hosts))
        ]
        others = [self._command(host) for host in job.hosts[1:]]
        return Agents(job.hosts, [self._own(), *others], environs, self._say)

    def _own(self) -> list[str]:
        return [*own_command(sys.executable, os.path.abspath(sys.argv[0])), *self._argv]

    def _command(self, host: str) -> list[str]:
        return qrsh_command(host, self._own(), os.getcwd())
