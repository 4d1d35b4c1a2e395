"""Every file operation of a load fails once: told, and never a wrong value."""

import errno

import pytest

from checkpointing import DamagedCheckpointError

CODES = (errno.EIO, errno.ENOENT, errno.EACCES, errno.EMFILE, errno.ESTALE, errno.ENOMEM)
DAMAGE = (errno.EIO, errno.ENOENT)
"""These say that a file is lost; the others say nothing about the checkpoint."""


@pytest.fixture(scope="module")
def saved(kit, tmp_path_factory):
    store = kit.store_at(tmp_path_factory.mktemp("step-store"))
    state = kit.sample_state(1)
    kit.run_ranks(2, lambda ranks: kit.save_state(store, 1, state, ranks))
    return store, state


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
def test_an_error_at_any_operation_of_a_load_is_told(kit, saved, code):
    store, state = saved
    watched = kit.WatchedFiles()
    kit.assert_holds(kit.store_at(store.folder, watched), 1, state)
    assert {"is_dir", "size", "open", "pread", "close"} <= set(watched.names)
    for number, name in enumerate(watched.names):
        failing = kit.store_at(store.folder, kit.failing_files(number, code))
        with pytest.raises((DamagedCheckpointError, OSError), match="injected") as caught:
            kit.assert_holds(failing, 1, state)
        is_read = name in ("size", "open", "pread")
        is_damage = isinstance(caught.value, DamagedCheckpointError)
        assert is_damage <= (code in DAMAGE), name
        if is_read and code in DAMAGE:
            assert is_damage, name
            assert caught.value.path.parent == store.path(1)
    kit.assert_holds(store, 1, state)


def test_short_reads_are_continued(kit, saved):
    store, state = saved

    class Stingy(kit.Files):
        def pread(self, fd, into, offset):
            return super().pread(fd, into[:7], offset)

    kit.assert_holds(kit.store_at(store.folder, Stingy()), 1, state)
