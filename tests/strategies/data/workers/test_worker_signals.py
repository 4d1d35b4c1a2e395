"""Loader workers of real processes: signalled at their worst moments, ended, left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from strategies.data.workers.worker_shield import SHIELDED

ROOT = Path(__file__).parents[4]
METHODS = ("fork", "spawn", "forkserver")

PRELUDE = """
import multiprocessing, os, pathlib, signal, subprocess, sys, time
import torch
from torch.utils.data import DataLoader
from strategies.data.workers.worker_signals import shield_loader_workers
from strategies.data.workers.worker_shield import SHIELDED

class Numbers:
    def __len__(self): return 64
    def __getitem__(self, index): return index

def opened(data, **options):
    return iter(DataLoader(data, batch_size=4, num_workers=2, **options))

def everyone_else():
    # The children, and theirs: the fork server's.
    found, todo = [], [os.getpid()]
    while todo:
        pid = todo.pop()
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            children = [int(word) for word in task.read_text().split()]
            found += children
            todo += children
    return found

def broadcast(times=2):
    for _ in range(times):
        for signum in SHIELDED:
            for pid in everyone_else():
                os.kill(pid, signum)
"""


def python(folder: Path, source: str) -> "subprocess.CompletedProcess[str]":
    script = folder / "script.py"
    script.write_text(PRELUDE + textwrap.dedent(source))
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(script)], env=environ, capture_output=True, text=True, timeout=100
    )


def succeeds(folder: Path, source: str) -> str:
    done = python(folder, source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Error" not in done.stderr, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("method", "persistent"),
    [("fork", False), ("fork", True), ("spawn", True), ("forkserver", False)],
)
def test_workers_outlive_every_signal_and_the_exit_is_prompt(
    method: str, persistent: bool, tmp_path: Path
) -> None:
    source = f"""
    if __name__ == "__main__":
        shield_loader_workers()
        for signum in SHIELDED:  # this process: a rank, which remembers and goes on
            signal.signal(signum, lambda *_: None)
        batches = opened(Numbers(), multiprocessing_context={method!r},
                         persistent_workers={persistent})
        seen = [next(batches).tolist()]
        broadcast()
        seen += [batch.tolist() for batch in batches]
        assert sum(seen, []) == list(range(64)), seen
        batches = opened(Numbers(), multiprocessing_context={method!r},
                         persistent_workers={persistent})
        next(batches)
        print(*everyone_else())
    """
    left = [int(word) for word in succeeds(tmp_path, source).split()]
    assert len(left) >= 2
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in left):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_signals_at_the_first_moment_of_a_forked_worker(tmp_path: Path) -> None:
    source = """
    def all_at_once():
        for signum in SHIELDED:
            os.kill(os.getpid(), signum)

    if __name__ == "__main__":
        shield_loader_workers()
        os.register_at_fork(after_in_child=all_at_once)
        batches = opened(Numbers())
        assert sum((batch.tolist() for batch in batches), []) == list(range(64))
    """
    succeeds(tmp_path, source)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_signals_while_a_worker_imports(method: str, tmp_path: Path) -> None:
    source = f"""
    class Signalled(Numbers):
        def __setstate__(self, state):
            for signum in SHIELDED:
                os.kill(os.getpid(), signum)
        def __getstate__(self): return 1

    if __name__ == "__main__":
        shield_loader_workers()
        batches = opened(Signalled(), multiprocessing_context={method!r})
        assert sum((batch.tolist() for batch in batches), []) == list(range(64))
    """
    succeeds(tmp_path, source)


@pytest.mark.parametrize("method", METHODS)
def test_other_processes_are_as_without_us(method: str, tmp_path: Path) -> None:
    source = f"""
    def wait():
        time.sleep(100)

    if __name__ == "__main__":
        shield_loader_workers()
        next(opened(Numbers(), multiprocessing_context={method!r}))
        process = multiprocessing.get_context({method!r}).Process(target=wait, daemon=True)
        process.start()
        process.terminate()
        process.join()
        assert process.exitcode == -signal.SIGTERM, process.exitcode
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert not blocked & set(SHIELDED), blocked
    """
    # Not what stderr has: a spawned worker of torch's that is told to end while this process exits
    # aborts now and then, and torch reports that when it takes its loader apart.
    done = python(tmp_path, source)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("method", "way"),
    [
        ("fork", "sys.exit(0)"),
        ("fork", "del batches"),
        ("spawn", "sys.exit(0)"),
        ("forkserver", "del batches"),
    ],
)
def test_a_worker_that_hangs_does_not_hold_up_the_end(
    method: str, way: str, tmp_path: Path
) -> None:
    source = f"""
    class Hanging(Numbers):
        def __getitem__(self, index):
            if index >= 40:
                signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
                time.sleep(1000)
            return index

    if __name__ == "__main__":
        shield_loader_workers()
        batches = opened(Hanging(), multiprocessing_context={method!r})
        for _ in range(10):
            next(batches)
        {way}
    """
    succeeds(tmp_path, source)


def test_an_exception_with_a_live_iterator_in_its_traceback(tmp_path: Path) -> None:
    source = """
    def main():
        batches = opened(Numbers(), persistent_workers=True)
        next(batches)
        raise ValueError("the script's own")

    if __name__ == "__main__":
        shield_loader_workers()
        main()
    """
    done = python(tmp_path, source)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: the script's own"


@pytest.mark.parametrize("method", METHODS)
def test_the_scripts_init_comes_after_ours_and_its_subprocesses_die_of_sigterm(
    method: str, tmp_path: Path
) -> None:
    source = f"""
    def init(worker_id):
        handler = signal.getsignal(signal.SIGTERM)
        pathlib.Path({str(tmp_path)!r}, f"handler-{{worker_id}}").write_text(repr(handler))

    class Starting(Numbers):
        def __getitem__(self, index):
            process = subprocess.Popen(["sleep", "10"], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            process.terminate()
            return process.wait()

    if __name__ == "__main__":
        shield_loader_workers()
        batches = opened(Starting(), worker_init_fn=init, multiprocessing_context={method!r})
        assert set(next(batches).tolist()) == {{-signal.SIGTERM}}
    """
    succeeds(tmp_path, source)
    assert "_ignore_while_owned" in (tmp_path / "handler-0").read_text()


def test_a_worker_whose_owner_is_gone_ends_by_sigterm(tmp_path: Path) -> None:
    source = f"""
    class Hanging(Numbers):
        def __getitem__(self, index):
            pathlib.Path({str(tmp_path)!r}, f"worker-{{os.getpid()}}").touch()
            time.sleep(1000)

    if __name__ == "__main__":
        shield_loader_workers()
        batches = opened(Hanging())
        while len(list(pathlib.Path({str(tmp_path)!r}).glob("worker-*"))) < 2:
            time.sleep(0.01)
        os._exit(0)
    """
    script = tmp_path / "script.py"
    script.write_text(PRELUDE + textwrap.dedent(source))
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(script)], env=environ, timeout=100, check=True)
    workers = [int(path.name.partition("-")[2]) for path in tmp_path.glob("worker-*")]
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 60
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_torch_without_the_method_is_left_alone(tmp_path: Path) -> None:
    source = """
    from torch.utils.data import DataLoader
    start = DataLoader._get_iterator
    del DataLoader._get_iterator
    print(shield_loader_workers())
    """
    assert "has no _get_iterator" in succeeds(tmp_path, source)


def test_twice_is_once(tmp_path: Path) -> None:
    source = """
    shield_loader_workers()
    start = DataLoader._get_iterator
    assert shield_loader_workers() is None
    assert DataLoader._get_iterator is start
    """
    succeeds(tmp_path, source)


def test_all_five_signals_are_meant() -> None:
    names = {signum.name for signum in SHIELDED}
    assert names == {"SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"}
