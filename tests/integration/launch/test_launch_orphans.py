"""Whatever dies, nothing of the run is left."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(120)

TWO = ("--nproc-per-node", "2")
WITHIN_S = 10.0
"""The promise is two seconds, and the slow rounds hold it to that; here others run as well."""

# A plain child, and a daemon which has left the rank's session and process group. Their file
# appears as a whole: a test that finds it reads it.
WITH_CHILDREN = """
import subprocess
sleep = [sys.executable, "-S", "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(sleep)
daemon = subprocess.Popen(sleep, start_new_session=True)
pids = pathlib.Path(f"pids-{rank}")
pids.write_text(f"{child.pid} {daemon.pid}")
pids.rename(f"children-{rank}")
"""
STAYS = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(300)\n"
READY = ("children-0", "children-1")


def assert_all_gone(launched):
    end = time.monotonic() + WITHIN_S
    while left := launched.processes():
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.02)


@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
def test_sigkill_of_the_launcher(launch):
    launched = launch(*TWO, launch.script(WITH_CHILDREN + STAYS))
    launched.wait_for_files(*READY, cwd=launch.folder)
    assert len(launched.processes()) == 6
    assert list(launch.scratch.iterdir())
    launched.send(signal.SIGKILL)
    assert_all_gone(launched)
    assert launched.wait() == -signal.SIGKILL
    end = time.monotonic() + WITHIN_S
    while list(launch.scratch.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_sigkill_of_the_launcher_while_ranks_start(launch):
    script = launch.script("pathlib.Path(f'children-{rank}').touch()\n" + STAYS)
    launched = launch("--nproc-per-node", "4", script)
    launched.wait_for_files("children-0", cwd=launch.folder)
    launched.send(signal.SIGKILL)
    assert_all_gone(launched)
    launched.wait()


@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
def test_sigkill_of_launcher_and_guardian_ends_the_ranks(launch):
    launched = launch(*TWO, launch.script(WITH_CHILDREN + STAYS))
    launched.wait_for_files(*READY, cwd=launch.folder)
    ranks = set(launched.processes())
    for name in READY:
        ranks -= {int(pid) for pid in (launch.folder / name).read_text().split()}
    for pid in children_of(launched.pid) - ranks:
        os.kill(pid, signal.SIGKILL)
    launched.send(signal.SIGKILL)
    end = time.monotonic() + WITHIN_S
    while ranks & set(launched.processes()):
        assert time.monotonic() < end, "a rank outlived its launcher"
        time.sleep(0.02)
    launched.wait()
    for pid in launched.processes():
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "code"),
    [("", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), signal.SIGKILL)", 137)],
)
def test_children_of_ended_ranks(launch, end, code):
    launched = launch(*TWO, launch.script(WITH_CHILDREN + end))
    assert launched.wait() == code
    assert launched.processes() == []
    assert list(launch.scratch.iterdir()) == []


@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
def test_children_are_gone_before_a_restart(launch):
    script = launch.script(
        WITH_CHILDREN.replace(
            "children-{rank}", "children-{os.environ['TORCHELASTIC_RESTART_COUNT']}"
        )
        + """
def runs(pid):
    try: return pathlib.Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError: return False
from launcher import beat
beat(1)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0": sys.exit(1)
print(any(runs(pid) for pid in pathlib.Path("children-0").read_text().split()))
"""
    )
    launched = launch("--max-restarts", "1", script)
    assert launched.wait() == 0
    assert launched.stdout == "False\n"


def test_other_runs_are_left_alone(launch):
    stays = launch(launch.script(STAYS.replace("300", "3") + "print('done')", "other.py"))
    ends = launch(launch.script("pass"))
    assert ends.wait() == 0
    assert stays.wait() == 0
    assert stays.stdout == "done\n"


def test_guardian_outlives_the_signals_sent_to_everyone(launch):
    launched = launch(*TWO, launch.script(WITH_CHILDREN + STAYS))
    launched.wait_for_files(*READY, cwd=launch.folder)
    helpers = children_of(launched.pid) - set(launched.processes())
    guardians = {pid for pid in helpers if "guardian.py" in command_of(pid)}
    assert len(guardians) == 1
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(*guardians, signum)
    time.sleep(0.2)
    assert children_of(launched.pid) >= guardians
    launched.send(signal.SIGKILL)
    assert_all_gone(launched)
    launched.wait()


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


def children_of(pid):
    return {int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


@pytest.mark.quick_cases("0.0-warm", "0.04-cold", "0.08-warm", "0.15-cold", "0.2-warm", "0.3-cold")
@pytest.mark.parametrize("launch", ["warm", "cold"], indirect=True)
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3])
def test_sigkill_of_the_launcher_at_any_time(launch, after_s):
    launched = launch("--nproc-per-node", "4", launch.script(WITH_CHILDREN + STAYS))
    time.sleep(after_s)
    launched.send(signal.SIGKILL)
    launched.wait()
    # A rank that was just started finds its parent gone and leaves: gone is what stays gone.
    end = time.monotonic() + WITHIN_S
    empty_looks = 0
    while empty_looks < 10:
        left = launched.processes_and_guardian()
        empty_looks = 0 if left else empty_looks + 1
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.02)


def tree_of(pid):
    try:
        children = children_of(pid)
    except OSError:
        return {pid}
    return {pid}.union(*(tree_of(child) for child in children))


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


ROUNDS = [("warm", seed) for seed in range(12)]
MORE_ROUNDS = [("warm" if seed % 2 else "cold", seed) for seed in range(12, 62)]
"""50 more: scripts/test -m slow -k any_process."""


@pytest.mark.quick_cases("warm-0", "warm-1", "warm-2", "warm-3", "warm-4")
@pytest.mark.parametrize(
    ("launch", "seed"),
    [*ROUNDS, *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE_ROUNDS)],
    indirect=["launch"],
)
def test_sigkill_of_any_process_at_any_time(launch, seed):
    within_s = WITHIN_S if ("warm", seed) in ROUNDS else 2.0
    chance = random.Random(seed)
    script = launch.script(WITH_CHILDREN + STAYS)
    launched = launch(*TWO, "--max-restarts", "2", "--grace", "0.2", script)
    time.sleep(chance.uniform(0.0, 0.4))
    seen = tree_of(launched.pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(chance.choice(sorted(seen)), signal.SIGKILL)
    time.sleep(chance.uniform(0.0, 0.4))
    seen |= tree_of(launched.pid)
    if not launched.ended():
        launched.send(signal.SIGTERM)
    launched.wait()
    end = time.monotonic() + within_s
    while left := [pid for pid in {*seen, *launched.processes()} if lives(pid)]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.02)
