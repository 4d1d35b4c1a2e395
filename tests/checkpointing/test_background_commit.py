"""What ranks have written is published by the coordinator's writer, and old ones removed there."""

import errno
import itertools
import json
import os
import signal
from dataclasses import replace

import pytest

from checkpointing import BackgroundWriter, SaveFailedError, StoredBefore, place_at
from checkpointing.format.manifest import Chunk, StoredFile, StoredTensor
from checkpointing.saving.commit import Commit, CommitText

CODES = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EDQUOT, errno.ESTALE)


def committed(kit, background, store, step, state, writers_of_ranks, meanwhile=lambda save: None):
    """Save on all ranks, the coordinator's writer publishing; return the outcome of each."""

    def save(ranks):
        one = background.start(kit, store, step, state, ranks, writers_of_ranks[ranks.rank])
        background.wait_until(one.is_settled)
        one.commit()
        assert one.is_committing
        meanwhile(one)
        background.wait_until(one.is_settled)
        return one.finish()

    return kit.run_ranks(len(writers_of_ranks), save)


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_checkpoint_is_there_before_the_ranks_meet_again(
    kit, background, tmp_path, writers, world_size
):
    store, state = kit.store_at(tmp_path), kit.sample_state(1)
    mine = [writers() for _ in range(world_size)]
    saves = kit.run_ranks(
        world_size, lambda c: background.start(kit, store, 1, state, c, mine[c.rank])
    )
    for save in saves:
        background.wait_until(save.is_settled)
    assert store.steps() == []

    def commit(ranks):
        saves[ranks.rank]._communicator = ranks  # threads of another barrier
        saves[ranks.rank].commit()

    kit.run_ranks(world_size, commit)
    for save in saves:
        background.wait_until(save.is_settled)
    assert store.steps() == [1]
    kit.assert_holds(store, 1, state)

    def finish(ranks):
        saves[ranks.rank]._communicator = ranks
        return saves[ranks.rank].finish()

    saved = kit.run_ranks(world_size, finish)
    assert len({one.size_bytes for one in saved}) == 1
    assert saved[0].size_bytes == sum(p.stat().st_size for p in saved[0].path.iterdir())
    assert store.verify(1) == []


def test_whoever_writes_the_manifest_it_is_the_same(kit, background, tmp_path, writers):
    state = kit.sample_state(1)
    left, right = kit.store_at(tmp_path / "a"), kit.store_at(tmp_path / "b")
    committed(kit, background, left, 1, state, [writers()])
    background.start(kit, right, 1, state, kit.LocalCommunicator(), writers()).finish()
    with left.open(1) as one, right.open(1) as other:
        assert one.manifest.state == other.manifest.state
        assert one.manifest.created_by == other.manifest.created_by
        assert one.manifest.tensors == other.manifest.tensors


def assert_failed_or_complete(kit, store, outcomes, state, words):
    assert [type(outcome) for outcome in outcomes] == [SaveFailedError] * 2
    assert str(outcomes[0]) == str(outcomes[1])
    assert words in str(outcomes[0])
    kit.assert_holds(store, 1, kit.sample_state(1))
    assert (2 in store.steps()) == ("is complete" in str(outcomes[0]))
    assert kit.leftovers(store.folder) == []
    if 2 in store.steps():
        kit.assert_holds(store, 2, state)
        store.delete(2)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_killed_around_any_operation_of_a_commit(kit, background, tmp_path, writers, when):
    store, second, state = kit.store_at(tmp_path), writers(), kit.sample_state(2)
    kit.save_state(store, 1, kit.sample_state(1))
    num_complete = 0
    for number in itertools.count():
        mine = [writers(*background.BROKEN, f"commit-{number}-{when}", "kill"), second]
        outcomes = committed(kit, background, store, 2, state, mine)
        if not isinstance(outcomes[0], BaseException):
            break
        num_complete += 2 in store.steps()
        assert_failed_or_complete(kit, store, outcomes, state, "was ended by signal 9")
    assert number > 8
    assert 1 <= num_complete < number
    kit.assert_holds(store, 2, state)


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
def test_an_error_at_any_operation_of_a_commit(kit, background, tmp_path, writers, code):
    store, second, state = kit.store_at(tmp_path), writers(), kit.sample_state(2)
    kit.save_state(store, 1, kit.sample_state(1))
    for number in itertools.count():
        mine = [writers(*background.BROKEN, f"commit-{number}-before", str(code)), second]
        outcomes = committed(kit, background, store, 2, state, mine)
        if not isinstance(outcomes[0], BaseException):
            break
        assert_failed_or_complete(kit, store, outcomes, state, "injected")
    assert number > 8
    kit.assert_holds(store, 2, state)


