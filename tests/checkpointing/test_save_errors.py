"""Every file operation of a save fails once, on one rank at a time."""

import errno
import itertools
import json
import os

import pytest

from checkpointing import Files, SaveFailedError, Snapshot, save_checkpoint

WORLD = 2
CODES = (errno.EIO, errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.EDQUOT, errno.ESTALE)


def save_with(kit, folder, step, rank_files, state=None):
    """Save from two ranks, each with its own files; return the outcome of each rank."""
    state = state or kit.sample_state(step)

    def save(ranks):
        return kit.save_state(kit.store_at(folder, rank_files[ranks.rank]), step, state, ranks)

    return kit.run_ranks(WORLD, save)


def count_operations(kit, folder, step, rank):
    rank_files = [kit.WatchedFiles() for _ in range(WORLD)]
    outcomes = save_with(kit, folder, step, rank_files)
    assert all(not isinstance(outcome, BaseException) for outcome in outcomes)
    return rank_files[rank].names


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize("rank", range(WORLD))
@pytest.mark.parametrize("step", [2, 1], ids=["new step", "same step again"])
def test_an_error_at_any_operation_reaches_every_rank(kit, tmp_path, rank, code, step):
    kit.save_state(kit.store_at(tmp_path / "count"), 1, kit.sample_state(1))
    names = count_operations(kit, tmp_path / "count", step, rank)
    expected = {"create", "preallocate", "pwrite", "fsync", "close"}
    if rank == 0:
        expected |= {"mkdir", "is_dir", "size", "rename", "fsync_dir"}
    assert expected <= set(names)
    for number, name in enumerate(names):
        folder = tmp_path / f"{number}"
        before, after = kit.sample_state(1), kit.sample_state(2)
        store = kit.store_at(folder)
        kit.save_state(store, 0, before)
        kit.save_state(store, 1, before)
        rank_files = [Files() for _ in range(WORLD)]
        rank_files[rank] = kit.failing_files(number, code)
        outcomes = save_with(kit, folder, step, rank_files, after)

        assert [type(outcome) for outcome in outcomes] == [SaveFailedError] * WORLD, name
        assert str(outcomes[0]) == str(outcomes[1])
        assert f"saving step-0000000{step} failed" in str(outcomes[0])
        assert f"rank {rank}" in str(outcomes[0]) or "is complete" in str(outcomes[0])
        assert "injected" in str(outcomes[0])
        kit.assert_holds(store, 0, before)
        is_complete = "is complete" in str(outcomes[0])
        assert is_complete == (rank == 0 and number >= names.index("rename") + step_renames(step))
        if is_complete or step == 1:
            kit.assert_holds(store, step, after if is_complete else before)
        else:
            assert store.steps() == [1, 0]
        # The temporary folder is gone; only a predecessor that could not be removed may remain.
        assert not [name for name in kit.leftovers(folder) if name.startswith(".tmp")]
        store.sweep()
        save_with(kit, folder, step, [Files(), Files()], after)
        kit.assert_holds(store, step, after)
        assert kit.leftovers(folder) == []


def step_renames(step):
    """How many renames the publication of a step takes; 1 exists already, 2 does not."""
    return {1: 2, 2: 1}[step]


def test_a_failed_cleanup_is_told_and_swept_later(kit, tmp_path):
    def refuse(number, name):
        if name in ("fsync", "rmtree"):
            raise OSError(errno.EIO, f"injected in {name}")

    files = kit.WatchedFiles(before=refuse)
    outcomes = save_with(kit, tmp_path, 1, [files, Files()])
    for outcome in outcomes:
        assert isinstance(outcome, SaveFailedError)
        assert "injected in fsync" in str(outcome)
        assert "could not be removed" in str(outcome)
        assert "injected in rmtree" in str(outcome)
    (name,) = kit.leftovers(tmp_path)
    assert kit.store_at(tmp_path).sweep() == [name]
    assert kit.leftovers(tmp_path) == []


