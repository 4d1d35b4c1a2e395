"""Whether a restart waits for the memory of the GPUs: tables, and a stub in place of nvidia-smi."""

import time

import pytest

from launcher.workers import gpu_memory as accelerator_memory
from launcher.workers.gpu_memory import AcceleratorMemory, MemoryWait, held, next_after, parse_used

pytestmark = pytest.mark.timeout(60)

TEXT = "0, GPU-aaaa, 100\n1, GPU-bbbb, 8000\n2, GPU-cccc, [N/A]\n"


@pytest.mark.parametrize(
    ("before", "now", "waited_s", "step"),
    [
        ({}, {}, 0.0, MemoryWait.START),
        ({"GPU 0": 100}, {"GPU 0": 100}, 0.0, MemoryWait.START),
        ({"GPU 0": 100}, {"GPU 0": 612}, 0.0, MemoryWait.START),
        ({"GPU 0": 100}, {"GPU 0": 613}, 0.0, MemoryWait.LOOK_AGAIN),
        ({"GPU 0": 100}, {"GPU 0": 613}, 29.9, MemoryWait.LOOK_AGAIN),
        ({"GPU 0": 100}, {"GPU 0": 613}, 30.0, MemoryWait.GIVE_UP),
        ({"GPU 0": 100}, {"GPU 0": 100}, 30.0, MemoryWait.START),
        # What was there before the ranks is another's; so is a GPU that has come since.
        ({"GPU 0": 70000}, {"GPU 0": 70000}, 0.0, MemoryWait.START),
        ({"GPU 0": 70000}, {"GPU 0": 20}, 0.0, MemoryWait.START),
        ({"GPU 0": 100}, {"GPU 0": 100, "GPU 1": 9000}, 0.0, MemoryWait.START),
        ({"GPU 0": 100, "GPU 1": 5}, {"GPU 0": 100, "GPU 1": 9000}, 0.0, MemoryWait.LOOK_AGAIN),
    ],
)
def test_next(before, now, waited_s, step):
    assert next_after(before, now, waited_s) is step


def test_what_is_held():
    before = {"GPU 0": 1, "GPU 1": 2, "GPU 2": 3}
    now = {"GPU 0": 8000, "GPU 1": 2, "GPU 2": 9000}
    first, second = held(before, now).split(", ")
    assert first == "GPU 0 holds 8000 MiB (1 MiB before the ranks)"
    assert second == "GPU 2 holds 9000 MiB (3 MiB before the ranks)"


@pytest.mark.parametrize(
    ("text", "visible", "used"),
    [
        (TEXT, None, {"GPU 0": 100, "GPU 1": 8000}),
        (TEXT, "1", {"GPU 1": 8000}),
        (TEXT, "GPU-aa, 1", {"GPU 0": 100, "GPU 1": 8000}),
        (TEXT, "MIG-aaaa", {}),
        ("", None, {}),
        ("No devices were found\n", None, None),
    ],
)
def test_parse(text, visible, used):
    assert parse_used(text, visible) == used


@pytest.fixture
def memory_of(tmp_path, monkeypatch):
    """Return a function: (AcceleratorMemory over a stub that runs a script, what it said)."""
    monkeypatch.setattr(accelerator_memory, "LONGEST_S", 0.0)
    monkeypatch.setattr(accelerator_memory, "ANSWER_S", 1.0)

    def make(script, **environ):
        stub = tmp_path / "nvidia-smi"
        stub.write_text(f"#!/bin/sh\ncount={tmp_path}/count\necho >> $count\n{script}\n")
        stub.chmod(0o755)
        said = []
        return AcceleratorMemory({"PATH": str(tmp_path), **environ}, said.append), said

    return make


HELD = 'if [ "$(wc -l < $count)" -gt 1 ]; then echo 0, GPU-a, 9000; else echo 0, GPU-a, 3; fi'


def lines_of(path):
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_the_wait_has_an_end_and_says_so(memory_of, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    memory, said = memory_of(HELD)
    memory.ask()
    memory.wait(lambda: False)
    (line,) = said
    assert line == (
        "GPU 0 holds 9000 MiB (3 MiB before the ranks) 0 s after the ranks have ended; "
        "starting anyway."
    )


@pytest.mark.parametrize(
    ("script", "environ", "num_calls"),
    [(HELD, {"CUDA_VISIBLE_DEVICES": ""}, 0), (HELD, {"PATH": "/nowhere"}, 0), ("exit 9", {}, 1)],
)
def test_without_gpus_or_nvidia_smi_nothing_happens(
    memory_of, tmp_path, script, environ, num_calls
):
    memory, said = memory_of(script, **environ)
    memory.ask()
    memory.wait(lambda: False)
    memory.close()
    assert said == []
    assert lines_of(tmp_path / "count") == num_calls


def test_no_wait_once_the_run_is_asked_to_end(memory_of, tmp_path):
    memory, said = memory_of(HELD)
    memory.ask()
    memory.wait(lambda: True)
    assert said == []
    assert lines_of(tmp_path / "count") == 1


def test_no_rank_starts_before_the_answer_is_there(memory_of, monkeypatch):
    """A slow nvidia-smi would count their memory as what was in use before."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    memory, said = memory_of("sleep 0.3; " + HELD)
    memory.settle()  # nothing was asked
    memory.ask()
    memory.settle()
    assert memory._asked.poll() == 0
    memory.settle()
    assert said == []


def test_an_answer_that_does_not_come_is_not_waited_for_long(memory_of, monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(accelerator_memory, "SETTLE_S", 0.2)
    memory, said = memory_of("exec sleep 100")
    memory.ask()
    memory.settle()
    memory.wait(lambda: False)
    assert said == [
        "nvidia-smi has not answered in 0.2 s: a restart will not wait for the memory of the GPUs."
    ]


def test_nvidia_smi_that_hangs_is_given_up(memory_of, tmp_path):
    hangs = HELD.replace("echo 0, GPU-a, 9000", f"echo $$ > {tmp_path}/pid; exec sleep 100")
    memory, said = memory_of(hangs)
    memory.ask()
    began = time.monotonic()
    memory.wait(lambda: False)
    assert time.monotonic() - began < 30
    assert said == ["nvidia-smi does not answer: not waiting for the memory of the GPUs."]