def test_a_shard_that_could_not_be_written_is_told_and_nothing_is_left(
    kit, background, tmp_path, writers
):
    store = kit.store_at(tmp_path)
    kit.save_state(store, 1, kit.sample_state(1))
    mine = [writers(), writers(*background.BROKEN, "pwrite", str(errno.EIO))]
    outcomes = committed(kit, background, store, 2, kit.sample_state(2), mine)
    assert_failed_or_complete(kit, store, outcomes, kit.sample_state(2), "rank 1: ")
    assert "injected" in str(outcomes[0])


def test_a_commit_that_hangs_ends_with_its_time(kit, background, tmp_path, writers):
    store, state = kit.store_at(tmp_path), kit.sample_state(1)
    writer = writers()
    save = background.start(kit, store, 1, state, kit.LocalCommunicator(), writer)
    background.wait_until(save.is_settled)
    os.kill(writer._process.pid, signal.SIGSTOP)
    writer._limit_s = lambda size_bytes: 0.2
    save.commit()
    with pytest.raises(SaveFailedError, match="was not done after"):
        save.finish()
    assert store.steps() == []
    assert kit.leftovers(tmp_path) == []


def test_the_training_asks_nothing_of_an_object_store_while_a_save_is_committed(
    kit, background, object_kit, tmp_path, writers
):
    calls = []
    url = f"file://{tmp_path}/bucket"
    watched = object_kit.Failing(place_at(url), lambda *call: calls.append(call))
    store = kit.store_at_url(url, watched)
    store.sweep()
    state = kit.sample_state(1)
    save = background.start(kit, store, 1, state, kit.LocalCommunicator(), writers())
    background.wait_until(save.is_settled)
    calls.clear()
    save.commit()
    background.wait_until(save.is_settled)
    save.finish()
    assert calls == []
    kit.assert_holds(store, 1, state)


@pytest.mark.parametrize("end", ["is killed", "hangs"])
def test_a_writer_that_is_lost_in_a_commit_leaves_nothing_in_an_object_store(
    kit, background, tmp_path, writers, end
):
    store = kit.store_at_url(f"file://{tmp_path}/bucket")
    store.sweep()
    kit.save_state(store, 1, kit.sample_state(1))
    names = sorted(tmp_path.rglob("*"))
    writer = writers()
    save = background.start(kit, store, 2, kit.sample_state(2), kit.LocalCommunicator(), writer)
    background.wait_until(save.is_settled)
    os.kill(writer._process.pid, signal.SIGSTOP)
    writer._limit_s = lambda size_bytes: 0.2
    save.commit()
    if end == "is killed":
        os.kill(writer._process.pid, signal.SIGKILL)
    with pytest.raises(SaveFailedError, match=r"was not done after|was ended by signal 9"):
        save.finish()
    assert store.steps() == [1]
    assert [name for name in sorted(tmp_path.rglob("*")) if name.is_file()] == [
        name for name in names if name.is_file()
    ]
    kit.assert_holds(store, 1, kit.sample_state(1))


def test_what_another_run_has_taken_over_is_not_published_to(kit, background, tmp_path, writers):
    store = kit.store_at_url(f"file://{tmp_path}/bucket")
    store.sweep()
    state = kit.sample_state(1)
    committed(kit, background, store, 1, state, [writers(), writers()])
    kit.assert_holds(store, 1, state)
    other = kit.store_at_url(f"file://{tmp_path}/bucket")
    other.sweep()  # another run takes the place over
    outcomes = committed(kit, background, store, 2, state, [writers(), writers()])
    assert "was taken over by another run" in str(outcomes[1])


