"""Checksums beside the writing."""

import threading
import zlib

import pytest

from checkpointing.storage import checksum
from checkpointing.storage.checksum import summing

SIZES = [0, 1, 4096, (1 << 20) - 1, 1 << 20, (1 << 24) + 3]


def block_of(size):
    return memoryview(bytearray(range(256)) * (size // 256 + 1))[:size]


def crc_threads():
    return [one for one in threading.enumerate() if one.name == "relaunch-crc32"]


@pytest.mark.parametrize("size", SIZES)
def test_it_is_that_of_zlib(size):
    block = block_of(size)
    with summing(block) as summed:
        pass
    assert summed() == zlib.crc32(block)
    assert crc_threads() == []


@pytest.fixture
def held(monkeypatch):
    """Sums that wait for this."""
    go_on = threading.Event()

    def slowly(block):
        assert go_on.wait(20)
        return zlib.crc32(block)

    monkeypatch.setattr(checksum, "crc32", slowly)
    yield go_on
    go_on.set()


def test_a_large_block_is_summed_beside_and_a_small_one_is_not(held):
    with summing(block_of(1 << 20)):
        assert len(crc_threads()) == 1
        held.set()
    with summing(block_of(4096)):
        assert crc_threads() == []


def test_a_block_is_not_read_any_more_when_its_writing_has_failed(held):
    def fail():
        threading.Timer(0.2, held.set).start()
        raise OSError("full")

    with pytest.raises(OSError, match="full"), summing(block_of(1 << 20)):
        fail()
    assert held.is_set()
    assert crc_threads() == []


def test_without_a_thread_it_is_summed_first(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    block = block_of(1 << 20)
    with summing(block) as summed:
        pass
    assert summed() == zlib.crc32(block)
