"""Blocks written past the page cache, where the disk takes that, hold the same bytes."""

import errno
import itertools
import os
import zlib

import pytest

from checkpointing.storage.block_writer import write_new_file
from checkpointing.storage.checksum import crc32
from checkpointing.storage.filesystems import ALIGN_BYTES, filesystem_type
from checkpointing.storage.local_files import Files

BLOCK_BYTES = 2 * ALIGN_BYTES
MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
31 22 0:27 / /dev/shm rw,nosuid shared:4 - tmpfs tmpfs rw
90 22 0:51 / /scratch rw shared:9 master:2 - lustre 10.0.0.1@o2ib:/work rw,flock
"""


class StrictDisk(Files):
    """Takes direct writes, but only as a disk with sectors of some size does."""

    def __init__(self, sector_bytes=ALIGN_BYTES):
        self.sector_bytes = sector_bytes
        self.is_direct = False
        self.direct_bytes = self.cached_bytes = 0

    def bypass_cache(self, fd):
        self.is_direct = True
        return True

    def use_cache(self, fd):
        self.is_direct = False

    def pwrite(self, fd, data, offset):
        if self.is_direct:
            if any(n % self.sector_bytes for n in (address_of(data), len(data), offset)):
                raise OSError(errno.EINVAL, "not aligned")
            self.direct_bytes += len(data)
        else:
            self.cached_bytes += len(data)
        return super().pwrite(fd, data, offset)


def address_of(data):
    import torch

    return torch.frombuffer(data, dtype=torch.uint8).data_ptr()


def pieces_of(content, sizes):
    """Cut the content into pieces of these sizes, in turn, at addresses that are not aligned."""
    shifted = memoryview(bytearray(b"-" + content))[1:]
    start = number = 0
    while start < len(content):
        size = sizes[number % len(sizes)]
        yield shifted[start : start + size]
        start, number = start + size, number + 1


@pytest.mark.parametrize("num_bytes", [3, BLOCK_BYTES, 5 * BLOCK_BYTES, 5 * BLOCK_BYTES + 4097])
@pytest.mark.parametrize("sizes", [(17, 5000), (3 * BLOCK_BYTES,), (1, BLOCK_BYTES)])
def test_whole_blocks_are_written_directly(tmp_path, num_bytes, sizes):
    content, disk = os.urandom(num_bytes), StrictDisk()

    size_bytes, checksums = write_new_file(
        tmp_path / "file",
        pieces_of(content, sizes),
        num_bytes,
        files=disk,
        block_bytes=BLOCK_BYTES,
    )

    assert (tmp_path / "file").read_bytes() == content
    assert size_bytes == num_bytes
    assert disk.direct_bytes == num_bytes // BLOCK_BYTES * BLOCK_BYTES
    assert disk.cached_bytes == num_bytes % BLOCK_BYTES
    blocks = [content[i : i + BLOCK_BYTES] for i in range(0, num_bytes, BLOCK_BYTES)]
    assert checksums == tuple(zlib.crc32(block) for block in blocks)


def test_a_disk_that_wants_a_larger_alignment_gets_the_bytes_through_the_cache(tmp_path):
    content, disk = os.urandom(3 * BLOCK_BYTES), StrictDisk(sector_bytes=16 * ALIGN_BYTES)

    write_new_file(
        tmp_path / "file",
        pieces_of(content, (BLOCK_BYTES,)),
        len(content),
        files=disk,
        block_bytes=BLOCK_BYTES,
    )

    assert (tmp_path / "file").read_bytes() == content
    assert (disk.direct_bytes, disk.cached_bytes) == (0, len(content))


def test_blocks_that_no_disk_takes_directly_go_through_the_cache(tmp_path):
    content, disk = os.urandom(5000), StrictDisk()

    write_new_file(tmp_path / "file", pieces_of(content, (300,)), 5000, files=disk, block_bytes=701)

    assert (tmp_path / "file").read_bytes() == content
    assert disk.direct_bytes == 0


class CachedOnly(Files):
    def __init__(self):
        self.writes = []

    def bypass_cache(self, fd):
        return False

    def pwrite(self, fd, data, offset):
        self.writes.append((address_of(data), len(data)))
        return super().pwrite(fd, data, offset)


def test_large_pieces_are_written_from_where_they_are_and_small_ones_together(tmp_path):
    large, small = 3 * 2**20 + 5, 1000
    content, disk = os.urandom(2 * large + 10 * small), CachedOnly()
    held = memoryview(bytearray(content))
    cuts = [0, large, *(large + n * small for n in range(1, 11)), len(content)]
    pieces = [held[a:b] for a, b in itertools.pairwise(cuts)]

    size_bytes, checksums = write_new_file(
        tmp_path / "file", pieces, len(content), files=disk, block_bytes=2**21
    )

    assert (tmp_path / "file").read_bytes() == content
    assert size_bytes == len(content)
    blocks = [content[i : i + 2**21] for i in range(0, len(content), 2**21)]
    assert checksums == tuple(zlib.crc32(block) for block in blocks)
    first = address_of(held)
    in_place = sum(n for at, n in disk.writes if 0 <= at - first < len(content))
    # What a block leaves of a large piece may be short as well; the ten small ones are one write.
    assert in_place >= 2 * large - 2 * 256 * 1024
    assert len(disk.writes) < 20


def test_this_disk_gives_back_what_was_written(tmp_path):
    """Whatever the temporary folder is on: ext4 takes direct writes, tmpfs and overlays do not."""
    content = os.urandom(4 * 2**20 + 12345)

    write_new_file(
        tmp_path / "file",
        pieces_of(content, (100_000,)),
        len(content),
        files=Files(),
        block_bytes=2**20,
    )

    assert (tmp_path / "file").read_bytes() == content


def test_the_checksum_is_that_of_zlib():
    content = os.urandom(100_003)
    assert crc32(content) == zlib.crc32(content)
    assert crc32(content[7:], crc32(content[:7])) == zlib.crc32(content)


@pytest.mark.parametrize(
    ("major", "minor", "kind"),
    [(254, 0, "ext4"), (0, 27, "tmpfs"), (0, 51, "lustre"), (8, 1, None), (2, 0, None)],
)
def test_the_type_of_a_filesystem_is_found_by_its_device(major, minor, kind):
    assert filesystem_type(MOUNTS, major, minor) == kind