def test_an_fsync_is_never_tried_again(kit, tmp_path):
    def refuse(number, name):
        if name == "fsync":
            raise OSError(errno.EIO, "injected")

    files = kit.WatchedFiles(before=refuse)
    save_with(kit, tmp_path, 1, [Files(), files])
    assert files.names.count("fsync") == 1


def test_many_failing_ranks_are_counted(kit, tmp_path):
    store = kit.store_at(tmp_path)
    broken = kit.store_at(tmp_path, kit.failing_files(0, errno.EROFS))

    def save(ranks):
        files = kit.failing_files(0, errno.EROFS) if ranks.rank else broken.files
        folder_store = store if ranks.rank == 0 else kit.store_at(tmp_path, files)
        return kit.save_state(folder_store, 1, kit.sample_state(), ranks)

    outcomes = kit.run_ranks(6, save)
    assert len({str(outcome) for outcome in outcomes}) == 1
    assert "rank 1: " in str(outcomes[0])
    assert "rank 3: " in str(outcomes[0])
    assert "rank 4: " not in str(outcomes[0])
    assert "and 2 more ranks" in str(outcomes[0])


@pytest.mark.parametrize("rank", range(WORLD))
@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_unexpected_error_is_told_to_the_others_and_raised(kit, tmp_path, rank, kind):
    state = kit.sample_state()
    store = kit.store_at(tmp_path)

    def fragments(ranks):
        yield from kit.fragments_of(state, ranks.rank, WORLD)
        if ranks.rank == rank:
            raise kind("a defect")

    def save(ranks):
        return save_checkpoint(
            store,
            Snapshot(
                step=1,
                specs=kit.specs_of(state),
                fragments=fragments(ranks),
                state={},
                created_by={},
            ),
            ranks,
        )

    outcomes = kit.run_ranks(WORLD, save)
    assert type(outcomes[rank]) is kind
    assert isinstance(outcomes[1 - rank], SaveFailedError)
    assert f"rank {rank}: {kind.__name__}: a defect" in str(outcomes[1 - rank])
    assert store.steps() == []
    assert kit.leftovers(tmp_path) == []


def test_state_that_is_not_json_is_told_before_anything_is_written(kit, tmp_path):
    state = kit.sample_state()

    def save(ranks):
        return save_checkpoint(
            kit.store_at(tmp_path),
            Snapshot(
                step=1,
                specs=kit.specs_of(state),
                fragments=kit.fragments_of(state, ranks.rank, WORLD),
                state={"lr": (1, 2)},
                created_by={},
            ),
            ranks,
        )

    outcomes = kit.run_ranks(WORLD, save)
    assert type(outcomes[0]) is TypeError
    assert "state['lr'] is a tuple" in str(outcomes[0])
    assert isinstance(outcomes[1], SaveFailedError)
    assert list(tmp_path.iterdir()) == []


def test_ranks_that_save_different_steps_are_told_apart(kit, tmp_path):
    def save(ranks):
        return kit.save_state(kit.store_at(tmp_path), 5 + ranks.rank, kit.sample_state(), ranks)

    outcomes = kit.run_ranks(WORLD, save)
    assert isinstance(outcomes[0], SaveFailedError)
    assert "rank 1 saves step 6, the coordinator step 5" in str(outcomes[0])
    assert isinstance(outcomes[1], ValueError)
    assert list(tmp_path.iterdir()) == []


def test_a_shard_that_the_coordinator_does_not_see_stops_the_commit(kit, tmp_path):
    """As on nodes that do not share the folder."""

    class Elsewhere(Files):
        def create(self, path):
            (tmp_path / "other node").mkdir()
            return super().create(tmp_path / "other node" / path.name)

    outcomes = save_with(kit, tmp_path / "store", 1, [Files(), Elsewhere()])
    assert all(isinstance(outcome, SaveFailedError) for outcome in outcomes)
    assert "r00001.safetensors" in str(outcomes[0])
    assert kit.store_at(tmp_path / "store").steps() == []


