"""The copy of a shard, part of which goes on while the training does."""

import mmap
import threading

import pytest
import torch

from checkpointing import CheckpointStore, Fragment, Snapshot, TensorSpec, shard_copy, start_save
from checkpointing.shard_copy import ShardCopy
from checkpointing.shard_writer import plan_shard

SIZES = {"weight": 3001, "bias": 7, "exp_avg": 3001, "step": 1}
STEADY = ("exp_avg", "step")


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
    opened, move = threading.Event(), shard_copy._move

    def slow_move(source, target):
        if threading.current_thread() is not threading.main_thread():
            assert opened.wait(20)
        move(source, target)

    monkeypatch.setattr(shard_copy, "_move", slow_move)
    yield opened
    opened.set()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_all_is_copied(num_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        plan = plan_shard(fragments(), {})
        memory = memory_for(plan)
        copy = ShardCopy(memory, plan)
        copy.wait()
    finally:
        torch.set_num_threads(before)
    assert copy.is_done()
    assert_equal(read(memory, plan), {f.spec.key: f.data for f in plan.fragments})


def test_only_what_is_steady_may_still_be_under_way(gate):
    plan = plan_shard(fragments(), {})
    expected = {f.spec.key: f.data.clone() for f in plan.fragments}
    memory = memory_for(plan)
    copy = ShardCopy(memory, plan)
    for fragment in plan.fragments:
        if not fragment.is_steady:
            fragment.data.zero_()
    assert not copy.is_done()
    gate.set()
    copy.let_change()
    for fragment in plan.fragments:
        fragment.data.zero_()
    copy.wait()
    assert_equal(read(memory, plan), expected)


def test_where_no_thread_can_be_had_all_is_copied_at_once(monkeypatch):
    def refused(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    plan = plan_shard(fragments(), {})
    memory = memory_for(plan)
    copy = ShardCopy(memory, plan)
    assert copy.is_done()
    copy.let_change()
    copy.wait()
    assert_equal(read(memory, plan), {f.spec.key: f.data for f in plan.fragments})


def test_without_steady_fragments_nothing_is_left_for_later(gate):
    plan = plan_shard([f for f in fragments() if not f.is_steady], {})
    assert ShardCopy(memory_for(plan), plan).is_done()


@pytest.mark.parametrize("asked", ["release_tensors", "finish"])
def test_a_save_takes_what_was_there_when_it_began(kit, tmp_path, writers, gate, asked):
    store, state = CheckpointStore(tmp_path), fragments()
    expected = [(f.spec, f.data.clone()) for f in state]
    specs = [f.spec for f in state]
    snapshot = Snapshot(step=1, specs=specs, fragments=state, state={}, created_by={})
    save = start_save(store, snapshot, kit.LocalCommunicator(), writers())
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
