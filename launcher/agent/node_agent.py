"""The node agent: torch elastic's agent, with our own start, watch and end of the workers.

From torch come the rendezvous, the store, the assignment of ranks and the exit barrier. The loop
is ours, since torch's treats every signal and every exit code but 0 as a death.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
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

from ..contract.environment import GroupSettings, RankFiles, WorkerPlace, worker_environment
from ..contract.exit_codes import (
    CONTINUE,
    DONE,
    RankEnd,
    exit_code,
    first_failure,
    first_leaving,
    spare,
)
from ..contract.files.error_file import read_error
from ..contract.files.heartbeat import read_beat
from ..contract.files.leaving import read_leaving, told_leaving
from ..contract.files.run_dir_file import working_folder
from ..contract.interrupted import Interrupted
from ..contract.launcher_signals import SignalInbox
from ..contract.peer_loss import is_peer_loss
from ..errors import LauncherError, StartError
from ..plan.launch_plan import LaunchPlan
from ..rendezvous.messages import NodeEnd
from ..rendezvous.network import interface_of_run
from ..run_folder.plain_files import replace_text
from ..workers.gpu_memory import AcceleratorMemory
from ..workers.lifeline import Lifeline
from ..workers.starter import Starter
from ..workers.worker import Worker
from .attempts.attempt import POLL_S, Attempt
from .attempts.evidence import oom_kills
from .attempts.hang_detection import HangWatch
from .attempts.history import AttemptHistory
from .attempts.nccl_traces import ask_for_traces, wait_for_traces
from .attempts.result import AttemptEnd, failed_before, words_of
from .attempts.stack_dump import ask_for_stacks
from .attempts.supervision import Bounds
from .cluster import PreemptionCause
from .coordination import Coordination, MultiNode, SingleNode
from .output.attempt_output import open_output
from .output.rank_output import RankOutput
from .worker_settings import group_settings

END_S = 2.0
"""How long the last output and the reaping of a killed process may take."""


class NodeAgent(SimpleElasticAgent):
    """Runs the ranks of this node until they are done, restarting them where that helps.

    Used once, on the main thread, by `launch`. `report` returns an attempt's exit code and what
    there is to say about it.
    """

    def __init__(
        self,
        plan: LaunchPlan,
        *,
        inbox: SignalInbox,
        lifeline: Lifeline,
        starter: Starter,
        environ: Mapping[str, str],
        report: Callable[[AttemptEnd], tuple[int, str]],
        advice: PreemptionCause,
        say: Callable[[str], None],
    ) -> None:
        history = AttemptHistory(plan, inbox, say)
        self._coordination: Coordination = (
            MultiNode(plan, history, inbox, self._can_regroup)
            if plan.nodes.several
            else SingleNode(plan, history, lifeline.run_id)
        )
        super().__init__(
            WorkerSpec(
                role=plan.role,
                local_world_size=plan.local_world_size,
                rdzv_handler=self._coordination.rendezvous,
                entrypoint=plan.program.name,
                max_restarts=plan.max_restarts,
            )
        )
        self._plan = plan
        self._history = history
        self._inbox = inbox
        self._lifeline = lifeline
        self._starter = starter
        self._environ = environ
        self._report = report
        self._advice = advice
        self._say = say
        self._workers: list[Worker] = []
        self._files: dict[int, RankFiles] = {}
        self._output: RankOutput | None = None
        self._attempt = 0
        self._number: int | None = None
        self._oom_kills_before = 0
        self._num_own_keys = 0
        self._started_at = 0.0
        self._end: AttemptEnd | None = None
        self._hang: HangWatch | None = None
        self._memory = AcceleratorMemory(environ, say)
        self.code = DONE
        """The launcher's exit code, once `run` has returned."""

    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """Run attempt after attempt; each one's end is reported before the next begins."""
        try:
            if self._plan.max_restarts or self._plan.nodes.several:
                self._memory.ask()
            self._coordination.open()
            while True:
                self._rendezvous(self._worker_group)
                self._memory.settle()
                self._start_workers(self._worker_group)
                result = self._monitor_workers(self._worker_group)
                decided = self._coordination.conclude(self._node_end())
                self.code = decided.code
                if not decided.restart:
                    break
                self._attempt += 1
                self._wait(decided.wait_s)
                self._remaining_restarts = max(0, self._plan.max_restarts - self._attempt)
                self._say(f"starting the ranks again: restart {self._attempt}{self._limit()}.")
        except Interrupted as asked:
            if self._attempt == 0:
                raise
            # The failure before was to be made good by this restart, and still will be.
            self.code = asked.exit_code
            self._say(asked.before_restart(self._attempt))
            result = RunResult(state=WorkerState.STOPPED)
        finally:
            self._shutdown()
            self._memory.close()
            self._release_store()
            self._coordination.close()
        return result

    def _limit(self) -> str:
        # Going on with fewer nodes is not one of the restarts that are counted.
        most = self._plan.max_restarts
        return f" of {most}" if self._attempt <= most else ""

    def _wait(self, seconds: float) -> None:
        """Wait before a restart; raises Interrupted when the run is asked to leave meanwhile."""
        if seconds:
            self._say(f"waiting {seconds:g} s before the next attempt.")
        end = time.monotonic() + seconds
        while self._inbox.warned_by is None and time.monotonic() < end:
            time.sleep(POLL_S)
        self._memory.wait(lambda: self._inbox.warned_by is not None)
        if self._inbox.warned_by is not None:
            raise Interrupted(self._inbox.warned_by)

    @contextmanager
    def record_duration(self, state: str) -> Iterator[None]:
        """Record nothing: torch's event asks the name server for this host's name each time."""
        yield

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self._release_store()
        try:
            super()._rendezvous(worker_group)
        except RuntimeError as error:
            if isinstance(error, LauncherError):
                raise
            raise StartError(f"the nodes could not agree on the ranks: {error}") from error

    def _release_store(self) -> None:
        # The store's port is free only when the last reference is gone.
        self._store = None
        self._worker_group.store = None
        self._worker_group.spec.rdzv_handler.shutdown()

    def _num_store_keys(self) -> int:
        # On node 0, which has the store: another one may have lost its way there.
        store: Any = self._worker_group.store
        here = store is not None and not self._worker_group.group_rank
        return int(store.num_keys()) if here else 0

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        """Start the ranks; raises StartError when a process, thread or file cannot be made."""
        try:
            self._start_all(worker_group)
        except (OSError, RuntimeError) as error:  # RuntimeError: "can't start new thread"
            if isinstance(error, LauncherError):
                raise
            raise StartError(f"the ranks cannot be started: {error}.") from error
        return {worker.local_rank: worker.pid for worker in self._workers}

    def _start_all(self, worker_group: WorkerGroup) -> None:
        self._started_at = time.monotonic()  # the nodes have just agreed: the same moment on all
        self._output, self._number = open_output(
            self._plan,
            group_rank=int(worker_group.group_rank or 0),
            ranks={worker.global_rank: worker.local_rank for worker in worker_group.workers},
            environ=self._environ,
            say=self._say,
        )
        self._oom_kills_before = oom_kills()
        self._num_own_keys = self._num_store_keys()
        settings = self._settings(worker_group)
        folder = self._lifeline.scratch / f"restart-{self._attempt}"
        folder.mkdir()
        self._workers = []
        self._files = {}
        for worker in worker_group.workers:
            place = _place(worker, worker_group)
            self._files[place.rank] = files = RankFiles.of(folder, place.rank)
            environment = worker_environment(place, settings, files=files, inherited=self._environ)
            with self._output.streams(place.rank) as streams:
                started = self._starter.start(
                    environment, streams, rank=place.rank, local_rank=place.local_rank
                )
            self._lifeline.add(started.pid)
            self._workers.append(started)
            worker.id = started.pid
        self._starter.all_started()
        if not worker_group.group_rank:
            ranks = worker_group.workers[0].world_size
            self._history.began(attempt=self._number, ranks=ranks)
        self._hang = None
        if (timeout_s := self._plan.hang_timeout_s) is not None:
            heartbeats = {rank: files.heartbeat for rank, files in self._files.items()}
            self._hang = HangWatch(timeout_s, heartbeats)
        worker_group.state = WorkerState.HEALTHY

    def _write_stacks(self, workers: Sequence[Worker], elsewhere: str) -> None:
        """Write where the ranks are when none made progress: beside their logs, else here."""
        assert self._hang is not None
        assert self._output is not None
        files, folder = self._files, self._output.folder()
        asked = ask_for_traces({w.rank: files[w.rank].nccl_pipe for w in workers})
        text = ask_for_stacks({worker: files[worker.rank].stacks for worker in workers})
        traces = wait_for_traces(folder, asked)
        sentence = self._hang.text(elsewhere)
        try:
            if folder is not None:
                replace_text(folder / "stacks.txt", text + "\n")
                self._say(f"{sentence} Where they were: {folder / 'stacks.txt'}{traces}")
                return
        except OSError:
            pass
        self._say(f"{text}\n{sentence}")

    def _settings(self, worker_group: WorkerGroup) -> GroupSettings:
        return group_settings(
            self._plan,
            run_id=self._lifeline.run_id,
            scratch=self._lifeline.scratch,
            master_addr=str(worker_group.master_addr),
            master_port=int(worker_group.master_port or 0),
            restart_count=self._attempt,
            attempt=self._number,
            interface=interface_of_run(self._plan),
            start_dir=working_folder(),
            log_folder=None if self._output is None else self._output.folder(),
        )

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        """Watch the attempt to its end, clear up behind it and report it."""
        assert self._output is not None
        attempt = Attempt(
            self._workers,
            inbox=self._inbox,
            bounds=Bounds.of(
                grace_s=self._plan.grace_s,
                terminate_s=self._plan.terminate_s,
                uses_run=self._plan.uses_run,
            ),
            warning_file=self._lifeline.scratch / "warning.json",
            awaits_handler=self._plan.uses_run,
            say=self._say,
            hang=self._hang,
            write_stacks=self._write_stacks,
            elsewhere=self._coordination.elsewhere,
            advice=self._advice,
            left=lambda rank: told_leaving(self._files[rank].leaving),
            nothing_begun=self._has_nothing_begun,
        )
        ended = attempt.supervise()
        self._stop_workers(worker_group)
        self._output.finish(END_S)
        warned_by, kill_now = self._inbox.warned_by, self._inbox.kill_now
        outcomes = spare(
            [self._with_what_it_told(outcome) for outcome in ended],
            nothing_begun=(nothing_begun := self._has_nothing_begun()),
            warned=warned_by is not None and not kill_now and not attempt.hung,
        )
        code = exit_code(outcomes, warned_by=warned_by, killed_now=kill_now)
        end = AttemptEnd(
            outcomes=outcomes,
            code=code,
            files=self._files,
            output=self._output,
            lived_s=time.monotonic() - self._started_at,
            hung=attempt.hung,
            joined=self._num_store_keys() > self._num_own_keys,
            num_oom_kills=oom_kills() - self._oom_kills_before,
            nothing_begun=nothing_begun,
            failed_before_notice=failed_before(outcomes, attempt.warned_at_s),
        )
        self._end = end
        worker_group.state = WorkerState.SUCCEEDED if code == DONE else WorkerState.FAILED
        return RunResult(state=worker_group.state)

    def _with_what_it_told(self, outcome: RankEnd) -> RankEnd:
        assert self._output is not None
        files = self._files[outcome.rank]
        outcome = outcome.leaving(read_leaving(files.leaving))
        if (record := read_error(files.error)) is not None:
            outcome = outcome.told(record.told_s, record.exit_code)
        words = words_of(files, self._output, outcome.rank)
        return replace(outcome, lost_peer=is_peer_loss(words))

    def _can_regroup(self) -> bool:
        """Return whether the ranks would save and leave now, to resume with more nodes."""
        return self._plan.uses_run and not self._has_nothing_begun()

    def _has_nothing_begun(self) -> bool:
        """Return whether the script saves by itself and no rank of this attempt has made a step."""
        beats = (read_beat(files.heartbeat) for files in self._files.values())
        return self._plan.uses_run and not any(b is not None and b.step is not None for b in beats)

    def _node_end(self) -> NodeEnd:
        """Return what the coordination needs to know about the attempt."""
        end = self._end
        assert end is not None
        code, text = self._report(end)
        first = first_failure(end.outcomes)
        failure = None if first is None else first.failure()
        left_s = first_leaving(end.outcomes)
        return NodeEnd(
            code=code,
            num_ranks=len(end.outcomes),
            failure=None if failure is None else failure.since(self._started_at),
            lived_s=end.lived_s,
            joined=end.joined,
            gives_signs=self._plan.uses_run or bool(end.beats()),
            step=end.step(),
            error=end.error(),
            report=text,
            number=self._number,
            hung=end.hung,
            failed_before_notice=end.failed_before_notice,
            run_dir=None if (folder := end.run_dir()) is None else str(folder),
            left_s=None if left_s is None else left_s - self._started_at,
            early=end.nothing_begun and code == CONTINUE,
        )

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """Kill what the ranks have left behind, and the ranks themselves if they still run."""
        if not self._workers:
            return
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
