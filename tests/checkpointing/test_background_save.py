import errno
import gc
import itertools
import os
import signal
from pathlib import Path

import pytest
import torch

from checkpointing import BackgroundWriter, SaveFailedError
from checkpointing.background import writer as module

CODES = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EDQUOT, errno.ESTALE)


@pytest.mark.parametrize("world_size", [1, 3, 40])
def test_what_was_staged_is_saved_whatever_happens_to_the_state(
    kit, background, tmp_path, writers, world_size
):
    store = kit.store_at(tmp_path)
    state = kit.sample_state(1)
    mine = [writers() for _ in range(min(world_size, 3))]
    if world_size > 3:  # more ranks than there is to write: some write nothing
        state = state[2:3]
        mine += [writers() for _ in range(world_size - 3)]
    expected = [(spec, tensor.clone()) for spec, tensor in state]
    saves = kit.run_ranks(
        world_size, lambda c: background.start(kit, store, 1, state, c, mine[c.rank])
    )
    assert store.steps() == []
    for _, tensor in state:
        tensor.zero_()
    for save in saves:
        background.wait_until(save.is_settled)
    assert store.steps() == [], "nothing is committed before the ranks have agreed"
    saved = kit.run_ranks(world_size, lambda c: _finish(saves[c.rank], c))
    assert saved[0].size_bytes == sum(p.stat().st_size for p in saved[0].path.iterdir())
    kit.assert_holds(store, 1, expected)
    assert store.verify(1) == []


def _finish(save, communicator):
    save._communicator = communicator  # threads of another barrier
    return save.finish()


def test_signals_for_everyone_in_the_first_moment_of_the_writer(kit, background, tmp_path, writers):
    signalled = "import os, signal; [os.kill(os.getpid(), one) for one in (1, 2, 10, 12, 15)]; "
    *words, program = module.writer_command()
    store, writer = kit.store_at(tmp_path), writers()
    writer._command = (*words, signalled + program)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    background.start(kit, store, 1, kit.sample_state(1), kit.LocalCommunicator(), writer).finish()
    assert store.steps() == [1]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_bytes_are_those_of_a_synchronous_save(kit, background, tmp_path, writers):
    store, other = kit.store_at(tmp_path / "a"), kit.store_at(tmp_path / "b")
    state = kit.sample_state(1)
    background.start(kit, store, 1, state, kit.LocalCommunicator(), writers()).finish()
    kit.save_state(other, 1, state)
    with store.open(1) as left, other.open(1) as right:
        assert left.manifest.tensors == right.manifest.tensors
        assert len(left.manifest.files[0].crc32) == len(right.manifest.files[0].crc32)


def test_memory_and_process_are_reused_and_grow(kit, background, tmp_path, writers):
    store, writer = kit.store_at(tmp_path), writers()
    pids, addresses = set(), []
    for step, numel in enumerate((10, 200_000, 7, 100_000)):
        spec = kit.TensorSpec(fqn="t", key="fp32", shape=(numel,), dtype="F32")
        state = [(spec, torch.randn(numel))]
        background.start(kit, store, step, state, kit.LocalCommunicator(), writer).finish()
        kit.assert_holds(store, step, state)
        pids.add(writer._process.pid)
        addresses.append(id(writer._staging._memory))
    assert len(pids) == 1
    assert addresses[1] == addresses[2] == addresses[3]


def assert_only_the_first_is_there(kit, store):
    kit.assert_holds(store, 1, kit.sample_state(1))
    assert store.steps() == [1]
    assert kit.leftovers(store.folder) == []


