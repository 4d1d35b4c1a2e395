import errno
import os

import pytest

from checkpointing import Files
from checkpointing.storage import local_files as files_module


class Stingy(Files):
    """Writes and reads at most three bytes at a time."""

    def pwrite(self, fd, data, offset):
        return super().pwrite(fd, data[:3], offset)

    def pread(self, fd, into, offset):
        return super().pread(fd, into[:3], offset)


def test_short_writes_and_reads_are_continued(tmp_path):
    files = Stingy()
    fd = files.create(tmp_path / "f")
    files.write_all(fd, memoryview(b"0123456789"), 0)
    files.write_all(fd, memoryview(b"ab"), 4)
    files.close(fd)
    assert (tmp_path / "f").read_bytes() == b"0123ab6789"
    fd = files.open(tmp_path / "f")
    into = bytearray(7)
    assert files.read_all(fd, memoryview(into), 1) == 7
    assert into == b"123ab67"
    assert files.read_all(fd, memoryview(into), 6) == 4
    files.close(fd)


def test_a_write_of_nothing_is_an_error_and_not_a_loop(tmp_path):
    class Stuck(Files):
        def pwrite(self, fd, data, offset):
            return 0

    files = Stuck()
    fd = files.create(tmp_path / "f")
    with pytest.raises(OSError, match="wrote 0 of 2 bytes"):
        files.write_all(fd, memoryview(b"ab"), 0)
    files.close(fd)


@pytest.fixture
def on_disk(monkeypatch):
    """Wherever the files of a test are."""
    monkeypatch.setattr(files_module, "_kind_of", lambda fd: "ext4")


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_preallocation_may_be_missing(monkeypatch, on_disk, code):
    def refuse(*args):
        raise OSError(code, "no")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    Files().preallocate(0, 10)


def test_preallocation_finds_a_full_disk(monkeypatch, on_disk):
    def refuse(*args):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="full"):
        Files().preallocate(0, 10)


@pytest.mark.parametrize(("kind", "size_bytes"), [("ext4", 12345), (None, 12345), ("tmpfs", 0)])
def test_preallocation_reserves_on_disks(tmp_path, monkeypatch, kind, size_bytes):
    monkeypatch.setattr(files_module, "_kind_of", lambda fd: kind)
    files = Files()
    fd = files.create(tmp_path / "f")
    files.preallocate(fd, 12345)
    files.close(fd)
    assert files.size(tmp_path / "f") == size_bytes


def test_links_are_not_files(tmp_path):
    (tmp_path / "real").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files = Files()
    for operation in (files.open, files.size):
        with pytest.raises(OSError, match=r".") as caught:
            operation(tmp_path / "link")
        assert caught.value.errno == errno.ELOOP
    with pytest.raises(IsADirectoryError):
        files.size(tmp_path)


def test_create_refuses_an_existing_file(tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    with pytest.raises(FileExistsError):
        Files().create(tmp_path / "f")


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EIO])
def test_a_rename_whose_reply_was_lost_took_place(tmp_path, monkeypatch, code):
    real = os.rename

    def lose_the_reply(old, new):
        real(old, new)
        raise OSError(code, "asked again")

    (tmp_path / "old").mkdir()
    monkeypatch.setattr(os, "rename", lose_the_reply)
    Files().rename(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize("name", ["old", "missing"])
def test_a_rename_that_did_not_take_place_is_an_error(tmp_path, monkeypatch, name):
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    if name == "old":

        def refuse(old, new):
            raise OSError(errno.EIO, "no")

        monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match=r"."):
        Files().rename(tmp_path / name, tmp_path / "new")


def test_make_dirs_syncs_what_it_makes(tmp_path):
    synced = []

    class Noting(Files):
        def fsync_dir(self, path):
            synced.append(path)

    Noting().make_dirs(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path, tmp_path / "a"]
    Noting().make_dirs(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_make_dirs_accepts_a_link_but_not_a_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_bytes(b"")
    Files().make_dirs(tmp_path / "link")
    Files().make_dirs(tmp_path / "link" / "sub")
    with pytest.raises(FileExistsError):
        Files().make_dirs(tmp_path / "file")
