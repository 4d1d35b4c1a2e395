"""Read byte ranges of one shard, never handing out a byte whose block was not checked."""

from pathlib import PurePath

from ..errors import DamagedCheckpointError
from ..format.manifest import StoredFile
from ..storage.checksum import crc32
from ..storage.local_files import Files
from ..storage.small_files import reading


class ShardReader:
    """One shard. Each block is checked when it is first touched, and then trusted.

    Not for use by several threads at once.
    """

    def __init__(self, path: PurePath, record: StoredFile, files: Files, *, begin: int = 0) -> None:
        """Take a file, or what of it begins at a byte: offsets are counted from there."""
        self.path = path
        self._begin = begin
        self._record = record
        self._files = files
        self._fd: int | None = None
        self._verified = bytearray(len(record.crc32))
        self._blocks_at_once = max(1, files.worth_reading_bytes // record.block_bytes)
        # The block of which only a part was wanted: the next tensor begins where that one ends.
        self._kept_block = -1
        self._kept = memoryview(b"")

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill a buffer with the bytes from an offset on.

        Args:
            offset: In bytes, counted from the start of the file, or of what is read of it.
            out: Of itemsize 1. Its content is undefined if this raises.

        Raises:
            DamagedCheckpointError: If a block touched is missing or not what was written.
        """
        end = offset + len(out)
        block = offset // self._record.block_bytes
        while block * self._record.block_bytes < end:
            count = self._num_unverified(block, offset, end)
            first, last = self._record.block_range(block, max(1, count))
            low, high = max(offset, first), min(end, last)
            target = out[low - offset : high - offset]
            if count:
                self._fill_verified(block, target)
            elif block == self._kept_block:
                target[:] = self._kept[low - first : high - first]
            elif self._verified[block]:
                self._fill(target, low)
            else:
                whole = memoryview(bytearray(last - first))
                self._fill_verified(block, whole)
                target[:] = whole[low - first : high - first]
                self._kept_block, self._kept = block, whole
            block += max(1, count)

    def section_bytes(self, num_readers: int) -> int:
        """Return the bytes of whole blocks of which each of several readers reads some at once."""
        return max(1, self._blocks_at_once // num_readers) * self._record.block_bytes

    def find_damage(self) -> list[str]:
        """Re-read every block; return what is wrong, one line per damaged block."""
        record, at_once = self._record, self._blocks_at_once
        scratch = memoryview(bytearray(min(at_once * record.block_bytes, record.size_bytes)))
        lines = []
        for block in range(0, len(record.crc32), at_once):
            lines += self._damage_in(block, at_once, scratch)
        return lines

    def _damage_in(self, block: int, count: int, scratch: memoryview) -> list[str]:
        """Read blocks at once; where one of them is damaged, one by one."""
        first, last = self._record.block_range(block, count)
        try:
            self._fill_verified(block, scratch[: last - first])
        except DamagedCheckpointError as error:
            if count == 1:
                return [str(error)]
            blocks = range(block, min(block + count, len(self._record.crc32)))
            return [line for one in blocks for line in self._damage_in(one, 1, scratch)]
        return []

    def close(self) -> None:
        """Close the file if it is open; the next read opens it again."""
        fd, self._fd = self._fd, None
        self._kept_block, self._kept = -1, memoryview(b"")
        if fd is not None:
            self._files.close(fd)

    def _num_unverified(self, block: int, offset: int, end: int) -> int:
        """Return how many blocks from this one on are wanted whole, unchecked, and read at once."""
        count = 0
        while count < self._blocks_at_once and block + count < len(self._verified):
            first, last = self._record.block_range(block + count)
            if first < offset or last > end or self._verified[block + count]:
                break
            count += 1
        return count

    def _fill_verified(self, block: int, target: memoryview) -> None:
        """Fill a buffer with whole blocks, from this one on."""
        first, _ = self._record.block_range(block)
        self._fill(target, first)
        while len(target):
            first, last = self._record.block_range(block)
            found, wanted = crc32(target[: last - first]), self._record.crc32[block]
            if found != wanted:
                raise DamagedCheckpointError(
                    self.path,
                    f"bytes [{first}, {last}) do not match their checksum "
                    f"(CRC-32 {found:08x} instead of {wanted:08x})",
                )
            self._verified[block] = 1
            target, block = target[last - first :], block + 1

    def _fill(self, target: memoryview, offset: int) -> None:
        with reading(self.path):
            if self._fd is None:
                self._fd = self._files.open(self.path)
            num_read = self._files.read_all(self._fd, target, self._begin + offset)
        if num_read < len(target):
            raise DamagedCheckpointError(
                self.path,
                f"bytes [{offset + num_read}, {offset + len(target)}) are missing: it was cut off",
            )
