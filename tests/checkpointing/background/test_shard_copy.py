"""The copy of a shard, part of which goes on while the training does."""

import _thread
import contextlib
import errno
import mmap
import threading
import time
from pathlib import Path

import pytest
import torch

from checkpointing import (
    CheckpointStore,
    Fragment,
    SaveFailedError,
    Snapshot,
    TensorSpec,
    start_save,
)
from checkpointing.background import shard_copy
from checkpointing.background.shard_copy import ShardCopy
from checkpointing.saving.shard_plan import plan_shard

SIZES = {"weight": 3001, "bias": 7, "exp_avg": 3001, "step": 1}
STEADY = ("exp_avg", "step")


class Clock:
    """A GPU's time: what its streams wait for takes 30 ms."""

    now_ms = 0.0


class Event:
    """What torch.cuda.Event does, as far as it is used."""

    def __init__(self, blocking=False, enable_timing=False):
        self.at_ms = None

    def record(self, stream):
        self.at_ms = Clock.now_ms

    def synchronize(self):
        assert self.at_ms is not None

    def elapsed_time(self, end):
        return end.at_ms - self.at_ms


class Stream:
    def wait_stream(self, other):
        pass

    def wait_event(self, event):
        Clock.now_ms += 30.0


@pytest.fixture
def gpu(monkeypatch):
    """torch.cuda, without one: copies are there at once.

    Returns (whether on the main thread, device) of set_device.
    """
    chosen, main = [], threading.main_thread().ident
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(cuda, "Event", Event)
    monkeypatch.setattr(cuda, "current_stream", lambda device=None: Stream())
    monkeypatch.setattr(cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(
        cuda, "set_device", lambda d: chosen.append((threading.get_ident() == main, d))
    )
    return chosen


def late_on_gpu(num_pieces):
    """Return the copy of pieces as from a GPU, from the back, and what it has told."""
    source = torch.arange(num_pieces, dtype=torch.uint8)
    target, told = torch.zeros_like(source), []
    pieces = [
        shard_copy._Piece(source[n : n + 1], size_bytes=1, image=target, at=n, end=n + 1)
        for n in reversed(range(num_pieces))
    ]
    late = shard_copy._OnStream(pieces, told.append)
    late.wait()
    assert torch.equal(source, target)
    return late, told


def test_the_thread_that_waits_for_a_gpu_stands_on_that_gpu(gpu):
    """On a new thread's own, the first, each rank would take half a GiB for its context."""
    _, told = late_on_gpu(3)
    assert gpu == [(False, torch.device("cpu"))]  # here: where the source is
    assert told == [1, 2, 3]


def test_the_writer_follows_a_gpus_copy_in_parts(gpu):
    _, told = late_on_gpu(100)
    assert told == sorted(told)
    assert 10 <= len(told) <= 20
    assert told[-1] == 100


def test_what_the_gpu_waits_for_a_copy_is_counted(gpu):
    late, _ = late_on_gpu(3)
    assert late.device_wait_s() == 0.0
    late.let_change()
    late.let_change()
    assert late.device_wait_s() == pytest.approx(0.06)


def fragments(device="cpu"):
    torch.manual_seed(0)
    return [
        Fragment(
            spec=TensorSpec(fqn="t", key=key, shape=(size,), dtype="F32"),
            start=0,
            end=size,
            data=torch.randn(size, device=device),
            is_steady=key in STEADY,
        )
        for key, size in SIZES.items()
    ]


def memory_for(plan):
    return mmap.mmap(-1, plan.size_bytes)


def begun(plan):
    """Return memory, the copy to it under way, and what that tells of itself."""
    memory, told = memory_for(plan), []
    copy = ShardCopy(memory, plan)
    copy.go_on(told.append)
    return memory, copy, told


def read(memory, plan):
    """Return what the memory holds, by key."""
    found = {}
    for fragment, offset in zip(plan.fragments, plan.offsets, strict=True):
        part = torch.frombuffer(memory, dtype=torch.float32, count=fragment.end, offset=offset)
        found[fragment.spec.key] = part.clone()
    assert bytes(memory[: len(plan.header)]) == plan.header
    return found


def assert_equal(found, expected):
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.fixture
def gate(monkeypatch):
    """What is copied in a thread waits for this."""
    opened, copy = threading.Event(), shard_copy._copy_together

    def slow_copy(pieces, *, is_aside=False):
        if is_aside:
            assert opened.wait(20)
        copy(pieces, is_aside=is_aside)

    monkeypatch.setattr(shard_copy, "_copy_together", slow_copy)
    yield opened
    opened.set()


@pytest.mark.parametrize("together_bytes", [1, 12_500, 1 << 20])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_all_is_copied(num_threads, together_bytes, monkeypatch):
    """One by one, some together, all together."""
    monkeypatch.setattr(shard_copy, "_WORTH_TELLING_BYTES", together_bytes)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        plan = plan_shard(fragments(), {})
        memory, copy, told = begun(plan)
        copy.wait()
    finally:
        torch.set_num_threads(before)
    assert told[-1] == plan.size_bytes
    assert_equal(read(memory, plan), {f.spec.key: f.data for f in plan.fragments})


def test_only_what_is_steady_may_still_be_under_way(gate):
    plan = plan_shard(fragments(), {})
    expected = {f.spec.key: f.data.clone() for f in plan.fragments}
    memory, copy, told = begun(plan)
    for fragment in plan.fragments:
        if not fragment.is_steady:
            fragment.data.zero_()
    assert told == []
    gate.set()
    copy.let_change()
    assert told == [plan.size_bytes]
    for fragment in plan.fragments:
        fragment.data.zero_()
    copy.wait()
    assert_equal(read(memory, plan), expected)


def test_where_no_thread_can_be_had_all_is_copied_at_once(monkeypatch):
    def refused(work, arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refused)
    plan = plan_shard(fragments(), {})
    memory, copy, told = begun(plan)
    assert told == [plan.size_bytes]
    copy.let_change()
    copy.wait()
    assert_equal(read(memory, plan), {f.spec.key: f.data for f in plan.fragments})


def test_without_steady_fragments_nothing_is_left_for_later(gate):
    plan = plan_shard([f for f in fragments() if not f.is_steady], {})
    assert begun(plan)[2] == [plan.size_bytes]


def test_it_is_told_how_far_the_copy_is(monkeypatch):
    """What is told is there; in parts that are worth it, up to the next steady fragment."""
    monkeypatch.setattr(shard_copy, "_WORTH_TELLING_BYTES", 1000)
    torch.manual_seed(0)
    state = [
        Fragment(
            spec=TensorSpec(fqn=f"t{number}", key="exp_avg", shape=(251,), dtype="F32"),
            start=0,
            end=251,
            data=torch.randn(251),
            is_steady=number % 5 > 0,
        )
        for number in range(200)
    ]
    plan = plan_shard(state, {})
    expected = plan.header + b"".join(f.data.numpy().tobytes() for f in plan.fragments)
    memory, told = memory_for(plan), []

    def tell(ready_bytes):
        told.append(ready_bytes)
        assert memory[:ready_bytes] == expected[:ready_bytes]
        assert memory[ready_bytes:] != expected[ready_bytes:] or ready_bytes == plan.size_bytes

    copy = ShardCopy(memory, plan)
    copy.go_on(tell)
    copy.wait()
    assert told == sorted(set(told))
    assert 20 < len(told) <= 66
    assert (told[0], told[-1]) == (plan.offsets[1], plan.size_bytes)


def test_a_file_is_whole_up_to_the_copy_that_is_behind():
    told = []
    reach = shard_copy._Reach({"cpu": 10, "cuda": 20}, 90, told.append)
    reach.come_to("cpu", 90)
    assert told == []
    reach.come_to("cuda", 90)
    assert told == [90]


@pytest.mark.parametrize("asked", ["release_tensors", "finish"])
def test_a_save_takes_what_was_there_when_it_began(kit, tmp_path, writers, gate, asked):
    store, state = CheckpointStore(tmp_path), fragments()
    expected = [(f.spec, f.data.clone()) for f in state]
    specs = [f.spec for f in state]
    snapshot = Snapshot(step=1, specs=specs, fragments=state, state={}, created_by={})
    save = start_save(store, snapshot, kit.LocalCommunicator(), writers())
    time.sleep(0.2)
    assert not save.is_settled()
    threading.Timer(0.2, gate.set).start()
    if asked == "release_tensors":
        save.release_tensors()
        for fragment in state:
            fragment.data.zero_()
    save.finish()
    kit.assert_holds(store, 1, expected)


def test_a_save_that_is_dropped_lets_its_copy_end_first(kit, tmp_path, writers, gate):
    snapshot = Snapshot(
        step=1,
        specs=[f.spec for f in fragments()],
        fragments=fragments(),
        state={},
        created_by={},
    )
    writer = writers()
    save = start_save(CheckpointStore(tmp_path), snapshot, kit.LocalCommunicator(), writer)
    threading.Timer(0.2, gate.set).start()
    save.drop()
    assert gate.is_set()
    writer.close()
    assert CheckpointStore(tmp_path).steps() == []


def test_a_save_that_failed_lets_its_copy_end_before_the_memory_is_used_again(
    kit, background, tmp_path, writers, gate
):
    store, state = CheckpointStore(tmp_path), fragments()
    snapshot = Snapshot(
        step=1, specs=[f.spec for f in state], fragments=state, state={}, created_by={}
    )
    writer = writers(*background.BROKEN, "create", str(errno.ENOSPC))
    save = start_save(store, snapshot, kit.LocalCommunicator(), writer)
    background.wait_until(save.is_settled)
    threading.Timer(0.2, gate.set).start()
    with pytest.raises(SaveFailedError, match="injected"):
        save.finish()
    assert gate.is_set()


def written_bytes(writer):
    """Return how many bytes the writer process has written, to whatever."""
    text = Path(f"/proc/{writer._process.pid}/io").read_text()
    return int(dict(line.split(": ") for line in text.splitlines())["wchar"])


@pytest.mark.parametrize("asks", [True, False])
def test_what_is_there_is_written_while_the_rest_is_copied(
    kit, background, tmp_path, writers, gate, asks
):
    """And all of it without this rank's looking again: a step may take long."""
    numel, block_bytes = 5_000_000, 1 << 20
    specs = [TensorSpec(fqn="t", key=key, shape=(numel,), dtype="F32") for key in ("a", "b")]
    state = [
        Fragment(spec=spec, start=0, end=numel, data=torch.ones(numel), is_steady=spec.key == "b")
        for spec in specs
    ]
    store, writer = CheckpointStore(tmp_path, block_bytes=block_bytes), writers()
    snapshot = Snapshot(step=1, specs=specs, fragments=state, state={}, created_by={})
    save = start_save(store, snapshot, kit.LocalCommunicator(), writer)
    there_bytes = numel * 4 // block_bytes * block_bytes
    background.wait_until(lambda: written_bytes(writer) >= there_bytes)
    time.sleep(0.2)
    assert written_bytes(writer) < there_bytes + block_bytes
    assert not save.is_settled()
    gate.set()
    background.wait_until(lambda: written_bytes(writer) >= 2 * numel * 4)
    if asks:
        background.wait_until(save.is_settled)
    save.finish()
    kit.assert_holds(store, 1, [(f.spec, f.data) for f in state])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_changes_its_state_after_the_copy(kit, tmp_path, writers):
    numel = 64 * 2**20
    spec = TensorSpec(fqn="t", key="exp_avg", shape=(numel,), dtype="F32")
    data = torch.ones(numel, device="cuda")
    fragment = Fragment(spec=spec, start=0, end=numel, data=data, is_steady=True)
    store, writer = CheckpointStore(tmp_path), writers()
    for step in (1, 2):  # the second time with warm, page-locked memory
        data.fill_(step)
        snapshot = Snapshot(step=step, specs=[spec], fragments=[fragment], state={}, created_by={})
        save = start_save(store, snapshot, kit.LocalCommunicator(), writer)
        save.release_tensors()
        data.zero_()
        save.finish()
        kit.assert_holds(store, step, [(spec, torch.full((numel,), float(step)))])
