"""The node agent: torch elastic's agent, with our own start, watch and end of the workers.

From torch come the rendezvous, the store, the assignment of ranks and the exit barrier. The loop
is ours, since torch's treats every signal and every exit code but 0 as a death.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.distributed.elastic.agent.server.api import (
    DEFAULT_ROLE,
    RunResult,
    SimpleElasticAgent,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.agent.server.api import Worker as ElasticWorker

from .attempt import Attempt
from .environment import GroupSettings, WorkerPlace, worker_environment
from .errors import StartError
from .exit_codes import DONE, Outcome, exit_code, should_restart
from .lifeline import Lifeline
from .output import LogFiles, PrefixedConsole, RankOutput
from .plan import LaunchPlan
from .rendezvous import LocalRendezvous
from .signal_inbox import SignalInbox
from .starter import Starter
from .supervision import Bounds
from .worker import Worker

END_S = 2.0
"""How long the last output and the reaping of a killed process may take."""


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    """How an attempt ended, and where to read more about it."""

    outcomes: tuple[Outcome, ...]
    code: int
    error_files: Mapping[int, Path]
    """Rank to the file in which it may have left its reason."""
    output: RankOutput


class NodeAgent(SimpleElasticAgent):
    """Runs the ranks of this node until they are done, restarting them where that helps.

    Used once, on the main thread, by `launch`. `report` says what an attempt's end means and
    returns the exit code for it.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        *,
        inbox: SignalInbox,
        lifeline: Lifeline,
        starter: Starter,
        environ: Mapping[str, str],
        report: Callable[[AttemptEnd], int],
        say: Callable[[str], None],
    ) -> None:
        rendezvous = LocalRendezvous(
            run_id=lifeline.run_id, addr=plan.master_addr, port=plan.master_port
        )
        super().__init__(
            WorkerSpec(
                role=DEFAULT_ROLE,
                local_world_size=plan.local_world_size,
                rdzv_handler=rendezvous,
                entrypoint=plan.script,
                max_restarts=plan.max_restarts,
            )
        )
        self._plan = plan
        self._inbox = inbox
        self._lifeline = lifeline
        self._starter = starter
        self._environ = environ
        self._report = report
        self._say = say
        self._workers: list[Worker] = []
        self._error_files: dict[int, Path] = {}
        self._output: RankOutput | None = None
        self.code = DONE
        """The launcher's exit code, once `run` has returned."""

    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run attempt after attempt; each one's end is reported before the next begins."""
        try:
            while True:
                self._rendezvous(self._worker_group)
                self._start_workers(self._worker_group)
                result = self._monitor_workers(self._worker_group)
                remaining = self._remaining_restarts
                warned = self._inbox.warned_by is not None
                if not should_restart(self.code, remaining_restarts=remaining, warned=warned):
                    break
                self._remaining_restarts -= 1
                count = self._restart_count()
                self._say(
                    f"starting the ranks again: restart {count} of {self._plan.max_restarts}."
                )
        finally:
            self._shutdown()
        if result.state == WorkerState.SUCCEEDED:
            self._exit_barrier()  # type: ignore[no-untyped-call]
        self._release_store()
        return result

    @contextmanager
    def record_duration(self, state: str) -> Iterator[None]:
        """Record nothing: torch's event asks the name server for this host's name each time."""
        yield

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._release_store()
        super()._rendezvous(worker_group)

    def _release_store(self) -> None:
        # The store's port is free only when the last reference is gone.
        self._store = None
        self._worker_group.store = None
        self._worker_group.spec.rdzv_handler.shutdown()

    def _restart_count(self) -> int:
        return self._plan.max_restarts - self._remaining_restarts

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        """Start the ranks; raises StartError when a process or a file cannot be made."""
        try:
            self._start_all(worker_group)
        except OSError as error:
            raise StartError(f"the ranks cannot be started: {error}.") from error
        return {worker.local_rank: worker.pid for worker in self._workers}

    def _start_all(self, worker_group: WorkerGroup) -> None:
        log_dir = self._plan.log_dir
        self._output = LogFiles(log_dir) if log_dir is not None else PrefixedConsole()
        settings = self._settings(worker_group)
        folder = self._lifeline.scratch / f"attempt-{self._restart_count()}"
        folder.mkdir()
        self._workers = []
        self._error_files = {}
        for worker in worker_group.workers:
            place = _place(worker, worker_group)
            error_file = folder / f"rank-{place.rank}-error.json"
            self._error_files[place.rank] = error_file
            environment = worker_environment(
                place, settings, error_file=error_file, inherited=self._environ
            )
            with self._output.streams(place.rank) as streams:
                started = self._starter.start(
                    environment, streams, rank=place.rank, local_rank=place.local_rank
                )
            self._lifeline.add(started.pid)
            self._workers.append(started)
            worker.id = started.pid
        self._starter.all_started()
        worker_group.state = WorkerState.HEALTHY

    def _settings(self, worker_group: WorkerGroup) -> GroupSettings:
        return GroupSettings(
            master_addr=str(worker_group.master_addr),
            master_port=int(worker_group.master_port or 0),
            restart_count=self._restart_count(),
            max_restarts=self._plan.max_restarts,
            run_id=self._lifeline.run_id,
            strategy=self._plan.strategy,
            precision=self._plan.precision,
            run_dir=self._plan.run_dir,
            warning_file=self._lifeline.scratch / "warning.json",
        )

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Watch the attempt to its end, clear up behind it and report it."""
        assert self._output is not None
        attempt = Attempt(
            self._workers,
            inbox=self._inbox,
            bounds=Bounds(grace_s=self._plan.grace_s),
            warning_file=self._lifeline.scratch / "warning.json",
            awaits_handler=self._plan.uses_run,
            say=self._say,
        )
        outcomes = attempt.supervise()
        self._stop_workers(worker_group)
        self._output.finish(END_S)
        code = exit_code(outcomes, warned_by=self._inbox.warned_by, killed_now=self._inbox.kill_now)
        self.code = self._report(
            AttemptEnd(
                outcomes=outcomes, code=code, error_files=self._error_files, output=self._output
            )
        )
        worker_group.state = WorkerState.SUCCEEDED if self.code == DONE else WorkerState.FAILED
        return RunResult(state=worker_group.state)

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """Kill what the ranks have left behind, and the ranks themselves if they still run."""
        for worker in self._workers:
            worker.kill()
        self._lifeline.sweep()
        for worker in self._workers:
            worker.release(END_S)
            self._lifeline.remove(worker.pid)
        self._workers = []

    def _shutdown(self, death_sig: Any = None, timeout: int = 30) -> None:
        self._stop_workers(self._worker_group)


def _place(worker: ElasticWorker, group: WorkerGroup) -> WorkerPlace:
    return WorkerPlace(
        rank=worker.global_rank,
        local_rank=worker.local_rank,
        world_size=worker.world_size,
        local_world_size=group.spec.local_world_size,
        group_rank=int(group.group_rank or 0),
        group_world_size=int(group.group_world_size or 1),
        role_rank=worker.role_rank,
        role_world_size=worker.role_world_size,
        role_name=group.spec.role,
    )
