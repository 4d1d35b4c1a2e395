"""The memory that a rank shares with its writer, and how CUDA is told of it."""

import errno
import mmap
import os
import threading

import pytest
import torch

from checkpointing.background import staging as module
from checkpointing.background.pinned_memory import on_current_gpu, pin
from checkpointing.background.staging import Staging


class Runtime:
    """What torch.cuda.cudart() gives, as far as it is used."""

    def __init__(self, answer=0):
        self.answer = answer
        self.calls = []

    def cudaHostRegister(self, address, size_bytes, flags):
        self.calls.append(("register", address, size_bytes, flags))
        return self.answer

    def cudaHostUnregister(self, address):
        self.calls.append(("unregister", address))
        return 0


@pytest.fixture
def staging():
    made = []

    def make(pin):
        made.append(Staging(pin))
        return made[-1]

    yield make
    for one in made:
        one.close()


def noting(log):
    def pin(memory):
        log.append(("pin", len(memory)))
        return lambda: log.append(("unpin", len(memory)))

    return pin


def test_memory_is_pinned_once_and_again_when_it_grows(staging):
    log = []
    one = staging(noting(log))
    first = one.image(5000)
    assert one.image(3000) is first
    assert one.image(5000) is first
    one.image(9000)
    assert log == [("pin", 5000), ("unpin", 5000), ("pin", 9000)]
    one.close()
    one.close()
    assert log[3:] == [("unpin", 9000)]


def test_memory_is_taken_while_the_host_has_enough(monkeypatch):
    monkeypatch.setattr(module, "_STEP_BYTES", 4096)
    left = module._LEFT_BYTES + 4096
    one = Staging(lambda memory: lambda: None, lambda: left)
    assert len(one.image(3 * 4096 + 1)) == 3 * 4096 + 1
    first = one.image(1)
    left -= 1
    with pytest.raises(
        OSError, match=r"a copy of 0\.00 GiB does not fit .* 0\.25 GiB are not touched"
    ):
        one.image(5 * 4096)
    assert os.fstat(one.fd).st_size == 3 * 4096 + 1
    assert one.image(3 * 4096) is first
    one.close()


def test_a_host_that_does_not_say_what_it_has_is_not_asked_twice(monkeypatch):
    monkeypatch.setattr(module, "_STEP_BYTES", 4096)
    one = Staging(lambda memory: lambda: None, lambda: None)
    assert len(one.image(3 * 4096)) == 3 * 4096
    one.close()


def test_little_is_taken_without_asking(monkeypatch):
    one = Staging(lambda memory: lambda: None, lambda: 0)
    assert len(one.image(4096)) == 4096
    one.close()


def test_a_process_that_hangs_keeps_the_old_memory_to_itself(staging):
    log = []
    one = staging(noting(log))
    old = one.image(5000)
    old[:3] = b"old"
    one.leave_behind()
    new = one.image(5000)
    assert (old[:3], new[:3]) == (b"old", bytes(3))
    assert log == [("pin", 5000), ("unpin", 5000), ("pin", 5000)]


def test_memory_that_cannot_be_had_leaves_what_there_was(staging, monkeypatch):
    log = []
    one = staging(noting(log))
    first = one.image(5000)

    # Asked of the kernel itself, too much would first take all memory of the machine.
    def full(fd, offset, size_bytes):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        one.image(9000)
    assert one.image(5000) is first
    assert log == [("pin", 5000)]


def test_cuda_is_told_of_the_memory_and_of_its_end(monkeypatch):
    runtime, memory = Runtime(), mmap.mmap(-1, 8192)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    unpin = pin(memory)
    address = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
    assert runtime.calls == [("register", address, 8192, 1)]
    unpin()
    assert runtime.calls[1:] == [("unregister", address)]


def test_memory_that_cuda_refuses_is_used_as_it_is(monkeypatch):
    runtime, asked = Runtime(answer=2), []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)

    def refused(*args, **options):
        asked.append(options)
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "zeros", refused)
    one = Staging(pin)
    memory = one.image(8192)
    memory[:3] = b"abc"
    assert asked == [{"device": "cuda"}]
    assert [call[0] for call in runtime.calls] == ["register"]
    assert one.note is not None
    assert "CUDA did not lock 0.00 GiB" in one.note
    assert "error 2" in one.note
    # What is locked once more, when it grows, is no longer slow.
    runtime.answer = 0
    one.image(9000)
    assert one.note is None
    one.close()


def test_a_run_on_the_cpu_leaves_cuda_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: pytest.fail("CUDA was asked"))
    pin(mmap.mmap(-1, 8192))()


def test_what_was_prepared_is_the_first_image(staging):
    log = []
    one = staging(noting(log))
    one.prepare(9000)
    one.prepare(50000)  # once is enough
    first = one.image(5000)
    assert len(first) == 9000
    assert bytes(first) == bytes(9000)
    assert log == [("pin", 9000)]
    one.prepare(50000)  # there is memory, which may be in use
    assert one.image(5000) is first
    assert len(one.image(20000)) == 20000
    assert log == [("pin", 9000), ("unpin", 9000), ("pin", 20000)]


def test_without_room_nothing_is_prepared_and_the_first_image_reports_it(staging, monkeypatch):
    monkeypatch.setattr(module, "_STEP_BYTES", 4096)
    one = staging(noting(log := []))
    one._free_bytes = lambda: 0
    one.prepare(9000)
    with pytest.raises(OSError, match="does not fit into the host's memory"):
        one.image(9000)
    assert os.fstat(one.fd).st_size == 0
    assert log == []


def test_without_a_thread_the_first_image_takes_the_memory(staging, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    one = staging(noting([]))
    one.prepare(9000)
    assert len(one.image(5000)) == 5000


def test_what_is_closed_prepares_no_longer(staging, monkeypatch):
    """Its descriptor's number may be another file's soon."""
    monkeypatch.setattr(module, "_STEP_BYTES", 4096)
    began, may_continue = threading.Event(), threading.Event()

    def free_bytes():
        began.set()
        assert may_continue.wait(20)

    one = staging(noting(log := []))
    one._free_bytes = free_bytes
    one.prepare(4096 * 4096)
    assert began.wait(20)
    closing = threading.Thread(target=one.close)
    closing.start()
    may_continue.set()
    closing.join(20)
    assert not closing.is_alive()
    assert log == []
    assert one.fd == -1


def test_a_thread_uses_the_gpu_of_the_thread_that_began_it(monkeypatch):
    """A thread begins on GPU 0, where each rank would make a context."""
    seen = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append(device))
    on_current_gpu(lambda: seen.append("work"))()
    assert seen == [3, "work"]