@pytest.mark.parametrize("operation", ["create", "preallocate", "pwrite", "fsync", "close"])
@pytest.mark.parametrize("action", ["kill", str(errno.ENOSPC), str(errno.EIO)])
def test_a_failing_writer_fails_the_save_on_all_ranks_and_the_next_works(
    kit, background, tmp_path, writers, operation, action
):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state(1))
    mine = [writers(), writers(*background.BROKEN, operation, action)]
    state = kit.sample_state(2)

    def save(communicator):
        return background.start(
            kit, store, 2, state, communicator, mine[communicator.rank]
        ).finish()

    errors = kit.run_ranks(2, save)
    assert all(isinstance(error, SaveFailedError) for error in errors)
    assert str(errors[0]) == str(errors[1])
    wanted = "was ended by signal 9" if action == "kill" else "injected"
    assert "rank 1: " in str(errors[0])
    assert wanted in str(errors[0])
    assert kit.leftovers(tmp_path) == []
    kit.assert_holds(store, 1, kit.sample_state(1))
    mine[1]._command = module.writer_command()
    kit.run_ranks(2, save)
    kit.assert_holds(store, 2, state)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_killed_around_any_operation_costs_one_save(
    kit, background, tmp_path, writers, when
):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state(1))
    first, state = writers(), kit.sample_state(2)
    for number in itertools.count():
        mine = [first, writers(*background.BROKEN, f"{number}-{when}", "kill")]
        outcomes = kit.run_ranks(
            2, lambda c, mine=mine: background.start(kit, store, 2, state, c, mine[c.rank]).finish()
        )
        if not isinstance(outcomes[1], BaseException):
            break
        for outcome in outcomes:
            assert isinstance(outcome, SaveFailedError)
            assert "rank 1: the process that writes checkpoints was ended by signal 9" in str(
                outcome
            )
        assert_only_the_first_is_there(kit, store)
    assert number > 8
    kit.assert_holds(store, 2, state)


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
def test_an_error_at_any_operation_of_a_writer_costs_one_save(
    kit, background, tmp_path, writers, code
):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state(1))
    mine = [writers(), writers(*background.BROKEN, "each", str(code))]
    state = kit.sample_state(2)
    for number in itertools.count():  # noqa: B007  how many there were is asked below
        outcomes = kit.run_ranks(
            2, lambda c: background.start(kit, store, 2, state, c, mine[c.rank]).finish()
        )
        if not isinstance(outcomes[1], BaseException):
            break
        for outcome in outcomes:
            assert isinstance(outcome, SaveFailedError)
            assert "r00001.safetensors: [Errno" in str(outcome)
            assert "injected" in str(outcome)
        assert_only_the_first_is_there(kit, store)
    assert number > 8
    kit.assert_holds(store, 2, state)


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
def test_an_error_at_any_operation_of_the_coordinator_reaches_every_rank(
    kit, background, tmp_path, writers, code
):
    mine, state = [writers(), writers()], kit.sample_state(2)
    kit.save_state(kit.store_at(tmp_path), 1, kit.sample_state(1))
    for number in itertools.count():
        files = kit.failing_files(number, code)
        stores = [kit.store_at(tmp_path, files), kit.store_at(tmp_path)]

        def save(c, stores=stores):
            return background.start(kit, stores[c.rank], 2, state, c, mine[c.rank]).finish()

        outcomes = kit.run_ranks(2, save)
        store = stores[1]
        kit.assert_holds(store, 1, kit.sample_state(1))
        if not isinstance(outcomes[0], BaseException):
            break
        assert [type(outcome) for outcome in outcomes] == [SaveFailedError] * 2
        assert str(outcomes[0]) == str(outcomes[1])
        assert "injected" in str(outcomes[0])
        assert (2 in store.steps()) == ("is complete" in str(outcomes[0]))
        assert kit.leftovers(tmp_path) == []
        if 2 in store.steps():
            kit.assert_holds(store, 2, state)
            store.delete(2)
    assert number > 8
    kit.assert_holds(store, 2, state)