def test_a_shard_of_another_length_stops_the_commit(kit, tmp_path):
    class Truncating(Files):
        def close(self, fd):
            if os.readlink(f"/proc/self/fd/{fd}").endswith("r00001.safetensors"):
                os.ftruncate(fd, 5000)
            super().close(fd)

    outcomes = save_with(kit, tmp_path, 1, [Files(), Truncating()])
    assert "has 5000 bytes on the coordinator" in str(outcomes[0])
    assert kit.store_at(tmp_path).steps() == []


def test_a_rename_whose_reply_was_lost_loses_no_checkpoint(kit, tmp_path, monkeypatch):
    """The step is saved again: the older one is renamed first, and its reply is lost as well."""
    kit.save_state(kit.store_at(tmp_path), 1, kit.sample_state(1))
    real = os.rename

    def lose_the_reply(old, new):
        real(old, new)
        raise OSError(errno.ENOENT, "asked again")

    monkeypatch.setattr(os, "rename", lose_the_reply)
    outcomes = save_with(kit, tmp_path, 1, [Files(), Files()], kit.sample_state(2))
    assert not any(isinstance(outcome, BaseException) for outcome in outcomes)
    kit.assert_holds(kit.store_at(tmp_path), 1, kit.sample_state(2))
    assert kit.leftovers(tmp_path) == []


def test_short_writes_are_continued(kit, tmp_path):
    class Stingy(Files):
        def pwrite(self, fd, data, offset):
            return super().pwrite(fd, data[:7], offset)

    outcomes = save_with(kit, tmp_path, 1, [Stingy(), Stingy()])
    assert all(not isinstance(outcome, BaseException) for outcome in outcomes)
    kit.assert_holds(kit.store_at(tmp_path), 1, kit.sample_state(1))


@pytest.mark.parametrize("rank", range(WORLD))
def test_a_short_write_is_continued_or_its_error_told(kit, tmp_path, rank):
    """Each write in turn takes only a part; the next one finds the disk full."""
    kit.save_state(kit.store_at(tmp_path), 1, kit.sample_state(1))
    for number in itertools.count():

        class Filling(Files):
            num_writes = 0

            def pwrite(self, fd, data, offset, number=number):
                self.num_writes += 1
                if self.num_writes - 2 == number:
                    raise OSError(errno.ENOSPC, "injected")
                return super().pwrite(
                    fd, data[: len(data) // 2] if self.num_writes - 1 == number else data, offset
                )

        rank_files = [Files() for _ in range(WORLD)]
        rank_files[rank] = Filling()
        outcomes = save_with(kit, tmp_path, 2, rank_files)
        if not isinstance(outcomes[0], BaseException):
            break
        assert [type(outcome) for outcome in outcomes] == [SaveFailedError] * WORLD
        assert "injected" in str(outcomes[0])
        assert kit.store_at(tmp_path).steps() == [1]
        assert kit.leftovers(tmp_path) == []
    assert number >= 8
    kit.assert_holds(kit.store_at(tmp_path), 1, kit.sample_state(1))
    kit.assert_holds(kit.store_at(tmp_path), 2, kit.sample_state(2))


def test_durability_comes_before_the_name(kit, tmp_path):
    files = kit.WatchedFiles()
    store = kit.store_at(tmp_path, files)
    kit.save_state(store, 1, kit.sample_state())
    names = files.names
    rename = names.index("rename")
    last_write = max(i for i, name in enumerate(names) if name == "pwrite")
    token = json.loads((store.path(1) / "manifest.json").read_text())["token"]
    tmp = tmp_path / f".tmp-step-00000001-{token}"
    assert names.count("fsync") == 2
    assert last_write < rename
    assert files.log.index(("fsync_dir", tmp)) in range(last_write, rename)
    assert files.log.index(("fsync_dir", tmp_path), rename) == len(names) - 1