def test_a_commit_goes_through_json_unchanged(kit, background, tmp_path):
    state = kit.sample_state(1)
    commit = Commit(
        attempt=kit.store_at(tmp_path).publishing.begin(3),
        reports=[{"files": [], "tensors": []}],
        specs=kit.specs_of(state),
        state={"lr": 0.1, "nested": {"a": [1, None, "x"]}},
        created_by={"relaunch": "0"},
    )
    text = CommitText()
    kept = StoredBefore(
        tensors=(StoredTensor(spec=commit.specs[0], chunks=(Chunk("objects/o", 0, 1, 0),)),),
        files=(StoredFile(name="objects/o", size_bytes=4, block_bytes=4, crc32=(7,)),),
    )
    # One after another: what is as it was at the one before is spelled once.
    for changed in (
        commit,
        replace(commit, state={"lr": 0.2}),
        replace(commit, specs=commit.specs[1:], kept=kept),
        replace(commit, reports=[], kept=kept),
        commit,
    ):
        assert Commit.parse(json.loads(text.of(changed))) == changed


@pytest.mark.parametrize("row", [["w", "fp32", [1]], ["w", "fp32", "1", "F32"], "w", 3])
def test_a_commit_that_is_none_is_refused(kit, tmp_path, row):
    commit = Commit(
        attempt=kit.store_at(tmp_path).publishing.begin(3),
        reports=[],
        specs=[],
        state={},
        created_by={},
    )
    good = json.loads(CommitText().of(commit))
    with pytest.raises(ValueError, match="a tensor of the commit"):
        Commit.parse({**good, "specs": [row]})


def test_a_withdrawn_checkpoint_is_removed_by_the_writer(kit, background, tmp_path, writers):
    store, writer = kit.store_at(tmp_path), writers()
    for step in (1, 2):
        kit.save_state(store, step, kit.sample_state(step))
    (trash,) = store.withdraw(1)
    assert store.steps() == [2]
    assert trash.exists()
    writer.remove(trash)
    # What is asked for next comes after it.
    background.start(kit, store, 3, kit.sample_state(3), kit.LocalCommunicator(), writer).finish()
    assert not trash.exists()
    assert writer.not_removed() == []
    assert store.steps() == [3, 2]


def test_what_could_not_be_removed_is_told_once(kit, background, tmp_path, writers):
    store = kit.store_at(tmp_path)
    writer = writers(*background.BROKEN, "rmtree", str(errno.EIO))
    writer.remove(tmp_path / "old")
    background.start(kit, store, 1, kit.sample_state(1), kit.LocalCommunicator(), writer).finish()
    (reason,) = writer.not_removed()
    assert reason.startswith(f"{tmp_path}/old could not be removed: [Errno 5]")
    assert writer.not_removed() == []
    kit.assert_holds(store, 1, kit.sample_state(1))


def test_a_rank_that_leaves_lets_a_removal_end(kit, tmp_path):
    store, writer = kit.store_at(tmp_path), BackgroundWriter()
    kit.save_state(store, 1, kit.sample_state(1))
    (trash,) = store.withdraw(1)
    writer.remove(trash)
    writer.close()
    assert not trash.exists()


def test_a_removal_that_died_with_its_process_is_left_to_the_next_start(
    kit, background, tmp_path, writers
):
    store, writer = kit.store_at(tmp_path), writers(*background.BROKEN, "rmtree", "kill")
    kit.save_state(store, 1, kit.sample_state(1))
    (trash,) = store.withdraw(1)
    writer.remove(trash)
    os.waitid(os.P_PID, writer._process.pid, os.WEXITED | os.WNOWAIT)
    writer._command = BackgroundWriter()._command
    background.start(kit, store, 2, kit.sample_state(2), kit.LocalCommunicator(), writer).finish()
    assert store.steps() == [2]
    assert store.sweep() == [trash.name]


def test_two_may_remove_the_same(kit, background, tmp_path, writers):
    store, writer = kit.store_at(tmp_path), writers()
    kit.save_state(store, 1, kit.sample_state(1))
    (trash,) = store.withdraw(1)
    assert store.sweep() == [trash.name]
    writer.remove(trash)
    background.start(kit, store, 2, kit.sample_state(2), kit.LocalCommunicator(), writer).finish()
    assert writer.not_removed() == []