def test_a_writer_that_was_killed_between_two_saves_is_started_again(
    kit, background, tmp_path, writers
):
    store, writer, state = kit.store_at(tmp_path), writers(), kit.sample_state(1)
    background.start(kit, store, 1, state, kit.LocalCommunicator(), writer).finish()
    os.kill(writer._process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, writer._process.pid, os.WEXITED | os.WNOWAIT)
    background.start(kit, store, 2, state, kit.LocalCommunicator(), writer).finish()
    kit.assert_holds(store, 2, state)


@pytest.mark.parametrize("name", ["json.py", "mmap.py", "checkpointing.py"])
def test_the_user_s_files_do_not_hide_what_the_writer_needs(
    kit, background, tmp_path, writers, monkeypatch, name
):
    (tmp_path / name).write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    store, writer, state = kit.store_at(tmp_path / "run"), writers(), kit.sample_state(1)
    background.start(kit, store, 1, state, kit.LocalCommunicator(), writer).finish()
    kit.assert_holds(store, 1, state)


def test_a_failing_start_is_told_on_all_ranks(kit, background, tmp_path, writers):
    store = kit.store_at(tmp_path / "file" / "below")
    (tmp_path / "file").write_text("")
    mine = [writers(), writers()]
    errors = kit.run_ranks(2, lambda c: background.start(kit, store, 1, [], c, mine[c.rank]))
    assert all(isinstance(error, SaveFailedError) for error in errors)


def test_memory_that_is_not_there_fails_the_save_only(
    kit, background, tmp_path, writers, monkeypatch
):
    store, writer = kit.store_at(tmp_path), writers()

    def refuse(fd, offset, length):
        raise OSError(errno.ENOMEM, "injected")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    save = background.start(kit, store, 1, kit.sample_state(), kit.LocalCommunicator(), writer)
    assert save.is_settled()
    with pytest.raises(SaveFailedError, match="injected"):
        save.finish()
    assert kit.leftovers(tmp_path) == []


@pytest.mark.parametrize("operation", ["create", "pwrite", "fsync"])
def test_a_trainer_killed_meanwhile_commits_nothing_and_leaves_no_writer(
    kit, background, tmp_path, operation
):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state(1))
    trainer = Path(__file__).with_name("background_trainer.py")
    done = kit.run_python(trainer, tmp_path, *background.BROKEN, operation, "slow", timeout_s=60)
    # The pipes end with the last process that holds them: the writer is gone as well.
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "started\n"), done.stderr
    assert len(store.sweep()) == 1
    assert_only_the_first_is_there(kit, store)


@pytest.mark.parametrize(
    "signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]
)
def test_a_warning_to_the_process_group_does_not_end_the_writer(
    kit, background, tmp_path, writers, signum
):
    store, writer, state = kit.store_at(tmp_path), writers(), kit.sample_state(1)
    background.start(kit, store, 1, state, kit.LocalCommunicator(), writer).finish()
    os.kill(writer._process.pid, signum)
    background.start(kit, store, 2, state, kit.LocalCommunicator(), writer).finish()
    kit.assert_holds(store, 2, state)


def test_close_in_the_middle_leaves_no_process(kit, background, tmp_path):
    writer = BackgroundWriter((*background.BROKEN, "pwrite", "slow"))
    background.start(
        kit, kit.store_at(tmp_path), 1, kit.sample_state(), kit.LocalCommunicator(), writer
    )
    pid = writer._process.pid
    writer.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert kit.store_at(tmp_path).steps() == []


@pytest.mark.parametrize(
    ("size_bytes", "limit_s"), [(0, 300.0), (20_000_000, 301.0), (10**11, 5300.0)]
)
def test_the_time_that_a_writer_has(size_bytes, limit_s):
    assert module.time_limit_s(size_bytes) == limit_s


