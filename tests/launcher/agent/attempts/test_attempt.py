"""One attempt with real processes: what other nodes do to it, and every wait has an end."""

import os
import re
import signal
import sys
import time

import pytest

from launcher.agent.attempts.attempt import Attempt
from launcher.agent.attempts.hang_detection import HangWatch
from launcher.agent.attempts.supervision import Bounds
from launcher.agent.cluster import NoAdvice
from launcher.contract.files.end_time import ToldEnd, end_time_file
from launcher.contract.files.heartbeat import Heartbeat
from launcher.contract.launcher_signals import SignalInbox
from launcher.rendezvous.members.remote_status import RemoteStatus
from launcher.workers.worker import Worker, WorkerStreams

pytestmark = pytest.mark.timeout(60)

STAYS = "import time; time.sleep(100)"
DEAF = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); {STAYS}"
SHORT = Bounds(leave_s=0.3, terminate_s=0.3, lost_s=0.2)


@pytest.fixture
def attempt_of(tmp_path):
    """Return a function that runs an attempt: (its outcomes, what it said)."""
    workers, ended = [], []

    def run(*sources, **more):
        for rank, source in enumerate(sources):
            read, write = os.pipe()
            worker = Worker.start(
                [sys.executable, "-S", "-c", source],
                dict(os.environ),
                WorkerStreams(stdout=write),
                rank=rank,
                local_rank=rank,
            )
            os.close(write)
            workers.append(worker)
            os.read(read, 1)  # it has begun, or ended
            os.close(read)
        said = []
        attempt = Attempt(
            workers,
            inbox=SignalInbox(),
            warning_file=tmp_path / "warning",
            awaits_handler=False,
            say=said.append,
            **{"bounds": SHORT, **more},
        )
        outcomes = attempt.supervise()
        ended.extend(outcomes)
        return [outcome.status for outcome in outcomes], said

    run.outcomes = ended
    yield run
    for worker in workers:
        worker.kill()
        worker.release(2.0)


def prints(source):
    return f"print(flush=True); {source}"


def test_ranks_that_stay_when_another_node_has_left_are_named_and_ended(attempt_of):
    left = RemoteStatus(left=True)
    statuses, said = attempt_of(prints(STAYS), prints("pass"), elsewhere=lambda: left)
    assert statuses == [-signal.SIGTERM, 0]
    assert said == ["rank 0 did not exit within 0.3 s after the others; ending it now."]


@pytest.mark.parametrize(
    ("there", "source", "status"),
    [
        (RemoteStatus(failed=True), prints(STAYS), -signal.SIGTERM),
        (RemoteStatus(failed=True), DEAF, -signal.SIGKILL),
        (RemoteStatus(lost=True), prints(STAYS), -signal.SIGTERM),
        (RemoteStatus(lost=True), DEAF, -signal.SIGKILL),
        (RemoteStatus(hung="node 1", failed=True), prints(STAYS), -signal.SIGTERM),
    ],
)
def test_a_failure_elsewhere_ends_the_ranks_here(attempt_of, there, source, status):
    assert attempt_of(source, elsewhere=lambda: there)[0] == [status]


def test_a_rank_that_not_even_sigkill_ends_is_left(attempt_of, monkeypatch):
    """As one that waits in the kernel, for a network file system that is gone."""
    monkeypatch.setattr(Worker, "kill", lambda worker: None)
    bounds = Bounds(terminate_s=0.2, abandon_s=0.3)
    there = RemoteStatus(failed=True)
    statuses, said = attempt_of(DEAF, elsewhere=lambda: there, bounds=bounds)
    assert statuses == [None]
    (line,) = said
    assert line.startswith("rank 0 (pid ")
    assert " still exists 0.3 s after SIGKILL: it hangs in the kernel, in a driver or a" in line
    assert re.search(
        r"system \(thread \d+ \(.+\), State: S \(sleeping\), in .+\). Not waiting", line
    )


def test_a_hang_elsewhere_is_one_here(attempt_of, tmp_path):
    asked = []
    statuses, _ = attempt_of(
        prints(STAYS),
        prints(STAYS),
        elsewhere=lambda: RemoteStatus(hung="node 1", failed=True),
        hang=HangWatch(100.0, {}),
        write_stacks=lambda workers, where: asked.append((where, [w.rank for w in workers])),
    )
    assert statuses == [-signal.SIGKILL, -signal.SIGKILL]
    assert asked == [("node 1", [0, 1])]