@pytest.mark.parametrize("waits", [True, False])
def test_a_writer_that_hangs_is_killed_and_fails_the_save_on_all_ranks(
    kit, background, tmp_path, waits
):
    store = kit.store_at(tmp_path)
    mine = [BackgroundWriter(), BackgroundWriter(limit_s=lambda size_bytes: 0.3)]
    state = kit.sample_state(1)

    def first(communicator):
        return background.start(
            kit, store, 1, state, communicator, mine[communicator.rank]
        ).finish()

    try:
        mine[1]._limit_s = lambda size_bytes: 60.0
        kit.run_ranks(2, first)
        mine[1]._limit_s = lambda size_bytes: 0.3
        hung = mine[1]._process.pid
        os.kill(hung, signal.SIGSTOP)
        saves = kit.run_ranks(2, lambda c: background.start(kit, store, 2, state, c, mine[c.rank]))
        if not waits:  # as at the boundaries of a run that goes on
            background.wait_until(saves[1].is_settled)
        errors = kit.run_ranks(2, lambda c: _finish(saves[c.rank], c))
        for error in errors:
            assert isinstance(error, SaveFailedError)
            assert "rank 1: the process that writes checkpoints was not done" in str(error)
        with pytest.raises(ProcessLookupError):
            os.kill(hung, 0)
        assert kit.leftovers(tmp_path) == []
        mine[1]._limit_s = lambda size_bytes: 60.0
        saves = kit.run_ranks(2, lambda c: background.start(kit, store, 3, state, c, mine[c.rank]))
        kit.run_ranks(2, lambda c: _finish(saves[c.rank], c))
        kit.assert_holds(store, 3, state)
    finally:
        for writer in mine:
            writer.close()


@pytest.mark.parametrize("through_commit", [True, False])
def test_without_memory_for_a_copy_a_rank_writes_its_part_itself(
    kit, background, tmp_path, writers, monkeypatch, through_commit
):
    store, state = kit.store_at(tmp_path), kit.sample_state(1)
    mine = [writers(), writers()]

    def image(size_bytes):
        raise OSError(errno.ENOMEM, f"a copy of {size_bytes} bytes does not fit")

    monkeypatch.setattr(mine[1], "image", image)
    expected = [(spec, tensor.clone()) for spec, tensor in state]
    saves = kit.run_ranks(2, lambda c: background.start(kit, store, 1, state, c, mine[c.rank]))
    assert saves[1].is_settled()
    for _, tensor in state:
        tensor.zero_()

    def conclude(c):
        save = saves[c.rank]
        save._communicator = c
        if through_commit:
            save.commit()
        return save.finish().notes

    (note,), nothing = kit.run_ranks(2, conclude)
    assert note.startswith("rank 1: a copy of ")
    assert nothing == ()
    kit.assert_holds(store, 1, expected)


def test_without_memory_for_the_commit_the_coordinator_publishes_itself(
    kit, background, tmp_path, writers, monkeypatch
):
    store, state, writer = kit.store_at(tmp_path), kit.sample_state(1), writers()
    save = background.start(kit, store, 1, state, kit.LocalCommunicator(), writer)
    background.wait_until(save.is_settled)

    def publish(folder, commit):
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(writer, "publish", publish)
    save.commit()
    assert save.is_settled()
    save.finish()
    kit.assert_holds(store, 1, state)


def test_no_garbage_is_collected_while_the_training_waits(
    kit, background, tmp_path, writers, monkeypatch
):
    """A collection in a process with torch takes longer than all else that it waits for."""
    seen = []
    for name in ("submit", "publish"):
        real = getattr(BackgroundWriter, name)

        def noted(*args, real=real):
            seen.append(gc.isenabled())
            return real(*args)

        monkeypatch.setattr(BackgroundWriter, name, noted)
    store, ranks = kit.store_at(tmp_path), kit.LocalCommunicator()
    save = background.start(kit, store, 1, kit.sample_state(1), ranks, writers())
    background.wait_until(save.is_settled)
    save.commit()
    assert seen == [False, False]
    assert gc.isenabled()
    save.finish()
    assert store.steps() == [1]