def test_a_rank_that_has_ended_well_does_not_hide_that_the_others_hang(attempt_of, tmp_path):
    beats = {rank: tmp_path / f"beat-{rank}" for rank in (0, 1)}
    for rank, path in beats.items():
        Heartbeat(path).beat(rank)
    asked = []
    began = time.monotonic()
    statuses, _ = attempt_of(
        prints("pass"),
        prints(STAYS),
        hang=HangWatch(0.6, beats),
        write_stacks=lambda workers, where: asked.append((where, [w.rank for w in workers])),
    )
    assert time.monotonic() - began >= 0.6
    assert statuses == [0, -signal.SIGKILL]
    assert asked == [("", [1])]


def test_a_sigkill_that_the_launcher_has_not_sent_is_none_of_its_own(attempt_of):
    """As by the kernel, when memory runs out: it shows late, after a peer has fallen already."""
    dies = "import os, signal, time\n"
    dies += "signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
    statuses, _ = attempt_of(dies + prints(STAYS), prints("raise SystemExit(1)"), bounds=Bounds())
    assert statuses == [-signal.SIGKILL, 1]
    assert [outcome.by_launcher for outcome in attempt_of.outcomes] == [False, False]


def test_a_rank_is_known_to_have_ended_between_two_looks(attempt_of):
    before = time.monotonic()
    attempt_of(
        prints("time.sleep(0.3)".join(("import time; ", "; raise SystemExit(3)"))), prints(STAYS)
    )
    first, other = attempt_of.outcomes
    assert before < first.alive_s < first.seen_s < time.monotonic()
    assert not first.by_launcher
    assert other.by_launcher


DIES = prints("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")


def test_where_nothing_was_begun_the_others_of_a_rank_that_was_asked_to_leave_are_ended(attempt_of):
    bounds = Bounds(leave_s=1000.0, terminate_s=0.2)
    statuses, said = attempt_of(DEAF, DIES, bounds=bounds, nothing_begun=lambda: True)
    assert statuses == [-signal.SIGKILL, -signal.SIGTERM]
    assert said == []
    ended, died = attempt_of.outcomes
    assert (ended.by_launcher, died.by_launcher) == (True, False)


@pytest.mark.parametrize("nothing_begun", [True, False])
def test_a_node_where_nothing_was_begun_takes_this_one_along(attempt_of, nothing_begun):
    bounds = Bounds(leave_s=1000.0 if nothing_begun else 0.3, terminate_s=0.2)
    there = RemoteStatus(left=True, early=True)
    more = {"elsewhere": lambda: there, "bounds": bounds}
    statuses, said = attempt_of(DEAF, nothing_begun=lambda: nothing_begun, **more)
    late = "rank 0 did not exit within 0.3 s after the others; ending it now."
    assert (statuses, said) == ([-signal.SIGKILL], [] if nothing_begun else [late])


@pytest.mark.parametrize("code", [0, 75])
def test_a_rank_that_told_its_leaving_and_died_does_not_end_the_others_at_once(attempt_of, code):
    """One that is ended while it leaves is no failure: the others leave in their own time."""
    bounds = Bounds(leave_s=1000.0, terminate_s=1000.0)
    leaves = prints("import time; time.sleep(0.5); raise SystemExit(75)")
    statuses, _ = attempt_of(leaves, DIES, bounds=bounds, left={0: None, 1: code}.get)
    assert statuses == [75, -signal.SIGTERM]
    assert [outcome.ending_since_s for outcome in attempt_of.outcomes] == [None, None]


def test_an_end_of_the_jobs_time_that_moves_is_passed_on(attempt_of, tmp_path):
    told = ToldEnd(end_time_s=2000.0, asked_at_s=1000.0)

    class Moves(NoAdvice):
        def __init__(self):
            self.news = [(told, "it moved"), (told, "")]

        def end_time(self):
            return self.news.pop(0) if self.news else None

    statuses, said = attempt_of(prints("import time; time.sleep(1)"), advice=Moves())
    assert statuses == [0]
    assert said == ["it moved"]
    assert ToldEnd.read(end_time_file(tmp_path / "warning")) == told


SEES = """
import os, pathlib, signal
def see(*_):
    pathlib.Path({seen!r}).write_text(str(os.path.exists({path!r})))
    os._exit(0)
signal.signal(signal.SIGTERM, see)
"""


@pytest.mark.parametrize(
    ("code", "there"),
    [(1, True), (75, False)],  # of the other rank; 75 with nothing to save: a notice, for all
)
def test_the_end_of_an_attempt_that_failed_is_no_notice(attempt_of, tmp_path, code, there):
    """A rank passes a notice that it alone gets on to the launcher, which would not restart."""
    path, seen = tmp_path / "warning", tmp_path / "seen"
    attempt_of(
        SEES.format(seen=str(seen), path=str(path)) + prints(STAYS),
        prints(f"raise SystemExit({code})"),
        bounds=Bounds(),
        nothing_begun=lambda: code == 75,
    )
    assert seen.read_text() == str(there)
    assert not path.exists(), "the next attempt hears notices again"
